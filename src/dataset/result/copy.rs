//! Copies the qmap into a result value by value: each dataset and attribute is read, checked and written anew.
//!
//! The library's own copy of objects (H5Ocopy) takes a damaged file's structure at its word and can end the
//! process; reading goes through the checks of [`values`]. Knows no name of the qmap's layout.

use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use hdf5::{Container, Group, H5Type, Location};

use super::store::{Grid, Plain, Store};
use crate::dataset::{DatasetError, PhotonEvent, objects, values};

/// The most members of a group and attributes of an object, so that a damaged one ends; pySimpleMask writes 25.
const MAX_NAMES: usize = 1000;

/// What kept an object from being copied.
pub(super) enum CopyError {
    /// It cannot be read: its name and why.
    Source(String),
    /// The result cannot be written.
    Target(DatasetError),
}

impl From<DatasetError> for CopyError {
    fn from(error: DatasetError) -> Self {
        Self::Target(error)
    }
}

/// Copies the datasets of `group` and all attributes to the new group `target`. Returns the names of the objects
/// that are neither numbers nor text and were left out.
///
/// # Errors
/// What cannot be read is told from what cannot be written.
pub(super) fn group(store: &Store, group: &Group, target: &str) -> Result<Vec<String>, CopyError> {
    let copy = store.group(target)?;
    let mut left_out = attributes(store, group, &copy)?;
    let mut names = bounded("its members", group.member_names())?;
    // a file may keep them in any order
    names.sort_unstable();
    for name in names {
        let Some(dataset) = values::dataset(group, &name) else {
            left_out.push(name);
            continue;
        };
        let object = format!("{target}/{name}");
        let original = Original { container: &dataset, chunk: dataset.chunk(), texts: || values::strings(&dataset) };
        if original.copy(&name, &Place::Dataset { store, object: &object })? {
            let copy = copy.dataset(&name).map_err(|e| store.fault(&object, e))?;
            left_out.extend(attributes(store, &dataset, &copy)?);
        } else {
            left_out.push(name);
        }
    }
    Ok(left_out)
}

fn attributes(store: &Store, from: &Location, to: &Location) -> Result<Vec<String>, CopyError> {
    let mut left_out = Vec::new();
    for name in bounded(&format!("attributes of {}", from.name()), from.attr_names())? {
        let attribute = from.attr(&name).map_err(|e| unreadable(&name, &values::words(&e)))?;
        let texts = || values::unchecked_strings(&attribute);
        let original = Original { container: &attribute, chunk: None, texts };
        if !original.copy(&name, &Place::Attribute { store, owner: to, name: &name })? {
            left_out.push(name);
        }
    }
    Ok(left_out)
}

fn bounded(what: &str, names: hdf5::Result<Vec<String>>) -> Result<Vec<String>, CopyError> {
    match names {
        Ok(names) if names.len() <= MAX_NAMES => Ok(names),
        Ok(names) => Err(unreadable(what, &format!("are {}, more than {MAX_NAMES}", names.len()))),
        Err(error) => Err(unreadable(what, &format!("cannot be listed: {}", values::words(&error)))),
    }
}

fn unreadable(name: &str, why: &str) -> CopyError {
    CopyError::Source(format!("{name} {why}"))
}

/// An object that values are read from.
struct Original<'a, F> {
    container: &'a Container,
    chunk: Option<Vec<usize>>,
    texts: F,
}

impl<F: Fn() -> Result<Vec<String>, String>> Original<'_, F> {
    /// Whether there was something to copy: numbers or text.
    fn copy(&self, name: &str, to: &Place<'_>) -> Result<bool, CopyError> {
        use TypeDescriptor as T;
        let Ok(stored) = self.container.dtype().and_then(|dtype| dtype.to_descriptor()) else { return Ok(false) };
        if self.container.space().is_ok_and(|space| space.is_null()) {
            return Ok(false);
        }
        match stored {
            // As integers: a damaged file's truth values may be others than 0 and 1.
            T::Boolean => {
                let values: Vec<bool> = self.read::<u8>(name)?.iter().map(|&value| value != 0).collect();
                self.put(to, &values)?;
            }
            T::Integer(IntSize::U1) => self.put(to, &self.read::<i8>(name)?)?,
            T::Integer(IntSize::U2) => self.put(to, &self.read::<i16>(name)?)?,
            T::Integer(IntSize::U4) => self.put(to, &self.read::<i32>(name)?)?,
            T::Integer(IntSize::U8) => self.put(to, &self.read::<i64>(name)?)?,
            T::Unsigned(IntSize::U1) => self.put(to, &self.read::<u8>(name)?)?,
            T::Unsigned(IntSize::U2) => self.put(to, &self.read::<u16>(name)?)?,
            T::Unsigned(IntSize::U4) => self.put(to, &self.read::<u32>(name)?)?,
            T::Unsigned(IntSize::U8) => self.put(to, &self.read::<u64>(name)?)?,
            T::Float(FloatSize::U4) => self.put(to, &self.read::<f32>(name)?)?,
            T::Float(FloatSize::U8) => self.put(to, &self.read::<f64>(name)?)?,
            T::VarLenUnicode | T::VarLenAscii | T::FixedUnicode(_) | T::FixedAscii(_) => {
                let texts: Vec<_> = (self.texts)().map_err(|why| unreadable(name, &why))?;
                let texts: Vec<_> = texts.iter().map(|text| objects::unicode(text)).collect();
                to.put(&self.container.shape(), &texts)?;
            }
            T::Enum(_) | T::Compound(_) | T::FixedArray(..) | T::VarLenArray(_) | T::Reference(_) => return Ok(false),
        }
        Ok(true)
    }

    fn put<T: Plain>(&self, to: &Place<'_>, values: &[T]) -> Result<(), DatasetError> {
        let shape = self.container.shape();
        match (to, shape.as_slice(), self.chunk.as_deref()) {
            (Place::Dataset { store, object }, &[rows, cols], Some(&[high, wide])) => {
                image(store, object, [rows, cols], [high.clamp(1, rows.max(1)), wide.clamp(1, cols.max(1))], values)
            }
            _ => to.put(&shape, values),
        }
    }

    fn read<T: Plain>(&self, name: &str) -> Result<Vec<T>, CopyError> {
        let sizes = [Some(self.container.shape()), self.chunk.clone()];
        values::check_sizes(PhotonEvent::MAX_PIXELS, sizes).map_err(|why| unreadable(name, &why))?;
        self.container.read_raw().map_err(|e| unreadable(name, &values::words(&e)))
    }
}

/// Where values go.
enum Place<'a> {
    Dataset { store: &'a Store, object: &'a str },
    Attribute { store: &'a Store, owner: &'a Location, name: &'a str },
}

impl Place<'_> {
    fn put<T: H5Type>(&self, shape: &[usize], values: &[T]) -> Result<(), DatasetError> {
        match *self {
            Place::Dataset { store, object } => store.array(object, shape, values),
            Place::Attribute { store, owner, name } => {
                let written = owner.new_attr::<T>().shape(shape).create(name).and_then(|new| new.write_raw(values));
                written.map_err(|e| store.fault(&format!("{} of {}", name, owner.name()), e))
            }
        }
    }
}

/// Writes an image in compressed chunks.
fn image<T: Plain>(
    store: &Store,
    object: &str,
    shape: [usize; 2],
    chunk: [usize; 2],
    values: &[T],
) -> Result<(), DatasetError> {
    let [rows, cols] = shape;
    let [high, wide] = chunk;
    let origins: Vec<_> =
        (0..rows).step_by(high).flat_map(|row| (0..cols).step_by(wide).map(move |col| [row, col])).collect();
    store.chunked::<T, 2>(object, Grid { shape, chunk })?.write(store, &origins, |[row, col], tile| {
        let width = wide.min(cols - col);
        for (line, out) in std::iter::zip(row..rows, tile.chunks_exact_mut(wide)) {
            let start = line * cols + col;
            out[..width].copy_from_slice(&values[start..start + width]);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use hdf5::File;
    use hdf5::types::{FixedAscii, VarLenUnicode};

    use super::*;

    /// Copies a group that `fill` fills; returns the copy and what was left out.
    fn copied(fill: impl Fn(&Group)) -> (tempfile::TempDir, File, Result<Vec<String>, String>) {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from.h5", "to.h5"].map(|name| dir.path().join(name));
        let source = File::create(&from).unwrap();
        let original = source.create_group("qmap").unwrap();
        fill(&original);
        File::create(&to).unwrap().close().unwrap();
        let store = Store::open(&to, &to).unwrap();
        let left_out = group(&store, &original, "/copy").map_err(|e| match e {
            CopyError::Source(what) => what,
            CopyError::Target(error) => error.to_string(),
        });
        store.close().unwrap();
        let file = File::open(&to).unwrap();
        (dir, file, left_out)
    }

    fn put<T: H5Type>(group: &Group, name: &str, shape: &[usize], values: &[T]) {
        group.new_dataset::<T>().shape(shape).create(name).unwrap().write_raw(values).unwrap();
    }

    fn assert_holds<T: H5Type + PartialEq + std::fmt::Debug>(group: &Group, name: &str, shape: &[usize], values: &[T]) {
        let dataset = group.dataset(name).unwrap();
        assert_eq!(dataset.dtype().unwrap().to_descriptor().unwrap(), T::type_descriptor(), "{name}");
        assert_eq!(
            (dataset.shape().as_slice(), dataset.read_raw::<T>().unwrap().as_slice()),
            (shape, values),
            "{name}"
        );
    }

    #[test]
    fn numbers_text_and_attributes_keep_type_shape_and_value() {
        let words: Vec<VarLenUnicode> = ["q", "Å⁻¹"].map(|word| word.parse().unwrap()).into();
        let fixed = [FixedAscii::<8>::from_ascii("deg").unwrap()];
        let (_dir, file, left_out) = copied(|group| {
            put(group, "bool", &[2], &[true, false]);
            put(group, "i8", &[1, 2], &[-1_i8, 1]);
            put(group, "u16", &[2], &[1_u16, 65_535]);
            put(group, "i64", &[0], &[0_i64; 0]);
            put(group, "f32", &[], &[0.1_f32]);
            put(group, "f64", &[2], &[f64::NAN, 0.1]);
            put(group, "words", &[2], &words);
            put(group, "fixed", &[1], &fixed);
            objects::attribute(group, "hash", "abc").unwrap();
            let dataset = group.dataset("f32").unwrap();
            dataset.new_attr::<i32>().shape([2]).create("of").unwrap().write_raw(&[1, 2]).unwrap();
        });
        assert_eq!(left_out.unwrap(), Vec::<String>::new());
        let copy = file.group("copy").unwrap();
        assert_holds(&copy, "bool", &[2], &[true, false]);
        assert_holds(&copy, "i8", &[1, 2], &[-1_i8, 1]);
        assert_holds(&copy, "u16", &[2], &[1_u16, 65_535]);
        assert_holds(&copy, "i64", &[0], &[0_i64; 0]);
        assert_holds(&copy, "f32", &[], &[0.1_f32]);
        assert_holds(&copy, "words", &[2], &words);
        assert_eq!(values::strings(&copy.dataset("fixed").unwrap()).unwrap(), ["deg"]);
        let reals = copy.dataset("f64").unwrap().read_raw::<f64>().unwrap();
        assert!(reals[0].is_nan() && reals[1] == 0.1);
        assert_eq!(copy.attr("hash").unwrap().read_scalar::<VarLenUnicode>().unwrap().as_str(), "abc");
        assert_eq!(copy.dataset("f32").unwrap().attr("of").unwrap().read_raw::<i32>().unwrap(), [1, 2]);
    }

    #[test]
    fn compressed_images_stay_compressed_and_whole() {
        let values: Vec<u16> = (0..70 * 90).map(|pixel| pixel / 900).collect();
        let (_dir, file, left_out) = copied(|group| {
            let maker = group.new_dataset::<u16>().shape([70, 90]).chunk([32, 40]).deflate(4);
            maker.create("map").unwrap().write_raw(&values).unwrap();
        });
        assert!(left_out.unwrap().is_empty());
        let copy = file.group("copy").unwrap();
        assert_holds(&copy, "map", &[70, 90], &values);
        let dataset = copy.dataset("map").unwrap();
        assert_eq!(dataset.chunk(), Some(vec![32, 40]));
        assert!(dataset.storage_size() < size_of_val(values.as_slice()) as u64 / 4, "{}", dataset.storage_size());
    }

    #[test]
    fn what_is_neither_is_left_out_by_name() {
        let (_dir, file, left_out) = copied(|group| {
            group.create_group("sub").unwrap();
            group.new_dataset::<[u8; 3]>().shape([1]).create("arrays").unwrap();
            put(group, "kept", &[1], &[1_u8]);
        });
        assert_eq!(left_out.unwrap(), ["arrays", "sub"]);
        assert_eq!(file.group("copy").unwrap().member_names().unwrap(), ["kept"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (_dir, _file, refused) = copied(|group| {
            group.new_dataset::<u8>().shape([1 << 20, 1 << 20]).chunk([1, 1024]).create("huge").unwrap();
        });
        assert!(refused.unwrap_err().starts_with("huge is of size"));
    }
}
