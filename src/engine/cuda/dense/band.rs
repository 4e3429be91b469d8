//! Multi-tau of a band of pixels: the state of their levels, in stages of four, and what comes of it.
//!
//! A band is some pieces, so that the sums of bins are the same however pixels are cut into bands. Its pixels are taken
//! in the order of the frame, so that neighbouring threads read neighbouring counts.

use std::ops::Range;

use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::{BinSums, CHANNELS};
use crate::engine::cuda::device::{Arg, Buffer, Device, DeviceError, Grid, Kernel, Precision};
use crate::engine::cuda::levels::levels;
use crate::engine::cuda::reduce::{Pieces, SUMS};
use crate::engine::cuda::{CudaError, each, hand_over};
use crate::engine::layout::Layout;
use crate::engine::multi_tau::Span;
use crate::engine::sink::Sink;

use super::{Frames, Run};

/// Levels of a stage: dense.cuh's STAGE.
const STAGE: usize = 4;

/// Samples of a stage that make one of the next.
pub(super) const STEP: u64 = 1 << STAGE;

/// Numbers of state of a pixel and level: dense.cuh's Slots.
const fn slots(precision: Precision) -> usize {
    match precision {
        Precision::Single => 32,
        Precision::Double => 27,
    }
}

/// Threads of a block, each with a pixel: dense.cuh's PIXEL_THREADS.
const PIXEL_THREADS: u32 = 128;

/// Multi-tau of some pixels.
pub(super) struct Band<D: Device> {
    pub(super) pieces: Range<usize>,
    places: Range<usize>,
    /// Cell of a frame and place from the first on, of each of its pixels.
    cells: Buffer<D, u32>,
    own_places: Buffer<D, u32>,
    chains: Vec<Chain<D>>,
    precision: Precision,
    /// (place, channel, delay) of a series.
    correlations: Buffer<D, f64>,
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

/// What each stage but the last of a chain hands to the next, for blocks of so many frames.
pub(super) struct Handed<D: Device> {
    samples: Vec<Buffer<D, u8>>,
}

impl<D: Device> Handed<D> {
    /// For a band of so many pixels, and each of these series.
    pub(super) fn new(
        device: &D,
        frames: u64,
        ranks: usize,
        precision: Precision,
        spans: &[Span],
    ) -> Result<Self, DeviceError> {
        let stages = spans.iter().map(|span| stages(&span.plan())).max().unwrap_or(0);
        let mut samples = Vec::new();
        let mut count = frames;
        // the last one's is written and not read; blocks shorter than a step leave something over in each stage
        for _ in 0..stages {
            count = count / STEP + 1;
            samples.push(Buffer::new(device, count as usize * ranks * precision.bytes())?);
        }
        Ok(Self { samples })
    }

    /// Bytes for each frame of a block.
    pub(super) fn bytes(ranks: usize, precision: Precision) -> usize {
        ranks * precision.bytes() / (STEP as usize - 1) + 1
    }
}

/// Stages of a series of so many frames.
fn stages(plan: &DelayPlan) -> usize {
    plan.levels().len().div_ceil(STAGE)
}

/// Bytes that a pixel of a band takes.
pub(super) fn bytes_of_a_pixel(spans: &[Span], precision: Precision) -> usize {
    let plans: Vec<DelayPlan> = spans.iter().map(|span| span.plan()).collect();
    let level = slots(precision) * size_of::<f64>();
    let state: usize = plans.iter().map(|plan| stages(plan) * STAGE * level).sum();
    let delays = plans.iter().map(DelayPlan::len).max().unwrap_or(0);
    state + (CHANNELS + SUMS) * delays * size_of::<f64>() + 2 * size_of::<u32>()
}

impl<D: Device> Band<D> {
    /// Of the pixels of some pieces.
    pub(super) fn new(run: &Run<'_, D>, pieces: Range<usize>) -> Result<Self, DeviceError> {
        let (device, precision) = (run.device, run.way.precision);
        let places = run.pieces.places(&pieces);
        // cell and place from the first on, in the order of the cells
        let own = std::iter::zip(0u32.., &run.places).filter(|(_, place)| places.contains(&(**place as usize)));
        let (own_cells, order): (Vec<u32>, Vec<u32>) =
            own.map(|(cell, place)| (cell, place - places.start as u32)).unzip();
        let chain = |span: &Span| {
            let plan = span.plan();
            let stage =
                |_| Ok(Stage { state: Buffer::zeros(device, STAGE * slots(precision) * places.len())?, done: 0 });
            let stages = (0..stages(&plan)).map(stage).collect::<Result<_, DeviceError>>()?;
            Ok(Chain { span: *span, plan, stages })
        };
        let chains = run.spans.iter().map(chain).collect::<Result<Vec<_>, DeviceError>>()?;
        let delays = chains.iter().map(|chain| chain.plan.len()).max().unwrap_or(0);
        Ok(Self {
            cells: Buffer::of(device, &own_cells)?,
            own_places: Buffer::of(device, &order)?,
            correlations: Buffer::new(device, places.len() * CHANNELS * delays)?,
            pieces,
            places,
            chains,
            precision,
        })
    }

    /// Number of pixels.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Correlates a block of frames, which follows the last; `factors` has those of all frames.
    pub(super) fn push(
        &mut self,
        device: &D,
        block: &Frames<'_, D>,
        factors: &Buffer<D, u8>,
        handed: &Handed<D>,
    ) -> Result<(), DeviceError> {
        let (ranks, precision) = (self.places.len(), block.precision);
        let grid = Grid { blocks: ranks.div_ceil(PIXEL_THREADS as usize) as u32, threads: PIXEL_THREADS, shared: 0 };
        for chain in &mut self.chains {
            let begin = u64::from(chain.span.start).max(block.outputs.start);
            let end = u64::from(chain.span.end).min(block.outputs.end);
            if begin >= end {
                continue;
            }
            let skipped = (begin - block.outputs.start) as usize;
            let mut count = end - begin;
            for (number, stage) in chain.stages.iter_mut().enumerate() {
                let more = (stage.done + count) / STEP - stage.done / STEP;
                let [done, samples, all] = [stage.done, count, ranks as u64].map(|number| Arg::U32(number as u32));
                let out = &handed.samples[number];
                if number == 0 {
                    let arguments = [
                        block.raw.arg_from(skipped * block.bytes()),
                        Arg::U32(block.cells as u32),
                        Arg::U32(block.avg as u32),
                        self.cells.arg(),
                        factors.arg_from(begin as usize * precision.bytes()),
                        done,
                        samples,
                        all,
                        stage.state.arg(),
                        out.arg(),
                    ];
                    device.launch(Kernel::DenseFrames(block.counts, precision), grid, &arguments)?;
                } else {
                    let from = &handed.samples[number - 1];
                    let arguments = [from.arg(), done, samples, all, stage.state.arg(), out.arg()];
                    device.launch(Kernel::DenseStage(precision), grid, &arguments)?;
                }
                stage.done += count;
                if more == 0 {
                    break;
                }
                count = more;
            }
        }
        Ok(())
    }

    /// Adds what its pixels have to the sums of each series; hands the correlations of the first over.
    pub(super) fn finish(
        &self,
        device: &D,
        layout: &Layout,
        all: &Pieces,
        sums: &mut [BinSums],
        sink: Option<Sink<'_>>,
    ) -> Result<(), CudaError> {
        let ranks = self.places.len();
        for (index, (chain, sums)) in std::iter::zip(&self.chains, sums).enumerate() {
            let delays = chain.plan.len();
            for (stage, own) in std::iter::zip(&chain.stages, levels(&chain.plan).chunks(STAGE)) {
                let table = Buffer::of(device, own)?;
                let [count, levels, delays] = [ranks, own.len(), delays].map(|number| Arg::U32(number as u32));
                let out = self.correlations.arg();
                let arguments = [stage.state.arg(), count, self.own_places.arg(), table.arg(), levels, delays, out];
                device.launch(Kernel::DenseFinish(self.precision), each(ranks), &arguments)?;
            }
            all.add(device, &self.pieces, &self.correlations, delays, layout, sums)?;
            if let (0, Some(sink)) = (index, sink) {
                hand_over(device, &self.correlations, &layout.pixels[self.places.clone()], delays, sink)?;
            }
        }
        Ok(())
    }
}
