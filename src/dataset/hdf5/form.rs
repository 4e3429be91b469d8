//! One dataset of dense frames as the HDF5 library knows it: its shape and storage, checked, as plain data. Reads no frames.

use hdf5::dataset::{ChunkOpts, Layout};
use hdf5::plist::DatasetCreate;
use serde::{Deserialize, Serialize};

use super::ffi::{self, ByteOrder, RawFilter};
use super::filter::Pipeline;
use super::index::{ChunkIndex, Grid};
use super::locate::Located;
use crate::correlate::bins::Shape;
use crate::dataset::reader::{BrokenAnswer, FileNumber, Packed};
use crate::dataset::{DatasetError, PixelType};

/// The most bytes that a decoded chunk or a frame may have: a buffer of this size is made for it.
const MAX_BYTES: u64 = 1 << 30;

/// What frames are, whatever file they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dataset) struct Frames {
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

/// A dataset and where its bytes are.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::dataset) struct DenseForm {
    /// The file that holds it.
    pub(super) file: FileNumber,
    /// Its name there.
    pub(super) name: String,
    /// What its frames are.
    pub(super) frames: Frames,
    /// Where they are.
    pub(super) storage: StorageForm,
}

/// How frames are stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StorageForm {
    /// In one piece from this byte on; None if nothing was ever written.
    Contiguous(Option<u64>),
    /// In the file's metadata, which the library has read.
    Compact(Packed<u8>),
    /// In chunks.
    Chunked(ChunkedForm),
}

/// Chunks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChunkedForm {
    /// Extent of one.
    pub(super) chunk: [u64; 3],
    /// Those that are stored.
    pub(super) index: ChunkIndex,
    /// As the file names them.
    pub(super) filters: Vec<RawFilter>,
    /// Chunks that reach beyond the dataset's end are stored without filters.
    pub(super) bare_edges: bool,
}

impl Frames {
    /// Checks rank, extents and element type.
    ///
    /// # Errors
    /// Anything but at least one frame of one of the element types of [`PixelType`].
    pub(super) fn of(located: &Located, dcpl: &DatasetCreate) -> Result<Self, DatasetError> {
        let (path, name) = (&located.path, located.name());
        let unsupported =
            |what, remedy: &'static str| DatasetError::Unsupported { path: path.clone(), what, remedy: remedy.into() };
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

    /// Checks the extents again: they may come from a process that read a hostile file.
    ///
    /// # Errors
    /// No pixels, or too many of them.
    pub(super) fn check(&self) -> Result<(), BrokenAnswer> {
        let Shape { rows, cols } = self.shape;
        let sides = [rows as u64, cols as u64];
        match self.count > 0 && !sides.contains(&0) && fits(&sides, self.pixel) {
            true => Ok(()),
            false => Err(BrokenAnswer("frames are of no size")),
        }
    }

    /// Bytes of a frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.shape.pixels() * self.pixel.size()
    }

    /// Bytes of all frames, if they can be numbered.
    pub(super) fn all_bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.frame_bytes() as u64)
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

impl DenseForm {
    /// Checks a dataset and finds where its bytes are.
    ///
    /// # Errors
    /// Shapes, types, layouts and filters that cannot be read; an index that does not fit the file.
    pub(super) fn of(located: &Located) -> Result<Self, DatasetError> {
        let refused =
            |source| DatasetError::hdf5(format!("read the layout of {}", located.name()), &located.path, source);
        let dcpl = located.dataset.create_plist().map_err(refused)?;
        let frames = Frames::of(located, &dcpl)?;
        let storage = match dcpl.get_layout().map_err(refused)? {
            Layout::Chunked => StorageForm::Chunked(ChunkedForm::of(located, &dcpl, &frames)?),
            Layout::Contiguous => contiguous(located, &dcpl, &frames)?,
            Layout::Compact => compact(located, &frames)?,
            Layout::Virtual => {
                return Err(DatasetError::Unsupported {
                    path: located.path.clone(),
                    what: format!("{} is a virtual dataset that another file refers to", located.name()),
                    remedy: "name this file itself".into(),
                });
            }
        };
        Ok(Self { file: located.file.number, name: located.name(), frames, storage })
    }
}

impl ChunkedForm {
    fn of(located: &Located, dcpl: &DatasetCreate, frames: &Frames) -> Result<Self, DatasetError> {
        let (path, name) = (&located.path, located.name());
        let refused = |source| DatasetError::hdf5(format!("read the layout of {name}"), path, source);
        let unsupported = |what| DatasetError::Unsupported {
            path: path.clone(),
            what,
            remedy: "rewrite it with chunks of one frame".into(),
        };
        let dims = dcpl.get_chunk().map_err(refused)?.unwrap_or_default();
        let chunk: [u64; 3] = match dims.as_slice() {
            &[deep, rows, cols] => [deep as u64, rows as u64, cols as u64],
            _ => return Err(unsupported(format!("{name} has chunks of {} axes", dims.len()))),
        };
        if !fits(&chunk, frames.pixel) {
            return Err(unsupported(format!("{name} has chunks of {}, more than 1 GiB", tuple(&dims))));
        }
        let grid =
            grid(frames, chunk).ok_or_else(|| unsupported(format!("{name} has more chunks than can be numbered")))?;
        let filters = ffi::filters(dcpl).map_err(refused)?;
        Pipeline::parse(path, &filters, frames.pixel.size())?;
        let options = dcpl.get_chunk_opts().map_err(refused)?.unwrap_or(ChunkOpts::empty());
        let bare_edges = options.contains(ChunkOpts::DONT_FILTER_PARTIAL_CHUNKS);
        let index = ChunkIndex::build(&located.dataset, path, &grid, located.length)?;
        Ok(Self { chunk, index, filters, bare_edges })
    }
}

/// How chunks tile frames; None if that cannot be numbered.
pub(super) fn grid(frames: &Frames, chunk: [u64; 3]) -> Option<Grid<3>> {
    Grid::new([frames.count, frames.shape.rows as u64, frames.shape.cols as u64], chunk)
}

/// True when a buffer may be made for so many elements.
pub(super) fn fits(extents: &[u64], pixel: PixelType) -> bool {
    let bytes = extents.iter().try_fold(pixel.size() as u64, |all, &extent| all.checked_mul(extent));
    bytes.is_some_and(|bytes| bytes <= MAX_BYTES)
}

fn contiguous(located: &Located, dcpl: &DatasetCreate, frames: &Frames) -> Result<StorageForm, DatasetError> {
    let external = dcpl.get_external().map_err(|source| {
        DatasetError::hdf5(format!("read the layout of {}", located.name()), &located.path, source)
    })?;
    if !external.is_empty() {
        return Err(DatasetError::Unsupported {
            path: located.path.clone(),
            what: format!("{} keeps its bytes in another file that is not HDF5", located.name()),
            remedy: "rewrite it with its bytes inside".into(),
        });
    }
    let address = located.dataset.offset();
    match address.map(|address| frames.all_bytes().and_then(|bytes| bytes.checked_add(address))) {
        Some(end) if end.is_none_or(|end| end > located.length) => Err(DatasetError::Raw {
            path: located.path.clone(),
            place: format!("{}, byte {}", located.name(), address.unwrap_or_default()),
            what: format!("{} frames end beyond the file's {} bytes", frames.count, located.length),
            remedy: "the file is damaged or was cut off; copy it again".into(),
        }),
        _ => Ok(StorageForm::Contiguous(address)),
    }
}

fn compact(located: &Located, frames: &Frames) -> Result<StorageForm, DatasetError> {
    let refused = |source| DatasetError::hdf5(format!("read {}", located.name()), &located.path, source);
    let Some(bytes) = frames.all_bytes().filter(|&bytes| bytes <= located.length) else {
        return Err(DatasetError::Raw {
            path: located.path.clone(),
            place: located.name(),
            what: format!("{} frames are more than the whole file's {} bytes", frames.count, located.length),
            remedy: "the file is damaged or was cut off; copy it again".into(),
        });
    };
    let mut all = vec![0; bytes as usize];
    let dtype = located.dataset.dtype().map_err(refused)?;
    ffi::read_all(&located.dataset, &dtype, &mut all).map_err(refused)?;
    Ok(StorageForm::Compact(Packed(all)))
}

fn tuple(dims: &[usize]) -> String {
    let numbers: Vec<_> = dims.iter().map(usize::to_string).collect();
    format!("({})", numbers.join(", "))
}
