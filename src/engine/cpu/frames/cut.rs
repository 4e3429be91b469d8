//! A two-time bin whose counts do not fit into memory: the file is read again for each slice of its pixels and each band
//! of rows of its map. Multiplies nothing.

use std::marker::PhantomData;
use std::ops::Range;

use crate::engine::EngineError;
use crate::engine::cpu::cells::{Raw, Store};
use crate::engine::cpu::dense::Real;
use crate::engine::cpu::memory::Buffer;
use crate::engine::cpu::twotime::{BinCounts, Counts, Matrix, Survey, Visitor};

use super::{Reading, Run, TwoTimeCell};

/// The bin.
pub(super) struct CutBin<'a, R, C, T, F> {
    run: &'a Run<'a>,
    /// Its pixels of the image, in working order.
    pixels: &'a [u32],
    /// Frames that are read together.
    block: u64,
    /// Bytes that counts may take.
    room: u64,
    types: PhantomData<(R, C, T, F)>,
}

impl<'a, R, C, T, F> CutBin<'a, R, C, T, F>
where
    R: Raw,
    C: Store<R>,
    T: Store<R> + TwoTimeCell,
    F: Real,
{
    /// The bin of a label, whose counts may take `room` bytes.
    pub(super) fn new(run: &'a Run<'a>, label: u32, block: u64, room: u64) -> Self {
        Self { run, pixels: &run.layout.pixels[run.layout.bin(label)], block, room, types: PhantomData }
    }

    /// Bytes of the counts of so many frames of a pixel.
    fn bytes(frames: u64) -> u64 {
        frames * size_of::<T>() as u64
    }

    /// Reads the counts of some pixels in some frames.
    fn gather(&self, reading: &mut Reading<'_, C, T, F>, frames: &Range<u64>, block: u64) -> Result<(), EngineError> {
        for start in frames.clone().step_by(block.max(1) as usize) {
            // its saturated pixels and large counts are known from the first reading
            self.run.gather::<R, C, T, F>(reading, start..(start + block).min(frames.end))?;
        }
        Ok(())
    }

    fn begin(&self, frames: &Range<u64>) {
        let avg = self.run.request.selection.avg();
        self.run.pool.observer.step("correlating", (frames.end - frames.start) * avg);
    }

    fn reading(&self, pixels: Range<usize>, frames: &Range<u64>) -> Reading<'a, C, T, F> {
        let columns = self.pixels[pixels].to_vec();
        let counts = self.run.pool.memory.buffer(columns.len() * (frames.end - frames.start) as usize);
        Reading { band: None, cells: Buffer::default(), columns, first: frames.start, counts }
    }

    fn frames(&self) -> u64 {
        self.run.request.selection.outputs()
    }

    /// Slices of pixels whose counts of so many frames fit.
    fn slices(&self, frames: u64, cuts: &[usize]) -> Result<Vec<Range<usize>>, EngineError> {
        let most = (self.room / Self::bytes(frames).max(1)) as usize;
        let mut slices: Vec<Range<usize>> = Vec::new();
        for (start, &end) in std::iter::zip(std::iter::once(0).chain(cuts.iter().copied()), cuts) {
            match slices.last_mut() {
                Some(last) if end - last.start <= most => last.end = end,
                _ => slices.push(start..end),
            }
        }
        match slices.iter().map(Range::len).max() {
            Some(largest) if largest > most => Err(self.too_many(Self::bytes(frames) * largest as u64)),
            _ => Ok(slices),
        }
    }

    fn too_many(&self, bytes: u64) -> EngineError {
        let allowed = self.run.request.memory;
        EngineError::Memory {
            what: "the counts of a few pixels of a dynamic bin",
            needed: (bytes as f64 / self.room.max(1) as f64 * allowed as f64) as u64,
            allowed,
            remedy: "take fewer frames",
        }
    }
}

impl<R, C, T, F> BinCounts for CutBin<'_, R, C, T, F>
where
    R: Raw,
    C: Store<R>,
    T: Store<R> + TwoTimeCell,
    F: Real,
{
    fn survey(&mut self, groups: &[Range<usize>], frames: usize) -> Result<Survey, EngineError> {
        // all pixels of a few frames
        let fit = self.room / Self::bytes(self.pixels.len() as u64).max(1);
        if fit == 0 {
            return Err(self.too_many(Self::bytes(self.pixels.len() as u64)));
        }
        let all = 0..frames as u64;
        self.begin(&all);
        let mut survey = Survey { totals: vec![Vec::with_capacity(frames); groups.len()], largest: None, pairs: None };
        let block = fit.min(self.block);
        for start in all.clone().step_by(block as usize) {
            let own = start..(start + block).min(all.end);
            let mut reading = self.reading(0..self.pixels.len(), &own);
            self.gather(&mut reading, &own, block)?;
            let (stride, places) = (self.pixels.len(), 0..self.pixels.len());
            let matrix = Matrix { counts: T::cells(&reading.counts), first: start as usize, stride, places };
            let counts = Counts::Matrix(matrix);
            // of floats there is none in any block
            survey.largest = survey.largest.max(counts.largest());
            for (totals, pixels) in std::iter::zip(&mut survey.totals, groups) {
                totals.extend(counts.frame_sums(pixels.clone(), frames));
            }
        }
        Ok(survey)
    }

    fn visit(&mut self, first: usize, cuts: &[usize], each: &mut Visitor<'_>) -> Result<(), EngineError> {
        let frames = first as u64..self.frames();
        for pixels in self.slices(frames.end - frames.start, cuts)? {
            self.begin(&frames);
            let mut reading = self.reading(pixels.clone(), &frames);
            self.gather(&mut reading, &frames, self.block)?;
            let (stride, places) = (pixels.len(), 0..pixels.len());
            let matrix = Matrix { counts: T::cells(&reading.counts), first, stride, places };
            each(pixels, &Counts::Matrix(matrix))?;
        }
        Ok(())
    }
}
