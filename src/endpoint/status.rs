//! How an endpoint is, as a document: what `speckled endpoint status` shows and the controller is told. Says what it
//! sees; guesses nothing.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::config::worker_link::LinkHost;
use crate::ids::{BlockId, EndpointId, SessionId, WorkerId};
use crate::protocol::worker::GpuFacts;
use crate::task::names::EndpointName;
use crate::task::time::Moment;

/// Bytes of it that a controller takes (`controller::session`).
const LARGEST: usize = 1 << 20;

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
    /// More workers, of which there was no room to tell.
    #[serde(default)]
    pub workers_left_out: usize,
    /// Why no block works, if one should.
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

impl EndpointStatus {
    /// As JSON, no longer than a controller takes, however many workers there are: without what GPUs are like if it must
    /// be, then without the last workers, whose number it tells.
    pub fn text(mut self) -> String {
        // plain fields are always JSON
        let json = |status: &Self| serde_json::to_string(status).unwrap_or_default();
        let mut text = json(&self);
        if text.len() > LARGEST {
            self.workers.iter_mut().for_each(|worker| worker.gpus.clear());
            text = json(&self);
        }
        while text.len() > LARGEST && !self.workers.is_empty() {
            let kept = self.workers.len() * 3 / 4;
            self.workers_left_out += self.workers.len() - kept;
            self.workers.truncate(kept);
            text = json(&self);
        }
        text
    }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::protocol::worker::GpuState;

    fn status(workers: usize, gpus: usize) -> EndpointStatus {
        let gpu = GpuFacts {
            uuid: Uuid::nil().to_string(),
            name: "NVIDIA A100-SXM4-40GB".into(),
            pci: "00000000:07:00.0".into(),
            state: GpuState::Healthy,
            reasons: Vec::new(),
            utilization_percent: Some(100),
            memory_used: Some(1 << 34),
            memory_total: Some(1 << 35),
            temperature_c: Some(60),
            power_mw: Some(400_000),
        };
        let worker = WorkerStatus {
            worker: WorkerId::new(Uuid::nil()),
            block: BlockId::new(Uuid::nil()),
            host: "nid001".into(),
            pid: None,
            connected: true,
            since_s: Some(1),
            slots: (1, 1),
            login_slots: (0, 0),
            gpus: vec![gpu; gpus],
            trouble: None,
        };
        EndpointStatus {
            endpoint: EndpointId::new(Uuid::nil()),
            name: "polaris".parse().expect("a name"),
            version: String::new(),
            host: "login1".into(),
            pid: 1,
            session: SessionId::new(Uuid::nil()),
            uptime_s: 1,
            service: ServiceStatus::Open,
            controller: ControllerStatus {
                url: String::new(),
                connected: true,
                program: None,
                error: None,
                lease_left_s: None,
            },
            journal: JournalStatus { error: None, unwritten: 0, syncs: 0 },
            tasks: TaskCounts::default(),
            blocks: Vec::new(),
            ended_blocks: Vec::new(),
            workers: vec![worker; workers],
            workers_left_out: 0,
            trouble: None,
            link: None,
        }
    }

    fn told(workers: usize, gpus: usize) -> EndpointStatus {
        let text = status(workers, gpus).text();
        assert!(text.len() <= LARGEST, "{workers} workers with {gpus} GPUs: {} bytes", text.len());
        serde_json::from_str(&text).expect("our own")
    }

    #[test]
    fn no_number_of_workers_is_too_much_for_a_controller() {
        assert_eq!(told(100, 8), status(100, 8), "all is told");
        let many = told(2000, 8);
        assert!(many.workers.len() == 2000 && many.workers.iter().all(|worker| worker.gpus.is_empty()));
        let more = told(20_000, 8);
        assert!(more.workers.len() > 2000, "{}", more.workers.len());
        assert_eq!(more.workers.len() + more.workers_left_out, 20_000);
    }
}
