//! The engine over the host build of its kernels, against the oracle.

use std::process::Command;

use proptest::prelude::*;

use super::device::DeviceError;
use super::host::{ADDRESS, Host};
use super::{CudaError, events};
use crate::correlate::bins::{Partition, Shape};
use crate::correlate::result::Correlation;
use crate::correlate::window::FrameWindow;
use crate::dataset::PixelType;
use crate::engine::testing::*;
use crate::engine::{MultiTauRequest, Request, Unobserved};
use crate::task::correlate::{Normalization, PixelG2Output};

/// Small, since each thread of a device is run by itself; of an odd size.
const IMAGE: Shape = Shape { rows: 13, cols: 29 };

/// Memory that holds everything.
const PLENTY: usize = 1 << 30;

fn small_request(frames: usize, window: FrameWindow, seed: u64, multi_tau: MultiTauRequest) -> Request {
    let labels = labels_of(IMAGE, seed, Bins::Small);
    Request { labels, multi_tau: Some(multi_tau), two_time: None, ..request(frames, window, seed) }
}

fn correlate_events(host: &Host, data: &Data, request: &Request) -> Result<(Correlation, Partition), CudaError> {
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let source = DataEvents(data.clone());
    Ok((events::correlate(host, &source, &partition, request, &Unobserved)?, partition))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os(ADDRESS).is_some() { 2 } else { 8 }))]

    #[test]
    fn events_agree_with_the_oracle(
        frames in 150usize..700,
        window in window(),
        normalization in normalization(),
        parts in 0u32..4,
        occupancy in prop_oneof![Just(0.0005), Just(0.01), Just(0.2), Just(0.9)],
        seed in 0u64..1000,
    ) {
        let data = Data::of(IMAGE, PixelType::U16, frames, counts(seed, occupancy, 4095));
        let multi_tau = MultiTauRequest { normalization, parts, pixel_g2: PixelG2Output::Keep };
        let request = small_request(frames, window, seed, multi_tau);
        let (found, partition) = correlate_events(&Host::new(PLENTY, seed as u32), &data, &request).expect("correlates");
        check(&data, &request, Ok((found, partition, Vec::new())));
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
        let (found, partition) = correlate_events(&Host::new(PLENTY, 6), &data, &request).expect("correlates");
        check(&data, &request, Ok((found, partition, Vec::new())));
    }
}

#[test]
fn the_order_of_threads_and_the_memory_change_no_bit() {
    let data = Data::of(IMAGE, PixelType::U16, 300, counts(5, 0.1, 9));
    let multi_tau =
        MultiTauRequest { normalization: Normalization::FrameMean, parts: 2, pixel_g2: PixelG2Output::Keep };
    let request = small_request(300, FrameWindow::default(), 5, multi_tau);
    let plenty = Host::new(PLENTY, 1);
    let (wanted, _) = correlate_events(&plenty, &data, &request).expect("correlates");
    // all at once; in some passes over events that stay; over events that are read anew for each pass
    let mut launches = 0;
    for (memory, seed) in [(PLENTY, 2), (650_000, 3), (200_000, 4)] {
        let host = Host::new(memory, seed);
        let (found, _) = correlate_events(&host, &data, &request).expect("correlates");
        assert_eq!(found, wanted, "with {memory} bytes");
        assert!(host.launches() > launches, "{} kernels with {memory} bytes", host.launches());
        launches = host.launches();
    }
    let error = correlate_events(&Host::new(20_000, 5), &data, &request).expect_err("has too little");
    assert!(matches!(error, CudaError::Device(DeviceError::OutOfMemory { .. })), "{error}");
}

/// Runs the other tests of this file again, in a process whose memory the address sanitizer watches.
#[test]
fn kernels_touch_no_memory_but_their_own() {
    if std::env::var_os(ADDRESS).is_some() {
        return;
    }
    let found = Command::new("c++").arg("-print-file-name=libasan.so").output().expect("a C++ compiler");
    let library = String::from_utf8(found.stdout).expect("a path");
    let done = Command::new(std::env::current_exe().expect("this program"))
        .args(["engine::cuda::tests", "--test-threads=2"])
        .env(ADDRESS, "1")
        .env("LD_PRELOAD", library.trim())
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .expect("runs");
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}
