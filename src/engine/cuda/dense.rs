//! Multi-tau of dense frames on a device: frames go up in blocks; each block is summed, which gives the frames' factors,
//! and then correlated, a thread a pixel, in stages of four levels whose state stays on the device.

use std::collections::BTreeMap;

use super::device::{Arg, Buffer, Device, Grid, Kernel, Precision};
use super::levels::levels;
use super::reduce::Pieces;
use super::{CudaError, THREADS};
use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::{BinSums, CHANNELS};
use crate::correlate::result::{Correlation, MultiTau, PixelG2};
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::dataset::{FrameSource, PixelType, Scratch};
use crate::engine::layout::Layout;
use crate::engine::multi_tau::{Span, factors, spans};
use crate::engine::pixel_store::PixelStore;
use crate::engine::{EngineError, MultiTauRequest, Observer, Request};
use crate::task::correlate::PixelG2Output;

/// Levels of a stage: dense.cu's STAGE.
const STAGE: usize = 4;

/// Samples of a stage that make one of the next.
const STEP: u64 = 1 << STAGE;

/// Numbers of state of a pixel and level: dense.cu's SLOTS.
const SLOTS: usize = 27;

/// Part of the free memory that a block of frames takes: what is made of it needs room, too.
const BLOCK_SHARE: u64 = 4;

/// No frame has this number.
const NEVER: u32 = u32::MAX;

/// How a reading ended.
#[derive(Debug)]
pub(super) enum Read {
    /// Well.
    Whole(Box<Correlation>),
    /// These pixels carry the saturation value: pixel, first raw frame.
    Saturated(BTreeMap<u32, u64>),
}

/// How frames are read, and what they are taken for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// In what products are added.
    pub(super) precision: Precision,
    /// The value that marks a pixel that is left out, if any does.
    pub(super) saturation: Option<u32>,
}

/// Correlates the frames of `source`.
pub(super) fn correlate<D: Device>(
    device: &D,
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    way: Way,
    observer: &dyn Observer,
) -> Result<Read, CudaError> {
    let layout = Layout::new(partition);
    let row = layout.place.len();
    let pixel = source.pixel_type();
    let run = Run {
        device,
        source,
        partition,
        request,
        way,
        observer,
        pixel,
        row,
        places: Buffer::of(device, &layout.place)?,
        pixels: Buffer::of(device, partition.pixels())?,
        ranks: Buffer::of(device, &ranks(&layout))?,
        layout,
    };
    run.correlate()
}

/// The place of each rank.
fn ranks(layout: &Layout) -> Vec<u32> {
    let mut places = vec![0; layout.len()];
    layout.ranks.iter().enumerate().for_each(|(place, &rank)| places[rank as usize] = place as u32);
    places
}

/// A correlation of frames.
struct Run<'a, D: Device> {
    device: &'a D,
    source: &'a dyn FrameSource,
    partition: &'a Partition,
    request: &'a Request,
    way: Way,
    observer: &'a dyn Observer,
    pixel: PixelType,
    /// Pixels of the image.
    row: usize,
    layout: Layout,
    /// Of each pixel.
    places: Buffer<D, u32>,
    /// Of each rank.
    pixels: Buffer<D, u32>,
    /// The place of each rank.
    ranks: Buffer<D, u32>,
}

/// Sums that are made block by block.
struct Sums<D: Device> {
    pixels: Buffer<D, f64>,
    /// (place, segment)
    segments: Buffer<D, f64>,
    saturated: Buffer<D, u32>,
    bad: Buffer<D, u64>,
    plan: SegmentPlan,
}

/// Some frames of the analysis on the device.
struct Block<D: Device> {
    frames: Buffer<D, u8>,
    /// The first of them.
    first: u64,
    /// How many, each of `avg` raw frames.
    outputs: u64,
    /// Factors, as the kernels take them.
    factors: Buffer<D, u8>,
}

/// One of the series that multi-tau runs over: its stages, one on the other.
struct Chain<D: Device> {
    span: Span,
    plan: DelayPlan,
    stages: Vec<Stage<D>>,
}

struct Stage<D: Device> {
    state: Buffer<D, f64>,
    /// Samples so far.
    done: u64,
}

impl<D: Device> Run<'_, D> {
    fn correlate(&self) -> Result<Read, CudaError> {
        let selection = &self.request.selection;
        let (outputs, avg) = (selection.outputs(), selection.avg());
        let mut tally = Tally::new(self.partition, selection);
        let sums = self.sums()?;
        let mut chains = match self.request.multi_tau {
            Some(wanted) => self.chains(outputs, wanted)?,
            None => Vec::new(),
        };
        let bytes = avg * self.row as u64 * self.pixel.size() as u64;
        let fits = (self.device.free_bytes()? / BLOCK_SHARE / bytes).max(1);
        let per_block = if fits >= STEP { fits / STEP * STEP } else { fits };
        self.observer.step("correlating", outputs * avg);
        let mut raw = Vec::new();
        for first in (0..outputs).step_by(per_block as usize) {
            if self.observer.cancelled() {
                return Err(EngineError::Cancelled.into());
            }
            let count = per_block.min(outputs - first);
            self.read(first * avg, count * avg, &mut raw)?;
            let frames = Buffer::of(self.device, &raw)?;
            let found = self.sum(&frames, first * avg, count * avg, &sums)?;
            let own = first as usize..(first + count) as usize;
            let averaged = found.chunks_exact(avg as usize).map(|raw| raw.iter().sum::<f64>());
            tally.frames[own.clone()].iter_mut().zip(averaged).for_each(|(to, sum)| *to = sum);
            if let Some(wanted) = self.request.multi_tau {
                let factors = factors(wanted, &tally.frames[own], self.partition, self.request);
                let block = Block { frames, first, outputs: count, factors: self.upload(&factors)? };
                chains.iter_mut().try_for_each(|chain| self.push(chain, &block))?;
            }
            self.observer.advance(count * avg);
        }
        if let Some(saturated) = self.check(&sums)? {
            return Ok(Read::Saturated(saturated));
        }
        self.finish_tally(&mut tally, &sums)?;
        let scattering = tally.finish(self.partition, selection);
        let (mut results, pixel_g2) = self.finish(&chains)?;
        let parts = results.split_off(results.len().min(1));
        let multi_tau = results.pop();
        let correlation = Correlation { scattering, multi_tau, parts, pixel_g2, two_time: None, saturated: Vec::new() };
        Ok(Read::Whole(Box::new(correlation)))
    }

    fn sums(&self) -> Result<Sums<D>, CudaError> {
        let plan = SegmentPlan::new(self.request.selection.outputs());
        Ok(Sums {
            pixels: Buffer::zeros(self.device, self.row)?,
            segments: Buffer::zeros(self.device, self.layout.len() * plan.segments)?,
            saturated: Buffer::of(self.device, &vec![NEVER; self.row])?,
            bad: Buffer::of(self.device, &[u64::MAX])?,
            plan,
        })
    }

    fn chains(&self, frames: u64, wanted: MultiTauRequest) -> Result<Vec<Chain<D>>, CudaError> {
        let chain = |span: Span| {
            let plan = DelayPlan::new(u64::from(span.end - span.start));
            let stages = (0..plan.levels().len().div_ceil(STAGE))
                .map(|_| Ok(Stage { state: Buffer::zeros(self.device, STAGE * SLOTS * self.layout.len())?, done: 0 }))
                .collect::<Result<_, CudaError>>()?;
            Ok(Chain { span, plan, stages })
        };
        spans(frames, wanted.parts).into_iter().map(chain).collect()
    }

    /// Reads raw frames that are taken, `first` and on, one after the other.
    fn read(&self, first: u64, count: u64, out: &mut Vec<u8>) -> Result<(), CudaError> {
        let selection = &self.request.selection;
        let bytes = self.row * self.pixel.size();
        out.resize(count as usize * bytes, 0);
        let mut scratch = Scratch::default();
        if selection.stride() == 1 {
            let begin = selection.raw(first);
            self.source.read_frames(begin..begin + count, &mut scratch, out).map_err(EngineError::Read)?;
            return Ok(());
        }
        for (index, frame) in out.chunks_exact_mut(bytes.max(1)).enumerate() {
            let raw = selection.raw(first + index as u64);
            self.source.read_frames(raw..raw + 1, &mut scratch, frame).map_err(EngineError::Read)?;
        }
        Ok(())
    }

    /// Adds raw frames to the sums; returns the sum of each over the masked-in pixels.
    fn sum(&self, frames: &Buffer<D, u8>, first: u64, count: u64, sums: &Sums<D>) -> Result<Vec<f64>, CudaError> {
        let grid = Grid { blocks: self.row.div_ceil(THREADS as usize) as u32, threads: THREADS, shared: 0 };
        let warps = grid.blocks * THREADS / 32;
        let by_warp = Buffer::<D, f64>::new(self.device, warps as usize * count as usize)?;
        let per_segment = (1u64 << sums.plan.shift) * self.request.selection.avg();
        self.device.launch(
            Kernel::DenseSums(self.pixel),
            grid,
            &[
                frames.arg(),
                Arg::U32(self.row as u32),
                Arg::U32(count as u32),
                Arg::U32(first as u32),
                self.places.arg(),
                Arg::U64(self.way.saturation.map_or(u64::MAX, u64::from)),
                Arg::U32(u32::try_from(per_segment).unwrap_or(u32::MAX)),
                Arg::U32(sums.plan.segments as u32),
                sums.saturated.arg(),
                sums.bad.arg(),
                sums.pixels.arg(),
                sums.segments.arg(),
                by_warp.arg(),
            ],
        )?;
        let totals = Buffer::<D, f64>::new(self.device, count as usize)?;
        let grid = Grid { blocks: count as u32, threads: 32, shared: 0 };
        let arguments = [by_warp.arg(), Arg::U32(warps), Arg::U32(count as u32), totals.arg()];
        self.device.launch(Kernel::DenseFrameTotals, grid, &arguments)?;
        Ok(totals.read(self.device)?)
    }

    /// Factors in the kernels' precision.
    fn upload(&self, factors: &[f64]) -> Result<Buffer<D, u8>, CudaError> {
        let single: Vec<f32> = factors.iter().map(|&factor| factor as f32).collect();
        Ok(match self.way.precision {
            Precision::Single => Buffer::of(self.device, bytemuck::cast_slice(&single))?,
            Precision::Double => Buffer::of(self.device, bytemuck::cast_slice(factors))?,
        })
    }

    /// Bytes of a number that the kernels compute with.
    fn real(&self) -> usize {
        match self.way.precision {
            Precision::Single => size_of::<f32>(),
            Precision::Double => size_of::<f64>(),
        }
    }

    /// Correlates what a block has of a series.
    fn push(&self, chain: &mut Chain<D>, block: &Block<D>) -> Result<(), CudaError> {
        let avg = self.request.selection.avg();
        let begin = u64::from(chain.span.start).max(block.first);
        let end = u64::from(chain.span.end).min(block.first + block.outputs);
        if begin >= end {
            return Ok(());
        }
        let skipped = (begin - block.first) as usize;
        let frame = avg as usize * self.row * self.pixel.size();
        let ranks = self.layout.len();
        let grid = Grid { blocks: ranks.div_ceil(128) as u32, threads: 128, shared: 0 };
        let mut count = end - begin;
        let mut series: Option<Buffer<D, u8>> = None;
        for stage in &mut chain.stages {
            let more = (stage.done + count) / STEP - stage.done / STEP;
            let out = Buffer::<D, u8>::new(self.device, more as usize * ranks * self.real())?;
            let numbers = [stage.done, count, ranks as u64].map(|number| Arg::U32(number as u32));
            let [done, samples, all] = numbers;
            match &series {
                None => self.device.launch(
                    Kernel::DenseFrames(self.pixel, self.way.precision),
                    grid,
                    &[
                        block.frames.arg_from(skipped * frame),
                        Arg::U32(self.row as u32),
                        Arg::U32(avg as u32),
                        self.pixels.arg(),
                        block.factors.arg_from(skipped * self.real()),
                        done,
                        samples,
                        all,
                        stage.state.arg(),
                        out.arg(),
                    ],
                )?,
                Some(series) => self.device.launch(
                    Kernel::DenseStage(self.way.precision),
                    grid,
                    &[series.arg(), done, samples, all, stage.state.arg(), out.arg()],
                )?,
            }
            stage.done += count;
            if more == 0 {
                break;
            }
            (count, series) = (more, Some(out));
        }
        Ok(())
    }

    /// Refuses what cannot be counts; returns the pixels that carry the saturation value.
    fn check(&self, sums: &Sums<D>) -> Result<Option<BTreeMap<u32, u64>>, CudaError> {
        let selection = &self.request.selection;
        let bad = sums.bad.read(self.device)?[0];
        if bad != u64::MAX {
            let (row, col) = self.partition.shape().place(bad as u32);
            let what = if self.pixel == PixelType::F32 { "not a number of counts" } else { "negative counts" };
            return Err(EngineError::Value { what, frame: selection.raw(bad >> 32), row, col }.into());
        }
        let first = sums.saturated.read(self.device)?.into_iter().enumerate();
        let saturated: BTreeMap<u32, u64> = first
            .filter(|(_, frame)| *frame != NEVER)
            .map(|(pixel, frame)| (pixel as u32, selection.raw(u64::from(frame))))
            .collect();
        Ok((!saturated.is_empty()).then_some(saturated))
    }

    fn finish_tally(&self, tally: &mut Tally, sums: &Sums<D>) -> Result<(), CudaError> {
        tally.pixels = sums.pixels.read(self.device)?;
        let segments = sums.segments.read(self.device)?;
        for (place, own) in segments.chunks_exact(sums.plan.segments.max(1)).enumerate() {
            let label = self.layout.statics[place];
            if label > 0 && self.partition.blemish()[self.layout.pixels[place] as usize] {
                for (segment, sum) in own.iter().enumerate() {
                    tally.segments[(segment, label as usize - 1)] += sum;
                }
            }
        }
        Ok(())
    }

    /// g2 of each series, and the per-pixel correlations of the first.
    fn finish(&self, chains: &[Chain<D>]) -> Result<(Vec<MultiTau>, Option<PixelG2>), CudaError> {
        let (pieces, ranks) = (Pieces::new(&self.layout), self.layout.len());
        let (mut results, mut kept) = (Vec::new(), None);
        for (index, chain) in chains.iter().enumerate() {
            let delays = chain.plan.len();
            let pixels = Buffer::<D, f64>::zeros(self.device, ranks * CHANNELS * delays)?;
            for (stage, own) in std::iter::zip(&chain.stages, levels(&chain.plan).chunks(STAGE)) {
                let table = Buffer::of(self.device, own)?;
                let grid = Grid { blocks: ranks.div_ceil(THREADS as usize) as u32, threads: THREADS, shared: 0 };
                let numbers = [ranks, own.len(), delays].map(|number| Arg::U32(number as u32));
                let [all, count, delays] = numbers;
                let arguments = [stage.state.arg(), all, self.ranks.arg(), table.arg(), count, delays, pixels.arg()];
                self.device.launch(Kernel::DenseFinish, grid, &arguments)?;
            }
            let mut sums = BinSums::new(self.partition, delays);
            pieces.add(self.device, &(0..pieces.len()), &pixels, delays, &self.layout, &mut sums)?;
            results.push(sums.finish(self.partition, &chain.plan));
            let keeps = self.request.multi_tau.is_some_and(|wanted| wanted.pixel_g2 == PixelG2Output::Keep);
            if index == 0 && keeps {
                let store = PixelStore::new(delays, ranks);
                store.keep_all(&self.layout.ranks, &pixels.read(self.device)?);
                kept = Some(store.finish());
            }
        }
        Ok((results, kept))
    }
}
