//! The endpoint's own services, by two doors: a socket in its directory, for the workers of its computer and for its
//! administrator's commands, which whoever may open it may use, as the file system sees to; and TCP with TLS, for workers
//! of other computers, which show the secret of their block, and for nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use super::door::{Full, Inside, Visitor};
use super::link::Link;
use super::{LARGEST_MESSAGE, ServeError, invalid};
use crate::endpoint::block_files::{BlockMember, BlockSecret};
use crate::endpoint::inbox::{Closed, Inbox, JoinError, LeaveMode, WorkerConnection, WorkerOrigin};
use crate::protocol::worker::{FromWorker, Joining, ToWorker};
use crate::rpc::convert::worker::Joined;
use crate::rpc::convert::{known, named, required};
use crate::rpc::parts;
use crate::rpc::wire::control_server::{Control, ControlServer};
use crate::rpc::wire::workers_server::{Workers, WorkersServer};
use crate::rpc::{version, wire};
use crate::runtime::ids;
use crate::runtime::process::ProcessName;
use crate::runtime::tasks::spawn;
use crate::task::failure::chain;

/// Answers that wait for a worker that reads slowly; then its connection waits for it.
const ANSWERS: usize = 64;

/// Until a worker has introduced itself.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Workers of a block that is over have so long to leave: an executor's grace, and their last words.
const LEAVING: Duration = Duration::from_secs(15);

/// Listens at the socket's path, which no living process listens at; only its owner may connect.
///
/// # Errors
/// The file system refuses.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // the directory is its owner's alone already; this holds where somebody has opened that
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until it is told to stop.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: UnixListener,
    inbox: Inbox,
    link: Option<Link>,
    stopping: CancellationToken,
) -> Result<(), ServeError> {
    let entrance = Entrance::Socket;
    let workers = WorkerService { inbox: inbox.clone(), entrance, stopping: stopping.clone() };
    Server::builder()
        .add_service(WorkersServer::new(workers).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(ControlServer::new(ControlService { inbox, link }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping.cancelled_owned())
        .await
        .map_err(ServeError::Serve)
}

/// The service for workers, by one of the doors.
#[derive(Clone)]
pub(super) struct WorkerService {
    pub(super) inbox: Inbox,
    pub(super) entrance: Entrance,
    pub(super) stopping: CancellationToken,
}

/// By which door.
#[derive(Clone)]
pub(super) enum Entrance {
    Socket,
    Link(Link),
}

/// Who calls.
enum Peer {
    /// The process at the socket's other end, as the system names it.
    Socket(Option<ProcessName>),
    /// A worker of a block.
    Link(BlockMember, Inside),
}

impl WorkerService {
    /// Who calls, before anything of what he says is read.
    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        match &self.entrance {
            Entrance::Socket => {
                let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|socket| socket.peer_cred);
                let pid = credentials.and_then(|credentials| u32::try_from(credentials.pid()?).ok());
                Ok(Peer::Socket(pid.and_then(ProcessName::of)))
            }
            Entrance::Link(link) => {
                let no_visitor = || Status::internal("the connection does not tell from where it comes");
                let visitor: &Visitor = request.extensions().get().ok_or_else(no_visitor)?;
                let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
                let secret = header.and_then(|value| value.strip_prefix("Bearer ")?.parse::<BlockSecret>().ok());
                let Some(member) = secret.and_then(|secret| link.blocks.member(&secret)) else {
                    visitor.refuse("it showed the secret of no block that is open");
                    return Err(Status::unauthenticated("this is the secret of no block that is open"));
                };
                let inside = visitor.enter().map_err(|Full| {
                    visitor.refuse("there is no room for more workers");
                    Status::resource_exhausted("the endpoint has no room for more workers")
                })?;
                Ok(Peer::Link(member, inside))
            }
        }
    }
}

#[tonic::async_trait]
impl Workers for WorkerService {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<wire::ToWorker, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<wire::FromWorker>>) -> Result<Response<Self::WorkStream>, Status> {
        let peer = self.peer(&request)?;
        let mut messages = request.into_inner();
        let introduced = tokio::time::timeout(INTRODUCTION, introduction(&mut messages)).await;
        let late = |_| Status::deadline_exceeded("the worker did not introduce itself");
        let (joining, version) = introduced.map_err(late)??;
        let site = serde_json::to_string(self.inbox.site()).map_err(|error| Status::internal(error.to_string()))?;
        let (origin, membership) = match peer {
            Peer::Socket(process) => (WorkerOrigin::Socket(process), None),
            Peer::Link(BlockMember { block, .. }, _) if block != joining.block => {
                return Err(Status::permission_denied("the worker is not one of the block whose secret it shows"));
            }
            Peer::Link(member, inside) => (WorkerOrigin::Link, Some((member.over, inside))),
        };
        let connection = self.inbox.join(joining, origin).await.map_err(refused)?;
        let (send, receive) = mpsc::channel(ANSWERS);
        let welcome = wire::to_worker::Message::Welcome(wire::Welcome { version, site });
        // the channel is new and empty
        let _room = send.try_send(Ok(wire::ToWorker { message: Some(welcome) }));
        let (over, inside) = membership.unzip();
        let conversation = Conversation { connection, messages, send, over: over.unwrap_or_default() };
        let stopping = self.stopping.clone();
        // ends with the stream, or when the endpoint ends
        spawn("worker connection", async move {
            conversation.hold(&stopping).await;
            drop(inside);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// What a worker says first, with the version that is spoken: its attempts may come in several messages.
async fn introduction(messages: &mut Streaming<wire::FromWorker>) -> Result<(Joining, u32), Status> {
    let first = messages.message().await?.and_then(|first| first.message);
    let Some(wire::from_worker::Message::Joining(joining)) = first else {
        return Err(Status::invalid_argument("a connection begins with joining"));
    };
    let versions = required("joining.versions", joining.versions.clone()).map_err(invalid)?;
    let version = version::negotiate("worker", &versions)
        .map_err(|mismatch| Status::failed_precondition(mismatch.to_string()))?;
    let mut joined = Joined::begin(joining).map_err(invalid)?;
    while joined.more() {
        let next = messages.message().await?.and_then(|next| next.message);
        let Some(wire::from_worker::Message::MoreAttempts(part)) = next else {
            return Err(Status::invalid_argument("more attempts were to come"));
        };
        joined.add(part).map_err(invalid)?;
    }
    Ok((joined.whole(), version))
}

/// A worker's connection while it is open.
struct Conversation {
    connection: WorkerConnection,
    messages: Streaming<wire::FromWorker>,
    send: mpsc::Sender<Result<wire::ToWorker, Status>>,
    /// Cancelled when the worker's block is over; never for one of the socket.
    over: CancellationToken,
}

impl Conversation {
    async fn hold(mut self, stopping: &CancellationToken) {
        let over = self.over.clone();
        tokio::select! {
            () = self.converse(stopping) => {}
            () = over.cancelled() => {
                tracing::info!("the block of a connected worker is over: the worker leaves");
                self.tell(ToWorker::Leave).await;
                // one that does not leave in time is cut off: it cannot come back
                let _late = tokio::time::timeout(LEAVING, self.converse(stopping)).await;
            }
        }
        self.connection.disconnected().await;
    }

    /// Hears and tells until one of the two ends, or the endpoint does.
    async fn converse(&mut self, stopping: &CancellationToken) {
        loop {
            tokio::select! {
                // a message that is dropped half-read ends the stream with this function, or is read on after the block's
                // end; the worker says it again on the next connection
                message = self.messages.message() => match message {
                    Ok(Some(message)) => match FromWorker::try_from(message) {
                        Ok(said) => {
                            if self.connection.said(said).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(error = chain(&error), "a worker says what cannot be read");
                            // who does not listen any more needs no answer
                            let _gone = self.send.send(Err(invalid(error))).await;
                            return;
                        }
                    },
                    Ok(None) | Err(_) => return,
                },
                // what is taken is sent before the loop goes on
                told = self.connection.tell.recv() => match told {
                    Some(told) => {
                        if !self.tell(told).await {
                            return;
                        }
                    }
                    None => return,
                },
                () = stopping.cancelled() => return,
            }
        }
    }

    /// False when the worker does not listen any more.
    async fn tell(&self, told: ToWorker) -> bool {
        for part in parts::to_worker(told) {
            if self.send.send(Ok(part)).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// The service for the administrator.
struct ControlService {
    inbox: Inbox,
    link: Option<Link>,
}

impl ControlService {
    fn link(&self) -> Result<&Link, Status> {
        self.link.as_ref().ok_or_else(|| {
            Status::failed_precondition("workers of other computers cannot connect; configure worker_link and restart")
        })
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let mut status = self.inbox.status().await.map_err(closed)?;
        if let (Some(link), Some(status)) = (&self.link, status.as_object_mut()) {
            let link = serde_json::to_value(link.status()).map_err(|error| Status::internal(error.to_string()))?;
            status.insert("link".to_owned(), link);
        }
        Ok(Response::new(wire::StatusResponse { status: status.to_string() }))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveResponse>, Status> {
        let wire::LeaveRequest { mode } = request.into_inner();
        let mode = match known::<wire::LeaveMode>("mode", mode).map_err(invalid)? {
            wire::LeaveMode::Unspecified | wire::LeaveMode::Now => LeaveMode::Now,
            wire::LeaveMode::Drain => LeaveMode::Drain,
            wire::LeaveMode::KeepWorkers => LeaveMode::KeepWorkers,
        };
        self.inbox.leave(mode).await.map_err(closed)?;
        Ok(Response::new(wire::LeaveResponse {}))
    }

    async fn open_block(
        &self,
        _: Request<wire::OpenBlockRequest>,
    ) -> Result<Response<wire::OpenBlockResponse>, Status> {
        let (blocks, block) = (self.link()?.blocks.clone(), ids::block());
        // it waits for the file system
        let issued = tokio::task::spawn_blocking(move || blocks.issue(block)).await;
        let issued = issued.map_err(|error| Status::internal(error.to_string()))?;
        let file = issued.map_err(|error| Status::unavailable(chain(&error)))?;
        tracing::info!(%block, "a block was opened by hand");
        let file = file.to_str().ok_or_else(|| Status::internal("the file's path is no text"))?.to_owned();
        Ok(Response::new(wire::OpenBlockResponse { block: block.to_string(), file }))
    }

    async fn end_block(
        &self,
        request: Request<wire::EndBlockRequest>,
    ) -> Result<Response<wire::EndBlockResponse>, Status> {
        let wire::EndBlockRequest { block } = request.into_inner();
        let block = named("block", block).map_err(invalid)?;
        let blocks = self.link()?.blocks.clone();
        // it waits for the file system
        let ended = tokio::task::spawn_blocking(move || blocks.end(block)).await;
        match ended.map_err(|error| Status::internal(error.to_string()))? {
            true => {
                tracing::info!(%block, "a block was ended by hand");
                Ok(Response::new(wire::EndBlockResponse {}))
            }
            false => Err(Status::not_found(format!("block {block} is not open"))),
        }
    }
}

fn refused(error: JoinError) -> Status {
    match error {
        JoinError::Closed(error) => closed(error),
        JoinError::Refused(refusal) => Status::permission_denied(refusal.to_string()),
    }
}

fn closed(closed: Closed) -> Status {
    Status::unavailable(closed.to_string())
}
