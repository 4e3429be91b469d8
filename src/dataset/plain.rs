//! Opening and positioned reading of plain (not HDF5) files, with errors that name the file.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DatasetError;

const HDF5_SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

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

/// As [`open`], for formats of which no valid file is empty.
///
/// # Errors
/// As [`open`], and an empty file.
pub(super) fn open_filled(path: &Path) -> Result<(File, u64), DatasetError> {
    let (file, size) = open(path)?;
    if size == 0 {
        return Err(DatasetError::Raw {
            path: path.to_owned(),
            place: "byte 0".into(),
            what: "the file is empty".into(),
            remedy: "transfer it again or leave the dataset out",
        });
    }
    Ok((file, size))
}

/// Fills `buffer` from byte `offset` on.
///
/// # Errors
/// The operating system's; `UnexpectedEof` when the file has become shorter since it was opened.
pub(super) fn read_at(file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<(), DatasetError> {
    file.read_exact_at(buffer, offset).map_err(|e| DatasetError::io("read", path, e))
}

/// Whether the file is HDF5: its signature is at byte 0, 512, 1024, 2048 and so on.
///
/// # Errors
/// The operating system's.
pub(super) fn is_hdf5(file: &File, path: &Path, size: u64) -> Result<bool, DatasetError> {
    let mut offset = 0;
    while offset + HDF5_SIGNATURE.len() as u64 <= size {
        let mut bytes = [0; HDF5_SIGNATURE.len()];
        read_at(file, path, &mut bytes, offset)?;
        if &bytes == HDF5_SIGNATURE {
            return Ok(true);
        }
        offset = (2 * offset).max(512);
    }
    Ok(false)
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

    #[test]
    fn the_signature_may_follow_a_user_block() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for (offset, found) in [(0, true), (512, true), (2048, true), (1, false), (1536, false)] {
            let mut bytes = vec![0; offset];
            bytes.extend(HDF5_SIGNATURE);
            std::fs::write(&path, &bytes).unwrap();
            let (file, size) = open(path.path()).unwrap();
            assert_eq!(is_hdf5(&file, path.path(), size).unwrap(), found, "{offset}");
        }
    }
}
