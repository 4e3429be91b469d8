//! Multi-tau of a tile of pixels from dense frames: all levels in one pass, each frame read once.
//!
//! Rows of 32 pixels are multiplied with the eight rows before them; sums run in float32 over at most 32 rows
//! and in float64 beyond, which keeps them within 1e-6 (`correlate::oracle` is the judge).

use crate::correlate::delays::{DelayPlan, Level, MAX_LAG};

/// Pixels in a tile: a row is two cache lines of float32.
pub(super) const TILE: usize = 32;

/// Frames that are fed at once; their rows at all levels stay in the nearest caches.
pub(super) const BATCH: usize = 128;

/// Rows that are remembered before each batch.
const HISTORY: usize = MAX_LAG as usize;

/// Rows summed in float32 before float64 takes over: rounding then stays near 1e-7 (2^-24 * sqrt(32 / 3)).
const SHORT_SUM: usize = 32;

/// Pixels of one vector operation.
const LANES: usize = 8;

/// One sample of each pixel of a tile.
pub(super) type Row = [f32; TILE];

const ZERO: Row = [0.0; TILE];

/// What a tile remembers of one series.
#[derive(Debug, Clone)]
pub(super) struct TileState {
    frames: u64,
    /// Last eight samples of each level.
    history: Vec<[Row; HISTORY]>,
    /// First eight samples of each level.
    head: Vec<[Row; HISTORY]>,
    /// Sum of products for each delay.
    products: Vec<[f64; TILE]>,
    /// Sum of the samples of each level that are neither in `head` nor in `history`. The means are put together
    /// from these three, since differences of large sums would lose digits.
    middle: Vec<[f64; TILE]>,
}

/// Rows of one batch at one level, after the level's history.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    rows: Vec<Row>,
    coarse: Vec<Row>,
}

/// Correlations of one pixel in frame units, one value a delay.
#[derive(Debug, Default)]
pub(super) struct PixelSeries {
    pub(super) g2: Vec<f64>,
    pub(super) later: Vec<f64>,
    pub(super) earlier: Vec<f64>,
}

impl TileState {
    pub(super) fn new(plan: &DelayPlan) -> Self {
        let levels = plan.levels().len();
        Self {
            frames: 0,
            history: vec![[ZERO; HISTORY]; levels],
            head: vec![[ZERO; HISTORY]; levels],
            products: vec![[0.0; TILE]; plan.len()],
            middle: vec![[0.0; TILE]; levels],
        }
    }

    /// A state without levels, where there is no series to remember.
    pub(super) fn empty() -> Self {
        Self::new(&DelayPlan::new(0))
    }

    /// Bytes that a state takes for each pixel.
    pub(super) fn bytes_per_pixel(plan: &DelayPlan) -> u64 {
        let rows = plan.levels().len() * 2 * HISTORY;
        (rows * size_of::<f32>() + (plan.len() + plan.levels().len()) * size_of::<f64>()) as u64
    }

    pub(super) fn reset(&mut self) {
        self.frames = 0;
        self.history.fill([ZERO; HISTORY]);
        self.head.fill([ZERO; HISTORY]);
        self.products.fill([0.0; TILE]);
        self.middle.fill([0.0; TILE]);
    }

    /// Adds the next frames of the series.
    pub(super) fn feed(&mut self, plan: &DelayPlan, frames: &[Row], work: &mut Workspace) {
        let Workspace { rows, coarse } = work;
        coarse.clear();
        coarse.extend_from_slice(frames);
        for (index, level) in plan.levels().iter().enumerate() {
            if coarse.is_empty() {
                break;
            }
            rows.clear();
            rows.extend_from_slice(&self.history[index]);
            rows.append(coarse);
            let before = self.frames >> index;
            for (row, slot) in rows[HISTORY..].iter().zip(self.head[index].iter_mut().skip(before as usize)) {
                *slot = *row;
            }
            let leaving = rows.len() - HISTORY;
            let first = (2 * HISTORY).saturating_sub(before as usize).min(leaving);
            add_rows(&rows[first..leaving], &mut self.middle[index]);
            let products = &mut self.products[level.first..level.first + level.lags as usize];
            add_products(rows, level, products);
            // an odd sample waits in the history for its partner
            let first = HISTORY - usize::from(before % 2 == 1);
            coarse.extend(rows[first..].chunks_exact(2).map(|pair| std::array::from_fn(|i| pair[0][i] + pair[1][i])));
            self.history[index].copy_from_slice(&rows[leaving..]);
        }
        coarse.clear();
        self.frames += frames.len() as u64;
    }

    /// The correlations of pixel `lane` over all frames fed.
    pub(super) fn pixel(&self, plan: &DelayPlan, lane: usize, out: &mut PixelSeries) {
        out.g2.clear();
        out.later.clear();
        out.earlier.clear();
        for (index, level) in plan.levels().iter().enumerate() {
            let (head, history) = (&self.head[index], &self.history[index]);
            let width = (1u64 << level.index) as f64;
            let samples = level.samples as usize;
            // samples 0..8 are in the head, the last 8 in the history; those in both count once
            let last = |from: usize, to: usize| -> f64 {
                let from = from.max(samples.saturating_sub(HISTORY));
                (from..to).map(|t| f64::from(history[t + HISTORY - samples][lane])).sum()
            };
            let first =
                |from: usize, to: usize| -> f64 { (from..to.min(HISTORY)).map(|t| f64::from(head[t][lane])).sum() };
            for (k, lag) in level.lags().enumerate() {
                let lag = lag as usize;
                let middle = self.middle[index][lane];
                let later = first(lag, samples) + middle + last(HISTORY, samples);
                let earlier = first(0, samples - lag) + middle + last(HISTORY, samples - lag);
                let scale = 1.0 / ((samples - lag) as f64 * width);
                out.g2.push(self.products[level.first + k][lane] * scale / width);
                out.later.push(later * scale);
                out.earlier.push(earlier * scale);
            }
        }
    }
}

/// Adds up rows.
fn add_rows(rows: &[Row], total: &mut [f64; TILE]) {
    for block in rows.chunks(SHORT_SUM) {
        let mut sums = ZERO;
        for row in block {
            for (sum, value) in std::iter::zip(&mut sums, row) {
                *sum += value;
            }
        }
        for (total, sum) in std::iter::zip(total.iter_mut(), sums) {
            *total += f64::from(sum);
        }
    }
}

/// Adds the products of each row after the history with the rows `lags` before it.
fn add_products(rows: &[Row], level: &Level, sums: &mut [[f64; TILE]]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { add_products_fma(rows, level, sums) };
    }
    add_products_with::<false>(rows, level, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_products_fma(rows: &[Row], level: &Level, sums: &mut [[f64; TILE]]) {
    add_products_with::<true>(rows, level, sums);
}

#[inline(always)]
fn add_products_with<const FMA: bool>(rows: &[Row], level: &Level, sums: &mut [[f64; TILE]]) {
    // the first level has lags 1..=8, the others 5..=8; the last ones may have fewer, whose products are dropped
    if level.first_lag == 1 {
        add_lags::<1, 8, FMA>(rows, sums);
    } else {
        add_lags::<5, 4, FMA>(rows, sums);
    }
}

#[inline(always)]
fn add_lags<const FIRST: usize, const LAGS: usize, const FMA: bool>(rows: &[Row], sums: &mut [[f64; TILE]]) {
    let mut start = 0;
    while start + HISTORY < rows.len() {
        let end = (start + SHORT_SUM + HISTORY).min(rows.len());
        for lane in (0..TILE).step_by(LANES) {
            let short = short_sums::<FIRST, LAGS, FMA>(&rows[start..end], lane);
            for (sums, short) in std::iter::zip(sums.iter_mut(), short) {
                for (sum, value) in std::iter::zip(&mut sums[lane..lane + LANES], short) {
                    *sum += f64::from(value);
                }
            }
        }
        start = end - HISTORY;
    }
}

#[inline(always)]
fn short_sums<const FIRST: usize, const LAGS: usize, const FMA: bool>(
    rows: &[Row],
    lane: usize,
) -> [[f32; LANES]; LAGS] {
    let mut sums = [[0.0f32; LANES]; LAGS];
    let vector = |row: &Row| -> [f32; LANES] { std::array::from_fn(|i| row[lane + i]) };
    for window in rows.array_windows::<{ HISTORY + 1 }>() {
        let newest = vector(&window[HISTORY]);
        for (lag, sums) in sums.iter_mut().enumerate() {
            let earlier = vector(&window[HISTORY - FIRST - lag]);
            for i in 0..LANES {
                sums[i] = if FMA { newest[i].mul_add(earlier[i], sums[i]) } else { newest[i] * earlier[i] + sums[i] };
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::correlate::bins::{Labels, Partition, Shape};
    use crate::correlate::oracle;

    fn tile_partition() -> Partition {
        let labels = Labels {
            shape: Shape { rows: 1, cols: TILE },
            mask: vec![true; TILE],
            blemish: vec![true; TILE],
            dynamic_labels: vec![1; TILE],
            static_labels: vec![1; TILE],
        };
        Partition::new(&labels, &[]).expect("a full tile")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn agrees_with_the_oracle_however_the_frames_are_fed(
            frames in 2usize..700,
            cuts in prop::collection::vec(1usize..BATCH, 1..20),
            bright in 1.0f32..4000.0,
            seed in 0u64..1000,
        ) {
            let value = |t: usize, p: usize| {
                let h = (t as u64 * 7919 + p as u64 * 104_729 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                (h as f32 / 16_777_216.0 * bright).floor()
            };
            let rows: Vec<Row> = (0..frames).map(|t| std::array::from_fn(|p| value(t, p))).collect();
            let plan = DelayPlan::new(frames as u64);
            let (mut state, mut work, mut out) = (TileState::new(&plan), Workspace::default(), PixelSeries::default());
            let (mut start, mut cuts) = (0, cuts.iter().cycle());
            while start < frames {
                let end = (start + cuts.next().expect("a cycle")).min(frames);
                state.feed(&plan, &rows[start..end], &mut work);
                start = end;
            }
            let plain = Array2::from_shape_fn((frames, TILE), |(t, p)| f64::from(rows[t][p]));
            let expected = oracle::pixel_correlations(&plain, &tile_partition());
            for lane in [0, 9, TILE - 1] {
                state.pixel(&plan, lane, &mut out);
                for k in 0..plan.len() {
                    for (channel, value) in [out.g2[k], out.later[k], out.earlier[k]].into_iter().enumerate() {
                        let want = expected[(k, channel, lane)];
                        prop_assert!((value - want).abs() <= 1e-6 * want.abs(), "delay {k} channel {channel}: {value} {want}");
                    }
                }
            }
        }
    }
}
