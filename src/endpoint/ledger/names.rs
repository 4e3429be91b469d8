//! The names that attempts gave to the results of their tasks. They outlive the attempts: the next attempt of a task
//! replaces what an earlier one published. Pure; it looks at no file.

use std::collections::{BTreeMap, VecDeque};

use super::Entry;
use crate::ids::TaskId;
use crate::task::result::{EarlierResult, FileMark, NamedResult};

/// Names of results that are remembered. A task that is tried again is tried soon: fewer tasks than this end meanwhile.
pub(super) const MOST_NAMES: usize = 1024;

/// What attempts have named, by task, whether the ledger has an attempt of it or not.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Names {
    results: BTreeMap<TaskId, EarlierResult>,
    /// Each once, the one that was named last at the end.
    order: VecDeque<TaskId>,
}

impl Names {
    /// What attempts of a task have named.
    pub(super) fn get(&self, task: TaskId) -> Option<&EarlierResult> {
        self.results.get(&task)
    }

    /// An attempt of the task has named its result.
    pub(super) fn add(&mut self, task: TaskId, result: NamedResult) {
        match self.results.get_mut(&task) {
            Some(earlier) => {
                earlier.name(result);
                self.order.retain(|known| *known != task);
            }
            None => {
                self.results.insert(task, EarlierResult::new(result));
            }
        }
        self.order.push_back(task);
        if self.order.len() > MOST_NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.results.remove(&oldest);
        }
    }

    /// The shortest entries that make these names.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.order.iter().filter_map(|task| Some((*task, self.results.get(task)?))).flat_map(|(task, earlier)| {
            let result = |file: &FileMark| NamedResult { path: earlier.path.clone(), file: *file };
            earlier.files.iter().map(move |file| Entry::ResultNamed { task, result: result(file) })
        })
    }
}
