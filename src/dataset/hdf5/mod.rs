//! Dense frames in HDF5: the library finds the chunks, this module reads and decodes them.
//!
//! Where a file is opened, the library builds an index of chunk addresses (`assemble`, `form`), mostly in a process apart
//! ([`super::reader`]); reading (`dense`) needs the index and `pread` alone, so that any number of threads decode at the
//! same time. Whatever a file says about sizes is checked before anything is allocated for it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::reader::{BrokenAnswer, Desk, Files, Question, Told, ask, no_nodes};
use super::{DatasetError, FrameSource, Opener, PixelType, Scratch, SourceInfo};

mod assemble;
mod bitshuffle;
mod codec;
mod dense;
pub(super) mod ffi;
mod filter;
mod form;
pub mod ftf;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod index;
mod locate;
mod transpose;
pub mod write;

use assemble::Slab;
use dense::Dense;
use form::Frames;

pub(super) use assemble::Assembly;

/// Where frames are in an HDF5 file.
pub const FRAMES: &str = "/entry/data/data";

/// The environment variable with which the HDF5 library locks the files that it opens, or does not.
pub const FILE_LOCKING: &str = "HDF5_USE_FILE_LOCKING";

/// Whether the HDF5 library locks the files that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryLocks {
    /// It does, unless the environment says otherwise.
    On,
    /// It does not.
    Off,
}

/// What [`FILE_LOCKING`] says.
pub fn library_locks() -> LibraryLocks {
    match std::env::var(FILE_LOCKING) {
        Ok(value) if value == "FALSE" || value == "0" => LibraryLocks::Off,
        _ => LibraryLocks::On,
    }
}

/// Opens the frames of `/entry/data/data` (frames, rows, columns), which may be a virtual dataset, or of the
/// datasets `/entry/data/data_000001`, ... of an Eiger master file, in order.
///
/// # Errors
/// A file that is missing or may not be read (also a linked one, by its name) or not HDF5; shapes, types, layouts and filters that are
/// not supported; chunks that are not within their file.
pub fn open_frames(opener: &Opener, path: &Path) -> Result<Box<dyn FrameSource>, DatasetError> {
    ask(opener, &Question::Frames(path.to_owned()), &mut no_nodes, |told, files| {
        let Told::Frames(assembly) = told else { return Err(BrokenAnswer::OTHER) };
        Ok(Box::new(Stack::new(path, assembly, files)?) as Box<dyn FrameSource>)
    })
}

/// Has the library find the frames.
///
/// # Errors
/// As [`open_frames`].
pub(super) fn read(desk: &dyn Desk, path: &Path) -> Result<Assembly, DatasetError> {
    Assembly::find(desk, path)
}

/// Frames of one or several datasets, one after the other.
struct Stack {
    info: SourceInfo,
    frames: Frames,
    sources: Vec<Dense>,
    slabs: Vec<Slab>,
}

impl Stack {
    fn new(path: &Path, assembly: Assembly, files: &Files<'_>) -> Result<Self, BrokenAnswer> {
        assembly.check()?;
        let Assembly { frames, sources, slabs } = assembly;
        frames.check()?;
        let sources = sources.into_iter().map(|form| Dense::new(form, files)).collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<(PathBuf, u64)> = Vec::new();
        let own = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        files.push((path.to_owned(), own));
        for source in &sources {
            if files.iter().all(|(file, _)| file != source.path()) {
                files.push((source.path().to_owned(), source.length()));
            }
        }
        let storage = sources.first().map_or_else(|| "empty".to_owned(), Dense::describe);
        let info = SourceInfo {
            format: format!("HDF5 {}, {storage}", type_name(frames.pixel)),
            bytes: files.iter().map(|&(_, bytes)| bytes).sum(),
            files: files.into_iter().map(|(file, _)| file).collect(),
            shape: frames.shape,
            frames: frames.count,
        };
        Ok(Self { info, frames, sources, slabs })
    }

    /// The first slab that ends after a frame.
    fn slab_after(&self, frame: u64) -> Option<&Slab> {
        self.slabs.get(self.slabs.partition_point(|slab| slab.end() <= frame))
    }
}

impl FrameSource for Stack {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        self.frames.pixel
    }

    fn marks_saturation(&self) -> bool {
        self.frames.pixel.saturation().is_some()
    }

    fn frames_per_chunk(&self) -> usize {
        self.sources.iter().map(Dense::frames_per_chunk).max().unwrap_or(1)
    }

    fn may_have_counts(&self, frame: u64) -> bool {
        match self.slab_after(frame).filter(|slab| slab.first <= frame) {
            Some(slab) => self.sources[slab.source].may_have_counts(slab.in_source(frame)),
            None => !self.frames.fill_is_zero(),
        }
    }

    fn read_frames(&self, range: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(
            range.start <= range.end && range.end <= self.frames.count,
            "frames {range:?} of {}",
            self.frames.count
        );
        assert_eq!(out.len() as u64, (range.end - range.start) * self.frames.frame_bytes() as u64, "bytes of frames");
        let (mut frame, mut rest) = (range.start, out);
        while frame < range.end {
            let slab = self.slab_after(frame);
            let held = slab.filter(|slab| slab.first <= frame);
            let end = held.map_or_else(|| slab.map_or(range.end, |next| next.first), Slab::end).min(range.end);
            let (part, after) = rest.split_at_mut((end - frame) as usize * self.frames.frame_bytes());
            match held {
                Some(slab) => {
                    self.sources[slab.source].read(slab.in_source(frame)..slab.in_source(end), scratch, part)?;
                }
                None => {
                    self.frames.fill(part);
                    self.frames.to_native(part);
                }
            }
            (frame, rest) = (end, after);
        }
        Ok(())
    }
}

fn type_name(pixel: PixelType) -> &'static str {
    match pixel {
        PixelType::U8 => "u8",
        PixelType::U16 => "u16",
        PixelType::U32 => "u32",
        PixelType::I16 => "i16",
        PixelType::I32 => "i32",
        PixelType::F32 => "f32",
    }
}

#[cfg(test)]
mod tests;
