//! The controller: accepts tasks, leases them to endpoints, keeps what becomes of them. It knows no wire format and
//! opens no data file.
//!
//! ```text
//!   flows ─▶ tasks.rs ──▶ store ◀── session.rs ◀─▶ endpoints (one session each)
//!                │          │          ▲
//!                └─▶ bus ───┼─▶ hints ─┘ nudges: there is work, stop this
//!                           ▼     │
//!                       outbox.rs └▶ watch.rs: what happened, read once for all watchers
//!            upkeep.rs: leases that ran out, deadlines, retention
//! ```
//!
//! The store decides, remembers and tells the time; the bus only says that something is to be looked at. A nudge that is
//! lost costs time (until the next heartbeat), never a task.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod access;
mod acks;
pub mod bus;
mod directory;
mod error;
mod hints;
mod outbox;
mod policy;
pub mod session;
mod standing;
mod tasks;
pub mod token;
mod upkeep;
mod watch;

pub use acks::Acks;
pub use error::ControllerError;
pub use policy::Policy;
pub use tasks::{Known, Receipt, Submission, SubmissionTask};
pub use watch::{Watched, Watcher};

use std::sync::Arc;

use access::{Caller, Denied};
use bus::Bus;
use directory::Directory;
use hints::Hints;
use token::Secret;

use crate::ids::TokenId;
use crate::store::{EventId, Store, StoreError};
use crate::task::time::Moment;

/// A controller over a store. Everything it does for others is a method; each takes the [`Caller`] and checks what
/// that one may.
#[derive(Debug)]
pub struct Controller<S> {
    store: S,
    policy: Policy,
    directory: Directory,
    bus: Arc<dyn Bus>,
    hints: Arc<Hints>,
    /// Where the outbox ended when the controller began.
    outbox_start: EventId,
}

impl<S: Store> Controller<S> {
    /// Begins with what the store remembers.
    ///
    /// # Errors
    /// The store fails.
    pub async fn start(store: S, bus: Arc<dyn Bus>, policy: Policy) -> Result<Self, StoreError> {
        let directory = Directory::new(store.endpoints().await?);
        let hints = Arc::new(Hints::default());
        // what is told from now on is heard
        bus.attach(Arc::clone(&hints) as Arc<dyn bus::Listener>);
        let outbox_start = store.newest_event().await?;
        Ok(Self { store, policy, directory, bus, hints, outbox_start })
    }

    /// Ends with its store, which is given back.
    pub fn into_store(self) -> S {
        self.store
    }

    /// The newest event of the store.
    ///
    /// # Errors
    /// The store fails.
    pub async fn newest_event(&self) -> Result<EventId, StoreError> {
        self.store.newest_event().await
    }

    /// What holds for all.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The moment, by the store's clock, by which all its moments are.
    pub fn now(&self) -> Moment {
        self.store.now()
    }

    /// The holder of a token.
    ///
    /// # Errors
    /// It is not valid, or the store fails.
    pub async fn caller(&self, token: &str) -> Result<Caller, ControllerError> {
        // a text that is no token gets the answer of one that is unknown
        let secret: Secret = token.parse().map_err(|_| Denied::Unknown)?;
        let record = self.store.token(secret.digest()).await?;
        Ok(Caller::new(record, self.store.now())?)
    }

    /// Ends a token; false when there is none.
    ///
    /// # Errors
    /// The store fails.
    pub async fn revoke_token(&self, token: TokenId, now: Moment) -> Result<bool, StoreError> {
        self.store.revoke_token(token, now).await
    }

    /// When a lease on a task ends that begins now.
    fn lease_end(&self) -> Moment {
        self.store.now().after(self.policy.lease)
    }

    /// When a lease on an endpoint's name ends that begins now.
    fn name_end(&self) -> Moment {
        self.store.now().after(self.policy.name)
    }
}

#[cfg(test)]
mod tests;
