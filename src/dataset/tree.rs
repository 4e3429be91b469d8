//! The objects of a qmap or metadata file as plain data, node by node, so that a result can hold them without the HDF5
//! library ever copying a foreign structure: each dataset and attribute is read and checked. Writes nothing.

use std::collections::HashMap;
use std::path::Path;

use bytemuck::Pod;
use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use hdf5::{Container, Dataset, File, Group, H5Type, Location};
use serde::{Deserialize, Serialize};

use super::hdf5::ffi::{self, LinkKind, LinkValue, ObjectKind, ObjectToken};
use super::reader::{BrokenAnswer, Desk, Packed, PutNode};
use super::{DatasetError, PhotonEvent, links, metadata, qmap, values};

/// The most members of a qmap and attributes of an object, so that a damaged one ends; pySimpleMask writes 25.
const MAX_NAMES: usize = 1000;

/// The most axes of a dataset: the library's own limit.
const MAX_AXES: usize = 32;

/// What is said of an object of another kind.
const FOREIGN: &str = "is not to be read as numbers or text";

/// What a tree is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TreeKind {
    /// The datasets of a qmap's group. What cannot be read is an error: bins must be whole.
    Qmap,
    /// All of a metadata file but an earlier result. What cannot be read is left out.
    Metadata,
}

/// An object. Names are absolute, below the tree's top, which has an empty one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Node {
    /// A group, before what is in it.
    Group { name: String, attributes: Vec<PlainAttribute> },
    /// A dataset.
    Dataset { name: String, chunk: Option<Vec<usize>>, array: PlainArray, attributes: Vec<PlainAttribute> },
    /// A link to a name.
    SoftLink { name: String, target: String },
    /// Another name of an object that came before.
    HardLink { name: String, target: String },
    /// An object that is left out, and a sentence that says why.
    LeftOut { name: String, what: String },
}

/// An attribute of an object.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlainAttribute {
    pub(super) name: String,
    pub(super) array: PlainArray,
}

/// Values with their shape, row-major; without a shape there are none.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlainArray {
    pub(super) shape: Option<Vec<usize>>,
    pub(super) values: PlainValues,
}

/// Values of one type.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum PlainValues {
    /// 0 is false: a damaged file's truth values may be others than 0 and 1.
    Bool(Packed<u8>),
    I8(Packed<i8>),
    I16(Packed<i16>),
    I32(Packed<i32>),
    I64(Packed<i64>),
    U8(Packed<u8>),
    U16(Packed<u16>),
    U32(Packed<u32>),
    U64(Packed<u64>),
    F32(Packed<f32>),
    F64(Packed<f64>),
    Texts(Vec<String>),
}

impl PlainValues {
    fn len(&self) -> usize {
        match self {
            Self::Bool(values) | Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

impl Node {
    /// Holds shapes against values: a node may come from a process that read a hostile file.
    ///
    /// # Errors
    /// More or fewer values than a shape has places.
    pub(super) fn check(&self) -> Result<(), BrokenAnswer> {
        let whole = |array: &PlainArray| match &array.shape {
            None => array.values.len() == 0,
            Some(shape) => {
                let places = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
                shape.len() <= MAX_AXES && places == Some(array.values.len())
            }
        };
        let all = |attributes: &[PlainAttribute]| attributes.iter().all(|attribute| whole(&attribute.array));
        let sound = match self {
            Self::Group { attributes, .. } => all(attributes),
            Self::Dataset { array, attributes, .. } => whole(array) && all(attributes),
            Self::SoftLink { .. } | Self::HardLink { .. } | Self::LeftOut { .. } => true,
        };
        if sound { Ok(()) } else { Err(BrokenAnswer("values do not have their shape")) }
    }
}

/// Has the library read a file's objects, of which `put` takes each.
///
/// # Errors
/// What the file's kind refuses, what `put` says.
pub(super) fn read(desk: &dyn Desk, kind: TreeKind, path: &Path, put: &mut PutNode<'_>) -> Result<(), DatasetError> {
    match kind {
        TreeKind::Qmap => {
            let refuse = |what: String| qmap::bad(path, what, qmap::REMAKE);
            let file = values::open(desk, path, refuse)?;
            let group = file.group(qmap::GROUP);
            let group = group.map_err(|e| refuse(format!("/qmap cannot be opened: {}", values::words(&e))))?;
            flat(&group, put, |what| refuse(format!("/qmap: {what}")))
        }
        TreeKind::Metadata => {
            let file = values::open(desk, path, |what| metadata::bad(path, what, metadata::GIVE))?;
            Deep::walk(&file, put, |what| metadata::bad(path, what, metadata::GIVE))
        }
    }
}

/// The datasets of a group, and its attributes.
fn flat(group: &Group, put: &mut PutNode<'_>, refuse: impl Fn(String) -> DatasetError) -> Result<(), DatasetError> {
    let (attributes, left_out) = attributes(group, "", KeepNull::No).map_err(&refuse)?;
    put(Node::Group { name: String::new(), attributes })?;
    let mut all_left_out = left_out;
    let mut names = bounded("its members", group.member_names()).map_err(&refuse)?;
    // a file may keep them in any order
    names.sort_unstable();
    for name in names {
        let object = format!("/{name}");
        let dataset = values::dataset(group, &name);
        let node = dataset.as_ref().map(|dataset| dataset_node(dataset, &object, KeepNull::No));
        match node.transpose().map_err(|why| refuse(format!("{name} {why}")))?.flatten() {
            Some((node, left_out)) => {
                put(node)?;
                all_left_out.extend(left_out);
            }
            None => all_left_out.push(object),
        }
    }
    all_left_out.into_iter().try_for_each(|name| {
        let what = format!("{}{name} {FOREIGN} and was left out", qmap::GROUP);
        put(Node::LeftOut { name, what })
    })
}

/// Walks a whole file.
struct Deep<'p, 'q, R> {
    put: &'p mut PutNode<'q>,
    refuse: R,
    /// The objects that were seen, and their names if they were put.
    seen: HashMap<ObjectToken, Option<String>>,
    waiting: Vec<(String, Group)>,
}

impl<R: Fn(String) -> DatasetError> Deep<'_, '_, R> {
    fn walk(file: &File, put: &mut PutNode<'_>, refuse: R) -> Result<(), DatasetError> {
        let mut walk = Deep { put, refuse, seen: HashMap::new(), waiting: Vec::new() };
        let root = file.as_group().map_err(|e| (walk.refuse)(values::words(&e)))?;
        walk.group(String::new(), root)?;
        while let Some((path, group)) = walk.waiting.pop() {
            walk.members(&path, &group)?;
        }
        Ok(())
    }

    fn group(&mut self, name: String, group: Group) -> Result<(), DatasetError> {
        let attributes = self.attributes(&group, &name)?;
        (self.put)(Node::Group { name: name.clone(), attributes })?;
        self.waiting.push((name, group));
        Ok(())
    }

    fn attributes(&mut self, object: &Location, name: &str) -> Result<Vec<PlainAttribute>, DatasetError> {
        match attributes(object, name, KeepNull::Yes) {
            Ok((attributes, left_out)) => {
                left_out.into_iter().try_for_each(|name| self.leave(name, FOREIGN))?;
                Ok(attributes)
            }
            Err(why) => {
                self.leave(name.to_owned(), &format!("has attributes that are not to be read: {why}"))?;
                Ok(Vec::new())
            }
        }
    }

    fn leave(&mut self, name: String, why: &str) -> Result<(), DatasetError> {
        let what = format!("{name} {why} and was left out");
        (self.put)(Node::LeftOut { name, what })
    }

    fn members(&mut self, path: &str, group: &Group) -> Result<(), DatasetError> {
        let links = ffi::links(group, links::MOST_OBJECTS);
        let mut links = links.map_err(|e| (self.refuse)(format!("{path}/ cannot be listed: {}", values::words(&e))))?;
        links.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (leaf, kind) in links {
            let name = format!("{path}/{leaf}");
            if name == EARLIER_RESULT {
                let what = format!("an earlier result in it, {name}, was left out");
                (self.put)(Node::LeftOut { name, what })?;
                continue;
            }
            match kind {
                LinkKind::Hard => self.object(group, &leaf, name)?,
                LinkKind::Soft => match ffi::link_value(group, &leaf) {
                    Ok(LinkValue::Soft(target)) => (self.put)(Node::SoftLink { name, target })?,
                    Ok(LinkValue::Hard | LinkValue::External(..) | LinkValue::Unknown) | Err(_) => {
                        self.leave(name, "is a link that cannot be read")?;
                    }
                },
                // a file with one is refused before
                LinkKind::External | LinkKind::Unknown => self.leave(name, "leads out of the file")?,
            }
        }
        Ok(())
    }

    fn object(&mut self, holder: &Group, leaf: &str, name: String) -> Result<(), DatasetError> {
        let (kind, token) = match ffi::object_of(holder, leaf) {
            Ok(found) => found,
            Err(error) => return self.leave(name, &format!("cannot be opened ({})", values::words(&error))),
        };
        match self.seen.get(&token) {
            Some(Some(target)) => {
                let target = target.clone();
                return (self.put)(Node::HardLink { name, target });
            }
            Some(None) => return self.leave(name, FOREIGN),
            None => {}
        }
        self.seen.insert(token, None);
        let refused = |error: hdf5::Error| format!("cannot be opened ({})", values::words(&error));
        match kind {
            ObjectKind::Group => match holder.group(leaf) {
                Ok(group) => {
                    self.seen.insert(token, Some(name.clone()));
                    self.group(name, group)
                }
                Err(error) => self.leave(name, &refused(error)),
            },
            ObjectKind::Dataset => {
                let node = holder.dataset(leaf).map_err(refused);
                match node.and_then(|dataset| dataset_node(&dataset, &name, KeepNull::Yes)) {
                    Ok(Some((node, left_out))) => {
                        self.seen.insert(token, Some(name));
                        (self.put)(node)?;
                        left_out.into_iter().try_for_each(|name| self.leave(name, FOREIGN))
                    }
                    Ok(None) => self.leave(name, FOREIGN),
                    Err(why) => self.leave(name, &why),
                }
            }
            ObjectKind::Other => self.leave(name, FOREIGN),
        }
    }
}

/// Where results are.
pub(super) const EARLIER_RESULT: &str = "/xpcs";

/// Whether objects that have a type and no values are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeepNull {
    Yes,
    No,
}

/// A dataset and the names of its attributes that are left out; None for one that is neither numbers nor text.
type FoundDataset = Option<(Node, Vec<String>)>;

fn dataset_node(dataset: &Dataset, name: &str, nulls: KeepNull) -> Result<FoundDataset, String> {
    let chunk = dataset.chunk();
    let texts = || values::strings(dataset);
    let Some(array) = array(dataset, chunk.clone(), texts, nulls)? else { return Ok(None) };
    let (attributes, left_out) = attributes(dataset, name, nulls)?;
    Ok(Some((Node::Dataset { name: name.to_owned(), chunk, array, attributes }, left_out)))
}

/// The attributes of an object, and the names of those that are left out.
fn attributes(from: &Location, object: &str, nulls: KeepNull) -> Result<(Vec<PlainAttribute>, Vec<String>), String> {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for name in bounded(&format!("attributes of {}", from.name()), from.attr_names())? {
        let attribute = from.attr(&name).map_err(|e| format!("{name} {}", values::words(&e)))?;
        let texts = || values::unchecked_strings(&attribute);
        match array(&attribute, None, texts, nulls).map_err(|why| format!("{name} {why}"))? {
            Some(array) => found.push(PlainAttribute { name, array }),
            None => left_out.push(format!("{object}/{name}")),
        }
    }
    Ok((found, left_out))
}

fn bounded(what: &str, names: hdf5::Result<Vec<String>>) -> Result<Vec<String>, String> {
    match names {
        Ok(names) if names.len() <= MAX_NAMES => Ok(names),
        Ok(names) => Err(format!("{what} are {}, more than {MAX_NAMES}", names.len())),
        Err(error) => Err(format!("{what} cannot be listed: {}", values::words(&error))),
    }
}

/// The values of a dataset or attribute; None if they are neither numbers nor text.
fn array(
    container: &Container,
    chunk: Option<Vec<usize>>,
    texts: impl Fn() -> Result<Vec<String>, String>,
    nulls: KeepNull,
) -> Result<Option<PlainArray>, String> {
    let Ok(stored) = container.dtype().and_then(|dtype| dtype.to_descriptor()) else { return Ok(None) };
    let null = container.space().is_ok_and(|space| space.is_null());
    if null && nulls == KeepNull::No {
        return Ok(None);
    }
    let source = Source { container, chunk, null };
    let shape = (!null).then(|| container.shape());
    let texts = || if null { Ok(Vec::new()) } else { texts() };
    Ok(source.values(&stored, texts)?.map(|values| PlainArray { shape, values }))
}

/// Where values are read from.
struct Source<'c> {
    container: &'c Container,
    chunk: Option<Vec<usize>>,
    null: bool,
}

impl Source<'_> {
    fn values(
        &self,
        stored: &TypeDescriptor,
        texts: impl Fn() -> Result<Vec<String>, String>,
    ) -> Result<Option<PlainValues>, String> {
        use PlainValues as V;
        use TypeDescriptor as T;
        Ok(Some(match stored {
            T::Boolean => V::Bool(self.read()?),
            T::Integer(IntSize::U1) => V::I8(self.read()?),
            T::Integer(IntSize::U2) => V::I16(self.read()?),
            T::Integer(IntSize::U4) => V::I32(self.read()?),
            T::Integer(IntSize::U8) => V::I64(self.read()?),
            T::Unsigned(IntSize::U1) => V::U8(self.read()?),
            T::Unsigned(IntSize::U2) => V::U16(self.read()?),
            T::Unsigned(IntSize::U4) => V::U32(self.read()?),
            T::Unsigned(IntSize::U8) => V::U64(self.read()?),
            T::Float(FloatSize::U4) => V::F32(self.read()?),
            T::Float(FloatSize::U8) => V::F64(self.read()?),
            T::VarLenUnicode | T::VarLenAscii | T::FixedUnicode(_) | T::FixedAscii(_) => V::Texts(texts()?),
            T::Enum(_) | T::Compound(_) | T::FixedArray(..) | T::VarLenArray(_) | T::Reference(_) => return Ok(None),
        }))
    }

    fn read<T: H5Type + Pod>(&self) -> Result<Packed<T>, String> {
        if self.null {
            return Ok(Packed(Vec::new()));
        }
        let sizes = [Some(self.container.shape()), self.chunk.clone()];
        values::check_sizes(PhotonEvent::MAX_PIXELS, sizes)?;
        self.container.read_raw().map(Packed).map_err(|e| values::words(&e))
    }
}
