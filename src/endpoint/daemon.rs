//! The endpoint's main loop: hears one event after the other, has the scheduler decide, writes the journal, says what is to
//! be said. The only part that changes the ledger, and the only one that writes the journal.
//!
//! Shutdown follows one order: no more credit; attempts are finished or stopped; this computer's workers have ended;
//! all reports are on the disk; the controller has recorded them, or some seconds have passed; the session is closed;
//! the journal is closed.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::blocks::EndedBlock;
use super::controller_link::{self, ControllerConnection, ControllerLinkError, DialController};
use super::fleet::{self, BlockOrders};
use super::inbox::{Inbox, InboxEvent, LeaveMode};
use super::joining;
use super::journal::{AppendMark, Journal, JournalError};
use super::ledger::{Entry, Ledger, OwnSession};
use super::scheduler::{Outgoing, Scheduler, SchedulerStart, Service, Turn};
use super::state_dir::{StateDir, StateDirError};
use super::status::{
    BlockStatus, ControllerStatus, EndedBlockStatus, EndpointStatus, JournalStatus, ServiceStatus, TaskCounts,
    WorkerStatus,
};
use super::workers::ConnectionId;
use crate::config::endpoint::{EndpointConfig, LOCAL_BLOCKS};
use crate::ids::{BlockId, EndpointId, SessionId, WorkerId};
use crate::protocol::session::{FromEndpoint, Registration, ToEndpoint};
use crate::protocol::worker::ToWorker;
use crate::provider::local::{LocalLaunch, LocalProvider};
use crate::runtime::clock::Clock;
use crate::runtime::ids;
use crate::runtime::process::{boot, computer};
use crate::runtime::tasks::Tasks;
use crate::scaling::block::{BlockLife, BlockPhase, BlockWish, Sight};
use crate::scaling::{Parallelism, PoolLimits};
use crate::task::ending::Ending;
use crate::task::failure::chain;

/// Events that are heard before what they come to is written and said.
const TOGETHER: usize = 1024;

/// What was written is on the disk so soon: until then a power cut loses it, and workers keep their reports.
const SYNC: Duration = Duration::from_millis(50);

/// Bytes that wait for the disk no longer.
const UNSYNCED: usize = 4 << 20;

/// A journal that failed is tried again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// A worker that does not come back for so long, beyond its lease, is ended.
const MISSED: Duration = Duration::from_secs(30);

/// Attempts that are stopped have so long: an executor's grace and some.
const STOPPING: Duration = Duration::from_secs(15);

/// What is over is reported so long; a controller that does not answer hears it from the next process.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// So many heartbeats may pass without an answer.
const SILENCE: u32 = 2;

/// A change of the workers is told the controller so soon, and with it those that come meanwhile.
const SOON: Duration = Duration::from_millis(200);

/// A worker connects within so long after its start, or its block is taken for dead: a loaded file system gives a program in
/// less.
const STARTING: Duration = Duration::from_secs(120);

/// How often old logs are looked for.
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// How often the daemon looks at its own clock when nothing happens.
const PERIOD: Duration = Duration::from_secs(1);

/// Where heartbeats begin before a controller has said how often it wants them.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The endpoint cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Its directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Its journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its controller does not want it.
    #[error("the controller refuses this endpoint")]
    Link(#[source] ControllerLinkError),
    /// A part of the program failed.
    #[error("a part of the endpoint failed, see its log; workers go on, start it again")]
    Part,
    /// Another process is the endpoint.
    #[error("another process is this endpoint now, on {host}; this one has ended its attempts")]
    Replaced {
        /// Where.
        host: String,
    },
}

/// An endpoint that is about to run.
#[derive(Debug)]
pub struct Endpoint {
    state_dir: StateDir,
    config: EndpointConfig,
    id: EndpointId,
    session: SessionId,
    host: String,
    inbox: Inbox,
    heard: mpsc::Receiver<InboxEvent>,
    journal: Journal,
    ledger: Ledger,
    registration: Registration,
    before: Before,
}

/// Whether all that the process before wrote is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Known,
    /// The computer has started anew since, or this is another one, or there was no process before.
    Uncertain,
}

impl Endpoint {
    /// Takes the directory for this process, and reads what the last one left. Blocks on the disk.
    ///
    /// # Errors
    /// Another process has the directory, or what is in it cannot be used.
    pub fn open(state_dir: StateDir, config: EndpointConfig, host: String) -> Result<Self, EndpointError> {
        let id = state_dir.make()?;
        let (journal, ledger, recovered) = Journal::open(state_dir.directory())?;
        tracing::info!(entries = recovered.entries, cut_bytes = recovered.cut_bytes, "the journal was read");
        let own = OwnSession { session: ids::session(), host: host.clone(), computer: computer(), boot: boot() };
        // the lock on the journal proves that a process of this computer is dead; of another one it does not
        let of_here = |before: &&OwnSession| before.host == own.host && before.computer == own.computer;
        let replaces = ledger.sessions().iter().filter(of_here).map(|before| before.session).collect();
        // what a process before wrote is in the file as long as the computer went on; else the end may be missing
        let is_whole = ledger.sessions().last().is_some_and(|last| last.boot == own.boot);
        let (name, group, session) = (config.name.clone(), config.group.clone(), own.session);
        let registration = Registration { endpoint: id, name, group, session, host: host.clone(), replaces };
        // before the controller may give it the name: the next process is to know that it is this one's
        let started = Entry::SessionStarted(own);
        journal.append(std::slice::from_ref(&started))?;
        let mut ledger = ledger;
        let _left = ledger.apply(started);
        let (inbox, heard) = Inbox::new(config.site.clone());
        let before = if is_whole { Before::Known } else { Before::Uncertain };
        Ok(Self { state_dir, config, id, session, host, inbox, heard, journal, ledger, registration, before })
    }

    /// The way to it.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Registers with the controller. One that does not answer is no error, nor is a name that another process has: it is
    /// tried again while the endpoint runs.
    ///
    /// # Errors
    /// The controller does not want it.
    pub async fn introduce<D: DialController>(&self, dial: &D) -> Result<Option<ControllerConnection>, EndpointError> {
        match dial.dial(&self.registration).await {
            Ok(connection) => Ok(Some(connection)),
            Err(error @ ControllerLinkError::Unreachable(_)) => {
                tracing::warn!(error = chain(&error), "the endpoint starts without its controller");
                Ok(None)
            }
            Err(error @ ControllerLinkError::Held(_)) => {
                tracing::warn!(error = chain(&error), "the endpoint starts and waits for its name");
                Ok(None)
            }
            Err(error @ ControllerLinkError::Refused(_)) => Err(EndpointError::Link(error)),
        }
    }

    /// Runs until it has left. `asked` is cancelled when it is to leave as if told [`LeaveMode::Now`].
    ///
    /// # Errors
    /// Another process is the endpoint.
    pub async fn run<D: DialController>(
        self,
        dial: D,
        line: Option<ControllerConnection>,
        asked: CancellationToken,
    ) -> Result<(), EndpointError> {
        let Self { state_dir, config, id, session, host, inbox, heard, journal, ledger, registration, before } = self;
        let tasks = Tasks::default();
        let (orders, wanted) = watch::channel(BlockOrders::new());
        let launch =
            LocalLaunch { directory: state_dir.directory().to_owned(), logs: state_dir.logs(), local: config.local };
        let provider = LocalProvider::new(launch);
        tasks.spawn("blocks", fleet::reconcile(provider, wanted, inbox.clone(), tasks.stopping()));
        tasks.spawn("log sweeper", sweep(state_dir.clone(), config.keep_logs, tasks.stopping()));
        let start = SchedulerStart {
            now: Instant::now(),
            moment: Clock::start().now(),
            limits: limits(&config),
            login_slots: config.local.login_slots,
        };
        let mut scheduler = Scheduler::new(ledger, start);
        if before == Before::Uncertain {
            scheduler.return_waiting();
        }
        let dialling = tasks.stopping().child_token();
        tasks.spawn("controller link", controller_link::keep(dial, registration, line, inbox, dialling.clone()));
        let daemon = Daemon {
            scheduler,
            journal,
            orders,
            config,
            id,
            session,
            host,
            started: Instant::now(),
            line: None,
            dialling,
            abandon: CancellationToken::new(),
            senders: HashMap::new(),
            unwritten: Turn::default(),
            unsynced: VecDeque::new(),
            sync_at: None,
            journal_error: None,
            retry_at: None,
            controller: ControllerState { program: None, error: None, heartbeat: HEARTBEAT },
            next_beat: Instant::now(),
            leaving: None,
            failed: None,
        };
        let ended = daemon.serve(heard, asked, &tasks.stopping()).await;
        let broken = tasks.stopping().is_cancelled();
        tasks.stop();
        tasks.join().await;
        if broken { ended.and(Err(EndpointError::Part)) } else { ended }
    }
}

/// How many blocks there may be: this computer.
fn limits(config: &EndpointConfig) -> PoolLimits {
    PoolLimits {
        min_blocks: config.blocks.min_blocks,
        max_blocks: LOCAL_BLOCKS,
        nodes_per_block: NonZeroU32::MIN,
        slots_per_node: NonZeroU32::new(config.local.slots).unwrap_or(NonZeroU32::MIN),
        parallelism: Parallelism::FULL,
        idle: config.blocks.idle,
        starting: STARTING,
        walltime: None,
    }
}

fn block_status(block: BlockId, life: &BlockLife) -> BlockStatus {
    let (state, ends) = match life.phase {
        BlockPhase::Wanted => ("wanted", None),
        BlockPhase::Submitted => ("submitted", None),
        BlockPhase::Pending => ("pending", None),
        BlockPhase::Running { ends } => ("running", ends),
        BlockPhase::Ended(_) => ("ended", None),
    };
    let (seen, ending) = (life.sight == Sight::Seen, life.wish != BlockWish::Stay);
    BlockStatus { block, state: state.to_owned(), since: life.since, seen, ending, ends }
}

fn ended_status(EndedBlock { block, moment, reason, .. }: &EndedBlock) -> EndedBlockStatus {
    EndedBlockStatus { block: *block, ended: *moment, reason: reason.clone() }
}

/// Deletes old logs, now and from time to time.
async fn sweep(state_dir: StateDir, age: Duration, stopping: CancellationToken) {
    loop {
        let state_dir = state_dir.clone();
        match tokio::task::spawn_blocking(move || state_dir.sweep_logs(age)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(logs)) => tracing::info!(logs, "old logs were deleted"),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "old logs stay"),
            Err(error) => tracing::error!(%error, "deleting old logs failed"),
        }
        tokio::select! {
            // the next time begins anew
            () = tokio::time::sleep(SWEEP) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// What the daemon has while it runs.
struct Daemon {
    scheduler: Scheduler,
    journal: Journal,
    /// What the provider is to do.
    orders: watch::Sender<BlockOrders>,
    config: EndpointConfig,
    id: EndpointId,
    session: SessionId,
    host: String,
    started: Instant,
    line: Option<mpsc::Sender<(u64, FromEndpoint)>>,
    /// Cancelled when no further session is wanted.
    dialling: CancellationToken,
    abandon: CancellationToken,
    senders: HashMap<WorkerId, (ConnectionId, mpsc::Sender<ToWorker>)>,
    /// What is not written yet, and what waits for that: nothing, unless the journal cannot be written.
    unwritten: Turn,
    /// What waits for the disk, and for which append.
    unsynced: VecDeque<(AppendMark, Outgoing)>,
    /// When what is written is brought to the disk.
    sync_at: Option<Instant>,
    journal_error: Option<String>,
    retry_at: Option<Instant>,
    controller: ControllerState,
    next_beat: Instant,
    leaving: Option<Leaving>,
    /// Why it leaves, if it cannot go on.
    failed: Option<EndpointError>,
}

struct ControllerState {
    program: Option<String>,
    error: Option<String>,
    heartbeat: Duration,
}

/// The daemon is on its way out.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    mode: LeaveMode,
    since: Instant,
    /// Since when nothing runs any more.
    idle: Option<Instant>,
}

impl Daemon {
    async fn serve(
        mut self,
        mut heard: mpsc::Receiver<InboxEvent>,
        asked: CancellationToken,
        broken: &CancellationToken,
    ) -> Result<(), EndpointError> {
        let mut events = Vec::with_capacity(TOGETHER);
        loop {
            let due = self.due();
            tokio::select! {
                // nothing is lost with the others: events stay in the channel, tokens and moments stay what they are
                _ = heard.recv_many(&mut events, TOGETHER) => {}
                synced = self.journal.synced() => self.synced(synced),
                () = tokio::time::sleep_until(due) => {}
                () = asked.cancelled(), if self.leaving.is_none() => self.begin_to_leave(LeaveMode::Now),
                () = broken.cancelled(), if self.leaving.is_none() => self.begin_to_leave(LeaveMode::KeepWorkers),
            }
            for event in events.drain(..) {
                self.handle(event);
            }
            self.look_at_the_clock();
            let turn = self.scheduler.turn(Instant::now());
            self.carry_out(turn);
            self.order();
            if self.has_left() {
                break;
            }
        }
        self.finish().await
    }

    fn handle(&mut self, event: InboxEvent) {
        let now = Instant::now();
        match event {
            InboxEvent::Session { lease, heartbeat, controller, say, abandon } => {
                tracing::info!(controller, lease_s = lease.as_secs(), "a session with the controller is open");
                (self.line, self.abandon) = (Some(say), abandon);
                self.controller = ControllerState { program: Some(controller), error: None, heartbeat };
                self.next_beat = now + heartbeat;
                self.scheduler.session_opened(self.session, lease, self.status_text(), now);
            }
            InboxEvent::Controller(ToEndpoint::Replaced { session: _, host }) => {
                tracing::error!(host, "another process is this endpoint now");
                self.failed = Some(EndpointError::Replaced { host });
                self.begin_to_leave(LeaveMode::Now);
            }
            InboxEvent::Controller(said) => self.scheduler.on_controller_message(said, now),
            InboxEvent::NoSession(reason) => {
                self.line = None;
                self.controller.error = Some(reason);
                self.scheduler.session_closed();
            }
            InboxEvent::Joined { connection, joining, process, tell, answer } => {
                let may = joining::check(self.scheduler.ledger(), joining.worker, joining.block);
                // who asked may have gone: it tells of that
                let _ = answer.send(may);
                if may.is_err() {
                    return;
                }
                tracing::info!(worker = %joining.worker, host = joining.host, pid = joining.pid, "a worker has joined");
                self.senders.insert(joining.worker, (connection, tell));
                let worker = joining.worker;
                self.scheduler.worker_joined(connection, joining, process, now);
                self.beat_soon(now);
                if self.scheduler.service() == Service::Leaves {
                    self.send_to_worker(worker, ToWorker::Leave);
                }
            }
            InboxEvent::Worker { worker, connection, said } => {
                // what an earlier connection said is said again on the later one
                if self.senders.get(&worker).is_some_and(|(current, _)| *current == connection) {
                    self.scheduler.on_worker_message(worker, said, now);
                }
            }
            InboxEvent::Disconnected { worker, connection } => {
                if self.senders.get(&worker).is_some_and(|(current, _)| *current == connection) {
                    self.senders.remove(&worker);
                }
                self.scheduler.worker_disconnected(worker, connection, now);
                self.beat_soon(now);
            }
            InboxEvent::Ended { worker, ending } => {
                tracing::info!(%worker, %ending, "what a worker had is given back");
                self.senders.remove(&worker);
                self.scheduler.worker_ended(worker, ending);
                self.beat_soon(now);
            }
            InboxEvent::Block { block, seen } => {
                self.scheduler.block_seen(block, seen, now);
                self.beat_soon(now);
            }
            InboxEvent::Status(answer) => {
                // who asked may have gone
                let _ = answer.send(serde_json::to_value(self.status()).unwrap_or(Value::Null));
            }
            InboxEvent::Leave { mode, heard } => {
                self.begin_to_leave(mode);
                let _ = heard.send(());
            }
        }
    }

    /// Who asks the controller sees which workers there are, and not which there were at the last regular heartbeat.
    fn beat_soon(&mut self, now: Instant) {
        self.next_beat = self.next_beat.min(now + SOON);
    }

    /// A later word replaces a gentler one.
    fn begin_to_leave(&mut self, mode: LeaveMode) {
        tracing::info!(?mode, "the endpoint leaves");
        self.leaving = Some(Leaving { mode, since: Instant::now(), idle: None });
        match mode {
            LeaveMode::Now => self.scheduler.leave(Instant::now()),
            LeaveMode::Drain | LeaveMode::KeepWorkers => self.scheduler.drain(),
        }
        self.beat_soon(Instant::now());
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        let silent = self.scheduler.lease().unanswered().filter(|_| self.line.is_some());
        if silent.is_some_and(|since| now.duration_since(since) > self.controller.heartbeat * SILENCE) {
            // the connection may be half-open: nothing says so but that nobody answers
            tracing::warn!("the controller does not answer, the session is opened anew");
            self.abandon.cancel();
            self.line = None;
            self.controller.error = Some("it did not answer heartbeats".to_owned());
            self.scheduler.session_closed();
        }
        if now >= self.next_beat {
            self.next_beat = now + self.controller.heartbeat;
            let status = self.status_text();
            self.scheduler.beat(status, now);
        }
        let silent = self.scheduler.workers().all().filter(|(_, state)| {
            state.connection.is_none() && now.duration_since(state.since) > MISSED + self.scheduler.lasts()
        });
        let silent: Vec<WorkerId> = silent.map(|(worker, _)| worker).collect();
        for worker in silent {
            tracing::error!(%worker, "a worker has not come back and is ended");
            if let Some(process) = self.scheduler.ledger().worker(worker).and_then(|worker| worker.process.as_ref()) {
                process.kill();
            }
            self.scheduler.worker_ended(worker, Ending::NodeLost);
        }
        if let Some(leaving) = &mut self.leaving {
            if self.scheduler.idle() {
                leaving.idle.get_or_insert(now);
            }
            match (leaving.mode, self.scheduler.idle()) {
                (LeaveMode::Now, _) if now.duration_since(leaving.since) >= STOPPING => {
                    self.scheduler.cancel_blocks(now)
                }
                (LeaveMode::Drain, true) => self.begin_to_leave(LeaveMode::Now),
                (LeaveMode::Now | LeaveMode::Drain | LeaveMode::KeepWorkers, _) => {}
            }
        }
    }

    /// When the clock is to be looked at again.
    fn due(&self) -> Instant {
        let soon =
            self.leaving.is_some() || self.scheduler.workers().all().any(|(_, state)| state.connection.is_none());
        let look = soon.then(|| Instant::now() + PERIOD);
        [Some(self.next_beat), self.retry_at, self.sync_at, look, self.scheduler.due()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_beat)
    }

    fn carry_out(&mut self, turn: Turn) {
        let Turn { entries, at_once, after_write, after_sync } = turn;
        for outgoing in at_once {
            self.send(outgoing);
        }
        self.unwritten.entries.extend(entries);
        self.unwritten.after_write.extend(after_write);
        self.unwritten.after_sync.extend(after_sync);
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.retry_at = None;
            self.write();
        }
        if self.sync_at.is_some_and(|at| Instant::now() >= at || self.leaving.is_some()) {
            self.sync_at = None;
            self.journal.sync();
        }
    }

    fn write(&mut self) {
        if self.unwritten.entries.is_empty() && self.unwritten.after_sync.is_empty() {
            // what needs no entry
            let messages = std::mem::take(&mut self.unwritten.after_write);
            return messages.into_iter().for_each(|outgoing| self.send(outgoing));
        }
        let mark = match self.journal.append(&self.unwritten.entries) {
            Ok(mark) => mark,
            Err(error) => return self.cannot_write(&error),
        };
        let Turn { after_write, after_sync, .. } = std::mem::take(&mut self.unwritten);
        let is_urgent = self.journal.unsynced() >= UNSYNCED || after_sync.iter().any(Outgoing::is_urgent);
        self.unsynced.extend(after_sync.into_iter().map(|outgoing| (mark, outgoing)));
        after_write.into_iter().for_each(|outgoing| self.send(outgoing));
        let due = if is_urgent { Instant::now() } else { Instant::now() + SYNC };
        self.sync_at = Some(self.sync_at.map_or(due, |at| at.min(due)));
    }

    /// The disk has, or has not, what was written.
    fn synced(&mut self, synced: Result<AppendMark, JournalError>) {
        match synced {
            Ok(synced) => {
                self.journal_error = None;
                while let Some((_, outgoing)) = self.unsynced.pop_front_if(|(mark, _)| *mark <= synced) {
                    self.send(outgoing);
                }
            }
            Err(error @ JournalError::Ended { .. }) => {
                tracing::error!(error = chain(&error), "the endpoint cannot go on, its workers do");
                self.failed = Some(EndpointError::Part);
                self.begin_to_leave(LeaveMode::KeepWorkers);
            }
            Err(error) => {
                self.cannot_write(&error);
                self.sync_at = self.retry_at;
            }
        }
    }

    fn cannot_write(&mut self, error: &JournalError) {
        let error = chain(error);
        if self.journal_error.as_ref() != Some(&error) {
            tracing::error!(error, unwritten = self.unwritten.entries.len(), "the journal cannot be written");
        }
        (self.journal_error, self.retry_at) = (Some(error), Some(Instant::now() + AGAIN));
    }

    fn send(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::ToController(number, message) => {
                if let Some(line) = &self.line
                    && line.try_send((number, message)).is_err()
                {
                    // what is not said now is said on the next session; dropping it has that opened
                    self.line = None;
                    self.scheduler.session_closed();
                }
            }
            Outgoing::ToWorker(worker, message) => self.send_to_worker(worker, message),
            Outgoing::BlockRecorded(block) => self.scheduler.block_recorded(block),
        }
    }

    /// Tells the provider what is wanted of it, if that is something else than before.
    fn order(&self) {
        let orders = self.scheduler.blocks().orders();
        self.orders.send_if_modified(|before| {
            let differs = *before != orders;
            *before = orders;
            differs
        });
    }

    fn send_to_worker(&mut self, worker: WorkerId, message: ToWorker) {
        if let Some((connection, tell)) = self.senders.get(&worker)
            && tell.try_send(message).is_err()
        {
            // the worker connects again, and what it missed is told then
            let connection = *connection;
            self.senders.remove(&worker);
            self.scheduler.worker_disconnected(worker, connection, Instant::now());
        }
    }

    fn has_left(&self) -> bool {
        let Some(Leaving { mode, since, idle }) = self.leaving else { return false };
        // a disk that stays full keeps nobody: what is not written is known to the controller, or computed again
        let written = self.unwritten.entries.is_empty() && self.unsynced.is_empty();
        let written = written || since.elapsed() >= STOPPING + LAST_WORDS;
        let said =
            |since: Instant| self.scheduler.ledger().is_empty() || self.line.is_none() || since.elapsed() >= LAST_WORDS;
        match mode {
            LeaveMode::KeepWorkers => true,
            LeaveMode::Drain => false,
            LeaveMode::Now => self.scheduler.blocks().held().next().is_none() && idle.is_some_and(said) && written,
        }
    }

    async fn finish(mut self) -> Result<(), EndpointError> {
        // else another session is opened while the journal is closed, and the controller shows the endpoint as online
        self.dialling.cancel();
        // goodbye, said by the wire when nobody can speak any more
        drop(self.line.take());
        self.journal.close().await;
        self.failed.map_or(Ok(()), Err)
    }

    fn status_text(&self) -> String {
        self.status().text()
    }

    fn status(&self) -> EndpointStatus {
        let (now, ledger) = (Instant::now(), self.scheduler.ledger());
        EndpointStatus {
            endpoint: self.id,
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            pid: std::process::id(),
            session: self.session,
            uptime_s: self.started.elapsed().as_secs(),
            service: match self.scheduler.service() {
                Service::Open => ServiceStatus::Open,
                Service::Drains => ServiceStatus::Drains,
                Service::Leaves => ServiceStatus::Leaves,
            },
            controller: ControllerStatus {
                url: self.config.controller.url.clone(),
                connected: self.line.is_some(),
                program: self.controller.program.clone(),
                error: self.controller.error.clone().filter(|_| self.line.is_none()),
                lease_left_s: self.scheduler.lease().left(now).map(|left| left.as_secs()),
            },
            journal: JournalStatus {
                error: self.journal_error.clone(),
                unwritten: self.unwritten.entries.len(),
                syncs: self.journal.syncs(),
            },
            tasks: TaskCounts::of(ledger),
            blocks: self.scheduler.blocks().held().map(|(block, life, _)| block_status(block, life)).collect(),
            ended_blocks: self.scheduler.blocks().ended().map(ended_status).collect(),
            workers: ledger.workers().map(|worker| self.worker_status(worker, now)).collect(),
            trouble: self.scheduler.blocks().trouble(),
            workers_left_out: 0,
            // the door's own to say
            link: None,
        }
    }

    fn worker_status(&self, worker: &super::ledger::Worker, now: Instant) -> WorkerStatus {
        let state = self.scheduler.workers().get(worker.id);
        let room = state.map(|state| state.room).unwrap_or_default();
        let used = state.map(|state| state.used()).unwrap_or_default();
        WorkerStatus {
            worker: worker.id,
            block: worker.block,
            host: worker.host.clone(),
            pid: worker.process.as_ref().map(|process| process.pid),
            connected: state.is_some_and(|state| state.connection.is_some()),
            since_s: state.map(|state| now.duration_since(state.since).as_secs()),
            slots: (room.slots, used.slots.min(room.slots)),
            login_slots: (room.login, used.login.min(room.login)),
            gpus: state.map(|state| state.gpus.clone()).unwrap_or_default(),
            trouble: state.and_then(|state| state.trouble.clone()),
        }
    }
}
