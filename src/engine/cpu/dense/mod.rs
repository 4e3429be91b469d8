//! Multi-tau and static sums of dense frames: blocks of frames in, shards of pixels in parallel.
//!
//! Reads nothing. Shards depend on the pixels alone, so that the result is the same for any number of threads.

use std::ops::Range;
use std::sync::Mutex;

use bytemuck::Pod;

use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::{BinSums, CHANNELS, sum_lanes};
use crate::correlate::result::MultiTau;
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::engine::{EngineError, MultiTauRequest};

use super::cells::Cell;
use super::memory::{Buffer, Memory};
use super::pool::Pool;
use crate::engine::multi_tau::{Span, spans};
use crate::engine::sink::{PixelBatch, Sink, wants_pixels};

mod stage;
mod tile;
mod vector;

pub(super) use stage::{Block, More};
use stage::{STAGE, add_excesses, convert, stage};
pub(super) use tile::Real;
use tile::{BATCH, StateSize, TileSeries, TileState, Workspace};
use vector::{Row, TILE, Vector};

/// Pixels in a shard: enough shards for many threads, few enough that their bins' sums stay small.
pub(super) const SHARD: usize = 4096;

/// A series that multi-tau runs over.
struct Series {
    span: Span,
    plan: DelayPlan,
}

/// Sums over all frames of a band of pixels.
pub(super) struct DenseSums<'a, F: Pod> {
    partition: &'a Partition,
    segments: SegmentPlan,
    /// The whole series first; empty where no multi-tau is wanted.
    series: Vec<Series>,
    shards: Vec<Mutex<Shard>>,
    /// The tiles' states, while more blocks follow.
    states: States<F>,
    /// First rank of the band.
    first_rank: usize,
    width: usize,
    /// Where the correlations of pixels go, if they are wanted.
    sink: Option<Sink<'a>>,
}

/// A range of pixels.
struct Shard {
    /// Ranks, relative to the band.
    columns: Range<usize>,
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

/// Memory of tiles' states, tile by tile: first of the whole series, then of the part that is being fed.
#[derive(Default)]
struct States<F: Pod> {
    samples: Buffer<Row<F>>,
    sums: Buffer<Row<f64>>,
}

impl<F: Real> States<F> {
    fn new(memory: &Memory, tile: StateSize, tiles: usize) -> Self {
        Self { samples: memory.buffer(tile.samples * tiles), sums: memory.buffer(tile.sums * tiles) }
    }
}

/// The states of a shard's tiles: those that last from block to block, or those of the one tile at work.
enum ShardStates<'a, F> {
    Kept(&'a mut [Row<F>], &'a mut [Row<f64>]),
    Passing,
}

/// Buffers of a thread.
struct Buffers<C, F: Pod> {
    stage: Vec<C>,
    work: Workspace<F>,
    /// For the part of a batch that belongs to a part of the series.
    part: Workspace<F>,
    series: TileSeries,
    pixel: [Vec<f64>; CHANNELS],
    /// Correlations of a shard's pixels.
    batch: Option<PixelBatch>,
    /// Of a tile, where one block holds all frames.
    states: States<F>,
}

impl<'a, F: Real> DenseSums<'a, F> {
    /// For the pixels of `band` (ranks in the partition).
    pub(super) fn new(
        partition: &'a Partition,
        band: Range<usize>,
        frames: u64,
        wanted: Option<MultiTauRequest>,
        sink: Option<Sink<'a>>,
    ) -> Self {
        let series: Vec<Series> = wanted.map_or_else(Vec::new, |wanted| {
            let spans = spans(frames, wanted.parts).into_iter();
            spans.map(|span| Series { span, plan: span.plan() }).collect()
        });
        let segments = SegmentPlan::new(frames);
        let width = band.len();
        let shards = (0..width)
            .step_by(SHARD)
            .map(|start| {
                let columns = start..(start + SHARD).min(width);
                let (labels, slots) = slots(partition, band.start + columns.start..band.start + columns.end);
                Mutex::new(Shard {
                    sums: series.iter().map(|s| BinSums::new(partition, s.plan.len())).collect(),
                    totals: vec![0.0; columns.len()],
                    segments: vec![0.0; labels.len() * segments.segments],
                    labels,
                    slots,
                    columns,
                })
            })
            .collect();
        let states = States::default();
        Self { partition, segments, series, shards, states, first_rank: band.start, width, sink }
    }

    /// Bytes that each pixel takes between blocks.
    pub(super) fn state_bytes(frames: u64, wanted: Option<MultiTauRequest>) -> u64 {
        wanted.map_or(8, |wanted| {
            let plan = DelayPlan::new(frames);
            StateSize::new(&plan).bytes_per_pixel::<F>() * if wanted.parts > 1 { 2 } else { 1 } + 8
        })
    }

    /// Bytes that each thread takes for correlations of pixels.
    pub(super) fn batch_bytes(frames: u64, wanted: Option<MultiTauRequest>) -> u64 {
        if !wants_pixels(wanted) {
            return 0;
        }
        (DelayPlan::new(frames).len() * CHANNELS * SHARD * size_of::<f32>()) as u64
    }

    /// Adds the next block.
    ///
    /// # Errors
    /// Cancellation, the sink's errors.
    pub(super) fn add<C: Cell>(&mut self, block: &Block<'_, C, F>, pool: Pool<'_>) -> Result<(), EngineError> {
        let tile = self.tile_size();
        if block.first == 0 && block.more == More::Follow {
            self.states = States::new(pool.memory, tile, self.width.div_ceil(TILE));
        }
        let mut states = std::mem::take(&mut self.states);
        let kept = shard_states(&mut states, tile, self.shards.len());
        let init = || Buffers {
            stage: Vec::new(),
            work: Workspace::default(),
            part: Workspace::default(),
            series: TileSeries::default(),
            pixel: Default::default(),
            batch: None,
            states: States::new(pool.memory, tile, 1),
        };
        pool.run(self.shards.len(), init, |buffers, index| {
            let mut shard = self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut kept = kept[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            buffers.batch = self.batch(&shard, block.more);
            self.add_to_shard(&mut shard, &mut kept, block, buffers);
            match (&buffers.batch, self.sink) {
                (Some(batch), Some(sink)) => sink.pixel_g2(batch),
                _ => Ok(()),
            }
        })?;
        drop(kept);
        self.states = states;
        Ok(())
    }

    /// Room for the correlations of a shard's pixels, which are known after the last block.
    fn batch(&self, shard: &Shard, more: More) -> Option<PixelBatch> {
        let delays = self.series.first()?.plan.len();
        let ranks = self.first_rank + shard.columns.start..self.first_rank + shard.columns.end;
        let wanted = self.sink.is_some() && more == More::End;
        wanted.then(|| PixelBatch::new(self.partition.pixels()[ranks].to_vec(), delays))
    }

    /// What a tile remembers.
    fn tile_size(&self) -> StateSize {
        let sizes = self.series.iter().take(2).map(|series| StateSize::new(&series.plan));
        sizes.fold(StateSize::default(), |all, size| StateSize {
            samples: all.samples + size.samples,
            sums: all.sums + size.sums,
        })
    }

    fn add_to_shard<C: Cell>(
        &self,
        shard: &mut Shard,
        states: &mut ShardStates<'_, F>,
        block: &Block<'_, C, F>,
        buffers: &mut Buffers<C, F>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { self.add_to_shard_fma(shard, states, block, buffers) };
        }
        self.add_to_shard_with::<C, F::Plain>(shard, states, block, buffers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn add_to_shard_fma<C: Cell>(
        &self,
        shard: &mut Shard,
        states: &mut ShardStates<'_, F>,
        block: &Block<'_, C, F>,
        buffers: &mut Buffers<C, F>,
    ) {
        self.add_to_shard_with::<C, F::Avx>(shard, states, block, buffers);
    }

    #[inline(always)]
    fn add_to_shard_with<C: Cell, V: Vector<F>>(
        &self,
        shard: &mut Shard,
        states: &mut ShardStates<'_, F>,
        block: &Block<'_, C, F>,
        buffers: &mut Buffers<C, F>,
    ) {
        let size = self.tile_size();
        let mut passing = std::mem::take(&mut buffers.states);
        let width = (STAGE / size_of::<C>()).next_multiple_of(TILE);
        for start in shard.columns.clone().step_by(width) {
            let columns = start..(start + width).min(shard.columns.end);
            let tiles = columns.len().div_ceil(TILE);
            stage(block, self.width, &columns, &mut buffers.stage);
            for tile in 0..tiles {
                let first = start + tile * TILE;
                let lanes = first..(first + TILE).min(shard.columns.end);
                let index = (first - shard.columns.start) / TILE;
                let (samples, sums) = match states {
                    ShardStates::Kept(samples, sums) => (
                        &mut samples[index * size.samples..][..size.samples],
                        &mut sums[index * size.sums..][..size.sums],
                    ),
                    ShardStates::Passing => (&mut passing.samples[..], &mut passing.sums[..]),
                };
                if block.first == 0 {
                    samples.fill(Row::default());
                    sums.fill(Row::default());
                }
                let cells = tile * block.frames * TILE..(tile + 1) * block.frames * TILE;
                let states = self.tile_states(samples, sums);
                self.add_to_tile::<C, V>(shard, states, lanes, block, cells, buffers);
            }
        }
        buffers.states = passing;
    }

    /// The states of a tile, of the whole series and of a part; None where no multi-tau is wanted.
    fn tile_states<'s>(&self, samples: &'s mut [Row<F>], sums: &'s mut [Row<f64>]) -> Option<[TileState<'s, F>; 2]> {
        let whole = &self.series.first()?.plan;
        let size = StateSize::new(whole);
        let (whole_samples, part_samples) = samples.split_at_mut(size.samples);
        let (whole_sums, part_sums) = sums.split_at_mut(size.sums);
        let whole = TileState::new(whole, whole_samples, whole_sums);
        let none = DelayPlan::new(0);
        let part = TileState::new(self.series.get(1).map_or(&none, |part| &part.plan), part_samples, part_sums);
        Some([whole, part])
    }

    #[inline(always)]
    fn add_to_tile<C: Cell, V: Vector<F>>(
        &self,
        shard: &mut Shard,
        mut states: Option<[TileState<'_, F>; 2]>,
        columns: Range<usize>,
        block: &Block<'_, C, F>,
        cells: Range<usize>,
        buffers: &mut Buffers<C, F>,
    ) {
        for start in (0..block.frames).step_by(BATCH) {
            let end = (start + BATCH).min(block.frames);
            let out = buffers.work.start(end - start);
            let cells = &buffers.stage[cells.start + start * TILE..cells.start + end * TILE];
            self.take_counts(shard, &columns, block, start..end, cells, out);
            if let Some(states) = &mut states {
                self.feed::<C, V>(shard, &columns, block.first + start, states, buffers);
            }
        }
        if let (Some([whole, _]), More::End) = (states, block.more) {
            self.finish_series(shard, &columns, 0, &whole, buffers);
        }
    }

    /// Feeds a batch to the whole series and to the parts that it overlaps.
    #[inline(always)]
    fn feed<C, V: Vector<F>>(
        &self,
        shard: &mut Shard,
        columns: &Range<usize>,
        first: usize,
        [whole, part]: &mut [TileState<'_, F>; 2],
        buffers: &mut Buffers<C, F>,
    ) {
        let end = first + buffers.work.batch().len();
        whole.feed::<V>(&self.series[0].plan, first as u64, &mut buffers.work);
        for (index, Series { span, plan }) in self.series.iter().enumerate().skip(1) {
            let overlap = first.max(span.start as usize)..end.min(span.end as usize);
            if overlap.is_empty() {
                continue;
            }
            if overlap.start == span.start as usize {
                part.reset();
            }
            let rows = &buffers.work.batch()[overlap.start - first..overlap.end - first];
            buffers.part.start(rows.len()).copy_from_slice(rows);
            let before = overlap.start as u64 - u64::from(span.start);
            part.feed::<V>(plan, before, &mut buffers.part);
            if overlap.end == span.end as usize {
                self.finish_series(shard, columns, index, part, buffers);
            }
        }
    }

    #[inline(always)]
    fn finish_series<C>(
        &self,
        shard: &mut Shard,
        columns: &Range<usize>,
        index: usize,
        state: &TileState<'_, F>,
        buffers: &mut Buffers<C, F>,
    ) {
        let series = &mut buffers.series;
        state.finish(&self.series[index].plan, series);
        let ranks = self.first_rank + columns.start..self.first_rank + columns.end;
        let (fixed, dynamic) = (self.partition.static_labels(), self.partition.dynamic_labels());
        shard.sums[index].add_pixels(
            &fixed[ranks.clone()],
            &dynamic[ranks.clone()],
            [&series.g2, &series.later, &series.earlier],
        );
        if let (0, Some(batch)) = (index, &mut buffers.batch) {
            for (lane, column) in columns.clone().enumerate() {
                for (out, rows) in std::iter::zip(&mut buffers.pixel, [&series.g2, &series.later, &series.earlier]) {
                    out.clear();
                    out.extend(rows.iter().map(|row| row[lane]));
                }
                batch.set(column - shard.columns.start, buffers.pixel.each_ref().map(|numbers| &numbers[..]));
            }
        }
    }

    /// Makes the rows of a batch, and adds its raw counts to the pixels' totals and the segments of their bins.
    #[inline(always)]
    fn take_counts<C: Cell>(
        &self,
        shard: &mut Shard,
        columns: &Range<usize>,
        block: &Block<'_, C, F>,
        batch: Range<usize>,
        cells: &[C],
        rows: &mut [Row<F>],
    ) {
        let width = 1usize << self.segments.shift;
        let mut start = batch.start;
        while start < batch.end {
            let segment = (block.first + start) / width;
            let end = batch.end.min((segment + 1) * width - block.first);
            let own = start - batch.start..end - batch.start;
            let (cells, rows) = (&cells[own.start * TILE..own.end * TILE], &mut rows[own]);
            let mut sums = convert(cells, &block.factors[start..end], rows);
            add_excesses(block, columns, start..end, cells, rows, &mut sums);
            let own = columns.start - shard.columns.start..columns.end - shard.columns.start;
            add_lanes(&mut shard.totals[own.clone()], &sums);
            if segment < self.segments.segments {
                for (slot, sum) in slot_sums(&shard.slots[own], &sums) {
                    shard.segments[slot as usize * self.segments.segments + segment] += sum;
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
pub(super) fn finish(sums: &[BinSums], partition: &Partition, frames: u64, parts: u32) -> (MultiTau, Vec<MultiTau>) {
    let mut results =
        std::iter::zip(sums, spans(frames, parts)).map(|(sums, span)| sums.finish(partition, &span.plan()));
    let whole = results.next().expect("spans() always begins with the whole series");
    (whole, results.collect())
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

/// Adds a tile's lanes to as many numbers as it has pixels.
#[inline(always)]
fn add_lanes(totals: &mut [f64], lanes: &[f64; TILE]) {
    match <&mut [f64; TILE]>::try_from(&mut *totals) {
        Ok(full) => std::iter::zip(full, lanes).for_each(|(total, lane)| *total += lane),
        Err(_) => std::iter::zip(totals, lanes).for_each(|(total, lane)| *total += lane),
    }
}

/// A tile's lanes, summed where neighbours share a slot; those of pixels that are not summed are left out.
#[inline(always)]
fn slot_sums(slots: &[u32], lanes: &[f64; TILE]) -> impl Iterator<Item = (u32, f64)> {
    let mut start = 0;
    slots.chunk_by(|a, b| a == b).filter_map(move |run| {
        start += run.len();
        (run[0] != NOT_SUMMED).then(|| (run[0], sum_lanes(lanes, &(start - run.len()..start))))
    })
}

/// Cuts the tiles' states into those of each shard.
fn shard_states<F: Real>(states: &mut States<F>, tile: StateSize, shards: usize) -> Vec<Mutex<ShardStates<'_, F>>> {
    let (samples, sums) = (&mut states.samples[..], &mut states.sums[..]);
    if samples.is_empty() {
        return (0..shards).map(|_| Mutex::new(ShardStates::Passing)).collect();
    }
    let tiles = SHARD / TILE;
    let (samples, sums) = (samples.chunks_mut(tiles * tile.samples), sums.chunks_mut(tiles * tile.sums));
    samples.zip(sums).map(|(samples, sums)| Mutex::new(ShardStates::Kept(samples, sums))).collect()
}
