//! Slots over a library that plays the GPUs: which there are, who has one, and what a self-test's end says.

use super::*;
use crate::gpu::fake::Fake;
use crate::ids::{AttemptNumber, TaskId};
use crate::task::failure::Failure;

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

/// Never within a test: looks are asked for.
const NEVER: Duration = Duration::from_secs(100_000);

const CHOICE: Choice =
    Choice { gpus: GpuUse::Auto, slots: 3, slots_per_gpu: NonZeroU32::new(2).unwrap(), quiet: Duration::from_secs(1) };

/// A node whose GPUs no other test has: locks go by UUID.
fn node(gpus: u32) -> Fake {
    let fake = Fake::new(gpus);
    (0..gpus).for_each(|gpu| fake.set(&format!("{gpu}.uuid"), &format!("GPU-{}", uuid::Uuid::new_v4())));
    fake
}

fn watch(fake: &Fake) -> GpuWatch {
    watch_with(fake, WatchSettings::default())
}

fn watch_with(fake: &Fake, settings: WatchSettings) -> GpuWatch {
    let settings = WatchSettings { library: fake.library(), interval: NEVER, overdue: NEVER, ..settings };
    GpuWatch::start(settings, |_| {}).expect("starts")
}

/// Slots by what a look has seen.
fn slots(fake: &Fake) -> Gpus {
    slots_by(watch(fake))
}

/// Slots of a node whose driver is tried again by each look.
fn slots_without_driver(fake: &Fake) -> Gpus {
    slots_by(watch_with(fake, WatchSettings { reopen: Duration::ZERO, ..WatchSettings::default() }))
}

fn slots_by(watch: GpuWatch) -> Gpus {
    let snapshot = watch.wait(LONG, |snapshot| snapshot.round > 0).expect("a look ends");
    Gpus::watched(CHOICE, watch, snapshot)
}

impl Gpus {
    /// Something else may be seen now.
    fn look_again(&mut self) {
        self.watch.as_ref().expect("is watched").fresh(LONG).expect("a look ends");
        self.list_again();
    }

    /// All tests that are wanted pass.
    fn pass(&mut self) {
        for test in self.tests() {
            self.tested(&test, TestOutcome::Passed);
        }
    }
}

fn attempt(task: u128) -> AttemptId {
    AttemptId { task: TaskId::new(uuid::Uuid::from_u128(task)), number: AttemptNumber::FIRST }
}

fn gpu(assigned: Option<AssignedSlot>) -> String {
    assigned.expect("a slot").gpu.expect("of a GPU").uuid
}

#[test]
fn a_gpu_that_could_not_be_read_gets_its_seats_when_it_can_be() {
    let fake = node(2);
    fake.set("0.error", "999");
    let mut gpus = slots(&fake);
    gpus.pass();
    assert_eq!((gpus.slots(), gpus.room()), (2, 2));
    assert!(gpus.trouble().expect("one is missing").contains("GPU 0"), "{:?}", gpus.trouble());
    let first = gpu(gpus.assign(attempt(1)));
    gpus.look_again();
    assert_eq!(gpus.slots(), 2, "nothing has changed");

    fake.unset("0.error");
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.trouble()), (4, None));
    gpus.pass();
    let others = [2, 3, 4].map(|task| gpu(gpus.assign(attempt(task))));
    assert_eq!(others[0], first, "who occupant stays where it is");
    assert!(others[1] == others[2] && others[1] != first, "{others:?}");
    assert_eq!(gpus.assign(attempt(5)), None);

    fake.set("0.error", "999");
    gpus.look_again();
    assert_eq!(gpus.slots(), 4, "once they are there they stay");
}

#[test]
fn a_driver_that_does_not_answer_at_the_start_is_no_node_without_gpus() {
    let fake = node(1);
    let hanging = fake.hang(1);
    let watch = watch(&fake);
    hanging.wait();
    let snapshot = watch.view().snapshot;
    let mut gpus = Gpus::watched(CHOICE, watch, snapshot);
    assert_eq!(gpus.slots(), 0);
    assert!(gpus.trouble().expect("it hangs").contains("has not answered"), "{:?}", gpus.trouble());
    fake.unset("hang");
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.trouble()), (2, None));
}

#[test]
fn a_driver_that_does_not_list_its_gpus_is_asked_again() {
    let fake = node(2);
    fake.set("gpus", "error 999");
    let mut gpus = slots(&fake);
    assert_eq!(gpus.slots(), 0, "none on the CPU");
    assert!(gpus.trouble().expect("it fails").contains("does not list its GPUs"), "{:?}", gpus.trouble());
    fake.set("gpus", "2");
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.trouble()), (4, None));
}

#[test]
fn a_node_that_has_no_gpus_after_all_computes_on_the_cpu() {
    let fake = node(0);
    fake.set("gpus", "error 999");
    let mut gpus = slots(&fake);
    assert_eq!(gpus.room(), 0);
    fake.set("gpus", "0");
    gpus.look_again();
    assert_eq!((gpus.room(), gpus.trouble()), (CHOICE.slots, None));
    assert_eq!(gpus.assign(attempt(1)), Some(AssignedSlot { gpu: None }));
}

#[test]
fn gpus_that_appear_late_take_the_place_of_the_cpu() {
    let fake = node(1);
    fake.set("init", "9");
    let mut gpus = slots_without_driver(&fake);
    assert_eq!((gpus.slots(), gpus.room(), gpus.trouble()), (3, 3, None), "no driver is no trouble");
    for task in [1, 2] {
        assert_eq!(gpus.assign(attempt(task)), Some(AssignedSlot { gpu: None }));
    }
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.room()), (3, 3), "it is still not there");

    fake.unset("init");
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.room()), (2 + 2, 2), "the free slot on the CPU has gone, the GPU is not tested");
    assert_eq!(gpus.assign(attempt(3)), None, "nothing new begins on the CPU");
    gpus.pass();
    assert_eq!(gpus.room(), 2 + 2);
    gpu(gpus.assign(attempt(3)));
    gpus.release(attempt(1));
    assert_eq!((gpus.slots(), gpus.room()), (1 + 2, 1 + 2), "the slot ends with its attempt");
    gpus.remains(attempt(2), None);
    assert_eq!((gpus.slots(), gpus.room()), (1 + 2, 2));
    gpus.gone(attempt(2));
    assert_eq!((gpus.slots(), gpus.room()), (2, 2));
    gpu(gpus.assign(attempt(4)));
    assert_eq!(gpus.assign(attempt(5)), None);
}

#[test]
fn a_driver_that_comes_late_and_does_not_work_takes_no_seat_away() {
    let fake = node(1);
    fake.set("init", "9");
    let mut gpus = slots_without_driver(&fake);
    fake.set("init", "18");
    gpus.look_again();
    assert!(gpus.trouble().is_some_and(|words| words.contains("was replaced")), "{:?}", gpus.trouble());
    assert_eq!(gpus.assign(attempt(1)), Some(AssignedSlot { gpu: None }));
    fake.unset("init");
    gpus.look_again();
    assert_eq!((gpus.slots(), gpus.trouble()), (1 + 2, None));
}

#[test]
fn an_attempt_on_a_suspect_gpu_takes_no_room_of_the_others() {
    let mut gpus = slots(&node(2));
    gpus.pass();
    gpu(gpus.assign(attempt(1)));
    let suspect = gpus.own[0].identity.uuid.clone();
    gpus.watch.as_ref().expect("is watched").self_tested(&suspect, Era::default(), TestOutcome::NotRun);
    assert_eq!(gpus.room(), 1 + 2, "its own slot, and those of the other GPU");
    let others = [2, 3].map(|task| gpu(gpus.assign(attempt(task))));
    assert!(others.iter().all(|other| *other != suspect.to_string()), "{others:?}");
    assert_eq!(gpus.assign(attempt(4)), None);
    gpus.release(attempt(1));
    assert_eq!(gpus.room(), 2);
}

#[test]
fn a_process_that_does_not_end_keeps_its_seat() {
    let mut gpus = slots(&node(1));
    gpus.pass();
    gpu(gpus.assign(attempt(1)));
    gpus.remains(attempt(1), Some(4711));
    assert_eq!(gpus.room(), 1);
    assert!(gpus.facts()[0].reasons.join(" ").contains("process 4711 was killed and does not end"), "it is told");
    gpu(gpus.assign(attempt(2)));
    assert_eq!(gpus.assign(attempt(3)), None, "the slot is taken");
    gpus.release(attempt(2));
    gpus.gone(attempt(1));
    assert_eq!((gpus.room(), gpus.facts()[0].reasons.len()), (2, 0));

    let mut cpus = Gpus::cpus(CHOICE);
    cpus.assign(attempt(1)).expect("a slot");
    cpus.remains(attempt(1), None);
    assert_eq!(cpus.room(), 2);
    cpus.gone(attempt(1));
    assert_eq!(cpus.room(), 3);
}

#[test]
fn what_a_gpu_used_is_told_if_it_was_looked_at_meanwhile() {
    let fake = node(1);
    let mut gpus = slots(&fake);
    gpus.pass();
    gpu(gpus.assign(attempt(1)));
    fake.set("0.energy", "7209500");
    assert_eq!(gpus.release(attempt(1)), None, "nobody has looked");
    gpu(gpus.assign(attempt(2)));
    gpus.watch.as_ref().expect("is watched").fresh(LONG).expect("a look ends");
    assert_eq!(gpus.release(attempt(2)), Some(9_500));
    assert_eq!(gpus.release(attempt(3)), None, "it did not sit");
}

#[test]
fn a_self_test_that_does_not_end_keeps_its_gpu() {
    let mut gpus = slots(&node(1));
    let [test] = gpus.tests().try_into().expect("one");
    // another instance of a divided GPU could have passed
    gpus.tested(&test, TestOutcome::Passed);
    gpus.test_remains(&test, attempt(9), Some(4711));
    assert_eq!((gpus.room(), gpus.assign(attempt(1))), (0, None));
    assert!(gpus.facts()[0].reasons.join(" ").contains("process 4711"), "it is told");
    gpus.gone(attempt(9));
    assert_eq!(gpus.room(), 2);
}

#[test]
fn a_self_test_that_could_not_be_run_is_tried_again_later() {
    let mut gpus = slots(&node(1));
    let [test] = gpus.tests().try_into().expect("one");
    gpus.tested(&test, TestOutcome::NotRun);
    assert_eq!((gpus.tests(), gpus.room()), (vec![], 0), "not at once");
    let facts = gpus.facts().remove(0);
    assert_eq!(facts.state, GpuState::Suspect, "no fault of the GPU");
    assert!(facts.reasons.join(" ").contains("could not be run"), "{facts:?}");
}

#[test]
fn only_what_the_gpu_did_counts_against_it() {
    let failed = |fault| life::Outcome::Failed(Failure::new(fault, "words"));
    let cases = [
        (life::Outcome::Succeeded, TestOutcome::Passed),
        // wrong numbers; a time limit
        (failed(Fault::Program), TestOutcome::Failed),
        (life::Outcome::Lost(Loss::GpuFault), TestOutcome::Failed),
        // no memory
        (failed(Fault::Input), TestOutcome::NotRun),
        // not started, for want of disk or memory; killed, for want of memory
        (life::Outcome::Lost(Loss::Crashed), TestOutcome::NotRun),
        (life::Outcome::Cancelled, TestOutcome::NotRun),
    ];
    for (ended, wanted) in cases {
        assert_eq!(verdict(&ended), wanted, "{ended:?}");
    }
}
