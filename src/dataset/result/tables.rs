//! Where each number of a [`Correlation`] goes in the file: paths, types and shapes as xpcs-viewer 1.2.2 reads them.
//!
//! Values are stored as float32, NaN included. Does not decide when or whether a file is written.

use ndarray::{Array2, Array3, ArrayView, Dimension, aview1};

use super::settings::{ResultSettings, SettingValue};
use super::store::{Grid, Store};
use crate::correlate::bins::Partition;
use crate::correlate::result::{MultiTau, Scattering, TwoTime};
use crate::dataset::DatasetError;

/// Group of multi-tau results; the viewer knows the analysis by `normalized_g2` in it.
pub(super) const MULTI_TAU: &str = "/xpcs/multitau";
/// Group of two-time results.
pub(super) const TWO_TIME: &str = "/xpcs/twotime";
/// Group of two-time maps; the viewer knows the analysis by it.
pub(super) const MAPS: &str = "/xpcs/twotime/correlation_map";

/// Most values in a chunk of the scattering image: 4 MiB.
const IMAGE_CHUNK: usize = 1 << 20;

/// Writes `/xpcs/temporal_mean` and `/xpcs/spatial_mean`.
pub(super) fn scattering(store: &Store, numbers: &Scattering, partition: &Partition) -> Result<(), DatasetError> {
    let row = aview1(&numbers.bins).insert_axis(ndarray::Axis(0));
    floats(store, "/xpcs/temporal_mean/scattering_1d", row)?;
    floats(store, "/xpcs/temporal_mean/scattering_1d_segments", numbers.segments.view())?;
    let (rows, cols) = (partition.shape().rows, partition.shape().cols);
    let band = (IMAGE_CHUNK / cols.max(1)).clamp(1, rows);
    let origins: Vec<_> = (0..rows).step_by(band).map(|row| [0, row, 0]).collect();
    let grid = Grid { shape: [1, rows, cols], chunk: [1, band, cols] };
    store.chunked("/xpcs/temporal_mean/scattering_2d", grid)?.write(store, &origins, |[_, row, _], values| {
        for (value, &mean) in std::iter::zip(values, &numbers.image[row * cols..]) {
            *value = mean as f32;
        }
        Ok(())
    })?;
    let frames = numbers.intensity.len();
    let numbers_of_frames = (0..frames).map(|frame| frame as f32);
    let series: Vec<f32> = numbers_of_frames.chain(numbers.intensity.iter().map(|&mean| mean as f32)).collect();
    store.array("/xpcs/spatial_mean/intensity_vs_time", &[2, frames], &series)
}

/// Writes g2 of the whole series.
pub(super) fn multi_tau(store: &Store, numbers: &MultiTau) -> Result<(), DatasetError> {
    floats(store, "/xpcs/multitau/normalized_g2", numbers.g2.view())?;
    floats(store, "/xpcs/multitau/normalized_g2_err", numbers.g2_err.view())?;
    let delays: Vec<i64> = numbers.delays.iter().map(|&delay| delay as i64).collect();
    store.list("/xpcs/multitau/delay_list", &delays)
}

/// Writes g2 of the parts of a series of `frames` frames, on the delays of the whole; NaN where a part is too short.
///
/// The viewer shows each part's label as `frame=`: it is the part's first frame of the analysis.
pub(super) fn parts(store: &Store, whole: &MultiTau, parts: &[MultiTau], frames: usize) -> Result<(), DatasetError> {
    let bins = whole.g2.ncols();
    let stack = |of: fn(&MultiTau) -> &Array2<f64>| {
        let mut out = Array3::from_elem((parts.len(), whole.delays.len(), bins), f64::NAN);
        for (part, mut plane) in std::iter::zip(parts, out.outer_iter_mut()) {
            for (k, delay) in whole.delays.iter().enumerate() {
                if let Ok(found) = part.delays.binary_search(delay) {
                    plane.row_mut(k).assign(&of(part).row(found));
                }
            }
        }
        out
    };
    floats(store, "/xpcs/multitau/normalized_g2_partial", stack(|part| &part.g2).view())?;
    floats(store, "/xpcs/multitau/normalized_g2_partial_err", stack(|part| &part.g2_err).view())?;
    let length = frames / parts.len().max(1);
    let labels: Vec<i64> = (0..parts.len()).map(|part| (part * length) as i64).collect();
    store.list("/xpcs/multitau/normalized_g2_partial_labels", &labels)
}

/// Name of the map of a dynamic bin.
pub(super) fn map_object(label: u32) -> String {
    format!("{MAPS}/c2_{label:05}")
}

/// Writes the averages along the maps' diagonals.
pub(super) fn two_time(store: &Store, numbers: &TwoTime) -> Result<(), DatasetError> {
    floats(store, "/xpcs/twotime/normalized_g2", numbers.g2.view())?;
    floats(store, "/xpcs/twotime/normalized_g2_segments", numbers.g2_segments.view())?;
    let labels: Vec<i32> = numbers.labels.iter().map(|&label| label as i32).collect();
    store.list("/xpcs/twotime/processed_bins", &labels)
}

/// Writes `config` of an analysis.
pub(super) fn config(
    store: &Store,
    group: &str,
    analysis: &str,
    settings: &ResultSettings,
) -> Result<(), DatasetError> {
    store.text(&format!("{group}/config/analysis_type"), analysis)?;
    for (name, value) in settings.iter().filter(|&(name, _)| name != "analysis_type") {
        let object = format!("{group}/config/{name}");
        match value {
            SettingValue::Int(value) => store.scalar(&object, value)?,
            SettingValue::Float(value) => store.scalar(&object, value)?,
            SettingValue::Bool(value) => store.scalar(&object, value)?,
            SettingValue::Text(value) => store.text(&object, value)?,
            SettingValue::Ints(values) => store.list(&object, values)?,
        }
    }
    Ok(())
}

fn floats<D: Dimension>(store: &Store, object: &str, values: ArrayView<'_, f64, D>) -> Result<(), DatasetError> {
    let narrowed: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    store.array(object, values.shape(), &narrowed)
}
