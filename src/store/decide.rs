//! What the calls of a store make of tasks, actions and sessions. Pure, and the same for every database: a backend reads
//! what a call is about, asks here, and writes what it is told, in one transaction.
//!
//! ```text
//!   rows ──▶ Current ──┐
//!                      ├─▶ lease, change, expire ──▶ Decided { answers, rows, events, moved, actions }
//!   call ──▶ Change ───┘
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::event::{NewEvent, StoreEvent};
use super::{
    AddsTo, Artifact, ChangeError, Changed, Claim, EndpointSession, Holder, LARGEST_ARTIFACTS, LeaseRequest,
    MOST_ARTIFACTS, NewSubmission, NewTask, Overdue, Report, StateName, Submitted,
};
use crate::ids::{ActionId, AttemptId, EndpointId, Epoch, SessionId, TaskId};
use crate::protocol::session::Leased;
use crate::task::action::ActionCounts;
use crate::task::life::{Life, LifeEvent, Limits};
use crate::task::names::{Group, Subject};
use crate::task::pool::PoolKey;
use crate::task::result::{LARGEST_DOCUMENT, TaskResult};
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

/// A task as a call finds it.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) about: AboutTask,
    pub(super) life: Life,
    pub(super) limits: Limits,
    pub(super) deadline: Option<Moment>,
    pub(super) changed: Moment,
}

/// What does not change of a task, and is told with what happens to it.
#[derive(Debug, Clone)]
pub(super) struct AboutTask {
    pub(super) action: ActionId,
    pub(super) endpoint: EndpointId,
    pub(super) owner: Subject,
    pub(super) group: Option<Group>,
}

/// Tasks that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskClass {
    pub(super) endpoint: EndpointId,
    pub(super) owner: Subject,
    pub(super) group: Option<Group>,
    pub(super) state: StateName,
}

/// A task that is in another state now.
#[derive(Debug, PartialEq)]
pub(super) struct Moved {
    pub(super) from: TaskClass,
    pub(super) to: StateName,
}

/// A task that may be leased.
#[derive(Debug)]
pub(super) struct WaitingTask {
    pub(super) id: TaskId,
    pub(super) current: Current,
    pub(super) spec: TaskSpec,
    pub(super) pool: PoolKey,
}

/// What happens to a task, and what that leaves.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) task: TaskId,
    event: LifeEvent,
    result: Option<TaskResult>,
    artifacts: Vec<Artifact>,
}

/// What is to be written, and what the caller is told.
#[derive(Debug)]
pub(super) struct Decided<A> {
    pub(super) answers: A,
    /// Tasks that changed, by id.
    pub(super) rows: Vec<ChangedTask>,
    /// In the order in which they happened.
    pub(super) events: Vec<NewEvent>,
    /// In the same order.
    pub(super) moved: Vec<Moved>,
    /// Of each action, tasks that ended: `open` is how many.
    pub(super) actions: BTreeMap<ActionId, ActionCounts>,
}

/// A task after a call.
#[derive(Debug)]
pub(super) struct ChangedTask {
    pub(super) task: TaskId,
    pub(super) life: Life,
    pub(super) deadline: Option<Moment>,
    pub(super) changed: Moment,
    /// None = as before.
    pub(super) result: Option<TaskResult>,
    /// Of the report that ended it.
    pub(super) artifacts: Vec<Artifact>,
}

impl Change {
    /// Workers began an attempt.
    pub(super) fn start(holder: Holder, AttemptId { task, number }: AttemptId) -> Self {
        Self::new(task, LifeEvent::Start { endpoint: holder.endpoint, attempt: number })
    }

    /// An endpoint still has an attempt.
    pub(super) fn renew(holder: Holder, AttemptId { task, number }: AttemptId, until: Moment) -> Self {
        Self::new(task, LifeEvent::Renew { endpoint: holder.endpoint, attempt: number, until })
    }

    /// An attempt is over.
    pub(super) fn report(holder: Holder, report: Report, now: Moment) -> Self {
        let Report { attempt: AttemptId { task, number }, outcome, result, artifacts } = report;
        let (endpoint, spread) = (holder.endpoint, task.spread());
        let event = LifeEvent::Report { endpoint, attempt: number, outcome, now, spread };
        Self { task, event, result: Some(result), artifacts }
    }

    /// A task is no longer wanted.
    pub(super) fn cancel(task: TaskId) -> Self {
        Self::new(task, LifeEvent::Cancel)
    }

    fn new(task: TaskId, event: LifeEvent) -> Self {
        Self { task, event, result: None, artifacts: Vec::new() }
    }
}

/// A submission that came before.
#[derive(Debug)]
pub(super) struct KnownRequest {
    pub(super) digest: [u8; 32],
    pub(super) action: ActionId,
    pub(super) tasks: Vec<TaskId>,
}

/// What becomes of a submission, of which these are known: one with its request id, and the owner of its action.
pub(super) fn submission(
    new: &NewSubmission,
    digest: &[u8; 32],
    known: Option<KnownRequest>,
    action: Option<&Subject>,
) -> Submitted {
    if let Some(KnownRequest { digest: before, action, tasks }) = known {
        return if before == *digest { Submitted::Known { action, tasks } } else { Submitted::Conflict { action } };
    }
    match (action, new.adds_to) {
        (Some(owner), AddsTo::Own) if *owner != new.action.owner => Submitted::ForeignAction,
        (None | Some(_), AddsTo::Own | AddsTo::Any) => Submitted::New,
    }
}

/// What is told of a task that was accepted.
pub(super) fn accepted(task: &NewTask) -> NewEvent {
    let NewTask { id, action, endpoint, owner, group, submitted, .. } = task;
    let about = AboutTask { action: *action, endpoint: *endpoint, owner: owner.clone(), group: group.clone() };
    about.told(*id, *submitted, StoreEvent::Submitted)
}

/// Leases tasks that wait.
pub(super) fn lease(waiting: Vec<WaitingTask>, request: &LeaseRequest) -> Decided<Vec<Leased>> {
    let &LeaseRequest { holder: Holder { endpoint, epoch: _ }, until, now, .. } = request;
    let mut decided = Decided::new(Vec::with_capacity(waiting.len()));
    let event = LifeEvent::Lease { endpoint, until, now };
    for WaitingTask { id: task, mut current, spec, pool } in waiting {
        let Ok(life) = current.life.after(&event, current.limits) else { continue };
        let Some(hold) = life.hold() else { continue };
        decided.answers.push(Leased {
            attempt: AttemptId { task, number: hold.attempt },
            spec,
            pool,
            deadline: current.deadline,
            crashes: life.crashes,
        });
        decided.note(task, &mut current, &event, life, Some(now));
        decided.rows.push(current.row(task));
    }
    decided
}

/// Applies changes in their order; without a moment they are not worth noting when.
pub(super) fn change(
    mut lives: HashMap<TaskId, Current>,
    changes: Vec<Change>,
    now: Option<Moment>,
) -> Decided<Vec<Changed>> {
    let mut decided = Decided::new(Vec::with_capacity(changes.len()));
    let mut rows: BTreeMap<TaskId, ChangedTask> = BTreeMap::new();
    for Change { task, event, result, artifacts } in changes {
        let answer = match lives.get_mut(&task) {
            None => Err(ChangeError::Unknown),
            Some(current) => allowed(current, &event, result.as_ref(), &artifacts),
        };
        if let (Ok(life), Some(current)) = (&answer, lives.get_mut(&task))
            && *life != current.life
        {
            decided.note(task, current, &event, life.clone(), now);
            let row = ChangedTask { result, artifacts, ..current.row(task) };
            match rows.entry(task) {
                Entry::Vacant(entry) => {
                    entry.insert(row);
                }
                Entry::Occupied(mut entry) => entry.get_mut().replace(row),
            }
        }
        decided.answers.push(answer);
    }
    decided.rows = rows.into_values().collect();
    decided
}

/// Applies what a moment brings. The answers are the tasks that changed.
pub(super) fn expire(lives: HashMap<TaskId, Current>, overdue: Overdue, now: Moment) -> Decided<Vec<TaskId>> {
    let lives: BTreeMap<TaskId, Current> = lives.into_iter().collect();
    let mut decided = Decided::new(Vec::with_capacity(lives.len()));
    for (task, mut current) in lives {
        let before = current.life.clone();
        let deadline = current.deadline.filter(|deadline| *deadline <= now).map(|_| LifeEvent::Deadline);
        let lease = match overdue {
            Overdue::Deadlines => None,
            Overdue::DeadlinesAndLeases => Some(LifeEvent::Expire { now }),
        };
        for event in lease.into_iter().chain(deadline) {
            // what is not due yet, or over by the event before, stays as it is
            let Ok(life) = current.life.after(&event, current.limits) else { continue };
            if life != current.life {
                decided.note(task, &mut current, &event, life, Some(now));
            }
        }
        if current.life != before {
            decided.answers.push(task);
            decided.rows.push(current.row(task));
        }
    }
    decided
}

/// Whether a session may have a name that another one has: the answer is that one if it may not.
pub(super) fn claim(
    holder: Option<EndpointSession>,
    session: &EndpointSession,
    replaces: &[SessionId],
    now: Moment,
) -> Claim {
    match holder {
        Some(holder) if holder.id != session.id && !replaces.contains(&holder.id) && holder.until > now => {
            Claim::Held(holder)
        }
        Some(_) | None => Claim::Granted,
    }
}

/// Whether a connection may renew its session, given the session that has the name and its newest connection.
pub(super) fn beat(holder: Option<(EndpointSession, Epoch)>, by: Holder, session: SessionId) -> Claim {
    match holder {
        None => Claim::Open,
        Some((holder, _)) if holder.id != session => Claim::Held(holder),
        Some((_, newest)) if newest != by.epoch => Claim::Open,
        Some(_) => Claim::Granted,
    }
}

/// Whether a connection may lease.
pub(super) fn may_lease(holder: Option<&(EndpointSession, Epoch)>, request: &LeaseRequest) -> bool {
    holder.is_some_and(|(session, newest)| session.until > request.now && *newest == request.holder.epoch)
}

impl TaskClass {
    /// That of a task which was just accepted.
    pub(super) fn of_new(task: &NewTask) -> Self {
        let NewTask { endpoint, owner, group, .. } = task;
        Self { endpoint: *endpoint, owner: owner.clone(), group: group.clone(), state: StateName::Queued }
    }
}

impl AboutTask {
    fn class(&self, state: StateName) -> TaskClass {
        let Self { action: _, endpoint, owner, group } = self;
        TaskClass { endpoint: *endpoint, owner: owner.clone(), group: group.clone(), state }
    }

    fn told(self, task: TaskId, time: Moment, event: StoreEvent) -> NewEvent {
        let Self { action, endpoint, owner, group } = self;
        NewEvent { time, task: Some(task), action: Some(action), endpoint: Some(endpoint), owner, group, event }
    }
}

impl Current {
    fn row(&self, task: TaskId) -> ChangedTask {
        ChangedTask {
            task,
            life: self.life.clone(),
            deadline: self.deadline,
            changed: self.changed,
            result: None,
            artifacts: Vec::new(),
        }
    }
}

impl ChangedTask {
    /// A later change of the same call; what an earlier one left stays, unless the later one leaves something too.
    fn replace(&mut self, later: Self) {
        let Self { task: _, life, deadline, changed, result, artifacts } = later;
        (self.life, self.deadline, self.changed) = (life, deadline, changed);
        self.result = result.or(self.result.take());
        self.artifacts.extend(artifacts);
    }
}

impl<A> Decided<A> {
    pub(super) fn new(answers: A) -> Self {
        Self { answers, rows: Vec::new(), events: Vec::new(), moved: Vec::new(), actions: BTreeMap::new() }
    }

    /// Takes note of a life that is another one now.
    fn note(&mut self, task: TaskId, current: &mut Current, cause: &LifeEvent, life: Life, now: Option<Moment>) {
        current.changed = now.unwrap_or(current.changed);
        let event = StoreEvent::of_change(&current.life, cause, &life);
        self.events.extend(event.map(|event| current.about.clone().told(task, current.changed, event)));
        let (from, to) = (StateName::of(&current.life), StateName::of(&life));
        if from != to {
            self.moved.push(Moved { from: current.about.class(from), to });
        }
        if current.life.end().is_none() && life.end().is_some() {
            let counts = self.actions.entry(current.about.action).or_default();
            counts.open += 1;
            *counts.of(&life) += 1;
        }
        current.life = life;
    }
}

fn allowed(
    current: &Current,
    event: &LifeEvent,
    result: Option<&TaskResult>,
    artifacts: &[Artifact],
) -> Result<Life, ChangeError> {
    let life = current.life.after(event, current.limits)?;
    let bytes = result.and_then(|result| result.document.as_ref()).map_or(0, String::len);
    if bytes > LARGEST_DOCUMENT {
        return Err(ChangeError::LargeResult { bytes });
    }
    let bytes = artifacts.iter().map(|artifact| artifact.content.len()).sum();
    if artifacts.len() > MOST_ARTIFACTS || bytes > LARGEST_ARTIFACTS {
        return Err(ChangeError::LargeArtifacts { number: artifacts.len(), bytes });
    }
    Ok(life)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::AttemptNumber;
    use crate::task::failure::{Failure, Fault, Loss};
    use crate::task::life::{End, Outcome, Wish};

    const NOW: Moment = Moment::from_millis(50);

    fn id(number: u128) -> TaskId {
        TaskId::new(Uuid::from_u128(number))
    }

    fn holder() -> Holder {
        Holder { endpoint: EndpointId::new(Uuid::from_u128(1)), epoch: Epoch::new(1) }
    }

    fn leased(until: u64, deadline: Option<u64>) -> Current {
        let until = Moment::from_millis(until);
        let lease = LifeEvent::Lease { endpoint: holder().endpoint, until, now: Moment::START };
        let life = Life::new(Moment::START).after(&lease, Limits::default()).expect("waits");
        let (deadline, changed) = (deadline.map(Moment::from_millis), Moment::START);
        let (action, endpoint) = (ActionId::new(Uuid::from_u128(9)), holder().endpoint);
        let about = AboutTask { action, endpoint, owner: "ann".parse().expect("a name"), group: None };
        Current { about, life, limits: Limits::default(), deadline, changed }
    }

    fn attempt(number: u128) -> AttemptId {
        AttemptId { task: id(number), number: AttemptNumber::FIRST }
    }

    fn report(number: u128, outcome: Outcome) -> Change {
        let (attempt, result, artifacts) = (attempt(number), TaskResult::default(), Vec::new());
        Change::report(holder(), Report { attempt, outcome, result, artifacts }, NOW)
    }

    fn kinds<A>(decided: &Decided<A>) -> Vec<(u128, &StoreEvent)> {
        let about = |event: &NewEvent| event.task.expect("is about a task").uuid().as_u128();
        decided.events.iter().map(|event| (about(event), &event.event)).collect()
    }

    #[test]
    fn what_happens_twice_is_told_once() {
        let lives = HashMap::from([(id(1), leased(100, None)), (id(2), leased(100, None))]);
        let failure = Failure::new(Fault::Program, "a bug");
        let changes = vec![
            Change::start(holder(), attempt(1)),
            Change::start(holder(), attempt(1)),
            Change::cancel(id(2)),
            Change::cancel(id(2)),
            report(1, Outcome::Failed(failure.clone())),
            report(2, Outcome::Succeeded),
            report(2, Outcome::Succeeded),
            Change::cancel(id(7)),
        ];
        let decided = change(lives, changes, Some(NOW));
        let first = AttemptNumber::FIRST;
        let wanted = [
            (1, &StoreEvent::Started { attempt: first }),
            (2, &StoreEvent::CancelAsked),
            (1, &StoreEvent::Retried { attempt: first, failure }),
            (2, &StoreEvent::Ended { end: End::Succeeded }),
        ];
        assert_eq!(kinds(&decided), wanted);
        assert_eq!(decided.rows.iter().map(|row| row.task).collect::<Vec<_>>(), [id(1), id(2)], "each once");
        let counts: Vec<ActionCounts> = decided.actions.values().copied().collect();
        assert_eq!(counts, [ActionCounts { open: 1, succeeded: 1, ..ActionCounts::default() }]);
        assert_eq!(decided.answers[7], Err(ChangeError::Unknown));
    }

    #[test]
    fn a_renewal_is_written_and_not_told() {
        let lives = HashMap::from([(id(1), leased(100, None))]);
        let decided = change(lives, vec![Change::renew(holder(), attempt(1), Moment::from_millis(200))], None);
        assert_eq!((decided.rows.len(), decided.events.len(), decided.rows[0].changed), (1, 0, Moment::START));
    }

    #[test]
    fn time_may_bring_two_things_at_once() {
        let both = HashMap::from([(id(1), leased(50, Some(50))), (id(2), leased(100, None))]);
        let decided = expire(both.clone(), Overdue::DeadlinesAndLeases, NOW);
        let lost = StoreEvent::Lost { attempt: AttemptNumber::FIRST, loss: Loss::LeaseExpired };
        let ended = StoreEvent::Ended { end: End::Failed(Failure::deadline()) };
        assert_eq!(kinds(&decided), [(1, &lost), (1, &ended)]);
        assert_eq!((decided.answers, decided.rows.len(), decided.actions.len()), (vec![id(1)], 1, 1));
        let decided = expire(both, Overdue::Deadlines, NOW);
        assert!(decided.rows[0].life.hold().is_some_and(|hold| hold.wish == Wish::Deadline), "its lease goes on");
    }
}
