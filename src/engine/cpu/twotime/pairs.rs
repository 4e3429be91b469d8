//! Gram matrix from detections: each pair of detections of a pixel once, row by row.
//!
//! A row of the matrix stays in the first-level cache; the cost follows the pairs of photons.

use std::ops::Range;

use crate::engine::EngineError;

use super::super::pool::Pool;
use super::{Group, Scale, row_slots, rows_of};

/// Marks the last detection of a pixel in [`Weighted::frames`]; frames have 24 bits.
const LAST: u32 = 1 << 31;

/// Rows of the map in a job.
const ROWS: usize = 16;

/// Nanoseconds for a pair of detections, and for a multiplication in the dense product; both on one core
/// (measured, `benches/correlate.rs`). Their ratio decides which way is taken.
const PAIR_NS: f64 = 2.0;
const PRODUCT_NS: f64 = 0.02;

/// Detections of the pixels of a dynamic bin: pixel `p` has entries `starts[p]..starts[p + 1]`, frames ascending.
#[derive(Debug, Default)]
pub(in crate::engine::cpu) struct Lists {
    pub(in crate::engine::cpu) starts: Vec<u32>,
    pub(in crate::engine::cpu) frames: Vec<u32>,
    pub(in crate::engine::cpu) counts: Vec<u32>,
}

impl Lists {
    pub(in crate::engine::cpu) fn new() -> Self {
        Self { starts: vec![0], ..Self::default() }
    }

    /// Adds a detection to the pixel that is being filled; equal frames add.
    pub(in crate::engine::cpu) fn push(&mut self, frame: u32, count: u32) {
        let open = self.starts[self.starts.len() - 1] as usize;
        match self.frames[open..].last() {
            Some(&last) if last == frame => {
                let end = self.counts.len() - 1;
                self.counts[end] += count;
            }
            _ => {
                self.frames.push(frame);
                self.counts.push(count);
            }
        }
    }

    /// Ends the pixel that is being filled.
    pub(in crate::engine::cpu) fn end_pixel(&mut self) {
        self.starts.push(self.frames.len() as u32);
    }

    pub(super) fn pixels(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn entries(&self, pixel: usize) -> Range<usize> {
        self.starts[pixel] as usize..self.starts[pixel + 1] as usize
    }

    /// Sum of the counts of a range of pixels in each frame.
    pub(super) fn frame_sums(&self, pixels: Range<usize>, frames: usize) -> Vec<f64> {
        let mut sums = vec![0.0; frames];
        for e in self.starts[pixels.start] as usize..self.starts[pixels.end] as usize {
            sums[self.frames[e] as usize] += f64::from(self.counts[e]);
        }
        sums
    }

    /// Whether walking the pairs costs less than the dense product.
    pub(super) fn cheaper_than_matrix(&self, frames: usize) -> bool {
        let pairs: f64 = (0..self.pixels()).map(|p| (self.entries(p).len() as f64).powi(2) / 2.0).sum();
        let products = (frames as f64).powi(2) / 2.0 * self.pixels() as f64;
        pairs * PAIR_NS < products * PRODUCT_NS
    }

    /// Fills the upper triangle of `out`.
    pub(super) fn correlate(
        &self,
        groups: &[Group],
        scale: &Scale<'_>,
        out: &mut [f32],
        pool: Pool<'_>,
    ) -> Result<(), EngineError> {
        let frames = scale.rows.len();
        let weighted = Weighted::new(self, groups);
        let rows = Rows::new(&self.frames, frames);
        let slots = row_slots(out, frames, ROWS);
        pool.run(
            slots.len(),
            || vec![0.0; frames],
            |sums: &mut Vec<f64>, job| {
                let mut slot = rows_of(&slots[job]);
                for (offset, row) in slot.chunks_mut(frames).enumerate() {
                    let t = job * ROWS + offset;
                    sums[t..].fill(0.0);
                    for &entry in rows.of(t) {
                        weighted.add_later(entry as usize, sums);
                    }
                    for other in t..frames {
                        row[other] = scale.apply(sums[other], t, other);
                    }
                }
                Ok(())
            },
        )?;
        Ok(())
    }
}

/// Detections with their smoothed values.
struct Weighted {
    frames: Vec<u32>,
    values: Vec<f64>,
}

impl Weighted {
    fn new(lists: &Lists, groups: &[Group]) -> Self {
        let mut frames = lists.frames.clone();
        let mut values = Vec::with_capacity(frames.len());
        for group in groups {
            for pixel in group.pixels.clone() {
                for e in lists.entries(pixel) {
                    values.push(f64::from(lists.counts[e]) * group.weights[lists.frames[e] as usize]);
                }
                if let Some(last) = lists.entries(pixel).last() {
                    frames[last] |= LAST;
                }
            }
        }
        Self { frames, values }
    }

    /// Adds the products of an entry with itself and with the later ones of its pixel.
    #[inline]
    fn add_later(&self, entry: usize, sums: &mut [f64]) {
        let value = self.values[entry];
        for (&frame, &other) in std::iter::zip(&self.frames[entry..], &self.values[entry..]) {
            sums[(frame & !LAST) as usize] += value * other;
            if frame & LAST != 0 {
                break;
            }
        }
    }
}

/// The entries of each frame, in the order of the pixels.
struct Rows {
    starts: Vec<u32>,
    entries: Vec<u32>,
}

impl Rows {
    fn new(entry_frames: &[u32], frames: usize) -> Self {
        let mut starts = vec![0u32; frames + 1];
        for &t in entry_frames {
            starts[t as usize + 1] += 1;
        }
        for t in 0..frames {
            starts[t + 1] += starts[t];
        }
        let mut cursor = starts.clone();
        let mut entries = vec![0; entry_frames.len()];
        for (e, &t) in entry_frames.iter().enumerate() {
            let at = &mut cursor[t as usize];
            entries[*at as usize] = e as u32;
            *at += 1;
        }
        Self { starts, entries }
    }

    fn of(&self, t: usize) -> &[u32] {
        &self.entries[self.starts[t] as usize..self.starts[t + 1] as usize]
    }
}
