//! Raw data, qmaps, metadata and result files: the only part that knows a file format.
//!
//! A raw file is either a stream of photon events or a series of dense frames; both are read in parallel,
//! block by block, from several threads, with memory bounded by the caller's buffers.
//! HDF5 is used here alone, and its library never decodes pixels: chunks are read at their file address.

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::correlate::bins::Shape;
use crate::correlate::result::{MapRows, PixelG2};

pub mod describe;
pub mod error;
pub mod hdf5;
pub mod imm;
mod links;
pub mod metadata;
mod objects;
pub mod open;
pub mod opener;
mod plain;
pub mod qmap;
pub mod reader;
pub mod result;
pub mod rigaku;
pub mod stitch;
mod tree;
mod values;
pub mod write;

pub use error::DatasetError;
pub use opener::Opener;

/// One detection: frame, pixel and count packed in 64 bits.
///
/// Bits 40-63 frame, 16-39 pixel (row * cols + col of the stitched image), 0-15 count. A count that needs
/// more bits is split over several events of the same frame and pixel, which add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhotonEvent(u64);

impl PhotonEvent {
    /// The most frames that events can number (24 bits, as in Rigaku's format).
    pub const MAX_FRAMES: u64 = 1 << 24;
    /// The most pixels that events can number.
    pub const MAX_PIXELS: usize = 1 << 24;
    /// The largest count of one event.
    pub const MAX_COUNT: u32 = u16::MAX as u32;

    /// Packs an event; the fields must be within the limits above (checked in debug builds).
    #[inline]
    pub fn new(frame: u32, pixel: u32, count: u16) -> Self {
        debug_assert!(u64::from(frame) < Self::MAX_FRAMES && (pixel as usize) < Self::MAX_PIXELS);
        Self(u64::from(frame) << 40 | u64::from(pixel) << 16 | u64::from(count))
    }

    /// Raw frame number.
    #[inline]
    pub fn frame(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// Pixel index in the image.
    #[inline]
    pub fn pixel(self) -> u32 {
        (self.0 >> 16) as u32 & 0xff_ffff
    }

    /// Counts.
    #[inline]
    pub fn count(self) -> u32 {
        self.0 as u32 & 0xffff
    }
}

// SAFETY: `PhotonEvent` is a transparent wrapper of a u64, for which all bytes are valid.
unsafe impl bytemuck::Zeroable for PhotonEvent {}
// SAFETY: as above; no padding, no interior mutability, `Copy` and 'static.
unsafe impl bytemuck::Pod for PhotonEvent {}

/// What a raw file is, for messages, `info` and provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// Format in words, as `Rigaku 64-bit events` or `HDF5 u16, bitshuffle-lz4`.
    pub format: String,
    /// All files that make the dataset, the named one first.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Image shape, of the stitched image for several modules.
    pub shape: Shape,
    /// Number of frames.
    pub frames: u64,
}

/// A file of photon events.
///
/// Blocks are numbered; for each pixel, the events of ascending blocks are in ascending frames, and so are the
/// events within a block. Blocks hold at most a few MiB and are read from any thread.
pub trait EventSource: Send + Sync {
    /// What this is.
    fn info(&self) -> &SourceInfo;

    /// Number of events, if the file tells it without being read through; an upper bound otherwise.
    fn events_bound(&self) -> u64;

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Replaces the content of `out` by the events of a block.
    ///
    /// # Errors
    /// Events out of range or out of order, with the byte offset; IO errors with the path.
    fn read_block(&self, block: usize, scratch: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError>;
}

/// Element type of dense frames, native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PixelType {
    /// Unsigned 8 bits.
    U8,
    /// Unsigned 16 bits.
    U16,
    /// Unsigned 32 bits.
    U32,
    /// Signed 16 bits.
    I16,
    /// Signed 32 bits.
    I32,
    /// IEEE 32 bits.
    F32,
}

impl PixelType {
    /// Bytes of a pixel.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }

    /// The value that marks a gap, dead or saturated pixel in HDF5 data; None for types that have none.
    pub fn saturation(self) -> Option<u32> {
        match self {
            Self::U8 => Some(u32::from(u8::MAX)),
            Self::U16 => Some(u32::from(u16::MAX)),
            Self::U32 => Some(u32::MAX),
            Self::I16 | Self::I32 | Self::F32 => None,
        }
    }
}

/// A file of dense frames.
pub trait FrameSource: Send + Sync {
    /// What this is.
    fn info(&self) -> &SourceInfo;

    /// Element type of the frames that `read_frames` yields.
    fn pixel_type(&self) -> PixelType;

    /// True when the type's maximum marks pixels without a value (see [`PixelType::saturation`]).
    fn marks_saturation(&self) -> bool;

    /// Frames that are stored, and so decoded, together; ranges that are multiples of it are read once.
    fn frames_per_chunk(&self) -> usize;

    /// False when a frame is known, without reading it, to hold no counts at all.
    fn may_have_counts(&self, frame: u64) -> bool {
        let _ = frame;
        true
    }

    /// Reads and decodes frames, row-major, native byte order, into `out` (exactly the frames' bytes).
    ///
    /// # Errors
    /// A chunk that is missing, truncated or does not decode, with path, frame and byte offset.
    fn read_frames(&self, frames: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError>;

    /// The same frames as they are stored, if that is four pixels a byte: for who can use them so.
    fn packed_frames(&self) -> Option<&dyn PackedFrames> {
        None
    }
}

/// Frames of two bits a pixel, as they are stored: cells, four a byte, the first in the lowest bits.
pub trait PackedFrames: Send + Sync {
    /// Cells of a frame: a multiple of four.
    fn cells(&self) -> usize;

    /// The pixel of the image (row * cols + col) that a cell shows; None = none. No two show the same.
    fn pixel(&self, cell: usize) -> Option<usize>;

    /// Reads frames into `out`, exactly `cells() / 4` bytes each.
    ///
    /// # Errors
    /// As [`FrameSource::read_frames`].
    fn read_packed(&self, frames: Range<u64>, out: &mut [u8]) -> Result<(), DatasetError>;
}

/// A raw dataset.
pub enum Source {
    /// Photon events.
    Events(Box<dyn EventSource>),
    /// Dense frames.
    Frames(Box<dyn FrameSource>),
}

impl Source {
    /// What this is.
    pub fn info(&self) -> &SourceInfo {
        match self {
            Self::Events(source) => source.info(),
            Self::Frames(source) => source.info(),
        }
    }
}

/// Takes what a correlation yields while it runs, since all of it may be larger than memory.
pub trait ResultSink: Send {
    /// Rows of a map of so many frames that are stored together.
    fn rows_together(&self, frames: usize) -> usize;

    /// Stores the next rows of a two-time map. Maps come one after the other, each from its first row to its last; all
    /// but the last rows are a multiple of [`Self::rows_together`].
    ///
    /// # Errors
    /// Rows out of order, a full disk.
    fn map_rows(&mut self, rows: MapRows<'_>) -> Result<(), DatasetError>;

    /// Stores the correlations of some pixels. Each pixel comes once, in any order, always with the same delays.
    ///
    /// # Errors
    /// A full disk.
    fn pixel_g2(&mut self, pixels: PixelG2<'_>) -> Result<(), DatasetError>;
}

/// A sink that stores nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unstored;

impl ResultSink for Unstored {
    fn rows_together(&self, _: usize) -> usize {
        1
    }

    fn map_rows(&mut self, _: MapRows<'_>) -> Result<(), DatasetError> {
        Ok(())
    }

    fn pixel_g2(&mut self, _: PixelG2<'_>) -> Result<(), DatasetError> {
        Ok(())
    }
}

/// Buffers of one reading thread, kept from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Bytes as they are in the file.
    pub raw: Vec<u8>,
    /// Bytes between two filters of a pipeline.
    pub filtered: Vec<u8>,
    /// Decoded bytes of a chunk that is larger than what was asked for.
    pub chunk: Vec<u8>,
    /// Decoded frames; not touched by `read_frames`, whose output it may be. Aligned for every pixel type.
    pub frames: Vec<u32>,
}
