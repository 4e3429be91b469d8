//! A storm: processes are killed and stopped at random moments, disks fill, connections are cut, while tasks are submitted
//! and cancelled and deadlines pass. Afterwards each accepted task has ended once, results are whole and published once,
//! and nothing is left.
//!
//! `SPECKLED_STORM_BLOWS` sets the number of blows; 1000 take about an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use speckled::controller::{Receipt, Submission, SubmissionTask};
use speckled::ids::TaskId;
use speckled::rpc::client::{Client, Target};
use speckled::rpc::view::TaskView;
use speckled::runtime::tasks::spawn;
use speckled::store::{StateName, StoreEvent, TaskFilter};
use speckled::task::failure::Fault;
use speckled::task::spec::TaskSpec;

use crate::faults::{changes, published, signal};
use crate::proxy::Proxy;
use crate::unfit::namespaces;
use crate::world::{Site, done};

/// Blows where nobody says.
const BLOWS: usize = 24;

/// A lease that a process can be stopped beyond.
const LEASE_S: u32 = 3;

/// Longer than anything takes that is waited for.
const LONGEST: Duration = Duration::from_secs(600);

/// Set in the process that has mounts of its own.
const INSIDE: &str = "SPECKLED_STORM_INSIDE";

/// Whose process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Controller,
    Endpoint,
    Worker,
    Executor,
    /// A process that a command of the site has started.
    Child,
}

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill(Victim),
    /// Beyond its lease.
    Stop(Victim),
    /// No room for what the controller or the endpoint writes.
    FullDisk(Victim),
    /// Connections of the endpoint with its controller end, or fall silent.
    Cut,
    Silence,
}

/// How often each strikes among the others; a stop takes longer than a lease.
const BLOWS_BY_WEIGHT: [(u32, Blow); 12] = [
    (4, Blow::Kill(Victim::Controller)),
    (4, Blow::Kill(Victim::Endpoint)),
    (4, Blow::Kill(Victim::Worker)),
    (4, Blow::Kill(Victim::Executor)),
    (2, Blow::Kill(Victim::Child)),
    (1, Blow::Stop(Victim::Controller)),
    (1, Blow::Stop(Victim::Endpoint)),
    (1, Blow::Stop(Victim::Worker)),
    (1, Blow::FullDisk(Victim::Controller)),
    (1, Blow::FullDisk(Victim::Endpoint)),
    (2, Blow::Cut),
    (1, Blow::Silence),
];

/// What was asked for.
struct Asked {
    task: TaskId,
    name: String,
    may_be_cancelled: bool,
    may_be_late: bool,
}

/// What a daemon has.
#[derive(Debug, Clone, Copy)]
struct Usage {
    bytes: u64,
    descriptors: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_strikes_every_task_ends_once_and_nothing_is_left() {
    if std::env::var_os(INSIDE).is_none() {
        // small disks are mounted, where nobody else sees them
        let mut command = Command::new("unshare");
        command.arg(namespaces()).arg(std::env::current_exe().expect("this test")).args(["--exact", "--nocapture"]);
        command.arg("storm::whatever_strikes_every_task_ends_once_and_nothing_is_left").env(INSIDE, "1");
        let status = tokio::task::spawn_blocking(move || command.status().expect("runs")).await.expect("ends");
        assert!(status.success(), "the storm left something; see above");
        return;
    }
    let blows = std::env::var("SPECKLED_STORM_BLOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(BLOWS);
    let seed = std::env::var("SPECKLED_STORM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}, {blows} blows");
    let mut storm = Storm::new(seed, blows).await;
    let begun = Instant::now();
    let before = storm.usage();
    for number in 0..blows {
        storm.round(number).await;
    }
    let over = storm.until_over().await;
    storm.expect_ends(&over);
    storm.expect_each_ended_once().await;
    storm.expect_results(&over);
    storm.expect_nothing_left().await;
    let after = storm.settled(&before);
    println!("{} tasks in {:.0} s, blows {:?}", over.len(), begun.elapsed().as_secs_f64(), storm.struck);
    println!("{} tasks took more than one attempt", over.iter().filter(|task| task.attempt > 1).count());
    println!("before {before:?}, after {after:?}");
    for (daemon, before) in before {
        // what the allocator keeps
        assert!(after[&daemon].bytes <= before.bytes * 2 + (32 << 20), "{daemon:?}: {before:?} {after:?}");
    }
}

struct Storm {
    site: Site,
    proxy: Proxy,
    random: ChaCha8Rng,
    asked: Vec<Asked>,
    struck: BTreeMap<Blow, usize>,
}

impl Storm {
    async fn new(seed: u64, blows: usize) -> Self {
        let mut site = Site::new(LEASE_S, 2);
        let proxy = Proxy::new(&site.controller.url).await;
        site.configure(&proxy.url, 2);
        site.controller.kill();
        // logs and the store of some tasks a blow
        let room = (24 << 20) + blows * (96 << 10);
        for place in ["controller", "home/site"] {
            onto_small_disk(&site.at(place), room);
        }
        site.restart_controller();
        site.start_endpoint();
        let first = site.submit(vec![Site::step("first")]).await;
        site.until_over(&first).await;
        fs::remove_file(site.at("marks/first")).expect("it left one");
        Self { site, proxy, random: ChaCha8Rng::seed_from_u64(seed), asked: Vec::new(), struck: BTreeMap::new() }
    }

    /// Submits, and strikes at a random moment meanwhile.
    async fn round(&mut self, number: usize) {
        let names: Vec<String> = (0..5).map(|index| format!("r{number}-{index}")).collect();
        let deadline = Duration::from_millis(self.random.random_range(500..20_000));
        let tasks: Vec<SubmissionTask> =
            (0..).zip(&names).map(|(index, name)| self.task(index, name, deadline)).collect();
        let request = format!("round {number}");
        let order = Submission {
            request: Some(request.parse().expect("a request id")),
            ..Submission::new("site".into(), tasks)
        };
        let total: u32 = BLOWS_BY_WEIGHT.iter().map(|(weight, _)| weight).sum();
        let mut at = self.random.random_range(0..total);
        let blow = BLOWS_BY_WEIGHT.iter().find(|(weight, _)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let blow = blow.expect("one of them").1;
        *self.struck.entry(blow).or_default() += 1;
        let (url, token) = (self.site.controller.url.clone(), self.site.token.clone());
        let submitting = spawn("submission", submit(url.clone(), token.clone(), order));
        if self.random.random_bool(0.5)
            && let Ok(mut client) = connect(&url, &token).await
        {
            changes(&mut client, self.random.random_range(0..10)).await;
        }
        self.strike(blow).await;
        let receipt = submitting.await.expect("ends");
        let cancelled = self.random.random_bool(0.3).then(|| self.random.random_range(0..names.len()));
        if let Some(index) = cancelled {
            cancel(&url, &token, receipt.tasks[index].0).await;
        }
        let tasks = receipt.tasks.into_iter().zip(names).zip(0..);
        self.asked.extend(tasks.map(|(((task, _), name), index)| Asked {
            task,
            name,
            may_be_cancelled: cancelled == Some(index),
            may_be_late: index == 4,
        }));
    }

    /// Two commands, one of which leaves its session, two correlations and a command that has little time.
    fn task(&self, index: usize, name: &str, deadline: Duration) -> SubmissionTask {
        let spec = match index {
            0 | 4 => Site::step(name),
            1 => Site::stray(name),
            _ => TaskSpec::Correlate(Box::new(self.site.correlation(name))),
        };
        // a command that is killed has failed: it is tried again as often as it takes
        SubmissionTask { retries: Some(100), deadline: (index == 4).then_some(deadline), ..SubmissionTask::new(spec) }
    }

    async fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Kill(victim) => self.kill(victim),
            Blow::Stop(victim) => {
                let stopped = self.processes(victim);
                stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
                // what a lease is to a process that does not run
                tokio::task::block_in_place(|| wait(Duration::from_secs(u64::from(LEASE_S) + 1)));
                stopped.iter().for_each(|pid| signal(*pid, Signal::CONT));
            }
            Blow::FullDisk(victim) => {
                let directory = if victim == Victim::Controller { "controller" } else { "home/site" };
                let ballast = self.site.at(directory).join("ballast");
                fill(&ballast);
                tokio::task::block_in_place(|| wait(Duration::from_millis(self.random.random_range(0..500))));
                fs::remove_file(&ballast).expect("ours");
            }
            Blow::Cut => self.proxy.cut(),
            Blow::Silence => self.proxy.silence(),
        }
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Controller => {
                self.site.controller.kill();
                self.site.restart_controller();
            }
            Victim::Endpoint => {
                self.site.endpoint.as_mut().expect("runs").kill();
                self.site.start_endpoint();
            }
            Victim::Worker | Victim::Executor | Victim::Child => {
                let one = self.processes(victim).into_iter().choose(&mut self.random);
                one.into_iter().for_each(|pid| signal(pid, Signal::KILL));
            }
        }
    }

    fn processes(&self, victim: Victim) -> BTreeSet<i32> {
        match victim {
            Victim::Controller => [self.site.controller.daemon.pid().cast_signed()].into(),
            Victim::Endpoint => [self.site.endpoint.as_ref().expect("runs").pid().cast_signed()].into(),
            Victim::Worker => self.site.processes("worker"),
            Victim::Executor => self.site.processes("executor"),
            Victim::Child => self.site.processes(&self.site.text("marks")),
        }
    }

    async fn until_over(&self) -> Vec<TaskView> {
        let tasks: Vec<TaskId> = self.asked.iter().map(|asked| asked.task).collect();
        tokio::time::timeout(LONGEST, self.site.until_over(&tasks)).await.expect("all end")
    }

    fn expect_ends(&self, over: &[TaskView]) {
        for (task, asked) in over.iter().zip(&self.asked) {
            let is_well = match task.state {
                StateName::Succeeded => true,
                StateName::Cancelled => asked.may_be_cancelled,
                StateName::Failed => {
                    asked.may_be_late && task.failure.as_ref().is_some_and(|failure| failure.fault == Fault::Deadline)
                }
                StateName::Queued | StateName::Leased | StateName::Running => false,
            };
            assert!(is_well, "{}: {task:?}", asked.name);
            if task.state == StateName::Succeeded && matches!(task.spec, TaskSpec::Command(_)) {
                self.site.expect_one_after_the_other(&asked.name);
            }
        }
    }

    async fn expect_each_ended_once(&self) {
        let mut client = self.site.client().await;
        for asked in &self.asked {
            let events = client.timeline(asked.task).await.expect("may");
            let ends = events.iter().filter(|event| matches!(event.event, StoreEvent::Ended { .. })).count();
            assert_eq!(ends, 1, "{}: {events:?}", asked.name);
        }
        let counts = client.count(&TaskFilter::default()).await.expect("may");
        let all: u64 = counts.iter().map(|(_, tasks)| tasks).sum();
        assert_eq!(all, self.asked.len() as u64 + 1, "no task came from nowhere: {counts:?}");
    }

    /// Each is whole, and published once; nothing else is.
    fn expect_results(&self, over: &[TaskView]) {
        let mut results = BTreeSet::new();
        for task in over.iter().filter(|task| task.state == StateName::Succeeded) {
            if let TaskSpec::Correlate(spec) = &task.spec {
                let file = &task.result.as_ref().expect("a result").files[0];
                speckled::dataset::result::verify(file, spec.analyses).expect("whole");
                assert!(results.insert(file.clone()), "two tasks have {}", file.display());
            }
        }
        let of_cancelled = |path: &PathBuf| {
            let name = path.to_string_lossy().into_owned();
            let ended = over.iter().zip(&self.asked).filter(|(task, _)| task.state == StateName::Cancelled);
            ended.map(|(_, asked)| asked).any(|asked| name.contains(&asked.name))
        };
        let foreign: Vec<PathBuf> =
            published(&self.site).difference(&results).filter(|path| !of_cancelled(path)).cloned().collect();
        assert_eq!(foreign, Vec::<PathBuf>::new(), "nobody's results");
        assert!(results.is_subset(&published(&self.site)));
    }

    /// No process of an attempt, no unfinished result, no directory of an attempt.
    async fn expect_nothing_left(&self) {
        let limit = Instant::now() + LONGEST;
        let left = || {
            let partial = entries(&self.site.at("out")).into_iter().filter(|path| is_hidden(path));
            // its lock and the directories of attempts; workers that have gone are swept by those that come
            let scratch = entries(&self.site.at("home/site/scratch")).into_iter();
            let alive = self.site.processes("worker").len();
            let attempts = scratch.clone().flat_map(|worker| entries(&worker)).filter(|path| path.is_dir());
            let surplus = scratch.skip(alive);
            let mut left: Vec<PathBuf> = partial.chain(attempts).chain(surplus).collect();
            for process in ["executor", "sleep", &self.site.text("marks")] {
                left.extend(self.site.processes(process).iter().map(|pid| format!("{process} {pid}").into()));
            }
            left
        };
        // an attempt's directory goes a moment after its end, a dead worker's when the next one starts
        while !left().is_empty() {
            assert!(Instant::now() < limit, "{:?}", left());
            tokio::task::yield_now().await;
        }
    }

    /// What daemons have once connections that fell silent have been given up.
    fn settled(&self, before: &BTreeMap<Victim, Usage>) -> BTreeMap<Victim, Usage> {
        let limit = Instant::now() + LONGEST;
        loop {
            let now = self.usage();
            // the store opens its connections, of two files each, as they are needed
            if before.iter().all(|(daemon, before)| now[daemon].descriptors <= before.descriptors + 8) {
                return now;
            }
            assert!(Instant::now() < limit, "before {before:?}, now {now:?}");
            std::thread::yield_now();
        }
    }

    fn usage(&self) -> BTreeMap<Victim, Usage> {
        let all = [Victim::Controller, Victim::Endpoint, Victim::Worker].into_iter();
        all.filter_map(|daemon| Some((daemon, usage(*self.processes(daemon).first()?)))).collect()
    }
}

fn usage(pid: i32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("is told");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    Usage { bytes: kib << 10, descriptors: entries(Path::new(&format!("/proc/{pid}/fd"))).len() }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Moves a directory to a file system of its own, of so many bytes.
fn onto_small_disk(directory: &Path, bytes: usize) {
    let script = r#"cp -a "$1" "$1.copy" && mount -t tmpfs -o size=$2,mode=700 none "$1" && cp -a "$1.copy/." "$1" && rm -r "$1.copy""#;
    let mut command = Command::new("sh");
    done(command.args(["-ec", script, "sh"]).arg(directory).arg(bytes.to_string()).output().expect("runs"));
}

/// Writes until there is no room.
fn fill(ballast: &Path) {
    let mut file = fs::File::create(ballast).expect("made");
    for piece in [1 << 20, 4096] {
        while std::io::Write::write_all(&mut file, &vec![0; piece]).is_ok() {}
    }
}

/// Lets real time pass: what is tested is what happens to a process that does not run meanwhile.
fn wait(time: Duration) {
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _late = nothing.recv_timeout(time);
}

async fn connect(url: &str, token: &str) -> Result<Client, speckled::rpc::client::ClientError> {
    Client::connect(&Target { url: url.into(), ca: None, token: token.into(), identity: None }).await
}

/// Submits by its request id until it is accepted.
async fn submit(url: String, token: String, order: Submission) -> Receipt {
    let again = async {
        loop {
            if let Ok(mut client) = connect(&url, &token).await
                && let Ok(receipt) = client.submit(order.clone()).await
            {
                return receipt;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONGEST, again).await.expect("it is accepted")
}

async fn cancel(url: &str, token: &str, task: TaskId) {
    let again = async {
        loop {
            if let Ok(mut client) = connect(url, token).await
                && client.cancel(&[task]).await.is_ok()
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONGEST, again).await.expect("it is heard");
}
