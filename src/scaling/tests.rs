//! What scaling promises: by hand for each rule, for random views, and for whole runs against a site that is played.

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::block::BlockEvent;
use super::world::{Nature, World};
use super::*;
use crate::task::ending::{Ending, Exit};

pub(super) fn at(second: u64) -> Moment {
    Moment::from_millis(second * 1000)
}

pub(super) fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

pub(super) fn pool(number: u8) -> PoolKey {
    PoolKey::of(&json!(number))
}

pub(super) fn block_id(number: u128) -> BlockId {
    BlockId::new(Uuid::from_u128(number))
}

fn positive(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("from 1")
}

/// One node of two slots a block, at most four blocks, an hour of walltime.
pub(super) fn limits() -> PoolLimits {
    PoolLimits {
        min_blocks: 0,
        max_blocks: 4,
        nodes_per_block: positive(1),
        slots_per_node: positive(2),
        parallelism: Parallelism::FULL,
        idle: seconds(120),
        starting: seconds(300),
        walltime: Some(seconds(3600)),
    }
}

pub(super) fn waiting(tasks: u32, estimate: u64) -> WaitingTasks {
    WaitingTasks { tasks, estimate: Some(seconds(estimate)) }
}

fn pool_view(limits: PoolLimits, waiting: Vec<WaitingTasks>, blocks: Vec<BlockView>) -> PoolView {
    PoolView { key: pool(1), limits, waiting, blocks, allowance: Allowance::Any }
}

fn view(max_blocks: u32, pools: Vec<PoolView>) -> ScalingView {
    ScalingView { reachable: at(0), max_blocks, pools }
}

/// A block to which these things happened at second 0.
fn block(number: u128, events: &[BlockEvent]) -> BlockView {
    let life = events.iter().fold(BlockLife::new(at(0)), |life, event| life.after(*event, at(0)).expect("applies"));
    BlockView { id: block_id(number), life, workers: 0, slots: 0, busy: 0, idle_since: None }
}

const RUNNING: BlockEvent = BlockEvent::Running { ends: Some(Moment::from_millis(3_600_000)) };

/// A block that runs with a worker of two slots.
fn working(number: u128, busy: u32) -> BlockView {
    let idle_since = if busy == 0 { Some(at(0)) } else { None };
    let block = block(number, &[BlockEvent::Submitted, RUNNING, BlockEvent::Connected]);
    BlockView { workers: 1, slots: 2, busy, idle_since, ..block }
}

/// What one pool decides, with room for ten blocks, at the first tick.
fn decided(limits: PoolLimits, waiting: Vec<WaitingTasks>, blocks: Vec<BlockView>, now: u64) -> Vec<ScalingDecision> {
    let pools = vec![pool_view(limits, waiting, blocks)];
    plan(&view(10, pools), &SpareBlocks::default(), at(now)).decisions
}

fn ask(count: u32) -> ScalingDecision {
    ScalingDecision::Ask { pool: pool(1), count }
}

fn drain(number: u128) -> ScalingDecision {
    ScalingDecision::Drain { block: block_id(number) }
}

fn cancel(number: u128, reason: CancelReason) -> ScalingDecision {
    ScalingDecision::Cancel { block: block_id(number), reason }
}

#[test]
fn blocks_are_asked_for_as_tasks_need_slots() {
    assert_eq!(decided(limits(), vec![], vec![], 0), []);
    assert_eq!(decided(limits(), vec![waiting(1, 60)], vec![], 0), [ask(1)]);
    assert_eq!(decided(limits(), vec![waiting(5, 60)], vec![], 0), [ask(3)]);
    assert_eq!(decided(limits(), vec![waiting(500, 60)], vec![], 0), [ask(4)], "the pool's most");
    let few = vec![pool_view(limits(), vec![waiting(500, 60)], vec![])];
    assert_eq!(plan(&view(3, few), &SpareBlocks::default(), at(0)).decisions, [ask(3)], "the endpoint's most");
    assert_eq!(decided(PoolLimits { min_blocks: 2, ..limits() }, vec![], vec![], 0), [ask(2)]);
    assert_eq!(
        decided(PoolLimits { min_blocks: 2, ..limits() }, vec![waiting(2, 60)], vec![], 0),
        [ask(2)],
        "for both"
    );
    assert_eq!(decided(PoolLimits { min_blocks: 9, ..limits() }, vec![], vec![], 0), [ask(4)]);
}

#[test]
fn what_is_on_its_way_counts_as_supply() {
    let coming = [
        block(1, &[]),
        block(2, &[BlockEvent::Submitted, BlockEvent::LostSight]),
        block(3, &[BlockEvent::Submitted, BlockEvent::Queued]),
    ];
    assert_eq!(decided(limits(), vec![waiting(6, 60)], coming.to_vec(), 0), []);
    assert_eq!(decided(limits(), vec![waiting(7, 60)], coming.to_vec(), 0), [ask(1)]);
    assert_eq!(decided(limits(), vec![waiting(99, 60)], coming.to_vec(), 0), [ask(1)], "an unknown block is held");
    let started = block(4, &[BlockEvent::Submitted, RUNNING]);
    assert_eq!(decided(limits(), vec![waiting(2, 60)], vec![started], 299), []);
    let gone = block(5, &[BlockEvent::Ended(Ending::Itself(Exit::Code(1)))]);
    assert_eq!(decided(limits(), vec![waiting(2, 60)], vec![gone], 0), [ask(1)]);
    let leaving = block(6, &[BlockEvent::Submitted, BlockEvent::Cancel(CancelReason::Asked)]);
    assert_eq!(decided(limits(), vec![waiting(8, 60)], vec![leaving], 0), [ask(3)], "held, but no supply");
}

#[test]
fn a_worker_that_has_fewer_slots_than_thought_is_believed_once_it_has_started() {
    let small = BlockView { slots: 1, ..working(1, 0) };
    assert_eq!(decided(limits(), vec![waiting(2, 60)], vec![small], 299), []);
    assert_eq!(decided(limits(), vec![waiting(2, 60)], vec![small], 300), [ask(1)]);
    let large = BlockView { slots: 8, ..working(1, 0) };
    assert_eq!(decided(limits(), vec![waiting(8, 60)], vec![large], 0), []);
}

#[test]
fn no_block_is_asked_for_a_task_that_it_could_not_take() {
    let at_most = 3600 - 300;
    assert_eq!(decided(limits(), vec![waiting(1, at_most)], vec![], 0), [ask(1)]);
    let pools = vec![pool_view(limits(), vec![waiting(3, at_most + 1), waiting(2, 60)], vec![])];
    let found = plan(&view(10, pools), &SpareBlocks::default(), at(0));
    assert_eq!((found.decisions, found.too_long), (vec![ask(1)], vec![(pool(1), 3)]));
    let unknown = WaitingTasks { tasks: 1, estimate: None };
    assert_eq!(decided(limits(), vec![unknown], vec![], 0), [ask(1)]);
    let endless = PoolLimits { walltime: None, ..limits() };
    assert_eq!(decided(endless, vec![waiting(1, 1 << 40)], vec![], 0), [ask(1)]);
}

#[test]
fn a_block_that_ends_too_soon_is_no_supply() {
    let old = working(1, 0);
    assert_eq!(decided(limits(), vec![waiting(1, 600)], vec![old], 3000), []);
    assert_eq!(decided(limits(), vec![waiting(1, 601)], vec![old], 3000), [ask(1)]);
    assert_eq!(decided(limits(), vec![waiting(1, 600)], vec![working(1, 1)], 3000), []);
    assert_eq!(decided(limits(), vec![waiting(1, 601)], vec![working(1, 1)], 3000), [ask(1)]);
}

#[test]
fn parallelism_saves_blocks_but_starves_no_task() {
    let half = PoolLimits { parallelism: Parallelism::new(500).expect("half"), ..limits() };
    assert_eq!(decided(half, vec![waiting(8, 60)], vec![], 0), [ask(2)]);
    let none = PoolLimits { parallelism: Parallelism::new(0).expect("none"), ..limits() };
    assert_eq!(decided(none, vec![waiting(8, 60)], vec![], 0), [ask(1)]);
    assert_eq!(decided(none, vec![waiting(8, 60)], vec![working(1, 2)], 0), [], "they go one after the other");
    assert_eq!(decided(none, vec![waiting(8, 900)], vec![working(1, 2)], 3000), [ask(1)], "but not there");
    assert_eq!(Parallelism::new(1001), None);
}

#[test]
fn spare_blocks_end_after_the_idle_time() {
    let pools =
        vec![pool_view(limits(), vec![], vec![working(1, 0), block(2, &[BlockEvent::Submitted]), working(3, 1)])];
    let view = view(10, pools);
    let first = plan(&view, &SpareBlocks::default(), at(0));
    assert_eq!(first.decisions, []);
    assert_eq!(plan(&view, &first.spare, at(119)).decisions, []);
    let wanted = [cancel(2, CancelReason::Spare), drain(1)];
    assert_eq!(plan(&view, &first.spare, at(120)).decisions, wanted, "those first that are least far");
    assert_eq!(plan(&view, &SpareBlocks::default(), at(120)).decisions, [], "an endpoint that starts looks first");
    let mut kept = view.clone();
    kept.pools[0].limits.min_blocks = 2;
    assert_eq!(plan(&kept, &first.spare, at(120)).decisions, [cancel(2, CancelReason::Spare)]);
    let mut used = view.clone();
    used.pools[0].blocks[0].idle_since = Some(at(60));
    assert_eq!(plan(&used, &first.spare, at(179)).decisions, [cancel(2, CancelReason::Spare)], "between two ticks");
    let mut needed = view.clone();
    needed.pools[0].waiting = vec![waiting(3, 60)];
    let second = plan(&needed, &first.spare, at(60));
    assert_eq!(plan(&view, &second.spare, at(130)).decisions, [cancel(2, CancelReason::Spare)], "it begins anew");
}

#[test]
fn a_block_whose_workers_never_connect_is_cancelled() {
    let silent = block(1, &[BlockEvent::Submitted, RUNNING]);
    let needed = vec![waiting(1, 60)];
    assert_eq!(decided(limits(), needed.clone(), vec![silent], 299), []);
    assert_eq!(decided(limits(), needed.clone(), vec![silent], 300), [cancel(1, CancelReason::Silent), ask(1)]);
    let mut later = view(10, vec![pool_view(limits(), needed, vec![silent])]);
    later.reachable = at(250);
    let found = plan(&later, &SpareBlocks::default(), at(300));
    assert_eq!(found.decisions, [], "nobody was there to connect to");
}

#[test]
fn a_drained_block_that_does_not_end_is_cancelled() {
    let drained = |busy| {
        let mut drained = working(1, busy);
        drained.life = drained.life.after(BlockEvent::Drain, at(500)).expect("drains");
        drained
    };
    let last = 500 + LEAVING.as_secs();
    assert_eq!(decided(limits(), vec![], vec![drained(0)], last - 1), []);
    assert_eq!(decided(limits(), vec![], vec![drained(0)], last), [cancel(1, CancelReason::Stuck)]);
    assert_eq!(decided(limits(), vec![], vec![drained(1)], 9999), [], "it computes");
    let freed = BlockView { idle_since: Some(at(600)), ..drained(0) };
    assert_eq!(decided(limits(), vec![], vec![freed], last), []);
}

#[test]
fn a_breaker_holds_asks_back() {
    let mut probing = view(10, vec![pool_view(limits(), vec![waiting(9, 60)], vec![])]);
    let mut ask_for = |allowance, blocks: Vec<BlockView>| {
        probing.pools[0].allowance = allowance;
        probing.pools[0].blocks = blocks;
        plan(&probing, &SpareBlocks::default(), at(0)).decisions
    };
    assert_eq!(ask_for(Allowance::Nothing, vec![]), []);
    assert_eq!(ask_for(Allowance::Probe, vec![]), [ask(1)]);
    assert_eq!(ask_for(Allowance::Probe, vec![block(1, &[])]), [], "one at a time");
    assert_eq!(ask_for(Allowance::Probe, vec![working(1, 0)]), [ask(1)]);
}

#[test]
fn no_pool_keeps_another_from_its_first_block() {
    let many = PoolLimits { max_blocks: 99, ..limits() };
    let of = |number, blocks| PoolView { key: pool(number), ..pool_view(many, vec![waiting(99, 60)], blocks) };
    let shared = view(6, vec![of(1, vec![working(1, 2), working(2, 2)]), of(2, vec![]), of(3, vec![])]);
    let found = plan(&shared, &SpareBlocks::default(), at(0)).decisions;
    let wanted = [2, 3].map(|number| ScalingDecision::Ask { pool: pool(number), count: 2 });
    assert_eq!(found, wanted);
    let mut least = shared.clone();
    least.pools[0].limits.min_blocks = 5;
    let found = plan(&least, &SpareBlocks::default(), at(0)).decisions;
    let wanted = [(1, 2), (2, 1), (3, 1)].map(|(number, count)| ScalingDecision::Ask { pool: pool(number), count });
    assert_eq!(found, wanted, "a first block each, then the least number");
}

/// The local provider: one block at most, this computer, which has no walltime.
#[test]
fn the_worker_of_this_computer_comes_and_goes_with_its_tasks() {
    let local = PoolLimits { max_blocks: 1, walltime: None, idle: seconds(60), ..limits() };
    let endless = block(1, &[BlockEvent::Submitted, BlockEvent::Running { ends: None }, BlockEvent::Connected]);
    let idle = BlockView { workers: 1, slots: 2, idle_since: Some(at(10)), ..endless };
    assert_eq!(decided(local, vec![waiting(70, 60)], vec![], 0), [ask(1)]);
    assert_eq!(decided(local, vec![waiting(70, 60)], vec![idle], 0), []);
    let view = view(1, vec![pool_view(local, vec![], vec![idle])]);
    let first = plan(&view, &SpareBlocks::default(), at(5));
    assert_eq!(plan(&view, &first.spare, at(69)).decisions, []);
    assert_eq!(plan(&view, &first.spare, at(70)).decisions, [drain(1)]);
    let mut always = view.clone();
    always.pools[0].limits.min_blocks = 1;
    assert_eq!(plan(&always, &first.spare, at(9999)).decisions, []);
}

fn any_limits() -> impl Strategy<Value = PoolLimits> {
    let times = (0..300_u64, 0..300_u64, prop::option::of(0..4000_u64));
    (0..4_u32, 0..6_u32, 1..3_u32, 1..4_u32, prop::sample::select(vec![0, 300, 1000]), times).prop_map(
        |(min_blocks, max_blocks, nodes, slots, thousandths, (idle, starting, walltime))| PoolLimits {
            min_blocks,
            max_blocks,
            nodes_per_block: positive(nodes),
            slots_per_node: positive(slots),
            parallelism: Parallelism::new(thousandths).expect("from 0 to 1000"),
            idle: seconds(idle),
            starting: seconds(starting),
            walltime: walltime.map(seconds),
        },
    )
}

fn any_life() -> impl Strategy<Value = BlockLife> {
    let event = prop_oneof![
        4 => Just(BlockEvent::Submitted),
        2 => Just(BlockEvent::Queued),
        3 => prop::option::of(0..5000_u64).prop_map(|end| BlockEvent::Running { ends: end.map(at) }),
        1 => Just(BlockEvent::LostSight),
        2 => Just(BlockEvent::Connected),
        1 => Just(BlockEvent::Drain),
        1 => Just(BlockEvent::Cancel(CancelReason::Spare)),
        1 => Just(BlockEvent::Ended(Ending::Preempted)),
    ];
    prop::collection::vec(event, 0..6).prop_map(|events| {
        let begin = (BlockLife::new(at(0)), 0);
        let happen =
            |(life, second): (BlockLife, u64), event| (life.after(event, at(second)).unwrap_or(life), second + 60);
        events.into_iter().fold(begin, happen).0
    })
}

fn any_pool(key: u8) -> impl Strategy<Value = PoolView> {
    let block = (any_life(), 0..3_u32, 0..5_u32, 0..4_u32, prop::option::of(0..2000_u64));
    let group = (0..20_u32, prop::option::of(0..4000_u64));
    let allowance = prop::sample::select(vec![Allowance::Any, Allowance::Any, Allowance::Probe, Allowance::Nothing]);
    (any_limits(), prop::collection::vec(group, 0..4), prop::collection::vec(block, 0..6), allowance).prop_map(
        move |(limits, groups, blocks, allowance)| {
            let waiting =
                groups.into_iter().map(|(tasks, length)| WaitingTasks { tasks, estimate: length.map(seconds) });
            let blocks =
                (u128::from(key) * 100..).zip(blocks).map(|(id, (life, workers, slots, busy, idle))| BlockView {
                    id: block_id(id),
                    life,
                    workers,
                    slots,
                    busy,
                    idle_since: idle.map(at).filter(|_| busy == 0),
                });
            PoolView { key: pool(key), limits, waiting: waiting.collect(), blocks: blocks.collect(), allowance }
        },
    )
}

fn asked(decisions: &[ScalingDecision], of: PoolKey) -> u32 {
    let counts = decisions.iter().map(|decision| match decision {
        ScalingDecision::Ask { pool, count } if *pool == of => *count,
        ScalingDecision::Ask { .. } | ScalingDecision::Drain { .. } | ScalingDecision::Cancel { .. } => 0,
    });
    counts.sum()
}

/// Of the blocks that stay, those that are ended.
fn ended(decisions: &[ScalingDecision]) -> Vec<BlockId> {
    let ended = decisions.iter().filter_map(|decision| match decision {
        ScalingDecision::Ask { .. } => None,
        ScalingDecision::Drain { block } | ScalingDecision::Cancel { block, .. } => Some(*block),
    });
    ended.collect()
}

pub(super) fn number(blocks: usize) -> u32 {
    u32::try_from(blocks).expect("a test has few")
}

proptest! {
    /// Whatever an endpoint sees, at whatever time: it never holds more than its most, nor a pool more than the pool's;
    /// the least number is there after the tick if anything allows it; nothing is ended twice, or while it computes; blocks
    /// are asked for only where something could take them; a plan of the same view is the same plan.
    #[test]
    fn a_tick_keeps_the_rules(
        pools in (any_pool(1), any_pool(2)),
        max_blocks in 0..12_u32,
        now in 0..5000_u64,
        spare in prop::collection::btree_map((1..3_u128, 0..6_u128), 0..2000_u64, 0..6),
    ) {
        let view = ScalingView { reachable: at(0), max_blocks, pools: vec![pools.0, pools.1] };
        let spare = spare.into_iter().map(|((of, id), second)| (block_id(of * 100 + id), at(second))).collect();
        let spare = SpareBlocks(spare);
        let found = plan(&view, &spare, at(now));
        prop_assert_eq!(&found, &plan(&view, &spare, at(now)));
        let decisions = &found.decisions;
        let held = |pool: &PoolView| number(pool.blocks.iter().filter(|block| block.life.is_held()).count());
        let all_held: u32 = view.pools.iter().map(held).sum();
        let all_asked: u32 = view.pools.iter().map(|pool| asked(decisions, pool.key)).sum();
        prop_assert!(all_asked == 0 || all_held + all_asked <= max_blocks, "above the endpoint's most");
        let gone = ended(decisions);
        let mut once = gone.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), gone.len(), "ended twice");
        for pool in &view.pools {
            let (limits, asked) = (&pool.limits, asked(decisions, pool.key));
            prop_assert!(asked == 0 || held(pool) + asked <= limits.max_blocks, "above the pool's most");
            let stays = |block: &&BlockView| block.life.stays() && !gone.contains(&block.id);
            let staying = number(pool.blocks.iter().filter(stays).count());
            let has_room = held(pool) + asked < limits.max_blocks && all_held + all_asked < max_blocks;
            if pool.allowance == Allowance::Any && has_room {
                prop_assert!(staying + asked >= limits.min_blocks, "below the least");
            }
            prop_assert!(pool.allowance != Allowance::Nothing || asked == 0);
            prop_assert!(pool.allowance != Allowance::Probe || asked <= 1);
            let useful = pool.waiting.iter().any(|group| group.tasks > 0 && limits.new_life().fits(group.estimate));
            if !useful {
                prop_assert!(staying + asked <= limits.min_blocks.max(staying), "a block that could take nothing");
            }
            for block in pool.blocks.iter().filter(|block| gone.contains(&block.id)) {
                prop_assert!(block.life.is_held() && !matches!(block.life.wish, BlockWish::Cancel(_)));
                prop_assert!(block.busy == 0 || block.life.start == BlockStart::Silent, "it computes");
                if decisions.contains(&ScalingDecision::Drain { block: block.id }) {
                    prop_assert!(block.life.stays() && block.workers > 0);
                }
            }
            let spare_ended = decisions.iter().filter(|decision| match decision {
                ScalingDecision::Drain { block } | ScalingDecision::Cancel { block, reason: CancelReason::Spare } => {
                    pool.blocks.iter().any(|of_pool| of_pool.id == *block)
                }
                ScalingDecision::Ask { .. } | ScalingDecision::Cancel { .. } => false,
            });
            prop_assert!(spare_ended.count() == 0 || staying >= limits.min_blocks, "ended below the least");
        }
    }

    /// A site that starts what it is asked for, sooner or later: all tasks that fit are done, whatever came in between; then
    /// the blocks go down to the least number, and nothing is decided any more.
    #[test]
    fn all_tasks_are_done_and_the_blocks_go(
        least in 0..3_u32,
        most in 1..5_u32,
        lengths in prop::collection::vec((1..3_u8, 1..1500_u64, 0..2000_u64), 1..30),
        queueing in prop::collection::vec(0..900_u64, 1..6),
        blind in prop::sample::select(vec![0, 2, 3, 5]),
    ) {
        let limits = PoolLimits { min_blocks: least, walltime: Some(seconds(2000)), ..limits() };
        let natures = queueing.into_iter().map(|delay| Nature { queueing: delay, slots: 2, works: true }).collect();
        let mut world = World::new(most, limits, natures);
        world.blind_every = blind;
        for (of, length, arrives) in &lengths {
            world.task(*of, *length, *arrives);
        }
        // each task waits at most for the others, and for a queue and a start each; then the idle time
        let bound = 2000 + lengths.iter().map(|(_, length, _)| length + 2000).sum::<u64>() + 5000;
        world.run_until(bound);
        prop_assert_eq!(world.unfinished(), 0);
        let staying = world.staying();
        let wanted = [1, 2].map(|of| (pool(of), least));
        // together they may want more than the endpoint may hold
        if 2 * least <= most {
            prop_assert_eq!(staying, wanted.into());
        }
        prop_assert!(!world.ever_cut, "a task ran into the end of its block");
    }

    /// Demand that does not change is met once: as many blocks as it needs are asked for, and never another decision is
    /// made, though blocks come one by one and the site cannot be seen at times.
    #[test]
    fn constant_demand_is_met_once(
        tasks in 1..12_u32,
        queueing in prop::collection::vec(0..3000_u64, 1..6),
        blind in prop::sample::select(vec![0, 2, 3, 5]),
    ) {
        let limits = PoolLimits { walltime: None, max_blocks: 6, ..limits() };
        let natures = queueing.into_iter().map(|delay| Nature { queueing: delay, slots: 2, works: true }).collect();
        let mut world = World::new(6, limits, natures);
        world.blind_every = blind;
        for _ in 0..tasks {
            world.task(1, 1 << 30, 0);
        }
        world.run_until(20_000);
        prop_assert_eq!(world.asked, tasks.div_ceil(2));
        prop_assert_eq!(world.ended_by_plan, 0);
    }

    /// Demand that comes and goes faster than the idle time makes no blocks come and go: as many are asked for as a wave
    /// needs, and none is ended before the last wave is over.
    #[test]
    fn waves_shorter_than_the_idle_time_change_nothing(
        tasks in 1..12_u32,
        gaps in prop::collection::vec(90..140_u64, 0..20),
    ) {
        let limits = PoolLimits { walltime: None, max_blocks: 9, idle: seconds(150), ..limits() };
        let mut world = World::new(9, limits, vec![Nature { queueing: 0, slots: 2, works: true }]);
        let mut begin = 0;
        for gap in gaps.into_iter().chain([0]) {
            for _ in 0..tasks {
                world.task(1, 20, begin);
            }
            begin += gap;
        }
        world.run_until(begin + 100);
        prop_assert_eq!((world.unfinished(), world.ended_by_plan), (0, 0));
        prop_assert_eq!(world.asked, tasks.div_ceil(2));
        world.run_until(begin + 1000);
        prop_assert_eq!(world.ended_by_plan, world.asked);
    }

    /// Blocks that never work: few are asked for, however long tasks wait, and none after the last delay.
    #[test]
    fn blocks_that_do_not_work_are_soon_not_asked_for(
        tasks in 1..40_u32,
        queueing in prop::collection::vec(0..500_u64, 1..4),
    ) {
        let natures = queueing.into_iter().map(|delay| Nature { queueing: delay, slots: 0, works: false }).collect();
        let mut world = World::new(4, limits(), natures);
        for _ in 0..tasks {
            world.task(1, 60, 0);
        }
        world.run_until(12_000);
        // a full round before the first failure, what replaces it until the breaker knows, and a probe after each delay
        prop_assert!(world.asked <= 2 * 4 + 4, "{} asked", world.asked);
        let asked = world.asked;
        world.run_until(20_000);
        prop_assert_eq!(world.asked, asked, "it never stops");
    }
}
