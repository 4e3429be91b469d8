//! Reads frames block by block and sends them to the device, and sums them there: two blocks are there at a time, one
//! that is read and sent while the other is computed on. Knows nothing of what else is computed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::correlate::window::FrameSelection;
use crate::dataset::{PixelType, Scratch};
use crate::engine::EngineError;
use crate::engine::cuda::device::{Arg, Buffer, Counts, Device, DeviceError, Grid, Kernel, Precision};
use crate::engine::cuda::{CudaError, THREADS, each};

use super::Run;
use super::band::{Handed, STEP};
use super::stored::Stored;

/// Bytes of a block at most: enough that a pixel's state, which each block reads and writes, is little beside what the bus
/// brings, and few enough that reading the first one is not waited for long.
const BLOCK: u64 = 256 << 20;

/// A block's part of the host's memory that may be used: there are two, and the threads that decode need some.
const HOST_SHARE: u64 = 4;

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

/// What a block needs.
pub(super) struct Slot<D: Device> {
    staging: D::Staging,
    pub(super) raw: Buffer<D, u8>,
    /// (warp of cells, raw frame): sums.
    by_warp: Buffer<D, f64>,
    /// Of each raw frame.
    totals: Buffer<D, f64>,
    pub(super) factors: Buffer<D, u8>,
}

/// Room for two blocks.
pub(super) struct Room<D: Device> {
    pub(super) slots: [Slot<D>; 2],
    pub(super) handed: Handed<D>,
    /// Frames of a block at most.
    pub(super) frames: u64,
}

/// Sums over all frames that are made block by block.
pub(super) struct Sums<D: Device> {
    cells: Buffer<D, f64>,
    /// (place, segment)
    segments: Buffer<D, f64>,
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
        let block = BLOCK.min(self.host / HOST_SHARE);
        let fits = (bytes / (2 * (raw + by_warp) + handed)).min(block / raw).min(self.request.selection.outputs());
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
        let bytes = raw * self.stored.frame_bytes();
        let slot = || {
            Ok(Slot {
                raw: Buffer::new(self.device, bytes)?,
                by_warp: Buffer::new(self.device, raw * self.warps() as usize)?,
                totals: Buffer::new(self.device, raw)?,
                factors: Buffer::new(self.device, frames as usize * self.way.precision.bytes())?,
                staging: self.device.staging(bytes)?,
            })
        };
        let handed = Handed::new(self.device, frames, ranks, self.way.precision, &self.spans)?;
        Ok(Room { slots: [slot()?, slot()?], handed, frames })
    }

    pub(super) fn avg(&self) -> u64 {
        self.request.selection.avg()
    }

    /// Warps of the kernel that sums frames.
    fn warps(&self) -> u32 {
        each(self.stored.cells()).blocks * THREADS / 32
    }

    /// Reads frames of the analysis and sends them.
    pub(super) fn send(&self, slot: &mut Slot<D>, outputs: &Range<u64>) -> Result<(), CudaError> {
        self.device.reclaim(&mut slot.staging)?;
        let avg = self.avg();
        let bytes = ((outputs.end - outputs.start) * avg) as usize * self.stored.frame_bytes();
        self.read(outputs.start * avg..outputs.end * avg, &mut slot.staging[..bytes])?;
        slot.raw.send(self.device, 0, &mut slot.staging, bytes)?;
        Ok(())
    }

    /// Reads raw frames that are taken, one after the other; many threads decode.
    fn read(&self, taken: Range<u64>, out: &mut [u8]) -> Result<(), CudaError> {
        let (stored, selection) = (&self.stored, &self.request.selection);
        let frame = stored.frame_bytes().max(1);
        let chunk = stored.frames_per_chunk();
        // frames that are decoded together are one job's
        let mut jobs: Vec<Mutex<(Range<u64>, &mut [u8])>> = Vec::new();
        let mut rest = out;
        let mut begin = taken.start;
        while begin < taken.end {
            let of = |k: u64| selection.raw(k) / chunk;
            let end = (begin + 1..taken.end).find(|&k| of(k) != of(begin)).unwrap_or(taken.end);
            let (own, others) = rest.split_at_mut((end - begin) as usize * frame);
            jobs.push(Mutex::new((begin..end, own)));
            (rest, begin) = (others, end);
        }
        self.workers.run(jobs.len(), Scratch::default, |scratch, number| {
            let mut job = jobs[number].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (taken, out) = &mut *job;
            read_taken(stored, selection, taken.clone(), scratch, out, frame)
        })?;
        Ok(())
    }

    /// Sums over all frames, zero.
    pub(super) fn sums(&self) -> Result<Sums<D>, CudaError> {
        let plan = SegmentPlan::new(self.request.selection.outputs());
        Ok(Sums {
            cells: Buffer::zeros(self.device, self.stored.cells())?,
            segments: Buffer::zeros(self.device, self.layout.len() * plan.segments)?,
            saturated: Buffer::of(self.device, &vec![NEVER; self.stored.cells()])?,
            bad: Buffer::of(self.device, &[u64::MAX])?,
            plan,
        })
    }

    /// Adds a block to the sums; those of its frames stay in the slot.
    pub(super) fn sum(&self, slot: &Slot<D>, outputs: &Range<u64>, sums: &Sums<D>) -> Result<(), CudaError> {
        let (first, count) = (outputs.start * self.avg(), (outputs.end - outputs.start) * self.avg());
        let per_segment = (1u64 << sums.plan.shift) * self.avg();
        self.device.launch(
            Kernel::DenseSums(self.stored.counts()),
            each(self.stored.cells()),
            &[
                slot.raw.arg(),
                Arg::U32(self.stored.cells() as u32),
                Arg::U32(count as u32),
                Arg::U32(first as u32),
                self.places.arg(),
                Arg::U64(self.way.saturation.map_or(u64::MAX, u64::from)),
                Arg::U32(u32::try_from(per_segment).unwrap_or(u32::MAX)),
                Arg::U32(sums.plan.segments as u32),
                sums.saturated.arg(),
                sums.bad.arg(),
                sums.cells.arg(),
                sums.segments.arg(),
                slot.by_warp.arg(),
            ],
        )?;
        let grid = Grid { blocks: count as u32, threads: 32, shared: 0 };
        let arguments = [slot.by_warp.arg(), Arg::U32(self.warps()), Arg::U32(count as u32), slot.totals.arg()];
        Ok(self.device.launch(Kernel::DenseFrameTotals, grid, &arguments)?)
    }

    /// Sums of the frames of a block that was summed.
    pub(super) fn frame_sums(&self, slot: &Slot<D>, outputs: &Range<u64>) -> Result<Vec<f64>, CudaError> {
        let mut totals = vec![0.0; ((outputs.end - outputs.start) * self.avg()) as usize];
        slot.totals.read_into(self.device, &mut totals)?;
        Ok(totals.chunks_exact(self.avg() as usize).map(|raw| raw.iter().sum()).collect())
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

    /// What the sums are of each pixel and segment.
    pub(super) fn finish_tally(&self, tally: &mut Tally, sums: &Sums<D>) -> Result<(), CudaError> {
        for (cell, sum) in sums.cells.read(self.device)?.into_iter().enumerate() {
            if let Some(pixel) = self.stored.pixel(cell) {
                tally.pixels[pixel as usize] = sum;
            }
        }
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
}

fn read_taken(
    stored: &Stored<'_>,
    selection: &FrameSelection,
    taken: Range<u64>,
    scratch: &mut Scratch,
    out: &mut [u8],
    frame: usize,
) -> Result<(), EngineError> {
    if selection.stride() == 1 {
        let begin = selection.raw(taken.start);
        return stored.read(begin..begin + (taken.end - taken.start), scratch, out).map_err(EngineError::Read);
    }
    for (k, out) in std::iter::zip(taken, out.chunks_exact_mut(frame)) {
        let raw = selection.raw(k);
        stored.read(raw..raw + 1, scratch, out).map_err(EngineError::Read)?;
    }
    Ok(())
}
