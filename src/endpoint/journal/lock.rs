//! One process writes an endpoint's directory. The lock is the operating system's and ends with the process, whatever
//! ends it; the file beside it says who has it, and its age says nothing. Across the nodes of a shared file system the
//! controller's lease on the endpoint's name decides, since not every such file system locks.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::JournalError;
use crate::task::names::printable;

/// The lock's file in the endpoint's directory.
const NAME: &str = "journal.lock";

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes it, at once or not at all.
    pub(super) fn take(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(NAME);
        let locking = |source| JournalError::io("locking", &path, source);
        // not truncated: it may be another's
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(locking)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Held { dir: dir.to_owned(), holder: holder(&path) });
            }
            Err(TryLockError::Error(source)) => return Err(locking(source)),
        }
        let node = rustix::system::uname();
        let told = format!("{} on {}\n", std::process::id(), node.nodename().to_string_lossy());
        // for people: a full disk is no reason not to start
        let _told = file.set_len(0).and_then(|()| file.write_all(told.as_bytes()));
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // closing is not enough: a process that is being started has a copy of the file until its program begins
        let _ends_with_the_process = self.file.unlock();
    }
}

/// Who wrote into the file last.
fn holder(path: &Path) -> String {
    let told = std::fs::read_to_string(path).unwrap_or_default();
    match told.lines().next() {
        Some(line) if !line.is_empty() => printable(line, 100),
        _ => "(it has not said which)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = Lock::take(dir.path()).expect("takes it");
        let _copy = lock.file.try_clone().expect("as a process that is being started has one");
        assert!(matches!(Lock::take(dir.path()), Err(JournalError::Held { .. })));
        drop(lock);
        Lock::take(dir.path()).expect("is free");
    }
}
