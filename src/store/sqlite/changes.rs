//! What changes tasks' lives: leases, what endpoints say of attempts, cancelling, time. Each call reads the lives,
//! asks [`Life::after`], and writes back those that changed, in the transaction it was given. It decides nothing
//! about a life itself.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, Row};

use super::endpoints;
use super::fault::Fault;
use super::query::{all, one};
use super::rows::{self, LifeRow, id_column, json_column, moment_column};
use crate::ids::{AttemptId, TaskId};
use crate::protocol::session::Leased;
use crate::store::{ChangeError, Changed, Holder, LeaseRequest, Report};
use crate::task::life::{Life, LifeEvent, Limits};
use crate::task::result::{LARGEST_DOCUMENT, TaskResult};
use crate::task::spec::Kind;
use crate::task::time::Moment;

/// Tasks that may begin, in the order of the index, which has everything that it asks.
pub(super) const WAITING: &str = "
    SELECT id, life, retries, crashes, deadline, changed, spec FROM tasks INDEXED BY tasks_queued
    WHERE state = 'queued' AND endpoint = ?1 AND not_before <= ?2 AND (due IS NULL OR due > ?2)
        AND kind IN (SELECT value FROM json_each(?3))
    ORDER BY priority DESC, id LIMIT ?4";

/// A task by id.
pub(super) const LIFE: &str = "SELECT id, life, retries, crashes, deadline, changed FROM tasks WHERE id = ?1";

/// Tasks whose lease has run out, or whose deadline has passed.
pub(super) const OVERDUE: &str = "
    SELECT id FROM (SELECT id FROM tasks INDEXED BY tasks_held WHERE lease_until <= ?1 ORDER BY lease_until LIMIT ?2)
    UNION SELECT id FROM (SELECT id FROM tasks INDEXED BY tasks_due WHERE due <= ?1 ORDER BY due LIMIT ?2) LIMIT ?2";

/// A task's life while a call changes it.
struct Current {
    life: Life,
    limits: Limits,
    deadline: Option<Moment>,
    changed: Moment,
    result: Option<TaskResult>,
}

/// What happens to a task, and what that leaves.
struct Change {
    task: TaskId,
    event: LifeEvent,
    result: Option<TaskResult>,
}

/// Leases tasks to the newest session of an endpoint.
pub(super) fn lease(connection: &Connection, request: LeaseRequest) -> Result<Vec<Leased>, Fault> {
    let LeaseRequest { holder, most, kinds, until, now } = request;
    let endpoint = holder.endpoint;
    let found = endpoints::holder(connection, endpoint)?;
    if found.is_none_or(|(session, newest)| session.until <= now || newest != holder.epoch) {
        return Ok(Vec::new());
    }
    let kinds = if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds };
    let asked = (endpoint.uuid().into_bytes(), rows::millis(now), serde_json::to_string(&kinds)?, most);
    let found = all(connection, WAITING, asked, |row| Ok((current(row)?, json_column(row, "spec")?)))?;
    let (mut leased, mut written) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for ((task, current), spec) in found {
        let Ok(life) = current.life.after(&LifeEvent::Lease { endpoint, until, now }, current.limits) else { continue };
        let Some(hold) = life.hold() else { continue };
        leased.push(Leased {
            attempt: AttemptId { task, number: hold.attempt },
            spec,
            deadline: current.deadline,
            until: hold.until,
            crashes: life.crashes,
        });
        written.push(LifeRow::new(task, &life, current.deadline, now, None)?);
    }
    write(connection, &written)?;
    Ok(leased)
}

/// Workers began these attempts.
pub(super) fn start(
    connection: &Connection,
    holder: Holder,
    attempts: Vec<AttemptId>,
    now: Moment,
) -> Result<Vec<Changed>, Fault> {
    let Holder { endpoint, .. } = holder;
    let began = |AttemptId { task, number }| Change::new(task, LifeEvent::Start { endpoint, attempt: number });
    by_holder(connection, holder, attempts.into_iter().map(began).collect(), Some(now))
}

/// An endpoint still has these attempts.
pub(super) fn renew(
    connection: &Connection,
    holder: Holder,
    attempts: Vec<AttemptId>,
    until: Moment,
) -> Result<Vec<Changed>, Fault> {
    let Holder { endpoint, .. } = holder;
    let renewed = |AttemptId { task, number }| Change::new(task, LifeEvent::Renew { endpoint, attempt: number, until });
    by_holder(connection, holder, attempts.into_iter().map(renewed).collect(), None)
}

/// These attempts are over.
pub(super) fn report(
    connection: &Connection,
    holder: Holder,
    reports: Vec<Report>,
    now: Moment,
) -> Result<Vec<Changed>, Fault> {
    let Holder { endpoint, .. } = holder;
    let over = |report: Report| {
        let Report { attempt: AttemptId { task, number }, outcome, result } = report;
        let event = LifeEvent::Report { endpoint, attempt: number, outcome, now, spread: task.spread() };
        Change { task, event, result: Some(result) }
    };
    by_holder(connection, holder, reports.into_iter().map(over).collect(), Some(now))
}

/// These tasks are no longer wanted.
pub(super) fn cancel(connection: &Connection, tasks: Vec<TaskId>, now: Moment) -> Result<Vec<Changed>, Fault> {
    let cancelled = |task| Change::new(task, LifeEvent::Cancel);
    change(connection, tasks.into_iter().map(cancelled).collect(), Some(now))
}

/// Time has passed.
pub(super) fn expire(connection: &Connection, now: Moment, most: u32) -> Result<Vec<TaskId>, Fault> {
    let overdue = (rows::millis(now), most);
    let ids = all(connection, OVERDUE, overdue, |row| id_column(row, "id", TaskId::from_bytes))?;
    let lives = lives(connection, ids)?;
    let mut written = Vec::with_capacity(lives.len());
    for (task, current) in &lives {
        let mut life = current.life.clone();
        for event in passed(current.deadline, now) {
            // what is not due yet, or over by the event before, stays as it is
            life = life.after(&event, current.limits).unwrap_or(life);
        }
        if life != current.life {
            written.push((*task, LifeRow::new(*task, &life, current.deadline, now, None)?));
        }
    }
    let (changed, rows): (Vec<TaskId>, Vec<LifeRow>) = written.into_iter().unzip();
    write(connection, &rows)?;
    Ok(changed)
}

/// What a moment may bring to a task.
fn passed(deadline: Option<Moment>, now: Moment) -> impl Iterator<Item = LifeEvent> {
    let deadline = deadline.filter(|deadline| *deadline <= now).map(|_| LifeEvent::Deadline);
    [LifeEvent::Expire { now }].into_iter().chain(deadline)
}

impl Change {
    fn new(task: TaskId, event: LifeEvent) -> Self {
        Self { task, event, result: None }
    }
}

/// Applies what an endpoint says, unless a newer connection speaks for it.
fn by_holder(
    connection: &Connection,
    holder: Holder,
    changes: Vec<Change>,
    now: Option<Moment>,
) -> Result<Vec<Changed>, Fault> {
    if endpoints::speaks(connection, holder)? {
        return change(connection, changes, now);
    }
    Ok(changes.iter().map(|_| Err(ChangeError::OldEpoch)).collect())
}

/// Applies changes in their order; without a moment they are not worth noting when.
fn change(connection: &Connection, changes: Vec<Change>, now: Option<Moment>) -> Result<Vec<Changed>, Fault> {
    let mut lives = lives(connection, changes.iter().map(|change| change.task).collect())?;
    let (mut touched, mut answers) = (HashSet::new(), Vec::with_capacity(changes.len()));
    for change in changes {
        let task = change.task;
        let answer = match lives.get_mut(&task) {
            None => Err(ChangeError::Unknown),
            Some(current) => apply(current, change, now).map(|difference| {
                if difference == Difference::Some {
                    touched.insert(task);
                }
                current.life.clone()
            }),
        };
        answers.push(answer);
    }
    let written: Result<Vec<LifeRow>, Fault> = touched
        .iter()
        .filter_map(|task| Some((task, lives.get(task)?)))
        .map(|(task, at)| LifeRow::new(*task, &at.life, at.deadline, at.changed, at.result.as_ref()))
        .collect();
    write(connection, &written?)?;
    Ok(answers)
}

/// Whether there is something to write.
#[derive(PartialEq, Eq)]
enum Difference {
    None,
    Some,
}

fn apply(current: &mut Current, change: Change, now: Option<Moment>) -> Result<Difference, ChangeError> {
    let life = current.life.after(&change.event, current.limits)?;
    let bytes = change.result.as_ref().and_then(|result| result.document.as_ref()).map_or(0, String::len);
    if bytes > LARGEST_DOCUMENT {
        return Err(ChangeError::LargeResult { bytes });
    }
    if life == current.life {
        return Ok(Difference::None);
    }
    current.life = life;
    current.changed = now.unwrap_or(current.changed);
    current.result = change.result.or(current.result.take());
    Ok(Difference::Some)
}

fn lives(connection: &Connection, tasks: Vec<TaskId>) -> Result<HashMap<TaskId, Current>, Fault> {
    let found = tasks.into_iter().map(|task| one(connection, LIFE, (task.uuid().as_bytes(),), current));
    found.filter_map(Result::transpose).collect()
}

fn write(connection: &Connection, rows: &[LifeRow]) -> Result<(), Fault> {
    rows.iter().try_for_each(|row| row.write(connection))
}

fn current(row: &Row<'_>) -> Result<(TaskId, Current), Fault> {
    let current = Current {
        life: json_column(row, "life")?,
        limits: rows::limits(row)?,
        deadline: moment_column(row, "deadline")?,
        changed: rows::required_moment(row, "changed")?,
        result: None,
    };
    Ok((id_column(row, "id", TaskId::from_bytes)?, current))
}
