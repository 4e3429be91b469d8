//! Blocks of frames on the device, and their sums: two blocks are there at a time, one that is sent while the other is
//! computed on. Knows neither where frames come from nor what else is computed.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::dataset::PixelType;
use crate::engine::EngineError;
use crate::engine::cuda::device::{Arg, Buffer, Counts, Device, DeviceError, Grid, Kernel, Precision};
use crate::engine::cuda::{CudaError, NONE, THREADS, each};
use crate::task::correlate::Normalization;

use super::Run;
use super::band::{Handed, STEP};
use super::feed::OPEN;

/// Bytes of a block at most, where it has more than enough frames: what is computed of the last block waits for all of it.
const BLOCK: u64 = 1 << 30;

/// Frames of the analysis that are enough for a block: a pixel's state, of which 1 KiB is read and written for each block,
/// is then few bytes a frame, beside the one to four of a count.
const ENOUGH: u64 = 256;

/// Cells of a thread of the kernel that sums frames: dense_sums.cuh's CELLS.
const CELLS: usize = 4;

/// Threads of a warp.
const WARP: u32 = 32;

/// No frame has this number.
const NEVER: u32 = u32::MAX;

/// Some frames of the analysis on the device.
pub(super) struct Frames<'a, D: Device> {
    pub(super) raw: &'a Buffer<D, u8>,
    pub(super) counts: Counts,
    /// Of each raw frame.
    pub(super) cells: usize,
    /// Raw frames of each.
    pub(super) avg: u64,
    pub(super) outputs: Range<u64>,
    pub(super) precision: Precision,
}

impl<D: Device> Frames<'_, D> {
    /// Bytes of one of them.
    pub(super) fn bytes(&self) -> usize {
        self.avg as usize * self.counts.bytes(self.cells)
    }
}

/// Room for the blocks that are there at a time.
pub(super) struct Room<D: Device> {
    /// Raw frames of a block: those of block k are in slot k % OPEN.
    raw: [Buffer<D, u8>; OPEN as usize],
    /// (raw frame, warp of cells): sums.
    by_warp: Buffer<D, f64>,
    pub(super) handed: Handed<D>,
    /// Frames of the analysis of a block.
    pub(super) frames: u64,
}

impl<D: Device> Room<D> {
    /// Where a block is that begins with a frame of the analysis.
    pub(super) fn raw(&self, start: u64) -> &Buffer<D, u8> {
        &self.raw[(start / self.frames % OPEN) as usize]
    }

    pub(super) fn raw_mut(&mut self, start: u64) -> &mut Buffer<D, u8> {
        &mut self.raw[(start / self.frames % OPEN) as usize]
    }
}

/// What is known of each frame of the analysis, on the device.
pub(super) struct Each<D: Device> {
    /// Sums over the pixels that are correlated.
    totals: Buffer<D, f64>,
    /// What its counts are multiplied with.
    pub(super) factors: Buffer<D, u8>,
}

/// Sums over all frames that are made block by block.
pub(super) struct Sums<D: Device> {
    /// (segment, cell): the frames behind the last segment are one more.
    counts: Buffer<D, f64>,
    /// Of each cell, not 0 if it shows a pixel that is correlated.
    wanted: Buffer<D, u8>,
    saturated: Buffer<D, u32>,
    bad: Buffer<D, u64>,
    plan: SegmentPlan,
}

impl<D: Device> Run<'_, D> {
    /// As much room as fits into so many bytes; less where the memory has less.
    pub(super) fn room(&self, bytes: u64, ranks: usize) -> Result<Room<D>, DeviceError> {
        let raw = self.avg() * self.stored.frame_bytes() as u64;
        let by_warp = self.avg() * u64::from(self.warps()) * size_of::<f64>() as u64;
        let handed = Handed::<D>::bytes(ranks, self.way.precision) as u64;
        let fits = bytes / (OPEN * raw + by_warp + handed);
        let most = ENOUGH.max(BLOCK / raw).min(self.request.selection.outputs());
        let fits = fits.min(most);
        let mut frames = if fits >= STEP { fits / STEP * STEP } else { fits.max(1) };
        loop {
            match self.room_of(frames, ranks) {
                Err(DeviceError::OutOfMemory { .. }) if frames > 1 => frames /= 2,
                other => return other,
            }
        }
    }

    fn room_of(&self, frames: u64, ranks: usize) -> Result<Room<D>, DeviceError> {
        let raw = (frames * self.avg()) as usize;
        let slot = || Buffer::new(self.device, raw * self.stored.frame_bytes());
        Ok(Room {
            raw: [slot()?, slot()?],
            by_warp: Buffer::new(self.device, raw * self.warps() as usize)?,
            handed: Handed::new(self.device, frames, ranks, self.way.precision, &self.spans)?,
            frames,
        })
    }

    pub(super) fn avg(&self) -> u64 {
        self.request.selection.avg()
    }

    /// The grid of the kernel that sums frames.
    fn sums_grid(&self) -> Grid {
        each(self.stored.cells().div_ceil(CELLS))
    }

    /// Its warps.
    fn warps(&self) -> u32 {
        self.sums_grid().blocks * (THREADS / WARP)
    }

    /// Sends raw frames that are taken to their place in the room.
    pub(super) fn send(
        &self,
        room: &mut Room<D>,
        frames: &Range<u64>,
        staging: &mut D::Staging,
    ) -> Result<(), DeviceError> {
        let bytes = |frames: u64| frames as usize * self.stored.frame_bytes();
        let block = room.frames * self.avg();
        let raw = room.raw_mut(frames.start / self.avg());
        raw.send(self.device, bytes(frames.start % block), staging, bytes(frames.end - frames.start))
    }

    /// What is known of each frame before one is read: its factor, where frames are not normalised.
    pub(super) fn each_frame(&self) -> Result<Each<D>, DeviceError> {
        let outputs = self.request.selection.outputs() as usize;
        let factor = 1.0 / self.avg() as f64;
        let factors = match self.way.precision {
            Precision::Single => bytemuck::cast_slice(&vec![factor as f32; outputs]).to_vec(),
            Precision::Double => bytemuck::cast_slice(&vec![factor; outputs]).to_vec(),
        };
        Ok(Each { totals: Buffer::new(self.device, outputs)?, factors: Buffer::of(self.device, &factors)? })
    }

    /// Sums over all frames, zero.
    pub(super) fn sums(&self) -> Result<Sums<D>, CudaError> {
        let plan = SegmentPlan::new(self.request.selection.outputs());
        let cells = self.stored.cells();
        let wanted: Vec<u8> = self.places.iter().map(|&place| u8::from(place != NONE)).collect();
        Ok(Sums {
            counts: Buffer::zeros(self.device, (plan.segments + 1) * cells)?,
            wanted: Buffer::of(self.device, &wanted)?,
            saturated: Buffer::of(self.device, &vec![NEVER; cells])?,
            bad: Buffer::of(self.device, &[u64::MAX])?,
            plan,
        })
    }

    /// Adds a block to the sums; finds the sums and factors of its frames.
    pub(super) fn sum(
        &self,
        room: &Room<D>,
        outputs: &Range<u64>,
        sums: &Sums<D>,
        each_frame: &Each<D>,
    ) -> Result<(), DeviceError> {
        let (first, count) = (outputs.start * self.avg(), (outputs.end - outputs.start) * self.avg());
        let per_segment = (1u64 << sums.plan.shift) * self.avg();
        self.device.launch(
            Kernel::DenseSums(self.stored.counts()),
            self.sums_grid(),
            &[
                room.raw(outputs.start).arg(),
                Arg::U32(self.stored.cells() as u32),
                Arg::U32(count as u32),
                Arg::U32(first as u32),
                sums.wanted.arg(),
                Arg::U64(self.way.saturation.map_or(u64::MAX, u64::from)),
                Arg::U32(u32::try_from(per_segment).unwrap_or(u32::MAX)),
                Arg::U32(sums.plan.segments as u32),
                sums.saturated.arg(),
                sums.bad.arg(),
                sums.counts.arg(),
                room.by_warp.arg(),
            ],
        )?;
        let [warps, avg] = [u64::from(self.warps()), self.avg()].map(|number| Arg::U32(number as u32));
        let shared = THREADS / WARP * size_of::<f64>() as u32;
        let grid = Grid { blocks: (outputs.end - outputs.start) as u32, threads: THREADS, shared };
        let totals = || each_frame.totals.arg_from(outputs.start as usize);
        self.device.launch(Kernel::DenseFrameTotals, grid, &[room.by_warp.arg(), warps, avg, totals()])?;
        self.find_factors(outputs, totals(), each_frame)
    }

    /// Finds the factors of some frames from their sums, where frames are normalised.
    fn find_factors(
        &self,
        outputs: &Range<u64>,
        totals: Arg<'_, D::Memory>,
        each_frame: &Each<D>,
    ) -> Result<(), DeviceError> {
        match self.request.multi_tau.map(|wanted| wanted.normalization) {
            Some(Normalization::FrameMean) => {}
            Some(Normalization::None) | None => return Ok(()),
        }
        let count = outputs.end - outputs.start;
        let numbers = [count, self.layout.len() as u64, self.avg()].map(|number| Arg::U32(number as u32));
        let factors = each_frame.factors.arg_from(outputs.start as usize * self.way.precision.bytes());
        let arguments: Vec<_> = [totals].into_iter().chain(numbers).chain([factors]).collect();
        self.device.launch(Kernel::DenseFactors(self.way.precision), each(count as usize), &arguments)
    }

    /// Refuses what cannot be counts; returns the pixels that carry the saturation value.
    pub(super) fn check(&self, sums: &Sums<D>) -> Result<BTreeMap<u32, u64>, CudaError> {
        let selection = &self.request.selection;
        let bad = sums.bad.read(self.device)?[0];
        if bad != u64::MAX {
            // cells of two bits are never bad: this one is a pixel
            let (row, col) = self.partition.shape().place(bad as u32);
            let is_float = self.stored.counts() == Counts::Pixels(PixelType::F32);
            let what = if is_float { "not a finite number" } else { "negative counts" };
            return Err(EngineError::Value { what, frame: selection.raw(bad >> 32), row, col }.into());
        }
        let first = sums.saturated.read(self.device)?.into_iter().enumerate();
        Ok(first
            .filter(|(_, frame)| *frame != NEVER)
            .filter_map(|(cell, frame)| Some((self.stored.pixel(cell)?, selection.raw(u64::from(frame)))))
            .collect())
    }

    /// What the sums are of each frame, pixel and segment; they are of no use afterwards.
    pub(super) fn finish_tally(
        &self,
        tally: &mut Tally,
        sums: &Sums<D>,
        each_frame: &Each<D>,
    ) -> Result<(), CudaError> {
        each_frame.totals.read_into(self.device, &mut tally.frames)?;
        let (row, segments) = (self.stored.cells(), sums.plan.segments);
        for (piece, own) in self.segment_sums(sums)?.chunks_exact(segments.max(1)).enumerate() {
            let label = self.layout.statics[self.pieces.places(&(piece..piece + 1)).start];
            if label > 0 {
                for (segment, sum) in own.iter().enumerate() {
                    tally.segments[(segment, label as usize - 1)] += sum;
                }
            }
        }
        let numbers = [row, segments + 1].map(|number| Arg::U32(number as u32));
        let arguments: Vec<_> = [sums.counts.arg()].into_iter().chain(numbers).collect();
        self.device.launch(Kernel::DenseCellTotals, each(row), &arguments)?;
        let mut totals = vec![0.0; row];
        sums.counts.read_into(self.device, &mut totals)?;
        for (cell, sum) in totals.into_iter().enumerate() {
            if let Some(pixel) = self.stored.pixel(cell) {
                tally.pixels[pixel as usize] = sum;
            }
        }
        Ok(())
    }

    /// (piece, segment): sums over the good pixels of each piece.
    fn segment_sums(&self, sums: &Sums<D>) -> Result<Vec<f64>, DeviceError> {
        let good = std::iter::zip(&self.cells, &self.layout.pixels)
            .map(|(&cell, &pixel)| if self.partition.blemish()[pixel as usize] { cell } else { NONE });
        let cells = Buffer::of(self.device, &good.collect::<Vec<u32>>())?;
        let pieces = Buffer::of(self.device, self.pieces.starts())?;
        let out = Buffer::<D, f64>::new(self.device, self.pieces.len() * sums.plan.segments)?;
        let [row, segments] = [self.stored.cells(), sums.plan.segments].map(|number| Arg::U32(number as u32));
        let grid = Grid { blocks: self.pieces.len() as u32, threads: WARP, shared: 0 };
        let arguments = [sums.counts.arg(), row, segments, pieces.arg(), cells.arg(), out.arg()];
        self.device.launch(Kernel::DenseSegments, grid, &arguments)?;
        out.read(self.device)
    }
}
