//! Dense frames with few photons, seen as events.
//!
//! Finds the occupied pixels of the selected frames; does not correlate. Unsigned integer types only.

use crate::correlate::bins::Partition;
use crate::correlate::window::FrameSelection;
use crate::dataset::{DatasetError, EventSource, FrameSource, PhotonEvent, PixelType, Scratch, SourceInfo};

use super::Saturated;

/// Bytes of decoded frames that make a block of events.
const BLOCK_BYTES: usize = 4 << 20;

/// Elements that are skipped together when all are zero.
const GROUP: usize = 32;

/// A [`FrameSource`] as an [`EventSource`] of the frames that are selected.
pub(super) struct FramesAsEvents<'a> {
    source: &'a dyn FrameSource,
    selection: FrameSelection,
    found: &'a Saturated,
    counts: Counts,
    masked_in: Vec<bool>,
    frames_per_block: u64,
}

/// The element types whose values are all counts.
#[derive(Debug, Clone, Copy)]
enum Counts {
    U8,
    U16,
    U32,
}

impl Counts {
    fn of(pixel: PixelType) -> Option<Self> {
        match pixel {
            PixelType::U8 => Some(Self::U8),
            PixelType::U16 => Some(Self::U16),
            PixelType::U32 => Some(Self::U32),
            PixelType::I16 | PixelType::I32 | PixelType::F32 => None,
        }
    }
}

impl<'a> FramesAsEvents<'a> {
    /// None where the frames cannot be told as events: by their type, or because they or their pixels are too many.
    pub(super) fn new(
        source: &'a dyn FrameSource,
        selection: FrameSelection,
        partition: &Partition,
        found: &'a Saturated,
    ) -> Option<Self> {
        let counts = Counts::of(source.pixel_type())?;
        let info = source.info();
        if info.frames > PhotonEvent::MAX_FRAMES || info.shape.pixels() > PhotonEvent::MAX_PIXELS {
            return None;
        }
        let mut masked_in = vec![false; partition.shape().pixels()];
        for &pixel in partition.pixels() {
            masked_in[pixel as usize] = true;
        }
        let frame_bytes = partition.shape().pixels() * source.pixel_type().size();
        let chunk = source.frames_per_chunk().max(1);
        let frames_per_block = (BLOCK_BYTES / frame_bytes.max(1)).next_multiple_of(chunk).max(chunk) as u64;
        Some(Self { source, selection, found, counts, masked_in, frames_per_block })
    }

    /// First block that holds a selected frame.
    fn first_block(&self) -> u64 {
        self.selection.first() / self.frames_per_block
    }

    fn emit(&self, frame: u64, pixel: usize, count: u32, out: &mut Vec<PhotonEvent>) {
        if Some(count) == self.found.value && self.masked_in[pixel] {
            self.found.add(pixel as u32, frame);
            return;
        }
        let mut left = count;
        while left > 0 {
            let part = left.min(PhotonEvent::MAX_COUNT);
            out.push(PhotonEvent::new(frame as u32, pixel as u32, part as u16));
            left -= part;
        }
    }

    fn scan<T: Copy + Default + PartialEq + Into<u32>>(&self, frame: u64, counts: &[T], out: &mut Vec<PhotonEvent>) {
        for (group, values) in counts.chunks(GROUP).enumerate() {
            // no early exit: the compiler turns this into a few vector instructions
            let occupied = values.iter().fold(false, |any, v| any | (*v != T::default()));
            if occupied {
                for (offset, &value) in values.iter().enumerate() {
                    if value != T::default() {
                        self.emit(frame, group * GROUP + offset, value.into(), out);
                    }
                }
            }
        }
    }

    fn scan_frame(&self, frame: u64, data: &[u8], out: &mut Vec<PhotonEvent>) {
        match self.counts {
            Counts::U8 => self.scan(frame, data, out),
            Counts::U16 => self.scan(frame, bytemuck::cast_slice::<u8, u16>(data), out),
            Counts::U32 => self.scan(frame, bytemuck::cast_slice::<u8, u32>(data), out),
        }
    }
}

impl EventSource for FramesAsEvents<'_> {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn events_bound(&self) -> u64 {
        // occupancy is below the limit that led here; twice that is a bound that a burst does not break badly
        let pixels = self.selection.outputs() as f64 * self.selection.avg() as f64 * self.masked_in.len() as f64;
        (pixels * super::SPARSE_OCCUPANCY * 2.0) as u64
    }

    fn blocks(&self) -> usize {
        (self.selection.end().div_ceil(self.frames_per_block) - self.first_block()) as usize
    }

    fn read_block(&self, block: usize, scratch: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        out.clear();
        let frame_bytes = self.masked_in.len() * self.source.pixel_type().size();
        let first = (self.first_block() + block as u64) * self.frames_per_block;
        let frames = first..(first + self.frames_per_block).min(self.source.info().frames);
        let wanted = |frame: u64| self.selection.output_of(frame).is_some() && self.source.may_have_counts(frame);
        let mut buffer = std::mem::take(&mut scratch.frames);
        // frames that are stored together are read together, others only when wanted
        let together = self.source.frames_per_chunk().max(1) as u64;
        buffer.resize((together as usize * frame_bytes).div_ceil(size_of::<u32>()), 0);
        for start in frames.clone().step_by(together as usize) {
            let part = start..(start + together).min(frames.end);
            if !part.clone().any(wanted) {
                continue;
            }
            let bytes =
                &mut bytemuck::cast_slice_mut::<u32, u8>(&mut buffer)[..(part.end - start) as usize * frame_bytes];
            self.source.read_frames(part.clone(), scratch, bytes)?;
            for (frame, data) in part.zip(bytes.chunks_exact(frame_bytes)) {
                if wanted(frame) {
                    self.scan_frame(frame, data, out);
                }
            }
        }
        scratch.frames = buffer;
        Ok(())
    }
}
