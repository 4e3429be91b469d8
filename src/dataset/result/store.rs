//! Datasets of an open result file: scalars, arrays, strings and chunked planes that are compressed in parallel.
//!
//! Every write reports its own failure: the library's write-behind buffers of raw data are off, and chunks are
//! compressed here and handed over whole. Knows no path of the layout.

use std::ffi::c_uint;
use std::fs::OpenOptions;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use bytemuck::{NoUninit, Zeroable};
use hdf5::{Dataset, Extents, File, Group, H5Type};
use hdf5_sys::h5d::H5Dwrite_chunk;
use hdf5_sys::h5p::H5P_DEFAULT;
use rayon::prelude::*;

use super::fault;
use crate::dataset::{DatasetError, objects};

/// Bytes of chunks that are compressed at a time, so that memory stays bounded on any number of cores.
const BATCH_BYTES: usize = 64 << 20;

/// Bit of a chunk's filter mask that says "the first filter was skipped".
const SKIP_LZF: u32 = 1;

/// Numbers that memory and file hold alike.
pub(super) trait Plain: H5Type + NoUninit + Zeroable + Send + Sync {}
impl<T: H5Type + NoUninit + Zeroable + Send + Sync> Plain for T {}

/// Shape and chunk shape of a dataset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid<const R: usize> {
    /// Extent along each axis.
    pub(super) shape: [usize; R],
    /// Chunk extent along each axis, at most that of the shape.
    pub(super) chunk: [usize; R],
}

/// An open result file. Unless closed, it is emptied when dropped: a library that holds unwritten pages then finds
/// the space for them on a full disk too, and lets go of the file.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    path: PathBuf,
    target: PathBuf,
    complete: bool,
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        if let Err(error) = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0)) {
            tracing::debug!(path = %self.path.display(), %error, "cannot empty an unfinished result");
        }
    }
}

impl Store {
    /// Makes an HDF5 file of `path`; messages name `target`, the name that the file will have.
    ///
    /// # Errors
    /// The library's.
    pub(super) fn create(path: &Path, target: &Path) -> Result<Self, DatasetError> {
        let file = File::with_options().with_fapl(|plist| plist.sieve_buf_size(0)).create(path);
        let file = file.map_err(|e| fault::library("create", target, e))?;
        Ok(Self { file, path: path.to_owned(), target: target.to_owned(), complete: false })
    }

    /// The file's root group.
    pub(super) fn root(&self) -> &Group {
        &self.file
    }

    /// The name that the file will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Names the object and the reason of a failed write.
    pub(super) fn fault(&self, object: &str, error: hdf5::Error) -> DatasetError {
        fault::library(format!("write {object} of"), &self.target, error)
    }

    /// Creates a group and those above it.
    pub(super) fn group(&self, object: &str) -> Result<Group, DatasetError> {
        self.file.create_group(object).map_err(|e| self.fault(object, e))
    }

    /// Writes a scalar.
    pub(super) fn scalar<T: H5Type>(&self, object: &str, value: &T) -> Result<(), DatasetError> {
        objects::scalar(&self.file, object, value).map(drop).map_err(|e| self.fault(object, e))
    }

    /// Writes a string as variable-length UTF-8, as h5py does.
    pub(super) fn text(&self, object: &str, value: &str) -> Result<(), DatasetError> {
        self.scalar(object, &objects::unicode(value))
    }

    /// Writes a list of strings.
    pub(super) fn texts(&self, object: &str, values: &[String]) -> Result<(), DatasetError> {
        objects::texts(&self.file, object, values).map(drop).map_err(|e| self.fault(object, e))
    }

    /// Writes an array, row-major, in one piece, without compression.
    pub(super) fn array<T: H5Type>(&self, object: &str, shape: &[usize], values: &[T]) -> Result<(), DatasetError> {
        objects::array(&self.file, object, shape, values).map(drop).map_err(|e| self.fault(object, e))
    }

    /// Writes a dataset of a type without values.
    pub(super) fn empty<T: H5Type>(&self, object: &str) -> Result<(), DatasetError> {
        let made = objects::builder(&self.file).empty::<T>().shape(Extents::Null).create(object);
        made.map(drop).map_err(|e| self.fault(object, e))
    }

    /// Writes a list.
    pub(super) fn list<T: H5Type>(&self, object: &str, values: &[T]) -> Result<(), DatasetError> {
        self.array(object, &[values.len()], values)
    }

    /// Creates a dataset of chunks, lzf-compressed; those that are never written read as 0.
    pub(super) fn chunked<T: Plain, const R: usize>(
        &self,
        object: &str,
        grid: Grid<R>,
    ) -> Result<Chunked<T, R>, DatasetError> {
        let dataset = objects::builder(&self.file)
            .chunk(grid.chunk.to_vec())
            .lzf()
            .empty::<T>()
            .shape(grid.shape.to_vec())
            .create(object)
            .map_err(|e| self.fault(object, e))?;
        Ok(Chunked { dataset, object: object.to_owned(), chunk: grid.chunk, of: PhantomData })
    }

    /// Writes all that the library still holds.
    pub(super) fn flush(&self) -> Result<(), DatasetError> {
        self.file.flush().map_err(|e| fault::library("write", &self.target, e))
    }

    /// Writes all and closes the file.
    pub(super) fn close(mut self) -> Result<(), DatasetError> {
        self.flush()?;
        self.complete = true;
        let (file, target) = (self.file.clone(), self.target.clone());
        drop(self);
        file.close().map_err(|e| fault::library("close", &target, e))
    }
}

/// An open dataset of chunks.
#[derive(Debug)]
pub(super) struct Chunked<T, const R: usize> {
    dataset: Dataset,
    object: String,
    chunk: [usize; R],
    of: PhantomData<T>,
}

impl<T: Plain, const R: usize> Chunked<T, R> {
    /// Writes the chunks at `origins`.
    ///
    /// `fill` gets a chunk's origin and its values, all 0, to be filled; what lies beyond the shape is ignored.
    pub(super) fn write(
        &self,
        store: &Store,
        origins: &[[usize; R]],
        fill: impl Fn([usize; R], &mut [T]) -> Result<(), DatasetError> + Sync,
    ) -> Result<(), DatasetError> {
        let len: usize = self.chunk.iter().product();
        let batch = (BATCH_BYTES / (len * size_of::<T>()).max(1)).clamp(1, 4 * rayon::current_num_threads());
        for origins in origins.chunks(batch) {
            let encode = |&origin: &[usize; R]| {
                let mut values = vec![T::zeroed(); len];
                fill(origin, &mut values)?;
                Ok(Chunk::encode(bytemuck::cast_slice(&values)))
            };
            let chunks = origins.par_iter().map(encode).collect::<Result<Vec<Chunk>, DatasetError>>()?;
            for (origin, chunk) in std::iter::zip(origins, &chunks) {
                chunk.write(&self.dataset, origin).map_err(|e| store.fault(&self.object, e))?;
            }
        }
        Ok(())
    }
}

/// The bytes of a chunk as the file holds them.
struct Chunk {
    skipped: u32,
    bytes: Vec<u8>,
}

impl Chunk {
    fn encode(plain: &[u8]) -> Self {
        match compress(plain) {
            Some(bytes) => Self { skipped: 0, bytes },
            None => Self { skipped: SKIP_LZF, bytes: plain.to_vec() },
        }
    }

    fn write<const R: usize>(&self, dataset: &Dataset, origin: &[usize; R]) -> hdf5::Result<()> {
        let offset = origin.map(|index| index as u64);
        let status = hdf5::sync::sync(|| {
            // SAFETY: the dataset is open, `offset` has its rank, and `bytes` outlive the call, which only reads
            // them; the library's lock is held by `sync`.
            let status = unsafe {
                H5Dwrite_chunk(
                    dataset.id(),
                    H5P_DEFAULT,
                    self.skipped,
                    offset.as_ptr(),
                    self.bytes.len(),
                    self.bytes.as_ptr().cast(),
                )
            };
            hdf5::h5check(status)
        });
        status.map(drop)
    }
}

/// The lzf stream of `plain`; None when it would not be shorter.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let room = plain.len().saturating_sub(1);
    let mut out: Vec<u8> = Vec::with_capacity(room);
    let (from, to) = (c_uint::try_from(plain.len()).ok()?, c_uint::try_from(room).ok()?);
    // SAFETY: both buffers are valid for the lengths passed; the compressor writes at most `to` bytes and returns
    // how many, 0 when they do not suffice.
    unsafe {
        let written = lzf_sys::lzf_compress(plain.as_ptr().cast(), from, out.as_mut_ptr().cast(), to);
        out.set_len(written as usize);
    }
    (!out.is_empty()).then_some(out)
}
