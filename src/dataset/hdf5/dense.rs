//! One dataset of dense frames in one file: reads them by what the library said of it, without the library. That is held
//! against the file first.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::filter::Pipeline;
use super::form::{ChunkedForm, DenseForm, Frames, StorageForm, fits, grid};
use super::index::{ChunkIndex, Grid, StoredChunk};
use crate::correlate::bins::Shape;
use crate::dataset::opener::Opened;
use crate::dataset::reader::{BrokenAnswer, Files};
use crate::dataset::{DatasetError, PixelType, Scratch, plain};

/// Every filter of a pipeline skipped.
const UNFILTERED: u32 = u32::MAX;

/// A dataset of frames that can be read from any thread.
#[derive(Debug)]
pub(super) struct Dense {
    opened: Arc<Opened>,
    name: String,
    /// What its frames are.
    pub(super) frames: Frames,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// In one piece from this byte on; None if nothing was ever written.
    Contiguous(Option<u64>),
    /// In the file's metadata, which the library has read.
    Compact(Vec<u8>),
    Chunked(Chunked),
}

#[derive(Debug)]
struct Chunked {
    grid: Grid<3>,
    index: ChunkIndex,
    pipeline: Pipeline,
    /// Chunks that reach beyond the dataset's end are stored without filters.
    bare_edges: bool,
}

impl Dense {
    /// Takes what the library said of a dataset.
    ///
    /// # Errors
    /// What cannot be, or is not within the file.
    pub(super) fn new(form: DenseForm, files: &Files<'_>) -> Result<Self, BrokenAnswer> {
        let DenseForm { file, name, frames, storage } = form;
        let opened = files.get(file).ok_or(BrokenAnswer("it names a file that was not opened"))?;
        frames.check()?;
        let storage = match storage {
            StorageForm::Contiguous(address) => {
                let end = |address| frames.all_bytes()?.checked_add(address);
                if address.is_some_and(|address| end(address).is_none_or(|end| end > opened.length)) {
                    return Err(BrokenAnswer("frames end beyond their file"));
                }
                Storage::Contiguous(address)
            }
            StorageForm::Compact(bytes) if frames.all_bytes() == Some(bytes.len() as u64) => Storage::Compact(bytes.0),
            StorageForm::Compact(_) => return Err(BrokenAnswer("frames have another length than their bytes")),
            StorageForm::Chunked(form) => Storage::Chunked(Chunked::new(form, &frames, &opened)?),
        };
        Ok(Self { opened, name, frames, storage })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.opened.path
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.opened.length
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DatasetError> {
        plain::read_at(&self.opened.file, &self.opened.path, buffer, offset)
    }

    /// How the frames are stored, in words.
    pub(super) fn describe(&self) -> String {
        match &self.storage {
            Storage::Chunked(chunked) => chunked.pipeline.describe(),
            Storage::Contiguous(_) | Storage::Compact(_) => "uncompressed".to_owned(),
        }
    }

    /// Frames that are decoded together.
    pub(super) fn frames_per_chunk(&self) -> usize {
        match &self.storage {
            Storage::Chunked(chunked) => chunked.grid.chunk()[0].min(self.frames.count) as usize,
            Storage::Contiguous(_) | Storage::Compact(_) => 1,
        }
    }

    /// False when nothing of the frame was ever written and that means zero.
    pub(super) fn may_have_counts(&self, frame: u64) -> bool {
        let written = match &self.storage {
            Storage::Chunked(chunked) => {
                let [deep, rows, cols] = [chunked.grid.chunk()[0], chunked.grid.counts()[1], chunked.grid.counts()[2]];
                let first = chunked.grid.number([frame / deep, 0, 0]);
                chunked.index.has_any(first..first + rows * cols)
            }
            Storage::Contiguous(address) => address.is_some(),
            Storage::Compact(_) => true,
        };
        written || !self.frames.fill_is_zero()
    }

    /// Reads frames into `out`, in native byte order.
    ///
    /// # Errors
    /// Chunks that are cut off or do not decode.
    ///
    /// # Panics
    /// If the frames are not all there or `out` is not as long as they are.
    pub(super) fn read(&self, range: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(
            range.start <= range.end && range.end <= self.frames.count,
            "frames {range:?} of {}",
            self.frames.count
        );
        assert_eq!(out.len() as u64, (range.end - range.start) * self.frames.frame_bytes() as u64, "bytes of frames");
        match &self.storage {
            Storage::Contiguous(None) => self.frames.fill(out),
            Storage::Contiguous(Some(address)) => {
                let start = address + range.start * self.frames.frame_bytes() as u64;
                self.read_at(out, start)?;
            }
            Storage::Compact(bytes) => {
                out.copy_from_slice(&bytes[range.start as usize * self.frames.frame_bytes()..][..out.len()]);
            }
            Storage::Chunked(chunked) => self.read_chunked(chunked, range, scratch, out)?,
        }
        self.frames.to_native(out);
        Ok(())
    }

    fn read_chunked(
        &self,
        chunked: &Chunked,
        range: Range<u64>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), DatasetError> {
        let [deep, rows, cols] = chunked.grid.chunk();
        let Shape { rows: height, cols: width } = self.frames.shape;
        let whole_frames = rows == height as u64 && cols == width as u64;
        let mut rest = out;
        let mut frame = range.start;
        while frame < range.end {
            let cell = frame / deep;
            let end = range.end.min((cell + 1).saturating_mul(deep));
            let bytes = (end - frame) as usize * self.frames.frame_bytes();
            let (part, after) = rest.split_at_mut(bytes);
            let wanted = frame - cell * deep..end - cell * deep;
            if whole_frames {
                self.read_whole(chunked, cell, wanted, scratch, part)?;
            } else {
                self.read_tiles(chunked, cell, wanted, scratch, part)?;
            }
            (rest, frame) = (after, end);
        }
        Ok(())
    }

    /// Frames `wanted` of a chunk of whole frames; without a copy when those are all.
    fn read_whole(
        &self,
        chunked: &Chunked,
        cell: u64,
        wanted: Range<u64>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), DatasetError> {
        let place = [cell, 0, 0];
        let Some(stored) = chunked.index.get(chunked.grid.number(place)) else {
            self.frames.fill(out);
            return Ok(());
        };
        if out.len() == chunked.bytes(self.frames.pixel) {
            return self.decode(chunked, stored, place, scratch, out);
        }
        let chunk = self.decode_apart(chunked, stored, place, scratch)?;
        out.copy_from_slice(&chunk[wanted.start as usize * self.frames.frame_bytes()..][..out.len()]);
        scratch.chunk = chunk;
        Ok(())
    }

    /// Frames `wanted` of the chunks that tile them.
    fn read_tiles(
        &self,
        chunked: &Chunked,
        cell: u64,
        wanted: Range<u64>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), DatasetError> {
        let [_, tile_rows, tile_cols] = chunked.grid.chunk().map(|extent| extent as usize);
        let [_, down, across] = chunked.grid.counts();
        let Shape { rows, cols } = self.frames.shape;
        let size = self.frames.pixel.size();
        for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
            let place = [cell, y, x];
            let chunk = match chunked.index.get(chunked.grid.number(place)) {
                Some(stored) => Some(self.decode_apart(chunked, stored, place, scratch)?),
                None => None,
            };
            let (top, left) = (y as usize * tile_rows, x as usize * tile_cols);
            let width = tile_cols.min(cols - left) * size;
            for (z, image) in wanted.clone().zip(out.chunks_exact_mut(self.frames.frame_bytes())) {
                for row in 0..tile_rows.min(rows - top) {
                    let line = &mut image[((top + row) * cols + left) * size..][..width];
                    let from = (z as usize * tile_rows + row) * tile_cols * size;
                    match &chunk {
                        Some(chunk) => line.copy_from_slice(&chunk[from..][..width]),
                        None => self.frames.fill(line),
                    }
                }
            }
            if let Some(chunk) = chunk {
                scratch.chunk = chunk;
            }
        }
        Ok(())
    }

    /// Decodes into the scratch's chunk, which is lent to the caller.
    fn decode_apart(
        &self,
        chunked: &Chunked,
        stored: StoredChunk,
        place: [u64; 3],
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, DatasetError> {
        let mut chunk = std::mem::take(&mut scratch.chunk);
        chunk.resize(chunked.bytes(self.frames.pixel), 0);
        self.decode(chunked, stored, place, scratch, &mut chunk)?;
        Ok(chunk)
    }

    fn decode(
        &self,
        chunked: &Chunked,
        stored: StoredChunk,
        place: [u64; 3],
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), DatasetError> {
        let skipped = if chunked.bare_edges && !chunked.grid.is_inside(place) { UNFILTERED } else { stored.skipped };
        if chunked.pipeline.is_identity(skipped) && stored.size as usize == out.len() {
            return self.read_at(out, stored.address);
        }
        scratch.raw.resize(stored.size as usize, 0);
        self.read_at(&mut scratch.raw, stored.address)?;
        chunked.pipeline.decode(skipped, &mut scratch.raw, &mut scratch.filtered, out).map_err(|corrupt| {
            DatasetError::Raw {
                path: self.opened.path.clone(),
                place: format!(
                    "{}, frame {}, byte {}",
                    self.name,
                    place[0] * chunked.grid.chunk()[0],
                    stored.address + corrupt.offset as u64
                ),
                what: format!("a chunk does not decode ({}): {}", chunked.pipeline.describe(), corrupt.what),
                remedy: "the file is damaged; copy it again or leave the frame out".into(),
            }
        })
    }
}

impl Chunked {
    fn new(form: ChunkedForm, frames: &Frames, opened: &Opened) -> Result<Self, BrokenAnswer> {
        let ChunkedForm { chunk, index, filters, bare_edges } = form;
        let grid = grid(frames, chunk).filter(|_| fits(&chunk, frames.pixel));
        let grid = grid.ok_or(BrokenAnswer("chunks are of no size"))?;
        let pipeline = Pipeline::parse(&opened.path, &filters, frames.pixel.size());
        let pipeline = pipeline.map_err(|_| BrokenAnswer("filters are none that are known"))?;
        index.check(&grid, opened.length)?;
        Ok(Self { grid, index, pipeline, bare_edges })
    }

    /// Bytes of a decoded chunk; that they fit was checked when it was made.
    fn bytes(&self, pixel: PixelType) -> usize {
        self.grid.chunk().iter().product::<u64>() as usize * pixel.size()
    }
}
