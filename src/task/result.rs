//! What an attempt leaves: files, a document, the end of its output. Pure; opens nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::estimate::Measure;

/// Bytes of JSON that a result may have beside its files.
pub const LARGEST_DOCUMENT: usize = 1 << 20;

/// What an attempt leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// Files on the endpoint's file system.
    pub files: Vec<PathBuf>,
    /// Where the endpoint keeps the attempt's output, and its last lines.
    pub log: Option<LogTail>,
    /// A JSON document of at most [`LARGEST_DOCUMENT`] bytes; kept as text.
    pub document: Option<String>,
    /// What its GPU has used meanwhile, millijoules, for whomever; None if that is not known, or it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_energy_mj: Option<u64>,
    /// What the attempt took; None where nobody measured, or it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
}

/// The end of an attempt's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogTail {
    /// The file, on the endpoint's file system.
    pub file: PathBuf,
    /// Its last lines.
    pub lines: String,
}
