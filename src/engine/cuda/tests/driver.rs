//! The driver's own promises, where there is a GPU or a stand-in for one. On the host's build there is no driver.

use std::num::NonZeroU32;

use super::super::CudaEngine;
use super::super::device::Device as _;
use super::super::driver::Driver;
use super::super::test_device::GPU;
use super::*;

/// The number of the GPU that is tested.
fn gpu() -> Option<u64> {
    std::env::var(GPU).ok().map(|number| number.parse().expect("a number"))
}

fn driver() -> Option<Driver> {
    let driver = Driver::new(gpu()?).expect("a GPU");
    driver.enter().expect("its context");
    Some(driver)
}

/// Programs that share a GPU plan with a part of its memory each, less what they use already.
#[test]
fn a_shared_gpu_has_memory_for_each() {
    let Some(mut one) = driver() else { return };
    let all = one.free_bytes().expect("answers");
    one.share_with(NonZeroU32::new(4).expect("not zero"));
    let own = one.free_bytes().expect("answers");
    // a GPU keeps some for itself
    assert!(own >= all / 4 && own < all / 3, "{own} of {all}");
    let held = one.allocate(1 << 20).expect("memory");
    assert_eq!(one.free_bytes().expect("answers"), own - (1 << 20));
    drop(held);
    assert_eq!(one.free_bytes().expect("answers"), own);
}

/// What a worker does before it trusts a GPU.
#[test]
fn the_gpu_passes_its_self_test() {
    let Some(gpu) = gpu() else { return };
    CudaEngine::new(gpu, NonZeroUsize::new(1)).expect("a GPU").self_test().expect("passes");
}

/// Bytes come back as they were sent: by each way, from odd places on, over each other.
#[test]
fn bytes_come_back_as_they_were_sent() {
    let Some(driver) = driver() else { return };
    let bytes: Vec<u8> = (0..100_003_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut memory = driver.allocate(bytes.len() + 7).expect("memory");
    driver.clear(&mut memory).expect("clears");
    let mut pinned = driver.staging(bytes.len()).expect("memory");
    assert!(pinned.iter().all(|byte| *byte == 0), "memory that was another's");
    pinned.copy_from_slice(&bytes);
    driver.send(&mut memory, 3, &mut pinned, bytes.len()).expect("sends");
    driver.upload(&mut memory, 5, &bytes[..10]).expect("uploads");
    driver.reclaim(&mut pinned).expect("has left");
    let mut copy = driver.allocate(bytes.len() + 7).expect("memory");
    driver.copy(&mut copy, &memory, bytes.len() + 7).expect("copies");
    let mut found = vec![1; bytes.len() + 7];
    driver.download(&copy, 0, &mut found).expect("downloads");
    let wanted = [&[0; 3], &bytes[..2], &bytes[..10], &bytes[12..], &[0; 4]].concat();
    assert!(found == wanted, "{} bytes differ", std::iter::zip(&found, &wanted).filter(|(a, b)| a != b).count());
}

#[test]
fn times_are_noted_where_they_are_wanted() {
    let Some(gpu) = gpu() else { return };
    let engine = CudaEngine::new(gpu, NonZeroUsize::new(1)).expect("a GPU");
    engine.self_test().expect("passes");
    assert_eq!(engine.times().expect("answers"), Default::default(), "nobody has asked for it");
    engine.take_times().expect("answers");
    engine.self_test().expect("passes");
    let times = engine.times().expect("answers");
    let of_events = ["events_count", "events_file", "events_sort", "events_multitau"];
    for kernel in ["self_test_write", "gram_digits", "reduce_pieces"].into_iter().chain(of_events) {
        let (starts, seconds) = times.kernels[kernel];
        assert!(starts > 0 && seconds > 0.0, "{kernel}: {starts} x {seconds} s");
    }
    let phases: Vec<&str> = times.phases.keys().map(|phase| phase.name()).collect();
    assert!(["allocate", "pin", "upload", "download"].iter().all(|name| phases.contains(name)), "{phases:?}");
    assert!(!phases.contains(&"load kernels"), "they were loaded before");
    assert!(!engine.forms().expect("answers").is_empty());
}
