//! `speckled endpoint stop|restart|status|logs|tasks|delete`: commands on an endpoint of this computer.

use std::fs;
use std::io;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{self, NoProcess};
use super::start::detach;
use super::{StateDirArgs, StateDirFailure};
use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::output;
use crate::cli::service::gpu::gpu_line;
use crate::cli::service::{FormArg, OutputForm, ServiceError, file, single};
use crate::config::endpoint::EndpointConfig;
use crate::endpoint::inbox::LeaveMode;
use crate::endpoint::journal;
use crate::endpoint::ledger::{AttemptStage, Ledger};
use crate::endpoint::state_dir::StateDir;
use crate::endpoint::status::{EndpointStatus, LinkStatus, ServiceStatus, TaskCounts, WorkerStatus};
use crate::ids::{EndpointId, SessionId};
use crate::provider::local;
use crate::rpc::client::{Client, ClientError, Target};
use crate::rpc::endpoint_link::EndpointControl;
use crate::task::names::printable;

/// A process that leaves its workers running ends within a second; its disk may be slow.
const RESTART: Duration = Duration::from_secs(30);

/// How often an endpoint that is to end is looked for.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
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
    state_dir: StateDirArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    /// Wait so long for the controller's view
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30)]
    patience: u64,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
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
    state_dir: StateDirArgs,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    /// Even if it has tasks: those that have not ended stay with the controller until somebody cancels them
    #[arg(long)]
    force: bool,
}

/// Stops it.
pub(super) fn stop(args: &StopArgs) -> Result<Exit, Failure> {
    let mode = if args.drain { LeaveMode::Drain } else { LeaveMode::Now };
    single(async {
        let state_dir = args.state_dir.state_dir()?;
        let running = connect(&args.state_dir, &state_dir).await?;
        ended(running, &args.state_dir, &state_dir, mode, Duration::from_secs(args.wait)).await
    })?;
    output::note(format_args!("endpoint {} has ended", args.state_dir.name));
    Ok(Exit::Success)
}

/// Starts it anew.
pub(super) fn restart(args: &RestartArgs) -> Result<Exit, Failure> {
    // a new process that cannot be is noticed before the old one ends
    let state_dir = args.state_dir.state_dir()?;
    EndpointConfig::read(state_dir.directory()).map_err(StateDirFailure::Config)?;
    single(async {
        match process::look(&args.state_dir, &state_dir).await {
            Ok((running, _)) => ended(running, &args.state_dir, &state_dir, LeaveMode::KeepWorkers, RESTART).await,
            Err(NoProcess::Dead { .. }) => Ok(()),
            // another one beside it would wait for its lock in vain
            Err(reason) => Err(StateDirFailure::Process(reason).into()),
        }
    })?;
    detach(&args.state_dir)
}

/// Has it end, and waits until it has.
async fn ended(
    mut running: EndpointControl,
    at: &StateDirArgs,
    state_dir: &StateDir,
    mode: LeaveMode,
    wait: Duration,
) -> Result<(), Failure> {
    running.leave(mode).await.map_err(ServiceError::Client)?;
    let begun = Instant::now();
    while process::holder(at, state_dir).map_err(StateDirFailure::Process)?.is_some() {
        if begun.elapsed() >= wait {
            return Err(StateDirFailure::NotEnded { at: at.clone(), waited_s: wait.as_secs() }.into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

pub(super) async fn connect(args: &StateDirArgs, state_dir: &StateDir) -> Result<EndpointControl, StateDirFailure> {
    Ok(process::look(args, state_dir).await?.0)
}

/// Tells how it is.
pub(super) fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    single(async {
        let state_dir = args.state_dir.state_dir()?;
        let told = Told::gather(&args.state_dir, &state_dir, Duration::from_millis(args.patience)).await?;
        match args.form.output {
            OutputForm::Json => output::json(&told.document())?,
            OutputForm::Quiet => output::stdout(told.process.as_ref().map_or_else(NoProcess::state, |_| "running"))?,
            OutputForm::Human => told.lines().iter().try_for_each(output::stdout)?,
        }
        Ok(told.process.as_ref().map_or_else(NoProcess::exit, |_| Exit::Success))
    })
}

/// What each source says.
struct Told {
    process: Result<EndpointStatus, NoProcess>,
    journal: Result<Ledger, String>,
    controller: Result<Value, String>,
}

impl Told {
    async fn gather(args: &StateDirArgs, state_dir: &StateDir, patience: Duration) -> Result<Self, Failure> {
        let process = async { process::look(args, state_dir).await.map(|(_, status)| status) };
        let controller = async {
            match tokio::time::timeout(patience, of_controller(state_dir)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer in {} ms", patience.as_millis())),
            }
        };
        let (process, controller) = tokio::join!(process, controller);
        let journal = journal::read(state_dir.directory()).map(|(book, _)| book).map_err(|error| chain(&error));
        Ok(Self { process, journal, controller })
    }

    fn document(&self) -> Value {
        let journal = self.journal.as_ref().map(TaskCounts::of);
        json!({
            "process": match &self.process {
                Ok(status) => json!(status),
                Err(reason) => json!({ "state": reason.state(), "error": chain(reason) }),
            },
            "journal": of(&journal),
            "controller": of(&self.controller),
            "disagreements": self.disagreements(),
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = match &self.process {
            Ok(status) => described(status),
            Err(reason) => vec![chain(reason)],
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
            (Err(NoProcess::Dead { .. }), Some(true)) => found.push(
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
async fn of_controller(state_dir: &StateDir) -> Result<Value, String> {
    let told = |error: &dyn std::error::Error| chain(error);
    let config = EndpointConfig::read(state_dir.directory()).map_err(|error| told(&error))?;
    let id = state_dir.id().map_err(|error| told(&error))?;
    let target = Target::read(&config.controller).map_err(|error| told(&error))?;
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
    let EndpointStatus {
        name, host, pid, uptime_s, service, controller, journal, tasks, workers, trouble, link, ..
    } = status;
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
    lines.extend(link.iter().map(door));
    for status in workers {
        lines.push(worker(status));
        lines.extend(status.gpus.iter().map(|gpu| format!("gpu         {}", gpu_line(gpu))));
        lines.extend(status.trouble.iter().map(|trouble| format!("warning: {}", printable(trouble, 500))));
    }
    lines.extend(journal.error.iter().map(|error| format!("warning: {error}; {} entries wait", journal.unwritten)));
    lines.extend(trouble.iter().map(|trouble| format!("warning: {trouble}")));
    lines
}

/// The door for workers of other computers.
fn door(link: &LinkStatus) -> String {
    let LinkStatus { listen, hosts, blocks, workers, waiting, refused } = link;
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    let open =
        if blocks.is_empty() { "no block is open".to_owned() } else { format!("open blocks {}", blocks.join(", ")) };
    format!(
        "link        listens at {listen} as {}; {open}; {workers} workers, {waiting} connections without a secret, \
         {refused} refused",
        hosts.join(", ")
    )
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
    let state_dir = args.state_dir.state_dir()?;
    process::holder(&args.state_dir, &state_dir).map_err(StateDirFailure::Process)?;
    let path = match args.of {
        LogOf::Endpoint => state_dir.log(),
        LogOf::Worker => newest_worker_log(&state_dir).map_err(|error| file("list", &state_dir.logs(), error))?,
    };
    let text = fs::read(&path).map_err(|error| file("read", &path, error))?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(args.lines)..].iter().try_for_each(output::stdout)?;
    Ok(Exit::Success)
}

fn newest_worker_log(state_dir: &StateDir) -> io::Result<std::path::PathBuf> {
    let mut newest = None;
    for entry in fs::read_dir(state_dir.logs())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("worker-") {
            newest = newest.max(Some((entry.metadata()?.modified()?, entry.path())));
        }
    }
    newest.map(|(_, path)| path).ok_or_else(|| io::Error::other("no worker has run yet"))
}

/// Lists its tasks.
pub(super) fn tasks(args: &TasksArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir.state_dir()?;
    process::holder(&args.state_dir, &state_dir).map_err(StateDirFailure::Process)?;
    let (book, _) = journal::read(state_dir.directory()).map_err(StateDirFailure::Journal)?;
    let rows: Vec<Value> = book.attempts().filter_map(|id| book.get(id)).map(|held| {
        let leased = &held.leased;
        let (stage, worker) = match &held.stage {
            AttemptStage::Waiting => ("waiting", None),
            AttemptStage::Handed(worker) => ("handed", Some(*worker)),
            AttemptStage::Running(worker) => ("running", Some(*worker)),
            AttemptStage::Reported(_) => ("over", None),
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

/// Why a controller has not forgotten an endpoint.
enum Goodbye {
    /// It does not want to: the endpoint has tasks there.
    Refused(ClientError),
    /// It could not be asked, or the endpoint's token does not allow it.
    Unsaid(String),
}

/// Has the controller forget the endpoint, whose processes have all died.
async fn goodbye(state_dir: &StateDir, sessions: &[SessionId]) -> Result<EndpointId, Goodbye> {
    let unsaid = |error: &dyn std::error::Error| Goodbye::Unsaid(chain(error));
    let config = EndpointConfig::read(state_dir.directory()).map_err(|error| unsaid(&error))?;
    let id = state_dir.id().map_err(|error| unsaid(&error))?;
    let target = Target::read(&config.controller).map_err(|error| unsaid(&error))?;
    let mut client = Client::connect(&target).await.map_err(|error| unsaid(&error))?;
    match client.forget_endpoint(&id.to_string(), sessions).await {
        Ok(id) => Ok(id),
        Err(error) if error.is_precondition() => Err(Goodbye::Refused(error)),
        // it never came there
        Err(error) if error.is_absent() => Ok(id),
        Err(error) => Err(unsaid(&error)),
    }
}

/// Deletes it.
pub(super) fn delete(args: &DeleteArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir.state_dir()?;
    let name = args.state_dir.name.clone();
    if let Some(holder) = process::holder(&args.state_dir, &state_dir).map_err(StateDirFailure::Process)? {
        return Err(StateDirFailure::Running { at: args.state_dir.clone(), holder }.into());
    }
    // the configuration is what makes a directory an endpoint's: nothing else is ever deleted
    EndpointConfig::read(state_dir.directory()).map_err(StateDirFailure::Config)?;
    if state_dir.is_copy().map_err(StateDirFailure::StateDir)? {
        // its processes, its tasks and its name are another directory's
        output::note("the directory is a copy of the endpoint's: the endpoint itself is left alone");
        fs::remove_dir_all(state_dir.directory()).map_err(|error| file("delete", state_dir.directory(), error))?;
        output::note(format_args!("{} was deleted", state_dir.directory().display()));
        return Ok(Exit::Success);
    }
    let book = journal::read(state_dir.directory()).map(|(book, _)| book).unwrap_or_default();
    if !book.is_empty() && !args.force {
        return Err(StateDirFailure::Tasks { name, tasks: book.len() }.into());
    }
    single(async {
        // before the controller gives its tasks to others
        for (block, held) in book.blocks() {
            local::end_left(block, held.job.as_ref()).await;
        }
        let sessions: Vec<_> = book.sessions().iter().map(|own| own.session).collect();
        match (goodbye(&state_dir, &sessions).await, args.force) {
            (Ok(_), _) => Ok(()),
            (Err(Goodbye::Refused(error)), false) => Err(Failure::from(ServiceError::Client(error))),
            (Err(Goodbye::Refused(error)), true) => {
                output::warn(format_args!("the controller still knows it: {}", chain(&error)));
                Ok(())
            }
            (Err(Goodbye::Unsaid(reason)), _) => {
                output::warn(format_args!(
                    "the controller was not told: {reason}; `speckled endpoint forget` tells it"
                ));
                Ok(())
            }
        }
    })?;
    fs::remove_dir_all(state_dir.directory()).map_err(|error| file("delete", state_dir.directory(), error))?;
    output::note(format_args!("{} was deleted", state_dir.directory().display()));
    Ok(Exit::Success)
}
