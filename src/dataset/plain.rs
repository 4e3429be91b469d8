//! Positioned reading of files, with errors that name the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DatasetError;

const HDF5_SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

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
    use crate::dataset::opener::{Opened, Opener};

    #[test]
    fn a_file_that_shrank_is_an_io_error() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, b"1234").unwrap();
        let Opened { file, length: size, .. } = Opener::anywhere().open(path.path()).unwrap();
        assert_eq!(size, 4);
        let mut buffer = [0; 4];
        read_at(&file, path.path(), &mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"1234");
        let refused = read_at(&file, path.path(), &mut buffer, 1);
        assert!(matches!(refused, Err(DatasetError::Io { action, .. }) if action == "read"));
    }

    #[test]
    fn the_signature_may_follow_a_user_block() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for (offset, found) in [(0, true), (512, true), (2048, true), (1, false), (1536, false)] {
            let mut bytes = vec![0; offset];
            bytes.extend(HDF5_SIGNATURE);
            std::fs::write(&path, &bytes).unwrap();
            let Opened { file, length: size, .. } = Opener::anywhere().open(path.path()).unwrap();
            assert_eq!(is_hdf5(&file, path.path(), size).unwrap(), found, "{offset}");
        }
    }
}
