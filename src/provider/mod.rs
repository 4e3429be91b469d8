//! Who has nodes: starts blocks, says how they are, ends them. A port; what is behind it is one file each.
//!
//! It decides nothing: which blocks there should be says `scaling`, and what became of them the endpoint's ledger keeps.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod local;

use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::BlockId;
use crate::task::ending::Ending;
use crate::task::time::Moment;

/// A block's job as its provider names it; only that reads the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

/// A block that is to be had. The job carries the block's id as its tag: by that it is found if nobody noted its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRequest {
    /// Which.
    pub block: BlockId,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitAnswer {
    /// It is a job now.
    Named(JobId),
    /// It cannot be had, and why.
    Refused(String),
    /// Nobody can say: the job is looked for later, by its tag.
    Unknown,
}

/// A job as a look shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSight {
    /// Its tag.
    pub block: BlockId,
    /// Its name.
    pub job: JobId,
    /// How it is.
    pub state: JobState,
}

/// How a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It waits in the site's queue.
    Pending,
    /// It has its nodes.
    Running {
        /// When it reaches its walltime; None = it has no end.
        ends: Option<Moment>,
    },
    /// It is over.
    Ended(Ending),
}

/// A block that is looked for: by its job where that is known, else by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoughtBlock {
    /// Which.
    pub block: BlockId,
    /// Its job.
    pub job: Option<JobId>,
}

/// A provider that does not answer. What it was asked about is as before, as far as anybody knows.
#[derive(Debug, Error)]
#[error("the provider of blocks does not answer: {reason}")]
pub struct ProviderError {
    /// Why.
    pub reason: String,
}

/// Who has nodes.
pub trait Provider: Send + Sync + 'static {
    /// Asks for a block, once.
    fn submit(&self, request: BlockRequest) -> impl Future<Output = SubmitAnswer> + Send;

    /// How blocks are: all that can be found of those that are sought. One that is not in the answer is no job.
    fn look(&self, blocks: Vec<SoughtBlock>) -> impl Future<Output = Result<Vec<JobSight>, ProviderError>> + Send;

    /// Has jobs ended; a look shows when they are. One that is over already is no error.
    fn cancel(&self, jobs: Vec<JobId>) -> impl Future<Output = Result<(), ProviderError>> + Send;

    /// Ends when a look may show something new; never, for one that has to be asked.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}

impl JobId {
    fn new(text: String) -> Self {
        Self(text)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
