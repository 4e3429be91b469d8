//! Turns a failed write into one line that names the object and the system's reason.
//!
//! HDF5 keeps the system's error number in the words of its innermost error; it is dug out here, because
//! `no space left on device` is what the user must read, not the library's call chain.

use std::error::Error;
use std::io;
use std::path::Path;

use crate::dataset::DatasetError;

/// Where the library's words hold the system's error number.
const ERRNO: &str = "errno = ";

/// Free bytes below which a failure without a reason is taken for a full disk.
const FULL: u64 = 64 << 10;

/// A failed `action` on the result `target`.
pub(super) fn save(
    action: impl Into<String>,
    target: &Path,
    cause: impl Into<Box<dyn Error + Send + Sync>>,
) -> DatasetError {
    DatasetError::Save { action: action.into(), path: target.to_owned(), source: advised(cause.into()) }
}

/// The system's reason with what the user can do about it, where that is known.
fn advised(cause: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    let remedy = match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => "free some space there or choose another",
        Some(io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => "choose another",
        _ => return cause,
    };
    format!("{cause}; {remedy} output directory").into()
}

/// A failed `action` of the HDF5 library on the result `target`.
pub(super) fn library(action: impl Into<String>, target: &Path, error: hdf5::Error) -> DatasetError {
    match reason(&error, target) {
        Some(cause) => save(action, target, cause),
        None => save(action, target, error),
    }
}

/// Why the system refused to write `target`, if it was the system.
fn reason(error: &hdf5::Error, target: &Path) -> Option<io::Error> {
    system_error(error).or_else(|| full_disk(target))
}

/// The system's error behind a library error, if there is one.
pub(super) fn system_error(error: &hdf5::Error) -> Option<io::Error> {
    let hdf5::Error::HDF5(stack) = error else { return None };
    let frames = stack.clone().expand().ok()?;
    frames.iter().rev().find_map(|frame| errno(frame.desc())).map(io::Error::from_raw_os_error)
}

fn errno(words: &str) -> Option<i32> {
    let digits = &words[words.find(ERRNO)? + ERRNO.len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|&number| number != 0)
}

fn full_disk(target: &Path) -> Option<io::Error> {
    let space = rustix::fs::statvfs(target.parent()?).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (free < FULL).then(|| io::Error::from(io::ErrorKind::StorageFull))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_done_follows_the_reason() {
        let words = |kind: io::ErrorKind| advised(io::Error::from(kind).into()).to_string();
        assert!(
            words(io::ErrorKind::StorageFull).ends_with("; free some space there or choose another output directory")
        );
        assert!(words(io::ErrorKind::PermissionDenied).ends_with("; choose another output directory"));
        assert_eq!(words(io::ErrorKind::Other), io::Error::from(io::ErrorKind::Other).to_string());
        assert_eq!(advised("as it was".into()).to_string(), "as it was");
    }

    #[test]
    fn the_number_is_found_in_the_words() {
        assert_eq!(errno("file write failed: filename = 'x', errno = 28, error message = 'No space left'"), Some(28));
        assert_eq!(errno("errno = 5"), Some(5));
        for words in ["", "errno = ", "errno = x", "errno = 0, fine", "can't write"] {
            assert_eq!(errno(words), None, "{words}");
        }
    }
}
