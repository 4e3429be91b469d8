//! Rigaku event files: the single `.bin` and the six `.bin.00k` of a 3M, one little-endian u64 a photon event.
//!
//! Bits 0-11 count, 16-36 pixel, 40-63 frame, ascending in frames; there is no header, so the image shape of a
//! single file comes from the caller. Files are read by blocks at any place and from any thread, never whole:
//! a reading thread holds one block (2 MiB), two where it reads ahead.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::opener::{Opened, Opener};
use super::stitch::{self, CANVAS, MODULE, MODULES};
use super::{DatasetError, EventSource, PhotonEvent, Scratch, SourceInfo, plain};
use crate::correlate::bins::Shape;

/// Events of a block: 2 MiB, large enough that a read costs its bytes, small enough to stay in the cache.
const BLOCK_EVENTS: u64 = 256 * 1024;

/// Events that are read and decoded at a time within a block: 128 KiB, so that decoding finds them in the
/// second-level cache (2.5 times as fast as a block at once).
const READ_EVENTS: usize = 16 * 1024;

const EVENT_BYTES: u64 = 8;
const FRAME_SHIFT: u32 = 40;
const PIXEL_SHIFT: u32 = 16;
const FRAME_BITS: u64 = !0 << FRAME_SHIFT;
const PIXEL_BITS: u64 = 0x1f_ffff;
const COUNT_BITS: u64 = 0xfff;

/// Some modules of a 3M number their pixels from here instead of from 0.
const OFFSET_QUIRK: u32 = 1 << 20;

/// Opens a single event file whose pixels are those of an image of `shape`.
///
/// # Errors
/// An empty file, a size that is not whole events, a shape of more pixels than events can number, IO errors.
/// Whether the events are in range and order is found when they are read.
pub fn open_single(opener: &Opener, path: &Path, shape: Shape) -> Result<Box<dyn EventSource>, DatasetError> {
    if shape.pixels() == 0 || shape.pixels() > PhotonEvent::MAX_PIXELS {
        return Err(DatasetError::Unsupported {
            path: path.to_owned(),
            what: format!("an image of {shape} pixels for a Rigaku file, whose events number at most 2^21"),
            remedy: "use the qmap of this detector".into(),
        });
    }
    let module = Module::open(opener, path, Placement::single(shape))?;
    Ok(Box::new(Rigaku::new("Rigaku 64-bit events", shape, vec![module])))
}

/// Opens the six files of a Rigaku 3M, of which `path` is one (`.bin.000` by convention), on its canvas.
///
/// # Errors
/// Missing files, all of them named; else as [`open_single`].
pub fn open_3m(opener: &Opener, path: &Path) -> Result<Box<dyn EventSource>, DatasetError> {
    let paths: Vec<PathBuf> = (0..MODULES).map(|k| path.with_extension(format!("{k:03}"))).collect();
    let missing: Vec<String> =
        paths.iter().filter(|path| !path.exists()).map(|path| path.display().to_string()).collect();
    if !missing.is_empty() {
        return Err(DatasetError::Raw {
            path: path.to_owned(),
            place: format!("missing: {}", missing.join(", ")),
            what: format!("{} of the {MODULES} files of a Rigaku 3M are missing", missing.len()),
            remedy: "transfer the missing files, the modules only make an image together".into(),
        });
    }
    let modules: Result<Vec<_>, _> = paths
        .iter()
        .enumerate()
        .map(|(k, path)| Module::open(opener, path, Placement::on_canvas(k))?.with_offset_quirk())
        .collect();
    Ok(Box::new(Rigaku::new("Rigaku 3M 64-bit events, six modules", CANVAS, modules?)))
}

/// One or six module files.
struct Rigaku {
    info: SourceInfo,
    modules: Vec<Module>,
}

impl Rigaku {
    fn new(format: &str, shape: Shape, modules: Vec<Module>) -> Self {
        let info = SourceInfo {
            format: format.to_owned(),
            files: modules.iter().map(|module| module.path.clone()).collect(),
            bytes: modules.iter().map(|module| module.events * EVENT_BYTES).sum(),
            shape,
            frames: modules.iter().map(|module| u64::from(module.last_frame) + 1).max().unwrap_or(0),
        };
        Self { info, modules }
    }
}

impl EventSource for Rigaku {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn events_bound(&self) -> u64 {
        self.modules.iter().map(|module| module.events).sum()
    }

    /// The blocks of the modules follow each other: a pixel belongs to one module, so its events keep their order.
    fn blocks(&self) -> usize {
        self.modules.iter().map(Module::blocks).sum()
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        let mut block = block;
        for module in &self.modules {
            if block < module.blocks() {
                return module.read_block(block as u64, out);
            }
            block -= module.blocks();
        }
        out.clear();
        Ok(())
    }
}

/// Which pixel indices a file may hold and where they lie in the image.
#[derive(Debug, Clone, Copy)]
struct Placement {
    /// Smallest valid index.
    first: u32,
    /// Number of valid indices.
    pixels: u32,
    /// Image pixel of the first index.
    origin: u32,
    /// Image pixels between the end of a module's row and the start of its next.
    gap: u32,
}

impl Placement {
    fn single(shape: Shape) -> Self {
        Self { first: 0, pixels: shape.pixels() as u32, origin: 0, gap: 0 }
    }

    fn on_canvas(module: usize) -> Self {
        let (row, col) = stitch::module_origin(module);
        let (origin, gap) = ((row * CANVAS.cols + col) as u32, (CANVAS.cols - MODULE.cols) as u32);
        Self { first: 0, pixels: MODULE.pixels() as u32, origin, gap }
    }

    fn last(self) -> u32 {
        self.first + (self.pixels - 1)
    }

    /// The image pixel of an index.
    #[inline(always)]
    fn image_pixel(self, index: u64) -> u64 {
        let local = index.wrapping_sub(u64::from(self.first));
        let row = local >> MODULE.cols.trailing_zeros();
        u64::from(self.origin).wrapping_add(local).wrapping_add(row.wrapping_mul(u64::from(self.gap)))
    }
}

/// One file.
struct Module {
    path: PathBuf,
    file: File,
    events: u64,
    last_frame: u32,
    placement: Placement,
}

impl Module {
    /// Reads the last event only.
    fn open(opener: &Opener, path: &Path, placement: Placement) -> Result<Self, DatasetError> {
        let Opened { file, length: size, .. } = opener.open_filled(path)?;
        if size % EVENT_BYTES != 0 {
            return Err(DatasetError::Raw {
                path: path.to_owned(),
                place: format!("byte {}", size - size % EVENT_BYTES),
                what: format!("{size} bytes are no whole number of 8-byte events: the file is cut off"),
                remedy: "transfer it again".into(),
            });
        }
        let mut module = Self { path: path.to_owned(), file, events: size / EVENT_BYTES, last_frame: 0, placement };
        module.last_frame = frame_of(module.raw_event(module.events - 1)?) as u32;
        Ok(module)
    }

    /// Finds out whether the pixel numbers have the offset of [`OFFSET_QUIRK`].
    ///
    /// A valid file has it in all events or in none, so the first event decides as well as the minimum over all
    /// of them, without the file being read up front; each block is then held to that choice.
    fn with_offset_quirk(mut self) -> Result<Self, DatasetError> {
        if index_of(self.raw_event(0)?) >= u64::from(OFFSET_QUIRK) {
            self.placement.first = OFFSET_QUIRK;
        }
        Ok(self)
    }

    fn blocks(&self) -> usize {
        self.events.div_ceil(BLOCK_EVENTS) as usize
    }

    fn raw_event(&self, number: u64) -> Result<u64, DatasetError> {
        let mut bytes = [0; EVENT_BYTES as usize];
        plain::read_at(&self.file, &self.path, &mut bytes, number * EVENT_BYTES)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn read_block(&self, block: u64, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        let start = block * BLOCK_EVENTS;
        let events = (self.events - start).min(BLOCK_EVENTS);
        let before = if start == 0 { 0 } else { frame_of(self.raw_event(start - 1)?) };
        // Without clearing first: a buffer that is used again is filled by the reads alone.
        out.resize(events as usize, PhotonEvent(0));
        let (mut valid, mut last, mut offset) = (true, before, start * EVENT_BYTES);
        for piece in out.chunks_mut(READ_EVENTS) {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(piece);
            plain::read_at(&self.file, &self.path, bytes, offset)?;
            offset += bytes.len() as u64;
            valid &= decode(piece, last, self.placement);
            last = piece.last().map_or(last, |event| u64::from(event.frame()));
        }
        if valid && last <= u64::from(self.last_frame) {
            return Ok(());
        }
        out.clear();
        Err(self.fault(start, events, before)?)
    }

    /// Says what is wrong with a block that did not pass.
    ///
    /// Reads it once more, since decoding was in place.
    fn fault(&self, start: u64, events: u64, before: u64) -> Result<DatasetError, DatasetError> {
        let mut bytes = vec![0; (events * EVENT_BYTES) as usize];
        plain::read_at(&self.file, &self.path, &mut bytes, start * EVENT_BYTES)?;
        let mut before = before;
        for (number, chunk) in (start..).zip(bytes.chunks_exact(EVENT_BYTES as usize)) {
            let raw = chunk.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            let (frame, index) = (frame_of(raw), index_of(raw));
            let (first, last) = (self.placement.first, self.placement.last());
            let place = format!("event {number}, byte {}", number * EVENT_BYTES);
            if index < u64::from(first) || index > u64::from(last) {
                return Ok(self.bad(
                    place,
                    format!("pixel index {index} in frame {frame}, where this file has {first} to {last}"),
                    "check that the qmap is that of this detector, else transfer the file again",
                ));
            }
            if frame < before || frame > u64::from(self.last_frame) {
                let what = if frame < before {
                    format!("frames go backwards: frame {frame} after frame {before}")
                } else {
                    format!("frames go backwards: frame {frame}, but the file ends with frame {}", self.last_frame)
                };
                return Ok(self.bad(place, what, "transfer it again; frames past 2^24 wrap and cannot be correlated"));
            }
            before = frame;
        }
        Ok(self.bad(format!("event {start}"), "the file changed while it was read".into(), "wait for its writer"))
    }

    fn bad(&self, place: String, what: String, remedy: &'static str) -> DatasetError {
        DatasetError::Raw { path: self.path.clone(), place, what, remedy: remedy.into() }
    }
}

fn frame_of(raw: u64) -> u64 {
    raw >> FRAME_SHIFT
}

fn index_of(raw: u64) -> u64 {
    raw >> PIXEL_SHIFT & PIXEL_BITS
}

/// Turns raw events into events in place; false when a pixel is out of range or a frame goes back (the first
/// event's is held against `before`), and then the events mean nothing.
///
/// All checks are sign bits of differences, gathered by OR: the loop has no branch and is vectorised.
fn decode(events: &mut [PhotonEvent], before: u64, placement: Placement) -> bool {
    let (first, last) = (u64::from(placement.first), u64::from(placement.last()));
    let (mut signs, mut before) = (0, before);
    for event in events {
        let raw = u64::from_le(event.0);
        let (frame, index) = (frame_of(raw), index_of(raw));
        signs |= frame.wrapping_sub(before) | index.wrapping_sub(first) | last.wrapping_sub(index);
        before = frame;
        let pixel = placement.image_pixel(index) & (PhotonEvent::MAX_PIXELS as u64 - 1);
        event.0 = raw & FRAME_BITS | pixel << PIXEL_SHIFT | raw & COUNT_BITS;
    }
    signs >> 63 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { rows: 512, cols: 1024 };

    fn raw(frame: u64, index: u64, count: u64) -> u64 {
        frame << 40 | index << 16 | count
    }

    fn write(path: &Path, events: &[u64]) {
        let bytes: Vec<u8> = events.iter().flat_map(|event| event.to_le_bytes()).collect();
        std::fs::write(path, bytes).unwrap();
    }

    fn read_all(source: &dyn EventSource) -> Result<Vec<PhotonEvent>, DatasetError> {
        let (mut all, mut block, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
        for number in 0..source.blocks() {
            source.read_block(number, &mut scratch, &mut block)?;
            all.extend_from_slice(&block);
        }
        Ok(all)
    }

    fn single(events: &[u64]) -> Result<Vec<PhotonEvent>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), events);
        let source = open_single(&Opener::anywhere(), file.path(), SHAPE).map_err(|e| e.to_string())?;
        read_all(source.as_ref()).map_err(|e| e.to_string())
    }

    fn golden(name: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden").join(name);
        path.exists().then_some(path)
    }

    #[test]
    fn counts_keep_twelve_bits_and_unused_bits_are_ignored() {
        let events = single(&[raw(0, 5, 300) | 0xf000 | 7 << 37, raw((1 << 24) - 1, 524_287, 4095)]).unwrap();
        assert_eq!(events, [PhotonEvent::new(0, 5, 300), PhotonEvent::new((1 << 24) - 1, 524_287, 4095)]);
    }

    #[test]
    fn duplicates_are_kept() {
        let events = single(&[raw(3, 9, 1), raw(3, 9, 2), raw(3, 9, 0)]).unwrap();
        assert_eq!(events.iter().map(|e| e.count()).collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn frames_follow_from_the_last_event() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &[raw(0, 1, 1), raw(1_999_999, 1, 1)]);
        let source = open_single(&Opener::anywhere(), file.path(), SHAPE).unwrap();
        assert_eq!((source.info().frames, source.info().bytes, source.events_bound()), (2_000_000, 16, 2));
    }

    #[test]
    fn a_pixel_outside_the_image_is_named_with_its_byte() {
        let message = single(&[raw(0, 1, 1), raw(0, 524_288, 1)]).unwrap_err();
        assert!(message.contains("event 1, byte 8") && message.contains("524288"), "{message}");
    }

    #[test]
    fn frames_that_go_back_are_named_with_their_byte() {
        let message = single(&[raw(7, 1, 1), raw(8, 1, 1), raw(6, 1, 1), raw(9, 1, 1)]).unwrap_err();
        assert!(message.contains("event 2, byte 16") && message.contains("frame 6 after frame 8"), "{message}");
    }

    #[test]
    fn frames_that_go_back_between_blocks_are_found() {
        let block = BLOCK_EVENTS as usize;
        let mut events = vec![raw(5, 1, 1); block];
        events.extend(vec![raw(4, 1, 1); 2]);
        let message = single(&events).unwrap_err();
        assert!(message.contains("file ends with frame 4"), "{message}");
        events.push(raw(5, 1, 1));
        let message = single(&events).unwrap_err();
        assert!(message.contains(&format!("event {block}, byte {}", block * 8)), "{message}");
    }

    #[test]
    fn cut_and_empty_files_say_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in 0..16 {
            std::fs::write(file.path(), vec![0; length]).unwrap();
            let opened = open_single(&Opener::anywhere(), file.path(), SHAPE).map(|_| ()).map_err(|e| e.to_string());
            match (length, opened) {
                (8, opened) => opened.unwrap(),
                (0, opened) => assert!(opened.unwrap_err().contains("empty")),
                (_, opened) => {
                    let message = opened.unwrap_err();
                    assert!(message.contains(&format!("{length} bytes")), "{message}");
                }
            }
        }
    }

    #[test]
    fn modules_lie_on_the_canvas_with_and_without_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("a.bin.000");
        for k in 0..MODULES {
            let offset = if k % 2 == 1 { 1 << 20 } else { 0 };
            write(&first.with_extension(format!("{k:03}")), &[raw(k as u64, offset + 2 * 1024 + 3, 1)]);
        }
        let source = open_3m(&Opener::anywhere(), &first).unwrap();
        assert_eq!((source.info().shape, source.info().frames, source.info().files.len()), (CANVAS, 6, 6));
        let places: Vec<_> = read_all(source.as_ref()).unwrap().iter().map(|e| CANVAS.place(e.pixel())).collect();
        assert_eq!(places, [(2, 1079), (584, 1079), (1166, 1079), (1166, 3), (584, 3), (2, 3)]);
    }

    #[test]
    fn an_index_on_the_other_side_of_the_offset_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("a.bin.000");
        for k in 0..MODULES {
            write(&first.with_extension(format!("{k:03}")), &[raw(0, (1 << 20) + 3, 1), raw(1, 3, 1)]);
        }
        let message = read_all(open_3m(&Opener::anywhere(), &first).unwrap().as_ref()).unwrap_err().to_string();
        assert!(message.contains("pixel index 3 ") && message.contains("1048576"), "{message}");
    }

    #[test]
    fn all_missing_modules_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("a.bin.000");
        for k in [0, 1, 3, 4] {
            write(&first.with_extension(format!("{k:03}")), &[raw(0, 3, 1)]);
        }
        let message = open_3m(&Opener::anywhere(), &first).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("a.bin.002") && message.contains("a.bin.005"), "{message}");
    }

    #[test]
    fn golden_single_file_has_its_sums() {
        let Some(path) = golden("case_rigaku500k_bin/B0004_r00001.bin") else { return };
        let source = open_single(&Opener::anywhere(), &path, SHAPE).unwrap();
        assert_eq!(source.info().frames, 600);
        let events = read_all(source.as_ref()).unwrap();
        assert_eq!(events.len(), 361_571);
        let sum = |of: &dyn Fn(&PhotonEvent) -> u64| events.iter().map(of).sum::<u64>();
        assert_eq!(sum(&|e| e.count().into()), 541_174);
        assert_eq!(sum(&|e| u64::from(e.pixel()) * u64::from(e.count())), 141_909_319_959);
        assert_eq!(sum(&|e| u64::from(e.frame()) * u64::from(e.count())), 162_326_978);
    }

    #[test]
    fn golden_3m_has_its_counts_in_each_module() {
        let Some(path) = golden("case_rigaku3m/G0011_f000064_r00001.bin.000") else { return };
        let source = open_3m(&Opener::anywhere(), &path).unwrap();
        assert_eq!(source.info().frames, 64);
        let mut counts = [0; MODULES];
        for event in read_all(source.as_ref()).unwrap() {
            let (row, col) = CANVAS.place(event.pixel());
            let inside = |k: &usize| {
                let (top, left) = stitch::module_origin(*k);
                (top..top + 512).contains(&row) && (left..left + 1024).contains(&col)
            };
            counts[(0..MODULES).find(inside).unwrap()] += event.count();
        }
        assert_eq!(counts, [32_201, 64_268, 95_688, 127_762, 159_181, 192_422]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_valid_events_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().unwrap();
            let first = dir.path().join("a.bin.000");
            for k in 0..MODULES {
                std::fs::write(first.with_extension(format!("{k:03}")), &bytes).unwrap();
            }
            let shape = Shape { rows: 3, cols: 700 };
            for (source, shape) in [(open_single(&Opener::anywhere(), &first, shape), shape), (open_3m(&Opener::anywhere(), &first), CANVAS)] {
                let Ok(source) = source else { continue };
                let Ok(events) = read_all(source.as_ref()) else { continue };
                prop_assert!(events.is_sorted_by_key(|e| e.frame()) || shape == CANVAS);
                for event in events {
                    prop_assert!((event.pixel() as usize) < shape.pixels());
                    prop_assert!(u64::from(event.frame()) < source.info().frames);
                }
            }
        }

        #[test]
        fn sorted_events_come_back(frames in proptest::collection::vec((0..50_u64, 0..524_288_u64, 0..4096_u64), 1..300)) {
            let mut frames = frames;
            frames.sort_unstable();
            let events: Vec<u64> = frames.iter().map(|&(f, p, c)| raw(f, p, c)).collect();
            let expected: Vec<PhotonEvent> = frames.iter().map(|&(f, p, c)| PhotonEvent::new(f as u32, p as u32, c as u16)).collect();
            prop_assert_eq!(single(&events).unwrap(), expected);
        }
    }
}
