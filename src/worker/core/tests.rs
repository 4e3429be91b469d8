//! The core with slots that the test plays: examples of what it decides, and what holds whatever happens.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::{AttemptNumber, TaskId};
use crate::protocol::session::StopReason;
use crate::task::failure::{Failure, Fault, Lack};
use crate::task::result::FileMark;
use crate::task::spec::BatchSetupSpec;

const LASTS: Duration = Duration::from_secs(60);

/// So many slots, and who has them.
struct Taken {
    slots: usize,
    by: BTreeSet<AttemptId>,
}

impl Slots for Taken {
    fn has_free(&self) -> bool {
        self.by.len() < self.slots
    }

    fn assign(&mut self, attempt: AttemptId) -> Option<AssignedSlot> {
        let is_free = self.has_free();
        is_free.then(|| {
            self.by.insert(attempt);
            AssignedSlot { gpu: None }
        })
    }
}

/// A core, its slots, and what became of its attempts.
struct Played {
    core: Core,
    slots: Taken,
    now: Instant,
    /// Attempts with a process.
    running: BTreeSet<AttemptId>,
    stopped: BTreeSet<AttemptId>,
    published: Vec<AttemptId>,
    said: Vec<FromWorker>,
    checks: u32,
    dials: u32,
}

impl Played {
    fn new(slots: usize) -> Self {
        let now = Instant::now();
        let slots = Taken { slots, by: BTreeSet::new() };
        let (running, stopped) = (BTreeSet::new(), BTreeSet::new());
        let (core, published, said) = (Core::new(1, now), Vec::new(), Vec::new());
        let mut played = Self { core, slots, now, running, stopped, published, said, checks: 0, dials: 0 };
        let facts = WorkerFacts { room: Room { slots: 2, login: 0 }, ..WorkerFacts::default() };
        played.core.tell_facts(facts, now);
        played
    }

    /// One that is connected, on a node that can work, with a lease.
    fn ready(slots: usize) -> Self {
        let mut played = Self::new(slots);
        played.core.connected(played.now);
        played.core.roots_changed();
        played.turn();
        played.core.checked(Ok(()), played.now);
        played.lease();
        played
    }

    fn lease(&mut self) {
        let beat = self.said.iter().rev().find_map(|said| match said {
            FromWorker::Beat { number } => Some(*number),
            FromWorker::Started(_)
            | FromWorker::Progress(_)
            | FromWorker::Naming { .. }
            | FromWorker::Reports(_)
            | FromWorker::Facts(_)
            | FromWorker::Leaving => None,
        });
        if let Some(number) = beat {
            self.core.on_message(ToWorker::Lease { number, lasts: LASTS }, self.now);
        }
        self.turn();
    }

    fn turn(&mut self) {
        let _alone = self.core.tick(self.now);
        let slots = u32::try_from(self.slots.slots).expect("a test has few");
        let facts = WorkerFacts { room: Room { slots, login: 0 }, ..WorkerFacts::default() };
        self.core.tell_facts(facts, self.now);
        self.core.turn(&mut self.slots, self.now);
        for action in self.core.actions() {
            match action {
                Action::Launch(launch) => {
                    assert!(self.running.insert(launch.attempt), "started twice: {launch:?}");
                    assert!(self.core.lease.left(self.now).is_some() && self.core.node == Node::Fit);
                }
                Action::Stop(attempt) => drop(self.stopped.insert(attempt)),
                Action::Publish(attempt) => self.published.push(attempt),
                Action::Send(said) => self.said.push(said),
                Action::Dial(_) => self.dials += 1,
                Action::CheckNode => self.checks += 1,
            }
        }
    }

    fn work(&mut self, numbers: &[u128]) {
        let handouts = numbers.iter().map(|number| handout(*number)).collect();
        self.core.on_message(ToWorker::Work(handouts), self.now);
        self.turn();
    }

    fn finish(&mut self, attempt: AttemptId, outcome: Outcome) {
        assert!(self.running.remove(&attempt), "{attempt} has no process");
        self.slots.by.remove(&attempt);
        self.core.finished(attempt, outcome, TaskResult::default(), self.now);
        self.turn();
    }

    /// Those that were reported on this connection, in their order.
    fn reported(&self) -> Vec<(AttemptId, Outcome)> {
        let reports = self.said.iter().filter_map(|said| match said {
            FromWorker::Reports(reports) => Some(reports),
            FromWorker::Started(_)
            | FromWorker::Progress(_)
            | FromWorker::Naming { .. }
            | FromWorker::Beat { .. }
            | FromWorker::Facts(_)
            | FromWorker::Leaving => None,
        });
        reports.flatten().map(|report| (report.attempt, report.outcome.clone())).collect()
    }

    fn facts(&self) -> WorkerFacts {
        let facts = self.said.iter().rev().find_map(|said| match said {
            FromWorker::Facts(facts) => Some(facts.clone()),
            FromWorker::Started(_)
            | FromWorker::Progress(_)
            | FromWorker::Naming { .. }
            | FromWorker::Beat { .. }
            | FromWorker::Reports(_)
            | FromWorker::Leaving => None,
        });
        facts.expect("it has said what it has")
    }
}

fn id(number: u128) -> AttemptId {
    AttemptId { task: TaskId::new(Uuid::from_u128(number)), number: AttemptNumber::FIRST }
}

#[test]
fn what_must_be_over_when_a_slot_is_free_does_not_begin() {
    let mut played = Played::ready(1);
    let late = Handout { time_left: Some(Duration::from_secs(1)), ..handout(4) };
    played.core.on_message(ToWorker::Work(vec![handout(2), late, handout(6)]), played.now);
    played.turn();
    assert_eq!(played.running, [id(2)].into());
    played.now += Duration::from_secs(1);
    played.finish(id(2), Outcome::Succeeded);
    assert_eq!(played.running, [id(6)].into(), "{:?}", played.said);
    assert!(played.reported().contains(&(id(4), Outcome::Failed(Failure::deadline()))), "{:?}", played.said);
}

#[test]
fn what_is_late_is_not_published() {
    let mut played = Played::ready(1);
    let late = Handout { time_left: Some(Duration::from_secs(1)), ..handout(2) };
    played.core.on_message(ToWorker::Work(vec![late]), played.now);
    played.turn();
    let file = FileMark { inode: 1, bytes: 1, modified_ns: 1 };
    played.core.naming(id(2), NamedResult { path: "/out/a.hdf".into(), file });
    // it did not run for a while
    played.now += Duration::from_secs(1);
    played.core.on_message(ToWorker::Named(vec![id(2)]), played.now);
    played.turn();
    assert_eq!(played.published, []);
}

/// Even ones compute, odd ones do not.
fn handout(number: u128) -> Handout {
    let spec = if number.is_multiple_of(2) {
        TaskSpec::Correlate(Box::new(crate::task::correlate::CorrelateSpec::new("/raw", "/qmap", "/out")))
    } else {
        TaskSpec::BatchSetup(BatchSetupSpec { directories: Vec::new() })
    };
    Handout { attempt: id(number), spec, earlier: None, time_left: None }
}

fn unfit() -> Outcome {
    Outcome::Lost(Loss::Unfit(Unfit::new(Lack::Root, "the root /data is not there")))
}

#[tokio::test(start_paused = true)]
async fn a_result_is_published_once_its_name_is_settled() {
    let mut played = Played::ready(2);
    played.work(&[2, 4]);
    let result = NamedResult { path: "/r".into(), file: FileMark { inode: 1, bytes: 2, modified_ns: 3 } };
    played.core.naming(id(2), result.clone());
    played.core.naming(id(6), result.clone());
    played.turn();
    let asked = FromWorker::Naming { attempt: id(2), result };
    let asks = |said: &[FromWorker]| said.iter().filter(|said| matches!(said, FromWorker::Naming { .. })).count();
    assert_eq!((asks(&played.said), played.said.contains(&asked)), (1, true), "of those that have a process");
    // the answer may have been lost with the connection
    played.core.disconnected(played.now);
    played.core.connected(played.now);
    played.turn();
    assert_eq!(asks(&played.said), 2);
    let answer = || ToWorker::Named(vec![id(2), id(4), id(6)]);
    (0..2).for_each(|_| played.core.on_message(answer(), played.now));
    played.turn();
    assert_eq!(played.published, [id(2)], "once, and not what never asked");
    played.core.disconnected(played.now);
    played.core.connected(played.now);
    played.turn();
    assert_eq!(asks(&played.said), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_says_that_it_has_no_room_before_it_gives_back() {
    let mut played = Played::ready(1);
    played.work(&[2, 4]);
    played.said.clear();
    played.core.leave(played.now);
    played.turn();
    let place = |wanted: fn(&FromWorker) -> bool| played.said.iter().position(wanted).expect("is said");
    let room = place(|said| matches!(said, FromWorker::Facts(facts) if facts.room == Room::default()));
    assert!(room < place(|said| matches!(said, FromWorker::Reports(_))), "{:?}", played.said);
}

#[tokio::test(start_paused = true)]
async fn attempts_wait_until_the_node_was_checked() {
    let mut played = Played::new(2);
    played.core.connected(played.now);
    played.core.roots_changed();
    played.turn();
    played.lease();
    played.work(&[2]);
    assert_eq!((played.checks, played.running.len()), (1, 0));
    played.core.checked(Ok(()), played.now);
    played.turn();
    assert_eq!(played.running, [id(2)].into());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_work_gives_back_and_says_why_and_is_checked_again() {
    let mut played = Played::ready(1);
    played.work(&[2, 4, 6, 8, 10]);
    for number in [2, 4] {
        played.finish(id(number), unfit());
    }
    assert_eq!(played.running, [id(6)].into(), "two in a row may be by chance");
    played.finish(id(6), unfit());
    assert!(played.running.is_empty());
    let back: Vec<_> = played.reported().into_iter().skip(3).collect();
    assert_eq!(back, [8, 10].map(|number| (id(number), Outcome::Lost(Loss::Returned))));
    let facts = played.facts();
    assert_eq!(facts.room, Room::default());
    assert_eq!(facts.trouble.as_deref(), Some("this node cannot work: the root /data is not there"));
    // what comes before the endpoint has heard of it
    played.work(&[12]);
    assert_eq!(played.reported().last(), Some(&(id(12), Outcome::Lost(Loss::Returned))));
    // checked again, in vain, then not
    assert_eq!(played.checks, 1);
    played.now += CHECK_AGAIN;
    played.turn();
    assert_eq!(played.checks, 2);
    played.core.checked(Err("it is not there yet".to_owned()), played.now);
    played.turn();
    assert!(played.facts().trouble.is_some_and(|trouble| trouble.ends_with("not there yet")));
    played.now += CHECK_AGAIN;
    played.turn();
    played.core.checked(Ok(()), played.now);
    played.lease();
    assert_eq!((played.facts().room.slots, played.facts().trouble), (1, None));
    played.work(&[14]);
    assert_eq!(played.running, [id(14)].into());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_could_work_ends_the_row() {
    let mut played = Played::ready(1);
    let failed = Outcome::Failed(Failure::new(Fault::Input, "no such file"));
    for (number, outcome) in [(2, unfit()), (4, unfit()), (6, failed), (8, unfit()), (10, unfit())] {
        played.work(&[number]);
        played.finish(id(number), outcome);
    }
    played.work(&[12]);
    assert_eq!(played.running, [id(12)].into());
}

#[tokio::test(start_paused = true)]
async fn of_executors_that_die_together_the_first_is_to_blame() {
    let mut played = Played::ready(3);
    played.work(&[2, 4, 6]);
    let crashed = || Outcome::Lost(Loss::Crashed);
    played.finish(id(2), crashed());
    played.finish(id(4), crashed());
    played.now += TAKEN_ALONG;
    played.finish(id(6), crashed());
    let losses: Vec<_> = played.reported().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(losses, [crashed(), Outcome::Lost(Loss::NodeLost), crashed()]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_recorded_is_said_again_on_the_next_connection() {
    let mut played = Played::ready(1);
    played.work(&[2, 4]);
    played.finish(id(2), Outcome::Succeeded);
    played.core.disconnected(played.now);
    played.turn();
    assert_eq!(played.core.attempts().len(), 2);
    played.said.clear();
    played.core.connected(played.now);
    played.turn();
    assert_eq!(played.reported(), [(id(2), Outcome::Succeeded)]);
    played.core.on_message(ToWorker::Recorded(vec![id(2)]), played.now);
    assert_eq!(played.core.attempts(), [id(4)]);
}

#[tokio::test(start_paused = true)]
async fn without_endpoint_and_lease_it_ends() {
    let mut played = Played::ready(1);
    played.work(&[2]);
    played.core.disconnected(played.now);
    played.now += LASTS;
    played.turn();
    assert!(played.stopped.contains(&id(2)), "another may have its task");
    played.finish(id(2), Outcome::Cancelled);
    assert_eq!(played.core.reports[&id(2)].outcome, Outcome::Lost(Loss::LeaseExpired));
    played.now += PATIENCE;
    assert!(played.core.tick(played.now).is_err());
}

/// What may happen to a worker.
#[derive(Debug, Clone)]
enum Step {
    Work(Vec<u128>),
    Stop(u128),
    Return(u128),
    Record,
    Lease,
    Finish(Outcome),
    Checked(Result<(), String>),
    Disconnect,
    Connect,
    RootsChange,
    Wait(u64),
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 1..30_u128;
    let outcome = prop_oneof![
        3 => Just(Outcome::Succeeded),
        1 => Just(Outcome::Cancelled),
        2 => Just(Outcome::Lost(Loss::Crashed)),
        4 => Just(unfit()),
        1 => Just(Outcome::Failed(Failure::new(Fault::Program, "why"))),
    ];
    prop_oneof![
        6 => prop::collection::vec(number(), 1..5).prop_map(Step::Work),
        2 => number().prop_map(Step::Stop),
        2 => number().prop_map(Step::Return),
        2 => Just(Step::Record),
        4 => Just(Step::Lease),
        8 => outcome.prop_map(Step::Finish),
        3 => any::<bool>().prop_map(|is_fit| Step::Checked(if is_fit { Ok(()) } else { Err("why".to_owned()) })),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::RootsChange),
        3 => (0..20_u64).prop_map(Step::Wait),
        1 => Just(Step::Leave),
    ]
}

proptest! {
    /// Whatever happens: no attempt is started twice, or without lease, slot and a node that can work ([`Played::turn`]
    /// looks); each that was taken is waiting, running or reported until that is recorded, and nowhere twice; a node that
    /// cannot work takes none; when the worker has left, all is reported.
    #[test]
    fn no_attempt_is_lost_or_doubled(steps in prop::collection::vec(step(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("one");
        let _guard = runtime.enter();
        let mut played = Played::new(2);
        let mut taken: BTreeSet<AttemptId> = BTreeSet::new();
        for step in steps {
            let now = played.now;
            match step {
                Step::Work(numbers) => {
                    taken.extend(numbers.iter().map(|number| id(*number)));
                    let is_unfit = played.core.node.why_unfit().is_some();
                    let waited = played.core.waiting.all().count();
                    played.work(&numbers);
                    prop_assert!(!is_unfit || played.core.waiting.all().count() <= waited);
                }
                Step::Stop(number) => {
                    let stop = Stop { attempt: id(number), reason: StopReason::Cancelled };
                    played.core.on_message(ToWorker::Stop(vec![stop]), now);
                }
                Step::Return(number) => played.core.on_message(ToWorker::Return(vec![id(number)]), now),
                Step::Record => {
                    let reports: Vec<AttemptId> = played.core.reports.keys().copied().collect();
                    taken.retain(|attempt| !reports.contains(attempt));
                    played.core.on_message(ToWorker::Recorded(reports), now);
                }
                Step::Lease => played.lease(),
                Step::Finish(outcome) => {
                    if let Some(attempt) = played.running.first().copied() {
                        played.finish(attempt, outcome);
                    }
                }
                Step::Checked(found) => played.core.checked(found, now),
                Step::Disconnect => played.core.disconnected(now),
                Step::Connect => played.core.connected(now),
                Step::RootsChange => played.core.roots_changed(),
                Step::Wait(seconds) => played.now += Duration::from_secs(seconds),
                Step::Leave => played.core.leave(now),
            }
            played.turn();
            let places = played.core.attempts();
            let distinct: BTreeSet<AttemptId> = places.iter().copied().collect();
            prop_assert_eq!(places.len(), distinct.len(), "in two places");
            prop_assert_eq!(&distinct, &taken);
            let computing = played.running.iter().filter(|attempt| played.slots.by.contains(attempt)).count();
            prop_assert!(computing <= 2);
            prop_assert_eq!(played.core.running.len(), played.running.len());
            if played.core.node.why_unfit().is_some() {
                prop_assert_eq!(played.core.waiting.all().count(), 0);
            }
            if played.core.has_left(Duration::ZERO, played.now) {
                prop_assert!(played.running.is_empty() && played.core.waiting.all().next().is_none());
            }
        }
    }
}
