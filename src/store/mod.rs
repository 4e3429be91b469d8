//! What the controller remembers: tasks, endpoints, tokens. One trait, its records, its errors; the databases
//! behind it are private.
//!
//! Everything here is batched, since a database is asked a few times a second, not once a task: callers put what
//! belongs together into one call, and a call is one transaction. When a call returns, what it did is on disk, where it
//! does not say otherwise.
//! Decisions about a task's life are `task::life`'s; a store applies them, in the transaction that reads the task.

#[cfg(test)]
mod contract;
mod sqlite;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{ActionId, AttemptId, EndpointId, Epoch, SessionId, TaskId, TokenId};
use crate::protocol::session::Leased;
use crate::task::life::{End, Hold, HoldStage, Life, Limits, Outcome, Phase, Refusal};
use crate::task::names::{EndpointName, Group, Label, RequestId, Subject};
use crate::task::result::{LARGEST_DOCUMENT, TaskResult};
use crate::task::spec::{Kind, TaskSpec};
use crate::task::time::Moment;

pub use sqlite::SqliteStore;

/// A task as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Made by the caller.
    pub id: TaskId,
    /// The submission, if it may come again: the same owner and request id make no second task.
    pub request: Option<RequestId>,
    /// The flow's group of tasks.
    pub action: ActionId,
    /// Where it is to run.
    pub endpoint: EndpointId,
    /// Who submits.
    pub owner: Subject,
    /// Who else may see it.
    pub group: Option<Group>,
    /// What people call it.
    pub label: Option<Label>,
    /// What is to be done.
    pub spec: TaskSpec,
    /// Higher ones are leased first; equal ones in the order of submission.
    pub priority: i32,
    /// When it must be over.
    pub deadline: Option<Moment>,
    /// How often it may fail.
    pub limits: Limits,
    /// When it was submitted.
    pub submitted: Moment,
}

/// A task as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// As it was submitted.
    pub task: NewTask,
    /// What has happened to it.
    pub life: Life,
    /// When that last changed.
    pub changed: Moment,
    /// What the last attempt left, once one is over.
    pub result: Option<TaskResult>,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is a new task.
    New(TaskId),
    /// The same was submitted before.
    Known(TaskId),
    /// Another task was submitted under this request id.
    Conflict(TaskId),
}

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
    /// At most so many.
    pub most: u32,
    /// Of these kinds; empty = of all.
    pub kinds: Vec<Kind>,
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
}

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
}

/// Which tasks to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// Of this action.
    pub action: Option<ActionId>,
    /// Of this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of these people; empty = of all.
    pub owners: Vec<Subject>,
    /// Or of these groups; empty = of none besides.
    pub groups: Vec<Group>,
    /// In one of these states; empty = in any.
    pub states: Vec<StateName>,
}

impl TaskFilter {
    /// Whether a store that is asked with it lists a task.
    pub fn lets_through(&self, record: &TaskRecord) -> bool {
        let Self { action, endpoint, owners, groups, states } = self;
        let task = &record.task;
        let everybody = owners.is_empty();
        let whose = owners.contains(&task.owner) || task.group.as_ref().is_some_and(|group| groups.contains(group));
        action.is_none_or(|action| action == task.action)
            && endpoint.is_none_or(|endpoint| endpoint == task.endpoint)
            && (everybody || whose)
            && (states.is_empty() || states.contains(&StateName::of(&record.life)))
    }
}

/// A task's state as people filter and count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// It waits for an endpoint.
    Queued,
    /// An endpoint has it.
    Leased,
    /// A worker computes it.
    Running,
    /// Its result exists.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl StateName {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Leased, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Those that stay.
    pub const ENDS: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state of a life.
    pub fn of(life: &Life) -> Self {
        match &life.phase {
            Phase::Queued { .. } => Self::Queued,
            Phase::Held(Hold { stage: HoldStage::Leased, .. }) => Self::Leased,
            Phase::Held(Hold { stage: HoldStage::Running, .. }) => Self::Running,
            Phase::Ended(End::Succeeded) => Self::Succeeded,
            Phase::Ended(End::Failed(_)) => Self::Failed,
            Phase::Ended(End::Cancelled) => Self::Cancelled,
        }
    }

    /// Whether it stays as it is.
    pub fn is_over(self) -> bool {
        Self::ENDS.contains(&self)
    }

    /// Its name in stores, messages and lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Part of a list: newest tasks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only tasks older than this one.
    pub before: Option<TaskId>,
    /// At most so many.
    pub most: u32,
}

/// An endpoint as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Its id.
    pub id: EndpointId,
    /// Its name.
    pub name: EndpointName,
    /// Who registered it.
    pub owner: Subject,
    /// Who may see it and submit to it.
    pub group: Option<Group>,
    /// The process that holds its name.
    pub session: Option<EndpointSession>,
    /// What it last said of itself: a JSON document.
    pub status: String,
    /// When.
    pub seen: Moment,
}

/// The one process that is an endpoint: a lease on its name, so that two login nodes cannot both be it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSession {
    /// Which process.
    pub id: SessionId,
    /// Where it runs.
    pub host: String,
    /// Until when it holds the name unless it renews.
    pub until: Moment,
}

/// Answer to a process that wants to be an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is the endpoint now.
    Granted,
    /// Another process is.
    Held(EndpointSession),
    /// Nobody is: a process that believed it was claims the name again. Never the answer to a claim.
    Open,
}

/// A token as it is remembered; its secret is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    /// Whose it is.
    pub subject: Subject,
    /// What it allows.
    pub roles: Vec<Role>,
    /// For which groups.
    pub groups: Vec<Group>,
    /// When it was made.
    pub made: Moment,
    /// When it ends by itself.
    pub expires: Option<Moment>,
    /// When it was revoked.
    pub revoked: Option<Moment>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// To submit tasks and cancel one's own.
    Submit,
    /// To see tasks and endpoints.
    View,
    /// To cancel anybody's tasks and to stop endpoints.
    Operate,
    /// To be an endpoint.
    Endpoint,
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

/// Opens the store in an SQLite file, which is made if there is none; needs a tokio runtime.
///
/// # Errors
/// The file cannot be opened, no space is left, or a newer program wrote it.
pub async fn open_sqlite(path: &Path) -> Result<SqliteStore, StoreError> {
    sqlite::open(path).await
}

/// What the controller remembers.
///
/// A caller that stops waiting does not stop a call: it takes effect as if it had waited. Lists of answers are in the order of the questions.
pub trait Store: Send + Sync + 'static {
    /// Accepts tasks. When it returns they are on disk.
    fn submit(&self, tasks: Vec<NewTask>) -> impl Future<Output = Result<Vec<Submitted>, StoreError>> + Send;

    /// Leases queued tasks to an endpoint, by priority and age; not those whose deadline has passed, and none to a
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

    /// Applies what time has brought: leases that ran out, deadlines that passed; at most `most` tasks. Returns
    /// those that changed.
    fn expire(&self, now: Moment, most: u32) -> impl Future<Output = Result<Vec<TaskId>, StoreError>> + Send;

    /// Tasks by id; None for those that are not remembered.
    fn get(&self, tasks: Vec<TaskId>) -> impl Future<Output = Result<Vec<Option<TaskRecord>>, StoreError>> + Send;

    /// Tasks that a filter lets through.
    fn list(&self, filter: TaskFilter, page: Page) -> impl Future<Output = Result<Vec<TaskRecord>, StoreError>> + Send;

    /// How many tasks of each state a filter lets through.
    fn count(&self, filter: TaskFilter) -> impl Future<Output = Result<BTreeMap<StateName, u64>, StoreError>> + Send;

    /// The newest moment that it remembers, of those that are found at once: the newest task's submission, and the
    /// heartbeats of endpoints. Without any, the beginning of time.
    fn newest(&self) -> impl Future<Output = Result<Moment, StoreError>> + Send;

    /// Forgets tasks that ended before a moment, at most `most`; returns how many.
    fn forget(&self, ended_before: Moment, most: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Registers an endpoint and claims its name for a session, until the session's moment; from another session only
    /// if that has run out or is one of those that are replaced. The name's owner and group stay those of the first
    /// registration.
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
    fn release(&self, endpoint: EndpointId, session: SessionId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All endpoints, by name.
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
