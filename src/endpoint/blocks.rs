//! The blocks that an endpoint has or wants, while it runs: how each is, what is to become of it, why the last ones ended.
//! Says what is to be done and enters nothing in the ledger; it asks no provider.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::BlockId;
use crate::provider::{JobId, JobSight, JobState};
use crate::scaling::block::{BlockEvent, BlockLife, BlockStart, BlockWish, CancelReason, Sight};
use crate::scaling::breaker::{Breaker, BreakerEvent};
use crate::scaling::{
    BlockView, PoolLimits, PoolView, ScalingDecision, ScalingPlan, ScalingView, SpareBlocks, WaitingTasks, plan,
};
use crate::task::ending::Ending;
use crate::task::pool::PoolKey;
use crate::task::time::Moment;

/// Blocks that have ended and are shown.
const SHOWN: usize = 8;

/// What became of a block, as its provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlockSeen {
    /// Its job has a name.
    Named(JobId),
    /// It cannot be had, and why.
    Refused(String),
    /// Nobody can say whether it is a job.
    Unknown,
    /// A look shows it.
    Sight(JobSight),
    /// A look does not show it: it is no job.
    Missing,
}

/// What a provider is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlockOrder {
    /// To make it a job.
    Submit,
    /// To look how it is.
    Look {
        /// Its job, where that is known.
        job: Option<JobId>,
    },
    /// To have it ended.
    Cancel {
        /// Its job, where that is known.
        job: Option<JobId>,
    },
}

/// A block while the endpoint runs.
#[derive(Debug, Clone)]
struct BlockState {
    pool: PoolKey,
    life: BlockLife,
    job: Option<JobId>,
    /// That it is wanted is on the disk.
    recorded: Recorded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    No,
    Yes,
}

/// What its workers make of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct BlockUse {
    /// Workers that are connected.
    pub(super) workers: u32,
    /// Slots that they have.
    pub(super) slots: u32,
    /// Attempts that its workers have.
    pub(super) busy: u32,
    /// Since when there is none.
    pub(super) idle_since: Option<Moment>,
}

/// A block that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndedBlock {
    pub(super) block: BlockId,
    /// When.
    pub(super) moment: Moment,
    /// Why, for people.
    pub(super) reason: String,
    /// What was wanted of it then.
    wish: BlockWish,
}

/// All of them. There is one pool so far: that of tasks that ask for nothing.
#[derive(Debug)]
pub(super) struct Blocks {
    all: BTreeMap<BlockId, BlockState>,
    limits: PoolLimits,
    breaker: Breaker,
    spare: SpareBlocks,
    reachable: Moment,
    ended: VecDeque<EndedBlock>,
    /// Blocks that others start and end; their workers serve the pool of tasks that ask for nothing.
    guests: BTreeSet<BlockId>,
}

impl Blocks {
    /// None yet; workers can connect from a moment on.
    pub(super) fn new(limits: PoolLimits, reachable: Moment) -> Self {
        let (all, breaker, spare) = (BTreeMap::new(), Breaker::default(), SpareBlocks::default());
        Self { all, limits, breaker, spare, reachable, ended: VecDeque::new(), guests: BTreeSet::new() }
    }

    /// A block that the ledger has: it is looked for.
    pub(super) fn remember(&mut self, block: BlockId, pool: PoolKey, wanted: Moment, job: Option<JobId>) {
        let life = BlockLife::new(wanted);
        let life = if job.is_some() { life.after(BlockEvent::Submitted, wanted).unwrap_or(life) } else { life };
        // whether it was submitted nobody knows: it is looked for, and never submitted a second time
        let life = life.after(BlockEvent::LostSight, self.reachable).unwrap_or(life);
        self.all.insert(block, BlockState { pool, life, job, recorded: Recorded::Yes });
    }

    /// A block is wanted.
    pub(super) fn want(&mut self, block: BlockId, pool: PoolKey, now: Moment) {
        self.all.insert(block, BlockState { pool, life: BlockLife::new(now), job: None, recorded: Recorded::No });
    }

    /// That it is wanted is on the disk.
    pub(super) fn recorded(&mut self, block: BlockId) {
        if let Some(state) = self.all.get_mut(&block) {
            state.recorded = Recorded::Yes;
        }
    }

    /// The pool of a block that may be given tasks.
    pub(super) fn open_pool(&self, block: BlockId) -> Option<PoolKey> {
        let held = self.all.get(&block).filter(|state| state.life.stays()).map(|state| state.pool);
        held.or_else(|| self.guests.contains(&block).then_some(PoolKey::DEFAULT))
    }

    /// A worker has connected whose block others start and end.
    pub(super) fn add_guest(&mut self, block: BlockId) {
        self.guests.insert(block);
    }

    /// The last worker of such a block is gone.
    pub(super) fn remove_guest(&mut self, block: BlockId) {
        self.guests.remove(&block);
    }

    /// The life of a block that is held.
    pub(super) fn life(&self, block: BlockId) -> Option<&BlockLife> {
        self.all.get(&block).map(|state| &state.life)
    }

    /// Those that are held, with their jobs.
    pub(super) fn held(&self) -> impl Iterator<Item = (BlockId, &BlockLife, Option<&JobId>)> {
        self.all.iter().map(|(block, state)| (*block, &state.life, state.job.as_ref()))
    }

    /// The last that have ended.
    pub(super) fn ended(&self) -> impl Iterator<Item = &EndedBlock> {
        self.ended.iter()
    }

    /// Whether one that is there or comes is to stay and has not shown that it works, or more are there than have to be, or
    /// the breaker has tripped: then time alone may change what is to be done.
    pub(super) fn needs_time(&self) -> bool {
        let settled = |state: &BlockState| state.life.stays() && state.life.start == BlockStart::Connected;
        let least = usize::try_from(self.limits.min_blocks).unwrap_or(usize::MAX);
        self.breaker != Breaker::Closed || self.all.len() != least || !self.all.values().all(settled)
    }

    /// Why there is no worker, if one should be there and the last block did not end as it was asked to.
    pub(super) fn trouble(&self) -> Option<String> {
        let works = self.all.values().any(|state| state.life.start == BlockStart::Connected);
        let last = self.ended.front().filter(|last| !works && last.wish == BlockWish::Stay)?;
        let next = match self.breaker {
            Breaker::Closed => "",
            Breaker::Delayed { .. } => "; blocks are asked for again after a pause",
            Breaker::Stopped { .. } => "; no block is asked for until the endpoint is restarted",
        };
        Some(format!("block {} ended: {}; see the worker's log{next}", last.block, last.reason))
    }

    /// A worker of it has connected.
    pub(super) fn connected(&mut self, block: BlockId, now: Moment) {
        self.apply(block, BlockEvent::Connected, now);
        self.breaker = self.breaker.after(BreakerEvent::Connected, now);
    }

    /// It is to take nothing more; false where it is ending already.
    pub(super) fn drain(&mut self, block: BlockId, now: Moment) -> bool {
        self.apply(block, BlockEvent::Drain, now)
    }

    /// It is to be ended.
    pub(super) fn cancel(&mut self, block: BlockId, reason: CancelReason, now: Moment) {
        self.apply(block, BlockEvent::Cancel(reason), now);
    }

    /// What its provider says; returns the job's name if that is new, or the ending if it is over.
    pub(super) fn see(&mut self, block: BlockId, seen: BlockSeen, now: Moment) -> Option<SeenChange> {
        let state = self.all.get_mut(&block)?;
        match seen {
            BlockSeen::Named(job) => {
                let new = state.job.replace(job.clone()).is_none();
                self.apply(block, BlockEvent::Submitted, now);
                new.then_some(SeenChange::Named(job))
            }
            BlockSeen::Unknown => {
                self.apply(block, BlockEvent::LostSight, now);
                None
            }
            BlockSeen::Refused(reason) => self.end(block, Ending::Unknown, now, reason),
            BlockSeen::Missing if state.job.is_none() => {
                // the endpoint ended before it asked: nothing failed
                self.cancel(block, CancelReason::Asked, now);
                self.end(block, Ending::Cancelled, now, "it was never asked for".to_owned())
            }
            BlockSeen::Missing => self.end(block, Ending::Unknown, now, "it is not found".to_owned()),
            BlockSeen::Sight(JobSight { block: _, job, state: seen }) => {
                let named = state.job.is_none().then(|| SeenChange::Named(job.clone()));
                state.job = Some(job);
                if named.is_some() {
                    self.apply(block, BlockEvent::Submitted, now);
                }
                match seen {
                    JobState::Pending => self.apply(block, BlockEvent::Queued, now),
                    JobState::Running { ends } => self.apply(block, BlockEvent::Running { ends }, now),
                    JobState::Ended(ending) => return self.end(block, ending, now, format!("it {ending}")),
                };
                named
            }
        }
    }

    fn end(&mut self, block: BlockId, ending: Ending, now: Moment, reason: String) -> Option<SeenChange> {
        self.apply(block, BlockEvent::Ended(ending), now);
        let BlockState { life, .. } = self.all.remove(&block)?;
        if life.failed_to_start() {
            self.breaker = self.breaker.after(BreakerEvent::Failed { wanted: life.wanted }, now);
        }
        self.ended.push_front(EndedBlock { block, moment: now, reason, wish: life.wish });
        self.ended.truncate(SHOWN);
        Some(SeenChange::Ended(ending))
    }

    /// What to do now, given what waits for slots and what each block's workers have.
    pub(super) fn decide(
        &mut self,
        waiting: Vec<WaitingTasks>,
        used: impl Fn(BlockId) -> BlockUse,
        now: Moment,
    ) -> Vec<ScalingDecision> {
        let blocks = self.all.iter().map(|(block, state)| {
            let BlockUse { workers, slots, busy, idle_since } = used(*block);
            BlockView { id: *block, life: state.life, workers, slots, busy, idle_since }
        });
        let pool = PoolView {
            key: PoolKey::DEFAULT,
            limits: self.limits,
            waiting,
            blocks: blocks.collect(),
            allowance: self.breaker.allowance(now),
        };
        let view = ScalingView { reachable: self.reachable, max_blocks: self.limits.max_blocks, pools: vec![pool] };
        let ScalingPlan { decisions, spare, too_long: _ } = plan(&view, &self.spare, now);
        self.spare = spare;
        decisions
    }

    /// What the provider is to do for each block that is held.
    pub(super) fn orders(&self) -> BTreeMap<BlockId, BlockOrder> {
        let order = |state: &BlockState| {
            let job = state.job.clone();
            match (state.life.wish, &state.job, state.recorded) {
                (_, _, Recorded::No) => None,
                (BlockWish::Cancel(_), _, Recorded::Yes) => Some(BlockOrder::Cancel { job }),
                (BlockWish::Stay | BlockWish::Drain { .. }, None, Recorded::Yes) if state.is_seen() => {
                    Some(BlockOrder::Submit)
                }
                (BlockWish::Stay | BlockWish::Drain { .. }, _, Recorded::Yes) => Some(BlockOrder::Look { job }),
            }
        };
        self.all.iter().filter_map(|(block, state)| Some((*block, order(state)?))).collect()
    }

    /// Applies an event; false where it does not apply.
    fn apply(&mut self, block: BlockId, event: BlockEvent, now: Moment) -> bool {
        let Some(state) = self.all.get_mut(&block) else { return false };
        match state.life.after(event, now) {
            Ok(life) => {
                state.life = life;
                true
            }
            // what is seen twice, or too late, changes nothing
            Err(_) => false,
        }
    }
}

/// What of a sight belongs into the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SeenChange {
    /// Its job has a name.
    Named(JobId),
    /// It is over.
    Ended(Ending),
}

impl BlockState {
    /// Whether nobody lost sight of it: one of an earlier process may be a job.
    fn is_seen(&self) -> bool {
        self.life.sight == Sight::Seen
    }
}
