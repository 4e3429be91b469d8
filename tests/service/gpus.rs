//! Slots of GPUs: tasks are pinned, a GPU that turns bad gives its task back and comes back after a self-test. The GPUs
//! are played by libraries in place of NVIDIA's.

use std::fs;

use serde_json::Value;
use speckled::store::StateName;
use speckled::task::spec::TaskSpec;

use crate::fakes::Gpus;
use crate::world::{Site, done};

/// A site whose worker has these GPUs, and trusts a bad one again after a second.
fn site(gpus: &Gpus) -> Site {
    let mut site = Site::new(60, 1);
    let path = site.at("home/site/config.yaml");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON");
    config["workers"]["gpu_quiet_s"] = 1.into();
    fs::write(path, config.to_string()).expect("written");
    site.start_endpoint_in(&gpus.variables());
    site
}

/// Asks for the worker's status until it is as wanted.
fn until(site: &Site, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let output = site.on_endpoint(&["status", "site", "--patience", "10000", "--output", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let worker = &status["process"]["workers"][0];
        if wanted(worker) {
            return worker.clone();
        }
    }
}

fn slots(worker: &Value) -> Option<u64> {
    worker["slots"][0].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_given_back_by_a_gpu_that_turns_bad_and_the_gpu_returns_when_it_is_well() {
    let mut gpus = Gpus::new(2);
    let site = site(&gpus);
    // both have passed their self-tests
    until(&site, |worker| slots(worker) == Some(2));
    let mut correlation = site.correlation("gpu");
    correlation.recorded.gpu_id = 0;
    let correlated = site.submit(vec![TaskSpec::Correlate(Box::new(correlation))]).await;
    let over = site.until_over(&correlated).await;
    assert!(over[0].state == StateName::Succeeded, "{over:?}");
    let result = &over[0].result.as_ref().expect("a result").files[0];
    let file = hdf5::File::open(result).expect("opens");
    let device = file.dataset("/xpcs/provenance/device").expect("is there");
    let device: hdf5::types::VarLenUnicode = device.read_scalar().expect("text");
    assert!(device.contains("Imaginary GPU"), "{device}");

    let tasks = site.submit(vec![site.seated("a"), site.seated("b")]).await;
    let (first, second) = (site.let_go("a"), site.let_go("b"));
    let gpu = |mark: &str| {
        let marks = site.marks(mark);
        let (told, visible) = marks.lines().last().expect("a mark").split_once(' ').expect("two words");
        assert_eq!(told, visible, "the process sees the GPU of its slot");
        told.to_owned()
    };
    let (bad, good) = (gpu("a"), gpu("b"));
    assert_ne!(bad, good, "two tasks do not share a GPU");
    site.until(tasks[0], |task| task.state == StateName::Running).await;

    gpus.set(gpus.of(&bad), "remapped", "0 1 0 1");
    // it is given out again at once: that it was queued may not be seen
    site.until(tasks[0], |task| task.state == StateName::Queued || task.attempt == 2).await;
    let worker = until(&site, |worker| slots(worker) == Some(1));
    let found = worker["gpus"].as_array().expect("a list").iter().find(|gpu| gpu["uuid"] == bad.as_str());
    let found = found.expect("is there");
    assert!(found["state"] == "quarantined" && found["reasons"].to_string().contains("row"), "{found}");
    let shown = done(site.on_endpoint(&["status", "site", "--patience", "10000"]));
    assert!(shown.contains(&format!("Imaginary GPU {bad}")) && shown.contains("quarantined ("), "{shown}");
    drop((first, second));
    let again = tokio::task::block_in_place(|| site.let_go("a"));
    assert_eq!(gpu("a"), good, "it runs on the GPU that is well");
    drop(again);
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded), "{over:?}");
    assert_eq!((over[0].attempt, over[1].attempt), (2, 1));

    gpus.set(gpus.of(&bad), "remapped", "0 1 0 0");
    let worker = until(&site, |worker| slots(worker) == Some(2));
    assert!(worker["gpus"].as_array().expect("a list").iter().all(|gpu| gpu["state"] == "healthy"), "{worker}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_gpu_that_can_be_used_says_so_and_fails_no_task() {
    let mut gpus = Gpus::new(1);
    gpus.set(0, "remapped", "0 1 0 1");
    let site = site(&gpus);
    let worker = until(&site, |worker| worker["gpus"][0]["state"] == "quarantined");
    assert_eq!(slots(&worker), Some(0));
    let task = site.submit(vec![site.seated("a")]).await[0];
    gpus.set(0, "remapped", "0 1 0 0");
    drop(tokio::task::block_in_place(|| site.let_go("a")));
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "{over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_cannot_be_read_when_its_worker_starts_is_used_once_it_can_be() {
    let mut gpus = Gpus::new(2);
    gpus.set(1, "error", "999");
    let site = site(&gpus);
    let worker = until(&site, |worker| slots(worker) == Some(1));
    assert!(worker["trouble"].as_str().is_some_and(|words| words.contains("GPU 1")), "{worker}");
    let task = site.submit(vec![site.seated("a")]).await[0];
    let held = tokio::task::block_in_place(|| site.let_go("a"));
    gpus.set(1, "error", "0");
    let worker = until(&site, |worker| slots(worker) == Some(2));
    assert!(worker["trouble"].is_null(), "{worker}");
    drop(held);
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "what ran went on: {over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_is_loaded_after_its_worker_started_is_used_without_a_restart() {
    const NOT_LOADED: u32 = 9;
    let mut gpus = Gpus::new(1);
    gpus.driver(NOT_LOADED);
    let site = site(&gpus);
    let worker = until(&site, |worker| slots(worker) == Some(1));
    assert!(worker["gpus"] == serde_json::json!([]) && worker["trouble"].is_null(), "it computes on the CPU: {worker}");
    let on_cpu = site.submit(vec![site.seated("a")]).await[0];
    let held = tokio::task::block_in_place(|| site.let_go("a"));

    gpus.driver(0);
    let worker = until(&site, |worker| worker["gpus"][0]["state"] == "healthy" && slots(worker) == Some(2));
    assert!(worker["trouble"].is_null(), "{worker}");
    let on_gpu = site.submit(vec![site.seated("b")]).await[0];
    drop(tokio::task::block_in_place(|| site.let_go("b")));
    site.until_over(&[on_gpu]).await;
    assert!(site.marks("b").contains("GPU-"), "{}", site.marks("b"));
    drop(held);
    let over = site.until_over(&[on_cpu, on_gpu]).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "{over:?}");
    assert!(!site.marks("a").contains("GPU-"), "what ran went on where it was: {}", site.marks("a"));
    until(&site, |worker| slots(worker) == Some(1));
}
