//! The newest events, as they were written: who follows the outbox closely needs no look into the file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::lock;
use crate::store::{EventId, EventRecord};
use crate::task::time::Moment;

/// Events that are kept: as many as a watcher may lag behind, about 1 MB.
const KEPT: usize = 4096;

/// The newest events.
#[derive(Debug, Default)]
pub(super) struct RecentEvents {
    /// Their ids have no gaps.
    events: Mutex<VecDeque<Arc<EventRecord>>>,
}

impl RecentEvents {
    /// Adds events that were committed, in their order.
    pub(super) fn add(&self, events: Vec<EventRecord>) {
        let mut kept = lock(&self.events);
        for event in events {
            // another process wrote what is missing
            if kept.back().is_some_and(|last| last.id.next() != event.id) {
                kept.clear();
            }
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Arc::new(event));
        }
    }

    /// Events from before a moment are forgotten; those that the file still has are read there.
    pub(super) fn forget(&self, before: Moment) {
        let mut kept = lock(&self.events);
        while kept.len() > 1 && kept.front().is_some_and(|first| first.time < before) {
            kept.pop_front();
        }
    }

    /// The newest, if there was one since the file was opened.
    pub(super) fn newest(&self) -> Option<EventId> {
        lock(&self.events).back().map(|event| event.id)
    }

    /// Events after a place, at most `most`; None where only the file knows.
    pub(super) fn after(&self, place: EventId, most: u32) -> Option<Vec<Arc<EventRecord>>> {
        let kept = lock(&self.events);
        let first = kept.front()?.id;
        let known = place.get().checked_sub(first.get().checked_sub(1)?)?;
        let skipped = usize::try_from(known).ok().filter(|skipped| *skipped <= kept.len())?;
        Some(kept.iter().skip(skipped).take(most as usize).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreEvent;

    fn event(id: u64) -> EventRecord {
        EventRecord {
            id: EventId::new(id),
            time: Moment::START,
            task: None,
            action: None,
            endpoint: None,
            owner: "ann".parse().expect("a name"),
            group: None,
            event: StoreEvent::Submitted,
        }
    }

    fn after(recent: &RecentEvents, place: u64, most: u32) -> Option<Vec<u64>> {
        let found = recent.after(EventId::new(place), most)?;
        Some(found.iter().map(|event| event.id.get()).collect())
    }

    #[test]
    fn places_that_are_known_are_answered_and_others_are_not() {
        let recent = RecentEvents::default();
        assert_eq!(after(&recent, 0, 9), None, "nothing is known");
        recent.add(vec![event(5), event(6)]);
        recent.add(vec![event(7)]);
        assert_eq!(after(&recent, 3, 9), None, "4 may be there");
        assert_eq!(after(&recent, 4, 9), Some(vec![5, 6, 7]));
        assert_eq!(after(&recent, 4, 2), Some(vec![5, 6]));
        assert_eq!(after(&recent, 7, 9), Some(vec![]), "nothing new");
        assert_eq!(after(&recent, 8, 9), None, "a place that is not known");
        recent.add(vec![event(9)]);
        assert_eq!(after(&recent, 7, 9), None, "8 is another's");
        assert_eq!(after(&recent, 8, 9), Some(vec![9]));
    }

    #[test]
    fn the_newest_are_kept() {
        let recent = RecentEvents::default();
        let last = KEPT as u64 + 10;
        recent.add((1..=last).map(event).collect());
        assert_eq!(after(&recent, 9, 1), None);
        assert_eq!(after(&recent, 10, 1), Some(vec![11]));
        assert_eq!(after(&recent, last - 1, 5), Some(vec![last]));
    }
}
