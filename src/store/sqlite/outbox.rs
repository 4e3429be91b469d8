//! Events and actions: written with the tasks that they tell of, read by those who follow them.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::fault::Fault;
use super::query::{all, execute, one};
use super::rows::{self, column, id_column, json_column, name_column, number, optional_name};
use super::writing::Writing;
use crate::ids::{ActionId, EndpointId, IdError, TaskId};
use crate::store::event::NewEvent;
use crate::store::{ActionRecord, EventId, EventRecord, NewAction, NewTask, StoreEvent, decide};
use crate::task::action::ActionCounts;
use crate::task::names::{Group, Label};
use crate::task::time::Moment;

const TELL: &str = "
    INSERT INTO events (time, task, action, endpoint, owner, group_name, before, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// What happened to a task last.
pub(super) const NEWEST: &str = "SELECT id, newest_event FROM tasks WHERE id = ?";

/// An event.
pub(super) const EVENT: &str = "SELECT * FROM events WHERE id = ?";

/// Old events: their ids ascend with their time. The newest stays, so that its id is not given again.
const FORGET: &str = "
    DELETE FROM events WHERE id IN (SELECT id FROM (SELECT id, time FROM events ORDER BY id LIMIT ?2) WHERE time < ?1)
        AND id < (SELECT max(id) FROM events)";

/// An action, if none of its tasks is left.
pub(super) const FORGET_ACTION: &str = "
    DELETE FROM actions WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM tasks WHERE action = ?1)";

/// Tells that a task was accepted.
pub(super) fn of_new_task(writing: &Writing, task: &NewTask) -> Result<EventId, Fault> {
    tell(writing, decide::accepted(task), None)
}

/// Tells what happened to an endpoint, which is there.
pub(super) fn of_endpoint(
    writing: &Writing,
    endpoint: EndpointId,
    time: Moment,
    event: StoreEvent,
) -> Result<(), Fault> {
    let asked = "SELECT id, owner, group_name FROM endpoints WHERE id = ?";
    let found = one(writing, asked, (endpoint.uuid().as_bytes(),), rows::people)?;
    let Some((owner, group)) = found else { return Ok(()) };
    let event = NewEvent { time, task: None, action: None, endpoint: Some(endpoint), owner, group, event };
    tell(writing, event, None).map(|_| ())
}

/// Tells what happened, and to the task before it; returns where that stands.
pub(super) fn tell(writing: &Writing, event: NewEvent, before: Option<EventId>) -> Result<EventId, Fault> {
    let values = params![
        rows::millis(event.time),
        event.task.map(|task| task.uuid().into_bytes()),
        event.action.map(|action| action.uuid().into_bytes()),
        event.endpoint.map(|endpoint| endpoint.uuid().into_bytes()),
        event.owner.as_str(),
        event.group.as_ref().map(Group::as_str),
        before.map(rows::place),
        serde_json::to_string(&event.event)?,
    ];
    execute(writing, TELL, values)?;
    let id = EventId::new(u64::try_from(writing.last_insert_rowid()).unwrap_or_default());
    writing.tell(event.at(id));
    Ok(id)
}

/// Keeps an action with new tasks, or adds them to one that is known.
pub(super) fn add_action(connection: &Connection, action: &NewAction, tasks: usize) -> Result<(), Fault> {
    let NewAction { id, owner, group, label, on_dataset_failure, submitted } = action;
    let values = params![
        id.uuid().into_bytes(),
        owner.as_str(),
        group.as_ref().map(Group::as_str),
        label.as_ref().map(Label::as_str),
        serde_json::to_string(on_dataset_failure)?,
        rows::millis(*submitted),
        i64::try_from(tasks).unwrap_or(i64::MAX),
    ];
    execute(
        connection,
        "INSERT INTO actions (id, owner, group_name, label, on_dataset_failure, submitted, open, succeeded, failed,
             cancelled, ended)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 0, NULL)
         ON CONFLICT (id) DO UPDATE SET open = open + excluded.open, ended = NULL",
        values,
    )
    .map(|_| ())
}

/// Counts tasks of an action that ended; `open` is how many. The last one ends the action, which is told.
pub(super) fn count_ended(writing: &Writing, action: ActionId, ended: ActionCounts, now: Moment) -> Result<(), Fault> {
    let ActionCounts { open, succeeded, failed, cancelled } = ended;
    let [open, succeeded, failed, cancelled] =
        [open, succeeded, failed, cancelled].map(|tasks| i64::try_from(tasks).unwrap_or(i64::MAX));
    let left = one(
        writing,
        "UPDATE actions SET open = open - ?2, succeeded = succeeded + ?3, failed = failed + ?4,
             cancelled = cancelled + ?5, ended = CASE WHEN open = ?2 THEN ?6 END
         WHERE id = ?1 RETURNING id, open, owner, group_name",
        (action.uuid().as_bytes(), open, succeeded, failed, cancelled, rows::millis(now)),
        |row| Ok((column::<i64>(row, "open")?, rows::people(row)?)),
    )?;
    let Some((0, (owner, group))) = left else { return Ok(()) };
    let event = StoreEvent::ActionEnded;
    let event = NewEvent { time: now, task: None, action: Some(action), endpoint: None, owner, group, event };
    tell(writing, event, None).map(|_| ())
}

/// Actions by id.
pub(super) fn actions(connection: &Connection, ids: &[ActionId]) -> Result<Vec<Option<ActionRecord>>, Fault> {
    let asked = "SELECT * FROM actions WHERE id = ?";
    ids.iter().map(|id| one(connection, asked, (id.uuid().as_bytes(),), action_record)).collect()
}

/// Where the outbox ends.
pub(super) fn newest(connection: &Connection) -> Result<EventId, Fault> {
    let newest = one(connection, "SELECT id FROM events ORDER BY id DESC LIMIT 1", (), event_id)?;
    Ok(newest.unwrap_or(EventId::START))
}

/// Events after a place.
pub(super) fn events(connection: &Connection, after: EventId, most: u32) -> Result<Vec<Arc<EventRecord>>, Fault> {
    let after = i64::try_from(after.get()).unwrap_or(i64::MAX);
    let asked = "SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?";
    all(connection, asked, (after, most), |row| event_record(row).map(Arc::new))
}

/// What happened to a task: the newest of it, in its order.
pub(super) fn timeline(connection: &Connection, task: TaskId, most: u32) -> Result<Vec<EventRecord>, Fault> {
    let newest = one(connection, NEWEST, (task.uuid().as_bytes(),), |row| rows::event_column(row, "newest_event"))?;
    let (mut next, mut found) = (newest.flatten(), VecDeque::new());
    while let Some(id) = next.filter(|_| found.len() < most as usize) {
        let event = one(connection, EVENT, (rows::place(id),), |row| {
            Ok((event_record(row)?, rows::event_column(row, "before")?))
        })?;
        // older ones are forgotten
        let Some((event, before)) = event else { break };
        found.push_front(event);
        next = before;
    }
    Ok(found.into())
}

/// Forgets at most `most` events that are older than a moment.
pub(super) fn forget(connection: &Connection, before: Moment, most: u32) -> Result<u64, Fault> {
    Ok(execute(connection, FORGET, (rows::millis(before), most))? as u64)
}

/// Forgets an action of which no task is left; returns how many that were.
pub(super) fn forget_action(connection: &Connection, action: ActionId) -> Result<u64, Fault> {
    Ok(execute(connection, FORGET_ACTION, (action.uuid().as_bytes(),))? as u64)
}

fn event_id(row: &Row<'_>) -> Result<EventId, Fault> {
    number(row, "id").map(EventId::new)
}

fn event_record(row: &Row<'_>) -> Result<EventRecord, Fault> {
    Ok(EventRecord {
        id: event_id(row)?,
        time: rows::required_moment(row, "time")?,
        task: optional_id(row, "task", TaskId::from_bytes)?,
        action: optional_id(row, "action", ActionId::from_bytes)?,
        endpoint: optional_id(row, "endpoint", EndpointId::from_bytes)?,
        owner: name_column(row, "owner")?,
        group: optional_name(row, "group_name")?,
        event: json_column(row, "body")?,
    })
}

fn optional_id<T>(
    row: &Row<'_>,
    name: &'static str,
    read: impl Fn(&[u8]) -> Result<T, IdError>,
) -> Result<Option<T>, Fault> {
    match column::<Option<Vec<u8>>>(row, name)? {
        None => Ok(None),
        Some(_) => id_column(row, name, read).map(Some),
    }
}

fn action_record(row: &Row<'_>) -> Result<ActionRecord, Fault> {
    let action = NewAction {
        id: id_column(row, "id", ActionId::from_bytes)?,
        owner: name_column(row, "owner")?,
        group: optional_name(row, "group_name")?,
        label: optional_name(row, "label")?,
        on_dataset_failure: json_column(row, "on_dataset_failure")?,
        submitted: rows::required_moment(row, "submitted")?,
    };
    let counts = ActionCounts {
        open: number(row, "open")?,
        succeeded: number(row, "succeeded")?,
        failed: number(row, "failed")?,
        cancelled: number(row, "cancelled")?,
    };
    Ok(ActionRecord { action, counts, ended: rows::moment_column(row, "ended")? })
}
