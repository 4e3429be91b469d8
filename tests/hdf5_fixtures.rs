//! Files that h5py and hdf5plugin wrote (`scripts/make-fixtures.py`), read through the public interface.

use std::path::{Path, PathBuf};

use speckled::correlate::bins::Shape;
use speckled::dataset::Opener;
use speckled::dataset::hdf5::open_frames;
use speckled::dataset::{PixelType, Scratch};

const ROWS: usize = 37;
const COLS: usize = 29;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5").join(name)
}

/// The formula of the script, as native bytes.
fn frame(f: u32, pixel: PixelType) -> Vec<u8> {
    let value = |r: u32, c: u32| if (r + c).is_multiple_of(17) { 251 + f } else { (f * 31 + r * 7 + c * c) % 5 };
    let values = (0..ROWS as u32).flat_map(|r| (0..COLS as u32).map(move |c| value(r, c)));
    values
        .flat_map(|value| match pixel {
            PixelType::U8 => vec![value as u8],
            PixelType::U16 | PixelType::I16 => (value as u16).to_ne_bytes().to_vec(),
            PixelType::U32 | PixelType::I32 => value.to_ne_bytes().to_vec(),
            PixelType::F32 => (value as f32).to_ne_bytes().to_vec(),
        })
        .collect()
}

#[test]
fn files_of_the_reference_writers_read_exactly() {
    let cases = [
        ("bslz4_u8.h5", PixelType::U8, 4, "HDF5 u8, bitshuffle-lz4"),
        ("bslz4_u16.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle-lz4"),
        ("bslz4_u16_be.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle-lz4"),
        ("bslz4_u32.h5", PixelType::U32, 5, "HDF5 u32, bitshuffle-lz4"),
        ("bszstd_u16.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle-zstd"),
        ("bitshuffle_u16.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle"),
        ("lz4_u16.h5", PixelType::U16, 5, "HDF5 u16, lz4"),
        ("blosc_u16.h5", PixelType::U16, 5, "HDF5 u16, blosc"),
        ("zstd_i32.h5", PixelType::I32, 5, "HDF5 i32, zstd"),
        ("lzf_f32.h5", PixelType::F32, 5, "HDF5 f32, shuffle+lzf"),
        ("gzip_shuffle_fletcher_i16_be.h5", PixelType::I16, 5, "HDF5 i16, shuffle+gzip+fletcher32"),
        ("eiger_master.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle-lz4"),
        ("vds.h5", PixelType::U16, 5, "HDF5 u16, bitshuffle-lz4"),
    ];
    for (name, pixel, frames, format) in cases {
        let source = open_frames(&Opener::anywhere(), &fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let info = source.info();
        assert_eq!((source.pixel_type(), info.frames, info.format.as_str()), (pixel, frames, format), "{name}");
        assert_eq!(info.shape, Shape { rows: ROWS, cols: COLS }, "{name}");
        let expected: Vec<u8> = (0..frames as u32).flat_map(|f| frame(f, pixel)).collect();
        let mut out = vec![0; expected.len()];
        source.read_frames(0..frames, &mut Scratch::default(), &mut out).unwrap();
        assert!(out == expected, "{name}");
    }
}

#[test]
fn linked_files_are_listed_after_the_named_one() {
    for name in ["eiger_master.h5", "vds.h5"] {
        let source = open_frames(&Opener::anywhere(), &fixture(name)).unwrap();
        let expected = [name, "eiger_data_000001.h5", "eiger_data_000002.h5"].map(fixture);
        assert_eq!(source.info().files, expected);
        let bytes: u64 = expected.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(source.info().bytes, bytes);
        assert!(source.may_have_counts(4), "{name}");
    }
}

#[test]
fn a_missing_linked_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["eiger_master.h5", "vds.h5", "eiger_data_000001.h5"] {
        std::fs::copy(fixture(name), dir.path().join(name)).unwrap();
    }
    for name in ["eiger_master.h5", "vds.h5"] {
        let message = open_frames(&Opener::anywhere(), &dir.path().join(name)).err().unwrap().to_string();
        let expected = dir.path().join("eiger_data_000002.h5").display().to_string();
        assert!(message.contains(&expected) && message.contains("does not exist"), "{message}");
    }
}

#[test]
fn threads_read_one_source_at_the_same_time() {
    let source = open_frames(&Opener::anywhere(), &fixture("bslz4_u16.h5")).unwrap();
    std::thread::scope(|scope| {
        for f in 0..5 {
            let source = &source;
            scope.spawn(move || {
                let (expected, mut scratch) = (frame(f, PixelType::U16), Scratch::default());
                for _ in 0..20 {
                    let mut out = vec![0; expected.len()];
                    source.read_frames(u64::from(f)..u64::from(f) + 1, &mut scratch, &mut out).unwrap();
                    assert!(out == expected, "frame {f}");
                }
            });
        }
    });
}
