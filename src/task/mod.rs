//! Tasks: what is to be done, what has happened to it, and what comes next. Pure: no clock, no IO.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod action;
pub mod bins;
pub mod correlate;
pub mod ending;
pub mod estimate;
pub mod failure;
pub mod life;
pub mod names;
pub mod pool;
pub mod result;
pub mod retry;
pub mod spec;
pub mod stem;
pub mod template;
pub mod time;
