//! Frames through whole files: every type, filter and layout that is read, and damaged files.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::bitshuffle::{Bitshuffle, BlockCodec};
use super::ffi::{self, RawFilter};
use super::{codec, open_frames};
use crate::correlate::bins::Shape;
use crate::dataset::{DatasetError, PixelType, Scratch};

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
        let source = open_frames(path).unwrap();
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
    let builds: [(&str, fn(Builder) -> Builder); 11] = [
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
    for build in [(|b: Builder| b.no_chunk()) as fn(Builder) -> Builder, |b| b.chunk([1, 9, 7]).deflate(1)] {
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
    let source = open_frames(&path).unwrap();
    assert_eq!([0, 1, 2, 3].map(|f| source.may_have_counts(f)), [true, false, true, false]);

    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    group.new_dataset::<u16>().shape([4, 6, 5]).chunk([2, 3, 5]).fill_value(258_u16).create("data").unwrap();
    drop(file);
    stack.bytes = [2, 1].repeat(4 * 6 * 5);
    stack.assert_read(&path);
    assert!(open_frames(&path).unwrap().may_have_counts(0));
}

#[test]
fn absent_tiles_leave_the_others() {
    let (_dir, path) = temporary();
    let mut stack = Stack::new(PixelType::U8, [2, 6, 5], 5);
    stack.write(&path, [1, 3, 5], Encoder::Lz4, &[[0, 1, 0], [1, 0, 0], [1, 1, 0]]);
    stack.bytes[15..].fill(0);
    stack.assert_read(&path);
    let source = open_frames(&path).unwrap();
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

fn refusal(path: &Path) -> String {
    open_frames(path).err().expect("the file is refused").to_string()
}

#[test]
fn what_cannot_be_read_is_named() {
    fn dataset<T: hdf5::H5Type>(shape: impl Into<hdf5::Extents>) -> impl FnOnce(&hdf5::Group) {
        |group| drop(group.new_dataset::<T>().shape(shape).create("data").unwrap())
    }
    fn filtered(filters: &'static [(i32, &'static [u32])]) -> impl FnOnce(&hdf5::Group) {
        |group| {
            let filters: Vec<RawFilter> = filters.iter().map(|&(id, values)| (id, values.to_vec())).collect();
            drop(ffi::create_chunked(group, "data", PixelType::U16, &[2, 3, 4], &[1, 3, 4], &filters).unwrap());
        }
    }
    type Make = Box<dyn FnOnce(&hdf5::Group)>;
    let cases: [(Make, &str); 12] = [
        (Box::new(dataset::<u16>((4, 5))), "/entry/data/data has shape (4, 5), need (frames, rows, columns)"),
        (Box::new(dataset::<u16>((1, 2, 3, 4))), "has shape (1, 2, 3, 4), need"),
        (Box::new(dataset::<u16>((0, 5, 6))), "has shape (0, 5, 6): no pixels"),
        (Box::new(dataset::<f64>((2, 5, 6))), "write u8, u16, u32, i16, i32 or f32"),
        (Box::new(dataset::<i64>((2, 5, 6))), "has elements of type"),
        (Box::new(dataset::<hdf5::types::FixedAscii<4>>((2, 5, 6))), "has elements of type"),
        (Box::new(dataset::<u16>((1, 60_000, 60_000))), "more than 1 GiB"),
        (Box::new(filtered(&[(32013, &[])])), "filter 32013 is not known; rewrite it without or with gzip (1)"),
        (Box::new(filtered(&[(32008, &[0, 5, 2, 12, 2])])), "blocks of 12 elements"),
        (Box::new(filtered(&[(32008, &[0, 5, 2, 0, 7])])), "compression 7"),
        (Box::new(filtered(&[(32008, &[0, 5, 70_000, 0, 2])])), "elements of 70000 bytes"),
        (Box::new(filtered(&[(32004, &[]), (32015, &[])])), "compressed twice"),
    ];
    for (make, expected) in cases {
        let (_dir, path) = temporary();
        let file = hdf5::File::create(&path).unwrap();
        make(&file.create_group("entry/data").unwrap());
        drop(file);
        let message = refusal(&path);
        assert!(message.contains(expected) && message.contains("frames.h5"), "{message}");
    }
}

#[test]
fn files_without_frames_are_refused() {
    let (dir, path) = temporary();
    assert!(refusal(&path).contains("cannot open"));
    assert!(refusal(dir.path()).contains("cannot open"));
    std::fs::write(&path, b"no HDF5").unwrap();
    assert!(refusal(&path).contains("cannot open it as HDF5"));
    let file = hdf5::File::create(&path).unwrap();
    assert!(refusal(&path).contains("there is neither /entry/data/data nor /entry/data/data_000001"));
    file.create_group("entry/data").unwrap();
    drop(file);
    assert!(refusal(&path).contains("there is neither"));
}

#[test]
fn numbered_datasets_must_belong_together() {
    let (_dir, path) = temporary();
    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    group.new_dataset::<u16>().shape([2, 3, 4]).create("data_000001").unwrap();
    group.new_dataset::<u16>().shape([3, 3, 4]).create("data_000002").unwrap();
    group.new_dataset::<u16>().shape([3, 3, 4]).create("data_extra").unwrap();
    file.flush().unwrap();
    assert_eq!(open_frames(&path).unwrap().info().frames, 5);
    group.new_dataset::<u16>().shape([1, 3, 4]).create("data_000004").unwrap();
    file.flush().unwrap();
    assert!(refusal(&path).contains("/entry/data/data_000004"), "{}", refusal(&path));
    group.new_dataset::<u8>().shape([1, 3, 4]).create("data_000003").unwrap();
    drop((group, file));
    assert!(refusal(&path).contains("has frames of 3 x 4 U8 pixels where 3 x 4 U16"), "{}", refusal(&path));
}

#[test]
fn links_are_followed_but_not_in_a_circle() {
    let (dir, path) = temporary();
    let stack = Stack::new(PixelType::U8, [3, 4, 5], 7);
    stack.write(&path, [1, 4, 5], Encoder::Lz4, &[]);
    let link = |name: &str, group: &str, leaf: &str, target: &str, object: &str| {
        let path = dir.path().join(name);
        let file = hdf5::File::create(&path).unwrap();
        let group = if group.is_empty() { file.as_group().unwrap() } else { file.create_group(group).unwrap() };
        group.link_external(target, object, leaf).unwrap();
        path
    };
    stack.assert_read(&link("dataset.h5", "entry/data", "data", "frames.h5", "/entry/data/data"));
    stack.assert_read(&link("twice.h5", "entry/data", "data", "dataset.h5", "/entry/data/data"));
    stack.assert_read(&link("group.h5", "", "entry", "frames.h5", "/entry"));
    stack.assert_read(&link("moved.h5", "entry/data", "data", "/gone/frames.h5", "/entry/data/data"));
    let circle = refusal(&link("circle.h5", "entry/data", "data", "circle.h5", "/entry/data/data"));
    assert!(circle.contains("more than 8 external links"), "{circle}");
    let device = refusal(&link("device.h5", "entry/data", "data", "/dev/null", "/entry/data/data"));
    assert!(device.contains("/dev/null"), "{device}");
}

#[test]
fn virtual_datasets_of_frame_blocks_are_mapped() {
    let (dir, path) = temporary();
    let stack = Stack::new(PixelType::U16, [6, 4, 5], 13);
    stack.write(&path, [1, 4, 5], Encoder::Zstd, &[]);
    let make = |name: &str, maps: &[(std::ops::Range<usize>, std::ops::Range<usize>, usize)]| {
        let path = dir.path().join(name);
        let file = hdf5::File::create(&path).unwrap();
        let group = file.create_group("entry/data").unwrap();
        let mut builder = group.new_dataset::<u16>().shape([7, 4, 5]);
        for (from, to, columns) in maps {
            let source = hdf5::Selection::try_new((from.clone(), .., ..*columns)).unwrap();
            let target = hdf5::Selection::try_new((to.clone(), .., ..*columns)).unwrap();
            builder = builder.virtual_map("frames.h5", super::FRAMES, [6, 4, 5], source, [7, 4, 5], target);
        }
        builder.create("data").unwrap();
        path
    };
    let bytes = stack.frame_bytes();
    let path = make("blocks.h5", &[(4..6, 0..2, 5), (0..3, 3..6, 5)]);
    let expected = [&stack.bytes[4 * bytes..], &vec![0; bytes], &stack.bytes[..3 * bytes], &vec![0; bytes]].concat();
    Stack { dims: [7, 4, 5], bytes: expected, ..stack }.assert_read(&path);
    let source = open_frames(&path).unwrap();
    assert_eq!([1, 2, 3, 6].map(|f| source.may_have_counts(f)), [true, false, true, false]);

    for maps in [vec![(0..2, 0..2, 4)], vec![(0..2, 0..2, 5), (0..2, 1..3, 5)]] {
        let message = refusal(&make("parts.h5", &maps));
        assert!(message.contains("does not take blocks of whole frames"), "{message}");
    }
}

/// Reads all that can be, frame by frame; errors are fine, anything else is not.
fn read_whatever(path: &Path) {
    let Ok(source) = open_frames(path) else {
        return;
    };
    let pixels = source.info().shape.pixels() * source.pixel_type().size();
    let mut scratch = Scratch::default();
    for frame in 0..source.info().frames.min(20) {
        let mut out = vec![0; pixels];
        let _ = source.read_frames(frame..frame + 1, &mut scratch, &mut out);
        source.may_have_counts(frame);
    }
}

#[test]
fn a_corrupt_chunk_is_placed() {
    let (_dir, path) = temporary();
    let stack = Stack::new(PixelType::U16, [3, 40, 50], 17);
    stack.write(&path, [1, 40, 50], Encoder::Bitshuffle(BlockCodec::Lz4), &[]);
    let file = hdf5::File::open(&path).unwrap();
    let mut addresses = Vec::new();
    file.dataset(super::FRAMES).unwrap().chunks_visit(|info| (addresses.push(info.addr), 0).1).unwrap();
    drop(file);
    let mut bytes = std::fs::read(&path).unwrap();
    // The length of the first block of frame 1.
    bytes[addresses[1] as usize + 12] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    let source = open_frames(&path).unwrap();
    let mut out = vec![0; 3 * stack.frame_bytes()];
    let error = source.read_frames(0..3, &mut Scratch::default(), &mut out).unwrap_err();
    assert!(matches!(error, DatasetError::Raw { .. }));
    let message = error.to_string();
    let place = format!("/entry/data/data, frame 1, byte {}", addresses[1] + 16);
    assert!(message.contains(&place) && message.contains("frames.h5"), "{message}");
    read_whatever(&path);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn truncated_files_are_refused(encoder in encoders(), part in 0.0..1.0) {
        let (_dir, path) = temporary();
        Stack::new(PixelType::U16, [4, 7, 9], 19).write(&path, [1, 7, 9], encoder, &[]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..(bytes.len() as f64 * part) as usize]).unwrap();
        prop_assert!(open_frames(&path).is_err());
    }

    #[test]
    fn flipped_bytes_do_not_panic(
        encoder in encoders(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (_dir, path) = temporary();
        Stack::new(PixelType::U16, [4, 7, 9], 19).write(&path, [1, 7, 9], encoder, &[]);
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, value) in flips {
            *place.get_mut(&mut bytes) = value;
        }
        std::fs::write(&path, bytes).unwrap();
        read_whatever(&path);
    }
}
