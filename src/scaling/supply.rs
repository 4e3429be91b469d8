//! Which of the tasks that wait the blocks of their pool can take. Pure; it decides about no block.

use std::time::Duration;

use super::WaitingTasks;
use super::block::LifeLeft;
use crate::ids::BlockId;

/// What a block offers to tasks that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Whose.
    pub(super) block: BlockId,
    /// How far the block is: tasks are laid on the lower numbers first, so that what is there is used before what comes,
    /// and the same blocks are spare at each tick.
    pub(super) readiness: u8,
    /// What it has left of its life, or will have.
    pub(super) left: LifeLeft,
    /// Slots, those that have an attempt included.
    pub(super) slots: u32,
    /// Slots without.
    pub(super) free: u32,
    /// Tasks that were laid on it.
    pub(super) laid: u32,
}

/// What became of the tasks that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Laid {
    /// They have a slot.
    pub(super) tasks: u32,
    /// They have none, and would fit into a new block.
    pub(super) left_over: u32,
    /// Of these, those that no block of today takes, not even when it is free.
    pub(super) homeless: u32,
    /// They fit into no block, neither of today nor new.
    pub(super) too_long: u32,
}

/// Lays tasks on free slots, as many as can be: the longest first. A block that takes a task takes each shorter one too,
/// and so it does not matter for their number which of the blocks that it fits into a task is laid on.
pub(super) fn lay(waiting: &[WaitingTasks], offers: &mut [Offer], new: LifeLeft) -> Laid {
    let mut groups = waiting.to_vec();
    groups.sort_by_key(|group| std::cmp::Reverse(group.estimate.unwrap_or(Duration::ZERO)));
    let mut order: Vec<usize> = (0..offers.len()).collect();
    order.sort_by_key(|index| (offers[*index].readiness, offers[*index].left, offers[*index].block));
    let mut laid = Laid::default();
    for WaitingTasks { tasks, estimate } in groups {
        let (mut rest, mut has_home) = (tasks, false);
        for index in &order {
            let offer = &mut offers[*index];
            if !offer.left.fits(estimate) {
                continue;
            }
            has_home |= offer.slots > 0;
            let taken = rest.min(offer.free);
            offer.free -= taken;
            offer.laid = offer.laid.saturating_add(taken);
            rest -= taken;
        }
        laid.tasks = laid.tasks.saturating_add(tasks - rest);
        if new.fits(estimate) {
            laid.left_over = laid.left_over.saturating_add(rest);
            laid.homeless = laid.homeless.saturating_add(if has_home { 0 } else { rest });
        } else if !has_home {
            laid.too_long = laid.too_long.saturating_add(rest);
        }
    }
    laid
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn minutes(number: u64) -> Duration {
        Duration::from_secs(60 * number)
    }

    fn offer(id: u128, readiness: u8, left: u64, slots: u32, busy: u32) -> Offer {
        let (block, left) = (BlockId::new(Uuid::from_u128(id)), LifeLeft::For(minutes(left)));
        Offer { block, readiness, left, slots, free: slots.saturating_sub(busy), laid: 0 }
    }

    fn group(tasks: u32, length: u64) -> WaitingTasks {
        WaitingTasks { tasks, estimate: Some(minutes(length)) }
    }

    fn number(tasks: usize) -> u32 {
        u32::try_from(tasks).expect("a test has few")
    }

    /// As many of the tasks as can have a slot, found by trying all ways.
    fn most(tasks: &[u64], free: &mut [(u64, u32)]) -> u32 {
        let Some((first, rest)) = tasks.split_first() else { return 0 };
        let mut best = most(rest, free);
        for index in 0..free.len() {
            if free[index].0 >= *first && free[index].1 > 0 {
                free[index].1 -= 1;
                best = best.max(1 + most(rest, free));
                free[index].1 += 1;
            }
        }
        best
    }

    #[test]
    fn what_is_there_is_used_before_what_comes() {
        let mut offers = [offer(1, 3, 60, 4, 0), offer(2, 0, 60, 4, 3), offer(3, 1, 10, 4, 0)];
        let laid = lay(&[group(2, 20), group(4, 5)], &mut offers, LifeLeft::For(minutes(30)));
        assert_eq!(laid, Laid { tasks: 6, ..Laid::default() });
        assert_eq!(offers.map(|offer| offer.laid), [1, 1, 4], "the short ones leave the long block alone");
    }

    #[test]
    fn who_has_no_slot_is_told_apart() {
        let mut offers = [offer(1, 0, 15, 1, 1)];
        let waiting = [group(1, 10), group(2, 20), group(4, 40)];
        let laid = lay(&waiting, &mut offers, LifeLeft::For(minutes(30)));
        assert_eq!(laid, Laid { tasks: 0, left_over: 3, homeless: 2, too_long: 4 });
        let mut long = [offer(1, 0, 50, 1, 1)];
        let laid = lay(&waiting, &mut long, LifeLeft::For(minutes(30)));
        assert_eq!(laid, Laid { tasks: 0, left_over: 3, homeless: 0, too_long: 0 }, "they wait for it");
    }

    proptest! {
        /// No other way lays more tasks, each is counted once, and none is laid on a block that ends too soon.
        #[test]
        fn as_many_as_possible_are_laid(
            tasks in prop::collection::vec(0..6_u64, 0..6),
            blocks in prop::collection::vec((0..3_u8, 1..6_u64, 0..3_u32), 0..4),
            new in 0..6_u64,
        ) {
            let mut offers: Vec<Offer> =
                (1..).zip(&blocks).map(|(id, (ready, left, slots))| offer(id, *ready, *left, *slots, 0)).collect();
            let waiting: Vec<WaitingTasks> = tasks.iter().map(|length| group(1, *length)).collect();
            let laid = lay(&waiting, &mut offers, LifeLeft::For(minutes(new)));
            let mut free: Vec<(u64, u32)> = blocks.iter().map(|(_, left, slots)| (*left, *slots)).collect();
            prop_assert_eq!(laid.tasks, most(&tasks, &mut free));
            prop_assert_eq!(offers.iter().map(|offer| offer.laid).sum::<u32>(), laid.tasks);
            let longer = tasks.iter().filter(|length| **length > new).count();
            prop_assert!(laid.tasks + laid.left_over + laid.too_long <= number(tasks.len()));
            prop_assert!(laid.too_long <= number(longer) && laid.homeless <= laid.left_over);
            for offer in offers {
                let fitting = tasks.iter().filter(|length| offer.left.fits(Some(minutes(**length)))).count();
                prop_assert!(offer.laid <= number(fitting) && offer.laid <= offer.slots);
            }
        }
    }
}
