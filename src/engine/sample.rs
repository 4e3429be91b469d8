//! The frames that engines look at before they begin, to learn how bright they are and to find dead pixels early.

use crate::correlate::window::FrameSelection;

/// So many.
const SAMPLE: u64 = 8;

/// Raw frames across a selection, from its first to its last.
pub(super) fn frames(selection: &FrameSelection) -> impl ExactSizeIterator<Item = u64> {
    let taken = selection.outputs() * selection.avg();
    let count = taken.min(SAMPLE) as u32;
    (0..count).map(move |k| selection.raw(u64::from(k) * (taken - 1) / u64::from(count - 1).max(1)))
}
