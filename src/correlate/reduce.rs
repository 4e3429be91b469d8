//! From per-pixel correlations to g2 of the bins: static averages, division, dynamic means, error bars.
//!
//! Sums are kept per shard of pixels and merged in shard order, so that the result does not depend on how many
//! threads computed the shards. The caller chooses shards that depend on the pixels alone.

use std::ops::Range;

use ndarray::Array2;

use super::bins::Partition;
use super::delays::DelayPlan;
use super::result::MultiTau;

/// Channels of a pixel's correlation: G2, mean of the later frames, mean of the earlier frames.
pub const CHANNELS: usize = 3;

/// A pixel's g2; 0 where a mean is 0 (no pair can then have counts).
#[inline]
pub fn pixel_g2(g2: f64, later: f64, earlier: f64) -> f64 {
    let product = later * earlier;
    if product > 0.0 { g2 / product } else { 0.0 }
}

/// Sums over a shard of pixels, for the bins that the shard touches.
#[derive(Debug, Clone)]
pub struct BinSums {
    delays: usize,
    static_slots: Slots,
    dynamic_slots: Slots,
    /// slot -> `[G2.., later.., earlier..]`, each of `delays` sums
    static_sums: Vec<f64>,
    /// slot -> `[g2 - 1.., (g2 - 1)^2..]`; shifted by 1, where g2 lives, so that the variance keeps its digits
    dynamic_sums: Vec<f64>,
}

/// Label -> consecutive slot, given out at first use.
#[derive(Debug, Clone)]
struct Slots {
    of_label: Vec<u32>,
    counts: Vec<u64>,
}

const NO_SLOT: u32 = u32::MAX;

impl Slots {
    fn new(bins: usize) -> Self {
        Self { of_label: vec![NO_SLOT; bins], counts: Vec::new() }
    }

    fn get(&mut self, label: u32) -> (usize, bool) {
        let entry = &mut self.of_label[label as usize - 1];
        let fresh = *entry == NO_SLOT;
        if fresh {
            *entry = self.counts.len() as u32;
            self.counts.push(0);
        }
        (*entry as usize, fresh)
    }
}

/// Neighbouring pixels of the same bin: label, places. Pixels of no bin are left out.
fn label_runs(labels: &[u32]) -> impl Iterator<Item = (u32, Range<usize>)> {
    let mut start = 0;
    labels.chunk_by(|a, b| a == b).filter_map(move |run| {
        start += run.len();
        (run[0] > 0).then_some((run[0], start - run.len()..start))
    })
}

/// Sum of some lanes; of all of them by halves, which vectors do at once.
#[inline]
pub fn sum_lanes<const N: usize>(row: &[f64; N], lanes: &Range<usize>) -> f64 {
    if lanes.len() < N || !N.is_power_of_two() {
        return row[lanes.clone()].iter().sum();
    }
    let mut sums = *row;
    let mut half = N / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        std::iter::zip(low, &high[..half]).for_each(|(a, b)| *a += b);
        half /= 2;
    }
    sums[0]
}

impl BinSums {
    /// Empty sums for `delays` delays.
    pub fn new(partition: &Partition, delays: usize) -> Self {
        Self {
            delays,
            static_slots: Slots::new(partition.static_bins()),
            dynamic_slots: Slots::new(partition.dynamic_bins()),
            static_sums: Vec::new(),
            dynamic_sums: Vec::new(),
        }
    }

    /// Adds a pixel: `g2`, `later` and `earlier` hold one mean a delay, in frame units (level sums divided out).
    #[inline]
    pub fn add_pixel(&mut self, static_label: u32, dynamic_label: u32, g2: &[f64], later: &[f64], earlier: &[f64]) {
        let n = self.delays;
        assert!(g2.len() == n && later.len() == n && earlier.len() == n);
        if static_label > 0 {
            let sums = self.static_mut(static_label, 1);
            let (a, rest) = sums.split_at_mut(n);
            let (b, c) = rest.split_at_mut(n);
            for (sums, values) in [(a, g2), (b, later), (c, earlier)] {
                std::iter::zip(sums, values).for_each(|(s, v)| *s += v);
            }
        }
        if dynamic_label > 0 {
            let (first, second) = self.dynamic_mut(dynamic_label, 1).split_at_mut(n);
            for k in 0..n {
                let d = pixel_g2(g2[k], later[k], earlier[k]) - 1.0;
                first[k] += d;
                second[k] += d * d;
            }
        }
    }

    /// Adds up to `N` pixels: the labels of each; for each channel one row a delay, in it one number a pixel.
    pub fn add_pixels<const N: usize>(
        &mut self,
        static_labels: &[u32],
        dynamic_labels: &[u32],
        channels: [&[[f64; N]]; CHANNELS],
    ) {
        let n = self.delays;
        let pixels = static_labels.len();
        assert!(channels.iter().all(|rows| rows.len() == n) && pixels <= N && dynamic_labels.len() == pixels);
        for (label, lanes) in label_runs(static_labels) {
            let sums = self.static_mut(label, lanes.len() as u64);
            for (sums, rows) in std::iter::zip(sums.chunks_exact_mut(n.max(1)), channels) {
                std::iter::zip(sums, rows).for_each(|(sum, row)| *sum += sum_lanes(row, &lanes));
            }
        }
        let runs: Vec<_> = label_runs(dynamic_labels).collect();
        for (label, lanes) in &runs {
            self.dynamic_mut(*label, lanes.len() as u64);
        }
        let [g2, later, earlier] = channels;
        for k in 0..n {
            let mut first = [0.0; N];
            let mut second = [0.0; N];
            for lane in 0..N {
                first[lane] = pixel_g2(g2[k][lane], later[k][lane], earlier[k][lane]) - 1.0;
                second[lane] = first[lane] * first[lane];
            }
            for (label, lanes) in &runs {
                let sums = self.dynamic_mut(*label, 0);
                sums[k] += sum_lanes(&first, lanes);
                sums[n + k] += sum_lanes(&second, lanes);
            }
        }
    }

    /// Adds the sums of pixels of the same bins: for each delay G2, later and earlier, then g2 - 1 and its square.
    pub fn add_sums(
        &mut self,
        static_label: u32,
        dynamic_label: u32,
        pixels: u64,
        static_sums: &[f64],
        dynamic_sums: &[f64],
    ) {
        if static_label > 0 {
            std::iter::zip(self.static_mut(static_label, pixels), static_sums).for_each(|(a, b)| *a += b);
        }
        if dynamic_label > 0 {
            std::iter::zip(self.dynamic_mut(dynamic_label, pixels), dynamic_sums).for_each(|(a, b)| *a += b);
        }
    }

    /// Adds another shard's sums. The order of the calls is part of the result.
    pub fn merge(&mut self, other: &Self) {
        for label in 1..=other.static_slots.of_label.len() as u32 {
            let slot = other.static_slots.of_label[label as usize - 1];
            if slot != NO_SLOT {
                let n = CHANNELS * other.delays;
                let sums = &other.static_sums[slot as usize * n..][..n];
                let mine = self.static_mut(label, other.static_slots.counts[slot as usize]);
                std::iter::zip(mine, sums).for_each(|(a, b)| *a += b);
            }
        }
        for label in 1..=other.dynamic_slots.of_label.len() as u32 {
            let slot = other.dynamic_slots.of_label[label as usize - 1];
            if slot != NO_SLOT {
                let n = 2 * other.delays;
                let sums = &other.dynamic_sums[slot as usize * n..][..n];
                let mine = self.dynamic_mut(label, other.dynamic_slots.counts[slot as usize]);
                std::iter::zip(mine, sums).for_each(|(a, b)| *a += b);
            }
        }
    }

    fn static_mut(&mut self, label: u32, pixels: u64) -> &mut [f64] {
        let n = CHANNELS * self.delays;
        let (slot, fresh) = self.static_slots.get(label);
        if fresh {
            self.static_sums.resize(self.static_sums.len() + n, 0.0);
        }
        self.static_slots.counts[slot] += pixels;
        &mut self.static_sums[slot * n..][..n]
    }

    fn dynamic_mut(&mut self, label: u32, pixels: u64) -> &mut [f64] {
        let n = 2 * self.delays;
        let (slot, fresh) = self.dynamic_slots.get(label);
        if fresh {
            self.dynamic_sums.resize(self.dynamic_sums.len() + n, 0.0);
        }
        self.dynamic_slots.counts[slot] += pixels;
        &mut self.dynamic_sums[slot * n..][..n]
    }

    /// g2 and its error of every dynamic bin, from the sums over all pixels.
    pub fn finish(&self, partition: &Partition, plan: &DelayPlan) -> MultiTau {
        let bins = partition.dynamic_bins();
        let mut g2 = Array2::zeros((self.delays, bins));
        let mut g2_err = Array2::zeros((self.delays, bins));
        for label in 1..=bins as u32 {
            let members = partition.members(label);
            for tau in 0..self.delays {
                let sum: f64 = members.iter().map(|&s| self.static_g2(s, tau)).sum();
                g2[(tau, label as usize - 1)] = if members.is_empty() { 0.0 } else { sum / members.len() as f64 };
                g2_err[(tau, label as usize - 1)] = self.error(label, tau);
            }
        }
        MultiTau { delays: plan.delay_list(), g2, g2_err }
    }

    fn static_g2(&self, label: u32, tau: usize) -> f64 {
        let slot = self.static_slots.of_label[label as usize - 1];
        if slot == NO_SLOT {
            return 0.0;
        }
        let pixels = self.static_slots.counts[slot as usize] as f64;
        let at = |channel: usize| self.static_sums[(slot as usize * CHANNELS + channel) * self.delays + tau] / pixels;
        pixel_g2(at(0), at(1), at(2))
    }

    /// Standard deviation (ddof 1) of the pixels' g2 over the square root of their number.
    fn error(&self, label: u32, tau: usize) -> f64 {
        let slot = self.dynamic_slots.of_label[label as usize - 1];
        if slot == NO_SLOT {
            return 0.0;
        }
        let n = self.dynamic_slots.counts[slot as usize] as f64;
        if n < 2.0 {
            return f64::NAN;
        }
        let first = self.dynamic_sums[slot as usize * 2 * self.delays + tau];
        let second = self.dynamic_sums[(slot as usize * 2 + 1) * self.delays + tau];
        let variance = (second - first * first / n).max(0.0) / (n - 1.0);
        (variance / n).sqrt()
    }
}
