//! The tables, and how files of older versions become files of the newest. A migration that was released is never
//! changed: a new one follows it.
//!
//! Ids are their 16 bytes, moments milliseconds. `life` is the truth about a task; `state`, `not_before`,
//! `lease_until`, `due` and `ended` repeat parts of it for the indexes, and are written with it, in `rows` alone.

use rusqlite::Connection;

use super::fault::Fault;

/// The version that this program writes.
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// What makes version k + 1 of version k.
const MIGRATIONS: [&str; 1] = [FIRST];

/// `tasks_queued` carries what a lease asks besides, so that tasks that may not begin yet are skipped without a look
/// at their rows; `tasks_seen` alone answers how many tasks there are of each state.
const FIRST: &str = "
CREATE TABLE tasks (
    id BLOB NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    request TEXT,
    digest BLOB NOT NULL,
    action BLOB NOT NULL,
    endpoint BLOB NOT NULL,
    group_name TEXT,
    label TEXT,
    kind TEXT NOT NULL,
    spec TEXT NOT NULL,
    priority INTEGER NOT NULL,
    deadline INTEGER,
    retries INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    submitted INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    state TEXT NOT NULL,
    not_before INTEGER,
    lease_until INTEGER,
    due INTEGER,
    ended INTEGER,
    life TEXT NOT NULL,
    result TEXT
) STRICT;
CREATE UNIQUE INDEX tasks_request ON tasks (owner, request) WHERE request IS NOT NULL;
CREATE INDEX tasks_queued ON tasks (endpoint, priority DESC, id, kind, not_before, due) WHERE state = 'queued';
CREATE INDEX tasks_held ON tasks (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX tasks_due ON tasks (due) WHERE due IS NOT NULL;
CREATE INDEX tasks_ended ON tasks (ended) WHERE ended IS NOT NULL;
CREATE INDEX tasks_action ON tasks (action, id);
CREATE INDEX tasks_seen ON tasks (endpoint, state, owner, group_name);

CREATE TABLE endpoints (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    group_name TEXT,
    session BLOB,
    -- of its newest connection
    epoch INTEGER NOT NULL,
    host TEXT,
    session_until INTEGER,
    status TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id BLOB NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    subject TEXT NOT NULL,
    roles TEXT NOT NULL,
    groups TEXT NOT NULL,
    made INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;
";

/// The version of an open file; 0 of a new one.
pub(super) fn version(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.query_row("PRAGMA user_version", (), |row| row.get(0))?)
}

/// Brings a file from a version to the newest, in one transaction.
pub(super) fn migrate(connection: &Connection, from: i64) -> Result<(), Fault> {
    let missing = MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0));
    if missing.len() == 0 {
        return Ok(());
    }
    let steps: Vec<&str> = missing.copied().collect();
    // the number is ours, and a pragma takes no parameters
    let script = format!("BEGIN IMMEDIATE; {} PRAGMA user_version = {NEWEST}; COMMIT;", steps.concat());
    Ok(connection.execute_batch(&script)?)
}
