//! The life of a task: what has happened to it, and what an event makes of it. Pure; the only place that decides.
//!
//! ```text
//!               Lease                      Report(succeeded)
//!   Queued ───────────────▶ Held ───────────────────────────▶ Ended(Succeeded)
//!     ▲                      │
//!     │ Report(lost), Expire │ Report(failed: the program's fault, retries left)
//!     └──────────────────────┤
//!     │ Cancel, Deadline     │ Report(failed: the input's fault, or no retry left), crash limit,
//!     ▼                      ▼ Report(anything but success) after Cancel or Deadline
//!   Ended(Cancelled | Failed)
//! ```
//!
//! Each lease is a new attempt with a higher number. Reports of lower numbers are refused, so that an endpoint that
//! comes back late changes nothing. Losses of infrastructure use up no retries; a task that keeps killing its
//! workers is ended by the crash limit.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AttemptNumber, EndpointId};

use super::failure::{Failure, Fault, Loss};
use super::retry;
use super::time::Moment;

/// Where a task is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// What it does now.
    pub phase: Phase,
    /// The newest attempt; None before the first.
    pub attempt: Option<AttemptNumber>,
    /// Attempts that failed by the program's fault.
    pub failures: u32,
    /// Attempts whose worker died of it.
    pub crashes: u32,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It waits to be leased, at the earliest at a moment.
    Queued {
        /// The moment.
        not_before: Moment,
    },
    /// An endpoint has it.
    Held(Hold),
    /// It is over.
    Ended(End),
}

/// A lease on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// Who has it.
    pub endpoint: EndpointId,
    /// When the lease ends unless it is renewed.
    pub until: Moment,
    /// How far the endpoint is.
    pub stage: HoldStage,
    /// What is wanted of it.
    pub wish: Wish,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldStage {
    /// It waits at the endpoint.
    Leased,
    /// A worker computes it.
    Running,
}

/// What is wanted of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// That it finishes.
    Finish,
    /// That it stops: someone cancelled the task.
    Cancel,
    /// That it stops: the deadline has passed.
    Deadline,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its result exists.
    Succeeded,
    /// It did not succeed.
    Failed(Failure),
    /// It was cancelled.
    Cancelled,
}

/// What happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifeEvent {
    /// An endpoint takes it.
    Lease {
        /// Which.
        endpoint: EndpointId,
        /// Until when.
        until: Moment,
        /// Now.
        now: Moment,
    },
    /// A worker begins.
    Start {
        /// Which endpoint says so.
        endpoint: EndpointId,
        /// Its attempt.
        attempt: AttemptNumber,
    },
    /// The endpoint is alive.
    Renew {
        /// Which endpoint says so.
        endpoint: EndpointId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// The lease's new end.
        until: Moment,
    },
    /// An attempt is over.
    Report {
        /// Which endpoint says so.
        endpoint: EndpointId,
        /// Which.
        attempt: AttemptNumber,
        /// How.
        outcome: Outcome,
        /// Now.
        now: Moment,
        /// By chance: tasks that failed together are not tried again together.
        spread: u8,
    },
    /// Time has passed.
    Expire {
        /// Now.
        now: Moment,
    },
    /// Someone cancels it.
    Cancel,
    /// Its deadline has passed.
    Deadline,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The result exists.
    Succeeded,
    /// The work itself failed.
    Failed(Failure),
    /// It was stopped as asked.
    Cancelled,
    /// It ended through no fault of its own.
    Lost(Loss),
}

/// How often a task may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Further attempts after failures by the program's fault.
    pub retries: u32,
    /// Attempts whose worker may die of the task.
    pub crashes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // five crashes: HyperQueue's limit too; one retry, since a program that fails twice the same way fails again
        Self { retries: 1, crashes: 5 }
    }
}

/// From when on, and how far apart, tasks are tried again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    now: Moment,
    spread: u8,
}

/// Why an event does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The task is over, by this attempt or a later one; a repeated report of the attempt that ended it gets this too.
    #[error("the task has ended")]
    Ended,
    /// A newer attempt was given out, or the attempt has lost its lease.
    #[error("attempt {reported} was superseded; the newest is {newest:?}")]
    Fenced {
        /// The attempt that reports.
        reported: AttemptNumber,
        /// The newest.
        newest: Option<AttemptNumber>,
    },
    /// Another endpoint has the attempt.
    #[error("another endpoint has the attempt")]
    Foreign,
    /// The task is held already.
    #[error("the task is held by another attempt")]
    Held,
    /// Nothing is due: a lease that has not run out, a task that may not begin yet.
    #[error("it is not time")]
    NotDue,
}

impl Life {
    /// A task that was accepted.
    pub fn new(not_before: Moment) -> Self {
        Self { phase: Phase::Queued { not_before }, attempt: None, failures: 0, crashes: 0 }
    }

    /// What an event makes of the task.
    ///
    /// # Errors
    /// The event does not apply; the task is as before.
    pub fn after(&self, event: &LifeEvent, limits: Limits) -> Result<Self, Refusal> {
        match (&self.phase, event) {
            (Phase::Ended(_), _) => Err(Refusal::Ended),
            (Phase::Queued { not_before }, LifeEvent::Lease { endpoint, until, now }) => {
                if not_before > now {
                    Err(Refusal::NotDue)
                } else {
                    Ok(self.leased(*endpoint, *until))
                }
            }
            (Phase::Held(_), LifeEvent::Lease { .. }) => Err(Refusal::Held),
            (Phase::Queued { .. }, LifeEvent::Cancel) => Ok(self.ended(End::Cancelled)),
            (Phase::Queued { .. }, LifeEvent::Deadline) => Ok(self.ended(End::Failed(Failure::deadline()))),
            (Phase::Queued { .. }, LifeEvent::Expire { .. }) => Err(Refusal::NotDue),
            (Phase::Held(hold), LifeEvent::Cancel) => Ok(self.held(Hold { wish: Wish::Cancel, ..*hold })),
            (Phase::Held(hold), LifeEvent::Deadline) => Ok(self.held(Hold { wish: hold.wish.or_deadline(), ..*hold })),
            (Phase::Held(hold), LifeEvent::Expire { now }) => {
                if hold.until > *now {
                    return Err(Refusal::NotDue);
                }
                let retry = Retry { now: *now, spread: 0 };
                Ok(self.reported(hold, &Outcome::Lost(Loss::LeaseExpired), retry, limits))
            }
            (_, LifeEvent::Start { endpoint, attempt }) => {
                Ok(self.held(Hold { stage: HoldStage::Running, ..*self.holder(*endpoint, *attempt)? }))
            }
            (_, LifeEvent::Renew { endpoint, attempt, until }) => {
                let hold = self.holder(*endpoint, *attempt)?;
                // a late message does not shorten a lease
                Ok(self.held(Hold { until: hold.until.max(*until), ..*hold }))
            }
            (_, LifeEvent::Report { endpoint, attempt, outcome, now, spread }) => {
                let retry = Retry { now: *now, spread: *spread };
                Ok(self.reported(self.holder(*endpoint, *attempt)?, outcome, retry, limits))
            }
        }
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            Phase::Queued { .. } | Phase::Held(_) => None,
        }
    }

    /// The attempt that has it, if one has.
    pub fn hold(&self) -> Option<&Hold> {
        match &self.phase {
            Phase::Held(hold) => Some(hold),
            Phase::Queued { .. } | Phase::Ended(_) => None,
        }
    }

    /// The hold, if it is this attempt's and the endpoint has it: whoever else speaks of an attempt is not believed.
    fn holder(&self, endpoint: EndpointId, attempt: AttemptNumber) -> Result<&Hold, Refusal> {
        let fenced = Refusal::Fenced { reported: attempt, newest: self.attempt };
        let hold = self.hold().filter(|hold| hold.attempt == attempt).ok_or(fenced)?;
        if hold.endpoint == endpoint { Ok(hold) } else { Err(Refusal::Foreign) }
    }

    fn leased(&self, endpoint: EndpointId, until: Moment) -> Self {
        let attempt = self.attempt.map_or(AttemptNumber::FIRST, AttemptNumber::next);
        let hold = Hold { attempt, endpoint, until, stage: HoldStage::Leased, wish: Wish::Finish };
        Self { attempt: Some(attempt), ..self.held(hold) }
    }

    fn reported(&self, hold: &Hold, outcome: &Outcome, retry: Retry, limits: Limits) -> Self {
        match (outcome, hold.wish) {
            (Outcome::Succeeded, _) => self.ended(End::Succeeded),
            (_, Wish::Cancel) | (Outcome::Cancelled, Wish::Finish) => self.ended(End::Cancelled),
            (_, Wish::Deadline) => self.ended(End::Failed(Failure::deadline())),
            (Outcome::Failed(failure), Wish::Finish) => match failure.fault {
                Fault::Program if self.failures < limits.retries => {
                    Self { failures: self.failures + 1, ..self.delayed(retry) }
                }
                Fault::Program | Fault::Input | Fault::Deadline | Fault::Crashes => {
                    self.ended(End::Failed(failure.clone()))
                }
            },
            (Outcome::Lost(Loss::Crashed), Wish::Finish) if self.crashes + 1 >= limits.crashes => {
                Self { crashes: self.crashes + 1, ..self.ended(End::Failed(Failure::crashes(self.crashes + 1))) }
            }
            (Outcome::Lost(Loss::Crashed), Wish::Finish) => Self { crashes: self.crashes + 1, ..self.delayed(retry) },
            // through no fault of the task: at once
            (Outcome::Lost(_), Wish::Finish) => self.queued(retry.now),
        }
    }

    /// Queued again after a failure or crash: the more there were before, the longer it waits.
    fn delayed(&self, retry: Retry) -> Self {
        let before = self.failures.saturating_add(self.crashes);
        self.queued(retry.now.after(retry::delay(before, retry.spread)))
    }

    fn queued(&self, not_before: Moment) -> Self {
        Self { phase: Phase::Queued { not_before }, ..self.clone() }
    }

    fn held(&self, hold: Hold) -> Self {
        Self { phase: Phase::Held(hold), ..self.clone() }
    }

    fn ended(&self, end: End) -> Self {
        Self { phase: Phase::Ended(end), ..self.clone() }
    }
}

impl Wish {
    /// A deadline changes nothing for a task that was cancelled before.
    fn or_deadline(self) -> Self {
        match self {
            Self::Finish | Self::Deadline => Self::Deadline,
            Self::Cancel => Self::Cancel,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const LIMITS: Limits = Limits { retries: 2, crashes: 3 };

    /// After every pause of these tests.
    const LATER: Moment = Moment::from_millis(1_000_000);

    fn endpoint(number: u128) -> EndpointId {
        EndpointId::new(Uuid::from_u128(number))
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn attempt(number: u32) -> AttemptNumber {
        AttemptNumber::new(number).expect("from 1")
    }

    fn lease(until: u64) -> LifeEvent {
        LifeEvent::Lease { endpoint: endpoint(1), until: at(until), now: LATER }
    }

    fn report(number: u32, outcome: Outcome) -> LifeEvent {
        LifeEvent::Report { endpoint: endpoint(1), attempt: attempt(number), outcome, now: at(0), spread: 0 }
    }

    fn failed(fault: Fault) -> Outcome {
        Outcome::Failed(Failure::new(fault, "why"))
    }

    /// Applies events that must all apply.
    fn after(events: &[LifeEvent]) -> Life {
        events.iter().fold(Life::new(at(0)), |life, event| {
            life.after(event, LIMITS).unwrap_or_else(|refusal| panic!("{event:?}: {refusal}"))
        })
    }

    #[test]
    fn a_late_report_of_an_older_attempt_is_refused() {
        let again = LifeEvent::Lease { endpoint: endpoint(2), until: at(30), now: at(10) };
        let life = after(&[lease(10), LifeEvent::Expire { now: at(10) }, again]);
        let late = life.after(&report(1, Outcome::Succeeded), LIMITS);
        assert_eq!(late, Err(Refusal::Fenced { reported: attempt(1), newest: Some(attempt(2)) }));
        assert_eq!(life.after(&report(2, Outcome::Succeeded), LIMITS), Err(Refusal::Foreign), "endpoint 2 has it");
        let report = |endpoint| LifeEvent::Report {
            endpoint,
            attempt: attempt(2),
            outcome: Outcome::Succeeded,
            now: at(0),
            spread: 0,
        };
        let done = life.after(&report(endpoint(2)), LIMITS).expect("applies");
        assert_eq!(done.end(), Some(&End::Succeeded));
        assert_eq!(done.after(&report(endpoint(2)), LIMITS), Err(Refusal::Ended));
    }

    #[test]
    fn only_the_programs_failures_use_up_retries() {
        let losses = [Loss::Walltime, Loss::Preempted, Loss::NodeLost, Loss::GpuFault, Loss::Stopped, Loss::Returned];
        let mut life = Life::new(at(0));
        for (k, loss) in (1..).zip(losses.iter().cycle().take(40)) {
            life = life.after(&lease(10), LIMITS).expect("leases");
            life = life.after(&report(k, Outcome::Lost(loss.clone())), LIMITS).expect("reports");
            assert!(matches!(life.phase, Phase::Queued { .. }), "{loss:?}");
        }
        assert_eq!((life.failures, life.crashes), (0, 0));
        for k in 41..=42 {
            life = life.after(&lease(10), LIMITS).expect("leases");
            life = life.after(&report(k, failed(Fault::Program)), LIMITS).expect("reports");
            assert!(life.end().is_none());
        }
        life = life.after(&lease(10), LIMITS).expect("leases");
        life = life.after(&report(43, failed(Fault::Program)), LIMITS).expect("reports");
        assert!(matches!(life.end(), Some(End::Failed(failure)) if failure.fault == Fault::Program));
    }

    /// Losses are nobody's fault: they neither wait nor make a later failure wait longer.
    #[test]
    fn pauses_count_failures_and_crashes() {
        let queued = |life: &Life| match life.phase {
            Phase::Queued { not_before } => not_before.millis(),
            Phase::Held(_) | Phase::Ended(_) => panic!("{life:?}"),
        };
        let again = |life: &Life, outcome| {
            let life = life.after(&lease(10), LIMITS).expect("leases");
            let attempt = life.attempt.expect("leased");
            let event = LifeEvent::Report { endpoint: endpoint(1), attempt, outcome, now: LATER, spread: 255 };
            life.after(&event, LIMITS).expect("reports")
        };
        let mut life = Life::new(at(0));
        for _ in 0..20 {
            life = again(&life, Outcome::Lost(Loss::NodeLost));
            assert_eq!(queued(&life), LATER.millis());
        }
        let mut pauses = Vec::new();
        for outcome in [failed(Fault::Program), Outcome::Lost(Loss::Crashed), failed(Fault::Program)] {
            life = again(&life, outcome);
            pauses.push(queued(&life) - LATER.millis());
            // long enough for the next lease
            life.phase = Phase::Queued { not_before: at(0) };
        }
        assert_eq!(pauses, [2000, 4000, 8000]);
    }

    #[test]
    fn bad_input_fails_at_once() {
        let life = after(&[lease(10), report(1, failed(Fault::Input))]);
        assert!(matches!(life.end(), Some(End::Failed(failure)) if failure.message() == "why"));
    }

    #[test]
    fn a_task_that_kills_its_workers_is_stopped() {
        let crash = |number| report(number, Outcome::Lost(Loss::Crashed));
        let life = after(&[lease(10), crash(1), lease(10), crash(2), lease(10), crash(3)]);
        assert!(matches!(life.end(), Some(End::Failed(failure)) if failure.fault == Fault::Crashes));
        assert_eq!(life.crashes, LIMITS.crashes);
    }

    #[test]
    fn cancelling_ends_a_queued_task_and_asks_a_held_one() {
        assert_eq!(after(&[LifeEvent::Cancel]).end(), Some(&End::Cancelled));
        let asked =
            after(&[lease(10), LifeEvent::Start { endpoint: endpoint(1), attempt: attempt(1) }, LifeEvent::Cancel]);
        assert_eq!(asked.hold().map(|hold| (hold.wish, hold.stage)), Some((Wish::Cancel, HoldStage::Running)));
        for outcome in [Outcome::Cancelled, failed(Fault::Program), Outcome::Lost(Loss::NodeLost)] {
            let ended = asked.after(&report(1, outcome), LIMITS).expect("reports");
            assert_eq!(ended.end(), Some(&End::Cancelled));
        }
        // it was faster than the wish: the result exists
        let finished = asked.after(&report(1, Outcome::Succeeded), LIMITS).expect("reports");
        assert_eq!(finished.end(), Some(&End::Succeeded));
        let expired = asked.after(&LifeEvent::Expire { now: at(10) }, LIMITS).expect("expires");
        assert_eq!(expired.end(), Some(&End::Cancelled));
    }

    #[test]
    fn a_deadline_fails_the_task() {
        let queued = after(&[LifeEvent::Deadline]);
        let held = after(&[lease(10), LifeEvent::Deadline, report(1, Outcome::Cancelled)]);
        for life in [queued, held] {
            assert!(matches!(life.end(), Some(End::Failed(failure)) if failure.fault == Fault::Deadline));
        }
    }

    #[test]
    fn a_task_waits_for_its_moment() {
        let life = Life::new(at(5));
        let before = LifeEvent::Lease { endpoint: endpoint(1), until: at(10), now: at(4) };
        assert_eq!(life.after(&before, LIMITS), Err(Refusal::NotDue));
        let then = LifeEvent::Lease { endpoint: endpoint(1), until: at(10), now: at(5) };
        assert!(life.after(&then, LIMITS).is_ok());
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            1 => Just(Outcome::Succeeded),
            1 => Just(failed(Fault::Input)),
            3 => Just(failed(Fault::Program)),
            1 => Just(Outcome::Cancelled),
            3 => Just(Outcome::Lost(Loss::Crashed)),
            6 => Just(Outcome::Lost(Loss::Walltime)),
        ]
    }

    fn event() -> impl Strategy<Value = LifeEvent> {
        let number = 1u32..12;
        let who = || prop_oneof![4 => Just(endpoint(1)), 1 => Just(endpoint(2))];
        prop_oneof![
            8 => (who(), 0u64..100, 0u64..50)
                .prop_map(|(endpoint, until, now)| LifeEvent::Lease { endpoint, until: at(until), now: at(now) }),
            3 => (number.clone(), who()).prop_map(|(n, endpoint)| LifeEvent::Start { endpoint, attempt: attempt(n) }),
            3 => (number.clone(), who(), 0u64..100)
                .prop_map(|(n, endpoint, until)| LifeEvent::Renew { endpoint, attempt: attempt(n), until: at(until) }),
            6 => (number, who(), outcome(), 0u64..30).prop_map(|(n, endpoint, outcome, now)| LifeEvent::Report {
                endpoint,
                attempt: attempt(n),
                outcome,
                now: at(now),
                spread: u8::try_from(n).expect("small"),
            }),
            3 => (0u64..100).prop_map(|now| LifeEvent::Expire { now: at(now) }),
            1 => Just(LifeEvent::Cancel),
            1 => Just(LifeEvent::Deadline),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_in_whatever_order_the_rules_hold(events in prop::collection::vec(event(), 0..60)) {
            let mut life = Life::new(at(0));
            let mut cancelled = false;
            for event in events {
                let Ok(next) = life.after(&event, LIMITS) else { continue };
                // what has ended stays
                prop_assert!(life.end().is_none());
                // attempts ascend by one, and by leases alone
                let number = |life: &Life| life.attempt.map_or(0, AttemptNumber::get);
                let leased = matches!(event, LifeEvent::Lease { .. });
                prop_assert_eq!(number(&next), number(&life) + u32::from(leased));
                // a hold is always of the newest attempt
                prop_assert!(next.hold().is_none_or(|hold| Some(hold.attempt) == next.attempt));
                // only the holder is heard
                if let LifeEvent::Report { endpoint, attempt, .. }
                | LifeEvent::Renew { endpoint, attempt, .. }
                | LifeEvent::Start { endpoint, attempt } = &event
                {
                    prop_assert_eq!(Some((*endpoint, *attempt)), life.hold().map(|hold| (hold.endpoint, hold.attempt)));
                }
                // limits hold, and losses cost nothing
                prop_assert!(next.failures <= LIMITS.retries && next.crashes <= LIMITS.crashes);
                let counted = matches!(&event, LifeEvent::Report { outcome: Outcome::Failed(_) | Outcome::Lost(Loss::Crashed), .. });
                prop_assert!(counted || (next.failures, next.crashes) == (life.failures, life.crashes));
                // success is reported, never concluded
                let success = matches!(&event, LifeEvent::Report { outcome: Outcome::Succeeded, .. });
                prop_assert_eq!(next.end() == Some(&End::Succeeded), success);
                // a cancelled task never waits for another attempt
                cancelled |= event == LifeEvent::Cancel;
                let queued = matches!(next.phase, Phase::Queued { .. });
                prop_assert!(!(cancelled && queued));
                life = next;
            }
        }

        #[test]
        fn a_life_survives_its_text_form(events in prop::collection::vec(event(), 0..20)) {
            let life = events.iter().fold(Life::new(at(0)), |life, event| life.after(event, LIMITS).unwrap_or(life));
            let text = serde_json::to_string(&life).expect("json");
            prop_assert_eq!(serde_json::from_str::<Life>(&text).expect("a life"), life);
        }
    }
}
