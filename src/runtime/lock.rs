//! One process has a directory. The lock is the operating system's and ends with the process, whatever ends it; the
//! file says who has it, and its age says nothing. Not every file system that computers share locks across them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

use thiserror::Error;

use crate::task::names::printable;

/// How long a process that a killed one was just starting may keep its lock: until its program begins. A fork on a
/// loaded node takes well below a second.
const REMAINS: Duration = Duration::from_secs(5);

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
    /// Takes it, at once or not at all. Where its process has died, what that was just starting is waited for.
    ///
    /// # Errors
    /// Another process has it, or the file system refuses.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        // not truncated: it may be another's
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(path);
                if !is_gone(&holder) || !lock_within(&file, REMAINS)? {
                    return Err(LockError::Held { holder });
                }
            }
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

/// Locks it when it is free, within a time; false when that is over.
///
/// The wait is the kernel's, in a thread of its own, which cannot be called back: it goes on waiting afterwards, and
/// lets go at once of what it gets.
fn lock_within(file: &File, limit: Duration) -> io::Result<bool> {
    let (answer, answered) = mpsc::sync_channel(0);
    // the same open file: what the thread locks is locked here
    let copy = file.try_clone()?;
    let wait = move || {
        let locked = copy.lock();
        if answer.send(locked).is_err() {
            let _nobody_wants_it = copy.unlock();
        }
    };
    Builder::new().name("lock".to_owned()).spawn(wait)?;
    answered.recv_timeout(limit).map_or(Ok(false), |locked| locked.map(|()| true))
}

/// True when a process of this computer had it and is no more.
fn is_gone(holder: &str) -> bool {
    let Some((process, node)) = holder.split_once(" on ") else { return false };
    let process = process.parse().ok().and_then(rustix::process::Pid::from_raw);
    let here = rustix::system::uname();
    node == here.nodename().to_string_lossy()
        && process.is_some_and(|process| rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH))
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

    #[test]
    fn what_a_dead_process_was_starting_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let mut gone = std::process::Command::new("true").spawn().expect("starts");
        gone.wait().expect("ends");
        let node = rustix::system::uname();
        std::fs::write(&path, format!("{} on {}\n", gone.id(), node.nodename().to_string_lossy())).expect("written");
        let copy = File::open(&path).expect("opens");
        copy.lock().expect("as the process that is being started");
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| Lock::take(&path));
            // it waits in the kernel, which shows who waits
            let waits = || std::fs::read_to_string("/proc/locks").expect("read").contains("-> FLOCK");
            let limit = std::time::Instant::now() + REMAINS;
            while !waits() && std::time::Instant::now() < limit {
                std::thread::yield_now();
            }
            assert!(!taken.is_finished());
            drop(copy);
            taken.join().expect("ends").expect("is free");
        });
    }
}
