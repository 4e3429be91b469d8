//! Static scattering: sums of counts and their averages over frames, bins and segments.

use ndarray::Array2;

use super::bins::Partition;
use super::result::Scattering;
use super::window::FrameSelection;

/// The most segments that the stability view shows (boost_corr's choice, kept).
const MAX_SEGMENTS: u64 = 16;

/// Equal segments of `2^shift` frames; a remainder is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlan {
    /// log2 of the frames in a segment.
    pub shift: u32,
    /// Number of segments, at most 16 (at least 8 when there are as many frames).
    pub segments: usize,
}

impl SegmentPlan {
    /// The plan for a series of `frames` frames.
    pub fn new(frames: u64) -> Self {
        let shift = (0..).find(|&s| frames >> s <= MAX_SEGMENTS).unwrap_or(0);
        Self { shift, segments: (frames >> shift) as usize }
    }

    /// The segment of a frame, or None in the remainder.
    #[inline]
    pub fn segment_of(self, frame: u64) -> Option<usize> {
        let segment = (frame >> self.shift) as usize;
        (segment < self.segments).then_some(segment)
    }
}

/// Sums of raw counts over a selection. Integer counts are exact up to 2^53.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Sum of counts of each pixel of the whole image over all frames taken.
    pub pixels: Vec<f64>,
    /// Sum of counts over the masked-in pixels in each output frame (all its raw frames).
    pub frames: Vec<f64>,
    /// (segment, static label - 1): sum of counts over the bin's masked-in pixels that are not blemished.
    pub segments: Array2<f64>,
}

impl Tally {
    /// All zero.
    pub fn new(partition: &Partition, selection: &FrameSelection) -> Self {
        let plan = SegmentPlan::new(selection.outputs());
        Self {
            pixels: vec![0.0; partition.shape().pixels()],
            frames: vec![0.0; selection.outputs() as usize],
            segments: Array2::zeros((plan.segments, partition.static_bins())),
        }
    }

    /// The averages. Static bins whose pixels are all masked out become NaN; bins absent from the qmap are dropped.
    pub fn finish(&self, partition: &Partition, selection: &FrameSelection) -> Scattering {
        let avg = selection.avg() as f64;
        let outputs = selection.outputs() as f64;
        let plan = SegmentPlan::new(selection.outputs());
        let mut sizes = vec![0.0; partition.static_bins()];
        let mut sums = vec![0.0; partition.static_bins()];
        for (&pixel, &label) in partition.pixels().iter().zip(partition.static_labels()) {
            if label > 0 {
                sizes[label as usize - 1] += 1.0;
                if partition.blemish()[pixel as usize] {
                    sums[label as usize - 1] += self.pixels[pixel as usize];
                }
            }
        }
        let present: Vec<usize> =
            (0..partition.static_bins()).filter(|&s| partition.static_present(s as u32 + 1)).collect();
        let per_segment = (1u64 << plan.shift) as f64 * avg;
        Scattering {
            image: std::iter::zip(&self.pixels, partition.blemish())
                .map(|(&sum, &good)| if good { sum / (outputs * avg) } else { 0.0 })
                .collect(),
            bins: present.iter().map(|&s| sums[s] / sizes[s] / (outputs * avg)).collect(),
            segments: Array2::from_shape_fn((plan.segments, present.len()), |(g, k)| {
                self.segments[(g, present[k])] / sizes[present[k]] / per_segment
            }),
            intensity: self.frames.iter().map(|&sum| sum / avg / partition.pixels().len() as f64).collect(),
        }
    }
}

/// Factor of each output frame that makes its mean over the masked-in pixels 1; 1 for a frame without counts.
///
/// `sums` are the frames' counts as in [`Tally::frames`]; the factor applies to the mean of the averaged raw frames.
pub fn frame_factors(sums: &[f64], partition: &Partition, selection: &FrameSelection) -> Vec<f64> {
    let scale = partition.pixels().len() as f64 * selection.avg() as f64;
    sums.iter().map(|&sum| if sum > 0.0 { scale / sum } else { 1.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_to_sixteen_segments() {
        for (frames, shift, segments) in [(611, 6, 9), (600, 6, 9), (64, 2, 16), (40, 2, 10), (5, 0, 5), (16, 0, 16)] {
            assert_eq!(SegmentPlan::new(frames), SegmentPlan { shift, segments }, "{frames}");
        }
        for frames in 8..5000 {
            assert!((8..=16).contains(&SegmentPlan::new(frames).segments));
        }
    }
}
