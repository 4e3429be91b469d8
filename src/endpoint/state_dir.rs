//! An endpoint's directory: which file is where, who the endpoint is.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::ids::{EndpointId, IdError};
use crate::runtime::files::replace;
use crate::runtime::ids;

/// The longest path of a socket (unix(7): 108 bytes with the NUL at its end).
const LONGEST_SOCKET: usize = 107;

/// An endpoint's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

/// A directory that cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// The file system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The id's file holds none.
    #[error("{} holds no endpoint id; restore it, or configure the endpoint anew", path.display())]
    Id {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: IdError,
    },
    /// The socket's path does not fit.
    #[error(
        "{} is too long a path for a socket ({LONGEST_SOCKET} bytes at most); give the endpoint a directory nearer to /",
        path.display()
    )]
    Socket {
        /// The path.
        path: PathBuf,
    },
}

impl StateDir {
    /// A directory, whether it exists or not.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The socket of workers and commands.
    ///
    /// # Errors
    /// Its path does not fit.
    pub fn socket(&self) -> Result<PathBuf, StateDirError> {
        let path = self.0.join("socket");
        if path.as_os_str().len() > LONGEST_SOCKET { Err(StateDirError::Socket { path }) } else { Ok(path) }
    }

    /// What the endpoint writes for people, when it runs in the background.
    pub fn log(&self) -> PathBuf {
        self.0.join("endpoint.log")
    }

    /// Logs of attempts and workers.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Directories of attempts while they run.
    pub fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// A directory for each block whose workers connect from other computers.
    pub fn blocks(&self) -> PathBuf {
        self.0.join("blocks")
    }

    /// The CA that proves to those workers which endpoint this is: its certificate, and its private key.
    pub fn link_ca(&self) -> [PathBuf; 2] {
        ["link-ca.pem", "link-ca.key"].map(|name| self.0.join(name))
    }

    /// Makes what is missing, for its owner alone; gives the endpoint an id unless it has one.
    ///
    /// # Errors
    /// The file system refuses, or the id is damaged.
    pub fn make(&self) -> Result<EndpointId, StateDirError> {
        for path in [self.0.clone(), self.logs(), self.scratch()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| StateDirError::Io { action: "create the directory", path, source })?;
        }
        let path = self.0.join("id");
        if !path.exists() {
            self.replace(&path, format!("{}\n", ids::endpoint()).as_bytes())?;
        }
        self.id()
    }

    /// Notes that this directory is the endpoint's, and not one that is copied from it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn claim(&self) -> Result<(), StateDirError> {
        let place = self.place()?;
        self.replace(&self.0.join("place"), place.as_bytes())
    }

    /// Whether the directory was copied from the one in which the endpoint last ran.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn is_copy(&self) -> Result<bool, StateDirError> {
        // one that never ran has none
        let claimed = fs::read_to_string(self.0.join("place")).ok();
        let place = self.place()?;
        Ok(claimed.is_some_and(|claimed| claimed != place))
    }

    /// What tells the directory from its copies.
    fn place(&self) -> Result<String, StateDirError> {
        let found = fs::metadata(&self.0);
        let found = found.map_err(|source| StateDirError::Io { action: "look at", path: self.0.clone(), source })?;
        Ok(format!("{}:{}\n", found.dev(), found.ino()))
    }

    /// Which endpoint it is.
    ///
    /// # Errors
    /// There is none, or the file is damaged.
    pub fn id(&self) -> Result<EndpointId, StateDirError> {
        let path = self.0.join("id");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|source| StateDirError::Id { path, source }),
            Err(source) => Err(StateDirError::Io { action: "read", path, source }),
        }
    }

    /// Deletes logs that nobody has written for so long; returns how many. Blocks on the file system.
    ///
    /// # Errors
    /// The file system refuses to list them; one that cannot be deleted stays.
    pub fn sweep_logs(&self, age: Duration) -> Result<usize, StateDirError> {
        let path = self.logs();
        let entries = fs::read_dir(&path).map_err(|source| StateDirError::Io { action: "list", path, source })?;
        let old = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|file| file.modified());
            // a file from the future is not old
            written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since > age))
        };
        let swept = entries.filter_map(Result::ok).filter(old).filter(|entry| fs::remove_file(entry.path()).is_ok());
        Ok(swept.count())
    }

    /// Writes a file of the directory, for its owner alone; it is whole whenever the process or the machine dies.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StateDirError> {
        let written = replace(path, content);
        written.map_err(|source| StateDirError::Io { action: "write", path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_id() {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = StateDir::new(dir.path().join("deep/polaris"));
        let id = state_dir.make().expect("made");
        assert_eq!(state_dir.make().expect("made before"), id);
        fs::write(state_dir.directory().join("id"), "polaris").expect("written");
        assert!(state_dir.id().expect_err("no id").to_string().contains("holds no endpoint id"));
    }

    #[test]
    fn a_copy_is_told_from_the_directory_that_ran() {
        let dir = tempfile::tempdir().expect("a directory");
        let [own, copy] = ["own", "copy"].map(|name| StateDir::new(dir.path().join(name)));
        for state_dir in [&own, &copy] {
            state_dir.make().expect("made");
            assert!(!state_dir.is_copy().expect("reads"), "neither ran");
        }
        own.claim().expect("written");
        fs::copy(own.directory().join("place"), copy.directory().join("place")).expect("copied");
        assert!(!own.is_copy().expect("reads") && copy.is_copy().expect("reads"));
        copy.claim().expect("it is started in its own right");
        assert!(!copy.is_copy().expect("reads"));
    }

    #[test]
    fn only_old_logs_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = StateDir::new(dir.path().to_owned());
        state_dir.make().expect("made");
        let [old, new] = ["old.log", "new.log"].map(|name| state_dir.logs().join(name));
        for (path, hours) in [(&old, 30), (&new, 1)] {
            let file = fs::File::create(path).expect("made");
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).expect("ours");
        }
        assert_eq!(state_dir.sweep_logs(Duration::from_secs(24 * 3600)).expect("lists"), 1);
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_long_path_has_no_socket() {
        let error = StateDir::new(PathBuf::from("/").join("a".repeat(120))).socket().expect_err("too long");
        assert!(error.to_string().contains("107 bytes at most"), "{error}");
    }
}
