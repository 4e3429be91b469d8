//! The only place that asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::task::time::Moment;

/// The system's clock as it was when the process started, moved on by a clock that never jumps: a correction of the
/// system's time ends no lease early and makes none last forever.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Moment,
    at: Instant,
}

impl Clock {
    /// Reads the system's clock, once.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Moment::START.after(since), at: Instant::now() }
    }

    /// The same clock, or one that is ahead of it and begins at a moment: time that is remembered has been, whatever the
    /// system's clock says.
    #[must_use]
    pub fn not_before(self, moment: Moment) -> Self {
        let behind = moment.since(self.now());
        Self { started: self.started.after(behind), ..self }
    }

    /// The moment.
    pub fn now(&self) -> Moment {
        self.started.after(self.at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_with_the_clock_that_never_jumps() {
        let clock = Clock::start();
        let first = clock.now();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), first.after(Duration::from_secs(90)));
        let later = clock.now().after(Duration::from_secs(7));
        let ahead = clock.not_before(later);
        assert_eq!((ahead.now(), ahead.not_before(first).now()), (later, later));
        // 2020-01-01: the system's clock is read as what it is
        assert!(first > Moment::from_millis(1_577_836_800_000));
    }
}
