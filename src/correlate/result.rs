//! The numbers that a correlation yields, before any file format.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3};

/// Multi-tau g2 of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiTau {
    /// Delays in frames (after stride and averaging), ascending.
    pub delays: Vec<u64>,
    /// g2, (delay, dynamic bin). 0 for a bin without pixels.
    pub g2: Array2<f64>,
    /// Standard error of g2, (delay, dynamic bin). NaN for a bin of one pixel, 0 for one without.
    pub g2_err: Array2<f64>,
}

/// Per-pixel correlations before normalisation, of some pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelG2<'a> {
    /// Pixel indices, in any order.
    pub pixels: &'a [u32],
    /// (delay, channel, pixel); channels: G2, mean of the later frames, mean of the earlier frames.
    pub values: ArrayView3<'a, f32>,
}

/// Static scattering.
#[derive(Debug, Clone, PartialEq)]
pub struct Scattering {
    /// Mean counts per frame times blemish, row-major over the whole image.
    pub image: Vec<f64>,
    /// Mean of the image over each static bin; bins that the qmap does not have are dropped.
    pub bins: Vec<f64>,
    /// The same for each segment of the series: (segment, static bin).
    pub segments: Array2<f64>,
    /// Mean counts per masked-in pixel of each frame.
    pub intensity: Vec<f64>,
}

/// Two-time g2 of the selected dynamic bins; the maps themselves are handed over by [`MapRows`].
#[derive(Debug, Clone, PartialEq)]
pub struct TwoTime {
    /// Dynamic labels, ascending.
    pub labels: Vec<u32>,
    /// Mean of each diagonal: (delay 0.., label).
    pub g2: Array2<f64>,
    /// The same for five blocks of N/5 frames: (delay, block, label).
    pub g2_segments: Array3<f64>,
}

/// One two-time map.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoTimeMap {
    /// Dynamic label.
    pub label: u32,
    /// (frame, frame): upper triangle with diagonal, 0 below.
    pub values: Array2<f32>,
}

/// Some rows of a two-time map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapRows<'a> {
    /// Dynamic label.
    pub label: u32,
    /// Number of the first row.
    pub first: usize,
    /// (row, frame), of all frames: upper triangle with diagonal, 0 below.
    pub values: ArrayView2<'a, f32>,
}

/// A pixel that carried the saturation value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaturatedPixel {
    /// Pixel index.
    pub pixel: u32,
    /// The first raw frame in which it was seen to.
    pub frame: u64,
}

/// What a correlation yields beside maps and per-pixel correlations, which may be larger than memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    /// Static scattering, always.
    pub scattering: Scattering,
    /// Multi-tau of the whole series, when asked for.
    pub multi_tau: Option<MultiTau>,
    /// Multi-tau of each independent part of the series, when asked for.
    pub parts: Vec<MultiTau>,
    /// Two-time g2, when asked for.
    pub two_time: Option<TwoTime>,
    /// Masked-in pixels that carried the saturation value and were left out, ascending.
    pub saturated: Vec<SaturatedPixel>,
}
