//! Rigaku's "FastTransfer - HDF5" files: six modules in six files, each frame a column of packed pixels, which is
//! one chunk without a filter; a frame without counts has no chunk. Yields stitched frames of one byte a pixel.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hdf5::dataset::Layout;
use serde::{Deserialize, Serialize};

use super::FRAMES;
use super::ffi;
use super::index::{ChunkIndex, Grid};
use super::locate::{Located, locate};
use crate::dataset::opener::Opened;
use crate::dataset::reader::{BrokenAnswer, Desk, FileNumber, Files, Question, Told, ask, no_nodes};
use crate::dataset::stitch::{CANVAS, MODULE, MODULES, module_origin};
use crate::dataset::{DatasetError, FrameSource, Opener, PackedFrames, PixelType, Scratch, SourceInfo, plain};
use crate::task::correlate::BitOrder;

/// Bits that a pixel may have.
const BITS: [usize; 3] = [2, 4, 8];

/// Opens the six module files; `path` is any of them, as `A0003.h5.000`.
///
/// # Errors
/// A module file that is missing, by its name; a dataset that is not of this format; chunks that are not within
/// their file.
pub fn open(opener: &Opener, path: &Path, order: BitOrder) -> Result<Box<dyn FrameSource>, DatasetError> {
    let modules = module_paths(path)?.iter().map(|path| Module::open(opener, path)).collect::<Result<Vec<_>, _>>()?;
    let bits = modules[0].bits;
    if let Some(other) = modules.iter().find(|module| module.bits != bits) {
        let what = format!("has {} bits a pixel, the first module has {bits}", other.bits);
        return Err(foreign(&other.opened.path, what));
    }
    let info = SourceInfo {
        format: format!("Rigaku FastTransfer HDF5, {bits} bit"),
        files: named_first(path, &modules),
        bytes: modules.iter().map(|module| module.opened.length).sum(),
        shape: CANVAS,
        frames: modules.iter().map(|module| module.frames).max().unwrap_or_default(),
    };
    Ok(Box::new(FastTransfer { info, modules, order, unpack: Unpack::new(bits, order) }))
}

struct FastTransfer {
    info: SourceInfo,
    modules: Vec<Module>,
    order: BitOrder,
    unpack: Unpack,
}

impl FrameSource for FastTransfer {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        PixelType::U8
    }

    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn may_have_counts(&self, frame: u64) -> bool {
        self.modules.iter().any(|module| module.index.get(frame).is_some())
    }

    fn read_frames(&self, range: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(range.start <= range.end && range.end <= self.info.frames, "frames {range:?} of {}", self.info.frames);
        assert_eq!(out.len() as u64, (range.end - range.start) * CANVAS.pixels() as u64, "bytes of frames");
        for (frame, image) in range.zip(out.chunks_exact_mut(CANVAS.pixels())) {
            image.fill(0);
            for (k, module) in self.modules.iter().enumerate() {
                scratch.raw.resize(module_bytes(module.bits), 0);
                if module.read(frame, &mut scratch.raw)? {
                    self.unpack.place(&scratch.raw, module_origin(k), image);
                }
            }
        }
        Ok(())
    }

    fn packed_frames(&self) -> Option<&dyn PackedFrames> {
        match self.unpack {
            Unpack::PackedFrames(_) => Some(self),
            Unpack::Halves(_) | Unpack::Whole => None,
        }
    }
}

/// The modules one after the other, each row by row.
impl PackedFrames for FastTransfer {
    fn cells(&self) -> usize {
        MODULES * MODULE.pixels()
    }

    fn pixel(&self, cell: usize) -> Option<usize> {
        let (module, within) = (cell / MODULE.pixels(), cell % MODULE.pixels());
        let own = match self.order {
            BitOrder::LittlePairs => within,
            // the last of a byte's four is in its lowest bits
            BitOrder::BigPairs => within / 4 * 4 + (3 - within % 4),
        };
        let ((top, left), (row, col)) = (module_origin(module), (own / MODULE.cols, own % MODULE.cols));
        Some((top + row) * CANVAS.cols + left + col)
    }

    fn read_packed(&self, range: Range<u64>, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(range.start <= range.end && range.end <= self.info.frames, "frames {range:?} of {}", self.info.frames);
        assert_eq!(out.len() as u64, (range.end - range.start) * self.cells() as u64 / 4, "bytes of frames");
        for (frame, packed) in range.zip(out.chunks_exact_mut(self.cells() / 4)) {
            for (module, own) in self.modules.iter().zip(packed.chunks_exact_mut(module_bytes(2))) {
                if !module.read(frame, own)? {
                    own.fill(0);
                }
            }
        }
        Ok(())
    }
}

/// What the library says of a module's file.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::dataset) struct ModuleForm {
    file: FileNumber,
    frames: u64,
    bits: usize,
    index: ChunkIndex,
}

/// Has the library look at a module's file.
///
/// # Errors
/// A dataset that is not of this format; chunks that are not within their file.
pub(in crate::dataset) fn read(desk: &dyn Desk, path: &Path) -> Result<ModuleForm, DatasetError> {
    let located = locate(desk, path, FRAMES)?;
    let (bits, frames) = packing(&located)?;
    let grid =
        grid(bits, frames).ok_or_else(|| foreign(path, format!("has {frames} frames, which cannot be numbered")))?;
    let index = ChunkIndex::build(&located.dataset, &located.path, &grid, located.length)?;
    Ok(ModuleForm { file: located.file.number, frames, bits, index })
}

/// A frame is a chunk.
fn grid(bits: usize, frames: u64) -> Option<Grid<2>> {
    let bytes = module_bytes(bits) as u64;
    Grid::new([bytes, frames], [bytes, 1])
}

/// One module's file.
struct Module {
    opened: Arc<Opened>,
    frames: u64,
    bits: usize,
    index: ChunkIndex,
}

impl Module {
    fn open(opener: &Opener, path: &Path) -> Result<Self, DatasetError> {
        ask(opener, &Question::Module(path.to_owned()), &mut no_nodes, |told, files| {
            let Told::Module(form) = told else { return Err(BrokenAnswer::OTHER) };
            Self::new(form, files)
        })
    }

    fn new(form: ModuleForm, files: &Files<'_>) -> Result<Self, BrokenAnswer> {
        let ModuleForm { file, frames, bits, index } = form;
        let opened = files.get(file).ok_or(BrokenAnswer("it names a file that was not opened"))?;
        let grid = BITS.contains(&bits).then(|| grid(bits, frames)).flatten();
        index.check(&grid.ok_or(BrokenAnswer("frames are of no size"))?, opened.length)?;
        Ok(Self { opened, frames, bits, index })
    }

    /// Reads the packed pixels of a frame; false if it has none.
    fn read(&self, frame: u64, packed: &mut [u8]) -> Result<bool, DatasetError> {
        let Some(chunk) = self.index.get(frame) else {
            return Ok(false);
        };
        let bytes = module_bytes(self.bits);
        if chunk.size as usize != bytes {
            return Err(DatasetError::Raw {
                path: self.opened.path.clone(),
                place: format!("frame {frame}, byte {}", chunk.address),
                what: format!("the frame has {} bytes instead of {bytes}", chunk.size),
                remedy: "the file is damaged; copy it again or leave the frame out".into(),
            });
        }
        plain::read_at(&self.opened.file, &self.opened.path, packed, chunk.address)?;
        Ok(true)
    }
}

/// Bits a pixel and number of frames, from the shape of the dataset, whose whole form is checked.
fn packing(located: &Located) -> Result<(usize, u64), DatasetError> {
    let path = &located.path;
    let refused = |source| DatasetError::hdf5(format!("read the layout of {FRAMES}"), path, source);
    let dims = located.dataset.shape();
    let &[bytes, frames] = dims.as_slice() else {
        return Err(foreign(path, format!("has {} axes, need (bytes, frames)", dims.len())));
    };
    let Some(bits) = BITS.into_iter().find(|&bits| module_bytes(bits) == bytes) else {
        return Err(foreign(path, format!("has {bytes} bytes a frame, need 131072, 262144 or 524288")));
    };
    if frames == 0 {
        return Err(foreign(path, "holds no frames".to_owned()));
    }
    let dtype = located.dataset.dtype().map_err(refused)?;
    if ffi::pixel_type(&dtype).map(|(pixel, _)| pixel) != Some(PixelType::U8) {
        return Err(foreign(path, format!("has elements of type {dtype}, need u8")));
    }
    let dcpl = located.dataset.create_plist().map_err(refused)?;
    let chunked = dcpl.get_layout().map_err(refused)? == Layout::Chunked;
    if !chunked || dcpl.get_chunk().map_err(refused)? != Some(vec![bytes, 1]) {
        return Err(foreign(path, format!("is not stored in chunks of ({bytes}, 1)")));
    }
    match ffi::filters(&dcpl).map_err(refused)?.first() {
        None => Ok((bits, frames as u64)),
        Some((id, _)) => Err(foreign(path, format!("is compressed by filter {id}"))),
    }
}

fn module_bytes(bits: usize) -> usize {
    MODULE.pixels() * bits / 8
}

/// The six files, of which one is named.
fn module_paths(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let is_number = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !path.extension().and_then(|text| text.to_str()).is_some_and(is_number) {
        return Err(foreign(path, "belongs to a file whose name does not end in .000 to .005".to_owned()));
    }
    let paths: Vec<_> = (0..MODULES).map(|k| path.with_extension(format!("{k:03}"))).collect();
    match paths.iter().find(|path| !path.exists()) {
        None => Ok(paths),
        Some(missing) => Err(DatasetError::Raw {
            path: missing.clone(),
            place: "the whole file".to_owned(),
            what: "the file of this module does not exist".to_owned(),
            remedy: "all six files, .000 to .005, are needed side by side".into(),
        }),
    }
}

fn named_first(path: &Path, modules: &[Module]) -> Vec<PathBuf> {
    let others = modules.iter().map(|module| module.opened.path.clone()).filter(|other| other != path);
    std::iter::once(path.to_owned()).chain(others).collect()
}

fn foreign(path: &Path, what: String) -> DatasetError {
    DatasetError::Unsupported {
        path: path.to_owned(),
        what: format!("{FRAMES} {what}"),
        remedy: "name a Rigaku FastTransfer file .h5.000 with its five companions".into(),
    }
}

/// What the bytes of a frame mean: the pixels of every byte value.
enum Unpack {
    PackedFrames(Box<[[u8; 4]; 256]>),
    Halves(Box<[[u8; 2]; 256]>),
    Whole,
}

impl Unpack {
    fn new(bits: usize, order: BitOrder) -> Self {
        match bits {
            2 => Self::PackedFrames(table(order)),
            4 => Self::Halves(table(order)),
            _ => Self::Whole,
        }
    }

    /// Puts a module's pixels on the canvas, which is empty there.
    fn place(&self, packed: &[u8], (top, left): (usize, usize), canvas: &mut [u8]) {
        let row_bytes = packed.len() / MODULE.rows;
        for (row, packed) in packed.chunks_exact(row_bytes).enumerate() {
            let line = &mut canvas[(top + row) * CANVAS.cols + left..][..MODULE.cols];
            match self {
                Self::PackedFrames(table) => expand(table, packed, line),
                Self::Halves(table) => expand(table, packed, line),
                Self::Whole => line.copy_from_slice(packed),
            }
        }
    }
}

fn table<const PIXELS: usize>(order: BitOrder) -> Box<[[u8; PIXELS]; 256]> {
    let bits = 8 / PIXELS;
    let pixel = |byte: usize, k: usize| {
        let place = match order {
            BitOrder::LittlePairs => k,
            BitOrder::BigPairs => PIXELS - 1 - k,
        };
        (byte >> (place * bits) & ((1 << bits) - 1)) as u8
    };
    Box::new(std::array::from_fn(|byte| std::array::from_fn(|k| pixel(byte, k))))
}

fn expand<const PIXELS: usize>(table: &[[u8; PIXELS]; 256], packed: &[u8], line: &mut [u8]) {
    /// Most of a frame is empty: so many bytes are asked for counts at once.
    const GROUP: usize = 8;
    for (packed, pixels) in packed.chunks_exact(GROUP).zip(line.chunks_exact_mut(GROUP * PIXELS)) {
        if packed.iter().fold(0, |any, &byte| any | byte) == 0 {
            continue;
        }
        for (&byte, pixels) in packed.iter().zip(pixels.chunks_exact_mut(PIXELS)) {
            pixels.copy_from_slice(&table[usize::from(byte)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes six modules; `frames[k]` lists the frames of module `k` with the byte that fills each.
    fn write(dir: &Path, bytes: usize, count: usize, frames: [&[(u64, u8)]; MODULES]) -> PathBuf {
        for (k, frames) in frames.iter().enumerate() {
            let file = hdf5::File::create(dir.join(format!("A1.h5.{k:03}"))).unwrap();
            let group = file.create_group("/entry/data").unwrap();
            let dataset =
                ffi::create_chunked(&group, "data", PixelType::U8, &[bytes, count], &[bytes, 1], &[]).unwrap();
            for &(frame, fill) in *frames {
                let mut chunk = vec![0; bytes];
                chunk[..256].fill(fill);
                ffi::write_chunk(&dataset, &[0, frame], 0, &chunk).unwrap();
            }
        }
        dir.join("A1.h5.000")
    }

    fn frame(source: &dyn FrameSource, frame: u64) -> Vec<u8> {
        let mut out = vec![9; CANVAS.pixels()];
        source.read_frames(frame..frame + 1, &mut Scratch::default(), &mut out).unwrap();
        out
    }

    #[test]
    fn modules_are_stitched_and_absent_chunks_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 131_072, 5, [&[(1, 0b11_10_01_00)], &[], &[], &[], &[], &[(1, 1), (3, 2)]]);
        let source = open(&Opener::anywhere(), &path, BitOrder::LittlePairs).unwrap();
        assert_eq!((source.info().frames, source.info().shape, source.info().files.len()), (5, CANVAS, 6));
        let counts: Vec<_> = (0..5).map(|f| source.may_have_counts(f)).collect();
        assert_eq!(counts, [false, true, false, true, false]);
        let image = frame(source.as_ref(), 1);
        // Module 5 is top left, module 0 top right, a gap of 52 columns between them.
        assert_eq!(image[..8], [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(image[1024..1076], [0; 52]);
        assert_eq!(image[1076..1084], [0, 1, 2, 3, 0, 1, 2, 3]);
        assert!(image[CANVAS.cols..].iter().all(|&pixel| pixel == 0));
        assert!(frame(source.as_ref(), 0).iter().all(|&pixel| pixel == 0));
        assert_eq!(frame(source.as_ref(), 3)[..4], [2, 0, 0, 0]);
    }

    #[test]
    fn the_other_bit_order_turns_bytes_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 131_072, 1, [&[(0, 0b11_10_01_00)], &[], &[], &[], &[], &[]]);
        let source = open(&Opener::anywhere(), &path, BitOrder::BigPairs).unwrap();
        assert_eq!(frame(source.as_ref(), 0)[1076..1080], [3, 2, 1, 0]);
    }

    #[test]
    fn packed_cells_are_the_pixels() {
        for order in [BitOrder::LittlePairs, BitOrder::BigPairs] {
            let dir = tempfile::tempdir().unwrap();
            let frames: [&[(u64, u8)]; MODULES] =
                [&[(0, 0b11_10_01_00)], &[], &[(0, 0b01_00_11_00)], &[(1, 1)], &[], &[(0, 2)]];
            let path = write(dir.path(), 131_072, 2, frames);
            let source = open(&Opener::anywhere(), &path, order).unwrap();
            let quarters = source.packed_frames().expect("two bits a pixel");
            let mut packed = vec![9; 2 * quarters.cells() / 4];
            quarters.read_packed(0..2, &mut packed).unwrap();
            for (number, packed) in (0..).zip(packed.chunks_exact(quarters.cells() / 4)) {
                let mut image = vec![0; CANVAS.pixels()];
                for cell in 0..quarters.cells() {
                    image[quarters.pixel(cell).unwrap()] += packed[cell / 4] >> (cell % 4 * 2) & 3;
                }
                assert!(image == frame(source.as_ref(), number), "{order:?}, frame {number}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 262_144, 1, [&[]; MODULES]);
        assert!(
            open(&Opener::anywhere(), &path, BitOrder::LittlePairs).unwrap().packed_frames().is_none(),
            "four bits a pixel"
        );
    }

    #[test]
    fn four_and_eight_bits_are_told_by_the_rows() {
        for (bytes, pixels) in [(262_144, [0x4, 0xe, 0x4, 0xe]), (524_288, [0xe4; 4])] {
            let dir = tempfile::tempdir().unwrap();
            let path = write(dir.path(), bytes, 1, [&[(0, 0xe4)], &[], &[], &[], &[], &[]]);
            let source = open(&Opener::anywhere(), &path, BitOrder::LittlePairs).unwrap();
            assert_eq!(frame(source.as_ref(), 0)[1076..1080], pixels, "{bytes} rows");
        }
    }

    #[test]
    fn a_missing_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 131_072, 1, [&[]; MODULES]);
        std::fs::remove_file(dir.path().join("A1.h5.003")).unwrap();
        let message = open(&Opener::anywhere(), &path, BitOrder::LittlePairs).err().unwrap().to_string();
        assert!(message.contains("A1.h5.003") && message.contains("does not exist"), "{message}");
    }

    #[test]
    fn other_shapes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 1000, 1, [&[]; MODULES]);
        let message = open(&Opener::anywhere(), &path, BitOrder::LittlePairs).err().unwrap().to_string();
        assert!(message.contains("1000 bytes a frame, need 131072"), "{message}");
    }
}
