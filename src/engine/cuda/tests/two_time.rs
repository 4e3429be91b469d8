//! Two-time: products of frames, each block of them computed once; bins and maps that are cut.

use super::super::device::{Arg, Buffer, Device, Grid, Kernel};
use super::super::twotime::{COLS, GRAM_SHARED, GRAM_THREADS, PLAIN, PLAIN_SHARED, ROWS};
use super::*;

/// Columns of the matrix: twotime.cu's DEPTH.
const DEPTH: usize = 32;

/// One in f16.
const HALF_ONE: u16 = 15 << 10;

/// Rows of the products that are computed: first, number.
type Band = (usize, usize);

/// Products of the frames of a band with all frames, whose counts are all 1, from blocks of the given size.
fn products_of_ones(device: &TestDevice, frames: usize, (first, rows): Band) -> Vec<f64> {
    let digits = Buffer::of(device, &vec![HALF_ONE; frames.next_multiple_of(ROWS) * DEPTH]).expect("memory");
    let (groups, out) = (groups(device), Buffer::<_, f64>::zeros(device, rows * frames).expect("memory"));
    let weights = Buffer::of(device, &vec![1.0; frames]).expect("memory");
    let numbers = [1, DEPTH, frames, first, rows].map(|number| Arg::U32(number as u32));
    let arguments: Vec<_> = [digits.arg(), Arg::U64(digits.len() as u64)]
        .into_iter()
        .chain(numbers)
        .chain([groups.arg(), Arg::U32(1), weights.arg(), Arg::U32(DEPTH as u32), out.arg()])
        .collect();
    let blocks = (rows.div_ceil(ROWS) * frames.div_ceil(COLS)) as u32;
    let grid = Grid { blocks, threads: GRAM_THREADS, shared: GRAM_SHARED };
    device.launch(Kernel::GramDigits, grid, &arguments).expect("runs");
    out.read(device).expect("is there")
}

/// One, of all columns.
fn groups(device: &TestDevice) -> Buffer<TestDevice, u32> {
    Buffer::of(device, &[0, DEPTH as u32]).expect("memory")
}

/// Frames in more blocks than follow one another in a group, and in fewer; bands that begin anywhere.
#[test]
fn each_block_of_products_is_computed_once() {
    let small = [(1, (0, 1)), (127, (0, 127)), (65, (0, 65)), (300, (128, 172)), (513, (256, 128))];
    // 14 by 27 blocks, of which 12 by 22 follow one another
    let large = [(1_700, (0, 1_700)), (1_700, (1_536, 164)), (1_450, (128, 1_300))];
    let few = if are_few() { 0 } else { large.len() };
    for (frames, band) in small.into_iter().chain(large.into_iter().take(few)) {
        let found = products_of_ones(&TestDevice::new(PLENTY, 3), frames, band);
        for (at, product) in found.into_iter().enumerate() {
            let (frame, later) = (band.0 + at / frames, at % frames);
            assert!(later < frame || product == DEPTH as f64, "{product} of {frame}, {later} of {frames}");
        }
    }
}

/// Float32 is multiplied and added in float64, column after column: the same bits as here.
#[test]
fn products_of_float32_are_those_of_float64() {
    let frames = 200;
    let (first, rows) = (64, 136);
    let padded = frames_of_floats(frames);
    let device = TestDevice::new(PLENTY, 5);
    let values = Buffer::of(&device, &padded).expect("memory");
    let (groups, out) = (groups(&device), Buffer::<_, f64>::zeros(&device, rows * frames).expect("memory"));
    let weights = Buffer::of(&device, &vec![1.0; frames]).expect("memory");
    let numbers = [DEPTH, frames, first, rows].map(|number| Arg::U32(number as u32));
    let arguments: Vec<_> = [values.arg()]
        .into_iter()
        .chain(numbers)
        .chain([groups.arg(), Arg::U32(1), weights.arg(), out.arg()])
        .collect();
    let blocks = (rows.div_ceil(PLAIN) * frames.div_ceil(PLAIN)) as u32;
    let grid = Grid { blocks, threads: GRAM_THREADS, shared: PLAIN_SHARED };
    device.launch(Kernel::GramF32, grid, &arguments).expect("runs");
    let row = |frame: usize| &padded[frame * DEPTH..(frame + 1) * DEPTH];
    for (at, found) in out.read(&device).expect("is there").into_iter().enumerate() {
        let (frame, later) = (first + at / frames, at % frames);
        let pairs = std::iter::zip(row(frame), row(later));
        let wanted: f64 = if std::env::var_os(GPU).is_some() {
            // a GPU rounds a product and its sum once
            pairs.fold(0.0, |sum, (&a, &b)| f64::from(a).mul_add(f64::from(b), sum))
        } else {
            pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        assert!(later < frame || found == wanted, "{found} instead of {wanted} of {frame}, {later}");
    }
}

/// Rows of columns, filled up as the matrix is.
fn frames_of_floats(frames: usize) -> Vec<f32> {
    let value = counts(3, 0.7, 1000);
    let numbers = (0..frames.next_multiple_of(ROWS) * DEPTH).map(|at| (at / DEPTH, at % DEPTH));
    numbers.map(|(frame, column)| if frame < frames { (value(frame, column) * 0.3) as f32 } else { 0.0 }).collect()
}

proptest! {
    #![proptest_config(cases(8, 1))]

    #[test]
    fn two_time_agrees_with_the_oracle(
        shape in shape(),
        frames in 2usize..260,
        window in window(),
        smoothing in smoothing(),
        occupancy in prop_oneof![Just(0.01), Just(0.2), Just(1.0)],
        bright in prop_oneof![Just(1u64), Just(200), Just(60_000)],
        pixel in prop_oneof![
            Just(None), Just(Some(PixelType::U8)), Just(Some(PixelType::U16)), Just(Some(PixelType::U32)),
            Just(Some(PixelType::I16)), Just(Some(PixelType::I32)), Just(Some(PixelType::F32)),
        ],
        tight in any::<bool>(),
        seed in 0u64..1000,
    ) {
        prop_assume!(window.select(frames as u64).is_ok());
        let largest = match pixel {
            Some(PixelType::U8) => 255.0,
            Some(PixelType::I16) => 32_767.0,
            _ => 60_000.0,
        };
        let scale = if pixel == Some(PixelType::F32) { 0.3 } else { 1.0 };
        let value = counts(seed, occupancy, bright);
        let kept = pixel.unwrap_or(PixelType::U16);
        let data = Data::of(shape, kept, frames, move |t, p| f64::from((value(t, p).min(largest) * scale) as f32));
        let request = two_time_request(shape, frames, window, seed, smoothing);
        // bins are cut, and maps come in bands of rows
        let host = TestDevice::new(if tight { 1_200_000 } else { PLENTY }, seed as u32);
        let found = match pixel {
            None => correlate_events(&host, &data, &request),
            Some(_) => correlate_frames(&host, &data, &request, Precision::Double),
        };
        check(&data, &request, Ok(found.expect("correlates")));
    }
}

/// A map of all rows; in bands of rows; of groups that are cut themselves, added on the host.
#[test]
fn a_bin_that_does_not_fit_is_cut() {
    let frames = 600;
    let window = FrameWindow { avg: NonZeroU32::new(2).expect("not zero"), ..FrameWindow::default() };
    let data = Data::of(IMAGE, PixelType::U32, frames, counts(9, 0.3, 700));
    for smoothing in [Smoothing::StaticBins, Smoothing::DynamicBins, Smoothing::None] {
        let request = two_time_request(IMAGE, frames, window, 9, smoothing);
        let launches = [PLENTY, 1_200_000, 680_000].map(|memory| {
            let host = TestDevice::new(memory, 4);
            let found = correlate_frames(&host, &data, &request, Precision::Double).expect("correlates");
            check(&data, &request, Ok(found));
            host.launches()
        });
        assert!(launches[1].min(launches[2]) > launches[0], "{launches:?} kernels: nothing was cut");
    }
}

/// A bin that has most pixels, and one of the others.
fn uneven_request(frames: usize, seed: u64, smoothing: Smoothing) -> Request {
    let mut request = two_time_request(IMAGE, frames, FrameWindow::default(), seed, smoothing);
    request.labels.dynamic_labels = (0..IMAGE.pixels()).map(|pixel| if pixel < 300 { 1 } else { 2 }).collect();
    request.two_time = Some(TwoTimeRequest { smoothing, labels: vec![1, 2] });
    request
}

/// Memory of a device that has room for few rows of a map at a time, and for a part of a large bin.
fn little(frames: usize) -> usize {
    200_000 + 3_200 * frames
}

/// Host's memory for a few rows of a map, and for the sums of 128 rows of a bin that is cut.
fn little_of_host(frames: usize) -> u64 {
    128 * 24 * 4 * frames as u64
}

proptest! {
    #![proptest_config(cases(8, 1))]

    /// The host's memory decides how many rows come at once, and how often the parts of a bin that is cut are added up.
    #[test]
    fn bands_of_rows_change_no_bit(
        frames in 130usize..400,
        pixel in prop_oneof![Just(None), Just(Some(PixelType::U16)), Just(Some(PixelType::F32))],
        smoothing in smoothing(),
        device in prop_oneof![Just(None), Just(Some(1)), Just(Some(2))],
        memory in 1.0f64..8.0,
        seed in 0u64..1000,
    ) {
        let scale = if pixel == Some(PixelType::F32) { 0.3 } else { 1.0 };
        let value = counts(seed, 0.2, 300);
        let kept = pixel.unwrap_or(PixelType::U16);
        let data = Data::of(IMAGE, kept, frames, move |t, p| f64::from((value(t, p) * scale) as f32));
        let mut request = uneven_request(frames, seed, smoothing);
        let device = device.map_or(PLENTY, |times| times * little(frames));
        let run = |request: &Request| {
            let host = TestDevice::new(device, seed as u32);
            match pixel {
                None => correlate_events(&host, &data, request),
                Some(_) => correlate_frames(&host, &data, request, Precision::Double),
            }
        };
        let (wanted, _, whole) = run(&request).expect("has plenty");
        request.memory = (little_of_host(frames) as f64 * memory) as u64;
        let (found, _, stored) = run(&request).expect("has enough");
        prop_assert_eq!(found, wanted);
        prop_assert!(stored.maps == whole.maps, "{} bands, {} in plenty", stored.bands, whole.bands);
    }
}

/// A bin whose parts are added up for each band of rows: in more passes where the host's memory is less, to the same bits.
#[test]
fn the_parts_of_a_bin_are_added_for_each_band() {
    let frames = 520;
    let data = Data::of(IMAGE, PixelType::U32, frames, counts(9, 0.3, 700));
    for smoothing in [Smoothing::StaticBins, Smoothing::DynamicBins, Smoothing::None] {
        let mut request = uneven_request(frames, 9, smoothing);
        let runs = [1 << 30, little_of_host(frames)].map(|memory| {
            request.memory = memory;
            let host = TestDevice::new(little(frames), 4);
            let found = correlate_frames(&host, &data, &request, Precision::Double).expect("correlates");
            check(&data, &request, Ok(found.clone()));
            (host.launches(), found)
        });
        let [(few, (wanted, _, whole)), (many, (found, _, stored))] = runs;
        assert!(many > few && stored.bands > whole.bands, "{few} kernels, then {many}: not in bands");
        assert!(found == wanted && stored.maps == whole.maps, "{smoothing:?}");
    }
}

/// Neither the fewest rows that are stored together nor what a bin in parts needs for a few rows may be more than the
/// host's memory that is allowed.
#[test]
fn maps_beyond_the_limit_are_refused() {
    let (raw, frames) = (600, 300u64);
    let window = FrameWindow { avg: NonZeroU32::new(2).expect("not zero"), ..FrameWindow::default() };
    let data = Data::of(IMAGE, PixelType::U32, raw, counts(9, 0.3, 700));
    let mut request = two_time_request(IMAGE, raw, window, 9, Smoothing::None);
    // a quarter of the memory for 7 rows of the map; a quarter for the sums of 128 rows
    for (needed, memory, what) in [
        (4 * 7 * 4 * frames, PLENTY, "a band of rows of a two-time map needs 33600 bytes"),
        (4 * 128 * 24 * frames, 680_000, "not fit into the GPU's memory at once needs 3686400 bytes"),
    ] {
        request.memory = needed - 4;
        let found = correlate_frames(&TestDevice::new(memory, 4), &data, &request, Precision::Double);
        let error = found.err().map_or(String::new(), |error| error.to_string());
        assert!(error.contains(what) && error.contains("with -a"), "{error}");
        request.memory = needed;
        correlate_frames(&TestDevice::new(memory, 4), &data, &request, Precision::Double).expect("is enough");
    }
    request.memory = 4 * 7 * 4 * frames - 4;
    let found = correlate_events(&TestDevice::new(PLENTY, 4), &data, &request);
    assert!(matches!(found, Err(CudaError::Engine(EngineError::Memory { .. }))));
}

/// The events of a slice take more memory than its counts.
#[test]
fn a_slice_whose_events_do_not_fit_is_cut() {
    let data = Data::of(IMAGE, PixelType::U16, 200, counts(4, 1.0, 30));
    let request = two_time_request(IMAGE, 200, FrameWindow::default(), 4, Smoothing::StaticBins);
    let launches = [PLENTY, 700_000].map(|memory| {
        let device = TestDevice::new(memory, 4);
        check(&data, &request, Ok(correlate_events(&device, &data, &request).expect("correlates")));
        device.launches()
    });
    assert!(launches[1] > launches[0], "{launches:?} kernels: nothing was cut");
}
