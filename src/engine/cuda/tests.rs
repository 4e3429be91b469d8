//! The engine over the host build of its kernels, against the oracle.

use std::num::{NonZeroU32, NonZeroUsize};
use std::process::Command;
use std::sync::Mutex;

use proptest::prelude::*;

use super::dense::{self, Read, Way};
use super::device::{DeviceError, Precision};
use super::host::{ADDRESS, compile};
use super::test_device::{GPU, TestDevice};
use super::{Call, CudaError, engine, events};
use crate::correlate::bins::{Partition, Shape};
use crate::correlate::result::Correlation;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::{EventSource, FrameSource, PhotonEvent, PixelType, ResultSink, Source};
use crate::engine::sink::Sink;
use crate::engine::testing::*;
use crate::engine::workers::Workers;
use crate::engine::{EngineError, MultiTauRequest, Request, TwoTimeRequest, Unobserved};
use crate::task::correlate::{Normalization, PixelG2Output};

mod dense_frames;
mod driver;
mod packed;
mod two_time;

/// Set where a sanitizer of a GPU makes each case take some hundred times as long.
const FEW: &str = "SPECKLED_TEST_FEW";

fn are_few() -> bool {
    [ADDRESS, FEW].into_iter().any(|name| std::env::var_os(name).is_some())
}

/// So many random cases, or fewer under a sanitizer.
fn cases(usual: u32, few: u32) -> ProptestConfig {
    ProptestConfig::with_cases(if are_few() { few } else { usual })
}

/// Small, since each thread of a device is run by itself; of an odd size.
const IMAGE: Shape = Shape { rows: 13, cols: 29 };

/// Memory that holds everything.
const PLENTY: usize = 1 << 30;

/// Of any size, most of them no multiple of a warp or a block; bins 1 to 4 are whole.
fn shape() -> impl Strategy<Value = Shape> {
    (11usize..18, 28usize..47).prop_map(|(rows, cols)| Shape { rows, cols })
}

fn small_request(frames: usize, window: FrameWindow, seed: u64, multi_tau: MultiTauRequest) -> Request {
    request_for(IMAGE, frames, window, seed, multi_tau)
}

fn request_for(shape: Shape, frames: usize, window: FrameWindow, seed: u64, multi_tau: MultiTauRequest) -> Request {
    let labels = labels_of(shape, seed, Bins::Small);
    Request { labels, multi_tau: Some(multi_tau), two_time: None, ..request(frames, window, seed) }
}

/// Two threads that read.
fn call(request: &Request) -> Call<'_> {
    let threads = NonZeroUsize::new(2).expect("not zero");
    Call { request, workers: Workers { threads, observer: &Unobserved } }
}

/// What a run yields, and what it stores.
fn stored<T>(run: impl FnOnce(Sink<'_>) -> Result<T, CudaError>) -> Result<(T, Stored), CudaError> {
    let mut stored = Stored::default();
    let shared = Mutex::new(&mut stored as &mut dyn ResultSink);
    let found = run(Sink::new(&shared))?;
    Ok((found, stored))
}

/// What a run yields on a device.
type Found = Result<(Correlation, Partition, Stored), CudaError>;

fn correlate_events(host: &TestDevice, data: &Data, request: &Request) -> Found {
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let source = DataEvents(data.clone());
    let (found, stored) = stored(|sink| events::correlate(host, &source, &partition, call(request), sink))?;
    Ok((found, partition, stored))
}

proptest! {
    #![proptest_config(cases(8, 2))]

    #[test]
    fn events_agree_with_the_oracle(
        shape in shape(),
        frames in 150usize..700,
        window in window(),
        normalization in normalization(),
        parts in 0u32..4,
        occupancy in prop_oneof![Just(0.0005), Just(0.01), Just(0.2), Just(0.9)],
        seed in 0u64..1000,
    ) {
        let data = Data::of(shape, PixelType::U16, frames, counts(seed, occupancy, 4095));
        let multi_tau = MultiTauRequest { normalization, parts, pixel_g2: PixelG2Output::Keep };
        let request = request_for(shape, frames, window, seed, multi_tau);
        let found = correlate_events(&TestDevice::new(PLENTY, seed as u32), &data, &request).expect("correlates");
        check(&data, &request, Ok(found));
    }
}

/// Each count comes as two events.
#[test]
fn places_that_just_fit_into_shared_memory_and_just_do_not() {
    for frames in [events::ROOM as usize / 2, events::ROOM as usize / 2 + 1] {
        let data = Data::of(IMAGE, PixelType::U16, frames, |frame, pixel| ((frame * pixel) % 7 + 2) as f64);
        let multi_tau =
            MultiTauRequest { normalization: Normalization::FrameMean, parts: 0, pixel_g2: PixelG2Output::Keep };
        let request = small_request(frames, FrameWindow::default(), 5, multi_tau);
        let found = correlate_events(&TestDevice::new(PLENTY, 6), &data, &request).expect("correlates");
        check(&data, &request, Ok(found));
    }
}

fn correlate_frames(host: &TestDevice, data: &dyn FrameSource, request: &Request, precision: Precision) -> Found {
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let way = Way { precision, saturation: None };
    match stored(|sink| dense::correlate(host, data, &partition, call(request), way, sink))? {
        (Read::Whole(correlation), stored) => Ok((*correlation, partition, stored)),
        (Read::Saturated(pixels), _) => panic!("{pixels:?}"),
    }
}

proptest! {
    #![proptest_config(cases(12, 2))]

    #[test]
    fn frames_agree_with_the_oracle(
        shape in shape(),
        frames in 2usize..700,
        window in window(),
        normalization in normalization(),
        parts in 0u32..4,
        occupancy in prop_oneof![Just(0.005), Just(0.2), Just(1.0)],
        pixel in prop_oneof![
            Just(PixelType::U8), Just(PixelType::U16), Just(PixelType::U32),
            Just(PixelType::I16), Just(PixelType::I32), Just(PixelType::F32),
        ],
        tight in any::<bool>(),
        seed in 0u64..1000,
    ) {
        prop_assume!(window.select(frames as u64).is_ok());
        let scale = if pixel == PixelType::F32 { 0.3 } else { 1.0 };
        let value = counts(seed, occupancy, if pixel == PixelType::U8 { 200 } else { 30_000 });
        let data = Data::of(shape, pixel, frames, move |t, p| f64::from((value(t, p) * scale) as f32));
        let multi_tau = MultiTauRequest { normalization, parts, pixel_g2: PixelG2Output::Keep };
        let request = request_for(shape, frames, window, seed, multi_tau);
        // the state of the pixels takes most of it: blocks of a few frames
        let memory = if tight { 4_000_000 } else { PLENTY };
        let found = correlate_frames(&TestDevice::new(memory, seed as u32), &data, &request, Precision::Double);
        check(&data, &request, Ok(found.expect("correlates")));
    }
}

fn two_time_request(shape: Shape, frames: usize, window: FrameWindow, seed: u64, smoothing: Smoothing) -> Request {
    let labels = labels_of(shape, seed, Bins::Small);
    Request {
        labels,
        multi_tau: None,
        two_time: Some(TwoTimeRequest { smoothing, labels: vec![1, 3, 4] }),
        ..request(frames, window, seed)
    }
}

/// Blocks of few frames, and a series whose levels are in three stages: each stage may get one sample of a block, or none.
#[test]
fn many_levels_in_small_blocks() {
    let frames = 2_500;
    let shape = Shape { rows: 4, cols: 16 };
    let data = Data::of(shape, PixelType::U8, frames, counts(11, 0.2, 9));
    let multi_tau = MultiTauRequest { normalization: Normalization::None, parts: 0, pixel_g2: PixelG2Output::Keep };
    let labels = labels_of(shape, 11, Bins::Small);
    let window = FrameWindow::default();
    let request = Request { labels, multi_tau: Some(multi_tau), two_time: None, ..request(frames, window, 11) };
    // the least memory that is enough leaves room for the smallest blocks
    let least = (0..).map(|step| 100_000 + step * 4_000).find(|&memory| {
        match correlate_frames(&TestDevice::new(memory, 2), &data, &request, Precision::Double) {
            Ok(found) => {
                check(&data, &request, Ok(found));
                true
            }
            Err(CudaError::Device(DeviceError::OutOfMemory { .. })) => false,
            Err(error) => panic!("{error}"),
        }
    });
    for more in [4_000, 20_000, 60_000] {
        let device = TestDevice::new(least.expect("some memory is enough") + more, 3);
        let found = correlate_frames(&device, &data, &request, Precision::Double).expect("correlates");
        check(&data, &request, Ok(found));
    }
}

/// As long as a burst of the fastest detectors: 15 levels; few pixels, and 12-bit counts.
#[test]
fn a_long_series_agrees_with_the_oracle() {
    // a sanitizer sees nothing in it that it does not see in less
    let frames = if are_few() { 1 << 13 } else { 1 << 17 };
    let shape = Shape { rows: 3, cols: 11 };
    let data = Data::of(shape, PixelType::U16, frames, counts(13, 0.05, 4095));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 0, pixel_g2: PixelG2Output::Keep };
    let mut request = request_for(shape, frames, FrameWindow::default(), 13, multi_tau);
    request.labels.dynamic_labels.fill(1);
    let events = correlate_events(&TestDevice::new(PLENTY, 3), &data, &request).expect("correlates");
    check(&data, &request, Ok(events));
    let series = correlate_frames(&TestDevice::new(PLENTY, 4), &data, &request, Precision::Double);
    check(&data, &request, Ok(series.expect("correlates")));
}

/// Where products are first added in float32, the error of each is left in the spread of pixels: the engine takes it for
/// faint data in large bins, whose spread is larger.
#[test]
fn float32_is_near_enough_for_g2() {
    let data = Data::of(IMAGE, PixelType::U8, 500, counts(7, 0.2, 4));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 2, pixel_g2: PixelG2Output::Keep };
    let request = small_request(500, FrameWindow::default(), 7, multi_tau);
    let run =
        |precision| correlate_frames(&TestDevice::new(PLENTY, 1), &data, &request, precision).expect("correlates");
    let ((found, _, single), (wanted, _, double)) = (run(Precision::Single), run(Precision::Double));
    let pixels = |stored: &Stored| -> Vec<f64> { stored.pixels.values().flatten().map(|&v| f64::from(v)).collect() };
    close("pixel G2", pixels(&single), pixels(&double));
    for (found, wanted) in
        std::iter::zip(found.parts.iter().chain(&found.multi_tau), wanted.parts.iter().chain(&wanted.multi_tau))
    {
        close("g2", found.g2.iter().copied(), wanted.g2.iter().copied());
        close_or(1e-6, "g2_err", found.g2_err.iter().copied(), wanted.g2_err.iter().copied());
    }
    assert_eq!(found.scattering, wanted.scattering);
}

#[test]
fn pixels_that_carry_the_mark_and_values_that_are_none_are_told() {
    let request = small_request(
        90,
        FrameWindow::default(),
        3,
        MultiTauRequest { normalization: Normalization::None, parts: 0, pixel_g2: PixelG2Output::Drop },
    );
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let [inside, other] = [partition.pixels()[40], partition.pixels()[200]].map(|pixel| pixel as usize);
    let run = |data: &Data, saturation| {
        let way = Way { precision: Precision::Single, saturation };
        let device = TestDevice::new(PLENTY, 1);
        stored(|sink| dense::correlate(&device, data, &partition, call(&request), way, sink)).map(|(read, _)| read)
    };
    let marked = Data::of(IMAGE, PixelType::U8, 90, |frame, pixel| {
        if (pixel == inside && frame >= 77) || (pixel == other && frame == 9) { 255.0 } else { 1.0 }
    });
    match run(&marked, Some(255)).expect("reads") {
        Read::Saturated(pixels) => assert_eq!(pixels, [(inside as u32, 77), (other as u32, 9)].into()),
        Read::Whole(_) => panic!("they are there"),
    }
    assert!(matches!(run(&marked, None), Ok(Read::Whole(_))), "the value may be counts");
    for (pixel, value) in
        [(PixelType::I16, -1.0), (PixelType::I32, -5.0), (PixelType::F32, f64::NAN), (PixelType::F32, f64::INFINITY)]
    {
        let data = Data::of(IMAGE, pixel, 90, |frame, place| if place == other && frame > 60 { value } else { 1.0 });
        let error = run(&data, None).expect_err("is no count");
        let (row, col) = (other / IMAGE.cols, other % IMAGE.cols);
        let CudaError::Engine(EngineError::Value { frame: 61, row: at, col: on, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!((at, on), (row, col));
    }
}

/// One in a frame that is looked at first, one elsewhere: both are left out, in the end.
#[test]
fn saturated_pixels_are_left_out() {
    let frames = 90;
    let request = small_request(
        frames,
        FrameWindow::default(),
        3,
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 0, pixel_g2: PixelG2Output::Keep },
    );
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let dead = [partition.pixels()[40] as usize, partition.pixels()[200] as usize];
    let value = counts(3, 0.4, 9);
    let data = Data::of(IMAGE, PixelType::U16, frames, |frame, pixel| {
        let marked = (pixel == dead[0] && frame == 0) || (pixel == dead[1] && frame == 50);
        if marked { 65_535.0 } else { value(frame, pixel) }
    });
    let source = Source::Frames(Box::new(data.clone()));
    let call = call(&request);
    let device = TestDevice::new(PLENTY, 8);
    let run = stored(|sink| engine::correlate(&device, &source, call, sink));
    let ((found, partition), stored) = run.expect("correlates");
    let pixels: Vec<(u32, u64)> = found.saturated.iter().map(|pixel| (pixel.pixel, pixel.frame)).collect();
    assert_eq!(pixels, [(dead[0] as u32, 0), (dead[1] as u32, 50)]);
    check(&data, &request, Ok((found, partition, stored)));
}

#[test]
fn the_order_of_threads_and_the_memory_change_no_bit() {
    let data = Data::of(IMAGE, PixelType::U16, 300, counts(5, 0.1, 9));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 2, pixel_g2: PixelG2Output::Keep };
    let request = small_request(300, FrameWindow::default(), 5, multi_tau);
    let plenty = TestDevice::new(PLENTY, 1);
    let wanted = correlate_events(&plenty, &data, &request).expect("correlates");
    // all at once; in some passes over events that stay; over events that are read anew for each pass
    let mut launches = 0;
    for (memory, seed) in [(PLENTY, 2), (400_000, 3), (200_000, 4)] {
        let host = TestDevice::new(memory, seed);
        let found = correlate_events(&host, &data, &request).expect("correlates");
        assert_eq!(found, wanted, "with {memory} bytes");
        assert!(host.launches() > launches, "{} kernels with {memory} bytes", host.launches());
        launches = host.launches();
    }
    let error = correlate_events(&TestDevice::new(20_000, 5), &data, &request).expect_err("has too little");
    assert!(matches!(error, CudaError::Device(DeviceError::OutOfMemory { .. })), "{error}");
}

/// Others take memory that was free when it was asked how much there is.
#[test]
fn events_that_do_not_stay_after_all_are_read_again() {
    let data = Data::of(IMAGE, PixelType::U16, 300, counts(5, 0.1, 9));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 2, pixel_g2: PixelG2Output::Keep };
    let request = small_request(300, FrameWindow::default(), 5, multi_tau);
    let wanted = correlate_events(&TestDevice::new(PLENTY, 1), &data, &request).expect("correlates");
    // as much as the events alone take
    let all = DataEvents(data.clone()).events_bound() as usize * size_of::<PhotonEvent>();
    for memory in [all, all * 3 / 4] {
        let device = TestDevice::new(memory, 2).claiming(PLENTY);
        let found = correlate_events(&device, &data, &request).expect("correlates");
        assert_eq!(found, wanted, "with {memory} bytes");
    }
    let found = correlate_events(&TestDevice::new(20_000, 2).claiming(PLENTY), &data, &request);
    assert!(matches!(found, Err(CudaError::Device(DeviceError::OutOfMemory { .. }))));
}

/// Also where all events are read again for each pass.
#[test]
fn progress_of_events_adds_up() {
    let data = Data::of(IMAGE, PixelType::U16, 300, counts(5, 0.1, 9));
    let multi_tau = MultiTauRequest { normalization: Normalization::None, parts: 0, pixel_g2: PixelG2Output::Drop };
    let request = small_request(300, FrameWindow::default(), 5, multi_tau);
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let (source, steps) = (DataEvents(data), Steps::default());
    let workers = Workers { observer: &steps, ..call(&request).workers };
    let call = Call { request: &request, workers };
    let device = TestDevice::new(200_000, 4);
    stored(|sink| events::correlate(&device, &source, &partition, call, sink)).expect("correlates");
    let steps = steps.into_inner();
    assert_eq!(steps.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), ["reading", "correlating"]);
    assert!(steps.iter().all(|(_, units, done)| units == done), "{steps:?}");
}

/// Runs the other tests again, through the driver's calls: a stand-in for its library does nothing before it
/// is waited for.
#[test]
fn the_driver_is_waited_for_where_that_is_needed() {
    if std::env::var_os(ADDRESS).is_some() || std::env::var_os(GPU).is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    compile(&folder.path().join("libcuda.so.1"), &["shim.cpp", "kernels.cpp", "libcuda.cpp"]);
    let mut command = again();
    command.env(GPU, "0").env("LD_LIBRARY_PATH", folder.path()).env("FAKE_CUDA_MEMORY", (4 * PLENTY).to_string());
    passes(&mut command);
}

/// These tests, and those of what feeds frames and events and sorts events, in a process of their own.
fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["tests", "dense", "events", "sort"].map(|own| format!("engine::cuda::{own}")));
    command.arg("--test-threads=2");
    command
}

fn passes(command: &mut Command) {
    let done = command.output().expect("runs");
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}{error}");
}

/// Runs the other tests again, in a process whose memory the address sanitizer watches.
#[test]
fn kernels_touch_no_memory_but_their_own() {
    // on a GPU compute-sanitizer does that: see scripts/gpu-check
    if std::env::var_os(ADDRESS).is_some() || std::env::var_os(GPU).is_some() {
        return;
    }
    let found = Command::new("c++").arg("-print-file-name=libasan.so").output().expect("a C++ compiler");
    let library = String::from_utf8(found.stdout).expect("a path");
    passes(again().env(ADDRESS, "1").env("LD_PRELOAD", library.trim()).env("ASAN_OPTIONS", "detect_leaks=0"));
}
