//! How frames come to the device: as they are decoded, or, where several pixels share a byte, as they are stored. Either
//! way a frame is some cells, a count each, of which most show a pixel of the image.

use std::ops::Range;

use crate::dataset::{DatasetError, FrameSource, PackedFrames, Scratch};
use crate::engine::cuda::NONE;
use crate::engine::cuda::device::Counts;
use crate::engine::layout::{Layout, MASKED};

/// Frames as they come.
pub(super) enum Stored<'a> {
    /// The pixels of the image in their order.
    Decoded(&'a dyn FrameSource),
    /// Four cells a byte.
    Packed {
        source: &'a dyn PackedFrames,
        /// The pixel of each cell, or [`NONE`].
        pixels: Vec<u32>,
    },
}

impl<'a> Stored<'a> {
    /// As they are stored, if all pixels that are correlated are shown there; else each count decoded.
    pub(super) fn new(source: &'a dyn FrameSource, layout: &Layout) -> Self {
        if let Some(packed) = source.packed_frames() {
            let pixel = |cell| packed.pixel(cell).map_or(NONE, |pixel| pixel as u32);
            let pixels: Vec<u32> = (0..packed.cells()).map(pixel).collect();
            let shown = pixels.iter().filter(|&&pixel| pixel != NONE && layout.place[pixel as usize] != MASKED);
            if shown.count() == layout.len() {
                return Self::Packed { source: packed, pixels };
            }
        }
        Self::Decoded(source)
    }

    /// What a count is.
    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Decoded(source) => Counts::Pixels(source.pixel_type()),
            Self::Packed { .. } => Counts::TwoBits,
        }
    }

    /// Cells of a frame.
    pub(super) fn cells(&self) -> usize {
        match self {
            Self::Decoded(source) => source.info().shape.pixels(),
            Self::Packed { pixels, .. } => pixels.len(),
        }
    }

    /// Bytes of a frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.counts().bytes(self.cells())
    }

    /// Frames that are read together.
    pub(super) fn frames_per_chunk(&self) -> u64 {
        match self {
            Self::Decoded(source) => source.frames_per_chunk().max(1) as u64,
            Self::Packed { .. } => 1,
        }
    }

    /// The pixel of a cell, if it shows one.
    pub(super) fn pixel(&self, cell: usize) -> Option<u32> {
        match self {
            Self::Decoded(_) => Some(cell as u32),
            Self::Packed { pixels, .. } => Some(pixels[cell]).filter(|&pixel| pixel != NONE),
        }
    }

    /// The place of each cell's pixel, or [`MASKED`], and the cell of each place.
    pub(super) fn places(&self, layout: &Layout) -> (Vec<u32>, Vec<u32>) {
        let mut own = vec![NONE; layout.len()];
        let places =
            (0..self.cells()).map(|cell| self.pixel(cell).map_or(MASKED, |pixel| layout.place[pixel as usize]));
        let places: Vec<u32> = places.collect();
        for (cell, &place) in places.iter().enumerate().filter(|(_, place)| **place != MASKED) {
            own[place as usize] = cell as u32;
        }
        (places, own)
    }

    /// Reads frames that follow one another.
    pub(super) fn read(&self, frames: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        match self {
            Self::Decoded(source) => source.read_frames(frames, scratch, out),
            Self::Packed { source, .. } => source.read_packed(frames, out),
        }
    }
}
