//! How the memory for a two-time map is shared out: rows on their way to the sink, sums of products, packed counts.

use crate::engine::EngineError;
use crate::engine::limit::map_too_large;
use crate::engine::sink::{row_bytes, rows_gathered};

use super::gram::{BAND, RUN};
use super::kernel::Pair;

/// Part of the memory for rows that go to the sink, and for packed counts; sums of products get the rest.
const GATHERED_SHARE: f64 = 0.3;
const PACKED_SHARE: f64 = 0.15;

/// How much of what a map takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Rows that go to the sink together.
    pub(super) gathered: usize,
    /// Bytes of packed counts.
    pub(super) packed: u64,
    /// Sums of products of a band.
    pub(super) cells: u64,
}

impl Sizes {
    /// Of a map of so many frames, of which so many rows are stored together, of so many groups of pixels.
    ///
    /// # Errors
    /// `room` bytes are not enough.
    pub(super) fn new(frames: usize, together: usize, groups: usize, room: u64) -> Result<Self, EngineError> {
        let needed = least(frames, together, groups);
        let Some(more) = room.checked_sub(needed) else { return Err(map_too_large(needed, room)) };
        let share = |part: f64| (more as f64 * part) as u64;
        let fewest = row_bytes(frames) * together.min(frames) as u64;
        let gathered = rows_gathered(frames, together, fewest + share(GATHERED_SHARE));
        let packed = packed(frames) + share(PACKED_SHARE);
        let used = weights(frames, groups) + row_bytes(frames) * gathered as u64 + packed;
        Ok(Self { gathered, packed, cells: (room - used) / size_of::<f64>() as u64 })
    }
}

/// The fewest bytes that a map takes.
pub(in crate::engine::cpu) fn least(frames: usize, together: usize, groups: usize) -> u64 {
    let sums = (BAND * padded(frames) * size_of::<f64>()) as u64;
    weights(frames, groups) + row_bytes(frames) * together.min(frames) as u64 + packed(frames) + sums
}

/// Bytes of the weights of all groups, their totals, and some numbers for each frame.
fn weights(frames: usize, groups: usize) -> u64 {
    ((2 * groups + 4) * frames * size_of::<f64>()) as u64
}

/// Bytes of the packed counts of one run.
fn packed(frames: usize) -> u64 {
    (RUN / 2 * padded(frames) * size_of::<Pair>()) as u64
}

/// Frames with what fills them up to whole panels.
fn padded(frames: usize) -> usize {
    frames + BAND
}

/// The end of the band that begins at a row: as many rows as have at most so many cells, and a few at least.
pub(super) fn band_end(first: usize, frames: usize, cells: u64) -> usize {
    let fit = usize::try_from(cells / padded(frames - first) as u64).unwrap_or(usize::MAX);
    if fit >= frames - first { frames } else { (first + (fit / BAND * BAND).max(BAND)).min(frames) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_takes_no_more_than_its_room(
            frames in 1usize..50_000,
            together in 1usize..600,
            groups in 1usize..50,
            factor in 1.0f64..30.0,
        ) {
            let room = (least(frames, together, groups) as f64 * factor) as u64;
            let sizes = Sizes::new(frames, together, groups, room).expect("is enough");
            prop_assert!(sizes.gathered == frames || sizes.gathered.is_multiple_of(together));
            prop_assert!(sizes.packed >= packed(frames));
            let (mut first, mut most) = (0, 0);
            while first < frames {
                let end = band_end(first, frames, sizes.cells);
                prop_assert!(end > first && (end == frames || (end - first).is_multiple_of(BAND)));
                most = most.max((end - first) * padded(frames - first));
                first = end;
            }
            let all = weights(frames, groups) + row_bytes(frames) * sizes.gathered as u64 + sizes.packed;
            let sums = (most * size_of::<f64>()) as u64;
            prop_assert!(all + sums <= room, "{} of {room}", all + sums);
            let few = Sizes::new(frames, together, groups, least(frames, together, groups) - 1);
            let is_refused = matches!(few, Err(EngineError::Memory { .. }));
            prop_assert!(is_refused);
        }
    }
}
