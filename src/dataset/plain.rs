//! Opening and positioned reading of plain (not HDF5) files, with errors that name the file.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DatasetError;

/// Opens a regular file for reading; returns it with its size.
///
/// # Errors
/// The operating system's; also for a directory, pipe or device, which positioned reads cannot serve.
pub(super) fn open(path: &Path) -> Result<(File, u64), DatasetError> {
    // Asked before opening: opening a pipe would wait for a writer.
    let kind = std::fs::metadata(path).map_err(|e| DatasetError::io("open", path, e))?;
    if kind.is_dir() {
        return Err(DatasetError::io("open", path, Error::from(ErrorKind::IsADirectory)));
    }
    if !kind.is_file() {
        return Err(DatasetError::io("open", path, Error::new(ErrorKind::InvalidInput, "not a regular file")));
    }
    let file = File::open(path).map_err(|e| DatasetError::io("open", path, e))?;
    let size = file.metadata().map_err(|e| DatasetError::io("open", path, e))?.len();
    Ok((file, size))
}

/// Fills `buffer` from byte `offset` on.
///
/// # Errors
/// The operating system's; `UnexpectedEof` when the file has become shorter since it was opened.
pub(super) fn read_at(file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<(), DatasetError> {
    file.read_exact_at(buffer, offset).map_err(|e| DatasetError::io("read", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), &dir.path().join("absent"), Path::new("/dev/null")] {
            assert!(matches!(open(path), Err(DatasetError::Io { action: "open", .. })), "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_shrank_is_an_io_error() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, b"1234").unwrap();
        let (file, size) = open(path.path()).unwrap();
        assert_eq!(size, 4);
        let mut buffer = [0; 4];
        read_at(&file, path.path(), &mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"1234");
        assert!(matches!(read_at(&file, path.path(), &mut buffer, 1), Err(DatasetError::Io { action: "read", .. })));
    }
}
