//! Small HDF5 objects as h5py writes them: scalars, texts, lists and text attributes. Knows no layout of a file.

use hdf5::types::VarLenUnicode;
use hdf5::{Dataset, DatasetBuilder, Group, H5Type, Location};

/// A new dataset below `group` without the time of its making, so that equal content makes equal files.
pub(super) fn builder(group: &Group) -> DatasetBuilder {
    group.new_dataset_builder().obj_track_times(false)
}

/// A new scalar.
pub(super) fn scalar<T: H5Type>(group: &Group, name: &str, value: &T) -> hdf5::Result<Dataset> {
    let dataset = builder(group).empty::<T>().create(name)?;
    dataset.write_scalar(value)?;
    Ok(dataset)
}

/// A new array, row-major, in one piece, without compression.
pub(super) fn array<T: H5Type>(group: &Group, name: &str, shape: &[usize], values: &[T]) -> hdf5::Result<Dataset> {
    let dataset = builder(group).empty::<T>().shape(shape).create(name)?;
    dataset.write_raw(values)?;
    Ok(dataset)
}

/// A new list of texts of variable length.
pub(super) fn texts<S: AsRef<str>>(group: &Group, name: &str, values: &[S]) -> hdf5::Result<Dataset> {
    let values: Vec<_> = values.iter().map(|value| unicode(value.as_ref())).collect();
    array(group, name, &[values.len()], &values)
}

/// Adds a text to an object's attributes.
pub(super) fn attribute(object: &Location, name: &str, value: &str) -> hdf5::Result<()> {
    object.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&unicode(value))
}

/// The text as UTF-8 of variable length, without NUL characters, which end a text in HDF5.
pub(super) fn unicode(value: &str) -> VarLenUnicode {
    value.replace('\0', "").parse().unwrap_or_default()
}
