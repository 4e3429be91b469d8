//! Follows tasks for somebody. Reads the store when it is told that something changed which the filter may let through;
//! keeps no history, so that changes that come fast are shown as the last of them.

use std::collections::{BTreeSet, HashSet};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::hints::WatchHint;
use super::{Controller, ControllerError};
use crate::ids::TaskId;
use crate::protocol::session::Progress;
use crate::store::{Store, TaskFilter, TaskRecord};

/// Tasks that are read at once.
const TOGETHER: usize = 1000;

/// A task as somebody sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// What the store remembers.
    pub record: TaskRecord,
    /// How far its attempt is, while it runs and if that was said.
    pub progress: Option<Progress>,
}

/// What somebody follows.
#[derive(Debug)]
pub struct Watcher {
    filter: TaskFilter,
    hints: Receiver<WatchHint>,
    begun: Begun,
    shown: ShownTasks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

/// Tasks that were shown and that an attempt has: the progress of others is not shown.
#[derive(Debug)]
struct ShownTasks {
    held: HashSet<TaskId>,
    others: OtherTasks,
}

/// Whether there may be tasks that the filter lets through and that were not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherTasks {
    None,
    Some,
}

/// What was heard.
enum WatchedChange {
    /// These changed.
    Tasks(BTreeSet<TaskId>),
    /// More than can be told.
    Everything,
    /// The controller ends.
    End,
}

impl Watcher {
    pub(super) fn new(filter: TaskFilter, hints: Receiver<WatchHint>) -> Self {
        let shown = ShownTasks { held: HashSet::new(), others: OtherTasks::Some };
        Self { filter, hints, begun: Begun::No, shown }
    }

    /// The tasks as they are at first, then those that changed; empty when the controller ends.
    ///
    /// # Errors
    /// The store fails.
    pub async fn next<S: Store>(&mut self, controller: &Controller<S>) -> Result<Vec<Watched>, ControllerError> {
        loop {
            let change = match self.begun {
                Begun::No => WatchedChange::Everything,
                Begun::Yes => self.hear().await,
            };
            self.begun = Begun::Yes;
            let records = match change {
                WatchedChange::Tasks(tasks) => controller.records(tasks).await?,
                WatchedChange::Everything => {
                    let (records, others) = controller.newest(&self.filter).await?;
                    self.shown = ShownTasks { held: HashSet::new(), others };
                    records
                }
                WatchedChange::End => return Ok(Vec::new()),
            };
            self.shown.note(&records);
            let shown: Vec<Watched> =
                records.into_iter().filter(|r| self.filter.lets_through(r)).map(|r| controller.watched(r)).collect();
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }

    async fn hear(&mut self) -> WatchedChange {
        let mut tasks = BTreeSet::new();
        while tasks.is_empty() {
            match self.hints.recv().await {
                Ok(WatchHint::Everything) | Err(RecvError::Lagged(_)) => return WatchedChange::Everything,
                Ok(hint) => tasks.extend(self.wanted(&hint)),
                Err(RecvError::Closed) => return WatchedChange::End,
            }
        }
        while tasks.len() < TOGETHER {
            match self.hints.try_recv() {
                Ok(WatchHint::Everything) | Err(TryRecvError::Lagged(_)) => return WatchedChange::Everything,
                Ok(hint) => tasks.extend(self.wanted(&hint)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        WatchedChange::Tasks(tasks)
    }

    /// The task, unless it is known without a look that the filter does not let it through.
    fn wanted(&self, hint: &WatchHint) -> Option<TaskId> {
        match hint {
            WatchHint::Event(event) => event.task.filter(|_| self.filter.may_let_through(event)),
            WatchHint::Progress(task) => Some(*task).filter(|task| self.shown.may_have(task)),
            WatchHint::Everything => None,
        }
    }
}

impl ShownTasks {
    fn note(&mut self, records: &[TaskRecord]) {
        for record in records {
            match record.life.hold() {
                Some(_) => self.held.insert(record.task.id),
                None => self.held.remove(&record.task.id),
            };
        }
    }

    fn may_have(&self, task: &TaskId) -> bool {
        self.others == OtherTasks::Some || self.held.contains(task)
    }
}
