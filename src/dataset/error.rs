//! Why a file could not be read or written: each with the file, the place and what can be done.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::opener::OutsideLink;
use super::reader::{ReaderEnd, wire};

/// Errors of this module. `Display` is one line; the cause is the source. Those of reading come from a process apart as they
/// are; the errors of a cause are then their words, or the system's number.
#[derive(Debug, Error, Serialize, Deserialize)]
pub enum DatasetError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `open`, `read`, ...
        action: Cow<'static, str>,
        /// The file.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// Why.
        #[source]
        #[serde(with = "wire::system")]
        source: std::io::Error,
    },
    /// A file that the work of others may not read; where its links lead is not told.
    #[error("{} lies outside the directories that tasks may read{}; ask the endpoint's administrator for roots.read",
        path.display(), link.as_ref().map(|link| format!(" ({link})")).unwrap_or_default())]
    Outside {
        /// As it was asked for.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// What refers to it; None = the task itself.
        link: Option<OutsideLink>,
    },
    /// The HDF5 library refused.
    #[error("{}: cannot {action}", path.display())]
    Hdf5 {
        /// What was tried, with the object's name.
        action: String,
        /// The file.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// The library's words.
        #[source]
        #[serde(with = "wire::library")]
        source: hdf5::Error,
    },
    /// A raw data file that does not hold what its format says.
    #[error("{}: {what} (at {place}); {remedy}", path.display())]
    Raw {
        /// The file.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// Byte offset, frame or dataset.
        place: String,
        /// What is wrong.
        what: String,
        /// What the user can do.
        remedy: Cow<'static, str>,
    },
    /// The format is not one that is read here.
    #[error("{}: {what}; {remedy}", path.display())]
    Unsupported {
        /// The file.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// What it is.
        what: String,
        /// What the user can do.
        remedy: Cow<'static, str>,
    },
    /// A qmap that does not hold what it should.
    #[error("qmap {}: {what}; {remedy}", path.display())]
    Qmap {
        /// The file.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// What is wrong, with the dataset's name.
        what: String,
        /// What the user can do.
        remedy: Cow<'static, str>,
    },
    /// A metadata file that is missing, ambiguous or not of the 8-ID schema.
    #[error("metadata {}: {what}; {remedy}", path.display())]
    Metadata {
        /// The file or, when none was found, the directory.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What the user can do.
        remedy: Cow<'static, str>,
    },
    /// The HDF5 library died over a file, in a process apart.
    #[error("{}: {end}; the file is damaged; copy it again", path.display())]
    #[serde(skip)]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        end: ReaderEnd,
    },
    /// There is no process apart to read a file, or not any more; no fault of the file.
    #[error("cannot read {} in a process apart", path.display())]
    #[serde(skip)]
    Reader {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A simulated dataset whose parameters make no sense.
    #[error("cannot simulate {}", path.display())]
    #[serde(skip)]
    Scene {
        /// The raw file that it was to be.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::simulate::SceneError,
    },
    /// The result file could not be written.
    #[error("cannot {action} the result {}", path.display())]
    #[serde(skip)]
    Save {
        /// `create`, `write /xpcs/...`, `rename`, ...
        action: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DatasetError {
    /// An IO error at `path`.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: action.into(), path: path.to_owned(), source }
    }

    /// An HDF5 error at `path`.
    pub fn hdf5(action: impl Into<String>, path: &Path, source: hdf5::Error) -> Self {
        Self::Hdf5 { action: action.into(), path: path.to_owned(), source }
    }
}
