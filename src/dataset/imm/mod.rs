//! IMM files, sparse (an event stream) and dense (u16 frames): a 1024-byte header before each frame.
//!
//! Opening walks the headers and keeps 8 bytes a frame; pixels are read later, at any place and from any
//! thread. A sparse reading thread holds one block of 2 MiB (one frame, if that is larger) and its events.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::opener::{Opened, Opener};
use super::{DatasetError, EventSource, FrameSource, PhotonEvent, PixelType, Scratch, Source, SourceInfo, plain};

mod headers;

use headers::{Coding, HEADER_BYTES, walk};

const INDEX_BYTES: usize = 4;
const COUNT_BYTES: usize = 2;
const EVENT_BYTES: u64 = (INDEX_BYTES + COUNT_BYTES) as u64;
const PIXEL_BYTES: u64 = 2;

/// Bytes of a sparse block, unless one frame has more.
const BLOCK_BYTES: u64 = 2 << 20;

/// Opens an IMM file; the first header tells whether it is sparse or dense.
///
/// Counts of sparse files are read as unsigned 16 bits: boost_corr reads them as signed and turns counts above
/// 32767 negative.
///
/// # Errors
/// No frames, a truncated frame, headers that disagree or make no sense, with frame and byte; IO errors.
pub fn open(opener: &Opener, path: &Path) -> Result<Source, DatasetError> {
    let Opened { file, length: size, .. } = opener.open_filled(path)?;
    let (layout, offsets) = walk(&file, path, size)?;
    let format = match layout.coding {
        Coding::Sparse => "IMM, sparse",
        Coding::Dense => "IMM, dense u16",
    };
    let frames = offsets.len() as u64 - 1;
    let info = SourceInfo {
        format: format.to_owned(),
        files: vec![path.to_owned()],
        bytes: size,
        shape: layout.shape,
        frames,
    };
    let frames = Frames { path: path.to_owned(), file, offsets };
    Ok(match layout.coding {
        Coding::Sparse => Source::Events(Box::new(Sparse { blocks: blocks(&frames.offsets), info, frames })),
        Coding::Dense => Source::Frames(Box::new(Dense { info, frames })),
    })
}

/// Frames of each block: as many as fit into [`BLOCK_BYTES`], at least one. Block `b` has frames `b..b+1` of it.
fn blocks(offsets: &[u64]) -> Vec<u32> {
    let mut starts = vec![0];
    let mut begin = 0;
    for (frame, pair) in offsets.windows(2).enumerate() {
        if pair[1] - begin > BLOCK_BYTES && pair[0] > begin {
            starts.push(frame as u32);
            begin = pair[0];
        }
    }
    starts.push(offsets.len() as u32 - 1);
    starts
}

/// The file and where its frames are.
struct Frames {
    path: PathBuf,
    file: File,
    /// Of each frame's header; one more, the file's size.
    offsets: Vec<u64>,
}

impl Frames {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), DatasetError> {
        plain::read_at(&self.file, &self.path, out, offset)
    }
}

/// Sparse frames as events.
struct Sparse {
    info: SourceInfo,
    frames: Frames,
    /// First frame of each block; one more, the number of frames.
    blocks: Vec<u32>,
}

impl EventSource for Sparse {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn events_bound(&self) -> u64 {
        (self.info.bytes - self.info.frames * HEADER_BYTES) / EVENT_BYTES
    }

    fn blocks(&self) -> usize {
        self.blocks.len() - 1
    }

    fn read_block(&self, block: usize, scratch: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        out.clear();
        let (first, end) = (self.blocks[block], self.blocks[block + 1]);
        let offsets = &self.frames.offsets[first as usize..=end as usize];
        let begin = offsets[0];
        scratch.raw.resize((offsets[offsets.len() - 1] - begin) as usize, 0);
        self.frames.read(begin, &mut scratch.raw)?;
        let pixels = self.info.shape.pixels() as u32;
        for (frame, pair) in (first..end).zip(offsets.windows(2)) {
            let payload = &scratch.raw[(pair[0] + HEADER_BYTES - begin) as usize..(pair[1] - begin) as usize];
            if !decode(frame, payload, pixels, out) {
                out.clear();
                return Err(self.fault(frame, pair[0] + HEADER_BYTES, payload));
            }
        }
        Ok(())
    }
}

impl Sparse {
    /// Names the first pixel of a frame that is out of range.
    fn fault(&self, frame: u32, offset: u64, payload: &[u8]) -> DatasetError {
        let pixels = self.info.shape.pixels();
        let bad = indices(payload).map(|index| index as i32).enumerate();
        let (place, index) = bad
            .filter(|&(_, index)| usize::try_from(index).map_or(true, |index| index >= pixels))
            .map(|(number, index)| (offset + (number * INDEX_BYTES) as u64, index))
            .next()
            .unwrap_or((offset, 0));
        DatasetError::Raw {
            path: self.frames.path.clone(),
            place: format!("frame {frame}, byte {place}"),
            what: format!("pixel index {index} in an image of {} ({pixels} pixels)", self.info.shape),
            remedy: "transfer the file again".into(),
        }
    }
}

/// Appends a frame's events; false when a pixel is out of range, and then they mean nothing.
fn decode(frame: u32, payload: &[u8], pixels: u32, out: &mut Vec<PhotonEvent>) -> bool {
    let (_, counts) = payload.split_at(events(payload) * INDEX_BYTES);
    let counts = counts.chunks_exact(COUNT_BYTES).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let last = u64::from(pixels) - 1;
    // Sign bits of differences, gathered by OR: no branch an event. A negative index is a large unsigned one.
    let mut signs = 0;
    out.extend(indices(payload).zip(counts).map(|(index, count)| {
        signs |= last.wrapping_sub(u64::from(index));
        PhotonEvent::new(frame, index & (PhotonEvent::MAX_PIXELS as u32 - 1), count)
    }));
    signs >> 63 == 0
}

fn events(payload: &[u8]) -> usize {
    payload.len() / EVENT_BYTES as usize
}

fn indices(payload: &[u8]) -> impl Iterator<Item = u32> {
    let bytes = &payload[..events(payload) * INDEX_BYTES];
    bytes.chunks_exact(INDEX_BYTES).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Dense frames.
struct Dense {
    info: SourceInfo,
    frames: Frames,
}

impl FrameSource for Dense {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        PixelType::U16
    }

    /// 65535 is a count here: IMM has no mark for dead pixels.
    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let frame_bytes = self.info.shape.pixels() * PIXEL_BYTES as usize;
        for (frame, out) in frames.zip(out.chunks_exact_mut(frame_bytes)) {
            self.frames.read(self.frames.offsets[frame as usize] + HEADER_BYTES, out)?;
            if cfg!(target_endian = "big") {
                out.chunks_exact_mut(2).for_each(<[u8]>::reverse);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::headers::{COLS_AT, COMPRESSION_AT, COMPRESSION_SPARSE, LENGTH_AT, ROWS_AT};
    use super::*;
    use crate::correlate::bins::Shape;

    const SHAPE: Shape = Shape { rows: 4, cols: 6 };

    fn header(compression: i32, shape: Shape, length: u32) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES as usize];
        let mut put = |at: usize, value: i32| header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(COMPRESSION_AT, compression);
        put(ROWS_AT, shape.rows as i32);
        put(COLS_AT, shape.cols as i32);
        put(LENGTH_AT, length as i32);
        header
    }

    fn sparse_frame(shape: Shape, events: &[(i32, u16)]) -> Vec<u8> {
        let mut bytes = header(COMPRESSION_SPARSE, shape, events.len() as u32);
        bytes.extend(events.iter().flat_map(|event| event.0.to_le_bytes()));
        bytes.extend(events.iter().flat_map(|event| event.1.to_le_bytes()));
        bytes
    }

    fn dense_frame(shape: Shape, pixels: &[u16]) -> Vec<u8> {
        let mut bytes = header(0, shape, pixels.len() as u32);
        bytes.extend(pixels.iter().flat_map(|pixel| pixel.to_le_bytes()));
        bytes
    }

    fn open_bytes(bytes: &[u8]) -> Result<Source, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        open(&Opener::anywhere(), file.path()).map_err(|e| e.to_string())
    }

    fn read_all(source: Source) -> Result<Vec<PhotonEvent>, String> {
        let (mut all, mut block, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
        match source {
            Source::Events(source) => {
                for number in 0..source.blocks() {
                    source.read_block(number, &mut scratch, &mut block).map_err(|e| e.to_string())?;
                    all.extend_from_slice(&block);
                }
            }
            Source::Frames(source) => {
                let mut out = vec![0; source.info().shape.pixels() * 2];
                for frame in 0..source.info().frames {
                    source.read_frames(frame..frame + 1, &mut scratch, &mut out).map_err(|e| e.to_string())?;
                    let pixels = out.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
                    all.extend((0..).zip(pixels).map(|(pixel, count)| PhotonEvent::new(frame as u32, pixel, count)));
                }
            }
        }
        Ok(all)
    }

    fn golden(name: &str) -> Option<Source> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/case_imm").join(name);
        path.exists().then(|| open(&Opener::anywhere(), &path).unwrap())
    }

    /// Counts, counts x pixel, counts x frame.
    fn sums(events: &[PhotonEvent]) -> [u64; 3] {
        let sum =
            |of: &dyn Fn(&PhotonEvent) -> u32| events.iter().map(|e| u64::from(of(e)) * u64::from(e.count())).sum();
        [sum(&|_| 1), sum(&|e| e.pixel()), sum(&|e| e.frame())]
    }

    #[test]
    fn sparse_counts_are_unsigned_and_unsorted_pixels_are_fine() {
        let bytes =
            [sparse_frame(SHAPE, &[(23, 65_535), (0, 1)]), sparse_frame(SHAPE, &[]), sparse_frame(SHAPE, &[(7, 2)])];
        let source = open_bytes(&bytes.concat()).unwrap();
        assert_eq!((source.info().frames, source.info().shape), (3, SHAPE));
        let events = read_all(source).unwrap();
        assert_eq!(events, [PhotonEvent::new(0, 23, 65_535), PhotonEvent::new(0, 0, 1), PhotonEvent::new(2, 7, 2)]);
    }

    #[test]
    fn sparse_blocks_cover_all_frames_once() {
        let shape = Shape { rows: 512, cols: 512 };
        let frame: Vec<_> = (0..60_000).map(|pixel| (pixel, 1)).collect();
        let bytes = sparse_frame(shape, &frame);
        let Source::Events(source) = open_bytes(&bytes.repeat(12)).unwrap() else { panic!("dense") };
        assert_eq!((source.blocks(), source.events_bound()), (3, 720_000));
        let events = read_all(Source::Events(source)).unwrap();
        assert_eq!(events.len(), 720_000);
        assert!(events.is_sorted() && events[719_999] == PhotonEvent::new(11, 59_999, 1));
    }

    #[test]
    fn many_small_frames_are_found() {
        let frames: Vec<_> = (0..400).map(|k| vec![(k % 24, k as u16); k as usize % 4]).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| sparse_frame(SHAPE, frame)).collect();
        let source = open_bytes(&bytes).unwrap();
        assert_eq!(source.info().frames, 400);
        let expected =
            (0..).zip(&frames).flat_map(|(k, frame)| frame.iter().map(move |e| PhotonEvent::new(k, e.0 as u32, e.1)));
        assert_eq!(read_all(source).unwrap(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_frame_larger_than_a_block_is_a_block() {
        let offsets = [0, 10, BLOCK_BYTES * 3, BLOCK_BYTES * 3 + 10, BLOCK_BYTES * 4 + 10];
        assert_eq!(blocks(&offsets), [0, 1, 2, 3, 4]);
        assert_eq!(blocks(&[0, 10, 20, BLOCK_BYTES]), [0, 3]);
    }

    #[test]
    fn dense_frames_come_in_ranges() {
        let frames: Vec<Vec<u16>> = (0..3).map(|k| (0..24).map(|p| 100 * k + p).collect()).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| dense_frame(SHAPE, frame)).collect();
        let Source::Frames(source) = open_bytes(&bytes).unwrap() else { panic!("sparse") };
        assert!(source.pixel_type() == PixelType::U16 && !source.marks_saturation());
        let mut out = vec![0; 96];
        source.read_frames(1..3, &mut Scratch::default(), &mut out).unwrap();
        let expected: Vec<u8> = frames[1..].concat().iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn pixels_out_of_range_are_named_with_frame_and_byte() {
        for index in [24, -1, i32::MAX] {
            let bytes = [sparse_frame(SHAPE, &[(1, 1)]), sparse_frame(SHAPE, &[(2, 1), (index, 1)])].concat();
            let message = read_all(open_bytes(&bytes).unwrap()).unwrap_err();
            let place = format!("frame 1, byte {}", 1030 + 1024 + 4);
            assert!(message.contains(&place) && message.contains(&index.to_string()), "{message}");
        }
    }

    #[test]
    fn every_truncation_is_found_at_its_frame() {
        let frame = sparse_frame(SHAPE, &[(1, 1), (2, 2)]);
        let whole = frame.repeat(2);
        for length in (0..whole.len()).step_by(7).chain(whole.len() - 12..whole.len()) {
            if length == frame.len() {
                continue;
            }
            let message = open_bytes(&whole[..length]).map(|_| ()).unwrap_err();
            let begin = if length < frame.len() { 0 } else { frame.len() };
            assert!(message.contains(&format!("byte {begin}")), "{length}: {message}");
        }
    }

    #[test]
    fn frames_that_differ_are_named() {
        let other = Shape { rows: 6, cols: 4 };
        let zeros = [0; 24];
        for second in [sparse_frame(other, &[]), dense_frame(SHAPE, &zeros)] {
            let message = open_bytes(&[sparse_frame(SHAPE, &[]), second].concat()).map(|_| ()).unwrap_err();
            assert!(message.contains("frame 1, byte 1024") && message.contains("sparse 4 x 6"), "{message}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let shape = |rows, cols| Shape { rows, cols };
        let headers = [
            header(COMPRESSION_SPARSE, shape(0, 6), 0),
            header(COMPRESSION_SPARSE, shape(usize::MAX, 6), 0),
            header(COMPRESSION_SPARSE, shape(65_536, 65_536), 0),
            header(COMPRESSION_SPARSE, SHAPE, u32::MAX),
            header(0, SHAPE, 23),
        ];
        for header in headers {
            let message = open_bytes(&header.repeat(9)).map(|_| ()).unwrap_err();
            assert!(message.contains("frame 0, byte 0") && message.contains("announces"), "{message}");
        }
    }

    #[test]
    fn golden_files_have_their_sums() {
        let Some(sparse) = golden("H0012_sparse_00001-00040.imm") else { return };
        let Some(dense) = golden("H0012_dense_00001-00040.imm") else { return };
        for source in [sparse, dense] {
            assert_eq!((source.info().frames, source.info().shape), (40, Shape { rows: 32, cols: 48 }));
            assert_eq!(sums(&read_all(source).unwrap()), [31_028, 23_958_823, 603_465]);
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_give_frames_or_an_error(changes in proptest::collection::vec((0..1060_usize, any::<u8>()), 0..6)) {
            let mut bytes = sparse_frame(SHAPE, &[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]).repeat(2);
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(source) = open_bytes(&bytes) {
                let (shape, frames) = (source.info().shape, source.info().frames);
                if let Ok(events) = read_all(source) {
                    prop_assert!(events.iter().all(|e| (e.pixel() as usize) < shape.pixels() && u64::from(e.frame()) < frames));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(source) = open_bytes(&bytes) {
                let _ = read_all(source);
            }
        }
    }
}
