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
}

impl Layout {
    pub(super) fn new(partition: &Partition) -> Self {
        let ranks: Vec<u32> = (0..partition.pixels().len() as u32).collect();
        let ranks = by_label(&ranks, partition.static_labels());
        let ranks = by_label(&ranks, partition.dynamic_labels());
        let pick = |map: &[u32]| -> Vec<u32> { ranks.iter().map(|&r| map[r as usize]).collect() };
        let pixels = pick(partition.pixels());
        let mut place = vec![MASKED; partition.shape().pixels()];
        for (index, &pixel) in pixels.iter().enumerate() {
            place[pixel as usize] = index as u32;
        }
        Self { place, statics: pick(partition.static_labels()), dynamics: pick(partition.dynamic_labels()), pixels }
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

/// Some ranks by their labels; those of a label keep their order. Labels are few, so that counting them costs less than
/// comparing ranks: an image has millions.
fn by_label(ranks: &[u32], labels: &[u32]) -> Vec<u32> {
    let largest = labels.iter().max().map_or(0, |&label| label as usize);
    // where the next rank of each label goes
    let mut next = vec![0usize; largest + 2];
    labels.iter().for_each(|&label| next[label as usize + 1] += 1);
    for label in 1..next.len() {
        next[label] += next[label - 1];
    }
    let mut sorted = vec![0; ranks.len()];
    for &rank in ranks {
        let at = &mut next[labels[rank as usize] as usize];
        sorted[*at] = rank;
        *at += 1;
    }
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::correlate::bins::{Labels, Shape};

    proptest! {
        #[test]
        fn places_are_sorted_by_bin_and_position(
            pixels in proptest::collection::vec((any::<bool>(), 0u32..5, 0u32..9), 1..300),
        ) {
            let shape = Shape { rows: 1, cols: pixels.len() };
            let pick = |of: fn(&(bool, u32, u32)) -> u32| -> Vec<u32> { pixels.iter().map(of).collect() };
            let labels = Labels {
                shape,
                mask: pixels.iter().map(|(mask, ..)| *mask).collect(),
                blemish: vec![true; pixels.len()],
                dynamic_labels: pick(|pixel| pixel.1),
                static_labels: pick(|pixel| pixel.2),
            };
            let partition = Partition::new(&labels, &[]);
            prop_assume!(partition.is_ok());
            let layout = Layout::new(&partition.expect("it is"));
            let mut wanted: Vec<u32> = (0..pixels.len() as u32).filter(|&at| pixels[at as usize].0).collect();
            wanted.sort_by_key(|&at| (pixels[at as usize].1, pixels[at as usize].2));
            prop_assert_eq!(&layout.pixels, &wanted);
            for (at, (mask, ..)) in pixels.iter().enumerate() {
                let place = wanted.iter().position(|&pixel| pixel as usize == at);
                prop_assert_eq!(*mask, place.is_some());
                prop_assert_eq!(layout.place[at], place.map_or(MASKED, |place| place as u32));
            }
        }
    }
}
