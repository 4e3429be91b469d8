//! An endpoint whose worker is there when work waits, and only then.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use speckled::endpoint::status::EndpointStatus;
use speckled::rpc::endpoint_link::EndpointControl;
use speckled::store::StateName;
use speckled::task::spec::{BatchSetupSpec, TaskSpec};

use crate::world::Site;

/// Longer than a worker takes to start, compute and end.
const LONG: Duration = Duration::from_secs(60);

/// A site whose worker ends when it had nothing to do for a second.
fn from_zero() -> Site {
    let site = Site::new(60, 1);
    let path = site.at("home/site/config.yaml");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON is YAML");
    config["blocks"] = serde_json::json!({ "min_blocks": 0, "idle_s": 1 });
    fs::write(path, config.to_string()).expect("written");
    site
}

/// Blocks whose worker is there; a process that a worker is just starting looks like it for a moment.
fn blocks(site: &Site) -> BTreeSet<String> {
    let block = |pid: i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split('\0').skip_while(|word| *word != "--block");
        words.nth(1).map(str::to_owned)
    };
    site.processes("worker").into_iter().filter_map(block).collect()
}

async fn status(site: &Site) -> EndpointStatus {
    let mut control = EndpointControl::connect(&site.at("home/site/socket")).await.expect("runs");
    control.status().await.expect("answers")
}

async fn until_workers(site: &Site, wanted: usize) {
    let look = async {
        while blocks(site).len() != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, look).await.expect("so many in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_started_for_waiting_tasks_and_ends_when_idle() {
    let mut site = from_zero();
    site.start_endpoint();
    assert!(blocks(&site).is_empty(), "nothing waits");
    let shown = status(&site).await;
    assert_eq!((shown.blocks, shown.trouble), (Vec::new(), None));
    let setup = BatchSetupSpec { directories: vec![site.at("out/a")] };
    for spec in [Site::step("mark"), TaskSpec::BatchSetup(setup)] {
        let task = site.submit(vec![spec]).await;
        let over = site.until_over(&task).await;
        assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
        until_workers(&site, 0).await;
    }
    assert!(site.at("out/a").is_dir());
    let shown = status(&site).await;
    assert_eq!(shown.trouble, None, "they ended as they were asked to");
    assert!(!shown.ended_blocks.is_empty() && shown.ended_blocks.len() <= 2, "{:?}", shown.ended_blocks);
}

/// The endpoint is killed again and again while blocks come and go: none is lost, none runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_survive_the_kills_of_their_endpoint() {
    let mut site = from_zero();
    site.start_endpoint();
    for round in 0..6 {
        let task = site.submit(vec![Site::step(&format!("mark{round}"))]).await;
        // at different places of the way: as it is wanted, started, named, and while it computes
        let until = std::time::Instant::now() + Duration::from_millis(30 * round);
        while std::time::Instant::now() < until {
            tokio::task::yield_now().await;
        }
        site.endpoint.take().expect("runs").kill();
        assert!(blocks(&site).len() <= 1, "max_blocks is one");
        site.start_endpoint();
        let over = site.until_over(&task).await;
        assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
        assert!(blocks(&site).len() <= 1, "max_blocks is one");
    }
    until_workers(&site, 0).await;
}
