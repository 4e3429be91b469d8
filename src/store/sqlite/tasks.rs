//! Tasks: accepted, looked up, listed, counted, forgotten. What changes their lives is in `changes`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::Connection;
use rusqlite::types::Value;
use sha2::{Digest, Sha256};

use super::counts::{self, Counted};
use super::fault::Fault;
use super::outbox;
use super::query::{all, execute, one};
use super::rows::{self, column, id_column, moment_column, optional_name, task_record};
use super::writing::Writing;
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::protocol::session::PoolBacklog;
use crate::store::decide::{self, KnownRequest, TaskClass};
use crate::store::{
    Forgotten, MOST_BACKLOG, MOST_POOLS, NewSubmission, NewTask, Page, StateName, Submitted, TaskFilter, TaskRecord,
};
use crate::task::names::{RequestId, Subject};
use crate::task::pool::{Lane, Pool, PoolKey};
use crate::task::time::Moment;

/// A submission that came before.
pub(super) const KNOWN: &str = "SELECT * FROM requests WHERE owner = ?1 AND request = ?2";

/// Tasks that ended before a moment, the oldest first.
pub(super) const OLD: &str = "
    DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE ended < ?1 ORDER BY ended LIMIT ?2)
    RETURNING id, action, request, endpoint, owner, group_name, state";

/// The request id of a submission.
const FORGET_REQUEST: &str = "DELETE FROM requests WHERE owner = ?1 AND request = ?2";

/// Ids ascend with time.
const NEWEST: &str = "
    SELECT max(moment) AS newest FROM (SELECT max(seen) AS moment FROM endpoints
        UNION ALL SELECT submitted FROM (SELECT submitted FROM tasks ORDER BY id DESC LIMIT 1)
        UNION ALL SELECT time FROM (SELECT time FROM events ORDER BY id DESC LIMIT 1))";

/// Tasks as [`rows::TASKS`] has them, of those that endpoints hold.
pub(super) const HELD: &str = "
    SELECT tasks.*, config FROM tasks INDEXED BY tasks_held JOIN pools ON number = pool";

/// The next lane of pools that has tasks, after a lane.
pub(super) const NEXT_LANE: &str = "
    SELECT lane, config FROM tasks INDEXED BY tasks_queued JOIN pools ON number = lane
    WHERE state = 'queued' AND endpoint = ?1 AND lane > ?2 ORDER BY lane LIMIT 1";

/// Tasks of a lane that may begin.
pub(super) const BACKLOG: &str = "
    SELECT count(*) AS waiting FROM (SELECT 1 FROM tasks INDEXED BY tasks_queued
        WHERE state = 'queued' AND endpoint = ?1 AND lane = ?2 AND not_before <= ?3 AND (due IS NULL OR due > ?3)
        LIMIT ?4)";

/// Accepts tasks and their action, unless they were accepted before.
pub(super) fn submit(writing: &Writing, new: &NewSubmission) -> Result<Submitted, Fault> {
    let NewSubmission { request, action, adds_to: _, tasks } = new;
    let digest = match request {
        Some(_) => digest(tasks)?,
        None => [0; 32],
    };
    let known = request.as_ref().map(|request| known(writing, &action.owner, request)).transpose()?.flatten();
    let owner = one(writing, "SELECT id, owner FROM actions WHERE id = ?", (action.id.uuid().as_bytes(),), |row| {
        rows::name_column::<Subject>(row, "owner")
    })?;
    let answer = decide::submission(new, &digest, known, owner.as_ref());
    match answer {
        Submitted::New => {}
        Submitted::Known { .. } | Submitted::Conflict { .. } | Submitted::ForeignAction => return Ok(answer),
    }
    outbox::add_action(writing, action, tasks.len())?;
    if let Some(request) = request {
        remember(writing, new, request, digest)?;
    }
    let mut numbers = HashMap::new();
    for task in tasks {
        let pool = match numbers.get(&task.pool.key()) {
            Some(number) => *number,
            None => {
                let number = pool_number(writing, &task.pool)?;
                numbers.insert(task.pool.key(), number);
                number
            }
        };
        let told = outbox::of_new_task(writing, task)?;
        rows::insert(writing, task, request.as_ref(), pool, told)?;
        writing.count(TaskClass::of_new(task), Counted::In);
    }
    Ok(answer)
}

/// The number of a lane; None when no task was ever of it.
pub(super) fn lane_number(connection: &Connection, lane: Lane) -> Result<Option<i64>, Fault> {
    match lane {
        Lane::Login => Ok(Some(rows::LOGIN_LANE)),
        Lane::Pool(key) => {
            one(connection, "SELECT number FROM pools WHERE key = ?", (key.bytes(),), |row| column(row, "number"))
        }
    }
}

/// The key of a pool with a number.
pub(super) fn pool_key(connection: &Connection, number: i64) -> Result<PoolKey, Fault> {
    let found = one(connection, "SELECT key FROM pools WHERE number = ?", (number,), |row| {
        let key: Vec<u8> = column(row, "key")?;
        PoolKey::from_bytes(&key).map_err(|_| rows::damaged(row, "the key"))
    })?;
    found.ok_or_else(|| Fault::Damaged { what: "the key", id: format!("pool {number}") })
}

/// What waits for slots of an endpoint, by pool.
pub(super) fn backlog(connection: &Connection, endpoint: EndpointId, now: Moment) -> Result<Vec<PoolBacklog>, Fault> {
    let endpoint = endpoint.uuid().into_bytes();
    let (mut found, mut last) = (Vec::new(), rows::LOGIN_LANE);
    while found.len() < MOST_POOLS {
        let next = one(connection, NEXT_LANE, (endpoint, last), |row| {
            Ok((column::<i64>(row, "lane")?, rows::pool_column(row)?))
        })?;
        let Some((lane, pool)) = next else { break };
        let asked = (endpoint, lane, rows::millis(now), MOST_BACKLOG);
        let tasks = one(connection, BACKLOG, asked, |row| rows::number(row, "waiting"))?.unwrap_or(0);
        if tasks > 0 {
            found.push(PoolBacklog { pool, tasks });
        }
        last = lane;
    }
    Ok(found)
}

/// Tasks by id.
pub(super) fn get(connection: &Connection, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>, Fault> {
    let asked = format!("{} WHERE id = ?", rows::TASKS);
    ids.iter().map(|id| one(connection, &asked, (id.uuid().as_bytes(),), task_record)).collect()
}

/// A page of the tasks that a filter lets through, newest first.
pub(super) fn list(connection: &Connection, filter: TaskFilter, page: Page) -> Result<Vec<TaskRecord>, Fault> {
    let mut query = Query::new(if held(&filter.states) { HELD } else { rows::TASKS }, &filter)?;
    if held(&filter.states) {
        query.text.push_str(" AND lease_until IS NOT NULL");
    }
    if let Some(before) = page.before {
        query.push(" AND id < ?", before.uuid().as_bytes().to_vec());
    }
    query.push(" ORDER BY id DESC LIMIT ?", i64::from(page.most));
    all(connection, &query.text, rusqlite::params_from_iter(query.values), task_record)
}

/// How many tasks of each state a filter lets through.
pub(super) fn count(connection: &Connection, filter: TaskFilter) -> Result<BTreeMap<StateName, u64>, Fault> {
    // those of an action are few, and found by it
    let select = match filter.action {
        Some(_) => "SELECT state, count(*) AS number FROM tasks",
        None => "SELECT state, sum(tasks) AS number FROM task_counts",
    };
    let mut query = Query::new(select, &filter)?;
    query.text.push_str(" GROUP BY state");
    counts::read(connection, &query.text, query.values)
}

/// The newest moment that is found at once.
pub(super) fn newest(connection: &Connection) -> Result<Moment, Fault> {
    let newest = one(connection, NEWEST, (), |row| moment_column(row, "newest"))?;
    Ok(newest.flatten().unwrap_or(Moment::START))
}

/// Forgets tasks that ended before a moment, the oldest first, with the request ids that they came with and the actions
/// of which no task is left.
pub(super) fn forget(writing: &Writing, before: Moment, most: u32) -> Result<Forgotten, Fault> {
    let mut forgotten = Forgotten::default();
    let (mut actions, mut requests) = (BTreeSet::new(), BTreeSet::new());
    let old = all(writing, OLD, (rows::millis(before), most), |row| {
        let request = optional_name::<RequestId>(row, "request")?;
        Ok((id_column(row, "action", ActionId::from_bytes)?, request, rows::class(row)?))
    })?;
    for (action, request, class) in old {
        forgotten.tasks += 1;
        actions.insert(action);
        requests.extend(request.map(|request| (class.owner.clone(), request)));
        writing.count(class, Counted::Out);
    }
    for action in actions {
        forgotten.actions += outbox::forget_action(writing, action)?;
    }
    for (owner, request) in requests {
        forgotten.requests += execute(writing, FORGET_REQUEST, (owner.as_str(), request.as_str()))? as u64;
    }
    counts::forget(writing)?;
    Ok(forgotten)
}

/// Whether tasks in these states are all held by endpoints: there are few of them, and many others.
fn held(states: &[StateName]) -> bool {
    !states.is_empty() && states.iter().all(|state| matches!(state, StateName::Leased | StateName::Running))
}

/// The submission with a request id, if there was one.
fn known(connection: &Connection, owner: &Subject, request: &RequestId) -> Result<Option<KnownRequest>, Fault> {
    one(connection, KNOWN, (owner.as_str(), request.as_str()), |row| {
        let (digest, tasks): (Vec<u8>, Vec<u8>) = (column(row, "digest")?, column(row, "tasks")?);
        let (ids, rest) = tasks.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(rows::damaged(row, "the tasks"));
        }
        let ids = ids.iter().map(|id| TaskId::from_bytes(id).map_err(|_| rows::damaged(row, "the tasks")));
        Ok(KnownRequest {
            digest: digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?,
            action: id_column(row, "action", ActionId::from_bytes)?,
            tasks: ids.collect::<Result<_, _>>()?,
        })
    })
}

fn remember(connection: &Connection, new: &NewSubmission, request: &RequestId, digest: [u8; 32]) -> Result<(), Fault> {
    let NewSubmission { request: _, action, adds_to: _, tasks } = new;
    let ids: Vec<u8> = tasks.iter().flat_map(|task| task.id.uuid().into_bytes()).collect();
    execute(
        connection,
        "INSERT INTO requests (owner, request, digest, action, tasks) VALUES (?, ?, ?, ?, ?)",
        (action.owner.as_str(), request.as_str(), digest, action.id.uuid().as_bytes(), ids),
    )
    .map(|_| ())
}

/// Digest of the work that a submission asks for. Labels, priorities, deadlines and the like may be made anew by who
/// submits again, and so may the action.
fn digest(tasks: &[NewTask]) -> Result<[u8; 32], Fault> {
    let mut digest = Sha256::new();
    for NewTask { endpoint, pool, spec, .. } in tasks {
        digest.update(serde_json::to_vec(&(endpoint, pool.key(), spec))?);
    }
    Ok(digest.finalize().into())
}

/// The number of a pool, which is kept if it is new.
fn pool_number(connection: &Connection, pool: &Pool) -> Result<i64, Fault> {
    let key = pool.key();
    if let Some(number) = lane_number(connection, Lane::Pool(key))? {
        return Ok(number);
    }
    execute(connection, "INSERT INTO pools (key, config) VALUES (?, ?)", (key.bytes(), pool.canonical()))?;
    Ok(connection.last_insert_rowid())
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
