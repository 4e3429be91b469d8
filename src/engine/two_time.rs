//! What two-time weighs frames by, the same on every engine: pixels that share their weights, and the weights.

use std::ops::Range;

use ndarray::{Array2, Array3, Axis};

use super::TwoTimeRequest;
use super::layout::Layout;
use crate::correlate::result::TwoTime;
use crate::correlate::twotime::{BLOCKS, Diagonals, Smoothing};

/// Pixels of a dynamic bin that share their weights: neighbours in working order, whose static labels are given.
pub(super) fn groups(statics: &[u32], smoothing: Smoothing) -> Vec<Range<usize>> {
    match smoothing {
        Smoothing::StaticBins => {
            let mut start = 0;
            statics
                .chunk_by(|a, b| a == b)
                .map(|run| {
                    start += run.len();
                    start - run.len()..start
                })
                .collect()
        }
        Smoothing::DynamicBins | Smoothing::None => std::iter::once(0..statics.len()).collect(),
    }
}

/// The most groups that a wanted bin has.
pub(super) fn most_groups(layout: &Layout, wanted: &TwoTimeRequest) -> usize {
    let of = |&label: &u32| groups(&layout.statics[layout.bin(label)], wanted.smoothing).len();
    wanted.labels.iter().map(of).max().unwrap_or(0)
}

/// Weight of each frame in a group of so many pixels with such sums of counts.
pub(super) fn weights(smoothing: Smoothing, totals: &[f64], pixels: usize) -> Vec<f64> {
    match smoothing {
        Smoothing::None => vec![1.0; totals.len()],
        Smoothing::StaticBins | Smoothing::DynamicBins => {
            totals.iter().map(|&sum| if sum > 0.0 { pixels as f64 / sum } else { 1.0 }).collect()
        }
    }
}

/// Adds a group's weighted sums of counts to those of its bin.
pub(super) fn add_weighted(sums: &mut [f64], totals: &[f64], weights: &[f64]) {
    for ((sum, total), weight) in std::iter::zip(std::iter::zip(sums, totals), weights) {
        *sum += total * weight;
    }
}

/// 1 / weighted counts of each frame.
pub(super) fn scales(sums: &[f64]) -> Vec<f64> {
    sums.iter().map(|&sum| 1.0 / if sum > 0.0 { sum } else { 1.0 }).collect()
}

/// Zeros for so many frames of some bins.
pub(super) fn empty(frames: usize, labels: &[u32]) -> TwoTime {
    TwoTime {
        labels: labels.to_vec(),
        g2: Array2::zeros((frames, labels.len())),
        g2_segments: Array3::zeros((frames / BLOCKS, BLOCKS, labels.len())),
    }
}

/// Keeps the averages along the diagonals of the map of a bin, which is numbered among those wanted.
pub(super) fn keep_averages(result: &mut TwoTime, bin: usize, diagonals: &Diagonals) {
    result.g2.column_mut(bin).assign(&diagonals.means());
    result.g2_segments.index_axis_mut(Axis(2), bin).assign(&diagonals.block_means());
}
