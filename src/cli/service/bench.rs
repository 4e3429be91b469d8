//! `speckled bench dispatch`: how many tasks a second go from submit to result, with real processes on this computer.
//!
//! Controller, endpoint and worker are started in a temporary directory and talk over the loopback; the store is on
//! disk. What is measured is told with what the disk costs, since every accepted task waits for it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ServiceError, file, single, text};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::controller::{Order, OrderedTask};
use crate::rpc::client::{Client, Target};
use crate::store::{StateName, TaskFilter};
use crate::task::spec::{CommandSpec, TaskSpec};

/// Tasks of one submission.
const TOGETHER: usize = 2000;

/// How often the number of tasks that are over is asked for.
const LOOK: Duration = Duration::from_millis(20);

/// Tasks one after the other.
const ROUND_TRIPS: usize = 300;

/// Measures this program
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BenchCommand {
    /// Tasks a second from submit to result, and the time of one
    Dispatch(DispatchArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DispatchArgs {
    /// Tasks of each measurement of tasks that do nothing
    #[arg(long, default_value_t = 50_000)]
    tasks: usize,
    /// Tasks that start a process
    #[arg(long, default_value_t = 5_000)]
    processes: usize,
    /// Also measure the controller's memory with so many queued tasks
    #[arg(long, default_value_t = 0)]
    queued: usize,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Where the store and the journal are [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// One task after the other
    RoundTrip,
    /// Tasks that do nothing, 2 slots
    Noop2,
    /// Tasks that start /bin/true, 2 slots
    True2,
    /// Tasks that do nothing, 128 slots
    Noop128,
}

/// Runs the command.
pub(in crate::cli) fn run(command: &BenchCommand) -> Result<Exit, Failure> {
    match command {
        BenchCommand::Dispatch(args) => single(dispatch(args)),
    }
}

async fn dispatch(args: &DispatchArgs) -> Result<Exit, Failure> {
    let place = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(&place).map_err(|error| file("create a directory in", &place, error))?;
    let fsync = fsync(dir.path()).map_err(|error| file("write in", dir.path(), error))?;
    let nothing = || TaskSpec::Nothing;
    let mut found = json!({ "fsync_p50_ms": millis(fsync) });
    let mut add = |name: &str, value: Value| found[name] = value;

    let wanted = |measure| args.only.is_empty() || args.only.contains(&measure);

    let site = Site::start(dir.path().join("2"), 2).await?;
    add("endpoint_ready_s", json!(site.ready.as_secs_f64()));
    add("first_result_s", json!(site.first_result().await?.as_secs_f64()));
    if wanted(Measure::RoundTrip) {
        let trips = site.round_trips(ROUND_TRIPS).await?;
        add("round_trip_p50_ms", json!(millis(trips[trips.len() / 2])));
        add("round_trip_p99_ms", json!(millis(trips[trips.len() * 99 / 100])));
    }
    if wanted(Measure::Noop2) {
        add("noop_2_per_s", json!(site.rate(args.tasks, nothing).await?));
    }
    if wanted(Measure::True2) {
        add("true_2_per_s", json!(site.rate(args.processes, command).await?));
    }
    add("endpoint_resident_mb", json!(resident(site.endpoint.process.id())));
    add("controller_resident_mb", json!(resident(site.controller.process.id())));
    drop(site);

    if wanted(Measure::Noop128) {
        let site = Site::start(dir.path().join("128"), 128).await?;
        add("noop_128_per_s", json!(site.rate(args.tasks, nothing).await?));
    }

    if args.queued > 0 {
        let site = Site::start(dir.path().join("queued"), 0).await?;
        let begun = Instant::now();
        site.submit(args.queued, nothing).await?;
        add("queued", json!(args.queued));
        add("submit_per_s", json!(args.queued as f64 / begun.elapsed().as_secs_f64()));
        add("queued_controller_resident_mb", json!(resident(site.controller.process.id())));
    }
    if args.json {
        output::json(&found)?;
    } else {
        let rows = found.as_object().into_iter().flatten();
        rows.into_iter().try_for_each(|(name, value)| output::stdout(format_args!("{name:<30} {value}")))?;
    }
    Ok(Exit::Success)
}

/// What a command costs that does nothing.
fn command() -> TaskSpec {
    let template = "true".parse().unwrap_or_else(|_| unreachable!("a name"));
    TaskSpec::Command(CommandSpec { template, values: Default::default(), time_limit: None })
}

/// The median time of a small write that is on the disk when it returns.
fn fsync(directory: &Path) -> std::io::Result<Duration> {
    let mut file = File::create(directory.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[0; 512])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// A process of this program that has said that it is ready; killed when dropped.
struct Daemon {
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
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A controller and an endpoint with a worker.
struct Site {
    home: String,
    endpoint: Daemon,
    controller: Daemon,
    client: Client,
    ready: Duration,
    begun: Instant,
}

impl Site {
    async fn start(directory: PathBuf, slots: u32) -> Result<Self, ServiceError> {
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
        let client = Client::connect(&Target { url: controller.said.clone(), ca: None, token }).await?;
        Ok(Self { home, endpoint, controller, client, ready, begun })
    }

    /// From the endpoint's start to the first result: its worker has to start and to connect.
    async fn first_result(&self) -> Result<Duration, ServiceError> {
        self.trip(&mut self.client.clone(), command()).await?;
        Ok(self.begun.elapsed())
    }

    /// Times of tasks that are submitted one after the other, sorted.
    async fn round_trips(&self, number: usize) -> Result<Vec<Duration>, ServiceError> {
        let mut client = self.client.clone();
        let mut changes = client.watch(&TaskFilter::default()).await?;
        let mut times = Vec::with_capacity(number);
        for _ in 0..number {
            let begun = Instant::now();
            let task = client.submit(order(vec![TaskSpec::Nothing])).await?.tasks[0].0;
            while changes.next().await?.is_none_or(|seen| seen.id != task || seen.state != StateName::Succeeded) {}
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

    async fn submit(&self, number: usize, spec: fn() -> TaskSpec) -> Result<(), ServiceError> {
        let mut client = self.client.clone();
        for begin in (0..number).step_by(TOGETHER) {
            let specs = (begin..number.min(begin + TOGETHER)).map(|_| spec()).collect();
            client.submit(order(specs)).await?;
        }
        Ok(())
    }

    /// Tasks a second, from the first submission to the last result.
    async fn rate(&self, number: usize, spec: fn() -> TaskSpec) -> Result<f64, ServiceError> {
        let mut client = self.client.clone();
        let before = over(&mut client).await?;
        let begun = Instant::now();
        self.submit(number, spec).await?;
        while over(&mut client).await? < before + number as u64 {
            tokio::time::sleep(LOOK).await;
        }
        Ok((number as f64 / begun.elapsed().as_secs_f64()).round())
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

async fn over(client: &mut Client) -> Result<u64, ServiceError> {
    let counts = client.count(&TaskFilter::default()).await?;
    Ok(counts.into_iter().filter(|(state, _)| *state == StateName::Succeeded).map(|(_, tasks)| tasks).sum())
}

fn order(specs: Vec<TaskSpec>) -> Order {
    let tasks = specs.into_iter().map(OrderedTask::new).collect();
    Order { endpoint: "bench".into(), action: None, group: None, tasks }
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

/// Megabytes of memory that a process has.
fn resident(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
