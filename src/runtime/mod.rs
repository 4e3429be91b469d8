//! What every role runs on: the clock, new ids, tasks with names, shutdown, signals. Knows no role.

pub mod clock;
pub mod ids;
pub mod lock;
pub mod tasks;
