//! The worker's main loop: has attempts from its endpoint, runs as many at once as it has slots, reports how they end.
//!
//! It outlives its endpoint: attempts go on while nobody is connected, as long as the lease lasts that the endpoint
//! was last granted; then another may have their tasks, and they are stopped. What the endpoint has not recorded is
//! kept and said again on the next connection. A worker without endpoint and lease ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assignment::{Computation, SlotGpu, Work};
use super::endpoint_link::{DialEndpoint, EndpointConnection, EndpointLinkError};
use super::executor::{Attempt, AttemptWatch, Executors, Finished, Remains, Slot};
use super::gpus::{AssignedSlot, Gpus, Test, verdict};
use super::paths::{self, work_of};
use crate::config::endpoint::Site;
use crate::gpu::health;
use crate::ids::{AttemptId, AttemptNumber, BlockId, TaskId, WorkerId};
use crate::protocol::session::{Progress, Reported, Stop};
use crate::protocol::worker::{FromWorker, GpuState, Handout, Joining, Room, ToWorker, WorkerFacts};
use crate::runtime::lease::Lease;
use crate::runtime::tasks::spawn;
use crate::task::failure::{Failure, Fault, Loss, chain};
use crate::task::life::Outcome;
use crate::task::names::TemplateName;
use crate::task::result::TaskResult;
use crate::task::retry::doubled;
use crate::task::spec::{ByPlace, Place, TaskSpec};
use crate::task::template::{TemplateError, Templates};

/// Events that are heard before what they come to is said.
const TOGETHER: usize = 1024;

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

/// A lease is renewed so many times before it ends.
const BEATS: u32 = 8;

/// What is to be said waits for more so long while slots have other work: of short tasks many go in one message, and are
/// written and synced together all the way.
const GATHER: Duration = Duration::from_millis(5);

/// Reports that are not recorded yet are waited for so long when the worker leaves.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The longest that a self-test may take: it is done in seconds, and a GPU that hangs never is.
const TEST: Duration = Duration::from_secs(120);

/// The longest that a command's paths may take to be looked at: a file system that hangs.
const LOOK: Duration = Duration::from_secs(60);

/// Who a worker is, and what it has.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Which.
    pub worker: WorkerId,
    /// Part of which block.
    pub block: BlockId,
    /// Where it runs.
    pub host: String,
    /// Attempts that compute, at once, without GPUs.
    pub slots: u32,
    /// Attempts that do not compute, at once.
    pub login_slots: u32,
    /// What each that computes may use; where there are more slots of GPUs than of CPUs they share it.
    pub slot: Slot,
}

/// Why a worker cannot go on.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The endpoint does not want it.
    #[error(transparent)]
    Refused(EndpointLinkError),
    /// Nobody wants it.
    #[error("no endpoint answered for {} s, and attempts have no lease any more", .0.as_secs())]
    Alone(Duration),
    /// The endpoint's configuration is of another version.
    #[error("the endpoint's command {name} cannot be used")]
    Command {
        /// Which.
        name: TemplateName,
        /// Why.
        #[source]
        source: TemplateError,
    },
}

/// Runs until it is told to leave, by its endpoint or by `asked`.
///
/// # Errors
/// See [`WorkerError`].
pub async fn run<D: DialEndpoint>(
    settings: WorkerSettings,
    gpus: Gpus,
    changed: Arc<Notify>,
    executors: Executors,
    dial: D,
    asked: CancellationToken,
) -> Result<(), WorkerError> {
    let (tell, heard) = mpsc::unbounded_channel();
    let now = Instant::now();
    let worker = Worker {
        settings,
        gpus,
        facts: WorkerFacts::default(),
        told: now,
        executors,
        dial: Arc::new(dial),
        tell,
        site: Arc::default(),
        templates: Arc::default(),
        line: None,
        waiting: Waiting::default(),
        running: HashMap::new(),
        remaining: HashMap::new(),
        used: ByPlace::default(),
        reports: BTreeMap::new(),
        lease: Lease::default(),
        beats: Beats { number: 0, every: BEAT, next: now },
        alone: Some(now),
        failed: 0,
        outbox: Outbox::default(),
        leaving: None,
    };
    worker.serve(heard, changed, asked).await
}

/// What the loop hears.
enum WorkerEvent {
    Dialled(Result<EndpointConnection, EndpointLinkError>),
    Message(ToWorker),
    Disconnected,
    Progress(Progress),
    Finished(AttemptId, Finished),
    Tested(AttemptId, Test, Finished),
    /// A process that was killed, and did not end, has ended after all.
    Gone(AttemptId),
}

struct Worker<D> {
    settings: WorkerSettings,
    /// The slots of attempts that compute.
    gpus: Gpus,
    /// What was said last of what it has, and when.
    facts: WorkerFacts,
    told: Instant,
    executors: Executors,
    dial: Arc<D>,
    // unbounded: what comes in is bounded by slots, by the connection's channel and by progress of four a second
    tell: mpsc::UnboundedSender<WorkerEvent>,
    site: Arc<Site>,
    templates: Arc<Templates>,
    line: Option<mpsc::Sender<FromWorker>>,
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
    /// Since when no endpoint is connected.
    alone: Option<Instant>,
    failed: u32,
    outbox: Outbox,
    leaving: Option<Instant>,
}

/// Attempts that wait for a slot, in their order.
#[derive(Default)]
struct Waiting {
    slots: VecDeque<Handout>,
    login: VecDeque<Handout>,
}

struct Running {
    place: Place,
    stop: CancellationToken,
    /// Why it was stopped, if that is told in place of how it ended.
    lost: Option<Loss>,
}

/// The questions for more lease.
struct Beats {
    number: u64,
    every: Duration,
    next: Instant,
}

/// What is to be said, and by when.
#[derive(Default)]
struct Outbox {
    started: Vec<AttemptId>,
    reports: Vec<AttemptId>,
    due: Option<Instant>,
}

impl<D: DialEndpoint> Worker<D> {
    async fn serve(
        mut self,
        mut heard: mpsc::UnboundedReceiver<WorkerEvent>,
        changed: Arc<Notify>,
        asked: CancellationToken,
    ) -> Result<(), WorkerError> {
        self.facts = self.own_facts();
        self.connect(Duration::ZERO);
        let mut events = Vec::with_capacity(TOGETHER);
        loop {
            let due = self.due();
            tokio::select! {
                // nothing is lost with the others: events stay in the channel, a token and a moment stay what they are
                _ = heard.recv_many(&mut events, TOGETHER) => {}
                () = tokio::time::sleep_until(due) => {}
                // a change that comes meanwhile is kept
                () = changed.notified() => {}
                () = asked.cancelled(), if self.leaving.is_none() => self.leave(),
            }
            for event in events.drain(..) {
                self.handle(event)?;
            }
            self.look_at_the_clock()?;
            self.look_at_the_gpus();
            self.start();
            self.send();
            if self.has_left() {
                break;
            }
        }
        self.send_now(FromWorker::Leaving);
        Ok(())
    }

    fn handle(&mut self, event: WorkerEvent) -> Result<(), WorkerError> {
        match event {
            WorkerEvent::Dialled(Ok(line)) => self.joined(line)?,
            WorkerEvent::Dialled(Err(error @ EndpointLinkError::Refused(_))) => {
                return Err(WorkerError::Refused(error));
            }
            WorkerEvent::Dialled(Err(error @ EndpointLinkError::Unreachable(_))) => {
                tracing::debug!(error = chain(&error), "no endpoint");
                self.failed += 1;
                self.connect(doubled(PAUSE, self.failed, LONGEST_PAUSE));
            }
            WorkerEvent::Message(said) => self.on_message(said),
            WorkerEvent::Disconnected => {
                tracing::warn!("the connection with the endpoint has ended");
                self.line = None;
                self.alone = Some(Instant::now());
                self.connect(Duration::ZERO);
            }
            WorkerEvent::Progress(progress) => {
                if self.running.contains_key(&progress.attempt) {
                    self.send_now(FromWorker::Progress(progress));
                }
            }
            WorkerEvent::Finished(attempt, finished) => self.finished(attempt, finished),
            WorkerEvent::Tested(id, test, finished) => self.tested(id, &test, finished),
            WorkerEvent::Gone(attempt) => {
                tracing::info!(%attempt, "a process that was killed has ended after all");
                if let Some(place) = self.remaining.remove(&attempt) {
                    *self.used.at(place) -= 1;
                }
                self.gpus.gone(attempt);
            }
        }
        Ok(())
    }

    fn connect(&self, pause: Duration) {
        let attempts = self.running.keys().chain(self.reports.keys()).copied();
        let attempts = attempts.chain(self.waiting.all().map(|handout| handout.attempt)).collect();
        let WorkerSettings { worker, block, host, slots: _, login_slots: _, slot: _ } = self.settings.clone();
        let room = self.facts.room;
        let joining = Joining { worker, block, host, pid: std::process::id(), room, attempts };
        let (dial, tell) = (Arc::clone(&self.dial), self.tell.clone());
        // ends with the try
        spawn("endpoint link", async move {
            tokio::time::sleep(pause).await;
            let _ended = tell.send(WorkerEvent::Dialled(dial.dial(joining).await));
        });
    }

    fn joined(&mut self, line: EndpointConnection) -> Result<(), WorkerError> {
        let EndpointConnection { site, say, mut hear } = line;
        let templates = site.templates().map_err(|(name, source)| WorkerError::Command { name, source })?;
        (self.site, self.templates) = (Arc::new(site), Arc::new(templates));
        (self.line, self.alone, self.failed) = (Some(say), None, 0);
        let tell = self.tell.clone();
        // ends with the connection
        spawn("endpoint's words", async move {
            while let Some(said) = hear.recv().await {
                if tell.send(WorkerEvent::Message(said)).is_err() {
                    return;
                }
            }
            let _ended = tell.send(WorkerEvent::Disconnected);
        });
        self.lease.hung_up();
        self.beats.next = Instant::now();
        self.outbox.reports = self.reports.keys().copied().collect();
        self.outbox.started = self.running.keys().copied().collect();
        if !self.facts.gpus.is_empty() || self.facts.trouble.is_some() {
            self.send_now(FromWorker::Facts(self.facts.clone()));
        }
        Ok(())
    }

    fn on_message(&mut self, said: ToWorker) {
        match said {
            ToWorker::Work(handouts) => handouts.into_iter().for_each(|handout| self.take(handout)),
            ToWorker::Stop(stops) => stops.into_iter().for_each(|Stop { attempt, reason: _ }| self.stop(attempt)),
            ToWorker::Return(attempts) => attempts.into_iter().for_each(|attempt| {
                if self.waiting.remove(attempt) {
                    self.report(attempt, Outcome::Lost(Loss::Returned), TaskResult::default());
                }
            }),
            ToWorker::Recorded(attempts) => attempts.iter().for_each(|attempt| {
                self.reports.remove(attempt);
            }),
            ToWorker::Lease { number, lasts } => {
                if let Some(asked) = self.lease.renewed(number, lasts) {
                    self.beats.every = (lasts / BEATS).clamp(PAUSE, LONGEST_BEAT);
                    self.beats.next = self.beats.next.min(asked + self.beats.every);
                }
            }
            ToWorker::Leave => self.leave(),
        }
    }

    fn take(&mut self, handout: Handout) {
        let attempt = handout.attempt;
        if self.has(attempt) {
            return;
        }
        if self.leaving.is_some() {
            self.report(attempt, Outcome::Lost(Loss::Stopped), TaskResult::default());
            return;
        }
        if self.lease.left(Instant::now()).is_none() {
            // asked for at once, unless that was done a moment ago
            let last = self.lease.last_asked().map(|at| at + PAUSE);
            self.beats.next = self.beats.next.min(last.unwrap_or_else(Instant::now));
        }
        self.waiting.of(handout.spec.kind().place()).push_back(handout);
    }

    fn has(&self, attempt: AttemptId) -> bool {
        self.running.contains_key(&attempt)
            || self.reports.contains_key(&attempt)
            || self.waiting.all().any(|handout| handout.attempt == attempt)
    }

    fn stop(&mut self, attempt: AttemptId) {
        if let Some(running) = self.running.get(&attempt) {
            running.stop.cancel();
        } else if self.waiting.remove(attempt) {
            self.report(attempt, Outcome::Cancelled, TaskResult::default());
        }
    }

    /// Ends all that it has, without a fault of the tasks.
    fn give_up(&mut self, loss: Loss) {
        for handout in self.waiting.take() {
            self.report(handout.attempt, Outcome::Lost(loss), TaskResult::default());
        }
        self.end_running(loss);
    }

    fn end_running(&mut self, loss: Loss) {
        for running in self.running.values_mut() {
            running.lost.get_or_insert(loss);
            running.stop.cancel();
        }
    }

    fn leave(&mut self) {
        if self.leaving.is_none() {
            tracing::info!("the worker leaves");
            self.leaving = Some(Instant::now());
            self.give_up(Loss::Stopped);
        }
    }

    fn finished(&mut self, attempt: AttemptId, finished: Finished) {
        let Some(Running { place, stop: _, lost }) = self.running.remove(&attempt) else { return };
        let Finished { outcome, mut result, remains } = finished;
        match &outcome {
            Outcome::Lost(Loss::GpuFault) => self.gpus.distrust(attempt),
            Outcome::Failed(Failure { fault: Fault::Program, .. }) | Outcome::Lost(Loss::Crashed) => {
                self.gpus.program_failed(attempt);
            }
            Outcome::Succeeded | Outcome::Cancelled | Outcome::Failed(_) | Outcome::Lost(_) => {}
        }
        match remains {
            Some(process) => {
                self.remaining.insert(attempt, place);
                self.gpus.remains(attempt, process.pid());
                self.await_end(attempt, process);
            }
            None => {
                *self.used.at(place) -= 1;
                result.gpu_energy_mj = self.gpus.release(attempt);
            }
        }
        let outcome = match (outcome, lost) {
            // what it computed, or how it failed, is not to be believed
            (_, Some(Loss::GpuFault)) => Outcome::Lost(Loss::GpuFault),
            // stopped for another reason than its executor knows
            (Outcome::Cancelled, Some(loss)) => Outcome::Lost(loss),
            (outcome, _) => outcome,
        };
        self.report(attempt, outcome, result);
    }

    fn tested(&mut self, id: AttemptId, test: &Test, finished: Finished) {
        let Finished { outcome: ended, result: _, remains } = finished;
        let (gpu, outcome) = (&test.gpu.uuid, verdict(&ended));
        let why = match ended {
            Outcome::Succeeded => String::new(),
            Outcome::Failed(failure) => failure.message().to_owned(),
            Outcome::Cancelled | Outcome::Lost(_) => format!("see {}", self.executors.log(id).display()),
        };
        match outcome {
            health::TestOutcome::Passed => tracing::info!(gpu, "the GPU has passed its self-test"),
            health::TestOutcome::Failed => tracing::error!(gpu, why, "the GPU has failed its self-test"),
            health::TestOutcome::NotRun => tracing::warn!(gpu, why, "the self-test of the GPU could not be run"),
        }
        self.gpus.tested(test, outcome);
        if let Some(process) = remains {
            self.gpus.test_remains(test, id, process.pid());
            self.await_end(id, process);
        }
    }

    /// Has it told when a process that does not end has ended.
    fn await_end(&self, attempt: AttemptId, process: Remains) {
        let tell = self.tell.clone();
        // ends with the process, or with this one
        spawn("killed process", async move {
            process.gone().await;
            let _ended = tell.send(WorkerEvent::Gone(attempt));
        });
    }

    fn report(&mut self, attempt: AttemptId, outcome: Outcome, result: TaskResult) {
        self.reports.insert(attempt, Reported { attempt, outcome, result });
        self.outbox.reports.push(attempt);
    }

    fn look_at_the_clock(&mut self) -> Result<(), WorkerError> {
        let now = Instant::now();
        if self.line.is_some() && now >= self.beats.next {
            let number = self.beats.next(now);
            self.lease.ask(number, now);
            self.send_now(FromWorker::Beat { number });
        }
        let has_run_out = self.lease.end().is_some_and(|end| now >= end);
        if has_run_out && self.running.values().any(|running| running.lost.is_none()) {
            tracing::error!("the lease has run out: attempts are stopped");
            // what waits goes on waiting: it is begun under the next lease, or stopped by a word before that
            self.end_running(Loss::LeaseExpired);
        }
        match self.alone {
            Some(since)
                if self.lease.left(now).is_none()
                    && self.running.is_empty()
                    && now.duration_since(since) > PATIENCE =>
            {
                Err(WorkerError::Alone(now.duration_since(since)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Has attempts leave GPUs that are not to be trusted, tests those that may be again, and tells what there is.
    fn look_at_the_gpus(&mut self) {
        let is_time = !self.facts.gpus.is_empty() && self.told.elapsed() >= LONGEST_BEAT;
        self.gpus.list_again();
        if is_time {
            self.gpus.lock();
        }
        for attempt in self.gpus.look() {
            if let Some(running) = self.running.get_mut(&attempt) {
                tracing::error!(%attempt, "its GPU is not to be trusted: the attempt is stopped");
                running.lost.get_or_insert(Loss::GpuFault);
                running.stop.cancel();
            }
        }
        if self.leaving.is_none() {
            self.gpus.tests().into_iter().for_each(|test| self.test(test));
        }
        let facts = self.own_facts();
        let differs = facts.room != self.facts.room
            || facts.trouble != self.facts.trouble
            || !told(&facts).eq(told(&self.facts))
            // what is measured changes all the time
            || is_time;
        if differs {
            (self.facts, self.told) = (facts, Instant::now());
            self.send_now(FromWorker::Facts(self.facts.clone()));
        }
    }

    fn own_facts(&self) -> WorkerFacts {
        let lost = self.remaining.values().filter(|place| **place == Place::Login).count() as u32;
        let room = Room { slots: self.gpus.room(), login: self.settings.login_slots.saturating_sub(lost) };
        WorkerFacts { room, gpus: self.gpus.facts(), trouble: self.gpus.trouble().map(str::to_owned) }
    }

    /// Tests a GPU in a process of its own, as an attempt of no task.
    fn test(&self, test: Test) {
        let id = AttemptId { task: TaskId::new(uuid::Uuid::now_v7()), number: AttemptNumber::FIRST };
        let work = Work::Computation(Computation::SelfTest);
        let attempt = Attempt { id, work, roots: self.site.roots.clone(), time_limit: Some(TEST) };
        let slot = self.slot(Some(test.gpu.clone()));
        let (executors, tell) = (self.executors.clone(), self.tell.clone());
        // ends with the test, within its time
        spawn("gpu test", async move {
            let watch = AttemptWatch { progress: watch::channel(None).0, stop: CancellationToken::new() };
            let finished = executors.run(attempt, &slot, watch).await;
            let _ended = tell.send(WorkerEvent::Tested(id, test, finished));
        });
    }

    /// A slot's share, by the slots that there are now: GPUs may be found late.
    fn slot(&self, gpu: Option<SlotGpu>) -> Slot {
        Slot { gpu, ..self.settings.slot.clone().shared(self.settings.slots, self.gpus.slots()) }
    }

    fn due(&self) -> Instant {
        let now = Instant::now();
        let beat = self.line.is_some().then_some(self.beats.next);
        let lease = self.lease.end().filter(|_| !self.running.is_empty());
        let lease = lease.filter(|end| *end > now);
        let alone = self.alone.map(|since| (since + PATIENCE).max(now + BEAT));
        let leaving = self.leaving.map(|_| now + PAUSE);
        let gathered = self.outbox.due.filter(|_| self.line.is_some());
        [beat, lease, alone, leaving, gathered].into_iter().flatten().min().unwrap_or(now + LONGEST_BEAT)
    }

    /// Begins as much as slots allow.
    fn start(&mut self) {
        // without a lease a task may be another's; the answer to the first beat tells
        if self.lease.left(Instant::now()).is_none() {
            return;
        }
        for place in [Place::Slot, Place::Login] {
            while self.has_room(place) {
                let Some(Handout { attempt, spec }) = self.waiting.of(place).pop_front() else { break };
                match spec {
                    // nothing needs no process
                    TaskSpec::Nothing => self.report(attempt, Outcome::Succeeded, TaskResult::default()),
                    spec @ (TaskSpec::Correlate(_) | TaskSpec::BatchSetup(_) | TaskSpec::Command(_)) => {
                        let assigned = match place {
                            Place::Slot => self.gpus.assign(attempt),
                            Place::Login => Some(AssignedSlot { gpu: None }),
                        };
                        let Some(assigned) = assigned else {
                            self.waiting.of(place).push_front(Handout { attempt, spec });
                            break;
                        };
                        self.launch(attempt, spec, place, assigned);
                    }
                }
            }
        }
    }

    fn has_room(&self, place: Place) -> bool {
        match place {
            Place::Slot => self.gpus.has_free(),
            Place::Login => self.used.login < self.settings.login_slots,
        }
    }

    fn launch(&mut self, attempt: AttemptId, spec: TaskSpec, place: Place, assigned: AssignedSlot) {
        let stop = CancellationToken::new();
        self.running.insert(attempt, Running { place, stop: stop.clone(), lost: None });
        *self.used.at(place) += 1;
        self.outbox.started.push(attempt);
        let (site, templates) = (Arc::clone(&self.site), Arc::clone(&self.templates));
        let slot = self.slot(assigned.gpu);
        let (executors, tell) = (self.executors.clone(), self.tell.clone());
        // ends with the attempt's process
        spawn("attempt", async move {
            let finished = match prepared(spec, Arc::clone(&site), templates).await {
                Ok(work) => {
                    let attempt = Attempt { id: attempt, work, roots: site.roots.clone(), time_limit: None };
                    watched(executors, attempt, slot, stop, &tell).await
                }
                Err(failure) => Finished::failed(failure),
            };
            let _ended = tell.send(WorkerEvent::Finished(attempt, finished));
        });
    }

    fn send(&mut self) {
        if self.line.is_none() {
            return;
        }
        let now = Instant::now();
        let busy = !self.waiting.slots.is_empty() && self.leaving.is_none();
        if busy && !self.outbox.is_empty() && now < *self.outbox.due.get_or_insert(now + GATHER) {
            return;
        }
        let Outbox { mut started, reports: due_reports, due: _ } = std::mem::take(&mut self.outbox);
        started.retain(|attempt| self.running.contains_key(attempt));
        if !started.is_empty() {
            self.send_now(FromWorker::Started(started));
        }
        let reports: Vec<Reported> =
            due_reports.iter().filter_map(|attempt| self.reports.get(attempt).cloned()).collect();
        if !reports.is_empty() {
            self.send_now(FromWorker::Reports(reports));
        }
    }

    fn send_now(&mut self, message: FromWorker) {
        if let Some(line) = &self.line
            && line.try_send(message).is_err()
        {
            // what is not said now is said on the next connection; the reader of this one tells of its end
            self.line = None;
        }
    }

    fn has_left(&self) -> bool {
        let Some(since) = self.leaving else { return false };
        let heard =
            self.reports.is_empty() || self.line.is_none() || since.elapsed() > LAST_WORDS + super::executor::GRACE;
        self.running.is_empty() && heard
    }
}

/// What is told at once when it changes; a worker's GPUs keep their order.
fn told(facts: &WorkerFacts) -> impl Iterator<Item = (GpuState, &[String])> {
    facts.gpus.iter().map(|gpu| (gpu.state, gpu.reasons.as_slice()))
}

/// What an attempt does, its command's paths looked at.
async fn prepared(spec: TaskSpec, site: Arc<Site>, templates: Arc<Templates>) -> Result<Work, Failure> {
    if !paths::blocks(&spec, &templates) {
        return work_of(spec, &site, &templates).map_err(|error| Failure::of(error.fault(), &error));
    }
    let looked = tokio::task::spawn_blocking(move || work_of(spec, &site, &templates));
    match tokio::time::timeout(LOOK, looked).await {
        Ok(Ok(work)) => work.map_err(|error| Failure::of(error.fault(), &error)),
        Ok(Err(failed)) => {
            Err(Failure::new(Fault::Program, &format!("looking at the command's paths failed: {failed}")))
        }
        Err(_) => {
            let message =
                format!("the file system did not tell where the command's paths lead in {} s", LOOK.as_secs());
            Err(Failure::new(Fault::Program, &message))
        }
    }
}

/// Runs an attempt and passes on how far it is.
async fn watched(
    executors: Executors,
    attempt: Attempt,
    slot: Slot,
    stop: CancellationToken,
    tell: &mpsc::UnboundedSender<WorkerEvent>,
) -> Finished {
    let (progress, mut latest) = watch::channel(None);
    let mut running = std::pin::pin!(executors.run(attempt, &slot, AttemptWatch { progress, stop }));
    loop {
        tokio::select! {
            finished = &mut running => return finished,
            // the attempt runs on while it is told how far it is; what changed once more is seen the next time
            Ok(()) = latest.changed() => {
                let told = latest.borrow_and_update().clone();
                if let Some(progress) = told {
                    let _ended = tell.send(WorkerEvent::Progress(progress));
                }
            }
        }
    }
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.started.is_empty() && self.reports.is_empty()
    }
}

impl Waiting {
    fn of(&mut self, place: Place) -> &mut VecDeque<Handout> {
        match place {
            Place::Slot => &mut self.slots,
            Place::Login => &mut self.login,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Handout> {
        self.slots.iter().chain(&self.login)
    }

    fn take(&mut self) -> Vec<Handout> {
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
