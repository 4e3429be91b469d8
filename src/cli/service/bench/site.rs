//! A controller and an endpoint with a worker, as processes on this computer, and tasks that go through them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::cli::service::{ServiceError, file, text};
use crate::controller::{Submission, SubmissionTask};
use crate::rpc::client::{Client, Target};
use crate::store::{StateName, TaskFilter};
use crate::task::spec::TaskSpec;

/// Tasks of one submission.
const TOGETHER: usize = 2000;

/// How often it is asked whether all tasks are over.
const LOOK: Duration = Duration::from_millis(20);

/// A process of this program that has said that it is ready; killed when dropped.
pub(super) struct Daemon {
    process: Child,
    said: String,
}

impl Daemon {
    fn start(arguments: &[&str], log: &Path) -> Result<Self, ServiceError> {
        let program = std::env::current_exe().map_err(ServiceError::Runtime)?;
        let log = File::create(log).map_err(|error| file("create", log, error))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().map_err(ServiceError::Runtime)?;
        let mut said = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut said).map_err(ServiceError::Runtime)?;
        }
        Ok(Self { process, said: said.trim().to_owned() })
    }

    /// Megabytes of memory that it has.
    pub(super) fn resident(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
    }

    /// How long processors have worked for it (proc(5), /proc/pid/stat, fields 14 and 15).
    pub(super) fn worked(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let ticks = ticks(11)? + ticks(12)?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A controller and an endpoint with a worker.
pub(super) struct Site {
    home: String,
    pub(super) endpoint: Daemon,
    pub(super) controller: Daemon,
    pub(super) target: Target,
    client: Client,
    /// From the endpoint's start until it said that it is ready.
    pub(super) ready: Duration,
    begun: Instant,
}

impl Site {
    pub(super) async fn start(directory: PathBuf, slots: u32) -> Result<Self, ServiceError> {
        fs::create_dir_all(&directory).map_err(|error| file("create", &directory, error))?;
        let at = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let (state, home) = (at("controller"), at("home"));
        // it ends by itself, soon after it has said where it made it
        let mut init = Daemon::start(&["controller", "init", &state], &directory.join("init.log"))?;
        init.process.wait().map_err(ServiceError::Runtime)?;
        let serve = ["controller", "serve", &state, "--listen", "127.0.0.1:0", "--plain"];
        let controller = Daemon::start(&serve, &directory.join("controller.log"))?;
        let token = format!("{state}/admin.token");
        configure(Path::new(&home), &controller.said, &token, slots)?;
        let begun = Instant::now();
        let endpoint =
            Daemon::start(&["endpoint", "start", "bench", "--directory", &home], &directory.join("endpoint.log"))?;
        let ready = begun.elapsed();
        let token = text(Path::new(&token))?.trim().to_owned();
        let target = Target { url: controller.said.clone(), ca: None, token, identity: None };
        let client = Client::connect(&target).await?;
        Ok(Self { home, endpoint, controller, target, client, ready, begun })
    }

    /// From the endpoint's start to the first result: its worker has to start and to connect.
    pub(super) async fn first_result(&self) -> Result<Duration, ServiceError> {
        self.trip(&mut self.client.clone(), super::command()).await?;
        Ok(self.begun.elapsed())
    }

    /// Times of tasks that are submitted one after the other, sorted.
    pub(super) async fn round_trips(&self, number: usize) -> Result<Vec<Duration>, ServiceError> {
        let mut client = self.client.clone();
        let states = StateName::ENDS.into();
        let mut changes = client.watch(&TaskFilter { states, ..TaskFilter::default() }).await?;
        let mut times = Vec::with_capacity(number);
        for _ in 0..number {
            let begun = Instant::now();
            let task = client.submit(order(vec![TaskSpec::Nothing])).await?.tasks[0].0;
            while changes.next().await?.is_none_or(|seen| seen.id != task) {}
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }

    async fn trip(&self, client: &mut Client, spec: TaskSpec) -> Result<(), ServiceError> {
        let receipt = client.submit(order(vec![spec])).await?;
        let filter = TaskFilter { action: Some(receipt.action), ..TaskFilter::default() };
        let mut changes = client.watch(&filter).await?;
        while let Some(task) = changes.next().await? {
            match task.state {
                StateName::Succeeded => return Ok(()),
                StateName::Failed | StateName::Cancelled => break,
                StateName::Queued | StateName::Leased | StateName::Running => {}
            }
        }
        Err(ServiceError::Ended)
    }

    pub(super) async fn submit(&self, number: usize, spec: fn() -> TaskSpec) -> Result<(), ServiceError> {
        let mut client = self.client.clone();
        for begin in (0..number).step_by(TOGETHER) {
            let specs = (begin..number.min(begin + TOGETHER)).map(|_| spec()).collect();
            client.submit(order(specs)).await?;
        }
        Ok(())
    }

    /// Tasks a second, from the first submission to the last result.
    pub(super) async fn rate(&self, number: usize, spec: fn() -> TaskSpec) -> Result<f64, ServiceError> {
        let mut client = self.client.clone();
        let begun = Instant::now();
        self.submit(number, spec).await?;
        while open(&mut client).await? {
            tokio::time::sleep(LOOK).await;
        }
        let took = begun.elapsed();
        let counts = client.count(&TaskFilter::default()).await?;
        if let Some((state, tasks)) = counts.iter().find(|(state, tasks)| *state != StateName::Succeeded && *tasks > 0)
        {
            return Err(ServiceError::Bench(format!("{tasks} tasks are {}", state.name())));
        }
        Ok((number as f64 / took.as_secs_f64()).round())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let program = std::env::current_exe().unwrap_or_default();
        let stop = ["endpoint", "stop", "bench", "--directory", &self.home];
        // one that does not end is killed with what holds it
        let _ = Command::new(program).args(stop).stderr(Stdio::null()).status();
    }
}

/// Whether a task is not over.
async fn open(client: &mut Client) -> Result<bool, ServiceError> {
    let states = vec![StateName::Queued, StateName::Leased, StateName::Running];
    Ok(!client.list(&TaskFilter { states, ..TaskFilter::default() }, 1).await?.is_empty())
}

fn order(specs: Vec<TaskSpec>) -> Submission {
    let tasks = specs.into_iter().map(SubmissionTask::new).collect();
    Submission::new("bench".into(), tasks)
}

fn configure(home: &Path, url: &str, token: &str, slots: u32) -> Result<(), ServiceError> {
    let config = json!({
        "name": "bench",
        "controller": { "url": url, "token_file": token },
        "workers": { "slots": slots, "threads": 1, "memory": "64 MiB" },
        "commands": { "true": { "program": "/bin/true", "time_limit_s": 60 } },
    });
    fs::create_dir_all(home).map_err(|error| file("create", home, error))?;
    let path = home.join(crate::config::endpoint::FILE);
    fs::write(&path, config.to_string()).map_err(|error| file("write", &path, error))
}
