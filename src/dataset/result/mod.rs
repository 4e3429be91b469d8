//! The result file: what the metadata and the qmap hold, and the numbers where xpcs-viewer 1.2.2 looks for them.
//!
//! A result is begun before the correlation, so that a place that cannot be written fails at once; two-time maps and
//! per-pixel correlations are stored as they come; the rest at the end. The file has a hidden name until it is complete and durable.
//! This module computes nothing.

use std::path::{Path, PathBuf};

use super::qmap::{GROUP, sha256};
use super::reader::{BrokenAnswer, Question, Told, ask};
use super::tree::{EARLIER_RESULT, TreeKind};
use super::{DatasetError, Opener, ResultSink, metadata, objects};
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

use copy::{LeftOut, TreeWriter};
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
        let store = Store::create(staged.path(), &planned)?;
        let input = |path: &Path| -> Result<InputFile, DatasetError> {
            Ok(InputFile { path: path.to_owned(), bytes: opener.open(path)?.length })
        };
        let inputs = Inputs { metadata: input(metadata)?, qmap: input(qmap)?, qmap_sha256: sha256(opener, qmap)? };
        let mut warnings = copy_metadata(opener, &store, metadata)?;
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

/// Copies all of the metadata but an earlier result. Returns a warning for each object that was left out.
fn copy_metadata(opener: &Opener, store: &Store, path: &Path) -> Result<Vec<String>, DatasetError> {
    let left_out = copy(opener, store, "", Question::Tree(TreeKind::Metadata, path.to_owned()))?;
    let needed =
        |left_out: &&LeftOut| metadata::REQUIRED.contains(&&*left_out.name) || left_out.name == metadata::SCHEMA;
    if let Some(LeftOut { what, .. }) = left_out.iter().find(needed) {
        return Err(metadata::bad(path, format!("{what}, so that viewers could not open the result"), metadata::GIVE));
    }
    Ok(warnings(path, left_out))
}

/// Copies `/qmap` with its attributes; a legacy one without a hash gets that of its file, or the viewer's cache fails.
/// Returns a warning for each object that was left out.
fn copy_qmap(opener: &Opener, store: &Store, inputs: &Inputs) -> Result<Vec<String>, DatasetError> {
    let object = format!("{EARLIER_RESULT}{GROUP}");
    let path = &inputs.qmap.path;
    let left_out = copy(opener, store, &object, Question::Tree(TreeKind::Qmap, path.clone()))?;
    let fault = |e| store.fault(&object, e);
    let copy = store.root().group(&object).map_err(fault)?;
    if copy.attr("hash").is_err() {
        objects::attribute(&copy, "hash", &inputs.qmap_sha256).map_err(fault)?;
    }
    Ok(warnings(path, left_out))
}

/// Copies a tree below a group; returns what was left out.
fn copy(opener: &Opener, store: &Store, target: &str, tree: Question) -> Result<Vec<LeftOut>, DatasetError> {
    let mut writer = TreeWriter::new(store, target);
    ask(opener, &tree, &mut |node| writer.put(node), |told, _| match told {
        Told::Tree => Ok(()),
        Told::Frames(_) | Told::Module(_) | Told::Qmap(_) | Told::Metadata(_) | Told::Description(_) => {
            Err(BrokenAnswer::OTHER)
        }
    })?;
    Ok(writer.left_out)
}

fn warnings(path: &Path, left_out: Vec<LeftOut>) -> Vec<String> {
    left_out.into_iter().map(|LeftOut { what, .. }| format!("{}: {what}", path.display())).collect()
}
