//! Whether a GPU may be trusted with a task: a state machine over what is seen of it.
//!
//! ```text
//!                       a cause to suspect
//!        ┌────────────────────────────────────────────┐
//!        │                                            ▼
//!    HEALTHY ◀── self-test passed, after a ──────  SUSPECT ◀── start (not yet tested)
//!     │    ▲      moment of quiet; or a             │
//!     │    │      long quiet without one            │ failed self-test, or
//!     │    │                                        │ a cause to quarantine
//!     │    │  self-test passed, after               ▼
//!     │    └─ the cause is gone and ────────── QUARANTINED ─┐ a failed self-test
//!     │       the quiet period is over              ▲   ▲   │ doubles the quiet
//!     └─────────────────────────────────────────────┘   └───┘ period
//!                  a cause to quarantine
//! ```
//!
//! Only a healthy GPU takes a task. A task that runs on a suspect one goes on; one on a quarantined GPU is the caller's
//! to requeue. Causes are of two kinds: some happen (an Xid), some stand until they are seen to have gone (a GPU lost
//! from the bus, a row that waits for its replacement). While one stands, no self-test is wanted and none helps.
//!
//! Pure: no IO and no clock; time comes in with each event. What it wants (a self-test) is a value for the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::sample::{Sample, Throttle};

mod cause;
#[cfg(test)]
mod tests;
pub mod xid;

pub use cause::{Grade, HealthCause, Note};
use xid::Meaning;

/// That a GPU was not tested, which is no trouble of its own.
const UNTESTED: [HealthCause; 2] = [HealthCause::Untested, HealthCause::SelfTestNotRun];

/// How patient the machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// A suspect GPU is tested when nothing was wrong for so long: less, and a fault that comes and goes would have it
    /// change its state all the time. A minute is some samples. A self-test that could not be run is tried again as late.
    pub settle: Duration,
    /// A suspect GPU that nobody tests is healthy when nothing was wrong for so long. Longer than a task takes.
    pub suspect_quiet: Duration,
    /// The quiet period of the first quarantine. An administrator's reset takes about as long.
    pub quarantine_quiet: Duration,
    /// The longest quiet period: each further quarantine doubles it up to here. A GPU that is always faulty is then
    /// tried a few times a day.
    pub longest_quiet: Duration,
    /// Quarantines older than this do not count any more.
    pub forget_after: Duration,
    /// A slowdown by the hardware that lasts so long is no peak of load.
    pub slowdown_lasts: Duration,
    /// So many samples that failed in a row are a GPU that does not answer.
    pub failed_samples: u32,
    /// That many failures of programs within `failures_within` have the GPU tested: one is the program's, as may be a
    /// second.
    pub program_failures: u32,
    /// See above: as long as some attempts take.
    pub failures_within: Duration,
    /// What follows a failure so soon is part of it: the driver reports several Xids for one.
    pub one_failure: Duration,
    /// More packets sent again over PCIe in a minute than this are a bad link: 8 is the most that NVIDIA's driver team
    /// recommends (DCGM_LIMIT_MAX_PCIREPLAY_RATE of NVIDIA's DCGM).
    pub replays_a_minute: u64,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(60),
            suspect_quiet: Duration::from_secs(1_800),
            quarantine_quiet: Duration::from_secs(300),
            longest_quiet: Duration::from_secs(4 * 3_600),
            forget_after: Duration::from_secs(7 * 24 * 3_600),
            slowdown_lasts: Duration::from_secs(60),
            failed_samples: 5,
            program_failures: 3,
            failures_within: Duration::from_secs(3_600),
            one_failure: Duration::from_secs(10),
            replays_a_minute: 8,
        }
    }
}

/// Whether a GPU is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It takes tasks.
    Healthy,
    /// It takes no new task.
    Suspect,
    /// It takes no task, and the one that it has is not to be trusted.
    Quarantined,
}

/// Which trouble a self-test belongs to: a test that was begun before the last trouble proves nothing about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Era(u64);

/// What the machine wants its owner to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// A self-test; its outcome comes back with this era.
    SelfTest(Era),
    /// Nothing, or nothing yet.
    Nothing,
}

/// How a self-test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestOutcome {
    /// All results were right.
    Passed,
    /// A result was wrong, or it did not end.
    Failed,
    /// It could not be run, for want of something else than the GPU: nothing is known.
    NotRun,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthEvent {
    /// A sample.
    Sampled(GpuHistory),
    /// A sample that the driver refused.
    SampleFailed,
    /// The GPU has fallen off the bus, or is not listed any more.
    Lost,
    /// The driver says that the GPU needs a reset.
    NeedsReset,
    /// The driver does not return from a call.
    DriverSilent,
    /// An Xid of this number.
    Xid(u64),
    /// An attempt that used the GPU failed, and not because of its input.
    ProgramFailed,
    /// A self-test has ended.
    SelfTest(Era, TestOutcome),
    /// Time has passed.
    Tick,
}

/// What of a sample decides about health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuHistory {
    /// Causes that stand.
    pub standing: BTreeSet<HealthCause>,
    /// Uncorrectable memory errors since the driver was loaded, if it counts them.
    pub uncorrected: Option<u64>,
    /// PCIe replays since the driver was loaded, if it counts them.
    pub replays: Option<u64>,
}

impl From<&Sample> for GpuHistory {
    fn from(sample: &Sample) -> Self {
        let seen = [
            (HealthCause::FailedRemap, sample.remapped_rows.is_some_and(|rows| rows.failed)),
            (HealthCause::PendingRetirement, sample.retired_pages.is_some_and(|pages| pages.pending)),
            (HealthCause::Hot, sample.temperature_c.zip(sample.slowdown_c).is_some_and(|(is, limit)| is >= limit)),
            (HealthCause::Slowdown, sample.throttle.as_ref().is_some_and(protects_itself)),
        ];
        Self {
            standing: seen.into_iter().filter(|(_, is)| *is).map(|(cause, _)| cause).collect(),
            uncorrected: sample.ecc_volatile.map(|errors| errors.uncorrected),
            replays: sample.pcie_replays,
        }
    }
}

/// Whether the hardware protects itself. The general reason comes with each special one ("nvmlClocksEventReasons", nvml.h);
/// the power brake is no danger to the GPU.
fn protects_itself(reasons: &BTreeSet<Throttle>) -> bool {
    let general = reasons.contains(&Throttle::HardwareSlowdown) && !reasons.contains(&Throttle::PowerBrake);
    general || reasons.contains(&Throttle::HardwareThermal)
}

/// What people should know of a GPU, whatever its state.
pub fn notes(sample: &Sample) -> Vec<Note> {
    let seen = [
        (Note::PendingRemap, sample.remapped_rows.is_some_and(|rows| rows.pending)),
        (Note::PowerBrake, sample.throttle.as_ref().is_some_and(|reasons| reasons.contains(&Throttle::PowerBrake))),
    ];
    seen.into_iter().filter(|(_, is)| *is).map(|(note, _)| note).collect()
}

/// Why a GPU is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What it is.
    pub cause: HealthCause,
    /// When it was first seen, time of the events.
    #[serde(rename = "since_s", serialize_with = "crate::gpu::as_seconds")]
    pub since: Duration,
    /// When it was last seen.
    #[serde(rename = "last_s", serialize_with = "crate::gpu::as_seconds")]
    pub last: Duration,
    /// How often it was seen; for memory errors, how many.
    pub times: u64,
    /// It is still there.
    pub stands: bool,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why; empty if healthy.
    pub reasons: Vec<Reason>,
}

/// The health of one physical GPU.
#[derive(Debug, Clone)]
pub struct Machine {
    policy: HealthPolicy,
    now: Duration,
    state: State,
    reasons: BTreeMap<HealthCause, Reason>,
    era: Era,
    /// Quarantines that count, failed self-tests in them included.
    strikes: u32,
    released: Option<Duration>,
    failed_samples: u32,
    /// When programs failed, within the last while.
    failures: Vec<Duration>,
    uncorrected: u64,
    replays: Option<(Duration, u64)>,
    slow_since: Option<Duration>,
}

impl Machine {
    /// A GPU that nobody has tested yet: suspect, and a self-test is wanted at once.
    pub fn new(policy: HealthPolicy, now: Duration) -> Self {
        let untested = Reason { cause: HealthCause::Untested, since: now, last: now, times: 1, stands: false };
        Self {
            policy,
            now,
            state: State::Suspect,
            reasons: BTreeMap::from([(HealthCause::Untested, untested)]),
            era: Era(0),
            strikes: 0,
            released: None,
            failed_samples: 0,
            failures: Vec::new(),
            uncorrected: 0,
            replays: None,
            slow_since: None,
        }
    }

    /// Takes in what was seen at a moment; returns the change of state, if there is one. Time never goes back: an
    /// earlier moment is taken for the last one.
    pub fn apply(&mut self, at: Duration, event: &HealthEvent) -> Option<Transition> {
        self.now = self.now.max(at);
        let from = self.state;
        match event {
            HealthEvent::Sampled(facts) => self.sampled(facts),
            HealthEvent::SampleFailed => self.sample_failed(),
            HealthEvent::Lost => self.saw(HealthCause::Lost, 1),
            HealthEvent::NeedsReset => self.saw(HealthCause::NeedsReset, 1),
            HealthEvent::DriverSilent => self.saw(HealthCause::DriverSilent, 1),
            HealthEvent::Xid(xid) => match xid::meaning(*xid) {
                Meaning::Application => {}
                Meaning::Program => self.program_failed(),
                Meaning::Look => self.saw(HealthCause::Xid(*xid), 1),
                Meaning::Fatal => self.saw(HealthCause::FatalXid(*xid), 1),
            },
            HealthEvent::ProgramFailed => self.program_failed(),
            HealthEvent::SelfTest(_, TestOutcome::Failed) => self.saw(HealthCause::SelfTestFailed, 1),
            HealthEvent::SelfTest(_, TestOutcome::NotRun) => self.saw(HealthCause::SelfTestNotRun, 1),
            HealthEvent::SelfTest(era, TestOutcome::Passed) => {
                // also while it pauses: of a divided GPU another instance could be tested
                if *era == self.era && self.may_be_tested() {
                    self.release();
                }
            }
            HealthEvent::Tick => {}
        }
        if self.state == State::Suspect && self.may_end_untested() {
            self.release();
        }
        (from != self.state).then(|| Transition { from, to: self.state, reasons: self.reasons() })
    }

    /// Whether it is to be trusted.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a task may begin on it.
    pub fn may_take_task(&self) -> bool {
        match self.state {
            State::Healthy => true,
            State::Suspect | State::Quarantined => false,
        }
    }

    /// Why it is not healthy; empty only if it is.
    pub fn reasons(&self) -> Vec<Reason> {
        self.reasons.values().copied().collect()
    }

    /// What its owner is to do, as of the last event.
    pub fn wanted(&self) -> Wanted {
        let not_run = self.reasons.get(&HealthCause::SelfTestNotRun);
        let pauses = not_run.is_some_and(|reason| self.now - reason.last < self.policy.settle);
        if self.may_be_tested() && !pauses { Wanted::SelfTest(self.era) } else { Wanted::Nothing }
    }

    fn may_be_tested(&self) -> bool {
        match self.state {
            State::Healthy => false,
            State::Suspect => self.is_quiet(self.policy.settle),
            State::Quarantined => self.is_quiet(self.quarantine_quiet()),
        }
    }

    fn sampled(&mut self, facts: &GpuHistory) {
        for cause in [
            HealthCause::Lost,
            HealthCause::NeedsReset,
            HealthCause::DriverSilent,
            HealthCause::SampleFailed,
            HealthCause::SamplesKeepFailing,
        ] {
            self.gone(cause);
        }
        self.failed_samples = 0;
        for cause in [HealthCause::FailedRemap, HealthCause::PendingRetirement, HealthCause::Hot] {
            if facts.standing.contains(&cause) { self.saw(cause, 1) } else { self.gone(cause) }
        }
        self.sampled_clocks(facts);
        self.sampled_counters(facts);
    }

    /// A slowdown is one that lasts.
    fn sampled_clocks(&mut self, facts: &GpuHistory) {
        if !facts.standing.contains(&HealthCause::Slowdown) {
            self.slow_since = None;
            return self.gone(HealthCause::Slowdown);
        }
        let since = *self.slow_since.get_or_insert(self.now);
        if self.now - since >= self.policy.slowdown_lasts {
            self.saw(HealthCause::Slowdown, 1);
        }
    }

    fn sampled_counters(&mut self, facts: &GpuHistory) {
        if let Some(count) = facts.uncorrected {
            // errors before the first sample count too; a smaller count began anew with the driver
            let more = if count < self.uncorrected { count } else { count - self.uncorrected };
            self.uncorrected = count;
            if more > 0 {
                self.saw(HealthCause::UncorrectableEcc, more);
            }
        }
        let Some(count) = facts.replays else { return };
        let (since, base) = *self.replays.get_or_insert((self.now, count));
        let more = count.saturating_sub(base);
        if more > self.policy.replays_a_minute {
            self.saw(HealthCause::PcieReplays, more);
        }
        if count < base || more > self.policy.replays_a_minute || self.now - since >= Duration::from_secs(60) {
            self.replays = Some((self.now, count));
        }
    }

    /// A program failed: some of these in a while are a reason to test the GPU.
    fn program_failed(&mut self) {
        let HealthPolicy { program_failures, failures_within, one_failure, .. } = self.policy;
        if self.failures.last().is_some_and(|last| self.now - *last < one_failure) {
            return;
        }
        self.failures.retain(|failure| self.now - *failure < failures_within);
        self.failures.push(self.now);
        if self.failures.len() >= program_failures as usize {
            self.saw(HealthCause::ProgramsFail, self.failures.len() as u64);
            // the count starts again at zero: after the test the GPU is trusted
            self.failures.clear();
        }
    }

    fn sample_failed(&mut self) {
        self.failed_samples = self.failed_samples.saturating_add(1);
        self.saw(HealthCause::SampleFailed, 1);
        if self.failed_samples >= self.policy.failed_samples {
            self.saw(HealthCause::SamplesKeepFailing, 1);
        }
    }

    /// A cause was seen.
    fn saw(&mut self, cause: HealthCause, times: u64) {
        let stands = cause.stands();
        let new = Reason { cause, since: self.now, last: self.now, times: 0, stands: false };
        let reason = self.reasons.entry(cause).or_insert(new);
        let goes_on = reason.stands;
        *reason = Reason { last: self.now, times: reason.times.saturating_add(times), stands, ..*reason };
        if goes_on {
            return;
        }
        // a test that could not be run says nothing against one that is under way
        self.era.0 += u64::from(cause != HealthCause::SelfTestNotRun);
        match (self.state, cause.grade()) {
            (State::Healthy, Grade::Suspect) => self.state = State::Suspect,
            (State::Suspect | State::Quarantined, Grade::Suspect) => {}
            (State::Healthy | State::Suspect, Grade::Quarantine) => {
                let long_ago = |released: Duration| self.now - released >= self.policy.forget_after;
                if self.released.is_some_and(long_ago) {
                    self.strikes = 0;
                }
                self.strikes = self.strikes.saturating_add(1);
                self.state = State::Quarantined;
            }
            (State::Quarantined, Grade::Quarantine) => {
                self.strikes = self.strikes.saturating_add(u32::from(cause == HealthCause::SelfTestFailed));
            }
        }
    }

    /// A cause that stood is not there any more. It stays a reason until the GPU is healthy.
    fn gone(&mut self, cause: HealthCause) {
        if let Some(reason) = self.reasons.get_mut(&cause).filter(|reason| reason.stands) {
            *reason = Reason { stands: false, last: self.now, ..*reason };
        }
    }

    /// Nothing stands, and nothing was seen for so long. A GPU that is merely untested need not wait.
    fn is_quiet(&self, quiet: Duration) -> bool {
        let mut troubles = self.reasons.values().filter(|reason| !UNTESTED.contains(&reason.cause));
        troubles.all(|reason| !reason.stands && self.now - reason.last >= quiet)
    }

    /// Suspicion that nobody looked into ends by itself, but not that of a GPU that was never tested, or cannot be now.
    fn may_end_untested(&self) -> bool {
        !UNTESTED.iter().any(|cause| self.reasons.contains_key(cause)) && self.is_quiet(self.policy.suspect_quiet)
    }

    fn quarantine_quiet(&self) -> Duration {
        let doublings = self.strikes.saturating_sub(1).min(u32::BITS - 1);
        self.policy.quarantine_quiet.saturating_mul(1 << doublings).min(self.policy.longest_quiet)
    }

    fn release(&mut self) {
        if self.state == State::Quarantined {
            self.released = Some(self.now);
        }
        self.state = State::Healthy;
        self.reasons.clear();
    }
}
