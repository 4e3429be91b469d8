//! How long the endpoint's attempts may run without another word from the controller. Pure but for the instants that
//! it is given.
//!
//! A lease that the controller renews begins, for us, when we asked for it: the clocks of two computers are never
//! compared, and an answer that was long under way promises nothing that has passed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Heartbeats whose answers may be outstanding: more means that nobody listens.
const OUTSTANDING: usize = 64;

/// What an earlier process may have been granted, before the controller has told this one: its usual lease.
const ASSUMED: Duration = Duration::from_secs(600);

/// The lease on all attempts that the controller has not told to stop.
#[derive(Debug)]
pub(super) struct Lease {
    lasts: Duration,
    sent: VecDeque<(u64, Instant)>,
    end: Option<Instant>,
}

impl Default for Lease {
    fn default() -> Self {
        Self { lasts: ASSUMED, sent: VecDeque::new(), end: None }
    }
}

impl Lease {
    /// The controller's leases last so long. Answers to what was sent on an earlier connection no longer come.
    pub(super) fn agree(&mut self, lasts: Duration) {
        self.lasts = lasts;
        self.sent.clear();
    }

    /// A heartbeat goes out.
    pub(super) fn asked(&mut self, number: u64, now: Instant) {
        if self.sent.len() == OUTSTANDING {
            self.sent.pop_front();
        }
        self.sent.push_back((number, now));
    }

    /// It was answered.
    pub(super) fn renewed(&mut self, number: u64) {
        while let Some((asked, at)) = self.sent.front().copied().filter(|(asked, _)| *asked <= number) {
            self.sent.pop_front();
            if asked == number {
                self.end = self.end.max(Some(at + self.lasts));
            }
        }
    }

    /// Since when a heartbeat waits for its answer.
    pub(super) fn unanswered(&self) -> Option<Instant> {
        self.sent.front().map(|(_, at)| *at)
    }

    /// What is left of it; None when it has run out or there was none since this process started.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.end.and_then(|end| end.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// How long the controller's leases last.
    pub(super) fn lasts(&self) -> Duration {
        self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_begins_when_it_was_asked_for() {
        let mut lease = Lease::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        lease.agree(Duration::from_secs(100));
        assert_eq!(lease.left(at(0)), None);
        lease.asked(1, at(0));
        lease.asked(2, at(30));
        lease.renewed(1);
        assert_eq!(lease.left(at(60)), Some(Duration::from_secs(40)));
        lease.renewed(2);
        assert_eq!(lease.left(at(60)), Some(Duration::from_secs(70)));
        // an answer that comes again, or to what was never asked
        lease.renewed(1);
        lease.renewed(9);
        assert_eq!(lease.left(at(129)), Some(Duration::from_secs(1)));
        assert_eq!(lease.left(at(130)), None);
    }
}
