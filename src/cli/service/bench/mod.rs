//! `speckled bench dispatch`: how many tasks a second go from submit to result, with real processes on this computer.
//!
//! Controller, endpoint and worker are started in a temporary directory and talk over the loopback; the store is on
//! disk. What is measured is told with what the disk costs, since every accepted task waits for it.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{file, single};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::task::spec::{CommandSpec, TaskSpec};

mod fleet;
mod site;

use site::Site;

/// Tasks before them: the store's log has its size then, as that of a controller has that has run for a while.
const WARM_UP: usize = 5_000;

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
    /// Tasks of the measurement of one task after the other
    #[arg(long, default_value = "300")]
    round_trips: NonZeroUsize,
    /// Tasks that start a process
    #[arg(long, default_value_t = 5_000)]
    processes: usize,
    /// Also measure the controller's memory with so many queued tasks
    #[arg(long, default_value_t = 0)]
    queued: usize,
    /// Also measure what so many endpoints that only say that they are there cost the controller
    #[arg(long, default_value_t = 0)]
    endpoints: usize,
    /// For so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
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
        site.rate(WARM_UP, nothing).await?;
        let trips = site.round_trips(args.round_trips.get()).await?;
        add("round_trip_p50_ms", json!(millis(trips[trips.len() / 2])));
        add("round_trip_p99_ms", json!(millis(trips[trips.len() * 99 / 100])));
    }
    if wanted(Measure::Noop2) {
        add("noop_2_per_s", json!(site.rate(args.tasks, nothing).await?));
    }
    if wanted(Measure::True2) {
        add("true_2_per_s", json!(site.rate(args.processes, command).await?));
    }
    add("endpoint_resident_mb", json!(site.endpoint.resident()));
    add("controller_resident_mb", json!(site.controller.resident()));
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
        add("queued_controller_resident_mb", json!(site.controller.resident()));
    }

    if args.endpoints > 0 {
        let site = Site::start(dir.path().join("endpoints"), 0).await?;
        let cores = fleet::cores(&site, args.endpoints, Duration::from_secs(args.seconds)).await?;
        add("endpoints", json!(args.endpoints));
        add("endpoints_controller_cores", json!(cores));
        add("endpoints_controller_resident_mb", json!(site.controller.resident()));
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

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
