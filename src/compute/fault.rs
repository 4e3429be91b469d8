//! Whose fault it is that a correlation failed: that decides whether it is tried again. Decides nothing else.

use std::io;

use super::job::JobError;
use crate::dataset::DatasetError;
use crate::engine::EngineError;
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::Outcome;

/// Errors that the next attempt would meet too; not a full disk, a file system that does not answer, and the like.
const LASTING: [io::ErrorKind; 9] = [
    io::ErrorKind::NotFound,
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::IsADirectory,
    io::ErrorKind::NotADirectory,
    io::ErrorKind::InvalidFilename,
    io::ErrorKind::InvalidInput,
    io::ErrorKind::InvalidData,
    io::ErrorKind::UnexpectedEof,
];

/// How an attempt ended whose job failed.
pub fn outcome(error: &JobError) -> Outcome {
    match of_job(error) {
        Verdict::Failed(fault) => Outcome::Failed(Failure::of(fault, error)),
        Verdict::Cancelled => Outcome::Cancelled,
        Verdict::Lost(loss) => Outcome::Lost(loss),
    }
}

/// What an error says of its job.
enum Verdict {
    Failed(Fault),
    /// It was stopped as asked.
    Cancelled,
    /// It would do elsewhere.
    Lost(Loss),
}

/// Whose fault an error of the system is: what the file system holds and allows is the task's own, the rest may pass.
pub fn of_system(error: &io::Error) -> Fault {
    if LASTING.contains(&error.kind()) { Fault::Input } else { Fault::Program }
}

fn of_job(error: &JobError) -> Verdict {
    Verdict::Failed(match error {
        JobError::Metadata(error) | JobError::Qmap(error) | JobError::Raw(error) | JobError::Save(error) => {
            of_dataset(error)
        }
        JobError::Window { .. } | JobError::Parts { .. } | JobError::Bins { .. } => Fault::Input,
        JobError::Correlate { source, .. } => return of_engine(source),
        JobError::Stopped => return Verdict::Cancelled,
    })
}

fn of_engine(error: &EngineError) -> Verdict {
    Verdict::Failed(match error {
        EngineError::Read(error) | EngineError::Store(error) => of_dataset(error),
        // the slot's memory is the same next time
        EngineError::Partition(_)
        | EngineError::Saturated(_)
        | EngineError::Value { .. }
        | EngineError::Memory { .. } => Fault::Input,
        EngineError::Device { source, .. } if source.is_fault() => return Verdict::Lost(Loss::GpuFault),
        // another GPU, or this one at another time, may have more memory
        EngineError::Device { .. } => Fault::Program,
        EngineError::Cancelled => return Verdict::Cancelled,
    })
}

fn of_dataset(error: &DatasetError) -> Fault {
    match error {
        DatasetError::Io { source, .. } => of_system(source),
        DatasetError::Outside { .. }
        | DatasetError::Hdf5 { .. }
        | DatasetError::Raw { .. }
        | DatasetError::Unsupported { .. }
        | DatasetError::Qmap { .. }
        | DatasetError::Metadata { .. }
        | DatasetError::Damaged { .. }
        | DatasetError::Scene { .. } => Fault::Input,
        // a full disk may have room later; a process that was killed is not killed each time
        DatasetError::Save { .. } | DatasetError::Reader { .. } => Fault::Program,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dataset::reader::ReaderEnd;

    fn failure(error: &JobError) -> Failure {
        match outcome(error) {
            Outcome::Failed(failure) => failure,
            other @ (Outcome::Succeeded | Outcome::Cancelled | Outcome::Lost(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_message_has_every_cause() {
        let cause = DatasetError::io("open", Path::new("/data/q.hdf"), io::Error::from(io::ErrorKind::NotFound));
        let failure = failure(&JobError::Qmap(cause));
        assert_eq!(failure.fault, Fault::Input);
        assert_eq!(failure.message(), "reading the qmap failed: cannot open /data/q.hdf: entity not found");
    }

    /// Once: a file that kills its reader kills the next one, too. What killed the reader from outside is gone by then.
    #[test]
    fn a_file_that_kills_its_reader_is_the_tasks_fault() {
        let damaged = DatasetError::Damaged { path: "/raw".into(), end: ReaderEnd::Signal(11) };
        let failed = failure(&JobError::Raw(damaged));
        assert_eq!(failed.fault, Fault::Input);
        assert!(failed.message().contains("/raw: the HDF5 library died by signal 11"), "{}", failed.message());
        let killed =
            || DatasetError::Reader { path: "/raw".into(), source: io::Error::other("the process was killed") };
        assert_eq!(failure(&JobError::Qmap(killed())).fault, Fault::Program);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let system = |kind| DatasetError::io("read", Path::new("/raw"), io::Error::from(kind));
        let correlate = |source| JobError::Correlate { raw: "/raw".into(), source: Box::new(source) };
        let read = |kind| correlate(EngineError::Read(system(kind)));
        assert_eq!(failure(&read(io::ErrorKind::TimedOut)).fault, Fault::Program);
        assert_eq!(failure(&read(io::ErrorKind::UnexpectedEof)).fault, Fault::Input);
        let full = || DatasetError::Save { action: "write".into(), path: "/r".into(), source: "full".into() };
        assert_eq!(failure(&JobError::Save(full())).fault, Fault::Program);
        assert_eq!(failure(&correlate(EngineError::Store(full()))).fault, Fault::Program);
        assert_eq!(outcome(&correlate(EngineError::Cancelled)), Outcome::Cancelled);
    }
}
