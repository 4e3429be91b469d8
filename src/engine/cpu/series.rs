//! Multi-tau of one pixel from its list of detections, with a cost that follows the photons.
//!
//! All levels in one pass: a level is a list of (sample, value) while it is sparse and becomes an array once
//! enough of its samples are occupied; coarser levels are made from finer ones. float64 throughout.

use crate::correlate::delays::{DelayPlan, Level, MAX_LAG};

/// A level with more than one occupied sample in this many becomes an array. Walking a list costs about ten
/// times as much for an entry as the vectorised product does for a sample (measured, `benches/correlate.rs`).
const SPARSEST_ARRAY: usize = 10;

/// Lanes of the array product; the compiler turns each group into one vector operation.
const LANES: usize = 4;

/// Working memory and the result of the last series.
#[derive(Debug, Default)]
pub(super) struct Series {
    times: Vec<u32>,
    values: Vec<f64>,
    array: Vec<f64>,
    /// Mean of later times earlier, for each delay of the plan.
    pub(super) g2: Vec<f64>,
    /// Mean of the later frames.
    pub(super) later: Vec<f64>,
    /// Mean of the earlier frames.
    pub(super) earlier: Vec<f64>,
}

impl Series {
    /// Starts a series; [`Self::push`] its detections, then [`Self::correlate`].
    pub(super) fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
    }

    /// Adds a detection; times ascend, equal times add.
    #[inline]
    pub(super) fn push(&mut self, time: u32, value: f64) {
        match (self.times.last(), self.values.last_mut()) {
            (Some(&last), Some(sum)) if last == time => *sum += value,
            _ => {
                self.times.push(time);
                self.values.push(value);
            }
        }
    }

    /// Correlates the detections pushed since [`Self::clear`]; consumes them.
    pub(super) fn correlate(&mut self, plan: &DelayPlan) {
        for out in [&mut self.g2, &mut self.later, &mut self.earlier] {
            out.clear();
            out.resize(plan.len(), 0.0);
        }
        let mut levels = plan.levels().iter();
        for level in levels.by_ref() {
            self.drop_incomplete(level);
            if self.times.is_empty() {
                return;
            }
            if self.times.len() * SPARSEST_ARRAY > level.samples as usize {
                self.spread(level);
                self.array_level(level);
                break;
            }
            self.list_level(level);
            self.coarsen_list();
        }
        for level in levels {
            self.coarsen_array(level.samples as usize);
            self.array_level(level);
        }
    }

    /// Drops the entries of an incomplete trailing sample.
    fn drop_incomplete(&mut self, level: &Level) {
        while self.times.last().is_some_and(|&t| u64::from(t) >= level.samples) {
            self.times.pop();
            self.values.pop();
        }
    }

    fn list_level(&mut self, level: &Level) {
        let mut products = [0.0; MAX_LAG as usize + 1];
        let widest = level.first_lag + level.lags - 1;
        let (times, values) = (&self.times[..], &self.values[..]);
        let mut total = 0.0;
        for (i, (&time, &value)) in times.iter().zip(values).enumerate() {
            total += value;
            for (&other, &later) in times[i + 1..].iter().zip(&values[i + 1..]) {
                let lag = other - time;
                if lag > widest {
                    break;
                }
                products[lag as usize] += value * later;
            }
        }
        let samples = level.samples as u32;
        let (mut first, mut last) = ([0.0; MAX_LAG as usize + 1], [0.0; MAX_LAG as usize + 1]);
        let mut head = Ends::new(times.iter().zip(values));
        let mut tail = Ends::new(times.iter().rev().zip(values.iter().rev()));
        for lag in level.lags() {
            first[lag as usize] = head.sum_while(|t| t < lag);
            last[lag as usize] = tail.sum_while(|t| t >= samples - lag);
        }
        for lag in level.lags() {
            let k = lag as usize;
            self.store(level, lag, products[k], total - first[k], total - last[k]);
        }
    }

    fn coarsen_list(&mut self) {
        let mut kept = 0;
        for i in 0..self.times.len() {
            let time = self.times[i] >> 1;
            let value = self.values[i];
            if kept > 0 && self.times[kept - 1] == time {
                self.values[kept - 1] += value;
            } else {
                self.times[kept] = time;
                self.values[kept] = value;
                kept += 1;
            }
        }
        self.times.truncate(kept);
        self.values.truncate(kept);
    }

    /// List to array.
    fn spread(&mut self, level: &Level) {
        self.array.clear();
        self.array.resize(level.samples as usize, 0.0);
        for (&time, &value) in self.times.iter().zip(&self.values) {
            self.array[time as usize] = value;
        }
    }

    fn coarsen_array(&mut self, samples: usize) {
        for t in 0..samples {
            self.array[t] = self.array[2 * t] + self.array[2 * t + 1];
        }
        self.array.truncate(samples);
    }

    fn array_level(&mut self, level: &Level) {
        let array = std::mem::take(&mut self.array);
        let total: f64 = array.iter().sum();
        let samples = array.len();
        let (mut first, mut last, mut counted) = (0.0, 0.0, 0);
        for lag in level.lags() {
            for k in counted..lag as usize {
                first += array[k];
                last += array[samples - 1 - k];
            }
            counted = lag as usize;
            let product = lagged_product(&array, lag as usize);
            self.store(level, lag, product, total - first, total - last);
        }
        self.array = array;
    }

    /// Turns sums over a level's samples into means in frame units.
    fn store(&mut self, level: &Level, lag: u32, product: f64, later: f64, earlier: f64) {
        let index = level.first + (lag - level.first_lag) as usize;
        let scale = 1.0 / (level.samples - u64::from(lag)) as f64 / (1u64 << level.index) as f64;
        self.g2[index] = product * scale / (1u64 << level.index) as f64;
        self.later[index] = later * scale;
        self.earlier[index] = earlier * scale;
    }
}

/// Sums entries from one end of a list, further with each call.
struct Ends<I> {
    entries: I,
    sum: f64,
    pending: Option<(u32, f64)>,
}

impl<'a, I: Iterator<Item = (&'a u32, &'a f64)>> Ends<I> {
    fn new(entries: I) -> Self {
        Self { entries, sum: 0.0, pending: None }
    }

    fn sum_while(&mut self, within: impl Fn(u32) -> bool) -> f64 {
        while let Some((time, value)) = self.pending.take().or_else(|| self.entries.next().map(|(&t, &v)| (t, v))) {
            if !within(time) {
                self.pending = Some((time, value));
                break;
            }
            self.sum += value;
        }
        self.sum
    }
}

/// Sum of `x[t] * x[t + lag]`.
fn lagged_product(x: &[f64], lag: usize) -> f64 {
    let (early, late) = (&x[..x.len() - lag], &x[lag..]);
    let mut sums = [0.0; LANES];
    let (early, late) = (early.chunks_exact(LANES), late.chunks_exact(LANES));
    let rest: f64 = std::iter::zip(early.remainder(), late.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in early.zip(late) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::correlate::bins::{Labels, Partition, Shape};
    use crate::correlate::oracle;

    fn one_pixel() -> Partition {
        let labels = Labels {
            shape: Shape { rows: 1, cols: 1 },
            mask: vec![true],
            blemish: vec![true],
            dynamic_labels: vec![1],
            static_labels: vec![1],
        };
        Partition::new(&labels, &[]).expect("one pixel")
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(
            counts in prop::collection::vec(prop_oneof![5 => Just(0u32), 1 => 1u32..4095], 2..700),
            thinning in 1usize..60,
        ) {
            let values: Vec<f64> =
                counts.iter().enumerate().map(|(t, &c)| if t % thinning == 0 { f64::from(c) * 0.37 } else { 0.0 }).collect();
            let frames = Array2::from_shape_vec((values.len(), 1), values.clone()).expect("shape");
            let expected = oracle::pixel_correlations(&frames, &one_pixel());
            let mut series = Series::default();
            for (t, &v) in values.iter().enumerate().filter(|(_, v)| **v > 0.0) {
                series.push(t as u32, v / 2.0);
                series.push(t as u32, v / 2.0);
            }
            series.correlate(&DelayPlan::new(values.len() as u64));
            for k in 0..expected.dim().0 {
                let (g2, later, earlier) = (series.g2[k], series.later[k], series.earlier[k]);
                for (channel, value) in [g2, later, earlier].into_iter().enumerate() {
                    let want = expected[(k, channel, 0)];
                    let scale = values.iter().copied().fold(0.0, f64::max).powi(2).max(1.0);
                    prop_assert!((value - want).abs() <= 1e-12 * scale, "delay {k} channel {channel}: {value} {want}");
                }
            }
        }
    }
}
