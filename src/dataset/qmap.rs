//! The qmap: which pixels take part, in which bins, and how bins relate to q and phi. Reads pySimpleMask's layout.

use std::path::{Path, PathBuf};

use hdf5::{File, Group};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reader::{BrokenAnswer, Desk, Packed, Question, Told, ask, no_nodes};
use super::{DatasetError, Opener, PhotonEvent, SourceInfo, values};
use crate::correlate::bins::{Labels, Shape};

/// The group that holds everything.
pub(super) const GROUP: &str = "/qmap";

/// What the label images are called in the file.
const MASK: &str = "mask";
const BLEMISH: &str = "blemish";
const DYNAMIC: &str = "dynamic_roi_map";
const STATIC: &str = "static_roi_map";

/// What result viewers need of a qmap besides the label images.
const VIEWER_NEEDS: [&str; 14] = [
    "beam_center_x",
    "beam_center_y",
    "detector_distance",
    "dynamic_index_mapping",
    "dynamic_num_pts",
    "dynamic_v_list_dim0",
    "dynamic_v_list_dim1",
    "map_names",
    "map_units",
    "pixel_size",
    "static_index_mapping",
    "static_num_pts",
    "static_v_list_dim0",
    "static_v_list_dim1",
];

/// What the user can do about a qmap that is not right.
pub(super) const REMAKE: &str = "make the qmap again with pySimpleMask";

/// A qmap as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Qmap {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file's bytes in hexadecimal; the file's own `hash` attribute may be stale.
    pub sha256: String,
    /// The label images.
    pub labels: Labels,
    /// Names of the two axes that the bins lie on, as `q` and `phi`; empty when absent.
    pub map_names: Vec<String>,
    /// Their units.
    pub map_units: Vec<String>,
    /// Where dynamic bins lie.
    pub dynamic_axes: Axes,
    /// Where static bins lie.
    pub static_axes: Axes,
    /// The experiment's geometry.
    pub geometry: Geometry,
    /// What is missing or odd but does not keep the data from being correlated, a line each.
    pub warnings: Vec<String>,
}

/// Where one kind of bins lies on the two axes; empty lists when absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Axes {
    /// Values of each axis, in its unit.
    pub values: [Vec<f64>; 2],
    /// Number of bins along each axis.
    pub points: Vec<u64>,
    /// Natural index (axis 0 slow) of each label, from label 1 on.
    pub index_mapping: Vec<u64>,
}

/// Geometry as the qmap states it; None where absent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Geometry {
    /// Column of the direct beam, pixels.
    pub beam_center_x: Option<f64>,
    /// Row of the direct beam, pixels.
    pub beam_center_y: Option<f64>,
    /// Pixel size, metres.
    pub pixel_size: Option<f64>,
    /// Distance of the detector, metres.
    pub detector_distance: Option<f64>,
    /// Photon energy, keV.
    pub energy: Option<f64>,
}

impl Qmap {
    /// Reads a qmap file.
    ///
    /// # Errors
    /// IO errors as such; everything else (not HDF5, another layout, missing or unequal images, labels that
    /// cannot be, an empty mask) as [`DatasetError::Qmap`] that names the dataset.
    pub fn read(opener: &Opener, path: &Path) -> Result<Self, DatasetError> {
        let form = ask(opener, &Question::Qmap(path.to_owned()), &mut no_nodes, |told, _| {
            let Told::Qmap(form) = told else { return Err(BrokenAnswer::OTHER) };
            form.check()?;
            Ok(*form)
        })?;
        let QmapForm { shape, mask, blemish, dynamic_labels, static_labels, .. } = form;
        let flags = |flags: Packed<u8>| flags.iter().map(|&flag| flag != 0).collect();
        Ok(Self {
            path: path.to_owned(),
            sha256: sha256(opener, path)?,
            labels: Labels {
                shape,
                mask: flags(mask),
                blemish: flags(blemish),
                dynamic_labels: dynamic_labels.0,
                static_labels: static_labels.0,
            },
            map_names: form.map_names,
            map_units: form.map_units,
            dynamic_axes: form.dynamic_axes,
            static_axes: form.static_axes,
            geometry: form.geometry,
            warnings: form.warnings,
        })
    }
}

/// A qmap as the library reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QmapForm {
    pub(super) shape: Shape,
    /// 0 is false.
    pub(super) mask: Packed<u8>,
    pub(super) blemish: Packed<u8>,
    pub(super) dynamic_labels: Packed<u32>,
    pub(super) static_labels: Packed<u32>,
    pub(super) map_names: Vec<String>,
    pub(super) map_units: Vec<String>,
    pub(super) dynamic_axes: Axes,
    static_axes: Axes,
    pub(super) geometry: Geometry,
    pub(super) warnings: Vec<String>,
}

/// Has the library read a qmap.
///
/// # Errors
/// As [`Qmap::read`].
pub(super) fn read(desk: &dyn Desk, path: &Path) -> Result<QmapForm, DatasetError> {
    let file = values::open(desk, path, |what| bad(path, what, REMAKE))?;
    let group = find_group(&file, path)?;
    let Labels { shape, mask, blemish, dynamic_labels, static_labels } = read_labels(&group, path)?;
    let flags = |flags: Vec<bool>| Packed(flags.into_iter().map(u8::from).collect());
    let text = |name| values::dataset(&group, name).and_then(|d| values::strings(&d).ok()).unwrap_or_default();
    Ok(QmapForm {
        shape,
        mask: flags(mask),
        blemish: flags(blemish),
        dynamic_labels: Packed(dynamic_labels),
        static_labels: Packed(static_labels),
        map_names: text("map_names"),
        map_units: text("map_units"),
        dynamic_axes: Axes::read(&group, "dynamic"),
        static_axes: Axes::read(&group, "static"),
        geometry: Geometry::read(&group),
        warnings: missing(&group, &VIEWER_NEEDS)
            .map(|name| format!("{GROUP}/{name} is missing: viewers will not open the result"))
            .collect(),
    })
}

impl QmapForm {
    /// Holds the images against each other again: they may come from a process that read a hostile file.
    fn check(&self) -> Result<(), BrokenAnswer> {
        let Some(pixels) = self.shape.rows.checked_mul(self.shape.cols) else {
            return Err(BrokenAnswer("images are of no size"));
        };
        let whole = [self.mask.len(), self.blemish.len(), self.dynamic_labels.len(), self.static_labels.len()];
        let is_label = |labels: &[u32]| labels.iter().all(|&label| label as usize <= pixels);
        let labelled = is_label(&self.dynamic_labels) && is_label(&self.static_labels);
        match whole == [pixels; 4] && labelled && self.mask.iter().any(|&kept| kept != 0) {
            true => Ok(()),
            false => Err(BrokenAnswer("images of a qmap do not belong together")),
        }
    }
}

/// Checks that a qmap's images have the shape of a raw file's.
///
/// # Errors
/// [`DatasetError::Qmap`] that states both shapes, and when one is the other transposed.
pub fn check_shape(qmap: &Qmap, source: &SourceInfo) -> Result<(), DatasetError> {
    let (maps, images) = (qmap.labels.shape, source.shape);
    if maps == images {
        return Ok(());
    }
    let raw = source.files.first().map_or_else(String::new, |file| format!(" of {}", file.display()));
    let what = format!("its maps are {maps} pixels, the images{raw} are {images}");
    if (maps.rows, maps.cols) == (images.cols, images.rows) {
        return Err(bad(&qmap.path, format!("{what}: rows and columns are exchanged"), "transpose the qmap"));
    }
    Err(bad(&qmap.path, what, "use the qmap of this detector"))
}

pub(super) fn bad(path: &Path, what: impl Into<String>, remedy: &'static str) -> DatasetError {
    DatasetError::Qmap { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
}

fn missing<'a>(group: &'a Group, names: &'a [&'static str]) -> impl Iterator<Item = &'static str> + 'a {
    names.iter().copied().filter(|name| values::dataset(group, name).is_none())
}

fn find_group(file: &File, path: &Path) -> Result<Group, DatasetError> {
    let Ok(group) = file.group(GROUP) else {
        let legacy = file.group("/data").is_ok();
        let what = if legacy { "the legacy layout with /data, which has no /qmap" } else { "has no group /qmap" };
        return Err(bad(path, what, REMAKE));
    };
    let absent: Vec<String> = missing(&group, &[MASK, DYNAMIC, STATIC]).map(|name| format!("{GROUP}/{name}")).collect();
    if !absent.is_empty() {
        return Err(bad(path, format!("{} missing", absent.join(", ")), REMAKE));
    }
    Ok(group)
}

fn read_labels(group: &Group, path: &Path) -> Result<Labels, DatasetError> {
    let mask = Image::read(group, MASK, path)?;
    let shape = mask.shape;
    let read = |name| -> Result<Image, DatasetError> {
        let image = Image::read(group, name, path)?;
        if image.shape != shape {
            let what = format!("{GROUP}/{name} is {} pixels, {GROUP}/{MASK} is {shape}", image.shape);
            return Err(bad(path, what, REMAKE));
        }
        Ok(image)
    };
    let dynamic_labels = read(DYNAMIC)?.labels(path)?;
    let static_labels = read(STATIC)?.labels(path)?;
    let mask = mask.flags(path)?;
    // Qmaps of older versions have no blemish; their mask excludes the bad pixels.
    let blemish = match values::dataset(group, BLEMISH) {
        Some(_) => read(BLEMISH)?.flags(path)?,
        None => mask.clone(),
    };
    if !mask.contains(&true) {
        return Err(bad(path, format!("{GROUP}/{MASK} is empty: no pixel takes part"), REMAKE));
    }
    Ok(Labels { shape, mask, blemish, dynamic_labels, static_labels })
}

/// One image as stored.
struct Image {
    name: &'static str,
    shape: Shape,
    values: Vec<f64>,
}

impl Image {
    fn read(group: &Group, name: &'static str, path: &Path) -> Result<Self, DatasetError> {
        let refuse = |what: String| bad(path, format!("{GROUP}/{name} {what}"), REMAKE);
        let dataset = group.dataset(name).map_err(|e| refuse(format!("cannot be opened: {}", values::words(&e))))?;
        let mut sizes = dataset.shape();
        while sizes.len() > 2 {
            let Some(singleton) = sizes.iter().position(|&size| size == 1) else { break };
            sizes.remove(singleton);
        }
        let &[rows, cols] = sizes.as_slice() else {
            return Err(refuse(format!("is of shape {:?} and not an image", dataset.shape())));
        };
        let values = values::numbers_up_to(PhotonEvent::MAX_PIXELS, &dataset).map_err(refuse)?;
        Ok(Self { name, shape: Shape { rows, cols }, values })
    }

    fn flags(self, path: &Path) -> Result<Vec<bool>, DatasetError> {
        self.refuse_first(path, |value| value.is_nan() || value < 0.0)?;
        Ok(self.values.iter().map(|&value| value > 0.0).collect())
    }

    fn labels(self, path: &Path) -> Result<Vec<u32>, DatasetError> {
        let pixels = self.values.len() as f64;
        self.refuse_first(path, |value| value.fract() != 0.0 || !(0.0..=pixels).contains(&value))?;
        Ok(self.values.iter().map(|&value| value as u32).collect())
    }

    /// An error that names the first pixel whose value is `wrong`.
    fn refuse_first(&self, path: &Path, wrong: impl Fn(f64) -> bool) -> Result<(), DatasetError> {
        let Some(pixel) = self.values.iter().position(|&value| wrong(value)) else { return Ok(()) };
        let (name, value) = (self.name, self.values[pixel]);
        let (row, col) = self.shape.place(pixel as u32);
        let what = match self.name {
            DYNAMIC | STATIC => "a label must be a whole number from 0 to the number of pixels",
            _ => "it must be 0 or 1",
        };
        Err(bad(path, format!("{GROUP}/{name} is {value} at row {row}, column {col}; {what}"), REMAKE))
    }
}

impl Axes {
    fn read(group: &Group, kind: &str) -> Self {
        let list = |name: &str| {
            let dataset = values::dataset(group, &format!("{kind}_{name}"));
            dataset.and_then(|dataset| values::numbers(&dataset).ok()).unwrap_or_default()
        };
        let whole = |name: &str| list(name).into_iter().map(|value| value as u64).collect();
        Self {
            values: [list("v_list_dim0"), list("v_list_dim1")],
            points: whole("num_pts"),
            index_mapping: whole("index_mapping"),
        }
    }
}

impl Geometry {
    fn read(group: &Group) -> Self {
        let number = |name| values::dataset(group, name).and_then(|dataset| values::number(&dataset).ok());
        Self {
            beam_center_x: number("beam_center_x"),
            beam_center_y: number("beam_center_y"),
            pixel_size: number("pixel_size"),
            detector_distance: number("detector_distance"),
            energy: number("energy"),
        }
    }
}

/// SHA-256 of a file's bytes in hexadecimal.
///
/// # Errors
/// IO errors.
pub(super) fn sha256(opener: &Opener, path: &Path) -> Result<String, DatasetError> {
    let mut file = opener.open(path)?.file;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(|e| DatasetError::io("read", path, e))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
