//! Where results go while they are computed, the same on every engine: correlations of pixels and rows of maps, to the
//! caller's sink. One thread at a time speaks to it. Computes no correlation.

use std::ops::DerefMut;
use std::sync::{Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayView3};

use super::{EngineError, MultiTauRequest};
use crate::correlate::reduce::CHANNELS;
use crate::correlate::result::{MapRows, PixelG2};
use crate::correlate::twotime::Diagonals;
use crate::dataset::{DatasetError, ResultSink};
use crate::task::correlate::PixelG2Output;

/// The caller's sink; one thread at a time has it.
pub(super) type Shared<'a> = Mutex<&'a mut dyn ResultSink>;

/// The sink, for all threads of an engine and whatever the lifetime of the caller's.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a>(&'a dyn AnySink);

trait AnySink: Sync {
    fn rows_together(&self, frames: usize) -> usize;
    fn map_rows(&self, rows: MapRows<'_>) -> Result<(), DatasetError>;
    fn pixel_g2(&self, pixels: PixelG2<'_>) -> Result<(), DatasetError>;
}

impl AnySink for Shared<'_> {
    fn rows_together(&self, frames: usize) -> usize {
        self.lock().unwrap_or_else(PoisonError::into_inner).rows_together(frames)
    }

    fn map_rows(&self, rows: MapRows<'_>) -> Result<(), DatasetError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).map_rows(rows)
    }

    fn pixel_g2(&self, pixels: PixelG2<'_>) -> Result<(), DatasetError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).pixel_g2(pixels)
    }
}

impl<'a> Sink<'a> {
    pub(super) fn new(shared: &'a Shared<'_>) -> Self {
        Self(shared)
    }

    /// Rows of a map of so many frames that are stored together.
    pub(super) fn rows_together(self, frames: usize) -> usize {
        self.0.rows_together(frames)
    }

    /// Hands the correlations of some pixels over.
    ///
    /// # Errors
    /// They cannot be stored.
    pub(super) fn pixel_g2(self, batch: &PixelBatch) -> Result<(), EngineError> {
        self.0.pixel_g2(batch.view()).map_err(EngineError::Store)
    }

    fn map_rows(self, rows: MapRows<'_>) -> Result<(), EngineError> {
        self.0.map_rows(rows).map_err(EngineError::Store)
    }
}

/// Whether the correlations of pixels are handed over.
pub(super) fn wants_pixels(wanted: Option<MultiTauRequest>) -> bool {
    wanted.is_some_and(|wanted| match wanted.pixel_g2 {
        PixelG2Output::Keep => true,
        PixelG2Output::Drop => false,
    })
}

/// Correlations of some pixels.
pub(super) struct PixelBatch {
    pixels: Vec<u32>,
    delays: usize,
    /// (delay, channel, pixel)
    values: Vec<f32>,
}

impl PixelBatch {
    /// Of these pixels; zeros.
    pub(super) fn new(pixels: Vec<u32>, delays: usize) -> Self {
        let values = vec![0.0; delays * CHANNELS * pixels.len()];
        Self { pixels, delays, values }
    }

    /// Of these pixels, from (pixel, channel, delay).
    pub(super) fn of(pixels: &[u32], delays: usize, correlations: &[f64]) -> Self {
        let mut batch = Self::new(pixels.to_vec(), delays);
        for (index, channels) in correlations.chunks_exact((CHANNELS * delays).max(1)).take(pixels.len()).enumerate() {
            let (g2, means) = channels.split_at(delays);
            let (later, earlier) = means.split_at(delays);
            batch.set(index, [g2, later, earlier]);
        }
        batch
    }

    /// Sets each channel of a pixel: a number for each delay.
    pub(super) fn set(&mut self, index: usize, channels: [&[f64]; CHANNELS]) {
        let pixels = self.pixels.len();
        for (channel, numbers) in channels.into_iter().enumerate() {
            for (delay, &number) in numbers.iter().enumerate() {
                self.values[(delay * CHANNELS + channel) * pixels + index] = number as f32;
            }
        }
    }

    fn view(&self) -> PixelG2<'_> {
        let shape = (self.delays, CHANNELS, self.pixels.len());
        let values = ArrayView3::from_shape(shape, &self.values).expect("new() made it of this size");
        PixelG2 { pixels: &self.pixels, values }
    }
}

/// The rows of a map on their way to the sink. As many are gathered as are handed over together.
pub(super) struct MapOut<'a, B> {
    sink: Sink<'a>,
    label: u32,
    frames: usize,
    /// Room for some rows.
    rows: B,
    /// Number of the first of them.
    first: usize,
    filled: usize,
    diagonals: Option<Diagonals>,
}

/// How many rows of a map to gather, in at most so many bytes: a multiple of those that are stored together, once at least.
pub(super) fn rows_gathered(frames: usize, together: usize, bytes: u64) -> usize {
    let fit = usize::try_from(bytes / row_bytes(frames)).unwrap_or(usize::MAX);
    if fit >= frames { frames } else { (fit / together * together).max(together).min(frames) }
}

/// Bytes of a row of a map.
pub(super) fn row_bytes(frames: usize) -> u64 {
    (frames * size_of::<f32>()) as u64
}

impl<'a, B: DerefMut<Target = [f32]>> MapOut<'a, B> {
    /// Of no row yet; `rows` has room for those that are gathered.
    pub(super) fn new(sink: Sink<'a>, label: u32, frames: usize, rows: B) -> Self {
        Self { sink, label, frames, rows, first: 0, filled: 0, diagonals: None }
    }

    /// The same, which averages along the diagonals.
    pub(super) fn averaging(sink: Sink<'a>, label: u32, frames: usize, rows: B) -> Self {
        Self { diagonals: Some(Diagonals::new(frames)), ..Self::new(sink, label, frames, rows) }
    }

    /// Room for the next rows, for so many at most.
    pub(super) fn room(&mut self, most: usize) -> &mut [f32] {
        let begin = self.filled * self.frames;
        let end = self.rows.len().min(begin + most * self.frames);
        &mut self.rows[begin..end]
    }

    /// So many of the next rows are there.
    ///
    /// # Errors
    /// They cannot be stored.
    pub(super) fn put(&mut self, count: usize) -> Result<(), EngineError> {
        self.filled += count;
        let (length, end) = (self.filled * self.frames, self.first + self.filled);
        if length < self.rows.len() && end < self.frames {
            return Ok(());
        }
        let rows = &self.rows[..length];
        if let Some(diagonals) = &mut self.diagonals {
            diagonals.add(self.first, rows);
        }
        let values = ArrayView2::from_shape((self.filled, self.frames), rows).expect("whole rows");
        self.sink.map_rows(MapRows { label: self.label, first: self.first, values })?;
        (self.first, self.filled) = (end, 0);
        Ok(())
    }

    /// Number of the next row.
    pub(super) fn next(&self) -> usize {
        self.first + self.filled
    }

    /// The averages, where they are made here.
    pub(super) fn finish(self) -> Option<Diagonals> {
        self.diagonals
    }
}
