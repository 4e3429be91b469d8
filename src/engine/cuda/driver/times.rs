//! Where the time of a correlation goes, for benchmarks: of each kernel on the GPU, and of the host's calls by phase. Costs
//! a look at an empty cell where nobody has asked for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::device::{DeviceError, Kernel};
use super::memory::Event;

/// What the host waits for in the driver's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPhase {
    /// Allocates and frees memory of the GPU.
    Allocate,
    /// Allocates memory that the GPU can read by itself, and writes zeros to it.
    Pin,
    /// Loads kernels; from PTX the driver compiles them then.
    Load,
    /// Copies memory that is not pinned to the GPU.
    Upload,
    /// Waits until memory that was sent may be written again.
    Wait,
    /// Copies to the host, and waits for the kernels before.
    Download,
}

impl HostPhase {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Pin => "pin",
            Self::Load => "load kernels",
            Self::Upload => "upload",
            Self::Wait => "wait",
            Self::Download => "download",
        }
    }
}

/// How often something was done, and for how many seconds.
pub type Spent = (u32, f64);

/// Where the time went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    /// Of the GPU, by the kernel's name.
    pub kernels: BTreeMap<&'static str, Spent>,
    /// Of the host.
    pub phases: BTreeMap<HostPhase, Spent>,
}

/// What is noted where times are wanted.
#[derive(Debug, Default)]
struct Notes {
    /// Points in the stream before and behind each kernel.
    kernels: Vec<(Kernel, Event, Event)>,
    phases: BTreeMap<HostPhase, (u32, Duration)>,
}

/// Notes times, if it is asked to.
#[derive(Debug, Default)]
pub(super) struct Watch {
    notes: RefCell<Option<Notes>>,
}

impl Watch {
    /// Begins to note times; forgets those before.
    pub(super) fn begin(&self) {
        *self.notes.borrow_mut() = Some(Notes::default());
    }

    /// Does something that belongs to a phase. Phases are not in one another.
    pub(super) fn phase<T>(&self, phase: HostPhase, work: impl FnOnce() -> T) -> T {
        if self.notes.borrow().is_none() {
            return work();
        }
        let begin = Instant::now();
        let done = work();
        if let Some(notes) = self.notes.borrow_mut().as_mut() {
            let spent = notes.phases.entry(phase).or_default();
            *spent = (spent.0 + 1, spent.1 + begin.elapsed());
        }
        done
    }

    /// A point in the kernels' stream, if times are noted.
    pub(super) fn point(&self, of: impl FnOnce() -> Result<Event, DeviceError>) -> Result<Option<Event>, DeviceError> {
        self.notes.borrow().is_some().then(of).transpose()
    }

    /// A kernel ran between two points.
    pub(super) fn ran(&self, kernel: Kernel, begin: Event, end: Event) {
        if let Some(notes) = self.notes.borrow_mut().as_mut() {
            notes.kernels.push((kernel, begin, end));
        }
    }

    /// What was noted; ends the noting. The kernels have ended.
    pub(super) fn times(&self) -> Result<Times, DeviceError> {
        let Some(notes) = self.notes.borrow_mut().take() else { return Ok(Times::default()) };
        let mut times = Times::default();
        for (kernel, begin, end) in notes.kernels {
            let own = times.kernels.entry(kernel.name()).or_default();
            *own = (own.0 + 1, own.1 + begin.seconds_until(&end)?);
        }
        let seconds = |(phase, (calls, time)): (HostPhase, (u32, Duration))| (phase, (calls, time.as_secs_f64()));
        times.phases = notes.phases.into_iter().map(seconds).collect();
        Ok(times)
    }
}
