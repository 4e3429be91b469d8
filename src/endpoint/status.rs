//! How an endpoint is, as a document: what `speckled endpoint status` shows and the controller is told. Says what it
//! sees; guesses nothing.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::config::worker_link::LinkHost;
use crate::ids::{BlockId, EndpointId, SessionId, WorkerId};
use crate::protocol::worker::GpuFacts;
use crate::task::names::EndpointName;

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
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
    /// Why the worker of this computer does not run, if it should.
    pub trouble: Option<String>,
    /// Where workers of other computers connect; None where they cannot, and in what the controller is told.
    #[serde(default)]
    pub link: Option<LinkStatus>,
}

/// Where workers of other computers connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The address that it listens at.
    pub listen: SocketAddr,
    /// Names and addresses that workers try, with its port.
    pub hosts: Vec<LinkHost>,
    /// Blocks that are open.
    pub blocks: Vec<BlockId>,
    /// Connections of workers.
    pub workers: usize,
    /// Connections that have shown no secret yet.
    pub waiting: usize,
    /// Connections that ended without having shown one, since the endpoint started.
    pub refused: u64,
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
