//! One job: a raw dataset is correlated into a result file.
//!
//! Everything that is cheap is checked before the correlation, in the order of the steps below, so that a job
//! that cannot succeed fails at once. It chooses no engine and shows nothing.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use thiserror::Error;

use super::memory;
use super::settings::{Settled, settings};
use crate::correlate::bins::Shape;
use crate::correlate::listed::{listed, listed_pixels};
use crate::correlate::result::SaturatedPixel;
use crate::correlate::window::{EmptyWindow, FrameSelection};
use crate::dataset::Opener;
use crate::dataset::open::{OpenHint, open_raw};
use crate::dataset::qmap::{Qmap, check_shape};
use crate::dataset::result::{Parents, Provenance, PublishError, ResultNaming, ResultTarget, ResultWriter, host_name};
use crate::dataset::{DatasetError, Source, metadata};
use crate::engine::{Engine, EngineError, MultiTauRequest, Observer, Request, TwoTimeRequest};
use crate::task::bins::{ChosenBins, SelectionError};
use crate::task::correlate::CorrelateSpec;
use crate::task::estimate::Measure;
use crate::task::time::whole_millis;

/// What a job did.
#[derive(Debug, Clone, PartialEq)]
pub struct JobOutput {
    /// The result file.
    pub result: PathBuf,
    /// Raw frames from the first to the last that was taken.
    pub frames: u64,
    /// Bytes of the raw dataset.
    pub bytes: u64,
    /// Time from the start to the renamed result.
    pub wall_time: Duration,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Masked-in pixels that carried the saturation value and were left out: row, column, first frame.
    pub saturated: Vec<(usize, usize, u64)>,
}

impl JobOutput {
    /// Raw frames a second.
    pub fn frames_per_second(&self) -> f64 {
        self.frames as f64 / self.wall_time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// What it took.
    pub fn measure(&self) -> Measure {
        Measure { bytes: self.bytes, frames: self.frames, millis: whole_millis(self.wall_time) }
    }

    /// What programs read of it.
    pub fn document(&self, raw: &Path) -> Value {
        json!({
            "raw": raw.to_string_lossy(),
            "result": self.result.to_string_lossy(),
            "frames": self.frames,
            "bytes": self.bytes,
            "seconds": self.wall_time.as_secs_f64(),
            "frames_per_second": self.frames_per_second(),
            "warnings": self.warnings,
            "saturated_pixels": self.saturated,
        })
    }
}

/// Why a job failed: one variant a step, in their order.
#[derive(Debug, Error)]
pub enum JobError {
    /// No usable metadata.
    #[error("finding the metadata failed")]
    Metadata(#[source] DatasetError),
    /// No usable qmap, or one of another shape than the data.
    #[error("reading the qmap failed")]
    Qmap(#[source] DatasetError),
    /// No usable raw data.
    #[error("opening the raw data failed")]
    Raw(#[source] DatasetError),
    /// No frames to correlate.
    #[error("choosing the frames of {} failed", raw.display())]
    Window {
        /// The raw dataset.
        raw: PathBuf,
        /// Why.
        #[source]
        source: EmptyWindow,
    },
    /// Too few frames in each part.
    #[error("{}: {frames} frames cannot be cut into {parts} parts of two or more; ask for fewer parts", raw.display())]
    Parts {
        /// The raw dataset.
        raw: PathBuf,
        /// Frames of the analysis.
        frames: u64,
        /// Parts asked for.
        parts: u32,
    },
    /// The dq selection does not fit.
    #[error("choosing the dynamic bins of qmap {} failed", qmap.display())]
    Bins {
        /// The qmap.
        qmap: PathBuf,
        /// Why.
        #[source]
        source: SelectionError,
    },
    /// The correlation itself.
    #[error("correlating {} failed", raw.display())]
    Correlate {
        /// The raw dataset.
        raw: PathBuf,
        /// Why.
        #[source]
        source: Box<EngineError>,
    },
    /// The result could not be stored.
    #[error("saving the result failed")]
    Save(#[source] DatasetError),
    /// The job was to stop when its result was whole.
    #[error("the job was stopped before its result was published")]
    Stopped,
}

/// Where a job's result goes, beyond what the job says.
#[derive(Clone, Copy)]
pub struct Placing<'p> {
    /// Whether its directory is made, or expected to be there.
    pub parents: Parents,
    /// Who settles its name.
    pub naming: &'p dyn ResultNaming,
}

/// Runs a job.
///
/// # Errors
/// [`JobError`]; no result file is left then.
pub fn run(
    opener: &Opener,
    job: &CorrelateSpec,
    engine: &dyn Engine,
    observer: &dyn Observer,
    placing: Placing<'_>,
) -> Result<JobOutput, JobError> {
    let (begun, started) = (Instant::now(), SystemTime::now());
    let Ready { source, request, metadata, mut warnings, mut writer } = prepare(opener, job, placing)?;
    let (correlation, partition) = engine
        .correlate(&request, &source, observer, &mut writer)
        .map_err(|source| JobError::Correlate { raw: job.raw.clone(), source: Box::new(source) })?;
    let place = |s: &SaturatedPixel| {
        let (row, col) = partition.shape().place(s.pixel);
        (row, col, s.frame)
    };
    let saturated: Vec<_> = correlation.saturated.iter().map(place).collect();
    warnings.extend(saturation_warning(&correlation.saturated, partition.shape()));
    let settled =
        Settled { metadata: &metadata, labels: labels(&request), memory: request.memory, threads: threads(job) };
    let provenance = Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine.name().to_owned(),
        device: engine.device(),
        host: host_name(),
        started,
        wall_time: begun.elapsed(),
        source: source.info().clone(),
        warnings: warnings.clone(),
    };
    warnings.extend_from_slice(writer.warnings());
    let result = writer
        .finish(&correlation, &partition, &settings(job, &settled), &provenance, placing.naming)
        .map_err(|error| match error {
            PublishError::Save(error) => JobError::Save(error),
            PublishError::Stopped => JobError::Stopped,
        })?;
    let frames = request.selection.end() - request.selection.first();
    Ok(JobOutput { result, frames, bytes: provenance.source.bytes, wall_time: begun.elapsed(), warnings, saturated })
}

/// A job that has passed every check.
struct Ready {
    source: Source,
    request: Request,
    metadata: PathBuf,
    warnings: Vec<String>,
    writer: ResultWriter,
}

fn prepare(opener: &Opener, job: &CorrelateSpec, placing: Placing<'_>) -> Result<Ready, JobError> {
    let memory = job.memory.unwrap_or_else(memory::default_limit);
    let metadata = metadata::find(opener, &job.raw, job.metadata.as_deref()).map_err(JobError::Metadata)?;
    tracing::info!(metadata = %metadata.path.display(), "metadata found");
    let qmap = Qmap::read(opener, &job.qmap).map_err(JobError::Qmap)?;
    tracing::info!(qmap = %job.qmap.display(), shape = %qmap.labels.shape, "qmap read");
    let hint = OpenHint { shape: Some(qmap.labels.shape), ftf_bits: job.ftf_bits };
    let source = open_raw(opener, &job.raw, &hint).map_err(JobError::Raw)?;
    let info = source.info();
    let (format, frames, bytes) = (&info.format, info.frames, info.bytes);
    tracing::info!(raw = %job.raw.display(), format, frames, bytes, "raw data opened");
    check_shape(&qmap, info).map_err(JobError::Qmap)?;
    let selection = job.window.select(frames).map_err(|source| JobError::Window { raw: job.raw.clone(), source })?;
    check_parts(job, &selection)?;
    tracing::info!(first = selection.first(), end = selection.end(), frames = selection.outputs(), "frames chosen");
    let mut warnings = [metadata.warnings, qmap.warnings.clone()].concat();
    let two_time = two_time(job, &qmap, &mut warnings)?;
    let writer = ResultWriter::begin(opener, &target(job, placing), &metadata.path, &job.qmap, job.analyses)
        .map_err(|error| not_begun(job, error))?;
    let multi_tau = job.analyses.multi_tau().then_some(MultiTauRequest {
        normalization: job.normalization,
        parts: job.parts,
        pixel_g2: job.pixel_g2,
    });
    let request = Request { selection, labels: qmap.labels, multi_tau, two_time, saturated: job.saturated, memory };
    Ok(Ready { source, request, metadata: metadata.path, warnings, writer })
}

/// A part of one frame has no pair to correlate.
fn check_parts(job: &CorrelateSpec, selection: &FrameSelection) -> Result<(), JobError> {
    let frames = selection.outputs();
    if job.analyses.multi_tau() && job.parts > 1 && frames / u64::from(job.parts) < 2 {
        return Err(JobError::Parts { raw: job.raw.clone(), frames, parts: job.parts });
    }
    Ok(())
}

fn two_time(job: &CorrelateSpec, qmap: &Qmap, warnings: &mut Vec<String>) -> Result<Option<TwoTimeRequest>, JobError> {
    if !job.analyses.two_time() {
        return Ok(None);
    }
    let ChosenBins { labels, without_pixels } =
        job.bins.choose(&qmap.labels).map_err(|source| JobError::Bins { qmap: job.qmap.clone(), source })?;
    if !without_pixels.is_empty() {
        warnings.push(format!(
            "qmap {}: dynamic bins {} have no pixel that the mask keeps; two-time leaves them out",
            job.qmap.display(),
            listed(without_pixels.iter())
        ));
    }
    Ok(Some(TwoTimeRequest { smoothing: job.smoothing, labels }))
}

fn target(job: &CorrelateSpec, Placing { parents, naming }: Placing<'_>) -> ResultTarget {
    let stem = job.result_stem();
    let note = naming.note().map(Path::to_owned);
    ResultTarget { directory: job.output.clone(), stem, overwrite: job.overwrite, parents, note }
}

/// Beginning a result reads metadata and qmap once more; a fault of theirs is not one of saving.
fn not_begun(job: &CorrelateSpec, error: DatasetError) -> JobError {
    match error {
        DatasetError::Damaged { ref path, .. } | DatasetError::Reader { ref path, .. } if *path == job.qmap => {
            JobError::Qmap(error)
        }
        DatasetError::Qmap { .. } | DatasetError::Hdf5 { .. } => JobError::Qmap(error),
        DatasetError::Metadata { .. }
        | DatasetError::Io { .. }
        | DatasetError::Outside { .. }
        | DatasetError::Damaged { .. }
        | DatasetError::Reader { .. } => JobError::Metadata(error),
        DatasetError::Raw { .. }
        | DatasetError::Unsupported { .. }
        | DatasetError::Scene { .. }
        | DatasetError::Save { .. } => JobError::Save(error),
    }
}

fn labels(request: &Request) -> &[u32] {
    request.two_time.as_ref().map_or(&[], |two_time| &two_time.labels)
}

fn threads(job: &CorrelateSpec) -> NonZeroUsize {
    job.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

fn saturation_warning(saturated: &[SaturatedPixel], shape: Shape) -> Option<String> {
    (!saturated.is_empty()).then(|| {
        format!(
            "{} pixels carry the saturation value and were left out; row, column: {}",
            saturated.len(),
            listed_pixels(saturated.iter().copied(), shape)
        )
    })
}
