//! How a worker or a block of nodes ended. Pure: whoever watches them finds out, here is only what that may be.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::failure::Loss;

/// Why a worker or block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its process ended.
    Itself(Exit),
    /// Its block came to its walltime.
    Walltime,
    /// The site's scheduler took its block away for a job of higher priority.
    Preempted,
    /// Its node failed or cannot be reached.
    NodeLost,
    /// It was ended as somebody asked, by us or by the site's commands.
    Cancelled,
    /// It is gone, and nothing tells how it ended.
    Unknown,
}

/// The exit status of a process (wait(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It ended with this code.
    Code(i32),
    /// A signal of this number killed it.
    Signal(i32),
}

impl Ending {
    /// What attempts are lost by that had begun or waited there: never a fault of their own.
    pub fn loss(self) -> Loss {
        match self {
            Self::Walltime => Loss::Walltime,
            Self::Preempted => Loss::Preempted,
            Self::Cancelled => Loss::Stopped,
            Self::Itself(_) | Self::NodeLost | Self::Unknown => Loss::NodeLost,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(exit) => exit.fmt(formatter),
            Self::Walltime => formatter.write_str("reached its walltime"),
            Self::Preempted => formatter.write_str("was preempted by the site's scheduler"),
            Self::NodeLost => formatter.write_str("was lost with its node"),
            Self::Cancelled => formatter.write_str("was cancelled"),
            Self::Unknown => formatter.write_str("ended; nothing tells how"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "ended with exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(formatter, "was killed by {name}"),
                None => write!(formatter, "was killed by signal {signal}"),
            },
        }
    }
}

/// The name of a signal on Linux (signal(7), x86 and ARM), of those that end processes.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_read_as_sentences() {
        for (ending, words) in [
            (Ending::Itself(Exit::Code(3)), "ended with exit code 3"),
            (Ending::Itself(Exit::Signal(9)), "was killed by SIGKILL"),
            (Ending::Itself(Exit::Signal(60)), "was killed by signal 60"),
            (Ending::Walltime, "reached its walltime"),
        ] {
            assert_eq!(ending.to_string(), words);
        }
    }
}
