//! A worker while it runs: passes on to its core what happens (the endpoint's messages, processes that end, GPUs, time)
//! and does what the core decides: connects, sends, starts and stops processes. Decides nothing about attempts.
//!
//! It outlives its endpoint: attempts go on while nobody is connected, as long as the lease lasts that the endpoint
//! was last granted; then another may have their tasks, and they are stopped. What the endpoint has not recorded is
//! kept and said again on the next connection. A worker without endpoint and lease ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assignment::{Computation, SlotGpu, Work};
use super::core::{Action, Alone, Core, Launch};
use super::endpoint_link::{DialEndpoint, EndpointConnection, EndpointLinkError};
use super::executor::{Attempt, AttemptWatch, Executors, Finished, GRACE, Remains, Slot};
use super::gpus::{AssignedSlot, Gpus, Test, verdict};
use super::paths::{self, NodeRoots, opened, work_of};
use crate::config::mounts::RootMounts;
use crate::gpu::health;
use crate::ids::{AttemptId, AttemptNumber, BlockId, TaskId, WorkerId};
use crate::protocol::session::Progress;
use crate::protocol::worker::{FromWorker, Joining, Room, ToWorker, WorkerFacts};
use crate::runtime::pause::by_chance;
use crate::runtime::tasks::spawn;
use crate::task::failure::{Failure, Fault, Loss, chain};
use crate::task::life::Outcome;
use crate::task::names::TemplateName;
use crate::task::result::NamedResult;
use crate::task::spec::{Place, TaskSpec};
use crate::task::template::{TemplateError, Templates};

/// Events that are heard before what they come to is said.
const TOGETHER: usize = 1024;

/// The longest that a self-test may take: it is done in seconds, and a GPU that hangs never is.
const TEST: Duration = Duration::from_secs(120);

/// The longest that a check of the node may take: a file system that hangs.
const CHECK: Duration = Duration::from_secs(60);

/// The longest that a command's paths may take to be looked at: a file system that hangs.
const LOOK: Duration = Duration::from_secs(60);

/// The endpoint has so long to hear that the worker has left.
const PARTING: Duration = Duration::from_secs(2);

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
    let core = Core::new(settings.login_slots, now);
    let (templates, roots) = (Arc::default(), None);
    let (started, connection) = (HashMap::new(), None);
    let dial = Arc::new(dial);
    let daemon = Daemon { core, settings, gpus, executors, dial, tell, templates, roots, connection, started };
    daemon.serve(heard, changed, asked).await
}

/// What the loop hears.
enum WorkerEvent {
    Dialled(Result<EndpointConnection, EndpointLinkError>),
    Message(ToWorker),
    Disconnected,
    Progress(Progress),
    Naming(AttemptId, NamedResult),
    Finished(AttemptId, Finished),
    Tested(AttemptId, Test, Finished),
    /// The node was checked with these roots.
    Checked(u64, Finished),
    /// A process that was killed, and did not end, has ended after all.
    Gone(AttemptId),
}

/// The roots of the endpoint's configuration on this node.
struct Roots {
    /// Ascending with each configuration that has others.
    version: u64,
    node: NodeRoots,
}

/// An attempt that has a process, or gets one.
struct StartedAttempt {
    place: Place,
    orders: AttemptOrders,
}

/// What an attempt's process is told.
#[derive(Clone)]
struct AttemptOrders {
    stop: CancellationToken,
    publish: Arc<Semaphore>,
}

struct Daemon<D> {
    core: Core,
    settings: WorkerSettings,
    /// The slots of attempts that compute.
    gpus: Gpus,
    executors: Executors,
    dial: Arc<D>,
    // unbounded: what comes in is bounded by slots, by the connection's channel and by progress of four a second
    tell: mpsc::UnboundedSender<WorkerEvent>,
    templates: Arc<Templates>,
    /// None before the first connection.
    roots: Option<Roots>,
    connection: Option<mpsc::Sender<FromWorker>>,
    started: HashMap<AttemptId, StartedAttempt>,
}

impl<D: DialEndpoint> Daemon<D> {
    async fn serve(
        mut self,
        mut heard: mpsc::UnboundedReceiver<WorkerEvent>,
        changed: Arc<Notify>,
        asked: CancellationToken,
    ) -> Result<(), WorkerError> {
        self.core.tell_facts(self.facts(), Instant::now());
        self.act();
        let mut events = Vec::with_capacity(TOGETHER);
        loop {
            let due = self.core.due(Instant::now());
            tokio::select! {
                // nothing is lost with the others: events stay in the channel, a token and a moment stay what they are
                _ = heard.recv_many(&mut events, TOGETHER) => {}
                () = tokio::time::sleep_until(due) => {}
                // a change that comes meanwhile is kept
                () = changed.notified() => {}
                () = asked.cancelled(), if !self.core.is_leaving() => self.core.leave(Instant::now()),
            }
            for event in events.drain(..) {
                self.handle(event)?;
            }
            let now = Instant::now();
            self.core.tick(now).map_err(|Alone(since)| WorkerError::Alone(since))?;
            self.look_at_the_gpus(now);
            self.core.turn(&mut self.gpus, now);
            self.act();
            if self.core.has_left(GRACE, now) {
                break;
            }
        }
        self.send(FromWorker::Leaving);
        // nothing more is said; the endpoint ends the connection when it has heard that
        if self.connection.take().is_some() {
            let ended =
                async { while heard.recv().await.is_some_and(|event| !matches!(event, WorkerEvent::Disconnected)) {} };
            // one that has not heard it finds out by itself that the worker has gone
            let _late = tokio::time::timeout(PARTING, ended).await;
        }
        Ok(())
    }

    fn handle(&mut self, event: WorkerEvent) -> Result<(), WorkerError> {
        let now = Instant::now();
        match event {
            WorkerEvent::Dialled(Ok(connection)) => self.connected(connection, now)?,
            WorkerEvent::Dialled(Err(error @ EndpointLinkError::Refused(_))) => {
                return Err(WorkerError::Refused(error));
            }
            WorkerEvent::Dialled(Err(error @ EndpointLinkError::Unreachable(_))) => {
                tracing::debug!(error = chain(&error), "no endpoint");
                self.core.not_connected(now);
            }
            WorkerEvent::Message(message) => self.core.on_message(message, now),
            WorkerEvent::Disconnected => {
                tracing::warn!("the connection with the endpoint has ended");
                self.connection = None;
                self.core.disconnected(now);
            }
            WorkerEvent::Progress(progress) => self.core.progress(progress),
            WorkerEvent::Naming(attempt, result) => self.core.naming(attempt, result),
            WorkerEvent::Finished(attempt, finished) => self.finished(attempt, finished, now),
            WorkerEvent::Tested(id, test, finished) => self.tested(id, &test, finished),
            WorkerEvent::Checked(version, finished) => self.checked(version, finished, now),
            WorkerEvent::Gone(attempt) => {
                tracing::info!(%attempt, "a process that was killed has ended after all");
                self.core.gone(attempt);
                self.gpus.gone(attempt);
            }
        }
        Ok(())
    }

    fn act(&mut self) {
        for action in self.core.actions() {
            match action {
                Action::Launch(launch) => self.launch(launch),
                Action::Stop(attempt) => {
                    if let Some(started) = self.started.get(&attempt) {
                        started.orders.stop.cancel();
                    }
                }
                Action::Publish(attempt) => {
                    if let Some(started) = self.started.get(&attempt) {
                        started.orders.publish.add_permits(1);
                    }
                }
                Action::Send(message) => self.send(message),
                Action::Dial(pause) => self.dial(pause),
                Action::CheckNode => self.check_node(),
            }
        }
    }

    fn dial(&self, pause: Duration) {
        let (attempts, room) = (self.core.attempts(), self.core.room());
        let WorkerSettings { worker, block, host, slots: _, login_slots: _, slot: _ } = self.settings.clone();
        let joining = Joining { worker, block, host, pid: std::process::id(), room, attempts };
        let (dial, tell) = (Arc::clone(&self.dial), self.tell.clone());
        // half of it by chance: workers that lost the same endpoint do not come back together
        let pause = by_chance(pause);
        // ends with the try
        spawn("endpoint link", async move {
            tokio::time::sleep(pause).await;
            let _ended = tell.send(WorkerEvent::Dialled(dial.dial(joining).await));
        });
    }

    fn connected(&mut self, connection: EndpointConnection, now: Instant) -> Result<(), WorkerError> {
        let EndpointConnection { site, say, mut hear } = connection;
        let templates = site.templates().map_err(|(name, source)| WorkerError::Command { name, source })?;
        self.templates = Arc::new(templates);
        self.connection = Some(say);
        let tell = self.tell.clone();
        // ends with the connection
        spawn("endpoint's messages", async move {
            while let Some(message) = hear.recv().await {
                if tell.send(WorkerEvent::Message(message)).is_err() {
                    return;
                }
            }
            let _ended = tell.send(WorkerEvent::Disconnected);
        });
        self.core.connected(now);
        if self.roots.as_ref().is_none_or(|roots| roots.node.raw != site.roots) {
            let version = self.roots.as_ref().map_or(0, |roots| roots.version + 1);
            self.roots = Some(Roots { version, node: NodeRoots { raw: site.roots, mounts: None } });
            self.core.roots_changed();
        }
        Ok(())
    }

    fn finished(&mut self, attempt: AttemptId, finished: Finished, now: Instant) {
        let Some(StartedAttempt { place, .. }) = self.started.remove(&attempt) else { return };
        let Finished { outcome, mut result, remains } = finished;
        match &outcome {
            Outcome::Lost(Loss::GpuFault) => self.gpus.distrust(attempt),
            Outcome::Failed(Failure { fault: Fault::Program, .. }) | Outcome::Lost(Loss::Crashed) => {
                self.gpus.program_failed(attempt);
            }
            Outcome::Succeeded | Outcome::Cancelled | Outcome::Failed(_) | Outcome::Lost(_) => {}
        }
        if remains.is_none() {
            result.gpu_energy_mj = self.gpus.release(attempt);
        }
        self.core.finished(attempt, outcome, result, now);
        if let Some(process) = remains {
            self.core.remains(attempt, place);
            self.gpus.remains(attempt, process.pid());
            self.await_end(attempt, process);
        }
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

    fn checked(&mut self, version: u64, finished: Finished, now: Instant) {
        let Some(roots) = self.roots.as_mut().filter(|roots| roots.version == version) else { return };
        let Finished { outcome, result, remains: _ } = finished;
        let found = match outcome {
            Outcome::Succeeded => match RootMounts::from_json(result.document.as_deref().unwrap_or_default()) {
                Ok(mounts) => {
                    roots.node.mounts.get_or_insert(mounts);
                    Ok(())
                }
                Err(error) => Err(format!("the check of the node gave no answer: {error}")),
            },
            Outcome::Lost(Loss::Unfit(unfit)) => Err(unfit.message().to_owned()),
            Outcome::Failed(failure) => Err(failure.message().to_owned()),
            Outcome::Cancelled | Outcome::Lost(_) => {
                Err(format!("the check of the node failed; see {}", self.executors.log(self.check_id()).display()))
            }
        };
        self.core.checked(found, now);
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

    /// Has attempts leave GPUs that are not to be trusted, tests those that may be again, and tells what there is.
    fn look_at_the_gpus(&mut self, now: Instant) {
        self.gpus.list_again();
        if self.core.is_time_to_tell(now) {
            self.gpus.lock();
        }
        for attempt in self.gpus.look() {
            self.core.distrust(attempt);
        }
        if !self.core.is_leaving() {
            self.gpus.tests().into_iter().for_each(|test| self.test(test));
        }
        self.core.tell_facts(self.facts(), now);
    }

    fn facts(&self) -> WorkerFacts {
        // the core counts the others
        let room = Room { slots: self.gpus.room(), login: 0 };
        WorkerFacts { room, gpus: self.gpus.facts(), trouble: self.gpus.trouble().map(str::to_owned) }
    }

    /// Tests a GPU in a process of its own, as an attempt of no task.
    fn test(&self, test: Test) {
        let id = AttemptId { task: TaskId::new(uuid::Uuid::now_v7()), number: AttemptNumber::FIRST };
        let slot = self.slot(Some(test.gpu.clone()));
        let (running, tell) = (self.run_own(id, Computation::SelfTest, slot, TEST), self.tell.clone());
        // ends with the test, within its time
        spawn("gpu test", async move {
            let _ended = tell.send(WorkerEvent::Tested(id, test, running.await));
        });
    }

    /// Checks the node as attempts find it: in a process, with a directory of its own.
    fn check_node(&self) {
        let Some(Roots { version, .. }) = self.roots else { return };
        let (running, tell) =
            (self.run_own(self.check_id(), Computation::CheckNode, self.slot(None), CHECK), self.tell.clone());
        // ends with the check, within its time
        spawn("node check", async move {
            let _ended = tell.send(WorkerEvent::Checked(version, running.await));
        });
    }

    /// All checks have one log.
    fn check_id(&self) -> AttemptId {
        AttemptId { task: TaskId::new(self.settings.worker.uuid()), number: AttemptNumber::FIRST }
    }

    /// Runs what is no task's.
    fn run_own(
        &self,
        id: AttemptId,
        work: Computation,
        slot: Slot,
        limit: Duration,
    ) -> impl Future<Output = Finished> + Send + use<D> {
        let roots = self.roots.as_ref().map(|roots| roots.node.clone()).unwrap_or_default();
        let (work, earlier) = (Work::Computation(work), None);
        let attempt = Attempt { id, work, roots, earlier, time_limit: Some(limit) };
        let executors = self.executors.clone();
        async move {
            let watch = AttemptWatch::unheard(CancellationToken::new());
            executors.run(attempt, &slot, watch).await
        }
    }

    /// A slot's share, by the slots that there are now: GPUs may be found late.
    fn slot(&self, gpu: Option<SlotGpu>) -> Slot {
        Slot { gpu, ..self.settings.slot.clone().shared(self.settings.slots, self.gpus.slots()) }
    }

    fn launch(&mut self, launch: Launch) {
        let Launch { attempt, spec, earlier, place, slot: AssignedSlot { gpu } } = launch;
        let orders = AttemptOrders { stop: CancellationToken::new(), publish: Arc::new(Semaphore::new(0)) };
        self.started.insert(attempt, StartedAttempt { place, orders: orders.clone() });
        let templates = Arc::clone(&self.templates);
        let roots = self.roots.as_ref().map(|roots| roots.node.clone()).unwrap_or_default();
        let slot = self.slot(gpu);
        let (executors, tell) = (self.executors.clone(), self.tell.clone());
        // ends with the attempt's process
        spawn("attempt", async move {
            let finished = match prepared(spec, templates, roots.clone()).await {
                Ok(work) => {
                    let attempt = Attempt { id: attempt, work, roots, earlier, time_limit: None };
                    watched(executors, attempt, slot, orders, &tell).await
                }
                Err(outcome) => Finished::without_process(outcome),
            };
            let _ended = tell.send(WorkerEvent::Finished(attempt, finished));
        });
    }

    fn send(&mut self, message: FromWorker) {
        if let Some(connection) = &self.connection
            && connection.try_send(message).is_err()
        {
            // what is not said now is said on the next connection; the reader of this one tells of its end
            self.connection = None;
        }
    }
}

/// What an attempt does, its command's paths looked at.
async fn prepared(spec: TaskSpec, templates: Arc<Templates>, roots: NodeRoots) -> Result<Work, Outcome> {
    if !paths::blocks(&spec, &templates) {
        return work_of(spec, &roots, &templates).map_err(|error| error.outcome());
    }
    let looked = tokio::task::spawn_blocking(move || work_of(spec, &roots, &templates));
    let failed = |message: &str| Outcome::Failed(Failure::new(Fault::Program, message));
    match tokio::time::timeout(LOOK, looked).await {
        Ok(Ok(work)) => work.map_err(|error| error.outcome()),
        Ok(Err(error)) => Err(failed(&format!("looking at the command's paths failed: {error}"))),
        Err(_) => {
            let seconds = LOOK.as_secs();
            Err(failed(&format!("the file system did not tell where the command's paths lead in {seconds} s")))
        }
    }
}

/// Runs an attempt and passes on how far it is and how its result is to be named. One that failed has its roots looked at
/// again: they may have gone meanwhile.
async fn watched(
    executors: Executors,
    attempt: Attempt,
    slot: Slot,
    orders: AttemptOrders,
    tell: &mpsc::UnboundedSender<WorkerEvent>,
) -> Finished {
    let roots = matches!(attempt.work, Work::Command(_)).then(|| attempt.roots.clone());
    let ((progress, mut latest), (naming, mut named)) = (watch::channel(None), watch::channel(None));
    let (id, AttemptOrders { stop, publish }) = (attempt.id, orders);
    let mut running = std::pin::pin!(executors.run(attempt, &slot, AttemptWatch { progress, naming, publish, stop }));
    let finished = loop {
        tokio::select! {
            finished = &mut running => break finished,
            // the attempt runs on while it is told how far it is; what changed once more is seen the next time
            Ok(()) = named.changed() => {
                let named = named.borrow_and_update().clone();
                if let Some(result) = named {
                    let _ended = tell.send(WorkerEvent::Naming(id, result));
                }
            }
            Ok(()) = latest.changed() => {
                let told = latest.borrow_and_update().clone();
                if let Some(progress) = told {
                    let _ended = tell.send(WorkerEvent::Progress(progress));
                }
            }
        }
    };
    match (&finished.outcome, roots) {
        (Outcome::Failed(_), Some(roots)) => {
            let looked = tokio::time::timeout(LOOK, tokio::task::spawn_blocking(move || opened(&roots).map(|_| ())));
            match looked.await {
                Ok(Ok(Err(error))) => Finished { outcome: error.outcome(), ..finished },
                Ok(Ok(Ok(())) | Err(_)) | Err(_) => finished,
            }
        }
        (_, Some(_) | None) => finished,
    }
}

#[cfg(test)]
mod tests;
