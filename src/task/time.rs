//! Moments, as the controller's clock tells them. Pure: nobody here knows what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// The earliest of all.
    pub const START: Self = Self(0);

    /// From milliseconds since 1970-01-01 UTC.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In milliseconds since 1970-01-01 UTC.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The moment so much later; the last of all rather than beyond it.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(duration)))
    }

    /// Time since an earlier moment; zero if that is later, as after a jump of the clock.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The whole milliseconds of a duration; the largest number for one that is longer than that.
pub fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_has_too_many_milliseconds_has_the_most() {
        assert_eq!(whole_millis(Duration::from_micros(2999)), 2);
        assert_eq!(whole_millis(Duration::from_secs(u64::MAX)), u64::MAX);
        assert_eq!(Moment::from_millis(1).after(Duration::from_secs(u64::MAX)), Moment::from_millis(u64::MAX));
    }
}
