//! IMM files: headers that lie about kind, shape and lengths.

use std::path::Path;

use speckled::dataset::Opener;
use speckled::dataset::imm;

use super::{source, write};

const HEADER_BYTES: usize = 1024;

/// Value of the compression field of sparse frames.
const SPARSE: u32 = 6;

pub(crate) fn run(data: &[u8], directory: &Path) {
    let path = directory.join("frames.imm");
    write(&path, data);
    if let Ok(source) = imm::open(&Opener::anywhere(), &path) {
        source::read_through(&source);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (rows, cols) = (4, 6);
    let sparse = |pixels: &[u32]| {
        let mut frame = header(SPARSE, rows, cols, pixels.len() as u32);
        frame.extend(pixels.iter().flat_map(|pixel| pixel.to_le_bytes()));
        frame.extend(pixels.iter().flat_map(|_| 1_u16.to_le_bytes()));
        frame
    };
    let dense = |value: u16| {
        let mut frame = header(0, rows, cols, rows * cols);
        frame.extend((0..rows * cols).flat_map(|_| value.to_le_bytes()));
        frame
    };
    vec![
        sparse(&[]),
        [sparse(&[0, 5, 23]), sparse(&[7]), sparse(&[])].concat(),
        dense(3),
        [dense(0), dense(1), dense(u16::MAX)].concat(),
    ]
}

/// The fields that are read: those of `dataset::imm::headers`.
fn header(compression: u32, rows: u32, cols: u32, length: u32) -> Vec<u8> {
    let mut header = vec![0; HEADER_BYTES];
    for (offset, number) in [(4, compression), (108, rows), (112, cols), (152, length)] {
        header[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
    }
    header
}
