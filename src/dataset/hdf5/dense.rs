//! One dataset of dense frames in one file: its shape and storage, checked when it is opened, and its reading.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::dataset::{ChunkOpts, Layout};
use hdf5::plist::DatasetCreate;

use super::ffi::{self, ByteOrder};
use super::filter::Pipeline;
use super::index::{ChunkIndex, Grid, StoredChunk};
use super::locate::Located;
use crate::correlate::bins::Shape;
use crate::dataset::{DatasetError, PixelType, Scratch, plain};

/// The most bytes that a decoded chunk or a frame may have: a buffer of this size is made for it.
const MAX_BYTES: u64 = 1 << 30;

/// Every filter of a pipeline skipped.
const UNFILTERED: u32 = u32::MAX;

/// What frames are, whatever file they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frames {
    /// Number of frames.
    pub(super) count: u64,
    /// Shape of each.
    pub(super) shape: Shape,
    /// Element type.
    pub(super) pixel: PixelType,
    /// Order of the bytes in the file.
    pub(super) order: ByteOrder,
    /// Bytes of an element that was never written, in the file's order.
    pub(super) fill: [u8; 4],
}

impl Frames {
    /// Checks rank, extents and element type.
    ///
    /// # Errors
    /// Anything but at least one frame of one of the element types of [`PixelType`].
    pub(super) fn of(located: &Located, dcpl: &DatasetCreate) -> Result<Self, DatasetError> {
        let (path, name) = (&located.path, located.name());
        let unsupported = |what, remedy| DatasetError::Unsupported { path: path.clone(), what, remedy };
        let refused = |source| DatasetError::hdf5(format!("read the type of {name}"), path, source);
        let dims = located.dataset.shape();
        let &[count, rows, cols] = dims.as_slice() else {
            let what = format!("{name} has shape {}, need (frames, rows, columns)", tuple(&dims));
            return Err(unsupported(what, "write the frames as one three-dimensional dataset"));
        };
        if dims.contains(&0) {
            let what = format!("{name} has shape {}: no pixels", tuple(&dims));
            return Err(unsupported(what, "repeat the measurement or name another file"));
        }
        let dtype = located.dataset.dtype().map_err(refused)?;
        let Some((pixel, order)) = ffi::pixel_type(&dtype) else {
            let what = format!("{name} has elements of type {dtype}");
            return Err(unsupported(what, "write u8, u16, u32, i16, i32 or f32"));
        };
        if !fits(&[rows as u64, cols as u64], pixel) {
            let what = format!("{name} has frames of {rows} x {cols} pixels, more than 1 GiB");
            return Err(unsupported(what, "write smaller frames"));
        }
        let fill = ffi::fill_value(dcpl, &dtype)
            .map_err(|source| DatasetError::hdf5(format!("read the fill value of {name}"), path, source))?;
        Ok(Self { count: count as u64, shape: Shape { rows, cols }, pixel, order, fill })
    }

    /// Bytes of a frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.shape.pixels() * self.pixel.size()
    }

    /// Puts the fill value everywhere, in the file's byte order.
    pub(super) fn fill(&self, out: &mut [u8]) {
        let value = &self.fill[..self.pixel.size()];
        if self.fill_is_zero() {
            out.fill(0);
        } else {
            out.chunks_exact_mut(value.len()).for_each(|element| element.copy_from_slice(value));
        }
    }

    /// True when elements that were never written are zero.
    pub(super) fn fill_is_zero(&self) -> bool {
        self.fill == [0; 4]
    }

    /// Turns the file's byte order into the processor's.
    pub(super) fn to_native(self, out: &mut [u8]) {
        let native = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
        if self.order != native && self.pixel.size() > 1 {
            out.chunks_exact_mut(self.pixel.size()).for_each(<[u8]>::reverse);
        }
    }
}

/// A dataset of frames that can be read from any thread.
#[derive(Debug)]
pub(super) struct Dense {
    path: PathBuf,
    file: File,
    /// Bytes of the file.
    pub(super) length: u64,
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
    /// Checks a dataset and finds where its bytes are.
    ///
    /// # Errors
    /// Shapes, types, layouts and filters that cannot be read; an index that does not fit the file.
    pub(super) fn open(located: Located) -> Result<Self, DatasetError> {
        let refused =
            |source| DatasetError::hdf5(format!("read the layout of {}", located.name()), &located.path, source);
        let dcpl = located.dataset.create_plist().map_err(refused)?;
        let frames = Frames::of(&located, &dcpl)?;
        let storage = match dcpl.get_layout().map_err(refused)? {
            Layout::Chunked => Storage::Chunked(Chunked::open(&located, &dcpl, &frames)?),
            Layout::Contiguous => contiguous(&located, &dcpl, &frames)?,
            Layout::Compact => compact(&located, &frames)?,
            Layout::Virtual => {
                return Err(DatasetError::Unsupported {
                    path: located.path.clone(),
                    what: format!("{} is a virtual dataset that another file refers to", located.name()),
                    remedy: "name this file itself",
                });
            }
        };
        let name = located.name();
        Ok(Self { path: located.path, file: located.file, length: located.length, name, frames, storage })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
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
                plain::read_at(&self.file, &self.path, out, start)?;
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
            return plain::read_at(&self.file, &self.path, out, stored.address);
        }
        scratch.raw.resize(stored.size as usize, 0);
        plain::read_at(&self.file, &self.path, &mut scratch.raw, stored.address)?;
        chunked.pipeline.decode(skipped, &mut scratch.raw, &mut scratch.filtered, out).map_err(|corrupt| {
            DatasetError::Raw {
                path: self.path.clone(),
                place: format!(
                    "{}, frame {}, byte {}",
                    self.name,
                    place[0] * chunked.grid.chunk()[0],
                    stored.address + corrupt.offset as u64
                ),
                what: format!("a chunk does not decode ({}): {}", chunked.pipeline.describe(), corrupt.what),
                remedy: "the file is damaged; copy it again or leave the frame out",
            }
        })
    }
}

impl Chunked {
    fn open(located: &Located, dcpl: &DatasetCreate, frames: &Frames) -> Result<Self, DatasetError> {
        let (path, name) = (&located.path, located.name());
        let refused = |source| DatasetError::hdf5(format!("read the layout of {name}"), path, source);
        let unsupported = |what| DatasetError::Unsupported {
            path: path.clone(),
            what,
            remedy: "rewrite it with chunks of one frame",
        };
        let dims = dcpl.get_chunk().map_err(refused)?.unwrap_or_default();
        let shape = [frames.count, frames.shape.rows as u64, frames.shape.cols as u64];
        let chunk: [u64; 3] = match dims.as_slice() {
            &[deep, rows, cols] => [deep as u64, rows as u64, cols as u64],
            _ => return Err(unsupported(format!("{name} has chunks of {} axes", dims.len()))),
        };
        if !fits(&chunk, frames.pixel) {
            return Err(unsupported(format!("{name} has chunks of {}, more than 1 GiB", tuple(&dims))));
        }
        let grid = Grid::new(shape, chunk)
            .ok_or_else(|| unsupported(format!("{name} has more chunks than can be numbered")))?;
        let pipeline = Pipeline::parse(path, &ffi::filters(dcpl).map_err(refused)?, frames.pixel.size())?;
        let options = dcpl.get_chunk_opts().map_err(refused)?.unwrap_or(ChunkOpts::empty());
        let bare_edges = options.contains(ChunkOpts::DONT_FILTER_PARTIAL_CHUNKS);
        let index = ChunkIndex::build(&located.dataset, path, &grid, located.length)?;
        Ok(Self { grid, index, pipeline, bare_edges })
    }

    /// Bytes of a decoded chunk; that they fit was checked when the file was opened.
    fn bytes(&self, pixel: PixelType) -> usize {
        self.grid.chunk().iter().product::<u64>() as usize * pixel.size()
    }
}

fn contiguous(located: &Located, dcpl: &DatasetCreate, frames: &Frames) -> Result<Storage, DatasetError> {
    let external = dcpl.get_external().map_err(|source| {
        DatasetError::hdf5(format!("read the layout of {}", located.name()), &located.path, source)
    })?;
    if !external.is_empty() {
        return Err(DatasetError::Unsupported {
            path: located.path.clone(),
            what: format!("{} keeps its bytes in another file that is not HDF5", located.name()),
            remedy: "rewrite it with its bytes inside",
        });
    }
    let address = located.dataset.offset();
    let bytes = frames.count.checked_mul(frames.frame_bytes() as u64);
    let end = address.map(|address| bytes.and_then(|bytes| bytes.checked_add(address)));
    match end {
        Some(end) if end.is_none_or(|end| end > located.length) => Err(DatasetError::Raw {
            path: located.path.clone(),
            place: format!("{}, byte {}", located.name(), address.unwrap_or_default()),
            what: format!("{} frames end beyond the file's {} bytes", frames.count, located.length),
            remedy: "the file is damaged or was cut off; copy it again",
        }),
        _ => Ok(Storage::Contiguous(address)),
    }
}

fn compact(located: &Located, frames: &Frames) -> Result<Storage, DatasetError> {
    let refused = |source| DatasetError::hdf5(format!("read {}", located.name()), &located.path, source);
    let bytes = frames.count.checked_mul(frames.frame_bytes() as u64).filter(|&bytes| bytes <= located.length);
    let Some(bytes) = bytes else {
        return Err(DatasetError::Raw {
            path: located.path.clone(),
            place: located.name(),
            what: format!("{} frames are more than the whole file's {} bytes", frames.count, located.length),
            remedy: "the file is damaged or was cut off; copy it again",
        });
    };
    let mut all = vec![0; bytes as usize];
    let dtype = located.dataset.dtype().map_err(refused)?;
    ffi::read_all(&located.dataset, &dtype, &mut all).map_err(refused)?;
    Ok(Storage::Compact(all))
}

/// True when a buffer may be made for so many elements.
fn fits(extents: &[u64], pixel: PixelType) -> bool {
    let bytes = extents.iter().try_fold(pixel.size() as u64, |all, &extent| all.checked_mul(extent));
    bytes.is_some_and(|bytes| bytes <= MAX_BYTES)
}

fn tuple(dims: &[usize]) -> String {
    let numbers: Vec<_> = dims.iter().map(usize::to_string).collect();
    format!("({})", numbers.join(", "))
}
