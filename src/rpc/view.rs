//! Tasks and endpoints as a client sees them.

use std::time::Duration;

use serde::Serialize;

use super::convert::task::moment;
use super::convert::{WireError, known, named, optional, required};
use super::wire;
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::store::{StateName, StoreEvent};
use crate::task::action::{ActionCounts, ActionState};
use crate::task::failure::Failure;
use crate::task::names::{EndpointName, Group, Label, Subject, printable};
use crate::task::pool::Pool;
use crate::task::result::TaskResult;
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of store::NewTask and of the message Task")]
pub struct TaskView {
    pub id: TaskId,
    pub action: ActionId,
    pub endpoint: EndpointId,
    pub owner: Subject,
    pub group: Option<Group>,
    pub label: Option<Label>,
    /// Shown as its configuration.
    #[serde(rename = "user_endpoint_config")]
    pub pool: Pool,
    pub spec: TaskSpec,
    pub priority: i32,
    pub deadline: Option<Moment>,
    /// Further attempts after failures of the program.
    pub retries: Option<u32>,
    pub state: StateName,
    /// Number of the newest attempt; 0 = none yet.
    pub attempt: u32,
    pub submitted: Moment,
    pub changed: Moment,
    pub failure: Option<Failure>,
    pub result: Option<TaskResult>,
    pub progress: Option<ProgressView>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgressView {
    /// What it does.
    pub step: String,
    /// Of it, so much is done.
    pub done: u64,
    /// Of so much; 0 = nobody knows.
    pub total: u64,
}

impl ProgressView {
    /// `correlating 40 %`; None while nobody knows how much there is to do.
    pub fn words(&self) -> Option<String> {
        let Self { step, done, total } = self;
        (*total > 0).then(|| format!("{step} {} %", done.saturating_mul(100) / total))
    }
}

/// An action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "fields are those of the message Action")]
pub struct ActionView {
    pub id: ActionId,
    pub owner: Subject,
    pub group: Option<Group>,
    pub label: Option<Label>,
    pub state: ActionState,
    pub submitted: Moment,
    pub ended: Option<Moment>,
    pub tasks: ActionCounts,
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Its place in the controller's outbox.
    pub id: u64,
    /// When it happened.
    pub time: Moment,
    /// What happened.
    pub event: StoreEvent,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "fields are those of the message Endpoint")]
pub struct EndpointView {
    pub id: EndpointId,
    pub name: EndpointName,
    pub owner: Subject,
    pub group: Option<Group>,
    /// Whether a process holds its name now.
    pub online: bool,
    pub host: String,
    pub seen: Moment,
    /// What it last said of itself; null when nothing or no JSON.
    pub status: serde_json::Value,
}

#[cfg(test)]
impl TaskView {
    /// A task that does nothing, in a state since a moment, of which nothing else is known.
    pub(crate) fn testing(number: u128, state: StateName, changed: u64) -> Self {
        use uuid::Uuid;
        Self {
            id: TaskId::new(Uuid::from_u128(number)),
            action: ActionId::new(Uuid::from_u128(1)),
            endpoint: EndpointId::new(Uuid::from_u128(2)),
            owner: "ada".parse().expect("a subject"),
            group: None,
            label: None,
            pool: Pool::default(),
            spec: TaskSpec::Nothing,
            priority: 0,
            deadline: None,
            retries: None,
            state,
            attempt: 0,
            submitted: Moment::START,
            changed: Moment::from_millis(changed),
            failure: None,
            result: None,
            progress: None,
        }
    }
}

impl TryFrom<wire::Task> for TaskView {
    type Error = WireError;

    fn try_from(task: wire::Task) -> Result<Self, WireError> {
        let wire::Task {
            id,
            action,
            endpoint,
            owner,
            group,
            task,
            state,
            attempt,
            submitted_ms,
            changed_ms,
            failure,
            result,
            progress,
            user_endpoint_config,
        } = task;
        let wire::NewTask { spec, label, priority, deadline_in_ms, retries } = required("task", task)?;
        let submitted = Moment::from_millis(submitted_ms);
        Ok(Self {
            id: named("id", id)?,
            action: named("action", action)?,
            endpoint: named("endpoint", endpoint)?,
            owner: named("owner", owner)?,
            group: optional("group", group)?,
            label: optional("label", label)?,
            pool: optional("user_endpoint_config", user_endpoint_config)?.unwrap_or_default(),
            spec: required("spec", spec)?.try_into()?,
            priority,
            deadline: (deadline_in_ms > 0).then(|| submitted.after(Duration::from_millis(deadline_in_ms))),
            retries,
            state: known::<wire::State>("state", state)?.try_into()?,
            attempt,
            submitted,
            changed: Moment::from_millis(changed_ms),
            failure: failure.map(TryInto::try_into).transpose()?,
            result: result.map(TryInto::try_into).transpose()?,
            progress: progress.map(|wire::Progress { step, done, total }| ProgressView { step, done, total }),
        })
    }
}

impl TryFrom<wire::Action> for ActionView {
    type Error = WireError;

    fn try_from(action: wire::Action) -> Result<Self, WireError> {
        let wire::Action { id, owner, group, label, state, submitted_ms, ended_ms, open, succeeded, failed, cancelled } =
            action;
        Ok(Self {
            id: named("id", id)?,
            owner: named("owner", owner)?,
            group: optional("group", group)?,
            label: optional("label", label)?,
            state: match known::<wire::ActionState>("state", state)? {
                wire::ActionState::Unspecified => return Err(WireError::new("state", "is unspecified")),
                wire::ActionState::Active => ActionState::Active,
                wire::ActionState::Succeeded => ActionState::Succeeded,
                wire::ActionState::Failed => ActionState::Failed,
                wire::ActionState::Cancelled => ActionState::Cancelled,
            },
            submitted: Moment::from_millis(submitted_ms),
            ended: moment(ended_ms),
            tasks: ActionCounts { open, succeeded, failed, cancelled },
        })
    }
}

impl TryFrom<wire::Event> for EventView {
    type Error = WireError;

    fn try_from(event: wire::Event) -> Result<Self, WireError> {
        let wire::Event { id, time_ms, body } = event;
        let event = serde_json::from_str(&body).map_err(|error| WireError::new("body", error))?;
        Ok(Self { id, time: Moment::from_millis(time_ms), event })
    }
}

impl TryFrom<wire::Endpoint> for EndpointView {
    type Error = WireError;

    fn try_from(endpoint: wire::Endpoint) -> Result<Self, WireError> {
        let wire::Endpoint { id, name, owner, group, online, host, seen_ms, status } = endpoint;
        Ok(Self {
            id: named("id", id)?,
            name: named("name", name)?,
            owner: named("owner", owner)?,
            group: optional("group", group)?,
            online,
            host: printable(&host, usize::MAX),
            seen: Moment::from_millis(seen_ms),
            status: serde_json::from_str(&status).unwrap_or_default(),
        })
    }
}
