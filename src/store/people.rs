//! Endpoints, their sessions, and tokens, as they are remembered.

use serde::{Deserialize, Serialize};

use crate::ids::{EndpointId, SessionId, TokenId};
use crate::task::names::{EndpointName, Group, Subject};
use crate::task::time::Moment;

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
    /// When it took its name in its group.
    pub registered: Moment,
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
    /// Somebody else's endpoint of the group has the name.
    NameTaken {
        /// Whose it is.
        owner: Subject,
    },
}

/// What became of an endpoint that was to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointForgotten {
    /// It is.
    Done,
    /// There is none.
    Absent,
    /// A process holds its name.
    Online {
        /// Where it runs.
        host: String,
    },
    /// So many of its tasks have not ended.
    HasTasks(u64),
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
