//! A job's parameters as `/xpcs/<analysis>/config` records them, under the names that boost_corr writes.
//!
//! Every parameter is explicit, defaults too.

use std::num::NonZeroUsize;
use std::path::Path;

use super::names::{BIT_ORDERS, POLICIES, SMOOTHINGS, word_for};
use crate::dataset::result::ResultSettings;
use crate::task::bins::BinSelection;
use crate::task::correlate::{CorrelateSpec, Normalization, Overwrite, PixelG2Output};

/// Bytes of boost_corr's unit of memory.
pub const GB: f64 = 1e9;

/// What a job settles while it runs.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// The metadata file that was taken.
    pub metadata: &'a Path,
    /// The dynamic bins of two-time.
    pub labels: &'a [u32],
    /// The most bytes of buffers.
    pub memory: u64,
    /// The threads that were used.
    pub threads: NonZeroUsize,
}

/// The settings of a job, the same for each of its analyses.
pub fn settings(job: &CorrelateSpec, settled: &Settled<'_>) -> ResultSettings {
    let mut settings = ResultSettings::new(job.window.stride, job.window.avg);
    settings
        .set("raw", absolute(&job.raw))
        .set("qmap", absolute(&job.qmap))
        .set("output", absolute(&job.output))
        .set("meta_fname", absolute(settled.metadata))
        .set("begin_frame", job.window.begin)
        .set("end_frame", job.window.end)
        .set("normalize_frame", job.normalization == Normalization::FrameMean)
        .set("smooth", word_for(SMOOTHINGS, job.smoothing))
        .set("save_G2", job.pixel_g2 == PixelG2Output::Keep)
        .set("num_partial_g2", i64::from(job.parts))
        .set("num_segments", i64::from(job.parts.max(1)))
        .set("gpu_id", job.recorded.gpu_id)
        .set("crop_ratio_threshold", job.recorded.crop_ratio_threshold)
        .set("max_memory", settled.memory as f64 / GB)
        .set("prefix", job.prefix.as_deref().unwrap_or_default())
        .set("suffix", job.suffix.as_deref().unwrap_or_default())
        .set("overwrite", job.overwrite == Overwrite::Replace)
        .set("saturated", word_for(POLICIES, job.saturated))
        .set("ftf_bits", word_for(BIT_ORDERS, job.ftf_bits))
        .set("threads", i64::try_from(settled.threads.get()).unwrap_or(i64::MAX));
    match &job.bins {
        BinSelection::All => settings.set("dq_selection", job.bins.to_string()),
        BinSelection::Ranges(_) => {
            settings.set("dq_selection", settled.labels.iter().map(|&label| i64::from(label)).collect::<Vec<_>>())
        }
    };
    settings
}

/// The path from the root; the path as it is where the working directory is gone.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}
