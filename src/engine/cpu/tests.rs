//! The whole engine against the oracle, on random small data in memory, over all ways through the code.

use std::num::NonZeroU32;
use std::ops::Range;

use ndarray::Array2;
use proptest::prelude::*;

use super::*;
use crate::correlate::bins::{Labels, Shape};
use crate::correlate::oracle;
use crate::correlate::result::{MultiTau, TwoTimeMap};
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::{DatasetError, Event, EventSource, PixelType, Scratch, SourceInfo};
use crate::engine::{MultiTauRequest, TwoTimeRequest, Unobserved};
use crate::task::correlate::{Normalization, PixelG2Output};

const SHAPE: Shape = Shape { rows: 200, cols: 41 };

/// Frames in memory, as events or as dense frames.
#[derive(Clone)]
struct Data {
    info: SourceInfo,
    pixel: PixelType,
    values: Vec<f64>,
    per_chunk: usize,
}

impl Data {
    fn new(pixel: PixelType, frames: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let pixels = SHAPE.pixels();
        let values = (0..frames * pixels).map(|i| value(i / pixels, i % pixels)).collect();
        let info =
            SourceInfo { format: "memory".into(), files: Vec::new(), bytes: 0, shape: SHAPE, frames: frames as u64 };
        Self { info, pixel, values, per_chunk: 3 }
    }

    fn array(&self) -> Array2<f64> {
        Array2::from_shape_vec((self.info.frames as usize, SHAPE.pixels()), self.values.clone()).expect("shape")
    }

    fn range(&self, frames: Range<u64>) -> &[f64] {
        &self.values[frames.start as usize * SHAPE.pixels()..frames.end as usize * SHAPE.pixels()]
    }
}

impl FrameSource for Data {
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
        self.per_chunk
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let bytes: Vec<u8> = self
            .range(frames)
            .iter()
            .flat_map(|&v| match self.pixel {
                PixelType::U8 => vec![v as u8],
                PixelType::U16 => (v as u16).to_ne_bytes().to_vec(),
                PixelType::U32 => (v as u32).to_ne_bytes().to_vec(),
                PixelType::I16 => (v as i16).to_ne_bytes().to_vec(),
                PixelType::I32 => (v as i32).to_ne_bytes().to_vec(),
                PixelType::F32 => (v as f32).to_ne_bytes().to_vec(),
            })
            .collect();
        out.copy_from_slice(&bytes);
        Ok(())
    }
}

struct DataEvents(Data);

impl EventSource for DataEvents {
    fn info(&self) -> &SourceInfo {
        &self.0.info
    }

    fn events_bound(&self) -> u64 {
        self.0.values.iter().filter(|v| **v > 0.0).count() as u64 * 2
    }

    fn blocks(&self) -> usize {
        self.0.info.frames.div_ceil(7) as usize
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<Event>) -> Result<(), DatasetError> {
        out.clear();
        for frame in block as u64 * 7..self.0.info.frames.min(block as u64 * 7 + 7) {
            for (pixel, &count) in self.0.range(frame..frame + 1).iter().enumerate() {
                // every other count comes in two events, which add
                let (first, second) =
                    if pixel % 2 == 0 { (count as u16, 0) } else { (1, (count - 1.0).max(0.0) as u16) };
                if count > 0.0 {
                    out.push(Event::new(frame as u32, pixel as u32, first));
                    out.push(Event::new(frame as u32, pixel as u32, second));
                }
            }
        }
        Ok(())
    }
}

/// Size of the dynamic bins; a third of it is a static bin.
#[derive(Debug, Clone, Copy)]
enum Bins {
    /// 60 pixels.
    Small,
    /// 2400 pixels, which float32 is good enough for where data are faint.
    Large,
}

/// Rings of bins, some pixels masked out, some without a bin, some blemished.
fn labels(seed: u64, bins: Bins) -> Labels {
    let pixels_per_bin = match bins {
        Bins::Small => 60,
        Bins::Large => 2400,
    };
    let of = |modulus: u64, pixel: usize| noise(seed, 0, pixel) % modulus;
    let pixels = 0..SHAPE.pixels();
    Labels {
        shape: SHAPE,
        mask: pixels.clone().map(|p| of(6, p) != 0).collect(),
        blemish: pixels.clone().map(|p| of(19, p) != 1).collect(),
        dynamic_labels: pixels.clone().map(|p| (p / pixels_per_bin) as u32).collect(),
        static_labels: pixels.map(|p| if of(23, p) == 2 { 0 } else { (p * 3 / pixels_per_bin) as u32 + 1 }).collect(),
    }
}

fn noise(seed: u64, frame: usize, pixel: usize) -> u64 {
    let x = (seed << 40) ^ ((frame as u64) << 20) ^ pixel as u64;
    let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 32)) >> 8
}

/// Correlated counts with the given chance of a photon; frame 3 is empty.
fn counts(seed: u64, occupancy: f64, bright: u64) -> impl Fn(usize, usize) -> f64 {
    move |frame, pixel| {
        let chance = (noise(seed, frame, pixel) % 10_000) as f64 / 10_000.0;
        if frame == 3 || chance >= occupancy { 0.0 } else { (1 + noise(seed, frame / 5, pixel) % bright) as f64 }
    }
}

fn request(frames: usize, window: FrameWindow, seed: u64) -> Request {
    Request {
        selection: window.select(frames as u64).expect("frames"),
        labels: labels(seed, Bins::Small),
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::FrameMean,
            parts: 0,
            pixel_g2: PixelG2Output::Keep,
        }),
        two_time: Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1, 3] }),
        saturated: SaturatedPolicy::Mask,
        memory: 1 << 30,
    }
}

type Outcome = Result<(Correlation, Partition, Vec<TwoTimeMap>), EngineError>;

fn run(source: &Source, request: &Request, threads: usize) -> Outcome {
    run_on(&CpuEngine::new(NonZeroUsize::new(threads)), source, request)
}

fn run_on(engine: &CpuEngine, source: &Source, request: &Request) -> Outcome {
    let mut maps = Vec::new();
    let (correlation, partition) = engine.correlate(request, source, &Unobserved, &mut |map| {
        maps.push(map);
        Ok(())
    })?;
    Ok((correlation, partition, maps))
}

fn close(what: &str, found: impl IntoIterator<Item = f64>, wanted: impl IntoIterator<Item = f64>) {
    close_or(1e-12, what, found, wanted);
}

/// Equal to 1e-6 of the value or, where rounding remains of numbers that cancel, to `rest`.
fn close_or(rest: f64, what: &str, found: impl IntoIterator<Item = f64>, wanted: impl IntoIterator<Item = f64>) {
    let (found, wanted): (Vec<f64>, Vec<f64>) = (found.into_iter().collect(), wanted.into_iter().collect());
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    for (k, (a, b)) in std::iter::zip(found, wanted).enumerate() {
        let same = (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * b.abs() + rest;
        assert!(same, "{what}[{k}]: {a} instead of {b}");
    }
}

fn check_multi_tau(what: &str, found: &MultiTau, wanted: &MultiTau) {
    assert_eq!(found.delays, wanted.delays);
    close(&format!("{what} g2"), found.g2.iter().copied(), wanted.g2.iter().copied());
    // an error bar is a spread of float32 products around g2 = 1; where it should be 0, their rounding is left
    close_or(1e-8, &format!("{what} g2_err"), found.g2_err.iter().copied(), wanted.g2_err.iter().copied());
}

/// Everything that a run yields against the oracle.
fn check(data: &Data, request: &Request, outcome: Outcome) {
    let (found, partition, maps) = outcome.expect("the engine succeeds");
    let frames = oracle::select(data.array().view(), &request.selection);
    let scattering = oracle::scattering(&frames, &partition);
    close("1d", found.scattering.bins, scattering.bins);
    close("segments", found.scattering.segments, scattering.segments);
    close("intensity", found.scattering.intensity, scattering.intensity);
    close("2d", found.scattering.image, scattering.image);
    if let Some(wanted) = request.multi_tau {
        let series = match wanted.normalization {
            Normalization::FrameMean => oracle::normalize(&frames, &partition),
            Normalization::None => frames.clone(),
        };
        check_multi_tau("whole", &found.multi_tau.expect("asked for"), &oracle::multi_tau(&series, &partition));
        let parts = if wanted.parts > 1 { wanted.parts as usize } else { 0 };
        assert_eq!(found.parts.len(), parts);
        for (k, part) in found.parts.iter().enumerate() {
            let length = series.nrows() / parts;
            let rows = series.slice(ndarray::s![k * length..(k + 1) * length, ..]).to_owned();
            check_multi_tau(&format!("part {k}"), part, &oracle::multi_tau(&rows, &partition));
        }
        if wanted.pixel_g2 == PixelG2Output::Keep {
            let expected = oracle::pixel_correlations(&series, &partition);
            let values = found.pixel_g2.expect("asked for").values;
            close("pixel G2", values.iter().map(|&v| f64::from(v)), expected);
        }
    }
    if let Some(wanted) = &request.two_time {
        let (two_time, expected) = oracle::two_time(&frames, &partition, wanted.smoothing, &wanted.labels);
        let result = found.two_time.expect("asked for");
        close("two-time g2", result.g2, two_time.g2);
        close("two-time segments", result.g2_segments, two_time.g2_segments);
        assert_eq!(maps.iter().map(|m| m.label).collect::<Vec<_>>(), wanted.labels);
        for (map, expected) in std::iter::zip(&maps, &expected) {
            let wide = |m: &TwoTimeMap| m.values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            close("two-time map", wide(map), wide(expected));
        }
    }
}

fn window() -> impl Strategy<Value = FrameWindow> {
    (-40i64..20, -20i64..3, 1u32..4, 1u32..4).prop_map(|(begin, end, stride, avg)| FrameWindow {
        begin: if begin < -20 { begin - 100 } else { begin.max(0) },
        end: if end > 0 { 1000 } else { end },
        stride: NonZeroU32::new(stride).expect("not zero"),
        avg: NonZeroU32::new(avg).expect("not zero"),
    })
}

fn smoothing() -> impl Strategy<Value = Smoothing> {
    prop_oneof![Just(Smoothing::StaticBins), Just(Smoothing::DynamicBins), Just(Smoothing::None)]
}

fn normalization() -> impl Strategy<Value = Normalization> {
    prop_oneof![Just(Normalization::FrameMean), Just(Normalization::None)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn events_agree_with_the_oracle(
        frames in 150usize..400,
        window in window(),
        normalization in normalization(),
        smoothing in smoothing(),
        parts in 0u32..4,
        occupancy in prop_oneof![Just(0.0005), Just(0.01), Just(0.2)],
        tight in any::<bool>(),
        seed in 0u64..1000,
    ) {
        let data = Data::new(PixelType::U16, frames, counts(seed, occupancy, 9));
        let mut request = request(frames, window, seed);
        request.multi_tau = Some(MultiTauRequest { normalization, parts, pixel_g2: PixelG2Output::Drop });
        request.two_time = Some(TwoTimeRequest { smoothing, labels: vec![1, 2] });
        if tight {
            // not all events fit: a survey and several readings
            let events = data.values.iter().filter(|v| **v > 0.0).count() as u64 * 2;
            request.memory = SHAPE.pixels() as u64 * 64 + frames as u64 * 32 + 8 * events + 8192;
        }
        check(&data, &request, run(&Source::Events(Box::new(DataEvents(data.clone()))), &request, 2));
    }

    #[test]
    fn frames_agree_with_the_oracle(
        frames in 150usize..420,
        window in window(),
        normalization in normalization(),
        smoothing in smoothing(),
        parts in 0u32..4,
        occupancy in prop_oneof![Just(0.005), Just(0.2), Just(1.0)],
        pixel in prop_oneof![
            Just(PixelType::U8), Just(PixelType::U16), Just(PixelType::U32),
            Just(PixelType::I16), Just(PixelType::I32), Just(PixelType::F32),
        ],
        faint in any::<bool>(),
        tight in any::<bool>(),
        spikes in any::<bool>(),
        bins in prop_oneof![Just(Bins::Small), Just(Bins::Large)],
        seed in 0u64..1000,
    ) {
        let scale = if pixel == PixelType::F32 { 0.3 } else { 1.0 };
        let value = counts(seed, occupancy, if faint { 4 } else if pixel == PixelType::U8 { 200 } else { 30_000 });
        let spike = move |t, p| if spikes && noise(seed, t, p + 1).is_multiple_of(20_000) { 6000.0 } else { 1.0 };
        let most = if pixel == PixelType::U8 { 200.0 } else { 30_000.0 };
        let data = Data::new(pixel, frames, move |t, p| f64::from((value(t, p) * spike(t, p) * scale).min(most) as f32));
        let mut request = request(frames, window, seed);
        request.labels = labels(seed, bins);
        let pixel_g2 = if tight { PixelG2Output::Drop } else { PixelG2Output::Keep };
        request.multi_tau = Some(MultiTauRequest { normalization, parts, pixel_g2 });
        request.two_time = Some(TwoTimeRequest { smoothing, labels: vec![1, 2, 3] });
        if tight {
            // not all pixels fit: several bands, and two-time bins in groups
            request.memory = 28_000_000;
        }
        check(&data, &request, run(&Source::Frames(Box::new(data.clone())), &request, 2));
    }
}

/// 16-bit counts, few of which exceed 8 bits: now and then, or all at once where no sample was taken.
#[test]
fn counts_beyond_their_cells_are_right() {
    let frames = 300;
    let value = counts(5, 1.0, 4);
    let rare = Data::new(PixelType::U16, frames, |t, p| {
        value(t, p) * if noise(8, t, p).is_multiple_of(20_000) { 6000.0 } else { 1.0 }
    });
    let burst = Data::new(PixelType::U16, frames, |t, p| value(t, p) * if (10..40).contains(&t) { 500.0 } else { 1.0 });
    for data in [rare, burst] {
        assert!(data.values.iter().any(|&count| count > 255.0));
        for bins in [Bins::Small, Bins::Large] {
            let request = Request { labels: labels(5, bins), ..request(frames, FrameWindow::default(), 5) };
            check(&data, &request, run(&Source::Frames(Box::new(data.clone())), &request, 2));
        }
    }
}

/// Both kinds of sources, three densities, sums that round and sums that do not.
fn varied() -> Vec<(Source, Request)> {
    let frames = 300;
    let mut all = Vec::new();
    for (occupancy, pixel, scale) in [
        (0.01, PixelType::U16, 1.0),
        (0.5, PixelType::U8, 1.0),
        (1.0, PixelType::F32, 0.3),
        (1.0, PixelType::U16, 900.0),
    ] {
        let value = counts(7, occupancy, 60);
        let data = Data::new(pixel, frames, move |t, p| f64::from((value(t, p) * scale) as f32));
        let mut request = request(frames, FrameWindow::default(), 7);
        request.multi_tau = request.multi_tau.map(|wanted| MultiTauRequest { parts: 3, ..wanted });
        if pixel == PixelType::U16 {
            all.push((Source::Events(Box::new(DataEvents(data.clone()))), request.clone()));
        }
        all.push((Source::Frames(Box::new(data)), request));
    }
    all
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (source, request) in varied() {
        let bits = |threads: usize| {
            let (found, _, maps) = run(&source, &request, threads).expect("the engine succeeds");
            // Debug output of floats tells every bit, and NaN equals NaN
            format!("{found:?} {maps:?}")
        };
        let one = bits(1);
        for threads in [2, 5] {
            assert!(bits(threads) == one, "{threads} threads: {}", source.info().frames);
        }
    }
}

/// Two blocks of frames, so that tiles' states lie in memory that the first run has filled.
#[test]
fn what_an_engine_keeps_from_run_to_run_does_not_change_a_bit() {
    let engine = CpuEngine::new(NonZeroUsize::new(2));
    let runs = [3, 4].map(|seed| {
        let data = Data::new(PixelType::U8, 600, counts(seed, 0.6, 9));
        let mut request = request(600, FrameWindow::default(), seed);
        request.labels = labels(seed, Bins::Large);
        (Source::Frames(Box::new(data)), request)
    });
    for (source, request) in &runs {
        let kept = run_on(&engine, source, request).expect("the engine succeeds");
        let fresh = run(source, request, 2).expect("the engine succeeds");
        assert!(format!("{kept:?}") == format!("{fresh:?}"));
    }
    assert!(engine.memory.bytes() > 1 << 20);
}

#[test]
fn memory_that_is_too_small_is_an_error() {
    for (source, mut request) in varied() {
        request.memory = 10_000;
        assert!(matches!(run(&source, &request, 2), Err(EngineError::Memory { .. })));
    }
}
