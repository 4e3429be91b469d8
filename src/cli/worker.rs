//! `speckled worker`, which endpoints and their blocks start: runs attempts until its endpoint has it leave.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

use super::exit::{Exit, Failure};
use super::logging;
use super::output::Form;
use super::service::{single, until_signalled};
use crate::dataset::result::host_name;
use crate::endpoint::home::{Home, HomeError};
use crate::ids::{BlockId, WorkerId};
use crate::rpc::home::HomeDial;
use crate::runtime::tasks::Tasks;
use crate::task::session::Credit;
use crate::worker::daemon::{self, Settings};
use crate::worker::executor::{ExecutorError, Executors, Setup, Slot};

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
}

/// Why a worker ended.
#[derive(Debug, Error)]
pub(super) enum WorkerFailure {
    /// The endpoint's directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its executors.
    #[error(transparent)]
    Executors(#[from] ExecutorError),
    /// This program's own file.
    #[error("the system does not tell where this program's file is")]
    Program(#[source] std::io::Error),
    /// The work.
    #[error(transparent)]
    Worker(#[from] daemon::WorkerError),
}

/// Runs the command.
pub(super) fn run(args: WorkerArgs) -> Result<Exit, Failure> {
    logging::init_daemon(Form::Human);
    single(work(args))
}

async fn work(args: WorkerArgs) -> Result<Exit, Failure> {
    let WorkerArgs { directory, worker, block, slots, login_slots, threads, memory } = args;
    let home = Home::new(directory);
    let setup = Setup::new(worker, home.logs(), home.scratch()).map_err(WorkerFailure::Program)?;
    let executors = Executors::start(setup).map_err(WorkerFailure::Executors)?;
    let dial = HomeDial { socket: home.socket().map_err(WorkerFailure::Home)? };
    let room = Credit { slots, login: login_slots };
    let settings = Settings { worker, block, host: host_name(), room, slot: Slot { threads, memory, gpu: None } };
    let tasks = Tasks::default();
    let asked = tasks.stopping();
    tasks.spawn("signals", {
        let asked = asked.clone();
        async move { until_signalled("worker", &asked).await }
    });
    let ended = daemon::run(settings, executors, dial, asked).await;
    tasks.stop();
    tasks.join().await;
    ended.map_err(WorkerFailure::Worker)?;
    Ok(Exit::Success)
}
