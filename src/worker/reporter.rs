//! Says on an executor's stdout how far it is, and asks whether it is to stop. Chooses no words of its own.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::assignment::{ExecutorLine, Step, line};
use crate::engine::Observer;
use crate::task::time::whole_millis;

/// Progress is told at most four times a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Tells progress in lines.
#[derive(Debug)]
pub struct Reporter<W, S> {
    stop: S,
    begun: Instant,
    done: AtomicU64,
    /// Milliseconds after the beginning when the next line may come.
    due: AtomicU64,
    told: Mutex<Told<W>>,
}

#[derive(Debug)]
struct Told<W> {
    out: W,
    step: &'static str,
    total: u64,
}

impl<W: Write + Send, S: Fn() -> bool + Sync> Reporter<W, S> {
    /// Lines go to `out`; `stop` says whether the work is to end.
    pub fn new(out: W, stop: S) -> Self {
        let told = Mutex::new(Told { out, step: "", total: 0 });
        Self { stop, begun: Instant::now(), done: AtomicU64::new(0), due: AtomicU64::new(0), told }
    }

    /// True once a pause.
    fn is_due(&self) -> bool {
        let now = whole_millis(self.begun.elapsed());
        let due = self.due.load(Ordering::Relaxed);
        let next = now.saturating_add(whole_millis(PAUSE));
        // of threads that come at once one wins
        now >= due && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn tell(&self, mut told: MutexGuard<'_, Told<W>>) {
        let done = self.done.load(Ordering::Relaxed);
        let step = Step { step: told.step.to_owned(), done, total: told.total };
        // without a reader nobody waits for the work either: the worker's end is this process's too
        let _ = say(&mut told.out, &ExecutorLine::Progress(step));
    }

    fn lock(&self) -> MutexGuard<'_, Told<W>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write + Send, S: Fn() -> bool + Sync> Observer for Reporter<W, S> {
    fn step(&self, name: &'static str, units: u64) {
        let mut told = self.lock();
        (told.step, told.total) = (name, units);
        self.done.store(0, Ordering::Relaxed);
        if self.is_due() {
            self.tell(told);
        }
    }

    fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
        if self.is_due() {
            self.tell(self.lock());
        }
    }

    fn cancelled(&self) -> bool {
        (self.stop)()
    }
}

/// Writes one line, at once.
///
/// # Errors
/// The pipe's.
pub fn say(out: &mut impl Write, said: &ExecutorLine) -> io::Result<()> {
    out.write_all(&line(said)?)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_true() {
        let reporter = Reporter::new(Vec::new(), || true);
        reporter.step("correlating", 100_000);
        for _ in 0..100_000 {
            reporter.advance(1);
        }
        let elapsed = reporter.begun.elapsed();
        assert!(reporter.cancelled());
        let text = String::from_utf8(reporter.told.into_inner().expect("not poisoned").out).expect("UTF-8");
        let lines: Vec<ExecutorLine> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
        let most = 1 + elapsed.as_millis() / PAUSE.as_millis();
        assert!((1..=most).contains(&(lines.len() as u128)), "{} lines in {elapsed:?}", lines.len());
        assert_eq!(lines[0], ExecutorLine::Progress(Step { step: "correlating".into(), done: 0, total: 100_000 }));
    }
}
