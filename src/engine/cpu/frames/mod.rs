//! Correlation of dense frames: reads them once, block by block, and hands the counts of the masked-in pixels on.
//!
//! Memory: cells of a block of frames, the tiles' states between blocks, a few frames a thread, and for two-time
//! the counts of the selected bins. Pixels are cut into bands, and two-time bins into groups, one reading each,
//! when they do not fit; of a two-time bin that does not fit by itself see [`cut`].

use std::ops::Range;

use crate::correlate::bins::Partition;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::Correlation;
use crate::correlate::scattering::Tally;
use crate::dataset::{FrameSource, PixelType};
use crate::engine::{EngineError, Request};

use super::Saturated;
use super::cells::{Cell, Raw, Runs, Store, check_and_sum};
use super::dense::{self, Block, DenseSums, More, Real};
use super::memory::{Buffer, Memory};
use super::narrow::Narrow;
use super::pool::Pool;
use super::twotime::{Cells, Collector, Counts, Matrix};
use crate::engine::layout::Layout;
use crate::engine::multi_tau::factors;
use crate::engine::precision::single_is_enough;
use crate::engine::sample;
use crate::engine::sink::{Sink, wants_pixels};

mod cut;
mod gather;
mod plan;

use cut::CutBin;
use gather::Reader;
use plan::{LabelGroup, Plan};

/// Part of a block's cells that may be too small for their counts; more are better kept in larger cells.
const MOST_EXCESSES: f64 = 1.0 / 256.0;

/// What a few frames across the selection show of the masked-in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Fraction of pixels with counts.
    pub(super) occupancy: f64,
    /// Mean counts of a pixel and raw frame.
    pub(super) mean: f64,
    /// Fraction of counts that exceed [`Narrow`] cells.
    large: f64,
}

/// Looks at a few frames; reports saturated pixels.
pub(super) fn look(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    found: &Saturated,
    memory: &Memory,
) -> Result<Sample, EngineError> {
    let sample = match source.pixel_type() {
        PixelType::U8 => sample::<u8>,
        PixelType::U16 => sample::<u16>,
        PixelType::U32 => sample::<u32>,
        PixelType::I16 => sample::<i16>,
        PixelType::I32 => sample::<i32>,
        PixelType::F32 => sample::<f32>,
    };
    sample(source, partition, request, found, memory)
}

fn sample<R: Raw>(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    found: &Saturated,
    memory: &Memory,
) -> Result<Sample, EngineError> {
    let runs = Runs::new(partition);
    let frames = sample::frames(&request.selection);
    let all = (frames.len() * partition.pixels().len()) as f64;
    let mut reader = Reader::new(memory);
    let (mut occupied, mut large, mut sum) = (0usize, 0usize, 0.0);
    for frame in frames {
        let pixels: &[R] = reader.read(source, frame..frame + 1)?;
        sum += check_and_sum(frame, pixels, &runs.inside, partition.shape(), found, |_, values| {
            occupied += values.iter().filter(|v| v.f32() != 0.0).count();
            large += values.iter().filter(|v| Narrow::is_exceeded_by(v.f32())).count();
        })?;
    }
    Ok(Sample { occupancy: occupied as f64 / all, mean: sum / all, large: large as f64 / all })
}

/// Correlates; None when saturated pixels were found, whose list is then complete.
pub(super) fn correlate(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    pool: Pool<'_>,
    found: &Saturated,
    sample: Sample,
    sink: Sink<'_>,
) -> Result<Option<Correlation>, EngineError> {
    let layout = Layout::new(partition);
    let run = Run { source, partition, request, pool, found, sample, runs: Runs::new(partition), layout, sink };
    let done = match (source.pixel_type(), request.selection.avg() > 1) {
        (PixelType::U8, false) => run.correlate::<u8, u8, u16>(),
        (PixelType::U16, false) if sample.large < MOST_EXCESSES => match run.correlate::<u16, Narrow, u16>() {
            Ok(Done::Exceeded) => run.correlate::<u16, u16, u16>(),
            done => done,
        },
        (PixelType::U16, false) => run.correlate::<u16, u16, u16>(),
        (PixelType::U8, true) => run.correlate::<u8, f32, f32>(),
        (PixelType::U16, true) => run.correlate::<u16, f32, f32>(),
        (PixelType::U32, _) => run.correlate::<u32, f32, f32>(),
        (PixelType::I16, _) => run.correlate::<i16, f32, f32>(),
        (PixelType::I32, _) => run.correlate::<i32, f32, f32>(),
        (PixelType::F32, _) => run.correlate::<f32, f32, f32>(),
    };
    Ok(match done? {
        Done::Correlated(correlation) => Some(*correlation),
        Done::Saturated | Done::Exceeded => None,
    })
}

/// How a correlation ended.
enum Done {
    Correlated(Box<Correlation>),
    /// Saturated pixels were found, whose list is complete.
    Saturated,
    /// Too many counts do not fit their cells.
    Exceeded,
}

/// How a reading of the file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Whole,
    Saturated,
    Exceeded,
}

/// A cell that two-time can multiply.
trait TwoTimeCell: Cell {
    fn cells(cells: &[Self]) -> Cells<'_>;
}

impl TwoTimeCell for u16 {
    fn cells(cells: &[Self]) -> Cells<'_> {
        Cells::U16(cells)
    }
}

impl TwoTimeCell for f32 {
    fn cells(cells: &[Self]) -> Cells<'_> {
        Cells::F32(cells)
    }
}

struct Run<'a> {
    source: &'a dyn FrameSource,
    partition: &'a Partition,
    request: &'a Request,
    pool: Pool<'a>,
    found: &'a Saturated,
    sample: Sample,
    runs: Runs,
    layout: Layout,
    sink: Sink<'a>,
}

/// What one reading of the file fills.
struct Reading<'a, C: Cell, T: Cell, F: Real> {
    /// Multi-tau and static sums of a band, if one is left.
    band: Option<(Range<usize>, DenseSums<'a, F>)>,
    cells: Buffer<C>,
    /// Pixels of the two-time bins, and their counts from a frame on: (frame, pixel).
    columns: Vec<u32>,
    first: u64,
    counts: Buffer<T>,
}

impl Run<'_> {
    fn correlate<R, C, T>(&self) -> Result<Done, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
    {
        let mean = self.sample.mean * self.request.selection.avg() as f64;
        if single_is_enough(mean, self.partition) {
            self.correlate_in::<R, C, T, f32>()
        } else {
            self.correlate_in::<R, C, T, f64>()
        }
    }

    fn correlate_in<R, C, T, F>(&self) -> Result<Done, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let frames = self.request.selection.outputs();
        let plan = self.plan::<C, T, F>()?;
        let pixels = wants_pixels(self.request.multi_tau).then_some(self.sink);
        let mut tally = Tally::new(self.partition, &self.request.selection);
        let mut sums: Option<Vec<BinSums>> = None;
        let mut collector = Collector::new(self.request, &self.layout, self.pool, self.sink);
        for pass in 0..plan.bands.len().max(plan.groups.len()) {
            // what earlier passes left is of other sizes
            self.pool.memory.make_room(plan.two_time, self.request.memory);
            let band = plan.bands.get(pass).map(|band| {
                (band.clone(), DenseSums::new(self.partition, band.clone(), frames, self.request.multi_tau, pixels))
            });
            let group = plan.groups.get(pass);
            let columns: Vec<u32> = match group {
                Some(LabelGroup::Whole(labels)) => {
                    labels.iter().flat_map(|&label| &self.layout.pixels[self.layout.bin(label)]).copied().collect()
                }
                Some(LabelGroup::Cut(_)) | None => Vec::new(),
            };
            if band.is_some() || !columns.is_empty() {
                let counts = self.pool.memory.buffer(columns.len() * frames as usize);
                let mut reading = Reading { band, cells: Buffer::default(), columns, first: 0, counts };
                match self.read::<R, C, T, F>(&mut reading, plan.block, &mut tally, pass == 0)? {
                    Read::Whole => {}
                    Read::Saturated => return Ok(Done::Saturated),
                    Read::Exceeded => return Ok(Done::Exceeded),
                }
                if let Some((_, band)) = reading.band.take() {
                    merge(&mut sums, band.finish(&mut tally));
                }
                if let (Some(collector), Some(LabelGroup::Whole(labels))) = (&mut collector, group) {
                    reading.cells = Buffer::default();
                    self.add_maps(collector, labels, &reading.counts, reading.columns.len(), &plan)?;
                }
            }
            if let (Some(collector), Some(LabelGroup::Cut(label))) = (&mut collector, group) {
                self.add_cut_map::<R, C, T, F>(collector, *label, &plan)?;
            }
        }
        Ok(Done::Correlated(Box::new(self.finish(&tally, sums, collector))))
    }

    /// Reads the file once; when saturated pixels turn up it then only makes their list.
    fn read<R, C, T, F>(
        &self,
        reading: &mut Reading<'_, C, T, F>,
        block: u64,
        tally: &mut Tally,
        first: bool,
    ) -> Result<Read, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let outputs = self.request.selection.outputs();
        self.pool.observer.step("correlating", outputs * self.request.selection.avg());
        for start in (0..outputs).step_by(block as usize) {
            let range = start..(start + block).min(outputs);
            let gathered = self.gather::<R, C, T, F>(reading, range.clone())?;
            if !self.found.is_empty() {
                continue;
            }
            let cells = (range.end - range.start) as f64 * self.partition.pixels().len() as f64;
            if gathered.exceeded as f64 > cells * MOST_EXCESSES {
                return Ok(Read::Exceeded);
            }
            tally.frames[start as usize..range.end as usize].copy_from_slice(&gathered.sums);
            if first {
                for mut part in gathered.outside {
                    part.move_to(&mut tally.pixels, &self.runs);
                }
            }
            if let Some((_, band)) = &mut reading.band {
                let factors = self.factors(tally, &range);
                let more = if range.end < outputs { More::Follow } else { More::End };
                let frames = (range.end - range.start) as usize;
                let (cells, excesses) = (&reading.cells[..], &gathered.excesses[..]);
                let block = Block { cells, excesses, first: start as usize, frames, factors: &factors, more };
                band.add(&block, self.pool)?;
            }
        }
        Ok(if self.found.is_empty() { Read::Whole } else { Read::Saturated })
    }

    /// Factors of a block's frames, whose sums the tally has.
    fn factors<F: Real>(&self, tally: &Tally, range: &Range<u64>) -> Vec<F> {
        let range = range.start as usize..range.end as usize;
        match self.request.multi_tau {
            None => vec![F::from_f64(1.0); range.len()],
            Some(wanted) => {
                let factors = factors(wanted, &tally.frames[range], self.partition, self.request);
                factors.into_iter().map(F::from_f64).collect()
            }
        }
    }
}

impl Run<'_> {
    fn add_maps<T: TwoTimeCell>(
        &self,
        collector: &mut Collector<'_>,
        labels: &[u32],
        counts: &[T],
        stride: usize,
        plan: &Plan,
    ) -> Result<(), EngineError> {
        let room = plan.two_time.saturating_sub(size_of_val(counts) as u64);
        self.pool.memory.make_room(plan.two_time, self.request.memory);
        self.pool.observer.step("two-time", labels.len() as u64);
        let mut start = 0;
        for &label in labels {
            let places = start..start + self.layout.bin(label).len();
            start = places.end;
            let matrix = Matrix { counts: T::cells(counts), first: 0, stride, places };
            collector.add(&mut Counts::Matrix(matrix), room)?;
            self.pool.observer.advance(1);
        }
        Ok(())
    }

    /// The map of a bin whose counts are read again for each slice of pixels and each band of rows.
    fn add_cut_map<R, C, T, F>(&self, collector: &mut Collector<'_>, label: u32, plan: &Plan) -> Result<(), EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let half = plan.two_time / 2;
        self.pool.memory.make_room(plan.two_time, self.request.memory);
        collector.add(&mut CutBin::<R, C, T, F>::new(self, label, plan.block, half), half)?;
        self.pool.observer.step("two-time", 1);
        self.pool.observer.advance(1);
        Ok(())
    }

    fn finish(&self, tally: &Tally, sums: Option<Vec<BinSums>>, collector: Option<Collector<'_>>) -> Correlation {
        let frames = self.request.selection.outputs();
        let (multi_tau, parts) = match (self.request.multi_tau, sums) {
            (Some(wanted), Some(sums)) => {
                let (whole, parts) = dense::finish(&sums, self.partition, frames, wanted.parts);
                (Some(whole), parts)
            }
            _ => (None, Vec::new()),
        };
        Correlation {
            scattering: tally.finish(self.partition, &self.request.selection),
            multi_tau,
            parts,
            two_time: collector.map(Collector::finish),
            saturated: Vec::new(),
        }
    }
}

fn merge(all: &mut Option<Vec<BinSums>>, sums: Vec<BinSums>) {
    match all {
        None => *all = Some(sums),
        Some(all) => std::iter::zip(all, &sums).for_each(|(all, sums)| all.merge(sums)),
    }
}
