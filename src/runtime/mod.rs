//! What every role runs on: the clock, new ids, leases, tasks with names, shutdown, signals, what the computer has. Knows
//! no role.

pub mod clock;
pub mod files;
pub mod ids;
pub mod lease;
pub mod lock;
pub mod memory;
pub mod network;
pub mod node;
pub mod process;
pub mod secret;
pub mod tasks;
