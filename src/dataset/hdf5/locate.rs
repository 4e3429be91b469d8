//! Finds an object and the file that really holds it, through external links.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hdf5::{Dataset, Group};

use crate::dataset::links::{Named, follow};
use crate::dataset::opener::{Opened, Opener};
use crate::dataset::{DatasetError, opener};

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

/// Opens a dataset by its absolute name.
///
/// # Errors
/// Files and objects that are missing, each by its name; files that may not be read; links that lead nowhere or in a
/// circle.
pub(super) fn locate(opener: &Opener, path: &Path, object: &str) -> Result<Located, DatasetError> {
    let Reached { opened, group, name, object } = reach(opener, path, object)?;
    let refused = |source| DatasetError::hdf5(format!("open {object}"), &opened.path, source);
    let dataset = group.dataset(&name).map_err(refused)?;
    Ok(Located { path: opened.path, file: opened.file, length: opened.length, dataset })
}

/// Opens a group by its absolute name; returns it with its file and its name there.
///
/// # Errors
/// As [`locate`].
pub(super) fn locate_group(opener: &Opener, path: &Path, object: &str) -> Result<(PathBuf, Group), DatasetError> {
    let Reached { opened, group, name, object } = reach(opener, path, object)?;
    let found =
        group.group(&name).map_err(|source| DatasetError::hdf5(format!("open {object}"), &opened.path, source))?;
    Ok((opened.path, found))
}

/// Where an object is.
struct Reached {
    opened: Opened,
    group: Group,
    /// Its name in the group.
    name: String,
    /// Its name in the file.
    object: String,
}

fn reach(opener: &Opener, path: &Path, object: &str) -> Result<Reached, DatasetError> {
    let (mut opened, mut object) = (opener.open(path)?, object.to_owned());
    for _ in 0..MAX_LINKS {
        let file = opened.hdf5().map_err(|source| DatasetError::hdf5("open it as HDF5", &opened.path, source))?;
        let named = follow(&file, &object);
        match named.map_err(|source| DatasetError::hdf5(format!("open {object}"), &opened.path, source))? {
            Named::Here { group, name } => return Ok(Reached { opened, group, name, object }),
            Named::Elsewhere { file: target, object: there } => {
                opened = resolve(opener, &opened.path, &target, &object)?;
                object = there;
            }
        }
    }
    Err(DatasetError::Unsupported {
        path: opened.path,
        what: format!("{object} is behind more than {MAX_LINKS} external links"),
        remedy: "name the file that holds the frames",
    })
}

/// The file that a link in `holder` names: as it stands, or beside the holder.
///
/// # Errors
/// A file that is missing, by its name, or may not be read.
pub(super) fn resolve(opener: &Opener, holder: &Path, target: &Path, object: &str) -> Result<Opened, DatasetError> {
    let directory = holder.parent().unwrap_or(Path::new(""));
    let named = directory.join(target);
    let refusal = match opener.open(&named) {
        Ok(opened) => return Ok(opened),
        Err(refusal) => refusal,
    };
    // An absolute name is that of the computer where the file was written; files that were moved stay together.
    let beside = target.file_name().map(|name| directory.join(name));
    let beside = beside.filter(|beside| *beside != named).and_then(|beside| opener.open(&beside).ok());
    if let Some(opened) = beside {
        return Ok(opened);
    }
    if matches!(refusal, DatasetError::Outside { .. }) {
        let link = Some(opener::OutsideLink { holder: holder.to_owned(), object: object.to_owned() });
        return Err(DatasetError::Outside { path: named, link });
    }
    if !matches!(&refusal, DatasetError::Io { source, .. } if source.kind() == ErrorKind::NotFound) {
        return Err(refusal);
    }
    Err(DatasetError::Raw {
        path: holder.to_owned(),
        place: object.to_owned(),
        what: format!("links to {}, which does not exist", named.display()),
        remedy: "copy the linked file beside this one",
    })
}
