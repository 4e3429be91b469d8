//! How an endpoint is, as a document: what `speckled endpoint status` shows and the controller is told. Says what it
//! sees; guesses nothing.

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::ids::{BlockId, EndpointId, SessionId, WorkerId};
use crate::protocol::worker::GpuFacts;
use crate::task::names::EndpointName;
use crate::task::time::Moment;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Which.
    pub endpoint: EndpointId,
    /// Its name.
    pub name: EndpointName,
    /// The program's version.
    pub version: String,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// That process as the controller knows it.
    pub session: SessionId,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether it takes tasks.
    pub service: ServiceStatus,
    /// Its controller.
    pub controller: ControllerStatus,
    /// Its journal.
    pub journal: JournalStatus,
    /// Its tasks.
    pub tasks: TaskCounts,
    /// Its blocks.
    #[serde(default)]
    pub blocks: Vec<BlockStatus>,
    /// The last blocks that ended, the latest first.
    #[serde(default)]
    pub ended_blocks: Vec<EndedBlockStatus>,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
    /// Why no block works, if one should.
    pub trouble: Option<String>,
}

/// Whether an endpoint takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// It does.
    Open,
    /// It finishes what it has.
    Drains,
    /// It gives back what it has.
    Leaves,
}

/// The session with the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// Where it is.
    pub url: String,
    /// Whether a session is open.
    pub connected: bool,
    /// Its program.
    pub program: Option<String>,
    /// Why no session is open.
    pub error: Option<String>,
    /// Seconds that attempts may run on without another word from it.
    pub lease_left_s: Option<u64>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Why it cannot be written.
    pub error: Option<String>,
    /// Entries that wait for that.
    pub unwritten: usize,
    /// How often it has waited for the disk.
    pub syncs: u64,
}

/// How many tasks an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskCounts {
    /// That wait for a slot.
    pub waiting: usize,
    /// That workers have.
    pub placed: usize,
    /// That are over, and not recorded by the controller yet.
    pub unreported: usize,
}

impl TaskCounts {
    /// Those of a ledger.
    pub fn of(ledger: &Ledger) -> Self {
        let (waiting, placed) = (ledger.waiting().count(), ledger.placed().count());
        Self { waiting, placed, unreported: ledger.reports().count() }
    }
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStatus {
    /// Which.
    pub block: BlockId,
    /// How it is: wanted, submitted, pending, running.
    pub state: String,
    /// Since when, milliseconds since 1970-01-01 UTC by the endpoint's clock.
    pub since: Moment,
    /// Whether the provider said so at the last look.
    pub seen: bool,
    /// Whether it is to end.
    pub ending: bool,
    /// When it reaches its walltime; None = it does not run, or has no end.
    pub ends: Option<Moment>,
}

/// A block that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedBlockStatus {
    /// Which.
    pub block: BlockId,
    /// When, milliseconds since 1970-01-01 UTC by the endpoint's clock.
    pub ended: Moment,
    /// How, for people.
    pub reason: String,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Which.
    pub worker: WorkerId,
    /// Of which block.
    pub block: BlockId,
    /// Where it runs.
    pub host: String,
    /// Its process, if that is on the endpoint's own computer.
    pub pid: Option<u32>,
    /// Whether it is connected.
    pub connected: bool,
    /// Seconds since that changed.
    pub since_s: Option<u64>,
    /// Attempts that compute: at most, and now.
    pub slots: (u32, u32),
    /// Attempts that do not: at most, and now.
    pub login_slots: (u32, u32),
    /// Its GPUs.
    #[serde(default)]
    pub gpus: Vec<GpuFacts>,
    /// Why it cannot compute.
    #[serde(default)]
    pub trouble: Option<String>,
}
