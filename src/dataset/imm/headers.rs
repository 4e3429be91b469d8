//! The headers of an IMM file: where each frame is, and that all are of one kind and within the file.

use std::fs::File;
use std::path::Path;

use super::{EVENT_BYTES, PIXEL_BYTES};
use crate::correlate::bins::Shape;
use crate::dataset::{DatasetError, PhotonEvent, plain};

/// Bytes of the header before each frame.
pub(super) const HEADER_BYTES: u64 = 1024;
/// Bytes of the header that hold what is used here.
const HEADER_USED: usize = 156;
pub(super) const COMPRESSION_AT: usize = 4;
pub(super) const ROWS_AT: usize = 108;
pub(super) const COLS_AT: usize = 112;
pub(super) const LENGTH_AT: usize = 152;

/// Value of the compression field of sparse frames.
pub(super) const COMPRESSION_SPARSE: i32 = 6;

const CUT_REMEDY: &str = "transfer the file again or cut it at this frame's first byte";

/// Bytes read at once where headers are close to each other: a system call a header would cost seconds for a
/// million small frames.
const WINDOW_BYTES: u64 = 64 << 10;

/// Headers closer than this are read by windows.
const CLOSE_BYTES: u64 = 8 << 10;

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Indices and counts of the pixels that have any.
    Sparse,
    /// All pixels, u16.
    Dense,
}

/// What all headers of a file have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// How pixels are stored.
    pub(super) coding: Coding,
    /// Image shape.
    pub(super) shape: Shape,
}

/// Walks the headers; returns the offset of each frame's header and, last, the file's size.
pub(super) fn walk(file: &File, path: &Path, size: u64) -> Result<(Layout, Vec<u64>), DatasetError> {
    let mut offsets = vec![0];
    let mut common = None;
    let mut offset = 0;
    let mut window = Window { file, path, size, bytes: Vec::new(), begin: 0, previous: 0 };
    while offset < size {
        let frame = offsets.len() - 1;
        let bad = |what: String, remedy: &'static str| DatasetError::Raw {
            path: path.to_owned(),
            place: format!("frame {frame}, byte {offset}"),
            what,
            remedy: remedy.into(),
        };
        if size - offset < HEADER_BYTES {
            return Err(bad(format!("the frame's header is cut off after {} bytes", size - offset), CUT_REMEDY));
        }
        let (layout, payload) = parse(window.header(offset)?)
            .map_err(|what| bad(what, "check that this is an IMM file, else transfer it again"))?;
        let first = *common.get_or_insert(layout);
        if layout != first {
            return Err(bad(
                format!("the frame is {layout}, the frames before it are {first}"),
                "a file must hold frames of one kind: transfer it again or cut it at this byte",
            ));
        }
        let present = size - offset - HEADER_BYTES;
        if payload > present {
            return Err(bad(format!("the frame is cut off: {present} of {payload} bytes of pixels"), CUT_REMEDY));
        }
        if offsets.len() as u64 > PhotonEvent::MAX_FRAMES {
            return Err(bad("more than 2^24 frames".into(), "cut the file into shorter ones"));
        }
        offset += HEADER_BYTES + payload;
        offsets.push(offset);
    }
    let layout = common.expect("a file that is not empty has a first header or has failed above");
    Ok((layout, offsets))
}

/// The part of the file that was read last.
struct Window<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
    bytes: Vec<u8>,
    /// Offset of `bytes` in the file.
    begin: u64,
    /// Offset of the header asked for last.
    previous: u64,
}

impl Window<'_> {
    /// The used part of the header at `offset`, which has a whole header in the file.
    fn header(&mut self, offset: u64) -> Result<&[u8], DatasetError> {
        let close = offset - self.previous < CLOSE_BYTES;
        self.previous = offset;
        if offset + HEADER_USED as u64 > self.begin + self.bytes.len() as u64 {
            let length = if close { WINDOW_BYTES.min(self.size - offset) } else { HEADER_USED as u64 };
            self.bytes.resize(length as usize, 0);
            self.begin = offset;
            plain::read_at(self.file, self.path, &mut self.bytes, offset)?;
        }
        let at = (offset - self.begin) as usize;
        Ok(&self.bytes[at..at + HEADER_USED])
    }
}

/// The layout and the payload's bytes that a header announces, or what is wrong with it.
fn parse(header: &[u8]) -> Result<(Layout, u64), String> {
    let field = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (rows, cols) = (field(ROWS_AT), field(COLS_AT));
    let pixels = i64::from(rows) * i64::from(cols);
    if rows <= 0 || cols <= 0 || pixels > PhotonEvent::MAX_PIXELS as i64 {
        return Err(format!("the header announces an image of {rows} x {cols}"));
    }
    let length = u64::from(field(LENGTH_AT) as u32);
    let pixels = pixels as u64;
    let shape = Shape { rows: rows as usize, cols: cols as usize };
    if field(COMPRESSION_AT) == COMPRESSION_SPARSE {
        if length > pixels {
            return Err(format!("the header announces {length} events in {pixels} pixels"));
        }
        return Ok((Layout { coding: Coding::Sparse, shape }, length * EVENT_BYTES));
    }
    if length != pixels {
        return Err(format!("the header announces {length} values for {pixels} pixels"));
    }
    Ok((Layout { coding: Coding::Dense, shape }, length * PIXEL_BYTES))
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let coding = match self.coding {
            Coding::Sparse => "sparse",
            Coding::Dense => "dense",
        };
        write!(f, "{coding} {}", self.shape)
    }
}
