//! Where the files of one question are opened and get their numbers, by which an answer names them. Opens them through the
//! [`Opener`] of whoever asks, wherever the library runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset::DatasetError;
use crate::dataset::opener::{Opened, Opener};

/// The most files of one question. Each stays open: a process's limit is mostly lower.
const MOST_FILES: usize = 1 << 14;

/// A file of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dataset) struct FileNumber(pub(super) u32);

#[cfg(test)]
impl FileNumber {
    /// Whether it is one or not.
    pub(in crate::dataset) fn of(number: u32) -> Self {
        Self(number)
    }
}

/// A file that was opened for a question.
#[derive(Debug, Clone)]
pub(in crate::dataset) struct DeskFile {
    /// By which the answer names it.
    pub(in crate::dataset) number: FileNumber,
    pub(super) opened: Arc<Opened>,
}

impl Deref for DeskFile {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        &self.opened
    }
}

/// Opens files for what reads them with the library.
pub(in crate::dataset) trait Desk {
    /// Opens a regular file.
    ///
    /// # Errors
    /// As [`Opener::open`].
    fn open(&self, path: &Path) -> Result<DeskFile, DatasetError>;
}

/// The files that were opened for a question; each is opened once.
#[derive(Debug)]
pub(in crate::dataset) struct Files<'o> {
    opener: &'o Opener,
    opened: RefCell<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: Vec<Arc<Opened>>,
    numbers: HashMap<PathBuf, FileNumber>,
    last: Option<PathBuf>,
}

impl<'o> Files<'o> {
    /// None yet.
    pub(in crate::dataset) fn new(opener: &'o Opener) -> Self {
        Self { opener, opened: RefCell::default() }
    }

    /// The file of a number, if there is one.
    pub(in crate::dataset) fn get(&self, number: FileNumber) -> Option<Arc<Opened>> {
        self.opened.borrow().files.get(number.0 as usize).cloned()
    }

    /// The file that was opened last, or again.
    pub(super) fn last(&self) -> Option<PathBuf> {
        self.opened.borrow().last.clone()
    }
}

impl Desk for Files<'_> {
    fn open(&self, path: &Path) -> Result<DeskFile, DatasetError> {
        let mut known = self.opened.borrow_mut();
        let number = match known.numbers.get(path) {
            Some(&number) => number,
            None => {
                let number = u32::try_from(known.files.len()).ok().filter(|_| known.files.len() < MOST_FILES);
                let number = FileNumber(number.ok_or_else(|| too_many(path))?);
                known.files.push(Arc::new(self.opener.open(path)?));
                known.numbers.insert(path.to_owned(), number);
                number
            }
        };
        known.last = Some(path.to_owned());
        Ok(DeskFile { number, opened: Arc::clone(&known.files[number.0 as usize]) })
    }
}

fn too_many(path: &Path) -> DatasetError {
    DatasetError::Unsupported {
        path: path.to_owned(),
        what: format!("it is one of more than {MOST_FILES} files that make a dataset"),
        remedy: "put the frames into fewer files".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_once_and_found_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&a, "aa").unwrap();
        std::fs::write(&b, "b").unwrap();
        let opener = Opener::anywhere();
        let files = Files::new(&opener);
        let numbers = [&a, &b, &a].map(|path| files.open(path).unwrap().number);
        assert_eq!(numbers, [FileNumber(0), FileNumber(1), FileNumber(0)]);
        assert_eq!(files.last().unwrap(), a);
        assert!(files.open(&dir.path().join("absent")).is_err());
        let lengths = [0, 1, 2, u32::MAX].map(|number| files.get(FileNumber(number)).map(|file| file.length));
        assert_eq!(lengths, [Some(2), Some(1), None, None]);
        assert_eq!(files.last().unwrap(), a);
    }
}
