//! The controller: accepts tasks, leases them to endpoints, keeps what becomes of them. It knows no wire format and
//! opens no data file.
//!
//! ```text
//!   flows ─▶ tasks.rs ──▶ store ◀── session.rs ◀─▶ endpoints (one session each)
//!                 │                     ▲
//!                 └──▶ bus.rs ─────┘    nudges: there is work, stop this
//!                          │
//!                          └──▶ watchers     these tasks changed
//!            upkeep.rs: leases that ran out, deadlines, retention
//! ```
//!
//! The store decides and remembers; the bus only says that something is to be looked at. A nudge that is lost
//! costs time (until the next heartbeat), never a task.

pub mod access;
mod acks;
mod bus;
mod directory;
mod error;
mod policy;
pub mod session;
mod tasks;
pub mod token;
mod upkeep;
mod watch;

pub use acks::Acks;
pub use error::ControllerError;
pub use policy::Policy;
pub use tasks::{Known, Receipt, Submission, SubmissionTask};
pub use watch::{Watched, Watcher};

use std::time::Duration;

use access::{Caller, Denied};
use bus::Bus;
use directory::Directory;
use token::Secret;

use crate::ids::TokenId;
use crate::runtime::clock::Clock;
use crate::store::{Store, StoreError};
use crate::task::time::Moment;

/// A clock that is behind by so much was set back.
const WRONG: Duration = Duration::from_secs(2);

/// A controller over a store. Everything it does for others is a method; each takes the [`Caller`] and checks what
/// that one may.
#[derive(Debug)]
pub struct Controller<S> {
    store: S,
    clock: Clock,
    policy: Policy,
    directory: Directory,
    bus: Bus,
}

impl<S: Store> Controller<S> {
    /// Begins with what the store remembers.
    ///
    /// # Errors
    /// The store fails.
    pub async fn start(store: S, clock: Clock, policy: Policy) -> Result<Self, StoreError> {
        let directory = Directory::new(store.endpoints().await?);
        let newest = store.newest().await?;
        let behind = newest.since(clock.now());
        if behind >= WRONG {
            let behind_s = behind.as_secs();
            tracing::warn!(
                behind_s,
                "the computer's clock is behind what the store remembers: time goes on from there"
            );
        }
        let clock = clock.not_before(newest);
        Ok(Self { store, clock, policy, directory, bus: Bus::default() })
    }

    /// What holds for all.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Its clock, by which all its moments are.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The holder of a token.
    ///
    /// # Errors
    /// It is not valid, or the store fails.
    pub async fn caller(&self, token: &str) -> Result<Caller, ControllerError> {
        // a text that is no token gets the answer of one that is unknown
        let secret: Secret = token.parse().map_err(|_| Denied::Unknown)?;
        let record = self.store.token(secret.digest()).await?;
        Ok(Caller::new(record, self.clock.now())?)
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
        self.clock.now().after(self.policy.lease)
    }

    /// When a lease on an endpoint's name ends that begins now.
    fn name_end(&self) -> Moment {
        self.clock.now().after(self.policy.name)
    }
}

#[cfg(test)]
mod tests;
