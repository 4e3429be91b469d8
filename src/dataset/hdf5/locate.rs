//! Finds an object and the file that really holds it, through external links.

use std::io::ErrorKind;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use hdf5::{Dataset, Group};

use crate::dataset::DatasetError;
use crate::dataset::links::{Named, follow};
use crate::dataset::opener::{Opened, OutsideLink};
use crate::dataset::reader::{Desk, DeskFile};

/// External links that are followed one after the other.
const MAX_LINKS: usize = 8;

/// An open dataset, with the file that its bytes are in.
#[derive(Debug)]
pub(super) struct Located {
    /// The file.
    pub(super) file: DeskFile,
    /// The dataset.
    pub(super) dataset: Dataset,
}

impl Deref for Located {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        &self.file
    }
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
pub(super) fn locate(desk: &dyn Desk, path: &Path, object: &str) -> Result<Located, DatasetError> {
    let Reached { opened, group, name, object } = reach(desk, path, object)?;
    let refused = |source| DatasetError::hdf5(format!("open {object}"), &opened.path, source);
    let dataset = group.dataset(&name).map_err(refused)?;
    Ok(Located { file: opened, dataset })
}

/// Opens a group by its absolute name; returns it with its file and its name there.
///
/// # Errors
/// As [`locate`].
pub(super) fn locate_group(desk: &dyn Desk, path: &Path, object: &str) -> Result<(PathBuf, Group), DatasetError> {
    let Reached { opened, group, name, object } = reach(desk, path, object)?;
    let found =
        group.group(&name).map_err(|source| DatasetError::hdf5(format!("open {object}"), &opened.path, source))?;
    Ok((opened.path.clone(), found))
}

/// Where an object is.
struct Reached {
    opened: DeskFile,
    group: Group,
    /// Its name in the group.
    name: String,
    /// Its name in the file.
    object: String,
}

fn reach(desk: &dyn Desk, path: &Path, object: &str) -> Result<Reached, DatasetError> {
    let (mut opened, mut object) = (desk.open(path)?, object.to_owned());
    for _ in 0..MAX_LINKS {
        let file = opened.hdf5().map_err(|source| DatasetError::hdf5("open it as HDF5", &opened.path, source))?;
        let named = follow(&file, &object);
        match named.map_err(|source| DatasetError::hdf5(format!("open {object}"), &opened.path, source))? {
            Named::Here { group, name } => return Ok(Reached { opened, group, name, object }),
            Named::Elsewhere { file: target, object: there } => {
                opened = resolve(desk, &opened.path, &target, &object)?;
                object = there;
            }
        }
    }
    Err(DatasetError::Unsupported {
        path: opened.path.clone(),
        what: format!("{object} is behind more than {MAX_LINKS} external links"),
        remedy: "name the file that holds the frames".into(),
    })
}

/// The file that a link in `holder` names: as it stands, or beside the holder.
///
/// # Errors
/// A file that is missing, by its name, or may not be read.
pub(super) fn resolve(desk: &dyn Desk, holder: &Path, target: &Path, object: &str) -> Result<DeskFile, DatasetError> {
    let directory = holder.parent().unwrap_or(Path::new(""));
    let named = directory.join(target);
    let refusal = match desk.open(&named) {
        Ok(opened) => return Ok(opened),
        Err(refusal) => refusal,
    };
    // An absolute name is that of the computer where the file was written; files that were moved stay together.
    let beside = target.file_name().map(|name| directory.join(name));
    let beside = beside.filter(|beside| *beside != named).and_then(|beside| desk.open(&beside).ok());
    if let Some(opened) = beside {
        return Ok(opened);
    }
    if matches!(refusal, DatasetError::Outside { .. }) {
        let link = Some(OutsideLink { holder: holder.to_owned(), object: object.to_owned() });
        return Err(DatasetError::Outside { path: named, link });
    }
    if !matches!(&refusal, DatasetError::Io { source, .. } if source.kind() == ErrorKind::NotFound) {
        return Err(refusal);
    }
    Err(DatasetError::Raw {
        path: holder.to_owned(),
        place: object.to_owned(),
        what: format!("links to {}, which does not exist", named.display()),
        remedy: "copy the linked file beside this one".into(),
    })
}
