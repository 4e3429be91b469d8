//! The store in one SQLite file: opening it, and the calls of [`Store`]. What the calls do with rows is in `tasks`,
//! `endpoints` and `tokens`; how they reach the disk is in `committer`, on whose thread in `writer`.
//!
//! Writes go through one connection, reads through a few others, which see what was committed last and never wait
//! for a write (WAL).

mod artifacts;
pub(super) mod backup;
mod changes;
mod committer;
mod counts;
mod endpoints;
mod fault;
mod outbox;
mod query;
mod readers;
mod recent;
mod rows;
mod schema;
mod tasks;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;
mod writing;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{
    ActionRecord, Artifact, ArtifactInfo, Changed, Claim, CommitMark, EndpointForgotten, EndpointRecord,
    EndpointSession, EventId, EventRecord, Forgotten, Holder, LeaseRequest, Leased, NewSubmission, Overdue, Page,
    Report, StateName, Store, StoreError, Submitted, TaskFilter, TaskRecord, TokenRecord,
};
use crate::ids::{ActionId, AttemptId, EndpointId, Epoch, SessionId, TaskId, TokenId};
use crate::protocol::session::PoolBacklog;
use crate::runtime::clock::Clock;
use crate::task::names::ArtifactName;
use crate::task::time::Moment;
use committer::{Committer, Needs};
use fault::Fault;
use readers::Readers;
use recent::RecentEvents;
use writer::Writer;
use writing::Writing;

/// How long a connection waits for another process, such as a backup, to let go of the file.
const BUSY: Duration = Duration::from_secs(10);

/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS: usize = 64;

/// A clock that is behind by so much was set back.
const WRONG: Duration = Duration::from_secs(2);

/// So many tasks are read where the caller is.
const FEW: usize = 64;

/// What a call counts that is about no list of tasks.
const ONE: usize = 1;

/// What was written and is waited for gets so long to be brought to the disk by a call that has to wait for it anyhow.
const PATIENCE: Duration = Duration::from_millis(5);

/// The log file is cut back to this after a checkpoint, so that one burst does not keep the disk for ever.
const WAL_BYTES: i64 = 64 << 20;

/// Pages of the log that are brought to the database at once, 16 MiB: a task writes some twenty, most of them pages that
/// the next task writes again, and whoever commits then waits for it.
const CHECKPOINT_PAGES: i64 = 4096;

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    recent: Arc<RecentEvents>,
    synced: watch::Receiver<CommitMark>,
    place: PathBuf,
    clock: Clock,
}

/// Opens the file, which is made if there is none, and brings it to the newest version.
pub(super) async fn open(path: &Path, clock: Clock) -> Result<SqliteStore, StoreError> {
    const STEP: &str = "opening the database";
    let told = |fault: Fault| fault.told(STEP, path);
    make_private(path).map_err(|error| told(error.into()))?;
    let connection = connect(path).map_err(told)?;
    let found = schema::version(&connection).map_err(told)?;
    if found > schema::NEWEST {
        return Err(StoreError::Version { place: path.to_owned(), found, known: schema::NEWEST });
    }
    schema::migrate(&connection, found).map_err(told)?;
    let clock = going_on(&connection, clock).map_err(told)?;
    let readers = Readers::open(path.to_owned()).map_err(told)?;
    let (sync, synced) = watch::channel(CommitMark::default());
    let recent = Arc::<RecentEvents>::default();
    let committer = Committer::new(connection, path, Arc::clone(&recent), sync).map_err(told)?;
    let writer = Writer::start(committer).map_err(|error| told(error.into()))?;
    Ok(SqliteStore { writer, readers, recent, synced, place: path.to_owned(), clock })
}

/// The clock, not behind what the file remembers.
fn going_on(connection: &Connection, clock: Clock) -> Result<Clock, Fault> {
    let newest = tasks::newest(connection)?;
    let behind = newest.since(clock.now());
    if behind >= WRONG {
        let behind_s = behind.as_secs();
        tracing::warn!(behind_s, "the computer's clock is behind what the store remembers: time goes on from there");
    }
    Ok(clock.not_before(newest))
}

/// The connection that writes. It does not wait for the disk after a commit: see `committer`.
fn connect(path: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open(path)?;
    prepare(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// What holds for every connection.
fn prepare(connection: &Connection) -> Result<(), Fault> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // else what a savepoint may have to undo is written to files, by default below /var/tmp
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // else SQLite plans a statement anew for each value that it is given, which takes longer than to run it
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Only the owner reads it: it has the digests of tokens. SQLite gives its log the mode of the database.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

impl SqliteStore {
    /// Ends when every accepted call is on disk and the file is closed.
    pub async fn close(self) {
        drop(self.readers);
        self.writer.close().await;
    }

    async fn write<T: Send + 'static>(
        &self,
        step: &'static str,
        tasks: usize,
        work: impl FnOnce(&Writing) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.writer.run(Needs::Disk, tasks, work).await;
        self.told(step, done.map(|(done, _)| done))
    }

    fn told<T>(&self, step: &'static str, result: Result<T, Fault>) -> Result<T, StoreError> {
        result.map_err(|fault| fault.told(step, &self.place))
    }
}

impl Store for SqliteStore {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    async fn submit(&self, submission: NewSubmission) -> Result<Submitted, StoreError> {
        let tasks = submission.tasks.len();
        self.write("accepting tasks", tasks, move |connection| tasks::submit(connection, &submission)).await
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Leased>, StoreError> {
        // how many there are, the store will see
        self.write("leasing tasks", ONE, move |connection| changes::lease(connection, &request)).await
    }

    async fn start(&self, holder: Holder, attempts: Vec<AttemptId>, now: Moment) -> Result<Vec<Changed>, StoreError> {
        let tasks = attempts.len();
        let work = move |writing: &Writing| changes::start(writing, holder, attempts, now);
        let done = self.writer.run(Needs::File, tasks, work).await;
        self.told("noting that attempts began", done.map(|(changed, _)| changed))
    }

    async fn renew(&self, holder: Holder, attempts: Vec<AttemptId>, until: Moment) -> Result<Vec<Changed>, StoreError> {
        self.write("renewing leases", attempts.len(), move |connection| {
            changes::renew(connection, holder, attempts, until)
        })
        .await
    }

    async fn report(
        &self,
        holder: Holder,
        reports: Vec<Report>,
        now: Moment,
    ) -> Result<(Vec<Changed>, CommitMark), StoreError> {
        let tasks = reports.len();
        let work = move |writing: &Writing| changes::report(writing, holder, reports, now);
        self.told("keeping reports", self.writer.run(Needs::File, tasks, work).await)
    }

    async fn on_disk(&self, mark: CommitMark) -> Result<(), StoreError> {
        let mut synced = self.synced.clone();
        let there = timeout(PATIENCE, synced.wait_for(|synced| *synced >= mark)).await.is_ok_and(|found| found.is_ok());
        if !there {
            // what has to be on the disk takes along what was before it
            self.write("bringing what was written to the disk", 0, |_| Ok(())).await?;
        }
        Ok(())
    }

    async fn cancel(&self, tasks: Vec<TaskId>, now: Moment) -> Result<Vec<Changed>, StoreError> {
        self.write("cancelling tasks", tasks.len(), move |connection| changes::cancel(connection, tasks, now)).await
    }

    async fn expire(&self, now: Moment, overdue: Overdue, most: u32) -> Result<Vec<TaskId>, StoreError> {
        let work = move |writing: &Writing| changes::expire(writing, now, overdue, most);
        self.write("applying leases and deadlines that ran out", ONE, work).await
    }

    async fn get(&self, tasks: Vec<TaskId>) -> Result<Vec<Option<TaskRecord>>, StoreError> {
        let read = |connection: &Connection| tasks::get(connection, &tasks);
        // as many as a watcher or a flow asks for at once are read as fast as they could be handed over
        let done = if tasks.len() <= FEW {
            self.readers.short(read)
        } else {
            self.readers.long(move |connection| tasks::get(connection, &tasks)).await
        };
        self.told("reading tasks", done)
    }

    async fn list(&self, filter: TaskFilter, page: Page) -> Result<Vec<TaskRecord>, StoreError> {
        self.told("listing tasks", self.readers.long(move |connection| tasks::list(connection, filter, page)).await)
    }

    async fn count(&self, filter: TaskFilter) -> Result<BTreeMap<StateName, u64>, StoreError> {
        self.told("counting tasks", self.readers.long(move |connection| tasks::count(connection, filter)).await)
    }

    async fn backlog(&self, endpoint: EndpointId, now: Moment) -> Result<Vec<PoolBacklog>, StoreError> {
        let work = move |connection: &Connection| tasks::backlog(connection, endpoint, now);
        self.told("counting tasks that wait", self.readers.long(work).await)
    }

    async fn actions(&self, actions: Vec<ActionId>) -> Result<Vec<Option<ActionRecord>>, StoreError> {
        let work = move |connection: &Connection| outbox::actions(connection, &actions);
        self.told("reading actions", self.readers.long(work).await)
    }

    async fn newest_event(&self) -> Result<EventId, StoreError> {
        match self.recent.newest() {
            Some(newest) => Ok(newest),
            None => self.told("reading where the events end", self.readers.short(outbox::newest)),
        }
    }

    async fn events(&self, after: EventId, most: u32) -> Result<Vec<Arc<EventRecord>>, StoreError> {
        if let Some(events) = self.recent.after(after, most) {
            return Ok(events);
        }
        let read = move |connection: &Connection| outbox::events(connection, after, most);
        let done = if most as usize <= FEW { self.readers.short(read) } else { self.readers.long(read).await };
        self.told("reading events", done)
    }

    async fn timeline(&self, task: TaskId, most: u32) -> Result<Vec<EventRecord>, StoreError> {
        let work = move |connection: &Connection| outbox::timeline(connection, task, most);
        self.told("reading what happened to a task", self.readers.long(work).await)
    }

    async fn artifacts(&self, task: TaskId) -> Result<Vec<ArtifactInfo>, StoreError> {
        let work = move |connection: &Connection| artifacts::list(connection, task);
        self.told("listing artifacts", self.readers.long(work).await)
    }

    async fn artifact(&self, task: TaskId, name: ArtifactName) -> Result<Option<Artifact>, StoreError> {
        let work = move |connection: &Connection| artifacts::get(connection, task, &name);
        self.told("reading an artifact", self.readers.long(work).await)
    }

    async fn forget(&self, ended_before: Moment, most: u32) -> Result<Forgotten, StoreError> {
        let work = move |writing: &Writing| {
            let events = outbox::forget(writing, ended_before, most)?;
            Ok(Forgotten { events, ..tasks::forget(writing, ended_before, most)? })
        };
        let forgotten = self.write("forgetting tasks", ONE, work).await?;
        self.recent.forget(ended_before);
        Ok(forgotten)
    }

    async fn claim(
        &self,
        endpoint: EndpointRecord,
        session: EndpointSession,
        replaces: Vec<SessionId>,
        now: Moment,
    ) -> Result<Claim, StoreError> {
        let work = move |writing: &Writing| endpoints::claim(writing, endpoint, session, &replaces, now);
        self.write("claiming an endpoint's name", ONE, work).await
    }

    async fn connect(
        &self,
        endpoint: EndpointId,
        session: SessionId,
        now: Moment,
    ) -> Result<Option<Epoch>, StoreError> {
        let work = move |writing: &Writing| endpoints::connect(writing, endpoint, session, now);
        self.write("opening a session", ONE, work).await
    }

    async fn beat(
        &self,
        holder: Holder,
        session: EndpointSession,
        status: String,
        now: Moment,
    ) -> Result<Claim, StoreError> {
        let work = move |writing: &Writing| endpoints::beat(writing, holder, session, status, now);
        self.write("renewing an endpoint's session", ONE, work).await
    }

    async fn release(&self, endpoint: EndpointId, session: SessionId, now: Moment) -> Result<(), StoreError> {
        let work = move |writing: &Writing| endpoints::release(writing, endpoint, session, now);
        self.write("releasing an endpoint's name", ONE, work).await
    }

    async fn forget_endpoint(
        &self,
        endpoint: EndpointId,
        dead: Vec<SessionId>,
        now: Moment,
    ) -> Result<EndpointForgotten, StoreError> {
        let work = move |writing: &Writing| endpoints::forget(writing, endpoint, &dead, now);
        self.write("forgetting an endpoint", ONE, work).await
    }

    async fn endpoints(&self) -> Result<Vec<EndpointRecord>, StoreError> {
        self.told("reading endpoints", self.readers.long(endpoints::all).await)
    }

    async fn add_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        self.write("keeping a token", ONE, move |connection| tokens::add(connection, token)).await
    }

    async fn revoke_token(&self, token: TokenId, now: Moment) -> Result<bool, StoreError> {
        self.write("revoking a token", ONE, move |connection| tokens::revoke(connection, token, now)).await
    }

    async fn token(&self, digest: [u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        self.told("reading a token", self.readers.short(|connection| tokens::find(connection, digest)))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.told("reading tokens", self.readers.long(tokens::all).await)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
