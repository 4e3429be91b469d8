//! How much of a journal is about attempts that are not settled. Pure; an estimate that decides only when to compact.

use std::collections::HashMap;

use crate::endpoint::book::Entry;
use crate::ids::{AttemptId, AttemptNumber, TaskId};

/// What an entry does to whom.
#[derive(Debug)]
pub(super) enum Mark {
    /// The attempt is new.
    Taken(AttemptId),
    /// Something happened to it.
    Changed(AttemptId),
    /// They are of no use any more.
    Settled(Vec<AttemptId>),
    /// About a worker: there are few of them.
    Worker,
}

/// Bytes of the newest attempt of each task.
#[derive(Debug, Default)]
pub(super) struct Weights {
    tasks: HashMap<TaskId, (AttemptNumber, u64)>,
    total: u64,
}

impl Mark {
    /// Of an entry.
    pub(super) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Taken(leased) => Self::Taken(leased.attempt),
            Entry::Handed { attempt, .. } | Entry::Began(attempt) => Self::Changed(*attempt),
            Entry::Over(reported) => Self::Changed(reported.attempt),
            Entry::Settled(attempts) => Self::Settled(attempts.clone()),
            Entry::Joined(_) | Entry::Gone(_) => Self::Worker,
        }
    }
}

impl Weights {
    /// An entry of so many bytes was written.
    pub(super) fn note(&mut self, mark: &Mark, bytes: u64) {
        match mark {
            Mark::Taken(attempt) => {
                let (newest, weight) = self.tasks.entry(attempt.task).or_insert((attempt.number, 0));
                if *newest < attempt.number {
                    self.total -= *weight;
                    (*newest, *weight) = (attempt.number, 0);
                }
                if *newest == attempt.number {
                    *weight += bytes;
                    self.total += bytes;
                }
            }
            Mark::Changed(attempt) => {
                if let Some((newest, weight)) = self.tasks.get_mut(&attempt.task)
                    && *newest == attempt.number
                {
                    *weight += bytes;
                    self.total += bytes;
                }
            }
            Mark::Settled(attempts) => attempts.iter().for_each(|attempt| self.forget(*attempt)),
            Mark::Worker => {}
        }
    }

    /// Bytes of all attempts that are not settled.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether an entry may be about a task that is not settled: without all others, the same book comes about.
    pub(super) fn matters(&self, mark: &Mark) -> bool {
        match mark {
            Mark::Taken(attempt) | Mark::Changed(attempt) => self.tasks.contains_key(&attempt.task),
            Mark::Settled(_) | Mark::Worker => true,
        }
    }

    fn forget(&mut self, attempt: AttemptId) {
        if let Some((newest, weight)) = self.tasks.get(&attempt.task)
            && *newest == attempt.number
        {
            self.total -= weight;
            self.tasks.remove(&attempt.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::book::tests::attempt;

    #[test]
    fn only_the_newest_attempt_weighs() {
        let mut weights = Weights::default();
        for (mark, bytes, total) in [
            (Mark::Changed(attempt(1, 1)), 1, 0),
            (Mark::Taken(attempt(1, 2)), 10, 10),
            (Mark::Changed(attempt(1, 2)), 5, 15),
            (Mark::Changed(attempt(1, 1)), 5, 15),
            (Mark::Taken(attempt(1, 1)), 100, 15),
            (Mark::Taken(attempt(2, 1)), 7, 22),
            (Mark::Settled(vec![attempt(1, 1), attempt(3, 1)]), 50, 22),
            (Mark::Taken(attempt(1, 3)), 20, 27),
            (Mark::Settled(vec![attempt(1, 3)]), 50, 7),
            (Mark::Settled(vec![attempt(1, 3), attempt(2, 1)]), 50, 0),
        ] {
            weights.note(&mark, bytes);
            assert_eq!(weights.total(), total, "{mark:?}");
        }
        assert!(weights.tasks.is_empty());
    }
}
