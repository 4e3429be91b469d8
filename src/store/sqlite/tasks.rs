//! Tasks: accepted, looked up, listed, counted, forgotten. What changes their lives is in `changes`.

use std::collections::{BTreeMap, HashMap};

use sqlx::QueryBuilder;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};

use super::fault::Fault;
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
pub(super) async fn submit(connection: &mut SqliteConnection, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, Fault> {
    let mut known = requests(connection, &tasks).await?;
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
        insert(connection, &new).await?;
    }
    Ok(answers)
}

/// Tasks by id.
pub(super) async fn get(readers: &SqlitePool, ids: Vec<TaskId>) -> Result<Vec<Option<TaskRecord>>, Fault> {
    let rows = sqlx::query("SELECT * FROM tasks WHERE id IN (SELECT unhex(value, '-') FROM json_each(?))")
        .bind(serde_json::to_string(&ids)?)
        .fetch_all(readers)
        .await?;
    let records: Result<Vec<_>, _> = rows.iter().map(task_record).collect();
    let found: HashMap<TaskId, TaskRecord> = records?.into_iter().map(|record| (record.task.id, record)).collect();
    Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
}

/// A page of the tasks that a filter lets through, newest first.
pub(super) async fn list(readers: &SqlitePool, filter: TaskFilter, page: Page) -> Result<Vec<TaskRecord>, Fault> {
    let mut query = QueryBuilder::new("SELECT * FROM tasks");
    push_filter(&mut query, &filter)?;
    if let Some(before) = page.before {
        query.push(" AND id < ").push_bind(before.uuid().as_bytes().to_vec());
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(page.most));
    query.build().fetch_all(readers).await?.iter().map(task_record).collect()
}

/// How many tasks of each state a filter lets through.
pub(super) async fn count(readers: &SqlitePool, filter: TaskFilter) -> Result<BTreeMap<StateName, u64>, Fault> {
    let mut query = QueryBuilder::new("SELECT state, count(*) AS number FROM tasks");
    push_filter(&mut query, &filter)?;
    query.push(" GROUP BY state");
    let mut counts = BTreeMap::new();
    for row in query.build().fetch_all(readers).await? {
        let name: String = column(&row, "state")?;
        let damaged = || Fault::Damaged { what: "the state", id: name.clone() };
        let state = StateName::ALL.into_iter().find(|state| state.name() == name).ok_or_else(damaged)?;
        let number: i64 = column(&row, "number")?;
        counts.insert(state, number.unsigned_abs());
    }
    Ok(counts)
}

/// Forgets tasks that ended before a moment, the oldest first.
pub(super) async fn forget(connection: &mut SqliteConnection, before: Moment, most: u32) -> Result<u64, Fault> {
    let done = sqlx::query(OLD).bind(rows::millis(before)).bind(i64::from(most)).execute(connection).await?;
    Ok(done.rows_affected())
}

type Requests = HashMap<(Subject, RequestId), (TaskId, [u8; 32])>;

/// The submissions among these that came before.
async fn requests(connection: &mut SqliteConnection, tasks: &[NewTask]) -> Result<Requests, Fault> {
    let asked: Vec<(&Subject, &RequestId)> =
        tasks.iter().filter_map(|task| Some((&task.owner, task.request.as_ref()?))).collect();
    if asked.is_empty() {
        return Ok(Requests::new());
    }
    let rows = sqlx::query(KNOWN).bind(serde_json::to_string(&asked)?).fetch_all(connection).await?;
    let mut known = Requests::new();
    for row in &rows {
        let request = (rows::name_column(row, "owner")?, rows::name_column(row, "request")?);
        let digest: Vec<u8> = column(row, "digest")?;
        let digest = digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?;
        known.insert(request, (id_column(row, "id", TaskId::from_bytes)?, digest));
    }
    Ok(known)
}

async fn insert(connection: &mut SqliteConnection, new: &[NewRow<'_>]) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO tasks (id, owner, request, digest, action, endpoint, group_name, label, kind, spec, priority,
             deadline, retries, crashes, submitted, changed, state, not_before, lease_until, due, ended, life)
         SELECT unhex(value ->> 'id', '-'), value ->> 'owner', value ->> 'request', unhex(value ->> 'digest'),
             unhex(value ->> 'action', '-'), unhex(value ->> 'endpoint', '-'), value ->> 'group_name',
             value ->> 'label', value ->> 'kind', value ->> 'spec', value ->> 'priority', value ->> 'deadline',
             value ->> 'retries', value ->> 'crashes', value ->> 'submitted', value ->> 'changed', value ->> 'state',
             value ->> 'not_before', value ->> 'lease_until', value ->> 'due', value ->> 'ended', value ->> 'life'
         FROM json_each(?)",
    )
    .bind(serde_json::to_string(new)?)
    .execute(connection)
    .await?;
    Ok(())
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &TaskFilter) -> Result<(), Fault> {
    let TaskFilter { action, endpoint, owners, groups, states } = filter;
    query.push(" WHERE TRUE");
    if let Some(action) = action {
        query.push(" AND action = ").push_bind(action.uuid().as_bytes().to_vec());
    }
    if let Some(endpoint) = endpoint {
        query.push(" AND endpoint = ").push_bind(endpoint.uuid().as_bytes().to_vec());
    }
    if !owners.is_empty() {
        query.push(" AND (owner IN (SELECT value FROM json_each(").push_bind(serde_json::to_string(owners)?);
        query.push(")) OR group_name IN (SELECT value FROM json_each(").push_bind(serde_json::to_string(groups)?);
        query.push(")))");
    }
    if !states.is_empty() {
        query.push(" AND state IN (SELECT value FROM json_each(").push_bind(serde_json::to_string(states)?).push("))");
    }
    Ok(())
}
