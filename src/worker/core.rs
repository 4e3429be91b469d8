//! What a worker decides: which attempts start when, what is said to the endpoint, when the node is unfit. Pure but for
//! the instants that it is given: it starts no process, opens no file and sends nothing. Whoever drives it (`daemon`)
//! passes on what happens and carries out the [`Action`]s.
//!
//! ```text
//!   attempt:  ─ Work ─▶ waiting ─ slot, lease, fit node ─▶ running ─ process ended ─▶ reported ─ Recorded ─▶ ─
//!                          └── Stop, Return, Leave, unfit node ─────────────────────────▶ ┘
//!
//!   node:     unknown ─ connected ─▶ checking ─┬─ passed ─▶ fit ─ unfit three times in a row ─▶ unfit
//!                                       ▲      └─ failed ─▶ unfit                                 │
//!                                       └──────────────── some time has passed ───────────────────┘
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::gpus::AssignedSlot;
use crate::ids::AttemptId;
use crate::protocol::session::{Progress, Reported, Stop};
use crate::protocol::worker::{FromWorker, GpuState, Handout, Room, ToWorker, WorkerFacts};
use crate::runtime::lease::Lease;
use crate::task::failure::{Failure, Loss, Unfit};
use crate::task::life::Outcome;
use crate::task::result::{EarlierResult, NamedResult, TaskResult};
use crate::task::retry::doubled;
use crate::task::spec::{ByPlace, Needs, Place, TaskSpec};

/// The pause between two tries to connect: the endpoint is on this computer or in the same network, and may be
/// starting.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A worker that has had no endpoint for so long, and no lease, ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first beats, before a lease says how often they are due.
const BEAT: Duration = Duration::from_secs(1);

/// The longest time between beats.
const LONGEST_BEAT: Duration = Duration::from_secs(10);

/// How often a lease is renewed before it ends.
const BEATS: u32 = 8;

/// What is to be said waits for more so long while slots have other work: of short tasks many go in one message, and are
/// written and synced together all the way.
const GATHER: Duration = Duration::from_millis(5);

/// Reports that are not recorded yet are waited for so long when the worker leaves, beyond an executor's grace.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// So many attempts in a row that could not work here: one may meet a file system that hiccups.
const UNFIT_IN_A_ROW: u32 = 3;

/// An unfit node is checked again so often: an administrator who mounts a file system does not wait long.
const CHECK_AGAIN: Duration = Duration::from_secs(10);

/// Executors that die within this time of the first are taken along by what ended that one, as when the system runs out
/// of memory: only the first counts as a crash.
const TAKEN_ALONG: Duration = Duration::from_secs(1);

/// Slots for attempts that compute.
pub(super) trait Slots {
    /// Whether one is free.
    fn has_free(&self) -> bool;

    /// Gives an attempt a slot, if there is one now.
    fn assign(&mut self, attempt: AttemptId) -> Option<AssignedSlot>;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Start the attempt.
    Launch(Launch),
    /// Stop the attempt's process.
    Stop(AttemptId),
    /// Tell the attempt's process that it may publish its result.
    Publish(AttemptId),
    /// Send it to the endpoint.
    Send(FromWorker),
    /// Connect to the endpoint after a pause.
    Dial(Duration),
    /// Check whether the node can work.
    CheckNode,
}

/// An attempt that starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Launch {
    pub(super) attempt: AttemptId,
    pub(super) spec: TaskSpec,
    pub(super) earlier: Option<EarlierResult>,
    /// When it must be over.
    pub(super) deadline: Option<Instant>,
    pub(super) place: Place,
    pub(super) slot: AssignedSlot,
}

/// Nobody wants the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alone(pub(super) Duration);

/// A worker's attempts and what it has said of them.
#[derive(Debug)]
pub(super) struct Core {
    login_slots: u32,
    waiting: Waiting,
    running: HashMap<AttemptId, Running>,
    /// Where attempts were that are over but for their processes, which do not end.
    remaining: HashMap<AttemptId, Place>,
    used: ByPlace<u32>,
    /// Reports that the endpoint has not recorded.
    reports: BTreeMap<AttemptId, Reported>,
    /// How long attempts may run, by the beats that the endpoint has answered.
    lease: Lease,
    beats: Beats,
    link: Link,
    outbox: Outbox,
    node: Node,
    /// Attempts in a row that the node could not work on.
    unfit_in_a_row: u32,
    /// When an executor died last that counted as a crash.
    crashed: Option<Instant>,
    /// What was said last of what the worker has, and when.
    facts: WorkerFacts,
    told: Instant,
    leaving: Option<Instant>,
    actions: Vec<Action>,
}

/// Attempts that wait for a slot, in their order.
#[derive(Debug, Default)]
struct Waiting {
    slots: VecDeque<WaitingAttempt>,
    login: VecDeque<WaitingAttempt>,
}

#[derive(Debug)]
struct WaitingAttempt {
    attempt: AttemptId,
    spec: TaskSpec,
    earlier: Option<EarlierResult>,
    /// When it must be over.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    place: Place,
    /// Why it was stopped, if that is told in place of how it ended.
    lost: Option<Loss>,
    /// The name that its process waits for.
    naming: Option<NamedResult>,
    /// When it must be over.
    deadline: Option<Instant>,
}

/// The connection with the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Connected,
    /// Since when it is not, and how often it was tried.
    Alone {
        since: Instant,
        failed: u32,
    },
}

/// Whether the node can work.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// It has not been checked: attempts wait.
    Unknown,
    /// It is being checked; why it was unfit before, if it was.
    Checking { unfit: Option<String> },
    /// It can.
    Fit,
    /// It cannot, and is checked again at a moment.
    Unfit { why: String, again: Instant },
}

/// The questions for more lease.
#[derive(Debug)]
struct Beats {
    number: u64,
    every: Duration,
    next: Instant,
}

/// What is to be said, and by when.
#[derive(Debug, Default)]
struct Outbox {
    started: Vec<AttemptId>,
    reports: Vec<AttemptId>,
    due: Option<Instant>,
}

impl Core {
    /// With nothing to do yet; it wants to connect.
    pub(super) fn new(login_slots: u32, now: Instant) -> Self {
        Self {
            login_slots,
            waiting: Waiting::default(),
            running: HashMap::new(),
            remaining: HashMap::new(),
            used: ByPlace::default(),
            reports: BTreeMap::new(),
            lease: Lease::default(),
            beats: Beats { number: 0, every: BEAT, next: now },
            link: Link::Alone { since: now, failed: 0 },
            outbox: Outbox::default(),
            node: Node::Unknown,
            unfit_in_a_row: 0,
            crashed: None,
            facts: WorkerFacts::default(),
            told: now,
            leaving: None,
            actions: vec![Action::Dial(Duration::ZERO)],
        }
    }

    /// What is to be done now, in this order.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// All attempts that are not recorded: the endpoint is told them on each connection.
    pub(super) fn attempts(&self) -> Vec<AttemptId> {
        let has = self.running.keys().chain(self.reports.keys()).copied();
        has.chain(self.waiting.all().map(|handout| handout.attempt)).collect()
    }

    /// What the worker had when it said so last.
    pub(super) fn room(&self) -> Room {
        self.facts.room
    }

    /// Whether it is ending.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// A connection is open. What was said on an earlier one may not have been heard, and is said again.
    pub(super) fn connected(&mut self, now: Instant) {
        self.link = Link::Connected;
        self.lease.hung_up();
        self.beats.next = now;
        self.outbox.reports = self.reports.keys().copied().collect();
        self.outbox.started = self.running.keys().copied().collect();
        let names = self.running.iter().filter_map(|(attempt, running)| Some((*attempt, running.naming.clone()?)));
        for (attempt, result) in names.collect::<Vec<_>>() {
            self.send(FromWorker::Naming { attempt, result });
        }
        if !self.facts.gpus.is_empty() || self.facts.trouble.is_some() {
            self.send(FromWorker::Facts(self.facts.clone()));
        }
    }

    /// The roots that tasks may use are others than before, or were never looked at.
    pub(super) fn roots_changed(&mut self) {
        match &self.node {
            Node::Unknown | Node::Fit => self.check(None),
            Node::Unfit { why, .. } => self.check(Some(why.clone())),
            // which roots it looked at is not known
            Node::Checking { unfit } => self.check(unfit.clone()),
        }
    }

    /// The endpoint cannot be reached.
    pub(super) fn not_connected(&mut self, now: Instant) {
        let (since, failed) = match self.link {
            Link::Connected => (now, 0),
            Link::Alone { since, failed } => (since, failed + 1),
        };
        self.link = Link::Alone { since, failed };
        self.actions.push(Action::Dial(doubled(PAUSE, failed, LONGEST_PAUSE)));
    }

    /// The connection has ended.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.link = Link::Alone { since: now, failed: 0 };
        self.actions.push(Action::Dial(Duration::ZERO));
    }

    /// The endpoint said something.
    pub(super) fn on_message(&mut self, message: ToWorker, now: Instant) {
        match message {
            ToWorker::Work(handouts) => handouts.into_iter().for_each(|handout| self.take(handout, now)),
            ToWorker::Stop(stops) => stops.into_iter().for_each(|Stop { attempt, reason: _ }| self.stop(attempt)),
            ToWorker::Return(attempts) => attempts.into_iter().for_each(|attempt| {
                if self.waiting.remove(attempt) {
                    self.report(attempt, Outcome::Lost(Loss::Returned), TaskResult::default());
                }
            }),
            ToWorker::Named(attempts) => attempts.into_iter().for_each(|attempt| self.named(attempt, now)),
            ToWorker::Recorded(attempts) => attempts.iter().for_each(|attempt| {
                self.reports.remove(attempt);
            }),
            ToWorker::Lease { number, lasts } => {
                if let Some(asked) = self.lease.renewed(number, lasts) {
                    self.beats.every = (lasts / BEATS).clamp(PAUSE, LONGEST_BEAT);
                    self.beats.next = self.beats.next.min(asked + self.beats.every);
                }
            }
            ToWorker::Leave => self.leave(now),
        }
    }

    /// A running attempt has come so far.
    pub(super) fn progress(&mut self, progress: Progress) {
        if self.running.contains_key(&progress.attempt) {
            self.send(FromWorker::Progress(progress));
        }
    }

    /// Its process has a whole result, and waits until the endpoint has written down the name.
    pub(super) fn naming(&mut self, attempt: AttemptId, result: NamedResult) {
        if let Some(running) = self.running.get_mut(&attempt) {
            running.naming = Some(result.clone());
            self.send(FromWorker::Naming { attempt, result });
        }
    }

    /// Its process has ended, or does not end though it was killed.
    pub(super) fn finished(&mut self, attempt: AttemptId, outcome: Outcome, result: TaskResult, now: Instant) {
        let Some(Running { place, lost, naming: _, deadline: _ }) = self.running.remove(&attempt) else { return };
        *self.used.at(place) -= 1;
        let outcome = match (outcome, lost) {
            // what it computed, or how it failed, is not to be believed
            (_, Some(Loss::GpuFault)) => Outcome::Lost(Loss::GpuFault),
            // stopped for another reason than its executor knows
            (Outcome::Cancelled, Some(loss)) => Outcome::Lost(loss),
            (Outcome::Lost(Loss::Crashed), _) => Outcome::Lost(self.crash(now)),
            (outcome, _) => outcome,
        };
        self.report(attempt, outcome.clone(), result);
        self.judge_node(&outcome, now);
    }

    /// The process of an attempt that was finished is still there: it keeps its place.
    pub(super) fn remains(&mut self, attempt: AttemptId, place: Place) {
        self.remaining.insert(attempt, place);
        *self.used.at(place) += 1;
    }

    /// Such a process has ended after all.
    pub(super) fn gone(&mut self, attempt: AttemptId) {
        if let Some(place) = self.remaining.remove(&attempt) {
            *self.used.at(place) -= 1;
        }
    }

    /// A GPU of these attempts is not to be trusted.
    pub(super) fn distrust(&mut self, attempt: AttemptId) {
        if let Some(running) = self.running.get_mut(&attempt)
            && running.lost.is_none()
        {
            tracing::error!(%attempt, "its GPU is not to be trusted: the attempt is stopped");
            running.lost = Some(Loss::GpuFault);
            self.actions.push(Action::Stop(attempt));
        }
    }

    /// The node was checked.
    pub(super) fn checked(&mut self, found: Result<(), String>, now: Instant) {
        if !matches!(self.node, Node::Checking { .. }) {
            return;
        }
        match found {
            Ok(()) => {
                tracing::info!("this node can work");
                (self.node, self.unfit_in_a_row) = (Node::Fit, 0);
            }
            Err(why) => self.unfit(why, now),
        }
    }

    /// Whether what is measured of GPUs is to be told again though nothing else has changed.
    pub(super) fn is_time_to_tell(&self, now: Instant) -> bool {
        !self.facts.gpus.is_empty() && now.duration_since(self.told) >= LONGEST_BEAT
    }

    /// What the worker has, but for its slots of attempts that do not compute: said when something has changed.
    pub(super) fn tell_facts(&mut self, mut facts: WorkerFacts, now: Instant) {
        let lost = self.remaining.values().filter(|place| **place == Place::Login).count();
        facts.room.login = self.login_slots.saturating_sub(u32::try_from(lost).unwrap_or(u32::MAX));
        if let Some(why) = self.node.why_unfit() {
            (facts.room, facts.trouble) = (Room::default(), Some(format!("this node cannot work: {why}")));
        }
        if self.leaving.is_some() {
            // said before what it gives back is: else it is given that again
            facts.room = Room::default();
        }
        let differs = facts.room != self.facts.room
            || facts.trouble != self.facts.trouble
            || !states(&facts).eq(states(&self.facts))
            || self.is_time_to_tell(now);
        if differs {
            (self.facts, self.told) = (facts, now);
            self.send(FromWorker::Facts(self.facts.clone()));
        }
    }

    /// Ends all that it has, without a fault of the tasks, and then itself.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.leaving.is_none() {
            tracing::info!("the worker leaves");
            self.leaving = Some(now);
            self.give_back(&Loss::Stopped);
            self.end_running(&Loss::Stopped);
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// Nobody has wanted the worker for long.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Alone> {
        if self.link == Link::Connected && now >= self.beats.next {
            let number = self.beats.next(now);
            self.lease.ask(number, now);
            self.send(FromWorker::Beat { number });
        }
        let has_run_out = self.lease.end().is_some_and(|end| now >= end);
        if has_run_out && self.running.values().any(|running| running.lost.is_none()) {
            tracing::error!("the lease has run out: attempts are stopped");
            // what waits goes on waiting: it is started under the next lease, or stopped by a word before that
            self.end_running(&Loss::LeaseExpired);
        }
        if let Node::Unfit { why, again } = &self.node
            && now >= *again
            && self.leaving.is_none()
        {
            self.check(Some(why.clone()));
        }
        match self.link {
            Link::Alone { since, .. }
                if self.lease.left(now).is_none()
                    && self.running.is_empty()
                    && now.duration_since(since) > PATIENCE =>
            {
                Err(Alone(now.duration_since(since)))
            }
            Link::Alone { .. } | Link::Connected => Ok(()),
        }
    }

    /// Starts as much as slots, lease and node allow, and says what is to be said.
    pub(super) fn turn<S: Slots>(&mut self, slots: &mut S, now: Instant) {
        self.start(slots, now);
        self.speak(now);
    }

    /// When the clock is to be looked at again.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let is_connected = self.link == Link::Connected;
        let beat = is_connected.then_some(self.beats.next);
        let lease = self.lease.end().filter(|end| *end > now && !self.running.is_empty());
        let alone = match self.link {
            Link::Alone { since, .. } => Some((since + PATIENCE).max(now + BEAT)),
            Link::Connected => None,
        };
        let check = match &self.node {
            Node::Unfit { again, .. } => Some(*again),
            Node::Unknown | Node::Checking { .. } | Node::Fit => None,
        };
        let leaving = self.leaving.map(|_| now + PAUSE);
        let gathered = self.outbox.due.filter(|_| is_connected);
        [beat, lease, alone, check, leaving, gathered].into_iter().flatten().min().unwrap_or(now + LONGEST_BEAT)
    }

    /// Whether all is said, or nobody listens. `grace` is what executors have to end.
    pub(super) fn has_left(&self, grace: Duration, now: Instant) -> bool {
        let Some(since) = self.leaving else { return false };
        let is_late = now.duration_since(since) > LAST_WORDS + grace;
        self.running.is_empty() && (self.reports.is_empty() || self.link != Link::Connected || is_late)
    }

    fn take(&mut self, handout: Handout, now: Instant) {
        let attempt = handout.attempt;
        if self.has(attempt) {
            return;
        }
        if self.leaving.is_some() {
            return self.report(attempt, Outcome::Lost(Loss::Stopped), TaskResult::default());
        }
        if self.node.why_unfit().is_some() {
            // the endpoint has not heard of it yet
            return self.report(attempt, Outcome::Lost(Loss::Returned), TaskResult::default());
        }
        if self.lease.left(now).is_none() {
            // asked for at once, unless that was done a moment ago
            let last = self.lease.last_asked().map(|at| at + PAUSE);
            self.beats.next = self.beats.next.min(last.unwrap_or(now));
        }
        let Handout { attempt, spec, earlier, time_left } = handout;
        let deadline = time_left.and_then(|left| now.checked_add(left));
        self.waiting.of(spec.kind().place()).push_back(WaitingAttempt { attempt, spec, earlier, deadline });
    }

    fn has(&self, attempt: AttemptId) -> bool {
        self.running.contains_key(&attempt)
            || self.reports.contains_key(&attempt)
            || self.waiting.all().any(|handout| handout.attempt == attempt)
    }

    /// An answer that comes twice is passed on once: the name that is said next waits for its own.
    fn named(&mut self, attempt: AttemptId, now: Instant) {
        // this worker may not have run for a while: what is late is about to be stopped
        if let Some(running) = self.running.get_mut(&attempt)
            && running.naming.take().is_some()
            && running.deadline.is_none_or(|deadline| deadline > now)
        {
            self.actions.push(Action::Publish(attempt));
        }
    }

    fn stop(&mut self, attempt: AttemptId) {
        if self.running.contains_key(&attempt) {
            self.actions.push(Action::Stop(attempt));
        } else if self.waiting.remove(attempt) {
            self.report(attempt, Outcome::Cancelled, TaskResult::default());
        }
    }

    /// Gives back what has not started.
    fn give_back(&mut self, loss: &Loss) {
        for handout in self.waiting.take() {
            self.report(handout.attempt, Outcome::Lost(loss.clone()), TaskResult::default());
        }
    }

    fn end_running(&mut self, loss: &Loss) {
        for (attempt, running) in &mut self.running {
            running.lost.get_or_insert(loss.clone());
            self.actions.push(Action::Stop(*attempt));
        }
    }

    /// An executor has died.
    fn crash(&mut self, now: Instant) -> Loss {
        if self.crashed.is_some_and(|first| now.duration_since(first) < TAKEN_ALONG) {
            return Loss::NodeLost;
        }
        self.crashed = Some(now);
        Loss::Crashed
    }

    fn judge_node(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Lost(Loss::Unfit(unfit)) => {
                self.unfit_in_a_row += 1;
                if self.unfit_in_a_row >= UNFIT_IN_A_ROW && self.node == Node::Fit {
                    self.unfit(Unfit::message(unfit).to_owned(), now);
                }
            }
            // it could work
            Outcome::Succeeded | Outcome::Failed(_) | Outcome::Lost(Loss::Crashed) => self.unfit_in_a_row = 0,
            Outcome::Cancelled | Outcome::Lost(_) => {}
        }
    }

    fn unfit(&mut self, why: String, now: Instant) {
        tracing::error!(why, "this node cannot work: it takes no tasks until it can");
        self.node = Node::Unfit { why, again: now + CHECK_AGAIN };
        self.give_back(&Loss::Returned);
    }

    fn check(&mut self, unfit: Option<String>) {
        if self.leaving.is_some() {
            return;
        }
        self.node = Node::Checking { unfit };
        self.actions.push(Action::CheckNode);
    }

    fn report(&mut self, attempt: AttemptId, outcome: Outcome, result: TaskResult) {
        self.reports.insert(attempt, Reported { attempt, outcome, result });
        self.outbox.reports.push(attempt);
    }

    fn start<S: Slots>(&mut self, slots: &mut S, now: Instant) {
        // without a lease a task may be another's; the answer to the first beat tells
        if self.lease.left(now).is_none() || self.node != Node::Fit {
            return;
        }
        for place in [Place::Slot, Place::Login] {
            while self.has_room(place, slots) {
                let Some(next) = self.waiting.of(place).pop_front() else { break };
                let WaitingAttempt { attempt, spec, earlier, deadline } = next;
                if deadline.is_some_and(|deadline| deadline <= now) {
                    self.report(attempt, Outcome::Failed(Failure::deadline()), TaskResult::default());
                    continue;
                }
                if spec.needs() == Needs::Nothing {
                    self.report(attempt, Outcome::Succeeded, TaskResult::default());
                    continue;
                }
                let slot = match place {
                    Place::Slot => slots.assign(attempt),
                    Place::Login => Some(AssignedSlot { gpu: None }),
                };
                let Some(slot) = slot else {
                    self.waiting.of(place).push_front(WaitingAttempt { attempt, spec, earlier, deadline });
                    break;
                };
                self.running.insert(attempt, Running { place, lost: None, naming: None, deadline });
                *self.used.at(place) += 1;
                self.outbox.started.push(attempt);
                self.actions.push(Action::Launch(Launch { attempt, spec, earlier, deadline, place, slot }));
            }
        }
    }

    fn has_room<S: Slots>(&self, place: Place, slots: &S) -> bool {
        match place {
            Place::Slot => slots.has_free(),
            Place::Login => self.used.login < self.login_slots,
        }
    }

    fn speak(&mut self, now: Instant) {
        if self.link != Link::Connected {
            return;
        }
        let is_busy = !self.waiting.slots.is_empty() && self.leaving.is_none() && self.node == Node::Fit;
        if is_busy && !self.outbox.is_empty() && now < *self.outbox.due.get_or_insert(now + GATHER) {
            return;
        }
        let Outbox { mut started, reports, due: _ } = std::mem::take(&mut self.outbox);
        started.retain(|attempt| self.running.contains_key(attempt));
        if !started.is_empty() {
            self.send(FromWorker::Started(started));
        }
        let reports: Vec<Reported> = reports.iter().filter_map(|attempt| self.reports.get(attempt).cloned()).collect();
        if !reports.is_empty() {
            self.send(FromWorker::Reports(reports));
        }
    }

    /// What cannot be said now is said on the next connection.
    fn send(&mut self, message: FromWorker) {
        if self.link == Link::Connected {
            self.actions.push(Action::Send(message));
        }
    }
}

/// What is told at once when it changes; a worker's GPUs keep their order.
fn states(facts: &WorkerFacts) -> impl Iterator<Item = (GpuState, &[String])> {
    facts.gpus.iter().map(|gpu| (gpu.state, gpu.reasons.as_slice()))
}

impl Node {
    fn why_unfit(&self) -> Option<&str> {
        match self {
            Self::Unfit { why, .. } | Self::Checking { unfit: Some(why) } => Some(why),
            Self::Unknown | Self::Fit | Self::Checking { unfit: None } => None,
        }
    }
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.started.is_empty() && self.reports.is_empty()
    }
}

impl Waiting {
    fn of(&mut self, place: Place) -> &mut VecDeque<WaitingAttempt> {
        match place {
            Place::Slot => &mut self.slots,
            Place::Login => &mut self.login,
        }
    }

    fn all(&self) -> impl Iterator<Item = &WaitingAttempt> {
        self.slots.iter().chain(&self.login)
    }

    fn take(&mut self) -> Vec<WaitingAttempt> {
        self.slots.drain(..).chain(self.login.drain(..)).collect()
    }

    /// False when it is not there.
    fn remove(&mut self, attempt: AttemptId) -> bool {
        let before = self.all().count();
        self.slots.retain(|handout| handout.attempt != attempt);
        self.login.retain(|handout| handout.attempt != attempt);
        self.all().count() < before
    }
}

impl Beats {
    /// One is due: its number.
    fn next(&mut self, now: Instant) -> u64 {
        self.number += 1;
        self.next = now + self.every;
        self.number
    }
}

#[cfg(test)]
mod tests;
