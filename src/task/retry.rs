//! When a task is tried again: growing delays, spread out so that tasks that failed together do not come together.

use std::time::Duration;

/// Before the first retry: long enough for a file system that hiccups, short against a correlation.
const FIRST: Duration = Duration::from_secs(2);

/// No delay is longer: people wait for it.
const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait before the next attempt of a task that has failed or crashed `times` before.
///
/// `spread` is random in 0..=255; the delay lies between half and the whole of its doubling value.
pub fn delay(times: u32, spread: u8) -> Duration {
    let whole = doubled(FIRST, times, LONGEST);
    whole / 2 + whole / 2 * u32::from(spread) / 255
}

/// `first`, doubled `times` over, but never more than `longest`.
pub fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_stay_within_bounds() {
        assert_eq!(delay(0, 0), FIRST / 2);
        assert_eq!(delay(0, 255), FIRST);
        assert_eq!(delay(1, 255), FIRST * 2);
        for times in 0..100 {
            for spread in [0, 7, 255] {
                let delay = delay(times, spread);
                assert!(delay >= FIRST / 2 && delay <= LONGEST, "{times} {spread}: {delay:?}");
            }
        }
    }
}
