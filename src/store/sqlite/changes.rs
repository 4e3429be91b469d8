//! What changes tasks' lives: leases, what endpoints say of attempts, cancelling, time. Each call reads what it is about,
//! asks `decide`, and writes what that says, in the transaction it was given. It decides nothing itself.

use std::collections::HashMap;

use rusqlite::{Connection, Row};

use super::counts::Counted;
use super::fault::Fault;
use super::query::{all, one};
use super::rows::{self, LifeRow, TaskRow, id_column, json_column, moment_column};
use super::writing::Writing;
use super::{artifacts, endpoints, outbox, tasks};
use crate::ids::{ActionId, AttemptId, EndpointId, TaskId};
use crate::protocol::session::Leased;
use crate::store::decide::{self, AboutTask, Change, ChangedTask, Current, Decided, Moved, TaskClass, WaitingTask};
use crate::store::{ChangeError, Changed, Holder, LeaseRequest, Overdue, Report};
use crate::task::pool::Lane;
use crate::task::time::Moment;

/// Tasks that may begin, in the order of the index, which has everything that it asks.
pub(super) const WAITING: &str = "
    SELECT rowid, newest_event, id, action, endpoint, owner, group_name, life, retries, crashes, deadline, changed, spec,
        pool FROM tasks INDEXED BY tasks_queued
    WHERE state = 'queued' AND endpoint = ?1 AND lane = ?2 AND not_before <= ?3 AND (due IS NULL OR due > ?3)
    ORDER BY priority DESC, id LIMIT ?4";

/// A task by id.
pub(super) const LIFE: &str = "
    SELECT rowid, newest_event, id, action, endpoint, owner, group_name, life, retries, crashes, deadline, changed
    FROM tasks WHERE id = ?1";

/// Tasks whose deadline has passed.
pub(super) const DUE: &str = "SELECT id FROM tasks INDEXED BY tasks_due WHERE due <= ?1 ORDER BY due LIMIT ?2";

/// Tasks whose lease has run out, or whose deadline has passed.
pub(super) const OVERDUE: &str = "
    SELECT id FROM (SELECT id FROM tasks INDEXED BY tasks_held WHERE lease_until <= ?1 ORDER BY lease_until LIMIT ?2)
    UNION SELECT id FROM (SELECT id FROM tasks INDEXED BY tasks_due WHERE due <= ?1 ORDER BY due LIMIT ?2) LIMIT ?2";

/// Where the rows of tasks are that a call is about, so that each is looked for once.
type Places = HashMap<TaskId, TaskRow>;

/// Leases tasks to the newest session of an endpoint.
pub(super) fn lease(writing: &Writing, request: &LeaseRequest) -> Result<Vec<Leased>, Fault> {
    let LeaseRequest { holder: Holder { endpoint, .. }, lanes, now, until: _ } = request;
    if !decide::may_lease(endpoints::holder(writing, *endpoint)?.as_ref(), request) {
        return Ok(Vec::new());
    }
    let (mut waiting, mut found_at) = (Vec::new(), Places::new());
    for (lane, most) in lanes {
        let Some(number) = tasks::lane_number(writing, *lane)? else { continue };
        let asked = (endpoint.uuid().into_bytes(), number, rows::millis(*now), most);
        let found = all(writing, WAITING, asked, |row| {
            let (place, id, current) = current(row)?;
            let pool = match lane {
                Lane::Pool(key) => *key,
                Lane::Login => tasks::pool_key(writing, rows::column(row, "pool")?)?,
            };
            Ok((place, WaitingTask { id, current, spec: json_column(row, "spec")?, pool }))
        })?;
        for (place, task) in found {
            found_at.insert(task.id, place);
            waiting.push(task);
        }
    }
    write(writing, found_at, decide::lease(waiting, request))
}

/// Workers began these attempts.
pub(super) fn start(
    writing: &Writing,
    holder: Holder,
    attempts: Vec<AttemptId>,
    now: Moment,
) -> Result<Vec<Changed>, Fault> {
    let changes = attempts.into_iter().map(|attempt| Change::start(holder, attempt));
    by_holder(writing, holder, changes.collect(), Some(now))
}

/// An endpoint still has these attempts.
pub(super) fn renew(
    writing: &Writing,
    holder: Holder,
    attempts: Vec<AttemptId>,
    until: Moment,
) -> Result<Vec<Changed>, Fault> {
    let changes = attempts.into_iter().map(|attempt| Change::renew(holder, attempt, until));
    by_holder(writing, holder, changes.collect(), None)
}

/// These attempts are over.
pub(super) fn report(
    writing: &Writing,
    holder: Holder,
    reports: Vec<Report>,
    now: Moment,
) -> Result<Vec<Changed>, Fault> {
    let changes = reports.into_iter().map(|report| Change::report(holder, report, now));
    by_holder(writing, holder, changes.collect(), Some(now))
}

/// These tasks are no longer wanted.
pub(super) fn cancel(writing: &Writing, tasks: Vec<TaskId>, now: Moment) -> Result<Vec<Changed>, Fault> {
    change(writing, tasks.into_iter().map(Change::cancel).collect(), Some(now))
}

/// Time has passed.
pub(super) fn expire(writing: &Writing, now: Moment, overdue: Overdue, most: u32) -> Result<Vec<TaskId>, Fault> {
    let statement = match overdue {
        Overdue::Deadlines => DUE,
        Overdue::DeadlinesAndLeases => OVERDUE,
    };
    let ids = all(writing, statement, (rows::millis(now), most), |row| id_column(row, "id", TaskId::from_bytes))?;
    let (places, lives) = lives(writing, ids)?;
    write(writing, places, decide::expire(lives, overdue, now))
}

/// Applies what an endpoint says, unless a newer connection speaks for it.
fn by_holder(
    writing: &Writing,
    holder: Holder,
    changes: Vec<Change>,
    now: Option<Moment>,
) -> Result<Vec<Changed>, Fault> {
    if endpoints::speaks(writing, holder)? {
        return change(writing, changes, now);
    }
    Ok(changes.iter().map(|_| Err(ChangeError::OldEpoch)).collect())
}

fn change(writing: &Writing, changes: Vec<Change>, now: Option<Moment>) -> Result<Vec<Changed>, Fault> {
    let (places, lives) = lives(writing, changes.iter().map(|change| change.task).collect())?;
    write(writing, places, decide::change(lives, changes, now))
}

fn lives(connection: &Connection, tasks: Vec<TaskId>) -> Result<(Places, HashMap<TaskId, Current>), Fault> {
    let (mut places, mut lives) = (Places::new(), HashMap::new());
    for task in tasks {
        if let Some((place, id, life)) = one(connection, LIFE, (task.uuid().as_bytes(),), current)? {
            places.insert(id, place);
            lives.insert(id, life);
        }
    }
    Ok((places, lives))
}

/// Writes what was decided of tasks whose rows were found; returns what the caller is told.
fn write<A>(writing: &Writing, mut places: Places, decided: Decided<A>) -> Result<A, Fault> {
    let Decided { answers, rows, events, moved, actions } = decided;
    let now = events.last().map(|event| event.time);
    for event in events {
        match event.task.and_then(|task| places.get_mut(&task)) {
            Some(place) => place.newest = outbox::tell(writing, event, Some(place.newest))?,
            None => _ = outbox::tell(writing, event, None)?,
        }
    }
    for ChangedTask { task, life, deadline, changed, result, artifacts: left } in rows {
        let place = places.get(&task).ok_or_else(|| Fault::Damaged { what: "the row", id: task.to_string() })?;
        LifeRow::new(&life, deadline, changed, result.as_ref())?.write(writing, place)?;
        left.into_iter().try_for_each(|artifact| artifacts::keep(writing, task, artifact))?;
    }
    for Moved { from, to } in moved {
        writing.count(TaskClass { state: to, ..from.clone() }, Counted::In);
        writing.count(from, Counted::Out);
    }
    for (action, ended) in actions {
        outbox::count_ended(writing, action, ended, now.unwrap_or(Moment::START))?;
    }
    Ok(answers)
}

fn current(row: &Row<'_>) -> Result<(TaskRow, TaskId, Current), Fault> {
    let (owner, group) = rows::people(row)?;
    let about = AboutTask {
        action: id_column(row, "action", ActionId::from_bytes)?,
        endpoint: id_column(row, "endpoint", EndpointId::from_bytes)?,
        owner,
        group,
    };
    let current = Current {
        about,
        life: json_column(row, "life")?,
        limits: rows::limits(row)?,
        deadline: moment_column(row, "deadline")?,
        changed: rows::required_moment(row, "changed")?,
    };
    Ok((TaskRow::of(row)?, id_column(row, "id", TaskId::from_bytes)?, current))
}
