//! Decoding bitshuffle-lz4 frames of photon counts, as a detector writes them: bytes of pixels a second, one thread.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};
use speckled::correlate::bins::Shape;
use speckled::dataset::Opener;
use speckled::dataset::hdf5::open_frames;
use speckled::dataset::hdf5::write::{FrameFilter, FrameLayout, FrameWriter};
use speckled::dataset::{PixelType, Scratch};

const FRAMES: u64 = 8;
const SHAPE: Shape = Shape { rows: 1024, cols: 1024 };

fn write(path: &Path, pixel: PixelType, mean: f64) {
    let layout = FrameLayout { pixel, frames: FRAMES, shape: SHAPE, filter: FrameFilter::BitshuffleLz4 };
    let mut writer = FrameWriter::create(path, "/entry/data/data", layout).expect("the directory is writable");
    let counts = Poisson::new(mean).expect("the mean is positive");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..FRAMES {
        let count = |_| (counts.sample(&mut rng) as u32).to_le_bytes()[..pixel.size()].to_vec();
        let frame: Vec<u8> = (0..SHAPE.pixels()).flat_map(count).collect();
        writer.write_frame(&frame).expect("the disk has room");
    }
    writer.finish().expect("the disk has room");
}

fn decode(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let mut group = criterion.benchmark_group("bitshuffle-lz4");
    for pixel in [PixelType::U8, PixelType::U16, PixelType::U32] {
        for mean in [0.05, 1.0] {
            let path = dir.path().join("frames.h5");
            write(&path, pixel, mean);
            let source = open_frames(&Opener::anywhere(), &path).expect("it was just written");
            let mut out = vec![0; SHAPE.pixels() * pixel.size()];
            let mut scratch = Scratch::default();
            let mut frame = 0;
            group.throughput(Throughput::Bytes(out.len() as u64));
            group.bench_function(format!("{pixel:?}, mean {mean}"), |bencher| {
                bencher.iter(|| {
                    frame = (frame + 1) % FRAMES;
                    source.read_frames(frame..frame + 1, &mut scratch, &mut out).expect("the file is whole");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
