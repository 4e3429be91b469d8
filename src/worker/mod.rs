//! The work itself, as one job a dataset: what the command line runs now and a service's executors later.
//!
//! Knows engines and datasets; no command line, no terminal, no wire format.

pub mod job;
pub mod memory;
pub mod names;
pub mod settings;
