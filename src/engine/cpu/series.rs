//! Multi-tau of one pixel from its list of detections, with a cost that follows the photons.
//!
//! All levels in one pass: a level is a list of (sample, value) while it is sparse and becomes an array once
//! enough of its samples are occupied; coarser levels are made from finer ones. float64 throughout.

use std::ops::Range;

use crate::correlate::delays::{DelayPlan, Level, MAX_LAG};

/// A level with more than one occupied sample in this many becomes an array. Walking a list costs about ten
/// times as much for an entry as the vectorised product does for a sample (measured, `benches/correlate.rs`).
const SPARSEST_ARRAY: usize = 20;

/// Lanes of the array product; the compiler turns each group into one vector operation.
const LANES: usize = 4;

/// Zeros behind an array, so that products need no special end.
const PADDING: usize = MAX_LAG as usize + LANES;

/// Sums for lags 0..=8, and room to index them without a check.
type Lags = [f64; 16];

/// The delays of a plan with what turns their sums into means.
#[derive(Debug)]
pub(super) struct Scales {
    levels: Vec<Level>,
    /// 1 / (pairs * width^2) of each delay, width = frames in a sample.
    products: Vec<f64>,
    /// 1 / (pairs * width) of each delay.
    means: Vec<f64>,
}

impl Scales {
    pub(super) fn new(plan: &DelayPlan) -> Self {
        let width = |k: usize| (1u64 << plan.delays()[k].level) as f64;
        let means: Vec<f64> = (0..plan.len()).map(|k| 1.0 / (plan.pairs(k) as f64 * width(k))).collect();
        let products = means.iter().enumerate().map(|(k, mean)| mean / width(k)).collect();
        Self { levels: plan.levels().to_vec(), products, means }
    }

    /// Number of delays.
    pub(super) fn len(&self) -> usize {
        self.means.len()
    }
}

/// Working memory and the result of the last series.
#[derive(Debug, Default)]
pub(super) struct Series {
    times: Vec<u32>,
    values: Vec<f64>,
    array: Vec<f64>,
    coarse: Vec<f64>,
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
    pub(super) fn correlate(&mut self, scales: &Scales) {
        for out in [&mut self.g2, &mut self.later, &mut self.earlier] {
            out.clear();
            out.resize(scales.len(), 0.0);
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { self.correlate_fma(scales) };
        }
        self.correlate_with::<false>(scales);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn correlate_fma(&mut self, scales: &Scales) {
        self.correlate_with::<true>(scales);
    }

    #[inline(always)]
    fn correlate_with<const FMA: bool>(&mut self, scales: &Scales) {
        let mut levels = scales.levels.iter();
        for level in levels.by_ref() {
            self.drop_incomplete(level);
            if self.times.is_empty() {
                break;
            }
            if self.times.len() * SPARSEST_ARRAY > level.samples as usize {
                self.spread(level);
                self.array_level::<FMA>(level);
                for level in levels.by_ref() {
                    self.coarsen_array(level.samples as usize);
                    self.array_level::<FMA>(level);
                }
                break;
            }
            self.list_level(level);
            self.coarsen_list();
        }
        let means = self.later.iter_mut().zip(&mut self.earlier).zip(&scales.means);
        means.for_each(|((later, earlier), scale)| (*later, *earlier) = (*later * scale, *earlier * scale));
        std::iter::zip(&mut self.g2, &scales.products).for_each(|(g2, scale)| *g2 *= scale);
    }

    /// Drops the entries of an incomplete trailing sample.
    #[inline(always)]
    fn drop_incomplete(&mut self, level: &Level) {
        while self.times.last().is_some_and(|&t| u64::from(t) >= level.samples) {
            self.times.pop();
            self.values.pop();
        }
    }

    #[inline(always)]
    fn list_level(&mut self, level: &Level) {
        let mut products: Lags = [0.0; 16];
        let widest = level.first_lag + level.lags - 1;
        let (times, values) = (&self.times[..], &self.values[..self.times.len()]);
        for (i, (&time, &value)) in times.iter().zip(values).enumerate() {
            for (&other, &later) in times[i + 1..].iter().zip(&values[i + 1..]) {
                let lag = other - time;
                if lag > widest {
                    break;
                }
                products[(lag & 15) as usize] += value * later;
            }
        }
        // only the first and the last few samples belong to one mean and not to the other; mostly there are none
        let end = level.samples as u32 - 1;
        let head = times.iter().take_while(|t| **t < widest).count();
        let tail = times[head..].iter().rev().take_while(|t| end - **t < widest).count();
        let (mut later, mut earlier): (Lags, Lags) = ([0.0; 16], [0.0; 16]);
        for i in (0..head).chain(times.len() - tail..times.len()) {
            for lag in level.lags() {
                later[lag as usize] += if times[i] >= lag { values[i] } else { 0.0 };
                earlier[lag as usize] += if end - times[i] >= lag { values[i] } else { 0.0 };
            }
        }
        let middle: f64 = values[head..values.len() - tail].iter().sum();
        self.store(level, &products, middle, &later, &earlier);
    }

    #[inline(always)]
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
    #[inline(always)]
    fn spread(&mut self, level: &Level) {
        self.array.clear();
        self.array.resize(level.samples as usize + PADDING, 0.0);
        for (&time, &value) in self.times.iter().zip(&self.values) {
            self.array[time as usize] = value;
        }
    }

    #[inline(always)]
    fn coarsen_array(&mut self, samples: usize) {
        self.coarse.clear();
        self.coarse.extend(self.array[..2 * samples].as_chunks::<2>().0.iter().map(|[a, b]| a + b));
        self.coarse.resize(samples + PADDING, 0.0);
        std::mem::swap(&mut self.array, &mut self.coarse);
    }

    #[inline(always)]
    fn array_level<const FMA: bool>(&mut self, level: &Level) {
        let samples = level.samples as usize;
        let products = match level.first_lag {
            1 => lagged_products::<1, 8, FMA>(&self.array, samples),
            _ => lagged_products::<5, 4, FMA>(&self.array, samples),
        };
        let widest = (level.first_lag + level.lags - 1) as usize;
        // the samples that all means share, and those before and after them
        let shared = widest.min(samples)..samples.saturating_sub(widest).max(widest.min(samples));
        let middle = sum(&self.array[shared.clone()]);
        let (mut later, mut earlier): (Lags, Lags) = ([0.0; 16], [0.0; 16]);
        for lag in level.lags().map(|lag| lag as usize) {
            let plain = |range: Range<usize>| self.array[range].iter().sum::<f64>();
            later[lag] = plain(lag..shared.start.max(lag)) + plain(shared.end.max(lag)..samples);
            earlier[lag] =
                plain(0..shared.start.min(samples - lag)) + plain(shared.end.min(samples - lag)..samples - lag);
        }
        self.store(level, &products, middle, &later, &earlier);
    }

    /// Keeps a level's sums; `middle` belongs to all means. Nothing is subtracted, so that no digit is lost.
    #[inline(always)]
    fn store(&mut self, level: &Level, products: &Lags, middle: f64, later: &Lags, earlier: &Lags) {
        let lags = level.first_lag as usize..(level.first_lag + level.lags) as usize;
        let delays = level.first..level.first + lags.len();
        self.g2[delays.clone()].copy_from_slice(&products[lags.clone()]);
        self.later[delays.clone()].copy_from_slice(&later[lags.clone()]);
        self.earlier[delays.clone()].copy_from_slice(&earlier[lags]);
        for mean in self.later[delays.clone()].iter_mut().chain(&mut self.earlier[delays]) {
            *mean += middle;
        }
    }
}

/// Sum of an array, by vectors.
#[inline(always)]
fn sum(x: &[f64]) -> f64 {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for vector in vectors {
        for lane in 0..LANES {
            sums[lane] += vector[lane];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest.iter().sum::<f64>()
}

/// Sums of `x[t] * x[t + lag]` for each lag; `x` has `samples` samples and [`PADDING`] zeros.
#[inline(always)]
fn lagged_products<const FIRST: usize, const LAGS: usize, const FMA: bool>(x: &[f64], samples: usize) -> Lags {
    let mut sums = [[0.0f64; LANES]; LAGS];
    let vector = |window: &[f64], at: usize| -> [f64; LANES] { std::array::from_fn(|lane| window[at + lane]) };
    let reach = LANES + FIRST + LAGS - 1;
    for start in (0..samples).step_by(LANES) {
        let window = &x[start..start + reach];
        let early = vector(window, 0);
        for (lag, sums) in sums.iter_mut().enumerate() {
            let late = vector(window, FIRST + lag);
            for lane in 0..LANES {
                sums[lane] = if FMA {
                    early[lane].mul_add(late[lane], sums[lane])
                } else {
                    early[lane] * late[lane] + sums[lane]
                };
            }
        }
    }
    let mut products: Lags = [0.0; 16];
    for (lag, sums) in sums.iter().enumerate() {
        products[FIRST + lag] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    products
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
            series.correlate(&Scales::new(&DelayPlan::new(values.len() as u64)));
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
