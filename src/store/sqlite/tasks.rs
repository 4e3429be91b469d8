//! Tasks: accepted, looked up, listed, counted, forgotten. What changes their lives is in `changes`.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;
use rusqlite::types::Value;

use super::fault::Fault;
use super::query::{all, execute};
use super::rows::{self, NewRow, column, id_column, task_record};
use crate::ids::TaskId;
use crate::store::{NewTask, Page, StateName, Submitted, TaskFilter, TaskRecord};
use crate::task::names::{RequestId, Subject};
use crate::task::time::Moment;

/// Submissions that came before.
pub(super) const KNOWN: &str = "
    SELECT tasks.id, owner, request, digest FROM json_each(?1) AS asked
    JOIN tasks ON owner = asked.value ->> 0 AND request = asked.value ->> 1";

/// Tasks that ended before a moment, the oldest first.
pub(super) const OLD: &str = "
    DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE ended < ?1 ORDER BY ended LIMIT ?2)";

/// Accepts what was not accepted before.
pub(super) fn submit(connection: &Connection, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, Fault> {
    let mut known = requests(connection, &tasks)?;
    let (mut new, mut answers) = (Vec::new(), Vec::with_capacity(tasks.len()));
    for task in &tasks {
        let digest = rows::digest(task)?;
        let request = task.request.as_ref().map(|request| (task.owner.clone(), request.clone()));
        let before = request.as_ref().and_then(|request| known.get(request));
        answers.push(match before {
            Some((id, content)) if *content == digest => Submitted::Known(*id),
            Some((id, _)) => Submitted::Conflict(*id),
            None => {
                known.extend(request.map(|request| (request, (task.id, digest))));
                new.push(NewRow::new(task, &digest)?);
                Submitted::New(task.id)
            }
        });
    }
    if !new.is_empty() {
        insert(connection, &new)?;
    }
    Ok(answers)
}

/// Tasks by id.
pub(super) fn get(connection: &Connection, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>, Fault> {
    let asked = "SELECT * FROM tasks WHERE id IN (SELECT unhex(value, '-') FROM json_each(?))";
    let records = all(connection, asked, (serde_json::to_string(ids)?,), task_record)?;
    let found: HashMap<TaskId, TaskRecord> = records.into_iter().map(|record| (record.task.id, record)).collect();
    Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
}

/// A page of the tasks that a filter lets through, newest first.
pub(super) fn list(connection: &Connection, filter: TaskFilter, page: Page) -> Result<Vec<TaskRecord>, Fault> {
    let mut query = Query::new("SELECT * FROM tasks", &filter)?;
    if let Some(before) = page.before {
        query.push(" AND id < ?", before.uuid().as_bytes().to_vec());
    }
    query.push(" ORDER BY id DESC LIMIT ?", i64::from(page.most));
    all(connection, &query.text, rusqlite::params_from_iter(query.values), task_record)
}

/// How many tasks of each state a filter lets through.
pub(super) fn count(connection: &Connection, filter: TaskFilter) -> Result<BTreeMap<StateName, u64>, Fault> {
    let mut query = Query::new("SELECT state, count(*) AS number FROM tasks", &filter)?;
    query.text.push_str(" GROUP BY state");
    let counts = all(connection, &query.text, rusqlite::params_from_iter(query.values), |row| {
        let name: String = column(row, "state")?;
        let damaged = || Fault::Damaged { what: "the state", id: name.clone() };
        let state = StateName::ALL.into_iter().find(|state| state.name() == name).ok_or_else(damaged)?;
        Ok((state, column::<i64>(row, "number")?.unsigned_abs()))
    });
    Ok(counts?.into_iter().collect())
}

/// Forgets tasks that ended before a moment, the oldest first.
pub(super) fn forget(connection: &Connection, before: Moment, most: u32) -> Result<u64, Fault> {
    Ok(execute(connection, OLD, (rows::millis(before), most))? as u64)
}

type Requests = HashMap<(Subject, RequestId), (TaskId, [u8; 32])>;

/// The submissions among these that came before.
fn requests(connection: &Connection, tasks: &[NewTask]) -> Result<Requests, Fault> {
    let asked: Vec<(&Subject, &RequestId)> =
        tasks.iter().filter_map(|task| Some((&task.owner, task.request.as_ref()?))).collect();
    if asked.is_empty() {
        return Ok(Requests::new());
    }
    let known = all(connection, KNOWN, (serde_json::to_string(&asked)?,), |row| {
        let request = (rows::name_column(row, "owner")?, rows::name_column(row, "request")?);
        let digest: Vec<u8> = column(row, "digest")?;
        let digest = digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?;
        Ok((request, (id_column(row, "id", TaskId::from_bytes)?, digest)))
    });
    Ok(known?.into_iter().collect())
}

fn insert(connection: &Connection, new: &[NewRow<'_>]) -> Result<(), Fault> {
    execute(
        connection,
        "INSERT INTO tasks (id, owner, request, digest, action, endpoint, group_name, label, kind, spec, priority,
             deadline, retries, crashes, submitted, changed, state, not_before, lease_until, due, ended, life)
         SELECT unhex(value ->> 'id', '-'), value ->> 'owner', value ->> 'request', unhex(value ->> 'digest'),
             unhex(value ->> 'action', '-'), unhex(value ->> 'endpoint', '-'), value ->> 'group_name',
             value ->> 'label', value ->> 'kind', value ->> 'spec', value ->> 'priority', value ->> 'deadline',
             value ->> 'retries', value ->> 'crashes', value ->> 'submitted', value ->> 'changed', value ->> 'state',
             value ->> 'not_before', value ->> 'lease_until', value ->> 'due', value ->> 'ended', value ->> 'life'
         FROM json_each(?)",
        (serde_json::to_string(new)?,),
    )?;
    Ok(())
}

/// A statement that is put together, and the values of its places.
struct Query {
    text: String,
    values: Vec<Value>,
}

impl Query {
    /// Of the tasks that a filter lets through.
    fn new(select: &str, filter: &TaskFilter) -> Result<Self, Fault> {
        let TaskFilter { action, endpoint, owners, groups, states } = filter;
        let mut query = Self { text: format!("{select} WHERE TRUE"), values: Vec::new() };
        if let Some(action) = action {
            query.push(" AND action = ?", action.uuid().as_bytes().to_vec());
        }
        if let Some(endpoint) = endpoint {
            query.push(" AND endpoint = ?", endpoint.uuid().as_bytes().to_vec());
        }
        if !owners.is_empty() {
            query.push(" AND (owner IN (SELECT value FROM json_each(?))", serde_json::to_string(owners)?);
            query.push(" OR group_name IN (SELECT value FROM json_each(?)))", serde_json::to_string(groups)?);
        }
        if !states.is_empty() {
            query.push(" AND state IN (SELECT value FROM json_each(?))", serde_json::to_string(states)?);
        }
        Ok(query)
    }

    /// Adds a part with one place.
    fn push(&mut self, part: &str, value: impl Into<Value>) {
        self.text.push_str(part);
        self.values.push(value.into());
    }
}
