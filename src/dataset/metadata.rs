//! The 8-ID metadata file that belongs to a raw file: finding it, and what results need of it.
//!
//! Nothing here depends on HDF5 attributes: files are in use that have none.

use std::path::{Path, PathBuf};

use hdf5::File;
use serde::{Deserialize, Serialize};

use super::reader::{BrokenAnswer, Desk, Question, Told, ask, no_nodes, wire};
use super::{DatasetError, Opener, values};
use crate::task::stem::raw_stem;

/// What marks a file as one of the 8-ID schema.
pub(super) const SCHEMA: &str = "/entry/schema_version";
const FRAME_TIME: &str = "/entry/instrument/detector_1/frame_time";
const COUNT_TIME: &str = "/entry/instrument/detector_1/count_time";
const ENERGY: &str = "/entry/instrument/incident_beam/incident_energy";
const START_TIME: &str = "/entry/start_time";

/// What a result must hold for viewers to open it.
pub(super) const REQUIRED: [&str; 4] = [ENERGY, FRAME_TIME, COUNT_TIME, START_TIME];

const ENDING: &str = "_metadata.hdf";
pub(super) const GIVE: &str = "name the right one with --meta-fname";

/// A metadata file that results can be built on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The file.
    #[serde(with = "wire::path")]
    pub path: PathBuf,
    /// Seconds between frames; None when what is stored is no time.
    pub frame_time: Option<f64>,
    /// Exposure of a frame, seconds; None when what is stored is no time.
    pub count_time: Option<f64>,
    /// Photon energy, keV; None when what is stored is none.
    pub incident_energy: Option<f64>,
    /// When the measurement started, as stored.
    pub start_time: Option<String>,
    /// Version of the schema.
    pub schema_version: Option<String>,
    /// Doubts about the choice of the file and its values, a line each.
    pub warnings: Vec<String>,
}

/// Finds and checks the metadata of the raw file: `explicit`, else a `*_metadata.hdf` beside it.
///
/// Beside the raw file, a file of the 8-ID schema counts if its name (before `_metadata.hdf`) is the raw file's
/// stem or the start of it up to a `_`, `-` or `.`; the longest wins. If there is none such, the only one of the
/// schema is taken with a warning.
///
/// # Errors
/// [`DatasetError::Metadata`]: none found (files that are not of the schema are named with the reason), several
/// of which none matches the raw name (all named), or one that lacks what results need. IO errors.
pub fn find(opener: &Opener, raw: &Path, explicit: Option<&Path>) -> Result<Metadata, DatasetError> {
    if let Some(path) = explicit {
        return Metadata::read(opener, path);
    }
    let directory = match raw.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let stem = raw_stem(raw);
    let (named, others) = candidates(directory, &stem)?;
    let mut refused = Vec::new();
    for path in named {
        match of_schema(opener, &path) {
            Ok(found) => return found.map(|found| found.with_warnings(&refused)),
            Err(refusal) => refused.push(passed_over(refusal)?),
        }
    }
    let mut valid = Vec::new();
    for path in others {
        match of_schema(opener, &path) {
            Ok(found) => valid.push((path, found)),
            Err(refusal) => refused.push(passed_over(refusal)?),
        }
    }
    if valid.len() > 1 {
        let names: Vec<_> = valid.iter().map(|(path, _)| path.display().to_string()).collect();
        let what = format!("{} files and none named as {stem}: {}", names.len(), names.join(", "));
        return Err(bad(directory, what, GIVE));
    }
    let Some((only, found)) = valid.pop() else { return Err(none_found(directory, &refused)) };
    refused.push(format!("{} is taken, though its name does not match {stem}", only.display()));
    found.map(|found| found.with_warnings(&refused))
}

/// Why a file is passed over.
///
/// # Errors
/// It is none of the file's: the next would meet it too.
fn passed_over(refusal: DatasetError) -> Result<String, DatasetError> {
    if matches!(refusal, DatasetError::Reader { .. }) { Err(refusal) } else { Ok(refusal.to_string()) }
}

/// What the library says of a file of the schema.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MetadataForm(Result<Metadata, DatasetError>);

/// Has the library read a metadata file.
///
/// # Errors
/// A file that is none of the schema.
pub(super) fn read(desk: &dyn Desk, path: &Path) -> Result<MetadataForm, DatasetError> {
    let file = values::open(desk, path, |what| bad(path, what, GIVE))?;
    match values::dataset(&file, SCHEMA) {
        Some(_) => Ok(MetadataForm(Metadata::of(&file, path))),
        None => Err(bad(path, format!("not of the 8-ID schema, it has no {SCHEMA}"), GIVE)),
    }
}

impl MetadataForm {
    /// What is there of the file, or lacks.
    ///
    /// # Errors
    /// What needs more than is there.
    pub(super) fn into_inner(self) -> Result<Metadata, DatasetError> {
        self.0
    }

    /// Holds the values against what they can be again: they may come from a process that read a hostile file.
    fn check(&self) -> Result<(), BrokenAnswer> {
        let possible = |value: Option<f64>| value.is_none_or(|value| value.is_finite() && value > 0.0);
        let sound =
            |found: &Metadata| [found.frame_time, found.count_time, found.incident_energy].into_iter().all(possible);
        if self.0.as_ref().ok().is_none_or(sound) { Ok(()) } else { Err(BrokenAnswer("a time or energy cannot be")) }
    }
}

/// A file of the schema, and what it lacks. The outer error is that of a file of another one.
fn of_schema(opener: &Opener, path: &Path) -> Result<Result<Metadata, DatasetError>, DatasetError> {
    ask(opener, &Question::Metadata(path.to_owned()), &mut no_nodes, |told, _| {
        let Told::Metadata(form) = told else { return Err(BrokenAnswer::OTHER) };
        form.check()?;
        Ok(form.into_inner().map(|found| Metadata { path: path.to_owned(), ..found }))
    })
}

impl Metadata {
    /// Reads one metadata file.
    ///
    /// # Errors
    /// As [`find`], for this file.
    pub fn read(opener: &Opener, path: &Path) -> Result<Self, DatasetError> {
        of_schema(opener, path)?
    }

    fn of(file: &File, path: &Path) -> Result<Self, DatasetError> {
        let absent: Vec<_> = REQUIRED.into_iter().filter(|name| values::dataset(file, name).is_none()).collect();
        if !absent.is_empty() {
            let what = format!("{} missing, so that viewers could not open the result", absent.join(", "));
            return Err(bad(path, what, "add what is missing or name another file with --meta-fname"));
        }
        let mut warnings = Vec::new();
        let mut positive = |name: &str| {
            let dataset = values::dataset(file, name)?;
            match values::number(&dataset) {
                Ok(value) if value.is_finite() && value > 0.0 => return Some(value),
                Ok(value) => warnings.push(format!("{}: {name} is {value}", path.display())),
                Err(why) => warnings.push(format!("{}: {name} {why}", path.display())),
            }
            None
        };
        let (frame_time, count_time) = (positive(FRAME_TIME), positive(COUNT_TIME));
        let incident_energy = positive(ENERGY);
        let text = |name| values::dataset(file, name).and_then(|dataset| values::string(&dataset).ok());
        Ok(Self {
            path: path.to_owned(),
            frame_time,
            count_time,
            incident_energy,
            start_time: text(START_TIME),
            schema_version: text(SCHEMA),
            warnings,
        })
    }

    fn with_warnings(mut self, before: &[String]) -> Self {
        self.warnings.splice(0..0, before.iter().cloned());
        self
    }
}

pub(super) fn bad(path: &Path, what: impl Into<String>, remedy: &'static str) -> DatasetError {
    DatasetError::Metadata { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
}

fn none_found(directory: &Path, refused: &[String]) -> DatasetError {
    let mut what = format!("no *{ENDING} of the 8-ID schema beside the raw file");
    if !refused.is_empty() {
        what = format!("{what} ({})", refused.join("; "));
    }
    bad(directory, what, "name one with --meta-fname")
}

/// All `*_metadata.hdf` of a directory: those named as the raw file, best first, and the others, sorted.
fn candidates(directory: &Path, stem: &str) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DatasetError> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory).map_err(|e| DatasetError::io("list", directory, e))? {
        let entry = entry.map_err(|e| DatasetError::io("list", directory, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(front) = name.strip_suffix(ENDING) else { continue };
        if belongs(front, stem) {
            named.push((front.len(), entry.path()));
        } else {
            others.push(entry.path());
        }
    }
    named.sort();
    others.sort();
    Ok((named.into_iter().rev().map(|(_, path)| path).collect(), others))
}

/// Whether `front` is `stem` or a whole part at its start: `A001` belongs to `A001_r2` and not to `A0010_r2`.
fn belongs(front: &str, stem: &str) -> bool {
    let rest = stem.strip_prefix(front);
    !front.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '-', '.']))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hdf5::types::VarLenUnicode;
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::reader::Files;

    /// Writes a valid metadata file that lacks the datasets in `without`.
    fn write(path: &Path, without: &[&str]) {
        let file = File::create(path).unwrap();
        for group in ["entry", "entry/instrument", "entry/instrument/detector_1", "entry/instrument/incident_beam"] {
            file.create_group(group).unwrap();
        }
        for name in [SCHEMA, START_TIME] {
            if !without.contains(&name) {
                let text = VarLenUnicode::from_str("0.1.0").unwrap();
                file.new_dataset::<VarLenUnicode>().create(name).unwrap().write_scalar(&text).unwrap();
            }
        }
        for (name, value) in [(FRAME_TIME, 2e-5), (COUNT_TIME, 1e-5), (ENERGY, 10.9)] {
            if !without.contains(&name) {
                file.new_dataset::<f64>().create(name).unwrap().write_scalar(&value).unwrap();
            }
        }
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(names: &[&str]) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            names.iter().for_each(|name| write(&folder.at(name), &[]));
            folder
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn find(&self, raw: &str) -> Result<Metadata, String> {
            find(&Opener::anywhere(), &self.at(raw), None).map_err(|error| {
                assert!(matches!(error, DatasetError::Metadata { .. }), "{error}");
                error.to_string()
            })
        }
    }

    #[test]
    fn values_are_read() {
        let folder = Folder::with(&["A_metadata.hdf"]);
        let found = folder.find("A.bin").unwrap();
        assert_eq!((found.frame_time, found.count_time, found.incident_energy), (Some(2e-5), Some(1e-5), Some(10.9)));
        assert_eq!(found.schema_version.as_deref(), Some("0.1.0"));
        assert_eq!(found.warnings, Vec::<String>::new());
    }

    #[test]
    fn of_several_the_one_named_as_the_raw_file_is_taken() {
        let names = ["A0010_metadata.hdf", "A001_metadata.hdf", "A001_r1_metadata.hdf", "A001_data_metadata.hdf"];
        let folder = Folder::with(&names);
        for (raw, name) in [
            ("A001_r1.bin.000", "A001_r1_metadata.hdf"),
            ("A001_r1_00001-00040.imm", "A001_r1_metadata.hdf"),
            ("A001_data.h5", "A001_data_metadata.hdf"),
            ("A001_r10.h5", "A001_metadata.hdf"),
            ("A0010.hdf", "A0010_metadata.hdf"),
        ] {
            let found = folder.find(raw).unwrap();
            assert_eq!((found.path, found.warnings.len()), (folder.at(name), 0), "{raw}");
        }
    }

    #[test]
    fn several_of_other_names_are_an_error_that_lists_them() {
        let folder = Folder::with(&["A_metadata.hdf", "B_metadata.hdf"]);
        let message = folder.find("C.bin").unwrap_err();
        assert!(message.contains("A_metadata.hdf") && message.contains("B_metadata.hdf"), "{message}");
        assert!(message.contains("--meta-fname"), "{message}");
    }

    #[test]
    fn the_only_one_is_taken_with_a_warning() {
        let found = Folder::with(&["A_metadata.hdf"]).find("C.bin").unwrap();
        assert!(found.warnings[0].contains("does not match C"), "{:?}", found.warnings);
    }

    #[test]
    fn invalid_ones_are_passed_over_and_named() {
        let folder = Folder::with(&["A_metadata.hdf"]);
        write(&folder.at("A_r1_metadata.hdf"), &[SCHEMA]);
        std::fs::write(folder.at("Z_metadata.hdf"), b"text").unwrap();
        let found = folder.find("A_r1.bin").unwrap();
        assert_eq!(found.path, folder.at("A_metadata.hdf"));
        assert!(found.warnings[0].contains("A_r1_metadata.hdf"), "{:?}", found.warnings);
        std::fs::remove_file(folder.at("A_metadata.hdf")).unwrap();
        let message = folder.find("A_r1.bin").unwrap_err();
        assert!(message.contains("schema_version") && message.contains("Z_metadata.hdf"), "{message}");
    }

    #[test]
    fn none_is_an_error_with_a_remedy() {
        let message = Folder::with(&[]).find("A.bin").unwrap_err();
        assert!(message.contains("beside the raw file") && message.contains("--meta-fname"), "{message}");
    }

    #[test]
    fn the_named_file_is_taken_or_refused() {
        let folder = Folder::with(&["A_metadata.hdf", "other.hdf"]);
        let read = |name: &str| find(&Opener::anywhere(), &folder.at("A.bin"), Some(&folder.at(name)));
        assert_eq!(read("other.hdf").unwrap().path, folder.at("other.hdf"));
        assert!(matches!(read("absent.hdf"), Err(DatasetError::Io { .. })));
        write(&folder.at("no.hdf"), &[SCHEMA]);
        assert!(matches!(read("no.hdf"), Err(DatasetError::Metadata { .. })));
    }

    #[test]
    fn what_viewers_need_is_required() {
        for name in REQUIRED {
            let folder = Folder::with(&[]);
            write(&folder.at("A_metadata.hdf"), &[name]);
            let message = folder.find("A.bin").unwrap_err();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn impossible_values_are_warnings() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let folder = Folder::with(&["A_metadata.hdf"]);
            let file = File::open_rw(folder.at("A_metadata.hdf")).unwrap();
            file.dataset(FRAME_TIME).unwrap().write_scalar(&value).unwrap();
            file.close().unwrap();
            let found = folder.find("A.bin").unwrap();
            assert_eq!(found.frame_time, None);
            assert!(found.warnings[0].contains(&format!("frame_time is {value}")), "{:?}", found.warnings);
        }
    }

    /// What a process apart may say.
    #[test]
    fn answers_that_cannot_be_are_refused() {
        let folder = Folder::with(&["A_metadata.hdf"]);
        let opener = Opener::anywhere();
        for (value, refused) in [(1.0, false), (0.0, true), (-1.0, true), (f64::NAN, true), (f64::INFINITY, true)] {
            let mut form = read(&Files::new(&opener), &folder.at("A_metadata.hdf")).unwrap();
            form.0.as_mut().unwrap().count_time = Some(value);
            assert_eq!(form.check().is_err(), refused, "{value}");
        }
    }

    #[test]
    fn golden_metadata_is_found() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
        for (raw, name) in [
            ("case_imm/H0012_sparse_00001-00040.imm", "case_imm/H0012_metadata.hdf"),
            ("case_rigaku3m/G0011_f000064_r00001.bin.000", "case_rigaku3m/G0011_f000064_r00001_metadata.hdf"),
        ] {
            if golden.exists() {
                let found = find(&Opener::anywhere(), &golden.join(raw), None).unwrap();
                assert_eq!((found.path, found.warnings.len()), (golden.join(name), 0));
                assert!(found.frame_time.is_some_and(|seconds| seconds > 0.0));
            }
        }
    }

    #[test]
    fn changed_bytes_are_read_or_refused() {
        let folder = Folder::with(&["A_metadata.hdf"]);
        let path = folder.at("A_metadata.hdf");
        let bytes = std::fs::read(&path).unwrap();
        // Few and always the same: most reach the C library's parser, which is not what is tested here.
        for position in (0..bytes.len()).step_by(211) {
            let mut changed = bytes.clone();
            changed[position] ^= 0xff;
            std::fs::write(&path, &changed).unwrap();
            if let Ok(found) = folder.find("A.bin") {
                assert!(found.frame_time.is_none_or(|seconds| seconds > 0.0));
            }
        }
    }

    proptest! {
        // Few: each writes and opens an HDF5 file.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn cut_files_are_refused(at in 0.0..1.0_f64) {
            let folder = Folder::with(&["A_metadata.hdf"]);
            let path = folder.at("A_metadata.hdf");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..(at * bytes.len() as f64) as usize]).unwrap();
            prop_assert!(folder.find("A.bin").is_err());
        }
    }
}
