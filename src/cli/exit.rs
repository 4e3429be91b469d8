//! Exit codes, and the one line on stderr that goes with each but success.
//!
//! boost_corr's codes where it has one, so that flows that look at them go on working.

use std::error::Error;

use thiserror::Error as ThisError;

use crate::compute::job::JobError;
use crate::dataset::DatasetError;
use crate::dataset::reader::ReaderError;
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
    /// That of a command of this program that has failed; None for a number that none has.
    pub(super) fn of_code(code: i32) -> Option<Self> {
        [
            Self::Usage,
            Self::Input,
            Self::Unavailable,
            Self::Processing,
            Self::Saving,
            Self::Refused,
            Self::Configuration,
        ]
        .into_iter()
        .find(|exit| i32::from(exit.code()) == code)
    }

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

/// An error that ends a command: each knows its exit code, so that this file knows no command.
pub(super) trait CommandError: Error + Send + Sync + 'static {
    /// The exit code.
    fn exit(&self) -> Exit;
}

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Failure(Box<dyn CommandError>);

/// What any command may fail with.
#[derive(Debug, ThisError)]
pub(super) enum ProcessError {
    /// The signal handlers could not be installed.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// The GPU that was asked for.
    #[error("-i asks for a GPU; take -i -1 for the CPU")]
    Gpu(#[source] NoGpu),
    /// Standard output is broken in another way than by a reader that has left.
    #[error("cannot write to standard output")]
    Stdout(#[source] std::io::Error),
}

impl<E: CommandError> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Failure {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        self.0.exit()
    }

    /// What failed, and its causes, on one line.
    pub(super) fn words(&self) -> String {
        chain(self.0.as_ref())
    }
}

impl CommandError for ProcessError {
    fn exit(&self) -> Exit {
        match self {
            Self::Gpu(_) => Exit::Device,
            Self::Signals(_) => Exit::Processing,
            Self::Stdout(_) => Exit::Saving,
        }
    }
}

impl CommandError for AssignmentError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read(_) | Self::Parse(_) => Exit::Input,
        }
    }
}

impl CommandError for ReaderError {
    fn exit(&self) -> Exit {
        match self {
            Self::Limit(_) => Exit::Processing,
            Self::Socket(_) => Exit::Input,
        }
    }
}

impl CommandError for JobError {
    fn exit(&self) -> Exit {
        match self {
            Self::Metadata(_) | Self::Raw(_) => Exit::Dataset,
            Self::Qmap(_) => Exit::Qmap,
            Self::Window { .. } | Self::Parts { .. } | Self::Bins { .. } => Exit::Input,
            Self::Save(_) => Exit::Saving,
            Self::Correlate { source, .. } => of_engine(source),
            Self::Stopped => STOPPED,
        }
    }
}

impl CommandError for DatasetError {
    fn exit(&self) -> Exit {
        match self {
            Self::Qmap { .. } => Exit::Qmap,
            Self::Save { .. } => Exit::Saving,
            Self::Scene { .. } => Exit::Input,
            Self::Reader { .. } => Exit::Processing,
            Self::Io { .. }
            | Self::Outside { .. }
            | Self::Damaged { .. }
            | Self::Hdf5 { .. }
            | Self::Raw { .. }
            | Self::Unsupported { .. }
            | Self::Metadata { .. } => Exit::Dataset,
        }
    }
}

/// Work was stopped as Ctrl-C stops it.
const STOPPED: Exit = Exit::Signal(2);

fn of_engine(error: &EngineError) -> Exit {
    match error {
        EngineError::Read(_) => Exit::Dataset,
        EngineError::Partition(_) => Exit::Qmap,
        EngineError::Saturated(_) | EngineError::Value { .. } | EngineError::Memory { .. } => Exit::Correlator,
        EngineError::Device { .. } => Exit::Device,
        EngineError::Store(_) => Exit::Saving,
        // Ctrl-C; the command replaces it by the signal that really came.
        EngineError::Cancelled => STOPPED,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dataset::reader::ReaderEnd;

    #[test]
    fn the_chain_is_one_line() {
        let io = std::io::Error::other("first\n  second");
        let error = Failure::from(DatasetError::io("open", Path::new("/a"), io));
        assert_eq!(error.words(), "cannot open /a: first second");
        assert_eq!(error.exit().code(), 73);
    }

    #[test]
    fn a_file_that_kills_its_reader_is_told_by_what_it_is() {
        let damaged = || DatasetError::Damaged { path: "/a".into(), end: ReaderEnd::Signal(11) };
        let codes = [
            Failure::from(damaged()).exit(),
            Failure::from(JobError::Raw(damaged())).exit(),
            Failure::from(JobError::Qmap(damaged())).exit(),
        ];
        assert_eq!(codes.map(Exit::code), [73, 73, 72]);
        let killed = DatasetError::Reader { path: "/a".into(), source: std::io::Error::other("killed") };
        assert_eq!(Failure::from(killed).exit().code(), 75);
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
