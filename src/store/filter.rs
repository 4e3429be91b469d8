//! Which tasks somebody asks for: the filters and names by which people list, count and follow tasks.

use serde::{Deserialize, Serialize};

use super::{EventRecord, TaskRecord};
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::task::life::{End, Hold, HoldStage, Life, Phase};
use crate::task::names::{Group, Subject};

/// Which tasks to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// Of this action.
    pub action: Option<ActionId>,
    /// Of this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of these people; empty = of all.
    pub owners: Vec<Subject>,
    /// Or of these groups; empty = of none besides.
    pub groups: Vec<Group>,
    /// In one of these states; empty = in any.
    pub states: Vec<StateName>,
}

impl TaskFilter {
    /// Whether a store that is asked with it lists a task.
    pub fn lets_through(&self, record: &TaskRecord) -> bool {
        let task = &record.task;
        self.action.is_none_or(|action| action == task.action)
            && self.endpoint.is_none_or(|endpoint| endpoint == task.endpoint)
            && self.lets_see(&task.owner, task.group.as_ref())
            && self.lets_state(StateName::of(&record.life))
    }

    /// Whether it may let through the task that an event is about; false only where that is certain.
    pub fn may_let_through(&self, event: &EventRecord) -> bool {
        self.action.is_none_or(|action| event.action == Some(action))
            && self.endpoint.is_none_or(|endpoint| event.endpoint == Some(endpoint))
            && self.lets_see(&event.owner, event.group.as_ref())
            && event.event.state().is_none_or(|state| self.lets_state(state))
    }

    fn lets_see(&self, owner: &Subject, group: Option<&Group>) -> bool {
        let everybody = self.owners.is_empty();
        everybody || self.owners.contains(owner) || group.is_some_and(|group| self.groups.contains(group))
    }

    fn lets_state(&self, state: StateName) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }
}

/// A task's state as people filter and count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// It waits for an endpoint.
    Queued,
    /// An endpoint has it.
    Leased,
    /// A worker computes it.
    Running,
    /// Its result exists.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl StateName {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Leased, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Those that stay.
    pub const ENDS: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state of a life.
    pub fn of(life: &Life) -> Self {
        match &life.phase {
            Phase::Queued { .. } => Self::Queued,
            Phase::Held(Hold { stage: HoldStage::Leased, .. }) => Self::Leased,
            Phase::Held(Hold { stage: HoldStage::Running, .. }) => Self::Running,
            Phase::Ended(end) => Self::of_end(end),
        }
    }

    /// The state of a life that ended.
    pub fn of_end(end: &End) -> Self {
        match end {
            End::Succeeded => Self::Succeeded,
            End::Failed(_) => Self::Failed,
            End::Cancelled => Self::Cancelled,
        }
    }

    /// Whether it stays as it is.
    pub fn is_over(self) -> bool {
        Self::ENDS.contains(&self)
    }

    /// Its name in stores, messages and lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Part of a list: newest tasks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only tasks older than this one.
    pub before: Option<TaskId>,
    /// At most so many.
    pub most: u32,
}
