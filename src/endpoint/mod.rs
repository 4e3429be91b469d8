//! The daemon that an administrator runs: takes tasks from the controller and has workers compute them.
//!
//! Knows no wire format.
//!
//! ```text
//!   controller ◀─ link.rs ─▶ daemon.rs ◀─ inbox.rs ─▶ workers, commands of the administrator
//!                              │  ▲
//!                              ▼  │          scheduler.rs: what is to be done; ledger.rs: what is remembered
//!                            journal         supervisor.rs: the worker on this computer
//! ```

pub mod controller_link;
pub mod daemon;
pub mod inbox;
pub mod journal;
pub mod ledger;
mod scheduler;
pub mod state_dir;
pub mod status;
mod supervisor;
mod workers;

pub use workers::ConnectionId;
