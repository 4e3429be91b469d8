//! The multi-tau delay scheme with four delays per level ("dpl = 4").
//!
//! Level 0 holds the delays 1..=8 frames, level L >= 1 the delays {5, 6, 7, 8} * 2^L. A level-L sample is the
//! sum of 2^L frames; an incomplete trailing block is dropped. A delay that has no pair is not emitted.

/// The largest lag, in samples of its own level, that any level correlates; also the number of earlier
/// samples that an engine has to remember at each level.
pub const MAX_LAG: u32 = 8;

/// The first lag of the levels above 0: smaller ones are covered by the level below.
const FIRST_UPPER_LAG: u32 = 5;

/// One delay: `lag` samples of level `level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delay {
    /// Level: a sample is the sum of `2^level` frames.
    pub level: u32,
    /// Distance of the two samples, in samples of this level.
    pub lag: u32,
}

impl Delay {
    /// The delay in frames (after stride and averaging).
    pub fn frames(self) -> u64 {
        u64::from(self.lag) << self.level
    }
}

/// One level of the scheme for a series of a given length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Level index; a sample is the sum of `2^index` frames.
    pub index: u32,
    /// Number of complete samples.
    pub samples: u64,
    /// Position of this level's first delay in [`DelayPlan::delays`].
    pub first: usize,
    /// Smallest lag of this level.
    pub first_lag: u32,
    /// Number of consecutive lags that have at least one pair.
    pub lags: u32,
}

impl Level {
    /// The lags of this level, in samples.
    pub fn lags(self) -> impl Iterator<Item = u32> {
        self.first_lag..self.first_lag + self.lags
    }
}

/// All delays of a series, in ascending order, and the levels that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayPlan {
    frames: u64,
    delays: Vec<Delay>,
    levels: Vec<Level>,
}

impl DelayPlan {
    /// The scheme for a series of `frames` frames. A series of fewer than two frames has no delay.
    pub fn new(frames: u64) -> Self {
        let mut delays = Vec::new();
        let mut levels = Vec::new();
        for index in 0.. {
            let samples = frames >> index;
            let first_lag = if index == 0 { 1 } else { FIRST_UPPER_LAG };
            let lags = (first_lag..=MAX_LAG).filter(|&lag| u64::from(lag) < samples).count() as u32;
            if lags == 0 {
                break;
            }
            levels.push(Level { index, samples, first: delays.len(), first_lag, lags });
            delays.extend((first_lag..first_lag + lags).map(|lag| Delay { level: index, lag }));
        }
        Self { frames, delays, levels }
    }

    /// Length of the series in frames.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The delays in ascending order.
    pub fn delays(&self) -> &[Delay] {
        &self.delays
    }

    /// The levels that have at least one delay, from 0 upwards.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Number of delays.
    pub fn len(&self) -> usize {
        self.delays.len()
    }

    /// True when the series is too short for any delay.
    pub fn is_empty(&self) -> bool {
        self.delays.is_empty()
    }

    /// Number of pairs that delay `index` averages over.
    pub fn pairs(&self, index: usize) -> u64 {
        let delay = self.delays[index];
        (self.frames >> delay.level) - u64::from(delay.lag)
    }

    /// The delays in frames, as `delay_list` stores them.
    pub fn delay_list(&self) -> Vec<u64> {
        self.delays.iter().map(|d| d.frames()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_maxima_of_the_facts_page() {
        for (frames, count, max) in [(100_000, 61, 81_920), (10_000, 48, 8_192), (611, 32, 512), (40, 16, 32)] {
            let list = DelayPlan::new(frames).delay_list();
            assert_eq!((list.len(), *list.last().expect("not empty")), (count, max), "{frames} frames");
            assert!(list.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn short_series_emit_only_delays_with_pairs() {
        assert!(DelayPlan::new(0).is_empty());
        assert!(DelayPlan::new(1).is_empty());
        assert_eq!(DelayPlan::new(2).delay_list(), [1]);
        assert_eq!(DelayPlan::new(4).delay_list(), [1, 2, 3]);
        assert_eq!(DelayPlan::new(12).delay_list(), [1, 2, 3, 4, 5, 6, 7, 8, 10]);
        for frames in 0..3000 {
            let plan = DelayPlan::new(frames);
            assert!((0..plan.len()).all(|i| plan.pairs(i) >= 1));
        }
    }

    #[test]
    fn a_shorter_series_has_a_prefix_of_the_delays() {
        let long = DelayPlan::new(5000).delay_list();
        for frames in 0..5000 {
            assert!(long.starts_with(&DelayPlan::new(frames).delay_list()));
        }
    }
}
