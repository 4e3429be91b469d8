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
mod tests {
    use hdf5::types::FixedAscii;
    use proptest::prelude::*;

    use super::*;

    /// A valid qmap of 2 x 3 pixels that `change` may spoil.
    fn write(change: impl Fn(&Group)) -> tempfile::NamedTempFile {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::create(path.path()).unwrap();
        let group = file.create_group("qmap").unwrap();
        put(&group, MASK, &[2, 3], &[true, true, false, true, true, true]);
        put(&group, BLEMISH, &[2, 3], &[true, true, true, true, true, false]);
        put(&group, DYNAMIC, &[2, 3], &[1_u8, 1, 0, 2, 2, 2]);
        put(&group, STATIC, &[2, 3], &[1_u16, 2, 0, 3, 3, 4]);
        change(&group);
        drop(group);
        file.close().unwrap();
        path
    }

    fn put<T: hdf5::H5Type>(group: &Group, name: &str, shape: &[usize], data: &[T]) {
        let _ = group.unlink(name);
        group.new_dataset::<T>().shape(shape).create(name).unwrap().write_raw(data).unwrap();
    }

    fn refusal(change: impl Fn(&Group)) -> String {
        let path = write(change);
        let error = Qmap::read(&Opener::anywhere(), path.path()).unwrap_err();
        assert!(matches!(error, DatasetError::Qmap { .. }), "{error}");
        error.to_string()
    }

    fn source(shape: Shape) -> SourceInfo {
        SourceInfo { format: String::new(), files: vec!["raw.h5".into()], bytes: 0, shape, frames: 0 }
    }

    #[test]
    fn a_small_qmap_reads_whole() {
        let path = write(|_| {});
        let qmap = Qmap::read(&Opener::anywhere(), path.path()).unwrap();
        assert_eq!(qmap.labels.shape, Shape { rows: 2, cols: 3 });
        assert_eq!(qmap.labels.mask, [true, true, false, true, true, true]);
        assert_eq!(qmap.labels.blemish, [true, true, true, true, true, false]);
        assert_eq!(qmap.labels.dynamic_labels, [1, 1, 0, 2, 2, 2]);
        assert_eq!(qmap.labels.static_labels, [1, 2, 0, 3, 3, 4]);
        assert_eq!(qmap.warnings.len(), VIEWER_NEEDS.len());
        assert_eq!(qmap.sha256.len(), 64);
    }

    #[test]
    fn other_types_and_singleton_axes_are_read() {
        let reference = Qmap::read(&Opener::anywhere(), write(|_| {}).path()).unwrap();
        let path = write(|group| {
            put(group, MASK, &[1, 2, 3], &[1_i32, 1, 0, 1, 1, 1]);
            put(group, DYNAMIC, &[2, 3, 1], &[1_f64, 1.0, 0.0, 2.0, 2.0, 2.0]);
            put(group, STATIC, &[2, 3], &[1_i64, 2, 0, 3, 3, 4]);
        });
        assert_eq!(Qmap::read(&Opener::anywhere(), path.path()).unwrap().labels, reference.labels);
    }

    #[test]
    fn compressed_maps_are_read() {
        let path = write(|group| {
            for name in [MASK, BLEMISH, DYNAMIC, STATIC] {
                group.unlink(name).unwrap();
                let builder = group.new_dataset::<u8>().shape([64, 64]);
                let builder = if name == MASK { builder.lzf() } else { builder.shuffle().deflate(3) };
                builder.create(name).unwrap().write_raw(&[1_u8; 64 * 64]).unwrap();
            }
        });
        assert_eq!(Qmap::read(&Opener::anywhere(), path.path()).unwrap().labels.static_labels, [1; 64 * 64]);
    }

    #[test]
    fn without_blemish_the_mask_stands_for_it() {
        let qmap = Qmap::read(&Opener::anywhere(), write(|group| group.unlink(BLEMISH).unwrap()).path()).unwrap();
        assert_eq!(qmap.labels.blemish, qmap.labels.mask);
    }

    #[test]
    fn missing_maps_and_other_layouts_are_named() {
        let message = refusal(|group| {
            group.unlink(STATIC).unwrap();
            group.unlink(MASK).unwrap();
        });
        assert!(message.contains("/qmap/mask, /qmap/static_roi_map missing"), "{message}");
        let message = refusal(|group| group.file().unwrap().unlink("qmap").unwrap());
        assert!(message.contains("no group /qmap"), "{message}");
        let message = refusal(|group| {
            group.file().unwrap().unlink("qmap").unwrap();
            group.file().unwrap().create_group("data").unwrap();
        });
        assert!(message.contains("legacy"), "{message}");
    }

    #[test]
    fn maps_of_unequal_or_no_image_shape_are_named() {
        let message = refusal(|group| put(group, STATIC, &[3, 2], &[1_u8; 6]));
        assert!(message.contains("static_roi_map is 3 x 2") && message.contains("2 x 3"), "{message}");
        let message = refusal(|group| put(group, MASK, &[2, 2, 3], &[1_u8; 12]));
        assert!(message.contains("[2, 2, 3]"), "{message}");
        let message = refusal(|group| put(group, DYNAMIC, &[2, 3], &[FixedAscii::<4>::new(); 6]));
        assert!(message.contains("dynamic_roi_map"), "{message}");
    }

    #[test]
    fn labels_that_cannot_be_are_named_with_their_pixel() {
        for value in [-1.0, 7.0, 1.5, 5e9, f64::NAN, f64::INFINITY] {
            let message = refusal(|group| put(group, STATIC, &[2, 3], &[0.0, 0.0, 0.0, 0.0, value, 0.0]));
            assert!(message.contains(&format!("static_roi_map is {value} at row 1, column 1")), "{message}");
        }
        let message = refusal(|group| put(group, DYNAMIC, &[2, 3], &[0, u64::MAX, 0, 0, 0, 0]));
        assert!(message.contains("row 0, column 1"), "{message}");
        let message = refusal(|group| put(group, MASK, &[2, 3], &[1.0, f64::NAN, 0.0, 0.0, 0.0, 0.0]));
        assert!(message.contains("mask is NaN"), "{message}");
    }

    #[test]
    fn an_empty_mask_is_an_error() {
        assert!(refusal(|group| put(group, MASK, &[2, 3], &[false; 6])).contains("empty"));
    }

    #[test]
    fn maps_beyond_the_limit_are_refused_unread() {
        let message = refusal(|group| {
            group.unlink(MASK).unwrap();
            group.new_dataset::<u8>().shape([1 << 16, 1 << 16]).chunk([1, 1 << 16]).create(MASK).unwrap();
        });
        assert!(message.contains("more than 16777216"), "{message}");
    }

    #[test]
    fn shapes_are_held_against_the_raw_file() {
        let path = write(|_| {});
        let qmap = Qmap::read(&Opener::anywhere(), path.path()).unwrap();
        check_shape(&qmap, &source(qmap.labels.shape)).unwrap();
        let transposed = check_shape(&qmap, &source(Shape { rows: 3, cols: 2 })).unwrap_err().to_string();
        assert!(transposed.contains("2 x 3") && transposed.contains("exchanged"), "{transposed}");
        let other = check_shape(&qmap, &source(Shape { rows: 5, cols: 2 })).unwrap_err().to_string();
        assert!(other.contains("5 x 2") && !other.contains("exchanged"), "{other}");
    }

    #[test]
    fn golden_qmap_has_its_bins_axes_and_names() {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../shared/golden/case_hdf_64x96/qmap.hdf"].iter().collect();
        if !path.exists() {
            return;
        }
        let qmap = Qmap::read(&Opener::anywhere(), &path).unwrap();
        assert_eq!(qmap.labels.shape, Shape { rows: 64, cols: 96 });
        assert_eq!(qmap.warnings, Vec::<String>::new());
        assert_eq!(
            (qmap.map_names, qmap.map_units),
            (vec!["q".into(), "phi".into()], vec!["Å⁻¹".into(), "deg".into()])
        );
        assert_eq!((qmap.dynamic_axes.points, qmap.dynamic_axes.index_mapping.len()), (vec![6, 1], 6));
        assert_eq!((qmap.static_axes.values[0].len(), qmap.static_axes.values[1].len()), (30, 1));
        assert_eq!((qmap.geometry.beam_center_x, qmap.geometry.pixel_size), (Some(48.0), Some(7.5e-5)));
        assert_eq!(
            (qmap.labels.dynamic_labels.iter().max(), qmap.labels.static_labels.iter().max()),
            (Some(&6), Some(&30))
        );
    }

    #[test]
    fn changed_bytes_give_valid_labels_or_an_error() {
        let path = write(|_| {});
        let bytes = std::fs::read(path.path()).unwrap();
        // Few and always the same: most reach the C library's parser, which is not what is tested here.
        for position in (0..bytes.len()).step_by(211) {
            let mut changed = bytes.clone();
            changed[position] ^= 0xff;
            std::fs::write(path.path(), &changed).unwrap();
            if let Ok(qmap) = Qmap::read(&Opener::anywhere(), path.path()) {
                let pixels = qmap.labels.shape.pixels();
                assert_eq!(qmap.labels.mask.len(), pixels);
                assert!(qmap.labels.static_labels.iter().all(|&label| label as usize <= pixels));
            }
        }
    }

    proptest! {
        // Few: each writes and opens an HDF5 file.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn truncated_files_are_refused(at in 0.0..1.0_f64) {
            let path = write(|_| {});
            let bytes = std::fs::read(path.path()).unwrap();
            std::fs::write(path.path(), &bytes[..(at * bytes.len() as f64) as usize]).unwrap();
            let refused = matches!(Qmap::read(&Opener::anywhere(), path.path()), Err(DatasetError::Qmap { .. }));
            prop_assert!(refused);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), &bytes).unwrap();
            let refused = matches!(Qmap::read(&Opener::anywhere(), path.path()), Err(DatasetError::Qmap { .. }));
            prop_assert!(refused);
        }
    }
}
