//! The one door to the files that are read: what a name leads to is opened first and then held against what may be read,
//! so that a link which changes meanwhile leads nowhere else. Knows no format.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::reader::{Apart, LibraryPlace, wire};
use super::{DatasetError, plain};

/// Which files may be read.
pub trait ReadGate: Debug + Send + Sync {
    /// Whether a file may be read that lies at this path, which is absolute and has no links.
    fn admits(&self, place: &Path) -> bool;

    /// Whether a file may be read that this name leads to, if it leads anywhere.
    fn admits_name(&self, name: &Path) -> bool;
}

/// Opens files for reading: any, or those that a gate admits. It knows where the HDF5 library reads them, too.
#[derive(Debug, Clone, Default)]
pub struct Opener {
    gate: Option<Arc<dyn ReadGate>>,
    library: LibraryPlace,
}

/// What refers to a file that may not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideLink {
    /// The file.
    #[serde(with = "wire::path")]
    pub holder: PathBuf,
    /// The object in it.
    pub object: String,
}

impl fmt::Display for OutsideLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} refers to it", self.object, self.holder.display())
    }
}

/// A regular file that may be read.
#[derive(Debug)]
pub(super) struct Opened {
    /// The file.
    pub(super) file: File,
    /// As it was asked for.
    pub(super) path: PathBuf,
    /// Its bytes.
    pub(super) length: u64,
}

impl Opener {
    /// Opens whatever the process may open: for people's own commands.
    pub fn anywhere() -> Self {
        Self::default()
    }

    /// Opens what a gate admits: for the work of others.
    pub fn behind(gate: impl ReadGate + 'static) -> Self {
        Self { gate: Some(Arc::new(gate)), ..Self::default() }
    }

    /// Has the HDF5 library read in a process apart: for this program's own commands. Without, it reads in this process.
    #[must_use]
    pub fn reading_apart(self) -> Self {
        self.reading_at(LibraryPlace::Apart(Arc::new(Apart::new())))
    }

    /// Has the HDF5 library read there.
    pub(super) fn reading_at(self, library: LibraryPlace) -> Self {
        Self { library, ..self }
    }

    /// Where the HDF5 library reads.
    pub(super) fn library(&self) -> &LibraryPlace {
        &self.library
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// The operating system's, also for a directory, pipe or device, which positioned reads cannot serve;
    /// [`DatasetError::Outside`] for a file that the gate does not admit, whether it is there or not.
    pub(super) fn open(&self, path: &Path) -> Result<Opened, DatasetError> {
        let outside = || DatasetError::Outside { path: path.to_owned(), link: None };
        let (file, length) = match open(path) {
            Ok(opened) => opened,
            Err(_) if self.gate.as_ref().is_some_and(|gate| !gate.admits_name(path)) => return Err(outside()),
            Err(error) => return Err(DatasetError::io("open", path, error)),
        };
        if let Some(gate) = &self.gate {
            let place = std::fs::read_link(entry(&file)).map_err(|e| DatasetError::io("find", path, e))?;
            if !gate.admits(&place) {
                return Err(outside());
            }
        }
        Ok(Opened { file, path: path.to_owned(), length })
    }

    /// As [`Opener::open`], for formats of which no valid file is empty.
    ///
    /// # Errors
    /// As [`Opener::open`], and an empty file.
    pub(super) fn open_filled(&self, path: &Path) -> Result<Opened, DatasetError> {
        let opened = self.open(path)?;
        if opened.length == 0 {
            return Err(DatasetError::Raw {
                path: path.to_owned(),
                place: "byte 0".into(),
                what: "the file is empty".into(),
                remedy: "transfer it again or leave the dataset out".into(),
            });
        }
        Ok(opened)
    }
}

impl Opened {
    /// Opens the same file with the HDF5 library, whatever its name leads to by now.
    pub(super) fn hdf5(&self) -> hdf5::Result<hdf5::File> {
        hdf5::File::open(entry(&self.file))
    }

    /// Whether the file is HDF5.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn is_hdf5(&self) -> Result<bool, DatasetError> {
        plain::is_hdf5(&self.file, &self.path, self.length)
    }
}

fn open(path: &Path) -> Result<(File, u64), Error> {
    let regular = |found: &std::fs::Metadata| match found {
        found if found.is_dir() => Err(Error::from(ErrorKind::IsADirectory)),
        found if !found.is_file() => Err(Error::new(ErrorKind::InvalidInput, "not a regular file")),
        _ => Ok(()),
    };
    // asked before opening, which moves some devices; asked again of what was opened, which does not wait for a pipe
    regular(&std::fs::metadata(path)?)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    regular(&found)?;
    Ok((file, found.len()))
}

/// The name by which the kernel tells where an open file lies, and opens it again.
fn entry(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_not_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [dir.path(), &dir.path().join("absent"), Path::new("/dev/null"), &pipe] {
            let refused = Opener::anywhere().open(path);
            assert!(matches!(refused, Err(DatasetError::Io { action, .. }) if action == "open"), "{}", path.display());
        }
    }

    /// Admits what lies below a directory.
    #[derive(Debug)]
    struct Below(PathBuf);

    impl ReadGate for Below {
        fn admits(&self, place: &Path) -> bool {
            place.starts_with(&self.0)
        }

        fn admits_name(&self, name: &Path) -> bool {
            name.starts_with(&self.0)
        }
    }

    fn site() -> (tempfile::TempDir, PathBuf, Opener) {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for name in ["data", "secret"] {
            std::fs::create_dir(top.join(name)).unwrap();
            std::fs::write(top.join(name).join("a"), name).unwrap();
        }
        let opener = Opener::behind(Below(top.join("data")));
        (dir, top, opener)
    }

    #[test]
    fn a_name_that_leads_outside_is_refused_whether_something_is_there_or_not() {
        let (_dir, top, opener) = site();
        symlink(top.join("secret/a"), top.join("data/link")).unwrap();
        symlink(top.join("data/a"), top.join("data/own")).unwrap();
        for (name, admitted) in [("data/a", true), ("data/own", true), ("data/link", false), ("secret/a", false)] {
            let opened = opener.open(&top.join(name));
            assert_eq!(opened.is_ok(), admitted, "{name}: {opened:?}");
        }
        let absent = opener.open(&top.join("secret/b")).unwrap_err();
        assert!(matches!(absent, DatasetError::Outside { .. }), "{absent}");
        let absent = opener.open(&top.join("data/b")).unwrap_err();
        assert!(matches!(absent, DatasetError::Io { .. }), "{absent}");
    }

    /// A link that is flipped between two files, as fast as can be, never gives the foreign one.
    #[test]
    fn a_link_that_changes_meanwhile_opens_nothing_foreign() {
        let (_dir, top, opener) = site();
        let (link, over) = (top.join("data/link"), AtomicBool::new(false));
        symlink(top.join("data/a"), &link).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let new = top.join("data/new");
                for target in ["secret/a", "data/a"].iter().cycle() {
                    symlink(top.join(target), &new).unwrap();
                    std::fs::rename(&new, &link).unwrap();
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let mut opened = 0;
            for _ in 0..20_000 {
                if let Ok(found) = opener.open(&link) {
                    assert_eq!(std::io::read_to_string(found.file).unwrap(), "data");
                    opened += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(opened > 0);
        });
    }

    #[test]
    fn the_library_opens_the_file_that_was_opened() {
        let (_dir, top, opener) = site();
        let path = top.join("data/a.h5");
        hdf5::File::create(&path).unwrap().create_group("inside").unwrap();
        let opened = opener.open(&path).unwrap();
        std::fs::rename(&path, top.join("data/b.h5")).unwrap();
        hdf5::File::create(&path).unwrap();
        assert!(opened.is_hdf5().unwrap());
        assert!(opened.hdf5().unwrap().group("inside").is_ok());
    }
}
