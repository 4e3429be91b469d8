//! The endpoint's own services, on a socket in its directory: for its workers, and for its administrator's commands.
//! Whoever may open the socket may use them; the file system sees to that.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::{LARGEST_MESSAGE, ServeError, invalid};
use crate::endpoint::inbox::{Closed, Inbox, LeaveMode, WorkerConnection};
use crate::protocol::worker::{FromWorker, Joining};
use crate::rpc::convert::{known, required};
use crate::rpc::wire::control_server::{Control, ControlServer};
use crate::rpc::wire::workers_server::{Workers, WorkersServer};
use crate::rpc::{version, wire};
use crate::runtime::tasks::spawn;
use crate::task::failure::chain;

/// Answers that wait for a worker that reads slowly; then its connection waits for it.
const ANSWERS: usize = 64;

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

/// Serves until it is told to stop.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: UnixListener, inbox: Inbox, stopping: CancellationToken) -> Result<(), ServeError> {
    let service = WorkerService { inbox, stopping: stopping.clone() };
    Server::builder()
        .add_service(WorkersServer::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(ControlServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping.cancelled_owned())
        .await
        .map_err(ServeError::Serve)
}

#[derive(Clone)]
struct WorkerService {
    inbox: Inbox,
    stopping: CancellationToken,
}

#[tonic::async_trait]
impl Workers for WorkerService {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<wire::ToWorker, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<wire::FromWorker>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|first| first.message);
        let Some(wire::from_worker::Message::Joining(joining)) = first else {
            return Err(Status::invalid_argument("a connection begins with joining"));
        };
        let versions = required("joining.versions", joining.versions.clone()).map_err(invalid)?;
        let version = version::negotiate("worker", &versions)
            .map_err(|mismatch| Status::failed_precondition(mismatch.to_string()))?;
        let joining = Joining::try_from(joining).map_err(invalid)?;
        let site = serde_json::to_string(self.inbox.site()).map_err(|error| Status::internal(error.to_string()))?;
        let connection = self.inbox.join(joining).await.map_err(closed)?;
        let (send, receive) = mpsc::channel(ANSWERS);
        let welcome = wire::to_worker::Message::Welcome(wire::Welcome { version, site });
        // the channel is new and empty
        let _room = send.try_send(Ok(wire::ToWorker { message: Some(welcome) }));
        // ends with the stream, or when the endpoint ends
        spawn("worker connection", converse(connection, messages, send, self.stopping.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

type Answers = mpsc::Sender<Result<wire::ToWorker, Status>>;

async fn converse(
    mut connection: WorkerConnection,
    mut messages: Streaming<wire::FromWorker>,
    send: Answers,
    stopping: CancellationToken,
) {
    loop {
        tokio::select! {
            // a message that is dropped half-read ends the stream with this function; the worker says it again
            message = messages.message() => match message {
                Ok(Some(message)) => match FromWorker::try_from(message) {
                    Ok(said) => {
                        if connection.said(said).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "a worker says what cannot be read");
                        // who does not listen any more needs no answer
                        let _gone = send.send(Err(invalid(error))).await;
                        break;
                    }
                },
                Ok(None) | Err(_) => break,
            },
            // what is taken is sent before the loop goes on
            told = connection.tell.recv() => match told {
                Some(told) => {
                    if send.send(Ok(told.into())).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            () = stopping.cancelled() => break,
        }
    }
    connection.disconnected().await;
}

#[tonic::async_trait]
impl Control for WorkerService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let status = self.inbox.status().await.map_err(closed)?.to_string();
        Ok(Response::new(wire::StatusResponse { status }))
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
}

fn closed(closed: Closed) -> Status {
    Status::unavailable(closed.to_string())
}
