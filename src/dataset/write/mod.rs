//! Writes simulated datasets: raw files of every format, qmap and metadata. Reads nothing.
//!
//! Raw data are written window by window as the simulation yields them, so memory does not grow with the number
//! of frames (a sparse photon window of some 100 MiB, and 64 MiB of dense frames at a time).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use super::hdf5::write::{FrameFilter, FrameLayout};
use super::{DatasetError, PhotonEvent, PixelType, stitch};
use crate::correlate::bins::Shape;
use crate::simulate::{Layout, Modules, Saturation, Scene, Simulation, Window};
use crate::task::stem::raw_stem;

mod ftf;
mod hdf5_frames;
mod imm;
mod metadata;
mod qmap;
mod rigaku;
mod schema;
mod tree;

pub use metadata::{FieldNames, write_metadata};
pub use qmap::write_qmap;

/// Format of the raw data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Rigaku 500k events: one `.bin`.
    Rigaku,
    /// Rigaku 3M events: six `.bin.00k`.
    Rigaku3m,
    /// IMM with (pixel, count) pairs.
    ImmSparse,
    /// IMM with u16 frames.
    ImmDense,
    /// One HDF5 file.
    Hdf5 {
        /// Element type.
        pixel: PixelType,
        /// Compression.
        filter: FrameFilter,
    },
    /// Eiger master file that links to data files.
    Eiger {
        /// Element type.
        pixel: PixelType,
        /// Compression.
        filter: FrameFilter,
        /// Frames of each data file but the last.
        frames_per_file: NonZeroU64,
    },
    /// Rigaku 3M fast transfer: six `.h5.00k` of 2-bit pixels; counts above 3 are cut to 3, as the detector does.
    Ftf,
}

/// The files of a written dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The raw file that is given to `speckled corr`.
    pub raw: PathBuf,
    /// All raw files, `raw` among them.
    pub raw_files: Vec<PathBuf>,
    /// The qmap.
    pub qmap: PathBuf,
    /// The metadata, beside the raw file under the name that is looked for.
    pub metadata: PathBuf,
}

impl Format {
    /// The image shape that the format implies; None = any.
    pub fn shape(self) -> Option<Shape> {
        match self {
            Self::Rigaku => Some(stitch::MODULE),
            Self::Rigaku3m | Self::Ftf => Some(stitch::CANVAS),
            Self::ImmSparse | Self::ImmDense | Self::Hdf5 { .. } | Self::Eiger { .. } => None,
        }
    }

    /// Where a dataset `name` in `dir` lies.
    pub fn files(self, frames: u64, dir: &Path, name: &str) -> Dataset {
        let raw_files: Vec<PathBuf> = match self {
            Self::Rigaku => vec![dir.join(format!("{name}.bin"))],
            Self::Rigaku3m => modules(dir, name, "bin"),
            Self::Ftf => modules(dir, name, "h5"),
            Self::ImmSparse | Self::ImmDense => vec![dir.join(format!("{name}.imm"))],
            Self::Hdf5 { .. } => vec![dir.join(format!("{name}.h5"))],
            Self::Eiger { frames_per_file, .. } => {
                let data = (1..=frames.div_ceil(frames_per_file.get())).map(|k| format!("{name}_data_{k:06}.h5"));
                std::iter::once(format!("{name}_master.h5")).chain(data).map(|file| dir.join(file)).collect()
            }
        };
        let stem = raw_stem(&raw_files[0]);
        Dataset {
            raw: raw_files[0].clone(),
            raw_files,
            qmap: dir.join(format!("{stem}_qmap.hdf")),
            metadata: dir.join(format!("{stem}_metadata.hdf")),
        }
    }

    fn modules(self) -> Option<Modules> {
        let (rows, cols) = (stitch::module_origin(1).0, stitch::module_origin(0).1);
        let gaps =
            Modules { shape: stitch::MODULE, row_gap: rows - stitch::MODULE.rows, col_gap: cols - stitch::MODULE.cols };
        matches!(self, Self::Rigaku3m | Self::Ftf).then_some(gaps)
    }

    fn saturation(self) -> Saturation {
        let marked = match self {
            Self::Hdf5 { pixel, .. } | Self::Eiger { pixel, .. } => pixel.saturation().is_some(),
            Self::Rigaku | Self::Rigaku3m | Self::ImmSparse | Self::ImmDense | Self::Ftf => false,
        };
        if marked { Saturation::Marked } else { Saturation::Unmarked }
    }

    fn max_frames(self) -> u64 {
        match self {
            Self::Rigaku | Self::Rigaku3m | Self::ImmSparse => PhotonEvent::MAX_FRAMES,
            Self::ImmDense | Self::Hdf5 { .. } | Self::Eiger { .. } | Self::Ftf => u64::MAX,
        }
    }

    fn names(self, qmap: &Path) -> FieldNames {
        let (detector, filter) = match self {
            Self::Rigaku => ("rigaku500k", FrameFilter::None),
            Self::Rigaku3m => ("rigaku3M", FrameFilter::None),
            Self::Ftf => ("rigaku3M_ftf", FrameFilter::None),
            Self::ImmSparse | Self::ImmDense => ("lambda750k", FrameFilter::None),
            Self::Hdf5 { filter, .. } => ("lambda2M", filter),
            Self::Eiger { filter, .. } => ("eiger4M", filter),
        };
        let compression = match filter {
            FrameFilter::None => "none",
            FrameFilter::BitshuffleLz4 => "bslz4",
        };
        let qmap = qmap.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        FieldNames { detector, compression, qmap }
    }
}

/// Simulates `scene` and writes its raw data, qmap and metadata into `dir`, which is created when it is missing;
/// files of the same names are replaced.
///
/// # Errors
/// A scene that makes no sense or that the format cannot hold (image shape, frames, counts); IO errors.
pub fn write_dataset(scene: &Scene, format: Format, dir: &Path, name: &str) -> Result<Dataset, DatasetError> {
    let files = format.files(scene.frames, dir, name);
    check(scene, format, &files.raw)?;
    let scene = Scene { modules: format.modules().or(scene.modules), ..scene.clone() };
    let layout = Layout::new(&scene, format.saturation())
        .map_err(|source| DatasetError::Scene { path: files.raw.clone(), source })?;
    fs::create_dir_all(dir).map_err(|e| DatasetError::io("create the directory", dir, e))?;
    let mut sink = sink(&scene, &layout, format, &files)?;
    for window in Simulation::new(&scene, &layout) {
        sink.window(&window)?;
    }
    sink.finish()?;
    let source = files.raw.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    write_qmap(&files.qmap, &layout, &scene.geometry, &source)?;
    write_metadata(&files.metadata, &scene, &format.names(&files.qmap))?;
    Ok(files)
}

/// A raw dataset that is being written.
trait Sink {
    /// Adds the frames of a window; windows come in order.
    fn window(&mut self, window: &Window) -> Result<(), DatasetError>;

    /// Completes the files.
    fn finish(self: Box<Self>) -> Result<(), DatasetError>;
}

fn sink(scene: &Scene, layout: &Layout, format: Format, files: &Dataset) -> Result<Box<dyn Sink>, DatasetError> {
    let frames = |pixel, filter| FrameLayout { pixel, frames: scene.frames, shape: scene.shape, filter };
    Ok(match format {
        Format::Rigaku => Box::new(rigaku::Single::create(&files.raw)?),
        Format::Rigaku3m => Box::new(rigaku::Stitched::create(&files.raw_files)?),
        Format::ImmSparse => Box::new(imm::Imm::create(&files.raw, scene, imm::Coding::Sparse)?),
        Format::ImmDense => Box::new(imm::Imm::create(&files.raw, scene, imm::Coding::Dense)?),
        Format::Hdf5 { pixel, filter } => {
            Box::new(hdf5_frames::Frames::single(&files.raw, frames(pixel, filter), layout))
        }
        Format::Eiger { pixel, filter, frames_per_file } => {
            Box::new(hdf5_frames::Frames::linked(&files.raw_files, frames(pixel, filter), frames_per_file, layout))
        }
        Format::Ftf => Box::new(ftf::Ftf::create(&files.raw_files, scene.frames)?),
    })
}

fn check(scene: &Scene, format: Format, path: &Path) -> Result<(), DatasetError> {
    let refuse = |what, remedy: &'static str| {
        Err(DatasetError::Unsupported { path: path.to_owned(), what, remedy: remedy.into() })
    };
    if let Some(shape) = format.shape().filter(|&s| s != scene.shape) {
        let what = format!("the format holds images of {shape}, not {}", scene.shape);
        return refuse(what, "leave rows and columns out or choose another format");
    }
    if scene.frames > format.max_frames() {
        let what = format!("the format numbers at most {} frames, not {}", format.max_frames(), scene.frames);
        return refuse(what, "take fewer frames");
    }
    if scene.shape.pixels() > PhotonEvent::MAX_PIXELS {
        let what = format!("an image of {} has more than {} pixels", scene.shape, PhotonEvent::MAX_PIXELS);
        return refuse(what, "take a smaller image");
    }
    Ok(())
}

fn modules(dir: &Path, name: &str, extension: &str) -> Vec<PathBuf> {
    (0..stitch::MODULES).map(|k| dir.join(format!("{name}.{extension}.{k:03}"))).collect()
}

/// Where a module of the 3M has a pixel of the canvas.
fn module_pixel(pixel: u32) -> (usize, usize) {
    let (row, col) = stitch::CANVAS.place(pixel);
    let origins = (0..stitch::MODULES).map(stitch::module_origin);
    let inside = |(r, c): &(usize, usize)| {
        (*r..*r + stitch::MODULE.rows).contains(&row) && (*c..*c + stitch::MODULE.cols).contains(&col)
    };
    let found = origins.enumerate().find(|(_, origin)| inside(origin));
    let (module, (top, left)) = found.expect("no photon falls into a gap: the layout has no rate there");
    (module, (row - top) * stitch::MODULE.cols + col - left)
}

/// A file of bytes that names itself in errors.
struct Bytes {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Bytes {
    fn create(path: &Path) -> Result<Self, DatasetError> {
        let file = File::create(path).map_err(|e| DatasetError::io("create", path, e))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 20, file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        self.file.write_all(bytes).map_err(|e| DatasetError::io("write", &self.path, e))
    }

    fn finish(mut self) -> Result<(), DatasetError> {
        self.file.flush().map_err(|e| DatasetError::io("write", &self.path, e))
    }
}

/// Counts that a format cannot hold.
fn too_bright(path: &Path, frame: u64, count: u32, limit: u32) -> DatasetError {
    DatasetError::Unsupported {
        path: path.to_owned(),
        what: format!("a pixel has {count} counts in frame {frame}, the format holds {limit}"),
        remedy: "take fewer counts or a wider element type".into(),
    }
}
