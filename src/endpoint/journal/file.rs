//! The journal's file: read, appended to, compacted. Blocks; knows no callers.
//!
//! A write that fails leaves bytes behind the last good record, and a rename whose directory could not be synced may be
//! undone by a power cut: both are repaired before anything else is appended. A sync that fails may leave bytes that
//! only look as if they were on the disk: what is not known to be there is kept in memory, and written again before the
//! next sync.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{self, Encoded, HEADER};
use super::weights::Weights;
use super::{JournalError, Recovered, lock};
use crate::endpoint::ledger::Ledger;
use crate::runtime::lock::Lock;

/// The journal's file in the endpoint's directory.
const NAME: &str = "journal";

/// What becomes the journal when it is whole.
const NEW: &str = "journal.new";

/// Bytes of a record of a compacted journal: so much is in memory at once.
const PART: usize = 1 << 20;

/// The file, open for this process alone.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    /// What is not known to be on the disk: the end of the file.
    unsynced: Vec<u8>,
    /// Appends so far.
    appends: u64,
    weights: Weights,
    doubt: Doubt,
    compact_above: u64,
    compact_from: u64,
    _lock: Lock,
}

/// What is to be repaired before the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nothing.
    None,
    /// Bytes behind the last good record.
    Tail,
    /// What is not synced may not be in the file, whatever it looks like.
    Unsynced,
    /// The directory may not know the new file.
    Directory,
}

/// A wait for the disk, to be done without holding up appends.
#[derive(Debug)]
pub(super) struct Sync {
    file: Arc<File>,
    bytes: usize,
    /// The last append that is on the disk afterwards.
    pub(super) appends: u64,
}

/// A compacted journal under its first name.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: File,
    length: u64,
    weights: Weights,
}

/// Reads the journal of a directory.
pub(super) fn read(dir: &Path) -> Result<(Ledger, Recovered), JournalError> {
    let path = dir.join(NAME);
    let bytes = std::fs::read(&path).map_err(|source| JournalError::io("reading", &path, source))?;
    let replayed = record::replay(&bytes, &path)?;
    let cut_bytes = bytes.len() as u64 - replayed.length;
    Ok((replayed.ledger, Recovered { entries: replayed.entries, cut_bytes }))
}

impl Sync {
    /// Waits for the disk.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Log {
    /// Opens the journal of a directory, and makes both if there are none.
    pub(super) fn open(dir: &Path, compact_above: u64) -> Result<(Self, Ledger, Recovered), JournalError> {
        make(dir)?;
        let lock = lock(dir)?;
        let (path, new) = (dir.join(NAME), dir.join(NEW));
        remove(&new)?;
        if !path.try_exists().map_err(|source| JournalError::io("opening", &path, source))? {
            write_snapshot(dir, &Ledger::default())?;
            std::fs::rename(&new, &path).map_err(|source| JournalError::io("making", &path, source))?;
            sync_directory(dir)?;
        }
        let (file, bytes) = contents(&path).map_err(|source| JournalError::io("reading", &path, source))?;
        let record::Replayed { ledger, weights, entries, length } = record::replay(&bytes, &path)?;
        let cut_bytes = bytes.len() as u64 - length;
        let doubt = if cut_bytes > 0 { Doubt::Tail } else { Doubt::None };
        let dir = dir.to_owned();
        let mut log = Self {
            dir,
            path,
            file: Arc::new(file),
            length,
            unsynced: Vec::new(),
            appends: 0,
            weights,
            doubt,
            compact_above,
            compact_from: 0,
            _lock: lock,
        };
        log.repair()?;
        // what an earlier process wrote and did not sync
        log.file.sync_data().map_err(|source| JournalError::io("syncing", &log.path, source))?;
        Ok((log, ledger, Recovered { entries, cut_bytes }))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends entries as one record: they outlive this process; after an error none is there.
    pub(super) fn append(&mut self, entries: &Encoded) -> Result<(), JournalError> {
        self.repair()?;
        let record = record::record(&entries.lines, self.synced());
        if let Err(source) = self.file.write_all_at(&record, self.length) {
            self.doubt = Doubt::Tail;
            // when this fails as well, the next append begins with it
            let _later = self.repair();
            return Err(JournalError::io("appending to", &self.path, source));
        }
        self.length += record.len() as u64;
        self.unsynced.extend_from_slice(&record);
        self.appends += 1;
        for (mark, bytes) in &entries.marks {
            self.weights.note(mark, *bytes);
        }
        Ok(())
    }

    /// Appends so far.
    pub(super) fn appends(&self) -> u64 {
        self.appends
    }

    /// Up to where the file is known to be on the disk.
    fn synced(&self) -> u64 {
        self.length - self.unsynced.len() as u64
    }

    /// Bytes that are not known to be on the disk.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// What is to be waited for so that all is on the disk; None when it is.
    pub(super) fn begin_sync(&mut self) -> Result<Option<Sync>, JournalError> {
        self.repair()?;
        let (bytes, appends) = (self.unsynced.len(), self.appends);
        Ok((bytes > 0).then(|| Sync { file: Arc::clone(&self.file), bytes, appends }))
    }

    /// How the wait ended.
    pub(super) fn end_sync(&mut self, sync: &Sync, ended: Result<(), io::Error>) -> Result<(), JournalError> {
        match ended {
            Ok(()) => {
                self.unsynced.drain(..sync.bytes);
                Ok(())
            }
            Err(source) => {
                self.doubt = Doubt::Unsynced;
                Err(JournalError::io("syncing", &self.path, source))
            }
        }
    }

    /// Compacts the journal if it is large and half of it is settled. A failure costs nothing but space: it is logged,
    /// and tried again when the file has grown.
    pub(super) fn compact_when_due(&mut self) {
        let due = self.length > self.compact_above.max(self.compact_from) && self.weights.total() <= self.length / 2;
        if !due || self.doubt != Doubt::None {
            return;
        }
        let before = self.length;
        match self.compact() {
            Ok(()) => {
                tracing::debug!(journal = %self.path.display(), before, after = self.length, "the journal was compacted");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the journal could not be compacted and goes on growing");
                self.compact_from = self.length + self.compact_above / 4;
            }
        }
    }

    /// Writes what is not settled to a new file on the disk, which takes the journal's place.
    pub(super) fn compact(&mut self) -> Result<(), JournalError> {
        self.repair()?;
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0).map_err(|source| JournalError::io("reading", &self.path, source))?;
        // what is settled is not even built: thousands of small pieces of memory would stay with the process
        let ledger = record::replay_those(&bytes, &self.path, |mark| self.weights.matters(mark))?.ledger;
        drop(bytes);
        let snapshot = write_snapshot(&self.dir, &ledger)?;
        self.install(snapshot)
    }

    fn install(&mut self, snapshot: Snapshot) -> Result<(), JournalError> {
        let new = self.dir.join(NEW);
        if let Err(source) = std::fs::rename(&new, &self.path) {
            remove(&new)?;
            return Err(JournalError::io("replacing", &self.path, source));
        }
        let Snapshot { file, length, weights } = snapshot;
        (self.file, self.length, self.weights) = (Arc::new(file), length, weights);
        self.unsynced = Vec::new();
        self.doubt = Doubt::Directory;
        self.repair()
    }

    fn repair(&mut self) -> Result<(), JournalError> {
        match self.doubt {
            Doubt::None => {}
            Doubt::Tail => self
                .file
                .set_len(self.length)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| JournalError::io("cutting", &self.path, source))?,
            Doubt::Unsynced => {
                let again = self.file.write_all_at(&self.unsynced, self.synced());
                again.map_err(|source| JournalError::io("appending to", &self.path, source))?;
            }
            Doubt::Directory => sync_directory(&self.dir)?,
        }
        self.doubt = Doubt::None;
        Ok(())
    }
}

/// Writes a ledger beside the journal, to disk; a file that did not become whole is removed.
pub(super) fn write_snapshot(dir: &Path, ledger: &Ledger) -> Result<Snapshot, JournalError> {
    let new = dir.join(NEW);
    let written = try_snapshot(&new, ledger);
    if written.is_err() {
        // the first failure is the one to tell; what is left is removed when the journal is next opened
        let _left = remove(&new);
    }
    written
}

fn try_snapshot(new: &Path, ledger: &Ledger) -> Result<Snapshot, JournalError> {
    let writing = |source| JournalError::io("writing", new, source);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(new);
    let mut file = opened.map_err(writing)?;
    let (mut length, mut weights) = (HEADER.len() as u64, Weights::default());
    file.write_all(HEADER).map_err(writing)?;
    let mut part = Vec::new();
    let mut entries = ledger.entries().peekable();
    while let Some(entry) = entries.next() {
        let encoded = record::encode([&entry], new)?;
        encoded.marks.iter().for_each(|(mark, bytes)| weights.note(mark, *bytes));
        part.extend(encoded.lines);
        if part.len() >= PART || entries.peek().is_none() {
            let record = record::record(&part, length);
            file.write_all(&record).map_err(writing)?;
            length += record.len() as u64;
            part.clear();
        }
    }
    file.sync_all().map_err(writing)?;
    Ok(Snapshot { file, length, weights })
}

/// The file and all that is in it; nobody else may read it from now on.
fn contents(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

/// Makes a directory that is there after a power cut too.
fn make(dir: &Path) -> Result<(), JournalError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| JournalError::io("making", dir, source))?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    }
    Ok(())
}

fn sync_directory(dir: &Path) -> Result<(), JournalError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| JournalError::io("syncing", dir, source))
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(JournalError::io("removing", path, source)),
        _ => Ok(()),
    }
}
