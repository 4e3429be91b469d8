//! The watch over the real wrapper and a library that plays scripted faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::fake::{self, Fake};
use super::health::{self, Era, HealthCause, HealthPolicy, Note, State, TestOutcome, Wanted};
use super::*;

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

/// Never within a test: looks are asked for.
const NEVER: Duration = Duration::from_secs(100_000);

/// A watch over a fake library, with a clock that a test sets.
struct Bench {
    watch: GpuWatch,
    seconds: Arc<AtomicU64>,
    changes: mpsc::Receiver<Change>,
    fake: Fake,
}

impl Bench {
    fn new(fake: Fake) -> Self {
        let settings = WatchSettings {
            library: fake.library(),
            interval: NEVER,
            overdue: NEVER,
            reopen: REOPEN,
            policy: HealthPolicy { settle: secs(1), quarantine_quiet: secs(300), ..HealthPolicy::default() },
        };
        Self::with(fake, settings)
    }

    fn with(fake: Fake, settings: WatchSettings) -> Self {
        let seconds = Arc::new(AtomicU64::new(0));
        let (tell, changes) = mpsc::channel();
        let now = Arc::clone(&seconds);
        let watch = GpuWatch::with_clock(
            settings,
            Box::new(move || secs(now.load(Ordering::SeqCst))),
            // the test may have ended
            Box::new(move |change| drop(tell.send(change.clone()))),
        );
        Self { watch: watch.expect("starts"), seconds, changes, fake }
    }

    /// With tests passed.
    fn healthy(gpus: u32) -> Self {
        let bench = Self::new(Fake::new(gpus));
        bench.look();
        for gpu in 0..gpus {
            bench.passes(gpu);
            assert_eq!(bench.state(gpu), State::Healthy);
        }
        bench.wait("its Xids are heard", |snapshot| snapshot.gpus.iter().all(|gpu| gpu.xids == Xids::Heard));
        bench
    }

    fn look(&self) -> Arc<Snapshot> {
        self.watch.fresh(LONG).expect("a look ends")
    }

    fn wait(&self, what: &str, is_wished: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = self.watch.wait(LONG, is_wished);
        found.unwrap_or_else(|| panic!("{what}: {:#?}", self.watch.view().snapshot))
    }

    fn later(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn gpu(&self, gpu: u32) -> Gpu {
        self.watch.view().snapshot.gpu(&name(gpu)).expect("is listed").clone()
    }

    fn state(&self, gpu: u32) -> State {
        self.gpu(gpu).health.state
    }

    fn causes(&self, gpu: u32) -> Vec<HealthCause> {
        self.gpu(gpu).health.reasons.iter().map(|reason| reason.cause).collect()
    }

    fn passes(&self, gpu: u32) {
        let Wanted::SelfTest(era) = self.gpu(gpu).health.wanted else { panic!("no test is wanted") };
        self.watch.self_tested(&name(gpu), era, TestOutcome::Passed);
    }

    /// The next change that the owner was told.
    fn told(&self) -> Change {
        self.changes.recv_timeout(LONG).expect("a change is told")
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(gpu: u32) -> GpuUuid {
    fake::uuid(gpu).parse().expect("a UUID")
}

#[test]
fn two_gpus_and_all_that_is_known_of_them() {
    let fake = Fake::new(2);
    fake.set("1.temperature", "44");
    let bench = Bench::new(fake);
    let snapshot = bench.look();
    assert_eq!(snapshot.driver, Driver::Running { version: "550.54.15".into() });
    let [first, second] = snapshot.gpus.as_slice() else { panic!("{snapshot:#?}") };
    let identity = GpuIdentity {
        uuid: name(0),
        index: 0,
        name: "NVIDIA H100 80GB HBM3".into(),
        pci_bus_id: "00000000:1B:00.0".into(),
        numa_node: Some(1),
        cpus: vec![4, 5, 6, 7],
        memory_bytes: Some(80 << 30),
        capability: Some(Capability { major: 9, minor: 0 }),
        serial: Some("1650123456789".into()),
        extent: Extent::Whole,
    };
    assert_eq!(first.identity, identity);
    let sample = Sample {
        utilization: Some(Utilization { gpu_percent: 93, memory_percent: 41 }),
        memory: Some(Memory { total_bytes: 80 << 30, used_bytes: 1 << 30 }),
        temperature_c: Some(61),
        slowdown_c: Some(87),
        power_mw: Some(523_000),
        energy_mj: Some(7_200_000),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        throttle: Some([Throttle::PowerCap].into()),
        ecc_volatile: Some(EccErrors { corrected: 3, uncorrected: 0 }),
        ecc_aggregate: Some(EccErrors { corrected: 20, uncorrected: 1 }),
        retired_pages: None,
        remapped_rows: Some(RemappedRows { corrected: 1, uncorrected: 0, pending: false, failed: false }),
        pcie_replays: Some(2),
        processes: Some(vec![
            GpuProcess { pid: 4242, memory_bytes: Some(1 << 20) },
            GpuProcess { pid: 4343, memory_bytes: Some(2 << 20) },
        ]),
        unanswered: Vec::new(),
    };
    assert_eq!(first.sample, sample);
    let place = (second.identity.uuid.clone(), second.identity.index, second.identity.pci_bus_id.as_str());
    assert_eq!(place, (name(1), 1, "00000000:1C:00.0"));
    assert_eq!(second.sample.temperature_c, Some(44));
    let told = serde_json::to_value(&*snapshot).expect("to JSON");
    assert_eq!(told["gpus"][0]["health"]["state"], "suspect");
    assert_eq!(told["gpus"][0]["sample"]["throttle"][0], "power_cap");
    assert_eq!(bench.watch.stop(), Stopped::Joined);
}

#[test]
fn each_throttle_reason_has_its_name() {
    let fake = Fake::new(1);
    fake.set("0.throttle", "1ff");
    let bench = Bench::new(fake);
    let all = [
        Throttle::Idle,
        Throttle::ClocksSetting,
        Throttle::PowerCap,
        Throttle::HardwareSlowdown,
        Throttle::SyncBoost,
        Throttle::SoftwareThermal,
        Throttle::HardwareThermal,
        Throttle::PowerBrake,
        Throttle::DisplayClocks,
    ];
    assert_eq!(bench.look().gpus[0].sample.throttle, Some(all.into()));
    for (bits, reason) in [("40", Throttle::HardwareThermal), ("80", Throttle::PowerBrake)] {
        bench.fake.set("0.throttle", bits);
        assert_eq!(bench.look().gpus[0].sample.throttle, Some([reason].into()));
    }
}

#[test]
fn pages_that_are_retired() {
    let fake = Fake::new(1);
    fake.unset("0.remapped");
    fake.set("0.retired", "2 1 0");
    let bench = Bench::new(fake);
    let pages = RetiredPages { single_bit: 2, double_bit: 1, pending: false };
    let sample = bench.look().gpus[0].sample.clone();
    assert_eq!((sample.retired_pages, sample.remapped_rows), (Some(pages), None));
    bench.fake.set("0.retired", "2 1 1");
    bench.look();
    assert_eq!(bench.causes(0), [HealthCause::Untested, HealthCause::PendingRetirement]);
}

#[test]
fn a_memory_error_quarantines_until_a_test_after_the_quiet_period() {
    let bench = Bench::healthy(2);
    // the driver, the tests that are wanted, the states after them
    for _ in 0..5 {
        bench.told();
    }
    bench.fake.set("0.ecc.volatile", "3 1");
    bench.look();
    assert_eq!((bench.state(0), bench.causes(0)), (State::Quarantined, vec![HealthCause::UncorrectableEcc]));
    assert_eq!(bench.state(1), State::Healthy, "the other goes on");
    assert!(!bench.watch.may_take_task(&name(0)) && bench.watch.may_take_task(&name(1)));
    let Change::Health { gpu, transition } = bench.told() else { panic!("of health") };
    assert_eq!((gpu, transition.from, transition.to), (name(0), State::Healthy, State::Quarantined));
    bench.later(299);
    bench.look();
    assert_eq!(bench.gpu(0).health.wanted, Wanted::Nothing);
    bench.later(1);
    bench.look();
    let Change::SelfTest { gpu, era } = bench.told() else { panic!("a test is wanted") };
    bench.watch.self_tested(&gpu, era, TestOutcome::Passed);
    assert!(bench.watch.may_take_task(&name(0)));
    let Change::Health { transition, .. } = bench.told() else { panic!("of health") };
    assert_eq!((transition.from, transition.to), (State::Quarantined, State::Healthy));
}

/// A pending replacement does not affect what runs: it is a note.
#[test]
fn a_row_that_waits_for_its_replacement_keeps_nobody_out() {
    let bench = Bench::healthy(1);
    bench.fake.set("0.remapped", "1 1 1 0");
    bench.look();
    assert_eq!((bench.state(0), bench.causes(0)), (State::Healthy, Vec::new()));
    assert_eq!(health::notes(&bench.gpu(0).sample), [Note::PendingRemap]);
    assert!(bench.watch.may_take_task(&name(0)));
}

/// A driver of a newer generation answers with a margin, or with 0.
#[test]
fn a_limit_that_can_be_none_makes_no_gpu_hot() {
    let bench = Bench::healthy(1);
    for limit in ["0", "8", "59", "126"] {
        bench.fake.set("0.slowdown", limit);
        bench.look();
        assert_eq!(bench.state(0), State::Healthy, "{limit}");
        let sample = bench.gpu(0).sample;
        assert_eq!(sample.slowdown_c, None, "{limit}");
        assert!(sample.unanswered.iter().any(|unanswered| unanswered.why.contains(limit)), "{:?}", sample.unanswered);
    }
    bench.fake.set("0.slowdown", "60");
    bench.look();
    assert_eq!(bench.causes(0), [HealthCause::Hot], "it is at 61");
}

#[test]
fn attempts_that_fail_again_and_again_have_the_gpu_tested() {
    let bench = Bench::healthy(2);
    for _ in 0..2 {
        bench.watch.program_failed(&name(1));
        bench.later(60);
    }
    assert_eq!(bench.state(1), State::Healthy);
    bench.watch.program_failed(&name(1));
    assert_eq!(
        (bench.state(0), bench.state(1), bench.causes(1)),
        (State::Healthy, State::Suspect, vec![HealthCause::ProgramsFail])
    );
    bench.later(60);
    bench.look();
    bench.passes(1);
    assert_eq!(bench.state(1), State::Healthy);
}

#[test]
fn a_row_that_cannot_be_replaced_keeps_a_gpu_out_until_it_is() {
    let bench = Bench::healthy(1);
    bench.fake.set("0.remapped", "1 1 0 1");
    bench.look();
    assert_eq!(bench.causes(0), [HealthCause::FailedRemap]);
    bench.later(10_000);
    bench.look();
    assert_eq!(bench.gpu(0).health.wanted, Wanted::Nothing);
    bench.fake.set("0.remapped", "1 2 0 0");
    bench.look();
    bench.later(300);
    bench.look();
    bench.passes(0);
    assert_eq!(bench.state(0), State::Healthy);
}

#[test]
fn a_failed_self_test_counts_before_the_call_returns() {
    let bench = Bench::healthy(1);
    bench.watch.self_tested(&name(0), Era::default(), TestOutcome::Failed);
    assert_eq!((bench.state(0), bench.causes(0)), (State::Quarantined, vec![HealthCause::SelfTestFailed]));
    assert!(!bench.watch.may_take_task(&name(0)));
}

#[test]
fn a_fatal_xid_quarantines_without_waiting_for_a_look() {
    let bench = Bench::healthy(2);
    // no look can end from here on, but an Xid comes through
    let hanging = bench.fake.hang(1);
    bench.watch.look_now();
    hanging.wait();
    bench.fake.set("xid.1", "1 79");
    bench.wait("the Xid is heard", |snapshot| snapshot.gpus[1].health.state == State::Quarantined);
    assert_eq!((bench.causes(1), bench.gpu(1).last_xid), (vec![HealthCause::FatalXid(79)], Some(79)));
    assert_eq!((bench.state(0), bench.gpu(0).last_xid), (State::Healthy, None));
    bench.fake.set("xid.2", "0 31");
    bench.wait("the next one is heard", |snapshot| snapshot.gpus[0].last_xid == Some(31));
    assert_eq!(bench.state(0), State::Healthy, "a page fault is the application's");
    bench.fake.unset("hang");
}

#[test]
fn a_gpu_without_xid_events_is_watched_by_looks() {
    let fake = Fake::new(2);
    fake.set("0.xids", "0");
    let bench = Bench::new(fake);
    bench.wait("the other is heard", |snapshot| snapshot.gpus.get(1).is_some_and(|gpu| gpu.xids == Xids::Heard));
    assert_eq!(bench.gpu(0).xids, Xids::Unheard);
}

#[test]
fn a_loss_that_the_wait_for_events_sees_is_looked_into_at_once() {
    let bench = Bench::healthy(2);
    bench.later(1);
    bench.fake.set("1.error", "15");
    bench.fake.set("events", "15");
    bench.wait("a look without asking", |snapshot| snapshot.gpus[1].health.state == State::Quarantined);
    assert_eq!((bench.causes(1), bench.state(0)), (vec![HealthCause::Lost], State::Healthy));
    // the other is heard again, when the driver lets us
    bench.wait("listening has ended", |snapshot| snapshot.gpus.iter().all(|gpu| gpu.xids == Xids::Unheard));
    bench.fake.unset("events");
    bench.later(60);
    bench.look();
    bench.wait("it is heard", |snapshot| snapshot.gpus[0].xids == Xids::Heard);
}

#[test]
fn what_a_gpu_does_not_support_is_no_fault() {
    let bench = Bench::healthy(1);
    for key in ["utilization", "memory", "temperature", "slowdown", "power", "energy", "clock.sm", "clock.memory"] {
        bench.fake.unset(&format!("0.{key}"));
    }
    for key in ["throttle", "ecc.volatile", "ecc.aggregate", "remapped", "replays", "processes", "serial", "numa"] {
        bench.fake.unset(&format!("0.{key}"));
    }
    let snapshot = bench.look();
    assert_eq!(snapshot.gpus[0].sample, Sample::default());
    assert_eq!((&snapshot.gpus[0].identity.serial, snapshot.gpus[0].identity.numa_node), (&None, None));
    assert_eq!(bench.state(0), State::Healthy);
    // nor what a newer driver has no more
    bench.fake.set("0.ecc.volatile", "error 26");
    bench.look();
    assert_eq!(bench.state(0), State::Healthy);
}

#[test]
fn a_refusal_that_decides_nothing_is_noted() {
    let bench = Bench::healthy(1);
    bench.fake.set("0.power", "error 999");
    let snapshot = bench.look();
    assert_eq!(snapshot.gpus[0].sample.power_mw, None);
    assert_eq!(snapshot.gpus[0].sample.unanswered[0].quantity, "power");
    assert_eq!(bench.state(0), State::Healthy);
}

#[test]
fn a_gpu_whose_memory_errors_cannot_be_read_is_suspect_and_then_quarantined() {
    let bench = Bench::healthy(1);
    bench.fake.set("0.ecc.volatile", "error 999");
    bench.look();
    assert_eq!((bench.state(0), bench.causes(0)), (State::Suspect, vec![HealthCause::SampleFailed]));
    for _ in 1..HealthPolicy::default().failed_samples {
        bench.look();
    }
    assert_eq!(bench.state(0), State::Quarantined);
    assert_eq!(bench.gpu(0).sample.temperature_c, Some(61), "what was read last stays");
}

#[test]
fn a_lost_gpu_comes_back_only_by_answering_and_a_test() {
    let bench = Bench::healthy(2);
    bench.later(1);
    bench.fake.set("1.error", "15");
    let snapshot = bench.look();
    assert_eq!((bench.state(1), bench.causes(1)), (State::Quarantined, vec![HealthCause::Lost]));
    assert_eq!((snapshot.gpus.len(), bench.state(0)), (2, State::Healthy));
    bench.later(10_000);
    bench.look();
    assert_eq!(bench.gpu(1).health.wanted, Wanted::Nothing);
    bench.fake.unset("1.error");
    bench.look();
    bench.later(300);
    bench.look();
    bench.passes(1);
    assert_eq!(bench.state(1), State::Healthy);
    bench.wait("its Xids are heard again", |snapshot| snapshot.gpus.iter().all(|gpu| gpu.xids == Xids::Heard));
}

#[test]
fn a_gpu_that_is_not_listed_any_more_is_lost() {
    let bench = Bench::healthy(2);
    bench.fake.set("gpus", "1");
    let snapshot = bench.look();
    assert_eq!((snapshot.gpus.len(), bench.causes(1)), (2, vec![HealthCause::Lost]));
}

#[test]
fn a_gpu_that_needs_a_reset_says_so() {
    let bench = Bench::healthy(1);
    bench.fake.set("0.error", "16");
    bench.look();
    assert_eq!((bench.state(0), bench.causes(0)), (State::Quarantined, vec![HealthCause::NeedsReset]));
}

#[test]
fn a_gpu_that_was_lost_before_we_came_has_no_name() {
    let fake = Fake::new(2);
    fake.set("0.error", "15");
    let bench = Bench::new(fake);
    let snapshot = bench.look();
    assert_eq!((snapshot.gpus.len(), snapshot.unreadable.len()), (1, 1));
    assert_eq!(snapshot.unreadable[0], Unreadable { index: 0, why: "the GPU is lost from the bus".into() });
    bench.fake.unset("0.error");
    assert_eq!(bench.look().gpus.len(), 2);
}

#[test]
fn a_driver_that_hangs_is_noticed_and_nobody_waits_for_it() {
    let fake = Fake::new(1);
    let settings = WatchSettings {
        library: fake.library(),
        interval: NEVER,
        overdue: Duration::from_millis(40),
        ..WatchSettings::default()
    };
    let bench = Bench::with(fake, settings);
    bench.look();
    bench.passes(0);
    // what hangs is then the look, and not the asking for events
    bench.wait("its Xids are heard", |snapshot| snapshot.gpus[0].xids == Xids::Heard);
    bench.later(1);
    let hanging = bench.fake.hang(1);
    bench.watch.look_now();
    hanging.wait();
    assert!(bench.watch.may_take_task(&name(0)), "nothing is wrong yet");
    bench.later(1);
    bench.wait("the guard notices", |snapshot| snapshot.gpus[0].health.state == State::Suspect);
    assert_eq!(bench.causes(0), [HealthCause::DriverSilent]);
    bench.later(NEVER.as_secs());
    let view = bench.watch.view();
    assert!(view.is_stale());
    assert_eq!(view.standing(&name(0)), Standing::Stale);
    bench.fake.unset("hang");
    bench.look();
    let view = bench.watch.view();
    assert_eq!((view.is_stale(), view.standing(&name(0))), (false, Standing::Known(State::Suspect)));
    bench.later(60);
    bench.look();
    bench.passes(0);
    assert_eq!(bench.state(0), State::Healthy);
}

#[test]
fn a_driver_that_hangs_from_the_start_holds_up_nobody() {
    let fake = Fake::new(1);
    let hanging = fake.hang(1);
    let bench = Bench::new(fake);
    hanging.wait();
    let view = bench.watch.view();
    assert_eq!((&view.snapshot.driver, view.standing(&name(0))), (&Driver::Starting, Standing::Unlisted));
    bench.fake.unset("hang");
    bench.wait("it answers", |snapshot| snapshot.gpus.len() == 1);
}

#[test]
fn a_driver_that_hangs_does_not_hold_up_the_end() {
    let bench = Bench::healthy(1);
    let hanging = [bench.fake.hang(1), bench.fake.hang(2)];
    bench.watch.look_now();
    hanging.into_iter().for_each(fake::Hanging::wait);
    let Bench { watch, fake, .. } = bench;
    assert_eq!(watch.stop(), Stopped::Abandoned(vec!["gpu-watch", "gpu-xid"]));
    fake.unset("hang");
}

#[test]
fn no_library_is_a_state() {
    let fake = Fake::new(1);
    let library = fake.library();
    let away = library.with_extension("away");
    std::fs::rename(&library, &away).expect("renames");
    let bench = Bench::new(fake);
    let snapshot = bench.look();
    let Driver::Absent { absence, why } = &snapshot.driver else { panic!("{snapshot:?}") };
    assert_eq!(*absence, Absence::NoLibrary);
    assert!(why.contains("cannot be loaded") && why.contains("No such file"), "{why}");
    assert!(snapshot.gpus.is_empty());
    assert_eq!(bench.watch.view().standing(&name(0)), Standing::Unlisted);
    // it is installed meanwhile
    std::fs::rename(&away, &library).expect("renames");
    bench.look();
    assert!(bench.watch.view().snapshot.gpus.is_empty(), "it is not tried all the time");
    bench.later(599);
    assert!(bench.look().gpus.is_empty(), "an installation is rare");
    bench.later(1);
    assert_eq!(bench.look().gpus.len(), 1);
}

#[test]
fn a_driver_whose_module_is_loaded_late_is_found_in_a_minute() {
    let fake = Fake::new(2);
    fake.set("init", "9");
    let bench = Bench::new(fake);
    assert!(matches!(bench.look().driver, Driver::Absent { absence: Absence::NotLoaded, .. }));
    bench.fake.unset("init");
    bench.later(59);
    assert!(bench.look().gpus.is_empty(), "it is not tried all the time");
    bench.later(1);
    assert_eq!(bench.look().gpus.len(), 2);
    bench.wait("its Xids are heard", |snapshot| snapshot.gpus.iter().all(|gpu| gpu.xids == Xids::Heard));
}

/// Without GPUs a look comes only when the library may be opened again: here never, though looks are due all the time.
#[test]
fn a_node_without_gpus_is_left_alone() {
    for (key, value) in [("init", "9"), ("gpus", "0")] {
        let fake = Fake::new(1);
        fake.set(key, value);
        let settings = WatchSettings {
            library: fake.library(),
            interval: Duration::ZERO,
            overdue: NEVER,
            reopen: NEVER,
            ..WatchSettings::default()
        };
        let bench = Bench::with(fake, settings);
        bench.wait("a look", |snapshot| snapshot.round > 0);
        assert_eq!(bench.look().round, 2, "{key}: the one that was asked for");
        assert_eq!(bench.look().round, 3, "{key}: the one that was asked for");
    }
}

#[test]
fn a_driver_that_does_not_start_is_a_state() {
    for (code, absence) in
        [("9", Absence::NotLoaded), ("18", Absence::Mismatch), ("4", Absence::NoPermission), ("999", Absence::Failed)]
    {
        let fake = Fake::new(1);
        fake.set("init", code);
        let bench = Bench::new(fake);
        let snapshot = bench.look();
        assert!(matches!(&snapshot.driver, Driver::Absent { absence: found, .. } if *found == absence), "{snapshot:?}");
        bench.later(60);
        bench.look();
        let Bench { watch, changes, .. } = bench;
        assert_eq!(watch.stop(), Stopped::Joined);
        assert_eq!(changes.iter().count(), 1, "it is told once");
    }
}

#[test]
fn instances_share_the_health_of_their_gpu() {
    let fake = Fake::new(2);
    fake.set("0.migs", "2");
    for instance in 0..2 {
        fake.set(&format!("0.mig.{instance}.uuid"), &instance_uuid(instance));
        fake.set(&format!("0.mig.{instance}.name"), "NVIDIA H100 MIG 3g.40gb");
        fake.set(&format!("0.mig.{instance}.ids"), &format!("{} 0", instance + 1));
        fake.set(&format!("0.mig.{instance}.memory"), "42949672960 1024");
    }
    let bench = Bench::new(fake);
    let snapshot = bench.look();
    let names: Vec<&str> = snapshot.gpus.iter().map(|gpu| gpu.identity.uuid.as_str()).collect();
    assert_eq!(names, [&fake::uuid(0), &instance_uuid(0), &instance_uuid(1), &fake::uuid(1)]);
    assert_eq!(snapshot.gpus[0].identity.extent, Extent::Divided);
    let instance = &snapshot.gpus[2];
    let extent = Extent::Instance { parent: name(0), gpu_instance: 2, compute_instance: 0 };
    assert_eq!((&instance.identity.extent, instance.identity.index), (&extent, 1));
    assert_eq!((instance.identity.memory_bytes, instance.identity.cpus.len()), (Some(40 << 30), 4));
    assert_eq!(instance.sample.memory, Some(Memory { total_bytes: 40 << 30, used_bytes: 1024 }));
    // a test in an instance is one of the GPU
    let Wanted::SelfTest(era) = instance.health.wanted else { panic!("is untested") };
    let instance = instance.identity.uuid.clone();
    bench.watch.self_tested(&instance, era, TestOutcome::Passed);
    assert!(bench.watch.may_take_task(&instance));
    assert_eq!(bench.watch.view().standing(&name(0)), Standing::Divided);
    bench.fake.set("xid.1", "0 95");
    bench.wait("the Xid is heard", |snapshot| snapshot.gpus[1].health.state == State::Quarantined);
    assert!(!bench.watch.may_take_task(&instance));
    // divided anew
    bench.fake.set("0.migs", "1");
    assert_eq!(bench.look().gpus.len(), 3);
}

fn instance_uuid(instance: u32) -> String {
    format!("MIG-22222222-d72c-4106-c12f-20bd9fae000{instance}")
}

#[test]
fn the_callback_may_call_the_watch() {
    let fake = Fake::new(1);
    let slot: Arc<Mutex<Option<Arc<GpuWatch>>>> = Arc::default();
    let (seen, library) = (Arc::clone(&slot), fake.library());
    let settings = WatchSettings { library, interval: Duration::from_millis(5), ..WatchSettings::default() };
    let watch = GpuWatch::start(settings, move |change| {
        if let (Change::SelfTest { gpu, era }, Some(watch)) = (change, &*seen.lock().expect("no panic")) {
            watch.self_tested(gpu, *era, TestOutcome::Passed);
        }
    });
    let watch = Arc::new(watch.expect("starts"));
    *slot.lock().expect("no panic") = Some(Arc::clone(&watch));
    // the first wish may have been told before the watch was there
    let first = watch.wait(LONG, |snapshot| !snapshot.gpus.is_empty()).expect("a look ends");
    if let Wanted::SelfTest(era) = first.gpus[0].health.wanted {
        watch.self_tested(&name(0), era, TestOutcome::Passed);
    }
    let well = |snapshot: &Snapshot| snapshot.gpus[0].health.state == State::Healthy;
    watch.wait(LONG, well).expect("the test is taken in");
    // looks come by themselves
    let round = watch.view().snapshot.round;
    watch.wait(LONG, |snapshot| snapshot.round > round + 2).expect("more looks");
    slot.lock().expect("no panic").take();
}
