//! When products may be added in float32 before they are added in float64, the same on every engine.

use crate::correlate::bins::Partition;

/// Mean counts of a frame of the analysis above which float32 no longer resolves how a bin's pixels differ: its
/// rounding (1e-7 a sum of 32) times the mean is then no longer small against the spread that photons cause.
const BRIGHT: f64 = 4.0;

/// Pixels of a bin below which float32 does not resolve how they differ either: its rounding averages out over the
/// pixels of a large bin only. Small bins are little work in float64.
const SMALL_BIN: usize = 1024;

/// Whether float32 is enough for such bins and so many counts of a pixel and frame of the analysis.
pub(super) fn single_is_enough(mean: f64, partition: &Partition) -> bool {
    mean <= BRIGHT && smallest_bin(partition) >= SMALL_BIN
}

/// Pixels of the smallest dynamic bin that has any.
fn smallest_bin(partition: &Partition) -> usize {
    let mut pixels = vec![0; partition.dynamic_bins() + 1];
    partition.dynamic_labels().iter().for_each(|&label| pixels[label as usize] += 1);
    pixels.into_iter().skip(1).filter(|&pixels| pixels > 0).min().unwrap_or(0)
}
