//! Why the controller does not do what it is asked.

use thiserror::Error;

use super::access::Denied;
use crate::ids::{ActionId, EndpointId, SessionId};
use crate::store::{EndpointSession, StoreError};

/// Why the controller does not do what it is asked. The caller reads it.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is none, or none that the caller may know of.
    #[error("there is no endpoint {0}; `speckled endpoint list` shows those that you may use")]
    NoEndpoint(String),
    /// Several have the name.
    #[error("{} endpoints are called {name}; give the id of one: {}", ids.len(), listed(ids))]
    SeveralEndpoints {
        /// The name.
        name: String,
        /// Their ids.
        ids: Vec<EndpointId>,
    },
    /// The endpoint is somebody else's.
    #[error("endpoint {name} is registered by {owner}; take another id in the endpoint's configuration")]
    ForeignEndpoint {
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// Another process is the endpoint.
    #[error(
        "endpoint {name} runs on {} already (session {}); stop it there, or wait until its lease ends",
        held.host, held.id
    )]
    EndpointHeld {
        /// Its name.
        name: String,
        /// That process.
        held: EndpointSession,
    },
    /// The session is not the endpoint's newest.
    #[error("session {session} does not hold endpoint {endpoint}; register again")]
    NoSession {
        /// The endpoint.
        endpoint: EndpointId,
        /// The session.
        session: SessionId,
    },
    /// Too much at once.
    #[error("{found} {what} in one request; at most {most} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// So many.
        found: usize,
        /// The most.
        most: usize,
    },
    /// Nothing was submitted.
    #[error("the submission has no task")]
    NoTasks,
    /// The same request id for two submissions of different work.
    #[error("request id {request} was used for other work before (action {action}); take a new one")]
    RequestConflict {
        /// The request id.
        request: String,
        /// The action of that work.
        action: ActionId,
    },
    /// The action is somebody else's.
    #[error("action {0} belongs to somebody else; leave the action out to make a new one")]
    ForeignAction(ActionId),
    /// The store cannot.
    #[error("the controller's store failed")]
    Store(#[from] StoreError),
}

fn listed(ids: &[EndpointId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
