//! What endpoint and worker say to each other while they are connected: as values, whatever carries them. Pure.
//!
//! ```text
//!   worker ── Joining ─────────────▶ endpoint     who it is, what it still has
//!          ◀─ Work, Stop, Return, Recorded ─
//!          ── Facts ────────────────▶             its slots and GPUs, when they change
//!          ── Started, Progress, Reports ▶             an attempt is the worker's until its report was recorded
//!          ── Naming ───────────────▶             a result is published under a name that the endpoint has on its disk
//!          ◀─ Named ────────────────
//!          ── Beat ─────────────────▶
//!          ◀─ Lease ────────────────              so long may attempts run on
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::session::{Progress, Reported, Stop};
use crate::ids::{AttemptId, BlockId, WorkerId};
use crate::task::result::{EarlierResult, NamedResult};
use crate::task::spec::{ByPlace, TaskSpec};

/// How many attempts a worker runs at once.
pub type Room = ByPlace<u32>;

/// A worker as it introduces itself, on each connection anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// Which.
    pub worker: WorkerId,
    /// The block that it is part of.
    pub block: BlockId,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// So many attempts run at once.
    pub room: Room,
    /// Attempts that it runs, or whose reports were not recorded yet.
    pub attempts: Vec<AttemptId>,
}

/// An attempt that a worker is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Handout {
    /// Which.
    pub attempt: AttemptId,
    /// What it is to do; the worker holds its paths against the roots.
    pub spec: TaskSpec,
    /// What earlier attempts of the task have named: it replaces what they published.
    pub earlier: Option<EarlierResult>,
    /// In what time it must be over.
    pub time_left: Option<Duration>,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// Its executors started these.
    Started(Vec<AttemptId>),
    /// One of them has come so far.
    Progress(Progress),
    /// The attempt's result is whole, and is published once the endpoint has written down its name.
    Naming {
        /// Which attempt.
        attempt: AttemptId,
        /// The name.
        result: NamedResult,
    },
    /// These are over.
    Reports(Vec<Reported>),
    /// It lives; answered by a lease.
    Beat {
        /// Ascending; the answer names it.
        number: u64,
    },
    /// What it has now.
    Facts(WorkerFacts),
    /// It has ended its attempts, and ends.
    Leaving,
}

/// What a worker has, which changes while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerFacts {
    /// So many attempts run at once; fewer while GPUs are not to be trusted.
    pub room: Room,
    /// Its GPUs.
    pub gpus: Vec<GpuFacts>,
    /// Why it cannot compute, if that is so.
    pub trouble: Option<String>,
}

/// A worker's GPU, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// UUID, as `nvidia-smi -L` has it.
    pub uuid: String,
    /// The product.
    pub name: String,
    /// Where it sits.
    pub pci: String,
    /// Whether it is to be trusted.
    pub state: GpuState,
    /// Why not.
    pub reasons: Vec<String>,
    /// Part of the time in which a kernel ran.
    pub utilization_percent: Option<u32>,
    /// Bytes.
    pub memory_used: Option<u64>,
    /// Bytes.
    pub memory_total: Option<u64>,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Milliwatts.
    pub power_mw: Option<u32>,
}

/// Whether a GPU is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// It takes tasks.
    Healthy,
    /// It takes no new task until it is tested.
    Suspect,
    /// It takes no task, and what it computed last is not believed.
    Quarantined,
    /// The driver does not tell.
    Unknown,
}

impl fmt::Display for GpuState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Unknown => "unknown",
        })
    }
}

/// What an endpoint says.
#[derive(Debug, Clone, PartialEq)]
pub enum ToWorker {
    /// Attempts to run.
    Work(Vec<Handout>),
    /// These are to end.
    Stop(Vec<Stop>),
    /// These do not fit its room: those that have not begun are given back.
    Return(Vec<AttemptId>),
    /// The names of these attempts' results are on the endpoint's disk: they may be published.
    Named(Vec<AttemptId>),
    /// Reports of these are on the endpoint's disk, or will never be wanted.
    Recorded(Vec<AttemptId>),
    /// From the moment of the beat on, the attempts may run so long; then another may have their tasks.
    Lease {
        /// The beat that it answers.
        number: u64,
        /// How long.
        lasts: Duration,
    },
    /// It is to end its attempts and itself.
    Leave,
}
