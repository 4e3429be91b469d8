//! Rows of the Gram matrix from detections: each pair of detections of a pixel once, row by row.
//!
//! A row of the matrix stays in the first-level cache; the cost follows the pairs of photons.

use std::ops::Range;

use std::sync::Mutex;

use crate::engine::EngineError;

use super::super::memory::Buffer;
use super::super::pool::Pool;
use super::{Group, Scale, held, zeros};

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
    /// Of no pixel, with room for so many detections.
    pub(in crate::engine::cpu) fn with_room(detections: usize) -> Self {
        Self { starts: vec![0], frames: Vec::with_capacity(detections), counts: Vec::with_capacity(detections) }
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
    pub(in crate::engine::cpu) fn frame_sums(&self, pixels: Range<usize>, frames: usize) -> Vec<f64> {
        let mut sums = vec![0.0; frames];
        for e in self.starts[pixels.start] as usize..self.starts[pixels.end] as usize {
            sums[self.frames[e] as usize] += f64::from(self.counts[e]);
        }
        sums
    }

    /// Pairs of detections of the same pixel.
    pub(in crate::engine::cpu) fn pairs(&self) -> f64 {
        (0..self.pixels()).map(|p| (self.entries(p).len() as f64).powi(2) / 2.0).sum()
    }

    /// The largest count.
    pub(in crate::engine::cpu) fn largest(&self) -> u32 {
        self.counts.iter().copied().max().unwrap_or(0)
    }
}

/// Whether walking so many pairs costs less than the dense product.
pub(super) fn are_cheaper(pairs: f64, frames: usize, pixels: usize) -> bool {
    let products = (frames as f64).powi(2) / 2.0 * pixels as f64;
    pairs * PAIR_NS < products * PRODUCT_NS
}

/// Sums of products of the frames of a band with all later ones.
pub(super) struct Pairs<'a> {
    /// First row of the band.
    first: usize,
    frames: usize,
    /// (row, frame from the first row on)
    sums: Buffer<f64>,
    pool: Pool<'a>,
}

impl<'a> Pairs<'a> {
    /// Of no pixel yet.
    pub(super) fn new(band: &Range<usize>, frames: usize, pool: Pool<'a>) -> Result<Self, EngineError> {
        let sums = zeros(band.len() * (frames - band.start), pool)?;
        Ok(Self { first: band.start, frames, sums, pool })
    }

    /// Adds the weighted products of some pixels of the bin.
    pub(super) fn add(&mut self, pixels: &Range<usize>, lists: &Lists, groups: &[Group]) -> Result<(), EngineError> {
        let weighted = Weighted::new(lists, groups, pixels);
        let rows = Rows::new(&lists.frames, self.frames);
        let width = self.frames - self.first;
        let parts: Vec<Mutex<&mut [f64]>> = self.sums.chunks_mut(ROWS * width).map(Mutex::new).collect();
        self.pool.run(
            parts.len(),
            || (),
            |(), job| {
                for (t, sums) in (self.first + job * ROWS..).zip(held(&parts[job]).chunks_mut(width)) {
                    for &entry in rows.of(t) {
                        weighted.add_later(entry as usize, self.first, sums);
                    }
                }
                Ok(())
            },
        )?;
        Ok(())
    }

    /// Rows of the map, from row `first` on.
    pub(super) fn fill(&self, first: usize, rows: &mut [f32], scale: &Scale<'_>) -> Result<(), EngineError> {
        let width = self.frames - self.first;
        let parts: Vec<Mutex<&mut [f32]>> = rows.chunks_mut(self.frames).map(Mutex::new).collect();
        self.pool.run(
            parts.len(),
            || (),
            |(), number| {
                let t = first + number;
                let sums = &self.sums[(t - self.first) * width..][..width];
                for (other, value) in held(&parts[number]).iter_mut().enumerate() {
                    *value = if other < t { 0.0 } else { scale.apply(sums[other - self.first], t, other) };
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
    fn new(lists: &Lists, groups: &[Group], pixels: &Range<usize>) -> Self {
        let mut frames = lists.frames.clone();
        let mut values = Vec::with_capacity(frames.len());
        for group in groups {
            let own = group.pixels.start.max(pixels.start)..group.pixels.end.min(pixels.end);
            for pixel in own.map(|pixel| pixel - pixels.start) {
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

    /// Adds the products of an entry with itself and with the later ones of its pixel; sums begin with frame `first`.
    #[inline]
    fn add_later(&self, entry: usize, first: usize, sums: &mut [f64]) {
        let value = self.values[entry];
        for (&frame, &other) in std::iter::zip(&self.frames[entry..], &self.values[entry..]) {
            sums[(frame & !LAST) as usize - first] += value * other;
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
