//! Frames through whole files: every type, filter and layout that is read, and damaged files.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::bitshuffle::{Bitshuffle, BlockCodec};
use super::ffi::{self, RawFilter};
use super::{codec, open_frames};
use crate::correlate::bins::Shape;
use crate::dataset::Opener;
use crate::dataset::{PixelType, Scratch};

mod answers;
mod damaged;
mod linked;

const TYPES: [PixelType; 6] =
    [PixelType::U8, PixelType::U16, PixelType::U32, PixelType::I16, PixelType::I32, PixelType::F32];

/// A filter of the tests' own encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoder {
    None,
    Bitshuffle(BlockCodec),
    Lz4,
    Zstd,
    Blosc,
}

impl Encoder {
    fn filter(self, elem: usize) -> Vec<RawFilter> {
        let elem = elem as u32;
        match self {
            Self::None => vec![],
            Self::Bitshuffle(BlockCodec::Raw) => vec![(32008, vec![0, 5, elem, 64, 0])],
            Self::Bitshuffle(BlockCodec::Lz4) => vec![(32008, vec![0, 5, elem, 0, 2])],
            Self::Bitshuffle(BlockCodec::Zstd) => vec![(32008, vec![0, 5, elem, 0, 3, 1])],
            Self::Lz4 => vec![(32004, vec![])],
            Self::Zstd => vec![(32015, vec![3])],
            Self::Blosc => vec![(32001, vec![2, 2, elem, 0, 5, 1, 1])],
        }
    }

    fn encode(self, elem: usize, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::None => out.extend_from_slice(chunk),
            Self::Bitshuffle(codec) => {
                let block = if codec == BlockCodec::Raw { 64 } else { 0 };
                Bitshuffle { elem, block, codec }.encode(chunk, &mut out);
            }
            Self::Zstd => codec::compress_block(BlockCodec::Zstd, chunk, &mut out),
            Self::Lz4 => {
                /// Small, so that there are several blocks.
                const BLOCK: usize = 100;
                out.extend_from_slice(&(chunk.len() as u64).to_be_bytes());
                out.extend_from_slice(&(BLOCK as u32).to_be_bytes());
                for part in chunk.chunks(BLOCK) {
                    let mut packed = Vec::new();
                    codec::compress_block(BlockCodec::Lz4, part, &mut packed);
                    let stored = if packed.len() < part.len() { packed.as_slice() } else { part };
                    out.extend_from_slice(&(stored.len() as u32).to_be_bytes());
                    out.extend_from_slice(stored);
                }
            }
            Self::Blosc => out = blosc(elem, chunk),
        }
        out
    }
}

fn blosc(elem: usize, chunk: &[u8]) -> Vec<u8> {
    let mut out = vec![0; chunk.len() + 16];
    // SAFETY: the buffers are valid for their lengths and the name ends with a zero byte.
    let written = unsafe {
        blosc_src::blosc_compress_ctx(
            5,
            1,
            elem,
            chunk.len(),
            chunk.as_ptr().cast(),
            out.as_mut_ptr().cast(),
            out.len(),
            c"lz4".as_ptr(),
            0,
            1,
        )
    };
    out.truncate(usize::try_from(written).unwrap());
    out
}

/// The test's picture of a stack of frames.
#[derive(Debug, Clone)]
struct Stack {
    pixel: PixelType,
    dims: [usize; 3],
    bytes: Vec<u8>,
}

impl Stack {
    /// Few counts, as in real data, and some large values.
    fn new(pixel: PixelType, dims: [usize; 3], seed: u64) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let bytes = (0..dims.iter().product())
            .flat_map(|_| {
                let value = if next() % 16 == 0 { next() as u32 } else { (next() % 3) as u32 };
                value.to_le_bytes()[..pixel.size()].to_vec()
            })
            .collect();
        Self { pixel, dims, bytes }
    }

    fn frame_bytes(&self) -> usize {
        self.dims[1] * self.dims[2] * self.pixel.size()
    }

    /// The chunk at a cell, padded with zeros beyond the edges.
    fn tile(&self, chunk: [usize; 3], cell: [usize; 3]) -> Vec<u8> {
        let size = self.pixel.size();
        let mut out = vec![0; chunk.iter().product::<usize>() * size];
        let origin: [usize; 3] = std::array::from_fn(|i| cell[i] * chunk[i]);
        for z in 0..chunk[0].min(self.dims[0] - origin[0]) {
            for y in 0..chunk[1].min(self.dims[1] - origin[1]) {
                let width = chunk[2].min(self.dims[2] - origin[2]) * size;
                let from = (((origin[0] + z) * self.dims[1] + origin[1] + y) * self.dims[2] + origin[2]) * size;
                let to = (z * chunk[1] + y) * chunk[2] * size;
                out[to..to + width].copy_from_slice(&self.bytes[from..from + width]);
            }
        }
        out
    }

    fn cells(&self, chunk: [usize; 3]) -> Vec<[usize; 3]> {
        let [n, h, w] = std::array::from_fn(|i| self.dims[i].div_ceil(chunk[i]));
        let place = |i: usize| [i / (h * w), i / w % h, i % w];
        (0..n * h * w).map(place).collect()
    }

    /// Writes all chunks but those that `absent` names.
    fn write(&self, path: &Path, chunk: [usize; 3], encoder: Encoder, absent: &[[usize; 3]]) {
        let file = hdf5::File::create(path).unwrap();
        let group = file.create_group("entry/data").unwrap();
        let size = self.pixel.size();
        let dataset =
            ffi::create_chunked(&group, "data", self.pixel, &self.dims, &chunk, &encoder.filter(size)).unwrap();
        for cell in self.cells(chunk).into_iter().filter(|cell| !absent.contains(cell)) {
            let offset: [u64; 3] = std::array::from_fn(|i| (cell[i] * chunk[i]) as u64);
            ffi::write_chunk(&dataset, &offset, 0, &encoder.encode(size, &self.tile(chunk, cell))).unwrap();
        }
    }

    /// Reads the file in pieces of several lengths and compares.
    fn assert_read(&self, path: &Path) {
        let source = open_frames(&Opener::anywhere(), path).unwrap();
        let [frames, rows, cols] = self.dims;
        assert_eq!((source.pixel_type(), source.info().shape), (self.pixel, Shape { rows, cols }));
        assert_eq!(source.info().frames, frames as u64);
        let mut scratch = Scratch::default();
        for step in [1, source.frames_per_chunk(), 3, frames] {
            for start in (0..frames).step_by(step) {
                let end = frames.min(start + step);
                let expected = &self.bytes[start * self.frame_bytes()..end * self.frame_bytes()];
                let mut out = vec![0xaa; expected.len()];
                source.read_frames(start as u64..end as u64, &mut scratch, &mut out).unwrap();
                assert!(out == expected, "frames {start}..{end}");
            }
        }
    }
}

fn refusal(path: &Path) -> String {
    open_frames(&Opener::anywhere(), path).err().expect("the file is refused").to_string()
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.h5");
    (dir, path)
}

fn encoders() -> impl Strategy<Value = Encoder> {
    prop_oneof![
        Just(Encoder::None),
        Just(Encoder::Bitshuffle(BlockCodec::Raw)),
        Just(Encoder::Bitshuffle(BlockCodec::Lz4)),
        Just(Encoder::Bitshuffle(BlockCodec::Zstd)),
        Just(Encoder::Lz4),
        Just(Encoder::Zstd),
        Just(Encoder::Blosc),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_type_filter_and_chunk_shape_reads_back(
        pixel in proptest::sample::select(&TYPES[..]),
        encoder in encoders(),
        dims in [1_usize..8, 1_usize..40, 1_usize..40],
        cut in [1_usize..8, 1_usize..40, 1_usize..40],
        whole_frames in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (_dir, path) = temporary();
        let stack = Stack::new(pixel, dims, seed);
        let mut chunk: [usize; 3] = std::array::from_fn(|i| cut[i].min(dims[i]));
        if whole_frames {
            chunk = [chunk[0], dims[1], dims[2]];
        }
        stack.write(&path, chunk, encoder, &[]);
        stack.assert_read(&path);
    }
}

type Builder = hdf5::DatasetBuilderEmptyShape;

type Build = fn(Builder) -> Builder;

/// Writes a stack through the library, in the layout that `build` asks for.
fn write_by_library(file: &hdf5::File, stack: &Stack, build: impl FnOnce(Builder) -> Builder) {
    fn put<T: hdf5::H5Type + Copy + bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        group: &hdf5::Group,
        stack: &Stack,
        build: impl FnOnce(Builder) -> Builder,
    ) {
        let values: Vec<T> = stack.bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
        let dataset = build(group.new_dataset::<T>().shape(stack.dims)).create("data").unwrap();
        dataset.write_raw(values.as_slice()).unwrap();
    }
    let group = file.create_group("entry/data").unwrap();
    match stack.pixel {
        PixelType::U8 => put::<u8>(&group, stack, build),
        PixelType::U16 => put::<u16>(&group, stack, build),
        PixelType::U32 => put::<u32>(&group, stack, build),
        PixelType::I16 => put::<i16>(&group, stack, build),
        PixelType::I32 => put::<i32>(&group, stack, build),
        PixelType::F32 => put::<f32>(&group, stack, build),
    }
}

/// Counts that are real numbers whatever the type, so that the library converts nothing.
fn plain_stack(pixel: PixelType, dims: [usize; 3]) -> Stack {
    let mut stack = Stack::new(pixel, dims, 11);
    for (i, element) in stack.bytes.chunks_exact_mut(pixel.size()).enumerate() {
        if pixel == PixelType::F32 {
            element.copy_from_slice(&((i % 9) as f32).to_le_bytes());
        }
    }
    stack
}

#[test]
fn layouts_and_filters_of_the_library_read_back() {
    use hdf5::dataset::{ChunkOpts, Layout};
    let builds: [(&str, Build); 11] = [
        ("contiguous", |b| b.no_chunk().layout(Layout::Contiguous)),
        ("compact", |b| b.layout(Layout::Compact)),
        ("chunked", |b| b.chunk([1, 9, 7])),
        ("gzip", |b| b.chunk([2, 4, 7]).deflate(4)),
        ("shuffle", |b| b.chunk([3, 9, 7]).shuffle()),
        ("shuffle and gzip", |b| b.chunk([1, 9, 7]).shuffle().deflate(1)),
        ("fletcher32", |b| b.chunk([1, 9, 7]).fletcher32()),
        ("fletcher32 inside", |b| b.chunk([1, 9, 7]).fletcher32().shuffle().deflate(1)),
        ("all", |b| b.chunk([4, 9, 7]).shuffle().deflate(9).fletcher32()),
        ("lzf", |b| b.chunk([1, 5, 4]).lzf()),
        ("edges without filters", |b| b.chunk([2, 4, 4]).deflate(1).chunk_opts(ChunkOpts::DONT_FILTER_PARTIAL_CHUNKS)),
    ];
    for pixel in TYPES {
        for (name, build) in builds {
            let (_dir, path) = temporary();
            let stack = plain_stack(pixel, [5, 9, 7]);
            // Filters for parts of chunks are a feature of newer files.
            let file = hdf5::File::with_options().with_fapl(|p| p.libver_v110()).create(&path).unwrap();
            write_by_library(&file, &stack, build);
            drop(file);
            println!("{pixel:?}, {name}");
            stack.assert_read(&path);
        }
    }
}

#[test]
fn addresses_count_from_the_end_of_the_user_block() {
    for build in [(|b: Builder| b.no_chunk()) as Build, |b| b.chunk([1, 9, 7]).deflate(1)] {
        let (_dir, path) = temporary();
        let stack = plain_stack(PixelType::U16, [5, 9, 7]);
        let file = hdf5::File::with_options().with_fcpl(|p| p.userblock(1024)).create(&path).unwrap();
        write_by_library(&file, &stack, build);
        drop(file);
        stack.assert_read(&path);
    }
}

#[test]
fn absent_chunks_are_the_fill_value() {
    let (_dir, path) = temporary();
    let mut stack = Stack::new(PixelType::U16, [4, 6, 5], 3);
    let bytes = stack.frame_bytes();
    stack.write(&path, [1, 6, 5], Encoder::Bitshuffle(BlockCodec::Lz4), &[[1, 0, 0], [3, 0, 0]]);
    stack.bytes[bytes..2 * bytes].fill(0);
    stack.bytes[3 * bytes..].fill(0);
    stack.assert_read(&path);
    let source = open_frames(&Opener::anywhere(), &path).unwrap();
    assert_eq!([0, 1, 2, 3].map(|f| source.may_have_counts(f)), [true, false, true, false]);

    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    group.new_dataset::<u16>().shape([4, 6, 5]).chunk([2, 3, 5]).fill_value(258_u16).create("data").unwrap();
    drop(file);
    stack.bytes = [2, 1].repeat(4 * 6 * 5);
    stack.assert_read(&path);
    assert!(open_frames(&Opener::anywhere(), &path).unwrap().may_have_counts(0));
}

#[test]
fn absent_tiles_leave_the_others() {
    let (_dir, path) = temporary();
    let mut stack = Stack::new(PixelType::U8, [2, 6, 5], 5);
    stack.write(&path, [1, 3, 5], Encoder::Lz4, &[[0, 1, 0], [1, 0, 0], [1, 1, 0]]);
    stack.bytes[15..].fill(0);
    stack.assert_read(&path);
    let source = open_frames(&Opener::anywhere(), &path).unwrap();
    assert_eq!([0, 1].map(|f| source.may_have_counts(f)), [true, false]);
}

#[test]
fn filters_that_a_chunk_skipped_are_not_undone() {
    let (_dir, path) = temporary();
    let stack = Stack::new(PixelType::U16, [4, 6, 5], 9);
    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    let filters = [(2, vec![2]), (32015, vec![])];
    let dataset = ffi::create_chunked(&group, "data", stack.pixel, &stack.dims, &[1, 6, 5], &filters).unwrap();
    for frame in 0..4 {
        let plain = stack.tile([1, 6, 5], [frame, 0, 0]);
        let shuffled: Vec<u8> = plain.iter().step_by(2).chain(plain.iter().skip(1).step_by(2)).copied().collect();
        let skipped = frame as u32;
        let bytes = if skipped & 1 == 0 { shuffled } else { plain };
        let bytes = if skipped & 2 == 0 { Encoder::Zstd.encode(2, &bytes) } else { bytes };
        ffi::write_chunk(&dataset, &[frame as u64, 0, 0], skipped, &bytes).unwrap();
    }
    drop((dataset, group, file));
    stack.assert_read(&path);
}
