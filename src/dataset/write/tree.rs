//! A new HDF5 file and what is in it: groups, scalars, texts, lists and label images, with attributes.
//!
//! Knows neither the qmap's nor the metadata's layout.

use std::path::{Path, PathBuf};

use hdf5::{File, H5Type, Location};

use crate::correlate::bins::Shape;
use crate::dataset::{DatasetError, objects};

/// Elements above which an image is compressed.
const COMPRESS_ABOVE: usize = 1024;

/// A new file.
pub(super) struct Tree {
    file: File,
    path: PathBuf,
}

impl Tree {
    /// Creates the file; one that exists is replaced.
    pub(super) fn create(path: &Path) -> Result<Self, DatasetError> {
        let file = File::create(path).map_err(|e| DatasetError::hdf5("create the file", path, e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// A new group with attributes.
    pub(super) fn group(&self, name: &str, attributes: &[(&str, &str)]) -> Result<(), DatasetError> {
        let group = self.file.create_group(name).map_err(|e| self.fault(name, e))?;
        self.describe(&group, name, attributes)
    }

    /// A new scalar with attributes.
    pub(super) fn scalar<T: H5Type>(
        &self,
        name: &str,
        value: T,
        attributes: &[(&str, &str)],
    ) -> Result<(), DatasetError> {
        let dataset = objects::scalar(&self.file, name, &value).map_err(|e| self.fault(name, e))?;
        self.describe(&dataset, name, attributes)
    }

    /// A new scalar text of variable length with attributes.
    pub(super) fn text(&self, name: &str, value: &str, attributes: &[(&str, &str)]) -> Result<(), DatasetError> {
        self.scalar(name, objects::unicode(value), attributes)
    }

    /// A new list, uncompressed.
    pub(super) fn list<T: H5Type>(&self, name: &str, values: &[T]) -> Result<(), DatasetError> {
        objects::array(&self.file, name, &[values.len()], values).map(drop).map_err(|e| self.fault(name, e))
    }

    /// A new list of texts.
    pub(super) fn texts(&self, name: &str, values: &[&str]) -> Result<(), DatasetError> {
        objects::texts(&self.file, name, values).map(drop).map_err(|e| self.fault(name, e))
    }

    /// A new row-major image, compressed with lzf when it is large.
    pub(super) fn image<T: H5Type>(&self, name: &str, shape: Shape, values: &[T]) -> Result<(), DatasetError> {
        let grid = (shape.rows, shape.cols);
        let builder = objects::builder(&self.file);
        let builder = if values.len() > COMPRESS_ABOVE { builder.lzf().chunk(grid) } else { builder };
        let dataset = builder.empty::<T>().shape(grid).create(name).map_err(|e| self.fault(name, e))?;
        dataset.write_raw(values).map_err(|e| self.fault(name, e))
    }

    /// Adds a number to an object's attributes.
    pub(super) fn number(&self, name: &str, attribute: &str, value: i64) -> Result<(), DatasetError> {
        let object = self.file.dataset(name).map_err(|e| self.fault(name, e))?;
        let added = object.new_attr::<i64>().create(attribute).and_then(|a| a.write_scalar(&value));
        added.map_err(|e| self.fault(name, e))
    }

    fn describe(&self, object: &Location, name: &str, attributes: &[(&str, &str)]) -> Result<(), DatasetError> {
        for (attribute, value) in attributes {
            objects::attribute(object, attribute, value).map_err(|e| self.fault(name, e))?;
        }
        Ok(())
    }

    /// Adds texts to the attributes of the dataset `name`.
    pub(super) fn describe_dataset(&self, name: &str, attributes: &[(&str, &str)]) -> Result<(), DatasetError> {
        let dataset = self.file.dataset(name).map_err(|e| self.fault(name, e))?;
        self.describe(&dataset, name, attributes)
    }

    /// Links `name` to an object of another file, named relative to this one.
    pub(super) fn link(&self, name: &str, file: &str, object: &str) -> Result<(), DatasetError> {
        self.file.link_external(file, object, name).map_err(|e| self.fault(name, e))
    }

    /// Writes everything out.
    pub(super) fn close(self) -> Result<(), DatasetError> {
        self.file.flush().map_err(|e| self.fault("the end of the file", e))?;
        self.file.close().map_err(|e| DatasetError::hdf5("close the file", &self.path, e))
    }

    fn fault(&self, object: &str, error: hdf5::Error) -> DatasetError {
        DatasetError::hdf5(format!("write {object}"), &self.path, error)
    }
}
