//! Small HDF5 datasets as numbers and strings, whatever type they are stored in.
//!
//! For qmaps and metadata, where the library may decode; raw data do not come through here.

use std::os::unix::fs::FileExt;
use std::path::Path;

use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};
use hdf5::{Container, Dataset, File, Group};

use super::DatasetError;
use super::hdf5::ffi;
use super::links::{self, ContainmentError};
use super::reader::Desk;

/// The most elements that [`numbers`] and [`strings`] read, so that a damaged size allocates nothing large.
const MAX_ELEMENTS: usize = 1 << 20;
const MAX_FIXED_STRING: usize = 1024;
/// The most bytes of variable strings in one dataset.
const MAX_TEXT: u64 = 1 << 20;
/// Bytes of the length that a variable string's element begins with; its address and index follow.
const LENGTH_BYTES: usize = 4;
const MAX_REFERENCE_BYTES: usize = 64;

/// Opens an HDF5 file that stands for itself; `refuse` makes the error of one that is none, is damaged or refers to
/// another file.
///
/// # Errors
/// IO errors as such, others by `refuse`.
pub(super) fn open(
    desk: &dyn Desk,
    path: &Path,
    refuse: impl Fn(String) -> DatasetError,
) -> Result<File, DatasetError> {
    let opened = desk.open(path)?;
    if !opened.is_hdf5()? {
        return Err(refuse("not an HDF5 file".into()));
    }
    let damaged = |error: &hdf5::Error| format!("a damaged HDF5 file: {}", words(error));
    let file = opened.hdf5().map_err(|error| refuse(damaged(&error)))?;
    links::check_contained(&file).map_err(|error| match error {
        ContainmentError::Library { source, .. } => refuse(damaged(&source)),
        ContainmentError::Refers { .. } | ContainmentError::Many => refuse(error.to_string()),
    })?;
    Ok(file)
}

/// The library's words on one line.
pub(super) fn words(error: &hdf5::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The dataset at `path`, None where there is none.
pub(super) fn dataset(group: &Group, path: &str) -> Option<Dataset> {
    group.dataset(path).ok()
}

/// All elements as f64, from any integer, float, boolean or enumeration type.
///
/// # Errors
/// Text, compounds and the like; more than `limit` elements or chunks of more; what the library refuses.
pub(super) fn numbers_up_to(limit: usize, dataset: &Dataset) -> Result<Vec<f64>, String> {
    check_sizes(limit, [Some(dataset.shape()), dataset.chunk()])?;
    let numeric = |stored: &TypeDescriptor| {
        use TypeDescriptor as T;
        matches!(stored, T::Integer(_) | T::Unsigned(_) | T::Float(_) | T::Boolean | T::Enum(_))
    };
    match stored_as(dataset) {
        Ok(stored) if !numeric(&stored) => Err(format!("is stored as {stored}, not as numbers")),
        _ => dataset.read_raw::<f64>().map_err(|e| format!("does not read as numbers: {}", words(&e))),
    }
}

/// Holds the shapes of a dataset and of its chunks against `limit` elements.
///
/// # Errors
/// The first that is larger.
pub(super) fn check_sizes(limit: usize, sizes: [Option<Vec<usize>>; 2]) -> Result<(), String> {
    for size in sizes.into_iter().flatten() {
        let elements = size.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        if elements.is_none_or(|elements| elements > limit) {
            return Err(format!("is of size {size:?}, more than {limit} elements"));
        }
    }
    Ok(())
}

/// [`numbers_up_to`] a million.
pub(super) fn numbers(dataset: &Dataset) -> Result<Vec<f64>, String> {
    numbers_up_to(MAX_ELEMENTS, dataset)
}

/// The one number of a scalar or an array of one element.
///
/// # Errors
/// As [`numbers`], and any other number of elements.
pub(super) fn number(dataset: &Dataset) -> Result<f64, String> {
    one(numbers(dataset)?)
}

/// All elements as strings; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// Types other than strings, too many or too long ones, what the library refuses.
pub(super) fn strings(dataset: &Dataset) -> Result<Vec<String>, String> {
    check_lengths(dataset)?;
    unchecked_strings(dataset)
}

/// [`strings`] of an attribute too, where lengths cannot be checked before the library follows them.
///
/// # Errors
/// As [`strings`].
pub(super) fn unchecked_strings(container: &Container) -> Result<Vec<String>, String> {
    check_sizes(MAX_ELEMENTS, [Some(container.shape()), None])?;
    let stored = stored_as(container)?;
    let fits = |n| n <= MAX_FIXED_STRING;
    let read = if stored == TypeDescriptor::VarLenUnicode {
        texts::<VarLenUnicode>(container)
    } else if stored == TypeDescriptor::VarLenAscii {
        texts::<VarLenAscii>(container)
    } else if matches!(stored, TypeDescriptor::FixedUnicode(n) if fits(n)) {
        texts::<FixedUnicode<MAX_FIXED_STRING>>(container)
    } else if matches!(stored, TypeDescriptor::FixedAscii(n) if fits(n)) {
        texts::<FixedAscii<MAX_FIXED_STRING>>(container)
    } else {
        return Err(format!("is stored as {stored}, not as text"));
    };
    read.map_err(|e| words(&e))
}

fn stored_as(container: &Container) -> Result<TypeDescriptor, String> {
    container.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(|e| words(&e))
}

/// The one string of a scalar or an array of one element.
///
/// # Errors
/// As [`strings`], and any other number of elements.
pub(super) fn string(dataset: &Dataset) -> Result<String, String> {
    one(strings(dataset)?)
}

/// Holds the lengths of variable strings against [`MAX_TEXT`]: the library would take a damaged one at its word,
/// up to 4 GiB each. Looks at contiguous storage, as all metadata and qmaps have, where an element begins with
/// its length as a little-endian u32.
fn check_lengths(dataset: &Dataset) -> Result<(), String> {
    check_sizes(MAX_ELEMENTS, [Some(dataset.shape()), None])?;
    let variable = matches!(stored_as(dataset)?, TypeDescriptor::VarLenUnicode | TypeDescriptor::VarLenAscii);
    let (Some(offset), true) = (dataset.offset(), variable) else { return Ok(()) };
    let storage = dataset.storage_size() as usize;
    let element = storage / dataset.size().max(1);
    if !(LENGTH_BYTES..=MAX_REFERENCE_BYTES).contains(&element) {
        return Err(format!("has elements of {element} bytes, which are no variable strings"));
    }
    let outside = || "lies outside its file".to_owned();
    let file = dataset.file().and_then(|file| ffi::descriptor(&file)).map_err(|error| words(&error))?;
    let file = std::fs::File::from(file);
    // before anything is allocated for it
    let length = file.metadata().map_err(|_| outside())?.len();
    if offset.checked_add(storage as u64).is_none_or(|end| end > length) {
        return Err(outside());
    }
    let mut bytes = vec![0; storage];
    file.read_exact_at(&mut bytes, offset).map_err(|_| outside())?;
    let lengths = bytes.chunks_exact(element).map(|e| u64::from(u32::from_le_bytes([e[0], e[1], e[2], e[3]])));
    match lengths.sum::<u64>() {
        total if total > MAX_TEXT => Err(format!("announces {total} bytes of text, more than {MAX_TEXT}")),
        _ => Ok(()),
    }
}

fn texts<T: hdf5::H5Type + AsRef<[u8]>>(container: &Container) -> Result<Vec<String>, hdf5::Error> {
    let values = container.read_raw::<T>()?;
    // By bytes: the types' own `str` trusts the file to be UTF-8.
    let text = |value: &T| String::from_utf8_lossy(value.as_ref()).trim_end_matches('\0').to_owned();
    Ok(values.iter().map(text).collect())
}

fn one<T>(values: Vec<T>) -> Result<T, String> {
    let count = values.len();
    let mut values = values.into_iter();
    match (values.next(), count) {
        (Some(value), 1) => Ok(value),
        _ => Err(format!("has {count} elements instead of one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Opener;
    use crate::dataset::reader::Files;

    fn scratch_file() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("a.h5")).unwrap();
        (dir, file)
    }

    #[test]
    fn any_numeric_type_reads_as_numbers() {
        let (_dir, file) = scratch_file();
        let builder = file.new_dataset_builder();
        builder.clone().with_data(&[true, false]).create("bool").unwrap();
        builder.clone().with_data(&[1_u8, 0]).create("u8").unwrap();
        builder.clone().with_data(&[1_i64, 0]).create("i64").unwrap();
        builder.clone().with_data(&[1_f32, 0.0]).create("f32").unwrap();
        for name in ["bool", "u8", "i64", "f32"] {
            assert_eq!(numbers(&dataset(&file, name).unwrap()).unwrap(), [1.0, 0.0], "{name}");
        }
        assert!(number(&dataset(&file, "u8").unwrap()).unwrap_err().contains("2 elements"));
    }

    #[test]
    fn any_string_type_reads_as_text() {
        let (_dir, file) = scratch_file();
        let text: VarLenUnicode = "Å⁻¹".parse().unwrap();
        let fixed: FixedUnicode<9> = "Å⁻¹".parse().unwrap();
        file.new_dataset_builder().with_data(&[text]).create("var").unwrap();
        file.new_dataset_builder().with_data(&[fixed]).create("fixed").unwrap();
        file.new_dataset_builder().with_data(&[FixedAscii::<5>::from_ascii("q").unwrap()]).create("ascii").unwrap();
        file.flush().unwrap();
        assert_eq!(string(&dataset(&file, "var").unwrap()).unwrap(), "Å⁻¹");
        assert_eq!(string(&dataset(&file, "fixed").unwrap()).unwrap(), "Å⁻¹");
        assert_eq!(string(&dataset(&file, "ascii").unwrap()).unwrap(), "q");
        assert!(numbers(&dataset(&file, "var").unwrap()).unwrap_err().contains("not as numbers"));
    }

    #[test]
    fn a_damaged_length_of_text_is_refused() {
        let (dir, file) = scratch_file();
        let text: VarLenUnicode = "some words".parse().unwrap();
        let dataset = file.new_dataset::<VarLenUnicode>().create("text").unwrap();
        dataset.write_scalar(&text).unwrap();
        file.flush().unwrap();
        assert_eq!(string(&dataset).unwrap(), "some words");
        let offset = dataset.offset().unwrap() as usize;
        drop(dataset);
        file.close().unwrap();
        let path = dir.path().join("a.h5");
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[offset..offset + 4], [10, 0, 0, 0]);
        bytes[offset + 3] = 0xf0;
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        assert!(string(&file.dataset("text").unwrap()).unwrap_err().contains("announces 4026531850 bytes"));
    }

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        let (_dir, file) = scratch_file();
        let huge = [1_usize << 20, 1 << 20, 1 << 20];
        file.new_dataset::<u8>().shape(huge).chunk([1, 1, 1024]).create("huge").unwrap();
        file.new_dataset::<u8>().shape(4..).chunk(1 << 30).create("chunk").unwrap();
        for name in ["huge", "chunk"] {
            assert!(numbers(&dataset(&file, name).unwrap()).unwrap_err().contains("more than"), "{name}");
        }
    }

    #[test]
    fn what_is_not_hdf5_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refuse = |what: String| DatasetError::Qmap { path: file.path().to_owned(), what, remedy: "".into() };
        for (bytes, words) in [(&b"text"[..], "not an HDF5 file"), (b"\x89HDF\r\n\x1a\nrest", "damaged")] {
            std::fs::write(file.path(), bytes).unwrap();
            let opener = Opener::anywhere();
            let message = open(&Files::new(&opener), file.path(), refuse).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }
}
