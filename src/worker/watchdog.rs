//! Notices that the HDF5 library does not come to an end with a damaged qmap or metadata file.
//!
//! Bytes can be damaged so that the library goes round in a circle, holding its lock. Nothing but the end of the
//! process stops it, which whoever started the watch sees to, told the error of a damaged file. Computing time is what
//! counts: a slow disk takes none.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::compute::job::{Input, InputWatch, JobError};
use crate::dataset::DatasetError;

/// Sets the limit, in seconds.
const VARIABLE: &str = "SPECKLED_INPUT_LIMIT_S";

/// Computing time that no sound qmap or metadata file takes: the largest take a second.
const LIMIT: Duration = Duration::from_secs(60);

/// How often the clock is looked at while an input is read.
const PERIOD: Duration = Duration::from_millis(100);

/// Watches from a thread of its own, which ends with the program.
#[derive(Debug)]
pub struct Watchdog(Arc<Shared>);

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
    /// Starts the thread. `end` ends the program; what it calls must not wait for the library.
    ///
    /// # Errors
    /// The system's.
    pub fn start(end: fn(JobError) -> !) -> io::Result<Self> {
        let seconds = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LIMIT);
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || watched.watch(limit, end))?;
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

    fn watch(&self, limit: Duration, end: fn(JobError) -> !) -> ! {
        let mut reading = self.lock();
        loop {
            reading = match &*reading {
                // Still locked: the end cannot be told any more, and nobody goes on meanwhile.
                Some(Reading { input, since }) if computing_time().saturating_sub(*since) > limit => {
                    end(endless(input, limit))
                }
                Some(_) => self.begun.wait_timeout(reading, PERIOD).unwrap_or_else(PoisonError::into_inner).0,
                None => self.begun.wait(reading).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

fn endless(input: &Input, limit: Duration) -> JobError {
    let what = format!("the HDF5 library has not come to its end in {} s of computing", limit.as_secs_f64());
    let remedy = "the file is damaged; copy it again";
    match input {
        Input::Qmap(path) => JobError::Qmap(DatasetError::Qmap { path: path.clone(), what, remedy }),
        Input::Metadata(path) => JobError::Metadata(DatasetError::Metadata { path: path.clone(), what, remedy }),
    }
}

fn computing_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
