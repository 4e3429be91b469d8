//! Ends the program when the HDF5 library does not come to an end with a damaged qmap or metadata file.
//!
//! Bytes can be damaged so that the library goes round in a circle, holding its lock. Nothing but the end of the
//! process stops it, so that is what happens, with the line and the exit code of a damaged file. Computing time is
//! what counts: a slow disk takes none.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::super::exit::Failure;
use super::super::output;
use crate::dataset::DatasetError;
use crate::worker::job::{Input, InputWatch, JobError};

/// Sets the limit, in seconds.
const VARIABLE: &str = "SPECKLED_INPUT_LIMIT_S";

/// Computing time that no sound qmap or metadata file takes: the largest take a second.
const LIMIT: Duration = Duration::from_secs(60);

/// How often the clock is looked at while an input is read.
const PERIOD: Duration = Duration::from_millis(100);

/// Watches from a thread of its own, which ends with the program.
#[derive(Debug)]
pub(super) struct Watchdog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    reading: Mutex<Option<Reading>>,
    begun: Condvar,
}

#[derive(Debug)]
struct Reading {
    input: Input,
    /// Computing time of the process when it began.
    since: Duration,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start() -> io::Result<Self> {
        let seconds = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LIMIT);
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || watched.watch(limit))?;
        Ok(Self(shared))
    }
}

impl InputWatch for Watchdog {
    fn begin(&self, input: Input) {
        *self.0.lock() = Some(Reading { input, since: computing_time() });
        self.0.begun.notify_one();
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Reading>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, limit: Duration) -> ! {
        let mut reading = self.lock();
        loop {
            reading = match &*reading {
                // Still locked: the end cannot be told any more, and nobody goes on meanwhile.
                Some(Reading { input, since }) if computing_time().saturating_sub(*since) > limit => end(input, limit),
                Some(_) => self.begun.wait_timeout(reading, PERIOD).unwrap_or_else(PoisonError::into_inner).0,
                None => self.begun.wait(reading).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Tells why and leaves without the library's own clean-up, which would wait for what never ends.
fn end(input: &Input, limit: Duration) -> ! {
    let what = format!("the HDF5 library has not come to its end in {} s of computing", limit.as_secs_f64());
    let remedy = "the file is damaged; copy it again";
    let failure = Failure::Job(match input {
        Input::Qmap(path) => JobError::Qmap(DatasetError::Qmap { path: path.clone(), what, remedy }),
        Input::Metadata(path) => JobError::Metadata(DatasetError::Metadata { path: path.clone(), what, remedy }),
    });
    output::error(&failure);
    signal_hook::low_level::exit(failure.exit().code().into())
}

fn computing_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
