//! Under which name a result is published. Whoever hands out the work settles it before any file has it, so that a
//! second attempt at the same work replaces what the first one published. Publishes nothing itself.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use thiserror::Error;

use crate::dataset::DatasetError;
use crate::task::result::{EarlierResult, FileMark, NamedResult};

/// Who settles names.
pub trait ResultNaming {
    /// What earlier attempts at the same work have named.
    fn earlier(&self) -> Option<&EarlierResult>;

    /// A file that the hidden file's path is written to, for whoever removes that when this process is killed.
    fn note(&self) -> Option<&Path> {
        None
    }

    /// The result is whole: its file gets this name next, if nobody else's file has it. Waits for the answer.
    fn settle(&self, result: &NamedResult) -> NamingAnswer;
}

/// Whether a result may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamingAnswer {
    /// It may.
    Settled,
    /// It may not: the work is to stop.
    Stopped,
}

/// A result that was not published; no file of it is left.
#[derive(Debug, Error)]
pub enum PublishError {
    /// It could not be stored.
    #[error(transparent)]
    Save(#[from] DatasetError),
    /// The work was to stop before that.
    #[error("it was stopped before its result was published")]
    Stopped,
}

/// Of work that is done once: nobody else is to know the name.
#[derive(Debug, Clone, Copy)]
pub struct OwnNaming;

impl ResultNaming for OwnNaming {
    fn earlier(&self) -> Option<&EarlierResult> {
        None
    }

    fn settle(&self, _result: &NamedResult) -> NamingAnswer {
        NamingAnswer::Settled
    }
}

/// What tells a file from others.
pub(super) fn mark(file: &Metadata) -> FileMark {
    let modified_ns = file.mtime().saturating_mul(1_000_000_000).saturating_add(file.mtime_nsec());
    FileMark { inode: file.ino(), bytes: file.len(), modified_ns }
}

/// Whether what is at the path of an earlier result is one of its files.
pub(super) fn is_published(earlier: &EarlierResult) -> bool {
    let found = |path: &Path| path.symlink_metadata().ok().filter(Metadata::is_file);
    found(&earlier.path).is_some_and(|file| earlier.files.contains(&mark(&file)))
}
