//! `speckled endpoint stop|restart|status|logs|tasks|delete`: commands on an endpoint of this computer.

use std::fs;
use std::io;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::start::{detach, target};
use super::{HomeArgs, HomeFailure, computer};
use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::output;
use crate::cli::service::gpu::gpu_line;
use crate::cli::service::{FormArg, OutputForm, ServiceError, file, single};
use crate::config::endpoint::EndpointConfig;
use crate::endpoint::book::{Book, Stage};
use crate::endpoint::gate::LeaveMode;
use crate::endpoint::home::Home;
use crate::endpoint::journal;
use crate::endpoint::status::{EndpointStatus, ServiceStatus, TaskCounts, WorkerStatus};
use crate::rpc::client::Client;
use crate::rpc::home::ControlLine;
use crate::task::names::printable;

/// How often an endpoint that is to end is looked for.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Finish the tasks that it has first
    #[arg(long)]
    drain: bool,
    /// Wait so long for its end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Wait so long for the controller's view
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30)]
    patience: u64,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Whose log
    #[arg(long, value_enum, default_value = "endpoint")]
    of: LogOf,
    /// So many lines of its end
    #[arg(long, short = 'n', default_value_t = 40)]
    lines: usize,
}

/// Who writes a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogOf {
    /// The endpoint, where it runs in the background
    Endpoint,
    /// Its newest worker on this computer
    Worker,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TasksArgs {
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Even if it has tasks that the controller does not know to be over: they are computed again elsewhere
    #[arg(long)]
    force: bool,
}

/// Stops it.
pub(super) fn stop(args: &StopArgs) -> Result<Exit, Failure> {
    let mode = if args.drain { LeaveMode::Drain } else { LeaveMode::Now };
    single(ended(&args.home, mode, Duration::from_secs(args.wait)))?;
    output::note(format_args!("endpoint {} has ended", args.home.name));
    Ok(Exit::Success)
}

/// Starts it anew.
pub(super) fn restart(args: &RestartArgs) -> Result<Exit, Failure> {
    // a new process that cannot be is noticed before the old one ends
    let home = args.home.home()?;
    EndpointConfig::read(home.directory(), computer()).map_err(HomeFailure::Config)?;
    match single(ended(&args.home, LeaveMode::KeepWorkers, Duration::from_secs(30))) {
        Ok(()) | Err(Failure::Home(HomeFailure::NotRunning { .. })) => detach(&args.home),
        Err(error) => Err(error),
    }
}

/// Has it end, and waits until it has.
async fn ended(args: &HomeArgs, mode: LeaveMode, wait: Duration) -> Result<(), Failure> {
    let home = args.home()?;
    connect(args, &home).await?.leave(mode).await.map_err(ServiceError::Client)?;
    let begun = Instant::now();
    while holder(&home)?.is_some() {
        if begun.elapsed() >= wait {
            return Err(HomeFailure::NotEnded { name: args.name.clone(), waited_s: wait.as_secs() }.into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn connect(args: &HomeArgs, home: &Home) -> Result<ControlLine, HomeFailure> {
    let none = || HomeFailure::NotRunning { name: args.name.clone() };
    ControlLine::connect(&home.socket()?).await.map_err(|_| none())
}

fn holder(home: &Home) -> Result<Option<String>, ServiceError> {
    journal::held_by(home.directory()).map_err(|error| file("look at the lock in", home.directory(), error))
}

/// Tells how it is.
pub(super) fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    single(async {
        let home = args.home.home()?;
        let told = Told::gather(&home, Duration::from_millis(args.patience)).await?;
        match args.form.output {
            OutputForm::Json => output::json(&told.document())?,
            OutputForm::Quiet => output::stdout(if told.process.is_ok() { "running" } else { "stopped" })?,
            OutputForm::Human => told.lines(args).iter().try_for_each(output::stdout)?,
        }
        Ok(if told.process.is_ok() { Exit::Success } else { Exit::Unavailable })
    })
}

/// What each source says.
struct Told {
    process: Result<EndpointStatus, String>,
    journal: Result<Book, String>,
    controller: Result<Value, String>,
}

impl Told {
    async fn gather(home: &Home, patience: Duration) -> Result<Self, Failure> {
        let process = async {
            let socket = home.socket().map_err(|error| chain(&error))?;
            let mut line = ControlLine::connect(&socket).await.map_err(|_| "no process".to_owned())?;
            line.status().await.map_err(|error| chain(&error))
        };
        let controller = async {
            match tokio::time::timeout(patience, of_controller(home)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer in {} ms", patience.as_millis())),
            }
        };
        let (process, controller) = tokio::join!(process, controller);
        let journal = journal::read(home.directory()).map(|(book, _)| book).map_err(|error| chain(&error));
        Ok(Self { process, journal, controller })
    }

    fn document(&self) -> Value {
        let journal = self.journal.as_ref().map(TaskCounts::of);
        json!({
            "process": of(&self.process),
            "journal": of(&journal),
            "controller": of(&self.controller),
            "disagreements": self.disagreements(),
        })
    }

    fn lines(&self, args: &StatusArgs) -> Vec<String> {
        let name = &args.home.name;
        let mut lines = match &self.process {
            Ok(status) => described(status),
            Err(reason) => vec![format!("{name} does not run on this computer ({reason})")],
        };
        lines.push(match &self.journal {
            Ok(book) => format!("journal     {}", counted(TaskCounts::of(book))),
            Err(reason) => format!("journal     {reason}"),
        });
        lines.push(match &self.controller {
            Ok(view) if view["online"] == json!(true) => {
                format!("controller  it is online on {}", view["host"].as_str().unwrap_or_default())
            }
            Ok(_) => "controller  it is offline".to_owned(),
            Err(reason) => format!("controller  {reason}"),
        });
        lines.extend(self.disagreements().into_iter().map(|words| format!("warning: {words}")));
        lines
    }

    /// Where sources say different things.
    fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        let online = self.controller.as_ref().ok().map(|view| view["online"] == json!(true));
        match (&self.process, online) {
            (Ok(status), Some(false)) if status.controller.connected => {
                found.push("the process has a session, the controller says that the endpoint is offline".to_owned());
            }
            (Err(_), Some(true)) => found.push(
                "no process runs here, the controller says that the endpoint is online: on another computer, or it died \
                 and its lease has not run out yet"
                    .to_owned(),
            ),
            (Ok(_) | Err(_), Some(_) | None) => {}
        }
        found
    }
}

/// What the controller says, with the endpoint's own token.
async fn of_controller(home: &Home) -> Result<Value, String> {
    let told = |error: &dyn std::error::Error| chain(error);
    let config = EndpointConfig::read(home.directory(), computer()).map_err(|error| told(&error))?;
    let id = home.id().map_err(|error| told(&error))?;
    let target = target(&config.controller).map_err(|error| told(&error))?;
    let mut client = Client::connect(&target).await.map_err(|error| told(&error))?;
    let endpoints = client.list_endpoints().await.map_err(|error| told(&error))?;
    match endpoints.iter().find(|endpoint| endpoint.id == id) {
        Some(view) => Ok(json!(view)),
        None => Err("it does not know this endpoint".to_owned()),
    }
}

fn of<T: serde::Serialize>(source: &Result<T, impl AsRef<str>>) -> Value {
    match source {
        Ok(value) => json!(value),
        Err(reason) => json!({ "error": reason.as_ref() }),
    }
}

/// What the process says, a line each.
fn described(status: &EndpointStatus) -> Vec<String> {
    let EndpointStatus { name, host, pid, uptime_s, service, controller, journal, tasks, workers, trouble, .. } =
        status;
    let service = match service {
        ServiceStatus::Open => "takes tasks",
        ServiceStatus::Drains => "finishes what it has",
        ServiceStatus::Leaves => "gives back what it has",
    };
    let mut lines = vec![format!("{name} runs on {host} as process {pid} for {uptime_s} s; it {service}")];
    let lease = controller.lease_left_s.map_or("no lease".to_owned(), |left| format!("lease for {left} s"));
    lines.push(match (controller.connected, &controller.error) {
        (true, _) => format!("process     session with {}, {lease}", controller.url),
        (false, error) => {
            format!(
                "process     no session with {}, {lease}: {}",
                controller.url,
                error.as_deref().unwrap_or("connecting")
            )
        }
    });
    lines.push(format!("process     {}", counted(*tasks)));
    for status in workers {
        lines.push(worker(status));
        lines.extend(status.gpus.iter().map(|gpu| format!("gpu         {}", gpu_line(gpu))));
        lines.extend(status.trouble.iter().map(|trouble| format!("warning: {}", printable(trouble, 500))));
    }
    lines.extend(journal.error.iter().map(|error| format!("warning: {error}; {} entries wait", journal.unwritten)));
    lines.extend(trouble.iter().map(|trouble| format!("warning: {trouble}")));
    lines
}

fn counted(TaskCounts { waiting, placed, unreported }: TaskCounts) -> String {
    format!("{waiting} tasks wait, {placed} are with workers, {unreported} are to be reported")
}

fn worker(status: &WorkerStatus) -> String {
    let WorkerStatus { worker, host, pid, connected, since_s, slots, login_slots, block: _, gpus: _, trouble: _ } =
        status;
    let state = if *connected { "connected" } else { "not connected" };
    let since = since_s.map(|since| format!(" for {since} s")).unwrap_or_default();
    let process = pid.map(|pid| format!(" process {pid}")).unwrap_or_default();
    format!(
        "worker      {worker} on {host}{process}, {state}{since}: {} of {} slots busy, {} of {} login slots",
        slots.1, slots.0, login_slots.1, login_slots.0
    )
}

/// Shows the end of a log.
pub(super) fn logs(args: &LogsArgs) -> Result<Exit, Failure> {
    let home = args.home.home()?;
    let path = match args.of {
        LogOf::Endpoint => home.log(),
        LogOf::Worker => newest_worker_log(&home).map_err(|error| file("list", &home.logs(), error))?,
    };
    let text = fs::read(&path).map_err(|error| file("read", &path, error))?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(args.lines)..].iter().try_for_each(output::stdout)?;
    Ok(Exit::Success)
}

fn newest_worker_log(home: &Home) -> io::Result<std::path::PathBuf> {
    let mut newest = None;
    for entry in fs::read_dir(home.logs())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("worker-") {
            newest = newest.max(Some((entry.metadata()?.modified()?, entry.path())));
        }
    }
    newest.map(|(_, path)| path).ok_or_else(|| io::Error::other("no worker has run yet"))
}

/// Lists its tasks.
pub(super) fn tasks(args: &TasksArgs) -> Result<Exit, Failure> {
    let home = args.home.home()?;
    let (book, _) = journal::read(home.directory()).map_err(HomeFailure::Journal)?;
    let rows: Vec<Value> = book.attempts().filter_map(|id| book.get(id)).map(|held| {
        let leased = &held.leased;
        let (stage, worker) = match &held.stage {
            Stage::Waiting => ("waiting", None),
            Stage::Handed(worker) => ("handed", Some(*worker)),
            Stage::Running(worker) => ("running", Some(*worker)),
            Stage::Over(_) => ("over", None),
        };
        let attempt = leased.attempt;
        json!({ "task": attempt.task, "attempt": attempt.number, "kind": leased.spec.kind().name(), "stage": stage, "worker": worker })
    }).collect();
    match args.form.output {
        OutputForm::Json => output::json(&json!(rows))?,
        OutputForm::Quiet => rows.iter().try_for_each(|row| output::stdout(word(&row["task"])))?,
        OutputForm::Human => rows.iter().try_for_each(|row| {
            let [task, kind, stage] = ["task", "kind", "stage"].map(|key| word(&row[key]));
            output::stdout(format_args!(
                "{task}  attempt {:<3} {kind:<11} {stage:<8} {}",
                row["attempt"],
                word(&row["worker"])
            ))
        })?,
    }
    Ok(Exit::Success)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Deletes it.
pub(super) fn delete(args: &DeleteArgs) -> Result<Exit, Failure> {
    let home = args.home.home()?;
    let name = args.home.name.clone();
    // the configuration is what makes a directory an endpoint's: nothing else is ever deleted
    EndpointConfig::read(home.directory(), computer()).map_err(HomeFailure::Config)?;
    if let Some(holder) = holder(&home)? {
        return Err(HomeFailure::Running { name, holder }.into());
    }
    let tasks = match journal::read(home.directory()) {
        Ok((book, _)) => book.len(),
        Err(_) => 0,
    };
    if tasks > 0 && !args.force {
        return Err(HomeFailure::Tasks { name, tasks }.into());
    }
    fs::remove_dir_all(home.directory()).map_err(|error| file("delete", home.directory(), error))?;
    output::note(format_args!("{} was deleted", home.directory().display()));
    Ok(Exit::Success)
}
