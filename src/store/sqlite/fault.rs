//! What goes wrong inside the SQLite store, before it is known which call it was. A fault can be told to several
//! callers: those whose calls shared a transaction.

use std::error::Error;
use std::ffi::c_int;
use std::path::Path;
use std::sync::Arc;

use crate::store::StoreError;

/// SQLite's code for a disk or quota that is full.
const FULL: c_int = 13;

/// SQLite's code for a file of shared memory that could not grow: a full disk as well.
const NO_ROOM_TO_SHARE: c_int = 4874;

/// What went wrong.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// No space is left.
    Full,
    /// The store was closed.
    Closed,
    /// The disk did not take what was written.
    Unsynced(Arc<std::io::Error>),
    /// A row that this program did not write.
    Damaged { what: &'static str, id: String },
    /// Anything else.
    Failed(Arc<dyn Error + Send + Sync>),
}

impl Fault {
    /// As the caller reads it.
    pub(super) fn told(self, step: &'static str, place: &Path) -> StoreError {
        match self {
            Self::Full => StoreError::Full { step, place: place.to_owned() },
            Self::Closed => StoreError::Closed,
            Self::Unsynced(source) => StoreError::Unsynced { step, place: place.to_owned(), source },
            Self::Damaged { what, id } => StoreError::Damaged { what, id },
            Self::Failed(source) => StoreError::Database { step, source: Box::new(source) },
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        if let Some(FULL | NO_ROOM_TO_SHARE) = error.sqlite_error().map(|error| error.extended_code) {
            return Self::Full;
        }
        Self::Failed(Arc::new(error))
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(Arc::new(error))
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return Self::Full;
        }
        Self::Failed(Arc::new(error))
    }
}
