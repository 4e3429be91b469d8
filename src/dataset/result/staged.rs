//! A result under construction: a hidden file beside the final name, renamed into place when it is whole.
//!
//! Whatever happens before [`Staged::publish`] leaves nothing behind. Knows nothing of what the file holds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::fault::save;
use super::naming::{NamingAnswer, PublishError, ResultNaming, is_published, mark};
use super::partial::{self, Claim};
use super::{Parents, ResultTarget};
use crate::dataset::DatasetError;
use crate::dataset::hdf5::library_locks;
use crate::task::correlate::Overwrite;
use crate::task::result::NamedResult;

/// Attempts to find a temporary name that nobody has; each is one in four billion.
const NAME_ATTEMPTS: usize = 16;

/// The hidden file. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    /// Open as long as the file is hidden, for the lock that says so.
    file: File,
    target: ResultTarget,
    published: bool,
}

impl Staged {
    /// Creates the directory, where absent, and the empty hidden file in it. What killed processes have left of the
    /// same result goes.
    ///
    /// # Errors
    /// The system's reason, as read-only or full.
    pub(super) fn create(target: &ResultTarget) -> Result<Self, DatasetError> {
        let planned = target.path(0);
        match target.parents {
            Parents::Made => {
                fs::create_dir_all(&target.directory).map_err(|e| save("create the directory of", &planned, e))?;
            }
            Parents::Expected => {}
        }
        partial::sweep(&target.directory, &target.file_name(0));
        for _ in 0..NAME_ATTEMPTS {
            let path = target.directory.join(partial::new_name(&target.file_name(0)));
            if let Some(note) = &target.note
                && let Err(error) = fs::write(note, path.as_os_str().as_encoded_bytes())
            {
                tracing::warn!(%error, "the unfinished result is not noted: it may stay behind if this process is killed");
            }
            let file = match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(save("create", &planned, e)),
            };
            if partial::claim(&file, library_locks()) == Claim::Granted {
                return Ok(Self { path, file, target: target.clone(), published: false });
            }
        }
        Err(save("create", &planned, "no free temporary name"))
    }

    /// The hidden file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.target.directory
    }

    /// Makes the file durable and gives it its final name, which is returned.
    ///
    /// # Errors
    /// The system's reason, or that it is not to be published; nothing is left behind then.
    pub(super) fn publish(mut self, naming: &dyn ResultNaming) -> Result<PathBuf, PublishError> {
        let planned = self.target.path(0);
        self.file.sync_all().map_err(|e| save("make durable", &planned, e))?;
        let path = match self.target.overwrite {
            Overwrite::Replace => self.rename_over(planned)?,
            Overwrite::Number => self.rename_as_settled(naming)?,
        };
        self.published = true;
        sync_directory(&self.target.directory);
        Ok(path)
    }

    /// Under the name that an earlier attempt published under, or else one that nobody has: each is settled before the
    /// file gets it.
    fn rename_as_settled(&self, naming: &dyn ResultNaming) -> Result<PathBuf, PublishError> {
        let metadata = self.file.metadata().map_err(|e| save("look at", &self.target.path(0), e))?;
        let file = mark(&metadata);
        let settle = |path: &Path| match naming.settle(&NamedResult { path: path.to_owned(), file }) {
            NamingAnswer::Settled => Ok(()),
            NamingAnswer::Stopped => Err(PublishError::Stopped),
        };
        let earlier = naming.earlier().filter(|earlier| self.target.may_have(&earlier.path));
        let is_ours = |path: &Path| earlier.is_some_and(|earlier| earlier.path == path && is_published(earlier));
        let names = earlier.map(|earlier| earlier.path.clone()).into_iter();
        for path in names.chain((0..u32::MAX).map(|number| self.target.path(number))) {
            // a name that is taken is not settled in vain
            if path.symlink_metadata().is_ok() && !is_ours(&path) {
                continue;
            }
            settle(&path)?;
            // looked at again: somebody else may have taken the name while it was settled
            if is_ours(&path) {
                return self.rename_over(path);
            }
            match rename_to_new(&self.path, &path) {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(self.not_renamed(e)),
            }
        }
        Err(self.not_renamed(io::ErrorKind::AlreadyExists.into()))
    }

    fn rename_over(&self, path: PathBuf) -> Result<PathBuf, PublishError> {
        fs::rename(&self.path, &path).map_err(|e| self.not_renamed(e))?;
        Ok(path)
    }

    fn not_renamed(&self, error: io::Error) -> PublishError {
        save("rename the finished file to", &self.target.path(0), error).into()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished result");
        }
    }
}

/// Renames only when nothing has the new name. File systems without such a rename (NFS, some parallel ones) get a
/// second link instead, which is as atomic.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_to_new(from, to),
        other => Ok(other?),
    }
}

fn link_to_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// The rename itself is done; a file system that cannot sync a directory is no reason to fail.
fn sync_directory(directory: &Path) {
    if let Err(error) = File::open(directory).and_then(|d| d.sync_all()) {
        tracing::debug!(path = %directory.display(), %error, "cannot sync the result's directory");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::dataset::result::OwnNaming;
    use crate::task::result::EarlierResult;

    fn target(directory: &Path, overwrite: Overwrite) -> ResultTarget {
        ResultTarget {
            directory: directory.to_owned(),
            stem: "A0001".to_owned(),
            overwrite,
            parents: Parents::Made,
            note: None,
        }
    }

    fn entries(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("listed")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_has_the_final_name_before_publish_and_nothing_stays_after_drop() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a/b");
        let staged = Staged::create(&target(&deep, Overwrite::Number)).expect("created");
        assert_eq!(entries(&deep).len(), 1);
        assert!(entries(&deep)[0].starts_with(".A0001_results.hdf."));
        drop(staged);
        assert_eq!(entries(&deep), [""; 0]);
    }

    #[test]
    fn numbers_count_up_and_replace_replaces() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["A0001_results.hdf", "A0001_results_1.hdf", "A0001_results_2.hdf"] {
            let staged = Staged::create(&target(dir.path(), Overwrite::Number)).expect("created");
            assert_eq!(staged.publish(&OwnNaming).expect("published"), dir.path().join(name));
        }
        let staged = Staged::create(&target(dir.path(), Overwrite::Replace)).expect("created");
        assert_eq!(staged.publish(&OwnNaming).expect("published"), dir.path().join("A0001_results.hdf"));
        assert_eq!(entries(dir.path()).len(), 3);
    }

    #[test]
    fn writers_at_the_same_time_get_different_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut paths: Vec<PathBuf> = std::thread::scope(|scope| {
            let publish =
                || Staged::create(&target(dir.path(), Overwrite::Number)).expect("created").publish(&OwnNaming);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(publish)).collect();
            threads.into_iter().map(|t| t.join().expect("no panic").expect("published")).collect()
        });
        paths.sort();
        paths.dedup();
        assert_eq!((paths.len(), entries(dir.path()).len()), (8, 8));
    }

    #[test]
    fn a_second_link_refuses_a_taken_name_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").expect("written");
        fs::write(&to, "old").expect("written");
        assert_eq!(link_to_new(&from, &to).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&to).expect("removed");
        link_to_new(&from, &to).expect("linked");
        assert_eq!((fs::read_to_string(&to).expect("read").as_str(), from.exists()), ("new", false));
    }

    #[test]
    fn a_directory_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let error = Staged::create(&target(&file, Overwrite::Number)).expect_err("refused");
        assert!(error.to_string().starts_with("cannot create the directory of the result "), "{error}");
    }

    /// An attempt of a task: remembers what was named, and says no after `most` names.
    struct Attempt<'n> {
        earlier: Option<EarlierResult>,
        names: &'n RefCell<Option<EarlierResult>>,
        most: RefCell<u32>,
    }

    impl<'n> Attempt<'n> {
        fn new(names: &'n RefCell<Option<EarlierResult>>, most: u32) -> Self {
            Self { earlier: names.borrow().clone(), names, most: RefCell::new(most) }
        }
    }

    impl ResultNaming for Attempt<'_> {
        fn earlier(&self) -> Option<&EarlierResult> {
            self.earlier.as_ref()
        }

        fn settle(&self, result: &NamedResult) -> NamingAnswer {
            if *self.most.borrow() == 0 {
                return NamingAnswer::Stopped;
            }
            *self.most.borrow_mut() -= 1;
            match &mut *self.names.borrow_mut() {
                Some(earlier) => earlier.name(result.clone()),
                none => *none = Some(EarlierResult::new(result.clone())),
            }
            NamingAnswer::Settled
        }
    }

    fn publish(directory: &Path, attempt: &Attempt<'_>, content: &str) -> Result<PathBuf, PublishError> {
        let staged = Staged::create(&target(directory, Overwrite::Number)).expect("created");
        fs::write(staged.path(), content).expect("written");
        staged.publish(attempt)
    }

    #[test]
    fn a_later_attempt_replaces_what_an_earlier_one_published() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = |content: &str| publish(dir.path(), &Attempt::new(&RefCell::default(), 9), content);
        own("another's").expect("published");
        let names = RefCell::default();
        for content in ["first", "second", "third"] {
            let path = publish(dir.path(), &Attempt::new(&names, 9), content).expect("published");
            assert_eq!(path, dir.path().join("A0001_results_1.hdf"));
            assert_eq!(fs::read_to_string(path).expect("read"), content);
        }
        fs::remove_file(dir.path().join("A0001_results.hdf")).expect("removed");
        let path = publish(dir.path(), &Attempt::new(&names, 9), "fourth").expect("published");
        assert_eq!(path, dir.path().join("A0001_results_1.hdf"), "it keeps its name");
        assert_eq!(own("another's").expect("published"), dir.path().join("A0001_results.hdf"));
        assert_eq!(entries(dir.path()), ["A0001_results.hdf", "A0001_results_1.hdf"]);
    }

    #[test]
    fn a_file_of_somebody_else_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = RefCell::default();
        publish(dir.path(), &Attempt::new(&names, 9), "first").expect("published");
        let taken = dir.path().join("A0001_results.hdf");
        fs::remove_file(&taken).expect("removed");
        fs::write(&taken, "another's").expect("written");
        let path = publish(dir.path(), &Attempt::new(&names, 9), "second").expect("published");
        assert_eq!(path, dir.path().join("A0001_results_1.hdf"));
        assert_eq!(fs::read_to_string(taken).expect("read"), "another's");
        // a name in another directory is no name of this result
        let elsewhere = tempfile::tempdir().expect("a directory");
        let path = publish(elsewhere.path(), &Attempt::new(&names, 9), "third").expect("published");
        assert_eq!(path, elsewhere.path().join("A0001_results.hdf"));
    }

    /// An attempt whose name another file gets while it is settled.
    struct Overtaken<'n>(Attempt<'n>);

    impl ResultNaming for Overtaken<'_> {
        fn earlier(&self) -> Option<&EarlierResult> {
            self.0.earlier()
        }

        fn settle(&self, result: &NamedResult) -> NamingAnswer {
            if Some(&result.path) == self.earlier().map(|earlier| &earlier.path) {
                fs::remove_file(&result.path).expect("removed");
                fs::write(&result.path, "another's").expect("written");
            }
            self.0.settle(result)
        }
    }

    #[test]
    fn a_file_that_takes_the_name_while_that_is_settled_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = RefCell::default();
        let first = publish(dir.path(), &Attempt::new(&names, 9), "first").expect("published");
        let staged = Staged::create(&target(dir.path(), Overwrite::Number)).expect("created");
        let path = staged.publish(&Overtaken(Attempt::new(&names, 9))).expect("published");
        assert_eq!(path, dir.path().join("A0001_results_1.hdf"));
        assert_eq!(fs::read_to_string(first).expect("read"), "another's");
    }

    #[test]
    fn what_is_not_settled_is_not_published() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = RefCell::default();
        let error = publish(dir.path(), &Attempt::new(&names, 0), "first").expect_err("stopped");
        assert!(matches!(error, PublishError::Stopped), "{error}");
        assert_eq!(entries(dir.path()), [""; 0]);
    }
}
