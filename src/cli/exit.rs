//! Exit codes, and the one line on stderr that goes with each but success.
//!
//! boost_corr's codes where it has one, so that flows that look at them go on working.

use thiserror::Error as ThisError;

use super::corr::{ConfigError, OptionError};
use super::service::ServiceError;
use super::service::endpoint::StateDirFailure;
use super::worker::WorkerFailure;
use crate::compute::job::JobError;
use crate::dataset::DatasetError;
use crate::engine::EngineError;
use crate::engine::cuda::NoGpu;
use crate::worker::assignment::AssignmentError;

pub(super) use crate::task::failure::chain;

/// What the process ends with. `docs/exit-codes.md` is the same table for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All done.
    Success,
    /// The command line cannot be understood.
    Usage,
    /// A parameter has a value that cannot be used.
    Input,
    /// The controller does not answer.
    Unavailable,
    /// The device that was asked for is not there.
    Device,
    /// The qmap.
    Qmap,
    /// The raw data or the metadata.
    Dataset,
    /// The data cannot be correlated.
    Correlator,
    /// Anything else inside.
    Processing,
    /// The result.
    Saving,
    /// The controller refuses, or there is no such thing.
    Refused,
    /// The configuration file.
    Configuration,
    /// A signal, by its number.
    Signal(u8),
}

impl Exit {
    /// The number.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 2,
            Self::Input => 65,
            Self::Unavailable => 69,
            Self::Device => 70,
            Self::Qmap => 72,
            Self::Dataset => 73,
            Self::Correlator => 74,
            Self::Processing => 75,
            Self::Saving => 76,
            Self::Refused => 77,
            Self::Configuration => 78,
            Self::Signal(number) => 128 | number,
        }
    }
}

/// Why a command failed.
#[derive(Debug, ThisError)]
pub(super) enum Failure {
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A file to be described or made.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// An endpoint of this computer.
    #[error(transparent)]
    StateDir(#[from] StateDirFailure),
    /// A worker.
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    /// What an executor was given to do.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    /// The signal handlers could not be installed.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// The GPU that was asked for.
    #[error("-i asks for a GPU; take -i -1 for the CPU")]
    Gpu(#[source] NoGpu),
    /// The thread that watches the reading of inputs could not be started.
    #[error("cannot start a thread")]
    Watchdog(#[source] std::io::Error),
    /// Standard output is broken in another way than by a reader that has left.
    #[error("cannot write to standard output")]
    Stdout(#[source] std::io::Error),
}

impl Failure {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Option(OptionError::NoRaw) => Exit::Usage,
            Self::Option(OptionError::NoQmap) => Exit::Qmap,
            Self::Option(OptionError::Value { .. } | OptionError::Parts { .. } | OptionError::Selection(_)) => {
                Exit::Input
            }
            Self::Gpu(_) => Exit::Device,
            Self::Config(_) => Exit::Configuration,
            Self::Job(error) => of_job(error),
            Self::Dataset(error) => of_dataset(error),
            Self::Service(error) => error.exit(),
            Self::StateDir(error) => error.exit(),
            Self::Worker(_) => Exit::Processing,
            Self::Assignment(_) => Exit::Input,
            Self::Signals(_) | Self::Watchdog(_) => Exit::Processing,
            Self::Stdout(_) => Exit::Saving,
        }
    }
}

fn of_job(error: &JobError) -> Exit {
    match error {
        JobError::Metadata(_) | JobError::Raw(_) => Exit::Dataset,
        JobError::Qmap(_) => Exit::Qmap,
        JobError::Window { .. } | JobError::Parts { .. } | JobError::Bins { .. } => Exit::Input,
        JobError::Save(_) => Exit::Saving,
        JobError::Correlate { source, .. } => of_engine(source),
    }
}

fn of_engine(error: &EngineError) -> Exit {
    match error {
        EngineError::Read(_) => Exit::Dataset,
        EngineError::Partition(_) => Exit::Qmap,
        EngineError::Saturated(_) | EngineError::Value { .. } | EngineError::Memory { .. } => Exit::Correlator,
        EngineError::Device { .. } => Exit::Device,
        EngineError::Store(_) => Exit::Saving,
        // Ctrl-C; the command replaces it by the signal that really came.
        EngineError::Cancelled => Exit::Signal(2),
    }
}

fn of_dataset(error: &DatasetError) -> Exit {
    match error {
        DatasetError::Qmap { .. } => Exit::Qmap,
        DatasetError::Save { .. } => Exit::Saving,
        DatasetError::Scene { .. } => Exit::Input,
        DatasetError::Io { .. }
        | DatasetError::Hdf5 { .. }
        | DatasetError::Raw { .. }
        | DatasetError::Unsupported { .. }
        | DatasetError::Metadata { .. } => Exit::Dataset,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_chain_is_one_line() {
        let io = std::io::Error::other("first\n  second");
        let error = Failure::from(DatasetError::io("open", Path::new("/a"), io));
        assert_eq!(chain(&error), "cannot open /a: first second");
        assert_eq!(error.exit().code(), 73);
    }

    #[test]
    fn signals_follow_the_shell() {
        assert_eq!(Exit::Signal(2).code(), 130);
        assert_eq!(Exit::Signal(15).code(), 143);
    }

    #[test]
    fn the_table_for_users_has_every_code() {
        let table = include_str!("../../docs/exit-codes.md");
        let exits = [
            Exit::Success,
            Exit::Usage,
            Exit::Input,
            Exit::Unavailable,
            Exit::Device,
            Exit::Qmap,
            Exit::Dataset,
            Exit::Correlator,
            Exit::Processing,
            Exit::Saving,
            Exit::Refused,
            Exit::Configuration,
            Exit::Signal(2),
        ];
        for exit in exits {
            assert!(table.contains(&format!("| {} |", exit.code())), "{exit:?}");
        }
    }
}
