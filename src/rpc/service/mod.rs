//! The controller's gRPC services: who asks, what is asked, and how a refusal reads. Decides nothing.

mod door;
mod endpoints;
#[cfg(test)]
mod flood;
mod gate;
mod limits;
pub mod link;
#[cfg(test)]
mod revoked;
mod tasks;
#[cfg(test)]
mod tests;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Server, ServerTlsConfig};
use tonic::{Code, Request, Status};

use self::door::Door;
use self::gate::{Admitted, Callers, Gate};
use self::limits::{CALLS_OF_CONNECTION, DoorLimits, LARGEST_HEADERS, WINDOW};
use super::certificate::ServerIdentity;
use super::convert::WireError;
use super::wire::endpoints_server::EndpointsServer;
use super::wire::tasks_server::TasksServer;
use crate::controller::access::{Caller, Denied};
use crate::controller::{Controller, ControllerError};
use crate::runtime::files::most_open;
use crate::store::{Store, StoreError};
use crate::task::failure::chain;

/// Bytes of a message: ten thousand tasks of a kilobyte and a half.
pub(super) const LARGEST_MESSAGE: usize = 16 << 20;

/// A connection that says nothing so long is asked whether it is there, so that a half-open one ends.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);

/// How long the answer to that may take.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are secured.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Who the controller is.
    pub identity: ServerIdentity,
    /// Whoever connects has to show a certificate of this CA, PEM; None = a token is enough.
    pub client_ca: Option<Vec<u8>>,
}

/// The services cannot be offered.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The certificate or its key.
    #[error("the controller's certificate or key cannot be used")]
    ServerIdentity(#[source] transport::Error),
    /// The network.
    #[error("serving failed")]
    Serve(#[source] transport::Error),
}

/// The services, before anybody can connect.
#[derive(Debug)]
pub struct Services {
    server: Server,
    door: Door,
}

impl Services {
    /// With TLS, or on a loopback without.
    ///
    /// # Errors
    /// An unusable certificate.
    pub fn new(tls: Option<Tls>) -> Result<Self, ServeError> {
        Self::with(tls, DoorLimits::controller(most_open()))
    }

    fn with(tls: Option<Tls>, limits: DoorLimits) -> Result<Self, ServeError> {
        let door = Door::new(limits);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(LARGEST_HEADERS)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .max_concurrent_streams(CALLS_OF_CONNECTION);
        let Some(Tls { identity: ServerIdentity { certificates, key }, client_ca }) = tls else {
            return Ok(Self { server, door });
        };
        let tls = ServerTlsConfig::new().identity(transport::Identity::from_pem(certificates, key));
        let tls = match client_ca {
            Some(ca) => tls.client_ca_root(transport::Certificate::from_pem(ca)),
            None => tls,
        };
        let server = server.tls_config(tls).map_err(ServeError::ServerIdentity)?;
        Ok(Self { server, door })
    }

    /// Serves until it is told to stop, and ends when the calls in flight have.
    ///
    /// # Errors
    /// A listener that fails.
    pub async fn serve<S: Store>(
        self,
        controller: Arc<Controller<S>>,
        listener: TcpListener,
        stopping: CancellationToken,
    ) -> Result<(), ServeError> {
        let tasks = tasks::TaskService { controller: Arc::clone(&controller), stopping: stopping.clone() };
        let endpoints = endpoints::Endpoints { controller: Arc::clone(&controller), stopping: stopping.clone() };
        let tasks = TasksServer::new(tasks).max_decoding_message_size(LARGEST_MESSAGE);
        let endpoints = EndpointsServer::new(endpoints).max_decoding_message_size(LARGEST_MESSAGE);
        let callers = Callers::default();
        let Self { mut server, door } = self;
        let accepted = door.accept(listener, stopping.clone());
        server
            .add_service(Gate { service: tasks, controller: Arc::clone(&controller), callers: callers.clone() })
            .add_service(Gate { service: endpoints, controller, callers })
            .serve_with_incoming_shutdown(accepted, stopping.cancelled_owned())
            .await
            .map_err(ServeError::Serve)
    }
}

/// Who asks: the gate has found it out.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let call: Option<&Admitted> = request.extensions().get();
    call.map(|call| call.caller().clone()).ok_or_else(|| Status::internal("the call came by no gate"))
}

/// A refusal as the caller reads it.
fn refusal(error: ControllerError) -> Status {
    let code = match &error {
        ControllerError::Denied(Denied::Unknown | Denied::Revoked(_) | Denied::Expired(_)) => Code::Unauthenticated,
        // as whatever may be otherwise when it is asked again
        ControllerError::Denied(Denied::Changed(_)) => Code::Unavailable,
        ControllerError::Denied(Denied::Role { .. } | Denied::Group { .. }) => Code::PermissionDenied,
        ControllerError::ForeignEndpoint { .. }
        | ControllerError::ForeignAction(_)
        | ControllerError::NameTaken { .. } => Code::PermissionDenied,
        ControllerError::NoEndpoint(_) => Code::NotFound,
        ControllerError::SeveralEndpoints { .. }
        | ControllerError::TooMany { .. }
        | ControllerError::SameResult(_)
        | ControllerError::NoTasks => Code::InvalidArgument,
        ControllerError::EndpointHeld { .. } | ControllerError::RequestConflict { .. } => Code::AlreadyExists,
        ControllerError::NoSession { .. } | ControllerError::Online { .. } | ControllerError::HasTasks { .. } => {
            Code::FailedPrecondition
        }
        ControllerError::Store(StoreError::Full { .. }) => Code::ResourceExhausted,
        ControllerError::Store(StoreError::Database { .. } | StoreError::Unsynced { .. } | StoreError::Closed) => {
            Code::Unavailable
        }
        ControllerError::Store(StoreError::Damaged { .. } | StoreError::Version { .. }) => Code::DataLoss,
    };
    if let ControllerError::Store(error) = &error {
        tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    }
    Status::new(code, chain(&error))
}

/// What of a message is wrong.
fn invalid(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}
