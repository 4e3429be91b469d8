//! What an executor is given and what it says: JSON lines on its stdin and stdout. Runs nothing.
//!
//! Both ends are one program of one version: there is nothing to negotiate, and what is unknown is a defect.

use std::io::BufRead;
use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::roots::NodeRoots;
use crate::ids::AttemptId;
use crate::task::correlate::CorrelateSpec;
use crate::task::life::Outcome;
use crate::task::result::{EarlierResult, LARGEST_DOCUMENT, NamedResult, TaskResult};
use crate::task::spec::{BatchSetupSpec, TaskSpec};
use crate::task::template::{RenderError, Rendered, Templates, render};

/// The longest line, in either direction: a document, whose quotes JSON escapes, and what goes around it.
pub const LONGEST_LINE: usize = 2 * LARGEST_DOCUMENT;

/// What one process is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The attempt that it is.
    pub attempt: AttemptId,
    /// The work.
    pub work: Computation,
    /// Where it may read and write; the executor holds the work's paths against them.
    pub roots: NodeRoots,
    /// Threads that it may use.
    pub threads: NonZeroUsize,
    /// Bytes of memory that it may use.
    pub memory: u64,
    /// The GPU of its slot: the only one that its process sees.
    pub gpu: Option<SlotGpu>,
    /// What earlier attempts of the task have named.
    pub earlier: Option<EarlierResult>,
}

/// The GPU of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotGpu {
    /// UUID, as CUDA_VISIBLE_DEVICES takes it.
    pub uuid: String,
    /// The CPUs near it; none = any.
    pub cpus: Vec<u32>,
    /// Attempts that may use it at once, each a part of its memory.
    pub sharers: NonZeroU32,
}

/// Work that this program does itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Computation {
    /// Correlates a dataset.
    Correlate(Box<CorrelateSpec>),
    /// Makes directories.
    BatchSetup(BatchSetupSpec),
    /// Tests the GPU of its slot.
    SelfTest,
    /// Looks whether the node can work: its roots. That it runs tells the rest.
    CheckNode,
    /// Does nothing.
    Nothing,
}

/// What an attempt does: by this program or by a site's.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// This program.
    Computation(Computation),
    /// A site's program.
    Command(Rendered),
}

/// A line of an executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecutorLine {
    /// It has its assignment and begins: the first line.
    Ready,
    /// It has come so far.
    Progress(Step),
    /// Its result is whole, and is published under this name when it may be: it waits for an order.
    Naming(NamedResult),
    /// It has ended: the last line.
    Conclusion(Conclusion),
}

/// A line to an executor, after its assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorOrder {
    /// The name that it said last is settled.
    Publish,
}

/// The form in which both ends speak: one line of JSON.
///
/// # Errors
/// A path that is no text.
pub fn line(said: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
}

/// How far an executor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it does.
    pub step: String,
    /// Of it, so much is done.
    pub done: u64,
    /// Of so much; 0 = nobody knows.
    pub total: u64,
}

/// How an executor ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conclusion {
    /// How.
    pub outcome: Outcome,
    /// What it left.
    pub result: TaskResult,
}

/// An assignment that cannot be read.
#[derive(Debug, Error)]
pub enum AssignmentError {
    /// The pipe.
    #[error("cannot read the assignment from standard input")]
    Read(#[source] std::io::Error),
    /// The text.
    #[error("standard input holds no assignment; a worker starts this command, people run speckled corr")]
    Parse(#[source] serde_json::Error),
}

impl Work {
    /// The work of a task; a command is looked up among the site's.
    ///
    /// # Errors
    /// Values that do not fit the command: the task's own fault.
    pub fn of(spec: TaskSpec, templates: &Templates) -> Result<Self, RenderError> {
        Ok(match spec {
            TaskSpec::Correlate(spec) => Self::Computation(Computation::Correlate(spec)),
            TaskSpec::BatchSetup(spec) => Self::Computation(Computation::BatchSetup(spec)),
            TaskSpec::Nothing => Self::Computation(Computation::Nothing),
            TaskSpec::Command(spec) => Self::Command(render(templates, &spec)?),
        })
    }
}

impl Assignment {
    /// Reads the line.
    ///
    /// # Errors
    /// See [`AssignmentError`].
    pub fn read(input: impl BufRead) -> Result<Self, AssignmentError> {
        let mut line = Vec::new();
        input.take(LONGEST_LINE as u64).read_until(b'\n', &mut line).map_err(AssignmentError::Read)?;
        serde_json::from_slice(&line).map_err(AssignmentError::Parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::roots::RawRoots;
    use crate::ids::{AttemptNumber, TaskId};

    #[test]
    fn an_assignment_survives_its_line() {
        let assignment = Assignment {
            attempt: AttemptId { task: TaskId::new(uuid::Uuid::nil()), number: AttemptNumber::FIRST },
            work: Computation::Correlate(Box::new(CorrelateSpec::new("/a", "/q", "/o"))),
            roots: NodeRoots { raw: RawRoots { read: vec!["/data".into()], write: Vec::new() }, mounts: None },
            threads: NonZeroUsize::MIN,
            memory: 1 << 40,
            gpu: Some(SlotGpu { uuid: "GPU-1".into(), cpus: vec![0, 2], sharers: NonZeroU32::MIN }),
            earlier: None,
        };
        let mut line = serde_json::to_vec(&assignment).expect("json");
        line.extend(b"\nmore");
        assert_eq!(Assignment::read(line.as_slice()).expect("an assignment"), assignment);
        let error = Assignment::read(&b"{}\n"[..]).expect_err("nothing in it");
        assert!(error.to_string().contains("no assignment"), "{error}");
    }

    #[test]
    fn lines_have_one_form() {
        let said = ExecutorLine::Progress(Step { step: "correlating".into(), done: 1, total: 2 });
        let text = r#"{"progress":{"step":"correlating","done":1,"total":2}}"#;
        assert_eq!(serde_json::to_string(&said).expect("json"), text);
        assert_eq!(serde_json::from_str::<ExecutorLine>(text).expect("a line"), said);
        for other in [r#"{"progress":{"step":"","done":1,"total":2,"eta":3}}"#, r#"{"done":{}}"#, "1", ""] {
            assert!(serde_json::from_str::<ExecutorLine>(other).is_err(), "{other}");
        }
    }
}
