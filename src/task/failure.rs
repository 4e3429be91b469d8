//! Why a task did not succeed, and whose fault it was: that decides whether it is tried again.

use std::error::Error;
use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Bytes of a failure's message that are kept: a screenful.
pub const LONGEST_MESSAGE: usize = 4096;

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it was.
    pub fault: Fault,
    /// One line for people: what, where, remedy.
    message: String,
}

/// Whose fault a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The task's own: a damaged file, a wrong parameter, a path that is not allowed. It would fail again.
    Input,
    /// The program that computed it, or nobody knows. Another attempt may succeed.
    Program,
    /// Nobody's: it was not done in time.
    Deadline,
    /// Its workers died of it, one after the other.
    Crashes,
}

/// How an attempt ended through no fault of the task: it is tried again, and no retry is used up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The endpoint was not heard of until the lease ran out.
    LeaseExpired,
    /// The endpoint gives the task back before it began.
    Returned,
    /// The block came to its walltime.
    Walltime,
    /// The scheduler took the block away.
    Preempted,
    /// The node or its worker was lost, or another attempt's crash took this one along.
    NodeLost,
    /// The node cannot work: its worker is suspected, and another one has the task next.
    Unfit(Unfit),
    /// A GPU fault.
    GpuFault,
    /// The endpoint or worker was stopped.
    Stopped,
    /// The executor died while it computed the task: perhaps of the task. Counted, see the crash limit.
    Crashed,
}

/// Why a node cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unfit {
    /// What it lacks.
    pub lack: Lack,
    /// One line for people: what, where, why.
    message: String,
}

/// What a node needs for any task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// The endpoint's roots: absent, on another file system than before, or not writable where they should be.
    Root,
    /// A directory for what an attempt needs while it runs.
    Scratch,
    /// The program that runs attempts: it cannot be started.
    Executor,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::LeaseExpired => "the endpoint was not heard of in time",
            Self::Returned => "the endpoint gave it back",
            Self::Walltime => "the block reached its walltime",
            Self::Preempted => "the block was preempted",
            Self::NodeLost => "the node or its worker was lost",
            Self::Unfit(unfit) => return write!(formatter, "the node cannot work: {}", unfit.message()),
            Self::GpuFault => "the GPU failed",
            Self::Stopped => "the endpoint or worker was stopped",
            Self::Crashed => "its process died",
        };
        formatter.write_str(words)
    }
}

impl Unfit {
    /// With a message, cleaned as a [`Failure`]'s is.
    pub fn new(lack: Lack, message: &str) -> Self {
        Self { lack, message: clean(message) }
    }

    /// What people read.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Failure {
    /// A failure with a message; a long one is cut at a character, and control characters become spaces, since it
    /// may quote what comes from outside.
    pub fn new(fault: Fault, message: &str) -> Self {
        Self { fault, message: clean(message) }
    }

    /// A failure told by an error and its causes.
    pub fn of(fault: Fault, error: &dyn Error) -> Self {
        Self::new(fault, &chain(error))
    }

    /// What people read.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The deadline has passed.
    pub fn deadline() -> Self {
        Self::new(Fault::Deadline, "the deadline has passed; submit it again with a later one")
    }

    /// The crash limit is reached.
    pub fn crashes(crashes: u32) -> Self {
        let message = format!("the worker died {crashes} times while it computed this task; see the task's logs");
        Self::new(Fault::Crashes, &message)
    }
}

fn clean(message: &str) -> String {
    let clean = message.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept = String::new();
    for c in clean {
        if kept.len() + c.len_utf8() > LONGEST_MESSAGE {
            break;
        }
        kept.push(c);
    }
    kept
}

/// An error and all its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = one_line(&error.to_string());
        // A wrapper that repeats its cause in its own words would say it twice.
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = error.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_printable() {
        let failure = Failure::new(Fault::Input, &format!(" a\x1b[2J\nb {}", "é".repeat(LONGEST_MESSAGE)));
        assert!(failure.message().starts_with("a [2J b é"), "{}", &failure.message()[..20]);
        assert!(failure.message().len() <= LONGEST_MESSAGE && failure.message().ends_with('é'));
    }
}
