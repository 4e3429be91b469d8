//! The whole engine against the oracle, on random small data in memory, over all ways through the code.

use proptest::prelude::*;

use super::*;
use crate::correlate::bins::Shape;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::PixelType;
use crate::engine::testing::*;
use crate::engine::{MultiTauRequest, TwoTimeRequest, Unobserved};
use crate::task::correlate::PixelG2Output;

mod two_time;

fn run(source: &Source, request: &Request, threads: usize) -> Outcome {
    run_on(&CpuEngine::new(NonZeroUsize::new(threads)), source, request)
}

fn run_on(engine: &CpuEngine, source: &Source, request: &Request) -> Outcome {
    let mut stored = Stored::default();
    let (correlation, partition) = engine.correlate(request, source, &Unobserved, &mut stored)?;
    Ok((correlation, partition, stored))
}

/// As little memory as is enough for a run: what is refused says how much that is.
fn least_memory<T>(run: impl Fn(u64) -> Result<T, EngineError>) -> u64 {
    let mut memory = 1;
    loop {
        match run(memory) {
            Ok(_) => return memory,
            Err(EngineError::Memory { needed, .. }) if needed > memory => memory = needed,
            Err(error) => panic!("{error}"),
        }
    }
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
        let source = Source::Events(Box::new(DataEvents(data.clone())));
        let mut request = request(frames, window, seed);
        request.multi_tau = Some(MultiTauRequest { normalization, parts, pixel_g2: PixelG2Output::Drop });
        request.two_time = Some(TwoTimeRequest { smoothing, labels: vec![1, 2] });
        if tight {
            // not all events fit: a survey and several readings
            request.memory = least_memory(|memory| run(&source, &Request { memory, ..request.clone() }, 2));
        }
        check(&data, &request, run(&source, &request, 2));
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
            let (found, _, stored) = run(&source, &request, threads).expect("the engine succeeds");
            // Debug output of floats tells every bit, and NaN equals NaN
            format!("{found:?} {stored:?}")
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
