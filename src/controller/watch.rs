//! Follows tasks for somebody. Reads the store when it is told that something changed; keeps no history, so that
//! changes that come fast are shown as the last of them.

use std::collections::BTreeSet;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::bus::Change;
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
    changes: Receiver<Change>,
    begun: Begun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

/// What was heard.
enum Heard {
    /// These changed.
    Tasks(BTreeSet<TaskId>),
    /// More than can be told.
    Everything,
    /// The controller ends.
    End,
}

impl Watcher {
    pub(super) fn new(filter: TaskFilter, changes: Receiver<Change>) -> Self {
        Self { filter, changes, begun: Begun::No }
    }

    /// The tasks as they are at first, then those that changed; empty when the controller ends.
    ///
    /// # Errors
    /// The store fails.
    pub async fn next<S: Store>(&mut self, controller: &Controller<S>) -> Result<Vec<Watched>, ControllerError> {
        loop {
            let heard = match self.begun {
                Begun::No => Heard::Everything,
                Begun::Yes => self.hear().await,
            };
            self.begun = Begun::Yes;
            let records = match heard {
                Heard::Tasks(tasks) => controller.records(tasks).await?,
                Heard::Everything => controller.newest(&self.filter).await?,
                Heard::End => return Ok(Vec::new()),
            };
            let shown: Vec<Watched> =
                records.into_iter().filter(|r| self.filter.lets_through(r)).map(|r| controller.watched(r)).collect();
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        let mut tasks = BTreeSet::new();
        while tasks.is_empty() {
            match self.changes.recv().await {
                Ok(change) => tasks.extend(self.wanted(change)),
                Err(RecvError::Lagged(_)) => return Heard::Everything,
                Err(RecvError::Closed) => return Heard::End,
            }
        }
        while tasks.len() < TOGETHER {
            match self.changes.try_recv() {
                Ok(change) => tasks.extend(self.wanted(change)),
                Err(TryRecvError::Lagged(_)) => return Heard::Everything,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Heard::Tasks(tasks)
    }

    /// The task, unless it is known without a look that the filter does not let it through.
    fn wanted(&self, Change { task, state }: Change) -> Option<TaskId> {
        let states = &self.filter.states;
        state.is_none_or(|state| states.is_empty() || states.contains(&state)).then_some(task)
    }
}
