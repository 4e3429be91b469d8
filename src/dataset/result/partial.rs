//! Unfinished results: their names and locks, and the removal of those that a killed process has left.
//!
//! One is removed only when everything says that nobody writes it any more: it is named after this computer, no
//! process has the number in its name, and its lock is free. The lock speaks for processes of other containers,
//! whose numbers mean nothing here; the name for other computers, whose locks a shared file system may not show.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::host_name;
use crate::dataset::hdf5::LibraryLocks;

const ENDING: &str = ".partial";

/// Hexadecimal digits of the random part of a name.
const DIGITS: usize = 8;

/// A name for an unfinished `result`, most likely one that nobody has.
pub(super) fn new_name(result: &str) -> String {
    let (process, random) = (std::process::id(), rand::random::<u32>());
    format!("{}{process}-{random:0DIGITS$x}{ENDING}", beginning(result))
}

/// Whether a file that this process has just created is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Locked, or to be locked by the library, or on a file system without locks.
    Granted,
    /// A sweep was faster than the lock: the file is gone, or will be.
    Lost,
}

/// Locks a new file until it is closed. The HDF5 library's own lock, where it takes one, stands in for this lock and
/// would be refused beside it.
pub(super) fn claim(file: &File, library: LibraryLocks) -> Claim {
    if library == LibraryLocks::On {
        return Claim::Granted;
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Claim::Lost,
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, "no lock for the unfinished result");
            Claim::Granted
        }
        Ok(()) if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) => Claim::Lost,
        Ok(()) => Claim::Granted,
    }
}

/// Removes what killed processes have left of `result`. What cannot be removed stays: it harms nobody.
pub(super) fn sweep(directory: &Path, result: &str) {
    let beginning = beginning(result);
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().and_then(|name| process_of(name, &beginning)).is_some_and(gone) {
            continue;
        }
        let path = entry.path();
        match remove_unlocked(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what a killed run had left"),
            Err(error) => tracing::debug!(path = %path.display(), %error, "left an unfinished result alone"),
        }
    }
}

/// Removes an unfinished result that a process of this computer has left; one that is not there any more is no error.
///
/// # Errors
/// A path that is none, or whose process lives; the system's reason.
pub fn remove_unfinished(path: &Path) -> io::Result<()> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let host = format!(".{}-", host_name().replace('/', "_"));
    // a result's name may have the computer's in it, too
    let process = name.strip_prefix('.').and_then(|rest| rest.rsplit_once(&host)).map(|(result, _)| result);
    match process.and_then(|result| process_of(name, &beginning(result))) {
        None => refused("not an unfinished result of this computer"),
        Some(process) if !gone(process) => refused("its process lives"),
        Some(_) => match remove_unlocked(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
    }
}

fn beginning(result: &str) -> String {
    // A name has no slash, but the system does not forbid one in the computer's.
    format!(".{result}.{}-", host_name().replace('/', "_"))
}

/// The process that writes the file `name`, if that is one of those that begin so.
fn process_of(name: &str, beginning: &str) -> Option<Pid> {
    let (process, random) = name.strip_prefix(beginning)?.strip_suffix(ENDING)?.split_once('-')?;
    let ours = random.len() == DIGITS && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    process.parse().ok().filter(|_| ours).and_then(Pid::from_raw)
}

fn gone(process: Pid) -> bool {
    test_kill_process(process) == Err(Errno::SRCH)
}

fn remove_unlocked(path: &Path) -> io::Result<()> {
    // Writable, or NFS refuses the lock; never through a link, never waiting for what is no file.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    file.try_lock()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "A0001_results.hdf";

    /// A number that no process has.
    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        child.wait().expect("ended");
        child.id()
    }

    fn name(result: &str, process: u32) -> String {
        format!("{}{process}-0123abcd{ENDING}", beginning(result))
    }

    fn swept(name: &str, prepare: impl FnOnce(&Path) -> Option<File>) -> bool {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        fs::write(&path, "part").expect("written");
        let _held = prepare(&path);
        sweep(dir.path(), RESULT);
        !path.exists()
    }

    #[test]
    fn what_a_dead_process_left_is_removed() {
        assert!(swept(&name(RESULT, dead()), |_| None));
    }

    #[test]
    fn what_may_be_written_stays() {
        let locked = |path: &Path| {
            let file = OpenOptions::new().write(true).open(path).expect("opened");
            assert_eq!(claim(&file, LibraryLocks::Off), Claim::Granted);
            Some(file)
        };
        assert!(!swept(&name(RESULT, dead()), locked), "locked");
        assert!(!swept(&name(RESULT, std::process::id()), |_| None), "alive");
        assert!(!swept(&new_name(RESULT), |_| None), "this process");
        assert!(!swept(&format!(".{RESULT}.elsewhere-{}-0123abcd.partial", dead()), |_| None), "another computer");
    }

    #[test]
    fn other_files_stay() {
        let dead = dead();
        let ours = name(RESULT, dead);
        let others = [
            name("A0001_b_results.hdf", dead),
            name("A0001_results_1.hdf", dead),
            ours.replace("0123abcd", "0123abcx"),
            ours.replace("0123abcd", "0123abcd0"),
            ours.replace(ENDING, ".part"),
            ours.replace(&dead.to_string(), "x"),
            ours.replace(&dead.to_string(), "0"),
            ours[1..].to_owned(),
            RESULT.to_owned(),
        ];
        for other in others {
            assert!(!swept(&other, |_| None), "{other}");
        }
    }

    #[test]
    fn a_file_that_a_sweep_has_seen_first_is_not_claimed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(RESULT);
        let file = File::create(&path).expect("created");
        let sweeper = File::open(&path).expect("opened");
        sweeper.lock().expect("locked");
        assert_eq!(claim(&file, LibraryLocks::Off), Claim::Lost);
        assert_eq!(claim(&file, LibraryLocks::On), Claim::Granted);
        fs::remove_file(&path).expect("removed");
        drop(sweeper);
        assert_eq!(claim(&file, LibraryLocks::Off), Claim::Lost);
    }
}
