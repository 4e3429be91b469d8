//! Finds a dataset and the file that really holds it, through external links.

use std::fs::File;
use std::path::{Path, PathBuf};

use hdf5::Dataset;

use super::ffi;
use crate::dataset::{DatasetError, plain};

/// External links that are followed one after the other.
const MAX_LINKS: usize = 8;

/// An open dataset, with the file that its bytes are in.
#[derive(Debug)]
pub(super) struct Located {
    /// The file.
    pub(super) path: PathBuf,
    /// The same, for positioned reads.
    pub(super) file: File,
    /// Its bytes.
    pub(super) length: u64,
    /// The dataset.
    pub(super) dataset: Dataset,
}

impl Located {
    /// The dataset's name in its file.
    pub(super) fn name(&self) -> String {
        self.dataset.name()
    }
}

/// Opens a regular HDF5 file.
///
/// # Errors
/// A file that is missing, not regular or not HDF5.
pub(super) fn open_file(path: &Path) -> Result<hdf5::File, DatasetError> {
    plain::open(path)?;
    hdf5::File::open(path).map_err(|source| DatasetError::hdf5("open it as HDF5", path, source))
}

/// Opens a dataset by its absolute name.
///
/// # Errors
/// Files and objects that are missing, each by its name; links that lead nowhere or in a circle.
pub(super) fn locate(path: &Path, object: &str) -> Result<Located, DatasetError> {
    let (mut path, mut object) = (path.to_owned(), object.to_owned());
    for _ in 0..MAX_LINKS {
        let file = open_file(&path)?;
        let (parent, name) = object.trim_matches('/').rsplit_once('/').unwrap_or(("", object.trim_matches('/')));
        let refused = |source| DatasetError::hdf5(format!("open {object}"), &path, source);
        let group = if parent.is_empty() { file.as_group() } else { file.group(parent) }.map_err(refused)?;
        match ffi::external_target(&group, name).map_err(refused)? {
            None => return in_file(&path, group.dataset(name).map_err(refused)?),
            Some((target, in_target)) => {
                // Relative to the file that holds the link, which a linked group may have changed.
                let holder = PathBuf::from(group.filename());
                path = resolve(&holder, &target, &object)?;
                object = in_target;
            }
        }
    }
    Err(DatasetError::Unsupported {
        path,
        what: format!("{object} is behind more than {MAX_LINKS} external links"),
        remedy: "name the file that holds the frames",
    })
}

/// The file that a link in `holder` names: as it stands, or beside the holder.
///
/// # Errors
/// A file that is missing, by its name.
pub(super) fn resolve(holder: &Path, target: &Path, object: &str) -> Result<PathBuf, DatasetError> {
    let directory = holder.parent().unwrap_or(Path::new(""));
    // An absolute name is that of the computer where the file was written; files that were moved stay together.
    let beside = target.file_name().map(|name| directory.join(name));
    let named = directory.join(target);
    let found = [Some(&named), beside.as_ref()].into_iter().flatten().find(|path| path.exists());
    found.cloned().ok_or_else(|| DatasetError::Raw {
        path: holder.to_owned(),
        place: object.to_owned(),
        what: format!("links to {}, which does not exist", named.display()),
        remedy: "copy the linked file beside this one",
    })
}

fn in_file(path: &Path, dataset: Dataset) -> Result<Located, DatasetError> {
    // A linked group puts the dataset into another file than the one that was opened.
    let holder = PathBuf::from(dataset.filename());
    let path = if holder.as_os_str().is_empty() { path.to_owned() } else { holder };
    let (file, length) = plain::open(&path)?;
    Ok(Located { path, file, length, dataset })
}
