//! Writes a qmap file in pySimpleMask's layout.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::tree::Tree;
use crate::correlate::bins::Labels;
use crate::dataset::DatasetError;
use crate::simulate::{BinAxes, Layout, SceneGeometry};

/// Names and units of the two axes of the bins.
const AXES: [(&str, &str); 2] = [("q", "Å⁻¹"), ("phi", "deg")];

/// Program that made the file, where pySimpleMask puts its version.
const VERSION: &str = concat!("speckled ", env!("CARGO_PKG_VERSION"));

/// Writes the bins of `layout` to `path`; `source` is the raw file that they belong to.
///
/// # Errors
/// The HDF5 library's, with the dataset's name.
pub fn write_qmap(path: &Path, layout: &Layout, geometry: &SceneGeometry, source: &str) -> Result<(), DatasetError> {
    let labels = &layout.labels;
    let tree = Tree::create(path)?;
    tree.group("qmap", &[("hash", &hash(layout)), ("version", VERSION)])?;
    let scalars = [
        ("beam_center_x", geometry.beam_col),
        ("beam_center_y", geometry.beam_row),
        ("pixel_size", geometry.pixel_size),
        ("energy", geometry.energy),
        ("detector_distance", geometry.distance),
    ];
    for (name, value) in scalars {
        tree.scalar(&format!("qmap/{name}"), value, &[])?;
    }
    tree.text("qmap/source_file", source, &[])?;
    tree.texts("qmap/map_names", &AXES.map(|(name, _)| name))?;
    tree.texts("qmap/map_units", &AXES.map(|(_, unit)| unit))?;
    for (name, image) in [("mask", &labels.mask), ("blemish", &labels.blemish)] {
        tree.image(&format!("qmap/{name}"), labels.shape, image)?;
    }
    bins(&tree, "dynamic", labels, &labels.dynamic_labels, &layout.dynamic_axes)?;
    bins(&tree, "static", labels, &labels.static_labels, &layout.static_axes)?;
    tree.close()
}

fn bins(tree: &Tree, kind: &str, labels: &Labels, map: &[u32], axes: &BinAxes) -> Result<(), DatasetError> {
    let name = format!("qmap/{kind}_roi_map");
    match width(map) {
        Width::One => tree.image(&name, labels.shape, &narrow::<u8>(map))?,
        Width::Two => tree.image(&name, labels.shape, &narrow::<u16>(map))?,
        Width::Four => tree.image(&name, labels.shape, map)?,
    }
    let name = format!("qmap/{kind}_index_mapping");
    match width(&axes.natural) {
        Width::One => tree.list(&name, &narrow::<u8>(&axes.natural))?,
        Width::Two => tree.list(&name, &narrow::<u16>(&axes.natural))?,
        Width::Four => tree.list(&name, &axes.natural)?,
    }
    tree.list(&format!("qmap/{kind}_num_pts"), &[axes.q.len() as i64, axes.phi.len() as i64])?;
    for (k, values) in [&axes.q, &axes.phi].into_iter().enumerate() {
        let name = format!("qmap/{kind}_v_list_dim{k}");
        tree.list(&name, values)?;
        tree.describe_dataset(&name, &[("name", AXES[k].0), ("unit", AXES[k].1)])?;
        tree.number(&name, "size", values.len() as i64)?;
    }
    Ok(())
}

/// Bytes of the smallest unsigned type that holds all values.
enum Width {
    One,
    Two,
    Four,
}

fn width(values: &[u32]) -> Width {
    match values.iter().copied().max().unwrap_or(0) {
        0..=0xff => Width::One,
        0x100..=0xffff => Width::Two,
        _ => Width::Four,
    }
}

/// Values that [`width`] found to fit.
fn narrow<T: TryFrom<u32> + Default>(values: &[u32]) -> Vec<T> {
    values.iter().map(|&v| T::try_from(v).unwrap_or_default()).collect()
}

/// Digest of everything that tells this qmap from another.
fn hash(layout: &Layout) -> String {
    let mut digest = Sha256::new();
    let labels = &layout.labels;
    for image in [&labels.mask, &labels.blemish] {
        digest.update(image.iter().map(|&good| u8::from(good)).collect::<Vec<_>>());
    }
    for map in [&labels.dynamic_labels, &labels.static_labels] {
        digest.update(bytemuck::cast_slice(map));
    }
    for axes in [&layout.dynamic_axes, &layout.static_axes] {
        digest.update(bytemuck::cast_slice(&axes.q));
        digest.update(bytemuck::cast_slice(&axes.phi));
    }
    format!("{:x}", digest.finalize())
}
