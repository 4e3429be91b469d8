//! Writes dense frames to an HDF5 file, one chunk a frame, encoded by us and stored as they are: for simulated raw
//! data and for tests. Must not read.

use std::path::{Path, PathBuf};

use hdf5::{Dataset, File};

use super::bitshuffle::{Bitshuffle, BlockCodec};
use super::ffi::{self, RawFilter};
use super::filter::BITSHUFFLE;
use crate::correlate::bins::Shape;
use crate::dataset::{DatasetError, PixelType};

/// How frames are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFilter {
    /// Not at all.
    None,
    /// Bitshuffle with lz4, filter 32008.
    BitshuffleLz4,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLayout {
    /// Element type.
    pub pixel: PixelType,
    /// Number of frames; those that are never written are empty.
    pub frames: u64,
    /// Shape of a frame.
    pub shape: Shape,
    /// Encoding.
    pub filter: FrameFilter,
}

impl FrameLayout {
    /// Bytes of a decoded frame.
    pub fn frame_bytes(&self) -> usize {
        self.shape.pixels() * self.pixel.size()
    }

    /// Replaces `chunk` by the encoded form of a frame (row-major, little-endian). Pure: for many threads at once.
    ///
    /// # Panics
    /// If `frame` is not as long as a frame.
    pub fn encode(&self, frame: &[u8], chunk: &mut Vec<u8>) {
        assert_eq!(frame.len(), self.frame_bytes(), "bytes of a frame");
        chunk.clear();
        match self.filter {
            FrameFilter::None => chunk.extend_from_slice(frame),
            FrameFilter::BitshuffleLz4 => self.bitshuffle().encode(frame, chunk),
        }
    }

    fn bitshuffle(&self) -> Bitshuffle {
        Bitshuffle { elem: self.pixel.size(), block: 0, codec: BlockCodec::Lz4 }
    }

    fn filters(&self) -> Vec<RawFilter> {
        /// The version of bitshuffle whose format this is, and its mark for lz4.
        const VERSION: [u32; 2] = [0, 5];
        const LZ4: u32 = 2;
        match self.filter {
            FrameFilter::None => Vec::new(),
            FrameFilter::BitshuffleLz4 => {
                vec![(BITSHUFFLE, vec![VERSION[0], VERSION[1], self.pixel.size() as u32, 0, LZ4])]
            }
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct FrameWriter {
    path: PathBuf,
    layout: FrameLayout,
    file: File,
    dataset: Dataset,
    chunk: Vec<u8>,
    next: u64,
}

impl FrameWriter {
    /// Creates the file, replacing one that exists, and the dataset (as `/entry/data/data`) with its groups.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn create(path: &Path, dataset: &str, layout: FrameLayout) -> Result<Self, DatasetError> {
        let create = || -> hdf5::Result<(File, Dataset)> {
            let file = File::create(path)?;
            let (groups, name) = dataset.trim_matches('/').rsplit_once('/').unwrap_or(("", dataset));
            let group = if groups.is_empty() { file.as_group()? } else { file.create_group(groups)? };
            let Shape { rows, cols } = layout.shape;
            let shape = [layout.frames as usize, rows, cols];
            let dataset = ffi::create_chunked(&group, name, layout.pixel, &shape, &[1, rows, cols], &layout.filters())?;
            Ok((file, dataset))
        };
        let (file, dataset) =
            create().map_err(|source| DatasetError::hdf5(format!("create {dataset}"), path, source))?;
        Ok(Self { path: path.to_owned(), layout, file, dataset, chunk: Vec::new(), next: 0 })
    }

    /// Encodes and writes the next frame (row-major, little-endian).
    ///
    /// # Errors
    /// What the library refuses.
    ///
    /// # Panics
    /// If `frame` is not as long as a frame, or all frames are written.
    pub fn write_frame(&mut self, frame: &[u8]) -> Result<(), DatasetError> {
        let mut chunk = std::mem::take(&mut self.chunk);
        self.layout.encode(frame, &mut chunk);
        let written = self.write_encoded(self.next, &chunk);
        self.chunk = chunk;
        written
    }

    /// Writes a frame that [`FrameLayout::encode`] encoded; the next frame is the one after it.
    ///
    /// # Errors
    /// What the library refuses.
    ///
    /// # Panics
    /// If there is no such frame in the layout.
    pub fn write_encoded(&mut self, frame: u64, chunk: &[u8]) -> Result<(), DatasetError> {
        assert!(frame < self.layout.frames, "frame {frame} of {}", self.layout.frames);
        ffi::write_chunk(&self.dataset, &[frame, 0, 0], 0, chunk)
            .map_err(|source| DatasetError::hdf5(format!("write frame {frame}"), &self.path, source))?;
        self.next = frame + 1;
        Ok(())
    }

    /// The open file, for whatever else it is to hold.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes out what the library still holds and closes the file.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn finish(self) -> Result<(), DatasetError> {
        let Self { path, file, dataset, .. } = self;
        drop(dataset);
        file.flush().map_err(|source| DatasetError::hdf5("flush the file", &path, source))?;
        file.close().map_err(|source| DatasetError::hdf5("close the file", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_stored_as_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames.h5");
        let shape = Shape { rows: 3, cols: 5 };
        let layout = FrameLayout { pixel: PixelType::U16, frames: 4, shape, filter: FrameFilter::BitshuffleLz4 };
        let mut writer = FrameWriter::create(&path, "/entry/data/data", layout).unwrap();
        let frame: Vec<u8> = (0..30).collect();
        writer.write_frame(&frame).unwrap();
        writer.write_frame(&frame).unwrap();
        writer.finish().unwrap();

        let dataset = File::open(&path).unwrap().dataset("/entry/data/data").unwrap();
        let mut chunk = Vec::new();
        layout.encode(&frame, &mut chunk);
        let mut sizes = Vec::new();
        dataset.chunks_visit(|info| (sizes.push((info.offset[0], info.size)), 0).1).unwrap();
        assert_eq!(sizes, [(0, chunk.len() as u64), (1, chunk.len() as u64)]);
        assert_eq!(dataset.shape(), [4, 3, 5]);
    }
}
