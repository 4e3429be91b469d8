//! The tables, and how files of older versions become files of the newest. A migration that was released is never
//! changed: a new one follows it.
//!
//! Ids are their 16 bytes, moments milliseconds. `life` is the truth about a task; `state`, `not_before`,
//! `lease_until`, `due` and `ended` repeat parts of it for the indexes, and are written with it, in `rows` alone.

use rusqlite::Connection;

use super::fault::Fault;

/// The version that this program writes.
#[expect(clippy::cast_possible_wrap, reason = "a few are listed below")]
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// What makes version k + 1 of version k.
const MIGRATIONS: [&str; 1] = [FIRST];

/// `tasks_queued` carries what a lease asks besides, so that tasks that may not begin yet are skipped without a look
/// at their rows. `lane` is 0 for tasks that run on the endpoint's own node, else the pool's number.
///
/// A task changes three times and each index that it is in then is one more page for the disk: there are indexes for what
/// is asked with every call, counts have a table of their own, and old actions and requests are found by their tasks.
///
/// Ids of events are never given twice, since the newest is never forgotten: who follows them keeps a place.
const FIRST: &str = "
CREATE TABLE pools (
    number INTEGER NOT NULL PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    config TEXT NOT NULL
) STRICT;

CREATE TABLE actions (
    id BLOB NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    group_name TEXT,
    label TEXT,
    on_dataset_failure TEXT NOT NULL,
    submitted INTEGER NOT NULL,
    -- tasks that have not ended, and the others
    open INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    ended INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    owner TEXT NOT NULL,
    request TEXT NOT NULL,
    digest BLOB NOT NULL,
    action BLOB NOT NULL,
    -- 16 bytes each
    tasks BLOB NOT NULL,
    PRIMARY KEY (owner, request)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    id BLOB NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    action BLOB NOT NULL,
    -- that it came with
    request TEXT,
    endpoint BLOB NOT NULL,
    pool INTEGER NOT NULL REFERENCES pools (number),
    lane INTEGER NOT NULL,
    group_name TEXT,
    label TEXT,
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
    -- what happened to it last: from there its events are found without an index, which each of them would have to enter
    newest_event INTEGER NOT NULL,
    result TEXT
) STRICT;
CREATE INDEX tasks_queued ON tasks (endpoint, lane, priority DESC, id, not_before, due) WHERE state = 'queued';
CREATE INDEX tasks_held ON tasks (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX tasks_due ON tasks (due) WHERE due IS NOT NULL;
CREATE INDEX tasks_ended ON tasks (ended) WHERE ended IS NOT NULL;
CREATE INDEX tasks_action ON tasks (action, id);

CREATE TABLE task_counts (
    endpoint BLOB NOT NULL,
    owner TEXT NOT NULL,
    -- empty = none
    group_name TEXT NOT NULL,
    state TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (endpoint, owner, group_name, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    task BLOB NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (task, name)
) STRICT;

CREATE TABLE events (
    id INTEGER NOT NULL PRIMARY KEY,
    time INTEGER NOT NULL,
    task BLOB,
    action BLOB,
    endpoint BLOB,
    owner TEXT NOT NULL,
    group_name TEXT,
    -- what happened to the task before
    before INTEGER,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE endpoints (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    group_name TEXT,
    -- when it took its name in its group
    registered INTEGER NOT NULL,
    -- one that is forgotten stays, so that no epoch is given twice
    forgotten INTEGER,
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
