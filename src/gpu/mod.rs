//! The GPUs of a node: which there are, what they do, and whether they may be trusted with a task. It watches them
//! through NVIDIA's management library (NVML).
//!
//! It computes nothing on a GPU: self-tests are asked for and run elsewhere. It knows no task and no worker. A node
//! without a driver is a state and not an error.
//!
//! - `GpuWatch` samples in threads of its own and publishes a `Snapshot`; readers never wait for the driver.
//! - `health` decides, as a pure state machine, who is suspect and who is quarantined.
//! - `visible` says which GPUs a process may use, `lock` keeps two processes from using the same.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::time::Duration;

use serde::Serializer;

#[cfg(test)]
pub(crate) mod fake;
mod free;
pub mod health;
mod identity;
pub mod lock;
mod nvml;
mod registry;
mod sample;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod visible;
mod watch;

pub use free::free_memory;
pub use identity::{Capability, Extent, GpuIdentity, GpuUuid, UuidError, is_same_gpu};
pub use sample::{
    EccErrors, GpuProcess, Memory, RemappedRows, RetiredPages, Sample, Throttle, Unanswered, Utilization,
    energy_between,
};
pub use snapshot::{Absence, Change, Driver, Gpu, Health, Snapshot, Standing, Unreadable, View, Xids};
pub use watch::{GpuWatch, INTERVAL, LIBRARY, OVERDUE, REOPEN, Stopped, WatchError, WatchSettings};

/// For `serde`: a time since the watch began, in seconds.
fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
