//! What the controller remembers: tasks, endpoints, tokens. One trait, its records, its errors; the databases
//! behind it are private.
//!
//! Everything here is batched, since a database is asked a few times a second, not once a task: callers put what
//! belongs together into one call, and a call is one transaction. When a call returns, what it did is on disk, where it
//! does not say otherwise.
//! Decisions about a task's life are `task::life`'s, those about what a call writes are `decide`'s; a store applies them,
//! in the transaction that reads the task. What changes is told in the outbox, in the same transaction: see `event`.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

#[cfg(test)]
mod contract;
mod decide;
mod event;
mod filter;
mod people;
mod sqlite;
mod tasks;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::ids::{ActionId, AttemptId, EndpointId, Epoch, SessionId, TaskId, TokenId};
use crate::protocol::session::{Leased, PoolBacklog};
use crate::runtime::clock::Clock;
use crate::task::life::{Life, Outcome, Refusal};
use crate::task::names::ArtifactName;
use crate::task::pool::Lane;
use crate::task::result::{LARGEST_DOCUMENT, TaskResult};
use crate::task::time::Moment;

pub use event::{EventId, EventRecord, StoreEvent};
pub use filter::{Page, StateName, TaskFilter};
pub use people::{Claim, EndpointForgotten, EndpointRecord, EndpointSession, Role, TokenRecord};
pub use sqlite::SqliteStore;
pub use sqlite::backup::{backup as backup_sqlite, restore as restore_sqlite};
pub use tasks::{
    ActionRecord, AddsTo, Artifact, ArtifactInfo, NewAction, NewSubmission, NewTask, Submitted, TaskRecord,
};

/// Who leases, renews and reports: a connection of an endpoint. Any but the newest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its connection.
    pub epoch: Epoch,
}

/// How many tasks an endpoint takes, and on what terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who.
    pub holder: Holder,
    /// Of which lanes, and of each at most how many.
    pub lanes: Vec<(Lane, u32)>,
    /// Until when.
    pub until: Moment,
    /// Now.
    pub now: Moment,
}

/// An attempt that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Which.
    pub attempt: AttemptId,
    /// How.
    pub outcome: Outcome,
    /// What it left.
    pub result: TaskResult,
    /// Small files that travel with it, each name once.
    pub artifacts: Vec<Artifact>,
}

/// What time brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Deadlines that passed.
    Deadlines,
    /// And leases that ran out.
    DeadlinesAndLeases,
}

/// How many rows of each kind were forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is the number of that kind")]
pub struct Forgotten {
    pub tasks: u64,
    pub events: u64,
    pub actions: u64,
    pub requests: u64,
}

impl Forgotten {
    /// Of the kind that most were of.
    pub fn most(self) -> u64 {
        let Self { tasks, events, actions, requests } = self;
        tasks.max(events).max(actions).max(requests)
    }
}

/// Tasks that wait are counted so far: more blocks than a site gives to anybody.
pub const MOST_BACKLOG: u32 = 10_000;

/// Pools of an endpoint whose backlog is told at once.
pub const MOST_POOLS: usize = 256;

/// Artifacts of a task: the plots of a dataset, twice over.
pub const MOST_ARTIFACTS: usize = 128;

/// Bytes of a task's artifacts together: they are for a portal, not for archives.
pub const LARGEST_ARTIFACTS: usize = 32 << 20;

/// How far a store's writing has come: what was done before a mark is on disk no later than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CommitMark(u64);

impl CommitMark {
    /// The one after it.
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a call made of one of its tasks: its new life, or why nothing changed.
pub type Changed = Result<Life, ChangeError>;

/// Why a call left a task as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// There is no such task, or no longer.
    #[error("there is no such task")]
    Unknown,
    /// The event does not apply.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The endpoint has a newer connection.
    #[error("a newer connection of the endpoint speaks for it")]
    OldEpoch,
    /// What the attempt left is too large to be kept.
    #[error(
        "the result's document has {bytes} bytes, {LARGEST_DOCUMENT} are allowed; write it to a file and name that"
    )]
    LargeResult {
        /// Its size.
        bytes: usize,
    },
    /// The artifacts are too many or too large to be kept.
    #[error(
        "the result has {number} artifacts of {bytes} bytes, {MOST_ARTIFACTS} of {LARGEST_ARTIFACTS} are allowed; \
         write them to files"
    )]
    LargeArtifacts {
        /// How many.
        number: usize,
        /// Their size.
        bytes: usize,
    },
}

/// A store that cannot do what it is asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database refuses or is gone.
    #[error("{step} failed")]
    Database {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full.
    #[error("{step} failed: no space is left for {}; make room or move the controller's directory", place.display())]
    Full {
        /// What was being done.
        step: &'static str,
        /// The file.
        place: PathBuf,
    },
    /// The disk did not take what was written before.
    #[error(
        "{step} failed: the disk did not take what was written to {}; restart the controller when the disk is well",
        place.display()
    )]
    Unsynced {
        /// What was being done.
        step: &'static str,
        /// The file.
        place: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// What the database holds was not written by this program.
    #[error("{what} of {id} in the database cannot be read; restore it from a copy")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// Of which record.
        id: String,
    },
    /// The database is of another version.
    #[error("the database {} has version {found}, this program knows up to {known}; run the newer program", place.display())]
    Version {
        /// The file.
        place: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Opens the store in an SQLite file, which is made if there is none; needs a tokio runtime. Its time is the clock's, or
/// goes on from what it remembers if the clock is behind that.
///
/// # Errors
/// The file cannot be opened, no space is left, or a newer program wrote it.
pub async fn open_sqlite(path: &Path, clock: Clock) -> Result<SqliteStore, StoreError> {
    sqlite::open(path, clock).await
}

/// What the controller remembers.
///
/// A caller that stops waiting does not stop a call: it takes effect as if it had waited. Lists of answers are in the order of the questions.
pub trait Store: Send + Sync + 'static {
    /// The moment, by the clock that all who use the store share. It never goes back, not behind what the store remembers
    /// either.
    fn now(&self) -> Moment;

    /// Accepts tasks with their action. When it returns they are on disk, all of them, or none is accepted.
    fn submit(&self, submission: NewSubmission) -> impl Future<Output = Result<Submitted, StoreError>> + Send;

    /// Leases queued tasks to an endpoint, those of a lane by priority and age; not those whose deadline has passed, and none to a
    /// connection that is not the newest, or whose session has run out.
    fn lease(&self, request: LeaseRequest) -> impl Future<Output = Result<Vec<Leased>, StoreError>> + Send;

    /// Says that workers began these attempts. When it returns, that is seen by all; the disk takes it with what comes
    /// later, since nothing rests on it.
    fn start(
        &self,
        holder: Holder,
        attempts: Vec<AttemptId>,
        now: Moment,
    ) -> impl Future<Output = Result<Vec<Changed>, StoreError>> + Send;

    /// Renews leases; attempts that come back as an error must be stopped, and so must those whose life wishes it.
    fn renew(
        &self,
        holder: Holder,
        attempts: Vec<AttemptId>,
        until: Moment,
    ) -> impl Future<Output = Result<Vec<Changed>, StoreError>> + Send;

    /// Ends attempts. When it returns, that is seen by all and survives the end of this process, not yet that of the
    /// computer: whoever made the reports keeps them until [`Store::on_disk`] has returned for the mark.
    fn report(
        &self,
        holder: Holder,
        reports: Vec<Report>,
        now: Moment,
    ) -> impl Future<Output = Result<(Vec<Changed>, CommitMark), StoreError>> + Send;

    /// Ends when what a mark stands for is on disk. It waits for other calls to bring it there for some milliseconds
    /// first.
    fn on_disk(&self, mark: CommitMark) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Cancels tasks.
    fn cancel(&self, tasks: Vec<TaskId>, now: Moment) -> impl Future<Output = Result<Vec<Changed>, StoreError>> + Send;

    /// Applies what time has brought, to at most `most` tasks. Returns those that changed.
    fn expire(
        &self,
        now: Moment,
        overdue: Overdue,
        most: u32,
    ) -> impl Future<Output = Result<Vec<TaskId>, StoreError>> + Send;

    /// Tasks by id; None for those that are not remembered.
    fn get(&self, tasks: Vec<TaskId>) -> impl Future<Output = Result<Vec<Option<TaskRecord>>, StoreError>> + Send;

    /// Tasks that a filter lets through.
    fn list(&self, filter: TaskFilter, page: Page) -> impl Future<Output = Result<Vec<TaskRecord>, StoreError>> + Send;

    /// How many tasks of each state a filter lets through.
    fn count(&self, filter: TaskFilter) -> impl Future<Output = Result<BTreeMap<StateName, u64>, StoreError>> + Send;

    /// What waits for slots of an endpoint and may begin, by pool; of the pools at most [`MOST_POOLS`], of the tasks of each
    /// at most [`MOST_BACKLOG`].
    fn backlog(
        &self,
        endpoint: EndpointId,
        now: Moment,
    ) -> impl Future<Output = Result<Vec<PoolBacklog>, StoreError>> + Send;

    /// Actions by id; None for those that are not remembered.
    fn actions(
        &self,
        actions: Vec<ActionId>,
    ) -> impl Future<Output = Result<Vec<Option<ActionRecord>>, StoreError>> + Send;

    /// Where the outbox ends.
    fn newest_event(&self) -> impl Future<Output = Result<EventId, StoreError>> + Send;

    /// Events after a place, in their order, at most `most`.
    fn events(
        &self,
        after: EventId,
        most: u32,
    ) -> impl Future<Output = Result<Vec<Arc<EventRecord>>, StoreError>> + Send;

    /// What happened to a task: its newest events, at most `most`, in their order.
    fn timeline(&self, task: TaskId, most: u32) -> impl Future<Output = Result<Vec<EventRecord>, StoreError>> + Send;

    /// The artifacts of a task, by name.
    fn artifacts(&self, task: TaskId) -> impl Future<Output = Result<Vec<ArtifactInfo>, StoreError>> + Send;

    /// An artifact of a task.
    fn artifact(
        &self,
        task: TaskId,
        name: ArtifactName,
    ) -> impl Future<Output = Result<Option<Artifact>, StoreError>> + Send;

    /// Forgets tasks that ended before a moment, with their artifacts, the request ids that they came with and the
    /// actions of which no task is left, and events as old: at most `most` tasks and events.
    fn forget(&self, ended_before: Moment, most: u32) -> impl Future<Output = Result<Forgotten, StoreError>> + Send;

    /// Registers an endpoint and claims its name for a session, until the session's moment; from another session only
    /// if that has run out or is one of those that are replaced. The owner stays the one of the first
    /// registration, the group is what the owner said last. In a group a name is the first owner's who took it.
    fn claim(
        &self,
        endpoint: EndpointRecord,
        session: EndpointSession,
        replaces: Vec<SessionId>,
        now: Moment,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Opens a connection of the session that holds the endpoint's name; earlier connections are refused from now on.
    /// None when another session holds it, or none does.
    fn connect(
        &self,
        endpoint: EndpointId,
        session: SessionId,
        now: Moment,
    ) -> impl Future<Output = Result<Option<Epoch>, StoreError>> + Send;

    /// Renews a session and keeps what the endpoint says of itself; the claim tells whether it still is the one. A
    /// session that has run out is renewed too unless another has claimed the name; an old connection renews nothing.
    fn beat(
        &self,
        holder: Holder,
        session: EndpointSession,
        status: String,
        now: Moment,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Gives the name back; nothing happens when another session holds it.
    fn release(
        &self,
        endpoint: EndpointId,
        session: SessionId,
        now: Moment,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes an endpoint's name from processes that are dead, and forgets it if no process holds it then and that has no task which has not ended: its name is free.
    fn forget_endpoint(
        &self,
        endpoint: EndpointId,
        dead: Vec<SessionId>,
        now: Moment,
    ) -> impl Future<Output = Result<EndpointForgotten, StoreError>> + Send;

    /// All endpoints that are not forgotten, by name.
    fn endpoints(&self) -> impl Future<Output = Result<Vec<EndpointRecord>, StoreError>> + Send;

    /// Keeps a token.
    fn add_token(&self, token: TokenRecord) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Revokes a token; false when there is none.
    fn revoke_token(&self, token: TokenId, now: Moment) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The token with this digest, revoked and expired ones too.
    fn token(&self, digest: [u8; 32]) -> impl Future<Output = Result<Option<TokenRecord>, StoreError>> + Send;

    /// All tokens, oldest first.
    fn tokens(&self) -> impl Future<Output = Result<Vec<TokenRecord>, StoreError>> + Send;
}
