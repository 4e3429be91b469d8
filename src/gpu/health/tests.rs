//! The state machine by examples and under random events.

use proptest::prelude::*;

use super::*;
use crate::gpu::sample::{EccErrors, RemappedRows, RetiredPages};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Short, and each number another one.
fn policy() -> HealthPolicy {
    HealthPolicy {
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

fn good() -> HealthEvent {
    HealthEvent::Sampled(GpuHistory::default())
}

fn standing(cause: HealthCause) -> HealthEvent {
    HealthEvent::Sampled(GpuHistory { standing: [cause].into(), ..GpuHistory::default() })
}

fn counted(uncorrected: u64, replays: u64) -> HealthEvent {
    HealthEvent::Sampled(GpuHistory { uncorrected: Some(uncorrected), replays: Some(replays), ..GpuHistory::default() })
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

    fn after(&mut self, seconds: u64, event: HealthEvent) -> State {
        self.now += seconds;
        self.machine.apply(secs(self.now), &event);
        self.machine.state()
    }

    /// The self-test that is wanted passes.
    fn passes(&mut self) -> State {
        let Wanted::SelfTest(era) = self.machine.wanted() else { panic!("no test is wanted: {:?}", self.machine) };
        self.after(0, HealthEvent::SelfTest(era, TestOutcome::Passed))
    }

    fn causes(&self) -> Vec<HealthCause> {
        self.machine.reasons().into_iter().map(|reason| reason.cause).collect()
    }
}

#[test]
fn a_gpu_begins_untested_and_waits_for_its_test_however_long() {
    let mut bench = Bench { machine: Machine::new(policy(), secs(0)), now: 0 };
    assert_eq!((bench.machine.state(), bench.causes()), (State::Suspect, vec![HealthCause::Untested]));
    assert_eq!(bench.after(100_000, good()), State::Suspect);
    assert!(!bench.machine.may_take_task());
    assert_eq!(bench.passes(), State::Healthy);
    assert!(bench.machine.may_take_task());
}

/// Invariant 7.
#[test]
fn grave_causes_quarantine_at_once() {
    let events = [
        (counted(1, 0), HealthCause::UncorrectableEcc),
        (standing(HealthCause::FailedRemap), HealthCause::FailedRemap),
        (standing(HealthCause::PendingRetirement), HealthCause::PendingRetirement),
        (HealthEvent::Xid(79), HealthCause::FatalXid(79)),
        (HealthEvent::Lost, HealthCause::Lost),
        (HealthEvent::NeedsReset, HealthCause::NeedsReset),
        (HealthEvent::SelfTest(Era(0), TestOutcome::Failed), HealthCause::SelfTestFailed),
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
    for event in
        [HealthEvent::Xid(32), HealthEvent::SampleFailed, HealthEvent::DriverSilent, standing(HealthCause::Hot)]
    {
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
    assert_eq!(bench.after(1, HealthEvent::Xid(32)), State::Suspect);
    assert_eq!(bench.after(49, good()), State::Suspect);
    assert_eq!(bench.after(1, HealthEvent::Tick), State::Healthy);
}

#[test]
fn errors_of_an_application_are_none_of_the_gpu() {
    let mut bench = Bench::healthy();
    for xid in [13, 31, 43, 45] {
        assert_eq!(bench.after(1, HealthEvent::Xid(xid)), State::Healthy, "{xid}");
    }
}

/// Several Xids of one failure count once; what is long ago does not count.
#[test]
fn programs_that_fail_again_and_again_have_the_gpu_tested() {
    for event in [HealthEvent::Xid(13), HealthEvent::Xid(31), HealthEvent::ProgramFailed] {
        let mut bench = Bench::healthy();
        for (wait, wanted) in [(2, State::Healthy), (1, State::Healthy), (99, State::Healthy), (97, State::Healthy)] {
            assert_eq!(bench.after(wait, event.clone()), wanted, "{event:?}");
        }
        assert_eq!(bench.after(1, event.clone()), State::Healthy, "it is the last one's");
        assert_eq!(bench.after(1, event.clone()), State::Suspect, "{event:?}");
        assert_eq!(bench.causes(), [HealthCause::ProgramsFail]);
        bench.after(3, good());
        assert_eq!(bench.passes(), State::Healthy);
        assert_eq!(bench.after(2, event.clone()), State::Healthy, "the count started again");
    }
}

#[test]
fn a_quarantine_ends_by_a_test_after_the_quiet_period_and_each_is_longer() {
    let mut bench = Bench::healthy();
    for quiet in [10, 20, 35, 35] {
        assert_eq!(bench.after(1, HealthEvent::Xid(48)), State::Quarantined);
        bench.after(quiet - 1, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "{quiet}");
        bench.after(1, good());
        assert_eq!(bench.passes(), State::Healthy, "{quiet}");
    }
    // never by itself
    assert_eq!(bench.after(1, HealthEvent::Xid(48)), State::Quarantined);
    assert_eq!(bench.after(500, good()), State::Quarantined);
    bench.passes();
    // long ago
    assert_eq!(bench.after(1_000, HealthEvent::Xid(48)), State::Quarantined);
    bench.after(10, good());
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn a_failed_test_in_quarantine_doubles_the_quiet_period() {
    let mut bench = Bench::healthy();
    bench.after(1, HealthEvent::Xid(48));
    bench.after(10, good());
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    bench.after(0, HealthEvent::SelfTest(era, TestOutcome::Failed));
    assert_eq!(bench.causes(), [HealthCause::FatalXid(48), HealthCause::SelfTestFailed]);
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
        assert_eq!(bench.after(0, HealthEvent::SelfTest(era, TestOutcome::NotRun)), State::Suspect);
        bench.after(2, good());
        assert_eq!(bench.machine.wanted(), Wanted::Nothing, "after a pause");
        bench.after(1, good());
    }
    assert_eq!(bench.causes(), [HealthCause::Untested, HealthCause::SelfTestNotRun]);
    assert_eq!(bench.passes(), State::Healthy);
    // whoever distrusts a GPU that is healthy has it tested
    assert_eq!(bench.after(1, HealthEvent::SelfTest(Era(0), TestOutcome::NotRun)), State::Suspect);
    assert_eq!(bench.after(1_000, HealthEvent::Tick), State::Suspect, "not trusted without a test");
    assert_eq!(bench.passes(), State::Healthy);
    // the first quarantine, its quiet as long as if there had been no such test
    assert_eq!(bench.after(1, HealthEvent::Xid(48)), State::Quarantined);
    bench.after(10, good());
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    assert_eq!(bench.after(0, HealthEvent::SelfTest(era, TestOutcome::NotRun)), State::Quarantined);
    bench.after(3, good());
    assert_eq!(bench.passes(), State::Healthy);
}

#[test]
fn of_a_divided_gpu_one_instance_that_could_be_tested_will_do() {
    let mut bench = Bench { machine: Machine::new(policy(), secs(0)), now: 0 };
    let Wanted::SelfTest(era) = bench.machine.wanted() else { panic!("is due") };
    assert_eq!(bench.after(0, HealthEvent::SelfTest(era, TestOutcome::NotRun)), State::Suspect);
    assert_eq!(bench.after(1, HealthEvent::SelfTest(era, TestOutcome::Passed)), State::Healthy);
}

#[test]
fn no_test_helps_while_the_cause_stands() {
    for (event, cause) in [
        (HealthEvent::Lost, HealthCause::Lost),
        (standing(HealthCause::PendingRetirement), HealthCause::PendingRetirement),
        (standing(HealthCause::FailedRemap), HealthCause::FailedRemap),
    ] {
        let mut bench = Bench::healthy();
        for _ in 0..20 {
            assert_eq!(bench.after(30, event.clone()), State::Quarantined);
            assert_eq!(bench.machine.wanted(), Wanted::Nothing);
            for era in 0..5 {
                assert_eq!(bench.after(0, HealthEvent::SelfTest(Era(era), TestOutcome::Passed)), State::Quarantined);
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
    bench.after(1, HealthEvent::Xid(48));
    bench.after(10, good());
    let Wanted::SelfTest(old) = bench.machine.wanted() else { panic!("is due") };
    bench.after(1, HealthEvent::Xid(48));
    bench.after(15, good());
    assert_ne!(bench.machine.wanted(), Wanted::Nothing);
    assert_eq!(bench.after(0, HealthEvent::SelfTest(old, TestOutcome::Passed)), State::Quarantined);
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
    assert_eq!(bench.after(1, HealthEvent::SampleFailed), State::Suspect);
    assert_eq!(bench.after(1, HealthEvent::SampleFailed), State::Suspect);
    assert_eq!(bench.after(1, HealthEvent::SampleFailed), State::Quarantined);
    assert_eq!(bench.causes(), [HealthCause::SampleFailed, HealthCause::SamplesKeepFailing]);
    // one that succeeds between breaks the row
    let mut bench = Bench::healthy();
    for _ in 0..9 {
        assert_eq!(bench.after(1, HealthEvent::SampleFailed), State::Suspect);
        bench.after(1, good());
    }
}

#[test]
fn only_a_slowdown_that_lasts_counts() {
    let mut bench = Bench::healthy();
    for _ in 0..9 {
        assert_eq!(bench.after(3, standing(HealthCause::Slowdown)), State::Healthy);
        assert_eq!(bench.after(3, standing(HealthCause::Slowdown)), State::Healthy);
        assert_eq!(bench.after(3, good()), State::Healthy);
    }
    bench.after(1, standing(HealthCause::Slowdown));
    assert_eq!(bench.after(5, standing(HealthCause::Slowdown)), State::Healthy);
    assert_eq!(bench.after(1, standing(HealthCause::Slowdown)), State::Suspect);
}

#[test]
fn replays_count_by_the_minute() {
    let mut bench = Bench::healthy();
    assert_eq!(bench.after(1, counted(0, 1_000)), State::Healthy, "from before");
    for minute in 1..9 {
        assert_eq!(bench.after(60, counted(0, 1_000 + 8 * minute)), State::Healthy);
    }
    assert_eq!(bench.after(10, counted(0, 1_064 + 9)), State::Suspect);
    assert_eq!(bench.causes(), [HealthCause::PcieReplays]);
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
    let standing =
        [HealthCause::FailedRemap, HealthCause::PendingRetirement, HealthCause::Hot, HealthCause::Slowdown].into();
    assert_eq!(GpuHistory::from(&sample), GpuHistory { standing, uncorrected: Some(2), replays: Some(7) });
    let cool = Sample {
        temperature_c: Some(89),
        throttle: Some([Throttle::Idle, Throttle::PowerCap, Throttle::SoftwareThermal].into()),
        remapped_rows: Some(RemappedRows { corrected: 3, uncorrected: 1, pending: false, failed: false }),
        ecc_volatile: None,
        pcie_replays: None,
        retired_pages: None,
        ..sample
    };
    assert_eq!(GpuHistory::from(&cool), GpuHistory::default());
    assert_eq!(GpuHistory::from(&Sample::default()), GpuHistory::default());
}

#[test]
fn notes_are_no_facts_of_health() {
    let reasons = |reasons: &[Throttle]| Some(reasons.iter().copied().collect());
    let noted = Sample {
        throttle: reasons(&[Throttle::HardwareSlowdown, Throttle::PowerBrake]),
        remapped_rows: Some(RemappedRows { corrected: 0, uncorrected: 1, pending: true, failed: false }),
        ..Sample::default()
    };
    assert_eq!(GpuHistory::from(&noted), GpuHistory::default());
    assert_eq!(notes(&noted), [Note::PendingRemap, Note::PowerBrake]);
    assert_eq!(notes(&Sample::default()), []);
    // heat beside it is trouble
    let hot = Sample {
        throttle: reasons(&[Throttle::HardwareSlowdown, Throttle::PowerBrake, Throttle::HardwareThermal]),
        ..noted
    };
    assert_eq!(GpuHistory::from(&hot).standing, [HealthCause::Slowdown].into());
}

#[test]
fn causes_are_told_as_sentences() {
    let reason = Reason { cause: HealthCause::FatalXid(79), since: secs(1), last: secs(2), times: 1, stands: false };
    let told = serde_json::to_value(reason).expect("to JSON");
    assert_eq!(told["cause"], "the driver reported the fatal error Xid 79");
    assert_eq!((&told["since_s"], &told["last_s"]), (&1.0.into(), &2.0.into()));
}

fn event() -> impl Strategy<Value = HealthEvent> {
    let facts = (
        proptest::collection::btree_set(
            prop_oneof![
                Just(HealthCause::FailedRemap),
                Just(HealthCause::PendingRetirement),
                Just(HealthCause::Hot),
                Just(HealthCause::Slowdown),
            ],
            0..2,
        ),
        proptest::option::of(0..3_u64),
        proptest::option::of((0..3_u64).prop_map(|tens| tens * 10)),
    );
    let outcome =
        prop_oneof![4 => Just(TestOutcome::Passed), 1 => Just(TestOutcome::Failed), 1 => Just(TestOutcome::NotRun)];
    prop_oneof![
        6 => Just(good()),
        2 => facts.prop_map(|(standing, uncorrected, replays)| HealthEvent::Sampled(GpuHistory { standing, uncorrected, replays })),
        1 => Just(HealthEvent::SampleFailed),
        1 => Just(HealthEvent::Lost),
        1 => Just(HealthEvent::NeedsReset),
        1 => Just(HealthEvent::DriverSilent),
        2 => prop_oneof![Just(13), Just(32), Just(48), Just(79)].prop_map(HealthEvent::Xid),
        4 => (0..40_u64, outcome).prop_map(|(era, outcome)| HealthEvent::SelfTest(Era(era), outcome)),
        2 => Just(HealthEvent::Tick),
        1 => Just(HealthEvent::ProgramFailed),
    ]
}

/// What a step of a random run does.
#[derive(Debug, Clone)]
enum Step {
    HealthEvent(HealthEvent),
    /// The self-test that is wanted passes, if one is.
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![3 => event().prop_map(Step::HealthEvent), 1 => Just(Step::Pass)];
    proptest::collection::vec((prop_oneof![3 => 0..4_u64, 1 => 0..60_u64], step), 1..120)
}

/// What an event says that is bad, told without the machine: (is it grave, does it stand).
fn trouble(event: &HealthEvent) -> Option<(Grade, bool)> {
    match event {
        HealthEvent::Lost | HealthEvent::NeedsReset => Some((Grade::Quarantine, true)),
        HealthEvent::SampleFailed | HealthEvent::DriverSilent => Some((Grade::Suspect, true)),
        HealthEvent::Xid(48 | 79) | HealthEvent::SelfTest(_, TestOutcome::Failed) => Some((Grade::Quarantine, false)),
        HealthEvent::Xid(32) => Some((Grade::Suspect, false)),
        HealthEvent::Sampled(facts) => {
            let grave = [HealthCause::FailedRemap, HealthCause::PendingRetirement];
            let stands = facts.standing.iter().any(|cause| grave.contains(cause));
            stands.then_some((Grade::Quarantine, true))
        }
        HealthEvent::Xid(_)
        | HealthEvent::ProgramFailed
        | HealthEvent::SelfTest(_, TestOutcome::Passed | TestOutcome::NotRun)
        | HealthEvent::Tick => None,
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
            machine.apply(secs(now), &HealthEvent::Tick);
            let ticked = machine.state();
            prop_assert!(ticked == before || (before, ticked) == (State::Suspect, State::Healthy));
            prop_assert!(ticked == before || last_any.is_some_and(|at| now - at >= 50), "{:?}", last_any);
            let event = match (step, machine.wanted()) {
                (Step::HealthEvent(event), _) => event,
                (Step::Pass, Wanted::SelfTest(era)) => HealthEvent::SelfTest(era, TestOutcome::Passed),
                (Step::Pass, Wanted::Nothing) => HealthEvent::Tick,
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
                None if matches!(event, HealthEvent::SelfTest(_, TestOutcome::NotRun)) => {
                    prop_assert!(!machine.may_take_task(), "{event:?}");
                    prop_assert!(ticked == machine.state() || ticked == State::Healthy, "a fault of nothing");
                    not_run = Some(now);
                }
                // heat, replays, memory errors
                None if ticked == State::Healthy && machine.state() != State::Healthy => last_any = Some(now),
                None => {}
            }
            if matches!(&event, HealthEvent::Sampled(_)) && trouble(&event).is_none() {
                stands = None;
            }
            if ticked != State::Healthy && machine.may_take_task() {
                let pauses = not_run.is_some_and(|at| now - at < 3);
                prop_assert!(
                    matches!(event, HealthEvent::SelfTest(era, TestOutcome::Passed) if pauses || wanted == Wanted::SelfTest(era)),
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
            if let Step::HealthEvent(event) = step {
                machine.apply(secs(now), &event);
            }
        }
        machine.apply(secs(now), &good());
        machine.apply(secs(now + 60), &good());
        if let Wanted::SelfTest(era) = machine.wanted() {
            machine.apply(secs(now + 60), &HealthEvent::SelfTest(era, TestOutcome::Passed));
        }
        prop_assert_eq!(machine.state(), State::Healthy, "{:?}", machine);
    }
}
