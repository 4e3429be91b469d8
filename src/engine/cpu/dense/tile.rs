//! Multi-tau of a tile of pixels from dense frames: all levels in one pass, each frame read once.
//!
//! Rows of 32 pixels are multiplied with the eight rows before them. Faint data take float32 for at most 32 rows and
//! float64 beyond, which keeps every number within 1e-6 (`correlate::oracle` is the judge); bright data, whose
//! pixels differ by less than float32 resolves, take float64 throughout.

use std::ops::Range;

use bytemuck::Pod;

use crate::correlate::delays::{DelayPlan, Level, MAX_LAG};

use super::vector::{Row, TILE, Vector};

/// Frames that are fed at once; their rows at all levels stay in the nearest caches.
pub(super) const BATCH: usize = 256;

/// Rows that are remembered before each batch.
const HISTORY: usize = MAX_LAG as usize;

/// Rows summed in float32 before float64 takes over: rounding then stays near 1e-7 (2^-24 * sqrt(32 / 3)).
const SHORT_SUM: usize = 32;

/// Up to so many rows are multiplied in float64; they are a small part of all rows, in the upper levels.
const FEW: usize = 8;

/// float32 or float64.
pub(in crate::engine::cpu) trait Real: Pod + Default + Send + Sync {
    /// Vectors that any processor has.
    type Plain: Vector<Self>;
    /// Vectors of a processor with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    type Avx: Vector<Self>;
    fn from_f64(value: f64) -> Self;
    fn f64(self) -> f64;
    /// `count * factor`, where the count is an exact float32.
    fn scaled(count: f32, factor: Self) -> Self;
}

macro_rules! real {
    ($type:ty, $avx:ident) => {
        impl Real for $type {
            type Plain = [Self; 8];
            #[cfg(target_arch = "x86_64")]
            type Avx = super::vector::avx::$avx;

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
        }
    };
}

real!(f32, Singles);
real!(f64, Doubles);

/// What a tile remembers of one series, in memory that the caller keeps between blocks: zero at first.
pub(super) struct TileState<'a, F> {
    /// Last eight samples of each level.
    history: &'a mut [[Row<F>; HISTORY]],
    /// First eight samples of each level.
    head: &'a mut [[Row<F>; HISTORY]],
    /// Sum of products for each delay.
    products: &'a mut [Row<f64>],
    /// Sum of the samples of each level that are neither in `head` nor in `history`. The means are put together
    /// from these three, since differences of large sums would lose digits.
    middle: &'a mut [Row<f64>],
}

/// Rows that a tile's state takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StateSize {
    /// Of the series' own precision.
    pub(super) samples: usize,
    /// Of float64.
    pub(super) sums: usize,
}

impl StateSize {
    /// The state of a series.
    pub(super) fn new(plan: &DelayPlan) -> Self {
        let levels = plan.levels().len();
        Self { samples: levels * 2 * HISTORY, sums: plan.len() + levels }
    }

    /// Bytes a pixel.
    pub(super) fn bytes_per_pixel<F>(self) -> u64 {
        (self.samples * size_of::<F>() + self.sums * size_of::<f64>()) as u64
    }
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
        self.rows.resize(HISTORY + frames, Row::default());
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

impl<'a, F: Real> TileState<'a, F> {
    /// The state of a series in memory of [`StateSize::new`]'s size.
    pub(super) fn new(plan: &DelayPlan, samples: &'a mut [Row<F>], sums: &'a mut [Row<f64>]) -> Self {
        let (history, head) = samples.as_chunks_mut::<HISTORY>().0.split_at_mut(plan.levels().len());
        let (products, middle) = sums.split_at_mut(plan.len());
        Self { history, head, products, middle }
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.history.fill([Row::default(); HISTORY]);
        self.head.fill([Row::default(); HISTORY]);
        self.products.fill(Row::default());
        self.middle.fill(Row::default());
    }

    /// Adds the batch that `work` holds, after `frames` frames that were fed before.
    #[inline(always)]
    pub(super) fn feed<V: Vector<F>>(&mut self, plan: &DelayPlan, frames: u64, work: &mut Workspace<F>) {
        let mut levels = plan.levels().iter();
        if let Some(level) = levels.next() {
            self.feed_level::<V>(level, frames, &mut work.rows, &mut work.odd);
        }
        for level in levels {
            if work.odd.len() == HISTORY {
                break;
            }
            self.feed_level::<V>(level, frames, &mut work.odd, &mut work.even);
            std::mem::swap(&mut work.odd, &mut work.even);
        }
    }

    /// Adds samples of a level; makes those of the next.
    #[inline(always)]
    fn feed_level<V: Vector<F>>(&mut self, level: &Level, frames: u64, rows: &mut [Row<F>], coarse: &mut Vec<Row<F>>) {
        let index = level.index as usize;
        let before = frames >> index;
        rows[..HISTORY].copy_from_slice(&self.history[index]);
        for (row, slot) in rows[HISTORY..].iter().zip(self.head[index].iter_mut().skip(before as usize)) {
            *slot = *row;
        }
        let leaving = rows.len() - HISTORY;
        let first = (2 * HISTORY).saturating_sub(before as usize).min(leaving);
        add_rows::<F, V>(&rows[first..leaving], &mut self.middle[index]);
        let products = &mut self.products[level.first..level.first + level.lags as usize];
        // the first level has lags 1..=8, the others 5..=8; the last ones may have fewer, whose products are dropped
        if level.first_lag == 1 {
            add_lags::<F, V, 1, 8, 1>(rows, products);
        } else {
            add_lags::<F, V, 5, 4, 2>(rows, products);
        }
        // an odd sample waits in the history for its partner
        let first = HISTORY - usize::from(before % 2 == 1);
        let pairs = rows[first..].as_chunks::<2>().0;
        coarse.resize(HISTORY + pairs.len(), Row::default());
        for (sum, [a, b]) in std::iter::zip(&mut coarse[HISTORY..], pairs) {
            for lane in (0..TILE).step_by(V::LANES) {
                V::load(a, lane).plus(V::load(b, lane)).store(sum, lane);
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
        *sums = self.middle[index].0;
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
fn add_rows<F: Real, V: Vector<F>>(rows: &[Row<F>], total: &mut Row<f64>) {
    for block in rows.chunks(SHORT_SUM) {
        for lane in (0..TILE).step_by(V::LANES) {
            let mut sum = V::zero();
            for row in block {
                sum = sum.plus(V::load(row, lane));
            }
            sum.add_to(total, lane);
        }
    }
}

/// Adds the products of each row after the history with the rows some lags before it. `LAGS * WIDTH` sums are at
/// work: as many as leave registers for the rows.
#[inline(always)]
fn add_lags<F: Real, V: Vector<F>, const FIRST: usize, const LAGS: usize, const WIDTH: usize>(
    rows: &[Row<F>],
    sums: &mut [Row<f64>],
) {
    if rows.len() <= HISTORY + FEW {
        return add_exact::<F, FIRST, LAGS>(rows, sums);
    }
    let mut start = 0;
    while start + HISTORY < rows.len() {
        let end = (start + SHORT_SUM + HISTORY).min(rows.len());
        for lane in (0..TILE).step_by(WIDTH * V::LANES) {
            add_short::<F, V, FIRST, LAGS, WIDTH>(&rows[start..end], lane, sums);
        }
        start = end - HISTORY;
    }
}

/// The same for few rows, as upper levels have: products of float32 are exact in float64. Long delays have few
/// pairs, whose rounding would not average out.
#[inline(always)]
fn add_exact<F: Real, const FIRST: usize, const LAGS: usize>(rows: &[Row<F>], sums: &mut [Row<f64>]) {
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
fn add_short<F: Real, V: Vector<F>, const FIRST: usize, const LAGS: usize, const WIDTH: usize>(
    rows: &[Row<F>],
    lane: usize,
    sums: &mut [Row<f64>],
) {
    let mut short = [[V::zero(); WIDTH]; LAGS];
    for window in rows.array_windows::<{ HISTORY + 1 }>() {
        for (lag, short) in short.iter_mut().enumerate() {
            for (k, short) in short.iter_mut().enumerate() {
                let newest = V::load(&window[HISTORY], lane + k * V::LANES);
                let earlier = V::load(&window[HISTORY - FIRST - lag], lane + k * V::LANES);
                *short = newest.times_plus(earlier, *short);
            }
        }
    }
    for (sums, short) in std::iter::zip(sums, short) {
        for (k, short) in short.into_iter().enumerate() {
            short.add_to(sums, lane + k * V::LANES);
        }
    }
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
        let size = StateSize::new(plan);
        let (mut samples, mut sums) = (vec![Row::default(); size.samples], vec![Row::default(); size.sums]);
        let mut state = TileState::new(plan, &mut samples, &mut sums);
        let (mut work, mut out) = (Workspace::default(), TileSeries::default());
        let (mut start, mut cuts) = (0, cuts.iter().cycle());
        while start < rows.len() {
            let end = (start + cuts.next().expect("a cycle")).min(rows.len());
            work.start(end - start).copy_from_slice(&rows[start..end]);
            state.feed::<F::Plain>(plan, start as u64, &mut work);
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
            let rows: Vec<Row<f32>> = (0..frames).map(|t| Row(std::array::from_fn(|p| value(t, p)))).collect();
            let plan = DelayPlan::new(frames as u64);
            let single = feed_all(&plan, &rows, &cuts);
            let wide: Vec<Row<f64>> = rows.iter().map(|row| Row(row.map(f64::from))).collect();
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
