//! What controller, endpoint and worker say to each other: as values, whatever carries them. Pure: no clock, no IO.

pub mod session;
pub mod worker;
