//! The worker's connection to its endpoint: the port that the wire fills.

use std::error::Error;
use std::future::Future;

use thiserror::Error;
use tokio::sync::mpsc;

use crate::config::endpoint::Site;
use crate::protocol::worker::{FromWorker, Joining, ToWorker};

/// An open connection.
#[derive(Debug)]
pub struct EndpointConnection {
    /// What tasks may do.
    pub site: Site,
    /// To the endpoint.
    pub say: mpsc::Sender<FromWorker>,
    /// From the endpoint; ends with the connection.
    pub hear: mpsc::Receiver<ToWorker>,
}

/// Why there is none.
#[derive(Debug, Error)]
pub enum EndpointLinkError {
    /// Nobody answers: it is tried again.
    #[error("the endpoint does not answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// The endpoint does not want this worker.
    #[error("the endpoint refuses this worker: {0}")]
    Refused(String),
}

/// Connects to the endpoint.
pub trait DialEndpoint: Send + Sync + 'static {
    /// Connects and introduces the worker.
    fn dial(&self, joining: Joining) -> impl Future<Output = Result<EndpointConnection, EndpointLinkError>> + Send;
}
