//! `speckled executor`, which workers start: one assignment from stdin, progress and outcome as lines on stdout.
//!
//! The work is `worker::execute`; here are only the process's signals, pipes and log.

use std::io;

use super::exit::{Exit, Failure, ProcessError};
use super::interrupt::Interrupt;
use super::logging;
use super::output::Form;
use crate::compute::fault;
use crate::compute::job::JobError;
use crate::worker::assignment::{Assignment, Conclusion, ExecutorLine};
use crate::worker::confinement::confine;
use crate::worker::execute::execute;
use crate::worker::naming::WorkerNaming;
use crate::worker::reporter::{Reporter, say};
use crate::worker::watchdog::Watchdog;

/// Runs the command.
pub(super) fn run() -> Result<Exit, Failure> {
    logging::init(true, Form::Quiet);
    let interrupt = Interrupt::install().map_err(ProcessError::Signals)?;
    let assignment = Assignment::read(io::stdin().lock())?;
    // before any thread starts
    confine(&assignment);
    let watchdog = Watchdog::start(endless).map_err(ProcessError::Watchdog)?;
    let reporter = Reporter::new(io::stdout(), || interrupt.signal().is_some());
    say(&mut io::stdout(), &ExecutorLine::Ready).map_err(ProcessError::Stdout)?;
    // standard input has a buffer of its own: what follows the assignment is still there
    let naming = WorkerNaming::new(assignment.earlier.clone(), io::stdin().lock(), io::stdout());
    let over = execute(&assignment, &reporter, &watchdog, &naming);
    say(&mut io::stdout(), &ExecutorLine::Conclusion(over)).map_err(ProcessError::Stdout)?;
    Ok(Exit::Success)
}

/// Tells the outcome for the work, which hangs in the HDF5 library, and leaves without waiting for it.
fn endless(error: JobError) -> ! {
    let over = Conclusion::of(fault::outcome(&error));
    // without a reader there is nobody to tell
    let _ = say(&mut io::stdout(), &ExecutorLine::Conclusion(over));
    signal_hook::low_level::exit(Exit::Success.code().into())
}
