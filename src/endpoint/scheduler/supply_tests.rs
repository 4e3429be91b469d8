//! A scheduler and its blocks, up to what a provider is told and says.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::endpoint::blocks::{BlockOrder, BlockSeen};
use crate::endpoint::ledger::tests::{attempt, leased, ledger, worker};
use crate::protocol::worker::Room;
use crate::provider::{JobId, JobSight, JobState};
use crate::scaling::Parallelism;
use crate::task::ending::Exit;
use crate::task::estimate::Measure;
use crate::task::pool::Pool;

const IDLE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(100_000);

struct World {
    scheduler: Scheduler,
    now: Instant,
    written: Vec<Entry>,
}

fn start(now: Instant, min_blocks: u32, max_blocks: u32) -> SchedulerStart {
    let limits = PoolLimits {
        min_blocks,
        max_blocks,
        nodes_per_block: NonZeroU32::MIN,
        slots_per_node: NonZeroU32::MIN,
        parallelism: Parallelism::FULL,
        idle: IDLE,
        starting: Duration::from_secs(120),
        walltime: None,
    };
    SchedulerStart { now, moment: Moment::from_millis(1 << 40), limits, login_slots: 2 }
}

fn job(number: u8) -> JobId {
    serde_json::from_value(serde_json::json!(format!("job {number}"))).expect("a job")
}

impl World {
    fn new(min_blocks: u32, max_blocks: u32) -> Self {
        let now = Instant::now();
        let scheduler = Scheduler::new(Ledger::default(), start(now, min_blocks, max_blocks));
        let mut world = Self { scheduler, now, written: Vec::new() };
        world.scheduler.session_opened(SessionId::new(Uuid::from_u128(7)), LEASE, "{}".into(), now);
        let number = world.scheduler.number;
        world.scheduler.on_controller_message(ToEndpoint::Renewed { number }, now);
        world
    }

    fn turn(&mut self) -> Turn {
        let turn = self.scheduler.turn(self.now);
        self.written.extend(turn.entries.iter().cloned());
        // the disk takes all at once
        for outgoing in &turn.after_sync {
            if let Outgoing::BlockRecorded(block) = outgoing {
                self.scheduler.block_recorded(*block);
            }
        }
        turn
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }

    fn orders(&self) -> Vec<(BlockId, BlockOrder)> {
        self.scheduler.blocks().orders().into_iter().collect()
    }

    fn backlog(&mut self, tasks: u64) {
        let waiting = PoolBacklog { pool: Pool::default(), tasks };
        let pools = if tasks == 0 { Vec::new() } else { vec![waiting] };
        self.scheduler.on_controller_message(ToEndpoint::Backlog(pools), self.now);
    }

    fn see(&mut self, block: BlockId, state: JobState) {
        self.scheduler.block_seen(block, BlockSeen::Sight(JobSight { block, job: job(1), state }), self.now);
    }

    fn join(&mut self, number: u128, block: BlockId) {
        let room = Room { slots: 1, login: 1 };
        let (worker, host) = (worker(number), "nid1".to_owned());
        let joining = Joining { worker, block, host, pid: 1, room, attempts: Vec::new() };
        self.scheduler.worker_joined(ConnectionId(1), joining, None, self.now);
    }

    /// With a block whose worker has joined.
    fn running(min_blocks: u32) -> (Self, BlockId) {
        let mut world = Self::new(min_blocks, 1);
        world.backlog(1);
        world.turn();
        let [(block, BlockOrder::Submit)] = world.orders()[..] else { panic!("{:?}", world.orders()) };
        world.scheduler.block_seen(block, BlockSeen::Named(job(1)), world.now);
        world.see(block, JobState::Running { ends: None });
        world.join(1, block);
        world.backlog(0);
        world.turn();
        (world, block)
    }
}

#[test]
fn a_block_is_asked_for_when_work_waits_and_not_before_that_is_on_the_disk() {
    let mut world = World::new(0, 1);
    assert_eq!(world.turn().entries, [], "nothing waits");
    world.backlog(3);
    let turn = world.scheduler.turn(world.now);
    let [Entry::BlockWanted { block, pool, .. }] = turn.entries[..] else { panic!("{turn:?}") };
    assert!(pool.is_default());
    assert_eq!(turn.after_sync, [Outgoing::BlockRecorded(block)]);
    assert_eq!(world.orders(), [], "the disk does not have it yet");
    world.scheduler.block_recorded(block);
    assert_eq!(world.orders(), [(block, BlockOrder::Submit)]);
    world.scheduler.block_seen(block, BlockSeen::Named(job(1)), world.now);
    assert_eq!(world.turn().entries, [Entry::BlockNamed { block, job: job(1) }], "and one block is enough");
    assert_eq!(world.orders(), [(block, BlockOrder::Look { job: Some(job(1)) })]);
    world.see(block, JobState::Running { ends: None });
    world.join(1, block);
    let turn = world.turn();
    let credit = turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToController(_, FromEndpoint::Credit(credit)) if credit.get(&OWN_POOL) == Some(&1)));
    assert!(credit, "{turn:?}");
}

#[test]
fn a_worker_without_work_is_told_to_leave_and_not_before_its_time() {
    let (mut world, block) = World::running(0);
    world.later(IDLE - Duration::from_secs(2));
    assert_eq!(world.turn().at_once, []);
    // a task comes and goes: the time begins anew
    world
        .scheduler
        .on_controller_message(ToEndpoint::Leases(vec![leased(attempt(1, 1)).offer(Moment::START)]), world.now);
    world.turn();
    world.later(Duration::from_secs(5));
    let over = crate::endpoint::ledger::tests::reported(attempt(1, 1), "{}");
    world.scheduler.on_worker_message(worker(1), FromWorker::Reports(vec![over]), world.now);
    world.turn();
    world.later(IDLE - Duration::from_secs(1));
    assert!(!world.turn().at_once.contains(&Outgoing::ToWorker(worker(1), ToWorker::Leave)));
    world.later(Duration::from_secs(2));
    let turn = world.turn();
    assert!(turn.at_once.contains(&Outgoing::ToWorker(worker(1), ToWorker::Leave)), "{turn:?}");
    // what comes now is not for this worker
    world
        .scheduler
        .on_controller_message(ToEndpoint::Leases(vec![leased(attempt(2, 1)).offer(Moment::START)]), world.now);
    let turn = world.turn();
    assert!(turn.after_write.is_empty(), "{turn:?}");
    let itself = Ending::Itself(Exit::Code(0));
    world.see(block, JobState::Ended(itself));
    let turn = world.turn();
    assert!(turn.entries.contains(&Entry::WorkerEnded { worker: worker(1), ending: itself }), "{turn:?}");
    assert!(turn.entries.contains(&Entry::BlockEnded { block, ending: itself }), "{turn:?}");
    let wanted = turn.entries.iter().any(|entry| matches!(entry, Entry::BlockWanted { .. }));
    assert!(wanted, "another block has to do it: {turn:?}");
    assert_eq!(world.scheduler.blocks().trouble(), None, "it ended as it was asked to");
}

#[test]
fn the_least_number_of_blocks_stays_and_comes_back() {
    let (mut world, block) = World::running(1);
    world.later(100 * IDLE);
    assert_eq!(world.turn().at_once.iter().filter(|out| matches!(out, Outgoing::ToWorker(..))).count(), 0);
    assert_eq!(world.scheduler.due(), None, "nothing has to be looked at");
    let killed = Ending::Itself(Exit::Signal(9));
    world.see(block, JobState::Ended(killed));
    let trouble = world.scheduler.blocks().trouble().expect("it should be there");
    assert!(trouble.contains("SIGKILL"), "{trouble}");
    let turn = world.turn();
    assert!(turn.entries.iter().any(|entry| matches!(entry, Entry::BlockWanted { .. })), "{turn:?}");
}

#[test]
fn blocks_that_end_before_a_worker_connects_are_not_asked_for_again_at_once() {
    let mut world = World::new(1, 1);
    world.turn();
    let (block, order) = world.orders()[0].clone();
    assert_eq!(order, BlockOrder::Submit);
    world.scheduler.block_seen(block, BlockSeen::Refused("no worker can be started".into()), world.now);
    world.turn();
    world.later(Duration::from_secs(59));
    world.turn();
    assert_eq!(world.orders(), []);
    let trouble = world.scheduler.blocks().trouble().expect("there is none");
    assert!(trouble.contains("no worker can be started") && trouble.contains("after a pause"), "{trouble}");
    world.later(Duration::from_secs(2));
    world.turn();
    assert_eq!(world.orders().len(), 1, "one, to see whether it works now");
}

#[test]
fn a_block_of_an_earlier_process_is_looked_for_and_never_submitted_again() {
    let mut world = World::new(1, 1);
    world.turn();
    let (block, _) = world.orders()[0].clone();
    // killed before its job's name was noted, and after
    for named in [None, Some(Entry::BlockNamed { block, job: job(1) })] {
        let entries = world.written.iter().cloned().chain(named.clone());
        let mut next = Scheduler::new(ledger(entries), start(world.now, 1, 1));
        next.turn(world.now);
        let look = BlockOrder::Look { job: named.is_some().then(|| job(1)) };
        assert_eq!(next.blocks().orders().into_iter().collect::<Vec<_>>(), [(block, look)]);
        next.block_seen(block, BlockSeen::Missing, world.now);
        let turn = next.turn(world.now);
        let ending = if named.is_some() { Ending::Unknown } else { Ending::Cancelled };
        assert!(turn.entries.contains(&Entry::BlockEnded { block, ending }), "{turn:?}");
        let again = turn.entries.iter().any(|entry| matches!(entry, Entry::BlockWanted { .. }));
        assert_eq!(again, named.is_none(), "only what was a job has failed: {turn:?}");
    }
}

#[test]
fn a_block_that_nobody_finds_is_not_over_while_its_worker_is_connected() {
    let (mut world, block) = World::running(1);
    world.scheduler.block_seen(block, BlockSeen::Missing, world.now);
    assert_eq!(world.turn().entries, []);
    world.scheduler.worker_disconnected(worker(1), ConnectionId(1), world.now);
    world.scheduler.block_seen(block, BlockSeen::Missing, world.now);
    assert!(world.turn().entries.contains(&Entry::BlockEnded { block, ending: Ending::Unknown }), "it was a job");
}

#[test]
fn a_worker_of_a_block_that_others_started_works_and_is_left_alone() {
    let mut world = World::new(0, 1);
    let foreign = BlockId::new(Uuid::from_u128(77));
    world.join(2, foreign);
    let turn = world.turn();
    assert!(turn.entries.iter().all(|entry| matches!(entry, Entry::Joined(_))), "{turn:?}");
    world
        .scheduler
        .on_controller_message(ToEndpoint::Leases(vec![leased(attempt(1, 1)).offer(Moment::START)]), world.now);
    assert_eq!(world.turn().after_write.len(), 1, "it gets the task");
    world.later(100 * IDLE);
    let turn = world.turn();
    assert!(!turn.at_once.contains(&Outgoing::ToWorker(worker(2), ToWorker::Leave)), "{turn:?}");
    assert_eq!(world.orders(), [], "no provider knows it");
    world.scheduler.worker_ended(worker(2), Ending::NodeLost);
    assert_eq!(world.scheduler.takes(Place::Slot), 0);
}

#[test]
fn who_leaves_ends_its_blocks() {
    let (mut world, block) = World::running(1);
    world.scheduler.leave(world.now);
    assert_eq!(world.orders(), [(block, BlockOrder::Look { job: Some(job(1)) })], "its worker was told");
    world.scheduler.cancel_blocks(world.now);
    assert_eq!(world.orders(), [(block, BlockOrder::Cancel { job: Some(job(1)) })]);
    let mut starting = World::new(1, 1);
    starting.turn();
    let (block, _) = starting.orders()[0].clone();
    starting.scheduler.leave(starting.now);
    assert_eq!(starting.orders(), [(block, BlockOrder::Cancel { job: None })], "nobody can be told");
    starting.turn();
    assert_eq!(starting.orders().len(), 1, "and no other is asked for");
    assert_eq!(starting.scheduler.due(), None);
}

#[test]
fn a_long_task_waits_for_a_block_that_lives_long_enough() {
    let (mut world, block) = World::running(1);
    // five measures make an estimate
    for number in 1..=5 {
        world.scheduler.on_controller_message(
            ToEndpoint::Leases(vec![leased(attempt(number, 1)).offer(Moment::START)]),
            world.now,
        );
        world.turn();
        let mut over = crate::endpoint::ledger::tests::reported(attempt(number, 1), "{}");
        over.result.measure = Some(Measure { bytes: 1 << 30, frames: 0, millis: 600_000 });
        world.scheduler.on_worker_message(worker(1), FromWorker::Reports(vec![over]), world.now);
        world.turn();
    }
    let ends = world.scheduler.moment(world.now).after(Duration::from_secs(599));
    world.see(block, JobState::Running { ends: Some(ends) });
    world
        .scheduler
        .on_controller_message(ToEndpoint::Leases(vec![leased(attempt(9, 1)).offer(Moment::START)]), world.now);
    let turn = world.turn();
    assert!(turn.after_write.is_empty(), "it takes ten minutes: {turn:?}");
    world.see(block, JobState::Running { ends: Some(ends.after(Duration::from_secs(2))) });
    let turn = world.turn();
    assert_eq!(turn.after_write.len(), 1, "{turn:?}");
}
