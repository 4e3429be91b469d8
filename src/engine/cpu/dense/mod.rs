//! Multi-tau and static sums of dense frames: blocks of frames in, shards of pixels in parallel.
//!
//! Reads nothing. Shards depend on the pixels alone, so that the result is the same for any number of threads.

use std::ops::Range;
use std::sync::Mutex;

use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::{BinSums, CHANNELS};
use crate::correlate::result::{MultiTau, PixelG2};
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::engine::{EngineError, MultiTauRequest, PixelG2Output};

use super::cells::Cell;
use super::memory::prefetch;
use super::pixel_store::PixelStore;
use super::pool::Pool;
use super::sparse::{Span, spans};

mod tile;

pub(super) use tile::Real;
use tile::{BATCH, Row, TILE, TileSeries, TileState, Workspace};

/// Pixels in a shard: enough shards for many threads, few enough that their bins' sums stay small.
pub(super) const SHARD: usize = 4096;

/// Pixels that are copied out of the frames at once, so that memory is read in long pieces.
const STAGE: usize = 8 * TILE;

/// Rows that are fetched ahead of the one that is copied.
const ROWS_AHEAD: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A series that multi-tau runs over.
struct Series {
    span: Span,
    plan: DelayPlan,
}

/// A block of frames: cells of the band's pixels, frame by frame.
pub(super) struct Block<'a, C, F> {
    pub(super) cells: &'a [C],
    /// First frame.
    pub(super) first: usize,
    /// Number of frames.
    pub(super) frames: usize,
    /// Factor of each frame of the block.
    pub(super) factors: &'a [F],
    /// Whether more blocks follow.
    pub(super) more: More,
}

/// Whether a block is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Follow,
    End,
}

/// Sums over all frames of a band of pixels.
pub(super) struct DenseSums<'a, F> {
    partition: &'a Partition,
    segments: SegmentPlan,
    /// The whole series first; empty where no multi-tau is wanted.
    series: Vec<Series>,
    shards: Vec<Mutex<Shard<F>>>,
    /// First rank of the band.
    first_rank: usize,
    width: usize,
    store: Option<&'a PixelStore>,
}

/// A range of pixels.
struct Shard<F> {
    /// Ranks, relative to the band.
    columns: Range<usize>,
    /// Tiles' states between blocks: of the whole series, and of the part that is being fed.
    states: Vec<[TileState<F>; 2]>,
    /// For each series.
    sums: Vec<BinSums>,
    /// Counts of each pixel.
    totals: Vec<f64>,
    /// Static labels that occur, ascending.
    labels: Vec<u32>,
    /// Position of each pixel's label in `labels`, or [`NOT_SUMMED`].
    slots: Vec<u32>,
    /// (label, segment): counts of pixels that are not blemished.
    segments: Vec<f64>,
}

/// The slot of a pixel whose counts do not belong to its bin's segments: it is blemished.
const NOT_SUMMED: u32 = u32::MAX;

/// Buffers of a thread.
struct Buffers<C, F> {
    stage: Vec<C>,
    work: Workspace<F>,
    /// For the part of a batch that belongs to a part of the series.
    part: Workspace<F>,
    series: TileSeries,
    pixel: [Vec<f64>; CHANNELS],
    state: Option<[TileState<F>; 2]>,
}

impl<'a, F: Real> DenseSums<'a, F> {
    /// For the pixels of `band` (ranks in the partition).
    pub(super) fn new(
        partition: &'a Partition,
        band: Range<usize>,
        frames: u64,
        wanted: Option<MultiTauRequest>,
        store: Option<&'a PixelStore>,
    ) -> Self {
        let series: Vec<Series> = wanted.map_or_else(Vec::new, |wanted| {
            let spans = spans(frames, wanted.parts).into_iter();
            spans.map(|span| Series { span, plan: DelayPlan::new(u64::from(span.end - span.start)) }).collect()
        });
        let segments = SegmentPlan::new(frames);
        let width = band.len();
        let shards = (0..width)
            .step_by(SHARD)
            .map(|start| {
                let columns = start..(start + SHARD).min(width);
                let (labels, slots) = slots(partition, band.start + columns.start..band.start + columns.end);
                Mutex::new(Shard {
                    states: Vec::new(),
                    sums: series.iter().map(|s| BinSums::new(partition, s.plan.len())).collect(),
                    totals: vec![0.0; columns.len()],
                    segments: vec![0.0; labels.len() * segments.segments],
                    labels,
                    slots,
                    columns,
                })
            })
            .collect();
        Self { partition, segments, series, shards, first_rank: band.start, width, store }
    }

    /// Bytes that each pixel takes between blocks.
    pub(super) fn state_bytes(frames: u64, wanted: Option<MultiTauRequest>) -> u64 {
        wanted.map_or(8, |wanted| {
            let plan = DelayPlan::new(frames);
            TileState::<F>::bytes_per_pixel(&plan) * if wanted.parts > 1 { 2 } else { 1 } + 8
        })
    }

    /// Adds the next block.
    ///
    /// # Errors
    /// Cancellation.
    pub(super) fn add<C: Cell>(&self, block: &Block<'_, C, F>, pool: Pool<'_>) -> Result<(), EngineError> {
        let init = || Buffers {
            stage: Vec::new(),
            work: Workspace::default(),
            part: Workspace::default(),
            series: TileSeries::default(),
            pixel: Default::default(),
            state: None,
        };
        pool.run(self.shards.len(), init, |buffers, index| {
            let mut shard = self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.add_to_shard(&mut shard, block, buffers);
            Ok(())
        })?;
        Ok(())
    }

    fn add_to_shard<C: Cell>(&self, shard: &mut Shard<F>, block: &Block<'_, C, F>, buffers: &mut Buffers<C, F>) {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { self.add_to_shard_fma(shard, block, buffers) };
        }
        self.add_to_shard_with::<C, false>(shard, block, buffers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn add_to_shard_fma<C: Cell>(&self, shard: &mut Shard<F>, block: &Block<'_, C, F>, buffers: &mut Buffers<C, F>) {
        self.add_to_shard_with::<C, true>(shard, block, buffers);
    }

    #[inline(always)]
    fn add_to_shard_with<C: Cell, const FMA: bool>(
        &self,
        shard: &mut Shard<F>,
        block: &Block<'_, C, F>,
        buffers: &mut Buffers<C, F>,
    ) {
        for start in shard.columns.clone().step_by(STAGE) {
            let columns = start..(start + STAGE).min(shard.columns.end);
            let tiles = columns.len().div_ceil(TILE);
            stage(block, self.width, &columns, &mut buffers.stage);
            for tile in 0..tiles {
                let first = start + tile * TILE;
                let lanes = first..(first + TILE).min(shard.columns.end);
                let cells = tile * block.frames * TILE..(tile + 1) * block.frames * TILE;
                self.add_to_tile::<C, FMA>(shard, lanes, block, cells, buffers);
            }
        }
    }

    #[inline(always)]
    fn add_to_tile<C: Cell, const FMA: bool>(
        &self,
        shard: &mut Shard<F>,
        columns: Range<usize>,
        block: &Block<'_, C, F>,
        cells: Range<usize>,
        buffers: &mut Buffers<C, F>,
    ) {
        let index = (columns.start - shard.columns.start) / TILE;
        let mut state = self.take_state(shard, index, block, buffers);
        for start in (0..block.frames).step_by(BATCH) {
            let end = (start + BATCH).min(block.frames);
            let rows = cells.start + start * TILE..cells.start + end * TILE;
            let factors = &block.factors[start..end];
            convert(&buffers.stage[rows.clone()], factors, buffers.work.start(factors.len()));
            self.add_counts(shard, &columns, &buffers.stage[rows], block.first + start);
            if let Some(state) = &mut state {
                self.feed::<C, FMA>(shard, &columns, block.first + start, state, buffers);
            }
        }
        if let Some(state) = state {
            match block.more {
                More::End => {
                    self.finish_series(shard, &columns, 0, &state[0], buffers);
                    buffers.state = Some(state);
                }
                More::Follow => put_state(shard, index, state),
            }
        }
    }

    /// The tile's state from the last block, or a fresh one; None where no multi-tau is wanted.
    fn take_state<C>(
        &self,
        shard: &mut Shard<F>,
        index: usize,
        block: &Block<'_, C, F>,
        buffers: &mut Buffers<C, F>,
    ) -> Option<[TileState<F>; 2]> {
        let whole = self.series.first()?;
        if block.first > 0 {
            return Some(std::mem::replace(&mut shard.states[index], std::array::from_fn(|_| TileState::empty())));
        }
        if let Some(mut state) = buffers.state.take() {
            state.iter_mut().for_each(TileState::reset);
            return Some(state);
        }
        let part = self.series.get(1).map_or_else(TileState::empty, |part| TileState::new(&part.plan));
        Some([TileState::new(&whole.plan), part])
    }

    /// Feeds a batch to the whole series and to the parts that it overlaps.
    #[inline(always)]
    fn feed<C, const FMA: bool>(
        &self,
        shard: &mut Shard<F>,
        columns: &Range<usize>,
        first: usize,
        state: &mut [TileState<F>; 2],
        buffers: &mut Buffers<C, F>,
    ) {
        let end = first + buffers.work.batch().len();
        state[0].feed::<FMA>(&self.series[0].plan, &mut buffers.work);
        for (index, Series { span, plan }) in self.series.iter().enumerate().skip(1) {
            let overlap = first.max(span.start as usize)..end.min(span.end as usize);
            if overlap.is_empty() {
                continue;
            }
            if overlap.start == span.start as usize {
                state[1].reset();
            }
            let rows = &buffers.work.batch()[overlap.start - first..overlap.end - first];
            buffers.part.start(rows.len()).copy_from_slice(rows);
            state[1].feed::<FMA>(plan, &mut buffers.part);
            if overlap.end == span.end as usize {
                self.finish_series(shard, columns, index, &state[1], buffers);
            }
        }
    }

    #[inline(always)]
    fn finish_series<C>(
        &self,
        shard: &mut Shard<F>,
        columns: &Range<usize>,
        index: usize,
        state: &TileState<F>,
        buffers: &mut Buffers<C, F>,
    ) {
        let series = &mut buffers.series;
        state.finish(&self.series[index].plan, series);
        for (lane, column) in columns.clone().enumerate() {
            let rank = self.first_rank + column;
            for (out, rows) in std::iter::zip(&mut buffers.pixel, [&series.g2, &series.later, &series.earlier]) {
                out.clear();
                out.extend(rows.iter().map(|row| row[lane]));
            }
            let [g2, later, earlier] = &buffers.pixel;
            let (fixed, dynamic) = (self.partition.static_labels()[rank], self.partition.dynamic_labels()[rank]);
            shard.sums[index].add_pixel(fixed, dynamic, g2, later, earlier);
            if let (0, Some(store)) = (index, self.store) {
                store.keep(rank, g2, later, earlier);
            }
        }
    }

    /// Adds the batch's raw counts to the pixels' totals and the segments of their bins.
    #[inline(always)]
    fn add_counts<C: Cell>(&self, shard: &mut Shard<F>, columns: &Range<usize>, cells: &[C], first: usize) {
        let frames = cells.len() / TILE;
        let width = 1usize << self.segments.shift;
        let mut start = 0;
        while start < frames {
            let segment = (first + start) / width;
            let end = frames.min((segment + 1) * width - first);
            let sums = column_sums(&cells[start * TILE..end * TILE]);
            let own = columns.start - shard.columns.start..columns.end - shard.columns.start;
            for (total, sum) in std::iter::zip(&mut shard.totals[own.clone()], sums) {
                *total += sum;
            }
            if segment < self.segments.segments {
                for (&slot, sum) in std::iter::zip(&shard.slots[own], sums) {
                    if slot != NOT_SUMMED {
                        shard.segments[slot as usize * self.segments.segments + segment] += sum;
                    }
                }
            }
            start = end;
        }
    }

    /// Adds the band's counts to the tally; returns its multi-tau sums, one for each series.
    pub(super) fn finish(self, tally: &mut Tally) -> Vec<BinSums> {
        let mut all: Vec<BinSums> = self.series.iter().map(|s| BinSums::new(self.partition, s.plan.len())).collect();
        for shard in self.shards {
            let shard = shard.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (all, sums) in std::iter::zip(&mut all, &shard.sums) {
                all.merge(sums);
            }
            for (column, total) in std::iter::zip(shard.columns, shard.totals) {
                tally.pixels[self.partition.pixels()[self.first_rank + column] as usize] = total;
            }
            for (slot, &label) in shard.labels.iter().enumerate().filter(|(_, label)| **label > 0) {
                for segment in 0..self.segments.segments {
                    let sum = shard.segments[slot * self.segments.segments + segment];
                    tally.segments[(segment, label as usize - 1)] += sum;
                }
            }
        }
        all
    }
}

/// g2 of the whole series and of the parts from the sums of all bands.
pub(super) fn finish(
    sums: &[BinSums],
    partition: &Partition,
    frames: u64,
    parts: u32,
    store: Option<PixelStore>,
) -> (MultiTau, Vec<MultiTau>, Option<PixelG2>) {
    let mut results = std::iter::zip(sums, spans(frames, parts))
        .map(|(sums, span)| sums.finish(partition, &DelayPlan::new(u64::from(span.end - span.start))));
    let whole = results.next().expect("spans() always begins with the whole series");
    (whole, results.collect(), store.map(PixelStore::finish))
}

/// Room for the per-pixel correlations, if they are wanted.
pub(super) fn pixel_store(wanted: Option<MultiTauRequest>, frames: u64, pixels: usize) -> Option<PixelStore> {
    match wanted?.pixel_g2 {
        PixelG2Output::Keep => Some(PixelStore::new(DelayPlan::new(frames).len(), pixels)),
        PixelG2Output::Drop => None,
    }
}

/// The static labels of a range of ranks, and where each pixel's label is among them.
fn slots(partition: &Partition, ranks: Range<usize>) -> (Vec<u32>, Vec<u32>) {
    let own = &partition.static_labels()[ranks.clone()];
    let mut labels = own.to_vec();
    labels.sort_unstable();
    labels.dedup();
    let slot = |(&label, &pixel): (&u32, &u32)| {
        let good = partition.blemish()[pixel as usize];
        if good { labels.partition_point(|&l| l < label) as u32 } else { NOT_SUMMED }
    };
    let slots = std::iter::zip(own, &partition.pixels()[ranks]).map(slot).collect();
    (labels, slots)
}

fn put_state<F>(shard: &mut Shard<F>, index: usize, state: [TileState<F>; 2]) {
    if index < shard.states.len() {
        shard.states[index] = state;
    } else {
        shard.states.push(state);
    }
}

/// Copies columns out of a block: tile by tile, frame by frame, 0 beyond the last column.
#[inline(always)]
fn stage<C: Cell, F>(block: &Block<'_, C, F>, width: usize, columns: &Range<usize>, out: &mut Vec<C>) {
    let tiles = columns.len().div_ceil(TILE);
    out.resize(tiles * block.frames * TILE, C::default());
    for frame in 0..block.frames {
        let row = &block.cells[frame * width + columns.start..frame * width + columns.end];
        // each row lies on another page, where the processor does not look ahead by itself
        for line in (columns.start..columns.end).step_by(LINE / size_of::<C>()) {
            prefetch(block.cells, (frame + ROWS_AHEAD) * width + line);
        }
        for (tile, cells) in row.chunks(TILE).enumerate() {
            let at = (tile * block.frames + frame) * TILE;
            if let Ok(full) = <&[C; TILE]>::try_from(cells) {
                out[at..at + TILE].copy_from_slice(full);
            } else {
                out[at..at + cells.len()].copy_from_slice(cells);
                out[at + cells.len()..at + TILE].fill(C::default());
            }
        }
    }
}

/// Counts times the frames' factors.
#[inline(always)]
fn convert<C: Cell, F: Real>(cells: &[C], factors: &[F], rows: &mut [Row<F>]) {
    for ((row, cells), &factor) in rows.iter_mut().zip(cells.chunks_exact(TILE)).zip(factors) {
        for lane in 0..TILE {
            row[lane] = F::scaled(cells[lane].f32(), factor);
        }
    }
}

/// Sum of each column over the frames; exact for integers below 2^17 (at most [`BATCH`] frames in float32).
#[inline(always)]
fn column_sums<C: Cell>(cells: &[C]) -> [f64; TILE] {
    let mut sums = [0.0f64; TILE];
    for block in cells.chunks(8 * TILE) {
        let mut short = [0.0f32; TILE];
        for row in block.chunks_exact(TILE) {
            for (sum, cell) in std::iter::zip(&mut short, row) {
                *sum += cell.f32();
            }
        }
        std::iter::zip(&mut sums, short).for_each(|(sum, short)| *sum += f64::from(short));
    }
    sums
}
