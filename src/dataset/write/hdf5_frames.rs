//! Writes dense frames to one HDF5 file, or to the data files of an Eiger master.
//!
//! Frames are filled and encoded in parallel, some at a time, and stored in order. Pixels without a value carry
//! the type's maximum.

use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::tree::Tree;
use super::{Sink, too_bright};
use crate::dataset::hdf5::write::{FrameLayout, FrameWriter};
use crate::dataset::{DatasetError, PixelType};
use crate::simulate::{Layout, Window};

const DATASET: &str = "/entry/data/data";

/// Bytes of the frames that are filled at a time.
const BATCH_BYTES: usize = 64 << 20;

/// Files that are being written.
pub(super) struct Frames {
    layout: FrameLayout,
    /// A frame without photons.
    blank: Vec<u8>,
    master: Option<PathBuf>,
    parts: Vec<(PathBuf, Range<u64>)>,
    part: usize,
    writer: Option<FrameWriter>,
}

impl Frames {
    /// All frames in the file `path`.
    pub(super) fn single(path: &Path, frames: FrameLayout, layout: &Layout) -> Self {
        Self::new(None, vec![(path.to_owned(), 0..frames.frames)], frames, layout)
    }

    /// `per_file` frames in each file but the first, which links to the others.
    pub(super) fn linked(paths: &[PathBuf], frames: FrameLayout, per_file: NonZeroU64, layout: &Layout) -> Self {
        let (size, end) = (per_file.get(), frames.frames);
        let begin = |k: usize| (k as u64).saturating_mul(size).min(end);
        let parts = paths[1..].iter().enumerate().map(|(k, path)| (path.clone(), begin(k)..begin(k + 1))).collect();
        Self::new(Some(paths[0].clone()), parts, frames, layout)
    }

    fn new(master: Option<PathBuf>, parts: Vec<(PathBuf, Range<u64>)>, frames: FrameLayout, layout: &Layout) -> Self {
        let mut blank = vec![0; frames.frame_bytes()];
        if let Some(mark) = frames.pixel.saturation() {
            let gaps = (0u32..).zip(&layout.labels.blemish).filter(|(_, good)| !**good).map(|(pixel, _)| pixel);
            gaps.chain(layout.dead.iter().copied()).for_each(|pixel| put(&mut blank, frames.pixel, pixel, mark));
        }
        Self { layout: frames, blank, master, parts, part: 0, writer: None }
    }

    fn encode(&self, window: &Window, frame: usize) -> Result<Vec<u8>, DatasetError> {
        let mut bytes = self.blank.clone();
        let limit = limit(self.layout.pixel);
        for photon in window.photons(frame) {
            if photon.count > limit {
                let path = &self.parts[self.part].0;
                return Err(too_bright(path, window.first() + frame as u64, photon.count, limit));
            }
            put(&mut bytes, self.layout.pixel, photon.pixel, photon.count);
        }
        let mut chunk = Vec::new();
        self.layout.encode(&bytes, &mut chunk);
        Ok(chunk)
    }

    fn store(&mut self, frame: u64, chunk: &[u8]) -> Result<(), DatasetError> {
        if frame == self.parts[self.part].1.end {
            self.close_part()?;
            self.part += 1;
        }
        let (path, range) = &self.parts[self.part];
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let layout = FrameLayout { frames: range.end - range.start, ..self.layout };
                none.insert(FrameWriter::create(path, DATASET, layout)?)
            }
        };
        writer.write_encoded(frame - range.start, chunk)
    }

    fn close_part(&mut self) -> Result<(), DatasetError> {
        self.writer.take().map_or(Ok(()), FrameWriter::finish)
    }
}

impl Sink for Frames {
    fn window(&mut self, window: &Window) -> Result<(), DatasetError> {
        let batch = (BATCH_BYTES / self.layout.frame_bytes()).max(1);
        for first in (0..window.frames()).step_by(batch) {
            let frames = first..(first + batch).min(window.frames());
            let chunks: Vec<_> =
                frames.clone().into_par_iter().map(|k| self.encode(window, k)).collect::<Result<_, _>>()?;
            for (k, chunk) in frames.zip(&chunks) {
                self.store(window.first() + k as u64, chunk)?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), DatasetError> {
        self.close_part()?;
        let Some(master) = &self.master else { return Ok(()) };
        let tree = Tree::create(master)?;
        tree.group("entry", &[("NX_class", "NXentry")])?;
        tree.group("entry/data", &[("NX_class", "NXdata")])?;
        for (k, (path, _)) in self.parts.iter().enumerate() {
            let file = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
            tree.link(&format!("entry/data/data_{:06}", k + 1), &file, DATASET)?;
        }
        tree.close()
    }
}

/// The largest count that is not a mark.
fn limit(pixel: PixelType) -> u32 {
    match pixel {
        PixelType::U8 => u32::from(u8::MAX) - 1,
        PixelType::U16 => u32::from(u16::MAX) - 1,
        PixelType::U32 => u32::MAX - 1,
        PixelType::I16 => i16::MAX as u32,
        PixelType::I32 => i32::MAX as u32,
        // Beyond this floats skip numbers.
        PixelType::F32 => 1 << f32::MANTISSA_DIGITS,
    }
}

/// Sets a pixel of a frame; `value` is within [`limit`] or the type's mark.
fn put(frame: &mut [u8], kind: PixelType, pixel: u32, value: u32) {
    let place = pixel as usize * kind.size();
    let target = &mut frame[place..place + kind.size()];
    match kind {
        PixelType::U8 => target[0] = value as u8,
        PixelType::U16 | PixelType::I16 => target.copy_from_slice(&(value as u16).to_le_bytes()),
        PixelType::U32 | PixelType::I32 => target.copy_from_slice(&value.to_le_bytes()),
        PixelType::F32 => target.copy_from_slice(&(value as f32).to_le_bytes()),
    }
}
