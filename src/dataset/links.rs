//! Follows the names in HDF5 files part by part, and lets no link of a file lead out of it unasked: the library itself
//! never comes upon an external link. Opens no file.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use hdf5::dataset::Layout;
use hdf5::{Dataset, File, Group};
use thiserror::Error;

use super::hdf5::ffi::{self, LinkKind, LinkValue, ObjectKind, ObjectToken};

/// Links within a file that are followed one after the other: as the library does.
const MOST_SOFT_LINKS: usize = 16;

/// Objects of a file that are looked at: a result with a two-time map for each of 10 000 bins has fewer.
pub(super) const MOST_OBJECTS: usize = 100_000;

/// Where a name leads.
#[derive(Debug)]
pub(super) enum Named {
    /// To an object of this file.
    Here {
        /// The group that has it.
        group: Group,
        /// Its name there.
        name: String,
    },
    /// Into another file.
    Elsewhere {
        /// Its name, as the link has it.
        file: PathBuf,
        /// The object there.
        object: String,
    },
}

/// How a file refers to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// A link.
    ExternalLink,
    /// A link of a kind that only other programs know.
    UnknownLink,
    /// A dataset with its bytes elsewhere.
    ExternalStorage,
    /// A dataset that is put together from others.
    VirtualDataset,
}

/// Why a file does not stand for itself.
#[derive(Debug, Error)]
pub(super) enum ContainmentError {
    /// It refers to another file.
    #[error("{object} is {}, which may lead to another file", reference.words())]
    Refers {
        /// The name.
        object: String,
        /// How.
        reference: Reference,
    },
    /// It has too many objects to look at.
    #[error("it has more than {MOST_OBJECTS} objects")]
    Many,
    /// The library cannot walk it.
    #[error("{object} cannot be looked at")]
    Library {
        /// Where it failed.
        object: String,
        /// Why.
        #[source]
        source: hdf5::Error,
    },
}

impl Reference {
    /// In words.
    fn words(self) -> &'static str {
        match self {
            Self::ExternalLink => "an external link",
            Self::UnknownLink => "a link of an unknown kind",
            Self::ExternalStorage => "a dataset with external storage",
            Self::VirtualDataset => "a virtual dataset",
        }
    }
}

/// Follows an absolute name.
///
/// # Errors
/// A part that is missing; soft links in a circle; links of an unknown kind.
pub(super) fn follow(file: &File, name: &str) -> hdf5::Result<Named> {
    let mut group = file.as_group()?;
    let mut rest: VecDeque<String> = parts(name).collect();
    let mut followed = 0;
    while let Some(part) = rest.pop_front() {
        match ffi::link_value(&group, &part)? {
            LinkValue::Hard if rest.is_empty() => return Ok(Named::Here { group, name: part }),
            LinkValue::Hard => group = group.group(&part)?,
            LinkValue::Soft(target) => {
                followed += 1;
                if followed > MOST_SOFT_LINKS {
                    return Err(format!("{name} is behind more than {MOST_SOFT_LINKS} soft links").into());
                }
                if target.starts_with('/') {
                    group = file.as_group()?;
                }
                parts(&target).rev().for_each(|part| rest.push_front(part));
            }
            LinkValue::External(target, object) => {
                let object = std::iter::once(object).chain(rest).collect::<Vec<_>>().join("/");
                return Ok(Named::Elsewhere { file: target, object });
            }
            LinkValue::Unknown => return Err(format!("{part} is a link of an unknown kind").into()),
        }
    }
    Ok(Named::Here { group, name: ".".to_owned() })
}

/// Looks at all links and datasets of a file: none may lead to another file.
///
/// # Errors
/// The first that does; what the library refuses.
pub(super) fn check_contained(file: &File) -> Result<(), ContainmentError> {
    let root = file.as_group().map_err(|source| ContainmentError::Library { object: "/".to_owned(), source })?;
    let (mut waiting, mut seen, mut objects) = (vec![(String::new(), root)], HashSet::new(), 0);
    while let Some((path, group)) = waiting.pop() {
        let links = ffi::links(&group, MOST_OBJECTS).map_err(|source| library(&path, source))?;
        objects += links.len();
        if objects > MOST_OBJECTS {
            return Err(ContainmentError::Many);
        }
        for (name, kind) in links {
            let object = format!("{path}/{name}");
            match kind {
                LinkKind::Hard => waiting.extend(inside(&group, &name, object, &mut seen)?),
                // to a name that is looked at where it is
                LinkKind::Soft => {}
                LinkKind::External => return Err(refers(object, Reference::ExternalLink)),
                LinkKind::Unknown => return Err(refers(object, Reference::UnknownLink)),
            }
        }
    }
    Ok(())
}

/// Whether a dataset's bytes are in its file.
///
/// # Errors
/// What the library refuses.
pub(super) fn reference_of(dataset: &Dataset) -> hdf5::Result<Option<Reference>> {
    let made = dataset.create_plist()?;
    Ok(match made.get_layout()? {
        Layout::Virtual => Some(Reference::VirtualDataset),
        Layout::Compact | Layout::Contiguous | Layout::Chunked if !made.get_external()?.is_empty() => {
            Some(Reference::ExternalStorage)
        }
        Layout::Compact | Layout::Contiguous | Layout::Chunked => None,
    })
}

/// Looks at an object; a group that was not seen before is to be looked into.
fn inside(
    holder: &Group,
    name: &str,
    object: String,
    seen: &mut HashSet<ObjectToken>,
) -> Result<Option<(String, Group)>, ContainmentError> {
    let (kind, token) = ffi::object_of(holder, name).map_err(|source| library(&object, source))?;
    if !seen.insert(token) {
        return Ok(None);
    }
    match kind {
        ObjectKind::Group => {
            let group = holder.group(name).map_err(|source| library(&object, source))?;
            Ok(Some((object, group)))
        }
        ObjectKind::Dataset => {
            let reference = holder.dataset(name).and_then(|dataset| reference_of(&dataset));
            match reference.map_err(|source| library(&object, source))? {
                Some(reference) => Err(refers(object, reference)),
                None => Ok(None),
            }
        }
        ObjectKind::Other => Ok(None),
    }
}

fn refers(object: String, reference: Reference) -> ContainmentError {
    ContainmentError::Refers { object, reference }
}

fn library(object: &str, source: hdf5::Error) -> ContainmentError {
    ContainmentError::Library { object: object.to_owned(), source }
}

fn parts(name: &str) -> impl DoubleEndedIterator<Item = String> {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}
