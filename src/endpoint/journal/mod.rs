//! Keeps the entries of an endpoint's ledger on disk. Decides nothing: what entries mean is the ledger's.
//!
//! An append is in the file when it returns: `kill -9` at any moment does not lose it. A power cut may, until it is
//! synced, which a thread does when it is asked to, for all appends so far; the owner goes on meanwhile and hears of it.
//!
//! ```text
//!   append ──▶ written to the file: length, checksum, entries
//!   sync ──▶ thread: waits for the disk ──▶ synced
//!                    then, when half of the file is settled: compaction
//! ```
//!
//! In the endpoint's directory lie `journal`, `journal.lock`, which the one process that may write holds, and for a
//! moment `journal.new`, which becomes the journal when it is whole.

mod file;
mod record;
mod syncer;
mod weights;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::file::Log;
use self::syncer::Synced;
use super::ledger::{Entry, Ledger};
use crate::runtime::lock::{Lock, LockError};

/// Held by the process that writes.
const LOCK: &str = "journal.lock";

/// A journal of this size is compacted once half of it is settled: below, starting anew costs milliseconds.
const COMPACT_ABOVE: u64 = 4 << 20;

/// The way to the file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    log: Arc<Mutex<Log>>,
    ask: mpsc::Sender<()>,
    synced: watch::Receiver<Synced>,
    thread: Thread,
    ended: oneshot::Receiver<()>,
    syncs: Arc<AtomicU64>,
}

/// Whether the thread that syncs is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    Runs,
    Failed,
}

/// An append, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendMark(u64);

/// What a journal held when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Entries.
    pub entries: u64,
    /// Bytes after them of an append that was under way when the process or the machine died: nobody was told that it
    /// was kept.
    pub cut_bytes: u64,
}

/// A journal that cannot be read or written.
#[derive(Debug, Clone, Error)]
pub enum JournalError {
    /// Another process writes it.
    #[error("{} is in use by process {holder}; stop that one, or give this endpoint a directory of its own", dir.display())]
    Held {
        /// The endpoint's directory.
        dir: PathBuf,
        /// Its number, and where it runs.
        holder: String,
    },
    /// The disk or the quota is full; what was to be appended was not, and later appends work once there is room.
    #[error("no space is left for {}; make room on its file system", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The file system refuses; what was to be appended was not.
    #[error("{step} {} failed", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Entries were changed or lost after they had been written.
    #[error(
        "{} is damaged at byte {offset}, and entries follow; restore it from a copy, or move it away and start again: \
         the controller gives its tasks out anew once their leases have run out",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
    },
    /// The file is not a journal of this program.
    #[error("{} is no journal that this program knows; run the program that wrote it, or move it away", path.display())]
    NoJournal {
        /// The file.
        path: PathBuf,
    },
    /// An entry is intact, but nothing that this program writes.
    #[error("{} has an unknown entry at byte {offset}; run the program that wrote it", path.display())]
    UnknownEntry {
        /// The file.
        path: PathBuf,
        /// Where its record begins.
        offset: u64,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// An entry has no text form, such as a path that is not UTF-8; none of the append's entries was written.
    #[error("an entry cannot be written to {}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// More than a record holds; none of the append's entries was written.
    #[error("{bytes} bytes cannot be appended to {} at once; append fewer entries at a time", path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// How much it is.
        bytes: usize,
    },
    /// The thread that syncs has failed; what is on the disk is not known.
    #[error("the thread that syncs {} has ended; start the endpoint again", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
    },
}

impl Journal {
    /// Opens the journal in an endpoint's directory for this process alone, and reads it; makes both if there are
    /// none. Blocks on the disk.
    ///
    /// # Errors
    /// Another process has it, it cannot be read or written, or it is damaged before its end.
    pub fn open(dir: &Path) -> Result<(Self, Ledger, Recovered), JournalError> {
        Self::open_compacting(dir, COMPACT_ABOVE)
    }

    /// Appends entries. When it returns they outlive this process, all of them; after an error none does, unless the
    /// file system also refuses to take back what it half wrote and the process dies before the next append, which
    /// begins with that. Blocks, but not on the disk, unless a compaction is under way.
    ///
    /// # Errors
    /// [`JournalError`]; after [`JournalError::Full`] and [`JournalError::Io`] a later append may succeed.
    pub fn append(&self, entries: &[Entry]) -> Result<AppendMark, JournalError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.is_empty() {
            log.append(&record::encode(entries, &self.path)?)?;
        }
        Ok(AppendMark(log.appends()))
    }

    /// Bytes that a power cut could lose.
    pub fn unsynced(&self) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).unsynced()
    }

    /// Has all appends so far brought to the disk; [`Journal::synced`] senders when they are.
    pub fn sync(&self) {
        // one that was asked for and has not begun covers them
        let _asked = self.ask.try_send(());
    }

    /// Waits for the end of the next sync: the last append that is on the disk. Dropping this loses nothing.
    ///
    /// # Errors
    /// [`JournalError`]: nothing is lost that was in the file, the next sync begins by writing it again.
    pub async fn synced(&mut self) -> Result<AppendMark, JournalError> {
        if self.thread == Thread::Failed {
            // that was told once
            return std::future::pending().await;
        }
        if self.synced.changed().await.is_err() {
            self.thread = Thread::Failed;
            return Err(JournalError::Ended { path: self.path.clone() });
        }
        self.synced.borrow_and_update().clone().map(AppendMark)
    }

    /// How often it has waited for the disk.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Ends when all that was appended is on the disk, or cannot be, and the directory is free for another process. A
    /// journal that is dropped does the same, but nobody hears when.
    pub async fn close(self) {
        let Self { log, ask, ended, .. } = self;
        drop((log, ask));
        // the thread never answers: its end does
        let _ended = ended.await;
    }

    fn open_compacting(dir: &Path, above: u64) -> Result<(Self, Ledger, Recovered), JournalError> {
        let (log, ledger, recovered) = Log::open(dir, above)?;
        let path = log.path().to_owned();
        let (journal, work) = Self::new(log);
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(work);
        thread.map_err(|source| JournalError::io("starting the thread that syncs", &path, source))?;
        Ok((journal, ledger, recovered))
    }

    /// The journal and what its thread does.
    fn new(log: Log) -> (Self, impl FnOnce() + Send + 'static) {
        let (ask, asked) = mpsc::channel(1);
        let (tell, synced) = watch::channel(Ok(0));
        let (end, ended) = oneshot::channel::<()>();
        let syncs = Arc::new(AtomicU64::new(0));
        let path = log.path().to_owned();
        let log = Arc::new(Mutex::new(log));
        let work = {
            let (log, syncs) = (Arc::clone(&log), Arc::clone(&syncs));
            move || {
                syncer::serve(&log, asked, &tell, &syncs);
                // the lock on the directory goes with it
                drop(log);
                drop(end);
            }
        };
        (Self { path, log, ask, synced, thread: Thread::Runs, ended, syncs }, work)
    }
}

/// Reads the journal in an endpoint's directory, whoever writes it meanwhile; changes nothing. Blocks on the disk.
///
/// # Errors
/// There is none, it cannot be read, or it is damaged before its end.
pub fn read(dir: &Path) -> Result<(Ledger, Recovered), JournalError> {
    file::read(dir)
}

/// Which process writes the journal in an endpoint's directory; None when none does.
///
/// # Errors
/// The file system refuses.
pub fn held_by(dir: &Path) -> io::Result<Option<String>> {
    Lock::held_by(&dir.join(LOCK))
}

/// Across the nodes of a shared file system the controller's lease on the endpoint's name decides, since not every such
/// file system locks.
fn lock(dir: &Path) -> Result<Lock, JournalError> {
    let path = dir.join(LOCK);
    Lock::take(&path).map_err(|error| match error {
        LockError::Held { holder } => JournalError::Held { dir: dir.to_owned(), holder },
        LockError::Io(source) => JournalError::io("locking", &path, source),
    })
}

impl JournalError {
    fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let (path, source) = (path.to_owned(), Arc::new(source));
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full { path, source };
        }
        Self::Io { step, path, source }
    }
}

#[cfg(test)]
mod tests;
