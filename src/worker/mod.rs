//! The work itself, as one job a dataset, and the processes that it runs in: one an attempt of a task.
//!
//! Knows engines and datasets; no command line, no terminal, no wire format.

pub mod assignment;
pub mod execute;
pub mod executor;
pub mod fault;
pub mod job;
pub mod memory;
pub mod names;
pub mod reporter;
pub mod settings;
pub mod watchdog;
