//! Two-time in little memory: bands of rows, and pixels that come one slice after the other, change no bit.

use std::num::NonZeroU32;

use super::*;
use crate::correlate::result::Correlation;

/// Bins of whole rows of the image: the first has most of them.
fn request_of(frames: usize, seed: u64, smoothing: Smoothing, most: usize) -> Request {
    let mut request = request(frames, FrameWindow::default(), seed);
    let second = SHAPE.pixels() * most / 100;
    let dynamic = |pixel: usize| if pixel < second { 1 } else { 2 };
    request.labels.dynamic_labels = (0..SHAPE.pixels()).map(dynamic).collect();
    request.labels.static_labels = (0..SHAPE.pixels()).map(|pixel| (pixel * 9 / SHAPE.pixels()) as u32).collect();
    request.multi_tau = None;
    request.two_time = Some(TwoTimeRequest { smoothing, labels: vec![1, 2] });
    request
}

fn data_of(pixel: PixelType, frames: usize, seed: u64, occupancy: f64) -> Data {
    let scale = if pixel == PixelType::F32 { 0.3 } else { 1.0 };
    let value = counts(seed, occupancy, 60);
    Data::new(pixel, frames, move |t, p| f64::from((value(t, p) * scale) as f32))
}

/// What a run yields in so many bytes, with rows that are stored so many together; and the steps that it took.
fn within(
    memory: u64,
    together: usize,
    source: &Source,
    request: &Request,
) -> Result<(Correlation, Stored, Vec<&'static str>), EngineError> {
    let (mut stored, steps) = (Stored { together, ..Stored::default() }, Steps::default());
    let request = Request { memory, ..request.clone() };
    let engine = CpuEngine::new(NonZeroUsize::new(2));
    let (found, _) = engine.correlate(&request, source, &steps, &mut stored)?;
    let steps = steps.into_inner();
    assert!(steps.iter().all(|(_, units, done)| units == done), "{steps:?}");
    Ok((found, stored, steps.into_iter().map(|(name, ..)| name).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn bands_and_slices_change_no_bit(
        frames in 40usize..420,
        pixel in prop_oneof![
            Just(PixelType::U8), Just(PixelType::U16), Just(PixelType::U32),
            Just(PixelType::I16), Just(PixelType::I32), Just(PixelType::F32),
        ],
        avg in 1u32..3,
        events in any::<bool>(),
        smoothing in smoothing(),
        occupancy in prop_oneof![Just(0.002), Just(0.02), Just(0.3)],
        most in 5usize..100,
        together in 1usize..60,
        memory in 1.0f64..8.0,
        seed in 0u64..1000,
    ) {
        let data = data_of(pixel, frames, seed, occupancy);
        let source = if events && pixel != PixelType::F32 {
            Source::Events(Box::new(DataEvents(data)))
        } else {
            Source::Frames(Box::new(data))
        };
        let window = FrameWindow { avg: NonZeroU32::new(avg).expect("not zero"), ..FrameWindow::default() };
        let selection = window.select(frames as u64).expect("frames");
        let request = Request { selection, ..request_of(frames, seed, smoothing, most) };
        let (wanted, whole, _) = within(1 << 30, frames, &source, &request).expect("has plenty");
        prop_assert_eq!(whole.bands, 2, "a map at once");
        let needed = least_memory(|memory| within(memory, together, &source, &request));
        for memory in [needed, (needed as f64 * memory) as u64] {
            let (found, stored, _) = within(memory, together, &source, &request).expect("has enough");
            prop_assert_eq!(&found, &wanted, "with {} bytes", memory);
            prop_assert!(stored.maps == whole.maps, "with {} bytes", memory);
        }
    }
}

/// Less and less memory: more bands of rows, and more readings of the file. Few detections are multiplied pair by pair,
/// many as a matrix; a map is then little beside the detections of a few pixels, or beside the cells of a few frames.
#[test]
fn little_memory_makes_bands_and_then_slices() {
    let frames = 420;
    let frames_of = |data| Source::Frames(Box::new(data));
    let events_of = |data| Source::Events(Box::new(DataEvents(data)));
    for (source, more_bands) in [
        (frames_of(data_of(PixelType::U8, frames, 3, 0.3)), 5),
        (frames_of(data_of(PixelType::F32, frames, 3, 0.3)), 5),
        (events_of(data_of(PixelType::U16, frames, 3, 0.02)), 5),
        (events_of(data_of(PixelType::U16, frames, 3, 0.4)), 0),
    ] {
        let mut request = request_of(frames, 3, Smoothing::StaticBins, 100);
        request.two_time = Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1] });
        let (wanted, whole, once) = within(1 << 30, 5, &source, &request).expect("has plenty");
        let (mut bands, mut readings) = (vec![whole.bands], vec![once.len()]);
        let least = least_memory(|memory| within(memory, 5, &source, &request));
        let less = std::iter::successors(Some(60_000_000), |memory| Some(memory / 3 * 2));
        for memory in less.take_while(|memory| *memory > least).chain([least]) {
            let (found, stored, steps) = within(memory, 5, &source, &request).expect("has enough");
            assert!(found == wanted && stored.maps == whole.maps, "with {memory} bytes");
            bands.push(stored.bands);
            readings.push(steps.len());
        }
        let format = &source.info().format;
        assert!(bands[bands.len() - 1] >= bands[0] + more_bands, "{format}: {bands:?} bands");
        assert!(readings[readings.len() - 1] > readings[0] + 2, "{format}: {readings:?} readings");
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let (frames, shape) = (2000, Shape { rows: 13, cols: 29 });
    let data = Data::of(shape, PixelType::U8, frames, counts(1, 0.01, 3));
    let mut request =
        Request { labels: labels_of(shape, 1, Bins::Small), ..request(frames, FrameWindow::default(), 1) };
    request.multi_tau = None;
    request.two_time = Some(TwoTimeRequest { smoothing: Smoothing::None, labels: vec![1] });
    for source in [Source::Frames(Box::new(data.clone())), Source::Events(Box::new(DataEvents(data)))] {
        let error = within(5_000_000, 500, &source, &request).expect_err("has too little");
        let EngineError::Memory { needed, .. } = error else { panic!("{error}") };
        let error = error.to_string();
        assert!(error.contains("a band of rows of a two-time map") && error.contains("with -a"), "{error}");
        assert!(needed < 4 * 2000 * 2000, "{needed}: less than the map");
        within(needed, 500, &source, &request).expect("has what it needs");
    }
}
