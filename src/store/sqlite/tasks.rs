//! Tasks: accepted, looked up, listed, counted, forgotten. What changes their lives is in `changes`.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;
use rusqlite::types::Value;

use super::fault::Fault;
use super::query::{all, execute, one};
use super::rows::{self, NewRow, column, id_column, moment_column, task_record};
use crate::ids::TaskId;
use crate::store::{NewTask, Page, StateName, Submitted, TaskFilter, TaskRecord};
use crate::task::names::{RequestId, Subject};
use crate::task::time::Moment;

/// A submission that came before.
pub(super) const KNOWN: &str = "SELECT id, digest FROM tasks WHERE owner = ?1 AND request = ?2";

/// Tasks that ended before a moment, the oldest first.
pub(super) const OLD: &str = "
    DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE ended < ?1 ORDER BY ended LIMIT ?2)";

/// Ids ascend with time.
const NEWEST: &str = "
    SELECT max(moment) AS newest FROM (SELECT max(seen) AS moment FROM endpoints
        UNION ALL SELECT submitted FROM (SELECT submitted FROM tasks ORDER BY id DESC LIMIT 1))";

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
                new.push(NewRow::new(task, digest)?);
                Submitted::New(task.id)
            }
        });
    }
    new.iter().try_for_each(|row| row.insert(connection))?;
    Ok(answers)
}

/// Tasks by id.
pub(super) fn get(connection: &Connection, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>, Fault> {
    let asked = "SELECT * FROM tasks WHERE id = ?";
    ids.iter().map(|id| one(connection, asked, (id.uuid().as_bytes(),), task_record)).collect()
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

/// The newest moment that is found at once.
pub(super) fn newest(connection: &Connection) -> Result<Moment, Fault> {
    let newest = one(connection, NEWEST, (), |row| moment_column(row, "newest"))?;
    Ok(newest.flatten().unwrap_or(Moment::START))
}

/// Forgets tasks that ended before a moment, the oldest first.
pub(super) fn forget(connection: &Connection, before: Moment, most: u32) -> Result<u64, Fault> {
    Ok(execute(connection, OLD, (rows::millis(before), most))? as u64)
}

type Requests = HashMap<(Subject, RequestId), (TaskId, [u8; 32])>;

/// The submissions among these that came before.
fn requests(connection: &Connection, tasks: &[NewTask]) -> Result<Requests, Fault> {
    let mut known = Requests::new();
    for task in tasks {
        let Some(request) = &task.request else { continue };
        let found = one(connection, KNOWN, (task.owner.as_str(), request.as_str()), |row| {
            let digest: Vec<u8> = column(row, "digest")?;
            let digest = digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?;
            Ok((id_column(row, "id", TaskId::from_bytes)?, digest))
        })?;
        known.extend(found.map(|found| ((task.owner.clone(), request.clone()), found)));
    }
    Ok(known)
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
