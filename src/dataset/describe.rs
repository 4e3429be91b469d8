//! What a qmap, metadata or result file holds, in names and values, for people and programs.
//!
//! The kind is told by the content, not by the name. Raw files describe themselves (see [`super::SourceInfo`]).

use std::borrow::Cow;
use std::path::Path;

use hdf5::types::TypeDescriptor;
use hdf5::{Dataset, File, Group};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::metadata::{self, Metadata};
use super::qmap::{self, QmapForm};
use super::reader::{BrokenAnswer, Desk, Question, Told, ask, no_nodes};
use super::{DatasetError, Opener, values};

const MULTI_TAU: &str = "/xpcs/multitau";
const TWO_TIME: &str = "/xpcs/twotime";

const WARNINGS: &str = "warnings";

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Bins of a detector's pixels.
    Qmap,
    /// A measurement's metadata.
    Metadata,
    /// A correlation.
    Result,
}

impl FileKind {
    /// The kind in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qmap => "qmap",
            Self::Metadata => "metadata",
            Self::Result => "result",
        }
    }
}

/// A file in names and values, in the order in which people read them. It serializes as one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What it is.
    pub kind: FileKind,
    /// What it holds; units end the names, what is absent is left out.
    pub fields: Vec<(Cow<'static, str>, Value)>,
}

impl Serialize for Description {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len() + 1))?;
        map.serialize_entry("kind", self.kind.name())?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Description {
    fn new(kind: FileKind, fields: Vec<(&'static str, Value)>) -> Self {
        let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
        Self { kind, fields: fields.map(|(name, value)| (name.into(), value)).collect() }
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Describes a file.
///
/// # Errors
/// [`DatasetError::Unsupported`] for a file that is none of the three kinds; what the readers of qmap and metadata
/// refuse; IO errors.
pub fn describe(opener: &Opener, path: &Path) -> Result<Description, DatasetError> {
    let mut found = ask(opener, &Question::Description(path.to_owned()), &mut no_nodes, |told, _| match told {
        Told::Description(form) => Ok(Description::from(form)),
        Told::Frames(_) | Told::Module(_) | Told::Qmap(_) | Told::Metadata(_) | Told::Tree => Err(BrokenAnswer::OTHER),
    })?;
    if found.kind == FileKind::Qmap {
        let place = found.fields.iter().position(|(name, _)| name == WARNINGS).unwrap_or(found.fields.len());
        found.fields.insert(place, ("sha256".into(), qmap::sha256(opener, path)?.into()));
    }
    Ok(found)
}

/// Has the library look at a file.
///
/// # Errors
/// As [`describe`].
pub(super) fn read(desk: &dyn Desk, path: &Path) -> Result<DescriptionForm, DatasetError> {
    let other = |what: String| DatasetError::Unsupported {
        path: path.to_owned(),
        what,
        remedy: "give a raw, qmap, metadata or result file".into(),
    };
    let file = values::open(desk, path, other)?;
    let found = if file.group(MULTI_TAU).is_ok() || file.group(TWO_TIME).is_ok() {
        describe_result(&file)
    } else if file.group(qmap::GROUP).is_ok() {
        describe_qmap(&file, &qmap::read(desk, path)?)
    } else if values::dataset(&file, metadata::SCHEMA).is_some() {
        describe_metadata(&file, &metadata::read(desk, path)?.into_inner()?)
    } else {
        return Err(other("neither a qmap nor a metadata nor a result file".to_owned()));
    };
    Ok(DescriptionForm::from(&found))
}

/// All but the digest, which whoever asks makes.
fn describe_qmap(file: &File, qmap: &QmapForm) -> Description {
    let bins = |labels: &[u32]| labels.iter().copied().max().unwrap_or(0);
    let axes: Vec<String> = std::iter::zip(&qmap.map_names, &qmap.map_units)
        .zip(&qmap.dynamic_axes.values)
        .map(|((name, unit), values)| axis(name, unit, values))
        .collect();
    let hash = file.group(qmap::GROUP).and_then(|group| group.attr("hash")).and_then(|hash| hash.read_scalar());
    let geometry = &qmap.geometry;
    let fields = vec![
        ("shape", qmap.shape.to_string().into()),
        ("masked_in_pixels", qmap.mask.iter().filter(|&&kept| kept != 0).count().into()),
        ("working_pixels", qmap.blemish.iter().filter(|&&good| good != 0).count().into()),
        ("dynamic_bins", bins(&qmap.dynamic_labels).into()),
        ("static_bins", bins(&qmap.static_labels).into()),
        ("dynamic_axes", json!(axes)),
        ("energy_kev", json!(geometry.energy)),
        ("detector_distance_m", json!(geometry.detector_distance)),
        ("pixel_size_m", json!(geometry.pixel_size)),
        ("beam_center_x_pixels", json!(geometry.beam_center_x)),
        ("beam_center_y_pixels", json!(geometry.beam_center_y)),
        ("hash", hash.ok().map_or(Value::Null, |hash: hdf5::types::VarLenUnicode| hash.as_str().into())),
        (WARNINGS, listed(&qmap.warnings)),
    ];
    Description::new(FileKind::Qmap, fields)
}

/// `q: 10 values, 0.001 to 0.02 Å⁻¹`.
fn axis(name: &str, unit: &str, values: &[f64]) -> String {
    match spread(values.iter().copied()) {
        Some((low, high)) => format!("{name}: {} values, {low} to {high} {unit}", values.len()),
        None => format!("{name}: no values"),
    }
}

fn describe_metadata(file: &File, metadata: &Metadata) -> Description {
    let at = |path: &str| values::dataset(file, path).map_or(Value::Null, |dataset| value(&dataset));
    let fields = vec![
        ("schema_version", json!(metadata.schema_version)),
        ("start_time", json!(metadata.start_time)),
        ("end_time", at("/entry/end_time")),
        ("detector", at("/entry/instrument/detector_1/detector_name")),
        ("frame_time_s", json!(metadata.frame_time)),
        ("count_time_s", json!(metadata.count_time)),
        ("incident_energy_kev", json!(metadata.incident_energy)),
        ("sample", at("/entry/sample/short_description")),
        ("user", at("/entry/user/name")),
        ("cycle", at("/entry/user/cycle")),
        (WARNINGS, listed(&metadata.warnings)),
    ];
    Description::new(FileKind::Metadata, fields)
}

fn describe_result(file: &File) -> Description {
    let at = |path: &str| values::dataset(file, path).map_or(Value::Null, |dataset| value(&dataset));
    let analyses: Vec<&str> = [(MULTI_TAU, "multitau"), (TWO_TIME, "twotime")]
        .into_iter()
        .filter(|(group, _)| file.group(group).is_ok())
        .map(|(_, name)| name)
        .collect();
    let mut fields = vec![
        ("analyses", json!(analyses)),
        ("start_time", at("/entry/start_time")),
        ("image", extent(file, "/xpcs/temporal_mean/scattering_2d")),
        ("intensity_series", extent(file, "/xpcs/spatial_mean/intensity_vs_time")),
    ];
    fields.extend(multi_tau_fields(file));
    fields.extend(vec![
        ("twotime_bins", at("/xpcs/twotime/processed_bins")),
        ("twotime_g2", extent(file, "/xpcs/twotime/normalized_g2")),
        ("multitau_settings", table(file, "/xpcs/multitau/config")),
        ("twotime_settings", table(file, "/xpcs/twotime/config")),
        ("provenance", table(file, "/xpcs/provenance")),
    ]);
    Description::new(FileKind::Result, fields)
}

fn multi_tau_fields(file: &File) -> Vec<(&'static str, Value)> {
    let numbers = |path: &str| values::dataset(file, path).and_then(|dataset| values::numbers(&dataset).ok());
    let number = |path: &str| values::dataset(file, path).and_then(|dataset| values::number(&dataset).ok());
    let Some(g2) = values::dataset(file, "/xpcs/multitau/normalized_g2") else { return Vec::new() };
    let bins = g2.shape().last().copied().unwrap_or(0);
    let config = |name: &str| number(&format!("/xpcs/multitau/config/{name}"));
    let frame =
        (|| Some(number("/entry/instrument/detector_1/frame_time")? * config("stride_frame")? * config("avg_frame")?))(
        );
    let delays = numbers("/xpcs/multitau/delay_list").and_then(|delays| spread(delays.into_iter()));
    // g2 at the shortest delay comes closest to 1 + contrast.
    let first = values::numbers(&g2).ok().and_then(|g2| spread(g2.into_iter().take(bins).map(|g2| g2 - 1.0)));
    vec![
        ("g2", json!(g2.shape())),
        ("dynamic_bins", bins.into()),
        ("shortest_delay_s", json!(frame.zip(delays).map(|(frame, (low, _))| frame * low))),
        ("longest_delay_s", json!(frame.zip(delays).map(|(frame, (_, high))| frame * high))),
        ("smallest_contrast", json!(first.map(|(low, _)| low))),
        ("largest_contrast", json!(first.map(|(_, high)| high))),
        ("g2_of_parts", extent(file, "/xpcs/multitau/normalized_g2_partial")),
        ("pixel_g2", extent(file, "/xpcs/multitau/unnormalized_G2")),
    ]
}

/// Smallest and largest of the numbers that are numbers.
fn spread(numbers: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    numbers
        .filter(|number| number.is_finite())
        .map(|number| (number, number))
        .reduce(|(low, high), (number, _)| (low.min(number), high.max(number)))
}

fn listed(lines: &[String]) -> Value {
    if lines.is_empty() { Value::Null } else { json!(lines) }
}

fn extent(file: &File, path: &str) -> Value {
    values::dataset(file, path).map_or(Value::Null, |dataset| json!(dataset.shape()))
}

/// All datasets of a group.
fn table(file: &File, path: &str) -> Value {
    let Ok(group) = file.group(path) else { return Value::Null };
    let entry = |name: String| values::dataset(&group, &name).map(|dataset| (name, value(&dataset)));
    Value::Object(members(&group).into_iter().filter_map(entry).collect::<Map<_, _>>())
}

fn members(group: &Group) -> Vec<String> {
    let mut names = group.member_names().unwrap_or_default();
    // a file may keep them in any order
    names.sort_unstable();
    names
}

/// A small dataset: one value or a list; null when it is of another kind.
fn value(dataset: &Dataset) -> Value {
    let stored = dataset.dtype().and_then(|dtype| dtype.to_descriptor());
    let number: fn(f64) -> Value = match stored {
        Ok(TypeDescriptor::Boolean) => |number| (number != 0.0).into(),
        Ok(TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_)) => |number| (number as i64).into(),
        _ => Value::from,
    };
    let items: Vec<Value> = match (values::strings(dataset), values::numbers(dataset)) {
        (Ok(texts), _) => texts.into_iter().map(Value::from).collect(),
        (_, Ok(numbers)) => numbers.into_iter().map(number).collect(),
        _ => return Value::Null,
    };
    if dataset.is_scalar() { items.into_iter().next().unwrap_or_default() } else { items.into() }
}

/// A description in a form of bounded depth, as it comes from a process apart.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DescriptionForm {
    kind: FileKind,
    fields: Vec<(String, Fact)>,
}

/// The value of a field.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Fact {
    Plain(PlainFact),
    Table(Vec<(String, PlainFact)>),
}

/// A value or a list.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum PlainFact {
    One(Scalar),
    List(Vec<Scalar>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Scalar {
    /// None, and what is neither.
    Null,
    Bool(bool),
    Int(i64),
    Large(u64),
    Float(f64),
    Text(String),
}

impl From<&Description> for DescriptionForm {
    fn from(description: &Description) -> Self {
        let fact = |value: &Value| match value.as_object() {
            Some(table) => Fact::Table(table.iter().map(|(name, value)| (name.clone(), value.into())).collect()),
            None => Fact::Plain(value.into()),
        };
        let fields = description.fields.iter().map(|(name, value)| (name.to_string(), fact(value)));
        Self { kind: description.kind, fields: fields.collect() }
    }
}

impl From<DescriptionForm> for Description {
    fn from(DescriptionForm { kind, fields }: DescriptionForm) -> Self {
        let value = |fact| match fact {
            Fact::Plain(fact) => Value::from(fact),
            Fact::Table(table) => Value::Object(table.into_iter().map(|(name, fact)| (name, fact.into())).collect()),
        };
        Self { kind, fields: fields.into_iter().map(|(name, fact)| (name.into(), value(fact))).collect() }
    }
}

impl From<&Value> for PlainFact {
    fn from(value: &Value) -> Self {
        match value.as_array() {
            Some(items) => Self::List(items.iter().map(Scalar::from).collect()),
            None => Self::One(value.into()),
        }
    }
}

impl From<PlainFact> for Value {
    fn from(fact: PlainFact) -> Self {
        match fact {
            PlainFact::One(scalar) => scalar.into(),
            PlainFact::List(items) => Self::Array(items.into_iter().map(Self::from).collect()),
        }
    }
}

impl From<&Value> for Scalar {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::String(text) => Self::Text(text.clone()),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => Self::Int(number),
                (_, Some(number), _) => Self::Large(number),
                (.., number) => number.map_or(Self::Null, Self::Float),
            },
            Value::Null | Value::Array(_) | Value::Object(_) => Self::Null,
        }
    }
}

impl From<Scalar> for Value {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Null => Self::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Int(number) => number.into(),
            Scalar::Large(number) => number.into(),
            Scalar::Float(number) => number.into(),
            Scalar::Text(text) => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_its_form() {
        let table = json!({ "b": 0.1, "list": [1, -2, u64::MAX], "text": "Å", "yes": true });
        let fields = vec![("one", json!(1e-300)), ("lists", json!([[1, 2], 3])), ("table", table.clone())];
        let description = Description::new(FileKind::Result, fields);
        let back = Description::from(DescriptionForm::from(&description));
        assert_eq!((back.get("one"), back.get("table")), (Some(&json!(1e-300)), Some(&table)));
        assert_eq!(back.get("lists"), Some(&json!([null, 3])), "no deeper");
    }

    #[test]
    fn spread_passes_over_what_is_no_number() {
        assert_eq!(spread([2.0, f64::NAN, -1.0, f64::INFINITY].into_iter()), Some((-1.0, 2.0)));
        assert_eq!(spread([f64::NAN].into_iter()), None);
    }

    #[test]
    fn other_files_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let (text, empty) = (dir.path().join("a.txt"), dir.path().join("a.h5"));
        std::fs::write(&text, "text").expect("written");
        File::create(&empty).expect("created");
        for path in [text, empty] {
            let message = describe(&Opener::anywhere(), &path).expect_err("refused").to_string();
            assert!(message.contains("give a raw, qmap, metadata or result file"), "{message}");
        }
        assert!(matches!(describe(&Opener::anywhere(), &dir.path().join("absent")), Err(DatasetError::Io { .. })));
    }

    #[test]
    fn golden_files_are_told_apart() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/case_hdf_64x96");
        if !golden.exists() {
            return;
        }
        for (name, kind, field, expected) in [
            ("qmap.hdf", FileKind::Qmap, "hash", json!("deadbeef")),
            ("F0009_r00001_metadata.hdf", FileKind::Metadata, "schema_version", json!("0.1.0")),
            ("boostcorr017_both_results.hdf", FileKind::Result, "g2", json!([32, 6])),
        ] {
            let found = describe(&Opener::anywhere(), &golden.join(name)).expect("described");
            assert_eq!((found.kind, found.get(field)), (kind, Some(&expected)), "{name}");
        }
    }
}
