//! The bitshuffle filter (32008): blocks of bit-transposed elements, each compressed by lz4, zstd or not at all.
//!
//! Compressed chunks begin with the decoded size (8 bytes) and the block size in bytes (4), both big-endian; each
//! block has its compressed length (4 bytes, big-endian) before it. What is left over from groups of eight
//! elements stands at the end as it is. Without compression there is no header.

use super::codec::{self, Corrupt, Input};
use super::transpose::{transpose, untranspose};

/// What compresses the transposed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockCodec {
    /// Nothing: no header either.
    Raw,
    /// lz4 blocks.
    Lz4,
    /// zstd frames.
    Zstd,
}

/// Parameters of the filter, as stored with the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bitshuffle {
    /// Bytes of an element.
    pub(super) elem: usize,
    /// Elements of a block; 0 = the filter's own choice. Only the uncompressed form needs it.
    pub(super) block: usize,
    /// Compression.
    pub(super) codec: BlockCodec,
}

/// Elements that are transposed together.
const GROUP: usize = 8;

/// Bytes that the filter aims at for a block.
const TARGET_BLOCK_BYTES: usize = 8192;

/// The fewest elements of a block that the filter chooses by itself.
const LEAST_BLOCK: usize = 128;

impl Bitshuffle {
    /// Decodes a chunk into exactly `out`.
    pub(super) fn decode(self, input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
        if self.codec == BlockCodec::Raw {
            return self.decode_raw(input, out);
        }
        let mut input = Input::new(input);
        let size = input.be64("decoded size")?;
        if size != out.len() as u64 {
            return Err(Corrupt::at(0, format!("decodes to {size} bytes, not to {}", out.len())));
        }
        let unit = GROUP * self.elem;
        let block_bytes = match input.be32("block size")? as usize {
            0 => self.block_bytes(),
            bytes => bytes,
        };
        if !block_bytes.is_multiple_of(unit) {
            return Err(Corrupt::at(8, format!("block size of {block_bytes} bytes is no multiple of {unit}")));
        }
        let (blocks, rest) = out.split_at_mut(out.len() / unit * unit);
        let mut block = vec![0; block_bytes.min(blocks.len())];
        let mut zstd = (self.codec == BlockCodec::Zstd).then(codec::zstd_context).transpose()?;
        for part in blocks.chunks_mut(block_bytes) {
            let at = input.at;
            let length = input.be32("length of a block")? as usize;
            let packed = input.take(length, "block")?;
            let rows = &mut block[..part.len()];
            match &mut zstd {
                Some(context) => codec::zstd(context, packed, rows),
                None => codec::lz4_block(packed, rows),
            }
            .map_err(|error| error.after(at + 4))?;
            untranspose(rows, part, self.elem);
        }
        rest.copy_from_slice(input.take(rest.len(), "last elements")?);
        Ok(())
    }

    fn decode_raw(self, input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
        codec::expect_length(input.len(), out)?;
        let unit = GROUP * self.elem;
        let whole = out.len() / unit * unit;
        for (rows, part) in self.blocks(&input[..whole]).zip(out[..whole].chunks_mut(self.block_bytes())) {
            untranspose(rows, part, self.elem);
        }
        out[whole..].copy_from_slice(&input[whole..]);
        Ok(())
    }

    /// Appends the encoded chunk to `out`.
    pub(super) fn encode(self, input: &[u8], out: &mut Vec<u8>) {
        let block_bytes = self.block_bytes();
        let unit = GROUP * self.elem;
        let (blocks, rest) = input.split_at(input.len() / unit * unit);
        if self.codec != BlockCodec::Raw {
            out.extend_from_slice(&(input.len() as u64).to_be_bytes());
            out.extend_from_slice(&(block_bytes as u32).to_be_bytes());
        }
        let mut rows = vec![0; block_bytes.min(blocks.len())];
        for part in self.blocks(blocks) {
            let rows = &mut rows[..part.len()];
            transpose(part, rows, self.elem);
            match self.codec {
                BlockCodec::Raw => out.extend_from_slice(rows),
                codec @ (BlockCodec::Lz4 | BlockCodec::Zstd) => {
                    let start = out.len();
                    out.extend_from_slice(&[0; 4]);
                    codec::compress_block(codec, rows, out);
                    let length = (out.len() - start - 4) as u32;
                    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
                }
            }
        }
        out.extend_from_slice(rest);
    }

    fn blocks(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(self.block_bytes())
    }

    fn block_bytes(self) -> usize {
        let chosen = (TARGET_BLOCK_BYTES / self.elem / GROUP * GROUP).max(LEAST_BLOCK);
        self.elem * if self.block == 0 { chosen } else { self.block }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parameters() -> impl Strategy<Value = Bitshuffle> {
        let elem = prop_oneof![Just(1_usize), Just(2), Just(3), Just(4), Just(8)];
        let block = prop_oneof![Just(0_usize), Just(8), Just(2048)];
        let codec = prop_oneof![Just(BlockCodec::Raw), Just(BlockCodec::Lz4), Just(BlockCodec::Zstd)];
        (elem, block, codec).prop_map(|(elem, block, codec)| Bitshuffle { elem, block, codec })
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(
            filter in parameters(),
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..20_000),
        ) {
            let mut packed = Vec::new();
            filter.encode(&bytes, &mut packed);
            let mut out = vec![0xaa; bytes.len()];
            prop_assert_eq!(filter.decode(&packed, &mut out), Ok(()));
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn truncated_chunks_are_corrupt(
            filter in parameters(),
            bytes in proptest::collection::vec(any::<u8>(), 1..9000),
            part in 0.0..1.0,
        ) {
            let mut packed = Vec::new();
            filter.encode(&bytes, &mut packed);
            packed.truncate((packed.len() as f64 * part) as usize);
            prop_assert!(filter.decode(&packed, &mut vec![0; bytes.len()]).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(
            filter in parameters(),
            mut packed in proptest::collection::vec(any::<u8>(), 0..4000),
            length in 0_usize..9000,
            plausible in any::<bool>(),
        ) {
            if plausible && packed.len() >= 16 {
                packed[..8].copy_from_slice(&(length as u64).to_be_bytes());
                packed[8..12].copy_from_slice(&(filter.elem as u32 * 64).to_be_bytes());
                packed[12..16].copy_from_slice(&40_u32.to_be_bytes());
            }
            let _ = filter.decode(&packed, &mut vec![0; length]);
        }
    }
}
