//! Keeps the per-pixel correlations that `unnormalized_G2` shows: (delay, channel, pixel) float32.

use std::sync::atomic::{AtomicU32, Ordering};

use ndarray::Array3;

use super::MultiTauRequest;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::CHANNELS;
use crate::correlate::result::PixelG2;
use crate::task::correlate::PixelG2Output;

/// Filled by many threads, each pixel by one. Atomics make the interleaved stores safe and cost nothing.
pub(super) struct PixelStore {
    delays: usize,
    pixels: usize,
    values: Vec<AtomicU32>,
}

impl PixelStore {
    /// Room for so many pixels of a series, if their correlations are wanted.
    pub(super) fn wanted(wanted: Option<MultiTauRequest>, frames: u64, pixels: usize) -> Option<Self> {
        match wanted?.pixel_g2 {
            PixelG2Output::Keep => Some(Self::new(DelayPlan::new(frames).len(), pixels)),
            PixelG2Output::Drop => None,
        }
    }

    fn new(delays: usize, pixels: usize) -> Self {
        let values = (0..delays * CHANNELS * pixels).map(|_| AtomicU32::new(0)).collect();
        Self { delays, pixels, values }
    }

    /// Keeps the correlations of the pixel at `rank` in the partition's order.
    pub(super) fn keep(&self, rank: usize, g2: &[f64], later: &[f64], earlier: &[f64]) {
        for (channel, values) in [g2, later, earlier].into_iter().enumerate() {
            for (tau, &value) in values.iter().enumerate() {
                let at = (tau * CHANNELS + channel) * self.pixels + rank;
                self.values[at].store((value as f32).to_bits(), Ordering::Relaxed);
            }
        }
    }

    /// Keeps the correlations of some pixels, (pixel, channel, delay), at their ranks.
    pub(super) fn keep_all(&self, ranks: &[u32], correlations: &[f64]) {
        let each = correlations.chunks_exact((CHANNELS * self.delays).max(1));
        for (rank, channels) in std::iter::zip(ranks, each) {
            let (g2, means) = channels.split_at(self.delays);
            let (later, earlier) = means.split_at(self.delays);
            self.keep(*rank as usize, g2, later, earlier);
        }
    }

    pub(super) fn finish(self) -> PixelG2 {
        let values: Vec<f32> = self.values.into_iter().map(|v| f32::from_bits(v.into_inner())).collect();
        let shape = (self.delays, CHANNELS, self.pixels);
        PixelG2 { values: Array3::from_shape_vec(shape, values).expect("new() made it of this size") }
    }
}
