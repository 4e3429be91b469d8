//! The order in which pixels are worked on: sorted by dynamic bin, static bin, position.
//!
//! Pixels of a bin are then neighbours, so that sums of a shard touch few bins and a two-time bin is a range.

use std::ops::Range;

use crate::correlate::bins::Partition;

/// No place: the pixel is masked out.
pub(super) const MASKED: u32 = u32::MAX;

/// Masked-in pixels in working order.
#[derive(Debug)]
pub(super) struct Layout {
    /// Place of each pixel of the image, or [`MASKED`].
    pub(super) place: Vec<u32>,
    /// Pixel index of each place.
    pub(super) pixels: Vec<u32>,
    /// Static label of each place.
    pub(super) statics: Vec<u32>,
    /// Dynamic label of each place.
    pub(super) dynamics: Vec<u32>,
    /// Position of each place in the partition's (row-major) list.
    pub(super) ranks: Vec<u32>,
}

impl Layout {
    pub(super) fn new(partition: &Partition) -> Self {
        let count = partition.pixels().len();
        let mut ranks: Vec<u32> = (0..count as u32).collect();
        let key = |rank: u32| (partition.dynamic_labels()[rank as usize], partition.static_labels()[rank as usize]);
        ranks.sort_by_key(|&rank| key(rank));
        let pick = |map: &[u32]| -> Vec<u32> { ranks.iter().map(|&r| map[r as usize]).collect() };
        let pixels = pick(partition.pixels());
        let mut place = vec![MASKED; partition.shape().pixels()];
        for (index, &pixel) in pixels.iter().enumerate() {
            place[pixel as usize] = index as u32;
        }
        Self {
            place,
            statics: pick(partition.static_labels()),
            dynamics: pick(partition.dynamic_labels()),
            pixels,
            ranks,
        }
    }

    /// Number of masked-in pixels.
    pub(super) fn len(&self) -> usize {
        self.pixels.len()
    }

    /// The places of a dynamic bin.
    pub(super) fn bin(&self, label: u32) -> Range<usize> {
        self.dynamics.partition_point(|&d| d < label)..self.dynamics.partition_point(|&d| d <= label)
    }
}
