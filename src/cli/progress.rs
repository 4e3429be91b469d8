//! Shows how far the work is: a bar on a terminal, a plain line now and then otherwise.
//!
//! Writes to stderr only.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::interrupt::Interrupt;
use crate::engine::Observer;

/// Plain lines come at most this often, so that a log stays readable.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// Plain lines in a step.
const LINES: u64 = 10;

/// Whether and how progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    /// A bar if stderr is a terminal, lines otherwise.
    Automatic,
    /// Nothing.
    Off,
}

/// Passes on progress to the user and the user's wish to stop to the work.
pub(super) struct Progress {
    interrupt: Interrupt,
    view: View,
}

enum View {
    Off,
    Bar(ProgressBar),
    Lines(Lines),
}

impl Progress {
    /// Progress of one file.
    pub(super) fn new(display: Display, interrupt: Interrupt) -> Self {
        let view = match display {
            Display::Off => View::Off,
            Display::Automatic if std::io::stderr().is_terminal() => View::Bar(bar()),
            Display::Automatic => View::Lines(Lines::new()),
        };
        Self { interrupt, view }
    }

    /// Takes a bar off the terminal.
    pub(super) fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn step(&self, name: &'static str, units: u64) {
        match &self.view {
            View::Off => {}
            View::Bar(bar) => {
                bar.reset();
                bar.set_length(units);
                bar.set_message(name);
            }
            View::Lines(lines) => lines.begin(name, units),
        }
    }

    fn advance(&self, units: u64) {
        match &self.view {
            View::Off => {}
            View::Bar(bar) => bar.inc(units),
            View::Lines(lines) => lines.advance(units),
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.signal().is_some()
    }
}

fn bar() -> ProgressBar {
    const TEMPLATE: &str = "{msg} {bar:30} {percent:>3} %  {human_pos} of {human_len}  {per_sec}  {eta} left";
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    // The template is fixed; should indicatif ever refuse it, its own style does as well.
    bar.with_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Progress in lines. `done` is counted without a lock; the lock is taken once a tenth.
struct Lines {
    done: AtomicU64,
    next: AtomicU64,
    step: Mutex<Step>,
}

struct Step {
    name: &'static str,
    units: u64,
    begun: Instant,
    printed: Instant,
}

impl Lines {
    fn new() -> Self {
        let now = Instant::now();
        let step = Step { name: "", units: 0, begun: now, printed: now };
        Self { done: AtomicU64::new(0), next: AtomicU64::new(u64::MAX), step: Mutex::new(step) }
    }

    fn begin(&self, name: &'static str, units: u64) {
        let now = Instant::now();
        let mut step = self.lock();
        *step = Step { name, units, begun: now, printed: now };
        self.done.store(0, Ordering::Relaxed);
        self.next.store(units.div_ceil(LINES).max(1), Ordering::Relaxed);
    }

    fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        if done < self.next.load(Ordering::Relaxed) {
            return;
        }
        let mut step = self.lock();
        let tenth = step.units.div_ceil(LINES).max(1);
        self.next.store((done / tenth + 1) * tenth, Ordering::Relaxed);
        if step.printed.elapsed() >= SHORTEST_PAUSE && done < step.units {
            step.printed = Instant::now();
            let line = line(step.name, done, step.units, step.begun.elapsed());
            // Progress that nobody can read is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One plain line of progress.
fn line(name: &str, done: u64, units: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = (units - done.min(units)) as f64 / rate.max(1e-9);
    let percent = done.saturating_mul(100) / units.max(1);
    let digits = if rate < 10.0 { 2 } else { 0 };
    format!("{name}: {percent} %, {done} of {units}, {rate:.digits$}/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let text = line("correlating", 2500, 10_000, Duration::from_millis(500));
        assert_eq!(text, "correlating: 25 %, 2500 of 10000, 5000/s, 2 s left");
        assert_eq!(line("x", 0, 0, Duration::ZERO), "x: 0 %, 0 of 0, 0.00/s, 0 s left");
    }

    #[test]
    fn lines_are_due_once_a_tenth() {
        let lines = Lines::new();
        lines.begin("correlating", 1000);
        for _ in 0..99 {
            lines.advance(1);
        }
        assert_eq!(lines.next.load(Ordering::Relaxed), 100);
        lines.advance(151);
        assert_eq!(lines.next.load(Ordering::Relaxed), 300);
    }
}
