//! How long a task will take: what tasks of its kind and size took lately. Pure; it keeps a bounded number of measures.
//!
//! Sizes are put into classes by their power of two. Neighbouring classes are merged until each group has `FEW`
//! measures, and an estimate is a high quantile of its group's measures. Three rules fill the gaps:
//!
//! - A larger size never gets a smaller estimate: a group's estimate is at least that of the group below it.
//! - A size between two groups, or below the lowest, gets the estimate of the group above it.
//! - A size above all groups gets the highest group's estimate, doubled for each class that it lies above: time grows with
//!   the bytes that are read. Two-time grows faster, by the square of the frames; the first few results correct that.
//!
//! With fewer than `FEW` measures of a kind there is no estimate. Who asks decides what that means.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::Kind;

/// Measures of a class that are kept, the latest. Three lie above the quantile then; and a site that becomes faster or
/// slower is known for it after a morning's datasets.
const KEPT: usize = 32;

/// Measures that make an estimate: below, a quantile of nine tenths is no more than the longest of a handful.
const FEW: usize = 5;

/// The part of the measures, in percent, that an estimate covers: one task in ten takes longer. Those that are cut at the
/// end of their block are asked for again with [`after_cut`].
const COVERED: usize = 90;

/// What an attempt took, as its result tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Bytes of its input; its size.
    pub bytes: u64,
    /// Frames that it correlated, 0 where there are none: for people, who compare rates.
    #[serde(default)]
    pub frames: u64,
    /// Milliseconds from its start to its end.
    pub millis: u64,
}

/// What is known of the tasks of an endpoint, or of one pool of it.
///
/// It holds at most 32 measures for each of 65 classes of each kind of task: less than 80 KiB.
#[derive(Debug, Clone, Default)]
pub struct Estimates {
    kinds: BTreeMap<Kind, KindEstimates>,
}

#[derive(Debug, Clone, Default)]
struct KindEstimates {
    /// Milliseconds, by class.
    measures: BTreeMap<u32, VecDeque<u64>>,
    /// Ascending.
    groups: Vec<ClassGroup>,
    /// Of a task whose size is not known.
    any_size: Option<u64>,
}

/// Neighbouring classes with enough measures between them.
#[derive(Debug, Clone, Copy)]
struct ClassGroup {
    /// Its highest class.
    highest: u32,
    /// Its estimate, at least that of the group below.
    millis: u64,
}

impl Measure {
    /// How long it took.
    pub fn took(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl Estimates {
    /// Takes note of what an attempt that succeeded took.
    pub fn note(&mut self, kind: Kind, measure: Measure) {
        let of_kind = self.kinds.entry(kind).or_default();
        let ring = of_kind.measures.entry(class(measure.bytes)).or_default();
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(measure.millis);
        of_kind.regroup();
    }

    /// How long a task will take, most likely no longer; None = too little is known of its kind.
    ///
    /// Without a size, it is what nine tenths of all sizes took.
    pub fn estimate(&self, kind: Kind, bytes: Option<u64>) -> Option<Duration> {
        let of_kind = self.kinds.get(&kind)?;
        let millis = match bytes {
            Some(bytes) => of_kind.of_class(class(bytes)),
            None => of_kind.any_size,
        };
        millis.map(Duration::from_millis)
    }
}

/// The estimate of a task of which an attempt ran for a time and was then cut, by the end of its block or otherwise: at
/// least double that time. So a task that is longer than all others finds a block that is long enough in a few attempts,
/// or is known to be too long for any.
pub fn after_cut(estimate: Option<Duration>, ran: Duration) -> Option<Duration> {
    let doubled = ran.saturating_mul(2);
    Some(estimate.map_or(doubled, |estimate| estimate.max(doubled)))
}

impl KindEstimates {
    fn of_class(&self, class: u32) -> Option<u64> {
        let above = self.groups.iter().find(|group| group.highest >= class);
        above.map(|group| group.millis).or_else(|| self.groups.last().map(|group| group.scaled_to(class)))
    }

    /// Merges classes from the lowest up, until each group has enough; what is left at the top joins the last group.
    fn regroup(&mut self) {
        let mut groups: Vec<(u32, Vec<u64>)> = Vec::new();
        let mut collected = Vec::new();
        for (class, ring) in &self.measures {
            collected.extend(ring);
            if collected.len() >= FEW {
                groups.push((*class, std::mem::take(&mut collected)));
            }
        }
        if let (Some((highest, last)), Some(top)) = (groups.last_mut(), self.measures.keys().next_back()) {
            *highest = *top;
            last.append(&mut collected);
        }
        let mut all: Vec<u64> = groups.iter().flat_map(|(_, measures)| measures).copied().collect();
        self.any_size = quantile(&mut all);
        let mut below = 0;
        let raised = groups.into_iter().filter_map(|(highest, mut measures)| {
            below = quantile(&mut measures)?.max(below);
            Some(ClassGroup { highest, millis: below })
        });
        self.groups = raised.collect();
    }
}

impl ClassGroup {
    fn scaled_to(&self, class: u32) -> u64 {
        let factor = 1_u64.checked_shl(class.saturating_sub(self.highest)).unwrap_or(u64::MAX);
        self.millis.saturating_mul(factor)
    }
}

/// The power of two that a size stays below: 0 for nothing, 1 for one byte, 64 at most.
fn class(bytes: u64) -> u32 {
    u64::BITS - bytes.leading_zeros()
}

/// The smallest measure that the covered part of all does not exceed; reorders them. None if there is none.
fn quantile(measures: &mut [u64]) -> Option<u64> {
    let covered = (measures.len() * COVERED).div_ceil(100);
    let rank = covered.checked_sub(1)?;
    Some(*measures.select_nth_unstable(rank).1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn noted(measures: &[(u64, u64)]) -> Estimates {
        let mut estimates = Estimates::default();
        for (bytes, millis) in measures {
            estimates.note(Kind::Correlate, Measure { bytes: *bytes, frames: 0, millis: *millis });
        }
        estimates
    }

    fn millis(estimates: &Estimates, bytes: u64) -> Option<u64> {
        let estimate = estimates.estimate(Kind::Correlate, Some(bytes));
        estimate.map(|estimate| u64::try_from(estimate.as_millis()).expect("no test takes longer"))
    }

    #[test]
    fn nothing_is_estimated_from_too_little() {
        let mut measures = vec![(GIB, 1000); FEW - 1];
        assert_eq!(millis(&noted(&measures), GIB), None);
        assert_eq!(noted(&measures).estimate(Kind::Correlate, None), None);
        measures.push((4 * GIB, 4000));
        assert_eq!(millis(&noted(&measures), GIB), Some(4000), "of both classes together");
        assert_eq!(noted(&measures).estimate(Kind::Command, Some(GIB)), None, "another kind");
        measures.splice(0..1, [(GIB, 1000), (GIB, 1000)]);
        assert_eq!(millis(&noted(&measures), 4 * GIB), Some(4000), "the few at the top join the group below");
    }

    #[test]
    fn an_estimate_covers_nine_tenths() {
        let measures: Vec<(u64, u64)> = (1..=20).map(|millis| (GIB, millis)).collect();
        assert_eq!(millis(&noted(&measures), GIB), Some(18));
        assert_eq!(noted(&measures).estimate(Kind::Correlate, None), Some(Duration::from_millis(18)));
    }

    #[test]
    fn sizes_without_measures_take_the_group_above_or_grow_with_their_bytes() {
        let mut measures = vec![(GIB, 1000); FEW];
        measures.extend(vec![(16 * GIB, 9000); FEW]);
        let estimates = noted(&measures);
        let sizes = [0, GIB, 2 * GIB, 16 * GIB, 32 * GIB, 64 * GIB];
        let wanted = [1000, 1000, 9000, 9000, 18_000, 36_000];
        assert_eq!(sizes.map(|bytes| millis(&estimates, bytes)), wanted.map(Some));
    }

    #[test]
    fn the_latest_measures_count() {
        let mut measures = vec![(GIB, 9000); 500];
        measures.extend(vec![(GIB, 1000); KEPT]);
        assert_eq!(millis(&noted(&measures), GIB), Some(1000));
    }

    #[test]
    fn a_task_that_was_cut_needs_more() {
        let minute = Duration::from_secs(60);
        assert_eq!(after_cut(None, minute), Some(2 * minute));
        assert_eq!(after_cut(Some(minute), minute), Some(2 * minute));
        assert_eq!(after_cut(Some(5 * minute), minute), Some(5 * minute));
        assert_eq!(after_cut(Some(minute), Duration::MAX), Some(Duration::MAX));
    }

    fn measure() -> impl Strategy<Value = (u64, u64)> {
        // sizes near each other, so that classes fill
        ((0..12_u32, 0..4_u64), 0..10_000_u64).prop_map(|((power, more), millis)| ((1 << power) + more, millis))
    }

    proptest! {
        /// Whatever was measured: a larger size never gets a smaller estimate, none exceeds what was measured below the
        /// largest size, and memory is bounded.
        #[test]
        fn estimates_grow_with_sizes(
            measures in prop::collection::vec(measure(), 0..300),
            mut sizes in prop::collection::vec(prop_oneof![0..9000_u64, any::<u64>()], 1..20),
        ) {
            let estimates = noted(&measures);
            sizes.sort_unstable();
            let found: Vec<Option<u64>> = sizes.iter().map(|bytes| millis(&estimates, *bytes)).collect();
            prop_assert!(found.is_sorted(), "{:?} of {:?}", found, sizes);
            prop_assert_eq!(found[0].is_some(), measures.len() >= FEW);
            let longest = measures.iter().map(|(_, millis)| *millis).max();
            let largest = measures.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
            for (bytes, millis) in sizes.iter().zip(&found) {
                prop_assert!(*bytes > largest || *millis <= longest);
            }
            for of_kind in estimates.kinds.values() {
                prop_assert!(of_kind.measures.len() <= 65);
                prop_assert!(of_kind.measures.values().all(|ring| ring.len() <= KEPT));
            }
        }

        /// In a group of one class, nine tenths of what is kept take no longer than the estimate.
        #[test]
        fn most_measures_are_covered(lengths in prop::collection::vec(0..1000_u64, FEW..80)) {
            let measures: Vec<(u64, u64)> = lengths.iter().map(|millis| (GIB, *millis)).collect();
            let estimate = millis(&noted(&measures), GIB).expect("there are enough");
            let kept = &lengths[lengths.len().saturating_sub(KEPT)..];
            let covered = kept.iter().filter(|millis| **millis <= estimate).count();
            let below = kept.iter().filter(|millis| **millis < estimate).count();
            prop_assert!(covered * 100 >= kept.len() * COVERED && below * 100 < kept.len() * COVERED);
        }
    }
}
