//! Where workers come from. Knows processes and batch schedulers; no task and no wire.

pub mod local;
