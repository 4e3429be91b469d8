//! The controller's gRPC services: who asks, what is asked, and how a refusal reads. Decides nothing.

mod door;
mod endpoints;
pub mod link;
mod tasks;
#[cfg(test)]
mod tests;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{self, Server, ServerTlsConfig};
use tonic::{Code, Status};

use super::certificate::ServerIdentity;
use super::convert::WireError;
use super::wire::endpoints_server::EndpointsServer;
use super::wire::tasks_server::TasksServer;
use crate::controller::access::{Caller, Denied};
use crate::controller::{Controller, ControllerError};
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
pub struct Services(Server);

impl Services {
    /// With TLS, or on a loopback without.
    ///
    /// # Errors
    /// An unusable certificate.
    pub fn new(tls: Option<Tls>) -> Result<Self, ServeError> {
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        let Some(Tls { identity: ServerIdentity { certificates, key }, client_ca }) = tls else {
            return Ok(Self(server));
        };
        let tls = ServerTlsConfig::new().identity(transport::Identity::from_pem(certificates, key));
        let tls = match client_ca {
            Some(ca) => tls.client_ca_root(transport::Certificate::from_pem(ca)),
            None => tls,
        };
        server.tls_config(tls).map(Self).map_err(ServeError::ServerIdentity)
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
        let endpoints = endpoints::Endpoints { controller, stopping: stopping.clone() };
        // an answer is not to wait for the acknowledgement of the one before
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let Self(mut server) = self;
        server
            .add_service(TasksServer::new(tasks).max_decoding_message_size(LARGEST_MESSAGE))
            .add_service(EndpointsServer::new(endpoints).max_decoding_message_size(LARGEST_MESSAGE))
            .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
            .await
            .map_err(ServeError::Serve)
    }
}

/// Who asks, by the bearer token of the call.
async fn caller<S: Store>(controller: &Controller<S>, metadata: &MetadataMap) -> Result<Caller, Status> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
        Status::unauthenticated("the call has no token; give one with --token-file or SPECKLED_TOKEN")
    })?;
    controller.caller(token).await.map_err(refusal)
}

/// A refusal as the caller reads it.
fn refusal(error: ControllerError) -> Status {
    let code = match &error {
        ControllerError::Denied(Denied::Unknown | Denied::Revoked(_) | Denied::Expired(_)) => Code::Unauthenticated,
        ControllerError::Denied(Denied::Role { .. } | Denied::Group { .. }) => Code::PermissionDenied,
        ControllerError::ForeignEndpoint { .. } | ControllerError::ForeignAction(_) => Code::PermissionDenied,
        ControllerError::NoEndpoint(_) => Code::NotFound,
        ControllerError::SeveralEndpoints { .. } | ControllerError::TooMany { .. } | ControllerError::NoTasks => {
            Code::InvalidArgument
        }
        ControllerError::EndpointHeld { .. } | ControllerError::RequestConflict { .. } => Code::AlreadyExists,
        ControllerError::NoSession { .. } => Code::FailedPrecondition,
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
