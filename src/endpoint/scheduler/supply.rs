//! The scheduler's blocks: how many there should be, which worker may have which task, what becomes of workers when their
//! block ends. How many there should be decides `scaling`; this only shows it what there is.

use std::time::Duration;

use tokio::time::Instant;

use super::{OWN_POOL, Outgoing, Scheduler, Service};
use crate::endpoint::blocks::{BlockSeen, BlockUse, SeenChange};
use crate::endpoint::ledger::Entry;
use crate::ids::{BlockId, WorkerId};
use crate::protocol::session::Reported;
use crate::protocol::worker::ToWorker;
use crate::runtime::ids;
use crate::scaling::block::{CancelReason, LifeLeft};
use crate::scaling::placement::PlacementCandidate;
use crate::scaling::{ScalingDecision, WaitingTasks};
use crate::task::ending::Ending;
use crate::task::life::Outcome;
use crate::task::pool::Lane;
use crate::task::spec::{Kind, Place};
use crate::task::time::Moment;

/// Between two looks while time alone may change what is to be done.
const LOOK: Duration = Duration::from_secs(1);

impl Scheduler {
    /// A moment by the clock.
    pub(super) fn moment(&self, now: Instant) -> Moment {
        self.start.moment.after(now.saturating_duration_since(self.start.now))
    }

    /// The provider says something of a block.
    pub(in crate::endpoint) fn block_seen(&mut self, block: BlockId, seen: BlockSeen, now: Instant) {
        let seen = match seen {
            // it works, wherever it is
            BlockSeen::Missing if !self.connected_workers(block).is_empty() => BlockSeen::Unknown,
            other @ (BlockSeen::Missing
            | BlockSeen::Named(_)
            | BlockSeen::Refused(_)
            | BlockSeen::Unknown
            | BlockSeen::Sight(_)) => other,
        };
        match self.blocks.see(block, seen, self.moment(now)) {
            Some(SeenChange::Named(job)) => {
                self.enter(Entry::BlockNamed { block, job });
            }
            Some(SeenChange::Ended(ending)) => {
                self.end_workers(block, ending);
                self.enter(Entry::BlockEnded { block, ending });
            }
            None => {}
        }
        self.scale_at = Some(now);
    }

    /// The disk has that a block is wanted.
    pub(in crate::endpoint) fn block_recorded(&mut self, block: BlockId) {
        self.blocks.recorded(block);
    }

    /// Has all blocks that are left ended by their provider.
    pub(in crate::endpoint) fn cancel_blocks(&mut self, now: Instant) {
        let held: Vec<BlockId> = self.blocks.held().map(|(block, ..)| block).collect();
        for block in held {
            self.blocks.cancel(block, CancelReason::Asked, self.moment(now));
        }
    }

    /// A worker of a block has connected. A block that the ledger does not have is somebody else's to start and to end: by hand,
    /// or an earlier process of the endpoint whose journal was lost.
    pub(super) fn block_joined(&mut self, block: BlockId, now: Instant) {
        match self.ledger.block(block) {
            Some(_) => self.blocks.connected(block, self.moment(now)),
            None => self.blocks.add_guest(block),
        }
        self.scale_at = Some(now);
    }

    /// A worker of a block is gone for good.
    pub(super) fn block_left(&mut self, block: BlockId) {
        if self.workers.all().all(|(_, state)| state.block != block) {
            self.blocks.remove_guest(block);
        }
    }

    /// The endpoint ends: workers were told, and blocks that have none are ended by their provider.
    pub(super) fn end_blocks(&mut self, now: Instant) {
        let moment = self.moment(now);
        let held: Vec<BlockId> = self.blocks.held().map(|(block, ..)| block).collect();
        for block in held {
            match self.connected_workers(block).is_empty() {
                true => self.blocks.cancel(block, CancelReason::Asked, moment),
                false => {
                    self.blocks.drain(block, moment);
                }
            }
        }
    }

    /// Looks whether there are as many blocks as there should be.
    pub(super) fn scale(&mut self, now: Instant) {
        if self.service != Service::Open {
            self.scale_at = None;
        }
        if self.scale_at.is_none_or(|at| at > now) {
            return;
        }
        let moment = self.moment(now);
        let waiting = self.waiting_tasks();
        let (workers, start) = (&self.workers, self.start);
        let used = |block| {
            let mut used = BlockUse { idle_since: None, ..BlockUse::default() };
            let mut idle: Vec<Option<Instant>> = Vec::new();
            for (_, state) in workers.all().filter(|(_, state)| state.block == block) {
                used.workers += u32::from(state.connection.is_some());
                used.slots = used.slots.saturating_add(state.room.slots);
                used.busy = used.busy.saturating_add(state.used().slots).saturating_add(state.used().login);
                idle.push(state.idle_since);
            }
            let since = idle.into_iter().collect::<Option<Vec<Instant>>>().and_then(|since| since.into_iter().max());
            used.idle_since = since.map(|since| start.moment.after(since.saturating_duration_since(start.now)));
            used
        };
        for decision in self.blocks.decide(waiting, used, moment) {
            self.carry_out(decision, moment);
        }
        self.scale_at = self.blocks.needs_time().then(|| now + LOOK);
    }

    fn carry_out(&mut self, decision: ScalingDecision, moment: Moment) {
        match decision {
            ScalingDecision::Ask { pool, count } => {
                for _ in 0..count {
                    let block = ids::block();
                    tracing::info!(%block, "a block is wanted");
                    self.enter(Entry::BlockWanted { block, pool, wanted: moment });
                    self.blocks.want(block, pool, moment);
                    self.turn.after_sync.push(Outgoing::BlockRecorded(block));
                }
            }
            ScalingDecision::Drain { block } => {
                if self.blocks.drain(block, moment) {
                    tracing::info!(%block, "a block has nothing to do and is drained");
                    for worker in self.connected_workers(block) {
                        self.turn.at_once.push(Outgoing::ToWorker(worker, ToWorker::Leave));
                    }
                }
            }
            ScalingDecision::Cancel { block, reason } => {
                tracing::info!(%block, ?reason, "a block is cancelled");
                self.blocks.cancel(block, reason, moment);
            }
        }
    }

    /// Tasks that have no slot, at the controller and here.
    fn waiting_tasks(&self) -> Vec<WaitingTasks> {
        let told = self.backlog.iter().filter(|waiting| Lane::Pool(waiting.pool.key()) == OWN_POOL);
        let there: u64 = told.map(|waiting| waiting.tasks).sum();
        let here = u64::try_from(self.ledger.waiting().count()).unwrap_or(u64::MAX);
        let tasks = u32::try_from(there.saturating_add(here)).unwrap_or(u32::MAX);
        let estimate = self.estimates.estimate(Kind::Correlate, None);
        if tasks == 0 { Vec::new() } else { vec![WaitingTasks { tasks, estimate }] }
    }

    /// Workers that may be given a task that needs a slot.
    pub(super) fn candidates(&self, now: Instant) -> impl Iterator<Item = PlacementCandidate> {
        let moment = self.moment(now);
        self.workers.all().filter_map(move |(worker, state)| {
            let room = state.room_left(Place::Slot)?;
            let pool = self.blocks.open_pool(state.block)?;
            // a worker may be faster than the look that shows its block running; of a guest's block nobody knows the end
            let left = self.blocks.life(state.block).and_then(|life| life.left(moment)).unwrap_or(LifeLeft::Endless);
            Some(PlacementCandidate { worker, pool, left, room })
        })
    }

    /// How many tasks workers that may be given some can take at a place.
    pub(super) fn takes(&self, place: Place) -> u32 {
        self.workers.takes(place, |block| self.blocks.open_pool(block).is_some())
    }

    /// Tasks that run on this computer are taken before there is a worker, where only they make that there is one.
    pub(super) fn login_ahead(&self) -> u32 {
        if self.start.limits.min_blocks == 0 && self.start.limits.max_blocks > 0 { self.start.login_slots } else { 0 }
    }

    /// Takes note of how long a task took.
    pub(super) fn note_measure(&mut self, reported: &Reported) {
        let kind = self.ledger.get(reported.attempt).map(|held| held.leased.spec.kind());
        if let (Some(kind), Outcome::Succeeded, Some(measure)) = (kind, &reported.outcome, reported.result.measure) {
            self.estimates.note(kind, measure);
        }
    }

    fn connected_workers(&self, block: BlockId) -> Vec<WorkerId> {
        let workers = self.workers.all().filter(|(_, state)| state.block == block && state.connection.is_some());
        workers.map(|(worker, _)| worker).collect()
    }

    fn end_workers(&mut self, block: BlockId, ending: Ending) {
        let workers: Vec<WorkerId> =
            self.ledger.workers().filter(|worker| worker.block == block).map(|worker| worker.id).collect();
        for worker in workers {
            tracing::info!(%worker, %ending, "what a worker had is given back");
            self.worker_ended(worker, ending);
        }
    }
}
