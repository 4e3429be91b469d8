//! Tasks as they are submitted, listed and filtered; endpoints as they are listed.

use std::time::Duration;

use super::{WireError, known, named, optional, required};
use crate::controller::{Known, Receipt, Submission, SubmissionTask, Watched};
use crate::ids::{ActionId, TaskId};
use crate::protocol::session::Progress;
use crate::rpc::wire;
use crate::store::{
    ActionRecord, EndpointRecord, EndpointSession, EventRecord, NewAction, NewTask, StateName, TaskFilter, TaskRecord,
};
use crate::task::action::{ActionCounts, ActionState, OnDatasetFailure};
use crate::task::life::{End, Limits, Phase, Wish};
use crate::task::time::{Moment, whole_millis};

impl TryFrom<wire::SubmitRequest> for Submission {
    type Error = WireError;

    fn try_from(request: wire::SubmitRequest) -> Result<Self, WireError> {
        let wire::SubmitRequest {
            endpoint,
            action,
            group,
            tasks,
            request_id,
            label,
            user_endpoint_config,
            on_dataset_failure,
        } = request;
        let tasks = tasks.into_iter().enumerate().map(|(index, task)| {
            SubmissionTask::try_from(task).map_err(|error| error.within(&format!("tasks[{index}]")))
        });
        Ok(Self {
            endpoint,
            request: optional("request_id", request_id)?,
            action: optional("action", action)?,
            label: optional("label", label)?,
            group: optional("group", group)?,
            pool: optional("user_endpoint_config", user_endpoint_config)?.unwrap_or_default(),
            on_dataset_failure: match known::<wire::OnDatasetFailure>("on_dataset_failure", on_dataset_failure)? {
                wire::OnDatasetFailure::Unspecified => OnDatasetFailure::default(),
                wire::OnDatasetFailure::Succeed => OnDatasetFailure::Succeed,
                wire::OnDatasetFailure::Fail => OnDatasetFailure::Fail,
            },
            tasks: tasks.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Submission> for wire::SubmitRequest {
    fn from(order: Submission) -> Self {
        let Submission { endpoint, request, action, label, group, pool, on_dataset_failure, tasks } = order;
        Self {
            endpoint,
            action: action.map(|action| action.to_string()).unwrap_or_default(),
            group: group.map(String::from).unwrap_or_default(),
            tasks: tasks.into_iter().map(Into::into).collect(),
            request_id: request.map(String::from).unwrap_or_default(),
            label: label.map(String::from).unwrap_or_default(),
            user_endpoint_config: pool.canonical(),
            on_dataset_failure: match on_dataset_failure {
                OnDatasetFailure::Succeed => wire::OnDatasetFailure::Succeed,
                OnDatasetFailure::Fail => wire::OnDatasetFailure::Fail,
            }
            .into(),
        }
    }
}

impl TryFrom<wire::NewTask> for SubmissionTask {
    type Error = WireError;

    fn try_from(task: wire::NewTask) -> Result<Self, WireError> {
        let wire::NewTask { spec, label, priority, deadline_in_ms, retries } = task;
        Ok(Self {
            label: optional("label", label)?,
            spec: required("spec", spec)?.try_into().map_err(|error: WireError| error.within("spec"))?,
            priority,
            deadline: (deadline_in_ms > 0).then(|| Duration::from_millis(deadline_in_ms)),
            retries,
        })
    }
}

impl From<SubmissionTask> for wire::NewTask {
    fn from(task: SubmissionTask) -> Self {
        let SubmissionTask { label, spec, priority, deadline, retries } = task;
        Self {
            spec: Some(spec.into()),
            label: label.map(String::from).unwrap_or_default(),
            priority,
            deadline_in_ms: deadline.map_or(0, whole_millis),
            retries,
        }
    }
}

impl From<Receipt> for wire::SubmitResponse {
    fn from(receipt: Receipt) -> Self {
        let Receipt { action, tasks } = receipt;
        let tasks = tasks.into_iter().map(|(id, known)| wire::Submitted {
            id: id.to_string(),
            known: match known {
                Known::New => false,
                Known::Before => true,
            },
        });
        Self { action: action.to_string(), tasks: tasks.collect() }
    }
}

impl TryFrom<wire::SubmitResponse> for Receipt {
    type Error = WireError;

    fn try_from(response: wire::SubmitResponse) -> Result<Self, WireError> {
        let wire::SubmitResponse { action, tasks } = response;
        let tasks = tasks.into_iter().map(|wire::Submitted { id, known }| {
            Ok((named("id", id)?, if known { Known::Before } else { Known::New }))
        });
        Ok(Self { action: named("action", action)?, tasks: tasks.collect::<Result<_, _>>()? })
    }
}

impl From<Watched> for wire::Task {
    fn from(watched: Watched) -> Self {
        let Watched { record: TaskRecord { task, life, changed, result }, progress } = watched;
        let state = wire::State::from(StateName::of(&life));
        let failure = match life.end() {
            Some(End::Failed(failure)) => Some(failure.clone().into()),
            Some(End::Succeeded | End::Cancelled) | None => None,
        };
        let stopping = match life.hold().map(|hold| hold.wish) {
            Some(Wish::Cancel) => wire::Stopping::Cancel,
            Some(Wish::Deadline) => wire::Stopping::Deadline,
            Some(Wish::Finish) | None => wire::Stopping::Unspecified,
        };
        let NewTask {
            id,
            action,
            endpoint,
            pool,
            owner,
            group,
            label,
            spec,
            priority,
            deadline,
            limits: Limits { retries, crashes: _ },
            submitted,
        } = task;
        let not_before_ms = match life.phase {
            Phase::Queued { not_before } if not_before > submitted => not_before.millis(),
            Phase::Queued { .. } | Phase::Held(_) | Phase::Ended(_) => 0,
        };
        Self {
            not_before_ms,
            stopping: stopping.into(),
            id: id.to_string(),
            action: action.to_string(),
            endpoint: endpoint.to_string(),
            owner: owner.into(),
            group: group.map(String::from).unwrap_or_default(),
            task: Some(wire::NewTask {
                spec: Some(spec.into()),
                label: label.map(String::from).unwrap_or_default(),
                priority,
                deadline_in_ms: deadline.map_or(0, |deadline| whole_millis(deadline.since(submitted))),
                retries: Some(retries),
            }),
            state: state.into(),
            attempt: life.attempt.map_or(0, |attempt| attempt.get()),
            submitted_ms: submitted.millis(),
            changed_ms: changed.millis(),
            failure,
            result: result.map(Into::into),
            progress: progress.map(|Progress { attempt: _, step, done, total }| wire::Progress { step, done, total }),
            user_endpoint_config: pool.canonical(),
        }
    }
}

impl From<ActionRecord> for wire::Action {
    fn from(record: ActionRecord) -> Self {
        let state = match record.state() {
            ActionState::Active => wire::ActionState::Active,
            ActionState::Succeeded => wire::ActionState::Succeeded,
            ActionState::Failed => wire::ActionState::Failed,
            ActionState::Cancelled => wire::ActionState::Cancelled,
        };
        let ActionRecord { action, counts, ended } = record;
        let NewAction { id, owner, group, label, on_dataset_failure: _, submitted } = action;
        let ActionCounts { open, succeeded, failed, cancelled } = counts;
        Self {
            id: id.to_string(),
            owner: owner.into(),
            group: group.map(String::from).unwrap_or_default(),
            label: label.map(String::from).unwrap_or_default(),
            state: state.into(),
            submitted_ms: submitted.millis(),
            ended_ms: ended.map_or(0, Moment::millis),
            open,
            succeeded,
            failed,
            cancelled,
        }
    }
}

impl From<EventRecord> for wire::Event {
    fn from(record: EventRecord) -> Self {
        let EventRecord { id, time, task: _, action: _, endpoint: _, owner: _, group: _, event } = record;
        // a plain enum always has a text form
        let body = serde_json::to_string(&event).unwrap_or_default();
        Self { id: id.get(), time_ms: time.millis(), body }
    }
}

impl From<StateName> for wire::State {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Queued => Self::Queued,
            StateName::Leased => Self::Leased,
            StateName::Running => Self::Running,
            StateName::Succeeded => Self::Succeeded,
            StateName::Failed => Self::Failed,
            StateName::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<wire::State> for StateName {
    type Error = WireError;

    fn try_from(state: wire::State) -> Result<Self, WireError> {
        match state {
            wire::State::Unspecified => Err(WireError::new("states", "has an unspecified state")),
            wire::State::Queued => Ok(Self::Queued),
            wire::State::Leased => Ok(Self::Leased),
            wire::State::Running => Ok(Self::Running),
            wire::State::Succeeded => Ok(Self::Succeeded),
            wire::State::Failed => Ok(Self::Failed),
            wire::State::Cancelled => Ok(Self::Cancelled),
        }
    }
}

/// A filter as it was asked for; whose tasks it may show is for the caller to add.
impl TryFrom<wire::Filter> for TaskFilter {
    type Error = WireError;

    fn try_from(filter: wire::Filter) -> Result<Self, WireError> {
        let wire::Filter { action, endpoint, states } = filter;
        let states = states.into_iter().map(|state| known::<wire::State>("states", state)?.try_into());
        Ok(Self {
            action: optional("action", action)?,
            endpoint: optional("endpoint", endpoint)?,
            owners: Vec::new(),
            groups: Vec::new(),
            states: states.collect::<Result<_, _>>()?,
        })
    }
}

impl From<TaskFilter> for wire::Filter {
    /// Whose tasks may be seen is not the client's to say.
    fn from(filter: TaskFilter) -> Self {
        let TaskFilter { action, endpoint, owners: _, groups: _, states } = filter;
        Self {
            action: action.map(|action| action.to_string()).unwrap_or_default(),
            endpoint: endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
            states: states.into_iter().map(|state| wire::State::from(state).into()).collect(),
        }
    }
}

/// Ids of actions of a request, in its order.
///
/// # Errors
/// A text that is no id.
pub fn action_ids(ids: Vec<String>) -> Result<Vec<ActionId>, WireError> {
    ids.into_iter().map(|id| named("ids", id)).collect()
}

/// Ids of a request, in its order.
///
/// # Errors
/// A text that is no id.
pub fn task_ids(ids: Vec<String>) -> Result<Vec<TaskId>, WireError> {
    ids.into_iter().map(|id| named("ids", id)).collect()
}

/// An endpoint as it is listed at a moment.
pub(in crate::rpc) fn endpoint(record: EndpointRecord, now: Moment) -> wire::Endpoint {
    let EndpointRecord { id, name, owner, group, registered: _, session, status, seen } = record;
    let online = session.as_ref().is_some_and(|session| session.until > now);
    wire::Endpoint {
        id: id.to_string(),
        name: name.into(),
        owner: owner.into(),
        group: group.map(String::from).unwrap_or_default(),
        online,
        host: session.map_or_else(String::new, |EndpointSession { id: _, host, until: _ }| host),
        seen_ms: seen.millis(),
        status,
    }
}

pub(in crate::rpc) fn moment(millis: u64) -> Option<Moment> {
    (millis > 0).then(|| Moment::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::EndpointId;
    use crate::rpc::view::TaskView;
    use crate::task::failure::{Failure, Fault};
    use crate::task::life::{Life, Phase};
    use crate::task::spec::TaskSpec;

    fn new_task() -> wire::NewTask {
        wire::NewTask {
            spec: Some(TaskSpec::Nothing.into()),
            label: "Probe 7".into(),
            priority: -3,
            deadline_in_ms: 2000,
            retries: None,
        }
    }

    #[test]
    fn orders_and_receipts_survive_the_wire() {
        let task = SubmissionTask::try_from(new_task()).expect("a task");
        assert_eq!((task.retries, task.deadline), (None, Some(Duration::from_secs(2))));
        let order = Submission {
            endpoint: "polaris".into(),
            request: Some("r-1".parse().expect("a request id")),
            action: Some(ActionId::new(Uuid::from_u128(2))),
            label: Some("Proben".parse().expect("a label")),
            group: Some("8-id".parse().expect("a group")),
            pool: r#"{"queue":"demand"}"#.parse().expect("a pool"),
            on_dataset_failure: OnDatasetFailure::Fail,
            tasks: vec![task],
        };
        assert_eq!(Submission::try_from(wire::SubmitRequest::from(order.clone())).expect("our own"), order);
        let tasks =
            vec![(TaskId::new(Uuid::from_u128(3)), Known::New), (TaskId::new(Uuid::from_u128(4)), Known::Before)];
        let receipt = Receipt { action: ActionId::new(Uuid::from_u128(2)), tasks };
        assert_eq!(Receipt::try_from(wire::SubmitResponse::from(receipt.clone())).expect("our own"), receipt);
    }

    #[test]
    fn a_task_shows_again_as_it_was_submitted() {
        let SubmissionTask { label, spec, priority, deadline, retries: _ } =
            SubmissionTask::try_from(new_task()).expect("a task");
        let task = NewTask {
            id: TaskId::new(Uuid::from_u128(3)),
            pool: r#"{"queue":"demand"}"#.parse().expect("a pool"),
            action: ActionId::new(Uuid::from_u128(2)),
            endpoint: EndpointId::new(Uuid::from_u128(1)),
            owner: "ada".parse().expect("a subject"),
            group: Some("8-id".parse().expect("a group")),
            label,
            spec,
            priority,
            deadline: deadline.map(|limit| Moment::from_millis(1000).after(limit)),
            limits: Limits { retries: 4, crashes: 5 },
            submitted: Moment::from_millis(1000),
        };
        let mut life = Life::new(Moment::START);
        life.phase = Phase::Ended(End::Failed(Failure::new(Fault::Input, "a damaged file")));
        let record = TaskRecord { task, life, changed: Moment::from_millis(1500), result: None };
        let shown = wire::Task::from(Watched { record, progress: None });
        assert_eq!(shown.task, Some(wire::NewTask { retries: Some(4), ..new_task() }));
        assert_eq!((shown.state(), shown.attempt, shown.changed_ms), (wire::State::Failed, 0, 1500));
        let seen = TaskView::try_from(shown).expect("our own");
        assert_eq!(seen.failure.expect("failed").message(), "a damaged file");
        assert_eq!((seen.state, seen.label.expect("a label").as_str()), (StateName::Failed, "Probe 7"));
        assert_eq!(seen.pool.canonical(), r#"{"queue":"demand"}"#);
    }

    #[test]
    fn every_state_survives_the_wire() {
        use StateName::{Cancelled, Failed, Leased, Queued, Running, Succeeded};
        for state in [Queued, Leased, Running, Succeeded, Failed, Cancelled] {
            assert_eq!(StateName::try_from(wire::State::from(state)), Ok(state));
        }
    }

    #[test]
    fn errors_name_the_place() {
        let refused = |task: wire::NewTask| SubmissionTask::try_from(task).expect_err("refused").to_string();
        assert_eq!(refused(wire::NewTask { spec: None, ..new_task() }), "spec: is missing");
        assert!(refused(wire::NewTask { label: "a\nb".into(), ..new_task() }).starts_with("label: the label"));
        let empty = wire::NewTask { spec: Some(wire::TaskSpec { kind: None }), ..new_task() };
        assert_eq!(refused(empty), "spec.kind: is missing");
        let filter = wire::Filter { action: "7".into(), ..Default::default() };
        assert!(
            TaskFilter::try_from(filter)
                .expect_err("no id")
                .to_string()
                .starts_with("action: action id \"7\" is malformed")
        );
        let filter = wire::Filter { states: vec![0], ..Default::default() };
        assert!(TaskFilter::try_from(filter).is_err());
    }

    #[test]
    fn an_endpoint_is_online_while_its_session_lasts() {
        let session = crate::ids::SessionId::new(Uuid::nil());
        let until = Moment::from_millis(100);
        let record = EndpointRecord {
            id: EndpointId::new(Uuid::nil()),
            name: "polaris".parse().expect("a name"),
            owner: "ada".parse().expect("a subject"),
            group: None,
            registered: Moment::START,
            session: Some(EndpointSession { id: session, host: "login1".into(), until }),
            status: "{}".into(),
            seen: Moment::from_millis(90),
        };
        assert!(endpoint(record.clone(), Moment::from_millis(99)).online);
        let later = endpoint(record, until);
        assert!(!later.online && later.host == "login1");
    }
}
