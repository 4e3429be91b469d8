//! Watches the GPUs of a node: three threads that talk to the driver, so that nobody else has to wait for it.
//!
//! ```text
//! gpu-watch   looks at all GPUs every few seconds        ┐                 ┌─▶ on_change
//! gpu-xid     waits for Xids                             ├─▶ registry ─▶ snapshot
//! gpu-guard   notices that gpu-watch does not come back  ┘                 └─▶ readers
//! ```
//!
//! Only the first two call the driver; a call may take forever, and no lock is held meanwhile. Readers get the last
//! snapshot and its age at once. What is seen is judged by `registry.rs`, not here. It is one file of 500 lines since the
//! three threads share one lock: who waits for what is to be read in one place.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::health::{Era, HealthEvent, HealthPolicy, State, TestOutcome};
use super::identity::GpuUuid;
use super::nvml::{Fault, Happened, Reading, Session};
use super::registry::{Registry, Reopen};
use super::snapshot::{Change, Driver, Snapshot, View};
use crate::task::failure::chain;

/// The library of NVIDIA's driver, as the dynamic loader finds it.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// How often GPUs are looked at: a look takes some milliseconds, and what must be known sooner comes as an Xid.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// How long a look may take. The first one on a node whose driver is not kept loaded (no persistence mode) initialises
/// each GPU, which takes seconds for each.
pub const OVERDUE: Duration = Duration::from_secs(30);

/// How long after an attempt the library of a driver that does not work, or that has lost a GPU, is opened again. A kernel
/// module that is loaded late is found within this time; the attempt is an `nvmlInit` that fails at once.
pub const REOPEN: Duration = Duration::from_secs(60);

/// A library that is not installed, or that lists no GPU, is opened again after `REOPEN` times this: an installation is the
/// work of an administrator. It costs a few look-ups of files.
const RARELY: u32 = 10;

/// How long a thread may take to see that it is to end: some waits for events (a quarter of a second each).
const PATIENCE: Duration = Duration::from_secs(2);

/// How GPUs are watched.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// The library of the driver: a path, or a name for the dynamic loader.
    pub library: PathBuf,
    /// The time between two looks.
    pub interval: Duration,
    /// How long a look may take before the driver counts as hanging.
    pub overdue: Duration,
    /// How long after an attempt the library of a driver that does not work is opened again.
    pub reopen: Duration,
    /// How patient the judgement is.
    pub policy: HealthPolicy,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            library: LIBRARY.into(),
            interval: INTERVAL,
            overdue: OVERDUE,
            reopen: REOPEN,
            policy: HealthPolicy::default(),
        }
    }
}

/// Watching cannot begin.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The system has no thread to give.
    #[error("starting the thread {name} failed")]
    Thread {
        /// Which.
        name: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// How watching ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// All threads have ended.
    Joined,
    /// These did not: they wait for the driver, and end when it lets them or with the process.
    Abandoned(Vec<&'static str>),
}

/// The watch. It ends when it is dropped.
pub struct GpuWatch {
    shared: Arc<Shared>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
}

/// Time since the watch began.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;
type OnChange = Box<dyn Fn(&Change) + Send + Sync>;

struct Shared {
    settings: WatchSettings,
    clock: Clock,
    on_change: OnChange,
    state: Mutex<WatchState>,
    /// Rings whenever something in the state has changed.
    bell: Condvar,
}

struct WatchState {
    registry: Registry,
    snapshot: Arc<Snapshot>,
    changes: VecDeque<Change>,
    delivery: Delivery,
    stopping: bool,
    look: bool,
    /// Looks that have begun.
    begun: u64,
    /// When the look under way began.
    looking_since: Option<Duration>,
    session: Option<Arc<Session>>,
    /// Which session it is, and which GPUs it can read: who waits for the events of older ones lets go of them.
    generation: u64,
    listening: bool,
    ended: BTreeSet<&'static str>,
}

/// Whether a thread is telling changes: one at a time, so that they come in their order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Idle,
    UnderWay,
}

impl GpuWatch {
    /// Begins to watch, and returns before anything is known. A node without a driver is no error: the snapshot says
    /// so, and the driver is looked for from time to time.
    ///
    /// `on_change` is called for each change, in order, from one thread at a time; it may call the watch, but must not
    /// wait nor panic. Changes that it takes long for delay others, and in the end the snapshot grows old.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        settings: WatchSettings,
        on_change: impl Fn(&Change) + Send + Sync + 'static,
    ) -> Result<Self, WatchError> {
        let started = Instant::now();
        Self::with_clock(settings, Box::new(move || started.elapsed()), Box::new(on_change))
    }

    pub(super) fn with_clock(settings: WatchSettings, clock: Clock, on_change: OnChange) -> Result<Self, WatchError> {
        let registry = Registry::new(settings.policy.clone());
        let state = WatchState {
            snapshot: Arc::new(registry.snapshot()),
            registry,
            changes: VecDeque::new(),
            delivery: Delivery::Idle,
            stopping: false,
            look: false,
            begun: 0,
            looking_since: None,
            session: None,
            generation: 0,
            listening: false,
            ended: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { settings, clock, on_change, state: Mutex::new(state), bell: Condvar::new() });
        let mut watch = Self { shared, threads: Vec::new() };
        watch.thread("gpu-watch", look_until_stopped)?;
        watch.thread("gpu-xid", listen_until_stopped)?;
        watch.thread("gpu-guard", guard_until_stopped)?;
        Ok(watch)
    }

    /// What is known now, and how old it is. Never waits for the driver.
    pub fn view(&self) -> View {
        let snapshot = Arc::clone(&self.shared.state().snapshot);
        let age = self.shared.now().saturating_sub(snapshot.taken);
        View { snapshot, age, good_for: self.shared.settings.interval + self.shared.settings.overdue }
    }

    /// Whether a task may begin on a GPU or MIG instance now.
    pub fn may_take_task(&self, gpu: &GpuUuid) -> bool {
        self.view().may_take_task(gpu)
    }

    /// Has the next look begin at once, or after the one under way.
    pub fn look_now(&self) {
        self.shared.state().look = true;
        self.shared.bell.notify_all();
    }

    /// Has a look begin now, and waits until it has ended; None when that takes too long.
    pub fn fresh(&self, limit: Duration) -> Option<Arc<Snapshot>> {
        let next = self.shared.state().begun + 1;
        self.look_now();
        self.wait(limit, |snapshot| snapshot.round >= next)
    }

    /// Waits until a snapshot is as wished; None when that takes too long. The question must not call the watch.
    pub fn wait(&self, limit: Duration, is_wished: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        let state = self.shared.wait_while(limit, |state| !is_wished(&state.snapshot));
        Some(Arc::clone(&state.snapshot)).filter(|snapshot| is_wished(snapshot))
    }

    /// A self-test of a GPU, or in one of its instances, has ended. It counts before this returns.
    pub fn self_tested(&self, gpu: &GpuUuid, era: Era, outcome: TestOutcome) {
        self.shared.update(|state, now| state.registry.self_tested(now, gpu, era, outcome));
    }

    /// An attempt that used a GPU or one of its instances failed, and not because of its input.
    pub fn program_failed(&self, gpu: &GpuUuid) {
        self.shared.update(|state, now| state.registry.program_failed(now, gpu));
    }

    /// Ends it, and waits a little for its threads.
    pub fn stop(mut self) -> Stopped {
        self.end()
    }

    fn end(&mut self) -> Stopped {
        self.shared.state().stopping = true;
        self.shared.bell.notify_all();
        let mut abandoned = Vec::new();
        let wanted = self.threads.len();
        let ended = self.shared.wait_while(PATIENCE, |state| state.ended.len() < wanted).ended.clone();
        for (name, thread) in self.threads.drain(..) {
            if !ended.contains(name) {
                abandoned.push(name);
            } else if thread.join().is_err() {
                tracing::error!(thread = name, "a thread that watches the GPUs has panicked");
            }
        }
        if abandoned.is_empty() {
            return Stopped::Joined;
        }
        tracing::warn!(threads = ?abandoned, "the GPU driver hangs, threads that wait for it are left behind");
        Stopped::Abandoned(abandoned)
    }

    fn thread(&mut self, name: &'static str, work: fn(&Shared)) -> Result<(), WatchError> {
        let shared = Arc::clone(&self.shared);
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _ended = Ended { shared: &shared, name };
            work(&shared);
        });
        self.threads.push((name, thread.map_err(|source| WatchError::Thread { name, source })?));
        Ok(())
    }
}

impl Drop for GpuWatch {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
        }
    }
}

/// Says that a thread has ended, also by a panic.
struct Ended<'a> {
    shared: &'a Shared,
    name: &'static str,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.shared.state().ended.insert(self.name);
        self.shared.bell.notify_all();
    }
}

impl Shared {
    fn now(&self) -> Duration {
        (self.clock)()
    }

    /// A panic elsewhere left it whole: each change of it is one assignment or the registry's own.
    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, limit: Duration, is_so: impl Fn(&WatchState) -> bool) -> MutexGuard<'_, WatchState> {
        let waited = self.bell.wait_timeout_while(self.state(), limit, |state| is_so(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// How long after an attempt the library is to be opened again; None if that shows nothing more.
    fn reopen(&self, state: &WatchState) -> Option<Duration> {
        match state.registry.reopen() {
            Reopen::Soon => Some(self.settings.reopen),
            Reopen::Rarely => Some(self.settings.reopen * RARELY),
            Reopen::NotNeeded => None,
        }
    }

    /// The time until the next look. Where there are no GPUs nothing changes before the library is opened again.
    fn pause(&self) -> Duration {
        let state = self.state();
        let reopen = self.reopen(&state).filter(|_| !state.registry.has_gpus());
        reopen.map_or(self.settings.interval, |reopen| reopen.max(self.settings.interval))
    }

    /// Takes something in, publishes what it makes of the whole, and tells the changes.
    fn update(&self, take_in: impl FnOnce(&mut WatchState, Duration) -> Vec<Change>) {
        let mut state = self.state();
        let changes = take_in(&mut state, self.now());
        changes.iter().for_each(log);
        state.changes.extend(changes);
        state.snapshot = Arc::new(state.registry.snapshot());
        drop(state);
        self.bell.notify_all();
        self.deliver();
    }

    /// Tells what there is to tell, unless another thread does so: that one goes on until there is nothing left.
    fn deliver(&self) {
        let mut state = self.state();
        if state.delivery == Delivery::UnderWay {
            return;
        }
        while let Some(change) = state.changes.pop_front() {
            state.delivery = Delivery::UnderWay;
            drop(state);
            (self.on_change)(&change);
            state = self.state();
            state.delivery = Delivery::Idle;
        }
    }
}

fn log(change: &Change) {
    match change {
        Change::Health { gpu, transition } => {
            let causes: Vec<String> = transition.reasons.iter().map(|reason| reason.cause.to_string()).collect();
            let why = causes.join("; ");
            match transition.to {
                State::Healthy => tracing::info!(gpu = %gpu, "the GPU is healthy"),
                State::Suspect => tracing::warn!(gpu = %gpu, why, "the GPU is suspect and takes no new task"),
                State::Quarantined => tracing::warn!(gpu = %gpu, why, "the GPU is quarantined"),
            }
        }
        Change::SelfTest { gpu, .. } => tracing::debug!(gpu = %gpu, "a self-test of the GPU is wanted"),
        Change::Driver(Driver::Absent { absence, why }) => tracing::info!(why, "{absence}"),
        Change::Driver(Driver::Running { version }) => tracing::info!(version, "the NVIDIA driver answers"),
        Change::Driver(Driver::Starting) => {}
    }
}

/// `gpu-watch`.
fn look_until_stopped(shared: &Shared) {
    let mut opened: Option<Duration> = None;
    while !shared.is_stopping() {
        let began = begin(shared);
        let session = open_if_due(shared, &mut opened);
        let readings = session.as_ref().map(|session| session.read());
        drop(session);
        end(shared, began, readings);
        let pause = shared.pause();
        drop(shared.wait_while(pause, |state| !state.look && !state.stopping));
    }
    // closing may take as long as any call: here, and not where the watch is dropped
    let session = shared.state().session.take();
    drop(session);
}

fn begin(shared: &Shared) -> Duration {
    let now = shared.now();
    let mut state = shared.state();
    state.begun += 1;
    state.look = false;
    state.looking_since = Some(now);
    now
}

fn end(shared: &Shared, began: Duration, readings: Option<Result<Vec<Reading>, Fault>>) {
    shared.update(|state, now| {
        state.looking_since = None;
        match readings {
            Some(Ok(readings)) => {
                let before = state.registry.readable().clone();
                let changes = state.registry.read(began, now, readings);
                state.generation += u64::from(*state.registry.readable() != before);
                changes
            }
            Some(Err(fault)) => {
                tracing::debug!(error = chain(&fault), "the GPUs could not be listed");
                state.registry.read_nothing(began, now, Some(&fault))
            }
            None => state.registry.read_nothing(began, now, None),
        }
    });
}

/// The session; opened again when that may show more and is due.
fn open_if_due(shared: &Shared, opened: &mut Option<Duration>) -> Option<Arc<Session>> {
    let now = shared.now();
    let mut state = shared.state();
    let is_due = |after| opened.is_none_or(|at| now.saturating_sub(at) >= after);
    if !shared.reopen(&state).is_some_and(is_due) {
        return state.session.clone();
    }
    *opened = Some(now);
    let old = state.session.take();
    state.generation += 1;
    drop(state);
    shared.bell.notify_all();
    // the library begins anew only when nobody has it any more
    let mut state = shared.wait_while(PATIENCE, |state| state.listening);
    if state.listening {
        state.session = old;
        return state.session.clone();
    }
    drop(state);
    drop(old);
    open(shared)
}

fn open(shared: &Shared) -> Option<Arc<Session>> {
    let (session, driver) = match Session::open(&shared.settings.library) {
        Ok(session) => {
            let version = session.version();
            (Some(Arc::new(session)), Driver::Running { version })
        }
        Err(error) => (None, Driver::Absent { absence: error.absence(), why: chain(&error) }),
    };
    shared.update(|state, _| {
        state.session = session.clone();
        state.registry.driver(driver)
    });
    session
}

/// `gpu-xid`.
fn listen_until_stopped(shared: &Shared) {
    let mut heard = 0;
    while !shared.is_stopping() {
        let is_due = |state: &WatchState| state.generation != heard && !state.registry.readable().is_empty();
        // it ends by the bell; the limit only has it look again
        let mut state =
            shared.wait_while(REOPEN, |state| !state.stopping && (state.session.is_none() || !is_due(state)));
        let Some(session) = state.session.clone().filter(|_| is_due(&state)) else { continue };
        heard = state.generation;
        state.listening = true;
        drop(state);
        let goes_on = || {
            let state = shared.state();
            !state.stopping && state.generation == heard
        };
        let ended = session.events(&goes_on, &|happened| take_in(shared, happened));
        drop(session);
        if let Err(error) = ended {
            tracing::info!(error = chain(&error), "Xids of the GPUs are not heard, samples go on");
        }
        shared.update(|state, _| {
            state.listening = false;
            state.registry.heard(&[]);
            Vec::new()
        });
    }
}

fn take_in(shared: &Shared, happened: Happened) {
    shared.update(|state, now| match happened {
        Happened::Watching(gpus) => {
            state.registry.heard(&gpus);
            Vec::new()
        }
        Happened::Xid(gpu, xid) => {
            let name = gpu.as_ref().map_or("unknown", GpuUuid::as_str);
            tracing::warn!(gpu = name, xid, "the driver reports an Xid");
            state.look = true;
            state.registry.xid(now, gpu.as_ref(), xid)
        }
        Happened::SomeLost => {
            state.look = true;
            Vec::new()
        }
    });
}

/// `gpu-guard`.
fn guard_until_stopped(shared: &Shared) {
    let overdue = shared.settings.overdue;
    while !shared.is_stopping() {
        // without GPUs there is nothing to guard; the limit only has it look again
        if !shared.wait_while(REOPEN, |state| !state.stopping && !state.registry.has_gpus()).registry.has_gpus() {
            continue;
        }
        drop(shared.wait_while(overdue / 4, |state| !state.stopping));
        shared.update(|state, now| {
            let hangs = state.looking_since.is_some_and(|since| now.saturating_sub(since) > overdue);
            state.registry.all(now, if hangs { &HealthEvent::DriverSilent } else { &HealthEvent::Tick })
        });
    }
}
