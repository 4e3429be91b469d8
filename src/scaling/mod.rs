//! How many blocks there should be: decisions as values, from what waits, what is there, and what the limits allow.
//!
//! Pure: it asks no scheduler, reads no clock and enters nothing in a ledger. [`plan`] is a function of what the endpoint
//! sees; who carries its decisions out tells it at the next tick what became of them.
//!
//! - [`block`]: the life of a block, a state machine.
//! - [`breaker`]: keeps an endpoint from asking again and again for blocks that do nothing but end.
//! - [`placement`]: which worker gets an attempt.
//! - `supply`: which of the waiting tasks the present blocks can take.
//!
//! The rules of a tick, in this order:
//!
//! 1. A block that runs and from which no worker has connected in time is cancelled. So is one that was drained and does
//!    not end.
//! 2. Waiting tasks are laid on the free slots of the blocks that stay, those that are on their way included; a task only
//!    on a block that lives long enough.
//! 3. A block that nothing is laid on and that runs nothing is spare. One that was spare all through its pool's idle time
//!    is drained, or cancelled where it has no worker; never so that fewer than `min_blocks` stay.
//! 4. For tasks that are left over, and for `min_blocks`, blocks are asked for, as far as `max_blocks`, the breaker and the
//!    other pools allow. None is asked for a task that would not fit into a new block; those tasks are named in the plan.
//!
//! That a spare block must stay spare for the idle time is what keeps demand that comes and goes from making blocks come
//! and go.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod block;
pub mod breaker;
pub mod placement;
mod supply;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use block::{BlockLife, BlockPhase, BlockStart, BlockWish, CancelReason, LifeLeft};
use breaker::Allowance;
use supply::{Laid, Offer, lay};

use crate::ids::BlockId;
use crate::task::pool::PoolKey;
use crate::task::time::Moment;

/// A drained block whose workers have nothing left ends within this time, or is cancelled. A worker ends within seconds;
/// a site's epilogue takes up to a minute or two.
const LEAVING: Duration = Duration::from_secs(180);

/// Blocks that are asked for in one tick, at most: each costs the site's scheduler a command, and it takes about a tenth
/// of a second. The next tick asks for more.
const MOST_ASKED: u32 = 256;

/// What an endpoint sees at a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingView {
    /// Since when this process of the endpoint can be reached by workers: those of an earlier one need some time to come
    /// back.
    pub reachable: Moment,
    /// The most blocks that it may hold, of all pools together.
    pub max_blocks: u32,
    /// Its pools: each that has a block, a task or a least number of blocks.
    pub pools: Vec<PoolView>,
}

/// A pool at a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Which.
    pub key: PoolKey,
    /// Its limits.
    pub limits: PoolLimits,
    /// Tasks that need a slot and have no worker, at the controller and here.
    pub waiting: Vec<WaitingTasks>,
    /// Its blocks. Those that have ended change nothing.
    pub blocks: Vec<BlockView>,
    /// What its breaker allows.
    pub allowance: Allowance,
}

/// Tasks that wait and take about equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingTasks {
    /// How many.
    pub tasks: u32,
    /// How long each takes; None = unknown, and thought to fit into every block.
    pub estimate: Option<Duration>,
}

/// The limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// So many blocks stay even when there is nothing to do.
    pub min_blocks: u32,
    /// The most blocks of the pool. Where it is less than `min_blocks`, it holds.
    pub max_blocks: u32,
    /// Nodes of a block; each has one worker.
    pub nodes_per_block: NonZeroU32,
    /// Slots that a worker is thought to have before it has said so.
    pub slots_per_node: NonZeroU32,
    /// Slots for each task.
    pub parallelism: Parallelism,
    /// A block is ended when it was spare for so long.
    pub idle: Duration,
    /// The workers of a block connect within so long after its start. Later they are not counted on, and a block without
    /// any is cancelled. A task is only thought to fit into a new block if it fits into what this leaves of the walltime.
    pub starting: Duration,
    /// The walltime of a new block; None = it has no end.
    pub walltime: Option<Duration>,
}

/// Slots that are wanted for each task that waits or runs, in thousandths: Parsl's `parallelism`. 1000 = a slot for every
/// task; 0 = as few blocks as keep the tasks going one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parallelism(u32);

/// A block at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockView {
    /// Which.
    pub id: BlockId,
    /// Its life.
    pub life: BlockLife,
    /// Its workers that are connected.
    pub workers: u32,
    /// Slots that these have.
    pub slots: u32,
    /// Attempts that its workers have, those of workers that are not connected for the moment included.
    pub busy: u32,
    /// Since when there is none; None while there is one, or if there never was a worker.
    pub idle_since: Option<Moment>,
}

/// What an endpoint is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingDecision {
    /// To want more blocks of a pool.
    Ask {
        /// Which pool.
        pool: PoolKey,
        /// How many.
        count: u32,
    },
    /// To tell a block's workers that they take nothing more, and end.
    Drain {
        /// Which.
        block: BlockId,
    },
    /// To have the site's scheduler end a block.
    Cancel {
        /// Which.
        block: BlockId,
        /// Why.
        reason: CancelReason,
    },
}

/// What becomes of a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScalingPlan {
    /// What to do: endings first.
    pub decisions: Vec<ScalingDecision>,
    /// To be given to the next tick.
    pub spare: SpareBlocks,
    /// Tasks that no block can take: they are longer than a new block lives, and no present one lives longer.
    pub too_long: Vec<(PoolKey, u32)>,
}

/// Since when blocks are spare. An endpoint that starts begins with none: each block then has its idle time again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpareBlocks(BTreeMap<BlockId, Moment>);

/// What a pool wants beyond what it has.
#[derive(Debug, Clone, Copy)]
struct Want {
    pool: PoolKey,
    /// Blocks that it holds, and those that it is given now.
    held: u32,
    /// Blocks for tasks that no present block has a slot for.
    demand: u32,
    /// Blocks for `min_blocks`.
    least: u32,
    /// The most that it may be given.
    most: u32,
    given: u32,
}

impl Parallelism {
    /// A slot for every task.
    pub const FULL: Self = Self(1000);

    /// From 0 to 1000; None for other numbers.
    pub fn new(thousandths: u32) -> Option<Self> {
        (thousandths <= Self::FULL.0).then_some(Self(thousandths))
    }

    /// Slots that so many tasks want.
    fn slots(self, tasks: u32) -> u32 {
        let thousandths = u64::from(tasks) * u64::from(self.0);
        u32::try_from(thousandths.div_ceil(u64::from(Self::FULL.0))).unwrap_or(tasks)
    }
}

impl PoolLimits {
    /// Slots that a block is thought to have while its workers are on their way.
    pub fn slots_per_block(&self) -> u32 {
        self.nodes_per_block.saturating_mul(self.slots_per_node).get()
    }

    /// What a new block surely has left when its workers have connected.
    pub fn new_life(&self) -> LifeLeft {
        self.walltime.map_or(LifeLeft::Endless, |walltime| LifeLeft::For(walltime.saturating_sub(self.starting)))
    }
}

/// A tick: when it is, and since when workers can connect.
#[derive(Debug, Clone, Copy)]
struct Tick {
    now: Moment,
    reachable: Moment,
}

impl PoolView {
    /// Slots that its tasks want beyond those that they have.
    fn missing_slots(&self, laid: Laid) -> u32 {
        // drained blocks compute what they have; it needs no other slot
        let computing = self.blocks.iter().filter(|block| block.life.is_held()).map(|block| block.busy);
        let served = computing.fold(laid.tasks, u32::saturating_add);
        let wanted = self.limits.parallelism.slots(served.saturating_add(laid.left_over));
        // where nothing that is there would ever take them, one slot is wanted, whatever the parallelism
        wanted.saturating_sub(served).max(u32::from(laid.homeless > 0))
    }
}

impl BlockView {
    /// Whether its workers may still be on their way.
    fn is_starting(&self, limits: &PoolLimits, tick: Tick) -> bool {
        match self.life.phase {
            BlockPhase::Wanted | BlockPhase::Submitted | BlockPhase::Pending => true,
            BlockPhase::Running { .. } => tick.now < self.life.since.max(tick.reachable).after(limits.starting),
            BlockPhase::Ended(_) => false,
        }
    }

    /// Whether it is not known yet whether it works.
    fn is_unproven(&self) -> bool {
        self.life.is_held() && self.life.start == BlockStart::Silent && self.workers == 0
    }

    /// Whether it was drained long enough ago and has nothing left to do.
    fn is_stuck(&self, now: Moment) -> bool {
        match self.life.wish {
            BlockWish::Drain { since } => {
                let free = self.idle_since.map_or(since, |idle| idle.max(since));
                self.life.is_held() && self.busy == 0 && free.after(LEAVING) <= now
            }
            BlockWish::Stay | BlockWish::Cancel(_) => false,
        }
    }

    /// What it offers to tasks that wait.
    fn offer(&self, limits: &PoolLimits, tick: Tick) -> Offer {
        // a worker may have less at first: its GPUs are tested before they take tasks
        let coming = if self.is_starting(limits, tick) { limits.slots_per_block() } else { 0 };
        let slots = self.slots.max(coming);
        let left = self.life.left(tick.now).unwrap_or_else(|| limits.new_life());
        let by_phase = match self.life.phase {
            BlockPhase::Running { .. } => 2,
            BlockPhase::Pending => 3,
            BlockPhase::Submitted => 4,
            BlockPhase::Wanted => 5,
            BlockPhase::Ended(_) => 6,
        };
        let readiness = match (self.busy, self.workers) {
            (1.., _) => 0,
            (0, 1..) => 1,
            (0, 0) => by_phase,
        };
        Offer { block: self.id, readiness, left, slots, free: slots.saturating_sub(self.busy), laid: 0 }
    }
}

/// What to do at a moment.
pub fn plan(view: &ScalingView, spare: &SpareBlocks, now: Moment) -> ScalingPlan {
    let tick = Tick { now, reachable: view.reachable };
    let mut plan = ScalingPlan::default();
    let wants: Vec<Want> = view.pools.iter().map(|pool| plan_pool(pool, spare, tick, &mut plan)).collect();
    let held = wants.iter().fold(0, |sum: u32, want| sum.saturating_add(want.held));
    let room = view.max_blocks.saturating_sub(held).min(MOST_ASKED);
    plan.decisions.extend(share(wants, room));
    plan
}

/// Ends what is to end in a pool; returns what it wants.
fn plan_pool(pool: &PoolView, spare: &SpareBlocks, tick: Tick, plan: &mut ScalingPlan) -> Want {
    let limits = &pool.limits;
    let mut staying: Vec<&BlockView> = Vec::new();
    for block in &pool.blocks {
        let id = block.id;
        if block.is_stuck(tick.now) {
            plan.decisions.push(ScalingDecision::Cancel { block: id, reason: CancelReason::Stuck });
        } else if block.life.stays() && block.is_unproven() && !block.is_starting(limits, tick) {
            plan.decisions.push(ScalingDecision::Cancel { block: id, reason: CancelReason::Silent });
        } else if block.life.stays() {
            staying.push(block);
        }
    }
    let mut offers: Vec<Offer> = staying.iter().map(|block| block.offer(limits, tick)).collect();
    let laid = lay(&pool.waiting, &mut offers, limits.new_life());
    if laid.too_long > 0 {
        plan.too_long.push((pool.key, laid.too_long));
    }
    let ended = end_spare(&staying, &offers, limits, spare, tick.now, plan);
    let least = limits.min_blocks.saturating_sub(count(&staying, |_| true).saturating_sub(ended));
    let demand = pool.missing_slots(laid).div_ceil(limits.slots_per_block());
    let all: Vec<&BlockView> = pool.blocks.iter().collect();
    let held = count(&all, |block| block.life.is_held());
    let allowed = match pool.allowance {
        Allowance::Any => u32::MAX,
        Allowance::Probe => 1_u32.saturating_sub(count(&all, BlockView::is_unproven)),
        Allowance::Nothing => 0,
    };
    let room = limits.max_blocks.saturating_sub(held).min(allowed);
    Want { pool: pool.key, held, demand, least, most: demand.max(least).min(room), given: 0 }
}

fn count(blocks: &[&BlockView], which: impl Fn(&BlockView) -> bool) -> u32 {
    u32::try_from(blocks.iter().filter(|block| which(block)).count()).unwrap_or(u32::MAX)
}

/// Ends blocks that have been spare for the idle time, those first that are least far; returns how many.
fn end_spare(
    staying: &[&BlockView],
    offers: &[Offer],
    limits: &PoolLimits,
    spare: &SpareBlocks,
    now: Moment,
    plan: &mut ScalingPlan,
) -> u32 {
    let mut due: Vec<(&Offer, &BlockView)> = Vec::new();
    for (block, offer) in staying.iter().zip(offers) {
        if block.busy > 0 || offer.laid > 0 {
            continue;
        }
        let since = spare.0.get(&block.id).copied().unwrap_or(now);
        // it may have computed something since the last tick
        let since = block.idle_since.map_or(since, |idle| idle.max(since));
        plan.spare.0.insert(block.id, since);
        if since.after(limits.idle) <= now {
            due.push((offer, *block));
        }
    }
    due.sort_by_key(|(offer, block)| (std::cmp::Reverse(offer.readiness), offer.left, block.id));
    let most = staying.len().saturating_sub(usize::try_from(limits.min_blocks).unwrap_or(usize::MAX));
    let mut ended = 0;
    for (_, block) in due.into_iter().take(most) {
        let id = block.id;
        plan.decisions.push(if block.workers > 0 {
            ScalingDecision::Drain { block: id }
        } else {
            ScalingDecision::Cancel { block: id, reason: CancelReason::Spare }
        });
        ended += 1;
    }
    ended
}

/// Gives pools what they want, one block after the other.
fn share(mut wants: Vec<Want>, room: u32) -> Vec<ScalingDecision> {
    for _ in 0..room {
        let open = wants.iter_mut().filter(|want| want.given < want.most);
        let Some(next) = open.min_by_key(|want| want.turn()) else { break };
        next.given += 1;
    }
    let given = wants.into_iter().filter(|want| want.given > 0);
    given.map(|want| ScalingDecision::Ask { pool: want.pool, count: want.given }).collect()
}

impl Want {
    /// Pools come in this order: those with tasks and no block, so that no pool starves, not even by the least numbers of
    /// others; those below their least number; those that have fewest.
    fn turn(&self) -> (bool, bool, u32, PoolKey) {
        let has = self.held.saturating_add(self.given);
        let starves = has == 0 && self.demand > 0;
        (!starves, self.given >= self.least, has, self.pool)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
