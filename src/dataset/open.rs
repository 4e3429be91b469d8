//! Which reader a raw file gets: by its name, and where a name is used for two formats, by its content.

use std::path::Path;

use super::hdf5::{ftf, open_frames};
use super::{DatasetError, Opener, Source, imm, rigaku};
use crate::correlate::bins::Shape;
use crate::task::correlate::BitOrder;

/// What some formats do not tell about themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenHint {
    /// Image shape of a single Rigaku `.bin`: that of the qmap. Other formats tell theirs and ignore it.
    pub shape: Option<Shape>,
    /// Order of the pixels within a byte of Rigaku fast-transfer files; other formats ignore it.
    pub ftf_bits: BitOrder,
}

const SUPPORTED: &str = "supported are Rigaku .bin, .bin.000 and .h5.000, .imm, and HDF5 as .h5, .hdf, .hdf5 or .nxs";

/// Opens a raw file of any supported format.
///
/// # Errors
/// IO errors for files that are missing or unreadable; [`DatasetError::Unsupported`] for other formats, for a
/// module file that is not the first, and for a `.bin` without a shape; else the reader's.
pub fn open_raw(opener: &Opener, path: &Path, hint: &OpenHint) -> Result<Source, DatasetError> {
    let opened = opener.open(path)?;
    let unsupported = |what: &str, remedy: &'static str| {
        Err(DatasetError::Unsupported { path: path.to_owned(), what: what.to_owned(), remedy: remedy.into() })
    };
    let kind = Kind::of(path);
    let signed = matches!(kind, Kind::Imm | Kind::Hdf5) && opened.is_hdf5()?;
    match kind {
        Kind::Bin => match hint.shape {
            Some(shape) => rigaku::open_single(opener, path, shape).map(Source::Events),
            None => {
                unsupported("a Rigaku .bin file does not tell its image shape", "give the qmap, whose shape it has")
            }
        },
        Kind::BinModule(0) => rigaku::open_3m(opener, path).map(Source::Events),
        Kind::BinModule(_) => unsupported("one of the later module files of a Rigaku 3M", "give its .bin.000 file"),
        Kind::FtfModule(0) => ftf::open(opener, path, hint.ftf_bits).map(Source::Frames),
        Kind::FtfModule(_) => unsupported("one of the later module files of a Rigaku 3M", "give its .h5.000 file"),
        Kind::Imm if !signed => imm::open(opener, path),
        Kind::Hdf5 if !signed => Err(no_signature(path, opened.length)),
        Kind::Imm | Kind::Hdf5 => open_frames(opener, path).map(Source::Frames),
        Kind::Timepix => unsupported(
            "raw Timepix data, whose layout is not published",
            "convert it to a Rigaku .bin file, as 8-ID does for its Tempus detector",
        ),
        Kind::Other => unsupported("not a raw format by its name", SUPPORTED),
    }
}

fn no_signature(path: &Path, size: u64) -> DatasetError {
    DatasetError::Raw {
        path: path.to_owned(),
        place: format!("byte 0 of {size}"),
        what: "not an HDF5 file, though named as one".into(),
        remedy: "transfer it again, or give it the name of its format".into(),
    }
}

/// Formats by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bin,
    /// File of a 3M with its number.
    BinModule(u16),
    /// Fast-transfer file of a 3M with its number.
    FtfModule(u16),
    Imm,
    Hdf5,
    Timepix,
    Other,
}

impl Kind {
    fn of(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let (front, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
        match ending {
            "bin" => Self::Bin,
            "imm" => Self::Imm,
            "h5" | "hdf" | "hdf5" | "nxs" => Self::Hdf5,
            _ if ending.starts_with("tpx") || front.ends_with(".tpx") => Self::Timepix,
            digits if digits.len() == 3 => match (digits.parse(), front.rsplit_once('.')) {
                (Ok(module), Some((_, "bin"))) => Self::BinModule(module),
                (Ok(module), Some((_, "h5"))) => Self::FtfModule(module),
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const HINT: OpenHint = OpenHint { shape: Some(Shape { rows: 512, cols: 1024 }), ftf_bits: BitOrder::LittlePairs };

    fn open_bytes(name: &str, bytes: &[u8]) -> Result<String, DatasetError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open_raw(&Opener::anywhere(), &path, &HINT).map(|source| source.info().format.clone())
    }

    fn remedy(name: &str) -> String {
        match open_bytes(name, &[1; 8]) {
            Err(error @ DatasetError::Unsupported { .. }) => error.to_string(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_tell_formats() {
        for (name, kind) in [
            ("a.bin", Kind::Bin),
            ("a.bin.000", Kind::BinModule(0)),
            ("a.bin.005", Kind::BinModule(5)),
            ("a.h5.000", Kind::FtfModule(0)),
            ("a.h5.h5", Kind::Hdf5),
            ("a_master.h5", Kind::Hdf5),
            ("a.tpx.002", Kind::Timepix),
            ("a.tpx3", Kind::Timepix),
            ("a.000", Kind::Other),
            ("a.txt", Kind::Other),
            ("bin", Kind::Other),
        ] {
            assert_eq!(Kind::of(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn what_is_not_supported_has_a_remedy() {
        assert!(remedy("a.bin.002").contains("give its .bin.000"));
        assert!(remedy("a.h5.004").contains("give its .h5.000"));
        assert!(remedy("a.tpx.000").contains("convert it to a Rigaku .bin"));
        assert!(remedy("a.dat").contains(".imm, and HDF5"));
    }

    #[test]
    fn a_single_event_file_needs_a_shape() {
        let event = 5_u64 << 16 | 1;
        assert_eq!(open_bytes("a.bin", &event.to_le_bytes()).unwrap(), "Rigaku 64-bit events");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        std::fs::write(&path, event.to_le_bytes()).unwrap();
        let message = open_raw(&Opener::anywhere(), &path, &OpenHint { shape: None, ..HINT })
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("give the qmap"), "{message}");
    }

    #[test]
    fn absent_files_and_directories_are_io_errors() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b.h5")).unwrap();
        for name in ["a.bin", "a.bin.000", "a.imm", "a.h5", "a.h5.000", "b.h5"] {
            let error = open_raw(&Opener::anywhere(), &dir.path().join(name), &HINT).map(|_| ()).unwrap_err();
            assert!(matches!(error, DatasetError::Io { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn an_imm_name_opens_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("a.imm");
        let file = ::hdf5::File::create(&path).unwrap();
        file.create_group("entry").unwrap().create_group("data").unwrap();
        let builder = file.new_dataset::<u16>().shape([2, 3, 4]).chunk([1, 3, 4]);
        builder.create("/entry/data/data").unwrap().write_raw(&[7_u16; 24]).unwrap();
        file.close().unwrap();
        let source = open_raw(&Opener::anywhere(), &path, &HINT).unwrap();
        assert_eq!((source.info().frames, source.info().shape), (2, Shape { rows: 3, cols: 4 }));
        let message = open_bytes("b.imm", b"neither").unwrap_err().to_string();
        assert!(message.contains("frame 0, byte 0"), "{message}");
    }

    #[test]
    fn an_hdf5_name_without_the_signature_is_an_error() {
        for bytes in [&b""[..], b"text", &[0; 4096]] {
            let error = open_bytes("a.h5", bytes).unwrap_err();
            assert!(error.to_string().contains("not an HDF5 file"), "{error}");
        }
    }

    #[test]
    fn golden_files_open_by_name() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
        for (name, frames, shape) in [
            ("case_rigaku500k_bin/B0004_r00001.bin", 600, (512, 1024)),
            ("case_rigaku3m/G0011_f000064_r00001.bin.000", 64, (1676, 2100)),
            ("case_imm/H0012_dense_00001-00040.imm", 40, (32, 48)),
            ("case_hdf_64x96/F0009_r00001.h5", 611, (64, 96)),
        ] {
            if golden.exists() {
                let info = open_raw(&Opener::anywhere(), &golden.join(name), &HINT).unwrap().info().clone();
                assert_eq!((info.shape.rows, info.shape.cols), shape, "{name}");
                assert_eq!(info.frames, frames, "{name}");
            }
        }
    }
}
