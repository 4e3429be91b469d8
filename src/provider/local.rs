//! The provider whose only block is this computer: a job is a worker's process. Gives workers no work.
//!
//! A worker goes on when its endpoint ends. Its process is known by more than its number, so that no other is taken for it;
//! its block's id in its arguments is its tag.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{BlockRequest, JobId, JobSight, JobState, Provider, ProviderError, SoughtBlock, SubmitAnswer};
use crate::config::endpoint::WorkerOptions;
use crate::ids::{BlockId, WorkerId};
use crate::runtime::contain;
use crate::runtime::ids;
use crate::runtime::process::{Launch, MARK, Process, ProcessName, argument_after, find_with_arguments, kill_marked};
use crate::runtime::tasks::spawn;
use crate::task::ending::Ending;
use crate::task::retry::doubled;

/// A worker that lasted so long was well: the next is started at once.
const WELL: Duration = Duration::from_secs(60);

/// The first pause after a worker that was not, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: an administrator who has mended what was wrong does not wait long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Jobs that are over and may still be asked for.
const ENDED_JOBS: usize = 64;

/// Variables that hold credentials: a worker needs none.
const CREDENTIALS: [&str; 2] = ["SPECKLED_TOKEN", "SPECKLED_TOKEN_FILE"];

/// Arguments of a worker.
const BLOCK: &str = "--block";
const WORKER: &str = "--worker";

/// What a worker of this computer is started with.
#[derive(Debug, Clone)]
pub struct LocalLaunch {
    /// The endpoint's directory.
    pub directory: PathBuf,
    /// Where workers' logs are.
    pub logs: PathBuf,
    /// What the worker may use.
    pub local: WorkerOptions,
}

/// This computer.
#[derive(Debug, Clone)]
pub struct LocalProvider {
    launch: LocalLaunch,
    jobs: Arc<Mutex<Jobs>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Jobs {
    by_block: BTreeMap<BlockId, LocalJob>,
    pace: Pace,
}

#[derive(Debug, Clone)]
struct LocalJob {
    name: LocalJobName,
    ending: Option<Ending>,
}

/// The text of a job's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalJobName {
    worker: WorkerId,
    process: ProcessName,
}

/// How fast workers that are not well are started one after the other.
#[derive(Debug, Default)]
struct Pace {
    failed: u32,
    not_before: Option<Instant>,
}

impl LocalProvider {
    /// With what its workers are started with.
    pub fn new(launch: LocalLaunch) -> Self {
        Self { launch, jobs: Arc::default(), changed: Arc::default() }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a job's process, in a task of its own, which ends with it.
    fn watch(&self, block: BlockId, worker: WorkerId, mut process: Process) -> LocalJobName {
        let name = LocalJobName { worker, process: process.name().clone() };
        self.jobs().by_block.insert(block, LocalJob { name: name.clone(), ending: None });
        let (provider, begun) = (self.clone(), Instant::now());
        spawn("local block", async move {
            let ending = process.ended().await;
            clear_away(worker).await;
            provider.jobs().end(block, ending, begun.elapsed());
            provider.changed.notify_one();
        });
        name
    }

    /// The job of a block that another process of the endpoint started.
    async fn adopt(&self, block: BlockId, name: LocalJobName) {
        match Process::find(&name.process) {
            Some(process) => {
                tracing::info!(%block, worker = %name.worker, pid = name.process.pid, "a worker of an earlier process goes on");
                self.watch(block, name.worker, process);
            }
            None => {
                clear_away(name.worker).await;
                let mut jobs = self.jobs();
                jobs.by_block.insert(block, LocalJob { name, ending: None });
                jobs.end(block, Ending::Unknown, WELL);
            }
        }
    }
}

impl Provider for LocalProvider {
    async fn submit(&self, BlockRequest { block }: BlockRequest) -> SubmitAnswer {
        let not_before = self.jobs().pace.not_before;
        if let Some(moment) = not_before {
            tokio::time::sleep_until(moment).await;
        }
        let worker = ids::worker();
        match self.launch.of(worker, block).and_then(|launch| Process::launch(&launch)) {
            Ok(process) => {
                tracing::info!(%worker, %block, pid = process.name().pid, "a worker was started");
                SubmitAnswer::Named(self.watch(block, worker, process).id())
            }
            Err(error) => SubmitAnswer::Refused(format!("no worker can be started: {error}")),
        }
    }

    async fn look(&self, blocks: Vec<SoughtBlock>) -> Result<Vec<JobSight>, ProviderError> {
        let mut found = Vec::with_capacity(blocks.len());
        for SoughtBlock { block, job } in blocks {
            if !self.jobs().by_block.contains_key(&block) {
                let Some(name) = name_of(block, job.as_ref()).await else { continue };
                self.adopt(block, name).await;
            }
            let Some(LocalJob { name, ending }) = self.jobs().by_block.get(&block).cloned() else { continue };
            let state = ending.map_or(JobState::Running { ends: None }, JobState::Ended);
            found.push(JobSight { block, job: name.id(), state });
        }
        Ok(found)
    }

    async fn cancel(&self, jobs: Vec<JobId>) -> Result<(), ProviderError> {
        jobs.iter().filter_map(LocalJobName::of).for_each(|name| name.process.kill());
        Ok(())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Jobs {
    fn end(&mut self, block: BlockId, ending: Ending, lasted: Duration) {
        if let Some(job) = self.by_block.get_mut(&block) {
            job.ending = Some(ending);
            tracing::warn!(%block, worker = %job.name.worker, %ending, "a worker has ended");
        }
        self.pace.note(lasted);
        let ended = self.by_block.iter().filter(|(other, job)| **other != block && job.ending.is_some());
        let old: Vec<BlockId> = ended.map(|(block, _)| *block).collect();
        let surplus = old.len().saturating_sub(ENDED_JOBS);
        old.into_iter().take(surplus).for_each(|block| {
            self.by_block.remove(&block);
        });
    }
}

impl Pace {
    fn note(&mut self, lasted: Duration) {
        if lasted >= WELL {
            (self.failed, self.not_before) = (0, None);
            return;
        }
        self.failed += 1;
        let pause = doubled(FIRST_PAUSE, self.failed.saturating_sub(1), LONGEST_PAUSE);
        self.not_before = Some(Instant::now() + pause);
    }
}

impl LocalJobName {
    fn of(job: &JobId) -> Option<Self> {
        serde_json::from_str(job.as_str()).ok()
    }

    fn id(&self) -> JobId {
        // a plain struct always has a text form
        JobId::new(serde_json::to_string(self).unwrap_or_default())
    }
}

impl LocalLaunch {
    fn of(&self, worker: WorkerId, block: BlockId) -> std::io::Result<Launch> {
        let Self { directory, logs, local } = self;
        let WorkerOptions { slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } = *local;
        let mut arguments: Vec<OsString> = vec!["worker".into(), "--directory".into(), directory.into()];
        for (name, value) in [
            (WORKER, Some(worker.to_string())),
            (BLOCK, Some(block.to_string())),
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
        let log: PathBuf = logs.join(format!("worker-{worker}.log"));
        Ok(Launch { program: std::env::current_exe()?, arguments, log, without: CREDENTIALS.into() })
    }
}

/// The worker of a block, by its job's id or, where nobody noted that, by its tag.
async fn name_of(block: BlockId, job: Option<&JobId>) -> Option<LocalJobName> {
    match job.and_then(LocalJobName::of) {
        Some(name) => Some(name),
        None => tokio::task::spawn_blocking(move || find_by_tag(block)).await.ok().flatten(),
    }
}

/// Ends the worker of a block, with what its attempts have started: nobody will take it over.
pub async fn end_left(block: BlockId, job: Option<&JobId>) {
    let Some(name) = name_of(block, job).await else { return };
    if let Some(mut process) = Process::find(&name.process) {
        name.process.kill();
        process.ended().await;
    }
    clear_away(name.worker).await;
}

/// The worker of a block whose job nobody noted. Blocks.
fn find_by_tag(block: BlockId) -> Option<LocalJobName> {
    let process = find_with_arguments(&[BLOCK, &block.to_string()])?;
    let worker = argument_after(&process, WORKER)?.parse().ok()?;
    Some(LocalJobName { worker, process })
}

/// Ends what a dead worker's attempts have left: their leaders died with it, what those had started may run on. Its
/// tasks are given out anew after that.
async fn clear_away(worker: WorkerId) {
    let clear = move || {
        let owner = worker.to_string();
        contain::clear(&owner);
        kill_marked(MARK, &owner)
    };
    match tokio::task::spawn_blocking(clear).await {
        Ok(0) => {}
        Ok(processes) => tracing::warn!(%worker, processes, "a worker's processes were left, and are killed"),
        Err(error) => tracing::error!(%worker, %error, "looking for what a worker has left failed"),
    }
}
