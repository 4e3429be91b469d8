//! What endpoint and controller say to each other in a session: as values, whatever carries them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, EndpointId, SessionId};
use crate::task::life::Outcome;
use crate::task::names::{EndpointName, Group};
use crate::task::pool::{Lane, Pool, PoolKey};
use crate::task::result::TaskResult;
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

/// A process that wants to be an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// What it is called.
    pub name: EndpointName,
    /// Who else may see it and submit to it.
    pub group: Option<Group>,
    /// The process.
    pub session: SessionId,
    /// Where it runs.
    pub host: String,
    /// Earlier processes of the endpoint that are known to be dead.
    pub replaces: Vec<SessionId>,
}

/// A task that is leased to an endpoint, as it is told so: clocks of two computers differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The attempt.
    pub attempt: AttemptId,
    /// What is to be done.
    pub spec: TaskSpec,
    /// On what kind of block.
    pub pool: PoolKey,
    /// In what time it must be over.
    pub time_left: Option<Duration>,
    /// How often it began before: an endpoint is careful with tasks that crashed.
    pub crashes: u32,
}

impl Offer {
    /// The task by the clock of who was told.
    pub fn taken(self, now: Moment) -> Leased {
        let Self { attempt, spec, pool, time_left, crashes } = self;
        Leased { attempt, spec, pool, deadline: time_left.map(|left| now.after(left)), crashes }
    }
}

/// A task that was leased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leased {
    /// The attempt.
    pub attempt: AttemptId,
    /// What is to be done.
    pub spec: TaskSpec,
    /// On what kind of block.
    #[serde(default = "default_pool", skip_serializing_if = "PoolKey::is_default")]
    pub pool: PoolKey,
    /// When it must be over, by the clock of who has it.
    pub deadline: Option<Moment>,
    /// How often it began before: an endpoint is careful with tasks that crashed.
    pub crashes: u32,
}

/// Journals do not name the pool that most tasks are of.
fn default_pool() -> PoolKey {
    PoolKey::DEFAULT
}

impl Leased {
    /// As an endpoint is told at a moment.
    pub fn offer(self, now: Moment) -> Offer {
        let Self { attempt, spec, pool, deadline, crashes } = self;
        Offer { attempt, spec, pool, time_left: deadline.map(|deadline| deadline.since(now)), crashes }
    }

    /// Whether it must be over.
    pub fn is_late(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The lane that it was leased from.
    pub fn lane(&self) -> Lane {
        Lane::of(self.spec.kind().place(), self.pool)
    }
}

/// An attempt that is over, as the endpoint tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// Which.
    pub attempt: AttemptId,
    /// How it ended.
    pub outcome: Outcome,
    /// What it left.
    pub result: TaskResult,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which.
    pub attempt: AttemptId,
    /// What it does.
    pub step: String,
    /// Of it, so much is done.
    pub done: u64,
    /// Of so much; 0 = nobody knows.
    pub total: u64,
}

/// Tasks that wait at the controller for slots of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolBacklog {
    /// Which pool; the endpoint makes of its configuration what it can.
    pub pool: Pool,
    /// How many; the controller counts up to a limit.
    pub tasks: u64,
}

/// How many tasks an endpoint takes in a session, counted from the session's start: tasks that were leased in it are
/// included. A later credit replaces an earlier one and may be lower. Tasks that were leased before the lower one was
/// heard are taken all the same. A lane that is missing has none.
pub type Credit = BTreeMap<Lane, u64>;

/// Lanes of a session: pools that an endpoint gave credit for, one after the other, and have no task on the way, are
/// forgotten beyond it.
pub const MOST_LANES: usize = 1024;

/// One side's account of the tasks of a session. The controller counts a task when it leases it, the endpoint when it
/// comes: the difference is on its way.
///
/// A total says the same however many messages are on their way. A number of tasks beyond those that were leased
/// would not: the endpoint does not know which leases the controller has counted already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    credit: Credit,
    counted: BTreeMap<Lane, u64>,
}

impl Account {
    /// The credit that was given last.
    pub fn credit(&self) -> &Credit {
        &self.credit
    }

    /// How many tasks more may be leased, or may come.
    pub fn left(&self, lane: Lane) -> u64 {
        let of = |numbers: &BTreeMap<Lane, u64>| numbers.get(&lane).copied().unwrap_or(0);
        of(&self.credit).saturating_sub(of(&self.counted))
    }

    /// Lanes of which more tasks may be leased, or may come.
    pub fn open(&self) -> impl Iterator<Item = (Lane, u64)> {
        self.credit.keys().map(|lane| (*lane, self.left(*lane))).filter(|(_, left)| *left > 0)
    }

    /// Tasks were leased, or came. There may be more than the credit allows: it may have become lower meanwhile.
    pub fn count(&mut self, lane: Lane, tasks: u64) {
        let counted = self.counted.entry(lane).or_default();
        *counted = counted.saturating_add(tasks);
    }

    /// The controller has heard a credit; returns whether that lets it lease more of some lane.
    pub fn update(&mut self, credit: Credit) -> CreditChange {
        let before = std::mem::replace(&mut self.credit, credit);
        let counted = |lane: &Lane| self.counted.get(lane).copied().unwrap_or(0);
        let left = |credit: &Credit, lane: &Lane| credit.get(lane).copied().unwrap_or(0).saturating_sub(counted(lane));
        let is_more = self.credit.keys().any(|lane| left(&self.credit, lane) > left(&before, lane));
        if is_more { CreditChange::More } else { CreditChange::NoMore }
    }

    /// The endpoint takes `tasks` more of a lane. That replaces what is left.
    pub fn allow(&mut self, lane: Lane, tasks: u64) {
        let counted = self.counted.get(&lane).copied().unwrap_or(0);
        self.credit.insert(lane, counted.saturating_add(tasks));
    }
}

/// What a credit changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditChange {
    /// More tasks may be leased than before.
    More,
    /// As many as before, or fewer.
    NoMore,
}

/// What an endpoint says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromEndpoint {
    /// How many tasks it takes.
    Credit(Credit),
    /// It lives, and so do these attempts.
    Heartbeat {
        /// JSON, for people.
        status: String,
        /// All that it has.
        attempts: Vec<AttemptId>,
    },
    /// Workers began these.
    Started(Vec<AttemptId>),
    /// One of them has come so far.
    Progress(Progress),
    /// These are over.
    Reports(Vec<Reported>),
}

/// What a controller says.
#[derive(Debug, Clone, PartialEq)]
pub enum ToEndpoint {
    /// Leases, which are on its disk.
    Leases(Vec<Offer>),
    /// Answer to a heartbeat: leases of the attempts that it named last as long as was agreed, from when it was sent, but
    /// for those that are told to stop.
    Renewed {
        /// The message that it answers.
        number: u64,
    },
    /// Answer to reports: they are on its disk, or will never be wanted.
    Recorded {
        /// The message that it answers.
        number: u64,
        /// Those that may be forgotten.
        attempts: Vec<AttemptId>,
    },
    /// These are to end.
    Stop(Vec<Stop>),
    /// What waits for slots of the endpoint, beyond what it has credit for; a pool that is missing has nothing.
    Backlog(Vec<PoolBacklog>),
    /// Another process is the endpoint now.
    Replaced {
        /// Which.
        session: SessionId,
        /// Where.
        host: String,
    },
}

/// An attempt that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Which.
    pub attempt: AttemptId,
    /// Why.
    pub reason: StopReason,
}

/// Why an attempt is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Someone cancelled the task.
    Cancelled,
    /// Its deadline has passed.
    Deadline,
    /// Another attempt has the task, or it is over: whatever this one makes must not be published.
    Fenced,
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: Lane = Lane::Pool(PoolKey::DEFAULT);

    /// Both sides of a session, and what is on its way between them.
    #[derive(Default)]
    struct Sides {
        endpoint: Account,
        controller: Account,
        credits: VecDeque<Credit>,
        leases: VecDeque<u64>,
        /// How many tasks may come, by the endpoint's last word and what has come since.
        wanted: u64,
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The endpoint says how many tasks more it takes.
        Allow(u64),
        /// The controller hears the next credit.
        Hear,
        /// The controller has this many tasks to lease.
        Lease(u64),
        /// The next leases come.
        Come,
    }

    impl Sides {
        fn take(&mut self, step: &Step) {
            match *step {
                Step::Allow(tasks) => {
                    self.endpoint.allow(SLOTS, tasks);
                    self.credits.push_back(self.endpoint.credit().clone());
                    self.wanted = tasks;
                }
                Step::Hear => {
                    if let Some(credit) = self.credits.pop_front() {
                        let before = self.controller.left(SLOTS);
                        let change = self.controller.update(credit);
                        assert_eq!(change == CreditChange::More, self.controller.left(SLOTS) > before);
                    }
                }
                Step::Lease(tasks) => {
                    let tasks = tasks.min(self.controller.left(SLOTS));
                    self.controller.count(SLOTS, tasks);
                    self.leases.push_back(tasks);
                }
                Step::Come => {
                    if let Some(tasks) = self.leases.pop_front() {
                        self.endpoint.count(SLOTS, tasks);
                        self.wanted = self.wanted.saturating_sub(tasks);
                    }
                }
            }
        }

        fn on_their_way(&self) -> u64 {
            self.leases.iter().sum()
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..9_u64).prop_map(Step::Allow),
            3 => Just(Step::Hear),
            2 => (0..5_u64).prop_map(Step::Lease),
            3 => Just(Step::Come),
        ]
    }

    proptest! {
        /// However credits and leases cross: the controller leases by the credit that it heard last, both sides agree
        /// when nothing is on its way, and the other place is not touched.
        #[test]
        fn both_sides_count_the_same(steps in prop::collection::vec(step(), 0..80)) {
            let mut sides = Sides::default();
            for step in &steps {
                sides.take(step);
                prop_assert_eq!(sides.endpoint.left(SLOTS), sides.wanted);
                if sides.credits.is_empty() {
                    let more = sides.wanted.saturating_sub(sides.on_their_way());
                    prop_assert_eq!(sides.controller.left(SLOTS), more, "what is on its way is included");
                }
            }
            while !sides.credits.is_empty() || !sides.leases.is_empty() {
                sides.take(&Step::Hear);
                sides.take(&Step::Come);
            }
            prop_assert_eq!(sides.endpoint.left(Lane::Login), 0);
            prop_assert_eq!(sides.endpoint, sides.controller);
        }
    }
}
