//! The ledger of attempts, workers and blocks that an endpoint has, and what an entry makes of it. Pure: it writes nothing down;
//! the journal keeps the entries, and the same entries in the same order make the same ledger.
//!
//! ```text
//!        Taken            Handed           Started
//!   ─ ─────────▶ Waiting ─────────▶ Handed ─────────▶ Running
//!                   │ Reported        │ Reported         │ Reported
//!                   └─────────────────┴──────────────────┴─────▶ Reported
//!
//!   any of them ── Settled, or Taken of a newer attempt of the same task ──▶ ─
//! ```
//!
//! A task has one attempt in the ledger, the newest. What does not apply is refused by name and changes nothing, so that
//! an entry which is said twice, or too late, does no harm: the first report of an attempt stays.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AttemptId, AttemptNumber, BlockId, SessionId, TaskId, WorkerId};
use crate::protocol::session::{Leased, Reported};
use crate::provider::JobId;
use crate::runtime::process::ProcessName;
use crate::task::ending::Ending;
use crate::task::pool::PoolKey;
use crate::task::result::{EarlierResult, NamedResult};
use crate::task::time::Moment;
use names::Names;

/// Own processes that are remembered: more than start in a row before a controller answers.
pub const MOST_SESSIONS: usize = 16;

/// What happens to attempts at an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The controller leased it.
    Taken(Leased),
    /// It goes to a worker; written before the worker is told, so that no attempt is ever given to two.
    Handed {
        /// Which.
        attempt: AttemptId,
        /// To whom.
        worker: WorkerId,
    },
    /// The worker started it.
    Started(AttemptId),
    /// It is over.
    Reported(Reported),
    /// The controller has recorded their reports or does not want them any more: they may be forgotten.
    Settled(Vec<AttemptId>),
    /// A process of this endpoint started, and will ask for the name; written before it asks.
    SessionStarted(OwnSession),
    /// The controller gave it the name: the processes before it have lost it.
    SessionOpened(SessionId),
    /// A block is wanted; on the disk before anything is asked of a provider.
    BlockWanted {
        /// Which.
        block: BlockId,
        /// Of which pool.
        pool: PoolKey,
        /// Since when.
        wanted: Moment,
    },
    /// Its job has a name.
    BlockNamed {
        /// Which.
        block: BlockId,
        /// The name.
        job: JobId,
    },
    /// It is over, or never became a job.
    BlockEnded {
        /// Which.
        block: BlockId,
        /// How.
        ending: Ending,
    },
    /// A worker is there that was not, or says something else of itself than before.
    Joined(Worker),
    /// A worker has ended, and will not come back.
    WorkerEnded {
        /// Which.
        worker: WorkerId,
        /// How.
        ending: Ending,
    },
    /// A result is to be published under a name; on the disk before it has that.
    ResultNamed {
        /// Whose.
        task: TaskId,
        /// The name.
        result: NamedResult,
    },
}

/// A process of this endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSession {
    /// Its session.
    pub session: SessionId,
    /// On which computer.
    pub host: String,
    /// What tells this computer from others of its name.
    pub computer: String,
    /// Which start of the computer it was.
    pub boot: String,
}

/// A block that is not known to be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBlock {
    /// Its pool.
    pub pool: PoolKey,
    /// Since when it is wanted.
    pub wanted: Moment,
    /// Its job, once that has a name.
    pub job: Option<JobId>,
}

/// A worker that may have attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Which.
    pub id: WorkerId,
    /// Part of which block.
    pub block: BlockId,
    /// Where it runs.
    pub host: String,
    /// Its process, where that is on the endpoint's own node.
    pub process: Option<ProcessName>,
}

/// An attempt in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// As it was leased.
    pub leased: Leased,
    /// How far it is.
    pub stage: AttemptStage,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptStage {
    /// It waits for a slot.
    Waiting,
    /// A worker has it, or will be told.
    Handed(WorkerId),
    /// A worker computes it.
    Running(WorkerId),
    /// It is over, and the controller has not recorded that yet.
    Reported(Reported),
}

/// Why an entry changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// It was taken before.
    #[error("attempt {attempt} is in the ledger already")]
    Known {
        /// Which.
        attempt: AttemptId,
    },
    /// A newer attempt of the task is in the ledger.
    #[error("attempt {attempt} was superseded by number {newest}")]
    Superseded {
        /// Which.
        attempt: AttemptId,
        /// The newer one.
        newest: AttemptNumber,
    },
    /// It was settled, or never taken.
    #[error("attempt {attempt} is not in the ledger")]
    Unknown {
        /// Which.
        attempt: AttemptId,
    },
    /// A worker has it.
    #[error("attempt {attempt} was handed to worker {worker}")]
    Handed {
        /// Which.
        attempt: AttemptId,
        /// Who has it.
        worker: WorkerId,
    },
    /// No worker has it that could begin.
    #[error("attempt {attempt} started although no worker has it")]
    NotHanded {
        /// Which.
        attempt: AttemptId,
    },
    /// It started before.
    #[error("attempt {attempt} has started already")]
    Running {
        /// Which.
        attempt: AttemptId,
    },
    /// It was wanted before.
    #[error("block {block} is in the ledger already")]
    KnownBlock {
        /// Which.
        block: BlockId,
    },
    /// It is over, or was never wanted.
    #[error("block {block} is not in the ledger")]
    UnknownBlock {
        /// Which.
        block: BlockId,
    },
    /// Its job has a name.
    #[error("block {block} has a job already")]
    NamedBlock {
        /// Which.
        block: BlockId,
    },
    /// It is over; its first report stays.
    #[error("attempt {attempt} has been reported already")]
    Reported {
        /// Which.
        attempt: AttemptId,
    },
}

/// The attempts, workers and blocks that an endpoint has.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    tasks: BTreeMap<TaskId, LedgerRow>,
    blocks: BTreeMap<BlockId, HeldBlock>,
    workers: BTreeMap<WorkerId, Worker>,
    /// In the order of their start; the controller may think of any of them that it is the endpoint.
    sessions: Vec<OwnSession>,
    names: Names,
    queues: Queues,
    arrivals: u64,
}

/// A task's line in the ledger.
#[derive(Debug, Clone)]
struct LedgerRow {
    arrival: u64,
    held: Held,
}

/// Tasks by arrival.
type Queue = BTreeMap<u64, TaskId>;

/// Each task is in one of them, by its stage.
#[derive(Debug, Clone, Default)]
struct Queues {
    waiting: Queue,
    placed: Queue,
    over: Queue,
}

impl Ledger {
    /// Enters what happened. Returns the attempts that left the ledger by it: what a worker still does for those is to
    /// be stopped.
    ///
    /// # Errors
    /// The entry does not apply; the ledger is as before.
    pub fn apply(&mut self, entry: Entry) -> Result<Vec<Held>, LedgerError> {
        match entry {
            Entry::Taken(leased) => self.take(leased).map(Vec::from_iter),
            Entry::Handed { attempt, worker } => {
                self.advance(attempt, |stage| stage.handed(attempt, worker))?;
                Ok(Vec::new())
            }
            Entry::Started(attempt) => {
                self.advance(attempt, |stage| stage.started(attempt))?;
                Ok(Vec::new())
            }
            Entry::Reported(reported) => {
                let attempt = reported.attempt;
                self.advance(attempt, |stage| stage.reported(reported))?;
                Ok(Vec::new())
            }
            Entry::Settled(attempts) => Ok(attempts.into_iter().filter_map(|attempt| self.forget(attempt)).collect()),
            Entry::SessionStarted(own) => {
                self.sessions.push(own);
                // of more the oldest has lost the name long ago
                self.sessions.drain(..self.sessions.len().saturating_sub(MOST_SESSIONS));
                Ok(Vec::new())
            }
            Entry::SessionOpened(session) => {
                let newest = self.sessions.iter().position(|own| own.session == session);
                self.sessions.drain(..newest.unwrap_or(0));
                Ok(Vec::new())
            }
            Entry::BlockWanted { block, pool, wanted } => {
                if self.blocks.contains_key(&block) {
                    return Err(LedgerError::KnownBlock { block });
                }
                self.blocks.insert(block, HeldBlock { pool, wanted, job: None });
                Ok(Vec::new())
            }
            Entry::BlockNamed { block, job } => {
                let held = self.blocks.get_mut(&block).ok_or(LedgerError::UnknownBlock { block })?;
                if held.job.is_some() {
                    return Err(LedgerError::NamedBlock { block });
                }
                held.job = Some(job);
                Ok(Vec::new())
            }
            Entry::BlockEnded { block, ending: _ } => {
                self.blocks.remove(&block).ok_or(LedgerError::UnknownBlock { block })?;
                Ok(Vec::new())
            }
            Entry::Joined(worker) => {
                self.workers.insert(worker.id, worker);
                Ok(Vec::new())
            }
            Entry::WorkerEnded { worker, ending: _ } => {
                self.workers.remove(&worker);
                Ok(Vec::new())
            }
            Entry::ResultNamed { task, result } => {
                self.names.add(task, result);
                Ok(Vec::new())
            }
        }
    }

    /// The attempt, if the ledger has it.
    pub fn get(&self, attempt: AttemptId) -> Option<&Held> {
        self.line(attempt).ok().map(|line| &line.held)
    }

    /// Attempts that wait for a slot, in the order of their arrival.
    pub fn waiting(&self) -> impl Iterator<Item = &Leased> {
        self.queued(&self.queues.waiting).map(|held| &held.leased)
    }

    /// Attempts that workers have, whether they began or not, in the order of their arrival.
    pub fn placed(&self) -> impl Iterator<Item = (&Held, WorkerId)> {
        self.queued(&self.queues.placed).filter_map(|held| Some((held, held.stage.worker()?)))
    }

    /// Reports that the controller has not recorded yet, in the order of the attempts' arrival.
    pub fn reports(&self) -> impl Iterator<Item = &Reported> {
        self.queued(&self.queues.over).filter_map(|held| held.stage.report())
    }

    /// How many they are.
    pub fn unrecorded(&self) -> usize {
        self.queues.over.len()
    }

    /// All attempts: a heartbeat names them, and so their leases go on until their reports are recorded.
    pub fn attempts(&self) -> impl Iterator<Item = AttemptId> {
        self.tasks.values().map(|line| line.held.leased.attempt)
    }

    /// How many attempts there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Processes of this endpoint that may have its name at the controller.
    pub fn sessions(&self) -> &[OwnSession] {
        &self.sessions
    }

    /// Blocks that are not known to be over.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockId, &HeldBlock)> {
        self.blocks.iter().map(|(block, held)| (*block, held))
    }

    /// The block, if it is not known to be over.
    pub fn block(&self, block: BlockId) -> Option<&HeldBlock> {
        self.blocks.get(&block)
    }

    /// Workers that have joined and may come back.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// The worker, if it has joined.
    pub fn worker(&self, worker: WorkerId) -> Option<&Worker> {
        self.workers.get(&worker)
    }

    /// What attempts of a task have named, unless that was long ago.
    pub fn earlier(&self, task: TaskId) -> Option<&EarlierResult> {
        self.names.get(task)
    }

    /// The shortest entries that make this ledger.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let sessions = self.sessions.iter().cloned().map(Entry::SessionStarted);
        let blocks = self.blocks.iter().flat_map(|(block, held)| {
            let HeldBlock { pool, wanted, job } = held.clone();
            let wanted = Entry::BlockWanted { block: *block, pool, wanted };
            let named = job.map(|job| Entry::BlockNamed { block: *block, job });
            [Some(wanted), named].into_iter().flatten()
        });
        let workers = self.workers.values().cloned().map(Entry::Joined);
        let attempts = self.in_order().into_iter().flat_map(|held| {
            let attempt = held.leased.attempt;
            let handed = held.stage.worker().map(|worker| Entry::Handed { attempt, worker });
            let last = match &held.stage {
                AttemptStage::Waiting | AttemptStage::Handed(_) => None,
                AttemptStage::Running(_) => Some(Entry::Started(attempt)),
                AttemptStage::Reported(reported) => Some(Entry::Reported(reported.clone())),
            };
            [Some(Entry::Taken(held.leased.clone())), handed, last].into_iter().flatten()
        });
        sessions.chain(blocks).chain(workers).chain(self.names.entries()).chain(attempts)
    }

    fn take(&mut self, leased: Leased) -> Result<Option<Held>, LedgerError> {
        let attempt = leased.attempt;
        let older = match self.tasks.get(&attempt.task).map(|line| line.held.leased.attempt) {
            Some(known) if known.number > attempt.number => {
                return Err(LedgerError::Superseded { attempt, newest: known.number });
            }
            Some(known) if known.number == attempt.number => return Err(LedgerError::Known { attempt }),
            Some(known) => self.forget(known),
            None => None,
        };
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.queues.waiting.insert(arrival, attempt.task);
        self.tasks.insert(attempt.task, LedgerRow { arrival, held: Held { leased, stage: AttemptStage::Waiting } });
        Ok(older)
    }

    fn advance<F>(&mut self, attempt: AttemptId, next: F) -> Result<(), LedgerError>
    where
        F: FnOnce(&AttemptStage) -> Result<AttemptStage, LedgerError>,
    {
        let line = self.tasks.get_mut(&attempt.task).ok_or(LedgerError::Unknown { attempt })?;
        line.expect_attempt(attempt)?;
        let stage = next(&line.held.stage)?;
        self.queues.of(&line.held.stage).remove(&line.arrival);
        self.queues.of(&stage).insert(line.arrival, attempt.task);
        line.held.stage = stage;
        Ok(())
    }

    fn forget(&mut self, attempt: AttemptId) -> Option<Held> {
        self.line(attempt).ok()?;
        let LedgerRow { arrival, held } = self.tasks.remove(&attempt.task)?;
        self.queues.of(&held.stage).remove(&arrival);
        Some(held)
    }

    fn line(&self, attempt: AttemptId) -> Result<&LedgerRow, LedgerError> {
        let line = self.tasks.get(&attempt.task).ok_or(LedgerError::Unknown { attempt })?;
        line.expect_attempt(attempt)?;
        Ok(line)
    }

    fn queued<'b>(&'b self, queue: &'b Queue) -> impl Iterator<Item = &'b Held> {
        queue.values().filter_map(|task| self.tasks.get(task)).map(|line| &line.held)
    }

    fn in_order(&self) -> Vec<&Held> {
        let mut lines: Vec<&LedgerRow> = self.tasks.values().collect();
        lines.sort_unstable_by_key(|line| line.arrival);
        lines.into_iter().map(|line| &line.held).collect()
    }
}

impl LedgerRow {
    /// That it is this attempt's, and not of another of the task.
    fn expect_attempt(&self, attempt: AttemptId) -> Result<(), LedgerError> {
        let newest = self.held.leased.attempt.number;
        match newest.cmp(&attempt.number) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(LedgerError::Superseded { attempt, newest }),
            Ordering::Less => Err(LedgerError::Unknown { attempt }),
        }
    }
}

impl Queues {
    fn of(&mut self, stage: &AttemptStage) -> &mut Queue {
        match stage {
            AttemptStage::Waiting => &mut self.waiting,
            AttemptStage::Handed(_) | AttemptStage::Running(_) => &mut self.placed,
            AttemptStage::Reported(_) => &mut self.over,
        }
    }
}

/// The same workers, and the same attempts at the same stages in the same order; how many there were before does not count.
impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.in_order() == other.in_order()
            && self.blocks == other.blocks
            && self.workers == other.workers
            && self.sessions == other.sessions
            && self.names == other.names
    }
}

impl AttemptStage {
    /// Who has it.
    pub fn worker(&self) -> Option<WorkerId> {
        match self {
            Self::Handed(worker) | Self::Running(worker) => Some(*worker),
            Self::Waiting | Self::Reported(_) => None,
        }
    }

    /// How it ended.
    pub fn report(&self) -> Option<&Reported> {
        match self {
            Self::Reported(reported) => Some(reported),
            Self::Waiting | Self::Handed(_) | Self::Running(_) => None,
        }
    }

    fn handed(&self, attempt: AttemptId, worker: WorkerId) -> Result<Self, LedgerError> {
        match self {
            Self::Waiting => Ok(Self::Handed(worker)),
            // also when it is lost: a worker out of sight may still compute, and two must not
            Self::Handed(worker) | Self::Running(worker) => Err(LedgerError::Handed { attempt, worker: *worker }),
            Self::Reported(_) => Err(LedgerError::Reported { attempt }),
        }
    }

    fn started(&self, attempt: AttemptId) -> Result<Self, LedgerError> {
        match self {
            Self::Waiting => Err(LedgerError::NotHanded { attempt }),
            Self::Handed(worker) => Ok(Self::Running(*worker)),
            Self::Running(_) => Err(LedgerError::Running { attempt }),
            Self::Reported(_) => Err(LedgerError::Reported { attempt }),
        }
    }

    fn reported(&self, reported: Reported) -> Result<Self, LedgerError> {
        match self {
            Self::Waiting | Self::Handed(_) | Self::Running(_) => Ok(Self::Reported(reported)),
            Self::Reported(_) => Err(LedgerError::Reported { attempt: reported.attempt }),
        }
    }
}

mod names;
#[cfg(test)]
pub(super) mod tests;
