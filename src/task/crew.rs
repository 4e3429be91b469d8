//! What endpoint and worker say to each other while they are connected: as values, whatever carries them. Pure.
//!
//! ```text
//!   worker ── Joining ─────────────▶ endpoint     who it is, what it still has
//!          ◀─ Work, Stop, Recorded ─
//!          ── Began, Progress, Over ▶             an attempt is the worker's until its report was recorded
//!          ── Beat ─────────────────▶
//!          ◀─ Lease ────────────────              so long may attempts run on
//! ```

use std::time::Duration;

use super::session::{Credit, Progress, Reported, Stop};
use super::spec::TaskSpec;
use crate::ids::{AttemptId, BlockId, WorkerId};

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
    pub room: Credit,
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
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// Its executors began these.
    Began(Vec<AttemptId>),
    /// One of them has come so far.
    Progress(Progress),
    /// These are over.
    Over(Vec<Reported>),
    /// It lives; answered by a lease.
    Beat {
        /// Ascending; the answer names it.
        number: u64,
    },
    /// It has ended its attempts, and ends.
    Leaving,
}

/// What an endpoint says.
#[derive(Debug, Clone, PartialEq)]
pub enum ToWorker {
    /// Attempts to run.
    Work(Vec<Handout>),
    /// These are to end.
    Stop(Vec<Stop>),
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
