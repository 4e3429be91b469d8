//! One job from its parameters to its result file, and whose fault it was when there is none. Used by `corr` and by
//! executors; knows no service, no lease and no process but its own.

pub mod engines;
pub mod fault;
pub mod job;
pub mod memory;
pub mod names;
pub mod settings;
