//! Configuration: as people write it (raw), and as the program uses it (checked). Reads files, starts nothing.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod endpoint;
pub mod mounts;
pub mod roots;
pub mod size;
pub mod worker_link;
