//! The worker on the endpoint's own computer: taken over from an earlier process of the endpoint, or started, and
//! started again when it ends. Gives it no work.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inbox::{Inbox, InboxEvent};
use super::state_dir::StateDir;
use crate::config::endpoint::WorkerOptions;
use crate::ids::{BlockId, WorkerId};
use crate::runtime::ids;
use crate::runtime::process::{Launch, MARK, Process, ProcessName, kill_marked};
use crate::task::ending::Ending;
use crate::task::retry::doubled;

/// A worker that lasted so long was well: the next is started at once.
const WELL: Duration = Duration::from_secs(60);

/// The first pause after a worker that was not, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: an administrator who has mended what was wrong does not wait long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Variables that hold credentials: a worker needs none.
const CREDENTIALS: [&str; 2] = ["SPECKLED_TOKEN", "SPECKLED_TOKEN_FILE"];

/// Workers of this computer that may have attempts.
pub(super) type Known = Vec<(WorkerId, ProcessName)>;

/// What it is doing, for others to look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Supervisor {
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug, Default)]
struct Shown {
    trouble: Option<String>,
    processes: Vec<ProcessName>,
    enough: bool,
}

impl Supervisor {
    /// Why the worker does not run, if it should.
    pub(super) fn trouble(&self) -> Option<String> {
        self.look(|shown| shown.trouble.clone())
    }

    /// No worker is started any more.
    pub(super) fn enough(&self) {
        self.look(|shown| shown.enough = true);
    }

    /// Whether a worker of this computer runs.
    pub(super) fn runs(&self) -> bool {
        self.look(|shown| !shown.processes.is_empty())
    }

    /// Ends all workers of this computer at once.
    pub(super) fn kill(&self) {
        for process in self.look(|shown| shown.processes.clone()) {
            process.kill();
        }
    }

    /// Keeps one running until it is told to stop; does not end it then.
    pub(super) async fn keep(
        self,
        state_dir: StateDir,
        local: WorkerOptions,
        known: Known,
        inbox: Inbox,
        stop: CancellationToken,
    ) {
        let (alive, dead): (Known, Known) = known.into_iter().partition(|(_, name)| name.lives());
        for (worker, _) in dead {
            clear_away(worker).await;
            inbox.put(InboxEvent::Ended { worker, ending: Ending::Unknown }).await;
        }
        // there is one at most, but for a moment in which one ends and the next begins
        for (worker, name) in alive {
            let Some(process) = Process::find(&name) else {
                inbox.put(InboxEvent::Ended { worker, ending: Ending::Unknown }).await;
                continue;
            };
            tracing::info!(%worker, pid = name.pid, "a worker of an earlier process goes on");
            tokio::select! {
                () = self.watch(worker, process, &inbox) => {}
                // the process goes on without being watched
                () = stop.cancelled() => return,
            }
        }
        let mut failed = 0;
        while !stop.is_cancelled() && !self.look(|shown| shown.enough) {
            let begun = Instant::now();
            tokio::select! {
                () = self.run(&state_dir, local, &inbox) => {}
                () = stop.cancelled() => return,
            }
            failed = if begun.elapsed() >= WELL { 0 } else { failed + 1 };
            let pause = doubled(FIRST_PAUSE, u32::saturating_sub(failed, 1), LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn run(&self, state_dir: &StateDir, local: WorkerOptions, inbox: &Inbox) {
        let (worker, block) = (ids::worker(), ids::block());
        match launch(state_dir, local, worker, block).and_then(|launch| Process::launch(&launch)) {
            Ok(process) => {
                tracing::info!(%worker, pid = process.name().pid, "a worker was started");
                self.watch(worker, process, inbox).await;
            }
            Err(error) => {
                tracing::error!(%error, "no worker can be started");
                self.look(|shown| shown.trouble = Some(format!("no worker can be started: {error}")));
            }
        }
    }

    async fn watch(&self, worker: WorkerId, mut process: Process, inbox: &Inbox) {
        let name = process.name().clone();
        self.look(|shown| {
            shown.trouble = None;
            shown.processes.push(name.clone());
        });
        let ending = process.ended().await;
        tracing::warn!(%worker, %ending, "a worker has ended");
        clear_away(worker).await;
        self.look(|shown| {
            shown.trouble = Some(format!("worker {worker} (process {}) {ending}; see its log", name.pid));
            shown.processes.retain(|process| *process != name);
        });
        inbox.put(InboxEvent::Ended { worker, ending }).await;
    }

    fn look<T>(&self, with: impl FnOnce(&mut Shown) -> T) -> T {
        with(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends what a dead worker's attempts have left: their leaders died with it, what those had started may run on. Its
/// tasks are given out anew after that.
async fn clear_away(worker: WorkerId) {
    match tokio::task::spawn_blocking(move || kill_marked(MARK, &worker.to_string())).await {
        Ok(0) => {}
        Ok(processes) => tracing::warn!(%worker, processes, "a worker's processes were left, and are killed"),
        Err(error) => tracing::error!(%worker, %error, "looking for what a worker has left failed"),
    }
}

fn launch(state_dir: &StateDir, local: WorkerOptions, worker: WorkerId, block: BlockId) -> std::io::Result<Launch> {
    let WorkerOptions { slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } = local;
    let mut arguments: Vec<OsString> = vec!["worker".into(), "--directory".into(), state_dir.directory().into()];
    for (name, value) in [
        ("--worker", Some(worker.to_string())),
        ("--block", Some(block.to_string())),
        ("--slots", Some(slots.to_string())),
        ("--login-slots", Some(login_slots.to_string())),
        // the worker measures what is not said
        ("--threads", threads.map(|threads| threads.to_string())),
        ("--memory", memory.map(|memory| memory.to_string())),
        ("--gpus", Some(gpus.word().to_owned())),
        ("--slots-per-gpu", Some(slots_per_gpu.to_string())),
        ("--gpu-quiet-s", Some(gpu_quiet_s.to_string())),
    ] {
        arguments.extend(value.into_iter().flat_map(|value| [name.into(), value.into()]));
    }
    let log: PathBuf = state_dir.logs().join(format!("worker-{worker}.log"));
    Ok(Launch { program: std::env::current_exe()?, arguments, log, without: CREDENTIALS.into() })
}
