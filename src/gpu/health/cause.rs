//! What can be wrong with a GPU: the causes, how grave each is, and how it is told to people; and notes, which people should
//! know and which change nothing.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a cause does to a healthy GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It takes no new task.
    Suspect,
    /// It takes no task.
    Quarantine,
}

/// Something that speaks against a GPU. Its text is a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthCause {
    /// No self-test has passed since it was first seen.
    Untested,
    /// Memory errors that were not corrected.
    UncorrectableEcc,
    /// A row of memory could not be replaced.
    FailedRemap,
    /// A page of memory waits for its retirement.
    PendingRetirement,
    /// An Xid after which it cannot be trusted.
    FatalXid(u64),
    /// An Xid that may be its own.
    Xid(u64),
    /// It does not answer from the bus, or is not listed.
    Lost,
    /// The driver says that it needs a reset.
    NeedsReset,
    /// The driver refused a sample.
    SampleFailed,
    /// The driver refuses sample after sample.
    SamplesKeepFailing,
    /// The driver does not return from a call.
    DriverSilent,
    /// It computes wrongly, or not at all.
    SelfTestFailed,
    /// Nobody knows whether it computes: the test of it could not be run.
    SelfTestNotRun,
    /// The hardware has slowed it down for long.
    Slowdown,
    /// It is as hot as the temperature at which it slows down.
    Hot,
    /// Many packets are sent again over PCIe.
    PcieReplays,
    /// Programs fail on it again and again, as wrong programs do: so may a GPU that computes wrongly.
    ProgramsFail,
}

impl HealthCause {
    /// How grave it is.
    pub fn grade(self) -> Grade {
        match self {
            Self::UncorrectableEcc
            | Self::FailedRemap
            | Self::PendingRetirement
            | Self::FatalXid(_)
            | Self::Lost
            | Self::NeedsReset
            | Self::SamplesKeepFailing
            | Self::SelfTestFailed => Grade::Quarantine,
            Self::Untested
            | Self::Xid(_)
            | Self::SampleFailed
            | Self::DriverSilent
            | Self::SelfTestNotRun
            | Self::Slowdown
            | Self::Hot
            | Self::PcieReplays
            | Self::ProgramsFail => Grade::Suspect,
        }
    }

    /// Whether it is there until it is seen to have gone; the others happen and are over.
    pub fn stands(self) -> bool {
        match self {
            Self::FailedRemap
            | Self::PendingRetirement
            | Self::Lost
            | Self::NeedsReset
            | Self::SampleFailed
            | Self::SamplesKeepFailing
            | Self::DriverSilent
            | Self::Slowdown
            | Self::Hot => true,
            Self::Untested
            | Self::UncorrectableEcc
            | Self::FatalXid(_)
            | Self::Xid(_)
            | Self::SelfTestFailed
            | Self::SelfTestNotRun
            | Self::PcieReplays
            | Self::ProgramsFail => false,
        }
    }
}

impl fmt::Display for HealthCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Untested => "no self-test has passed yet",
            Self::UncorrectableEcc => "uncorrectable memory errors (ECC)",
            Self::FailedRemap => "a row of its memory could not be replaced: the GPU is to be exchanged",
            Self::PendingRetirement => "a page of its memory waits to be retired: the GPU needs a reset",
            Self::FatalXid(xid) => return write!(formatter, "the driver reported the fatal error Xid {xid}"),
            Self::Xid(xid) => return write!(formatter, "the driver reported Xid {xid}"),
            Self::Lost => "the GPU has fallen off the bus or is not listed any more",
            Self::NeedsReset => "the driver says that the GPU needs a reset",
            Self::SampleFailed => "the driver could not read the GPU",
            Self::SamplesKeepFailing => "the driver cannot read the GPU again and again",
            Self::DriverSilent => "the driver does not answer",
            Self::SelfTestFailed => "the self-test failed",
            Self::SelfTestNotRun => "the self-test could not be run, see the worker's log; it is tried again",
            Self::Slowdown => "the hardware has slowed the GPU down for long (heat or power)",
            Self::Hot => "the GPU is at the temperature at which it slows down",
            Self::PcieReplays => "many packets had to be sent again over PCIe",
            Self::ProgramsFail => "attempts fail on the GPU again and again: the self-test decides whose fault it is",
        };
        formatter.write_str(text)
    }
}

/// Something that people should know of a GPU that may be used. Its text is a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Note {
    /// A row of memory waits for its replacement. "A pending remapping won't affect future work on the GPU since
    /// error-containment and dynamic page blacklisting will take care of that" (nvml.h, nvmlDeviceGetRemappedRows).
    PendingRemap,
    /// The power supply asks for less, as in a rack whose power is capped: the GPU is slower and computes rightly.
    PowerBrake,
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PendingRemap => "note: a row of its memory is replaced at the next reset; until then it is not used",
            Self::PowerBrake => "note: the power supply slows the GPU down (power brake)",
        })
    }
}

impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for HealthCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
