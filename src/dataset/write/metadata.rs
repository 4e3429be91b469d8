//! Writes a metadata file with the complete tree of 8-ID's schema.

use std::path::Path;

use super::schema::{Field, GROUPS, Value};
use super::tree::Tree;
use crate::dataset::DatasetError;
use crate::simulate::Scene;

/// What a simulated measurement knows about itself besides its scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    /// Name of the detector as 8-ID writes it, as `rigaku3M`.
    pub detector: &'static str,
    /// Compression of the raw file in words.
    pub compression: &'static str,
    /// File name of the qmap.
    pub qmap: String,
}

/// Writes the metadata of `scene` to `path`.
///
/// # Errors
/// The HDF5 library's, with the dataset's name.
pub fn write_metadata(path: &Path, scene: &Scene, names: &FieldNames) -> Result<(), DatasetError> {
    let known = known(scene, names);
    let tree = Tree::create(path)?;
    for group in GROUPS {
        tree.group(group.path, &attributes(group.class, "", group.description))?;
        for field in group.fields {
            let object = format!("{}/{}", group.path, field.name);
            let value = known.iter().find(|(name, _)| *name == object).map_or(&field.value, |(_, value)| value);
            write(&tree, &object, field, value)?;
        }
    }
    tree.close()
}

fn write(tree: &Tree, object: &str, field: &Field, value: &Value) -> Result<(), DatasetError> {
    let attributes = attributes(field.class, field.unit, field.description);
    match value {
        Value::Text(text) => tree.text(object, text, &attributes),
        Value::Made(text) => tree.text(object, text, &attributes),
        Value::Float(number) => tree.scalar(object, *number, &attributes),
        Value::Int(number) => tree.scalar(object, *number, &attributes),
    }
}

fn attributes<'a>(class: &'a str, unit: &'a str, description: &'a str) -> Vec<(&'static str, &'a str)> {
    // The spelling is that of 8-ID's files.
    let all = [("NX_Class", class), ("unit", unit), ("description", description)];
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// Values that replace the schema's defaults.
fn known(scene: &Scene, names: &FieldNames) -> Vec<(&'static str, Value)> {
    let geometry = &scene.geometry;
    vec![
        ("entry/start_time", Value::Made(instant(0.0))),
        ("entry/end_time", Value::Made(instant(scene.frames as f64 * scene.frame_time))),
        ("entry/instrument/detector_1/beam_center_x", Value::Float(geometry.beam_col)),
        ("entry/instrument/detector_1/beam_center_y", Value::Float(geometry.beam_row)),
        ("entry/instrument/detector_1/distance", Value::Float(geometry.distance)),
        ("entry/instrument/detector_1/x_pixel_size", Value::Float(geometry.pixel_size)),
        ("entry/instrument/detector_1/y_pixel_size", Value::Float(geometry.pixel_size)),
        ("entry/instrument/detector_1/frame_time", Value::Float(scene.frame_time)),
        ("entry/instrument/detector_1/count_time", Value::Float(scene.frame_time)),
        ("entry/instrument/detector_1/detector_name", Value::Text(names.detector)),
        ("entry/instrument/detector_1/compression", Value::Text(names.compression)),
        ("entry/instrument/detector_1/qmap_file", Value::Made(names.qmap.clone())),
        ("entry/instrument/incident_beam/incident_energy", Value::Float(geometry.energy)),
        ("entry/instrument/monochromator/energy", Value::Float(geometry.energy)),
        ("entry/instrument/monochromator/wavelength", Value::Float(geometry.wavelength() * 1e-10)),
        ("entry/instrument/undulator_1/energy", Value::Float(geometry.energy)),
        ("entry/instrument/undulator_2/energy", Value::Float(geometry.energy)),
    ]
}

/// Seconds after an arbitrary fixed start, so that equal scenes make equal files; at most a month later.
fn instant(seconds: f64) -> String {
    const DAY: f64 = 86_400.0;
    let seconds = seconds.min(31.0 * DAY - 1e-3);
    let (day, rest) = ((seconds / DAY) as u32, seconds % DAY);
    let (hour, minute) = ((rest / 3600.0) as u32, (rest / 60.0) as u32 % 60);
    format!("2026-01-{:02} {hour:02}:{minute:02}:{:09.6}", day + 1, rest % 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_carry_over() {
        assert_eq!(instant(0.0), "2026-01-01 00:00:00.000000");
        assert_eq!(instant(90_061.5), "2026-01-02 01:01:01.500000");
        assert!(instant(1e12).starts_with("2026-01-31 23:59:59"));
    }
}
