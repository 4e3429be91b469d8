//! Tasks as they are submitted, listed and filtered; endpoints as they are listed.

use super::{WireError, known, named, optional, required};
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::rpc::wire;
use crate::store::{EndpointRecord, EndpointSession, NewTask, StateName, TaskFilter, TaskRecord};
use crate::task::life::{End, Limits};
use crate::task::names::{Group, Subject};
use crate::task::time::Moment;

/// What a submission's tasks share, and what the controller adds.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Where they are to run.
    pub endpoint: EndpointId,
    /// The flow's group of tasks.
    pub action: ActionId,
    /// Who submits.
    pub owner: Subject,
    /// Who else may see them.
    pub group: Option<Group>,
    /// The controller's limits, unless the task has its own.
    pub limits: Limits,
    /// Now.
    pub now: Moment,
}

impl Submission {
    /// One of its tasks, under a new id.
    ///
    /// # Errors
    /// A field that is missing or wrong, by its place.
    pub fn task(&self, id: TaskId, task: wire::NewTask) -> Result<NewTask, WireError> {
        let wire::NewTask { spec, request_id, label, priority, deadline_ms, retries } = task;
        Ok(NewTask {
            id,
            request: optional("request_id", request_id)?,
            action: self.action,
            endpoint: self.endpoint,
            owner: self.owner.clone(),
            group: self.group.clone(),
            label: optional("label", label)?,
            spec: required("spec", spec)?.try_into().map_err(|error: WireError| error.within("spec"))?,
            priority,
            deadline: moment(deadline_ms),
            limits: Limits { retries: retries.unwrap_or(self.limits.retries), ..self.limits },
            submitted: self.now,
        })
    }
}

impl From<TaskRecord> for wire::Task {
    fn from(record: TaskRecord) -> Self {
        let TaskRecord { task, life, changed, result } = record;
        let state = wire::State::from(StateName::of(&life));
        let failure = match life.end() {
            Some(End::Failed(failure)) => Some(failure.clone().into()),
            Some(End::Succeeded | End::Cancelled) | None => None,
        };
        let NewTask {
            id,
            request,
            action,
            endpoint,
            owner,
            group,
            label,
            spec,
            priority,
            deadline,
            limits: Limits { retries, crashes: _ },
            submitted,
        } = task;
        Self {
            id: id.to_string(),
            action: action.to_string(),
            endpoint: endpoint.to_string(),
            owner: owner.into(),
            group: group.map(String::from).unwrap_or_default(),
            task: Some(wire::NewTask {
                spec: Some(spec.into()),
                request_id: request.map(String::from).unwrap_or_default(),
                label: label.map(String::from).unwrap_or_default(),
                priority,
                deadline_ms: deadline.map_or(0, Moment::millis),
                retries: Some(retries),
            }),
            state: state.into(),
            attempt: life.attempt.map_or(0, |attempt| attempt.get()),
            submitted_ms: submitted.millis(),
            changed_ms: changed.millis(),
            failure,
            result: result.map(Into::into),
        }
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

/// Ids of a request, in its order.
///
/// # Errors
/// A text that is no id.
pub fn task_ids(ids: Vec<String>) -> Result<Vec<TaskId>, WireError> {
    ids.into_iter().map(|id| named("ids", id)).collect()
}

/// An endpoint as it is listed at a moment.
pub fn endpoint(record: EndpointRecord, now: Moment) -> wire::Endpoint {
    let EndpointRecord { id, name, owner, group, session, status, seen } = record;
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

fn moment(millis: u64) -> Option<Moment> {
    (millis > 0).then(|| Moment::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::task::failure::{Failure, Fault};
    use crate::task::life::{Life, Phase};
    use crate::task::spec::TaskSpec;

    fn submission() -> Submission {
        Submission {
            endpoint: EndpointId::new(Uuid::from_u128(1)),
            action: ActionId::new(Uuid::from_u128(2)),
            owner: "ada".parse().expect("a subject"),
            group: Some("8-id".parse().expect("a group")),
            limits: Limits { retries: 4, crashes: 5 },
            now: Moment::from_millis(1000),
        }
    }

    fn new_task() -> wire::NewTask {
        wire::NewTask {
            spec: Some(TaskSpec::Nothing.into()),
            request_id: "r-1".into(),
            label: "Probe 7".into(),
            priority: -3,
            deadline_ms: 2000,
            retries: None,
        }
    }

    #[test]
    fn a_submitted_task_shows_again_as_it_was() {
        let id = TaskId::new(Uuid::from_u128(3));
        let task = submission().task(id, new_task()).expect("a task");
        assert_eq!((task.limits.retries, task.deadline), (4, Some(Moment::from_millis(2000))));
        let mut life = Life::new(Moment::START);
        life.phase = Phase::Ended(End::Failed(Failure::new(Fault::Input, "a damaged file")));
        let record = TaskRecord { task, life, changed: Moment::from_millis(1500), result: None };
        let shown = wire::Task::from(record);
        assert_eq!(shown.task, Some(wire::NewTask { retries: Some(4), ..new_task() }));
        assert_eq!((shown.state(), shown.attempt, shown.changed_ms), (wire::State::Failed, 0, 1500));
        assert_eq!(shown.failure.map(|failure| failure.message).as_deref(), Some("a damaged file"));
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
        let refused =
            |task: wire::NewTask| submission().task(TaskId::new(Uuid::nil()), task).expect_err("refused").to_string();
        assert_eq!(refused(wire::NewTask { spec: None, ..new_task() }), "spec: is missing");
        assert!(refused(wire::NewTask { label: "a\nb".into(), ..new_task() }).starts_with("label: the label"));
        let empty = wire::NewTask { spec: Some(wire::TaskSpec { kind: None }), ..new_task() };
        assert_eq!(refused(empty), "spec.kind: is missing");
        let filter = wire::Filter { action: "7".into(), ..Default::default() };
        assert!(TaskFilter::try_from(filter).expect_err("no id").to_string().starts_with("action: \"7\" is not"));
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
            session: Some(EndpointSession { id: session, host: "login1".into(), until }),
            status: "{}".into(),
            seen: Moment::from_millis(90),
        };
        assert!(endpoint(record.clone(), Moment::from_millis(99)).online);
        let later = endpoint(record, until);
        assert!(!later.online && later.host == "login1");
    }
}
