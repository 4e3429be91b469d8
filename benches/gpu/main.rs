//! What a GPU reaches beside its bounds; `scripts/gpu-check` runs it, a process for each case. Needs a GPU; without one it
//! says so and fails.
//!
//! Arguments: `list` names the cases; else a case, `small` for sizes that the tests' stand-in for a GPU can do, and
//! `frames=N` for another number of frames, as a profiler needs that runs each kernel many times. For each
//! case: the first run, in which the driver loads the kernels; the second run, from decoded data in the host's memory to
//! numbers; where the host's time went; and each kernel's time, bytes (`work.rs`) and what part of a copy's speed that is.

#![expect(clippy::print_stdout, reason = "it prints its table")]
#![expect(clippy::print_stderr, reason = "and its errors")]

mod sources;
mod work;

use std::error::Error;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use sources::{Frames, Photons, Stored};
use speckled::correlate::bins::{Labels, Shape};
use speckled::correlate::delays::DelayPlan;
use speckled::correlate::twotime::Smoothing;
use speckled::correlate::window::FrameWindow;
use speckled::dataset::{EventSource, PhotonEvent, Source, Unstored};
use speckled::engine::cuda::{CudaEngine, Times};
use speckled::engine::{Engine, MultiTauRequest, Observer, Request, TwoTimeRequest};
use speckled::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};
use work::Work;

/// Detectors: Rigaku 500k and 3M, Lambda or FastTransfer with 3.1 and Eiger with 4.5 megapixels; two-time of one megapixel.
const RIGAKU_500K: Shape = Shape { rows: 512, cols: 1024 };
const MPX_3: Shape = Shape { rows: 1764, cols: 1762 };
const MPX_4: Shape = Shape { rows: 2167, cols: 2070 };
const MPX_1: Shape = Shape { rows: 1024, cols: 1024 };

/// What the stand-in for a GPU can do.
const SMALL: Shape = Shape { rows: 16, cols: 16 };
const SMALL_FRAMES: u64 = 100;

/// What is measured.
enum What {
    /// Copies.
    Ceilings,
    /// Multi-tau of events: percent of the pixels that are lit in a frame, parts.
    Events(f64, u32),
    /// Multi-tau of frames: how they are stored, rings of dynamic bins, raw frames of each, parts.
    Dense(Stored, usize, u32, u32),
    /// Two-time of all pixels in one bin.
    TwoTime(Stored),
}

struct Case {
    name: &'static str,
    shape: Shape,
    /// Raw frames.
    frames: u64,
    what: What,
}

/// In which size a case runs.
#[derive(Clone, Copy)]
enum Scale {
    Full,
    Small,
}

#[derive(Clone, Copy)]
struct Size {
    scale: Scale,
    frames: Option<u64>,
}

const fn case(name: &'static str, shape: Shape, frames: u64, what: What) -> Case {
    Case { name, shape, frames, what }
}

/// Bins of fewer pixels than this have their products added in float64 alone: with 4 000 rings of 3.1 megapixels all do.
const FEW: usize = 10;
const MANY: usize = 4_000;

/// Fewer frames where many photons take much time; two-time of floats computes in float64.
const CASES: [Case; 14] = [
    case("ceilings", SMALL, 0, What::Ceilings),
    case("events-500k-0.05", RIGAKU_500K, 100_000, What::Events(0.05, 0)),
    case("events-500k-0.5", RIGAKU_500K, 100_000, What::Events(0.5, 0)),
    case("events-500k-0.5-np3", RIGAKU_500K, 100_000, What::Events(0.5, 3)),
    case("events-500k-5", RIGAKU_500K, 20_000, What::Events(5.0, 0)),
    case("events-3m-0.5", MPX_3, 40_000, What::Events(0.5, 0)),
    case("dense-u8", MPX_3, 10_000, What::Dense(Stored::U8, FEW, 1, 0)),
    case("dense-u16", MPX_4, 6_000, What::Dense(Stored::U16, FEW, 1, 0)),
    case("dense-u2", MPX_3, 20_000, What::Dense(Stored::Packed, FEW, 1, 0)),
    case("dense-u8-f64", MPX_3, 6_000, What::Dense(Stored::U8, MANY, 1, 0)),
    case("dense-u8-avg4", MPX_3, 10_000, What::Dense(Stored::U8, FEW, 4, 0)),
    case("dense-u8-np3", MPX_3, 6_000, What::Dense(Stored::U8, FEW, 1, 3)),
    case("two-time", MPX_1, 10_000, What::TwoTime(Stored::U8)),
    case("two-time-f32", MPX_1, 2_000, What::TwoTime(Stored::F32)),
];

fn main() -> ExitCode {
    // what cargo gives a benchmark
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (mut wanted, mut size) = (Vec::new(), Size { scale: Scale::Full, frames: None });
    for argument in &arguments {
        match (argument.as_str(), CASES.iter().find(|case| case.name == argument)) {
            ("list", _) => {
                CASES.iter().for_each(|case| println!("{}", case.name));
                return ExitCode::SUCCESS;
            }
            ("small", _) => size.scale = Scale::Small,
            (_, Some(case)) => wanted.push(case),
            (other, None) if let Some(Ok(frames)) = other.strip_prefix("frames=").map(str::parse) => {
                size.frames = Some(frames);
            }
            (other, None) => {
                eprintln!("error: there is no case {other}; `list` names them");
                return ExitCode::FAILURE;
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(&CASES);
    }
    for case in wanted {
        if let Err(error) = measure(case, size) {
            eprintln!("error: {}: {}", case.name, chain(&*error));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// An error and what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn measure(case: &Case, size: Size) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let engine = CudaEngine::new(0, None)?;
    let started = begin.elapsed().as_secs_f64();
    let (shape, frames) = match size.scale {
        Scale::Small => (SMALL, SMALL_FRAMES),
        Scale::Full => (case.shape, size.frames.unwrap_or(case.frames)),
    };
    match case.what {
        What::Ceilings => {
            println!("{}; the driver and its context take {started:.3} s to start", engine.device());
            ceilings(&engine, size.scale)
        }
        What::Events(percent, parts) => {
            let source = Photons::new(shape, frames, percent / 100.0);
            let events = source.events_bound() as f64;
            let (request, work) = request(shape, frames, FEW, 1, parts)?;
            let work = Work { events, ..work };
            let sent = events * size_of::<PhotonEvent>() as f64;
            run(&engine, case, size.scale, &Job { source: Source::Events(Box::new(source)), request, work, sent })
        }
        What::Dense(stored, rings, avg, parts) => {
            let source = Frames::new(shape, frames, stored);
            let (request, work) = request(shape, frames, rings, avg, parts)?;
            let work = Work { real: if rings == FEW { 4.0 } else { 8.0 }, ..work.stored(shape, stored) };
            let sent = work.frame_bytes * frames as f64;
            run(&engine, case, size.scale, &Job { source: Source::Frames(Box::new(source)), request, work, sent })
        }
        What::TwoTime(stored) => {
            let source = Frames::new(shape, frames, stored);
            let (mut request, work) = request(shape, frames, FEW, 1, 0)?;
            request.labels.dynamic_labels.fill(1);
            request.multi_tau = None;
            request.two_time = Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1] });
            let work = work.stored(shape, stored);
            let sent = work.frame_bytes * frames as f64;
            run(&engine, case, size.scale, &Job { source: Source::Frames(Box::new(source)), request, work, sent })
        }
    }
}

/// Bytes of a copy that measures the bus and the GPU's memory: more than any cache has.
fn copied(scale: Scale) -> usize {
    match scale {
        Scale::Full => 256 << 20,
        Scale::Small => 1 << 20,
    }
}

fn ceilings(engine: &CudaEngine, scale: Scale) -> Result<(), Box<dyn Error>> {
    let found = engine.ceilings(copied(scale))?;
    for (what, bytes) in [
        ("pinned memory to the GPU", found.to_device),
        ("the GPU to pinned memory", found.to_host),
        ("the GPU to other memory", found.to_pageable),
        ("within the GPU, read and written", found.within),
    ] {
        println!("ceilings             {what:<34} {:>9.1} GB/s", bytes / 1e9);
    }
    Ok(())
}

/// What is run.
struct Job {
    source: Source,
    request: Request,
    work: Work,
    /// Bytes that go over the bus.
    sent: f64,
}

impl Work {
    fn stored(self, shape: Shape, stored: Stored) -> Self {
        Self { frame_bytes: (shape.pixels() as u64 * stored.bits() / 8) as f64, ..self }
    }
}

fn request(shape: Shape, frames: u64, rings: usize, avg: u32, parts: u32) -> Result<(Request, Work), Box<dyn Error>> {
    let pixels = shape.pixels();
    let labels = |rings: usize| (0..pixels).map(move |pixel| (pixel * rings / pixels) as u32 + 1).collect();
    let avg = NonZeroU32::new(avg).unwrap_or(NonZeroU32::MIN);
    let selection = FrameWindow { avg, ..FrameWindow::default() }.select(frames)?;
    let work = Work {
        pixels: pixels as f64,
        raw: frames as f64,
        frames: selection.outputs() as f64,
        delays: DelayPlan::new(selection.outputs()).len() as f64,
        series: 1.0 + f64::from(parts),
        ..Work::default()
    };
    let request = Request {
        selection,
        labels: Labels {
            shape,
            mask: vec![true; pixels],
            blemish: vec![true; pixels],
            dynamic_labels: labels(rings.min(pixels)),
            static_labels: labels(rings.max(100).min(pixels)),
        },
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::FrameMean,
            parts,
            pixel_g2: PixelG2Output::Drop,
        }),
        two_time: None,
        saturated: SaturatedPolicy::Keep,
        memory: 64 << 30,
    };
    Ok((request, work))
}

/// When each step began.
struct Steps {
    begin: Instant,
    steps: Mutex<Vec<(&'static str, f64)>>,
}

impl Observer for Steps {
    fn step(&self, name: &'static str, _: u64) {
        let at = self.begin.elapsed().as_secs_f64();
        self.steps.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((name, at));
    }

    fn advance(&self, _: u64) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Seconds of a run, and of its steps: what comes before the first is the set-up.
struct Run {
    seconds: f64,
    steps: Vec<(&'static str, f64)>,
}

fn once(engine: &CudaEngine, job: &Job) -> Result<Run, Box<dyn Error>> {
    engine.take_times()?;
    let observer = Steps { begin: Instant::now(), steps: Mutex::default() };
    engine.correlate(&job.request, &job.source, &observer, &mut Unstored)?;
    let seconds = observer.begin.elapsed().as_secs_f64();
    let begins = observer.steps.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let begins: Vec<_> = std::iter::once(("set up", 0.0)).chain(begins).collect();
    let ends = begins.iter().skip(1).map(|(_, at)| *at).chain([seconds]);
    let steps = std::iter::zip(&begins, ends).map(|((name, begin), end)| (*name, end - begin)).collect();
    Ok(Run { seconds, steps })
}

fn run(engine: &CudaEngine, case: &Case, scale: Scale, job: &Job) -> Result<(), Box<dyn Error>> {
    let first = once(engine, job)?;
    let loaded = engine.times()?.phases;
    let second = once(engine, job)?;
    let times = engine.times()?;
    let memory = engine.ceilings(copied(scale))?.within;
    let kernels: f64 = times.kernels.values().map(|(_, seconds)| seconds).sum();
    let (name, raw) = (case.name, job.work.raw);
    println!(
        "{name:<20} {:>9.0} frames/s {:>8.3} s, the first time {:>7.3} s; {:>6.1} GB/s sent; kernels {kernels:>7.3} s ({})",
        raw / second.seconds,
        second.seconds,
        first.seconds,
        job.sent / second.seconds / 1e9,
        engine.forms()?.join(", "),
    );
    let load: f64 = loaded.iter().filter(|(phase, _)| phase.name() == "load kernels").map(|(_, (_, s))| s).sum();
    println!("    load kernels, the first time: {load:.3} s");
    let steps = second.steps.iter().map(|(step, seconds)| format!("{step} {seconds:.3} s"));
    println!("    steps: {}", steps.collect::<Vec<_>>().join(", "));
    let phases = times.phases.iter().map(|(phase, (calls, s))| format!("{} {s:.3} s ({calls})", phase.name()));
    println!("    waited for: {}", phases.collect::<Vec<_>>().join(", "));
    per_kernel(&times, job, memory);
    Ok(())
}

fn per_kernel(times: &Times, job: &Job, memory: f64) {
    for (kernel, (starts, seconds)) in &times.kernels {
        let bytes = job.work.bytes(kernel, f64::from(*starts));
        let bound = bytes.map_or(String::new(), |bytes| {
            let reached = bytes / seconds;
            format!(
                "{:>8.2} GB {:>7.0} GB/s, {:>5.1} % of a copy",
                bytes / 1e9,
                reached / 1e9,
                reached / memory * 100.0
            )
        });
        // the upper triangle
        let pairs = job.work.frames * job.work.frames / 2.0 * job.work.pixels;
        let products = match kernel.starts_with("gram_") {
            true => format!(" {:>6.1} T products/s", pairs / seconds / 1e12),
            false => String::new(),
        };
        println!("    {kernel:<20} {starts:>6} x {seconds:>9.4} s {bound}{products}");
    }
}
