//! How an action is: what its tasks' ends make of it. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::life::{End, Life};

/// What a failed task does to its action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDatasetFailure {
    /// The action succeeds if one of its tasks does: its rows say which failed.
    #[default]
    Succeed,
    /// The action fails.
    Fail,
}

/// How many tasks an action has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActionCounts {
    /// That have not ended.
    pub open: u64,
    /// That succeeded.
    pub succeeded: u64,
    /// That failed.
    pub failed: u64,
    /// That were cancelled.
    pub cancelled: u64,
}

/// How an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionState {
    /// One of its tasks has not ended.
    Active,
    /// All have, and enough succeeded.
    Succeeded,
    /// All have, and too many failed.
    Failed,
    /// All have, none succeeded or failed.
    Cancelled,
}

impl ActionCounts {
    /// All tasks.
    pub fn all(self) -> u64 {
        let Self { open, succeeded, failed, cancelled } = self;
        open + succeeded + failed + cancelled
    }

    /// The number that a life counts in.
    pub fn of(&mut self, life: &Life) -> &mut u64 {
        match life.end() {
            None => &mut self.open,
            Some(End::Succeeded) => &mut self.succeeded,
            Some(End::Failed(_)) => &mut self.failed,
            Some(End::Cancelled) => &mut self.cancelled,
        }
    }

    /// How an action with these tasks is.
    ///
    /// One whose tasks all failed is failed; where some did, it is what it was asked to be.
    pub fn state(self, on_failure: OnDatasetFailure) -> ActionState {
        let Self { open, succeeded, failed, cancelled: _ } = self;
        match (open, succeeded, failed) {
            (1.., _, _) => ActionState::Active,
            (0, 0, 0) => ActionState::Cancelled,
            (0, 0, 1..) => ActionState::Failed,
            (0, 1.., 0) => ActionState::Succeeded,
            (0, 1.., 1..) => match on_failure {
                OnDatasetFailure::Succeed => ActionState::Succeeded,
                OnDatasetFailure::Fail => ActionState::Failed,
            },
        }
    }
}

impl ActionState {
    /// Its name in messages and lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ActionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(open: u64, succeeded: u64, failed: u64, cancelled: u64, on_failure: OnDatasetFailure) -> ActionState {
        ActionCounts { open, succeeded, failed, cancelled }.state(on_failure)
    }

    #[test]
    fn an_action_is_what_its_tasks_are() {
        use ActionState::{Active, Cancelled, Failed, Succeeded};
        use OnDatasetFailure::{Fail, Succeed};
        for (counts, succeeds, fails) in [
            ((1, 9, 9, 9), Active, Active),
            ((0, 3, 0, 0), Succeeded, Succeeded),
            ((0, 0, 3, 0), Failed, Failed),
            ((0, 1, 3, 0), Succeeded, Failed),
            ((0, 1, 0, 3), Succeeded, Succeeded),
            ((0, 0, 1, 3), Failed, Failed),
            ((0, 0, 0, 3), Cancelled, Cancelled),
        ] {
            let (open, succeeded, failed, cancelled) = counts;
            assert_eq!(state(open, succeeded, failed, cancelled, Succeed), succeeds, "{counts:?}");
            assert_eq!(state(open, succeeded, failed, cancelled, Fail), fails, "{counts:?}");
        }
    }
}
