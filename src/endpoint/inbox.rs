//! The way to the endpoint's daemon: everybody who has something for it puts it here, and it hears one after the
//! other. Decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::blocks::BlockSeen;
use super::joining::JoinRefusal;
use super::workers::ConnectionId;
use crate::config::endpoint::Site;
use crate::ids::{BlockId, WorkerId};
use crate::protocol::session::{FromEndpoint, ToEndpoint};
use crate::protocol::worker::{FromWorker, Joining, ToWorker};
use crate::runtime::process::ProcessName;
use crate::task::ending::{Ending, Exit};

/// Events that wait: beyond them whoever has one waits to be heard.
const EVENTS: usize = 4096;

/// Messages that wait for a worker's wire: beyond them the connection is taken for dead.
const MESSAGES: usize = 1024;

/// What a daemon hears.
#[derive(Debug)]
pub(super) enum InboxEvent {
    /// A session with the controller is open.
    Session {
        lease: Duration,
        heartbeat: Duration,
        controller: String,
        say: mpsc::Sender<(u64, FromEndpoint)>,
        abandon: CancellationToken,
    },
    /// The controller said something.
    Controller(ToEndpoint),
    /// There is no session, and why.
    NoSession(String),
    /// A worker has connected; answered by whether it may.
    Joined {
        connection: ConnectionId,
        joining: Joining,
        /// Its process, as the socket names it, if that is on this computer.
        process: Option<ProcessName>,
        tell: mpsc::Sender<ToWorker>,
        answer: oneshot::Sender<Result<(), JoinRefusal>>,
    },
    /// A worker said something.
    Worker { worker: WorkerId, connection: ConnectionId, said: FromWorker },
    /// A worker's connection has ended.
    Disconnected { worker: WorkerId, connection: ConnectionId },
    /// A worker that no provider looks after has ended.
    Ended { worker: WorkerId, ending: Ending },
    /// The provider says something of a block.
    Block { block: BlockId, seen: BlockSeen },
    /// Somebody asks how it is.
    Status(oneshot::Sender<Value>),
    /// It is to leave; answered when it begins to.
    Leave { mode: LeaveMode, heard: oneshot::Sender<()> },
}

/// How an endpoint is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveMode {
    /// Attempts are stopped and given back.
    Now,
    /// Attempts that it has are finished first.
    Drain,
    /// Workers go on; the next process of the endpoint takes them over.
    KeepWorkers,
}

/// From where a worker connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOrigin {
    /// By the socket on this computer, from this process, if it is still there. Whoever watches the process tells of
    /// its end.
    Socket(Option<ProcessName>),
    /// From another computer: what it says of its process is for people.
    Link,
}

/// A worker cannot join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The daemon has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// It may not.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
}

/// The daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint ends")]
pub struct Closed;

/// The way in.
#[derive(Debug, Clone)]
pub struct Inbox {
    events: mpsc::Sender<InboxEvent>,
    connections: Arc<AtomicU64>,
    site: Arc<Site>,
}

/// A worker's connection, from the endpoint's side.
#[derive(Debug)]
pub struct WorkerConnection {
    inbox: Inbox,
    worker: WorkerId,
    connection: ConnectionId,
    /// What is told of its end when it says that it leaves, if nobody watches its process.
    leaves: Option<Ending>,
    has_left: bool,
    /// What the worker is to be told; ends when the endpoint does not want the connection any more.
    pub tell: mpsc::Receiver<ToWorker>,
}

impl Inbox {
    pub(super) fn new(site: Site) -> (Self, mpsc::Receiver<InboxEvent>) {
        let (events, heard) = mpsc::channel(EVENTS);
        (Self { events, connections: Arc::default(), site: Arc::new(site) }, heard)
    }

    /// What tasks may do here.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// A worker has connected.
    ///
    /// # Errors
    /// It may not join, or the daemon has ended.
    pub async fn join(&self, joining: Joining, origin: WorkerOrigin) -> Result<WorkerConnection, JoinError> {
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let (send, tell) = mpsc::channel(MESSAGES);
        let (answer, answered) = oneshot::channel();
        let worker = joining.worker;
        let (process, leaves) = match origin {
            WorkerOrigin::Socket(process) => (process, None),
            WorkerOrigin::Link => (None, Some(Ending::Itself(Exit::Code(0)))),
        };
        let event = InboxEvent::Joined { connection, joining, process, tell: send, answer };
        self.events.send(event).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)??;
        Ok(WorkerConnection { inbox: self.clone(), worker, connection, leaves, has_left: false, tell })
    }

    /// How the endpoint is.
    ///
    /// # Errors
    /// The daemon has ended.
    pub async fn status(&self) -> Result<Value, Closed> {
        let (answer, status) = oneshot::channel();
        self.events.send(InboxEvent::Status(answer)).await.map_err(|_| Closed)?;
        status.await.map_err(|_| Closed)
    }

    /// Has the endpoint leave; returns when it begins to.
    ///
    /// # Errors
    /// The daemon has ended.
    pub async fn leave(&self, mode: LeaveMode) -> Result<(), Closed> {
        let (heard, answer) = oneshot::channel();
        self.events.send(InboxEvent::Leave { mode, heard }).await.map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Puts an event in; one for a daemon that has ended is dropped.
    pub(super) async fn put(&self, event: InboxEvent) {
        let _ended = self.events.send(event).await;
    }
}

impl WorkerConnection {
    /// The worker said something.
    ///
    /// # Errors
    /// The daemon has ended.
    pub async fn said(&mut self, said: FromWorker) -> Result<(), Closed> {
        self.has_left |= said == FromWorker::Leaving;
        let event = InboxEvent::Worker { worker: self.worker, connection: self.connection, said };
        self.inbox.events.send(event).await.map_err(|_| Closed)
    }

    /// The connection has ended.
    pub async fn disconnected(self) {
        let Self { inbox, worker, connection, leaves, has_left, tell: _ } = self;
        inbox.put(InboxEvent::Disconnected { worker, connection }).await;
        if let Some(ending) = leaves.filter(|_| has_left) {
            inbox.put(InboxEvent::Ended { worker, ending }).await;
        }
    }
}
