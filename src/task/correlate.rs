//! What a correlation is to be: every parameter of `speckled corr`, typed. Pure; opens nothing.
//!
//! Paths are as they were asked for, not yet held against anybody's roots.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bins::BinSelection;
use super::spec::TaskPath;
use super::stem::raw_stem;
use super::template::Access;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;

/// Parameters of one correlation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrelateSpec {
    /// The raw dataset: its file, or the first of its files.
    pub raw: PathBuf,
    /// The qmap.
    pub qmap: PathBuf,
    /// Directory of the result.
    pub output: PathBuf,
    /// The metadata file; None = the one beside the raw file.
    #[serde(default)]
    pub metadata: Option<PathBuf>,
    /// What to compute.
    #[serde(default)]
    pub analyses: Analyses,
    /// Smoothing of two-time.
    #[serde(default)]
    pub smoothing: Smoothing,
    /// Frames.
    #[serde(default)]
    pub window: FrameWindow,
    /// Normalization of multi-tau.
    #[serde(default)]
    pub normalization: Normalization,
    /// Dynamic bins of two-time.
    #[serde(default)]
    pub bins: BinSelection,
    /// Independent parts of multi-tau besides the whole; 0 or 1 = none.
    #[serde(default)]
    pub parts: u32,
    /// Whether per-pixel correlations are stored.
    #[serde(default)]
    pub pixel_g2: PixelG2Output,
    /// Saturated pixels.
    #[serde(default)]
    pub saturated: SaturatedPolicy,
    /// The most bytes of buffers; None = what the process that computes it may take.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Bit order of FTF files.
    #[serde(default)]
    pub ftf_bits: BitOrder,
    /// Before the result's name; not a path.
    #[serde(default)]
    pub prefix: Option<String>,
    /// After the result's name; not a path.
    #[serde(default)]
    pub suffix: Option<String>,
    /// What to do when the result's name is taken.
    #[serde(default)]
    pub overwrite: Overwrite,
    /// Threads; None = one for each processor that the process may use.
    #[serde(default)]
    pub threads: Option<NonZeroUsize>,
    /// Parameters without influence here.
    #[serde(default)]
    pub recorded: Recorded,
}

/// Parameters that a result records although nothing here depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The device that was asked for: -1 CPU, -2 any, else a GPU.
    pub gpu_id: i64,
    /// boost_corr's threshold for cropping.
    pub crop_ratio_threshold: f64,
}

impl Default for Recorded {
    /// What `boost_corr` records when nothing is given, on the CPU.
    fn default() -> Self {
        Self { gpu_id: -1, crop_ratio_threshold: 1.0 }
    }
}

/// Two correlations that are to have one result, where one of them replaces what is there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{} and {} would have the same result in {}, and the second would replace the first; give each an output directory or \
     a suffix of its own, or do not overwrite",
    raws[0].display(),
    raws[1].display(),
    output.display()
)]
pub struct SameResult {
    /// The raw datasets, in their order.
    pub raws: [PathBuf; 2],
    /// The directory of the result.
    pub output: PathBuf,
}

/// Finds correlations of which one would replace another's result.
///
/// # Errors
/// The first two.
pub fn check_results<'s>(specs: impl IntoIterator<Item = &'s CorrelateSpec>) -> Result<(), SameResult> {
    let mut results: BTreeMap<(&PathBuf, String), &CorrelateSpec> = BTreeMap::new();
    for spec in specs {
        let Some(other) = results.insert((&spec.output, spec.result_stem()), spec) else { continue };
        if [spec, other].iter().any(|one| one.overwrite == Overwrite::Replace) {
            return Err(SameResult { raws: [other.raw.clone(), spec.raw.clone()], output: spec.output.clone() });
        }
    }
    Ok(())
}

impl CorrelateSpec {
    /// What its result's name begins with: the raw dataset's name with prefix and suffix.
    pub fn result_stem(&self) -> String {
        let mut stem = raw_stem(&self.raw);
        if let Some(prefix) = &self.prefix {
            stem = format!("{}_{stem}", prefix.trim_end_matches('_'));
        }
        if let Some(suffix) = &self.suffix {
            stem = format!("{stem}_{}", suffix.trim_start_matches('_'));
        }
        stem
    }

    /// Its paths: raw data, qmap and metadata are read, the output's directory is written.
    pub fn paths(&self) -> Vec<TaskPath<'_>> {
        let path = |what, path, access| TaskPath { what, path, access };
        let metadata = self.metadata.as_deref().map(|metadata| path("metadata", metadata, Access::Read));
        let named = [
            path("raw data", &self.raw, Access::Read),
            path("qmap", &self.qmap, Access::Read),
            path("output", &self.output, Access::Write),
        ];
        named.into_iter().chain(metadata).collect()
    }

    /// Multi-tau of a whole dataset with every parameter at its default.
    pub fn new(raw: impl Into<PathBuf>, qmap: impl Into<PathBuf>, output: impl Into<PathBuf>) -> Self {
        Self {
            raw: raw.into(),
            qmap: qmap.into(),
            output: output.into(),
            metadata: None,
            analyses: Analyses::default(),
            smoothing: Smoothing::default(),
            window: FrameWindow::default(),
            normalization: Normalization::default(),
            bins: BinSelection::default(),
            parts: 0,
            pixel_g2: PixelG2Output::default(),
            saturated: SaturatedPolicy::default(),
            memory: None,
            ftf_bits: BitOrder::default(),
            prefix: None,
            suffix: None,
            overwrite: Overwrite::default(),
            threads: None,
            recorded: Recorded::default(),
        }
    }
}

/// Which analyses a result holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Analyses {
    /// Multi-tau only.
    #[default]
    MultiTau,
    /// Two-time only.
    TwoTime,
    /// Both in one file.
    Both,
}

impl Analyses {
    /// Whether multi-tau is among them.
    pub fn multi_tau(self) -> bool {
        matches!(self, Self::MultiTau | Self::Both)
    }

    /// Whether two-time is among them.
    pub fn two_time(self) -> bool {
        matches!(self, Self::TwoTime | Self::Both)
    }
}

/// Whether frames are divided by their mean over the masked-in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Each frame by its mean.
    #[default]
    FrameMean,
    /// Counts as they are.
    None,
}

/// Whether `unnormalized_G2` is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelG2Output {
    /// Keep it: (delay, 3, pixel) float32 in memory.
    Keep,
    /// Sum it into the bins only.
    #[default]
    Drop,
}

/// What to do with masked-in pixels that carry the type's maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaturatedPolicy {
    /// Leave them out; more than 1 % of the mask is an error.
    #[default]
    Mask,
    /// Any is an error.
    Fail,
    /// Take the value as counts.
    Keep,
}

/// What to do when the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overwrite {
    /// The new result takes the old one's place.
    Replace,
    /// The new result gets the first free of `_1`, `_2`, ...
    #[default]
    Number,
}

/// Which bits of a byte are its first pixel. Rigaku does not document it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitOrder {
    /// The lowest bits come first.
    #[default]
    LittlePairs,
    /// The highest bits come first.
    BigPairs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_paths_are_enough() {
        let spec: CorrelateSpec =
            serde_json::from_str(r#"{"raw":"a.bin","qmap":"q.hdf","output":"results"}"#).expect("a spec");
        assert_eq!(spec, CorrelateSpec::new("a.bin", "q.hdf", "results"));
        let text = serde_json::to_string(&spec).expect("json");
        assert_eq!(serde_json::from_str::<CorrelateSpec>(&text).expect("a spec"), spec);
    }

    #[test]
    fn what_would_replace_another_result_is_found() {
        let spec = |raw: &str, overwrite| CorrelateSpec { overwrite, ..CorrelateSpec::new(raw, "q.hdf", "results") };
        let (replace, number) = (Overwrite::Replace, Overwrite::Number);
        let found = |specs: &[CorrelateSpec]| check_results(specs);
        let one = [spec("d1/sim.bin", replace), spec("d2/sim.h5", replace)];
        let same = found(&one).expect_err("one result");
        assert_eq!(same.raws, [PathBuf::from("d1/sim.bin"), "d2/sim.h5".into()]);
        assert!(same.to_string().contains("d1/sim.bin and d2/sim.h5") && same.to_string().contains("suffix"), "{same}");
        assert!(found(&[spec("d1/a.bin", number), spec("d2/a.bin", replace)]).is_err(), "it replaces the numbered one");
        assert!(found(&[spec("d1/a.bin", number), spec("d2/a.bin", number)]).is_ok(), "both are kept");
        let suffixed = CorrelateSpec { suffix: Some("_x".into()), ..spec("d2/a.bin", replace) };
        let elsewhere = CorrelateSpec { output: "others".into(), ..spec("d2/a.bin", replace) };
        assert!(found(&[spec("d1/a.bin", replace), suffixed, elsewhere, spec("d1/b.bin", replace)]).is_ok());
    }

    #[test]
    fn misspelt_parameters_are_refused() {
        for extra in [r#""smoth":"none""#, r#""smoothing":"sometimes""#, r#""bins":"7-5""#, r#""window":{"start":1}"#] {
            let text = format!(r#"{{"raw":"a","qmap":"q","output":"o",{extra}}}"#);
            assert!(serde_json::from_str::<CorrelateSpec>(&text).is_err(), "{text}");
        }
    }
}
