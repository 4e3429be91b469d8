//! Per-pixel correlations: pixels come one after the other, and the file has an image for each delay and channel.
//!
//! Until all pixels are there they are in a file without a name beside the result, so that memory does not grow with
//! them. Computes nothing of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::fault::save;
use super::store::{Grid, Store};
use crate::correlate::bins::Partition;
use crate::correlate::reduce::CHANNELS;
use crate::correlate::result::PixelG2;
use crate::dataset::DatasetError;

/// Where the images are in the result.
const OBJECT: &str = "/xpcs/multitau/unnormalized_G2";

/// The pixels that have come.
#[derive(Debug)]
pub(super) struct Planes {
    /// For each batch (delay, channel, pixel).
    file: File,
    batches: Vec<Batch>,
    delays: usize,
    /// Bytes of the file.
    end: u64,
}

/// Pixels that came together.
#[derive(Debug)]
struct Batch {
    pixels: Vec<u32>,
    /// Where its values begin.
    at: u64,
}

impl Planes {
    /// Of no pixel yet; the file is on the disk of `directory`.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn create(directory: &Path, target: &Path, delays: usize) -> Result<Self, DatasetError> {
        let file = tempfile::tempfile_in(directory).map_err(|e| refused(target, e))?;
        Ok(Self { file, batches: Vec::new(), delays, end: 0 })
    }

    /// Keeps some pixels.
    ///
    /// # Errors
    /// Other delays than before, a full disk.
    pub(super) fn add(&mut self, target: &Path, more: PixelG2<'_>) -> Result<(), DatasetError> {
        if more.values.dim() != (self.delays, CHANNELS, more.pixels.len()) {
            return Err(save(format!("write {OBJECT} of"), target, "pixels have different delays"));
        }
        let values = more.values.as_standard_layout();
        let bytes: &[u8] = bytemuck::cast_slice(values.as_slice().unwrap_or_default());
        self.file.write_all_at(bytes, self.end).map_err(|e| refused(target, e))?;
        self.batches.push(Batch { pixels: more.pixels.to_vec(), at: self.end });
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Number of pixels.
    pub(super) fn pixels(&self) -> usize {
        self.batches.iter().map(|batch| batch.pixels.len()).sum()
    }

    /// Writes the images, one chunk each; masked-out pixels are 0.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn write(&self, store: &Store, partition: &Partition) -> Result<(), DatasetError> {
        let (rows, cols) = (partition.shape().rows, partition.shape().cols);
        let grid = Grid { shape: [self.delays, CHANNELS, rows, cols], chunk: [1, 1, rows, cols] };
        let origins: Vec<_> = (0..self.delays).flat_map(|delay| (0..CHANNELS).map(move |c| [delay, c, 0, 0])).collect();
        store.chunked(OBJECT, grid)?.write(store, &origins, |[delay, channel, _, _], image| {
            let mut values: Vec<f32> = Vec::new();
            for Batch { pixels, at } in &self.batches {
                values.resize(pixels.len(), 0.0);
                let plane = ((delay * CHANNELS + channel) * size_of_val(&values[..])) as u64;
                let bytes = bytemuck::cast_slice_mut(&mut values);
                self.file.read_exact_at(bytes, at + plane).map_err(|e| refused(store.target(), e))?;
                std::iter::zip(pixels, &values).for_each(|(&pixel, &value)| image[pixel as usize] = value);
            }
            Ok(())
        })
    }
}

fn refused(target: &Path, cause: std::io::Error) -> DatasetError {
    save("keep the per-pixel correlations beside", target, cause)
}
