//! The daemon that an administrator runs: takes tasks from the controller and has workers compute them.
//!
//! Knows no wire format.
//!
//! ```text
//!   controller ◀─ link.rs ─▶ daemon.rs ◀─ inbox.rs ─▶ workers, commands of the administrator
//!                              │  ▲
//!                              ▼  │          scheduler.rs: what is to be done; ledger.rs: what is remembered
//!                            journal         supervisor.rs: the worker on this computer
//!                                            blocks: whose workers come from other computers
//! ```

pub mod blocks;
pub mod controller_link;
pub mod daemon;
pub mod inbox;
mod joining;
pub mod journal;
pub mod ledger;
mod scheduler;
pub mod state_dir;
pub mod status;
mod supervisor;
mod workers;

pub use joining::JoinRefusal;
pub use workers::ConnectionId;
