//! One job from its parameters to its result file, and whose fault it was when there is none. Used by `corr` and by
//! executors; knows no service, no lease and no process but its own.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod engines;
pub mod fault;
pub mod job;
pub mod memory;
pub mod names;
pub mod settings;
