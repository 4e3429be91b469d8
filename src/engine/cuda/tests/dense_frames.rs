//! What blocks and pieces of frames must not change, and sums that are exact.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// The pixel types, and the largest count that each of them holds below its saturation value.
const LARGEST: [(PixelType, u32); 5] = [
    (PixelType::U8, 254),
    (PixelType::U16, 65_534),
    (PixelType::U32, 4_294_967_294),
    (PixelType::I16, 32_767),
    (PixelType::I32, 2_147_483_647),
];

fn whole_numbers() -> impl Strategy<Value = (PixelType, u32)> {
    (0..LARGEST.len()).prop_map(|index| LARGEST[index])
}

/// Rows that begin at words of 32 bits and rows that do not, of less than a warp and of more than a block.
fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![(1usize..4, 1usize..60), (1usize..4, 300usize..500)].prop_map(|(rows, cols)| Shape { rows, cols })
}

/// Sums of frames alone.
fn sums_request(shape: Shape, frames: usize, avg: u32, seed: u64) -> Request {
    let avg = NonZeroU32::new(avg).expect("not zero");
    let window = FrameWindow { avg, ..FrameWindow::default() };
    let mut labels = labels_of(shape, seed, Bins::Small);
    // the last pixel is always taken, and in a bin
    let last = shape.pixels() - 1;
    (labels.mask[last], labels.blemish[last]) = (true, true);
    (labels.dynamic_labels[last], labels.static_labels[last]) = (1, 1);
    Request { labels, multi_tau: None, two_time: None, ..request(frames, window, seed) }
}

proptest! {
    #![proptest_config(cases(40, 2))]

    /// Counts as large as the type allows, in more frames than narrow sums have room for; what is masked out holds
    /// anything.
    #[test]
    fn sums_of_whole_numbers_are_exact(
        shape in any_shape(),
        frames in prop_oneof![1usize..40, 250usize..300],
        avg in 1u32..4,
        (pixel, largest) in whole_numbers(),
        tight in any::<bool>(),
        seed in 0u64..1000,
    ) {
        prop_assume!(frames >= avg as usize);
        let request = sums_request(shape, frames, avg, seed);
        let mask = request.labels.mask.clone();
        let masked = match pixel {
            PixelType::I16 | PixelType::I32 => -2.0,
            PixelType::U8 | PixelType::U16 | PixelType::U32 | PixelType::F32 => f64::from(largest) + 1.0,
        };
        let data = Data::of(shape, pixel, frames, |frame, at| {
            if !mask[at] { masked } else { f64::from(largest - (noise(seed, frame, at) % 3) as u32) }
        });
        let memory = if tight { 80 * shape.pixels() * pixel.size() + 200 * shape.pixels() + 100_000 } else { PLENTY };
        let way = Way { precision: Precision::Single, saturation: pixel.saturation() };
        let partition = Partition::new(&request.labels, &[]).expect("bins");
        let device = TestDevice::new(memory, seed as u32);
        let found = match stored(|sink| dense::correlate(&device, &data, &partition, call(&request), way, sink)) {
            Ok((Read::Whole(found), _)) => found.scattering,
            other => panic!("{other:?}"),
        };
        let selection = &request.selection;
        let (outputs, avg) = (selection.outputs() as usize, selection.avg() as usize);
        let sum = |frames: Range<usize>, pixels: &dyn Fn(usize) -> bool| -> f64 {
            let pixels = (0..shape.pixels()).filter(|&at| pixels(at));
            pixels.map(|at| frames.clone().map(|frame| data.values[frame * shape.pixels() + at]).sum::<f64>()).sum()
        };
        for at in 0..shape.pixels() {
            let wanted = if request.labels.blemish[at] {
                sum(0..outputs * avg, &|own| own == at) / (outputs * avg) as f64
            } else {
                0.0
            };
            prop_assert_eq!(found.image[at], wanted, "pixel {}", at);
        }
        for output in 0..outputs {
            let own = sum(output * avg..(output + 1) * avg, &|at| partition.pixels().contains(&(at as u32)));
            prop_assert_eq!(found.intensity[output], own / avg as f64 / partition.pixels().len() as f64);
        }
        let oracle = crate::correlate::oracle::select(data.array().view(), selection);
        let wanted = crate::correlate::oracle::scattering(&oracle, &partition);
        close("1d", found.bins, wanted.bins);
        close("segments", found.segments, wanted.segments);
    }

    /// Marks and bad values anywhere, in cells that are taken and cells that are not.
    #[test]
    fn each_mark_and_the_first_bad_value_are_found(
        shape in any_shape(),
        frames in 1usize..40,
        (pixel, _) in whole_numbers(),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
        seed in 0u64..1000,
    ) {
        let request = sums_request(shape, frames, 1, seed);
        let partition = Partition::new(&request.labels, &[]).expect("bins");
        let special = pixel.saturation().map_or(-1.0, f64::from);
        let mut data = Data::of(shape, pixel, frames, counts(seed, 0.5, 100));
        let mut first = BTreeMap::new();
        for (frame, at) in places.iter().map(|(frame, at)| (frame.index(frames), at.index(shape.pixels()))) {
            data.values[frame * shape.pixels() + at] = special;
            if partition.pixels().contains(&(at as u32)) {
                let frame = frame as u64;
                first.entry(at as u32).and_modify(|known: &mut u64| *known = frame.min(*known)).or_insert(frame);
            }
        }
        let way = Way { precision: Precision::Single, saturation: pixel.saturation() };
        let device = TestDevice::new(PLENTY, seed as u32);
        let found = stored(|sink| dense::correlate(&device, &data, &partition, call(&request), way, sink));
        match found.map(|(read, _)| read) {
            Ok(Read::Whole(_)) => prop_assert!(first.is_empty(), "{:?} were not found", first),
            Ok(Read::Saturated(found)) => prop_assert_eq!(found, first),
            Err(CudaError::Engine(EngineError::Value { frame, row, col, .. })) => {
                let wanted = first.iter().map(|(&at, &frame)| (frame, at)).min();
                prop_assert_eq!(Some((frame, (row * shape.cols + col) as u32)), wanted);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// More frames of a segment than the sums of bytes have room for.
#[test]
fn sums_of_many_frames_are_exact() {
    // 16 segments of 300
    let frames = 16 * 300;
    for shape in [Shape { rows: 1, cols: 41 }, Shape { rows: 1, cols: 40 }] {
        let request = sums_request(shape, frames, 1, 1);
        let data = Data::of(shape, PixelType::U8, frames, |_, _| 255.0);
        let (found, ..) =
            correlate_frames(&TestDevice::new(PLENTY, 2), &data, &request, Precision::Single).expect("correlates");
        let good = std::iter::zip(&found.scattering.image, &request.labels.blemish).filter(|(_, good)| **good);
        assert!(good.map(|(mean, _)| *mean).all(|mean| mean == 255.0), "{:?}", found.scattering.image);
        let means = found.scattering.segments.iter().filter(|mean| **mean != 0.0 && !mean.is_nan());
        assert!(means.clone().count() > 0 && means.clone().all(|&mean| mean <= 255.0 && mean > 100.0));
    }
}

/// Blocks of a few frames and one of all: neither the sums of products nor those of frames depend on it.
#[test]
fn blocks_change_no_bit() {
    let frames = if are_few() { 300 } else { 1_400 };
    let window = FrameWindow { avg: NonZeroU32::new(2).expect("not zero"), ..FrameWindow::default() };
    for pixel in [PixelType::U8, PixelType::F32] {
        let value = counts(7, 0.3, 9);
        // numbers of so different sizes that the order in which they are added is seen in their sum
        let scale = |t, p| if pixel == PixelType::F32 { 0.3 * f64::from(1u32 << (noise(7, t, p) % 31)) } else { 1.0 };
        let data = Data::of(IMAGE, pixel, frames, |t, p| f64::from((value(t, p) * scale(t, p)) as f32));
        let multi_tau =
            MultiTauRequest { normalization: Normalization::FrameMean, parts: 3, pixel_g2: PixelG2Output::Keep };
        let request = small_request(frames, window, 7, multi_tau);
        for precision in [Precision::Single, Precision::Double] {
            let found = [PLENTY, 3_600_000, 2_400_000, 1_200_000].map(|memory| {
                let device = TestDevice::new(memory, 1);
                let found = correlate_frames(&device, &data, &request, precision).expect("correlates");
                // as text, since a bin without a good pixel has no mean
                (device.launches(), format!("{found:?}"))
            });
            let launches = found.each_ref().map(|(launches, _)| *launches);
            // more blocks, more kernels: all but one of the memories make a difference, also with few frames
            let distinct = launches.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert!(launches.is_sorted() && distinct >= 3, "{launches:?} kernels");
            for (at, (_, text)) in found.iter().enumerate() {
                assert!(*text == found[0].1, "{pixel:?} in {precision:?}, {at}");
            }
        }
    }
}

/// The pieces that frames are sent from take a part of what the host may use, whatever the block.
#[test]
fn little_of_the_hosts_memory_is_pinned() {
    let frames = 200;
    let data = Data::of(IMAGE, PixelType::U16, frames, counts(4, 0.2, 30));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 0, pixel_g2: PixelG2Output::Drop };
    let request = small_request(frames, FrameWindow::default(), 4, multi_tau);
    let frame = IMAGE.pixels() * 2;
    let staged = [request.memory, 40 * frame as u64, frame as u64].map(|memory| {
        let (device, request) = (TestDevice::new(PLENTY, 4), Request { memory, ..request.clone() });
        let found = correlate_frames(&device, &data, &request, Precision::Double).expect("correlates");
        check(&data, &request, Ok(found));
        device.most_staged()
    });
    assert!(staged[0] > 10 * frame && staged[0] < 40_000, "{staged:?}: a few pieces");
    assert!(staged[1] <= 10 * frame && staged[1] > 5 * frame, "{staged:?}: a quarter");
    assert_eq!(staged[2], frame, "one frame must be there");
}

/// Fewer pieces than threads, and pieces of one frame: it is slower, and the same.
#[test]
fn little_memory_to_send_from_changes_nothing() {
    let data = Data::of(IMAGE, PixelType::U16, 200, counts(4, 0.2, 30));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 2, pixel_g2: PixelG2Output::Keep };
    let request = small_request(200, FrameWindow::default(), 4, multi_tau);
    let frame = IMAGE.pixels() * 2;
    for limit in [frame, 3 * frame] {
        let device = TestDevice::new(PLENTY, 4).staging_at_most(limit);
        let found = correlate_frames(&device, &data, &request, Precision::Double).expect("correlates");
        check(&data, &request, Ok(found));
        assert!(device.most_staged() <= limit, "{} bytes", device.most_staged());
    }
    let device = TestDevice::new(PLENTY, 4).staging_at_most(frame - 1);
    let found = correlate_frames(&device, &data, &request, Precision::Double);
    assert!(matches!(found, Err(CudaError::Device(DeviceError::OutOfMemory { .. }))));
}

/// Also where frames are read again for each band of pixels and each slice of two-time bins.
#[test]
fn progress_of_frames_adds_up() {
    let frames = 300;
    let data = Data::of(IMAGE, PixelType::U16, frames, counts(5, 0.1, 9));
    let two_time = two_time_request(IMAGE, frames, FrameWindow::default(), 5, Smoothing::StaticBins);
    let multi_tau = MultiTauRequest { normalization: Normalization::None, parts: 0, pixel_g2: PixelG2Output::Drop };
    let request = Request { multi_tau: Some(multi_tau), ..two_time };
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let steps = Steps::default();
    let call = Call { request: &request, workers: Workers { observer: &steps, ..call(&request).workers } };
    let way = Way { precision: Precision::Double, saturation: None };
    let device = TestDevice::new(1_400_000, 4);
    stored(|sink| dense::correlate(&device, &data, &partition, call, way, sink)).expect("correlates");
    let steps = steps.into_inner();
    assert!(steps.iter().filter(|(name, ..)| *name == "correlating").count() > 1, "{steps:?}: read once");
    assert!(steps.iter().all(|(_, units, done)| units == done), "{steps:?}");
}
