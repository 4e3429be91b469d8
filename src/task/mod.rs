//! Tasks: what is to be done, what has happened to it, and what comes next. Pure: no clock, no IO.

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
pub mod template;
pub mod time;
