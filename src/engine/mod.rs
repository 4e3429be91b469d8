//! Correlation engines behind one trait: CPU here, CUDA beside it when there is one.
//!
//! An engine turns a [`Source`] and a [`Request`] into numbers. It knows no file format, no result layout, and
//! no user; every engine's numbers agree with `correlate::oracle` to 1e-6.

use crate::correlate::bins::{Labels, Partition, PartitionError};
use crate::correlate::result::Correlation;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameSelection;
use crate::dataset::{DatasetError, ResultSink, Source};
use crate::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};

pub mod cpu;
pub mod cuda;
mod layout;
mod limit;
mod multi_tau;
mod precision;
mod sample;
mod saturated;
mod sink;
#[cfg(test)]
mod testing;
mod two_time;
mod workers;

/// What is to be computed from one dataset.
#[derive(Debug, Clone)]
pub struct Request {
    /// The frames.
    pub selection: FrameSelection,
    /// The bins; the engine removes saturated pixels as `saturated` says.
    pub labels: Labels,
    /// Multi-tau, when asked for.
    pub multi_tau: Option<MultiTauRequest>,
    /// Two-time, when asked for.
    pub two_time: Option<TwoTimeRequest>,
    /// What to do with pixels that carry the saturation value.
    pub saturated: SaturatedPolicy,
    /// The most bytes that buffers may take.
    pub memory: u64,
}

/// Parameters of multi-tau.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiTauRequest {
    /// Whether frames are divided by their mean.
    pub normalization: Normalization,
    /// Independent equal parts that are correlated besides the whole; 0 or 1 = none.
    pub parts: u32,
    /// Whether the per-pixel correlations are kept.
    pub pixel_g2: PixelG2Output,
}

/// Parameters of two-time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoTimeRequest {
    /// Smoothing.
    pub smoothing: Smoothing,
    /// Dynamic labels, ascending, each with at least one pixel.
    pub labels: Vec<u32>,
}

/// Why an engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The data could not be read.
    #[error("reading the raw data failed")]
    Read(#[source] DatasetError),
    /// The qmap and the data leave nothing to correlate.
    #[error("the bins cannot be used")]
    Partition(#[source] PartitionError),
    /// Saturated pixels under a policy or number that refuses them.
    #[error("{0}")]
    Saturated(String),
    /// The data hold a value that cannot be correlated.
    #[error("{what} (frame {frame}, row {row}, column {col}); mask the pixel out or repair the data")]
    Value {
        /// `not a number`, `negative counts`, ...
        what: &'static str,
        /// Raw frame.
        frame: u64,
        /// Row.
        row: usize,
        /// Column.
        col: usize,
    },
    /// The request does not fit the memory limit, however it is cut.
    #[error("{what} needs {needed} bytes of memory, --max-memory allows {allowed}; raise it or {remedy}")]
    Memory {
        /// What needs it.
        what: &'static str,
        /// Bytes.
        needed: u64,
        /// Bytes.
        allowed: u64,
        /// Another way out.
        remedy: &'static str,
    },
    /// A device failed.
    #[error("computing on {device} failed")]
    Device {
        /// Which, in words.
        device: String,
        /// How.
        #[source]
        source: Box<cuda::DeviceError>,
    },
    /// A two-time map or per-pixel correlations could not be stored.
    #[error("storing maps or per-pixel correlations failed")]
    Store(#[source] DatasetError),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

/// What the engine tells and asks its caller while it works. Called from any thread.
pub trait Observer: Sync {
    /// A step begins: what it does and how many units (raw frames, mostly) it has.
    fn step(&self, name: &'static str, units: u64);
    /// `units` more units of the current step are done.
    fn advance(&self, units: u64);
    /// True when the engine should stop soon.
    fn cancelled(&self) -> bool;
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn step(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// Computes correlations.
pub trait Engine: Send + Sync {
    /// `cpu` or `cuda`, as the result records it.
    fn name(&self) -> &'static str;

    /// The processor or device in words.
    fn device(&self) -> String;

    /// Correlates `source`. Maps and per-pixel correlations go to `sink` as they are computed.
    ///
    /// # Errors
    /// See [`EngineError`]; nothing is left behind.
    fn correlate(
        &self,
        request: &Request,
        source: &Source,
        observer: &dyn Observer,
        sink: &mut dyn ResultSink,
    ) -> Result<(Correlation, Partition), EngineError>;
}
