//! `speckled worker`, which endpoints and their blocks start: runs attempts until its endpoint has it leave.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;
use thiserror::Error;
use tokio::sync::Notify;

use super::exit::{CommandError, Exit, Failure};
use super::logging;
use super::output::Form;
use super::service::{single, until_signalled};
use crate::compute::memory::MOST_UNASKED;
use crate::config::endpoint::{GpuUse, WorkerOptions};
use crate::dataset::result::host_name;
use crate::endpoint::block_files::{BlockFile, BlockFileError};
use crate::endpoint::state_dir::{StateDir, StateDirError};
use crate::gpu::WatchError;
use crate::ids::{BlockId, WorkerId};
use crate::rpc::endpoint_link::{EndpointDial, LinkDial};
use crate::runtime::tasks::Tasks;
use crate::runtime::{ids, node};
use crate::worker::daemon::{self, WorkerSettings};
use crate::worker::executor::{ExecutorError, Executors, Setup, Slot};
use crate::worker::gpus::{Choice, Gpus};

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The file of a block, on a computer that is not the endpoint's; the endpoint is reached by what it says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["directory", "block"], required_unless_present = "directory")]
    block_file: Option<PathBuf>,
    /// The endpoint's directory, on its own computer
    #[arg(long, requires = "block")]
    directory: Option<PathBuf>,
    /// Part of which block
    #[arg(long)]
    block: Option<BlockId>,
    /// Which worker it is [default: a new one]
    #[arg(long)]
    worker: Option<WorkerId>,
    /// Where attempts have their directories while they run, in place of TMPDIR; with --block-file
    #[arg(long, value_name = "DIR", requires = "block_file")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArgs,
}

/// How it shares its node; what is not said here the block's file says, or the node has.
#[derive(Debug, Args)]
struct OptionArgs {
    /// Attempts that compute, at once
    #[arg(long)]
    slots: Option<u32>,
    /// Attempts that do not
    #[arg(long)]
    login_slots: Option<u32>,
    /// Threads of each
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Bytes of memory of each
    #[arg(long)]
    memory: Option<u64>,
    /// Whether slots are those of GPUs
    #[arg(long, value_parser = gpu_use)]
    gpus: Option<GpuUse>,
    /// Attempts that compute at once on each GPU
    #[arg(long)]
    slots_per_gpu: Option<NonZeroU32>,
    /// Seconds for which a GPU must have been well before it is tested again
    #[arg(long)]
    gpu_quiet_s: Option<u32>,
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
    /// Its block's file.
    #[error(transparent)]
    BlockFile(#[from] BlockFileError),
    /// Where attempts have their directories.
    #[error("cannot make a directory in {}; give another with --scratch", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
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
            | Self::Worker(_)
            | Self::BlockFile(_)
            | Self::Scratch { .. } => Exit::Processing,
        }
    }
}

/// Where a worker belongs, and what it needs there.
struct Home {
    block: BlockId,
    dial: EndpointDial,
    options: WorkerOptions,
    logs: PathBuf,
    scratch: PathBuf,
    /// Removed when the worker ends.
    _own: Option<TempDir>,
}

/// Runs the command.
pub(super) fn run(args: WorkerArgs) -> Result<Exit, Failure> {
    logging::init_daemon(Form::Human);
    single(work(args))
}

async fn work(args: WorkerArgs) -> Result<Exit, Failure> {
    let worker = args.worker.unwrap_or_else(ids::worker);
    let Home { block, dial, options, logs, scratch, _own } = home(args, worker)?;
    let node = node::measure();
    let (threads, memory) = options.share(node.cpus, node.free.unwrap_or(MOST_UNASKED));
    tracing::info!(%worker, cpus = node.cpus, memory = node.memory, free = node.free, threads, slot_memory = memory, "this node");
    let setup = Setup::new(worker, logs, scratch).map_err(WorkerFailure::Program)?;
    let executors = Executors::start(setup).map_err(WorkerFailure::Executors)?;
    let WorkerOptions { slots, login_slots, gpus, slots_per_gpu, gpu_quiet_s, .. } = options;
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

fn home(args: WorkerArgs, worker: WorkerId) -> Result<Home, WorkerFailure> {
    let WorkerArgs { block_file, directory, block, worker: _, scratch, options } = args;
    match block_file {
        Some(path) => {
            let BlockFile { block, address: _, secret: _, worker: usual } = BlockFile::read(&path)?;
            let parent = scratch.unwrap_or_else(std::env::temp_dir);
            let named = format!("speckled-worker-{worker}-");
            let own = tempfile::Builder::new().prefix(&named).tempdir_in(&parent);
            let own = own.map_err(|source| WorkerFailure::Scratch { path: parent, source })?;
            let [logs, scratch] = ["logs", "scratch"].map(|name| own.path().join(name));
            let dial = EndpointDial::Link(LinkDial::new(path));
            Ok(Home { block, dial, options: options.over(usual), logs, scratch, _own: Some(own) })
        }
        None => {
            // clap has seen to both
            let state_dir = StateDir::new(directory.unwrap_or_default());
            let dial = EndpointDial::Socket(state_dir.socket()?);
            let (logs, scratch) = (state_dir.logs(), state_dir.scratch());
            let options = options.over(WorkerOptions::default());
            Ok(Home { block: block.unwrap_or_else(ids::block), dial, options, logs, scratch, _own: None })
        }
    }
}

impl OptionArgs {
    /// What is said here, in place of what is usual.
    fn over(self, usual: WorkerOptions) -> WorkerOptions {
        let Self { slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } = self;
        WorkerOptions {
            slots: slots.unwrap_or(usual.slots),
            login_slots: login_slots.unwrap_or(usual.login_slots),
            threads: threads.or(usual.threads),
            memory: memory.or(usual.memory),
            gpus: gpus.unwrap_or(usual.gpus),
            slots_per_gpu: slots_per_gpu.unwrap_or(usual.slots_per_gpu),
            gpu_quiet_s: gpu_quiet_s.unwrap_or(usual.gpu_quiet_s),
        }
    }
}
