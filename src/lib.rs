//! speckled: a compute endpoint for X-ray Photon Correlation Spectroscopy.
//!
//! The layers, each importing only from those below it: `cli` (edge), `worker` (role), `engine`, `dataset`
//! (ports), `correlate`, `simulate` (pure). `tests/layering.rs` enforces it.

pub mod cli;
pub mod correlate;
pub mod dataset;
pub mod engine;
pub mod simulate;
pub mod worker;
