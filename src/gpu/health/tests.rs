//! The state machine by examples and under random events.

use proptest::prelude::*;

use super::*;
use crate::gpu::sample::{EccErrors, RemappedRows, RetiredPages};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Short, and each number another one.
fn policy() -> Policy {
    Policy {
        settle: secs(3),
        suspect_quiet: secs(50),
        quarantine_quiet: secs(10),
        longest_quiet: secs(35),
        forget_after: secs(1_000),
        slowdown_lasts: secs(6),
        failed_samples: 3,
        program_failures: 3,
        failures_within: secs(100),
        one_failure: secs(2),
        replays_a_minute: 8,
    }
}

fn good() -> Event {
    Event::Sampled(Facts::default())
}

fn standing(cause: Cause) -> Event {
    Event::Sampled(Facts { standing: [cause].into(), ..Facts::default() })
}

fn counted(uncorrected: u64, replays: u64) -> Event {
    Event::Sampled(Facts { uncorrected: Some(uncorrected), replays: Some(replays), ..Facts::default() })
}

/// A machine with the seconds of its clock.
struct Bench {
    machine: Machine,
    now: u64,
}

impl Bench {
    /// Tested, hence healthy.
    fn healthy() -> Self {
        let mut bench = Self { machine: Machine::new(policy(), secs(0)), now: 0 };
        bench.passes();
        assert_eq!(bench.machine.state(), State::Healthy);
        bench
    }

    fn after(&mut self, seconds: u64, event: Event) -> State {
        self.now += seconds;
        self.machine.apply(secs(self.now), &event);
        self.machine.state()
    }

    /// The self-test that is wanted passes.
    fn passes(&mut self) -> State {
        let Wanted::SelfTest(era) = self.machine.wanted() else { panic!("no test is wanted: {:?}", self.machine) };
        self.after(0, Event::SelfTest(era, Outcome::Passed))
    }

    fn causes(&self) -> Vec<Cause> {
        self.machine.reasons().into_iter().map(|reason| reason.cause).collect()
    }
}

#[test]
fn a_gpu_begins_untested_and_waits_for_its_test_however_long() {
    let mut bench = Bench { machine: Machine::new(policy(), secs(0)), now: 0 };
    assert_eq!((bench.machine.state(), bench.causes()), (State::Suspect, vec![Cause::Untested]));
    assert_eq!(bench.after(100_000, good()), State::Suspect);
    assert!(!bench.machine.may_take_task());
    assert_eq!(bench.passes(), State::Healthy);
    assert!(bench.machine.may_take_task());
}

/// Invariant 7.
#[test]
fn grave_causes_quarantine_at_once() {
    let events = [
        (counted(1, 0), Cause::UncorrectableEcc),
        (standing(Cause::FailedRemap), Cause::FailedRemap),
        (standing(Cause::PendingRetirement), Cause::PendingRetirement),
        (Event::Xid(79), Cause::FatalXid(79)),
        (Event::Lost, Cause::Lost),
        (Event::NeedsReset, Cause::NeedsReset),
        (Event::SelfTest(Era(0), Outcome::Failed), Cause::SelfTestFailed),
    ];
    for (event, cause) in events {
        let mut bench = Bench::healthy();
        let transition = bench.machine.apply(secs(1), &event).expect("it changes");
        assert_eq!((transition.from, transition.to), (State::Healthy, State::Quarantined), "{event:?}");
        assert_eq!(bench.causes(), [cause]);
        assert!(!bench.machine.may_take_task());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "the quiet period begins");
    }
}

#[test]
fn lighter_causes_make_suspect_and_a_test_after_quiet_ends_it() {
    for event in [Event::Xid(32), Event::SampleFailed, Event::DriverSilent, standing(Cause::Hot)] {
        let mut bench = Bench::healthy();
        assert_eq!(bench.after(1, event.clone()), State::Suspect, "{event:?}");
        bench.after(1, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "{event:?}: it may come again");
        bench.after(3, good());
        assert_eq!(bench.passes(), State::Healthy, "{event:?}");
    }
}

#[test]
fn suspicion_ends_by_itself_after_a_long_quiet() {
    let mut bench = Bench::healthy();
    assert_eq!(bench.after(1, Event::Xid(32)), State::Suspect);
    assert_eq!(bench.after(49, good()), State::Suspect);
    assert_eq!(bench.after(1, Event::Tick), State::Healthy);
}

#[test]
fn errors_of_an_application_are_none_of_the_gpu() {
    let mut bench = Bench::healthy();
    for xid in [13, 31, 43, 45] {
        assert_eq!(bench.after(1, Event::Xid(xid)), State::Healthy, "{xid}");
    }
}

/// Several Xids of one failure count once; what is long ago does not count.
#[test]
fn programs_that_fail_again_and_again_have_the_gpu_tested() {
    for event in [Event::Xid(13), Event::Xid(31), Event::ProgramFailed] {
        let mut bench = Bench::healthy();
        for (wait, wanted) in [(2, State::Healthy), (1, State::Healthy), (99, State::Healthy), (97, State::Healthy)] {
            assert_eq!(bench.after(wait, event.clone()), wanted, "{event:?}");
        }
        assert_eq!(bench.after(1, event.clone()), State::Healthy, "it is the last one's");
        assert_eq!(bench.after(1, event.clone()), State::Suspect, "{event:?}");
        assert_eq!(bench.causes(), [Cause::ProgramsFail]);
        bench.after(3, good());
        assert_eq!(bench.passes(), State::Healthy);
        assert_eq!(bench.after(2, event.clone()), State::Healthy, "the count started again");
    }
}

#[test]
fn a_quarantine_ends_by_a_test_after_the_quiet_period_and_each_is_longer() {
    let mut bench = Bench::healthy();
    for quiet in [10, 20, 35, 35] {
        assert_eq!(bench.after(1, Event::Xid(48)), State::Quarantined);
        bench.after(quiet - 1, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "{quiet}");
        bench.after(1, good());
        assert_eq!(bench.passes(), State::Healthy, "{quiet}");
    }
    // never by itself
    assert_eq!(bench.after(1, Event::Xid(48)), State::Quarantined);
    assert_eq!(bench.after(500, good()), State::Quarantined);
    bench.passes();
    // long ago
    assert_eq!(bench.after(1_000, Event::Xid(48)), State::Quarantined);
    bench.after(10, good());
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn a_failed_test_in_quarantine_doubles_the_quiet_period() {
    let mut bench = Bench::healthy();
    bench.after(1, Event::Xid(48));
    bench.after(10, good());
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    bench.after(0, Event::SelfTest(era, Outcome::Failed));
    assert_eq!(bench.causes(), [Cause::FatalXid(48), Cause::SelfTestFailed]);
    bench.after(19, good());
    assert_eq!(bench.machine.wanted(), Wanted::Nothing);
    bench.after(1, good());
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn a_test_that_could_not_be_run_is_tried_again_and_counts_for_nothing() {
    let mut bench = Bench { machine: Machine::new(policy(), secs(0)), now: 0 };
    for _ in 0..5 {
        let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
        assert_eq!(bench.after(0, Event::SelfTest(era, Outcome::NotRun)), State::Suspect);
        bench.after(2, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "after a pause");
        bench.after(1, good());
    }
    assert_eq!(bench.causes(), [Cause::Untested, Cause::SelfTestNotRun]);
    assert_eq!(bench.passes(), State::Healthy);
    // whoever distrusts a GPU that is healthy has it tested
    assert_eq!(bench.after(1, Event::SelfTest(Era(0), Outcome::NotRun)), State::Suspect);
    assert_eq!(bench.after(1_000, Event::Tick), State::Suspect, "not trusted without a test");
    assert_eq!(bench.passes(), State::Healthy);
    // the first quarantine, its quiet as long as if there had been no such test
    assert_eq!(bench.after(1, Event::Xid(48)), State::Quarantined);
    bench.after(10, good());
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    assert_eq!(bench.after(0, Event::SelfTest(era, Outcome::NotRun)), State::Quarantined);
    bench.after(3, good());
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn of_a_divided_gpu_one_instance_that_could_be_tested_will_do() {
    let mut bench = Bench { machine: Machine::new(policy(), secs(0)), now: 0 };
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    assert_eq!(bench.after(0, Event::SelfTest(era, Outcome::NotRun)), State::Suspect);
    assert_eq!(bench.after(1, Event::SelfTest(era, Outcome::Passed)), State::Healthy);
}

#[test]
fn no_test_helps_while_the_cause_stands() {
    for (event, cause) in [
        (Event::Lost, Cause::Lost),
        (standing(Cause::PendingRetirement), Cause::PendingRetirement),
        (standing(Cause::FailedRemap), Cause::FailedRemap),
    ] {
        let mut bench = Bench::healthy();
        for _ in 0..20 {
            assert_eq!(bench.after(30, event.clone()), State::Quarantined);
            assert_eq!(bench.machine.wanted(), Wanted::Nothing);
            for era in 0..5 {
                assert_eq!(bench.after(0, Event::SelfTest(Era(era), Outcome::Passed)), State::Quarantined);
            }
        }
        assert!(bench.machine.reasons().iter().all(|reason| reason.stands), "{cause:?}");
        bench.after(1, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "it has just gone");
        bench.after(10, good());
        assert_eq!(bench.passes(), State::Healthy);
    }
}

#[test]
fn a_test_that_began_before_the_last_trouble_proves_nothing() {
    let mut bench = Bench::healthy();
    bench.after(1, Event::Xid(48));
    bench.after(10, good());
    let Wanted::SelfTest(old) = bench.machine.wanted() else { panic!("is due") };
    bench.after(1, Event::Xid(48));
    bench.after(15, good());
    assert_ne!(bench.machine.wanted(), Wanted::Nothing);
    assert_eq!(bench.after(0, Event::SelfTest(old, Outcome::Passed)), State::Quarantined);
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn memory_errors_are_counted_from_the_drivers_start() {
    let mut bench = Bench::healthy();
    assert_eq!(bench.after(1, counted(4, 0)), State::Quarantined, "errors from before");
    assert_eq!(bench.machine.reasons()[0].times, 4);
    bench.after(10, counted(4, 0));
    assert_eq!(bench.passes(), State::Healthy);
    assert_eq!(bench.after(1, counted(4, 0)), State::Healthy, "the same errors");
    assert_eq!(bench.after(1, counted(0, 0)), State::Healthy, "the driver was loaded again");
    assert_eq!(bench.after(1, counted(2, 0)), State::Quarantined);
    bench.after(20, counted(2, 0));
    assert_eq!(bench.passes(), State::Healthy);
    assert_eq!(bench.after(1, counted(1, 0)), State::Quarantined, "loaded again, and an error since");
}

#[test]
fn samples_that_keep_failing_quarantine() {
    let mut bench = Bench::healthy();
    assert_eq!(bench.after(1, Event::SampleFailed), State::Suspect);
    assert_eq!(bench.after(1, Event::SampleFailed), State::Suspect);
    assert_eq!(bench.after(1, Event::SampleFailed), State::Quarantined);
    assert_eq!(bench.causes(), [Cause::SampleFailed, Cause::SamplesKeepFailing]);
    // one that succeeds between breaks the row
    let mut bench = Bench::healthy();
    for _ in 0..9 {
        assert_eq!(bench.after(1, Event::SampleFailed), State::Suspect);
        bench.after(1, good());
    }
}

#[test]
fn only_a_slowdown_that_lasts_counts() {
    let mut bench = Bench::healthy();
    for _ in 0..9 {
        assert_eq!(bench.after(3, standing(Cause::Slowdown)), State::Healthy);
        assert_eq!(bench.after(3, standing(Cause::Slowdown)), State::Healthy);
        assert_eq!(bench.after(3, good()), State::Healthy);
    }
    bench.after(1, standing(Cause::Slowdown));
    assert_eq!(bench.after(5, standing(Cause::Slowdown)), State::Healthy);
    assert_eq!(bench.after(1, standing(Cause::Slowdown)), State::Suspect);
}

#[test]
fn replays_count_by_the_minute() {
    let mut bench = Bench::healthy();
    assert_eq!(bench.after(1, counted(0, 1_000)), State::Healthy, "from before");
    for minute in 1..9 {
        assert_eq!(bench.after(60, counted(0, 1_000 + 8 * minute)), State::Healthy);
    }
    assert_eq!(bench.after(10, counted(0, 1_064 + 9)), State::Suspect);
    assert_eq!(bench.causes(), [Cause::PcieReplays]);
    bench.after(3, counted(0, 1_073));
    assert_eq!(bench.passes(), State::Healthy);
    assert_eq!(bench.after(3, counted(0, 0)), State::Healthy, "the driver was loaded again");
    assert_eq!(bench.after(3, counted(0, 9)), State::Suspect);
}

#[test]
fn the_facts_of_a_sample() {
    let sample = Sample {
        temperature_c: Some(90),
        slowdown_c: Some(90),
        throttle: Some([Throttle::HardwareSlowdown].into()),
        ecc_volatile: Some(EccErrors { corrected: 9, uncorrected: 2 }),
        retired_pages: Some(RetiredPages { single_bit: 1, double_bit: 1, pending: true }),
        remapped_rows: Some(RemappedRows { corrected: 0, uncorrected: 1, pending: true, failed: true }),
        pcie_replays: Some(7),
        ..Sample::default()
    };
    let standing = [Cause::FailedRemap, Cause::PendingRetirement, Cause::Hot, Cause::Slowdown].into();
    assert_eq!(Facts::from(&sample), Facts { standing, uncorrected: Some(2), replays: Some(7) });
    let cool = Sample {
        temperature_c: Some(89),
        throttle: Some([Throttle::Idle, Throttle::PowerCap, Throttle::SoftwareThermal].into()),
        remapped_rows: Some(RemappedRows { corrected: 3, uncorrected: 1, pending: false, failed: false }),
        ecc_volatile: None,
        pcie_replays: None,
        retired_pages: None,
        ..sample
    };
    assert_eq!(Facts::from(&cool), Facts::default());
    assert_eq!(Facts::from(&Sample::default()), Facts::default());
}

#[test]
fn notes_are_no_facts_of_health() {
    let reasons = |reasons: &[Throttle]| Some(reasons.iter().copied().collect());
    let noted = Sample {
        throttle: reasons(&[Throttle::HardwareSlowdown, Throttle::PowerBrake]),
        remapped_rows: Some(RemappedRows { corrected: 0, uncorrected: 1, pending: true, failed: false }),
        ..Sample::default()
    };
    assert_eq!(Facts::from(&noted), Facts::default());
    assert_eq!(notes(&noted), [Note::PendingRemap, Note::PowerBrake]);
    assert_eq!(notes(&Sample::default()), []);
    // heat beside it is trouble
    let hot = Sample {
        throttle: reasons(&[Throttle::HardwareSlowdown, Throttle::PowerBrake, Throttle::HardwareThermal]),
        ..noted
    };
    assert_eq!(Facts::from(&hot).standing, [Cause::Slowdown].into());
}

#[test]
fn causes_are_told_as_sentences() {
    let reason = Reason { cause: Cause::FatalXid(79), since: secs(1), last: secs(2), times: 1, stands: false };
    let told = serde_json::to_value(reason).expect("to JSON");
    assert_eq!(told["cause"], "the driver reported the fatal error Xid 79");
    assert_eq!((&told["since_s"], &told["last_s"]), (&1.0.into(), &2.0.into()));
}

fn event() -> impl Strategy<Value = Event> {
    let facts = (
        proptest::collection::btree_set(
            prop_oneof![
                Just(Cause::FailedRemap),
                Just(Cause::PendingRetirement),
                Just(Cause::Hot),
                Just(Cause::Slowdown),
            ],
            0..2,
        ),
        proptest::option::of(0..3_u64),
        proptest::option::of((0..3_u64).prop_map(|tens| tens * 10)),
    );
    let outcome = prop_oneof![4 => Just(Outcome::Passed), 1 => Just(Outcome::Failed), 1 => Just(Outcome::NotRun)];
    prop_oneof![
        6 => Just(good()),
        2 => facts.prop_map(|(standing, uncorrected, replays)| Event::Sampled(Facts { standing, uncorrected, replays })),
        1 => Just(Event::SampleFailed),
        1 => Just(Event::Lost),
        1 => Just(Event::NeedsReset),
        1 => Just(Event::DriverSilent),
        2 => prop_oneof![Just(13), Just(32), Just(48), Just(79)].prop_map(Event::Xid),
        4 => (0..40_u64, outcome).prop_map(|(era, outcome)| Event::SelfTest(Era(era), outcome)),
        2 => Just(Event::Tick),
        1 => Just(Event::ProgramFailed),
    ]
}

/// What a step of a random run does.
#[derive(Debug, Clone)]
enum Step {
    Event(Event),
    /// The self-test that is wanted passes, if one is.
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![3 => event().prop_map(Step::Event), 1 => Just(Step::Pass)];
    proptest::collection::vec((prop_oneof![3 => 0..4_u64, 1 => 0..60_u64], step), 1..120)
}

/// What an event says that is bad, told without the machine: (is it grave, does it stand).
fn trouble(event: &Event) -> Option<(Grade, bool)> {
    match event {
        Event::Lost | Event::NeedsReset => Some((Grade::Quarantine, true)),
        Event::SampleFailed | Event::DriverSilent => Some((Grade::Suspect, true)),
        Event::Xid(48 | 79) | Event::SelfTest(_, Outcome::Failed) => Some((Grade::Quarantine, false)),
        Event::Xid(32) => Some((Grade::Suspect, false)),
        Event::Sampled(facts) => {
            let grave = [Cause::FailedRemap, Cause::PendingRetirement];
            let stands = facts.standing.iter().any(|cause| grave.contains(cause));
            stands.then_some((Grade::Quarantine, true))
        }
        Event::Xid(_) | Event::ProgramFailed | Event::SelfTest(_, Outcome::Passed | Outcome::NotRun) | Event::Tick => {
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// It is healthy again only by the self-test that was wanted, or from suspicion after a long quiet; never while a
    /// cause stands, and never sooner than the quiet period after the last trouble.
    #[test]
    fn trust_is_never_given_too_soon(steps in steps()) {
        let mut machine = Machine::new(policy(), secs(0));
        let (mut now, mut last_grave, mut last_any, mut stands) = (0, None, None, None);
        let mut not_run: Option<u64> = None;
        for (wait, step) in steps {
            now += wait;
            let before = machine.state();
            machine.apply(secs(now), &Event::Tick);
            let ticked = machine.state();
            prop_assert!(ticked == before || (before, ticked) == (State::Suspect, State::Healthy));
            prop_assert!(ticked == before || last_any.is_some_and(|at| now - at >= 50), "{:?}", last_any);
            let event = match (step, machine.wanted()) {
                (Step::Event(event), _) => event,
                (Step::Pass, Wanted::SelfTest(era)) => Event::SelfTest(era, Outcome::Passed),
                (Step::Pass, Wanted::Nothing) => Event::Tick,
            };
            let wanted = machine.wanted();
            machine.apply(secs(now), &event);
            match trouble(&event) {
                Some((Grade::Quarantine, standing)) => {
                    prop_assert_eq!(machine.state(), State::Quarantined, "{:?}", event);
                    (last_grave, last_any, stands) = (Some(now), Some(now), standing.then_some(()).or(stands));
                }
                Some((Grade::Suspect, standing)) => {
                    prop_assert!(!machine.may_take_task(), "{event:?}");
                    (last_any, stands) = (Some(now), standing.then_some(()).or(stands));
                }
                None if matches!(event, Event::SelfTest(_, Outcome::NotRun)) => {
                    prop_assert!(!machine.may_take_task(), "{event:?}");
                    prop_assert!(ticked == machine.state() || ticked == State::Healthy, "a fault of nothing");
                    not_run = Some(now);
                }
                // heat, replays, memory errors
                None if ticked == State::Healthy && machine.state() != State::Healthy => last_any = Some(now),
                None => {}
            }
            if matches!(&event, Event::Sampled(_)) && trouble(&event).is_none() {
                stands = None;
            }
            if ticked != State::Healthy && machine.may_take_task() {
                let pauses = not_run.is_some_and(|at| now - at < 3);
                prop_assert!(
                    matches!(event, Event::SelfTest(era, Outcome::Passed) if pauses || wanted == Wanted::SelfTest(era)),
                    "trusted by {event:?}"
                );
                prop_assert_eq!(stands, None, "a cause stands");
                prop_assert!(last_any.is_none_or(|at| now - at >= 3), "within the settling time");
                prop_assert!(ticked != State::Quarantined || last_grave.is_none_or(|at| now - at >= 10), "flaps");
            }
            prop_assert_eq!(machine.reasons().is_empty(), machine.state() == State::Healthy);
            prop_assert_eq!(machine.may_take_task(), machine.state() == State::Healthy);
            prop_assert!(machine.state() != State::Healthy || machine.wanted() == Wanted::Nothing);
        }
    }

    /// However bad it was: when all is well, it is healthy again after one test, within the longest quiet period.
    #[test]
    fn every_gpu_that_is_mended_comes_back(steps in steps()) {
        let (mut machine, mut now) = (Machine::new(policy(), secs(0)), 0);
        for (wait, step) in steps {
            now += wait;
            if let Step::Event(event) = step {
                machine.apply(secs(now), &event);
            }
        }
        machine.apply(secs(now), &good());
        machine.apply(secs(now + 60), &good());
        if let Wanted::SelfTest(era) = machine.wanted() {
            machine.apply(secs(now + 60), &Event::SelfTest(era, Outcome::Passed));
        }
        prop_assert_eq!(machine.state(), State::Healthy, "{:?}", machine);
    }
}
