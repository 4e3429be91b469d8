//! The filter pipeline of a dataset: what the file names, checked, and its reversal for one chunk.

use std::path::Path;

use super::bitshuffle::{Bitshuffle, BlockCodec};
use super::codec::{self, Corrupt};
use super::ffi::RawFilter;
use crate::dataset::DatasetError;

/// The number of the bitshuffle filter.
pub(super) const BITSHUFFLE: i32 = 32008;

const DEFLATE: i32 = 1;
const SHUFFLE: i32 = 2;
const FLETCHER32: i32 = 3;
const LZF: i32 = 32000;
const BLOSC: i32 = 32001;
const LZ4: i32 = 32004;
const ZSTD: i32 = 32015;

const SUPPORTED: &str = "rewrite it without or with gzip (1), shuffle (2), fletcher32 (3), lzf (32000), blosc (32001), \
                         lz4 (32004), bitshuffle (32008) or zstd (32015)";

/// Bytes of the largest element that a byte- or bitshuffle may name.
const LARGEST_ELEMENT: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    Deflate,
    Shuffle { elem: usize },
    Fletcher32,
    Lzf,
    Blosc,
    Lz4,
    Bitshuffle(Bitshuffle),
    Zstd,
}

/// The filters of a dataset, in the order in which they were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pipeline(Vec<Filter>);

impl Pipeline {
    /// Checks what a file names; `elem` is the size of its elements.
    ///
    /// # Errors
    /// A filter that is not known here, with its number, or parameters that it cannot have.
    pub(super) fn parse(path: &Path, raw: &[RawFilter], elem: usize) -> Result<Self, DatasetError> {
        let unsupported = |what| DatasetError::Unsupported { path: path.to_owned(), what, remedy: SUPPORTED.into() };
        let filters = raw
            .iter()
            .map(|(id, values)| Filter::parse(*id, values, elem))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unsupported)?;
        if filters.iter().filter(|filter| filter.changes_length()).count() > 1 {
            return Err(unsupported("frames are compressed twice".to_owned()));
        }
        Ok(Self(filters))
    }

    /// The filters in words, as `bitshuffle-lz4`.
    pub(super) fn describe(&self) -> String {
        if self.0.is_empty() {
            return "uncompressed".to_owned();
        }
        self.0.iter().map(|filter| filter.name()).collect::<Vec<_>>().join("+")
    }

    /// True when a chunk is stored as it is; bit `i` of `skipped` tells that filter `i` was not applied to it.
    pub(super) fn is_identity(&self, skipped: u32) -> bool {
        self.applied(skipped).next().is_none()
    }

    /// Decodes `raw`, which is used up, into exactly `out`, by way of `spare`.
    ///
    /// # Errors
    /// Bytes that do not decode to the length of `out`; the offset is one in `raw`, or 0 where that has none.
    pub(super) fn decode(
        &self,
        skipped: u32,
        raw: &mut Vec<u8>,
        spare: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), Corrupt> {
        let mut steps = self.applied(skipped).rev().peekable();
        let mut outermost = true;
        while let Some((position, filter)) = steps.next() {
            let place = |error: Corrupt| if outermost { error } else { Corrupt { offset: 0, ..error } };
            if filter == Filter::Fletcher32 {
                let length = codec::verify_fletcher32(raw).map_err(place)?.len();
                raw.truncate(length);
            } else if steps.peek().is_none() {
                return filter.decode(raw, out).map_err(place);
            } else {
                // What is left to undo keeps the length, but for checksums.
                let checksums = self.applied(skipped).filter(|&(i, f)| i < position && f == Filter::Fletcher32).count();
                spare.resize(out.len() + checksums * codec::CHECKSUM, 0);
                filter.decode(raw, spare).map_err(place)?;
                std::mem::swap(raw, spare);
            }
            outermost = false;
        }
        codec::expect_length(raw.len(), out)?;
        out.copy_from_slice(raw);
        Ok(())
    }

    fn applied(&self, skipped: u32) -> impl DoubleEndedIterator<Item = (usize, Filter)> {
        let bit = move |i: usize| u32::try_from(i).ok().and_then(|i| skipped.checked_shr(i)).unwrap_or(0) & 1;
        self.0.iter().copied().enumerate().filter(move |&(i, _)| bit(i) == 0)
    }
}

impl Filter {
    fn parse(id: i32, values: &[u32], elem: usize) -> Result<Self, String> {
        let element = |stored: Option<&u32>| match stored {
            None | Some(0) => Ok(elem),
            Some(&size) if size <= LARGEST_ELEMENT => Ok(size as usize),
            Some(size) => Err(format!("filter {id} has elements of {size} bytes")),
        };
        match id {
            DEFLATE => Ok(Self::Deflate),
            SHUFFLE => Ok(Self::Shuffle { elem: element(values.first())? }),
            FLETCHER32 => Ok(Self::Fletcher32),
            LZF => Ok(Self::Lzf),
            BLOSC => Ok(Self::Blosc),
            LZ4 => Ok(Self::Lz4),
            BITSHUFFLE => bitshuffle(values, element(values.get(2))?).map(Self::Bitshuffle),
            ZSTD => Ok(Self::Zstd),
            _ => Err(format!("filter {id} is not known")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deflate => "gzip",
            Self::Shuffle { .. } => "shuffle",
            Self::Fletcher32 => "fletcher32",
            Self::Lzf => "lzf",
            Self::Blosc => "blosc",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bitshuffle(Bitshuffle { codec: BlockCodec::Raw, .. }) => "bitshuffle",
            Self::Bitshuffle(Bitshuffle { codec: BlockCodec::Lz4, .. }) => "bitshuffle-lz4",
            Self::Bitshuffle(Bitshuffle { codec: BlockCodec::Zstd, .. }) => "bitshuffle-zstd",
        }
    }

    /// True for compressors: how long their input is tells nothing about their output.
    fn changes_length(self) -> bool {
        match self {
            Self::Deflate | Self::Lzf | Self::Blosc | Self::Lz4 | Self::Zstd => true,
            Self::Shuffle { .. } | Self::Fletcher32 => false,
            Self::Bitshuffle(bitshuffle) => bitshuffle.codec != BlockCodec::Raw,
        }
    }

    fn decode(self, input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
        match self {
            Self::Deflate => codec::deflate(input, out),
            Self::Shuffle { elem } => codec::unshuffle(input, elem, out),
            Self::Lzf => codec::lzf(input, out),
            Self::Blosc => codec::blosc(input, out),
            Self::Lz4 => codec::lz4(input, out),
            Self::Bitshuffle(bitshuffle) => bitshuffle.decode(input, out),
            Self::Zstd => codec::zstd(&mut codec::zstd_context()?, input, out),
            Self::Fletcher32 => {
                let bytes = codec::verify_fletcher32(input)?;
                codec::expect_length(bytes.len(), out)?;
                out.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// Parameters of bitshuffle: version (2), element size, block size in elements, compression, level.
fn bitshuffle(values: &[u32], elem: usize) -> Result<Bitshuffle, String> {
    let block = values.get(3).map_or(0, |&block| block as usize);
    if !block.is_multiple_of(8) {
        return Err(format!("filter {BITSHUFFLE} has blocks of {block} elements, no multiple of 8"));
    }
    let codec = match values.get(4) {
        None | Some(0) => BlockCodec::Raw,
        Some(2) => BlockCodec::Lz4,
        Some(3) => BlockCodec::Zstd,
        Some(other) => return Err(format!("filter {BITSHUFFLE} has compression {other}, which is not known")),
    };
    Ok(Bitshuffle { elem, block, codec })
}
