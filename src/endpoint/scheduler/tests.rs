//! What the scheduler promises: the order of writing and saying, by hand for each way a worker and a controller come and
//! go, and for random events in random orders.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::endpoint::ledger::tests::{attempt, leased, reported, result_named, worker};
use crate::ids::BlockId;
use crate::protocol::session::{Credit, Progress};
use crate::protocol::worker::{Room, WorkerFacts};
use crate::scaling::Parallelism;
use crate::task::ending::Exit;
use crate::task::pool::Pool;
use crate::task::spec::{BatchSetupSpec, TaskSpec};

/// How a worker ends that somebody killed.
const KILLED: Ending = Ending::Itself(Exit::Signal(9));

fn offer(task: u128, number: u32) -> Offer {
    leased(attempt(task, number)).offer(Moment::START)
}

fn said_to_workers(turn: &Turn) -> Vec<(WorkerId, ToWorker)> {
    let all = turn.at_once.iter().chain(&turn.after_write).chain(&turn.after_sync);
    let said = all.filter_map(|outgoing| match outgoing {
        Outgoing::ToWorker(worker, said) => Some((*worker, said.clone())),
        Outgoing::ToController(..) | Outgoing::BlockRecorded(_) => None,
    });
    said.collect()
}

/// This process's session.
fn own() -> SessionId {
    SessionId::new(Uuid::from_u128(77))
}

const LEASE: Duration = Duration::from_secs(100);

/// Of tasks that run in slots, and of those that run on the endpoint's own node.
fn credits(slots: u64, login: u64) -> Credit {
    [(OWN_POOL, slots), (Lane::Login, login)].into()
}

/// No block may be asked for: those of workers that join are there.
fn start(now: Instant) -> SchedulerStart {
    let limits = PoolLimits {
        min_blocks: 0,
        max_blocks: 0,
        nodes_per_block: NonZeroU32::MIN,
        slots_per_node: NonZeroU32::MIN,
        parallelism: Parallelism::FULL,
        idle: Duration::from_secs(1_000_000),
        starting: Duration::from_secs(1_000_000),
        walltime: None,
    };
    SchedulerStart { now, moment: Moment::from_millis(1 << 40), limits, login_slots: 1 }
}

/// A scheduler, and what its entries come to.
struct World {
    scheduler: Scheduler,
    now: Instant,
    written: Vec<Entry>,
    connections: u64,
    number: u64,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            scheduler: Scheduler::new(Ledger::default(), start(now)),
            now,
            written: Vec::new(),
            connections: 0,
            number: 0,
        }
    }

    /// With a session whose first heartbeat was answered, and a worker.
    fn open(slots: u32) -> Self {
        let mut world = Self::new();
        world.scheduler.session_opened(own(), LEASE, "{}".into(), world.now);
        let beat = world.turn();
        let [Outgoing::ToController(number, FromEndpoint::Heartbeat { .. })] = beat.at_once[..] else {
            panic!("{beat:?}")
        };
        world.hear(ToEndpoint::Renewed { number });
        world.join(1, slots, vec![]);
        let credit = world.turn();
        let wanted = FromEndpoint::Credit(credits(slots.into(), 1));
        assert!(matches!(&credit.at_once[..], [Outgoing::ToController(_, said)] if *said == wanted), "{credit:?}");
        world
    }

    fn join(&mut self, number: u128, slots: u32, attempts: Vec<AttemptId>) {
        self.connections += 1;
        let (worker, block) = (worker(number), BlockId::new(Uuid::from_u128(9)));
        let room = Room { slots, login: 1 };
        let joining = Joining { worker, block, host: "nid1".into(), pid: 1, room, attempts };
        self.scheduler.worker_joined(ConnectionId(self.connections), joining, None, self.now);
    }

    fn hear(&mut self, said: ToEndpoint) {
        self.scheduler.on_controller_message(said, self.now);
    }

    fn take(&mut self, tasks: &[(u128, u32)]) {
        self.hear(ToEndpoint::Leases(tasks.iter().map(|&(task, number)| offer(task, number)).collect()));
    }

    fn over(&mut self, by: u128, task: u128, number: u32) {
        let report = reported(attempt(task, number), "{}");
        self.scheduler.on_worker_message(worker(by), FromWorker::Reports(vec![report]), self.now);
    }

    /// A worker asks whether a result may be published.
    fn name(&mut self, by: u128, task: u128, number: u32) {
        let Entry::ResultNamed { result, .. } = result_named(task, "r", number.into()) else { panic!("another") };
        let said = FromWorker::Naming { attempt: attempt(task, number), result };
        self.scheduler.on_worker_message(worker(by), said, self.now);
    }

    /// A worker says how much room it has.
    fn room(&mut self, of: u128, slots: u32) {
        let facts = WorkerFacts { room: Room { slots, login: 1 }, ..WorkerFacts::default() };
        self.scheduler.on_worker_message(worker(of), FromWorker::Facts(facts), self.now);
    }

    fn turn(&mut self) -> Turn {
        let turn = self.scheduler.turn(self.now);
        self.written.extend(turn.entries.iter().cloned());
        turn
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

/// What a worker is asked to give back.
fn asked_back(turn: &Turn) -> Vec<(WorkerId, AttemptId)> {
    let back = turn.after_write.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToWorker(worker, ToWorker::Return(attempts)) => Some((*worker, attempts)),
        Outgoing::ToWorker(..) | Outgoing::ToController(..) | Outgoing::BlockRecorded(_) => None,
    });
    back.flat_map(|(worker, attempts)| attempts.iter().map(move |attempt| (worker, *attempt))).collect()
}

fn handed(turn: &Turn) -> Vec<(WorkerId, AttemptId)> {
    let work = turn.after_write.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToWorker(worker, ToWorker::Work(handouts)) => Some((*worker, handouts)),
        Outgoing::ToWorker(..) | Outgoing::ToController(..) | Outgoing::BlockRecorded(_) => None,
    });
    work.flat_map(|(worker, handouts)| handouts.iter().map(move |handout| (worker, handout.attempt))).collect()
}

#[test]
fn a_task_goes_to_a_slot_and_its_report_to_the_controller() {
    let mut world = World::open(1);
    world.take(&[(1, 1), (2, 1)]);
    let turn = world.turn();
    assert_eq!(handed(&turn), [(worker(1), attempt(1, 1))], "one slot");
    assert_eq!(turn.entries.len(), 3, "two taken, one handed: {:?}", turn.entries);
    world.over(1, 1, 1);
    let turn = world.turn();
    assert_eq!(handed(&turn), [(worker(1), attempt(2, 1))], "the slot is free again");
    let said = FromEndpoint::Reports(vec![reported(attempt(1, 1), "{}")]);
    assert!(
        turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToController(_, message) if *message == said)),
        "{turn:?}"
    );
    assert!(turn.after_sync.contains(&Outgoing::ToWorker(worker(1), ToWorker::Recorded(vec![attempt(1, 1)]))));
    world.hear(ToEndpoint::Recorded { number: 9, attempts: vec![attempt(1, 1)] });
    assert_eq!(world.turn().entries, [Entry::Settled(vec![attempt(1, 1)])]);
}

#[test]
fn no_tasks_are_asked_for_while_too_many_reports_are_not_recorded() {
    let mut world = World::open(1);
    let asks = |turn: Turn| {
        turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToController(_, FromEndpoint::Credit(_))))
    };
    world.turn();
    for task in 1..=MOST_UNRECORDED as u128 {
        assert_eq!(world.scheduler.ledger().unrecorded(), task as usize - 1);
        world.take(&[(task, 1)]);
        assert!(asks(world.turn()), "{task}: what came was asked for");
        world.over(1, task, 1);
        world.turn();
    }
    world.take(&[(5000, 1)]);
    assert!(!asks(world.turn()));
    world.hear(ToEndpoint::Recorded { number: 9, attempts: vec![attempt(1, 1)] });
    assert!(asks(world.turn()), "there is room for a report");
}

#[test]
fn what_may_have_been_handed_out_is_not_handed_out_again() {
    let mut world = World::new();
    world.take(&[(1, 1)]);
    world.turn();
    // a power cut has lost that it was handed out
    let taken = crate::endpoint::ledger::tests::ledger([crate::endpoint::ledger::tests::taken(1, 1)]);
    let mut scheduler = Scheduler::new(taken, start(world.now));
    scheduler.return_waiting();
    let turn = scheduler.turn(world.now);
    let [Entry::Reported(Reported { outcome: Outcome::Lost(Loss::Returned), .. })] = &turn.entries[..] else {
        panic!("{turn:?}");
    };
    assert!(scheduler.idle());
}

#[test]
fn a_name_is_on_the_disk_before_it_is_settled_and_is_the_tasks() {
    let mut world = World::open(2);
    world.take(&[(1, 1)]);
    assert_eq!(handed(&world.turn()), [(worker(1), attempt(1, 1))]);
    world.name(2, 1, 1);
    world.name(1, 2, 1);
    world.name(1, 1, 2);
    let turn = world.turn();
    assert!(
        turn.entries.is_empty() && turn.after_sync.is_empty(),
        "only who has the attempt names its result: {turn:?}"
    );
    world.name(1, 1, 1);
    let turn = world.turn();
    let answer = Outgoing::ToWorker(worker(1), ToWorker::Named(vec![attempt(1, 1)]));
    assert_eq!((turn.entries, turn.after_sync), (vec![result_named(1, "r", 1)], vec![answer.clone()]));
    assert!(answer.is_urgent());
    // the next attempt knows what the first has named
    world.scheduler.worker_ended(worker(1), KILLED);
    world.join(2, 2, vec![]);
    world.hear(ToEndpoint::Recorded { number: 0, attempts: vec![attempt(1, 1)] });
    world.take(&[(1, 2)]);
    let work = world.turn().after_write.into_iter().find_map(|outgoing| match outgoing {
        Outgoing::ToWorker(_, ToWorker::Work(work)) => Some(work),
        Outgoing::ToWorker(..) | Outgoing::ToController(..) | Outgoing::BlockRecorded(_) => None,
    });
    let earlier = work.expect("it is handed out")[0].earlier.clone().expect("is known");
    assert_eq!((earlier.path.to_str(), earlier.files.len()), (Some("/data/r"), 1));
}

#[test]
fn nothing_is_handed_out_without_a_lease() {
    let mut world = World::open(2);
    world.later(101);
    world.take(&[(1, 1)]);
    assert_eq!(handed(&world.turn()), []);
    world.scheduler.beat("{}".into(), world.now);
    let turn = world.turn();
    let number = turn.at_once.iter().find_map(|outgoing| match outgoing {
        Outgoing::ToController(number, FromEndpoint::Heartbeat { attempts, .. }) => {
            assert_eq!(*attempts, [attempt(1, 1)]);
            Some(*number)
        }
        Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    let number = number.expect("a heartbeat");
    world.hear(ToEndpoint::Renewed { number });
    assert_eq!(handed(&world.turn()), [(worker(1), attempt(1, 1))]);
}

#[test]
fn beats_are_answered_as_long_as_there_is_a_lease() {
    let mut world = World::open(1);
    world.later(40);
    world.scheduler.on_worker_message(worker(1), FromWorker::Beat { number: 3 }, world.now);
    let answer = Outgoing::ToWorker(worker(1), ToWorker::Lease { number: 3, lasts: Duration::from_secs(60) });
    assert!(world.turn().at_once.contains(&answer));
    world.later(100);
    world.scheduler.on_worker_message(worker(1), FromWorker::Beat { number: 4 }, world.now);
    assert_eq!(world.turn().at_once, []);
}

#[test]
fn a_worker_that_comes_back_gets_what_it_missed_and_keeps_what_it_has() {
    let mut world = World::open(3);
    world.take(&[(1, 1), (2, 1), (3, 1)]);
    assert_eq!(handed(&world.turn()).len(), 3);
    world.scheduler.worker_disconnected(worker(1), ConnectionId(1), world.now);
    // 1 never came, 2 runs, 3 is over, 7 is nobody's any more
    world.join(1, 3, vec![attempt(2, 1), attempt(3, 1), attempt(7, 1)]);
    let turn = world.turn();
    assert_eq!(handed(&turn), [(worker(1), attempt(1, 1))]);
    let stop = Stop { attempt: attempt(7, 1), reason: StopReason::Fenced };
    assert!(turn.after_write.contains(&Outgoing::ToWorker(worker(1), ToWorker::Stop(vec![stop]))), "{turn:?}");
    world.over(1, 7, 1);
    let turn = world.turn();
    assert_eq!(turn.entries, [], "what is not in the ledger is not wanted");
    assert!(turn.after_sync.contains(&Outgoing::ToWorker(worker(1), ToWorker::Recorded(vec![attempt(7, 1)]))));
}

#[test]
fn what_does_not_fit_a_worker_any_more_is_asked_back_once_and_goes_to_others() {
    let mut world = World::open(3);
    world.take(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(handed(&world.turn()).len(), 3);
    world.scheduler.on_worker_message(worker(1), FromWorker::Started(vec![attempt(2, 1)]), world.now);
    world.room(1, 2);
    let turn = world.turn();
    assert_eq!(asked_back(&turn), [(worker(1), attempt(3, 1))], "who came last of those that have not begun");
    assert_eq!(handed(&turn), []);

    let lost = Reported { outcome: Outcome::Lost(Loss::Returned), ..reported(attempt(3, 1), "{}") };
    world.scheduler.on_worker_message(worker(1), FromWorker::Reports(vec![lost.clone()]), world.now);
    world.join(2, 1, vec![]);
    let turn = world.turn();
    let told = FromEndpoint::Reports(vec![lost]);
    assert!(
        turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToController(_, said) if *said == told)),
        "{turn:?}"
    );
    assert_eq!(handed(&turn), [(worker(2), attempt(4, 1))], "nothing goes to the one without room");
    world.room(1, 2);
    assert_eq!(asked_back(&world.turn()), [], "it fits");

    world.room(1, 0);
    assert_eq!(asked_back(&world.turn()), [(worker(1), attempt(1, 1))], "what has begun goes on");
}

#[test]
fn a_worker_whose_room_shrinks_is_asked_for_after_what_it_was_given() {
    let mut world = World::open(2);
    world.take(&[(1, 1), (2, 1)]);
    let first = world.turn();
    assert_eq!(handed(&first).len(), 2);
    // it has not heard of them yet
    world.room(1, 1);
    let turn = world.turn();
    assert_eq!(asked_back(&turn), [(worker(1), attempt(2, 1))]);
    assert!(
        !turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToWorker(_, ToWorker::Return(_)))),
        "in their order"
    );
}

/// The last credit of a turn.
fn credit(turn: &Turn) -> Option<Credit> {
    let mut credits = turn.at_once.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToController(_, FromEndpoint::Credit(credit)) => Some(credit.clone()),
        Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    credits.next_back()
}

#[test]
fn credit_that_is_not_used_is_taken_back_when_the_room_shrinks() {
    let mut world = World::open(4);
    world.take(&[(1, 1)]);
    assert_eq!(credit(&world.turn()), None, "enough are on their way");
    world.room(1, 2);
    assert_eq!(credit(&world.turn()), Some(credits(3, 1)), "one has come, two may");
    world.room(1, 2);
    assert_eq!(credit(&world.turn()), None, "it is said once");
    world.room(1, 0);
    assert_eq!(credit(&world.turn()), Some(credits(1, 1)), "none may come any more");
    // leased before the controller heard it
    world.take(&[(2, 1), (3, 1), (4, 1)]);
    let turn = world.turn();
    assert_eq!((credit(&turn), handed(&turn)), (None, vec![]));
    assert_eq!(world.scheduler.ledger().waiting().count(), 3, "they wait, and none is over");
    assert_eq!(world.scheduler.ledger().unrecorded(), 0);
    world.room(1, 6);
    let turn = world.turn();
    assert_eq!(handed(&turn).len(), 3);
    assert_eq!(credit(&turn), Some(credits(4 + 6, 1)), "what came late was counted");
}

#[test]
fn the_credit_of_a_worker_that_is_out_of_sight_is_taken_back() {
    let mut world = World::open(4);
    world.scheduler.worker_disconnected(worker(1), ConnectionId(1), world.now);
    assert_eq!(credit(&world.turn()), Some(credits(0, 0)));
    world.join(1, 4, vec![]);
    assert_eq!(credit(&world.turn()), Some(credits(4, 1)));
}

#[test]
fn who_takes_no_more_tasks_takes_its_credit_back() {
    let stops: [fn(&mut Scheduler, Instant); 2] = [|scheduler, _| scheduler.drain(), Scheduler::leave];
    for stop in stops {
        let mut world = World::open(4);
        world.take(&[(1, 1)]);
        world.turn();
        stop(&mut world.scheduler, world.now);
        assert_eq!(credit(&world.turn()), Some(credits(1, 0)));
        // it was on its way
        world.take(&[(2, 1)]);
        assert_eq!(credit(&world.turn()), None);
        assert!(world.scheduler.ledger().get(attempt(2, 1)).is_some(), "it is not lost");
    }
}

#[test]
fn what_a_dead_worker_had_is_lost_and_never_given_to_another_here() {
    let mut world = World::open(1);
    world.take(&[(1, 1), (2, 1)]);
    world.turn();
    world.scheduler.on_worker_message(worker(1), FromWorker::Started(vec![attempt(1, 1)]), world.now);
    world.join(2, 0, vec![]);
    world.scheduler.worker_ended(worker(1), KILLED);
    world.join(3, 1, vec![]);
    let turn = world.turn();
    let reports = turn.at_once.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToController(_, FromEndpoint::Reports(reports)) => Some(reports.clone()),
        Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    let reports = reports.flatten().collect::<Vec<_>>();
    assert!(
        matches!(&reports[..], [one] if one.attempt == attempt(1, 1) && one.outcome == Outcome::Lost(Loss::NodeLost))
    );
    assert_eq!(handed(&turn), [(worker(3), attempt(2, 1))], "the one that waited");
    assert!(turn.entries.contains(&Entry::WorkerEnded { worker: worker(1), ending: KILLED }));
}

#[test]
fn the_controller_hears_of_the_beginning_of_attempts_that_last() {
    let mut world = World::open(2);
    world.take(&[(1, 1), (2, 1)]);
    world.turn();
    world.scheduler.on_worker_message(worker(1), FromWorker::Started(vec![attempt(1, 1), attempt(2, 1)]), world.now);
    let started = |turn: &Turn| {
        let said = turn.at_once.iter().filter_map(|outgoing| match outgoing {
            Outgoing::ToController(_, FromEndpoint::Started(attempts)) => Some(attempts.clone()),
            Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
        });
        said.flatten().collect::<Vec<_>>()
    };
    assert_eq!(started(&world.turn()), []);
    assert_eq!(world.scheduler.due(), Some(world.now + STARTED));
    world.over(1, 1, 1);
    world.turn();
    world.now += STARTED;
    assert_eq!(started(&world.turn()), [attempt(2, 1)]);
    assert_eq!(world.scheduler.due(), None);
}

#[test]
fn cancelled_and_fenced_attempts_end() {
    let mut world = World::open(1);
    world.take(&[(1, 1), (2, 1), (3, 1)]);
    world.turn();
    let stop = |task, reason| Stop { attempt: attempt(task, 1), reason };
    let stops = vec![
        stop(1, StopReason::Cancelled),
        stop(2, StopReason::Cancelled),
        stop(3, StopReason::Fenced),
        stop(8, StopReason::Fenced),
    ];
    world.hear(ToEndpoint::Stop(stops));
    let turn = world.turn();
    assert!(
        turn.at_once.contains(&Outgoing::ToWorker(worker(1), ToWorker::Stop(vec![stop(1, StopReason::Cancelled)])))
    );
    let over = Reported { attempt: attempt(2, 1), outcome: Outcome::Cancelled, result: TaskResult::default() };
    assert_eq!(turn.entries, [Entry::Reported(over), Entry::Settled(vec![attempt(3, 1)])]);
    // a newer attempt of a task that a worker still has
    world.take(&[(1, 2)]);
    let turn = world.turn();
    let fenced = Outgoing::ToWorker(worker(1), ToWorker::Stop(vec![stop(1, StopReason::Fenced)]));
    assert!(turn.at_once.contains(&fenced), "{turn:?}");
    assert_eq!(handed(&turn), [], "its slot is not free before it has ended");
}

#[test]
fn a_new_session_hears_what_the_last_one_may_have_missed() {
    let mut world = World::open(1);
    world.take(&[(1, 1)]);
    world.turn();
    world.scheduler.session_closed();
    world.over(1, 1, 1);
    assert!(world.turn().at_once.is_empty(), "there is nobody to tell");
    world.scheduler.session_opened(own(), LEASE, "{}".into(), world.now);
    let turn = world.turn();
    let said = turn.at_once.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToController(_, message) => Some(message),
        Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    let said = said.collect::<Vec<_>>();
    assert!(
        matches!(said[..], [FromEndpoint::Heartbeat { .. }, FromEndpoint::Reports(_), FromEndpoint::Credit(_)]),
        "first what it has, then how it ended, then what it wants: {said:?}"
    );
}

#[test]
fn who_leaves_gives_back_what_it_has() {
    let mut world = World::open(1);
    world.take(&[(1, 1), (2, 1)]);
    world.turn();
    world.scheduler.leave(world.now);
    let turn = world.turn();
    assert!(turn.at_once.contains(&Outgoing::ToWorker(worker(1), ToWorker::Leave)) && !world.scheduler.idle());
    world.scheduler.worker_ended(worker(1), KILLED);
    world.take(&[(3, 1)]);
    world.turn();
    let outcomes: BTreeMap<AttemptId, Outcome> =
        world.scheduler.ledger().reports().map(|reported| (reported.attempt, reported.outcome.clone())).collect();
    let lost = |loss| Outcome::Lost(loss);
    let wanted = [(1, lost(Loss::Stopped)), (2, lost(Loss::Returned)), (3, lost(Loss::Returned))];
    assert_eq!(outcomes, wanted.map(|(task, outcome)| (attempt(task, 1), outcome)).into());
    assert!(world.scheduler.idle());
}

#[test]
fn places_have_slots_of_their_own() {
    let mut world = World::open(1);
    let setup = TaskSpec::BatchSetup(BatchSetupSpec { directories: vec!["/a".into()] });
    let login = Offer { spec: setup, ..offer(5, 1) };
    world.hear(ToEndpoint::Leases(vec![offer(1, 1), offer(2, 1), login]));
    let handed: BTreeSet<AttemptId> = handed(&world.turn()).into_iter().map(|(_, attempt)| attempt).collect();
    assert_eq!(handed, [attempt(1, 1), attempt(5, 1)].into());
}

#[test]
fn what_must_be_over_does_not_begin() {
    let mut world = World::open(1);
    let late = |task, seconds| Offer { time_left: Some(Duration::from_secs(seconds)), ..offer(task, 1) };
    world.hear(ToEndpoint::Leases(vec![late(1, 30), late(2, 30), late(3, 100)]));
    let told: Vec<_> = said_to_workers(&world.turn());
    let [(_, ToWorker::Work(work))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(work[0].time_left, Some(Duration::from_secs(30)), "{work:?}");
    // nobody answers, and the slot is not free
    world.now += Duration::from_secs(30);
    let turn = world.turn();
    let ended = turn.at_once.iter().chain(&turn.after_write).find_map(|outgoing| match outgoing {
        Outgoing::ToController(_, FromEndpoint::Reports(reports)) => Some(reports.clone()),
        Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    let ended = ended.expect("it is told");
    assert_eq!((ended.len(), ended[0].attempt), (1, attempt(2, 1)), "{ended:?}");
    assert_eq!(ended[0].outcome, Outcome::Failed(Failure::deadline()));
}

#[test]
fn large_results_go_in_several_messages() {
    let mut world = World::open(8);
    world.take(&[(1, 1), (2, 1), (3, 1)]);
    world.turn();
    let document = "x".repeat(MOST_BYTES * 3 / 4);
    let reports = (1..4).map(|task| reported(attempt(task, 1), &document)).collect();
    world.scheduler.on_worker_message(worker(1), FromWorker::Reports(reports), world.now);
    let turn = world.turn();
    let messages = turn
        .at_once
        .iter()
        .filter(|outgoing| matches!(outgoing, Outgoing::ToController(_, FromEndpoint::Reports(_))))
        .count();
    assert_eq!(messages, 2);
}

#[derive(Debug, Clone)]
enum Step {
    Take(u128, u32),
    Join(u128, Vec<(u128, u32)>),
    HangUp(u128),
    Ended(u128),
    Began(u128, u128, u32),
    Naming(u128, u128, u32),
    Over(u128, u128, u32),
    Progress(u128, u128, u32),
    Beat(u128),
    Room(u128, u32),
    Stop(u128, u32, StopReason),
    Recorded(u128, u32),
    Open,
    Close,
    Heartbeat,
    Renew,
    Later(u64),
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || (1u128..5, 1u32..4);
    let who = || 1u128..4;
    let reasons = vec![StopReason::Cancelled, StopReason::Deadline, StopReason::Fenced];
    prop_oneof![
        4 => id().prop_map(|(task, number)| Step::Take(task, number)),
        3 => (who(), prop::collection::vec(id(), 0..4)).prop_map(|(who, has)| Step::Join(who, has)),
        1 => who().prop_map(Step::HangUp),
        1 => who().prop_map(Step::Ended),
        2 => (who(), id()).prop_map(|(who, (task, number))| Step::Began(who, task, number)),
        2 => (who(), id()).prop_map(|(who, (task, number))| Step::Naming(who, task, number)),
        4 => (who(), id()).prop_map(|(who, (task, number))| Step::Over(who, task, number)),
        1 => (who(), id()).prop_map(|(who, (task, number))| Step::Progress(who, task, number)),
        1 => who().prop_map(Step::Beat),
        2 => (who(), 0u32..3).prop_map(|(who, slots)| Step::Room(who, slots)),
        1 => (id(), prop::sample::select(reasons)).prop_map(|((task, number), why)| Step::Stop(task, number, why)),
        2 => id().prop_map(|(task, number)| Step::Recorded(task, number)),
        1 => Just(Step::Open),
        1 => Just(Step::Close),
        1 => Just(Step::Heartbeat),
        2 => Just(Step::Renew),
        1 => (1u64..80).prop_map(Step::Later),
        5 => Just(Step::Turn),
    ]
}

fn apply(world: &mut World, step: &Step) {
    let now = world.now;
    match step.clone() {
        Step::Take(task, number) => world.take(&[(task, number)]),
        Step::Join(who, has) => {
            world.join(who, 2, has.into_iter().map(|(task, number)| attempt(task, number)).collect())
        }
        Step::HangUp(who) => world.scheduler.worker_disconnected(worker(who), ConnectionId(world.connections), now),
        Step::Ended(who) => world.scheduler.worker_ended(worker(who), KILLED),
        Step::Began(who, task, number) => {
            world.scheduler.on_worker_message(worker(who), FromWorker::Started(vec![attempt(task, number)]), now);
        }
        Step::Naming(who, task, number) => world.name(who, task, number),
        Step::Over(who, task, number) => world.over(who, task, number),
        Step::Progress(who, task, number) => {
            let progress = Progress { attempt: attempt(task, number), step: "s".into(), done: 1, total: 2 };
            world.scheduler.on_worker_message(worker(who), FromWorker::Progress(progress), now);
        }
        Step::Beat(who) => world.scheduler.on_worker_message(worker(who), FromWorker::Beat { number: 1 }, now),
        Step::Room(who, slots) => world.room(who, slots),
        Step::Stop(task, number, reason) => {
            world.hear(ToEndpoint::Stop(vec![Stop { attempt: attempt(task, number), reason }]));
        }
        Step::Recorded(task, number) => {
            world.hear(ToEndpoint::Recorded { number: 0, attempts: vec![attempt(task, number)] });
        }
        Step::Open => world.scheduler.session_opened(own(), LEASE, "{}".into(), now),
        Step::Close => world.scheduler.session_closed(),
        Step::Heartbeat => world.scheduler.beat("{}".into(), now),
        Step::Renew => world.hear(ToEndpoint::Renewed { number: world.number }),
        Step::Later(seconds) => world.later(seconds),
        Step::Turn => {}
    }
}

proptest! {
    /// Whatever happens in whatever order: no attempt is ever given to two workers, none before that is written, and
    /// the journal makes the same ledger.
    #[test]
    fn entries_come_before_deeds(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let mut given: BTreeMap<AttemptId, WorkerId> = BTreeMap::new();
        let mut leased = BTreeSet::new();
        for step in &steps {
            // a controller leases no attempt twice
            if let Step::Take(task, number) = step && !leased.insert((task, number)) {
                continue;
            }
            apply(&mut world, step);
            if !matches!(step, Step::Turn) {
                continue;
            }
            let turn = world.turn();
            for outgoing in turn.at_once.iter().chain(&turn.after_write).chain(&turn.after_sync) {
                match outgoing {
                    Outgoing::ToController(number, FromEndpoint::Heartbeat { .. }) => world.number = *number,
                    Outgoing::ToController(_, FromEndpoint::Reports(reports)) => for report in reports {
                        let written = world.written.iter().any(|e| matches!(e, Entry::Reported(over) if over == report));
                        prop_assert!(written, "{report:?} is in no entry");
                    },
                    Outgoing::ToWorker(_, ToWorker::Named(attempts)) => for named in attempts {
                        let written = world.written.iter().any(|e| {
                            matches!(e, Entry::ResultNamed { task, result } if *task == named.task
                                && result.file.inode == u64::from(named.number.get()))
                        });
                        prop_assert!(written, "the name of {named} is in no entry");
                        prop_assert!(!turn.after_write.contains(outgoing) && !turn.at_once.contains(outgoing));
                    },
                    Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => {}
                }
            }
            if let Some(session) = world.scheduler.session.clone() {
                if let Some(said) = credit(&turn) {
                    prop_assert_eq!(&said, session.credit(), "what was said last counts");
                }
                for place in [Place::Slot, Place::Login] {
                    let waiting = world.scheduler.ledger.waiting().filter(|leased| leased.spec.kind().place() == place).count();
                    let (left, most) = (session.left(Lane::of(place, PoolKey::DEFAULT)), u64::from(world.scheduler.takes(place)));
                    prop_assert!(left == 0 || left + waiting as u64 <= most, "{left} may come, {waiting} wait, for {most}");
                }
            }
            let early = turn.at_once.iter().any(|outgoing| matches!(outgoing, Outgoing::ToWorker(_, ToWorker::Work(_) | ToWorker::Recorded(_))));
            prop_assert!(!early, "said before it was written: {:?}", turn.at_once);
            let early = turn.after_write.iter().any(|outgoing| matches!(outgoing, Outgoing::ToWorker(_, ToWorker::Recorded(_))));
            prop_assert!(!early, "said before it was on the disk: {:?}", turn.after_write);
            for (worker, attempt) in asked_back(&turn) {
                // in steps before this turn it may have begun, ended, or gone with its worker
                prop_assert_eq!(given.get(&attempt), Some(&worker), "{} is not its", attempt);
            }
            for entry in &turn.entries {
                // what is sent again to a worker that missed it is no new entry
                if let Entry::Handed { attempt, worker } = entry {
                    let fits = world.scheduler.workers.get(*worker).is_some_and(|state| state.surplus(Place::Slot) == 0);
                    prop_assert!(fits, "{} has no room for {}", worker, attempt);
                }
            }
            for (worker, attempt) in handed(&turn) {
                let entry = Entry::Handed { attempt, worker };
                prop_assert!(world.written.contains(&entry), "{entry:?} is not written");
                let first = *given.entry(attempt).or_insert(worker);
                prop_assert_eq!(first, worker, "{} went to two workers", attempt);
            }
        }
        world.turn();
        prop_assert_eq!(&crate::endpoint::ledger::tests::ledger(world.written.clone()), world.scheduler.ledger());
    }
}

#[test]
fn tasks_of_a_pool_that_is_not_served_are_refused_and_nobody_waits_for_them() {
    let mut world = World::open(4);
    let pool: Pool = r#"{"queue":"demand"}"#.parse().expect("a pool");
    world.hear(ToEndpoint::Backlog(vec![
        PoolBacklog { pool: pool.clone(), tasks: 3 },
        PoolBacklog { pool: Pool::default(), tasks: 9 },
    ]));
    let mut wanted = credits(4, 1);
    wanted.insert(Lane::Pool(pool.key()), REFUSED_AT_ONCE);
    assert_eq!(credit(&world.turn()), Some(wanted), "its own pool's is as before");
    world.hear(ToEndpoint::Leases(vec![Offer { pool: pool.key(), ..offer(1, 1) }]));
    let turn = world.turn();
    assert_eq!(handed(&turn), []);
    let reports = turn.at_once.iter().filter_map(|outgoing| match outgoing {
        Outgoing::ToController(_, FromEndpoint::Reports(reports)) => Some(reports.clone()),
        Outgoing::ToController(..) | Outgoing::ToWorker(..) | Outgoing::BlockRecorded(_) => None,
    });
    let reports: Vec<Reported> = reports.flatten().collect();
    assert!(
        matches!(&reports[..], [Reported { outcome: Outcome::Failed(failure), .. }] if failure.fault == Fault::Input),
        "{reports:?}"
    );
    world.hear(ToEndpoint::Backlog(Vec::new()));
    world.scheduler.session_closed();
    assert!(world.scheduler.refused.is_empty());
}
