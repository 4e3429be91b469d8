//! What the endpoint makes of what it hears: entries for the journal, and what is to be said to whom. It sends and
//! writes nothing itself; whoever drives it calls [`Scheduler::turn`] after each batch of events, writes the entries, and
//! says what was to wait for them.
//!
//! ```text
//!   controller said, worker said, worker lost …  ─▶ ledger (ahead of the file) ─▶ turn ─▶ entries ─▶ journal
//!                                                                               ├─▶ said at once
//!                                                                               ├─▶ said once they are written
//!                                                                               └─▶ said once they are on the disk
//! ```
//!
//! The ledger may be ahead of the file since nothing that depends on an entry is said before the entry is written: a
//! worker gets an attempt only then, and what is lost with the process was never acted upon. What is written a power
//! cut may still lose. Of an attempt that loses nothing but time: the controller hears at the next process's first
//! heartbeat that the endpoint does not have it, and a worker that does is told to stop. A report it would lose for
//! good: a worker forgets one only when it is on the disk.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::blocks::Blocks;
use super::ledger::{AttemptStage, Entry, HeldBlock, Ledger, Worker};
use super::workers::{ConnectionId, Workers};
use crate::ids::{AttemptId, BlockId, SessionId, WorkerId};
use crate::protocol::session::{
    Account, FromEndpoint, Leased, Offer, PoolBacklog, Reported, Stop, StopReason, ToEndpoint,
};
use crate::protocol::worker::{FromWorker, Handout, Joining, ToWorker};
use crate::runtime::lease::Lease;
use crate::runtime::process::ProcessName;
use crate::scaling::PoolLimits;
use crate::scaling::placement::place;
use crate::task::ending::Ending;
use crate::task::estimate::Estimates;
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::Outcome;
use crate::task::pool::{Lane, PoolKey};
use crate::task::result::{NamedResult, TaskResult};
use crate::task::spec::Place;
use crate::task::time::Moment;

/// Reports in one message.
const MOST_REPORTS: usize = 1000;

/// Bytes of results in one message, well below what a message may have.
const MOST_BYTES: usize = 4 << 20;

/// With so many reports that the controller has not recorded, no more tasks are asked for: its disk may be slow.
const MOST_UNRECORDED: usize = 1000;

/// The controller is told of an attempt's beginning so much later: of short ones it hears only the end.
const STARTED: Duration = Duration::from_millis(100);

/// Tasks of a pool that this endpoint does not serve are refused so many at a time.
const REFUSED_AT_ONCE: u64 = 64;

/// Lanes and estimates that are known to have no room, in one turn; beyond them the turn ends.
const MOST_FULL: usize = 16;

/// Pools whose tasks are refused at a time.
const MOST_REFUSED: usize = 64;

/// The lane of tasks that ask for nothing: this computer's worker serves it.
const OWN_POOL: Lane = Lane::Pool(PoolKey::DEFAULT);

/// Why tasks of other pools are refused.
const NO_TEMPLATE: &str =
    "this endpoint has no template that a user_endpoint_config could fill; submit the task without one";

/// What an earlier process may have been granted, before the controller has told this one: its usual lease.
const ASSUMED: Duration = Duration::from_secs(600);

/// Something that is to be said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outgoing {
    /// To the controller.
    ToController(u64, FromEndpoint),
    /// To a worker.
    ToWorker(WorkerId, ToWorker),
    /// To the provider: the block may be asked for, since the disk has that it is wanted.
    BlockRecorded(BlockId),
}

impl Outgoing {
    /// Whether tasks wait for it: then the disk is waited for at once, not together with what comes later.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::BlockRecorded(_) | Self::ToWorker(_, ToWorker::Named(_)) => true,
            // a worker that is not told yet keeps its reports
            Self::ToController(..) | Self::ToWorker(..) => false,
        }
    }
}

/// What a turn comes to.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// To be written, in this order.
    pub(super) entries: Vec<Entry>,
    /// To be said now.
    pub(super) at_once: Vec<Outgoing>,
    /// To be said once the entries are in the file: the end of this process does not lose them.
    pub(super) after_write: Vec<Outgoing>,
    /// To be said once they are on the disk: a power cut does not lose them either.
    pub(super) after_sync: Vec<Outgoing>,
}

/// Whether it takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// It does.
    Open,
    /// It finishes what it has.
    Drains,
    /// It gives back what it has.
    Leaves,
}

/// What a scheduler begins with, besides the ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchedulerStart {
    /// Now.
    pub(super) now: Instant,
    /// The same moment by the clock.
    pub(super) moment: Moment,
    /// How many blocks there may be.
    pub(super) limits: PoolLimits,
    /// Tasks that run on this computer and need no slot, at once.
    pub(super) login_slots: u32,
}

/// The endpoint's mind.
#[derive(Debug)]
pub(super) struct Scheduler {
    ledger: Ledger,
    workers: Workers,
    blocks: Blocks,
    start: SchedulerStart,
    estimates: Estimates,
    /// When to look whether there are as many blocks as there should be; None = when something has changed.
    scale_at: Option<Instant>,
    lease: Lease,
    /// How long the controller's leases last.
    lasts: Duration,
    service: Service,
    /// The tasks that came in the session, and how many may; None while there is no session.
    session: Option<Account>,
    /// What waits at the controller, as it told last.
    backlog: Vec<PoolBacklog>,
    /// Pools that this endpoint does not serve, and that have tasks.
    refused: Vec<PoolKey>,
    number: u64,
    turn: Turn,
    reports: Vec<AttemptId>,
    /// Attempts that began, and when the controller is told.
    started: VecDeque<(Instant, AttemptId)>,
}

impl Scheduler {
    /// Begins with what the journal remembers.
    pub(super) fn new(ledger: Ledger, start: SchedulerStart) -> Self {
        let SchedulerStart { now, moment, limits, login_slots: _ } = start;
        let (mut workers, mut blocks) = (Workers::default(), Blocks::new(limits, moment));
        ledger.workers().for_each(|worker| workers.expect(worker.id, worker.block, now));
        for (block, held) in ledger.blocks() {
            let HeldBlock { pool, wanted, job } = held.clone();
            blocks.remember(block, pool, wanted, job);
        }
        Self {
            ledger,
            workers,
            blocks,
            start,
            estimates: Estimates::default(),
            scale_at: Some(now),
            lease: Lease::default(),
            lasts: ASSUMED,
            service: Service::Open,
            session: None,
            backlog: Vec::new(),
            refused: Vec::new(),
            number: 0,
            turn: Turn::default(),
            reports: Vec::new(),
            started: VecDeque::new(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How long the controller's leases last.
    pub(super) fn lasts(&self) -> Duration {
        self.lasts
    }

    pub(super) fn service(&self) -> Service {
        self.service
    }

    /// A session is open; leases last so long. All that the controller may have missed is said again.
    pub(super) fn session_opened(&mut self, own: SessionId, lease: Duration, status: String, now: Instant) {
        if self.ledger.sessions().first().is_some_and(|first| first.session != own) {
            self.enter(Entry::SessionOpened(own));
        }
        self.lasts = lease;
        self.lease.hung_up();
        self.session = Some(Account::default());
        self.reports = self.ledger.reports().map(|reported| reported.attempt).collect();
        let running = self.ledger.placed().filter(|(held, _)| matches!(held.stage, AttemptStage::Running(_)));
        self.started = running.map(|(held, _)| (now, held.leased.attempt)).collect();
        self.beat(status, now);
    }

    /// The session has ended.
    pub(super) fn session_closed(&mut self) {
        self.session = None;
        self.note_backlog(Vec::new());
        self.reports.clear();
    }

    /// It is time for a heartbeat.
    pub(super) fn beat(&mut self, status: String, now: Instant) {
        if self.session.is_some() {
            let attempts = self.ledger.attempts().collect();
            let number = self.send_to_controller(FromEndpoint::Heartbeat { status, attempts });
            self.lease.ask(number, now);
        }
    }

    /// The controller said something; of what it says only that another process is the endpoint is left to others.
    pub(super) fn on_controller_message(&mut self, said: ToEndpoint, now: Instant) {
        match said {
            ToEndpoint::Leases(offers) => {
                let moment = self.moment(now);
                offers.into_iter().for_each(|offer| self.take(offer.taken(moment)));
            }
            ToEndpoint::Renewed { number } => {
                self.lease.renewed(number, self.lasts);
                self.answer_beats(now);
            }
            ToEndpoint::Recorded { number: _, attempts } => self.settle(attempts),
            ToEndpoint::Stop(stops) => stops.into_iter().for_each(|stop| self.stop(stop)),
            ToEndpoint::Backlog(backlog) => self.note_backlog(backlog),
            ToEndpoint::Replaced { .. } => {}
        }
    }

    /// Takes note of what waits at the controller. Tasks of a pool that this endpoint does not serve are taken, to be
    /// refused: nobody waits for them in vain.
    fn note_backlog(&mut self, backlog: Vec<PoolBacklog>) {
        self.backlog = backlog;
        self.scale_at = Some(self.start.now);
        let pools = self.backlog.iter().map(|waiting| waiting.pool.key());
        self.refused = pools.filter(|pool| !serves(*pool)).take(MOST_REFUSED).collect();
    }

    /// A worker has connected; `process` is its process if that is on this computer.
    pub(super) fn worker_joined(
        &mut self,
        connection: ConnectionId,
        joining: Joining,
        process: Option<ProcessName>,
        now: Instant,
    ) {
        let Joining { worker, block, host, pid: _, room, attempts } = joining;
        let known = Worker { id: worker, block, host, process };
        if self.ledger.worker(worker) != Some(&known) {
            self.enter(Entry::Joined(known));
        }
        self.workers.connect(worker, block, connection, room, now);
        self.block_joined(block, now);
        let placed: Vec<Leased> =
            self.ledger.placed().filter(|(_, at)| *at == worker).map(|(held, _)| held.leased.clone()).collect();
        let foreign = attempts.iter().filter(|attempt| placed.iter().all(|leased| leased.attempt != **attempt));
        let stops: Vec<Stop> = foreign.map(|&attempt| Stop { attempt, reason: StopReason::Fenced }).collect();
        if let Some(state) = self.workers.get_mut(worker) {
            attempts.iter().for_each(|attempt| state.give(*attempt, Place::Slot));
            placed.iter().for_each(|leased| state.give(leased.attempt, leased.spec.kind().place()));
        }
        // those that it does not know of never reached it
        let missed = placed.into_iter().filter(|leased| !attempts.contains(&leased.attempt));
        let missed = missed.map(|leased| self.handout(leased, now)).collect();
        self.send_unless_empty(worker, stops, ToWorker::Stop);
        self.send_unless_empty(worker, missed, ToWorker::Work);
    }

    /// A worker said something.
    pub(super) fn on_worker_message(&mut self, worker: WorkerId, said: FromWorker, now: Instant) {
        match said {
            FromWorker::Started(attempts) => self.started(worker, attempts, now),
            FromWorker::Progress(progress) => {
                if self.session.is_some() && self.has(worker, progress.attempt) {
                    self.send_to_controller(FromEndpoint::Progress(progress));
                }
            }
            FromWorker::Naming { attempt, result } => self.name(worker, attempt, result),
            FromWorker::Reports(reports) => self.over(worker, reports, now),
            FromWorker::Beat { number } => {
                if let Some(state) = self.workers.get_mut(worker) {
                    state.unanswered = Some(number);
                }
                self.answer_beats(now);
            }
            FromWorker::Facts(facts) => {
                if let Some(state) = self.workers.get_mut(worker) {
                    state.note(facts);
                }
                self.ask_back(worker);
            }
            FromWorker::Leaving => {}
        }
    }

    /// A connection with a worker has ended: it may come back.
    pub(super) fn worker_disconnected(&mut self, worker: WorkerId, connection: ConnectionId, now: Instant) {
        self.workers.disconnect(worker, connection, now);
        self.scale_at = Some(now);
    }

    /// A worker has ended: what it had is lost through no fault of its own.
    pub(super) fn worker_ended(&mut self, worker: WorkerId, ending: Ending) {
        let ending = match self.service {
            Service::Leaves => Ending::Cancelled,
            Service::Open | Service::Drains => ending,
        };
        let placed = self.ledger.placed().filter(|(_, at)| *at == worker);
        let placed: Vec<AttemptId> = placed.map(|(held, _)| held.leased.attempt).collect();
        for attempt in placed {
            self.end(attempt, Outcome::Lost(ending.loss()));
        }
        if self.ledger.worker(worker).is_some() {
            self.enter(Entry::WorkerEnded { worker, ending });
        }
        let block = self.workers.get(worker).map(|state| state.block);
        self.workers.remove(worker);
        block.into_iter().for_each(|block| self.block_left(block));
        self.scale_at = Some(self.start.now);
    }

    /// No more tasks are taken.
    pub(super) fn drain(&mut self) {
        if self.service == Service::Open {
            self.service = Service::Drains;
        }
    }

    /// All that it has is given back.
    pub(super) fn leave(&mut self, now: Instant) {
        self.service = Service::Leaves;
        self.end_blocks(now);
        self.return_waiting();
        let workers: Vec<WorkerId> = self.workers.connected().collect();
        for worker in workers {
            self.turn.at_once.push(Outgoing::ToWorker(worker, ToWorker::Leave));
        }
    }

    /// Gives back what waits. The controller gives it out anew, as another attempt: right also for what a worker may
    /// have.
    pub(super) fn return_waiting(&mut self) {
        let waiting: Vec<AttemptId> = self.ledger.waiting().map(|leased| leased.attempt).collect();
        for attempt in waiting {
            self.end(attempt, Outcome::Lost(Loss::Returned));
        }
    }

    /// Whether nothing is left that a worker or a slot would still have to do.
    pub(super) fn idle(&self) -> bool {
        self.ledger.waiting().next().is_none() && self.ledger.placed().next().is_none()
    }

    /// What is to be written and said now.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        self.end_late(now);
        self.hand_out(now);
        // what has a slot now needs no other one
        self.scale(now);
        self.report_started(now);
        self.report();
        self.give_credit();
        std::mem::take(&mut self.turn)
    }

    fn take(&mut self, leased: Leased) {
        let attempt = leased.attempt;
        if let Some(session) = &mut self.session {
            session.count(leased.lane(), 1);
        }
        if !serves(leased.pool) && self.service != Service::Leaves {
            let failure = Failure::new(Fault::Input, NO_TEMPLATE);
            self.enter(Entry::Taken(leased));
            return self.end(attempt, Outcome::Failed(failure));
        }
        if self.blocks.held().next().is_none() {
            self.scale_at = Some(self.start.now);
        }
        match self.service {
            Service::Open | Service::Drains => {
                for older in self.enter(Entry::Taken(leased)) {
                    if let AttemptStage::Handed(worker) | AttemptStage::Running(worker) = older.stage {
                        let stop = Stop { attempt: older.leased.attempt, reason: StopReason::Fenced };
                        self.turn.at_once.push(Outgoing::ToWorker(worker, ToWorker::Stop(vec![stop])));
                    }
                }
            }
            // it came while we were leaving
            Service::Leaves => {
                self.enter(Entry::Taken(leased));
                self.end(attempt, Outcome::Lost(Loss::Returned));
            }
        }
    }

    fn settle(&mut self, attempts: Vec<AttemptId>) {
        let known: Vec<AttemptId> = attempts.into_iter().filter(|id| self.ledger.get(*id).is_some()).collect();
        if !known.is_empty() {
            self.enter(Entry::Settled(known));
        }
    }

    fn stop(&mut self, stop: Stop) {
        let Stop { attempt, reason } = stop;
        let Some(stage) = self.ledger.get(attempt).map(|held| held.stage.clone()) else { return };
        if let AttemptStage::Handed(worker) | AttemptStage::Running(worker) = stage {
            self.turn.at_once.push(Outgoing::ToWorker(worker, ToWorker::Stop(vec![stop])));
        }
        match (reason, stage) {
            (StopReason::Fenced, _) => self.settle(vec![attempt]),
            (StopReason::Cancelled | StopReason::Deadline, AttemptStage::Waiting) => {
                self.end(attempt, Outcome::Cancelled)
            }
            // the worker says how it ended; what is over is reported already
            (
                StopReason::Cancelled | StopReason::Deadline,
                AttemptStage::Handed(_) | AttemptStage::Running(_) | AttemptStage::Reported(_),
            ) => {}
        }
    }

    fn started(&mut self, worker: WorkerId, attempts: Vec<AttemptId>, now: Instant) {
        let began: Vec<AttemptId> = attempts.into_iter().filter(|attempt| self.has(worker, *attempt)).collect();
        for attempt in began {
            self.enter(Entry::Started(attempt));
            self.started.push_back((now + STARTED, attempt));
        }
    }

    /// When somebody is to be told something, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.started.front().map(|(due, _)| *due), self.scale_at].into_iter().flatten().min()
    }

    /// Tells the controller which attempts have begun, unless they have ended meanwhile.
    fn report_started(&mut self, now: Instant) {
        let mut started = Vec::new();
        while let Some((_, attempt)) = self.started.pop_front_if(|(due, _)| *due <= now) {
            if self.ledger.get(attempt).is_some_and(|held| matches!(held.stage, AttemptStage::Running(_))) {
                started.push(attempt);
            }
        }
        if self.session.is_some() && !started.is_empty() {
            self.send_to_controller(FromEndpoint::Started(started));
        }
    }

    /// Writes down under which name a result is published. Whose attempt is another's by now gets no answer, and publishes
    /// nothing.
    fn name(&mut self, worker: WorkerId, attempt: AttemptId, result: NamedResult) {
        if self.has(worker, attempt) {
            self.enter(Entry::ResultNamed { task: attempt.task, result });
            self.turn.after_sync.push(Outgoing::ToWorker(worker, ToWorker::Named(vec![attempt])));
        }
    }

    fn over(&mut self, worker: WorkerId, reports: Vec<Reported>, now: Instant) {
        let attempts: Vec<AttemptId> = reports.iter().map(|reported| reported.attempt).collect();
        for reported in reports {
            let attempt = reported.attempt;
            if let Some(state) = self.workers.get_mut(worker) {
                state.take_back(attempt, now);
            }
            // what is not in the ledger any more, or another worker's, is not wanted
            if self.has(worker, attempt) {
                self.note_measure(&reported);
                self.enter(Entry::Reported(reported));
                self.reports.push(attempt);
            }
        }
        self.turn.after_sync.push(Outgoing::ToWorker(worker, ToWorker::Recorded(attempts)));
    }

    /// Ends an attempt that no worker reports.
    fn end(&mut self, attempt: AttemptId, outcome: Outcome) {
        self.enter(Entry::Reported(Reported { attempt, outcome, result: TaskResult::default() }));
        self.reports.push(attempt);
    }

    /// Whether the ledger has the attempt with the worker.
    fn has(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.ledger.get(attempt).and_then(|held| held.stage.worker()) == Some(worker)
    }

    fn hand_out(&mut self, now: Instant) {
        // without a lease the tasks may be another's by now; the next heartbeat senders
        if self.lease.left(now).is_none() || self.service == Service::Leaves {
            return;
        }
        let mut given: Vec<(WorkerId, Leased)> = Vec::new();
        // lanes that nobody takes a task of, whatever its estimate
        let mut full: Vec<(Lane, Option<Duration>)> = Vec::new();
        for leased in self.ledger.waiting() {
            let (lane, estimate) = (leased.lane(), self.estimates.estimate(leased.spec.kind(), None));
            if full.contains(&(lane, estimate)) {
                if full.len() >= MOST_FULL {
                    break;
                }
                continue;
            }
            let worker = match lane {
                Lane::Login => self.workers.roomiest(Place::Login, |block| self.blocks.open_pool(block).is_some()),
                Lane::Pool(pool) => place(pool, estimate, self.candidates(now)),
            };
            match worker.and_then(|worker| Some((worker, self.workers.get_mut(worker)?))) {
                Some((worker, state)) => {
                    state.give(leased.attempt, leased.spec.kind().place());
                    given.push((worker, leased.clone()));
                }
                None => full.push((lane, estimate)),
            }
        }
        given.sort_by_key(|(worker, _)| *worker);
        for group in given.chunk_by(|(one, _), (other, _)| one == other) {
            let worker = group[0].0;
            for (_, leased) in group {
                self.enter(Entry::Handed { attempt: leased.attempt, worker });
            }
            let work = group.iter().map(|(_, leased)| self.handout(leased.clone(), now)).collect();
            self.turn.after_write.push(Outgoing::ToWorker(worker, ToWorker::Work(work)));
        }
    }

    fn handout(&self, leased: Leased, now: Instant) -> Handout {
        let Offer { attempt, spec, time_left, .. } = leased.offer(self.moment(now));
        Handout { attempt, spec, earlier: self.ledger.earlier(attempt.task).cloned(), time_left }
    }

    /// What must be over and has not begun does not begin, whoever can be asked.
    fn end_late(&mut self, now: Instant) {
        let moment = self.moment(now);
        let late = self.ledger.waiting().filter(|leased| leased.is_late(moment)).map(|leased| leased.attempt);
        for attempt in late.collect::<Vec<_>>() {
            self.end(attempt, Outcome::Failed(Failure::deadline()));
        }
    }

    /// What a worker has not begun, and has no room for any more, is for others: it gives that back as lost, which uses up
    /// no retry, and gets nothing else until there is room.
    fn ask_back(&mut self, worker: WorkerId) {
        let surplus = self.workers.get(worker).map_or(0, |state| state.surplus(Place::Slot)) as usize;
        // told every few seconds, and nearly always there is none
        if surplus == 0 {
            return;
        }
        let unbegun = self.ledger.placed().filter(|(held, at)| {
            *at == worker
                && matches!(held.stage, AttemptStage::Handed(_))
                && held.leased.spec.kind().place() == Place::Slot
        });
        let unbegun: Vec<AttemptId> = unbegun.map(|(held, _)| held.leased.attempt).collect();
        // who came last waits longest
        let back = unbegun[unbegun.len().saturating_sub(surplus)..].to_vec();
        self.send_unless_empty(worker, back, ToWorker::Return);
    }

    fn report(&mut self) {
        if self.session.is_none() {
            return;
        }
        let (mut message, mut bytes) = (Vec::new(), 0);
        for attempt in std::mem::take(&mut self.reports) {
            let Some(reported) = self.ledger.get(attempt).and_then(|held| held.stage.report()).cloned() else {
                continue;
            };
            bytes += size(&reported.result);
            message.push(reported);
            if message.len() >= MOST_REPORTS || bytes >= MOST_BYTES {
                self.send_to_controller(FromEndpoint::Reports(std::mem::take(&mut message)));
                bytes = 0;
            }
        }
        if !message.is_empty() {
            self.send_to_controller(FromEndpoint::Reports(message));
        }
    }

    /// Asks for as many tasks as workers can take beside those that wait, and as many again: they are there when the
    /// first are done. When workers can take fewer than before, or none are to be taken any more, takes back what the
    /// controller has not used: its tasks are then shown as queued, and stay with the controller.
    fn give_credit(&mut self) {
        let Some(session) = &self.session else { return };
        let mut asked = session.clone();
        let refused = self.refused.iter().map(|pool| Lane::Pool(*pool));
        for lane in [OWN_POOL, Lane::Login].into_iter().chain(refused) {
            let waiting = self.ledger.waiting().filter(|leased| leased.lane() == lane).count() as u64;
            let wanted = self.wanted(lane);
            let has = waiting + asked.left(lane);
            // in bundles, so that many short tasks do not cost a message each
            let is_few = has < wanted.div_ceil(2) && self.ledger.unrecorded() < MOST_UNRECORDED;
            let is_many = has > wanted && asked.left(lane) > 0;
            if is_few || is_many {
                asked.allow(lane, wanted.saturating_sub(waiting));
            }
        }
        if asked.credit() != session.credit() {
            let credit = asked.credit().clone();
            self.session = Some(asked);
            self.send_to_controller(FromEndpoint::Credit(credit));
        }
    }

    /// How many tasks of a lane are to be there, those that workers have not included.
    fn wanted(&self, lane: Lane) -> u64 {
        match (self.service, lane) {
            (Service::Drains | Service::Leaves, _) => 0,
            (Service::Open, Lane::Login) => u64::from(self.takes(Place::Login).max(self.login_ahead())),
            (Service::Open, Lane::Pool(pool)) if serves(pool) => u64::from(self.takes(Place::Slot)),
            (Service::Open, Lane::Pool(_)) => REFUSED_AT_ONCE,
        }
    }

    fn answer_beats(&mut self, now: Instant) {
        let Some(lasts) = self.lease.left(now) else { return };
        let workers: Vec<WorkerId> = self.workers.connected().collect();
        for worker in workers {
            if let Some(number) = self.workers.get_mut(worker).and_then(|state| state.unanswered.take()) {
                self.turn.at_once.push(Outgoing::ToWorker(worker, ToWorker::Lease { number, lasts }));
            }
        }
    }

    /// Enters it in the ledger, and has it written; what does not apply is left out. Returns what left the ledger.
    fn enter(&mut self, entry: Entry) -> Vec<super::ledger::Held> {
        match self.ledger.apply(entry.clone()) {
            Ok(left) => {
                self.turn.entries.push(entry);
                left
            }
            Err(error) => {
                tracing::debug!(%error, "nothing changes");
                Vec::new()
            }
        }
    }

    fn send_to_controller(&mut self, message: FromEndpoint) -> u64 {
        self.number += 1;
        self.turn.at_once.push(Outgoing::ToController(self.number, message));
        self.number
    }

    fn send_unless_empty<T>(&mut self, worker: WorkerId, what: Vec<T>, message: impl FnOnce(Vec<T>) -> ToWorker) {
        if !what.is_empty() {
            self.turn.after_write.push(Outgoing::ToWorker(worker, message(what)));
        }
    }
}

/// Whether a block of the pool can be had here.
fn serves(pool: PoolKey) -> bool {
    pool.is_default()
}

/// Bytes of a result in a message, about.
fn size(result: &TaskResult) -> usize {
    let log = result.log.as_ref().map_or(0, |log| log.lines.len());
    result.document.as_ref().map_or(0, String::len) + log + 256
}

mod supply;
#[cfg(test)]
mod supply_tests;
#[cfg(test)]
mod tests;
