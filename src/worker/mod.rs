//! The worker: has attempts of tasks from its endpoint, and runs each in a process of its own; and the work itself, as
//! one job a dataset.
//!
//! Knows engines and datasets; no command line, no terminal, no wire format.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod assignment;
pub mod confinement;
mod core;
pub mod daemon;
pub mod endpoint_link;
pub mod execute;
pub mod executor;
pub mod gpus;
pub mod naming;
pub mod paths;
pub mod reporter;
