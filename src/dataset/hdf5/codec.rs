//! Compression and checksum filters of HDF5 chunks: one function each, from exactly the stored bytes to exactly
//! the decoded ones. Lengths come from files and are never trusted: nothing is allocated here by what they say.

use std::ffi::c_int;

use super::bitshuffle::BlockCodec;

/// Why a chunk does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Corrupt {
    /// Byte in the filter's input.
    pub(super) offset: usize,
    /// What is wrong there.
    pub(super) what: String,
}

impl Corrupt {
    pub(super) fn at(offset: usize, what: impl Into<String>) -> Self {
        Self { offset, what: what.into() }
    }

    /// The same, for input that is a part of something larger.
    pub(super) fn after(self, start: usize) -> Self {
        Self { offset: self.offset + start, ..self }
    }
}

/// Bytes that are consumed from the front.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    /// How many are consumed.
    pub(super) at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Corrupt> {
        let left = &self.bytes[self.at..];
        let taken = left.get(..length).ok_or_else(|| {
            Corrupt::at(self.at, format!("{what}: {length} bytes are needed and {} are left", left.len()))
        })?;
        self.at += length;
        Ok(taken)
    }

    pub(super) fn be32(&mut self, what: &str) -> Result<u32, Corrupt> {
        let bytes = self.take(4, what)?;
        Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    pub(super) fn be64(&mut self, what: &str) -> Result<u64, Corrupt> {
        Ok(u64::from(self.be32(what)?) << 32 | u64::from(self.be32(what)?))
    }
}

/// Refuses a decoded length that is not the expected one.
pub(super) fn expect_length(decoded: usize, out: &[u8]) -> Result<(), Corrupt> {
    if decoded == out.len() {
        return Ok(());
    }
    Err(Corrupt::at(0, format!("decodes to {decoded} bytes, not to {}", out.len())))
}

/// One raw lz4 block.
pub(super) fn lz4_block(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let too_long = |_| Corrupt::at(0, "lz4 block above 2 GiB");
    let input_len = c_int::try_from(input.len()).map_err(too_long)?;
    let out_len = c_int::try_from(out.len()).map_err(too_long)?;
    // SAFETY: both pointers are valid for the lengths that go with them; the function stays within them, whatever
    // the input holds.
    let decoded =
        unsafe { lz4_sys::LZ4_decompress_safe(input.as_ptr().cast(), out.as_mut_ptr().cast(), input_len, out_len) };
    match usize::try_from(decoded) {
        Ok(decoded) => expect_length(decoded, out),
        Err(_) => Err(Corrupt::at(decoded.unsigned_abs() as usize, "malformed lz4 block")),
    }
}

/// The lz4 filter (32004): decoded size (8 bytes) and block size (4), then blocks with their length (4) before
/// them, all big-endian; a block that did not shrink is stored as it is.
pub(super) fn lz4(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let mut input = Input::new(input);
    let size = input.be64("decoded size")?;
    if size != out.len() as u64 {
        return Err(Corrupt::at(0, format!("decodes to {size} bytes, not to {}", out.len())));
    }
    let block = input.be32("block size")? as usize;
    if block == 0 {
        return Err(Corrupt::at(8, "block size of 0 bytes"));
    }
    for part in out.chunks_mut(block) {
        let length = input.be32("length of a block")? as usize;
        let start = input.at;
        let packed = input.take(length, "block")?;
        if packed.len() == part.len() {
            part.copy_from_slice(packed);
        } else {
            lz4_block(packed, part).map_err(|error| error.after(start))?;
        }
    }
    Ok(())
}

/// The lzf filter (32000).
pub(super) fn lzf(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let too_long = |_| Corrupt::at(0, "lzf chunk above 4 GiB");
    let input_len = u32::try_from(input.len()).map_err(too_long)?;
    let out_len = u32::try_from(out.len()).map_err(too_long)?;
    if input.is_empty() {
        return Err(Corrupt::at(0, "empty lzf chunk"));
    }
    // SAFETY: both pointers are valid for the lengths that go with them, the input is not empty, and the function
    // checks both ends for every literal run and every back reference.
    let decoded =
        unsafe { lzf_sys::lzf_decompress(input.as_ptr().cast(), input_len, out.as_mut_ptr().cast(), out_len) };
    match decoded {
        0 if !out.is_empty() => Err(Corrupt::at(0, "malformed lzf chunk")),
        decoded => expect_length(decoded as usize, out),
    }
}

/// A zstd decoder, which costs too much to make for every block.
pub(super) type Zstd = zstd::bulk::Decompressor<'static>;

/// A new zstd decoder.
pub(super) fn zstd_context() -> Result<Zstd, Corrupt> {
    Zstd::new().map_err(|error| Corrupt::at(0, format!("no zstd decoder: {error}")))
}

/// One zstd frame.
pub(super) fn zstd(context: &mut Zstd, input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let decoded = context.decompress_to_buffer(input, out).map_err(|error| Corrupt::at(0, format!("zstd: {error}")))?;
    expect_length(decoded, out)
}

/// The gzip filter (1), which is a zlib stream.
pub(super) fn deflate(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let mut stream = flate2::Decompress::new(true);
    let status = stream.decompress(input, out, flate2::FlushDecompress::Finish);
    let at = stream.total_in() as usize;
    match status {
        Ok(flate2::Status::StreamEnd) => expect_length(stream.total_out() as usize, out),
        Ok(flate2::Status::Ok | flate2::Status::BufError) => {
            Err(Corrupt::at(at, format!("the gzip stream does not end after {} decoded bytes", stream.total_out())))
        }
        Err(error) => Err(Corrupt::at(at, format!("gzip: {error}"))),
    }
}

/// The blosc filter (32001).
pub(super) fn blosc(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let mut size = 0;
    // SAFETY: the pointer is valid for the length; the function reads the header only when it is there.
    let verdict = unsafe { blosc_src::blosc_cbuffer_validate(input.as_ptr().cast(), input.len(), &raw mut size) };
    if verdict != 0 {
        return Err(Corrupt::at(0, "malformed blosc header"));
    }
    expect_length(size, out)?;
    // SAFETY: the buffers are valid for their lengths, the input was found safe to decode, and the context form
    // uses no state that is shared between threads.
    let decoded =
        unsafe { blosc_src::blosc_decompress_ctx(input.as_ptr().cast(), out.as_mut_ptr().cast(), out.len(), 1) };
    match usize::try_from(decoded) {
        Ok(decoded) => expect_length(decoded, out),
        Err(_) => Err(Corrupt::at(0, "malformed blosc chunk, or compressed by snappy, which is not built in")),
    }
}

/// The shuffle filter (2): byte `b` of every element, then byte `b + 1`; what is left over stays at the end.
pub(super) fn unshuffle(input: &[u8], elem: usize, out: &mut [u8]) -> Result<(), Corrupt> {
    expect_length(input.len(), out)?;
    if elem <= 1 {
        out.copy_from_slice(input);
        return Ok(());
    }
    let count = input.len() / elem;
    let (planes, rest) = input.split_at(count * elem);
    for (byte, plane) in planes.chunks_exact(count.max(1)).enumerate() {
        for (element, &value) in out.chunks_exact_mut(elem).zip(plane) {
            element[byte] = value;
        }
    }
    out[count * elem..].copy_from_slice(rest);
    Ok(())
}

/// Bytes of the checksum that the fletcher32 filter (3) appends.
pub(super) const CHECKSUM: usize = 4;

/// The bytes before the checksum, when it is theirs.
pub(super) fn verify_fletcher32(input: &[u8]) -> Result<&[u8], Corrupt> {
    let Some((bytes, stored)) = input.split_last_chunk::<CHECKSUM>() else {
        return Err(Corrupt::at(0, "shorter than its checksum"));
    };
    let sum = fletcher32(bytes);
    let stored = u32::from_le_bytes(*stored);
    // Files of HDF5 before 1.6.3 hold the bytes of each half swapped.
    let swapped = (sum & 0x00ff_00ff) << 8 | (sum & 0xff00_ff00) >> 8;
    if stored != sum && stored != swapped {
        return Err(Corrupt::at(bytes.len(), format!("checksum {stored:08x} is stored, the bytes have {sum:08x}")));
    }
    Ok(bytes)
}

/// Fletcher's checksum over big-endian 16-bit words; an odd last byte is the upper half of a word.
pub(super) fn fletcher32(bytes: &[u8]) -> u32 {
    /// Words that 32-bit sums hold without overflow.
    const RUN: usize = 360;
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut first, mut second) = (0_u32, 0_u32);
    for run in bytes.chunks(2 * RUN) {
        for word in run.chunks(2) {
            first += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
            second += first;
        }
        (first, second) = (fold(first), fold(second));
    }
    fold(second) << 16 | fold(first)
}

/// Appends a compressed block to `out`, for lz4 and zstd; `Raw` appends the bytes.
pub(super) fn compress_block(codec: BlockCodec, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        BlockCodec::Raw => out.extend_from_slice(input),
        BlockCodec::Lz4 => compress_lz4(input, out),
        BlockCodec::Zstd => {
            let packed = zstd::bulk::compress(input, 0).expect("a block in memory always compresses");
            out.extend_from_slice(&packed);
        }
    }
}

fn compress_lz4(input: &[u8], out: &mut Vec<u8>) {
    let length = c_int::try_from(input.len()).expect("blocks are a few KiB");
    // SAFETY: a pure function of its argument.
    let bound = unsafe { lz4_sys::LZ4_compressBound(length) };
    let start = out.len();
    out.resize(start + bound.unsigned_abs() as usize, 0);
    let room = &mut out[start..];
    // SAFETY: both pointers are valid for the lengths that go with them.
    let written =
        unsafe { lz4_sys::LZ4_compress_default(input.as_ptr().cast(), room.as_mut_ptr().cast(), length, bound) };
    assert!(written > 0, "lz4 fits a block into its bound");
    out.truncate(start + written.unsigned_abs() as usize);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksum_is_fletchers() {
        // Words 0x0102, 0x0304 and, from an odd last byte, 0x0500: sums 0x0906 and 0x0e0e... taken by hand.
        assert_eq!(fletcher32(&[1, 2, 3, 4, 5]), 0x0e0e_0906);
        assert_eq!(fletcher32(&[]), 0);
        assert_eq!(fletcher32(&[0xff; 4]), 0xffff_ffff);
    }

    #[test]
    fn both_forms_of_the_checksum_are_taken() {
        let mut chunk = vec![1, 2, 3, 4, 5];
        chunk.extend_from_slice(&0x0e0e_0906_u32.to_le_bytes());
        assert_eq!(verify_fletcher32(&chunk), Ok(&[1, 2, 3, 4, 5][..]));
        chunk[5..].copy_from_slice(&0x0e0e_0609_u32.to_le_bytes());
        assert!(verify_fletcher32(&chunk).is_ok());
        chunk[0] = 2;
        assert!(verify_fletcher32(&chunk).unwrap_err().what.contains("is stored, the bytes have"));
        assert!(verify_fletcher32(&chunk[..3]).is_err());
    }

    #[test]
    fn unshuffle_gathers_the_bytes_of_elements() {
        let mut out = [0; 7];
        unshuffle(&[1, 2, 3, 4, 5, 6, 7], 3, &mut out).unwrap();
        assert_eq!(out, [1, 3, 5, 2, 4, 6, 7]);
        assert!(unshuffle(&[1], 3, &mut out).is_err());
    }

    #[test]
    fn lengths_in_headers_are_checked() {
        let mut out = [0; 8];
        let header = |size: u64, block: u32| [&size.to_be_bytes()[..], &block.to_be_bytes()].concat();
        assert_eq!(lz4(&header(9, 8), &mut out).unwrap_err().what, "decodes to 9 bytes, not to 8");
        assert_eq!(lz4(&header(8, 0), &mut out).unwrap_err(), Corrupt::at(8, "block size of 0 bytes"));
        let cut = [header(8, 8), vec![0xff; 4]].concat();
        assert_eq!(lz4(&cut, &mut out).unwrap_err().offset, 16);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            mut input in proptest::collection::vec(any::<u8>(), 0..600),
            length in 0_usize..2000,
            plausible in any::<bool>(),
        ) {
            let mut out = vec![0; length];
            let _ = (lzf(&input, &mut out), deflate(&input, &mut out), lz4_block(&input, &mut out));
            let _ = (unshuffle(&input, 1 + length % 9, &mut out), verify_fletcher32(&input));
            let _ = zstd(&mut zstd_context().unwrap(), &input, &mut out);
            if plausible && input.len() >= 16 {
                input[..8].copy_from_slice(&(length as u64).to_be_bytes());
                input[8..12].copy_from_slice(&64_u32.to_be_bytes());
                input[12..16].copy_from_slice(&30_u32.to_be_bytes());
            }
            let _ = lz4(&input, &mut out);
            if plausible && input.len() >= 16 {
                let sizes = [length as u32, 64.min(length as u32), input.len() as u32];
                input[..2].copy_from_slice(&[2, 1]);
                for (k, size) in sizes.into_iter().enumerate() {
                    input[4 + 4 * k..8 + 4 * k].copy_from_slice(&size.to_le_bytes());
                }
            }
            let _ = blosc(&input, &mut out);
        }
    }
}
