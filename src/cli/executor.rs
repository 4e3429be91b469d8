//! `speckled executor`, which workers start: one assignment from stdin, progress and outcome as lines on stdout.
//!
//! The work is `worker::execute`; here are only the process's signals, pipes and log.

use std::io;

use super::exit::{Exit, Failure, ProcessError};
use super::interrupt::Interrupt;
use super::logging;
use super::output::Form;
use crate::dataset::Opener;
use crate::worker::assignment::{Assignment, ExecutorLine};
use crate::worker::confinement::confine;
use crate::worker::execute::execute;
use crate::worker::naming::WorkerNaming;
use crate::worker::reporter::{Reporter, say};

/// Runs the command.
pub(super) fn run() -> Result<Exit, Failure> {
    logging::init(true, Form::Quiet);
    let interrupt = Interrupt::install().map_err(ProcessError::Signals)?;
    let assignment = Assignment::read(io::stdin().lock())?;
    // before any thread starts
    confine(&assignment);
    let reporter = Reporter::new(io::stdout(), || interrupt.signal().is_some());
    say(&mut io::stdout(), &ExecutorLine::Ready).map_err(ProcessError::Stdout)?;
    // standard input has a buffer of its own: what follows the assignment is still there
    let naming = WorkerNaming::new(assignment.earlier.clone(), io::stdin().lock(), io::stdout());
    let behind = |roots| Opener::behind(roots).reading_apart();
    let over = execute(&assignment, behind, &reporter, &naming);
    say(&mut io::stdout(), &ExecutorLine::Conclusion(over)).map_err(ProcessError::Stdout)?;
    Ok(Exit::Success)
}
