//! Processes are killed and stopped, connections cut: every accepted task ends exactly once, no result is partial, no
//! attempt runs on beside a later one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use speckled::rpc::client::Client;
use speckled::store::{StateName, TaskFilter};
use speckled::task::spec::TaskSpec;

use crate::proxy::Proxy;
use crate::unfit::namespaces;
use crate::world::{Controller, Daemon, Site, done, order};

/// A lease that tests can wait for the end of.
const SHORT_S: u32 = 3;

pub(crate) fn signal(pid: i32, signal: Signal) {
    let _gone = kill_process(Pid::from_raw(pid).expect("a process"), signal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_result_of_an_attempt_arrives_after_its_endpoint_was_started_anew() {
    let mut site = Site::running(60, 1);
    let task = site.submit(vec![site.held("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    let workers = site.processes("worker");
    site.endpoint.as_mut().expect("runs").kill();
    site.start_endpoint();
    drop(go);
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "{over:?}");
    assert_eq!(site.processes("worker"), workers, "the same worker");
    // and once more, by the command for it
    let task = site.submit(vec![site.held("again")]).await[0];
    let go = site.let_go("again");
    site.endpoint.take().expect("runs").kill();
    done(site.on_endpoint(&["start", "site", "--detach"]));
    done(site.on_endpoint(&["restart", "site"]));
    drop(go);
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "{over:?}");
    done(site.on_endpoint(&["stop", "site"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_was_stopped_beyond_its_lease_publishes_nothing_twice() {
    let site = Site::running(SHORT_S, 1);
    let task = site.submit(vec![site.held("mark")]).await[0];
    let first = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    let endpoint = site.endpoint.as_ref().expect("runs").pid() as i32;
    signal(endpoint, Signal::STOP);
    let queued = site.until(task, |task| task.state == StateName::Queued).await;
    assert_eq!(queued.attempt, 1, "its lease has run out");
    // the worker has stopped the attempt by itself: nobody reads the pipe any more
    while !site.processes(&site.text("marks")).is_empty() {
        tokio::task::yield_now().await;
    }
    signal(endpoint, Signal::CONT);
    drop(first);
    let second = tokio::task::block_in_place(|| site.let_go("mark"));
    let running = site.until(task, |task| task.state == StateName::Running).await;
    assert_eq!(running.attempt, 2);
    drop(second);
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 2, "{over:?}");
    site.expect_one_after_the_other("mark");
    assert_eq!(site.marks("mark").lines().count(), 3, "the first never came to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_an_attempt_started_outlives_its_worker() {
    let site = Site::running(60, 1);
    let task = site.submit(vec![site.leaving("mark")]).await[0];
    let first = site.let_go("mark");
    let sleepers = loop {
        let sleepers = site.processes("sleep");
        if sleepers.len() == 3 {
            break sleepers;
        }
        tokio::task::yield_now().await;
    };
    let workers = site.processes("worker");
    assert_eq!(workers.len(), 1);
    workers.into_iter().for_each(|worker| signal(worker, Signal::KILL));
    drop(first);
    // the next attempt begins when nothing is left of this one
    site.until(task, |task| task.state == StateName::Running && task.attempt == 2).await;
    let second = site.let_go("mark");
    assert!(site.processes("sleep").is_disjoint(&sleepers));
    drop(second);
    let over = site.until_over(&[task]).await;
    assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
    assert_eq!(site.processes("sleep"), BTreeSet::new(), "what the second left went with it");
}

/// With control groups where the tester may make them, and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cancelled_command_started_is_gone_when_it_is_over() {
    for script in [r#"exec "$@""#, r#"mount -t tmpfs tmpfs /sys/fs/cgroup; exec "$@""#] {
        let mut site = Site::new(60, 1);
        site.start_endpoint_within(&[namespaces()], script);
        let task = site.submit(vec![site.leaving("mark")]).await[0];
        let _held = site.let_go("mark");
        while site.processes("sleep").len() < 3 {
            tokio::task::yield_now().await;
        }
        site.client().await.cancel(&[task]).await.expect("may");
        let over = site.until_over(&[task]).await;
        assert_eq!(over[0].state, StateName::Cancelled, "{over:?}");
        assert_eq!(site.processes("sleep"), BTreeSet::new(), "{script}");
    }
}

/// Neither daemons nor tasks hold what their starter had open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_starter_had_open_is_closed() {
    let mut site = Site::new(60, 1);
    let kept = site.text("data/kept");
    fs::write(&kept, "").expect("written");
    site.controller.kill();
    let open = format!(r#"exec 7<{kept}; exec "$@""#);
    site.restart_controller_within(&open);
    site.start_endpoint_within(&[], &open);
    let task = site.submit(vec![Site::open("mark")]).await[0];
    site.until_over(&[task]).await;
    let of_task = site.marks("mark");
    assert!(of_task.contains("pipe:") && !of_task.contains(&kept), "{of_task}");
    let [controller, endpoint] = [site.controller.daemon.pid(), site.endpoint.as_ref().expect("runs").pid()];
    let worker = *site.processes("worker").first().expect("runs");
    for process in [controller, endpoint, worker.cast_unsigned()] {
        let all = fs::read_dir(format!("/proc/{process}/fd")).expect("runs").flatten();
        let open: Vec<_> = all.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
        assert!(open.len() > 3 && !open.contains(&PathBuf::from(&kept)), "{open:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_have_nothing_run_twice() {
    let mut site = Site::new(60, 2);
    let proxy = Proxy::new(&site.controller.url).await;
    site.configure(&proxy.url, 2);
    site.start_endpoint();
    let (mut tasks, mut marks) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let names: Vec<String> = (0..4).map(|index| format!("r{round}-{index}")).collect();
        tasks.extend(site.submit(names.iter().map(|name| Site::step(name)).collect()).await);
        site.until(tasks[tasks.len() - 3], |task| task.state.is_over()).await;
        proxy.cut();
        marks.extend(names);
    }
    for (task, mark) in std::iter::zip(site.until_over(&tasks).await, marks) {
        // a lease that was on its way is given out anew, under the number of a next attempt
        assert_eq!(task.state, StateName::Succeeded, "{task:?}");
        assert_eq!(site.marks(&mark).lines().count(), 2, "it began and ended once: {task:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_before_leases_run_out() {
    let mut site = Site::new(8, 1);
    let proxy = Proxy::new(&site.controller.url).await;
    site.configure(&proxy.url, 1);
    site.start_endpoint();
    let task = site.submit(vec![site.held("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    proxy.silence();
    drop(go);
    // its report went nowhere; the next session says it again
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "{over:?}");
    // the dead connection gets no tasks
    let more = site.submit((0..4).map(|index| Site::step(&format!("more{index}"))).collect()).await;
    for task in site.until_over(&more).await {
        assert!(task.state == StateName::Succeeded && task.attempt == 1, "{task:?}");
    }
}

/// Variables by which a process takes its time from a file, but for the clock that never jumps.
fn false_clock(file: &Path) -> [(&'static str, String); 4] {
    let libraries = fs::read_dir("/usr/lib").expect("a system").filter_map(|entry| Some(entry.ok()?.path()));
    let library = libraries.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.exists());
    let library = library.expect("libfaketime, which scripts/check installs");
    [
        ("LD_PRELOAD", library.to_str().expect("text").to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("text").to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// The system's time as a process with these variables sees it, in seconds.
fn seen_time(variables: &[(&str, String)]) -> i64 {
    let date = std::process::Command::new("date").arg("+%s").envs(variables.iter().cloned()).output();
    String::from_utf8(date.expect("runs").stdout).expect("text").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_neither_ends_a_lease_nor_makes_it_last() {
    let mut site = Site::new(SHORT_S, 1);
    let file = site.at("clock");
    let clock = false_clock(&file);
    let jump = |offset: &str| {
        let before = seen_time(&[]);
        fs::write(&file, offset).expect("set");
        let wanted: i64 = offset.trim_start_matches('+').parse().expect("seconds");
        let seen = seen_time(&clock) - before;
        assert!((seen - wanted).abs() < 60, "the clock shows {seen} s more, not {wanted}");
    };
    jump("+0");
    site.controller.kill();
    site.restart_controller_in(&clock);
    site.start_endpoint_in(&clock);
    let task = site.submit(vec![site.held("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    // leases and names are looked after many times before the second heartbeat from now
    let mut client = site.client().await;
    for offset in ["+7200", "-86400"] {
        jump(offset);
        for _ in 0..2 {
            let seen = client.list_endpoints().await.expect("may")[0].seen;
            while client.list_endpoints().await.expect("may")[0].seen == seen {
                tokio::task::yield_now().await;
            }
        }
    }
    drop(go);
    let over = site.until_over(&[task]).await;
    assert!(over[0].state == StateName::Succeeded && over[0].attempt == 1, "{over:?}");

    // a lease of a dead endpoint ends in its time, though the clock is set back by an hour while no controller runs
    jump("+0");
    site.controller.kill();
    site.restart_controller_in(&clock);
    let task = site.submit(vec![site.held("again")]).await[0];
    let go = site.let_go("again");
    site.until(task, |task| task.state == StateName::Running).await;
    site.controller.kill();
    let workers = site.processes("worker");
    site.endpoint.take().expect("runs").kill();
    workers.into_iter().for_each(|worker| signal(worker, Signal::KILL));
    drop(go);
    jump("-3600");
    site.restart_controller_in(&clock);
    let queued = site.until(task, |task| task.state == StateName::Queued).await;
    assert_eq!(queued.attempt, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_whose_disk_is_full_refuses_and_goes_on_when_there_is_room() {
    let mut site = Site::new(60, 1);
    site.controller.kill();
    // a file system of its own, seen by this controller alone. SQLite copies its log into the database when it has 4 MB:
    // on a smaller file system the log alone would fill it, whatever room is made
    let (state, small) = (site.text("controller"), site.text("small"));
    fs::create_dir(&small).expect("made");
    let program = env!("CARGO_BIN_EXE_speckled");
    let script = r#"mount -t tmpfs -o size=8m none "$2" && cp -a "$1"/. "$2" && exec "$3" controller serve "$2" --plain --listen 127.0.0.1:0"#;
    let mut command = std::process::Command::new("unshare");
    command.args([namespaces(), "sh", "-c", script, "sh", &state, &small, program]);
    let controller = Daemon::start(&mut command);
    site.controller = Controller { url: controller.said.clone(), daemon: controller };
    site.configure(&site.controller.url, 1);
    site.start_endpoint();
    let before = site.submit(vec![Site::step("before")]).await;
    // as it sees its own file system
    let ballast = format!("/proc/{}/root{small}/ballast", site.controller.daemon.pid());
    let mut file = fs::File::create(&ballast).expect("made");
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let mut client = site.client().await;
    let mut accepted = Vec::new();
    let refusal = loop {
        match client.submit(order(vec![TaskSpec::Nothing; 50])).await {
            Ok(receipt) => accepted.extend(receipt.tasks.into_iter().map(|(id, _)| id)),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refusal.contains("no space is left for") && refusal.contains("make room"), "{refusal}");
    drop(file);
    fs::remove_file(&ballast).expect("ours");
    accepted.extend(site.submit(vec![Site::step("after")]).await);
    for task in site.until_over(&[before, accepted].concat()).await {
        assert_eq!(task.state, StateName::Succeeded, "{task:?}");
    }
}

/// Result files in the directory of results.
pub(crate) fn published(site: &Site) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(site.at("out")).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| !path.file_name().expect("a name").to_string_lossy().starts_with('.')).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_whose_report_was_lost_is_replaced_not_joined() {
    let site = Site::running(SHORT_S, 1);
    let mut repeated = 0;
    for round in 0..20 {
        let name = format!("n{round}");
        let task = site.submit(vec![TaskSpec::Correlate(Box::new(site.correlation(&name)))]).await[0];
        let has_result = || published(&site).iter().any(|path| path.to_string_lossy().contains(&name));
        while !has_result() {
            std::hint::spin_loop();
        }
        // the executor, which reports to the worker, ends with it
        site.processes("worker").into_iter().for_each(|worker| signal(worker, Signal::KILL));
        let over = site.until_over(&[task]).await;
        assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
        let file = &over[0].result.as_ref().expect("a result").files[0];
        let of_task: Vec<PathBuf> =
            published(&site).into_iter().filter(|path| path.to_string_lossy().contains(&name)).collect();
        assert_eq!(of_task, std::slice::from_ref(file), "after attempt {}", over[0].attempt);
        repeated += u32::from(over[0].attempt > 1);
        if repeated == 3 {
            break;
        }
    }
    assert!(repeated > 0, "no report was ever lost");
}

/// Waits for so many changes of tasks, or for their end.
pub(crate) async fn changes(client: &mut Client, number: usize) {
    let mut changes = client.watch(&TaskFilter::default()).await.expect("may");
    for _ in 0..number {
        let counts = client.count(&TaskFilter::default()).await.expect("may");
        let open = counts.iter().any(|(state, tasks)| !state.is_over() && *tasks > 0);
        if !open || changes.next().await.is_err() {
            return;
        }
    }
}
