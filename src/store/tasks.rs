//! Tasks and actions as they are submitted and remembered.

use crate::ids::{ActionId, EndpointId, TaskId};
use crate::task::action::{ActionCounts, ActionState, OnDatasetFailure};
use crate::task::life::{Life, Limits};
use crate::task::names::{ArtifactName, Group, Label, MediaType, RequestId, Subject};
use crate::task::pool::Pool;
use crate::task::result::TaskResult;
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

/// Tasks that are submitted together: all of them are accepted, or none is.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSubmission {
    /// The same owner and request id make no second submission: the first one's answer is given again, whatever labels,
    /// priorities and deadlines the later one has.
    pub request: Option<RequestId>,
    /// The action that the tasks belong to; a new one if it is not known yet.
    pub action: NewAction,
    /// Whose action it may be if it is known already.
    pub adds_to: AddsTo,
    /// What is to be done; each of the action, its owner and its group.
    pub tasks: Vec<NewTask>,
}

/// Whose actions a submission may add tasks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddsTo {
    /// Those of the owner of the submission.
    Own,
    /// Anybody's.
    Any,
}

/// An action as it is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAction {
    /// Which.
    pub id: ActionId,
    /// Who submits.
    pub owner: Subject,
    /// Who else may see it.
    pub group: Option<Group>,
    /// What people call it.
    pub label: Option<Label>,
    /// Whether it fails with one of its tasks.
    pub on_dataset_failure: OnDatasetFailure,
    /// When it was submitted.
    pub submitted: Moment,
}

/// An action as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRecord {
    /// As it was submitted.
    pub action: NewAction,
    /// How many tasks it has, by how they ended.
    pub counts: ActionCounts,
    /// When the last of its tasks ended; None while one has not.
    pub ended: Option<Moment>,
}

impl ActionRecord {
    /// How it is.
    pub fn state(&self) -> ActionState {
        self.counts.state(self.action.on_dataset_failure)
    }
}

/// A task as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Made by the caller.
    pub id: TaskId,
    /// The flow's group of tasks.
    pub action: ActionId,
    /// Where it is to run.
    pub endpoint: EndpointId,
    /// On what kind of block.
    pub pool: Pool,
    /// Who submits.
    pub owner: Subject,
    /// Who else may see it.
    pub group: Option<Group>,
    /// What people call it.
    pub label: Option<Label>,
    /// What is to be done.
    pub spec: TaskSpec,
    /// Higher ones are leased first; equal ones in the order of submission.
    pub priority: i32,
    /// When it must be over.
    pub deadline: Option<Moment>,
    /// How often it may fail.
    pub limits: Limits,
    /// When it was submitted.
    pub submitted: Moment,
}

/// A task as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// As it was submitted.
    pub task: NewTask,
    /// What has happened to it.
    pub life: Life,
    /// When that last changed.
    pub changed: Moment,
    /// What the last attempt left, once one is over.
    pub result: Option<TaskResult>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// Its tasks are new.
    New,
    /// It came before.
    Known {
        /// The action that its tasks belong to.
        action: ActionId,
        /// The tasks of that time, in their order.
        tasks: Vec<TaskId>,
    },
    /// Other work was submitted under this request id.
    Conflict {
        /// The action of that work.
        action: ActionId,
    },
    /// The action is somebody else's.
    ForeignAction,
}

/// A small file that travels with a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is, without its content.
    pub info: ArtifactInfo,
    /// Its content.
    pub content: Vec<u8>,
}

/// What an artifact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactInfo {
    /// Its name, such as `metadata.json`; unique in a task.
    pub name: ArtifactName,
    /// Its media type, such as `image/png`.
    pub media_type: MediaType,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
}
