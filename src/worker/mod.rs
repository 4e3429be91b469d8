//! The worker: has attempts of tasks from its endpoint, and runs each in a process of its own; and the work itself, as
//! one job a dataset.
//!
//! Knows engines and datasets; no command line, no terminal, no wire format.

pub mod assignment;
pub mod daemon;
pub mod engines;
pub mod execute;
pub mod executor;
pub mod fault;
pub mod gpus;
pub mod job;
pub mod link;
pub mod memory;
pub mod names;
pub mod paths;
pub mod reporter;
pub mod settings;
pub mod watchdog;
