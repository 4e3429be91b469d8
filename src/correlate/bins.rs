//! Pixels and the static and dynamic bins that they belong to.
//!
//! Turns a qmap's label images into the list of pixels that take part. Knows nothing of files.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Rows and columns of a detector image; pixel index = row * cols + col.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Number of rows (slow axis).
    pub rows: usize,
    /// Number of columns (fast axis).
    pub cols: usize,
}

impl Shape {
    /// Number of pixels.
    pub fn pixels(self) -> usize {
        self.rows * self.cols
    }

    /// Row and column of a pixel index.
    pub fn place(self, pixel: u32) -> (usize, usize) {
        (pixel as usize / self.cols, pixel as usize % self.cols)
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

/// The label images of a qmap, row-major, each of `shape.pixels()` entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Shape of all four images.
    pub shape: Shape,
    /// True = the pixel takes part in the analysis.
    pub mask: Vec<bool>,
    /// True = the detector pixel works; also shown in the scattering image where the mask is false.
    pub blemish: Vec<bool>,
    /// Dynamic bin of each pixel, 1..=n; 0 = none.
    pub dynamic_labels: Vec<u32>,
    /// Static bin of each pixel, 1..=n; 0 = none.
    pub static_labels: Vec<u32>,
}

/// Labels that cannot make a partition.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartitionError {
    /// An image has another size than the shape says.
    #[error("the {name} image has {found} pixels, the qmap's shape {shape} needs {}", shape.pixels())]
    ImageSize {
        /// Which image.
        name: &'static str,
        /// Its number of pixels.
        found: usize,
        /// The shape.
        shape: Shape,
    },
    /// A label exceeds the number of pixels, so that it cannot count bins.
    #[error("the {name} map has label {label} at row {row}, column {col}: more than the image has pixels")]
    LabelRange {
        /// `static` or `dynamic`.
        name: &'static str,
        /// The label.
        label: u32,
        /// Row of the first such pixel.
        row: usize,
        /// Column of the first such pixel.
        col: usize,
    },
    /// The mask is empty or no masked-in pixel has a dynamic and a static bin.
    #[error("no pixel is left: the mask and the bins have no pixel in common")]
    NoPixels,
}

/// The masked-in pixels in row-major order with their bins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    shape: Shape,
    pixels: Vec<u32>,
    static_labels: Vec<u32>,
    dynamic_labels: Vec<u32>,
    blemish: Vec<bool>,
    static_present: Vec<bool>,
    members: Vec<Vec<u32>>,
}

impl Partition {
    /// Builds the partition of `labels` without the pixels in `excluded` (dead or saturated ones).
    ///
    /// # Errors
    /// [`PartitionError`] when images and shape disagree, a label is out of range, or no pixel is left.
    pub fn new(labels: &Labels, excluded: &[u32]) -> Result<Self, PartitionError> {
        check(labels)?;
        let mut mask = labels.mask.clone();
        for &pixel in excluded {
            mask[pixel as usize] = false;
        }
        let pixels: Vec<u32> = (0..labels.shape.pixels() as u32).filter(|&p| mask[p as usize]).collect();
        let pick = |map: &[u32]| -> Vec<u32> { pixels.iter().map(|&p| map[p as usize]).collect() };
        let (static_labels, dynamic_labels) = (pick(&labels.static_labels), pick(&labels.dynamic_labels));
        let max = |map: &[u32]| map.iter().copied().max().unwrap_or(0) as usize;
        let mut members = vec![BTreeSet::new(); max(&labels.dynamic_labels)];
        // neighbours mostly share their bins
        let mut known = (0, 0);
        for (&d, &s) in dynamic_labels.iter().zip(&static_labels) {
            if d > 0 && s > 0 && (d, s) != known {
                members[d as usize - 1].insert(s);
                known = (d, s);
            }
        }
        if members.iter().all(BTreeSet::is_empty) {
            return Err(PartitionError::NoPixels);
        }
        let mut static_present = vec![false; max(&labels.static_labels)];
        for &s in labels.static_labels.iter().filter(|&&s| s > 0) {
            static_present[s as usize - 1] = true;
        }
        Ok(Self {
            shape: labels.shape,
            pixels,
            static_labels,
            dynamic_labels,
            blemish: labels.blemish.clone(),
            static_present,
            members: members.into_iter().map(|m| m.into_iter().collect()).collect(),
        })
    }

    /// Shape of the detector image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Pixel indices of the masked-in pixels, ascending.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// Static label of each masked-in pixel (0 = none), in the order of [`Self::pixels`].
    pub fn static_labels(&self) -> &[u32] {
        &self.static_labels
    }

    /// Dynamic label of each masked-in pixel (0 = none), in the order of [`Self::pixels`].
    pub fn dynamic_labels(&self) -> &[u32] {
        &self.dynamic_labels
    }

    /// True where the detector pixel works, for the whole image.
    pub fn blemish(&self) -> &[bool] {
        &self.blemish
    }

    /// Largest static label of the qmap.
    pub fn static_bins(&self) -> usize {
        self.static_present.len()
    }

    /// Largest dynamic label of the qmap.
    pub fn dynamic_bins(&self) -> usize {
        self.members.len()
    }

    /// Whether static bin `label` (1-based) has any pixel in the qmap, masked in or not.
    pub fn static_present(&self, label: u32) -> bool {
        self.static_present[label as usize - 1]
    }

    /// The static labels in dynamic bin `label` (1-based) that have a masked-in pixel there; never 0.
    pub fn members(&self, label: u32) -> &[u32] {
        &self.members[label as usize - 1]
    }
}

fn check(labels: &Labels) -> Result<(), PartitionError> {
    let shape = labels.shape;
    let sizes = [
        ("mask", labels.mask.len()),
        ("blemish", labels.blemish.len()),
        ("dynamic_roi_map", labels.dynamic_labels.len()),
        ("static_roi_map", labels.static_labels.len()),
    ];
    for (name, found) in sizes {
        if found != shape.pixels() {
            return Err(PartitionError::ImageSize { name, found, shape });
        }
    }
    for (name, map) in [("static", &labels.static_labels), ("dynamic", &labels.dynamic_labels)] {
        if let Some(pixel) = map.iter().position(|&l| l as usize > shape.pixels()) {
            let (row, col) = shape.place(pixel as u32);
            return Err(PartitionError::LabelRange { name, label: map[pixel], row, col });
        }
    }
    Ok(())
}
