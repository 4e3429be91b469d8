//! Who in this process waits for what, and what they are told. Remembers nothing that the store does not: what is told is
//! a hint to look there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};

use super::bus::{Heard, Listener, Signal};
use crate::ids::{AttemptId, EndpointId, TaskId};
use crate::protocol::session::{Progress, Stop};
use crate::store::EventRecord;

/// Hints that a watcher may lag behind before it looks at everything again.
const HINTS: usize = 4096;

/// Stops that wait for a session: more are told at its next heartbeat anyhow.
const STOPS: usize = 1024;

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Hints {
    endpoints: Mutex<HashMap<EndpointId, Arc<Mailbox>>>,
    progress: Mutex<HashMap<TaskId, Progress>>,
    watchers: broadcast::Sender<WatchHint>,
    events: Notify,
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub(super) enum WatchHint {
    /// Something happened.
    Event(Arc<EventRecord>),
    /// The attempt of a task has come further.
    Progress(TaskId),
    /// Anything may have happened.
    Everything,
}

/// What an endpoint's session is to look at.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    nudge: Notify,
    stops: Mutex<Vec<Stop>>,
    closed: AtomicBool,
}

impl Default for Hints {
    fn default() -> Self {
        let (watchers, _) = broadcast::channel(HINTS);
        Self { endpoints: Mutex::default(), progress: Mutex::default(), watchers, events: Notify::new() }
    }
}

impl Listener for Hints {
    fn hear(&self, heard: Heard) {
        match heard {
            Heard::Signal(Signal::Work(endpoint)) => {
                if let Some(mailbox) = lock(&self.endpoints).get(&endpoint) {
                    mailbox.nudge();
                }
            }
            Heard::Signal(Signal::AnyWork) => self.nudge_all(),
            Heard::Signal(Signal::Stop(endpoint, stop)) => self.stop(endpoint, stop),
            Heard::Signal(Signal::Events) => self.events.notify_one(),
            Heard::Signal(Signal::Progress(progress)) => {
                let task = progress.attempt.task;
                lock(&self.progress).insert(task, progress);
                self.tell(WatchHint::Progress(task));
            }
            Heard::Signal(Signal::ProgressOver(attempt)) => {
                let mut progress = lock(&self.progress);
                if progress.get(&attempt.task).is_some_and(|progress| progress.attempt == attempt) {
                    progress.remove(&attempt.task);
                }
            }
            Heard::Lost => {
                self.nudge_all();
                self.tell(WatchHint::Everything);
            }
        }
    }
}

impl Hints {
    /// A new mailbox for a session of an endpoint; the one before is closed, and what was in it is in this one.
    pub(super) fn open(&self, endpoint: EndpointId) -> Arc<Mailbox> {
        let mut endpoints = lock(&self.endpoints);
        let before = endpoints.remove(&endpoint);
        let stops = before.as_ref().map(|mailbox| mailbox.take_stops()).unwrap_or_default();
        let mailbox = Arc::new(Mailbox { stops: Mutex::new(stops), ..Mailbox::default() });
        endpoints.insert(endpoint, Arc::clone(&mailbox));
        if let Some(before) = before {
            before.closed.store(true, Ordering::Release);
            before.nudge();
        }
        mailbox
    }

    /// Waits until events were written; what was told before is not missed.
    pub(super) async fn events_written(&self) {
        self.events.notified().await;
    }

    /// Whether anybody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.receiver_count() > 0
    }

    /// Tells those who watch.
    pub(super) fn tell(&self, hint: WatchHint) {
        // nobody watches: nobody is told
        let _nobody = self.watchers.send(hint);
    }

    /// Hints from now on.
    pub(super) fn watch(&self) -> broadcast::Receiver<WatchHint> {
        self.watchers.subscribe()
    }

    /// How far a task is, if its attempt is this one.
    pub(super) fn progress(&self, attempt: AttemptId) -> Option<Progress> {
        lock(&self.progress).get(&attempt.task).filter(|progress| progress.attempt == attempt).cloned()
    }

    fn nudge_all(&self) {
        lock(&self.endpoints).values().for_each(|mailbox| mailbox.nudge());
    }

    fn stop(&self, endpoint: EndpointId, stop: Stop) {
        let mailbox = Arc::clone(lock(&self.endpoints).entry(endpoint).or_default());
        let mut stops = lock(&mailbox.stops);
        if stops.len() < STOPS {
            stops.push(stop);
        }
        mailbox.nudge.notify_one();
    }
}

impl Mailbox {
    /// Whether it is the newest of its endpoint.
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Waits for a nudge; one that came before is not missed.
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// There may be something.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Takes the stops.
    pub(super) fn take_stops(&self) -> Vec<Stop> {
        std::mem::take(&mut lock(&self.stops))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
