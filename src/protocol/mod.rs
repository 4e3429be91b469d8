//! What controller, endpoint and worker say to each other: as values, whatever carries them. Pure: no clock, no IO.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod session;
pub mod worker;
