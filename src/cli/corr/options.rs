//! From what was given to what is done: defaults, checks, and the parameters in JSON.
//!
//! No file is opened here; what depends on data is checked by the job.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use serde_json::{Value, json};
use thiserror::Error;

use super::args::CorrArgs;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::Form;
use crate::compute::memory;
use crate::compute::names::{ANALYSES, BIT_ORDERS, Names, POLICIES, SMOOTHINGS, value_of, word_for};
use crate::compute::settings::GB;
use crate::correlate::window::FrameWindow;
use crate::task::bins::SelectionError;
use crate::task::correlate::{
    Analyses, CorrelateSpec, Normalization, Overwrite, PixelG2Output, Recorded, SameResult, check_results,
};

/// An option that cannot be used.
#[derive(Debug, Error)]
pub(in crate::cli) enum OptionError {
    /// No raw file.
    #[error("no raw file: give -r FILE, or the key raw in the configuration file")]
    NoRaw,
    /// No qmap.
    #[error("no qmap: give -q FILE, or the key qmap in the configuration file")]
    NoQmap,
    /// A value out of what the option takes.
    #[error("{option} must be {wanted}, it is {given:?}")]
    Value { option: &'static str, given: String, wanted: &'static str },
    /// Two names of one option that disagree.
    #[error("--num-partial-g2 {partial} and --num-segments {segments} mean the same; give one of them")]
    Parts { partial: u32, segments: u32 },
    /// A path that cannot be told to others.
    #[error("{option} {} is not UTF-8; rename it, since results and JSON documents could not name it", path.display())]
    NotText { option: &'static str, path: PathBuf },
    /// Two of the inputs.
    #[error(transparent)]
    SameResult(#[from] SameResult),
    /// The dq selection.
    #[error(transparent)]
    Selection(#[from] SelectionError),
}

impl CommandError for OptionError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoRaw => Exit::Usage,
            Self::NoQmap => Exit::Qmap,
            Self::Value { .. }
            | Self::Parts { .. }
            | Self::Selection(_)
            | Self::NotText { .. }
            | Self::SameResult(_) => Exit::Input,
        }
    }
}

/// What `speckled corr` is to do.
#[derive(Debug)]
pub(super) struct Plan {
    /// The raw files.
    pub(super) raws: Vec<PathBuf>,
    /// The job of the first raw file.
    pub(super) template: CorrelateSpec,
    /// Where output goes.
    pub(super) form: Form,
    /// Tell about every step.
    pub(super) verbose: bool,
    /// Compute nothing.
    pub(super) dry_run: bool,
    /// Options that were given and have no effect, with the reason.
    pub(super) inert: Vec<&'static str>,
    /// Of Timepix data; kept for `--dry-run` alone.
    timepix: (f64, Option<PathBuf>),
}

impl Plan {
    /// Checks the options and fills in defaults.
    pub(super) fn new(args: CorrArgs) -> Result<Self, OptionError> {
        let template = template(&args)?;
        let inert = inert(&args, template.analyses);
        let form = match (args.json, args.quiet) {
            (true, _) => Form::Json,
            (false, true) => Form::Quiet,
            (false, false) => Form::Human,
        };
        let plan = Self {
            template,
            form,
            verbose: args.verbose,
            dry_run: args.dry_run,
            inert,
            timepix: (args.bin_time_s.unwrap_or(1e-6), args.run_config_path),
            raws: args.raw,
        };
        check_text(&plan)?;
        check_results(&plan.jobs().collect::<Vec<_>>())?;
        Ok(plan)
    }

    /// One job for each raw file.
    pub(super) fn jobs(&self) -> impl Iterator<Item = CorrelateSpec> {
        self.raws.iter().map(|raw| CorrelateSpec { raw: raw.clone(), ..self.template.clone() })
    }

    /// All parameters under boost_corr's names; as a configuration file it asks for the same work.
    pub(super) fn parameters(&self) -> Value {
        let job = &self.template;
        let raw: Vec<_> = self.raws.iter().map(|raw| raw.to_string_lossy()).collect();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        json!({
            "raw": raw,
            "qmap": job.qmap.to_string_lossy(),
            "output": job.output.to_string_lossy(),
            "type": word_for(ANALYSES, job.analyses),
            "smooth": word_for(SMOOTHINGS, job.smoothing),
            "gpu_id": job.recorded.gpu_id,
            "begin_frame": job.window.begin,
            "end_frame": job.window.end,
            "stride_frame": job.window.stride,
            "avg_frame": job.window.avg,
            "normalize_frame": job.normalization == Normalization::FrameMean,
            "dq_selection": job.bins.to_string(),
            "save_G2": job.pixel_g2 == PixelG2Output::Keep,
            "num_partial_g2": job.parts,
            "num_segments": job.parts.max(1),
            "crop_ratio_threshold": job.recorded.crop_ratio_threshold,
            "prefix": job.prefix,
            "suffix": job.suffix,
            "bin_time_s": self.timepix.0,
            "run_config_path": path(&self.timepix.1),
            "max_memory": job.memory.unwrap_or_else(memory::default_limit) as f64 / GB,
            "meta_fname": path(&job.metadata),
            "overwrite": job.overwrite == Overwrite::Replace,
            "saturated": word_for(POLICIES, job.saturated),
            "ftf_bits": word_for(BIT_ORDERS, job.ftf_bits),
            "threads": job.threads,
            "verbose": self.verbose,
        })
    }
}

fn check_text(plan: &Plan) -> Result<(), OptionError> {
    let CorrelateSpec { qmap, output, metadata, .. } = &plan.template;
    let raws = plan.raws.iter().map(|raw| ("--raw", raw));
    let others = [("--qmap", qmap), ("--output", output)].into_iter();
    let mut all = raws.chain(others).chain(metadata.iter().map(|metadata| ("--meta-fname", metadata)));
    match all.find(|(_, path)| path.to_str().is_none()) {
        Some((option, path)) => Err(OptionError::NotText { option, path: path.clone() }),
        None => Ok(()),
    }
}

fn template(args: &CorrArgs) -> Result<CorrelateSpec, OptionError> {
    let raw = args.raw.first().ok_or(OptionError::NoRaw)?.clone();
    let qmap = args.qmap.clone().ok_or(OptionError::NoQmap)?;
    Ok(CorrelateSpec {
        raw,
        qmap,
        output: args.output.clone().unwrap_or_else(|| "cluster_results".into()),
        metadata: args.meta_fname.clone(),
        analyses: choice("--type", args.analysis.as_deref(), ANALYSES, "Multitau, Twotime or Both")?,
        smoothing: choice("--smooth", args.smooth.as_deref(), SMOOTHINGS, "sqmap, dqmap or none")?,
        window: FrameWindow {
            begin: args.begin_frame.unwrap_or(0),
            end: args.end_frame.unwrap_or(-1),
            stride: positive("--stride-frame", args.stride_frame)?.unwrap_or(NonZeroU32::MIN),
            avg: positive("--avg-frame", args.avg_frame)?.unwrap_or(NonZeroU32::MIN),
        },
        normalization: match args.normalize_frame {
            Some(0) => Normalization::None,
            _ => Normalization::FrameMean,
        },
        bins: args.dq_selection.as_deref().unwrap_or("all").parse()?,
        parts: parts(args)?,
        pixel_g2: if args.save_g2 { PixelG2Output::Keep } else { PixelG2Output::Drop },
        saturated: choice("--saturated", args.saturated.as_deref(), POLICIES, "mask, fail or keep")?,
        memory: args.max_memory.map(memory_limit).transpose()?,
        ftf_bits: choice("--ftf-bits", args.ftf_bits.as_deref(), BIT_ORDERS, "little or big")?,
        prefix: name_part("--prefix", args.prefix.as_deref())?,
        suffix: name_part("--suffix", args.suffix.as_deref())?,
        overwrite: if args.overwrite { Overwrite::Replace } else { Overwrite::Number },
        threads: positive("--threads", args.threads)?.and_then(|n| NonZeroUsize::try_from(n).ok()),
        recorded: Recorded {
            gpu_id: gpu_id(args.gpu_id.unwrap_or(-1))?,
            crop_ratio_threshold: ratio(args.crop_ratio_threshold.unwrap_or(1.0))?,
        },
    })
}

fn refused(option: &'static str, given: impl ToString, wanted: &'static str) -> OptionError {
    OptionError::Value { option, given: given.to_string(), wanted }
}

/// The value of a word, or the first of the table when none is given.
fn choice<T: Copy>(
    option: &'static str,
    given: Option<&str>,
    names: &Names<T>,
    wanted: &'static str,
) -> Result<T, OptionError> {
    let word = given.unwrap_or(names[0].0);
    value_of(names, word.trim()).ok_or_else(|| refused(option, word, wanted))
}

fn positive(option: &'static str, given: Option<i64>) -> Result<Option<NonZeroU32>, OptionError> {
    let convert = |n: i64| {
        let n32 = u32::try_from(n).ok().and_then(NonZeroU32::new);
        n32.ok_or_else(|| refused(option, n, "a whole number from 1 to 4294967295"))
    };
    given.map(convert).transpose()
}

/// `-np` and `--num-segments` are one parameter; 1 segment is the whole, as is no part.
fn parts(args: &CorrArgs) -> Result<u32, OptionError> {
    let count = |option, given: Option<i64>| {
        let n = given.unwrap_or(0);
        u32::try_from(n).map_err(|_| refused(option, n, "a whole number from 0 to 4294967295"))
    };
    let partial = count("--num-partial-g2", args.num_partial_g2)?;
    let segments = count("--num-segments", args.num_segments)?;
    match (partial, segments) {
        (2.., 2..) if partial != segments => Err(OptionError::Parts { partial, segments }),
        (_, 2..) => Ok(segments),
        (2.., _) => Ok(partial),
        _ => Ok(0),
    }
}

fn memory_limit(gigabytes: f64) -> Result<u64, OptionError> {
    if gigabytes.is_finite() && gigabytes > 0.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above 0; too much is the most")]
        let bytes = (gigabytes * GB) as u64;
        return Ok(bytes);
    }
    Err(refused("--max-memory", gigabytes, "a number of gigabytes above 0"))
}

fn gpu_id(given: i64) -> Result<i64, OptionError> {
    if given >= -2 { Ok(given) } else { Err(refused("--gpu-id", given, "-1 (CPU), -2 (any) or the number of a GPU")) }
}

fn ratio(given: f64) -> Result<f64, OptionError> {
    if (0.0..=1.0).contains(&given) { Ok(given) } else { Err(refused("--crop-ratio-threshold", given, "0 to 1")) }
}

/// A prefix or suffix; an empty one is none.
fn name_part(option: &'static str, given: Option<&str>) -> Result<Option<String>, OptionError> {
    match given.filter(|part| !part.is_empty()) {
        Some(part) if part.contains(['/', '\0']) => Err(refused(option, part, "a part of a file name, without /")),
        part => Ok(part.map(str::to_owned)),
    }
}

/// What was given in vain.
fn inert(args: &CorrArgs, analyses: Analyses) -> Vec<&'static str> {
    let two_time_only = !analyses.multi_tau();
    let multi_tau_only = !analyses.two_time();
    [
        (args.crop_ratio_threshold.is_some(), "--crop-ratio-threshold: masked-out pixels are never correlated"),
        (args.bin_time_s.is_some(), "--bin-time-s is for Timepix4 data, which are not read"),
        (args.run_config_path.is_some(), "--run-config-path is for Timepix4 data, which are not read"),
        (multi_tau_only && args.smooth.is_some(), "--smooth is for two-time correlation"),
        (multi_tau_only && args.dq_selection.is_some(), "--dq-selection is for two-time correlation"),
        (two_time_only && args.normalize_frame.is_some(), "--normalize-frame is for multi-tau correlation"),
        (two_time_only && args.save_g2, "--save-G2 is for multi-tau correlation"),
        (two_time_only && args.num_partial_g2.is_some(), "--num-partial-g2 is for multi-tau correlation"),
        (two_time_only && args.num_segments.is_some(), "--num-segments is for multi-tau correlation"),
    ]
    .into_iter()
    .filter_map(|(given, reason)| given.then_some(reason))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::twotime::Smoothing;
    use crate::task::bins::BinSelection;

    fn args() -> CorrArgs {
        CorrArgs { raw: vec!["a.bin".into()], qmap: Some("q.hdf".into()), ..CorrArgs::default() }
    }

    fn refusal(args: CorrArgs) -> String {
        Plan::new(args).expect_err("refused").to_string()
    }

    #[test]
    fn defaults_are_boost_corrs() {
        let job = Plan::new(args()).expect("a plan").template;
        assert_eq!((job.analyses, job.smoothing, job.parts), (Analyses::MultiTau, Smoothing::StaticBins, 0));
        assert_eq!((job.window, job.bins), (FrameWindow::default(), BinSelection::All));
        assert_eq!((job.normalization, job.overwrite), (Normalization::FrameMean, Overwrite::Number));
        assert_eq!(job.output, PathBuf::from("cluster_results"));
    }

    #[test]
    fn values_are_checked() {
        let text = |s: &str| Some(s.to_owned());
        for (args, words) in [
            (CorrArgs { analysis: text("Multi"), ..args() }, "--type must be Multitau, Twotime or Both"),
            (CorrArgs { smooth: text("mean"), ..args() }, "--smooth must be sqmap, dqmap or none"),
            (CorrArgs { stride_frame: Some(0), ..args() }, "--stride-frame must be"),
            (CorrArgs { avg_frame: Some(-1), ..args() }, "--avg-frame must be"),
            (CorrArgs { max_memory: Some(0.0), ..args() }, "--max-memory must be"),
            (CorrArgs { max_memory: Some(f64::NAN), ..args() }, "--max-memory must be"),
            (CorrArgs { prefix: text("../x"), ..args() }, "--prefix must be"),
            (CorrArgs { dq_selection: text("x"), ..args() }, "dq selection"),
            (CorrArgs { gpu_id: Some(-3), ..args() }, "--gpu-id must be"),
            (CorrArgs { num_partial_g2: Some(2), num_segments: Some(3), ..args() }, "mean the same"),
            (CorrArgs { qmap: None, ..args() }, "no qmap"),
            (CorrArgs { raw: Vec::new(), ..args() }, "no raw file"),
        ] {
            let error = refusal(args);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn inputs_that_would_have_one_result_are_refused() {
        let raw: Vec<PathBuf> = vec!["d1/sim.bin".into(), "d2/sim.bin".into()];
        let error = refusal(CorrArgs { raw: raw.clone(), overwrite: true, ..args() });
        assert!(error.contains("d1/sim.bin and d2/sim.bin would have the same result"), "{error}");
        assert_eq!(Plan::new(CorrArgs { raw, ..args() }).expect("numbered").jobs().count(), 2);
    }

    #[test]
    fn paths_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff.bin".to_vec()));
        for (args, option) in [
            (CorrArgs { raw: vec!["a.bin".into(), odd()], ..args() }, "--raw"),
            (CorrArgs { qmap: Some(odd()), ..args() }, "--qmap"),
            (CorrArgs { output: Some(odd()), ..args() }, "--output"),
            (CorrArgs { meta_fname: Some(odd()), ..args() }, "--meta-fname"),
        ] {
            let error = refusal(args);
            assert!(error.starts_with(option) && error.contains("is not UTF-8"), "{error}");
        }
    }

    #[test]
    fn parts_have_two_names() {
        let parts = |partial, segments| {
            let args = CorrArgs { num_partial_g2: partial, num_segments: segments, ..args() };
            Plan::new(args).expect("a plan").template.parts
        };
        assert_eq!(parts(Some(5), None), 5);
        assert_eq!(parts(Some(0), Some(3)), 3);
        assert_eq!(parts(Some(5), Some(1)), 5);
        assert_eq!(parts(Some(3), Some(3)), 3);
        assert_eq!(parts(Some(1), Some(1)), 0);
    }

    #[test]
    fn what_has_no_effect_is_known() {
        let plan = Plan::new(CorrArgs { smooth: Some("none".to_owned()), bin_time_s: Some(1.0), ..args() });
        assert_eq!(plan.expect("a plan").inert.len(), 2);
    }
}
