//! What a GPU reaches against its bounds; `scripts/gpu-check` runs it. Needs a GPU; without one it says so and ends.
//!
//! For each case: the whole time from decoded data in the host's memory to numbers (the second of two runs: the first one
//! has the driver compile the kernels), the time of its kernels, and what bounds them: bytes over the bus, bytes of the
//! GPU's memory, or products. Arguments: `small` for sizes that the tests' stand-in for a GPU can do.

#![expect(clippy::print_stdout, reason = "it prints its table")]

use std::ops::Range;
use std::time::Instant;

use speckled::correlate::bins::{Labels, Shape};
use speckled::correlate::twotime::Smoothing;
use speckled::correlate::window::FrameWindow;
use speckled::dataset::{DatasetError, Event, EventSource, FrameSource, PixelType, Scratch, Source, SourceInfo};
use speckled::engine::cuda::CudaEngine;
use speckled::engine::{Engine, MultiTauRequest, Request, TwoTimeRequest, Unobserved};
use speckled::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};

/// Frames that are made; a dataset repeats them.
const KEPT: u64 = 64;

fn main() {
    let engine = match CudaEngine::new(0, None) {
        Ok(engine) => engine,
        Err(error) => {
            println!("no GPU: {error}");
            return;
        }
    };
    let small = std::env::args().any(|argument| argument == "small");
    let sizes = if small { Sizes::SMALL } else { Sizes::FULL };
    println!("{}", engine.device());
    for percent in [0.05, 0.5, 5.0] {
        events(&engine, &sizes, percent);
    }
    dense(&engine, "dense u8", PixelType::U8, sizes.u8_shape, sizes.frames);
    dense(&engine, "dense u16", PixelType::U16, sizes.u16_shape, sizes.frames);
    two_time(&engine, &sizes);
}

struct Sizes {
    events_shape: Shape,
    event_frames: u64,
    u8_shape: Shape,
    u16_shape: Shape,
    frames: u64,
    map_shape: Shape,
    map_frames: u64,
}

impl Sizes {
    /// Detectors: Rigaku 500k, 3.1 and 4.5 megapixels; two-time of 10 000 frames of one megapixel.
    const FULL: Self = Self {
        events_shape: Shape { rows: 512, cols: 1024 },
        event_frames: 100_000,
        u8_shape: Shape { rows: 1764, cols: 1762 },
        u16_shape: Shape { rows: 2167, cols: 2070 },
        frames: 10_000,
        map_shape: Shape { rows: 1024, cols: 1024 },
        map_frames: 10_000,
    };

    const SMALL: Self = Self {
        events_shape: Shape { rows: 16, cols: 16 },
        event_frames: 200,
        u8_shape: Shape { rows: 16, cols: 16 },
        u16_shape: Shape { rows: 16, cols: 16 },
        frames: 100,
        map_shape: Shape { rows: 16, cols: 16 },
        map_frames: 100,
    };
}

/// What a case is measured in.
struct Case<'a> {
    name: String,
    frames: u64,
    /// Bytes that go over the bus.
    sent: u64,
    /// Products of counts, of two-time.
    products: f64,
    source: &'a dyn Fn() -> Source,
    request: Request,
}

fn measure(engine: &CudaEngine, case: &Case<'_>) {
    let mut seconds = 0.0;
    for _ in 0..2 {
        engine.take_times().expect("the GPU answers");
        let begin = Instant::now();
        engine
            .correlate(&case.request, &(case.source)(), &Unobserved, &mut |_| Ok(()))
            .expect("the correlation succeeds");
        seconds = begin.elapsed().as_secs_f64();
    }
    let times = engine.times().expect("the GPU answers");
    let kernels: f64 = times.values().map(|(_, seconds)| seconds).sum();
    let frames = case.frames as f64;
    print!(
        "{:<28} {seconds:>8.3} s {:>10.0} frames/s {:>7.2} GB/s sent | kernels {kernels:>8.4} s {:>10.0} frames/s",
        case.name,
        frames / seconds,
        case.sent as f64 / seconds / 1e9,
        frames / kernels
    );
    if case.products > 0.0 {
        print!(" {:>7.1} T products/s", case.products / kernels / 1e12);
    }
    println!();
    for (kernel, (starts, seconds)) in times {
        println!("    {kernel:<24} {starts:>6} x {seconds:>9.4} s");
    }
}

fn request(shape: Shape, frames: u64) -> Request {
    let pixels = shape.pixels();
    let rings = |rings: usize| (0..pixels).map(move |pixel| (pixel * rings / pixels) as u32 + 1).collect();
    Request {
        selection: FrameWindow::default().select(frames).expect("there are frames"),
        labels: Labels {
            shape,
            mask: vec![true; pixels],
            blemish: vec![true; pixels],
            dynamic_labels: rings(10),
            static_labels: rings(100),
        },
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::FrameMean,
            parts: 0,
            pixel_g2: PixelG2Output::Drop,
        }),
        two_time: None,
        saturated: SaturatedPolicy::Keep,
        memory: 64 << 30,
    }
}

fn events(engine: &CudaEngine, sizes: &Sizes, percent: f64) {
    let (shape, frames) = (sizes.events_shape, sizes.event_frames);
    let source = Photons::new(shape, frames, percent / 100.0);
    let sent = source.events_bound() * size_of::<Event>() as u64;
    measure(
        engine,
        &Case {
            name: format!("events {percent} %"),
            frames,
            sent,
            products: 0.0,
            source: &|| Source::Events(Box::new(source.clone())),
            request: request(shape, frames),
        },
    );
}

fn dense(engine: &CudaEngine, name: &str, pixel: PixelType, shape: Shape, frames: u64) {
    let source = Frames::new(shape, frames, pixel);
    measure(
        engine,
        &Case {
            name: format!("{name} {:.1} Mpx", shape.pixels() as f64 / 1e6),
            frames,
            sent: frames * (shape.pixels() * pixel.size()) as u64,
            products: 0.0,
            source: &|| Source::Frames(Box::new(source.clone())),
            request: request(shape, frames),
        },
    );
}

/// All pixels in one bin.
fn two_time(engine: &CudaEngine, sizes: &Sizes) {
    let (shape, frames) = (sizes.map_shape, sizes.map_frames);
    let source = Frames::new(shape, frames, PixelType::U8);
    let mut request = request(shape, frames);
    request.labels.dynamic_labels.fill(1);
    request.multi_tau = None;
    request.two_time = Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1] });
    measure(
        engine,
        &Case {
            name: format!("two-time {frames} x {:.1} Mpx", shape.pixels() as f64 / 1e6),
            frames,
            sent: frames * shape.pixels() as u64,
            // the upper triangle
            products: frames as f64 * frames as f64 / 2.0 * shape.pixels() as f64,
            source: &|| Source::Frames(Box::new(source.clone())),
            request,
        },
    );
}

/// A multiplicative hash (Knuth) whose upper bits look random.
fn noise(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn info(shape: Shape, frames: u64) -> SourceInfo {
    SourceInfo { format: "memory".into(), files: Vec::new(), bytes: 0, shape, frames }
}

/// Frames in memory: about one pixel in four has a photon.
#[derive(Clone)]
struct Frames {
    info: SourceInfo,
    pixel: PixelType,
    kept: std::sync::Arc<Vec<u8>>,
}

impl Frames {
    fn new(shape: Shape, frames: u64, pixel: PixelType) -> Self {
        let count = |number: u64| u16::from(noise(number) >> 62 == 0);
        let counts = (0..KEPT * shape.pixels() as u64).map(count);
        let kept = match pixel {
            PixelType::U8 => counts.map(|count| count as u8).collect(),
            PixelType::U16 => counts.flat_map(u16::to_ne_bytes).collect(),
            PixelType::U32 | PixelType::I16 | PixelType::I32 | PixelType::F32 => unreachable!("not measured"),
        };
        Self { info: info(shape, frames), pixel, kept: std::sync::Arc::new(kept) }
    }
}

impl FrameSource for Frames {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        self.pixel
    }

    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let size = self.info.shape.pixels() * self.pixel.size();
        for (frame, out) in std::iter::zip(frames, out.chunks_exact_mut(size)) {
            let begin = (frame % KEPT) as usize * size;
            out.copy_from_slice(&self.kept[begin..begin + size]);
        }
        Ok(())
    }
}

/// Photons in memory, the same in all frames of a block but for their number.
#[derive(Clone)]
struct Photons {
    info: SourceInfo,
    /// Frame within a block, pixel.
    kept: std::sync::Arc<Vec<(u32, u32)>>,
}

impl Photons {
    fn new(shape: Shape, frames: u64, occupancy: f64) -> Self {
        let limit = (occupancy * u64::MAX as f64) as u64;
        let all = (0..KEPT as u32).flat_map(|frame| (0..shape.pixels() as u32).map(move |pixel| (frame, pixel)));
        let lit = |&(frame, pixel): &(u32, u32)| noise(u64::from(frame) << 32 | u64::from(pixel)) < limit;
        Self { info: info(shape, frames), kept: std::sync::Arc::new(all.filter(lit).collect()) }
    }
}

impl EventSource for Photons {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn events_bound(&self) -> u64 {
        self.blocks() as u64 * self.kept.len() as u64
    }

    fn blocks(&self) -> usize {
        self.info.frames.div_ceil(KEPT) as usize
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<Event>) -> Result<(), DatasetError> {
        let first = block as u32 * KEPT as u32;
        let own = self.kept.iter().map(|&(frame, pixel)| (first + frame, pixel));
        out.clear();
        out.extend(own.filter(|(frame, _)| u64::from(*frame) < self.info.frames).map(|(f, p)| Event::new(f, p, 1)));
        Ok(())
    }
}
