//! Records as rows and rows as records: the one place that knows how a value is kept.

use std::str::FromStr;

use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use super::fault::Fault;
use super::query::execute;
use crate::ids::{ActionId, EndpointId, IdError, TaskId};
use crate::store::decide::TaskClass;
use crate::store::{EventId, NewTask, StateName, TaskRecord};
use crate::task::life::{Life, Limits, Phase, Wish};
use crate::task::names::{Group, Label, RequestId, Subject};
use crate::task::pool::Pool;
use crate::task::result::TaskResult;
use crate::task::spec::Place;
use crate::task::time::Moment;

/// A new task.
const INSERT: &str = "
    INSERT INTO tasks (id, owner, action, request, endpoint, pool, lane, group_name, label, spec, priority,
        deadline, retries, crashes, submitted, changed, state, not_before, lease_until, due, ended, life, newest_event)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
        ?22, ?23)";

/// The lane of tasks that run on the endpoint's own node; those of pools are from 1 on.
pub(super) const LOGIN_LANE: i64 = 0;

/// Tasks with all that [`task_record`] reads.
pub(super) const TASKS: &str = "SELECT tasks.*, config FROM tasks JOIN pools ON number = pool";

/// A life that changed, in its row.
pub(super) const WRITE: &str = "
    UPDATE tasks SET state = ?2, not_before = ?3, lease_until = ?4, due = ?5, ended = ?6, life = ?7, changed = ?8,
        newest_event = ?9, result = coalesce(?10, result)
    WHERE rowid = ?1";

/// Where a task's row is, in the transaction that found it.
#[derive(Debug)]
pub(super) struct TaskRow {
    number: i64,
    /// What happened to the task last.
    pub(super) newest: EventId,
}

impl TaskRow {
    /// The place of a row that was read with its `rowid` and `newest_event`.
    pub(super) fn of(row: &Row<'_>) -> Result<Self, Fault> {
        Ok(Self { number: column(row, "rowid")?, newest: event_column(row, "newest_event")?.unwrap_or(EventId::START) })
    }
}

/// A place in the outbox, if there is one.
pub(super) fn event_column(row: &Row<'_>, name: &'static str) -> Result<Option<EventId>, Fault> {
    let id: Option<i64> = column(row, name)?;
    id.map(u64::try_from).transpose().map(|id| id.map(EventId::new)).map_err(|_| damaged(row, name))
}

/// As databases keep a place in the outbox.
pub(super) fn place(event: EventId) -> i64 {
    i64::try_from(event.get()).unwrap_or(i64::MAX)
}

/// What changes of a task's row.
#[derive(Debug)]
pub(super) struct LifeRow {
    state: &'static str,
    not_before: Option<i64>,
    lease_until: Option<i64>,
    /// The deadline, while it has still to be applied.
    due: Option<i64>,
    ended: Option<i64>,
    life: String,
    changed: i64,
    /// None = as before.
    result: Option<String>,
}

impl LifeRow {
    /// The row of a life that changed at a moment.
    pub(super) fn new(
        life: &Life,
        deadline: Option<Moment>,
        changed: Moment,
        result: Option<&TaskResult>,
    ) -> Result<Self, Fault> {
        let (mut not_before, mut lease_until, mut ended) = (None, None, None);
        let waits_for_deadline = match &life.phase {
            Phase::Queued { not_before: moment } => {
                not_before = Some(millis(*moment));
                true
            }
            Phase::Held(hold) => {
                lease_until = Some(millis(hold.until));
                hold.wish == Wish::Finish
            }
            Phase::Ended(_) => {
                ended = Some(millis(changed));
                false
            }
        };
        Ok(Self {
            state: StateName::of(life).name(),
            not_before,
            lease_until,
            due: deadline.filter(|_| waits_for_deadline).map(millis),
            ended,
            life: serde_json::to_string(life)?,
            changed: millis(changed),
            result: result.map(serde_json::to_string).transpose()?,
        })
    }

    /// Writes it into the task's row.
    pub(super) fn write(&self, connection: &Connection, row: &TaskRow) -> Result<(), Fault> {
        let Self { state, not_before, lease_until, due, ended, life, changed, result } = self;
        let newest = place(row.newest);
        let values = params![row.number, state, not_before, lease_until, due, ended, life, changed, newest, result];
        execute(connection, WRITE, values).map(|_| ())
    }
}

/// Inserts a new task, of a pool with a number, of which an event tells.
pub(super) fn insert(
    connection: &Connection,
    task: &NewTask,
    request: Option<&RequestId>,
    pool: i64,
    told: EventId,
) -> Result<(), Fault> {
    let NewTask {
        id,
        action,
        endpoint,
        pool: _,
        owner,
        group,
        label,
        spec,
        priority,
        deadline,
        limits: Limits { retries, crashes },
        submitted,
    } = task;
    // it may begin at once: a clock that was put back does not hold it up
    let life = LifeRow::new(&Life::new(Moment::START), *deadline, *submitted, None)?;
    let values = params![
        id.uuid().into_bytes(),
        owner.as_str(),
        action.uuid().into_bytes(),
        request.map(RequestId::as_str),
        endpoint.uuid().into_bytes(),
        pool,
        match spec.kind().place() {
            Place::Slot => pool,
            Place::Login => LOGIN_LANE,
        },
        group.as_ref().map(Group::as_str),
        label.as_ref().map(Label::as_str),
        serde_json::to_string(spec)?,
        priority,
        deadline.map(millis),
        retries,
        crashes,
        life.changed,
        life.changed,
        life.state,
        life.not_before,
        life.lease_until,
        life.due,
        life.ended,
        life.life,
        place(told),
    ];
    execute(connection, INSERT, values).map(|_| ())
}

/// A task of a row with all columns, of [`TASKS`].
pub(super) fn task_record(row: &Row<'_>) -> Result<TaskRecord, Fault> {
    let task = NewTask {
        id: id_column(row, "id", TaskId::from_bytes)?,
        action: id_column(row, "action", ActionId::from_bytes)?,
        endpoint: id_column(row, "endpoint", EndpointId::from_bytes)?,
        pool: pool_column(row)?,
        owner: name_column(row, "owner")?,
        group: optional_name(row, "group_name")?,
        label: optional_name(row, "label")?,
        spec: json_column(row, "spec")?,
        priority: number(row, "priority")?,
        deadline: moment_column(row, "deadline")?,
        limits: limits(row)?,
        submitted: required_moment(row, "submitted")?,
    };
    let result = text_column(row, "result")?;
    let result = result.map(serde_json::from_str).transpose().map_err(|_| damaged(row, "result"))?;
    Ok(TaskRecord { task, life: json_column(row, "life")?, changed: required_moment(row, "changed")?, result })
}

/// The pool of a row with its configuration.
pub(super) fn pool_column(row: &Row<'_>) -> Result<Pool, Fault> {
    let config = text_column(row, "config")?.ok_or_else(|| damaged(row, "config"))?;
    config.parse().map_err(|_| damaged(row, "config"))
}

/// A task's limits.
pub(super) fn limits(row: &Row<'_>) -> Result<Limits, Fault> {
    Ok(Limits { retries: number(row, "retries")?, crashes: number(row, "crashes")? })
}

/// As databases keep a moment. The last moment that they can keep stands for all later ones: it is 292 million years
/// from now.
pub(super) fn millis(moment: Moment) -> i64 {
    i64::try_from(moment.millis()).unwrap_or(i64::MAX)
}

/// A column's value.
pub(super) fn column<T: FromSql>(row: &Row<'_>, name: &'static str) -> Result<T, Fault> {
    Ok(row.get(name)?)
}

/// A text, if there is one, where it lies.
pub(super) fn text_column<'r>(row: &'r Row<'_>, name: &'static str) -> Result<Option<&'r str>, Fault> {
    row.get_ref(name)?.as_str_or_null().map_err(|_| damaged(row, name))
}

/// An id.
pub(super) fn id_column<T>(
    row: &Row<'_>,
    name: &'static str,
    read: impl Fn(&[u8]) -> Result<T, IdError>,
) -> Result<T, Fault> {
    let bytes = row.get_ref(name)?.as_blob().map_err(|_| damaged(row, name))?;
    read(bytes).map_err(|_| damaged(row, name))
}

/// A checked text.
pub(super) fn name_column<T: FromStr>(row: &Row<'_>, name: &'static str) -> Result<T, Fault> {
    optional_name(row, name)?.ok_or_else(|| damaged(row, name))
}

/// A checked text, if there is one.
pub(super) fn optional_name<T: FromStr>(row: &Row<'_>, name: &'static str) -> Result<Option<T>, Fault> {
    let text = text_column(row, name)?;
    text.map(str::parse).transpose().map_err(|_| damaged(row, name))
}

/// Whose a row is, and who else may see it.
pub(super) fn people(row: &Row<'_>) -> Result<(Subject, Option<Group>), Fault> {
    Ok((name_column(row, "owner")?, optional_name(row, "group_name")?))
}

/// The state of a row.
pub(super) fn state_column(row: &Row<'_>) -> Result<StateName, Fault> {
    let name = text_column(row, "state")?;
    StateName::ALL.into_iter().find(|state| Some(state.name()) == name).ok_or_else(|| damaged(row, "the state"))
}

/// The class of a task of a row.
pub(super) fn class(row: &Row<'_>) -> Result<TaskClass, Fault> {
    let (owner, group) = people(row)?;
    Ok(TaskClass {
        endpoint: id_column(row, "endpoint", EndpointId::from_bytes)?,
        owner,
        group,
        state: state_column(row)?,
    })
}

/// A value that is kept as JSON.
pub(super) fn json_column<T: DeserializeOwned>(row: &Row<'_>, name: &'static str) -> Result<T, Fault> {
    let text = text_column(row, name)?.ok_or_else(|| damaged(row, name))?;
    serde_json::from_str(text).map_err(|_| damaged(row, name))
}

/// A moment, if there is one.
pub(super) fn moment_column(row: &Row<'_>, name: &'static str) -> Result<Option<Moment>, Fault> {
    let millis: Option<i64> = column(row, name)?;
    millis.map(u64::try_from).transpose().map(|at| at.map(Moment::from_millis)).map_err(|_| damaged(row, name))
}

/// A moment.
pub(super) fn required_moment(row: &Row<'_>, name: &'static str) -> Result<Moment, Fault> {
    moment_column(row, name)?.ok_or_else(|| damaged(row, name))
}

/// A row that this program did not write.
pub(super) fn damaged(row: &Row<'_>, what: &'static str) -> Fault {
    let bytes: Vec<u8> = row.get("id").unwrap_or_default();
    Fault::Damaged { what, id: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
}

/// A number that fits its type.
pub(super) fn number<T: TryFrom<i64>>(row: &Row<'_>, name: &'static str) -> Result<T, Fault> {
    T::try_from(column::<i64>(row, name)?).map_err(|_| damaged(row, name))
}
