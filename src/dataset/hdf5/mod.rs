//! Dense frames in HDF5: the library finds the chunks, this module reads and decodes them.
//!
//! Opening a file takes the library's lock once and builds an index of chunk addresses; reading needs the index
//! and `pread` alone, so that any number of threads decode at the same time. Whatever a file says about sizes is
//! checked before anything is allocated for it.

#![expect(dead_code, reason = "the readers land next")]

mod bitshuffle;
mod codec;
mod ffi;
mod filter;
mod transpose;
pub mod write;
