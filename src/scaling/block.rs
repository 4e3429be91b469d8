//! The life of a block: what has happened to a batch job that an endpoint wants, and what an event makes of it.
//! Pure: it asks no scheduler, reads no clock, and does not decide which blocks there should be.
//!
//! ```text
//!           Submitted             Queued             Running
//!   Wanted ──────────▶ Submitted ────────▶ Pending ──────────▶ Running{ends}
//!     │                    │                 │ ▲                 │
//!     │                    │                 │ └─────────────────┘  Queued: the site requeued the job
//!     └────────────────────┴──── Ended ──────┴─────────────────────────────▶ Ended(Ending)
//! ```
//!
//! A state may be skipped: a look shows what is, not what was meanwhile. Three things are attributes and no states: whether
//! the site's scheduler was able to say in which state the block is (`sight`), whether a worker ever connected, and what
//! the endpoint wants of it (`wish`). A block that is out of sight counts as held.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::task::ending::Ending;
use crate::task::time::Moment;

/// Where a block is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockLife {
    /// Its state.
    pub phase: BlockPhase,
    /// Since when it is in this state.
    pub since: Moment,
    /// When it was wanted.
    pub wanted: Moment,
    /// Whether its state is what the site's scheduler said last.
    pub sight: Sight,
    /// Whether a worker of it ever connected.
    pub start: BlockStart,
    /// What the endpoint wants of it.
    pub wish: BlockWish,
}

/// The state of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockPhase {
    /// The endpoint wants it; the site's scheduler has not named a job yet.
    Wanted,
    /// It is a job.
    Submitted,
    /// The job waits in the site's queue.
    Pending,
    /// The job has its nodes.
    Running {
        /// When it reaches its walltime; None = it has no end.
        ends: Option<Moment>,
    },
    /// It is over.
    Ended(Ending),
}

/// Whether the state of a block is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// It was in this state at the last look.
    Seen,
    /// The last look failed, did not show it, or a submission was not answered.
    Unknown {
        /// Since when.
        since: Moment,
    },
}

/// Whether a block has shown that it works, since it was last in the site's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockStart {
    /// None of its workers has connected so far.
    Silent,
    /// A worker has connected; it may have gone since.
    Connected,
}

/// What the endpoint wants of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockWish {
    /// That it computes.
    Stay,
    /// That its workers take nothing more, and end.
    Drain {
        /// Since when.
        since: Moment,
    },
    /// That the site's scheduler ends it.
    Cancel(CancelReason),
}

/// What a block, or a worker of it, has left of its life. A longer one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LifeLeft {
    /// So long, until its walltime.
    For(Duration),
    /// It has no end.
    Endless,
}

impl LifeLeft {
    /// Whether a task fits into it. A task of unknown length fits into any that is not over.
    pub fn fits(self, estimate: Option<Duration>) -> bool {
        match (self, estimate) {
            (Self::Endless, _) => true,
            (Self::For(left), Some(estimate)) => estimate <= left,
            (Self::For(left), None) => !left.is_zero(),
        }
    }
}

/// Why a block is to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// There is nothing for it to do.
    Spare,
    /// It runs, and no worker of it has connected in time.
    Silent,
    /// It was drained, and did not end.
    Stuck,
    /// The endpoint ends, or a person asked for it.
    Asked,
}

/// What happens to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockEvent {
    /// The site's scheduler has named its job.
    Submitted,
    /// A look shows it in the queue.
    Queued,
    /// A look shows it running.
    Running {
        /// When it reaches its walltime; None = it has no end.
        ends: Option<Moment>,
    },
    /// Nobody can say in which state it is.
    LostSight,
    /// A worker of it has connected.
    Connected,
    /// Its workers are to take nothing more, and end.
    Drain,
    /// The site's scheduler is to end it.
    Cancel(CancelReason),
    /// It is over.
    Ended(Ending),
}

/// Why an event does not apply to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BlockRefusal {
    /// It is over; its first ending stays.
    #[error("the block has ended already: it {ending}")]
    Ended {
        /// How.
        ending: Ending,
    },
    /// It is not a job yet, so that no look can have shown it.
    #[error("the block has no job yet")]
    NotSubmitted,
    /// It is a job already.
    #[error("the block has a job already")]
    AlreadySubmitted,
    /// It is to be cancelled, which is more than to be drained; or it is drained already.
    #[error("the block is ending already")]
    AlreadyEnding,
}

impl BlockLife {
    /// A block that is wanted from now on.
    pub fn new(now: Moment) -> Self {
        Self {
            phase: BlockPhase::Wanted,
            since: now,
            wanted: now,
            sight: Sight::Seen,
            start: BlockStart::Silent,
            wish: BlockWish::Stay,
        }
    }

    /// What an event at a moment makes of the block.
    ///
    /// # Errors
    /// The event does not apply; the block is as before.
    pub fn after(&self, event: BlockEvent, now: Moment) -> Result<Self, BlockRefusal> {
        match (self.phase, event) {
            (BlockPhase::Ended(ending), _) => Err(BlockRefusal::Ended { ending }),
            (_, BlockEvent::Ended(ending)) => Ok(self.seen_in(BlockPhase::Ended(ending), now)),
            (BlockPhase::Wanted, BlockEvent::Submitted) => Ok(self.seen_in(BlockPhase::Submitted, now)),
            (BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Running { .. }, BlockEvent::Submitted) => {
                Err(BlockRefusal::AlreadySubmitted)
            }
            (BlockPhase::Wanted, BlockEvent::Queued | BlockEvent::Running { .. }) => Err(BlockRefusal::NotSubmitted),
            (BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Running { .. }, BlockEvent::Queued) => {
                Ok(self.seen_in(BlockPhase::Pending, now))
            }
            (
                BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Running { .. },
                BlockEvent::Running { ends },
            ) => Ok(self.seen_in(BlockPhase::Running { ends }, now)),
            (_, BlockEvent::LostSight) => Ok(self.unseen(now)),
            // a worker may be faster than the answer to the submission
            (_, BlockEvent::Connected) => Ok(Self { start: BlockStart::Connected, ..*self }),
            (_, BlockEvent::Drain) => match self.wish {
                BlockWish::Stay => Ok(Self { wish: BlockWish::Drain { since: now }, ..*self }),
                BlockWish::Drain { .. } | BlockWish::Cancel(_) => Err(BlockRefusal::AlreadyEnding),
            },
            (_, BlockEvent::Cancel(reason)) => match self.wish {
                BlockWish::Stay | BlockWish::Drain { .. } => Ok(Self { wish: BlockWish::Cancel(reason), ..*self }),
                // the first reason stays
                BlockWish::Cancel(_) => Err(BlockRefusal::AlreadyEnding),
            },
        }
    }

    /// Whether it counts against `max_blocks`: from when it is wanted until it is known to be over.
    pub fn is_held(&self) -> bool {
        self.ending().is_none()
    }

    /// Whether it may take tasks, now or later: it is held and not meant to end.
    pub fn stays(&self) -> bool {
        self.is_held() && self.wish == BlockWish::Stay
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        match self.phase {
            BlockPhase::Ended(ending) => Some(ending),
            BlockPhase::Wanted | BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Running { .. } => None,
        }
    }

    /// Whether it is over, no worker of it ever connected, and that is not because the endpoint did not need it any more.
    /// Such blocks trip the breaker.
    pub fn failed_to_start(&self) -> bool {
        let was_wanted = match self.wish {
            BlockWish::Stay | BlockWish::Cancel(CancelReason::Silent) => true,
            BlockWish::Drain { .. } => false,
            BlockWish::Cancel(CancelReason::Spare | CancelReason::Stuck | CancelReason::Asked) => false,
        };
        !self.is_held() && self.start == BlockStart::Silent && was_wanted
    }

    /// What a running block has left of its life at a moment; None for a block that does not run.
    pub fn left(&self, now: Moment) -> Option<LifeLeft> {
        match self.phase {
            BlockPhase::Running { ends } => Some(ends.map_or(LifeLeft::Endless, |ends| LifeLeft::For(ends.since(now)))),
            BlockPhase::Wanted | BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Ended(_) => None,
        }
    }

    fn seen_in(&self, phase: BlockPhase, now: Moment) -> Self {
        // a new end of a running block is no new state
        let same = std::mem::discriminant(&self.phase) == std::mem::discriminant(&phase);
        let since = if same { self.since } else { now };
        // a job that the site put back into its queue starts afresh: its workers are gone
        let requeued = matches!((self.phase, phase), (BlockPhase::Running { .. }, BlockPhase::Pending));
        let start = if requeued { BlockStart::Silent } else { self.start };
        Self { phase, since, start, sight: Sight::Seen, ..*self }
    }

    fn unseen(&self, now: Moment) -> Self {
        match self.sight {
            Sight::Seen => Self { sight: Sight::Unknown { since: now }, ..*self },
            Sight::Unknown { .. } => *self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::ending::Exit;

    fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }

    const RUNNING: BlockEvent = BlockEvent::Running { ends: None };
    const ENDED: BlockEvent = BlockEvent::Ended(Ending::Itself(Exit::Code(0)));

    /// Applies events, one a second, that must all apply.
    fn after(events: &[BlockEvent]) -> BlockLife {
        (1..).zip(events).fold(BlockLife::new(at(0)), |life, (second, event)| {
            life.after(*event, at(second)).unwrap_or_else(|refusal| panic!("{event:?}: {refusal}"))
        })
    }

    #[test]
    fn a_block_goes_its_way() {
        let ends = Some(at(3600));
        let life = after(&[BlockEvent::Submitted, BlockEvent::Queued, BlockEvent::Running { ends }]);
        assert_eq!((life.phase, life.since), (BlockPhase::Running { ends }, at(3)));
        assert_eq!(life.left(at(3000)), Some(LifeLeft::For(Duration::from_secs(600))));
        assert_eq!(life.left(at(4000)), Some(LifeLeft::For(Duration::ZERO)));
        let longer = life.after(BlockEvent::Running { ends: Some(at(7200)) }, at(9)).expect("the site prolongs it");
        assert_eq!((longer.since, longer.left(at(3600))), (at(3), Some(LifeLeft::For(Duration::from_secs(3600)))));
        let over = longer.after(BlockEvent::Ended(Ending::Walltime), at(7200)).expect("ends");
        assert_eq!((over.ending(), over.is_held()), (Some(Ending::Walltime), false));
    }

    #[test]
    fn what_does_not_apply_is_refused_by_name() {
        let wanted = after(&[]);
        assert_eq!(wanted.after(BlockEvent::Queued, at(1)), Err(BlockRefusal::NotSubmitted));
        assert_eq!(wanted.after(RUNNING, at(1)), Err(BlockRefusal::NotSubmitted));
        let pending = after(&[BlockEvent::Submitted, BlockEvent::Queued]);
        assert_eq!(pending.after(BlockEvent::Submitted, at(3)), Err(BlockRefusal::AlreadySubmitted));
        let draining = after(&[BlockEvent::Submitted, RUNNING, BlockEvent::Drain]);
        assert_eq!(draining.after(BlockEvent::Drain, at(9)), Err(BlockRefusal::AlreadyEnding));
        let cancelled = draining.after(BlockEvent::Cancel(CancelReason::Stuck), at(9)).expect("cancels what drains");
        for event in [BlockEvent::Drain, BlockEvent::Cancel(CancelReason::Spare)] {
            assert_eq!(cancelled.after(event, at(10)), Err(BlockRefusal::AlreadyEnding));
        }
        let over = cancelled.after(BlockEvent::Ended(Ending::Preempted), at(10)).expect("ends");
        let refusal = over.after(ENDED, at(11)).expect_err("its first ending stays");
        assert_eq!(refusal.to_string(), "the block has ended already: it was preempted");
    }

    #[test]
    fn only_a_silent_block_that_was_needed_failed_to_start() {
        let failed = |events: &[BlockEvent]| after(events).failed_to_start();
        assert!(failed(&[ENDED]), "a refused submission");
        assert!(failed(&[BlockEvent::Submitted, BlockEvent::Queued, ENDED]));
        assert!(failed(&[BlockEvent::Submitted, RUNNING, BlockEvent::Cancel(CancelReason::Silent), ENDED]));
        assert!(!failed(&[BlockEvent::Submitted, RUNNING]), "it may still connect");
        assert!(!failed(&[BlockEvent::Submitted, RUNNING, BlockEvent::Connected, ENDED]));
        assert!(!failed(&[BlockEvent::Connected, BlockEvent::Submitted, RUNNING, ENDED]), "faster than the answer");
        assert!(!failed(&[BlockEvent::Submitted, BlockEvent::Cancel(CancelReason::Spare), ENDED]));
        assert!(!failed(&[BlockEvent::Submitted, BlockEvent::Drain, ENDED]));
        let requeued = [BlockEvent::Submitted, RUNNING, BlockEvent::Connected, BlockEvent::Queued, RUNNING, ENDED];
        assert!(failed(&requeued), "the workers of its first run do not count");
    }

    #[test]
    fn an_unknown_block_is_held_until_it_is_seen() {
        let lost = after(&[BlockEvent::Submitted, BlockEvent::Queued, BlockEvent::LostSight, BlockEvent::LostSight]);
        assert_eq!((lost.sight, lost.phase), (Sight::Unknown { since: at(3) }, BlockPhase::Pending));
        assert!(lost.is_held() && lost.stays());
        let seen = lost.after(BlockEvent::Queued, at(9)).expect("is seen again");
        assert_eq!((seen.sight, seen.since), (Sight::Seen, at(2)), "it waited all the time");
    }

    #[test]
    fn a_life_survives_its_text_form() {
        let life = after(&[BlockEvent::Submitted, BlockEvent::LostSight, BlockEvent::Cancel(CancelReason::Spare)]);
        let text = serde_json::to_string(&life).expect("json");
        assert_eq!(serde_json::from_str::<BlockLife>(&text).expect("a life"), life, "{text}");
    }

    #[test]
    fn an_endless_life_is_the_longest() {
        let hour = LifeLeft::For(Duration::from_secs(3600));
        assert!(LifeLeft::Endless > hour && hour > LifeLeft::For(Duration::ZERO));
        assert!(hour.fits(Some(Duration::from_secs(3600))) && !hour.fits(Some(Duration::from_secs(3601))));
        assert!(LifeLeft::Endless.fits(Some(Duration::MAX)));
        assert!(hour.fits(None) && !LifeLeft::For(Duration::ZERO).fits(None));
    }

    fn event() -> impl Strategy<Value = BlockEvent> {
        prop_oneof![
            4 => Just(BlockEvent::Submitted),
            3 => Just(BlockEvent::Queued),
            3 => (0..99_u64).prop_map(|second| BlockEvent::Running { ends: Some(at(second)) }),
            2 => Just(BlockEvent::LostSight),
            2 => Just(BlockEvent::Connected),
            1 => Just(BlockEvent::Drain),
            1 => prop::sample::select(vec![CancelReason::Spare, CancelReason::Silent]).prop_map(BlockEvent::Cancel),
            1 => prop::sample::select(vec![Ending::Walltime, Ending::Cancelled]).prop_map(BlockEvent::Ended),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: a block is held until its first ending, which stays; it does not run before
        /// it is a job; nothing but a look brings it back into sight; what is to end does not stay again.
        #[test]
        fn a_block_keeps_its_rules(events in prop::collection::vec(event(), 0..60)) {
            let mut life = BlockLife::new(at(0));
            let mut submitted = false;
            for (second, event) in (1..).zip(events) {
                let before = life;
                let Ok(next) = life.after(event, at(second)) else { continue };
                life = next;
                submitted |= event == BlockEvent::Submitted;
                prop_assert!(before.is_held(), "nothing follows an ending");
                prop_assert_eq!(life.is_held(), !matches!(event, BlockEvent::Ended(_)));
                let has_job = matches!(life.phase, BlockPhase::Submitted | BlockPhase::Pending | BlockPhase::Running { .. });
                prop_assert!(submitted || !has_job);
                prop_assert!(before.stays() || !life.stays(), "a wish is not taken back");
                prop_assert!(life.since >= before.since && life.wanted == at(0));
                let of_a_look = match event {
                    BlockEvent::Submitted | BlockEvent::Queued | BlockEvent::Running { .. } => true,
                    BlockEvent::Ended(_) => true,
                    BlockEvent::LostSight | BlockEvent::Connected | BlockEvent::Drain | BlockEvent::Cancel(_) => false,
                };
                prop_assert!(of_a_look || life.phase == before.phase);
                prop_assert!(of_a_look || before.sight == Sight::Seen || life.sight == before.sight);
                prop_assert!(!of_a_look || life.sight == Sight::Seen);
                prop_assert!(!life.failed_to_start() || life.start == BlockStart::Silent);
            }
        }
    }
}
