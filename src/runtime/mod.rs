//! What every role runs on: the clock, new ids, leases, tasks with names, shutdown, signals, what the computer has. Knows
//! no role.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod clock;
pub mod contain;
pub mod files;
pub mod ids;
pub mod lease;
pub mod lock;
pub mod memory;
pub mod network;
pub mod node;
pub mod pause;
pub mod process;
pub mod sandbox;
pub mod secret;
pub mod tasks;
