//! Why the controller does not do what it is asked.

use thiserror::Error;

use super::access::Denied;
use crate::ids::{ActionId, EndpointId, SessionId};
use crate::store::{EndpointSession, StoreError};
use crate::task::correlate::SameResult;

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
    #[error("{} endpoints called {name} are online; give the id of one: {}", ids.len(), listed(ids))]
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
    /// A task would replace another's result.
    #[error(transparent)]
    SameResult(#[from] SameResult),
    /// Another's endpoint has the name.
    #[error(
        "endpoint {name} of group {group} is {owner}'s; take another name, or have that endpoint forgotten (`speckled endpoint \
         forget`)"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The group.
        group: String,
        /// Whose it is.
        owner: String,
    },
    /// The endpoint is not to be forgotten.
    #[error("endpoint {name} is online on {host}; stop it first")]
    Online {
        /// Its name.
        name: String,
        /// Where it runs.
        host: String,
    },
    /// It has work.
    #[error(
        "endpoint {name} has {tasks} tasks that have not ended; cancel them first, or start it so that it can end them"
    )]
    HasTasks {
        /// Its name.
        name: String,
        /// So many.
        tasks: u64,
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
