//! Correlation of dense frames: reads them once, block by block, and hands the counts of the masked-in pixels on.
//!
//! Memory: cells of a block of frames, the tiles' states between blocks, a few frames a thread, and for two-time
//! the counts of the selected bins. Pixels are cut into bands, and two-time bins into groups, one reading each,
//! when they do not fit.

use std::ops::Range;
use std::sync::Mutex;

use crate::correlate::bins::Partition;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::Correlation;
use crate::correlate::scattering::Tally;
use crate::dataset::{FrameSource, PixelType, Scratch};
use crate::engine::{EngineError, MapSink, Request, TwoTimeRequest};

use super::Saturated;
use super::cells::{Cell, OutsideSums, PixelRun, Raw, Runs, Store, check_and_sum};
use super::dense::{self, Block, DenseSums, More, Real};
use super::layout::Layout;
use super::memory::large_buffer;
use super::photons::factors;
use super::pixel_store::PixelStore;
use super::pool::Pool;
use super::twotime::{Cells, Collector, Counts, Matrix};

mod plan;

/// Frames that are looked at to learn the occupancy and to find dead pixels early.
const SAMPLE: u64 = 8;

/// Jobs that a block of frames is cut into where sums round: fixed, so that the order of summing is.
const ROUNDING_JOBS: u64 = 16;

/// Mean counts of a frame of the analysis above which float32 no longer resolves how a bin's pixels differ: its
/// rounding (1e-7 a sum of 32) times the mean is then no longer small against the spread that photons cause.
const BRIGHT: f64 = 4.0;

/// What a few frames across the selection show of the masked-in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Fraction of pixels with counts.
    pub(super) occupancy: f64,
    /// Mean counts of a pixel and raw frame.
    pub(super) mean: f64,
}

/// Looks at a few frames; reports saturated pixels.
pub(super) fn look(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    found: &Saturated,
) -> Result<Sample, EngineError> {
    let sample = match source.pixel_type() {
        PixelType::U8 => sample::<u8>,
        PixelType::U16 => sample::<u16>,
        PixelType::U32 => sample::<u32>,
        PixelType::I16 => sample::<i16>,
        PixelType::I32 => sample::<i32>,
        PixelType::F32 => sample::<f32>,
    };
    sample(source, partition, request, found)
}

fn sample<R: Raw>(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    found: &Saturated,
) -> Result<Sample, EngineError> {
    let runs = Runs::new(partition);
    let taken = request.selection.outputs() * request.selection.avg();
    let count = taken.min(SAMPLE);
    let mut reader = Reader::default();
    let (mut occupied, mut sum) = (0usize, 0.0);
    for k in 0..count {
        let frame = request.selection.raw(k * (taken - 1) / (count - 1).max(1));
        let pixels: &[R] = reader.read(source, frame..frame + 1)?;
        sum += check_and_sum(frame, pixels, &runs.inside, partition.shape(), found, |_, values| {
            occupied += values.iter().filter(|v| v.f32() != 0.0).count();
        })?;
    }
    let all = (count as usize * partition.pixels().len()) as f64;
    Ok(Sample { occupancy: occupied as f64 / all, mean: sum / all })
}

/// Correlates; None when saturated pixels were found, whose list is then complete.
pub(super) fn correlate(
    source: &dyn FrameSource,
    partition: &Partition,
    request: &Request,
    pool: Pool<'_>,
    found: &Saturated,
    sample: Sample,
    maps: &mut MapSink<'_>,
) -> Result<Option<Correlation>, EngineError> {
    let layout = Layout::new(partition);
    let run = Run { source, partition, request, pool, found, sample, runs: Runs::new(partition), layout };
    match (source.pixel_type(), request.selection.avg() > 1) {
        (PixelType::U8, false) => run.correlate::<u8, u8, u16>(maps),
        (PixelType::U16, false) => run.correlate::<u16, u16, u16>(maps),
        (PixelType::U8, true) => run.correlate::<u8, f32, f32>(maps),
        (PixelType::U16, true) => run.correlate::<u16, f32, f32>(maps),
        (PixelType::U32, _) => run.correlate::<u32, f32, f32>(maps),
        (PixelType::I16, _) => run.correlate::<i16, f32, f32>(maps),
        (PixelType::I32, _) => run.correlate::<i32, f32, f32>(maps),
        (PixelType::F32, _) => run.correlate::<f32, f32, f32>(maps),
    }
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
}

/// What one reading of the file fills.
struct Reading<'a, C, T, F> {
    /// Multi-tau and static sums of a band, if one is left.
    band: Option<(Range<usize>, DenseSums<'a, F>)>,
    cells: Vec<C>,
    /// Pixels of the two-time bins, and their counts: (frame, pixel).
    columns: Vec<u32>,
    counts: Vec<T>,
}

impl Run<'_> {
    fn correlate<R, C, T>(&self, maps: &mut MapSink<'_>) -> Result<Option<Correlation>, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
    {
        if self.sample.mean * self.request.selection.avg() as f64 > BRIGHT {
            self.correlate_in::<R, C, T, f64>(maps)
        } else {
            self.correlate_in::<R, C, T, f32>(maps)
        }
    }

    fn correlate_in<R, C, T, F>(&self, maps: &mut MapSink<'_>) -> Result<Option<Correlation>, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let frames = self.request.selection.outputs();
        let plan = self.plan::<C, T, F>()?;
        let store = dense::pixel_store(self.request.multi_tau, frames, self.partition.pixels().len());
        let mut tally = Tally::new(self.partition, &self.request.selection);
        let mut sums: Option<Vec<BinSums>> = None;
        let mut collector =
            self.request.two_time.as_ref().map(|wanted| (Collector::new(frames as usize, &wanted.labels), wanted));
        for pass in 0..plan.bands.len().max(plan.groups.len()) {
            let band = plan.bands.get(pass).map(|band| {
                (
                    band.clone(),
                    DenseSums::new(self.partition, band.clone(), frames, self.request.multi_tau, store.as_ref()),
                )
            });
            let group = plan.groups.get(pass).map_or(&[][..], |labels| &labels[..]);
            let columns: Vec<u32> =
                group.iter().flat_map(|&label| &self.layout.pixels[self.layout.bin(label)]).copied().collect();
            let mut reading = Reading {
                band,
                cells: Vec::<C>::new(),
                counts: large_buffer(columns.len() * frames as usize),
                columns,
            };
            if !self.read::<R, C, T, F>(&mut reading, plan.block, &mut tally, pass == 0)? {
                return Ok(None);
            }
            if let Some((_, band)) = reading.band {
                merge(&mut sums, band.finish(&mut tally));
            }
            if let Some((collector, wanted)) = &mut collector {
                self.add_maps(collector, wanted, group, &reading.counts, reading.columns.len(), maps)?;
            }
        }
        Ok(Some(self.finish(&tally, sums, store, collector.map(|(collector, _)| collector))))
    }

    /// Reads the file once; false when saturated pixels turned up, of which it then only makes the list.
    fn read<R, C, T, F>(
        &self,
        reading: &mut Reading<'_, C, T, F>,
        block: u64,
        tally: &mut Tally,
        first: bool,
    ) -> Result<bool, EngineError>
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
            let (sums, outside) = self.gather::<R, C, T, F>(reading, range.clone())?;
            if !self.found.is_empty() {
                continue;
            }
            tally.frames[start as usize..range.end as usize].copy_from_slice(&sums);
            if first {
                for mut part in outside {
                    part.move_to(&mut tally.pixels, &self.runs);
                }
            }
            if let Some((_, band)) = &reading.band {
                let factors = self.factors(tally, &range);
                let more = if range.end < outputs { More::Follow } else { More::End };
                let frames = (range.end - range.start) as usize;
                let block = Block { cells: &reading.cells, first: start as usize, frames, factors: &factors, more };
                band.add(&block, self.pool)?;
            }
        }
        Ok(self.found.is_empty())
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

    /// Reads the frames of a block: their sums, the band's cells, the two-time counts, the sums outside the mask.
    fn gather<R, C, T, F>(
        &self,
        reading: &mut Reading<'_, C, T, F>,
        range: Range<u64>,
    ) -> Result<(Vec<f64>, Vec<OutsideSums>), EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let frames = (range.end - range.start) as usize;
        let (band, width) = reading.band.as_ref().map_or((0..0, 0), |(band, _)| (band.clone(), band.len()));
        if reading.cells.len() < frames * width {
            reading.cells = large_buffer(frames * width);
        }
        let columns = &reading.columns[..];
        let counts = &mut reading.counts[range.start as usize * columns.len()..range.end as usize * columns.len()];
        let per_job = self.frames_per_job(R::ROUNDS, range.end - range.start) as usize;
        let cells = split(&mut reading.cells[..frames * width], per_job * width, frames.div_ceil(per_job));
        let counts = split(counts, per_job * columns.len(), frames.div_ceil(per_job));
        let init = || (Reader::default(), OutsideSums::new(&self.runs), Vec::new());
        let states = self.pool.run(frames.div_ceil(per_job), init, |(reader, outside, done), job| {
            let mut cells = cells[job].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut counts = counts[job].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let start = range.start + (job * per_job) as u64;
            let outputs = start..(start + per_job as u64).min(range.end);
            let mut target = Target { band: &band, cells: &mut cells, columns, counts: &mut counts };
            let sums = self.gather_job::<R, C, T>(reader, outputs, &mut target, outside)?;
            let finished = R::ROUNDS.then(|| std::mem::replace(outside, OutsideSums::new(&self.runs)));
            done.push((job, sums, finished));
            Ok(())
        })?;
        let mut outside = Vec::new();
        let mut jobs = Vec::new();
        for (_, rest, done) in states {
            outside.push(rest);
            jobs.extend(done);
        }
        jobs.sort_unstable_by_key(|(job, ..)| *job);
        if R::ROUNDS {
            outside.clear();
        }
        let mut sums = Vec::with_capacity(frames);
        for (_, part, finished) in jobs {
            sums.extend(part);
            outside.extend(finished);
        }
        Ok((sums, outside))
    }

    /// Output frames of a job: whole chunks of the file where sums are exact, a fixed cut where they round.
    fn frames_per_job(&self, rounds: bool, frames: u64) -> u64 {
        let selection = &self.request.selection;
        let chunk = self.source.frames_per_chunk().max(1) as u64;
        let together = chunk.div_ceil(selection.stride() * selection.avg());
        if rounds { frames.div_ceil(ROUNDING_JOBS).next_multiple_of(together) } else { together }
    }

    fn gather_job<R, C, T>(
        &self,
        reader: &mut Reader,
        outputs: Range<u64>,
        target: &mut Target<'_, C, T>,
        outside: &mut OutsideSums,
    ) -> Result<Vec<f64>, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
    {
        let selection = &self.request.selection;
        let pixels = self.partition.shape().pixels();
        let mut sums = vec![0.0; (outputs.end - outputs.start) as usize];
        let chunk = self.source.frames_per_chunk().max(1) as u64;
        let taken: Vec<u64> =
            (outputs.start * selection.avg()..outputs.end * selection.avg()).map(|k| selection.raw(k)).collect();
        // frames of a chunk are read together, so that it is decoded once
        for group in taken.chunk_by(|a, b| a / chunk == b / chunk) {
            let raw = group[0]..group[group.len() - 1] + 1;
            let data: &[R] = reader.read(self.source, raw.clone())?;
            for &frame in group {
                let data = &data[(frame - raw.start) as usize * pixels..][..pixels];
                let index = (frame - selection.first()) / selection.stride();
                let output = (index / selection.avg() - outputs.start) as usize;
                let place = if index.is_multiple_of(selection.avg()) { Place::First } else { Place::Further };
                let shape = self.partition.shape();
                sums[output] += check_and_sum(frame, data, &self.runs.inside, shape, self.found, |run, values| {
                    target.keep_run(run, values, output, place);
                })?;
                target.keep_columns(data, output, place);
                outside.add(data, &self.runs);
            }
            self.pool.observer.advance(group.len() as u64);
        }
        Ok(sums)
    }
}

impl Run<'_> {
    fn add_maps<T: TwoTimeCell>(
        &self,
        collector: &mut Collector,
        wanted: &TwoTimeRequest,
        group: &[u32],
        counts: &[T],
        stride: usize,
        maps: &mut MapSink<'_>,
    ) -> Result<(), EngineError> {
        self.pool.observer.step("two-time", group.len() as u64);
        let mut start = 0;
        for &label in group {
            let places = start..start + self.layout.bin(label).len();
            start = places.end;
            let matrix = Counts::Matrix(Matrix { counts: T::cells(counts), stride, places });
            collector.add(&matrix, &self.layout, wanted.smoothing, self.request.memory, self.pool, maps)?;
            self.pool.observer.advance(1);
        }
        Ok(())
    }

    fn finish(
        &self,
        tally: &Tally,
        sums: Option<Vec<BinSums>>,
        store: Option<PixelStore>,
        collector: Option<Collector>,
    ) -> Correlation {
        let frames = self.request.selection.outputs();
        let (multi_tau, parts, pixel_g2) = match (self.request.multi_tau, sums) {
            (Some(wanted), Some(sums)) => {
                let (whole, parts, pixel_g2) = dense::finish(&sums, self.partition, frames, wanted.parts, store);
                (Some(whole), parts, pixel_g2)
            }
            _ => (None, Vec::new(), None),
        };
        Correlation {
            scattering: tally.finish(self.partition, &self.request.selection),
            multi_tau,
            parts,
            pixel_g2,
            two_time: collector.map(Collector::finish),
            saturated: Vec::new(),
        }
    }
}

/// Which frame of an average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Further,
}

/// Where the counts of a job's frames go.
struct Target<'a, C, T> {
    /// Ranks that `cells` has, frame by frame.
    band: &'a Range<usize>,
    cells: &'a mut [C],
    /// Pixels that `counts` has, frame by frame.
    columns: &'a [u32],
    counts: &'a mut [T],
}

impl<C: Cell, T: Cell> Target<'_, C, T> {
    /// Keeps what the band has of a run.
    #[inline]
    fn keep_run<R: Raw>(&mut self, run: &PixelRun, values: &[R], output: usize, place: Place)
    where
        C: Store<R>,
    {
        let ranks = run.rank.max(self.band.start)..(run.rank + run.len).min(self.band.end);
        if !ranks.is_empty() {
            let start = output * self.band.len() + ranks.start - self.band.start;
            let values = &values[ranks.start - run.rank..ranks.end - run.rank];
            store(&mut self.cells[start..start + values.len()], values, place);
        }
    }

    fn keep_columns<R: Raw>(&mut self, data: &[R], output: usize, place: Place)
    where
        T: Store<R>,
    {
        let counts = &mut self.counts[output * self.columns.len()..(output + 1) * self.columns.len()];
        for (count, &pixel) in std::iter::zip(counts, self.columns) {
            store(std::slice::from_mut(count), &data[pixel as usize..=pixel as usize], place);
        }
    }
}

#[inline]
fn store<R, C: Store<R>>(cells: &mut [C], run: &[R], place: Place) {
    match place {
        Place::First => C::set(cells, run),
        Place::Further => C::add(cells, run),
    }
}

/// Decodes frames into a buffer of its own.
#[derive(Default)]
struct Reader {
    scratch: Scratch,
    frames: Vec<u32>,
}

impl Reader {
    fn read<R: Raw>(&mut self, source: &dyn FrameSource, frames: Range<u64>) -> Result<&[R], EngineError> {
        let bytes = source.info().shape.pixels() * size_of::<R>() * (frames.end - frames.start) as usize;
        self.frames.resize(bytes.div_ceil(size_of::<u32>()), 0);
        let buffer = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut self.frames)[..bytes];
        source.read_frames(frames, &mut self.scratch, buffer).map_err(EngineError::Read)?;
        Ok(bytemuck::cast_slice(buffer))
    }
}

/// Cuts a buffer into `jobs` pieces of `size` elements, the last one shorter, each for one job.
fn split<T>(buffer: &mut [T], size: usize, jobs: usize) -> Vec<Mutex<&mut [T]>> {
    let mut rest = buffer;
    (0..jobs)
        .map(|_| {
            let left = std::mem::take(&mut rest);
            let (piece, more) = left.split_at_mut(size.min(left.len()));
            rest = more;
            Mutex::new(piece)
        })
        .collect()
}

fn merge(all: &mut Option<Vec<BinSums>>, sums: Vec<BinSums>) {
    match all {
        None => *all = Some(sums),
        Some(all) => std::iter::zip(all, &sums).for_each(|(all, sums)| all.merge(sums)),
    }
}
