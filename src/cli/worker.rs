//! `speckled worker`, which endpoints and their blocks start: runs attempts until its endpoint has it leave.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use thiserror::Error;
use tokio::sync::Notify;

use super::exit::{CommandError, Exit, Failure};
use super::logging;
use super::output::Form;
use super::service::{single, until_signalled};
use crate::config::endpoint::GpuUse;
use crate::dataset::result::host_name;
use crate::endpoint::state_dir::{StateDir, StateDirError};
use crate::gpu::WatchError;
use crate::ids::{BlockId, WorkerId};
use crate::rpc::endpoint_link::EndpointDial;
use crate::runtime::tasks::Tasks;
use crate::worker::daemon::{self, WorkerSettings};
use crate::worker::executor::{ExecutorError, Executors, Setup, Slot};
use crate::worker::gpus::{Choice, Gpus};

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The endpoint's directory
    #[arg(long)]
    directory: PathBuf,
    /// Which worker it is
    #[arg(long)]
    worker: WorkerId,
    /// Part of which block
    #[arg(long)]
    block: BlockId,
    /// Attempts that compute, at once
    #[arg(long)]
    slots: u32,
    /// Attempts that do not
    #[arg(long)]
    login_slots: u32,
    /// Threads of each
    #[arg(long)]
    threads: NonZeroUsize,
    /// Bytes of memory of each
    #[arg(long)]
    memory: u64,
    /// Whether slots are those of GPUs
    #[arg(long, value_parser = gpu_use)]
    gpus: GpuUse,
    /// Attempts that compute at once on each GPU
    #[arg(long)]
    slots_per_gpu: NonZeroU32,
    /// Seconds for which a GPU must have been well before it is tested again
    #[arg(long)]
    gpu_quiet_s: u32,
}

fn gpu_use(word: &str) -> Result<GpuUse, String> {
    let found = [GpuUse::Auto, GpuUse::None].into_iter().find(|choice| choice.word() == word);
    found.ok_or_else(|| format!("{word} is neither auto nor none"))
}

/// Why a worker ended.
#[derive(Debug, Error)]
pub(super) enum WorkerFailure {
    /// The endpoint's directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Its executors.
    #[error(transparent)]
    Executors(#[from] ExecutorError),
    /// This program's own file.
    #[error("the system does not tell where this program's file is")]
    Program(#[source] std::io::Error),
    /// Its GPUs.
    #[error("the GPUs of this computer cannot be watched")]
    Gpus(#[source] WatchError),
    /// Its GPUs.
    #[error("looking for GPUs has failed")]
    Look(#[source] tokio::task::JoinError),
    /// The work.
    #[error(transparent)]
    Worker(#[from] daemon::WorkerError),
}

impl CommandError for WorkerFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::StateDir(_)
            | Self::Executors(_)
            | Self::Program(_)
            | Self::Gpus(_)
            | Self::Look(_)
            | Self::Worker(_) => Exit::Processing,
        }
    }
}

/// Runs the command.
pub(super) fn run(args: WorkerArgs) -> Result<Exit, Failure> {
    logging::init_daemon(Form::Human);
    single(work(args))
}

async fn work(args: WorkerArgs) -> Result<Exit, Failure> {
    let WorkerArgs { directory, worker, block, slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } =
        args;
    let state_dir = StateDir::new(directory);
    let setup = Setup::new(worker, state_dir.logs(), state_dir.scratch()).map_err(WorkerFailure::Program)?;
    let executors = Executors::start(setup).map_err(WorkerFailure::Executors)?;
    let dial = EndpointDial { socket: state_dir.socket().map_err(WorkerFailure::StateDir)? };
    let choice = Choice { gpus, slots, slots_per_gpu, quiet: Duration::from_secs(gpu_quiet_s.into()) };
    let changed = Arc::new(Notify::new());
    let tell = Arc::clone(&changed);
    // it waits for the driver
    let gpus = tokio::task::spawn_blocking(move || Gpus::start(choice, move || tell.notify_one()));
    let gpus = gpus.await.map_err(WorkerFailure::Look)?.map_err(WorkerFailure::Gpus)?;
    let slot = Slot { threads, memory, gpu: None };
    let settings = WorkerSettings { worker, block, host: host_name(), slots, login_slots, slot };
    let tasks = Tasks::default();
    let asked = tasks.stopping();
    tasks.spawn("signals", {
        let asked = asked.clone();
        async move { until_signalled("worker", &asked).await }
    });
    let ended = daemon::run(settings, gpus, changed, executors, dial, asked).await;
    tasks.stop();
    tasks.join().await;
    ended.map_err(WorkerFailure::Worker)?;
    Ok(Exit::Success)
}
