//! Multi-tau and static sums of dense frames: blocks of frames in, shards of pixels in parallel.
//!
//! Reads nothing. Shards depend on the pixels alone, so that the result is the same for any number of threads.

use std::ops::Range;
use std::sync::Mutex;

use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::{MultiTau, PixelG2};
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::engine::{EngineError, MultiTauRequest, PixelG2Output};

use super::cells::Cell;
use super::pixel_store::PixelStore;
use super::pool::Pool;
use super::sparse::{Span, spans};

mod tile;

use tile::{BATCH, PixelSeries, Row, TILE, TileState, Workspace};

/// Pixels in a shard: enough shards for many threads, few enough that their bins' sums stay small.
pub(super) const SHARD: usize = 4096;

/// Pixels that are copied out of the frames at once, so that memory is read in long pieces.
const STAGE: usize = 8 * TILE;

/// A series that multi-tau runs over.
struct Series {
    span: Span,
    plan: DelayPlan,
}

/// A block of frames: cells of the band's pixels, frame by frame.
pub(super) struct Block<'a, C> {
    pub(super) cells: &'a [C],
    /// First frame.
    pub(super) first: usize,
    /// Number of frames.
    pub(super) frames: usize,
    /// Factor of each frame of the block.
    pub(super) factors: &'a [f32],
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
pub(super) struct DenseSums<'a> {
    partition: &'a Partition,
    segments: SegmentPlan,
    /// The whole series first; empty where no multi-tau is wanted.
    series: Vec<Series>,
    shards: Vec<Mutex<Shard>>,
    /// First rank of the band.
    first_rank: usize,
    width: usize,
    store: Option<&'a PixelStore>,
}

/// A range of pixels.
struct Shard {
    /// Ranks, relative to the band.
    columns: Range<usize>,
    /// Tiles' states between blocks: of the whole series, and of the part that is being fed.
    states: Vec<[TileState; 2]>,
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
struct Buffers<C> {
    stage: Vec<C>,
    rows: Vec<Row>,
    work: Workspace,
    series: PixelSeries,
    state: Option<[TileState; 2]>,
}

impl<'a> DenseSums<'a> {
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
            TileState::bytes_per_pixel(&plan) * if wanted.parts > 1 { 2 } else { 1 } + 8
        })
    }

    /// Adds the next block.
    ///
    /// # Errors
    /// Cancellation.
    pub(super) fn add<C: Cell>(&self, block: &Block<'_, C>, pool: Pool<'_>) -> Result<(), EngineError> {
        let init = || Buffers {
            stage: Vec::new(),
            rows: Vec::new(),
            work: Workspace::default(),
            series: PixelSeries::default(),
            state: None,
        };
        pool.run(self.shards.len(), init, |buffers, index| {
            let mut shard = self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.add_to_shard(&mut shard, block, buffers);
            Ok(())
        })?;
        Ok(())
    }

    fn add_to_shard<C: Cell>(&self, shard: &mut Shard, block: &Block<'_, C>, buffers: &mut Buffers<C>) {
        for start in shard.columns.clone().step_by(STAGE) {
            let columns = start..(start + STAGE).min(shard.columns.end);
            let tiles = columns.len().div_ceil(TILE);
            stage(block, self.width, &columns, &mut buffers.stage);
            for tile in 0..tiles {
                let first = start + tile * TILE;
                let lanes = first..(first + TILE).min(shard.columns.end);
                let cells = tile * block.frames * TILE..(tile + 1) * block.frames * TILE;
                self.add_to_tile(shard, lanes, block, cells, buffers);
            }
        }
    }

    fn add_to_tile<C: Cell>(
        &self,
        shard: &mut Shard,
        columns: Range<usize>,
        block: &Block<'_, C>,
        cells: Range<usize>,
        buffers: &mut Buffers<C>,
    ) {
        let index = (columns.start - shard.columns.start) / TILE;
        let mut state = self.take_state(shard, index, block, buffers);
        for start in (0..block.frames).step_by(BATCH) {
            let end = (start + BATCH).min(block.frames);
            let rows = cells.start + start * TILE..cells.start + end * TILE;
            let factors = &block.factors[start..end];
            convert(&buffers.stage[rows.clone()], factors, &mut buffers.rows);
            self.add_counts(shard, &columns, &buffers.stage[rows], block.first + start);
            if let Some(state) = &mut state {
                self.feed(shard, &columns, block.first + start, state, buffers);
            }
        }
        if let Some(state) = state {
            match block.more {
                More::End => {
                    self.finish_series(shard, &columns, 0, &state[0], &mut buffers.series);
                    buffers.state = Some(state);
                }
                More::Follow => put_state(shard, index, state),
            }
        }
    }

    /// The tile's state from the last block, or a fresh one; None where no multi-tau is wanted.
    fn take_state<C>(
        &self,
        shard: &mut Shard,
        index: usize,
        block: &Block<'_, C>,
        buffers: &mut Buffers<C>,
    ) -> Option<[TileState; 2]> {
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
    fn feed<C>(
        &self,
        shard: &mut Shard,
        columns: &Range<usize>,
        first: usize,
        state: &mut [TileState; 2],
        buffers: &mut Buffers<C>,
    ) {
        let end = first + buffers.rows.len();
        state[0].feed(&self.series[0].plan, &buffers.rows, &mut buffers.work);
        for (index, Series { span, plan }) in self.series.iter().enumerate().skip(1) {
            let overlap = first.max(span.start as usize)..end.min(span.end as usize);
            if overlap.is_empty() {
                continue;
            }
            if overlap.start == span.start as usize {
                state[1].reset();
            }
            state[1].feed(plan, &buffers.rows[overlap.start - first..overlap.end - first], &mut buffers.work);
            if overlap.end == span.end as usize {
                self.finish_series(shard, columns, index, &state[1], &mut buffers.series);
            }
        }
    }

    fn finish_series(
        &self,
        shard: &mut Shard,
        columns: &Range<usize>,
        index: usize,
        state: &TileState,
        out: &mut PixelSeries,
    ) {
        for (lane, column) in columns.clone().enumerate() {
            let rank = self.first_rank + column;
            state.pixel(&self.series[index].plan, lane, out);
            let (fixed, dynamic) = (self.partition.static_labels()[rank], self.partition.dynamic_labels()[rank]);
            shard.sums[index].add_pixel(fixed, dynamic, &out.g2, &out.later, &out.earlier);
            if let (0, Some(store)) = (index, self.store) {
                store.keep(rank, &out.g2, &out.later, &out.earlier);
            }
        }
    }

    /// Adds the batch's raw counts to the pixels' totals and the segments of their bins.
    fn add_counts<C: Cell>(&self, shard: &mut Shard, columns: &Range<usize>, cells: &[C], first: usize) {
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

fn put_state(shard: &mut Shard, index: usize, state: [TileState; 2]) {
    if index < shard.states.len() {
        shard.states[index] = state;
    } else {
        shard.states.push(state);
    }
}

/// Copies columns out of a block: tile by tile, frame by frame, 0 beyond the last column.
fn stage<C: Cell>(block: &Block<'_, C>, width: usize, columns: &Range<usize>, out: &mut Vec<C>) {
    let tiles = columns.len().div_ceil(TILE);
    out.resize(tiles * block.frames * TILE, C::default());
    for frame in 0..block.frames {
        let row = &block.cells[frame * width + columns.start..frame * width + columns.end];
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
fn convert<C: Cell>(cells: &[C], factors: &[f32], rows: &mut Vec<Row>) {
    rows.clear();
    rows.extend(std::iter::zip(cells.chunks_exact(TILE), factors).map(|(cells, &factor)| {
        let mut row = [0.0; TILE];
        for (value, cell) in std::iter::zip(&mut row, cells) {
            *value = cell.f32() * factor;
        }
        row
    }));
}

/// Sum of each column over the frames; exact for integers below 2^17 (at most [`BATCH`] frames in float32).
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
