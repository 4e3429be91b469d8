//! Two-time correlation: smoothing and the averages along the diagonals of a map.

use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// Blocks of frames whose g2 is kept beside that of the whole (boost_corr's choice, kept).
pub const BLOCKS: usize = 5;

/// How frames are smoothed before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smoothing {
    /// Divide by the frame's mean over the pixel's static bin, within the dynamic bin.
    #[default]
    StaticBins,
    /// Divide by the frame's mean over the dynamic bin.
    DynamicBins,
    /// Leave the counts alone.
    None,
}

/// Mean of each diagonal of a map's upper triangle, from the main one (delay 0) outwards.
pub fn diagonal_means(upper: ArrayView2<'_, f32>) -> Array1<f64> {
    let n = upper.nrows();
    let mut sums = Array1::<f64>::zeros(n);
    for (t, row) in upper.rows().into_iter().enumerate() {
        for (sum, &value) in std::iter::zip(&mut sums, row.iter().skip(t)) {
            *sum += f64::from(value);
        }
    }
    for (tau, sum) in sums.iter_mut().enumerate() {
        *sum /= (n - tau) as f64;
    }
    sums
}

/// [`diagonal_means`] of five blocks of N/5 frames: (delay, block); a remainder is left out.
pub fn block_means(upper: ArrayView2<'_, f32>) -> Array2<f64> {
    let block = upper.nrows() / BLOCKS;
    let mut out = Array2::zeros((block, BLOCKS));
    for part in 0..BLOCKS {
        let range = part * block..(part + 1) * block;
        let square = upper.slice(ndarray::s![range.clone(), range]);
        out.column_mut(part).assign(&diagonal_means(square));
    }
    out
}
