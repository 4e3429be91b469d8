//! What endpoint and controller say to each other in a session: as values, whatever carries them. Pure.

use serde::{Deserialize, Serialize};

use super::life::Outcome;
use super::result::TaskResult;
use super::spec::{Place, TaskSpec};
use super::time::Moment;
use crate::ids::{AttemptId, SessionId};

/// A task that was leased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leased {
    /// The attempt.
    pub attempt: AttemptId,
    /// What is to be done.
    pub spec: TaskSpec,
    /// When it must be over.
    pub deadline: Option<Moment>,
    /// The lease's end.
    pub until: Moment,
    /// How often it began before: an endpoint is careful with tasks that crashed.
    pub crashes: u32,
}

/// An attempt that is over, as the endpoint tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// Which.
    pub attempt: AttemptId,
    /// How it ended.
    pub outcome: Outcome,
    /// What it left.
    pub result: TaskResult,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which.
    pub attempt: AttemptId,
    /// What it does.
    pub step: String,
    /// Of it, so much is done.
    pub done: u64,
    /// Of so much; 0 = nobody knows.
    pub total: u64,
}

/// So many more tasks are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// That run in workers' slots.
    pub slots: u32,
    /// That run on the endpoint's own node.
    pub login: u32,
}

impl Credit {
    /// How many of those that run at a place.
    pub fn get(self, place: Place) -> u32 {
        match place {
            Place::Slot => self.slots,
            Place::Login => self.login,
        }
    }

    /// The number of those that run at a place.
    pub fn at(&mut self, place: Place) -> &mut u32 {
        match place {
            Place::Slot => &mut self.slots,
            Place::Login => &mut self.login,
        }
    }

    /// Both together, as far as numbers go.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self { slots: self.slots.saturating_add(more.slots), login: self.login.saturating_add(more.login) }
    }
}

/// What an endpoint says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromEndpoint {
    /// It takes more tasks.
    Credit(Credit),
    /// It lives, and so do these attempts.
    Heartbeat {
        /// JSON, for people.
        status: String,
        /// All that it has.
        attempts: Vec<AttemptId>,
    },
    /// Workers began these.
    Started(Vec<AttemptId>),
    /// One of them has come so far.
    Progress(Progress),
    /// These are over.
    Reports(Vec<Reported>),
}

/// What a controller says.
#[derive(Debug, Clone, PartialEq)]
pub enum ToEndpoint {
    /// Leases, which are on its disk.
    Tasks(Vec<Leased>),
    /// Answer to a heartbeat: leases of the attempts that it named last until then, but for those that are told to
    /// stop.
    Renewed {
        /// The message that it answers.
        number: u64,
        /// The leases' end.
        until: Moment,
    },
    /// Answer to reports: they are on its disk, or will never be wanted.
    Recorded {
        /// The message that it answers.
        number: u64,
        /// Those that may be forgotten.
        attempts: Vec<AttemptId>,
    },
    /// These are to end.
    Stop(Vec<Stop>),
    /// Another process is the endpoint now.
    Replaced {
        /// Which.
        session: SessionId,
        /// Where.
        host: String,
    },
}

/// An attempt that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Which.
    pub attempt: AttemptId,
    /// Why.
    pub reason: StopReason,
}

/// Why an attempt is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Someone cancelled the task.
    Cancelled,
    /// Its deadline has passed.
    Deadline,
    /// Another attempt has the task, or it is over: whatever this one makes must not be published.
    Fenced,
}
