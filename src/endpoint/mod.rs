//! The daemon that an administrator runs: takes tasks from the controller and has workers compute them.
//!
//! Knows no wire format.
//!
//! ```text
//!   controller ◀─ controller_link ─▶ daemon.rs ◀─ inbox.rs ─▶ workers, commands of the administrator
//!                                     │  ▲  ▲
//!                                     ▼  │  └─ fleet.rs ─▶ provider: brings blocks to what is wanted
//!                                  journal   scheduler: what is to be done; blocks.rs: how each block is;
//!                                            ledger.rs: what is remembered
//!                                            block_files: by which workers come from other computers
//! ```

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod block_files;
mod blocks;
pub mod controller_link;
pub mod daemon;
mod fleet;
pub mod inbox;
mod joining;
pub mod journal;
pub mod ledger;
mod scheduler;
pub mod state_dir;
pub mod status;
mod workers;

pub use joining::JoinRefusal;
pub use workers::ConnectionId;
