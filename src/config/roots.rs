//! Which paths a task may read and write: those below the roots of the endpoint's configuration, once `..` and links
//! are resolved.
//!
//! A path that is not there yet (a result's directory) is held against the roots by its nearest parent that is. The roots
//! themselves must be there, on the file system on which they were when the worker started: an empty directory that a
//! mount has left behind is no root. Nothing is made above a root.
//! Between the check of a name and its use somebody with rights below a root could put a link there: what is read is
//! therefore held against the roots once more when it is open, and the kernel confines who writes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, mkdirat, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::mounts::{Mount, MountTable, RootMounts};
use crate::task::template::Access;

/// Links that lead to links: Linux gives up after 40 too.
const MOST_LINKS: u32 = 40;

/// Directories below which tasks may read, and write, as a configuration names them. What may be written may be read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRoots {
    /// Tasks may read below these.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Tasks may read and write below these.
    #[serde(default)]
    pub write: Vec<PathBuf>,
}

/// The roots of a configuration on a node, and where they lay when they were looked at first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRoots {
    /// As the configuration names them.
    pub raw: RawRoots,
    /// Their file systems; None when they are looked at for the first time.
    pub mounts: Option<RootMounts>,
}

/// Where tasks may read and write: links resolved, on the computer that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    mounts: RootMounts,
}

/// A path that was held against the roots: absolute, without `..` and links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowedPath(PathBuf);

/// A path that a task may not use, or a root that is none.
#[derive(Debug, Error)]
pub enum RootError {
    /// A relative path would mean another place for each process.
    #[error("{} is not an absolute path; give it from the root directory on", asked.display())]
    Relative {
        /// As it was asked for.
        asked: PathBuf,
    },
    /// Outside all roots.
    #[error("{} lies outside the directories that tasks may {verb}; ask the endpoint's administrator for {key}", asked.display())]
    Outside {
        /// As it was asked for: where links lead is not told.
        asked: PathBuf,
        /// What was to be done.
        verb: &'static str,
        /// The configuration's key.
        key: &'static str,
    },
    /// The file system does not say what it is.
    #[error("looking at {} failed", path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A root is not there, or no directory.
    #[error("the root {} is not there", root.display())]
    Absent {
        /// As it is configured.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else is there than when the worker started.
    #[error(
        "the root {} is not the one that it was: it was on {} ({}), now {}",
        root.display(), was.source, was.kind, is.as_ref().map_or("on no known file system".to_owned(), |is| format!("on {} ({})", is.source, is.kind))
    )]
    Replaced {
        /// As it is configured.
        root: PathBuf,
        /// What it lay on.
        was: Box<Mount>,
        /// What it lies on.
        is: Option<Box<Mount>>,
    },
    /// Nothing can be written there.
    #[error("the root {} is on a file system that is mounted read-only", root.display())]
    ReadOnly {
        /// As it is configured.
        root: PathBuf,
    },
    /// A directory below a root cannot be made.
    #[error("cannot create the directory {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Links in a circle.
    #[error("{} leads through more than {MOST_LINKS} links", asked.display())]
    Links {
        /// As it was asked for.
        asked: PathBuf,
    },
}

impl AllowedPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl RawRoots {
    /// Whether they can be roots; looks at no file system: they may be on other computers.
    ///
    /// # Errors
    /// One that is relative.
    pub fn check(&self) -> Result<(), RootError> {
        match self.read.iter().chain(&self.write).find(|root| !root.is_absolute()) {
            Some(root) => Err(RootError::Relative { asked: root.clone() }),
            None => Ok(()),
        }
    }
}

impl NodeRoots {
    /// Looks at them, here and now; blocks on their file systems.
    ///
    /// # Errors
    /// One that is relative: the configuration is wrong. One that is not there, lies elsewhere than it did, or cannot be
    /// written although it should be: this node cannot work.
    pub fn open(&self) -> Result<Roots, RootError> {
        let Self { raw: RawRoots { read, write }, mounts } = self;
        let table = MountTable::read().unwrap_or_default();
        let mut found = RootMounts::default();
        let mut look = |root: &PathBuf, access| {
            let path = look_at_root(root, access)?;
            let is = table.of(&path);
            if let Some(was) = mounts.as_ref().and_then(|mounts| mounts.0.get(root))
                && is != Some(was)
            {
                let is = is.cloned().map(Box::new);
                return Err(RootError::Replaced { root: root.clone(), was: Box::new(was.clone()), is });
            }
            found.0.extend(is.map(|is| (root.clone(), is.clone())));
            Ok(path)
        };
        let read = read.iter().map(|root| look(root, Access::Read)).collect::<Result<Vec<_>, _>>()?;
        let write = write.iter().map(|root| look(root, Access::Write)).collect::<Result<Vec<_>, _>>()?;
        Ok(Roots { read, write, mounts: found })
    }
}

impl Roots {
    /// The file systems that they lie on.
    pub fn mounts(&self) -> &RootMounts {
        &self.mounts
    }

    /// Makes a directory below a root that may be written, and those between them.
    ///
    /// # Errors
    /// The root is gone, or the file system refuses; a link that has appeared meanwhile is not followed.
    pub fn make_directory(&self, path: &AllowedPath) -> Result<(), RootError> {
        let below = self.write.iter().filter(|root| path.0.starts_with(root));
        let Some(root) = below.max_by_key(|root| root.as_os_str().len()) else {
            return Err(RootError::Outside { asked: path.0.clone(), verb: "write", key: "roots.write" });
        };
        let absent = |error: Errno| RootError::Absent { root: root.clone(), source: error.into() };
        let mut directory = open_directory(CWD, root).map_err(absent)?;
        let mut made = root.clone();
        for part in path.0.strip_prefix(root).unwrap_or(&path.0) {
            made.push(part);
            let refused = |error: Errno| RootError::Make { path: made.clone(), source: error.into() };
            match mkdirat(&directory, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(refused(error)),
            }
            directory = open_directory(&directory, part.as_ref()).map_err(refused)?;
        }
        Ok(())
    }

    /// Whether a place lies below a root; it is absolute and has no links.
    pub fn has(&self, place: &Path) -> bool {
        below(&self.read, place) || below(&self.write, place)
    }

    /// Holds a path against the roots.
    ///
    /// # Errors
    /// A path that is relative, leads outside, or cannot be followed.
    pub fn check(&self, asked: &Path, access: Access) -> Result<AllowedPath, RootError> {
        let path = resolve(asked)?;
        let (allowed, verb, key) = match access {
            Access::Read => (self.has(&path), "read", "roots.read"),
            Access::Write => (below(&self.write, &path), "write", "roots.write"),
        };
        if allowed { Ok(AllowedPath(path)) } else { Err(RootError::Outside { asked: asked.to_owned(), verb, key }) }
    }
}

fn below(roots: &[PathBuf], place: &Path) -> bool {
    roots.iter().any(|root| place.starts_with(root))
}

fn open_directory(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Where a root leads; it is opened, so that an automounter mounts it.
fn look_at_root(root: &Path, access: Access) -> Result<PathBuf, RootError> {
    let absent = |source| RootError::Absent { root: root.to_owned(), source };
    let path = match resolve(root) {
        Err(RootError::Look { source, .. }) => return Err(absent(source)),
        other => other?,
    };
    let directory = open_directory(CWD, &path).map_err(|error| absent(error.into()))?;
    let flags = fstatvfs(&directory).map_err(|error| absent(error.into()))?.f_flag;
    match access {
        Access::Write if flags.contains(StatVfsMountFlags::RDONLY) => {
            Err(RootError::ReadOnly { root: root.to_owned() })
        }
        Access::Read | Access::Write => Ok(path),
    }
}

/// The path without `.`, `..` and links, also where its end does not exist.
fn resolve(asked: &Path) -> Result<PathBuf, RootError> {
    if !asked.is_absolute() {
        return Err(RootError::Relative { asked: asked.to_owned() });
    }
    let mut links = 0;
    let mut rest: Vec<PathBuf> = parts(asked);
    let mut path = PathBuf::from("/");
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            path.pop();
            continue;
        }
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(RootError::Links { asked: asked.to_owned() });
                }
                let target =
                    std::fs::read_link(&path).map_err(|source| RootError::Look { path: path.clone(), source })?;
                // a relative link begins where the link lies, an absolute one at the top
                path.pop();
                if target.is_absolute() {
                    path = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RootError::Look { path, source }),
        }
    }
    Ok(path)
}

/// The names and `..` of a path, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| PathBuf::from(part.as_os_str())).rev().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// `data` may be read, `results` written, `secret` neither; links lead to and fro.
    fn site() -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["data/run1", "results", "secret", "data-old"] {
            std::fs::create_dir_all(at(name)).expect("a directory");
        }
        std::fs::write(at("data/run1/a.bin"), "x").expect("a file");
        std::fs::write(at("secret/key"), "x").expect("a file");
        symlink("../secret", at("data/out")).expect("a link");
        symlink(at("secret/key"), at("results/key")).expect("a link");
        symlink("run1", at("data/latest")).expect("a link");
        symlink("circle", at("data/circle")).expect("a link");
        symlink("nowhere/yet", at("results/dangling")).expect("a link");
        let raw = RawRoots { read: vec![at("data")], write: vec![at("results")] };
        let roots = NodeRoots { raw, mounts: None }.open().expect("roots");
        (dir, roots)
    }

    fn outcome(roots: &Roots, dir: &Path, name: &str, access: Access) -> String {
        match roots.check(&dir.join(name), access) {
            Ok(path) => {
                let dir = dir.canonicalize().expect("exists");
                path.as_path().strip_prefix(&dir).expect("below").display().to_string()
            }
            Err(error) => error.to_string().replace(&dir.display().to_string(), "DIR"),
        }
    }

    #[test]
    fn what_lies_below_the_roots_is_allowed() {
        let (dir, roots) = site();
        for (name, access, wanted) in [
            ("data/run1/a.bin", Access::Read, "data/run1/a.bin"),
            ("data/./run1/../latest/a.bin", Access::Read, "data/run1/a.bin"),
            ("results/new/deep/a_results.hdf", Access::Write, "results/new/deep/a_results.hdf"),
            ("results/dangling", Access::Write, "results/nowhere/yet"),
            ("results", Access::Read, "results"),
        ] {
            assert_eq!(outcome(&roots, dir.path(), name, access), wanted, "{name}");
        }
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let (dir, roots) = site();
        for (name, access) in [
            ("secret/key", Access::Read),
            ("data/../secret/key", Access::Read),
            ("data/out/key", Access::Read),
            ("results/key", Access::Read),
            ("results/key", Access::Write),
            ("results/new/../../secret/key", Access::Write),
            ("data-old/a", Access::Read),
            ("data/run1/a.bin", Access::Write),
            ("data/out/../data-old", Access::Read),
        ] {
            let error = outcome(&roots, dir.path(), name, access);
            assert!(error.contains("lies outside") && error.contains(name), "{name}: {error}");
            assert!(!error.contains("DIR/secret/key") || name.contains("secret"), "tells where a link leads: {error}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        let (dir, roots) = site();
        assert!(outcome(&roots, dir.path(), "data/circle", Access::Read).contains("more than 40 links"));
        let below_a_file = outcome(&roots, dir.path(), "data/run1/a.bin/b", Access::Read);
        assert!(below_a_file.starts_with("looking at DIR/data/run1/a.bin/b failed"), "{below_a_file}");
        let relative = roots.check(Path::new("data/a"), Access::Read).expect_err("relative").to_string();
        assert!(relative.contains("not an absolute path"), "{relative}");
        let raw = RawRoots { read: vec!["data".into()], write: Vec::new() };
        assert!(matches!(NodeRoots { raw, mounts: None }.open(), Err(RootError::Relative { .. })));
    }

    #[test]
    fn roots_are_there_and_where_they_were() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("data");
        let raw = RawRoots { read: Vec::new(), write: vec![root.clone()] };
        let node = NodeRoots { raw: raw.clone(), mounts: None };
        assert!(matches!(node.open(), Err(RootError::Absent { .. })));
        std::fs::write(&root, "").expect("written");
        assert!(matches!(node.open(), Err(RootError::Absent { .. })), "a file is no root");
        std::fs::remove_file(&root).expect("ours");
        std::fs::create_dir(&root).expect("made");
        let mounts = node.open().expect("is there").mounts().clone();
        assert!(NodeRoots { raw: raw.clone(), mounts: Some(mounts.clone()) }.open().is_ok());
        let mut other = mounts;
        other.0.get_mut(&root).expect("on some file system").source = "nas1:/export".to_owned();
        let error = NodeRoots { raw, mounts: Some(other) }.open().expect_err("another file system").to_string();
        assert!(error.contains("it was on nas1:/export"), "{error}");
        let raw = RawRoots { read: Vec::new(), write: vec!["/proc/self".into()] };
        assert!(NodeRoots { raw, mounts: None }.open().is_ok(), "a root may be a link");
    }

    #[test]
    fn directories_are_made_below_a_root_alone() {
        let (dir, roots) = site();
        let allowed = |name: &str| roots.check(&dir.path().join(name), Access::Write).expect("allowed");
        let deep = allowed("results/a/b/c");
        roots.make_directory(&deep).expect("made");
        roots.make_directory(&deep).expect("is there");
        assert!(dir.path().join("results/a/b/c").is_dir());
        // a link that appears after the check
        let late = allowed("results/late/new");
        symlink(dir.path().join("secret"), dir.path().join("results/late")).expect("a link");
        assert!(matches!(roots.make_directory(&late), Err(RootError::Make { .. })));
        assert!(!dir.path().join("secret/new").exists());
        std::fs::remove_dir_all(dir.path().join("results")).expect("ours");
        assert!(matches!(roots.make_directory(&deep), Err(RootError::Absent { .. })));
        assert!(!dir.path().join("results").exists(), "nothing is made above a root");
    }

    proptest! {
        #[test]
        fn no_path_of_steps_leaves_the_roots(
            steps in prop::collection::vec(
                prop::sample::select(vec!["..", ".", "data", "results", "secret", "run1", "out", "latest", "key", "dangling"]),
                0..9,
            ),
        ) {
            let (dir, roots) = site();
            let asked = steps.iter().fold(dir.path().join("data"), |path, step| path.join(step));
            let secret = dir.path().canonicalize().expect("exists").join("secret");
            if let Ok(allowed) = roots.check(&asked, Access::Read) {
                prop_assert!(!allowed.as_path().starts_with(&secret));
                // the kernel agrees where there is something
                if let Ok(real) = asked.canonicalize() {
                    prop_assert_eq!(allowed.as_path(), &real);
                }
            }
        }
    }
}
