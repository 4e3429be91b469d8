//! How fast datasets become results: file to result for events and compressed frames, and the engine alone for
//! frames that are decoded already and for two-time.
//!
//! Datasets are simulated once into `target/bench-data` (about 4 GB), which takes a few minutes. Prints frames/s
//! and bytes/s; for the engine alone, pixel-frames/s and multiplications/s. An engine keeps its memory from run to
//! run: the first run of a process, which criterion takes as warm-up, takes longer by the touching of its pages.

use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

use speckled::compute::job::{Placing, run};
use speckled::correlate::bins::{Labels, Shape};
use speckled::correlate::twotime::Smoothing;
use speckled::correlate::window::FrameSelection;
use speckled::dataset::hdf5::write::FrameFilter;
use speckled::dataset::result::{OwnNaming, Parents};
use speckled::dataset::write::{Dataset, Format, write_dataset};
use speckled::dataset::{DatasetError, FrameSource, Opener, PixelType, Scratch, Source, SourceInfo, Unstored};
use speckled::engine::cpu::CpuEngine;
use speckled::engine::{Engine, MultiTauRequest, Request, TwoTimeRequest, Unobserved};
use speckled::simulate::{Dynamics, Scene};
use speckled::task::correlate::{Analyses, CorrelateSpec, Normalization, Overwrite, PixelG2Output, SaturatedPolicy};

/// Runs of each benchmark; each takes seconds.
const RUNS: usize = 10;

/// Bytes that an engine may take.
const MEMORY: u64 = 8 << 30;

fn events(c: &mut Criterion) {
    for percent in [0.05, 0.5, 5.0] {
        let mut scene = Scene::new(Shape { rows: 512, cols: 1024 }, 10_000);
        scene.counts = percent / 100.0;
        scene.bins.mask_fraction = 0.354;
        file_to_result(c, &format!("rigaku500k/{percent}%"), scene, Format::Rigaku);
    }
}

fn compressed(c: &mut Criterion) {
    let mut scene = Scene::new(Shape { rows: 1024, cols: 1024 }, 2_000);
    scene.counts = 1.0;
    scene.bins.mask_fraction = 0.9;
    let format = Format::Hdf5 { pixel: PixelType::U16, filter: FrameFilter::BitshuffleLz4 };
    file_to_result(c, "hdf5-u16-bslz4-1Mpx", scene, format);
}

fn file_to_result(c: &mut Criterion, name: &str, mut scene: Scene, format: Format) {
    scene.dynamics = Dynamics::Steady;
    let files = dataset(&scene, format, &name.replace(['/', '%', '.'], "_"));
    let bytes = files.raw_files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let engine = CpuEngine::new(None);
    let output = tempfile::tempdir().expect("a directory for results");
    let job = job(&files, output.path());
    let mut group = c.benchmark_group("file-to-result");
    slow(&mut group);
    group.throughput(Throughput::ElementsAndBytes { elements: scene.frames, bytes });
    let (opener, placing) = (Opener::anywhere(), Placing { parents: Parents::Made, naming: &OwnNaming });
    let correlate = || run(&opener, &job, &engine, &Unobserved, placing).expect("the job succeeds");
    group.bench_function(name, |b| b.iter(correlate));
}

/// Multi-tau of frames that are decoded already, in pixel-frames.
fn dense(c: &mut Criterion) {
    let (pixels, frames) = (1 << 20, 2_000);
    for (name, pixel) in [("u8", PixelType::U8), ("u16", PixelType::U16)] {
        let source = Repeated::new(pixel, pixels, frames, 1.0);
        let request = request(pixels, frames, Analyses::MultiTau);
        engine_alone(c, "dense-decoded", name, pixels as u64 * frames, &request, source);
    }
}

/// Two-time of 2 000 frames and 200 000 pixels in 10 bins, in multiplications of the upper triangle.
fn two_time(c: &mut Criterion) {
    let (pixels, frames) = (200_000, 2_000);
    for (name, occupancy) in [("dense", 1.0), ("0.5%", 0.005)] {
        let source = Repeated::new(PixelType::U16, pixels, frames, occupancy);
        let request = request(pixels, frames, Analyses::TwoTime);
        engine_alone(c, "two-time", name, pixels as u64 * frames * (frames + 1) / 2, &request, source);
    }
}

fn engine_alone(c: &mut Criterion, group: &str, name: &str, elements: u64, request: &Request, source: Repeated) {
    let bytes = source.info.bytes;
    let source = Source::Frames(Box::new(source));
    let mut group = c.benchmark_group(group);
    slow(&mut group);
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
    let engine = CpuEngine::new(None);
    group.bench_function(name, |b| b.iter(|| correlate(&engine, request, &source)));
}

fn slow(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    group.sampling_mode(SamplingMode::Flat).sample_size(RUNS).warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(10));
}

fn correlate(engine: &CpuEngine, request: &Request, source: &Source) {
    black_box(engine.correlate(request, source, &Unobserved, &mut Unstored).expect("the engine succeeds"));
}

fn dataset(scene: &Scene, format: Format, name: &str) -> Dataset {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data");
    let files = format.files(scene.frames, &dir, name);
    let made = dir.join(format!("{name}.made"));
    if !made.exists() {
        std::fs::create_dir_all(&dir).expect("a directory for datasets");
        write_dataset(scene, format, &dir, name).expect("room for a dataset");
        std::fs::write(made, "").expect("room for a mark");
    }
    files
}

fn job(files: &Dataset, output: &Path) -> CorrelateSpec {
    CorrelateSpec {
        metadata: Some(files.metadata.clone()),
        memory: Some(MEMORY),
        overwrite: Overwrite::Replace,
        ..CorrelateSpec::new(&files.raw, &files.qmap, output)
    }
}

/// All pixels in 10 dynamic and 100 static bins.
fn request(pixels: usize, frames: u64, analyses: Analyses) -> Request {
    let labels = |bins: usize| (0..pixels).map(|p| (p * bins / pixels) as u32 + 1).collect();
    let labels = Labels {
        shape: Shape { rows: 1, cols: pixels },
        mask: vec![true; pixels],
        blemish: vec![true; pixels],
        dynamic_labels: labels(10),
        static_labels: labels(100),
    };
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 0, pixel_g2: PixelG2Output::Drop };
    let two_time = TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: (1..=10).collect() };
    Request {
        selection: FrameSelection::all(frames),
        labels,
        multi_tau: analyses.multi_tau().then_some(multi_tau),
        two_time: analyses.two_time().then_some(two_time),
        saturated: SaturatedPolicy::Mask,
        memory: MEMORY,
    }
}

/// Frames in memory: one noise, shifted from frame to frame.
struct Repeated {
    info: SourceInfo,
    pixel: PixelType,
    bytes: Vec<u8>,
}

impl Repeated {
    fn new(pixel: PixelType, pixels: usize, frames: u64, occupancy: f64) -> Self {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let mut bytes = Vec::with_capacity(pixels * pixel.size() * 2);
        for _ in 0..2 * pixels {
            let count = if next() < occupancy { 1 + (next() * 4.0) as u8 } else { 0 };
            bytes.push(count);
            bytes.resize(bytes.len() + pixel.size() - 1, 0);
        }
        let info = SourceInfo {
            format: "memory".into(),
            files: Vec::new(),
            bytes: frames * (pixels * pixel.size()) as u64,
            shape: Shape { rows: 1, cols: pixels },
            frames,
        };
        Self { info, pixel, bytes }
    }
}

impl FrameSource for Repeated {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        self.pixel
    }

    fn marks_saturation(&self) -> bool {
        true
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let size = self.info.shape.pixels() * self.pixel.size();
        for (frame, out) in frames.zip(out.chunks_exact_mut(size)) {
            let shift = (frame as usize * 7_919 % self.info.shape.pixels()) * self.pixel.size();
            out.copy_from_slice(&self.bytes[shift..shift + size]);
        }
        Ok(())
    }
}

criterion_group!(benches, events, compressed, dense, two_time);
criterion_main!(benches);
