//! Sorts photon events by pixel: reads blocks in parallel, keeps the selected frames of masked-in pixels, and
//! files each block's events by bucket of pixels. Also sums frames and the pixels outside the mask.
//!
//! Correlates nothing. Memory: 8 bytes a kept event; [`Passes`] cuts the pixels into ranges that fit.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::correlate::window::FrameSelection;
use crate::dataset::{EventSource, PhotonEvent, Scratch};
use crate::engine::EngineError;

use super::memory::prefetch;
use super::pool::Pool;
use crate::engine::layout::{Layout, MASKED};

/// log2 of the pixels in a bucket: a bucket's events and results stay in the second-level cache.
pub(super) const BUCKET_SHIFT: u32 = 9;

/// Pixels in a bucket.
pub(super) const BUCKET: usize = 1 << BUCKET_SHIFT;

/// Bytes of a kept event.
pub(super) const ENTRY_BYTES: u64 = 8;

/// A kept event: place in the working order, analysis frame, count.
///
/// Bits 40-63 place, 16-39 frame, 0-15 count, so that entries sort by place, then frame.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Entry(u64);

impl Entry {
    #[inline]
    fn new(place: u32, frame: u32, count: u32) -> Self {
        Self(u64::from(place) << 40 | u64::from(frame) << 16 | u64::from(count))
    }

    #[inline]
    pub(super) fn place(self) -> u32 {
        (self.0 >> 40) as u32
    }

    #[inline]
    pub(super) fn frame(self) -> u32 {
        (self.0 >> 16) as u32 & 0xff_ffff
    }

    #[inline]
    pub(super) fn count(self) -> u32 {
        self.0 as u32 & 0xffff
    }
}

/// Number of buckets of `places` pixels.
pub(super) fn buckets(places: usize) -> usize {
    places.div_ceil(BUCKET)
}

/// The places of some buckets.
pub(super) fn places(buckets: Range<usize>, layout: &Layout) -> Range<usize> {
    let bound = |bucket: usize| (bucket * BUCKET).min(layout.len());
    bound(buckets.start)..bound(buckets.end)
}

/// The kept events of one block, filed by bucket.
#[derive(Debug, Default)]
struct Filed {
    /// Start of each bucket of the pass in `entries`, and the end.
    starts: Vec<u32>,
    entries: Vec<Entry>,
}

/// Sums that every reading of the file can yield; exact, so the order of the blocks does not matter.
#[derive(Debug)]
pub(super) struct Sums {
    /// Counts of the masked-in pixels in each analysis frame.
    pub(super) frames: Vec<u64>,
    /// Counts of each pixel of the image in the selected frames, masked in or not.
    pub(super) pixels: Vec<u64>,
    /// Kept events of each bucket.
    pub(super) per_bucket: Vec<u64>,
}

/// The kept events of a range of buckets.
#[derive(Debug)]
pub(super) struct Sorted {
    buckets: Range<usize>,
    blocks: Vec<Filed>,
}

/// Whether a reading keeps the events, or only sums.
#[derive(Debug, Clone)]
pub(super) enum Keep {
    /// Keep those of a range of buckets.
    Buckets(Range<usize>),
    /// Keep none.
    Nothing,
}

/// What a reading needs to know.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) source: &'a dyn EventSource,
    pub(super) layout: &'a Layout,
    pub(super) selection: &'a FrameSelection,
    pub(super) pool: Pool<'a>,
}

/// State of a reading thread.
struct Reader {
    scratch: Scratch,
    events: Vec<PhotonEvent>,
    /// Room for the events of a block; the first `kept_len` are the kept ones.
    kept: Vec<Entry>,
    kept_len: usize,
    pixels: Pixels,
    per_bucket: Vec<u64>,
    cursor: Vec<u32>,
}

/// Where each pixel goes, and its counts so far, side by side: an event touches one cache line.
struct Pixels {
    table: Vec<Pixel>,
    /// Sums carried over from the table.
    sums: Vec<u64>,
    /// The most that any sum in the table can be.
    largest: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pixel {
    place: u32,
    sum: u32,
}

/// Events whose counts cannot overflow a fresh 32-bit sum.
const PIECE: usize = 1 << 16;

/// How many events ahead the pixel table is fetched: memory answers within the time of about this many.
const AHEAD: usize = 32;

impl Pixels {
    fn new(layout: &Layout) -> Self {
        let table: Vec<Pixel> = layout.place.iter().map(|&place| Pixel { place, sum: 0 }).collect();
        Self { sums: vec![0; table.len()], table, largest: 0 }
    }

    /// Makes room for the counts of a piece of events.
    fn prepare(&mut self, piece: &[PhotonEvent]) {
        let counts: u64 = piece.iter().map(|event| u64::from(event.count())).sum();
        if self.largest + counts > u64::from(u32::MAX) {
            self.carry();
        }
        self.largest += counts;
    }

    fn carry(&mut self) {
        for (sum, pixel) in std::iter::zip(&mut self.sums, &mut self.table) {
            *sum += u64::from(std::mem::take(&mut pixel.sum));
        }
        self.largest = 0;
    }
}

impl Reading<'_> {
    /// Reads the whole file once.
    ///
    /// # Errors
    /// Reading errors and cancellation.
    pub(super) fn read(&self, keep: &Keep) -> Result<(Sorted, Sums), EngineError> {
        let range = match keep {
            Keep::Buckets(range) => range.clone(),
            Keep::Nothing => 0..0,
        };
        let all = buckets(self.layout.len());
        let frames: Vec<AtomicU64> = (0..self.selection.outputs()).map(|_| AtomicU64::new(0)).collect();
        let blocks = self.source.blocks();
        let units = Units::new(self.source.info().frames, blocks);
        let init = || {
            let reader = Reader {
                scratch: Scratch::default(),
                events: Vec::new(),
                kept: Vec::new(),
                kept_len: 0,
                pixels: Pixels::new(self.layout),
                per_bucket: vec![0; all],
                cursor: Vec::new(),
            };
            (reader, Vec::new())
        };
        let states = self.pool.run(blocks, init, |(reader, done): &mut (Reader, Vec<(usize, Filed)>), block| {
            self.source.read_block(block, &mut reader.scratch, &mut reader.events).map_err(EngineError::Read)?;
            reader.select(self, &frames, &range);
            if !range.is_empty() {
                done.push((block, reader.file(&range)));
            }
            self.pool.observer.advance(units.of(block));
            Ok(())
        })?;
        let mut sums = Sums {
            frames: frames.into_iter().map(AtomicU64::into_inner).collect(),
            pixels: vec![0; self.layout.place.len()],
            per_bucket: vec![0; all],
        };
        let mut filed = Vec::with_capacity(blocks);
        for (mut reader, done) in states {
            reader.pixels.carry();
            add(&mut sums.pixels, &reader.pixels.sums);
            add(&mut sums.per_bucket, &reader.per_bucket);
            filed.extend(done);
        }
        filed.sort_unstable_by_key(|(block, _)| *block);
        let blocks = filed.into_iter().map(|(_, part)| part).collect();
        Ok((Sorted { buckets: range, blocks }, sums))
    }
}

impl Reader {
    /// Keeps the block's events of masked-in pixels in selected frames, and sums.
    ///
    /// Whether a pixel is masked in is as good as random to the processor, so there is no branch on it.
    fn select(&mut self, reading: &Reading<'_>, frames: &[AtomicU64], range: &Range<usize>) {
        self.kept.resize(self.events.len().max(self.kept.len()), Entry(0));
        self.kept_len = 0;
        let (mut raw, mut output, mut sum) = (u32::MAX, None, 0u64);
        let flush = |output: Option<u64>, sum: u64| {
            if let (Some(output), true) = (output, sum > 0) {
                frames[output as usize].fetch_add(sum, Ordering::Relaxed);
            }
        };
        for piece in self.events.chunks(PIECE) {
            self.pixels.prepare(piece);
            let table = &mut self.pixels.table[..];
            for (index, &event) in piece.iter().enumerate() {
                if let Some(ahead) = piece.get(index + AHEAD) {
                    prefetch(table, ahead.pixel() as usize);
                }
                if event.frame() != raw {
                    flush(output, sum);
                    raw = event.frame();
                    output = reading.selection.output_of(u64::from(raw));
                    sum = 0;
                }
                let Some(frame) = output else { continue };
                let pixel = &mut table[event.pixel() as usize];
                pixel.sum += event.count();
                let inside = pixel.place != MASKED;
                sum += if inside { u64::from(event.count()) } else { 0 };
                self.kept[self.kept_len] = Entry::new(pixel.place, frame as u32, event.count());
                self.kept_len += usize::from(inside);
            }
        }
        flush(output, sum);
        self.count(range);
    }

    /// Counts the kept events of each bucket, in `per_bucket`; `cursor` gets where those in `range` start.
    fn count(&mut self, range: &Range<usize>) {
        self.cursor.clear();
        self.cursor.resize(self.per_bucket.len(), 0);
        for entry in &self.kept[..self.kept_len] {
            self.cursor[(entry.place() >> BUCKET_SHIFT) as usize] += 1;
        }
        std::iter::zip(&mut self.per_bucket, &self.cursor).for_each(|(sum, &count)| *sum += u64::from(count));
        let mut start = 0;
        self.cursor.truncate(range.end);
        self.cursor.drain(..range.start);
        for count in &mut self.cursor {
            start += std::mem::replace(count, start);
        }
        self.cursor.push(start);
    }

    /// The kept events of `range`, by bucket, in the block's order within a bucket.
    fn file(&mut self, range: &Range<usize>) -> Filed {
        let starts = self.cursor.clone();
        let mut entries = vec![Entry(0); starts[range.len()] as usize];
        for &entry in &self.kept[..self.kept_len] {
            let bucket = (entry.place() >> BUCKET_SHIFT) as usize;
            if range.contains(&bucket) {
                let at = &mut self.cursor[bucket - range.start];
                entries[*at as usize] = entry;
                *at += 1;
            }
        }
        Filed { starts, entries }
    }
}

impl Sorted {
    /// The buckets that this reading kept.
    pub(super) fn buckets(&self) -> Range<usize> {
        self.buckets.clone()
    }

    /// Puts the events of a bucket, sorted by place and then frame, into `out`; `starts[k]..starts[k + 1]` are
    /// those of the bucket's `k`-th pixel.
    pub(super) fn bucket(&self, bucket: usize, starts: &mut Vec<u32>, out: &mut Vec<Entry>) {
        let index = bucket - self.buckets.start;
        let parts = || self.blocks.iter().map(|b| &b.entries[b.starts[index] as usize..b.starts[index + 1] as usize]);
        let mask = BUCKET as u32 - 1;
        starts.clear();
        starts.resize(BUCKET + 1, 0);
        for entry in parts().flatten() {
            starts[(entry.place() & mask) as usize + 1] += 1;
        }
        for k in 0..BUCKET {
            starts[k + 1] += starts[k];
        }
        out.clear();
        out.resize(starts[BUCKET] as usize, Entry(0));
        let mut cursor = starts.clone();
        for &entry in parts().flatten() {
            let at = &mut cursor[(entry.place() & mask) as usize];
            out[*at as usize] = entry;
            *at += 1;
        }
    }
}

/// Ranges of buckets, each with at most `limit` events (or one bucket).
pub(super) fn passes(per_bucket: &[u64], limit: u64) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut events) = (0, 0);
    for (bucket, &count) in per_bucket.iter().enumerate() {
        if bucket > start && events + count > limit {
            ranges.push(start..bucket);
            (start, events) = (bucket, 0);
        }
        events += count;
    }
    ranges.push(start..per_bucket.len());
    ranges
}

/// Frames of progress that each block stands for; they add up to the frames of the file.
struct Units {
    frames: u64,
    blocks: u64,
}

impl Units {
    fn new(frames: u64, blocks: usize) -> Self {
        Self { frames, blocks: blocks as u64 }
    }

    fn of(&self, block: usize) -> u64 {
        let upto = |b: u64| self.frames * b / self.blocks;
        upto(block as u64 + 1) - upto(block as u64)
    }
}

fn add(sums: &mut [u64], more: &[u64]) {
    std::iter::zip(sums, more).for_each(|(a, b)| *a += b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_all_buckets_within_the_limit() {
        assert_eq!(passes(&[3, 3, 3, 9, 1, 1], 6), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(passes(&[1, 2], 100).first(), Some(&(0..2)));
        assert_eq!(passes(&[], 100).first(), Some(&(0..0)));
    }

    #[test]
    fn progress_adds_up_to_the_frames() {
        let units = Units::new(10_007, 13);
        assert_eq!((0..13).map(|b| units.of(b)).sum::<u64>(), 10_007);
    }
}
