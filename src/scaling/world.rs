//! A site that is played, for tests: blocks queue, start, compute tasks and end, as [`plan`] decides.
//!
//! It keeps what must never break at each tick: the most blocks, and that no attempt runs beyond the end of its block.

use std::collections::BTreeMap;

use super::block::{BlockEvent, LifeLeft};
use super::breaker::{Breaker, BreakerEvent};
use super::placement::{PlacementCandidate, place};
use super::tests::{at, block_id, number, pool, seconds, waiting};
use super::*;
use crate::ids::WorkerId;
use crate::task::ending::{Ending, Exit};

/// Seconds between two ticks.
const TICK: u64 = 10;

/// Seconds from a block's start to its worker's first words.
const START: u64 = 40;

/// How a block of the site fares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    /// Seconds in the site's queue.
    pub(super) queueing: u64,
    /// Slots of its worker.
    pub(super) slots: u32,
    /// Whether its worker ever connects; it ends soon after its start if not.
    pub(super) works: bool,
}

#[derive(Debug, Clone)]
struct Task {
    pool: u8,
    length: u64,
    arrives: u64,
    /// Where it runs, and since when.
    runs: Option<(BlockId, u64)>,
    done: bool,
}

#[derive(Debug)]
struct Block {
    pool: u8,
    nature: Nature,
    view: BlockView,
    /// When its job started.
    started: Option<u64>,
}

/// An endpoint with two pools, and its site.
#[derive(Debug)]
pub(super) struct World {
    now: u64,
    max_blocks: u32,
    limits: PoolLimits,
    natures: Vec<Nature>,
    blocks: Vec<Block>,
    tasks: Vec<Task>,
    breakers: BTreeMap<u8, Breaker>,
    spare: SpareBlocks,
    /// Each tick of so many shows no block; 0 = all show them.
    pub(super) blind_every: u64,
    /// Blocks that were asked for.
    pub(super) asked: u32,
    /// Blocks that were drained or cancelled.
    pub(super) ended_by_plan: u32,
    /// Whether the end of a block ever cut a task.
    pub(super) ever_cut: bool,
}

impl World {
    pub(super) fn new(max_blocks: u32, limits: PoolLimits, natures: Vec<Nature>) -> Self {
        let breakers = [1, 2].map(|of| (of, Breaker::default())).into();
        Self {
            now: 0,
            max_blocks,
            limits,
            natures,
            blocks: Vec::new(),
            tasks: Vec::new(),
            breakers,
            spare: SpareBlocks::default(),
            blind_every: 0,
            asked: 0,
            ended_by_plan: 0,
            ever_cut: false,
        }
    }

    /// A task comes at a second.
    pub(super) fn task(&mut self, pool: u8, length: u64, arrives: u64) {
        self.tasks.push(Task { pool, length, arrives, runs: None, done: false });
    }

    pub(super) fn unfinished(&self) -> usize {
        self.tasks.iter().filter(|task| !task.done).count()
    }

    /// How many blocks of each pool stay.
    pub(super) fn staying(&self) -> BTreeMap<PoolKey, u32> {
        let mut counts = BTreeMap::from([(pool(1), 0), (pool(2), 0)]);
        for block in self.blocks.iter().filter(|block| block.view.life.stays()) {
            *counts.entry(pool(block.pool)).or_default() += 1;
        }
        counts
    }

    pub(super) fn run_until(&mut self, second: u64) {
        while self.now < second {
            self.finish_tasks();
            self.move_blocks();
            self.place_tasks();
            self.decide();
            self.now += TICK;
        }
    }

    fn finish_tasks(&mut self) {
        for task in self.tasks.iter_mut().filter(|task| !task.done) {
            task.done = task.runs.is_some_and(|(_, since)| since + task.length <= self.now);
        }
        for block in &mut self.blocks {
            let runs_here = |task: &&Task| !task.done && task.runs.is_some_and(|(id, _)| id == block.view.id);
            let busy = number(self.tasks.iter().filter(runs_here).count());
            if busy == 0 && block.view.busy > 0 {
                block.view.idle_since = Some(at(self.now));
            }
            block.view.busy = busy;
        }
    }

    /// What happens at the site since the last tick, as a look shows it.
    fn move_blocks(&mut self) {
        let is_blind = self.blind_every > 0 && (self.now / TICK).is_multiple_of(self.blind_every);
        for block in &mut self.blocks {
            if block.view.life.is_held() {
                for event in block.happens(self.now, is_blind, &self.limits) {
                    happen(&mut block.view.life, event, self.now);
                }
                let breaker = self.breakers.entry(block.pool).or_default();
                if block.view.life.failed_to_start() {
                    *breaker = breaker.after(BreakerEvent::Failed { wanted: block.view.life.wanted }, at(self.now));
                }
                if block.view.life.start == BlockStart::Connected && block.view.workers == 0 {
                    *breaker = breaker.after(BreakerEvent::Connected, at(self.now));
                    (block.view.workers, block.view.slots) = (1, block.nature.slots);
                    block.view.idle_since = Some(at(self.now));
                }
            }
            if !block.view.life.is_held() {
                for task in self.tasks.iter_mut().filter(|task| !task.done) {
                    if task.runs.is_some_and(|(id, _)| id == block.view.id) {
                        task.runs = None;
                        self.ever_cut = true;
                    }
                }
                (block.view.workers, block.view.slots, block.view.busy) = (0, 0, 0);
            }
        }
    }

    fn place_tasks(&mut self) {
        for task in self.tasks.iter_mut().filter(|task| !task.done && task.runs.is_none() && task.arrives <= self.now) {
            let candidates =
                self.blocks.iter().filter(|block| block.view.life.stays()).map(|block| PlacementCandidate {
                    worker: WorkerId::new(block.view.id.uuid()),
                    pool: pool(block.pool),
                    left: block.view.life.left(at(self.now)).unwrap_or(LifeLeft::For(Duration::ZERO)),
                    room: block.view.slots.saturating_sub(block.view.busy),
                });
            // tasks end at ticks
            let estimate = seconds(task.length.next_multiple_of(TICK));
            let Some(worker) = place(pool(task.pool), Some(estimate), candidates) else { continue };
            let block = self.blocks.iter_mut().find(|block| block.view.id.uuid() == worker.uuid());
            let block = block.expect("one of the candidates was chosen");
            task.runs = Some((block.view.id, self.now));
            (block.view.busy, block.view.idle_since) = (block.view.busy + 1, None);
        }
    }

    fn decide(&mut self) {
        let pools = [1, 2].map(|of| {
            let waits = |task: &&Task| task.pool == of && !task.done && task.runs.is_none() && task.arrives <= self.now;
            let lengths = self.tasks.iter().filter(waits).map(|task| waiting(1, task.length.next_multiple_of(TICK)));
            PoolView {
                key: pool(of),
                limits: self.limits,
                waiting: lengths.collect(),
                blocks: self.blocks.iter().filter(|block| block.pool == of).map(|block| block.view).collect(),
                allowance: self.breakers[&of].allowance(at(self.now)),
            }
        });
        let view = ScalingView { reachable: at(0), max_blocks: self.max_blocks, pools: pools.into() };
        let plan = plan(&view, &self.spare, at(self.now));
        self.spare = plan.spare;
        for decision in plan.decisions {
            match decision {
                ScalingDecision::Ask { pool: key, count } => {
                    let of = if key == pool(1) { 1 } else { 2 };
                    for _ in 0..count {
                        self.ask(of);
                    }
                }
                ScalingDecision::Drain { block } => self.end(block, BlockEvent::Drain),
                ScalingDecision::Cancel { block, reason } => self.end(block, BlockEvent::Cancel(reason)),
            }
        }
        let held = number(self.blocks.iter().filter(|block| block.view.life.is_held()).count());
        assert!(held <= self.max_blocks, "{held} blocks at second {}", self.now);
    }

    fn ask(&mut self, of: u8) {
        let (index, nature) = (self.blocks.len() as u128, self.natures[self.blocks.len() % self.natures.len()]);
        let life = BlockLife::new(at(self.now));
        let view = BlockView { id: block_id(index + 1), life, workers: 0, slots: 0, busy: 0, idle_since: None };
        self.blocks.push(Block { pool: of, nature, view, started: None });
        self.asked += 1;
    }

    fn end(&mut self, id: BlockId, event: BlockEvent) {
        let block = self.blocks.iter_mut().find(|block| block.view.id == id).expect("it is one of ours");
        block.view.life = block.view.life.after(event, at(self.now)).expect("a decision applies");
        self.ended_by_plan += 1;
    }
}

impl Block {
    /// What a look shows, and what its worker does.
    fn happens(&mut self, now: u64, is_blind: bool, limits: &PoolLimits) -> Vec<BlockEvent> {
        let wanted = self.view.life.wanted.millis() / 1000;
        if self.started.is_none() && wanted + self.nature.queueing <= now {
            self.started = Some(now);
        }
        let walltime = limits.walltime.map(|walltime| walltime.as_secs());
        let over = match self.view.life.wish {
            BlockWish::Cancel(_) => Some(Ending::Cancelled),
            BlockWish::Drain { .. } if self.view.busy == 0 => Some(Ending::Itself(Exit::Code(0))),
            BlockWish::Drain { .. } | BlockWish::Stay => self.started.and_then(|started| {
                let ran_out = walltime.is_some_and(|walltime| started + walltime <= now);
                let failed = !self.nature.works && started + START <= now;
                let failed = failed.then_some(Ending::Itself(Exit::Code(1)));
                if ran_out { Some(Ending::Walltime) } else { failed }
            }),
        };
        let mut events = vec![BlockEvent::Submitted];
        match (is_blind, over, self.started) {
            (true, _, _) => events = vec![BlockEvent::LostSight],
            (false, Some(ending), _) => events.push(BlockEvent::Ended(ending)),
            (false, None, Some(started)) => {
                events.push(BlockEvent::Running { ends: walltime.map(|walltime| at(started + walltime)) });
            }
            (false, None, None) => events.push(BlockEvent::Queued),
        }
        let speaks = self.started.is_some_and(|started| started + START <= now) && self.nature.works;
        if speaks && over.is_none() {
            events.push(BlockEvent::Connected);
        }
        events
    }
}

/// What does not apply changes nothing: a look shows again what is known.
fn happen(life: &mut BlockLife, event: BlockEvent, now: u64) {
    if let Ok(next) = life.after(event, at(now)) {
        *life = next;
    }
}
