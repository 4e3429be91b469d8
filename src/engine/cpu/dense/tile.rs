//! Multi-tau of a tile of pixels from dense frames: all levels in one pass, each frame read once.
//!
//! Rows of 32 pixels are multiplied with the eight rows before them. Faint data take float32 for at most 32 rows and
//! float64 beyond, which keeps every number within 1e-6 (`correlate::oracle` is the judge); bright data, whose
//! pixels differ by less than float32 resolves, take float64 throughout.

use std::ops::Range;

use crate::correlate::delays::{DelayPlan, Level, MAX_LAG};

/// Pixels in a tile: a row is two cache lines of float32, four of float64.
pub(super) const TILE: usize = 32;

/// Frames that are fed at once; their rows at all levels stay in the nearest caches.
pub(super) const BATCH: usize = 128;

/// Rows that are remembered before each batch.
const HISTORY: usize = MAX_LAG as usize;

/// Rows summed in float32 before float64 takes over: rounding then stays near 1e-7 (2^-24 * sqrt(32 / 3)).
const SHORT_SUM: usize = 32;

/// Up to so many rows are multiplied in float64; they are a small part of all rows, in the upper levels.
const FEW: usize = 8;

/// One sample of each pixel of a tile.
pub(super) type Row<F> = [F; TILE];

/// float32 or float64.
pub(in crate::engine::cpu) trait Real:
    Copy + Default + Send + Sync + std::ops::AddAssign
{
    fn from_f64(value: f64) -> Self;
    fn f64(self) -> f64;
    /// `count * factor`, where the count is an exact float32.
    fn scaled(count: f32, factor: Self) -> Self;
    fn plus(self, other: Self) -> Self;
    /// `self * b + c`, rounded once if `FMA`.
    fn times_plus<const FMA: bool>(self, b: Self, c: Self) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl Real for $type {
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn scaled(count: f32, factor: Self) -> Self {
                Self::from(count) * factor
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn times_plus<const FMA: bool>(self, b: Self, c: Self) -> Self {
                if FMA { self.mul_add(b, c) } else { self * b + c }
            }
        }
    };
}

real!(f32);
real!(f64);

fn zero<F: Real>() -> Row<F> {
    [F::default(); TILE]
}

/// What a tile remembers of one series.
#[derive(Debug, Clone)]
pub(super) struct TileState<F> {
    frames: u64,
    /// Last eight samples of each level.
    history: Vec<[Row<F>; HISTORY]>,
    /// First eight samples of each level.
    head: Vec<[Row<F>; HISTORY]>,
    /// Sum of products for each delay.
    products: Vec<[f64; TILE]>,
    /// Sum of the samples of each level that are neither in `head` nor in `history`. The means are put together
    /// from these three, since differences of large sums would lose digits.
    middle: Vec<[f64; TILE]>,
}

/// Rows of a batch at each level. The first eight of each buffer are room for the level's history.
#[derive(Debug, Default)]
pub(super) struct Workspace<F> {
    /// Level 0; filled by the caller, see [`Workspace::start`].
    rows: Vec<Row<F>>,
    odd: Vec<Row<F>>,
    even: Vec<Row<F>>,
}

impl<F: Real> Workspace<F> {
    /// Begins a batch of `frames` frames, all of whose rows the caller then sets.
    pub(super) fn start(&mut self, frames: usize) -> &mut [Row<F>] {
        self.rows.resize(HISTORY + frames, zero());
        &mut self.rows[HISTORY..]
    }

    /// The rows of the batch.
    pub(super) fn batch(&self) -> &[Row<F>] {
        &self.rows[HISTORY..]
    }
}

/// Correlations of a tile's pixels in frame units: one row a delay.
#[derive(Debug, Default)]
pub(super) struct TileSeries {
    pub(super) g2: Vec<[f64; TILE]>,
    pub(super) later: Vec<[f64; TILE]>,
    pub(super) earlier: Vec<[f64; TILE]>,
}

impl<F: Real> TileState<F> {
    pub(super) fn new(plan: &DelayPlan) -> Self {
        let levels = plan.levels().len();
        Self {
            frames: 0,
            history: vec![[zero(); HISTORY]; levels],
            head: vec![[zero(); HISTORY]; levels],
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
        (rows * size_of::<F>() + (plan.len() + plan.levels().len()) * size_of::<f64>()) as u64
    }

    pub(super) fn reset(&mut self) {
        self.frames = 0;
        self.history.fill([zero(); HISTORY]);
        self.head.fill([zero(); HISTORY]);
        self.products.fill([0.0; TILE]);
        self.middle.fill([0.0; TILE]);
    }

    /// Adds the batch that `work` holds.
    #[inline(always)]
    pub(super) fn feed<const FMA: bool>(&mut self, plan: &DelayPlan, work: &mut Workspace<F>) {
        let frames = work.batch().len() as u64;
        let mut levels = plan.levels().iter();
        if let Some(level) = levels.next() {
            self.feed_level::<FMA>(level, &mut work.rows, &mut work.odd);
        }
        for level in levels {
            if work.odd.len() == HISTORY {
                break;
            }
            self.feed_level::<FMA>(level, &mut work.odd, &mut work.even);
            std::mem::swap(&mut work.odd, &mut work.even);
        }
        self.frames += frames;
    }

    /// Adds samples of a level; makes those of the next.
    #[inline(always)]
    fn feed_level<const FMA: bool>(&mut self, level: &Level, rows: &mut [Row<F>], coarse: &mut Vec<Row<F>>) {
        let index = level.index as usize;
        let before = self.frames >> index;
        rows[..HISTORY].copy_from_slice(&self.history[index]);
        for (row, slot) in rows[HISTORY..].iter().zip(self.head[index].iter_mut().skip(before as usize)) {
            *slot = *row;
        }
        let leaving = rows.len() - HISTORY;
        let first = (2 * HISTORY).saturating_sub(before as usize).min(leaving);
        add_rows(&rows[first..leaving], &mut self.middle[index]);
        let products = &mut self.products[level.first..level.first + level.lags as usize];
        // the first level has lags 1..=8, the others 5..=8; the last ones may have fewer, whose products are dropped
        if level.first_lag == 1 {
            add_lags::<F, 1, 8, FMA>(rows, products);
        } else {
            add_lags::<F, 5, 4, FMA>(rows, products);
        }
        // an odd sample waits in the history for its partner
        let first = HISTORY - usize::from(before % 2 == 1);
        let pairs = rows[first..].as_chunks::<2>().0;
        coarse.resize(HISTORY + pairs.len(), zero());
        // a plain loop: closures of iterator adapters are compiled without the vector instructions of this function
        for (sum, [a, b]) in std::iter::zip(&mut coarse[HISTORY..], pairs) {
            for lane in 0..TILE {
                sum[lane] = a[lane].plus(b[lane]);
            }
        }
        self.history[index].copy_from_slice(&rows[leaving..]);
    }

    /// The correlations over all frames fed.
    #[inline(always)]
    pub(super) fn finish(&self, plan: &DelayPlan, out: &mut TileSeries) {
        for rows in [&mut out.g2, &mut out.later, &mut out.earlier] {
            rows.clear();
            rows.resize(plan.len(), [0.0; TILE]);
        }
        for (index, level) in plan.levels().iter().enumerate() {
            let width = (1u64 << level.index) as f64;
            let samples = level.samples as usize;
            for (k, lag) in (level.first..).zip(level.lags()) {
                let lag = lag as usize;
                let scale = 1.0 / ((samples - lag) as f64 * width);
                self.add_samples(index, samples, lag..samples, &mut out.later[k]);
                self.add_samples(index, samples, 0..samples - lag, &mut out.earlier[k]);
                for lane in 0..TILE {
                    out.g2[k][lane] = self.products[k][lane] * scale / width;
                    out.later[k][lane] *= scale;
                    out.earlier[k][lane] *= scale;
                }
            }
        }
    }

    /// Sum of a level's samples in `range`, which leaves out at most the first or the last eight of `samples`.
    ///
    /// Samples 0..8 are in the head, the last 8 in the history; those in both count once.
    #[inline(always)]
    fn add_samples(&self, index: usize, samples: usize, range: Range<usize>, sums: &mut [f64; TILE]) {
        *sums = self.middle[index];
        for row in &self.head[index][range.start.min(HISTORY)..range.end.min(HISTORY)] {
            for lane in 0..TILE {
                sums[lane] += row[lane].f64();
            }
        }
        let start = range.start.max(HISTORY).max(samples.saturating_sub(HISTORY));
        for t in start..range.end {
            let row = &self.history[index][t + HISTORY - samples];
            for lane in 0..TILE {
                sums[lane] += row[lane].f64();
            }
        }
    }
}

/// Adds up rows.
#[inline(always)]
fn add_rows<F: Real>(rows: &[Row<F>], total: &mut [f64; TILE]) {
    for block in rows.chunks(SHORT_SUM) {
        let mut sums: Row<F> = zero();
        for row in block {
            for lane in 0..TILE {
                sums[lane] += row[lane];
            }
        }
        for lane in 0..TILE {
            total[lane] += sums[lane].f64();
        }
    }
}

/// Adds the products of each row after the history with the rows some lags before it.
#[inline(always)]
fn add_lags<F: Real, const FIRST: usize, const LAGS: usize, const FMA: bool>(
    rows: &[Row<F>],
    sums: &mut [[f64; TILE]],
) {
    if rows.len() <= HISTORY + FEW {
        return add_exact::<F, FIRST, LAGS>(rows, sums);
    }
    let mut start = 0;
    while start + HISTORY < rows.len() {
        let end = (start + SHORT_SUM + HISTORY).min(rows.len());
        // as many sums as there are vector registers
        if size_of::<F>() == size_of::<f32>() {
            add_short::<F, FIRST, LAGS, 8, FMA>(&rows[start..end], sums);
        } else {
            add_short::<F, FIRST, LAGS, 4, FMA>(&rows[start..end], sums);
        }
        start = end - HISTORY;
    }
}

/// The same for few rows, as upper levels have: products of float32 are exact in float64. Long delays have few
/// pairs, whose rounding would not average out.
#[inline(always)]
fn add_exact<F: Real, const FIRST: usize, const LAGS: usize>(rows: &[Row<F>], sums: &mut [[f64; TILE]]) {
    for t in HISTORY..rows.len() {
        for (lag, sums) in sums.iter_mut().enumerate().take(LAGS) {
            let (newest, earlier) = (&rows[t], &rows[t - FIRST - lag]);
            for lane in 0..TILE {
                sums[lane] += newest[lane].f64() * earlier[lane].f64();
            }
        }
    }
}

#[inline(always)]
fn add_short<F: Real, const FIRST: usize, const LAGS: usize, const LANES: usize, const FMA: bool>(
    rows: &[Row<F>],
    sums: &mut [[f64; TILE]],
) {
    for lane in (0..TILE).step_by(LANES) {
        let short = short_sums::<F, FIRST, LAGS, LANES, FMA>(rows, lane);
        for (sums, short) in std::iter::zip(sums.iter_mut(), short) {
            for i in 0..LANES {
                sums[lane + i] += short[i].f64();
            }
        }
    }
}

#[inline(always)]
fn short_sums<F: Real, const FIRST: usize, const LAGS: usize, const LANES: usize, const FMA: bool>(
    rows: &[Row<F>],
    lane: usize,
) -> [[F; LANES]; LAGS] {
    let mut sums = [[F::default(); LANES]; LAGS];
    let vector = |row: &Row<F>| -> [F; LANES] { std::array::from_fn(|i| row[lane + i]) };
    for window in rows.array_windows::<{ HISTORY + 1 }>() {
        let newest = vector(&window[HISTORY]);
        for (lag, sums) in sums.iter_mut().enumerate() {
            let earlier = vector(&window[HISTORY - FIRST - lag]);
            for i in 0..LANES {
                sums[i] = newest[i].times_plus::<FMA>(earlier[i], sums[i]);
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

    fn feed_all<F: Real>(plan: &DelayPlan, rows: &[Row<F>], cuts: &[usize]) -> TileSeries {
        let (mut state, mut work, mut out) = (TileState::new(plan), Workspace::default(), TileSeries::default());
        let (mut start, mut cuts) = (0, cuts.iter().cycle());
        while start < rows.len() {
            let end = (start + cuts.next().expect("a cycle")).min(rows.len());
            work.start(end - start).copy_from_slice(&rows[start..end]);
            state.feed::<false>(plan, &mut work);
            start = end;
        }
        state.finish(plan, &mut out);
        out
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
            let rows: Vec<Row<f32>> = (0..frames).map(|t| std::array::from_fn(|p| value(t, p))).collect();
            let plan = DelayPlan::new(frames as u64);
            let single = feed_all(&plan, &rows, &cuts);
            let wide: Vec<Row<f64>> = rows.iter().map(|row| row.map(f64::from)).collect();
            let double = feed_all(&plan, &wide, &cuts);
            let plain = Array2::from_shape_fn((frames, TILE), |(t, p)| f64::from(rows[t][p]));
            let expected = oracle::pixel_correlations(&plain, &tile_partition());
            for (out, tolerance) in [(single, 1e-6), (double, 1e-13)] {
            for lane in [0, 9, TILE - 1] {
                for k in 0..plan.len() {
                    for (channel, value) in [out.g2[k][lane], out.later[k][lane], out.earlier[k][lane]].into_iter().enumerate() {
                        let want = expected[(k, channel, lane)];
                        prop_assert!((value - want).abs() <= tolerance * want.abs(), "delay {k} channel {channel}: {value} {want}");
                    }
                }
            }
            }
        }
    }
}
