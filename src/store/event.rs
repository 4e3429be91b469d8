//! The outbox: what happened to tasks, actions and endpoints, in the order in which it did. An event is written in the
//! transaction that changes what it is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::StateName;
use crate::ids::{ActionId, AttemptNumber, EndpointId, TaskId};
use crate::task::failure::{Failure, Loss};
use crate::task::life::{End, Hold, HoldStage, Life, LifeEvent, Outcome, Phase, Wish};
use crate::task::names::{Group, Subject, printable};
use crate::task::time::Moment;

/// A place in the outbox: ascending, the first is 1. There may be gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(u64);

impl EventId {
    /// Before the first.
    pub const START: Self = Self(0);

    /// With its number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The place after it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An event as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// Where it stands.
    pub id: EventId,
    /// When it happened.
    pub time: Moment,
    /// The task, if it is about one.
    pub task: Option<TaskId>,
    /// The action, if it is about one or about a task of it.
    pub action: Option<ActionId>,
    /// The endpoint, if it is about one or about a task for it.
    pub endpoint: Option<EndpointId>,
    /// Whose task, action or endpoint it is.
    pub owner: Subject,
    /// Who else may see it.
    pub group: Option<Group>,
    /// What happened.
    pub event: StoreEvent,
}

/// An event that has no place yet.
#[derive(Debug, PartialEq)]
pub(super) struct NewEvent {
    pub(super) time: Moment,
    pub(super) task: Option<TaskId>,
    pub(super) action: Option<ActionId>,
    pub(super) endpoint: Option<EndpointId>,
    pub(super) owner: Subject,
    pub(super) group: Option<Group>,
    pub(super) event: StoreEvent,
}

impl NewEvent {
    /// At its place.
    pub(super) fn at(self, id: EventId) -> EventRecord {
        let Self { time, task, action, endpoint, owner, group, event } = self;
        EventRecord { id, time, task, action, endpoint, owner, group, event }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum StoreEvent {
    /// The task was accepted.
    Submitted,
    /// An endpoint has the task.
    Leased {
        /// By which attempt.
        attempt: AttemptNumber,
    },
    /// A worker computes it.
    Started {
        /// Which attempt.
        attempt: AttemptNumber,
    },
    /// The attempt was lost by no fault of the task, which waits again.
    Lost {
        /// Which attempt.
        attempt: AttemptNumber,
        /// What it was lost by.
        loss: Loss,
    },
    /// The attempt failed, and the task waits for another one.
    Retried {
        /// Which attempt.
        attempt: AttemptNumber,
        /// Why.
        failure: Failure,
    },
    /// Somebody asked that a task which is held stops.
    CancelAsked,
    /// The deadline of a task which is held has passed.
    DeadlinePassed,
    /// The task ended.
    Ended {
        /// How.
        end: End,
    },
    /// All tasks of the action have ended.
    ActionEnded,
    /// A process has taken the endpoint's name, or has connected again.
    EndpointConnected {
        /// Where it runs.
        host: String,
    },
    /// The process gave the endpoint's name back.
    EndpointReleased,
    /// The endpoint is forgotten: its name is free.
    EndpointForgotten,
}

impl StoreEvent {
    /// What an event of its life made of a task; None where nobody is to be told, as when a lease is renewed.
    pub(super) fn of_change(before: &Life, cause: &LifeEvent, after: &Life) -> Option<Self> {
        match &after.phase {
            Phase::Ended(end) => Some(Self::Ended { end: end.clone() }),
            Phase::Held(hold) => Self::of_hold(before.hold(), hold),
            Phase::Queued { .. } => {
                let attempt = before.hold()?.attempt;
                Some(match cause {
                    LifeEvent::Report { outcome: Outcome::Failed(failure), .. } => {
                        Self::Retried { attempt, failure: failure.clone() }
                    }
                    LifeEvent::Report { outcome: Outcome::Lost(loss), .. } => {
                        Self::Lost { attempt, loss: loss.clone() }
                    }
                    LifeEvent::Report { outcome: Outcome::Succeeded | Outcome::Cancelled, .. } => {
                        Self::Lost { attempt, loss: Loss::Returned }
                    }
                    LifeEvent::Expire { .. } => Self::Lost { attempt, loss: Loss::LeaseExpired },
                    LifeEvent::Lease { .. }
                    | LifeEvent::Start { .. }
                    | LifeEvent::Renew { .. }
                    | LifeEvent::Cancel
                    | LifeEvent::Deadline => return None,
                })
            }
        }
    }

    fn of_hold(before: Option<&Hold>, after: &Hold) -> Option<Self> {
        let attempt = after.attempt;
        let Some(before) = before else { return Some(Self::Leased { attempt }) };
        match (before.wish, after.wish) {
            (Wish::Finish | Wish::Deadline, Wish::Cancel) => return Some(Self::CancelAsked),
            (Wish::Finish, Wish::Deadline) => return Some(Self::DeadlinePassed),
            (Wish::Finish, Wish::Finish) | (Wish::Cancel, _) | (Wish::Deadline, Wish::Finish | Wish::Deadline) => {}
        }
        match (before.stage, after.stage) {
            (HoldStage::Leased, HoldStage::Running) => Some(Self::Started { attempt }),
            (HoldStage::Leased, HoldStage::Leased) | (HoldStage::Running, _) => None,
        }
    }

    /// The attempt that it is about, if it is about one.
    pub fn attempt(&self) -> Option<AttemptNumber> {
        match self {
            Self::Leased { attempt }
            | Self::Started { attempt }
            | Self::Lost { attempt, .. }
            | Self::Retried { attempt, .. } => Some(*attempt),
            Self::Submitted
            | Self::CancelAsked
            | Self::DeadlinePassed
            | Self::Ended { .. }
            | Self::ActionEnded
            | Self::EndpointConnected { .. }
            | Self::EndpointReleased
            | Self::EndpointForgotten => None,
        }
    }

    /// The state that a task has now, where the event says so.
    pub fn state(&self) -> Option<StateName> {
        match self {
            Self::Submitted | Self::Lost { .. } | Self::Retried { .. } => Some(StateName::Queued),
            Self::Leased { .. } => Some(StateName::Leased),
            Self::Started { .. } => Some(StateName::Running),
            Self::Ended { end } => Some(StateName::of_end(end)),
            Self::CancelAsked
            | Self::DeadlinePassed
            | Self::ActionEnded
            | Self::EndpointConnected { .. }
            | Self::EndpointReleased
            | Self::EndpointForgotten => None,
        }
    }
}

/// As people read it.
impl fmt::Display for StoreEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submitted => formatter.write_str("submitted"),
            Self::Leased { .. } => formatter.write_str("leased"),
            Self::Started { .. } => formatter.write_str("started"),
            Self::Lost { loss, .. } => write!(formatter, "lost: {loss}"),
            Self::Retried { failure, .. } => write!(formatter, "failed, is retried: {}", failure.message()),
            Self::CancelAsked => formatter.write_str("cancel requested"),
            Self::DeadlinePassed => formatter.write_str("deadline passed"),
            Self::Ended { end: End::Succeeded } => formatter.write_str("succeeded"),
            Self::Ended { end: End::Failed(failure) } => write!(formatter, "failed: {}", failure.message()),
            Self::Ended { end: End::Cancelled } => formatter.write_str("cancelled"),
            Self::ActionEnded => formatter.write_str("the action ended"),
            Self::EndpointConnected { host } => {
                write!(formatter, "the endpoint connected from {}", printable(host, 255))
            }
            Self::EndpointReleased => formatter.write_str("the endpoint stopped"),
            Self::EndpointForgotten => formatter.write_str("the endpoint was forgotten"),
        }
    }
}
