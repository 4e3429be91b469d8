//! A door for the fuzz targets (feature `fuzzing`): decodes bytes by a pipeline, both of which come from the fuzzer. No
//! part of the program.
//!
//! ```text
//!   decoded: u16 │ element: u8 │ skipped: u8 │ filters: u8 │ filter: u8, values: u8, value: u8 … │ … │ the chunk
//! ```

use std::path::Path;

use super::bitshuffle::{Bitshuffle, BlockCodec};
use super::codec;
use super::ffi::RawFilter;
use super::filter::Pipeline;

/// The filters that a number of an input stands for, and one that is not known.
const FILTERS: [i32; 9] = [1, 2, 3, 32000, 32001, 32004, 32008, 32015, 7];

/// The most filters, and values of a filter, that an input has.
const MOST: usize = 6;

/// Bytes behind the decoded ones, which must stay as they are: the decoders in C are not checked by the compiler.
const GUARD: usize = 64;

/// What they hold.
const MARK: u8 = 0xa5;

/// Decodes an input.
///
/// # Panics
/// A decoder writes beyond what it was given, or leaves it at another length.
pub fn decode(input: &[u8]) {
    let Some((length, raw_filters, element, skipped, chunk)) = parse(input) else { return };
    let Ok(pipeline) = Pipeline::parse(Path::new("fuzz"), &raw_filters, element) else { return };
    assert!(!pipeline.describe().is_empty());
    let (mut raw, mut spare) = (chunk.to_vec(), Vec::new());
    let mut out = vec![MARK; length + GUARD];
    let decoded = pipeline.decode(skipped, &mut raw, &mut spare, &mut out[..length]);
    assert!(out[length..].iter().all(|byte| *byte == MARK), "{} wrote beyond its output", pipeline.describe());
    if pipeline.is_identity(skipped) && decoded.is_ok() {
        assert_eq!(&out[..length], chunk, "what has no filter is as it is stored");
    }
}

type Parsed<'i> = (usize, Vec<RawFilter>, usize, u32, &'i [u8]);

fn parse(input: &[u8]) -> Option<Parsed<'_>> {
    let [low, high, element, skipped, count, rest @ ..] = input else { return None };
    let mut rest = rest;
    let mut filters = Vec::new();
    for _ in 0..usize::from(*count).min(MOST) {
        let [id, values, after @ ..] = rest else { return None };
        let (values, after) = after.split_at_checked(usize::from(*values).min(MOST))?;
        filters
            .push((FILTERS[usize::from(*id) % FILTERS.len()], values.iter().map(|value| u32::from(*value)).collect()));
        rest = after;
    }
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    Some((length, filters, usize::from(*element).max(1), u32::from(*skipped), rest))
}

/// Chunks that decode, one for each filter and some for several.
///
/// # Panics
/// An encoder fails.
pub fn seeds() -> Vec<Vec<u8>> {
    /// Bytes of an element.
    const ELEMENT: usize = 2;
    let plain: Vec<u8> = (0..600_u32).map(|at| if at % 7 == 0 { at as u8 } else { 0 }).collect();
    let by = |codec, block| {
        let mut chunk = Vec::new();
        Bitshuffle { elem: ELEMENT, block, codec }.encode(&plain, &mut chunk);
        chunk
    };
    let summed = |bytes: &[u8]| [bytes, &codec::fletcher32(bytes).to_le_bytes()].concat();
    let cases: [(Named<'_>, Vec<u8>); 12] = [
        (&[], plain.clone()),
        (&[(0, &[])], gzip(&plain)),
        (&[(1, &[2])], plain.clone()),
        (&[(1, &[2]), (0, &[]), (2, &[])], summed(&gzip(&plain))),
        (&[(2, &[])], summed(&plain)),
        (&[(3, &[])], lzf(&plain)),
        (&[(4, &[])], blosc(&plain)),
        (&[(5, &[])], lz4(&plain)),
        (&[(6, &[0, 5, 2, 64, 0])], by(BlockCodec::Raw, 64)),
        (&[(6, &[0, 5, 2, 0, 2])], by(BlockCodec::Lz4, 0)),
        (&[(6, &[0, 5, 2, 0, 3])], by(BlockCodec::Zstd, 0)),
        (&[(7, &[])], zstd(&plain)),
    ];
    let seeds: Vec<Vec<u8>> = cases.iter().map(|(filters, chunk)| seed(filters, plain.len(), ELEMENT, chunk)).collect();
    for seed in &seeds {
        check(seed, &plain);
    }
    seeds
}

/// Filters by their place in [`FILTERS`], with their values.
type Named<'v> = &'v [(u8, &'v [u8])];

fn seed(filters: Named<'_>, decoded: usize, element: usize, chunk: &[u8]) -> Vec<u8> {
    let byte = |number: usize| u8::try_from(number).expect("seeds are small");
    let length = u16::try_from(decoded).expect("seeds are small").to_le_bytes();
    let mut seed = [&length[..], &[byte(element), 0, byte(filters.len())]].concat();
    for (id, values) in filters {
        seed.extend_from_slice(&[*id, byte(values.len())]);
        seed.extend_from_slice(values);
    }
    seed.extend_from_slice(chunk);
    seed
}

/// A seed that does not decode would find nothing.
fn check(seed: &[u8], plain: &[u8]) {
    let (length, filters, element, skipped, chunk) = parse(seed).expect("it is whole");
    let pipeline = Pipeline::parse(Path::new("seed"), &filters, element).expect("its filters are known");
    let (mut raw, mut out) = (chunk.to_vec(), vec![0; length]);
    pipeline.decode(skipped, &mut raw, &mut Vec::new(), &mut out).expect("it decodes");
    let shuffled = pipeline.describe() == "shuffle" || pipeline.describe().starts_with("shuffle+");
    assert!(shuffled || out == plain, "{}", pipeline.describe());
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(2 * plain.len());
    let mut stream = flate2::Compress::new(flate2::Compression::default(), true);
    stream.compress_vec(plain, &mut packed, flate2::FlushCompress::Finish).expect("it compresses");
    packed
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::new();
    codec::compress_block(BlockCodec::Zstd, plain, &mut chunk);
    chunk
}

fn lz4(plain: &[u8]) -> Vec<u8> {
    /// Small, so that there are several blocks.
    const BLOCK: usize = 200;
    let mut chunk = [&(plain.len() as u64).to_be_bytes()[..], &(BLOCK as u32).to_be_bytes()].concat();
    for part in plain.chunks(BLOCK) {
        let mut packed = Vec::new();
        codec::compress_block(BlockCodec::Lz4, part, &mut packed);
        chunk.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        chunk.extend_from_slice(&packed);
    }
    chunk
}

fn lzf(plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; plain.len()];
    let (length, room) = (plain.len() as u32, packed.len() as u32);
    // SAFETY: both pointers are valid for the lengths that go with them.
    let written = unsafe { lzf_sys::lzf_compress(plain.as_ptr().cast(), length, packed.as_mut_ptr().cast(), room) };
    packed.truncate(written as usize);
    packed
}

fn blosc(plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; plain.len() + 16];
    // SAFETY: the buffers are valid for their lengths and the name ends with a zero byte.
    let written = unsafe {
        blosc_src::blosc_compress_ctx(
            5,
            1,
            2,
            plain.len(),
            plain.as_ptr().cast(),
            packed.as_mut_ptr().cast(),
            packed.len(),
            c"lz4".as_ptr(),
            0,
            1,
        )
    };
    packed.truncate(usize::try_from(written).expect("it compresses"));
    packed
}
