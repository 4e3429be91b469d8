//! Calls of the HDF5 library that the `hdf5` crate does not wrap, or wraps in a way that a hostile file can upset.
//!
//! Every function takes the library's lock through `hdf5::sync::sync`; none keeps an identifier.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::ptr;

use hdf5::plist::DatasetCreate;
use hdf5::sync::sync;
use hdf5::{Dataset, Dataspace, Datatype, Group, h5check};
use hdf5_sys::h5::{H5_index_t::H5_INDEX_NAME, H5_iter_order_t::H5_ITER_NATIVE};
use hdf5_sys::h5d::{H5D_fill_value_t, H5Dcreate2, H5Dread, H5Dwrite_chunk};
use hdf5_sys::h5f::H5Fget_vfd_handle;
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5l::{H5L_info2_t, H5L_type_t, H5Lget_info2, H5Lget_val, H5Literate2, H5Lunpack_elink_val};
use hdf5_sys::h5o::{H5O_INFO_BASIC, H5O_info2_t, H5O_type_t, H5Oget_info_by_name3};
use hdf5_sys::h5p::{
    H5P_DEFAULT, H5Pfill_value_defined, H5Pget_fill_value, H5Pget_filter2, H5Pget_nfilters, H5Pget_virtual_count,
    H5Pget_virtual_dsetname, H5Pget_virtual_filename, H5Pget_virtual_srcspace, H5Pget_virtual_vspace, H5Pset_filter,
};
use hdf5_sys::h5s::{H5S_ALL, H5S_UNLIMITED, H5S_sel_type, H5Sget_regular_hyperslab, H5Sget_select_type};
use hdf5_sys::h5t::{
    H5T_IEEE_F32BE, H5T_IEEE_F32LE, H5T_STD_I16BE, H5T_STD_I16LE, H5T_STD_I32BE, H5T_STD_I32LE, H5T_STD_U8BE,
    H5T_STD_U8LE, H5T_STD_U16BE, H5T_STD_U16LE, H5T_STD_U32BE, H5T_STD_U32LE, H5Tequal,
};
use hdf5_sys::h5z::{H5Z_FLAG_OPTIONAL, H5Z_filter_t};

use serde::{Deserialize, Serialize};

use crate::dataset::PixelType;

/// Order of the bytes of an element in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dataset) enum ByteOrder {
    Little,
    Big,
}

/// A filter as the file has it: number and parameters.
pub(in crate::dataset) type RawFilter = (H5Z_filter_t, Vec<c_uint>);

/// The element type, when it is exactly one of those that frames may have.
pub(super) fn pixel_type(dtype: &Datatype) -> Option<(PixelType, ByteOrder)> {
    let known = sync(|| {
        [
            (*H5T_STD_U8LE, PixelType::U8, ByteOrder::Little),
            (*H5T_STD_U8BE, PixelType::U8, ByteOrder::Big),
            (*H5T_STD_U16LE, PixelType::U16, ByteOrder::Little),
            (*H5T_STD_U16BE, PixelType::U16, ByteOrder::Big),
            (*H5T_STD_U32LE, PixelType::U32, ByteOrder::Little),
            (*H5T_STD_U32BE, PixelType::U32, ByteOrder::Big),
            (*H5T_STD_I16LE, PixelType::I16, ByteOrder::Little),
            (*H5T_STD_I16BE, PixelType::I16, ByteOrder::Big),
            (*H5T_STD_I32LE, PixelType::I32, ByteOrder::Little),
            (*H5T_STD_I32BE, PixelType::I32, ByteOrder::Big),
            (*H5T_IEEE_F32LE, PixelType::F32, ByteOrder::Little),
            (*H5T_IEEE_F32BE, PixelType::F32, ByteOrder::Big),
        ]
    });
    // SAFETY: both are types of the open library.
    let equals = |id| sync(|| unsafe { H5Tequal(dtype.id(), id) }) > 0;
    known.into_iter().find(|&(id, ..)| equals(id)).map(|(_, pixel, order)| (pixel, order))
}

/// The library's little-endian type for frames.
fn stored_type(pixel: PixelType) -> hid_t {
    match pixel {
        PixelType::U8 => *H5T_STD_U8LE,
        PixelType::U16 => *H5T_STD_U16LE,
        PixelType::U32 => *H5T_STD_U32LE,
        PixelType::I16 => *H5T_STD_I16LE,
        PixelType::I32 => *H5T_STD_I32LE,
        PixelType::F32 => *H5T_IEEE_F32LE,
    }
}

/// The filter pipeline, in the order in which it was applied.
pub(super) fn filters(dcpl: &DatasetCreate) -> hdf5::Result<Vec<RawFilter>> {
    /// More parameters than any filter here has; the library keeps the rest to itself.
    const PARAMETERS: usize = 32;
    sync(|| {
        // SAFETY: `dcpl` is an open property list.
        let count = h5check(unsafe { H5Pget_nfilters(dcpl.id()) })?;
        (0..count.unsigned_abs())
            .map(|position| {
                let mut values = vec![0; PARAMETERS];
                let (mut flags, mut length) = (0, PARAMETERS);
                // SAFETY: at most `length` values are written, and no name is asked for.
                let id = h5check(unsafe {
                    H5Pget_filter2(
                        dcpl.id(),
                        position,
                        &raw mut flags,
                        &raw mut length,
                        values.as_mut_ptr(),
                        0,
                        ptr::null_mut(),
                        ptr::null_mut(),
                    )
                })?;
                values.truncate(length);
                Ok((id, values))
            })
            .collect()
    })
}

/// Bytes of the fill value, as they would be in the file, at the front.
///
/// # Errors
/// There is none, or a damaged file describes one that cannot be.
pub(super) fn fill_value(dcpl: &DatasetCreate, dtype: &Datatype) -> hdf5::Result<[u8; 4]> {
    let mut value = [0; 4];
    if dtype.size() > value.len() {
        return Ok(value);
    }
    sync(|| {
        let mut status = H5D_fill_value_t::H5D_FILL_VALUE_ERROR as c_int;
        // The library reads a value through a null pointer where a damaged file gives it a negative size. This call
        // refuses that. The status is read as a number: the library may know one that the enum lacks.
        // SAFETY: the property list is open, and an enum of C is as large as an int.
        h5check(unsafe { H5Pfill_value_defined(dcpl.id(), (&raw mut status).cast()) })?;
        if status == H5D_fill_value_t::H5D_FILL_VALUE_DEFAULT as c_int {
            return Ok(value);
        }
        // SAFETY: an element of the type fits into `value`, as asked above.
        h5check(unsafe { H5Pget_fill_value(dcpl.id(), dtype.id(), value.as_mut_ptr().cast()) })?;
        Ok(value)
    })
}

/// Reads a whole dataset, of a compact layout, as it is in the file.
///
/// # Panics
/// If `out` is not as long as the dataset.
pub(super) fn read_all(dataset: &Dataset, dtype: &Datatype, out: &mut [u8]) -> hdf5::Result<()> {
    let bytes = dataset.shape().into_iter().try_fold(dtype.size(), usize::checked_mul);
    assert_eq!(bytes, Some(out.len()), "bytes of the dataset");
    sync(|| {
        // SAFETY: `out` holds the dataset in the type of the file, as asserted.
        let status =
            unsafe { H5Dread(dataset.id(), dtype.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.as_mut_ptr().cast()) };
        h5check(status).map(drop)
    })
}

/// What kind a link is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) enum LinkKind {
    /// To an object of the same file.
    Hard,
    /// To a name in the same file.
    Soft,
    /// To an object of another file.
    External,
    /// Of a kind that only other programs know.
    Unknown,
}

/// What a link leads to.
#[derive(Debug)]
pub(in crate::dataset) enum LinkValue {
    /// An object of the same file.
    Hard,
    /// A name in the same file.
    Soft(String),
    /// A file, and an object in it.
    External(PathBuf, String),
    /// What only other programs know.
    Unknown,
}

/// What a link of a group leads to.
pub(in crate::dataset) fn link_value(group: &Group, name: &str) -> hdf5::Result<LinkValue> {
    let name = c_name(name)?;
    sync(|| {
        let mut info = MaybeUninit::<H5L_info2_t>::zeroed();
        // SAFETY: the group is open and `info` is the struct that the call fills.
        h5check(unsafe { H5Lget_info2(group.id(), name.as_ptr(), info.as_mut_ptr(), H5P_DEFAULT) })?;
        // SAFETY: the call filled the struct.
        match unsafe { kind_of(info.as_ptr()) } {
            LinkKind::Hard => Ok(LinkValue::Hard),
            LinkKind::Unknown => Ok(LinkValue::Unknown),
            LinkKind::Soft => {
                let value = raw_value(group, &name)?;
                let text = CStr::from_bytes_until_nul(&value).map_err(|_| "a soft link has no end")?;
                Ok(LinkValue::Soft(text.to_string_lossy().into_owned()))
            }
            LinkKind::External => external_value(&raw_value(group, &name)?),
        }
    })
}

/// The links of a group with their kinds, at most `most` and one: more is too many.
pub(in crate::dataset) fn links(group: &Group, most: usize) -> hdf5::Result<Vec<(String, LinkKind)>> {
    /// What the library's walk fills.
    struct Found {
        links: Vec<(String, LinkKind)>,
        most: usize,
    }

    unsafe extern "C" fn add(_: hid_t, name: *const c_char, info: *const H5L_info2_t, found: *mut c_void) -> c_int {
        // SAFETY: the library passes on the pointer that it was given below, which nobody else uses meanwhile.
        let found = unsafe { &mut *found.cast::<Found>() };
        // SAFETY: the library gives a name that ends with a zero byte, and a struct, both for the time of this call.
        let (name, kind) = unsafe { (CStr::from_ptr(name), kind_of(info)) };
        found.links.push((name.to_string_lossy().into_owned(), kind));
        c_int::from(found.links.len() > found.most)
    }

    let mut found = Found { links: Vec::new(), most };
    sync(|| {
        let data = (&raw mut found).cast();
        // SAFETY: the group is open; `add` has the form that is called for, and `data` is what it expects.
        let walked =
            unsafe { H5Literate2(group.id(), H5_INDEX_NAME, H5_ITER_NATIVE, ptr::null_mut(), Some(add), data) };
        h5check(walked)
    })?;
    Ok(found.links)
}

/// What kind an object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) enum ObjectKind {
    /// It has links.
    Group,
    /// It has elements.
    Dataset,
    /// It has neither: a type.
    Other,
}

/// What tells an object from the others of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::dataset) struct ObjectToken([u8; 16]);

/// What a hard link leads to.
pub(in crate::dataset) fn object_of(group: &Group, name: &str) -> hdf5::Result<(ObjectKind, ObjectToken)> {
    let name = c_name(name)?;
    sync(|| {
        let mut info = MaybeUninit::<H5O_info2_t>::zeroed();
        // SAFETY: the group is open and `info` is the struct that the call fills.
        h5check(unsafe {
            H5Oget_info_by_name3(group.id(), name.as_ptr(), info.as_mut_ptr(), H5O_INFO_BASIC, H5P_DEFAULT)
        })?;
        // SAFETY: the call filled the struct. The type is read as a number, since the enum may lack one; a token is 16
        // bytes.
        let (kind, token) = unsafe {
            let info = info.as_ptr();
            ((&raw const (*info).type_).cast::<c_int>().read(), (&raw const (*info).token).cast::<[u8; 16]>().read())
        };
        let kind = match kind {
            kind if kind == H5O_type_t::H5O_TYPE_GROUP as c_int => ObjectKind::Group,
            kind if kind == H5O_type_t::H5O_TYPE_DATASET as c_int => ObjectKind::Dataset,
            _ => ObjectKind::Other,
        };
        Ok((kind, ObjectToken(token)))
    })
}

/// The descriptor that the library reads a file by.
pub(in crate::dataset) fn descriptor(file: &hdf5::File) -> hdf5::Result<OwnedFd> {
    sync(|| {
        let mut handle = ptr::null_mut();
        // SAFETY: the file is open, and the call writes a pointer.
        h5check(unsafe { H5Fget_vfd_handle(file.id(), H5P_DEFAULT, &raw mut handle) })?;
        // SAFETY: files are opened with the library's default driver, whose handle is a descriptor, open as long as the
        // file is.
        let descriptor = unsafe { BorrowedFd::borrow_raw(handle.cast::<c_int>().read()) };
        descriptor.try_clone_to_owned().map_err(|error| hdf5::Error::from(error.to_string()))
    })
}

/// The kind of a link. It is read as a number: a file may hold one that the enum lacks.
///
/// # Safety
/// `info` is what the library filled.
unsafe fn kind_of(info: *const H5L_info2_t) -> LinkKind {
    // SAFETY: an enum of C is as large as an int.
    let kind = unsafe { (&raw const (*info).type_).cast::<c_int>().read() };
    match kind {
        kind if kind == H5L_type_t::H5L_TYPE_HARD as c_int => LinkKind::Hard,
        kind if kind == H5L_type_t::H5L_TYPE_SOFT as c_int => LinkKind::Soft,
        kind if kind == H5L_type_t::H5L_TYPE_EXTERNAL as c_int => LinkKind::External,
        _ => LinkKind::Unknown,
    }
}

/// The value of a link, with two zero bytes behind it: its texts end within it, whatever the file holds.
fn raw_value(group: &Group, name: &CStr) -> hdf5::Result<Vec<u8>> {
    /// The largest value that a link message can have.
    const VALUE: usize = 1 << 16;
    let mut value = vec![0_u8; VALUE];
    // SAFETY: at most `VALUE` bytes are written.
    h5check(unsafe { H5Lget_val(group.id(), name.as_ptr(), value.as_mut_ptr().cast(), VALUE, H5P_DEFAULT) })?;
    value.extend_from_slice(&[0; 2]);
    Ok(value)
}

fn external_value(value: &[u8]) -> hdf5::Result<LinkValue> {
    let (mut flags, mut file, mut object) = (0, ptr::null(), ptr::null());
    // SAFETY: `value` is what the library gave, with two zero bytes behind the length that is told.
    h5check(unsafe {
        H5Lunpack_elink_val(value.as_ptr().cast(), value.len() - 2, &raw mut flags, &raw mut file, &raw mut object)
    })?;
    // SAFETY: both point into `value`, which ends with zero bytes.
    let (file, object) = unsafe { (CStr::from_ptr(file), CStr::from_ptr(object)) };
    Ok(LinkValue::External(path_of(file.to_bytes().to_vec()), object.to_string_lossy().into_owned()))
}

/// One source of a virtual dataset.
#[derive(Debug)]
pub(super) struct VirtualMap {
    /// File name as stored; `.` is the file itself.
    pub(super) file: PathBuf,
    /// Dataset in it.
    pub(super) dataset: String,
    /// What is taken of it.
    pub(super) source: Selected,
    /// Where it goes.
    pub(super) target: Selected,
}

/// A selection of elements.
#[derive(Debug)]
pub(super) enum Selected {
    /// All; the extent that the file gives with it is not to be relied on.
    All,
    /// A range of each axis.
    Box(Vec<Range<u64>>),
    /// Anything else.
    Other,
}

/// The sources of a virtual dataset.
pub(super) fn virtual_maps(dcpl: &DatasetCreate) -> hdf5::Result<Vec<VirtualMap>> {
    let id = dcpl.id();
    sync(|| {
        let mut count = 0;
        // SAFETY: `dcpl` is an open property list of a virtual dataset; `count` is written.
        h5check(unsafe { H5Pget_virtual_count(id, &raw mut count) })?;
        (0..count)
            .map(|i| {
                // SAFETY: the calls write at most as many bytes as they are told.
                let file = name_of(|text, room| unsafe { H5Pget_virtual_filename(id, i, text, room) })?;
                // SAFETY: as above.
                let dataset = name_of(|text, room| unsafe { H5Pget_virtual_dsetname(id, i, text, room) })?;
                // SAFETY: `i` is below the count; the new identifier is owned by what is made of it.
                let source = unsafe { hdf5::from_id(h5check(H5Pget_virtual_srcspace(id, i))?) }?;
                // SAFETY: as above.
                let target = unsafe { hdf5::from_id(h5check(H5Pget_virtual_vspace(id, i))?) }?;
                Ok(VirtualMap {
                    file: path_of(file),
                    dataset: String::from_utf8_lossy(&dataset).into_owned(),
                    source: selected(&source),
                    target: selected(&target),
                })
            })
            .collect()
    })
}

/// Creates a chunked, little-endian dataset with filters that the library need not have.
pub(super) fn create_chunked(
    group: &Group,
    name: &str,
    pixel: PixelType,
    shape: &[usize],
    chunk: &[usize],
    filters: &[RawFilter],
) -> hdf5::Result<Dataset> {
    let name = c_name(name)?;
    let space = Dataspace::try_new(shape)?;
    let dcpl = DatasetCreate::build().chunk(chunk.to_vec()).finish()?;
    sync(|| {
        for (id, values) in filters {
            // SAFETY: the property list is open; `values` holds as many values as are told.
            h5check(unsafe { H5Pset_filter(dcpl.id(), *id, H5Z_FLAG_OPTIONAL, values.len(), values.as_ptr()) })?;
        }
        let dtype = stored_type(pixel);
        // SAFETY: all identifiers are open, the name ends with a zero byte, and the new identifier is owned by the
        // dataset that is made of it.
        unsafe {
            let id = H5Dcreate2(group.id(), name.as_ptr(), dtype, space.id(), H5P_DEFAULT, dcpl.id(), H5P_DEFAULT);
            hdf5::from_id(h5check(id)?)
        }
    })
}

/// Writes an encoded chunk whose first element is at `offset`; the bits of `skipped` are the filters that were not
/// applied to it.
///
/// # Panics
/// If `offset` has not one number for each axis.
pub(super) fn write_chunk(dataset: &Dataset, offset: &[u64], skipped: u32, bytes: &[u8]) -> hdf5::Result<()> {
    assert_eq!(offset.len(), dataset.ndim());
    sync(|| {
        // SAFETY: the offset has the dataset's rank, as asserted, and `bytes` is as long as told.
        let status = unsafe {
            H5Dwrite_chunk(
                dataset.id(),
                H5P_DEFAULT,
                skipped,
                offset.as_ptr(),
                bytes.len(),
                bytes.as_ptr().cast::<c_void>(),
            )
        };
        h5check(status).map(drop)
    })
}

fn selected(space: &Dataspace) -> Selected {
    // SAFETY: the space is open.
    match unsafe { H5Sget_select_type(space.id()) } {
        H5S_sel_type::H5S_SEL_ALL => Selected::All,
        H5S_sel_type::H5S_SEL_HYPERSLABS => selected_box(space).map_or(Selected::Other, Selected::Box),
        H5S_sel_type::H5S_SEL_ERROR
        | H5S_sel_type::H5S_SEL_NONE
        | H5S_sel_type::H5S_SEL_POINTS
        | H5S_sel_type::H5S_SEL_N => Selected::Other,
    }
}

/// The box that a regular hyperslab without gaps is.
fn selected_box(space: &Dataspace) -> Option<Vec<Range<u64>>> {
    let rank = space.ndim();
    let [mut start, mut stride, mut count, mut block] = std::array::from_fn(|_| vec![0; rank]);
    // SAFETY: each buffer has a number for every axis. The call fails for irregular selections.
    let regular = unsafe {
        H5Sget_regular_hyperslab(
            space.id(),
            start.as_mut_ptr(),
            stride.as_mut_ptr(),
            count.as_mut_ptr(),
            block.as_mut_ptr(),
        )
    };
    if regular < 0 {
        return None;
    }
    let axis = |i: usize| {
        let (count, block): (u64, u64) = (count[i], block[i]);
        let whole = count == 1 || stride[i] == block;
        let bounded = count != H5S_UNLIMITED && block != H5S_UNLIMITED;
        let length = (whole && bounded).then(|| count.checked_mul(block)).flatten()?;
        Some(start[i]..u64::checked_add(start[i], length)?)
    };
    (0..rank).map(axis).collect()
}

/// Text that the library gives in two calls, for the length and for the bytes.
fn name_of(get: impl Fn(*mut c_char, usize) -> isize) -> hdf5::Result<Vec<u8>> {
    let length = usize::try_from(get(ptr::null_mut(), 0)).map_err(|_| hdf5::Error::from("a name cannot be read"))?;
    let mut text = vec![0_u8; length + 1];
    get(text.as_mut_ptr().cast(), text.len());
    text.truncate(length);
    Ok(text)
}

fn c_name(name: &str) -> hdf5::Result<CString> {
    CString::new(name).map_err(|_| hdf5::Error::from(format!("{name:?} is no name of an object")))
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
