//! What every role runs on: the clock, new ids, leases, tasks with names, shutdown, signals. Knows no role.

pub mod clock;
pub mod files;
pub mod ids;
pub mod lease;
pub mod lock;
pub mod memory;
pub mod process;
pub mod tasks;
