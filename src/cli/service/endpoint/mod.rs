//! `speckled endpoint`: makes endpoints, starts and stops them, tells how they are. Each file a group of commands; here
//! are the options, and where an endpoint's directory is.

mod block;
mod configure;
mod control;
mod doctor;
mod forget;
mod list;
mod process;
mod start;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use thiserror::Error;

use process::NoProcess;

use super::wait;
use crate::cli::exit::{CommandError, Exit, Failure};
use crate::config::endpoint::ConfigError;
use crate::endpoint::daemon::EndpointError;
use crate::endpoint::journal::JournalError;
use crate::endpoint::state_dir::{StateDir, StateDirError};
use crate::rpc::service::link::LinkError;
use crate::task::names::EndpointName;

/// Where endpoints' directories are, unless SPECKLED_HOME says otherwise.
const HOME: &str = ".speckled";

/// Endpoints: where tasks run
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EndpointCommand {
    /// List the endpoints that you may see, as the controller knows them
    List(list::ListArgs),
    /// Make an endpoint's directory and its configuration
    Configure(configure::ConfigureArgs),
    /// Run an endpoint on this computer
    Start(start::StartArgs),
    /// Stop an endpoint on this computer
    Stop(control::StopArgs),
    /// Restart an endpoint; running tasks continue
    Restart(control::RestartArgs),
    /// Tell how an endpoint of this computer is, by its process, its journal and its controller
    Status(control::StatusArgs),
    /// Show the end of an endpoint's log
    Logs(control::LogsArgs),
    /// List the tasks that an endpoint has, from its journal
    Tasks(control::TasksArgs),
    /// Delete an endpoint: its directory, what its workers left, and its entry at the controller
    Delete(control::DeleteArgs),
    /// Have the controller forget an endpoint that is offline and has no tasks: its name is free
    Forget(forget::ForgetArgs),
    /// Check an endpoint and say what is wrong
    Doctor(doctor::DoctorArgs),
    /// Open and end blocks by hand, whose workers connect from other computers
    #[command(subcommand)]
    Block(block::BlockCommand),
}

impl EndpointCommand {
    /// Whether it runs on when whoever started it has gone, or starts what does.
    pub(in crate::cli) fn is_lasting(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Restart(_))
    }
}

/// Which endpoint of this computer. Shown as it is given to a command.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct StateDirArgs {
    /// The endpoint's name; its directory is ~/.speckled/NAME [env: SPECKLED_HOME in place of ~/.speckled]
    name: EndpointName,
    /// Its directory, if it is another
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Why a command on an endpoint of this computer failed.
#[derive(Debug, Error)]
pub(in crate::cli) enum StateDirFailure {
    /// There is no state_dir directory.
    #[error("HOME is not set; give --directory or SPECKLED_HOME")]
    NoHome,
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Its journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The endpoint itself.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Its door for workers of other computers.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its process does not answer.
    #[error(transparent)]
    Process(#[from] NoProcess),
    /// It runs.
    #[error("endpoint {} runs (process {holder}); `speckled endpoint stop {at}` ends it", at.name)]
    Running {
        /// Which.
        at: StateDirArgs,
        /// The process.
        holder: String,
    },
    /// It was configured before.
    #[error("{} is there already; edit it, or give another name", path.display())]
    Configured {
        /// The configuration.
        path: PathBuf,
    },
    /// A path that the configuration cannot name.
    #[error("{} is not UTF-8, so that the configuration cannot name it; rename it", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// It did not become ready.
    #[error("endpoint {name} did not start: {reason}")]
    NotStarted {
        /// Which.
        name: EndpointName,
        /// What it said last.
        reason: String,
        /// What it ended with; None = it did not end by itself.
        exit: Option<Exit>,
    },
    /// It did not end.
    #[error("endpoint {} has not ended after {waited_s} s; see `speckled endpoint logs {at}`", at.name)]
    NotEnded {
        /// Which.
        at: StateDirArgs,
        /// So long was waited.
        waited_s: u64,
    },
    /// Its journal has what would be lost.
    #[error("endpoint {name} still has {tasks} tasks; start it so that it can report them, or give --force")]
    Tasks {
        /// Which.
        name: EndpointName,
        /// How many.
        tasks: usize,
    },
    /// Something is wrong.
    #[error("{failed} of {checks} checks failed")]
    Unwell {
        /// How many.
        failed: usize,
        /// Of how many.
        checks: usize,
    },
}

impl CommandError for StateDirFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Configuration,
            Self::NoHome
            | Self::NotText { .. }
            | Self::Configured { .. }
            | Self::Running { .. }
            | Self::Tasks { .. } => Exit::Input,
            Self::StateDir(_) | Self::Journal(_) => Exit::Saving,
            Self::Endpoint(EndpointError::StateDir(_) | EndpointError::Journal(_)) => Exit::Saving,
            Self::Endpoint(EndpointError::Link(_) | EndpointError::Replaced { .. }) => Exit::Refused,
            Self::Link(LinkError::Listen { .. } | LinkError::Addresses(_)) => Exit::Configuration,
            Self::Link(LinkError::Ca { .. } | LinkError::StateDir(_) | LinkError::Blocks(_)) => Exit::Saving,
            Self::Link(LinkError::Certificate(_) | LinkError::Tls(_)) => Exit::Processing,
            Self::Endpoint(EndpointError::Part) | Self::NotEnded { .. } | Self::Unwell { .. } => Exit::Processing,
            Self::Process(reason) => reason.exit(),
            Self::NotStarted { exit, .. } => exit.unwrap_or(Exit::Unavailable),
        }
    }
}

/// Runs the command.
pub(in crate::cli) fn run(command: EndpointCommand) -> Result<Exit, Failure> {
    match command {
        EndpointCommand::List(args) => wait(list::list(args)),
        EndpointCommand::Configure(args) => configure::run(&args),
        EndpointCommand::Start(args) => start::run(args),
        EndpointCommand::Stop(args) => control::stop(&args),
        EndpointCommand::Restart(args) => control::restart(&args),
        EndpointCommand::Status(args) => control::status(&args),
        EndpointCommand::Logs(args) => control::logs(&args),
        EndpointCommand::Tasks(args) => control::tasks(&args),
        EndpointCommand::Delete(args) => control::delete(&args),
        EndpointCommand::Forget(args) => wait(forget::forget(args)),
        EndpointCommand::Doctor(args) => doctor::run(&args),
        EndpointCommand::Block(command) => block::run(command),
    }
}

impl fmt::Display for StateDirArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.directory {
            Some(directory) => write!(f, "{} --directory {}", self.name, directory.display()),
            None => self.name.fmt(f),
        }
    }
}

impl StateDirArgs {
    /// Its directory.
    fn state_dir(&self) -> Result<StateDir, StateDirFailure> {
        if let Some(directory) = &self.directory {
            // processes that are started have other working directories
            return Ok(StateDir::new(std::path::absolute(directory).unwrap_or_else(|_| directory.clone())));
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let all = variable("SPECKLED_HOME").or_else(|| Some(variable("HOME")?.join(HOME)));
        Ok(StateDir::new(all.ok_or(StateDirFailure::NoHome)?.join(self.name.as_str())))
    }
}
