//! Runs each attempt in a process of its own, so that a crash in HDF5 or CUDA takes one task down and not the worker.
//!
//! ```text
//!   worker ── assignment ──▶ stdin            own process group, cleared environment, memory limit,
//!          ◀─ progress, over ─ stdout  executor   directory of its own; killed when the worker dies
//!          ◀─ log ──────────── stderr
//! ```
//!
//! An attempt is over when its process has been reaped and its whole group was killed; or when the process was killed
//! and the system does not let it end, which is told ([`Remains`]). What it was to do is decided elsewhere; so is what
//! happens to the task next.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assignment::{Assignment, SlotGpu, Work};
use crate::config::roots::NodeRoots;
use crate::ids::{AttemptId, WorkerId};
use crate::protocol::session::Progress;
use crate::task::failure::{Failure, Fault, Lack, Loss, Unfit, chain};
use crate::task::life::Outcome;
use crate::task::result::{EarlierResult, NamedResult, TaskResult};

mod log;
mod outcome;
mod process;
mod scratch;
mod spawn;
mod streams;
mod supervise;

use log::Log;
use process::{Process, Running, Spawner, StartError};
pub(super) use scratch::NOTE;
use scratch::Scratch;
use streams::{Form, Streams};
use supervise::Watched as _;

/// Time between asking a process to stop and killing it.
pub const GRACE: Duration = Duration::from_secs(10);

/// What a worker's executors have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The program that has the subcommand `executor`: this one.
    pub program: PathBuf,
    /// Directory of the attempts' logs.
    pub logs: PathBuf,
    /// Directory in which each worker has one of its own, and in that each attempt while it runs.
    pub scratch: PathBuf,
    /// Time between asking a process to stop and killing it.
    pub grace: Duration,
    /// Whose processes they are: each has that in its environment.
    pub worker: WorkerId,
}

/// What a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Threads.
    pub threads: NonZeroUsize,
    /// Bytes of memory.
    pub memory: u64,
    /// The GPU; none = it sees none.
    pub gpu: Option<SlotGpu>,
}

/// An attempt that is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Which.
    pub id: AttemptId,
    /// What it does.
    pub work: Work,
    /// Where it may read and write; a command's paths were held against them already.
    pub roots: NodeRoots,
    /// What earlier attempts of its task have named.
    pub earlier: Option<EarlierResult>,
    /// The longest that it may take; a command has its own limit besides.
    pub time_limit: Option<Duration>,
    /// When it must be over.
    pub deadline: Option<Instant>,
}

/// How a running attempt is watched and stopped.
#[derive(Debug, Clone)]
pub struct AttemptWatch {
    /// Gets how far it is; who reads late sees the latest.
    pub progress: watch::Sender<Option<Progress>>,
    /// Gets under which name its result is to be published.
    pub naming: watch::Sender<Option<NamedResult>>,
    /// Gets a permit for each name that is settled.
    pub publish: Arc<Semaphore>,
    /// Cancelled when the attempt is to end.
    pub stop: CancellationToken,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub outcome: Outcome,
    /// What it left.
    pub result: TaskResult,
    /// Its process, if that is still there.
    pub remains: Option<Remains>,
}

/// A process that was killed and does not end: it runs nothing of its own any more, and keeps what it has.
#[derive(Debug)]
pub struct Remains(Running);

/// Why a worker can run no executors.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// The directories.
    #[error("cannot create the directory {}; see to its file system or configure another", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that starts processes.
    #[error("cannot start the thread that starts executors")]
    Thread(#[source] io::Error),
}

/// Starts executors. They die with the last clone of this.
#[derive(Debug, Clone)]
pub struct Executors {
    setup: Arc<Setup>,
    spawner: Arc<Spawner>,
    scratch: Arc<Scratch>,
}

impl Setup {
    /// With this program and the usual grace.
    ///
    /// # Errors
    /// The program's file is not known to the system.
    pub fn new(worker: WorkerId, logs: PathBuf, scratch: PathBuf) -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, logs, scratch, grace: GRACE, worker })
    }
}

impl Executors {
    /// Makes ready; called from within the runtime that will run the attempts.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn start(setup: Setup) -> Result<Self, ExecutorError> {
        // attempts find out what cannot be made, too, and the node is unfit then
        if let Err(error) = std::fs::create_dir_all(&setup.logs) {
            tracing::warn!(path = %setup.logs.display(), %error, "a directory of this worker cannot be made");
        }
        let scratch = Arc::new(Scratch::claim(&setup.scratch, setup.worker));
        let spawner = Spawner::start(setup.worker).map_err(ExecutorError::Thread)?;
        Ok(Self { setup: Arc::new(setup), spawner: Arc::new(spawner), scratch })
    }

    /// Runs an attempt to its end. Dropping this kills the process and its group.
    pub async fn run(&self, attempt: Attempt, slot: &Slot, watch: AttemptWatch) -> Finished {
        let log = Log::new(self.log(attempt.id));
        let cwd = self.scratch.path().join(name(attempt.id));
        let finished = self.run_in(cwd.clone(), attempt, slot, watch, log).await;
        self.spawner.remove(cwd);
        Scratch::sweep_when_due(&self.scratch);
        finished
    }

    /// Where an attempt's log is.
    pub fn log(&self, attempt: AttemptId) -> PathBuf {
        self.setup.logs.join(format!("{}.log", name(attempt)))
    }

    async fn run_in(&self, cwd: PathBuf, attempt: Attempt, slot: &Slot, watch: AttemptWatch, mut log: Log) -> Finished {
        let id = attempt.id;
        let (attempt_limit, deadline) = (attempt.time_limit, attempt.deadline);
        let (process, form, time_limit) = match attempt.work {
            Work::Computation(work) => {
                let Slot { threads, memory, gpu } = slot.clone();
                let Attempt { roots, earlier, .. } = attempt;
                let assignment = Assignment { attempt: id, work, roots, threads, memory, gpu, earlier };
                let form = Form::protocol(id, watch.progress, watch.naming);
                match Process::executor(&self.setup.program, &assignment, self.setup.worker, cwd) {
                    Ok(process) => (process, form, attempt_limit),
                    Err(error) => return Finished::refused(&error),
                }
            }
            Work::Command(command) => {
                let limit = attempt_limit.map_or(command.time_limit, |limit| limit.min(command.time_limit));
                let form = Form::command(&command.name);
                (Process::command(command, slot, self.setup.worker, cwd), form, Some(limit))
            }
        };
        let running = match self.spawner.spawn(process).await {
            Ok(running) => running,
            Err(StartError::Directory { path, source }) => {
                let words = chain(&ExecutorError::Directory { path, source });
                log.say(&words).await;
                let unfit = Unfit::new(Lack::Scratch, &words);
                return finished(Outcome::Lost(Loss::Unfit(unfit)), TaskResult::default(), log).await;
            }
            Err(StartError::Program { path, source }) => {
                let words = format!("cannot start {}: {source}", path.display());
                log.say(&words).await;
                return finished(outcome::not_started(&form, &source, &words), TaskResult::default(), log).await;
            }
        };
        tracing::debug!(task = %id.task, attempt = %id.number, pid = running.pid(), "executor started");
        let mut streams = Streams::new(form, log);
        let limits = supervise::Limits { time: time_limit, deadline, grace: self.setup.grace };
        let (ended, remains) = supervise::supervise(running, &mut streams, &watch.stop, &watch.publish, limits).await;
        let Streams { form, mut log } = streams;
        let (outcome, result, words) = outcome::decide(&ended, form);
        if let Some(words) = words {
            log.say(&words).await;
        }
        let remains = remains.map(Remains);
        if let Some(process) = &remains {
            let (task, attempt, pid) = (id.task, id.number, process.pid());
            tracing::error!(%task, %attempt, pid, "the attempt's process was killed and does not end: it is over without");
        }
        Finished { remains, ..finished(outcome, result, log).await }
    }
}

impl AttemptWatch {
    /// Of an attempt that is stopped by this token, and of which nobody wants to know how far it is.
    pub fn unheard(stop: CancellationToken) -> Self {
        let (progress, naming) = (watch::channel(None).0, watch::channel(None).0);
        Self { progress, naming, publish: Arc::new(Semaphore::new(0)), stop }
    }
}

impl Finished {
    /// An attempt that never got a process: its task asks for what cannot be.
    pub fn refused(error: &dyn std::error::Error) -> Self {
        Self::without_process(Outcome::Failed(Failure::of(Fault::Input, error)))
    }

    /// An attempt that never got a process.
    pub fn without_process(outcome: Outcome) -> Self {
        Self { outcome, result: TaskResult::default(), remains: None }
    }
}

impl Remains {
    /// Its number.
    pub fn pid(&self) -> Option<i32> {
        self.0.pid()
    }

    /// Waits until it is gone, and buries it.
    pub async fn gone(self) {
        let Self(mut process) = self;
        // how it ended was told
        let _status = process.wait().await;
        process.end().await;
    }
}

impl Slot {
    /// What each of of `count` slots may use, which share what `slots` slots were planned to have.
    #[must_use]
    pub fn shared(self, slots: u32, count: u32) -> Self {
        let slots = slots.max(1);
        if count <= slots {
            return self;
        }
        let threads = self.threads.get() * slots as usize / count as usize;
        Self {
            threads: NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN),
            memory: self.memory / u64::from(count) * u64::from(slots),
            gpu: self.gpu,
        }
    }
}

fn name(attempt: AttemptId) -> String {
    format!("{}-{}", attempt.task, attempt.number)
}

async fn finished(outcome: Outcome, result: TaskResult, log: Log) -> Finished {
    Finished { outcome, result: TaskResult { log: log.end().await, ..result }, remains: None }
}
