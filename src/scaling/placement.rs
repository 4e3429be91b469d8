//! Which worker gets an attempt. Pure; it keeps nothing and tells no worker.

use std::cmp::Reverse;
use std::time::Duration;

use super::block::LifeLeft;
use crate::ids::WorkerId;
use crate::task::pool::PoolKey;

/// A worker that may get an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementCandidate {
    /// Which.
    pub worker: WorkerId,
    /// Its pool.
    pub pool: PoolKey,
    /// What its block has left; a worker without an end has the longest life of all.
    pub left: LifeLeft,
    /// How many attempts more it takes; 0 while it is drained or not connected.
    pub room: u32,
}

/// The worker for an attempt of a pool: of those with room, the one with the shortest life that the task still fits into,
/// so that long lives are kept for long tasks. Of equal lives, the one with the most room.
///
/// A task of unknown length goes to the longest life: that is the least likely to cut it. None: it fits nowhere now.
pub fn place(
    pool: PoolKey,
    estimate: Option<Duration>,
    candidates: impl IntoIterator<Item = PlacementCandidate>,
) -> Option<WorkerId> {
    let fitting = candidates
        .into_iter()
        .filter(|candidate| candidate.pool == pool && candidate.room > 0 && candidate.left.fits(estimate));
    // the last key makes the choice the same in whatever order they are given
    let chosen = match estimate {
        Some(_) => fitting.min_by_key(|candidate| (candidate.left, Reverse(candidate.room), candidate.worker)),
        None => fitting.max_by_key(|candidate| (candidate.left, candidate.room, Reverse(candidate.worker))),
    };
    chosen.map(|candidate| candidate.worker)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn pool(number: u8) -> PoolKey {
        PoolKey::of(&json!(number))
    }

    fn left(minutes: u64) -> LifeLeft {
        if minutes == 0 { LifeLeft::Endless } else { LifeLeft::For(Duration::from_secs(60 * minutes)) }
    }

    fn candidate(worker: u128, of: u8, minutes: u64, room: u32) -> PlacementCandidate {
        let worker = WorkerId::new(Uuid::from_u128(worker));
        PlacementCandidate { worker, pool: pool(of), left: left(minutes), room }
    }

    fn placed(minutes: Option<u64>, candidates: &[PlacementCandidate]) -> Option<u128> {
        let estimate = minutes.map(|minutes| Duration::from_secs(60 * minutes));
        place(pool(1), estimate, candidates.iter().copied()).map(|worker| worker.uuid().as_u128())
    }

    #[test]
    fn the_shortest_life_that_fits_is_chosen() {
        let workers = [candidate(1, 1, 10, 1), candidate(2, 1, 60, 1), candidate(3, 1, 0, 9), candidate(4, 2, 30, 9)];
        assert_eq!(placed(Some(5), &workers), Some(1));
        assert_eq!(placed(Some(10), &workers), Some(1), "to the second");
        assert_eq!(placed(Some(11), &workers), Some(2), "not the other pool's");
        assert_eq!(placed(Some(61), &workers), Some(3));
        assert_eq!(placed(Some(61), &workers[..2]), None);
        assert_eq!(placed(None, &workers), Some(3), "of unknown length: the longest life");
        assert_eq!(placed(None, &workers[..2]), Some(2));
    }

    #[test]
    fn of_equal_lives_the_roomiest_is_chosen() {
        let workers = [candidate(1, 1, 0, 2), candidate(2, 1, 0, 4), candidate(3, 1, 0, 4), candidate(4, 1, 5, 0)];
        assert_eq!(placed(Some(1), &workers), Some(2));
        assert_eq!(placed(None, &workers), Some(2));
    }

    proptest! {
        /// Whoever is chosen has room, is of the pool, lives long enough, and nobody shorter-lived would have done; nobody
        /// is chosen only if nobody would have done. The order of the workers does not matter.
        #[test]
        fn placing_keeps_its_rules(
            all in prop::collection::vec((1..3_u8, 0..9_u64, 0..3_u32), 0..12),
            minutes in prop::option::of(0..10_u64),
        ) {
            let mut workers: Vec<PlacementCandidate> =
                (1..).zip(all).map(|(id, (of, minutes, room))| candidate(id, of, minutes, room)).collect();
            let chosen = placed(minutes, &workers);
            workers.reverse();
            prop_assert_eq!(placed(minutes, &workers), chosen);
            let does = |worker: &&PlacementCandidate| {
                let estimate = Duration::from_secs(60 * minutes.unwrap_or(0));
                worker.room > 0 && worker.pool == pool(1) && worker.left >= LifeLeft::For(estimate)
            };
            let fitting: Vec<&PlacementCandidate> = workers.iter().filter(does).collect();
            let Some(chosen) = chosen else {
                prop_assert!(fitting.is_empty());
                return Ok(());
            };
            let chosen = fitting.iter().find(|worker| worker.worker.uuid().as_u128() == chosen);
            prop_assert!(chosen.is_some(), "it does not fit");
            let lives = fitting.iter().map(|worker| worker.left);
            let wanted = if minutes.is_some() { lives.min() } else { lives.max() };
            prop_assert_eq!(chosen.map(|worker| worker.left), wanted);
        }
    }
}
