//! How much of a journal is about attempts that are not settled. Pure; an estimate that decides only when to compact.

use std::collections::HashMap;

use crate::endpoint::ledger::Entry;
use crate::ids::{AttemptId, AttemptNumber, TaskId};

/// What an entry does to whom.
#[derive(Debug)]
pub(super) enum EntryMark {
    /// The attempt is new.
    Taken(AttemptId),
    /// Something happened to it.
    Changed(AttemptId),
    /// They are of no use any more.
    Settled(Vec<AttemptId>),
    /// About blocks, workers, own processes and names: there are few of them.
    Other,
}

/// Bytes of the newest attempt of each task.
#[derive(Debug, Default)]
pub(super) struct Weights {
    tasks: HashMap<TaskId, (AttemptNumber, u64)>,
    total: u64,
}

impl EntryMark {
    /// Of an entry.
    pub(super) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Taken(leased) => Self::Taken(leased.attempt),
            Entry::Handed { attempt, .. } | Entry::Started(attempt) => Self::Changed(*attempt),
            Entry::Reported(reported) => Self::Changed(reported.attempt),
            Entry::Settled(attempts) => Self::Settled(attempts.clone()),
            Entry::Joined(_)
            | Entry::WorkerEnded { .. }
            | Entry::ResultNamed { .. }
            | Entry::BlockWanted { .. }
            | Entry::BlockNamed { .. }
            | Entry::BlockEnded { .. }
            | Entry::SessionStarted(_)
            | Entry::SessionOpened(_) => Self::Other,
        }
    }
}

impl Weights {
    /// An entry of so many bytes was written.
    pub(super) fn note(&mut self, mark: &EntryMark, bytes: u64) {
        match mark {
            EntryMark::Taken(attempt) => {
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
            EntryMark::Changed(attempt) => {
                if let Some((newest, weight)) = self.tasks.get_mut(&attempt.task)
                    && *newest == attempt.number
                {
                    *weight += bytes;
                    self.total += bytes;
                }
            }
            EntryMark::Settled(attempts) => attempts.iter().for_each(|attempt| self.forget(*attempt)),
            EntryMark::Other => {}
        }
    }

    /// Bytes of all attempts that are not settled.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether an entry may be about a task that is not settled: without all others, the same ledger comes about.
    pub(super) fn matters(&self, mark: &EntryMark) -> bool {
        match mark {
            EntryMark::Taken(attempt) | EntryMark::Changed(attempt) => self.tasks.contains_key(&attempt.task),
            EntryMark::Settled(_) | EntryMark::Other => true,
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
    use crate::endpoint::ledger::tests::attempt;

    #[test]
    fn only_the_newest_attempt_weighs() {
        let mut weights = Weights::default();
        for (mark, bytes, total) in [
            (EntryMark::Changed(attempt(1, 1)), 1, 0),
            (EntryMark::Taken(attempt(1, 2)), 10, 10),
            (EntryMark::Changed(attempt(1, 2)), 5, 15),
            (EntryMark::Changed(attempt(1, 1)), 5, 15),
            (EntryMark::Taken(attempt(1, 1)), 100, 15),
            (EntryMark::Taken(attempt(2, 1)), 7, 22),
            (EntryMark::Settled(vec![attempt(1, 1), attempt(3, 1)]), 50, 22),
            (EntryMark::Taken(attempt(1, 3)), 20, 27),
            (EntryMark::Settled(vec![attempt(1, 3)]), 50, 7),
            (EntryMark::Settled(vec![attempt(1, 3), attempt(2, 1)]), 50, 0),
        ] {
            weights.note(&mark, bytes);
            assert_eq!(weights.total(), total, "{mark:?}");
        }
        assert!(weights.tasks.is_empty());
    }
}
