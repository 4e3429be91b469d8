//! Tells those who wait that something has changed. Remembers nothing that the store does not: what is told is a
//! hint to look there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, broadcast};

use crate::ids::{AttemptId, EndpointId, TaskId};
use crate::protocol::session::{Progress, Stop};
use crate::store::StateName;

/// Changes that a watcher may lag behind before it looks at everything again.
const CHANGES: usize = 4096;

/// Stops that wait for a session: more are told at its next heartbeat anyhow.
const STOPS: usize = 1024;

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Bus {
    endpoints: Mutex<HashMap<EndpointId, Arc<Mailbox>>>,
    changes: broadcast::Sender<Change>,
    progress: Mutex<HashMap<TaskId, Progress>>,
}

/// A hint that a task has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) task: TaskId,
    /// What it changed to, if that is known: who waits for another state need not look. It may have changed again.
    pub(super) state: Option<StateName>,
}

impl Change {
    /// To a state.
    pub(super) fn to(state: StateName) -> impl Fn(TaskId) -> Self {
        move |task| Self { task, state: Some(state) }
    }

    /// To whatever the store says.
    pub(super) fn of(task: TaskId) -> Self {
        Self { task, state: None }
    }
}

/// What an endpoint's session is to look at.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    nudge: Notify,
    stops: Mutex<Vec<Stop>>,
    closed: AtomicBool,
}

impl Default for Bus {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        Self { endpoints: Mutex::default(), changes, progress: Mutex::default() }
    }
}

impl Bus {
    /// A new mailbox for a session of an endpoint; the one before is closed, and what was in it is in this one.
    pub(super) fn open(&self, endpoint: EndpointId) -> Arc<Mailbox> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// There may be work for an endpoint.
    pub(super) fn nudge(&self, endpoint: EndpointId) {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = endpoints.get(&endpoint) {
            mailbox.nudge();
        }
    }

    /// There may be work for any.
    pub(super) fn nudge_all(&self) {
        for mailbox in self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).values() {
            mailbox.nudge.notify_one();
        }
    }

    /// An attempt is to end.
    pub(super) fn stop(&self, endpoint: EndpointId, stop: Stop) {
        let mailbox =
            Arc::clone(self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).entry(endpoint).or_default());
        let mut stops = mailbox.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if stops.len() < STOPS {
            stops.push(stop);
        }
        mailbox.nudge.notify_one();
    }

    /// Tasks have changed.
    pub(super) fn changed(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            // nobody watches: nobody is told
            let _ = self.changes.send(change);
        }
    }

    /// Changes from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// An attempt has come so far.
    pub(super) fn set_progress(&self, progress: Progress) {
        let task = progress.attempt.task;
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(task, progress);
        self.changed([Change::of(task)]);
    }

    /// How far a task is, if its attempt is this one.
    pub(super) fn progress(&self, attempt: AttemptId) -> Option<Progress> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.get(&attempt.task).filter(|progress| progress.attempt == attempt).cloned()
    }

    /// An attempt is over.
    pub(super) fn forget_progress(&self, attempt: AttemptId) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.get(&attempt.task).is_some_and(|progress| progress.attempt == attempt) {
            progress.remove(&attempt.task);
        }
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
        std::mem::take(&mut self.stops.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
