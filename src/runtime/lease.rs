//! A lease as its holder sees it: how long he may go on without another word. Pure but for the instants that it is
//! given.
//!
//! A lease that is renewed begins, for the holder, when he asked for it: the clocks of two computers are never
//! compared, and an answer that was long under way promises nothing that has passed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Questions that may be open: who asked more often without an answer is not listened to, and the oldest is forgotten.
const OPEN: usize = 64;

/// A lease, and the questions for more of it that have no answer yet.
#[derive(Debug, Default)]
pub struct Lease {
    asked: VecDeque<(u64, Instant)>,
    end: Option<Instant>,
}

impl Lease {
    /// More is asked for, with a number that ascends.
    pub fn ask(&mut self, number: u64, now: Instant) {
        if self.asked.len() == OPEN {
            self.asked.pop_front();
        }
        self.asked.push_back((number, now));
    }

    /// A question was answered: the lease lasts so long since it was asked. Returns when that was; an answer to what is
    /// not open changes nothing. Older questions are answered with it.
    pub fn renewed(&mut self, number: u64, lasts: Duration) -> Option<Instant> {
        let mut found = None;
        while let Some((asked, at)) = self.asked.front().copied().filter(|(asked, _)| *asked <= number) {
            self.asked.pop_front();
            if asked == number {
                self.end = self.end.max(Some(at + lasts));
                found = Some(at);
            }
        }
        found
    }

    /// Open questions are not answered any more: the connection on which they were asked has ended.
    pub fn hung_up(&mut self) {
        self.asked.clear();
    }

    /// Since when the oldest open question waits.
    pub fn unanswered(&self) -> Option<Instant> {
        self.asked.front().map(|(_, at)| *at)
    }

    /// When the newest open question was asked.
    pub fn last_asked(&self) -> Option<Instant> {
        self.asked.back().map(|(_, at)| *at)
    }

    /// What is left of it; None when it has run out or there never was one.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.end.and_then(|end| end.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// When it ends or ended; None when there never was one.
    pub fn end(&self) -> Option<Instant> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LASTS: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn it_begins_when_it_was_asked_for() {
        let mut lease = Lease::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(lease.left(at(0)), None);
        lease.ask(1, at(0));
        lease.ask(2, at(30));
        assert_eq!(lease.renewed(1, LASTS), Some(at(0)));
        assert_eq!(lease.left(at(60)), Some(Duration::from_secs(40)));
        assert_eq!(lease.renewed(2, LASTS), Some(at(30)));
        assert_eq!(lease.left(at(60)), Some(Duration::from_secs(70)));
        // an answer that comes again, or to what was never asked
        assert_eq!(lease.renewed(1, LASTS), None);
        assert_eq!(lease.renewed(9, LASTS), None);
        assert_eq!(lease.left(at(129)), Some(Duration::from_secs(1)));
        assert_eq!(lease.left(at(130)), None);
    }

    /// What happens to a lease.
    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        /// The answer to a question of the past, whichever, with the seconds that it grants.
        Answer(u64, u64),
        HangUp,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Ask),
            3 => (0..100_u64, 0..100_u64).prop_map(|(number, lasts)| Step::Answer(number, lasts)),
            1 => Just(Step::HangUp),
            3 => (0..50_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Never longer than the most generous answer allows to a question that was asked, counted from the question,
        /// and never shorter than what was granted already.
        #[test]
        fn it_is_never_longer_than_granted(steps in proptest::collection::vec(step(), 1..60)) {
            let begin = Instant::now();
            let (mut lease, mut now, mut questions, mut granted) = (Lease::default(), begin, Vec::new(), begin);
            for step in steps {
                match step {
                    Step::Ask => {
                        lease.ask(questions.len() as u64, now);
                        questions.push(now);
                    }
                    Step::Answer(number, lasts) => {
                        let lasts = Duration::from_secs(lasts);
                        let at = lease.renewed(number, lasts);
                        prop_assert!(at.is_none() || at == questions.get(usize::try_from(number).expect("small")).copied());
                        granted = granted.max(at.map_or(begin, |at| at + lasts));
                    }
                    Step::HangUp => lease.hung_up(),
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                let left = granted.checked_duration_since(now).filter(|left| !left.is_zero());
                prop_assert_eq!(lease.left(now), left);
                prop_assert!(lease.unanswered() <= lease.last_asked());
            }
        }
    }
}
