//! The breaker of a pool: it keeps an endpoint from asking again and again for blocks that do nothing but end.
//! Pure: moments are given to it. It does not look at blocks; who knows them tells it what became of them.
//!
//! ```text
//!            Failed                      Failed, of a block wanted after the trip; no delay is left
//!   Closed ─────────▶ Delayed{strikes} ──────────────────────────────────────────────────────────▶ Stopped
//!     ▲                 │  ▲       │                                                                │
//!     │                 │  └───────┘ Failed, of a block wanted after the trip: one strike more      │
//!     └─────────────────┴───────────────────────────────────────────────────────────────────────────┘
//!       Connected, Resumed
//! ```
//!
//! Blocks that were asked for together and end together are one strike: a site whose file system was away for a minute
//! then costs a minute, not the whole ladder.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::time::Moment;

/// How long no block is asked for after the first failure, the second, and so on; after one more, no block is asked for
/// until a person has looked. HyperQueue's delays are 1, 15, 30 and 60 minutes; the shorter second one is for a site whose
/// scheduler or file system was restarted.
const DELAYS: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(15 * 60), Duration::from_secs(60 * 60)];

/// Whether blocks of a pool may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Yes.
    #[default]
    Closed,
    /// Not until a moment, and then one.
    Delayed {
        /// Failures one after the other, from 1.
        strikes: u32,
        /// When the last of them was.
        tripped: Moment,
        /// The moment.
        until: Moment,
    },
    /// No, until someone resumes it.
    Stopped {
        /// Since when.
        tripped: Moment,
    },
}

/// What happens to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerEvent {
    /// A block ended before any worker of it connected, or the site's scheduler refused it.
    Failed {
        /// When the block was wanted.
        wanted: Moment,
    },
    /// A worker of a block connected.
    Connected,
    /// A person says that the reason is gone.
    Resumed,
}

/// How many blocks a breaker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// As many as the limits do.
    Any,
    /// One, and no other until a worker of it has connected.
    Probe,
    /// None.
    Nothing,
}

impl Breaker {
    /// What an event at a moment makes of it.
    #[must_use]
    pub fn after(self, event: BreakerEvent, now: Moment) -> Self {
        match (self, event) {
            (_, BreakerEvent::Connected | BreakerEvent::Resumed) => Self::Closed,
            (Self::Closed, BreakerEvent::Failed { .. }) => Self::struck(1, now),
            // it was asked for before, together with the one that tripped the breaker
            (Self::Delayed { tripped, .. }, BreakerEvent::Failed { wanted }) if wanted <= tripped => self,
            (Self::Delayed { strikes, .. }, BreakerEvent::Failed { .. }) => {
                Self::struck(strikes.saturating_add(1), now)
            }
            (Self::Stopped { .. }, BreakerEvent::Failed { .. }) => self,
        }
    }

    /// How many blocks may be asked for at a moment.
    pub fn allowance(self, now: Moment) -> Allowance {
        match self {
            Self::Closed => Allowance::Any,
            Self::Delayed { until, .. } if until <= now => Allowance::Probe,
            Self::Delayed { .. } | Self::Stopped { .. } => Allowance::Nothing,
        }
    }

    fn struck(strikes: u32, now: Moment) -> Self {
        let index = usize::try_from(strikes.saturating_sub(1)).unwrap_or(usize::MAX);
        match DELAYS.get(index) {
            Some(delay) => Self::Delayed { strikes, tripped: now, until: now.after(*delay) },
            None => Self::Stopped { tripped: now },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }

    const fn failed(wanted: Moment) -> BreakerEvent {
        BreakerEvent::Failed { wanted }
    }

    #[test]
    fn delays_grow_until_it_stops() {
        let (mut breaker, mut now) = (Breaker::default(), at(1000));
        for delay in DELAYS {
            // the probe of the last round, or the first block of all
            breaker = breaker.after(failed(now), now);
            assert_eq!(breaker.allowance(now), Allowance::Nothing);
            now = now.after(delay);
            assert_eq!(breaker.allowance(Moment::from_millis(now.millis() - 1)), Allowance::Nothing);
            assert_eq!(breaker.allowance(now), Allowance::Probe);
        }
        breaker = breaker.after(failed(now), now);
        assert_eq!(breaker, Breaker::Stopped { tripped: now });
        assert_eq!(breaker.allowance(now.after(Duration::MAX)), Allowance::Nothing);
        assert_eq!(breaker.after(BreakerEvent::Resumed, now).allowance(now), Allowance::Any);
    }

    #[test]
    fn blocks_that_fail_together_are_one_strike() {
        let mut breaker = Breaker::default();
        for second in 20..60 {
            breaker = breaker.after(failed(at(second % 5)), at(second));
        }
        assert_eq!(breaker, Breaker::Delayed { strikes: 1, tripped: at(20), until: at(80) });
    }

    #[test]
    fn it_survives_its_text_form() {
        let breaker = Breaker::default().after(failed(at(1)), at(2));
        let text = serde_json::to_string(&breaker).expect("json");
        assert_eq!(serde_json::from_str::<Breaker>(&text).expect("a breaker"), breaker, "{text}");
    }

    /// What happens next in a pool whose endpoint asks whenever it may.
    #[derive(Debug, Clone)]
    enum Step {
        /// Time passes.
        Pass(u64),
        /// The endpoint wants one more block.
        Want,
        /// The oldest of its silent blocks ends.
        Fail,
        /// A worker of the oldest of its silent blocks connects.
        Connect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4000_u64).prop_map(Step::Pass),
            3 => Just(Step::Want),
            4 => Just(Step::Fail),
            1 => Just(Step::Connect),
        ]
    }

    proptest! {
        /// However blocks come and go: after a failure nothing is asked for until its delay has passed, then one at a time;
        /// between two workers that connect, there are at most as many rounds as delays, and one.
        #[test]
        fn rounds_without_a_worker_are_few(steps in prop::collection::vec(step(), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), at(10));
            let mut silent: Vec<Moment> = Vec::new();
            let (mut last_failure, mut probes) = (None, 0);
            for step in steps {
                match step {
                    Step::Pass(seconds) => now = now.after(Duration::from_secs(seconds)),
                    Step::Want => {
                        let allowed = breaker.allowance(now);
                        let asks = match allowed {
                            Allowance::Any => true,
                            Allowance::Probe => silent.is_empty(),
                            Allowance::Nothing => false,
                        };
                        if asks {
                            let rests = last_failure.is_none_or(|failure| now.since(failure) >= DELAYS[0]);
                            prop_assert!(rests, "asked {:?} after a failure", last_failure.map(|at| now.since(at)));
                            probes += usize::from(allowed == Allowance::Probe);
                            prop_assert!(probes <= DELAYS.len(), "it never stops");
                            silent.push(now);
                        }
                    }
                    Step::Fail if !silent.is_empty() => {
                        let wanted = silent.remove(0);
                        let before = breaker;
                        breaker = breaker.after(failed(wanted), now);
                        if breaker != before {
                            last_failure = Some(now);
                        }
                        prop_assert_ne!(breaker.allowance(now), Allowance::Any);
                    }
                    Step::Connect if !silent.is_empty() => {
                        silent.remove(0);
                        breaker = breaker.after(BreakerEvent::Connected, now);
                        (last_failure, probes) = (None, 0);
                        prop_assert_eq!(breaker.allowance(now), Allowance::Any);
                    }
                    Step::Fail | Step::Connect => {}
                }
            }
        }
    }
}
