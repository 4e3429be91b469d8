//! What readers see of the GPUs: a value that never changes, and how old it is.
//!
//! Values only. `registry.rs` makes them, `watch.rs` publishes them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::health::{Era, Reason, State, Transition, Wanted};
use super::identity::{Extent, GpuIdentity, GpuUuid};
use super::sample::Sample;

/// All GPUs at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// How many looks have ended.
    pub round: u64,
    /// When the last of them began, since the watch began. States of health may be newer.
    #[serde(rename = "taken_s", serialize_with = "super::as_seconds")]
    pub taken: Duration,
    /// Whether there is a driver at all.
    pub driver: Driver,
    /// GPUs and MIG instances, each GPU before its instances. One that was seen once stays.
    pub gpus: Vec<Gpu>,
    /// GPUs that are there but never told their names.
    pub unreadable: Vec<Unreadable>,
    /// Why the last look could list no GPUs, though there is a driver: there may be more than are known.
    pub unlisted: Option<String>,
}

impl Snapshot {
    /// A GPU or MIG instance.
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.identity.uuid == *uuid)
    }
}

/// A GPU or MIG instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// What it is, as last read.
    pub identity: GpuIdentity,
    /// What it did, when it was last read.
    pub sample: Sample,
    /// When that was, since the watch began.
    #[serde(rename = "sampled_s", serialize_with = "super::as_seconds")]
    pub sampled: Duration,
    /// Whether its Xids are heard at once.
    pub xids: Xids,
    /// The last Xid that was heard.
    pub last_xid: Option<u64>,
    /// Whether it is to be trusted; of an instance, whether its GPU is.
    pub health: Health,
}

/// The health of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether it is to be trusted.
    pub state: State,
    /// Why not; empty only if healthy.
    pub reasons: Vec<Reason>,
    /// What the owner of the GPU is to do.
    pub wanted: Wanted,
}

/// Whether the driver tells the Xids of a GPU when they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Xids {
    /// Yes.
    Heard,
    /// No: the GPU does not support it, or it could not be asked for. What an Xid does is seen by the next sample.
    Unheard,
}

/// A GPU that does not tell what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// NVML's index.
    pub index: u32,
    /// What is wrong.
    pub why: String,
}

/// NVIDIA's driver on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// It was not asked yet, or has not answered yet.
    Starting,
    /// It cannot be used; this node has no GPUs for us.
    Absent {
        /// In what way.
        absence: Absence,
        /// What was tried and what came of it.
        why: String,
    },
    /// It answers.
    Running {
        /// Its version; empty when it does not say.
        version: String,
    },
}

/// Why there is no driver. The text is a sentence with what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// The library is not installed.
    #[error("no NVIDIA driver: its library is not installed here (in a container: start it with the GPUs)")]
    NoLibrary,
    /// The library is there, the kernel's module is not loaded.
    #[error("no NVIDIA driver: the kernel's module is not loaded")]
    NotLoaded,
    /// The library and the kernel's module are of different versions.
    #[error("the NVIDIA driver was replaced while it ran: restart the node, or load its module again")]
    Mismatch,
    /// This user may not use it.
    #[error("no permission to use the NVIDIA driver: look at the rights of /dev/nvidia*")]
    NoPermission,
    /// It is there and does not work.
    #[error("the NVIDIA driver does not work")]
    Failed,
}

/// A snapshot and its age at the moment of asking.
#[derive(Debug, Clone)]
pub struct View {
    /// What was seen.
    pub snapshot: Arc<Snapshot>,
    /// How long ago.
    pub age: Duration,
    /// How old it may be: more, and the driver hangs.
    pub good_for: Duration,
}

/// What a reader may think of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The state of its health.
    Known(State),
    /// MIG is on: its instances take tasks, it does not.
    Divided,
    /// What is known is too old: nobody knows.
    Stale,
    /// There is no such GPU.
    Unlisted,
}

impl View {
    /// What to think of a GPU or MIG instance now.
    pub fn standing(&self, uuid: &GpuUuid) -> Standing {
        let Some(gpu) = self.snapshot.gpu(uuid) else { return Standing::Unlisted };
        match (gpu.health.state, &gpu.identity.extent) {
            // age makes nothing better
            (State::Quarantined, _) => Standing::Known(State::Quarantined),
            _ if self.is_stale() => Standing::Stale,
            (State::Healthy | State::Suspect, Extent::Divided) => Standing::Divided,
            (state, Extent::Whole | Extent::Instance { .. }) => Standing::Known(state),
        }
    }

    /// Whether a task may begin on it now.
    pub fn may_take_task(&self, uuid: &GpuUuid) -> bool {
        match self.standing(uuid) {
            Standing::Known(state) => state == State::Healthy,
            Standing::Divided | Standing::Stale | Standing::Unlisted => false,
        }
    }

    /// Whether what is known is too old to go by.
    pub fn is_stale(&self) -> bool {
        self.age > self.good_for
    }
}

/// What the owner of the GPUs is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A GPU's state of health.
    Health {
        /// Which; a fault of it is one of all its instances.
        gpu: GpuUuid,
        /// From what to what, and why.
        transition: Transition,
    },
    /// A self-test is wanted; its outcome goes to `GpuWatch::self_tested`.
    SelfTest {
        /// Of which GPU.
        gpu: GpuUuid,
        /// For which trouble.
        era: Era,
    },
    /// The driver came or went.
    Driver(Driver),
}
