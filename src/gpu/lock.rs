//! A GPU belongs to one process at a time: a lock across the processes of a user on a node, by UUID.
//!
//! It is the kernel's lock on a file (`flock`) and ends with the process that holds it, whatever ends that: what is left
//! is a file, which says nothing. Nobody waits for a process that is dead. The process that computes on the GPU is the
//! one to hold it, not the one that started it. The directory is the caller's to choose: on this node, not shared with
//! others, and not emptied while programs run.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use thiserror::Error;

use super::identity::GpuUuid;

/// How often the file may have been removed and made again while we took it: more is no accident.
const REMOVALS: u32 = 16;

/// Held as long as it lives.
#[derive(Debug)]
pub struct GpuLock {
    file: File,
}

/// A lock that cannot be had.
#[derive(Debug, Error)]
pub enum GpuLockError {
    /// Another process has it.
    #[error("the GPU {gpu} is in use by {}", told(*holder))]
    Held {
        /// Which GPU.
        gpu: GpuUuid,
        /// The process; None when it has not said.
        holder: Option<u32>,
    },
    /// There is no directory for it.
    #[error("the directory {} for locks cannot be used", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others could take locks away from us.
    #[error(
        "the directory {} for locks belongs to another user or is open to others: remove it, or name another",
        path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be opened; a link is not followed.
    #[error("opening the lock file {} failed", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file system does not lock.
    #[error("locking {} failed", path.display())]
    Lock {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file was removed again and again while it was taken.
    #[error("the lock file {} is being removed by someone", path.display())]
    Removed {
        /// Which.
        path: PathBuf,
    },
    /// Waiting needs a thread.
    #[error("starting the thread that waits for the lock failed")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
}

fn told(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl GpuLock {
    /// Takes it, at once or not at all. The directory is made if need be, for this user alone.
    ///
    /// # Errors
    /// Another process has it, or the directory or the file cannot be used.
    pub fn try_take(directory: &Path, gpu: &GpuUuid) -> Result<Self, GpuLockError> {
        let place = Place::open(directory, gpu)?;
        place.take(|file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(place.held()),
            Err(TryLockError::Error(source)) => Err(GpuLockError::Lock { path: place.path(), source }),
        })
    }

    /// Takes it when it is free, within a time.
    ///
    /// The wait is the kernel's, in a thread of its own, which cannot be called back: when the time is over it goes on
    /// waiting, and lets go at once of what it gets.
    ///
    /// # Errors
    /// Another process has it all the time, or the directory or the file cannot be used.
    pub fn take(directory: &Path, gpu: &GpuUuid, limit: Duration) -> Result<Self, GpuLockError> {
        match Self::try_take(directory, gpu) {
            Err(GpuLockError::Held { .. }) => {}
            done => return done,
        }
        let place = Place::open(directory, gpu)?;
        let held = place.held();
        let (answer, answered) = mpsc::sync_channel(1);
        let wait = move || {
            let lock = |file: &File| file.lock().map_err(|source| GpuLockError::Lock { path: place.path(), source });
            // nobody listens any more: the lock ends here
            let _told = answer.send(place.take(lock));
        };
        Builder::new().name("gpu-lock".to_owned()).spawn(wait).map_err(|source| GpuLockError::Thread { source })?;
        answered.recv_timeout(limit).unwrap_or(Err(held))
    }
}

impl Drop for GpuLock {
    fn drop(&mut self) {
        // closing is not enough: a process that is being started has a copy of the file until its program begins
        let _ends_with_the_process = self.file.unlock();
    }
}

/// Where the lock of a GPU is.
struct Place {
    directory: OwnedFd,
    path: PathBuf,
    name: String,
    gpu: GpuUuid,
}

impl Place {
    fn open(path: &Path, gpu: &GpuUuid) -> Result<Self, GpuLockError> {
        let failed =
            |source: rustix::io::Errno| GpuLockError::Directory { path: path.to_owned(), source: source.into() };
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(source) => return Err(failed(source)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let found = rustix::fs::fstat(&directory).map_err(failed)?;
        let others = Mode::RWXG | Mode::RWXO;
        let is_private = !Mode::from_raw_mode(found.st_mode).intersects(others);
        if found.st_uid != rustix::process::geteuid().as_raw() || !is_private {
            return Err(GpuLockError::NotOurs { path: path.to_owned() });
        }
        Ok(Self { directory, path: path.to_owned(), name: name(gpu), gpu: gpu.clone() })
    }

    fn path(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    /// Locks the file that is there, and not one that was removed meanwhile: that would be a lock for nobody.
    fn take(&self, lock: impl Fn(&File) -> Result<(), GpuLockError>) -> Result<GpuLock, GpuLockError> {
        for _ in 0..REMOVALS {
            let file = self.file()?;
            lock(&file)?;
            let mut taken = GpuLock { file };
            if self.is_there(&taken.file)? {
                let told = format!("{}\n", std::process::id());
                // for people: a full disk is no reason not to compute
                let _told = taken.file.set_len(0).and_then(|()| taken.file.write_all(told.as_bytes()));
                return Ok(taken);
            }
        }
        Err(GpuLockError::Removed { path: self.path() })
    }

    /// Not truncated: it may be another's.
    fn file(&self) -> Result<File, GpuLockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, &self.name, flags, Mode::RUSR | Mode::WUSR);
        opened.map(File::from).map_err(|source| GpuLockError::Open { path: self.path(), source: source.into() })
    }

    fn is_there(&self, file: &File) -> Result<bool, GpuLockError> {
        let failed = |source: rustix::io::Errno| GpuLockError::Open { path: self.path(), source: source.into() };
        let ours = rustix::fs::fstat(file.as_fd()).map_err(failed)?;
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(is_same(&ours, &found)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(source) => Err(failed(source)),
        }
    }

    /// By whom, as the file says.
    fn held(&self) -> GpuLockError {
        let text = self.file().and_then(|file| {
            io::read_to_string(file).map_err(|source| GpuLockError::Open { path: self.path(), source })
        });
        let holder = text.ok().and_then(|text| text.trim().parse().ok());
        GpuLockError::Held { gpu: self.gpu.clone(), holder }
    }
}

fn name(gpu: &GpuUuid) -> String {
    format!("{}.lock", gpu.digits().replace('/', "."))
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
    use std::process::{Child, Command, Stdio};

    use super::*;

    const DIRECTORY: &str = "SPECKLED_TEST_GPU_LOCK";

    /// Longer than any of it takes.
    const LONG: Duration = Duration::from_secs(60);

    fn gpu() -> GpuUuid {
        "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0".parse().expect("a UUID")
    }

    /// Run by other tests in a process of its own: holds the lock until its input ends.
    #[test]
    fn holds_the_lock_for_another_test() {
        let Some(directory) = std::env::var_os(DIRECTORY) else { return };
        let _lock = GpuLock::try_take(Path::new(&directory), &gpu()).expect("is free");
        eprintln!("held");
        io::stdin().read_to_end(&mut Vec::new()).expect("reads");
    }

    fn another_process(directory: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["holds_the_lock_for_another_test", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let told = BufReader::new(child.stderr.take().expect("is a pipe"));
        assert!(told.lines().any(|line| line.is_ok_and(|line| line.contains("held"))), "it did not take the lock");
        child
    }

    #[test]
    fn a_killed_process_leaves_no_lock() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("locks");
        let mut child = another_process(&directory);
        let error = GpuLock::try_take(&directory, &gpu()).expect_err("is held");
        assert!(matches!(error, GpuLockError::Held { holder: Some(pid), .. } if pid == child.id()), "{error}");
        assert_eq!(error.to_string(), format!("the GPU {} is in use by process {}", gpu(), child.id()));
        // SIGKILL: it can tidy up nothing
        child.kill().expect("kills");
        child.wait().expect("ends");
        GpuLock::try_take(&directory, &gpu()).expect("is free");
    }

    #[test]
    fn who_waits_gets_it_when_the_holder_dies() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut child = another_process(&folder.path().join("locks"));
        let directory = folder.path().join("locks");
        let too_short = GpuLock::take(&directory, &gpu(), Duration::ZERO).expect_err("is held");
        assert!(matches!(too_short, GpuLockError::Held { .. }), "{too_short}");
        let waiter = std::thread::spawn(move || GpuLock::take(&directory, &gpu(), LONG));
        child.kill().expect("kills");
        child.wait().expect("ends");
        waiter.join().expect("no panic").expect("gets it");
    }

    #[test]
    fn it_is_one_gpus_and_ends_with_its_value() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("locks");
        let lock = GpuLock::try_take(&directory, &gpu()).expect("is free");
        let _copy = lock.file.try_clone().expect("as a process that is being started has one");
        assert!(matches!(GpuLock::try_take(&directory, &gpu()), Err(GpuLockError::Held { .. })));
        let other = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6".parse().expect("a UUID");
        GpuLock::try_take(&directory, &other).expect("is another");
        drop(lock);
        GpuLock::try_take(&directory, &gpu()).expect("is free");
    }

    #[test]
    fn who_asks_nvml_and_who_asks_cuda_mean_one_lock() {
        let named = |text: &str| name(&text.parse().expect("a UUID"));
        let digits = "8932f937-d72c-4106-c12f-20bd9faed9f6";
        let wanted = format!("{digits}.lock");
        assert_eq!(named(&format!("MIG-{digits}")), wanted, "an instance, by NVML");
        assert_eq!(named(&format!("GPU-{digits}")), wanted, "the same, by CUDA");
        assert_eq!(named(&format!("GPU-{}", digits.to_ascii_uppercase())), wanted);
        let old = format!("MIG-GPU-{digits}/1/0");
        assert_eq!(named(&old), format!("GPU-{digits}.1.0.lock"), "an older name is no whole GPU's");
        assert_ne!(named(&old), named(&format!("MIG-GPU-{digits}/10/0")));

        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("locks");
        let [by_nvml, by_cuda] = ["MIG", "GPU"].map(|kind| format!("{kind}-{digits}").parse().expect("a UUID"));
        let _lock = GpuLock::try_take(&directory, &by_nvml).expect("is free");
        assert!(matches!(GpuLock::try_take(&directory, &by_cuda), Err(GpuLockError::Held { .. })));
    }

    #[test]
    fn a_file_that_was_removed_locks_nothing() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("locks");
        let place = Place::open(&directory, &gpu()).expect("opens");
        let removals = std::cell::Cell::new(0);
        let lock = place.take(|file| {
            if removals.get() < 3 {
                removals.set(removals.get() + 1);
                std::fs::remove_file(place.path()).expect("is there");
            }
            if removals.get() == 2 {
                std::fs::write(place.path(), "").expect("another makes it anew");
            }
            file.try_lock().map_err(|_error| place.held())
        });
        let lock = lock.expect("the fourth stays");
        assert!(matches!(GpuLock::try_take(&directory, &gpu()), Err(GpuLockError::Held { .. })));
        drop(lock);
        let forever = place.take(|_| {
            std::fs::remove_file(place.path()).expect("is there");
            Ok(())
        });
        assert!(matches!(forever, Err(GpuLockError::Removed { .. })));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("locks");
        GpuLock::try_take(&directory, &gpu()).expect("makes it");
        let mode = std::fs::metadata(&directory).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        let link = folder.path().join("link");
        symlink(&directory, &link).expect("links");
        assert!(matches!(GpuLock::try_take(&link, &gpu()), Err(GpuLockError::Directory { .. })), "a link");

        let open = folder.path().join("open");
        std::fs::DirBuilder::new().mode(0o700).create(&open).expect("makes");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o770)).expect("opens");
        assert!(matches!(GpuLock::try_take(&open, &gpu()), Err(GpuLockError::NotOurs { .. })));

        let file = directory.join("8932f937-d72c-4106-c12f-20bd9faed9f6.lock");
        symlink(folder.path().join("elsewhere"), file).expect("links");
        let other = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6".parse().expect("a UUID");
        assert!(matches!(GpuLock::try_take(&directory, &other), Err(GpuLockError::Open { .. })), "a link");

        let nowhere = folder.path().join("no/such/place");
        assert!(matches!(GpuLock::try_take(&nowhere, &gpu()), Err(GpuLockError::Directory { .. })));
    }
}
