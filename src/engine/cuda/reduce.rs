//! Sums over places on a device: starts of lists, and what bins need of their pixels.

use std::ops::Range;

use super::device::{Arg, Buffer, Device, DeviceError, Grid, Kernel, MemoryKind};
use super::{CudaError, THREADS, each};
use crate::correlate::reduce::BinSums;
use crate::engine::layout::Layout;

/// Numbers that a thread of `scan_blocks` adds: reduce.cu's PER_THREAD.
const PER_THREAD: usize = 4;

/// Numbers that a block of it adds.
const PER_BLOCK: usize = PER_THREAD * THREADS as usize;

/// Places of a piece at most: they are added one after the other.
const PIECE: usize = 256;

/// Sums of a piece for each delay: G2, later, earlier, g2 - 1 and its square.
pub(super) const SUMS: usize = 5;

/// How many events are filed at once. Their places in the list are numbers of 32 bits: more of them are refused as what does
/// not fit into memory is, so that callers file fewer at once.
///
/// # Errors
/// There are more than 2^32 - 1.
pub(super) fn filed_at_once(events: &[u32]) -> Result<usize, DeviceError> {
    let all: u64 = events.iter().map(|&events| u64::from(events)).sum();
    let bytes = usize::try_from(all).unwrap_or(usize::MAX).saturating_mul(size_of::<u64>());
    u32::try_from(all).map(|all| all as usize).map_err(|_| DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes })
}

/// What came before each number, and the sum of all behind the last; all below 2^32: see [`filed_at_once`].
pub(super) fn starts<D: Device>(
    device: &D,
    numbers: &Buffer<D, u32>,
    len: usize,
) -> Result<Buffer<D, u32>, DeviceError> {
    let sums = Buffer::new(device, len + 1)?;
    let blocks = len.div_ceil(PER_BLOCK);
    let totals = Buffer::<D, u32>::new(device, blocks)?;
    let shared = THREADS * size_of::<u32>() as u32;
    let length = Arg::U32(len as u32);
    let grid = Grid { blocks: blocks as u32, threads: THREADS, shared };
    device.launch(Kernel::ScanBlocks, grid, &[numbers.arg(), Arg::U32(len as u32), sums.arg(), totals.arg()])?;
    let one = Grid { blocks: 1, threads: THREADS, shared };
    device.launch(Kernel::ScanTotals, one, &[totals.arg(), Arg::U32(blocks as u32)])?;
    let per_block = Arg::U32(PER_BLOCK as u32);
    device.launch(Kernel::ScanAdd, each(len), &[numbers.arg(), length, totals.arg(), per_block, sums.arg()])?;
    Ok(sums)
}

/// Neighbouring places of the same bins, few enough to be added one after the other.
#[derive(Debug)]
pub(super) struct Pieces {
    /// First place of each, and the end.
    starts: Vec<u32>,
}

impl Pieces {
    /// Of all places. They depend on nothing else, so that sums are the same however the places are cut into passes.
    pub(super) fn new(layout: &Layout) -> Self {
        let bins = |place: usize| (layout.dynamics[place], layout.statics[place]);
        let mut starts: Vec<u32> = Vec::new();
        for place in 0..layout.len() {
            let begins = starts
                .last()
                .is_none_or(|&first| place - first as usize == PIECE || bins(place) != bins(first as usize));
            if begins {
                starts.push(place as u32);
            }
        }
        starts.push(layout.len() as u32);
        Self { starts }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// First place of each, and the end.
    pub(super) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The places of some pieces.
    pub(super) fn places(&self, pieces: &Range<usize>) -> Range<usize> {
        self.starts[pieces.start] as usize..self.starts[pieces.end] as usize
    }

    /// Adds what the pixels of some pieces have, which is on the device as (place, channel, delay), from the first on.
    pub(super) fn add<D: Device>(
        &self,
        device: &D,
        pieces: &Range<usize>,
        pixels: &Buffer<D, f64>,
        delays: usize,
        layout: &Layout,
        sums: &mut BinSums,
    ) -> Result<(), CudaError> {
        if delays == 0 {
            return Ok(());
        }
        let first = self.starts[pieces.start];
        let starts: Vec<u32> = self.starts[pieces.start..=pieces.end].iter().map(|start| start - first).collect();
        let starts = Buffer::of(device, &starts)?;
        let out = Buffer::<D, f64>::new(device, pieces.len() * SUMS * delays)?;
        let width = delays.div_ceil(32) * 32;
        let grid = Grid { blocks: pieces.len() as u32, threads: width as u32, shared: 0 };
        let delay_arg = Arg::U32(delays as u32);
        device.launch(Kernel::ReducePieces, grid, &[pixels.arg(), delay_arg, starts.arg(), out.arg()])?;
        for (piece, own) in std::iter::zip(pieces.clone(), out.read(device)?.chunks_exact(SUMS * delays)) {
            let places = self.places(&(piece..piece + 1));
            let (statics, dynamics) = own.split_at(3 * delays);
            let (label, bin) = (layout.statics[places.start], layout.dynamics[places.start]);
            sums.add_sums(label, bin, places.len() as u64, statics, dynamics);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_events_are_filed_at_once_than_can_be_numbered() {
        let most = u32::MAX;
        assert!(matches!(filed_at_once(&[]), Ok(0)));
        assert!(matches!(filed_at_once(&[most - 5, 0, 5]), Ok(all) if all == most as usize));
        for events in [&[most, 1][..], &[1 << 31, 1 << 31], &[most; 9]] {
            assert!(matches!(filed_at_once(events), Err(DeviceError::OutOfMemory { .. })), "{events:?}");
        }
    }
}
