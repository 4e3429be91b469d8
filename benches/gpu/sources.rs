//! Datasets in memory, so that a case measures the engine and no file system: made once, and repeated.

use std::ops::Range;
use std::sync::Arc;

use speckled::correlate::bins::Shape;
use speckled::dataset::{
    DatasetError, EventSource, FrameSource, PackedFrames, PhotonEvent, PixelType, Scratch, SourceInfo,
};

/// Frames that are made; a dataset repeats them.
const KEPT: u64 = 64;

/// A multiplicative hash (Knuth) whose upper bits look random.
fn noise(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn info(shape: Shape, frames: u64) -> SourceInfo {
    SourceInfo { format: "memory".into(), files: Vec::new(), bytes: 0, shape, frames }
}

/// How the counts of a frame are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    U8,
    U16,
    F32,
    /// Two bits a pixel.
    Packed,
}

impl Stored {
    /// Bits of a pixel.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Self::Packed => 2,
            Self::U8 => 8,
            Self::U16 => 16,
            Self::F32 => 32,
        }
    }
}

/// Frames in memory: about one pixel in four has a photon.
#[derive(Clone)]
pub(crate) struct Frames {
    info: SourceInfo,
    stored: Stored,
    kept: Arc<Vec<u8>>,
}

impl Frames {
    /// # Panics
    /// If packed frames are no whole bytes.
    pub(crate) fn new(shape: Shape, frames: u64, stored: Stored) -> Self {
        let count = |number: u64| u8::from(noise(number) >> 62 == 0);
        let all = KEPT * shape.pixels() as u64;
        let kept = match stored {
            Stored::U8 => (0..all).map(count).collect(),
            Stored::U16 => (0..all).flat_map(|number| u16::from(count(number)).to_ne_bytes()).collect(),
            Stored::F32 => (0..all).flat_map(|number| f32::from(count(number)).to_ne_bytes()).collect(),
            Stored::Packed => {
                assert!(shape.pixels().is_multiple_of(4), "whole bytes");
                let four = |first: u64| (0..4).map(|at| count(first + at) << (2 * at)).sum();
                (0..all).step_by(4).map(four).collect()
            }
        };
        Self { info: info(shape, frames), stored, kept: Arc::new(kept) }
    }

    fn copy(&self, frames: Range<u64>, out: &mut [u8]) {
        let size = self.kept.len() / KEPT as usize;
        for (frame, out) in std::iter::zip(frames, out.chunks_exact_mut(size)) {
            let begin = (frame % KEPT) as usize * size;
            out.copy_from_slice(&self.kept[begin..begin + size]);
        }
    }
}

impl FrameSource for Frames {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        match self.stored {
            Stored::U8 | Stored::Packed => PixelType::U8,
            Stored::U16 => PixelType::U16,
            Stored::F32 => PixelType::F32,
        }
    }

    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        if self.stored != Stored::Packed {
            self.copy(frames, out);
            return Ok(());
        }
        let mut packed = vec![0; self.kept.len() / KEPT as usize];
        for (frame, out) in std::iter::zip(frames, out.chunks_exact_mut(self.info.shape.pixels())) {
            self.copy(frame..frame + 1, &mut packed);
            out.iter_mut().enumerate().for_each(|(at, count)| *count = packed[at / 4] >> (at % 4 * 2) & 3);
        }
        Ok(())
    }

    fn packed_frames(&self) -> Option<&dyn PackedFrames> {
        (self.stored == Stored::Packed).then_some(self)
    }
}

impl PackedFrames for Frames {
    fn cells(&self) -> usize {
        self.info.shape.pixels()
    }

    fn pixel(&self, cell: usize) -> Option<usize> {
        Some(cell)
    }

    fn read_packed(&self, frames: Range<u64>, out: &mut [u8]) -> Result<(), DatasetError> {
        self.copy(frames, out);
        Ok(())
    }
}

/// Photons in memory, the same in all frames of a block but for their number.
#[derive(Clone)]
pub(crate) struct Photons {
    info: SourceInfo,
    /// Frame within a block, pixel.
    kept: Arc<Vec<(u32, u32)>>,
}

impl Photons {
    /// With that part of the pixels lit in a frame.
    pub(crate) fn new(shape: Shape, frames: u64, occupancy: f64) -> Self {
        let limit = (occupancy * u64::MAX as f64) as u64;
        let all = (0..KEPT as u32).flat_map(|frame| (0..shape.pixels() as u32).map(move |pixel| (frame, pixel)));
        let lit = |&(frame, pixel): &(u32, u32)| noise(u64::from(frame) << 32 | u64::from(pixel)) < limit;
        Self { info: info(shape, frames), kept: Arc::new(all.filter(lit).collect()) }
    }
}

impl EventSource for Photons {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn events_bound(&self) -> u64 {
        self.blocks() as u64 * self.kept.len() as u64
    }

    fn blocks(&self) -> usize {
        self.info.frames.div_ceil(KEPT) as usize
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        let first = block as u32 * KEPT as u32;
        let own = self.kept.iter().map(|&(frame, pixel)| (first + frame, pixel));
        out.clear();
        out.extend(
            own.filter(|(frame, _)| u64::from(*frame) < self.info.frames).map(|(f, p)| PhotonEvent::new(f, p, 1)),
        );
        Ok(())
    }
}
