//! Writes the objects of a qmap and of the metadata into a result, as `dataset::tree` tells them. Knows no name of their
//! layouts, and reads no file.

use hdf5::{Extents, H5Type, Location};

use super::store::{Grid, Plain, Store};
use crate::dataset::tree::{Node, PlainArray, PlainAttribute, PlainValues};
use crate::dataset::{DatasetError, objects};

/// An object that was left out, and a sentence that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Its name in its file's tree.
    pub(super) name: String,
    /// The sentence.
    pub(super) what: String,
}

/// A tree that is being written.
#[derive(Debug)]
pub(super) struct TreeWriter<'s> {
    store: &'s Store,
    /// The group that its top becomes; empty for the root.
    target: &'s str,
    /// What is not in it.
    pub(super) left_out: Vec<LeftOut>,
}

impl<'s> TreeWriter<'s> {
    /// Nothing of it is written yet.
    pub(super) fn new(store: &'s Store, target: &'s str) -> Self {
        Self { store, target, left_out: Vec::new() }
    }

    /// Writes an object.
    ///
    /// # Errors
    /// The result cannot be written.
    pub(super) fn put(&mut self, node: Node) -> Result<(), DatasetError> {
        let store = self.store;
        let named = |name: &str| format!("{}{name}", self.target);
        match node {
            Node::Group { name, attributes } => {
                let object = named(&name);
                let group = match object.as_str() {
                    "" => store.root().as_group().map_err(|e| store.fault("/", e))?,
                    object => store.group(object)?,
                };
                self.attributes(&group, &attributes)
            }
            Node::Dataset { name, chunk, array, attributes } => {
                let object = named(&name);
                Place::Dataset { store, object: &object, chunk: chunk.as_deref() }.put(&array)?;
                if attributes.is_empty() {
                    return Ok(());
                }
                let dataset = store.root().dataset(&object).map_err(|e| store.fault(&object, e))?;
                self.attributes(&dataset, &attributes)
            }
            Node::SoftLink { name, target } => {
                let object = named(&name);
                store.root().link_soft(&target, &object).map_err(|e| store.fault(&object, e))
            }
            Node::HardLink { name, target } => {
                let object = named(&name);
                store.root().link_hard(&named(&target), &object).map_err(|e| store.fault(&object, e))
            }
            Node::LeftOut { name, what } => {
                self.left_out.push(LeftOut { name, what });
                Ok(())
            }
        }
    }

    fn attributes(&self, owner: &Location, attributes: &[PlainAttribute]) -> Result<(), DatasetError> {
        let mut attributes = attributes.iter();
        attributes.try_for_each(|PlainAttribute { name, array }| {
            Place::Attribute { store: self.store, owner, name }.put(array)
        })
    }
}

/// Where values go.
enum Place<'a> {
    Dataset { store: &'a Store, object: &'a str, chunk: Option<&'a [usize]> },
    Attribute { store: &'a Store, owner: &'a Location, name: &'a str },
}

impl Place<'_> {
    fn put(&self, array: &PlainArray) -> Result<(), DatasetError> {
        use PlainValues as V;
        let shape = array.shape.as_deref();
        match &array.values {
            V::Bool(values) => self.numbers(shape, &values.iter().map(|&value| value != 0).collect::<Vec<_>>()),
            V::I8(values) => self.numbers(shape, values),
            V::I16(values) => self.numbers(shape, values),
            V::I32(values) => self.numbers(shape, values),
            V::I64(values) => self.numbers(shape, values),
            V::U8(values) => self.numbers(shape, values),
            V::U16(values) => self.numbers(shape, values),
            V::U32(values) => self.numbers(shape, values),
            V::U64(values) => self.numbers(shape, values),
            V::F32(values) => self.numbers(shape, values),
            V::F64(values) => self.numbers(shape, values),
            V::Texts(texts) => {
                let texts: Vec<_> = texts.iter().map(|text| objects::unicode(text)).collect();
                self.whole(shape, &texts)
            }
        }
    }

    /// An image that was in chunks stays in chunks.
    fn numbers<T: Plain>(&self, shape: Option<&[usize]>, values: &[T]) -> Result<(), DatasetError> {
        match (self, shape) {
            (&Place::Dataset { store, object, chunk: Some(&[high, wide]) }, Some(&[rows, cols])) => {
                image(store, object, [rows, cols], [high.clamp(1, rows.max(1)), wide.clamp(1, cols.max(1))], values)
            }
            _ => self.whole(shape, values),
        }
    }

    fn whole<T: H5Type>(&self, shape: Option<&[usize]>, values: &[T]) -> Result<(), DatasetError> {
        match *self {
            Place::Dataset { store, object, .. } => match shape {
                Some(shape) => store.array(object, shape, values),
                None => store.empty::<T>(object),
            },
            Place::Attribute { store, owner, name } => {
                let new = owner.new_attr::<T>();
                let written = match shape {
                    Some(shape) => new.shape(shape).create(name).and_then(|new| new.write_raw(values)),
                    None => new.shape(Extents::Null).create(name).map(drop),
                };
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
    use hdf5::types::{FixedAscii, VarLenUnicode};
    use hdf5::{File, Group};

    use super::*;
    use crate::dataset::reader::{Question, ask};
    use crate::dataset::tree::TreeKind;
    use crate::dataset::{Opener, values};

    /// Copies a group that `fill` fills; returns the copy and what was left out.
    fn copied(fill: impl Fn(&Group)) -> (tempfile::TempDir, File, Result<Vec<String>, String>) {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from.h5", "to.h5"].map(|name| dir.path().join(name));
        let source = File::create(&from).unwrap();
        let original = source.create_group("qmap").unwrap();
        fill(&original);
        drop(original);
        source.close().unwrap();
        let store = Store::create(&to, &to).unwrap();
        let mut writer = TreeWriter::new(&store, "/copy");
        let question = Question::Tree(TreeKind::Qmap, from);
        let asked = ask(&Opener::anywhere(), &question, &mut |node| writer.put(node), |_, _| Ok(()));
        let left_out = writer.left_out.into_iter().map(|left_out| left_out.name).collect();
        let left_out = asked.map(|()| left_out).map_err(|error| error.to_string());
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
        assert_eq!(left_out.unwrap(), ["/arrays", "/sub"]);
        assert_eq!(file.group("copy").unwrap().member_names().unwrap(), ["kept"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (_dir, _file, refused) = copied(|group| {
            group.new_dataset::<u8>().shape([1 << 20, 1 << 20]).chunk([1, 1024]).create("huge").unwrap();
        });
        assert!(refused.unwrap_err().contains("/qmap: huge is of size"));
    }
}
