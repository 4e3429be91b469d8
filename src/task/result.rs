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

/// Files of one result that are remembered: attempts that were lost between naming and publishing one each.
pub const MOST_FILES: usize = 8;

/// A result under the name that it is to be published under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedResult {
    /// The name.
    pub path: PathBuf,
    /// The file that is to get it.
    pub file: FileMark,
}

/// What tells a file from all others that may have its name, before it has that and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMark {
    /// Its number in its file system.
    pub inode: u64,
    /// Its bytes.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What attempts of a task have named: the name is the task's, and any of the files may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierResult {
    /// The name.
    pub path: PathBuf,
    /// The files, the newest last; at most [`MOST_FILES`].
    pub files: Vec<FileMark>,
}

impl EarlierResult {
    /// With the first file that is named so.
    pub fn new(NamedResult { path, file }: NamedResult) -> Self {
        Self { path, files: vec![file] }
    }

    /// Another attempt has named its file: with another name, the ones before were never published.
    pub fn name(&mut self, NamedResult { path, file }: NamedResult) {
        if self.path != path {
            *self = Self { path, files: Vec::new() };
        }
        self.files.retain(|known| *known != file);
        self.files.push(file);
        let surplus = self.files.len().saturating_sub(MOST_FILES);
        self.files.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str, inode: u64) -> NamedResult {
        NamedResult { path: path.into(), file: FileMark { inode, bytes: 1, modified_ns: 2 } }
    }

    fn inodes(earlier: &EarlierResult) -> Vec<u64> {
        earlier.files.iter().map(|file| file.inode).collect()
    }

    #[test]
    fn the_files_of_one_name_are_remembered() {
        let mut earlier = EarlierResult::new(named("/a", 1));
        earlier.name(named("/a", 2));
        earlier.name(named("/a", 1));
        assert_eq!(inodes(&earlier), [2, 1]);
        (3..20).for_each(|inode| earlier.name(named("/a", inode)));
        assert_eq!(inodes(&earlier), [12, 13, 14, 15, 16, 17, 18, 19]);
        earlier.name(named("/a_1", 20));
        assert_eq!((earlier.path.to_str(), inodes(&earlier)), (Some("/a_1"), vec![20]));
    }
}
