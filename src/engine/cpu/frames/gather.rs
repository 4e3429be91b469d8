//! Reads the frames of a block, each once, and hands their counts out: sums, cells of the band, two-time counts.
//!
//! Knows nothing of what is computed from them.

use std::ops::Range;
use std::sync::Mutex;

use crate::dataset::{FrameSource, Scratch};
use crate::engine::EngineError;
use crate::engine::cpu::cells::{Cell, OutsideSums, PixelRun, Raw, Store, check_and_sum};
use crate::engine::cpu::dense::Real;
use crate::engine::cpu::memory::{Buffer, Memory};
use crate::engine::cpu::narrow::Excess;

use super::{Reading, Run, TwoTimeCell};

/// Jobs that a block of frames is cut into where sums round: fixed, so that the order of summing is.
const ROUNDING_JOBS: u64 = 16;

impl Run<'_> {
    /// Reads the frames of a block: their sums, the band's cells, the two-time counts, the sums outside the mask.
    pub(super) fn gather<R, C, T, F>(
        &self,
        reading: &mut Reading<'_, C, T, F>,
        range: Range<u64>,
    ) -> Result<Gathered, EngineError>
    where
        R: Raw,
        C: Store<R>,
        T: Store<R> + TwoTimeCell,
        F: Real,
    {
        let frames = (range.end - range.start) as usize;
        let (band, width) = reading.band.as_ref().map_or((0..0, 0), |(band, _)| (band.clone(), band.len()));
        if reading.cells.len() < frames * width {
            reading.cells = self.pool.memory.buffer(frames * width);
        }
        let columns = &reading.columns[..];
        let kept = (range.start - reading.first) as usize..(range.end - reading.first) as usize;
        let counts = &mut reading.counts[kept.start * columns.len()..kept.end * columns.len()];
        let per_job = self.frames_per_job(R::ROUNDS, range.end - range.start) as usize;
        let cells = split(&mut reading.cells[..frames * width], per_job * width, frames.div_ceil(per_job));
        let counts = split(counts, per_job * columns.len(), frames.div_ceil(per_job));
        let init = || (Reader::new(self.pool.memory), OutsideSums::new(&self.runs), Vec::new());
        let states = self.pool.run(frames.div_ceil(per_job), init, |(reader, outside, done), job| {
            let mut cells = cells[job].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut counts = counts[job].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let start = range.start + (job * per_job) as u64;
            let outputs = start..(start + per_job as u64).min(range.end);
            let mut target = Target {
                band: &band,
                cells: &mut cells,
                first: job * per_job,
                excesses: Vec::new(),
                exceeded: 0,
                columns,
                counts: &mut counts,
            };
            let sums = self.gather_job::<R, C, T>(reader, outputs, &mut target, outside)?;
            let Target { excesses, exceeded, .. } = target;
            let outside = R::ROUNDS.then(|| std::mem::replace(outside, OutsideSums::new(&self.runs)));
            done.push((job, Gathered { sums, outside: outside.into_iter().collect(), excesses, exceeded }));
            Ok(())
        })?;
        let mut all = Gathered::default();
        let mut jobs = Vec::new();
        for (_, outside, done) in states {
            if !R::ROUNDS {
                all.outside.push(outside);
            }
            jobs.extend(done);
        }
        jobs.sort_unstable_by_key(|(job, _)| *job);
        for (_, part) in jobs {
            all.sums.extend(part.sums);
            all.outside.extend(part.outside);
            all.excesses.extend(part.excesses);
            all.exceeded += part.exceeded;
        }
        all.excesses.sort_unstable_by_key(|excess| (excess.column, excess.frame));
        Ok(all)
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
        reader: &mut Reader<'_>,
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

/// What a block's frames hold beside the cells and the two-time counts.
#[derive(Default)]
pub(super) struct Gathered {
    /// Of each frame.
    pub(super) sums: Vec<f64>,
    pub(super) outside: Vec<OutsideSums>,
    /// Of the band's cells; by column and frame.
    pub(super) excesses: Vec<Excess>,
    /// Number of counts that do not fit a cell, of all bands.
    pub(super) exceeded: usize,
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
    /// Number of the job's first frame in the block.
    first: usize,
    excesses: Vec<Excess>,
    exceeded: usize,
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
        if C::overflows(values) {
            self.keep_excesses(run, values, output);
        }
        let ranks = run.rank.max(self.band.start)..(run.rank + run.len).min(self.band.end);
        if !ranks.is_empty() {
            let start = output * self.band.len() + ranks.start - self.band.start;
            let values = &values[ranks.start - run.rank..ranks.end - run.rank];
            store(&mut self.cells[start..start + values.len()], values, place);
        }
    }

    fn keep_excesses<R: Raw>(&mut self, run: &PixelRun, values: &[R], output: usize)
    where
        C: Store<R>,
    {
        for (rank, &value) in (run.rank..).zip(values) {
            let counts = C::excess(value);
            if counts == 0 {
                continue;
            }
            self.exceeded += 1;
            if self.band.contains(&rank) {
                let (column, frame) = ((rank - self.band.start) as u32, (self.first + output) as u32);
                self.excesses.push(Excess { column, frame, counts });
            }
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
pub(super) struct Reader<'a> {
    memory: &'a Memory,
    scratch: Scratch,
    frames: Buffer<u32>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(memory: &'a Memory) -> Self {
        Self { memory, scratch: Scratch::default(), frames: Buffer::default() }
    }

    pub(super) fn read<R: Raw>(&mut self, source: &dyn FrameSource, frames: Range<u64>) -> Result<&[R], EngineError> {
        let bytes = source.info().shape.pixels() * size_of::<R>() * (frames.end - frames.start) as usize;
        let room = bytes.div_ceil(size_of::<u32>());
        if self.frames.len() < room {
            self.frames = self.memory.buffer(room);
        }
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
