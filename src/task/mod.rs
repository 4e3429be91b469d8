//! Tasks: what is to be done, what has happened to it, and what comes next. Pure: no clock, no IO.

pub mod bins;
pub mod correlate;
pub mod ending;
pub mod failure;
pub mod life;
pub mod names;
pub mod result;
pub mod retry;
pub mod spec;
pub mod template;
pub mod time;
