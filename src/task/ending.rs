//! Why a worker, a block or a process ended, and what its attempts are lost by. Pure: whoever watches them finds out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::failure::Loss;

/// How a process ended, as its parent learns it from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It ended with this exit code; 0 = as it should.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
}

/// Why a worker or a block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It ended by itself, or something killed its process alone.
    Itself(Exit),
    /// The site's scheduler ended the block at its walltime.
    Walltime,
    /// The site's scheduler took the nodes for another job.
    Preempted,
    /// The node failed, or cannot be reached any more.
    NodeLost,
    /// Someone ended it: the endpoint, its owner or the site. A block that the site's scheduler refused has this
    /// ending too, since no job was ever made of it.
    Cancelled,
    /// It is gone, and nothing says why.
    Unknown,
}

impl Exit {
    /// Whether the process did what it should.
    pub fn is_success(self) -> bool {
        match self {
            Self::Code(code) => code == 0,
            Self::Signal(_) => false,
        }
    }
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

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(exit) => exit.fmt(formatter),
            Self::Walltime => formatter.write_str("reached its walltime"),
            Self::Preempted => formatter.write_str("was preempted"),
            Self::NodeLost => formatter.write_str("was lost with its node"),
            Self::Cancelled => formatter.write_str("was cancelled"),
            Self::Unknown => formatter.write_str("ended for an unknown reason"),
        }
    }
}

/// Names of the signals that end processes in practice. The numbers are Linux's, the same on x86-64 and ARM.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    match signal {
        1 => Some("SIGHUP"),
        2 => Some("SIGINT"),
        3 => Some("SIGQUIT"),
        4 => Some("SIGILL"),
        6 => Some("SIGABRT"),
        7 => Some("SIGBUS"),
        8 => Some("SIGFPE"),
        9 => Some("SIGKILL"),
        11 => Some("SIGSEGV"),
        13 => Some("SIGPIPE"),
        15 => Some("SIGTERM"),
        24 => Some("SIGXCPU"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ending; 8] = [
        Ending::Itself(Exit::Code(0)),
        Ending::Itself(Exit::Code(3)),
        Ending::Itself(Exit::Signal(9)),
        Ending::Walltime,
        Ending::Preempted,
        Ending::NodeLost,
        Ending::Cancelled,
        Ending::Unknown,
    ];

    #[test]
    fn endings_are_told_in_plain_words() {
        let said = ALL.map(|ending| ending.to_string());
        let wanted = [
            "ended with exit code 0",
            "ended with exit code 3",
            "was killed by SIGKILL",
            "reached its walltime",
            "was preempted",
            "was lost with its node",
            "was cancelled",
            "ended for an unknown reason",
        ];
        assert_eq!(said, wanted);
        assert_eq!(Exit::Signal(64).to_string(), "was killed by signal 64");
    }

    #[test]
    fn signals_have_the_numbers_of_this_system() {
        let numbers = [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGINT, "SIGINT"),
            (libc::SIGQUIT, "SIGQUIT"),
            (libc::SIGILL, "SIGILL"),
            (libc::SIGABRT, "SIGABRT"),
            (libc::SIGBUS, "SIGBUS"),
            (libc::SIGFPE, "SIGFPE"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGSEGV, "SIGSEGV"),
            (libc::SIGPIPE, "SIGPIPE"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGXCPU, "SIGXCPU"),
        ];
        for (number, name) in numbers {
            assert_eq!(signal_name(number), Some(name));
        }
    }

    #[test]
    fn an_ending_survives_its_text_form() {
        for ending in ALL {
            let text = serde_json::to_string(&ending).expect("json");
            assert_eq!(serde_json::from_str::<Ending>(&text).expect("an ending"), ending, "{text}");
        }
        // the journal keeps these
        let text = serde_json::to_string(&[ALL[1], ALL[3]]).expect("json");
        assert_eq!(text, r#"[{"itself":{"code":3}},"walltime"]"#);
    }

    #[test]
    fn only_exit_code_0_is_success() {
        assert!(Exit::Code(0).is_success());
        assert!(!Exit::Code(1).is_success() && !Exit::Signal(0).is_success());
    }
}
