//! Configuration: as people write it (raw), and as the program uses it (checked). Reads files, starts nothing.

pub mod endpoint;
pub mod mounts;
pub mod roots;
pub mod size;
pub mod worker_link;
