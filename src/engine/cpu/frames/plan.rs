//! Cuts the correlation of dense frames so that it fits the memory limit: blocks of frames, bands of pixels,
//! groups of two-time bins. Reads nothing.

use std::ops::Range;

use crate::engine::{EngineError, TwoTimeRequest, limit};

use super::super::cells::Cell;
use super::super::dense::{self, DenseSums, Real};
use super::super::photons::too_little;
use super::Run;

/// Frames in a block: more would only touch more memory, fewer would move the tiles' states more often.
const BLOCK_FRAMES: u64 = 512;

/// The fewest frames that make a block worth its states' traffic; other blocks are multiples of it.
const FEWEST_FRAMES: u64 = 64;

/// Part of the memory limit that is planned for; the rest is slack for the result and the allocator.
const PLANNED_SHARE: f64 = 0.85;

/// How the work is cut so that it fits the memory limit.
pub(super) struct Plan {
    /// Ranks of each band.
    pub(super) bands: Vec<Range<usize>>,
    /// Frames of each block.
    pub(super) block: u64,
    /// Two-time labels of each group.
    pub(super) groups: Vec<Vec<u32>>,
}

impl Run<'_> {
    pub(super) fn plan<C: Cell, T: Cell, F: Real>(&self) -> Result<Plan, EngineError> {
        let frames = self.request.selection.outputs();
        let pixels = self.partition.pixels().len();
        let image = self.partition.shape().pixels() as u64;
        let frame = image * self.source.pixel_type().size() as u64 * self.source.frames_per_chunk().max(1) as u64;
        let threads = self.pool.threads.get() as u64;
        let fixed = image * 16 + threads * (2 * frame + image * 12) + frames * 32 + limit::kept(self.request, pixels)?;
        let mut free = ((self.request.memory as f64 * PLANNED_SHARE) as u64).saturating_sub(fixed);
        let groups = match &self.request.two_time {
            Some(wanted) => {
                free /= 2;
                self.groups(wanted, frames * size_of::<T>() as u64, free)?
            }
            None => Vec::new(),
        };
        let state = DenseSums::<F>::state_bytes(frames, self.request.multi_tau);
        let cell = size_of::<C>() as u64;
        let least = state + frames.min(FEWEST_FRAMES) * cell;
        let fitting = (free / least) as usize;
        // whole shards, so that the order of summing does not depend on the limit
        let width = if fitting >= pixels { pixels } else { fitting / dense::SHARD * dense::SHARD };
        if width == 0 {
            let needed = fixed + least * pixels.min(dense::SHARD) as u64;
            return Err(too_little(self.request, (needed as f64 * 2.0 / PLANNED_SHARE) as u64));
        }
        let room = (free / width as u64).saturating_sub(state) / cell;
        let block = room.clamp(1, BLOCK_FRAMES);
        let block = if frames <= block { frames } else { (block / FEWEST_FRAMES * FEWEST_FRAMES).max(1) };
        let bands = (0..pixels).step_by(width).map(|start| start..(start + width).min(pixels)).collect();
        Ok(Plan { bands, block, groups })
    }

    /// Labels whose counts fit together.
    fn groups(&self, wanted: &TwoTimeRequest, pixel_bytes: u64, free: u64) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut used = 0;
        for &label in &wanted.labels {
            let bytes = self.layout.bin(label).len() as u64 * pixel_bytes;
            if bytes > free {
                return Err(EngineError::Memory {
                    what: "the counts of one dynamic bin",
                    needed: (bytes as f64 * 2.0 / PLANNED_SHARE) as u64,
                    allowed: self.request.memory,
                    remedy: "take fewer frames",
                });
            }
            match groups.last_mut() {
                Some(group) if used + bytes <= free => {
                    group.push(label);
                    used += bytes;
                }
                _ => {
                    groups.push(vec![label]);
                    used = bytes;
                }
            }
        }
        Ok(groups)
    }
}
