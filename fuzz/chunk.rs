//! Chunks of HDF5 files: the filters that a file names, and the bytes that they are to decode.

use std::path::Path;

use speckled::dataset::hdf5::fuzzing;

pub(crate) fn run(data: &[u8], _: &Path) {
    fuzzing::decode(data);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    fuzzing::seeds()
}
