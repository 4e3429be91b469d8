//! The result file: the metadata copied whole, the qmap, and the numbers where xpcs-viewer 1.2.2 looks for them.
//!
//! A result is begun before the correlation, so that a place that cannot be written fails at once; two-time maps and
//! per-pixel correlations are stored as they come; the rest at the end. The file has a hidden name until it is complete and durable.
//! This module computes nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::qmap::{REMAKE, sha256};
use super::{DatasetError, Opener, ResultSink, objects, values};
use crate::correlate::bins::Partition;
use crate::correlate::result::{Correlation, MapRows, PixelG2};
use crate::task::correlate::{Analyses, Overwrite};

mod copy;
mod fault;
mod maps;
mod naming;
mod partial;
mod planes;
mod provenance;
mod settings;
mod staged;
mod store;
mod tables;
mod verify;

pub use naming::{NamingAnswer, OwnNaming, PublishError, ResultNaming};
pub use partial::remove_unfinished;
pub use provenance::{Provenance, host_name};
pub use settings::{ResultSettings, SettingValue};
pub use verify::verify;

use copy::CopyError;
use maps::Maps;
use planes::Planes;
use provenance::{InputFile, Inputs};
use staged::Staged;
use store::Store;

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultTarget {
    /// Directory, created if absent.
    pub directory: PathBuf,
    /// File name before `_results.hdf`.
    pub stem: String,
    /// What to do when the name is taken.
    pub overwrite: Overwrite,
    /// Where the directory comes from.
    pub parents: Parents,
    /// See [`ResultNaming::note`].
    pub note: Option<PathBuf>,
}

/// Whether a result's directory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// With all that are missing above it.
    Made,
    /// It is there; what is missing is missing because its file system has gone.
    Expected,
}

impl ResultTarget {
    /// File name with the number that makes it free; 0 = none.
    fn file_name(&self, number: u32) -> String {
        match number {
            0 => format!("{}_results.hdf", self.stem),
            n => format!("{}_results_{n}.hdf", self.stem),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(self.file_name(number))
    }

    /// Whether a path is one of its names.
    fn may_have(&self, path: &Path) -> bool {
        let number = || -> Option<u32> {
            let name = path.strip_prefix(&self.directory).ok()?.to_str()?;
            let number = name.strip_prefix(&self.stem)?.strip_prefix("_results")?.strip_suffix(".hdf")?;
            if number.is_empty() { Some(0) } else { number.strip_prefix('_')?.parse().ok() }
        };
        number().is_some_and(|number| self.path(number) == path)
    }
}

/// A result that is being written. Dropping it before [`Self::finish`] leaves nothing behind.
#[derive(Debug)]
pub struct ResultWriter {
    // Fields drop in this order: an open map before its file, and the file is closed before it is removed.
    maps: Maps,
    store: Store,
    staged: Staged,
    target: PathBuf,
    analyses: Analyses,
    inputs: Inputs,
    planes: Option<Planes>,
    warnings: Vec<String>,
}

impl ResultWriter {
    /// Creates the hidden file with the metadata and the qmap in it.
    ///
    /// # Errors
    /// A directory that cannot be written, a full disk, a metadata or qmap file that cannot be read.
    pub fn begin(
        opener: &Opener,
        target: &ResultTarget,
        metadata: &Path,
        qmap: &Path,
        analyses: Analyses,
    ) -> Result<Self, DatasetError> {
        let planned = target.path(0);
        let staged = Staged::create(target)?;
        let metadata_bytes = copy_metadata(opener, metadata, staged.file(), &planned)?;
        let store = Store::open(staged.path(), &planned).map_err(|e| copy_refused(metadata, &planned, e))?;
        let qmap_bytes = opener.open(qmap)?.length;
        let inputs = Inputs {
            metadata: InputFile { path: metadata.to_owned(), bytes: metadata_bytes },
            qmap: InputFile { path: qmap.to_owned(), bytes: qmap_bytes },
            qmap_sha256: sha256(opener, qmap)?,
        };
        let mut warnings = Vec::new();
        if store.root().link_exists("xpcs") {
            store.root().unlink("xpcs").map_err(|e| store.fault("/xpcs", e))?;
            warnings.push(format!("{}: an earlier result in it, /xpcs, was left out", metadata.display()));
        }
        warnings.extend(copy_qmap(opener, &store, &inputs)?);
        if analyses.two_time() {
            store.group(tables::MAPS)?;
        }
        store.flush()?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let maps = Maps::default();
        Ok(Self { maps, store, staged, target: planned, analyses, inputs, planes: None, warnings })
    }

    /// What is odd in the inputs beyond what reading them tells; the result records it too.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Stores the rest, makes the file durable and gives it its final name, which is returned.
    ///
    /// # Errors
    /// Numbers that the analyses need and the correlation does not hold, a full disk; or the result is not to be published.
    pub fn finish(
        self,
        correlation: &Correlation,
        partition: &Partition,
        settings: &ResultSettings,
        provenance: &Provenance,
        naming: &dyn ResultNaming,
    ) -> Result<PathBuf, PublishError> {
        self.write_multi_tau(correlation, partition, settings)?;
        self.write_two_time(correlation, settings)?;
        tables::scattering(&self.store, &correlation.scattering, partition)?;
        let saturated = &correlation.saturated;
        provenance::write(&self.store, provenance, &self.inputs, &self.warnings, saturated, partition.shape())?;
        let Self { maps, store, staged, .. } = self;
        drop(maps);
        store.close()?;
        staged.publish(naming)
    }

    fn write_multi_tau(
        &self,
        correlation: &Correlation,
        partition: &Partition,
        settings: &ResultSettings,
    ) -> Result<(), DatasetError> {
        if !self.analyses.multi_tau() {
            return Ok(());
        }
        let whole = correlation.multi_tau.as_ref().ok_or_else(|| self.incomplete("multi-tau g2"))?;
        tables::multi_tau(&self.store, whole)?;
        if !correlation.parts.is_empty() {
            let frames = correlation.scattering.intensity.len();
            tables::parts(&self.store, whole, &correlation.parts, frames)?;
        }
        if let Some(planes) = &self.planes {
            if planes.pixels() != partition.pixels().len() {
                return Err(self.incomplete("per-pixel correlations of some pixels"));
            }
            planes.write(&self.store, partition)?;
        }
        tables::config(&self.store, tables::MULTI_TAU, "multitau", settings)
    }

    fn write_two_time(&self, correlation: &Correlation, settings: &ResultSettings) -> Result<(), DatasetError> {
        if !self.analyses.two_time() {
            return Ok(());
        }
        let numbers = correlation.two_time.as_ref().ok_or_else(|| self.incomplete("two-time g2"))?;
        if let Some(label) = numbers.labels.iter().find(|label| !self.maps.has(**label)) {
            return Err(self.incomplete(&tables::map_object(*label)));
        }
        tables::two_time(&self.store, numbers)?;
        tables::config(&self.store, tables::TWO_TIME, "twotime", settings)
    }

    fn incomplete(&self, what: &str) -> DatasetError {
        fault::save("complete", &self.target, format!("the correlation yielded no {what}"))
    }
}

impl ResultSink for ResultWriter {
    fn rows_together(&self, frames: usize) -> usize {
        maps::tile(frames)
    }

    fn map_rows(&mut self, rows: MapRows<'_>) -> Result<(), DatasetError> {
        self.maps.add(&self.store, rows)
    }

    fn pixel_g2(&mut self, pixels: PixelG2<'_>) -> Result<(), DatasetError> {
        let mut planes = match self.planes.take() {
            Some(planes) => planes,
            None => Planes::create(self.staged.directory(), &self.target, pixels.values.dim().0)?,
        };
        planes.add(&self.target, pixels)?;
        self.planes = Some(planes);
        Ok(())
    }
}

/// Copies the metadata byte by byte, telling a fault of reading from one of writing.
fn copy_metadata(opener: &Opener, metadata: &Path, mut file: &File, target: &Path) -> Result<u64, DatasetError> {
    let mut content = Vec::new();
    let mut opened = opener.open(metadata)?.file;
    opened.read_to_end(&mut content).map_err(|e| DatasetError::io("read", metadata, e))?;
    file.write_all(&content).map_err(|e| fault::save("copy the metadata into", target, e))?;
    Ok(content.len() as u64)
}

fn copy_refused(metadata: &Path, target: &Path, error: hdf5::Error) -> DatasetError {
    match fault::system_error(&error) {
        Some(cause) => fault::save("open", target, cause),
        None => DatasetError::Metadata {
            path: metadata.to_owned(),
            what: format!("not a complete HDF5 file ({error})"),
            remedy: "give the measurement's _metadata.hdf",
        },
    }
}

/// Copies `/qmap` with its attributes; a legacy one without a hash gets that of its file, or the viewer's cache fails.
/// Returns a warning for each object that was left out.
fn copy_qmap(opener: &Opener, store: &Store, inputs: &Inputs) -> Result<Vec<String>, DatasetError> {
    const OBJECT: &str = "/xpcs/qmap";
    let path = &inputs.qmap.path;
    let refuse = |what: String| DatasetError::Qmap { path: path.clone(), what, remedy: REMAKE };
    let file = values::open(opener, path, refuse)?;
    let qmap = file.group("qmap").map_err(|e| refuse(format!("/qmap cannot be opened: {}", values::words(&e))))?;
    let left_out = copy::group(store, &qmap, OBJECT).map_err(|e| match e {
        CopyError::Source(what) => refuse(format!("/qmap: {what}")),
        CopyError::Target(error) => error,
    })?;
    let fault = |e| store.fault(OBJECT, e);
    let copy = store.root().group(OBJECT).map_err(fault)?;
    if copy.attr("hash").is_err() {
        objects::attribute(&copy, "hash", &inputs.qmap_sha256).map_err(fault)?;
    }
    let warning =
        |name| format!("{}: /qmap/{name} is not to be read as numbers or text and was left out", path.display());
    Ok(left_out.into_iter().map(warning).collect())
}
