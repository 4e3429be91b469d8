//! One process has a directory. The lock is the operating system's and ends with the process, whatever ends it; the
//! file says who has it, and its age says nothing. Not every file system that computers share locks across them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use thiserror::Error;

use crate::task::names::printable;

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// A lock that cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("it is in use by process {holder}")]
    Held {
        /// Its number, and where it runs.
        holder: String,
    },
    /// The file system refuses.
    #[error("locking failed")]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes it, at once or not at all.
    ///
    /// # Errors
    /// Another process has it, or the file system refuses.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        // not truncated: it may be another's
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { holder: holder(path) }),
            Err(TryLockError::Error(source)) => return Err(source.into()),
        }
        let node = rustix::system::uname();
        let told = format!("{} on {}\n", std::process::id(), node.nodename().to_string_lossy());
        // for people: a full disk is no reason not to start
        let _told = file.set_len(0).and_then(|()| file.write_all(told.as_bytes()));
        Ok(Self { file })
    }

    /// Who has it now; None when nobody has. Takes it for a moment to see.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn held_by(path: &Path) -> io::Result<Option<String>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| None),
            Err(TryLockError::WouldBlock) => Ok(Some(holder(path))),
            Err(TryLockError::Error(error)) => Err(error),
        }
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
        let path = dir.path().join("lock");
        assert_eq!(Lock::held_by(&path).expect("read"), None);
        let lock = Lock::take(&path).expect("takes it");
        let _copy = lock.file.try_clone().expect("as a process that is being started has one");
        let Err(LockError::Held { holder }) = Lock::take(&path) else { panic!("two have it") };
        assert!(holder.starts_with(&format!("{} on ", std::process::id())), "{holder}");
        assert_eq!(Lock::held_by(&path).expect("read"), Some(holder));
        drop(lock);
        assert_eq!(Lock::held_by(&path).expect("read"), None);
        Lock::take(&path).expect("is free");
    }
}
