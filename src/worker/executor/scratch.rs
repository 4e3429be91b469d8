//! The directories that attempts work in: one for each worker, in it one for each attempt. What attempts leave there, and
//! beside their results, is removed when they are over, whoever died: by their worker, else by the next one on the same
//! computer, which sees by a lock that theirs has gone. Runs nothing.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dataset::result::remove_unfinished;
use crate::ids::WorkerId;
use crate::runtime::contain;
use crate::runtime::lock::Lock;

/// The lock of a worker's directory.
const LOCK: &str = "lock";

/// Where an executor notes its unfinished result, in the directory that it works in.
pub(crate) const NOTE: &str = "unfinished-result";

/// Between two looks at what others left.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);

/// The longest path that Linux takes.
const LONGEST_NOTE: u64 = 4096;

/// A worker's directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    /// None where the file system has no locks: others then leave the directory alone.
    lock: Option<Lock>,
    /// When others' directories were last looked at.
    swept: Mutex<Instant>,
}

impl Scratch {
    /// Makes a worker's directory in `place`, and removes those of workers that have gone.
    ///
    /// One that cannot be made is told; attempts try again.
    pub(super) fn claim(place: &Path, worker: WorkerId) -> Self {
        let directory = place.join(worker.to_string());
        if let Err(error) = fs::create_dir_all(&directory) {
            tracing::warn!(path = %directory.display(), %error, "a directory of this worker cannot be made");
        }
        let lock = Lock::take(&directory.join(LOCK));
        let lock = lock.inspect_err(|error| tracing::debug!(%error, "the scratch directory has no lock")).ok();
        sweep(place, &directory);
        Self { directory, lock, swept: Mutex::new(Instant::now()) }
    }

    /// Removes those of workers that have gone meanwhile, now and then, on a thread that may wait for the file system.
    pub(super) fn sweep_when_due(scratch: &Arc<Self>) {
        let mut swept = scratch.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() < SWEEP_PERIOD {
            return;
        }
        *swept = Instant::now();
        let scratch = Arc::clone(scratch);
        tokio::task::spawn_blocking(move || scratch.sweep_others());
    }

    fn sweep_others(&self) {
        if let Some(place) = self.directory.parent() {
            sweep(place, &self.directory);
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // while it is locked: nobody else removes it meanwhile
        clear(&self.directory);
        self.lock.take();
    }
}

/// Removes an attempt's directory, with the unfinished result that it notes.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match note(directory) {
        Ok(unfinished) => {
            if let Err(error) = remove_unfinished(&unfinished) {
                tracing::warn!(path = %unfinished.display(), %error, "an unfinished result stays behind");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(directory = %directory.display(), %error, "an attempt's note cannot be read"),
    }
    fs::remove_dir_all(directory)
}

/// The unfinished result that an attempt notes.
fn note(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join(NOTE);
    let found = fs::symlink_metadata(&path)?;
    if !found.is_file() || found.len() > LONGEST_NOTE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a note"));
    }
    Ok(OsString::from_vec(fs::read(&path)?).into())
}

/// Removes what workers that have gone left in `place`.
fn sweep(place: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for directory in entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path != own) {
        // one that is just being made has no lock yet, and no attempts
        if !directory.join(LOCK).is_file() {
            let _not_empty = fs::remove_dir(&directory);
            continue;
        }
        match Lock::take(&directory.join(LOCK)) {
            Ok(_lock) => {
                tracing::info!(directory = %directory.display(), "removes what a worker that has gone left");
                let owner = directory.file_name().and_then(|name| name.to_str()?.parse::<WorkerId>().ok());
                if let Some(owner) = owner {
                    contain::clear(&owner.to_string());
                }
                clear(&directory);
            }
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "a worker's directory is left alone")
            }
        }
    }
}

/// Removes a worker's directory with its attempts.
fn clear(worker: &Path) {
    let attempts = fs::read_dir(worker).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for attempt in attempts.filter(|path| path.is_dir() && !path.is_symlink()) {
        if let Err(error) = remove(&attempt) {
            tracing::warn!(directory = %attempt.display(), %error, "an attempt's directory stays behind");
        }
    }
    if let Err(error) = fs::remove_dir_all(worker) {
        tracing::warn!(directory = %worker.display(), %error, "a worker's directory stays behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ids;

    #[test]
    fn what_a_worker_that_has_gone_left_is_removed_and_that_of_others_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let living = Scratch::claim(dir.path(), ids::worker());
        fs::create_dir(living.path().join("attempt")).expect("made");
        let gone = dir.path().join("gone");
        fs::create_dir_all(gone.join("attempt/deep")).expect("made");
        fs::write(gone.join(LOCK), "").expect("written");
        fs::create_dir(dir.path().join("new")).expect("made");
        let own = Scratch::claim(dir.path(), ids::worker());
        assert!(!gone.exists() && living.path().join("attempt").exists() && own.path().exists());
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
        living.sweep_others();
        assert!(living.path().exists());
    }

    #[test]
    fn only_unfinished_results_are_removed_by_a_note() {
        let dir = tempfile::tempdir().expect("a directory");
        let precious = dir.path().join("precious.hdf");
        fs::write(&precious, "data").expect("written");
        for text in [precious.as_os_str().as_encoded_bytes(), b"", &[b'a'; 5000]] {
            let attempt = dir.path().join("attempt");
            fs::create_dir(&attempt).expect("made");
            fs::write(attempt.join(NOTE), text).expect("written");
            remove(&attempt).expect("removes");
            assert!(precious.exists() && !attempt.exists());
        }
    }
}
