//! Runs numbered jobs on all threads, each thread with a state of its own.
//!
//! Jobs are handed out in ascending order. What a job computes may depend on its number alone, never on the
//! thread, so that results are the same for any number of threads.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{EngineError, Observer};

/// How many threads to use, and whom to ask whether to stop.
#[derive(Clone, Copy)]
pub(super) struct Workers<'a> {
    pub(super) threads: NonZeroUsize,
    pub(super) observer: &'a dyn Observer,
}

impl Workers<'_> {
    /// Runs `job(state, 0..jobs)`; returns the threads' states, in no particular order.
    ///
    /// # Errors
    /// The error of the lowest-numbered job that failed among those that ran, or `Cancelled`.
    pub(super) fn run<S: Send>(
        &self,
        jobs: usize,
        init: impl Fn() -> S + Sync,
        job: impl Fn(&mut S, usize) -> Result<(), EngineError> + Sync,
    ) -> Result<Vec<S>, EngineError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure: Mutex<Option<(usize, EngineError)>> = Mutex::new(None);
        let fail = |number: usize, error: EngineError| {
            stop.store(true, Ordering::Relaxed);
            let mut slot = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if slot.as_ref().is_none_or(|(lowest, _)| number < *lowest) {
                *slot = Some((number, error));
            }
        };
        let work = || {
            let mut state = init();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    break;
                }
                let done =
                    if self.observer.cancelled() { Err(EngineError::Cancelled) } else { job(&mut state, number) };
                if let Err(error) = done {
                    fail(number, error);
                }
            }
            state
        };
        let threads = self.threads.get().min(jobs.max(1));
        let states = std::thread::scope(|scope| {
            let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut states = vec![work()];
            for handle in handles {
                states.push(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            states
        });
        match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((_, error)) => Err(error),
            None => Ok(states),
        }
    }

    /// Like [`Self::run`], for jobs that each yield a value; the values come back in the order of the jobs.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn map<S: Send, T: Send>(
        &self,
        jobs: usize,
        init: impl Fn() -> S + Sync,
        job: impl Fn(&mut S, usize) -> Result<T, EngineError> + Sync,
    ) -> Result<Vec<T>, EngineError> {
        let parts = self.run(
            jobs,
            || (init(), Vec::new()),
            |(state, done), number| {
                let value = job(state, number)?;
                done.push((number, value));
                Ok(())
            },
        )?;
        let mut all: Vec<(usize, T)> = parts.into_iter().flat_map(|(_, done)| done).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, value)| value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Unobserved;

    fn workers(threads: usize) -> Workers<'static> {
        Workers { threads: NonZeroUsize::new(threads).expect("not zero"), observer: &Unobserved }
    }

    #[test]
    fn values_come_back_in_order_for_any_number_of_threads() {
        for threads in [1, 2, 7] {
            let squares = workers(threads).map(100, || (), |(), n| Ok(n * n)).expect("no job fails");
            assert_eq!(squares, (0..100).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_stops_the_rest() {
        let ran = AtomicUsize::new(0);
        let result = workers(2).run(
            1_000_000,
            || (),
            |(), n| {
                ran.fetch_add(1, Ordering::Relaxed);
                if n == 3 { Err(EngineError::Cancelled) } else { Ok(()) }
            },
        );
        assert!(matches!(result, Err(EngineError::Cancelled)));
        assert!(ran.load(Ordering::Relaxed) < 1_000_000);
    }
}
