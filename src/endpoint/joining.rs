//! Whether a worker may join: it belongs to one block for good, and a block has so many. Pure.

use thiserror::Error;

use super::ledger::Ledger;
use crate::ids::{BlockId, WorkerId};

/// The most workers of a block that are remembered: more nodes than a block of correlations has.
const MOST_WORKERS: usize = 1024;

/// Why a worker may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JoinRefusal {
    /// Another block has it.
    #[error("worker {0} belongs to another block")]
    Foreign(WorkerId),
    /// There are too many.
    #[error("block {0} has {MOST_WORKERS} workers already")]
    Many(BlockId),
}

/// Whether a worker may join as one of this block.
pub(super) fn check(ledger: &Ledger, worker: WorkerId, block: BlockId) -> Result<(), JoinRefusal> {
    match ledger.worker(worker) {
        Some(known) if known.block == block => Ok(()),
        Some(_) => Err(JoinRefusal::Foreign(worker)),
        None if ledger.workers().filter(|known| known.block == block).count() >= MOST_WORKERS => {
            Err(JoinRefusal::Many(block))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::ledger::{Entry, Worker};
    use crate::runtime::ids;

    fn join(ledger: &mut Ledger, id: WorkerId, block: BlockId) {
        let worker = Worker { id, block, host: "nid001".into(), process: None };
        ledger.apply(Entry::Joined(worker)).expect("applies");
    }

    #[test]
    fn a_worker_stays_in_its_block() {
        let mut ledger = Ledger::default();
        let (worker, block) = (ids::worker(), ids::block());
        assert_eq!(check(&ledger, worker, block), Ok(()));
        join(&mut ledger, worker, block);
        assert_eq!(check(&ledger, worker, block), Ok(()), "it comes back");
        assert_eq!(check(&ledger, worker, ids::block()), Err(JoinRefusal::Foreign(worker)));
    }

    #[test]
    fn a_block_has_a_bounded_number_of_workers() {
        let mut ledger = Ledger::default();
        let (block, first) = (ids::block(), ids::worker());
        join(&mut ledger, first, block);
        (1..MOST_WORKERS).for_each(|_| join(&mut ledger, ids::worker(), block));
        assert_eq!(check(&ledger, ids::worker(), block), Err(JoinRefusal::Many(block)));
        assert_eq!(check(&ledger, first, block), Ok(()));
        assert_eq!(check(&ledger, ids::worker(), ids::block()), Ok(()), "another block");
    }
}
