//! What multi-tau runs over, the same on every engine: the series and its parts, and the factor of each frame.

use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::scattering::frame_factors;
use crate::task::correlate::Normalization;

use super::{MultiTauRequest, Request};

/// The frames that a multi-tau runs over: the whole series, or one of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// The delays of its frames.
    pub(super) fn plan(self) -> DelayPlan {
        DelayPlan::new(u64::from(self.end - self.start))
    }
}

/// The whole series of `frames` frames, then its equal parts (a remainder belongs to none).
pub(super) fn spans(frames: u64, parts: u32) -> Vec<Span> {
    let mut spans = vec![Span { start: 0, end: frames as u32 }];
    if parts > 1 {
        let length = (frames / u64::from(parts)) as u32;
        spans.extend((0..parts).map(|k| Span { start: k * length, end: (k + 1) * length }));
    }
    spans
}

/// What the summed counts of frames are multiplied with: 1 / average, and 1 / mean where frames are normalised.
pub(super) fn factors(wanted: MultiTauRequest, sums: &[f64], partition: &Partition, request: &Request) -> Vec<f64> {
    let avg = request.selection.avg() as f64;
    match wanted.normalization {
        Normalization::None => vec![1.0 / avg; sums.len()],
        Normalization::FrameMean => {
            frame_factors(sums, partition, &request.selection).into_iter().map(|factor| factor / avg).collect()
        }
    }
}
