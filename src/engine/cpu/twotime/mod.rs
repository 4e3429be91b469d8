//! Two-time correlation of one dynamic bin at a time: the Gram matrix of its frames, weighted by the smoothing.
//!
//! Counts are integers until a static bin's products are summed, so that the sums are exact; the weights
//! (one a static bin and frame) are applied to the bin's Gram matrix in float64.

use std::ops::Range;
use std::sync::Mutex;

use ndarray::Array2;

use crate::correlate::result::{TwoTime, TwoTimeMap};
use crate::correlate::twotime::{Smoothing, block_means, diagonal_means};
use crate::engine::{EngineError, MapSink};

use super::pool::Pool;
use crate::engine::layout::Layout;
use crate::engine::two_time::{add_weighted, empty, groups, scales, weights};

mod gram;
mod kernel;
mod pairs;

pub(super) use gram::{Cells, Matrix};
pub(super) use pairs::Lists;

/// Counts of one dynamic bin, by pixel in working order.
pub(super) enum Counts<'a> {
    /// Detections of each pixel.
    Lists(Lists),
    /// All counts.
    Matrix(Matrix<'a>),
}

/// Pixels that share their weights: neighbours in working order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// Pixels, counted from the first of the dynamic bin.
    pub(super) pixels: Range<usize>,
    /// Weight of each frame.
    pub(super) weights: Vec<f64>,
}

/// Collects the g2 of the bins as their maps are finished.
pub(super) struct Collector {
    result: TwoTime,
    done: usize,
}

/// Rows of a map that one job fills.
type RowSlot<'a> = Mutex<&'a mut [f32]>;

impl Collector {
    pub(super) fn new(frames: usize, labels: &[u32]) -> Self {
        Self { result: empty(frames, labels), done: 0 }
    }

    /// Correlates the next label's counts and hands its map over.
    ///
    /// # Errors
    /// Cancellation and the sink's errors.
    pub(super) fn add(
        &mut self,
        counts: &Counts<'_>,
        layout: &Layout,
        smoothing: Smoothing,
        memory: u64,
        pool: Pool<'_>,
        maps: &mut MapSink<'_>,
    ) -> Result<(), EngineError> {
        let label = self.result.labels[self.done];
        let frames = self.result.g2.nrows();
        let places = layout.bin(label);
        let statics = &layout.statics[places.clone()];
        let (groups, sums) = weigh(counts, statics, smoothing, frames);
        let scales = scales(&sums);
        let mut values = Array2::<f32>::zeros((frames, frames));
        let out = values.as_slice_mut().expect("a new array is contiguous");
        let scale = Scale { pixels: places.len() as f64, rows: &scales };
        match counts {
            Counts::Lists(lists) if lists.cheaper_than_matrix(frames) => lists.correlate(&groups, &scale, out, pool)?,
            Counts::Lists(lists) => gram::correlate(lists, &groups, &scale, memory, out, pool)?,
            Counts::Matrix(matrix) => gram::correlate(matrix, &groups, &scale, memory, out, pool)?,
        }
        self.result.g2.column_mut(self.done).assign(&diagonal_means(values.view()));
        self.result.g2_segments.index_axis_mut(ndarray::Axis(2), self.done).assign(&block_means(values.view()));
        self.done += 1;
        maps(TwoTimeMap { label, values }).map_err(EngineError::Store)
    }

    pub(super) fn finish(self) -> TwoTime {
        self.result
    }
}

/// What turns a weighted product of two frames into c2.
struct Scale<'a> {
    pixels: f64,
    /// 1 / sum of the weighted counts of each frame.
    rows: &'a [f64],
}

impl Scale<'_> {
    #[inline]
    fn apply(&self, product: f64, t: usize, other: usize) -> f32 {
        (product * self.pixels * self.rows[t] * self.rows[other]) as f32
    }
}

/// Groups with their weights, and the weighted sum of each frame.
fn weigh(counts: &Counts<'_>, statics: &[u32], smoothing: Smoothing, frames: usize) -> (Vec<Group>, Vec<f64>) {
    let mut sums = vec![0.0; frames];
    let groups = groups(statics, smoothing)
        .into_iter()
        .map(|pixels| {
            let totals = match counts {
                Counts::Lists(lists) => lists.frame_sums(pixels.clone(), frames),
                Counts::Matrix(matrix) => matrix.frame_sums(pixels.clone()),
            };
            let weights = weights(smoothing, &totals, pixels.len());
            add_weighted(&mut sums, &totals, &weights);
            Group { pixels, weights }
        })
        .collect();
    (groups, sums)
}

/// Cuts a map into slots of `rows` rows, one a job.
fn row_slots(out: &mut [f32], frames: usize, rows: usize) -> Vec<RowSlot<'_>> {
    out.chunks_mut(rows * frames).map(Mutex::new).collect()
}

/// The rows of a slot; no other job has it.
fn rows_of<'s, 'a>(slot: &'s RowSlot<'a>) -> std::sync::MutexGuard<'s, &'a mut [f32]> {
    slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
