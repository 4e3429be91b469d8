//! Cuts the correlation of dense frames so that it fits the memory limit: blocks of frames, bands of pixels,
//! groups of two-time bins. Reads nothing.

use std::ops::Range;

use crate::engine::limit::{map_too_large, whole_of};
use crate::engine::two_time::most_groups;
use crate::engine::{EngineError, TwoTimeRequest};

use super::super::cells::Cell;
use super::super::dense::{self, DenseSums, Real};
use super::super::photons::too_little;
use super::super::twotime::least;
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
    /// Two-time bins, a reading for each group.
    pub(super) groups: Vec<LabelGroup>,
    /// Bytes for two-time: counts and maps.
    pub(super) two_time: u64,
}

/// Two-time labels whose counts come from one reading, or from many.
pub(super) enum LabelGroup {
    /// Their counts fit together.
    Whole(Vec<u32>),
    /// Its counts do not fit at once.
    Cut(u32),
}

impl Run<'_> {
    pub(super) fn plan<C: Cell, T: Cell, F: Real>(&self) -> Result<Plan, EngineError> {
        let frames = self.request.selection.outputs();
        let pixels = self.partition.pixels().len();
        let image = self.partition.shape().pixels() as u64;
        let frame = image * self.source.pixel_type().size() as u64 * self.source.frames_per_chunk().max(1) as u64;
        let threads = self.pool.threads.get() as u64;
        let batch = DenseSums::<F>::batch_bytes(frames, self.request.multi_tau);
        let fixed = image * 16 + threads * (2 * frame + image * 12 + batch) + frames * 32;
        let mut free = ((self.request.memory as f64 * PLANNED_SHARE) as u64).saturating_sub(fixed);
        let two_time = free;
        let groups = match &self.request.two_time {
            Some(wanted) => {
                free /= 2;
                self.check_map(wanted, fixed, free)?;
                self.groups(wanted, frames * size_of::<T>() as u64, free)
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
            // two-time takes as much
            let parts = if self.request.two_time.is_some() { 2 } else { 1 };
            let needed = fixed + parts * least * pixels.min(dense::SHARD) as u64;
            return Err(too_little(self.request, whole_of(needed, PLANNED_SHARE)));
        }
        let room = (free / width as u64).saturating_sub(state) / cell;
        let block = room.clamp(1, BLOCK_FRAMES);
        let block = if frames <= block { frames } else { (block / FEWEST_FRAMES * FEWEST_FRAMES).max(1) };
        let bands = (0..pixels).step_by(width).map(|start| start..(start + width).min(pixels)).collect();
        Ok(Plan { bands, block, groups, two_time })
    }

    /// Whether the fewest rows of a map fit into `free` bytes, beside the counts of some pixels.
    fn check_map(&self, wanted: &TwoTimeRequest, fixed: u64, free: u64) -> Result<(), EngineError> {
        let frames = self.request.selection.outputs() as usize;
        let map = least(frames, self.sink.rows_together(frames), most_groups(&self.layout, wanted));
        if map <= free {
            return Ok(());
        }
        Err(map_too_large(whole_of(fixed + 2 * map, PLANNED_SHARE), self.request.memory))
    }

    /// Labels whose counts fit together.
    fn groups(&self, wanted: &TwoTimeRequest, pixel_bytes: u64, free: u64) -> Vec<LabelGroup> {
        let mut groups: Vec<LabelGroup> = Vec::new();
        let mut used = 0;
        for &label in &wanted.labels {
            let bytes = self.layout.bin(label).len() as u64 * pixel_bytes;
            if bytes > free {
                groups.push(LabelGroup::Cut(label));
                continue;
            }
            match groups.last_mut() {
                Some(LabelGroup::Whole(labels)) if used + bytes <= free => {
                    labels.push(label);
                    used += bytes;
                }
                _ => {
                    groups.push(LabelGroup::Whole(vec![label]));
                    used = bytes;
                }
            }
        }
        groups
    }
}
