//! What flows and people ask: submit, look, cancel. Each call checks what the caller may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::access::Caller;
use super::bus::Signal;
use super::watch::OtherTasks;
use super::{Controller, ControllerError, Watched, Watcher, directory};
use crate::ids::{ActionId, AttemptId, EndpointId, SessionId, TaskId};
use crate::protocol::session::{Progress, Stop, StopReason};
use crate::runtime::ids;
use crate::store::{
    ActionRecord, AddsTo, EndpointForgotten, EndpointRecord, EventRecord, NewAction, NewSubmission, NewTask, Page,
    Role, StateName, Store, Submitted, TaskFilter, TaskRecord,
};
use crate::task::action::OnDatasetFailure;
use crate::task::correlate::check_results;
use crate::task::life::{Limits, Wish};
use crate::task::names::{Group, Label, RequestId};
use crate::task::pool::Pool;
use crate::task::spec::TaskSpec;

/// Tasks of one submission: a transaction of a few megabytes.
const MOST_TASKS: usize = 10_000;

/// Tasks that are looked up or listed at once.
const MOST_LISTED: usize = 1000;

/// Events of a task that are shown: some hundred attempts.
const LONGEST_TIMELINE: u32 = 1000;

/// Tasks to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Id or name of the endpoint.
    pub endpoint: String,
    /// See [`NewSubmission::request`].
    pub request: Option<RequestId>,
    /// The flow's group of tasks; None = a new one.
    pub action: Option<ActionId>,
    /// What people call that; of a new one only.
    pub label: Option<Label>,
    /// Who else may see them.
    pub group: Option<Group>,
    /// What the tasks ask of the block that they run on.
    pub pool: Pool,
    /// Whether a new action fails with one of its tasks.
    pub on_dataset_failure: OnDatasetFailure,
    /// What is to be done.
    pub tasks: Vec<SubmissionTask>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmissionTask {
    /// See [`NewTask::label`].
    pub label: Option<Label>,
    /// What is to be done.
    pub spec: TaskSpec,
    /// See [`NewTask::priority`].
    pub priority: i32,
    /// From its submission on: it fails if it has not ended by then.
    pub deadline: Option<Duration>,
    /// None = the controller's policy.
    pub retries: Option<u32>,
}

impl Submission {
    /// Tasks for an endpoint, of a new action, and nothing else said.
    pub fn new(endpoint: String, tasks: Vec<SubmissionTask>) -> Self {
        Self {
            endpoint,
            request: None,
            action: None,
            label: None,
            group: None,
            pool: Pool::default(),
            on_dataset_failure: OnDatasetFailure::default(),
            tasks,
        }
    }
}

impl SubmissionTask {
    /// One without name, priority, deadline, by the controller's policy.
    pub fn new(spec: TaskSpec) -> Self {
        Self { label: None, spec, priority: 0, deadline: None, retries: None }
    }
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The group of tasks.
    pub action: ActionId,
    /// Each task, in the order's order; and whether it was known before.
    pub tasks: Vec<(TaskId, Known)>,
}

/// Whether a task was submitted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is new.
    New,
    /// It is the one of an earlier submission.
    Before,
}

impl<S: Store> Controller<S> {
    /// Accepts tasks: when it returns they are on disk.
    ///
    /// # Errors
    /// The caller may not, there is no such endpoint, too much at once, a request id that was used for another task.
    pub async fn submit(&self, caller: &Caller, order: Submission) -> Result<Receipt, ControllerError> {
        caller.needs(Role::Submit)?;
        let Submission { endpoint, request, action, label, group, pool, on_dataset_failure, tasks } = order;
        if tasks.is_empty() {
            return Err(ControllerError::NoTasks);
        }
        at_most("tasks", tasks.len(), MOST_TASKS)?;
        if let Some(group) = &group {
            caller.member_of(group)?;
        }
        check_results(tasks.iter().filter_map(|task| task.spec.correlation()))?;
        let endpoint = self.find(caller, &endpoint).await?;
        let (action, submitted) = (action.unwrap_or_else(ids::action), self.store.now());
        let owner = caller.subject().clone();
        let new =
            NewAction { id: action, owner: owner.clone(), group: group.clone(), label, on_dataset_failure, submitted };
        let tasks = tasks.into_iter().map(|task| {
            let SubmissionTask { label, spec, priority, deadline, retries } = task;
            let retries = retries.unwrap_or(self.policy.limits.retries);
            let limits = Limits { retries, ..self.policy.limits };
            let (id, owner, group, pool) = (ids::task(), owner.clone(), group.clone(), pool.clone());
            let deadline = deadline.map(|limit| submitted.after(limit));
            NewTask { id, action, endpoint, pool, owner, group, label, spec, priority, deadline, limits, submitted }
        });
        let tasks: Vec<NewTask> = tasks.collect();
        let mut receipt = Receipt { action, tasks: tasks.iter().map(|task| (task.id, Known::New)).collect() };
        let adds_to = if caller.needs(Role::Operate).is_ok() { AddsTo::Any } else { AddsTo::Own };
        let asked = request.clone().map(String::from).unwrap_or_default();
        // the endpoint's session asks for a lease while the tasks are on their way to the disk: it gets its place behind
        // them in the store, most often in the same transaction
        let (answer, ()) = tokio::join!(
            biased;
            self.store.submit(NewSubmission { request, action: new, adds_to, tasks }),
            async { self.bus.publish(Signal::Work(endpoint)) }
        );
        match answer? {
            Submitted::New => self.bus.publish(Signal::Events),
            Submitted::Known { action, tasks } => {
                receipt = Receipt { action, tasks: tasks.into_iter().map(|task| (task, Known::Before)).collect() };
            }
            Submitted::Conflict { action } => return Err(ControllerError::RequestConflict { request: asked, action }),
            Submitted::ForeignAction => return Err(ControllerError::ForeignAction(action)),
        }
        Ok(receipt)
    }

    /// Actions by id, in the order of the ids; those that the caller may not know of are left out.
    ///
    /// # Errors
    /// The caller may not, too many at once.
    pub async fn actions(&self, caller: &Caller, ids: Vec<ActionId>) -> Result<Vec<ActionRecord>, ControllerError> {
        caller.needs(Role::View)?;
        at_most("actions", ids.len(), MOST_LISTED)?;
        let records = self.store.actions(ids).await?.into_iter().flatten();
        Ok(records.filter(|record| caller.sees(&record.action.owner, record.action.group.as_ref())).collect())
    }

    /// What happened to a task, in its order; nothing if the caller may not know of it.
    ///
    /// # Errors
    /// The caller may not.
    pub async fn timeline(&self, caller: &Caller, task: TaskId) -> Result<Vec<EventRecord>, ControllerError> {
        caller.needs(Role::View)?;
        let events = self.store.timeline(task, LONGEST_TIMELINE).await?.into_iter();
        Ok(events.filter(|event| caller.sees(&event.owner, event.group.as_ref())).collect())
    }

    /// Tasks by id, in the order of the ids; those that the caller may not know of are left out.
    ///
    /// # Errors
    /// The caller may not, too many at once.
    pub async fn get(&self, caller: &Caller, tasks: Vec<TaskId>) -> Result<Vec<Watched>, ControllerError> {
        caller.needs(Role::View)?;
        at_most("tasks", tasks.len(), MOST_LISTED)?;
        let records = self.store.get(tasks).await?.into_iter().flatten();
        Ok(records.filter(|record| sees(caller, record)).map(|record| self.watched(record)).collect())
    }

    /// Tasks that a filter lets through, newest first.
    ///
    /// # Errors
    /// The caller may not, too many at once.
    pub async fn list(&self, caller: &Caller, filter: TaskFilter, page: Page) -> Result<Vec<Watched>, ControllerError> {
        caller.needs(Role::View)?;
        at_most("tasks", page.most as usize, MOST_LISTED)?;
        let records = self.store.list(caller.narrow(filter), page).await?;
        Ok(records.into_iter().map(|record| self.watched(record)).collect())
    }

    /// How many tasks of each state a filter lets through.
    ///
    /// # Errors
    /// The caller may not.
    pub async fn count(
        &self,
        caller: &Caller,
        filter: TaskFilter,
    ) -> Result<BTreeMap<StateName, u64>, ControllerError> {
        caller.needs(Role::View)?;
        Ok(self.store.count(caller.narrow(filter)).await?)
    }

    /// Follows tasks: how they are, then each change.
    ///
    /// # Errors
    /// The caller may not.
    pub fn watch(&self, caller: &Caller, filter: TaskFilter) -> Result<Watcher, ControllerError> {
        caller.needs(Role::View)?;
        Ok(Watcher::new(caller.narrow(filter), self.hints.watch()))
    }

    /// Cancels tasks: queued ones at once, held ones as soon as their endpoint hears of it. Returns how each is now;
    /// tasks that are over stay as they are.
    ///
    /// # Errors
    /// The caller may not cancel one of them, too many at once.
    pub async fn cancel(&self, caller: &Caller, tasks: Vec<TaskId>) -> Result<Vec<Watched>, ControllerError> {
        let before = self.get(caller, tasks).await?;
        for Watched { record, .. } in &before {
            if !caller.commands(&record.task) {
                caller.needs(Role::Operate)?;
            }
        }
        let ids: Vec<TaskId> = before.iter().map(|watched| watched.record.task.id).collect();
        self.store.cancel(ids.clone(), self.store.now()).await?;
        self.bus.publish(Signal::Events);
        let after = self.get(caller, ids).await?;
        for Watched { record, .. } in &after {
            if let Some(hold) = record.life.hold().filter(|hold| hold.wish == Wish::Cancel) {
                let attempt = AttemptId { task: record.task.id, number: hold.attempt };
                self.bus.publish(Signal::Stop(hold.endpoint, Stop { attempt, reason: StopReason::Cancelled }));
            }
        }
        Ok(after)
    }

    /// The endpoint that a caller means by an id or a name. Of several with a name it is one that is online, then one's own,
    /// then the one that had the name first.
    pub(super) async fn find(&self, caller: &Caller, text: &str) -> Result<EndpointId, ControllerError> {
        let named = self.directory.find(caller, text)?;
        match named[..] {
            [endpoint] => Ok(endpoint),
            // seldom: where each is asked for its session
            [..] => {
                let mut records = self.store.endpoints().await?;
                records.retain(|record| named.contains(&record.id));
                directory::choose(caller, text, records, self.store.now())
            }
        }
    }

    /// Forgets an endpoint that is offline, but for sessions that are dead, and has no work, by id or name; a process of it that registers again is known
    /// again. Returns which it was.
    ///
    /// # Errors
    /// The caller may not, there is none, it is online or has work.
    pub async fn forget_endpoint(
        &self,
        caller: &Caller,
        text: &str,
        dead: Vec<SessionId>,
    ) -> Result<EndpointId, ControllerError> {
        let endpoint = self.find(caller, text).await?;
        let entry = self.directory.entry(endpoint).filter(|entry| entry.owner != *caller.subject());
        if entry.is_some() {
            caller.needs(Role::Operate)?;
        } else if caller.needs(Role::Operate).is_err() {
            caller.needs(Role::Endpoint)?;
        }
        let name = self.directory.entry(endpoint).map(|entry| entry.name.to_string()).unwrap_or_default();
        match self.store.forget_endpoint(endpoint, dead, self.store.now()).await? {
            EndpointForgotten::Done | EndpointForgotten::Absent => {
                self.directory.remove(endpoint);
                self.bus.publish(Signal::Events);
                Ok(endpoint)
            }
            EndpointForgotten::Online { host } => Err(ControllerError::Online { name, host }),
            EndpointForgotten::HasTasks(tasks) => Err(ControllerError::HasTasks { name, tasks }),
        }
    }

    /// Endpoints that the caller may know of, by name.
    ///
    /// # Errors
    /// The caller may not.
    pub async fn endpoints(&self, caller: &Caller) -> Result<Vec<EndpointRecord>, ControllerError> {
        let all = caller.needs(Role::View);
        if let Err(denied) = &all
            && caller.needs(Role::Endpoint).is_err()
        {
            return Err(denied.clone().into());
        }
        let records = self.store.endpoints().await?.into_iter();
        // an endpoint's token is for its own, and shows nobody else's
        let shown = |record: &EndpointRecord| match all {
            Ok(()) => caller.sees(&record.owner, record.group.as_ref()),
            Err(_) => record.owner == *caller.subject(),
        };
        Ok(records.filter(shown).collect())
    }

    pub(super) fn watched(&self, record: TaskRecord) -> Watched {
        let progress: Option<Progress> = record
            .life
            .hold()
            .and_then(|hold| self.hints.progress(AttemptId { task: record.task.id, number: hold.attempt }));
        Watched { record, progress }
    }

    pub(crate) async fn records(&self, tasks: BTreeSet<TaskId>) -> Result<Vec<TaskRecord>, ControllerError> {
        Ok(self.store.get(tasks.into_iter().collect()).await?.into_iter().flatten().collect())
    }

    pub(super) async fn newest(&self, filter: &TaskFilter) -> Result<(Vec<TaskRecord>, OtherTasks), ControllerError> {
        #[expect(clippy::cast_possible_truncation, reason = "a thousand")]
        let page = Page { before: None, most: MOST_LISTED as u32 };
        let found = self.store.list(filter.clone(), page).await?;
        let others = if found.len() < MOST_LISTED { OtherTasks::None } else { OtherTasks::Some };
        Ok((found, others))
    }
}

fn sees(caller: &Caller, record: &TaskRecord) -> bool {
    caller.sees(&record.task.owner, record.task.group.as_ref())
}

pub(super) fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), ControllerError> {
    if found > most { Err(ControllerError::TooMany { what, found, most }) } else { Ok(()) }
}
