//! Writes IMM files: a 1024-byte header before each frame, then (pixel, count) lists or u16 images.

use std::path::Path;

use super::{Bytes, Sink, too_bright};
use crate::correlate::bins::Shape;
use crate::dataset::DatasetError;
use crate::simulate::{Photon, Scene, Window};

const HEADER_BYTES: usize = 1024;

/// How the pixels of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// i32 pixel indices, then i16 counts.
    Sparse,
    /// Every pixel as u16.
    Dense,
}

/// A file that is being written.
pub(super) struct Imm {
    file: Bytes,
    coding: Coding,
    shape: Shape,
    frame_time: f64,
    photons: Vec<Photon>,
    payload: Vec<u8>,
}

impl Imm {
    pub(super) fn create(path: &Path, scene: &Scene, coding: Coding) -> Result<Self, DatasetError> {
        let file = Bytes::create(path)?;
        let (shape, frame_time) = (scene.shape, scene.frame_time);
        Ok(Self { file, coding, shape, frame_time, photons: Vec::new(), payload: Vec::new() })
    }

    fn frame(&mut self, frame: u64) -> Result<(), DatasetError> {
        let limit = self.coding.limit();
        if let Some(bright) = self.photons.iter().find(|p| p.count > limit) {
            return Err(too_bright(&self.file.path, frame, bright.count, limit));
        }
        self.payload.clear();
        match self.coding {
            Coding::Sparse => {
                self.payload.extend(self.photons.iter().flat_map(|p| p.pixel.to_le_bytes()));
                self.payload.extend(self.photons.iter().flat_map(|p| (p.count as u16).to_le_bytes()));
            }
            Coding::Dense => {
                self.payload.resize(2 * self.shape.pixels(), 0);
                for photon in &self.photons {
                    let place = 2 * photon.pixel as usize;
                    self.payload[place..place + 2].copy_from_slice(&(photon.count as u16).to_le_bytes());
                }
            }
        }
        self.file.write(&self.header(frame))?;
        self.file.write(&self.payload)
    }

    fn header(&self, frame: u64) -> [u8; HEADER_BYTES] {
        let (mode, compression, length) = match self.coding {
            Coding::Sparse => (6, 6, self.photons.len()),
            Coding::Dense => (2, 0, self.shape.pixels()),
        };
        let (rows, cols) = (self.shape.rows as u32, self.shape.cols as u32);
        let numbers = [
            (0, mode),
            (4, compression),
            (56, frame as u32),
            (88, rows - 1), // row_end
            (96, cols - 1), // col_end
            (100, 1),       // row_bin
            (104, 1),       // col_bin
            (108, rows),
            (112, cols),
            (116, 2), // bytes of a count
            (152, length as u32),
            (156, 1),                // roi_number
            (160, frame as u32 + 1), // buffer_number
        ];
        let mut header = [0; HEADER_BYTES];
        header[60..64].copy_from_slice(b".imm");
        for (offset, number) in numbers {
            header[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        let elapsed = frame as f64 * self.frame_time;
        for (offset, number) in [(128, elapsed), (136, self.frame_time)] {
            header[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
        }
        header
    }
}

impl Coding {
    fn limit(self) -> u32 {
        match self {
            Self::Sparse => i16::MAX as u32,
            Self::Dense => u32::from(u16::MAX),
        }
    }
}

impl Sink for Imm {
    fn window(&mut self, window: &Window) -> Result<(), DatasetError> {
        for k in 0..window.frames() {
            self.photons.clear();
            self.photons.extend(window.photons(k));
            self.frame(window.first() + k as u64)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), DatasetError> {
        self.file.finish()
    }
}
