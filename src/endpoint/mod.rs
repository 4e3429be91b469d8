//! The daemon that an administrator runs: takes tasks from the controller and has workers compute them.
//!
//! Knows no wire format.
//!
//! ```text
//!   controller ◀─ link.rs ─▶ daemon.rs ◀─ gate.rs ─▶ workers, commands of the administrator
//!                              │  ▲
//!                              ▼  │          desk.rs: what is to be done; book.rs: what is remembered
//!                            journal         keeper.rs: the worker on this computer
//! ```

pub mod book;
mod crew;
pub mod daemon;
mod desk;
pub mod gate;
pub mod home;
pub mod journal;
mod keeper;
pub mod link;
pub mod status;

pub use crew::Connection;
