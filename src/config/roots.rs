//! Which paths a task may read and write: those below the roots of the endpoint's configuration, once `..` and links
//! are resolved.
//!
//! A path that is not there yet (a result's directory) is held against the roots by its nearest parent that is.
//! Between the check and the use somebody with rights below a root could put a link there; a root must therefore not
//! be writable for people whom the endpoint's account should not serve.

use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// Where tasks may read and write: links resolved, on the computer that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
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

impl Roots {
    /// Resolves them, here and now.
    ///
    /// # Errors
    /// A root that is relative or cannot be resolved: a configuration that names it is wrong.
    pub fn new(raw: &RawRoots) -> Result<Self, RootError> {
        let resolved = |roots: &[PathBuf]| roots.iter().map(|root| resolve(root)).collect::<Result<Vec<_>, _>>();
        Ok(Self { read: resolved(&raw.read)?, write: resolved(&raw.write)? })
    }

    /// Holds a path against the roots.
    ///
    /// # Errors
    /// A path that is relative, leads outside, or cannot be followed.
    pub fn check(&self, asked: &Path, access: Access) -> Result<AllowedPath, RootError> {
        let path = resolve(asked)?;
        let below = |roots: &[PathBuf]| roots.iter().any(|root| path.starts_with(root));
        let (allowed, verb, key) = match access {
            Access::Read => (below(&self.read) || below(&self.write), "read", "roots.read"),
            Access::Write => (below(&self.write), "write", "roots.write"),
        };
        if allowed { Ok(AllowedPath(path)) } else { Err(RootError::Outside { asked: asked.to_owned(), verb, key }) }
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
        let roots = Roots::new(&raw).expect("roots");
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
        assert!(Roots::new(&RawRoots { read: vec!["data".into()], write: Vec::new() }).is_err());
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
