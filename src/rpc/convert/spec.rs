//! What a task is to do.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::{WireError, known, named, optional, required};
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::rpc::wire;
use crate::task::bins::BinSelection;
use crate::task::correlate::{
    Analyses, BitOrder, CorrelateSpec, Normalization, Overwrite, PixelG2Output, Recorded, SaturatedPolicy,
};
use crate::task::spec::{BatchSetupSpec, CommandSpec, TaskSpec};
use crate::task::time::whole_millis;

/// Bytes of a path: Linux takes no longer ones.
const LONGEST_PATH: usize = 4096;

/// Directories of one batch setup; a batch of more is several tasks.
const MOST_DIRECTORIES: usize = 10_000;

/// Values of one command.
const MOST_VALUES: usize = 256;

/// Bytes of a command's value: the kernel's limit for one argument is 128 KiB.
const LONGEST_VALUE: usize = 64 << 10;

impl TryFrom<wire::TaskSpec> for TaskSpec {
    type Error = WireError;

    fn try_from(spec: wire::TaskSpec) -> Result<Self, WireError> {
        use wire::task_spec::Kind;
        let wire::TaskSpec { kind } = spec;
        match required("kind", kind)? {
            Kind::Correlate(spec) => {
                let spec = CorrelateSpec::try_from(spec).map_err(|error| error.within("correlate"))?;
                Ok(Self::Correlate(Box::new(spec)))
            }
            Kind::BatchSetup(spec) => batch_setup(spec).map_err(|error| error.within("batch_setup")),
            Kind::Command(spec) => command(spec).map_err(|error| error.within("command")),
            Kind::Nothing(wire::NothingSpec {}) => Ok(Self::Nothing),
        }
    }
}

impl From<TaskSpec> for wire::TaskSpec {
    fn from(spec: TaskSpec) -> Self {
        use wire::task_spec::Kind;
        let kind = match spec {
            TaskSpec::Correlate(spec) => Kind::Correlate((*spec).into()),
            TaskSpec::BatchSetup(BatchSetupSpec { directories }) => {
                Kind::BatchSetup(wire::BatchSetupSpec { directories: directories.into_iter().map(path_text).collect() })
            }
            TaskSpec::Command(CommandSpec { template, values, time_limit }) => Kind::Command(wire::CommandSpec {
                template: template.into(),
                values: values.into_iter().collect(),
                time_limit_ms: time_limit.map_or(0, whole_millis),
            }),
            TaskSpec::Nothing => Kind::Nothing(wire::NothingSpec {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::CorrelateSpec> for CorrelateSpec {
    type Error = WireError;

    fn try_from(spec: wire::CorrelateSpec) -> Result<Self, WireError> {
        let wire::CorrelateSpec {
            raw,
            qmap,
            output,
            metadata,
            analyses,
            smoothing,
            window,
            normalization,
            bins,
            parts,
            pixel_g2,
            saturated,
            memory,
            ftf_bits,
            prefix,
            suffix,
            overwrite,
            threads,
            gpu,
            crop_ratio_threshold,
        } = spec;
        if !(crop_ratio_threshold.is_finite() && crop_ratio_threshold >= 0.0) {
            return Err(WireError::new("crop_ratio_threshold", "is not a ratio"));
        }
        Ok(Self {
            raw: checked_path("raw", raw)?,
            qmap: checked_path("qmap", qmap)?,
            output: checked_path("output", output)?,
            metadata: if metadata.is_empty() { None } else { Some(checked_path("metadata", metadata)?) },
            analyses: known::<wire::Analyses>("analyses", analyses)?.into(),
            smoothing: known::<wire::Smoothing>("smoothing", smoothing)?.into(),
            window: window.map_or_else(FrameWindow::default, Into::into),
            normalization: known::<wire::Normalization>("normalization", normalization)?.into(),
            bins: optional::<BinSelection>("bins", bins)?.unwrap_or_default(),
            parts,
            pixel_g2: if pixel_g2 { PixelG2Output::Keep } else { PixelG2Output::Drop },
            saturated: known::<wire::SaturatedPolicy>("saturated", saturated)?.into(),
            memory: (memory > 0).then_some(memory),
            ftf_bits: known::<wire::BitOrder>("ftf_bits", ftf_bits)?.into(),
            prefix: name_part("prefix", prefix)?,
            suffix: name_part("suffix", suffix)?,
            overwrite: known::<wire::Overwrite>("overwrite", overwrite)?.into(),
            threads: NonZeroUsize::new(threads as usize),
            recorded: Recorded {
                gpu_id: gpu,
                crop_ratio_threshold: if crop_ratio_threshold > 0.0 { crop_ratio_threshold } else { 1.0 },
            },
        })
    }
}

impl From<CorrelateSpec> for wire::CorrelateSpec {
    fn from(spec: CorrelateSpec) -> Self {
        let CorrelateSpec {
            raw,
            qmap,
            output,
            metadata,
            analyses,
            smoothing,
            window,
            normalization,
            bins,
            parts,
            pixel_g2,
            saturated,
            memory,
            ftf_bits,
            prefix,
            suffix,
            overwrite,
            threads,
            recorded: Recorded { gpu_id, crop_ratio_threshold },
        } = spec;
        Self {
            raw: path_text(raw),
            qmap: path_text(qmap),
            output: path_text(output),
            metadata: metadata.map(path_text).unwrap_or_default(),
            analyses: wire::Analyses::from(analyses).into(),
            smoothing: wire::Smoothing::from(smoothing).into(),
            window: Some(window.into()),
            normalization: wire::Normalization::from(normalization).into(),
            bins: bins.into(),
            parts,
            pixel_g2: pixel_g2 == PixelG2Output::Keep,
            saturated: wire::SaturatedPolicy::from(saturated).into(),
            memory: memory.unwrap_or(0),
            ftf_bits: wire::BitOrder::from(ftf_bits).into(),
            prefix: prefix.unwrap_or_default(),
            suffix: suffix.unwrap_or_default(),
            overwrite: wire::Overwrite::from(overwrite).into(),
            threads: threads.map_or(0, |threads| u32::try_from(threads.get()).unwrap_or(u32::MAX)),
            gpu: gpu_id,
            crop_ratio_threshold,
        }
    }
}

impl From<wire::FrameWindow> for FrameWindow {
    fn from(window: wire::FrameWindow) -> Self {
        let wire::FrameWindow { begin, end, stride, avg } = window;
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { begin, end, stride: at_least_one(stride), avg: at_least_one(avg) }
    }
}

impl From<FrameWindow> for wire::FrameWindow {
    fn from(window: FrameWindow) -> Self {
        let FrameWindow { begin, end, stride, avg } = window;
        Self { begin, end, stride: stride.get(), avg: avg.get() }
    }
}

/// Both directions between an enumeration of ours and the wire's, whose unspecified value means our default.
macro_rules! both_ways {
    ($($type:ident { $($value:ident),+ })+) => {$(
        impl From<wire::$type> for $type {
            fn from(value: wire::$type) -> Self {
                match value {
                    wire::$type::Unspecified => Self::default(),
                    $(wire::$type::$value => Self::$value,)+
                }
            }
        }

        impl From<$type> for wire::$type {
            fn from(value: $type) -> Self {
                match value {
                    $($type::$value => Self::$value,)+
                }
            }
        }
    )+};
}

both_ways! {
    Analyses { MultiTau, TwoTime, Both }
    Smoothing { StaticBins, DynamicBins, None }
    Normalization { FrameMean, None }
    SaturatedPolicy { Mask, Fail, Keep }
    BitOrder { LittlePairs, BigPairs }
    Overwrite { Number, Replace }
}

fn batch_setup(spec: wire::BatchSetupSpec) -> Result<TaskSpec, WireError> {
    let wire::BatchSetupSpec { directories } = spec;
    if directories.len() > MOST_DIRECTORIES {
        let reason = format!("{} directories; at most {MOST_DIRECTORIES} are allowed", directories.len());
        return Err(WireError::new("directories", reason));
    }
    let directories =
        directories.into_iter().map(|text| checked_path("directories", text)).collect::<Result<_, _>>()?;
    Ok(TaskSpec::BatchSetup(BatchSetupSpec { directories }))
}

fn command(spec: wire::CommandSpec) -> Result<TaskSpec, WireError> {
    let wire::CommandSpec { template, values, time_limit_ms } = spec;
    if values.len() > MOST_VALUES {
        return Err(WireError::new("values", format!("{} values; at most {MOST_VALUES} are allowed", values.len())));
    }
    for (name, value) in &values {
        if value.len() > LONGEST_VALUE || value.contains('\0') {
            let reason = format!("the value of {name:?} is too long or has a NUL byte");
            return Err(WireError::new("values", reason));
        }
    }
    Ok(TaskSpec::Command(CommandSpec {
        template: named("template", template)?,
        values: values.into_iter().collect(),
        time_limit: (time_limit_ms > 0).then(|| Duration::from_millis(time_limit_ms)),
    }))
}

/// A path as it was asked for; an endpoint holds it against its roots before it uses it.
pub(super) fn checked_path(place: &str, text: String) -> Result<PathBuf, WireError> {
    match text {
        text if text.is_empty() => Err(WireError::new(place, "is missing")),
        text if text.len() > LONGEST_PATH => Err(WireError::new(place, "is longer than a path can be")),
        text if text.contains('\0') => Err(WireError::new(place, "has a NUL byte")),
        text => Ok(text.into()),
    }
}

/// Part of a file name.
fn name_part(place: &str, text: String) -> Result<Option<String>, WireError> {
    // 100 leaves room for the dataset's own name in the 255 bytes of a file name
    match text {
        text if text.is_empty() => Ok(None),
        text if text.len() > 100 || text.contains(['/', '\0']) || text.contains(char::is_control) => {
            Err(WireError::new(place, "is not part of a file name: at most 100 bytes, no '/'"))
        }
        text => Ok(Some(text)),
    }
}

/// The wire's text of a path. Paths come from the wire or from its clients' arguments; another one's odd bytes show
/// as the replacement character, and the file is then not found.
pub(super) fn path_text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec() -> impl Strategy<Value = CorrelateSpec> {
        let paths = ("[a-z/.]{1,20}", "[a-z/.]{1,20}", "[a-z/.]{1,20}", prop::option::of("[a-z/.]{1,20}"));
        let words = (
            prop_oneof![Just(Analyses::MultiTau), Just(Analyses::TwoTime), Just(Analyses::Both)],
            prop_oneof![Just(Smoothing::StaticBins), Just(Smoothing::DynamicBins), Just(Smoothing::None)],
            prop_oneof![Just(Normalization::FrameMean), Just(Normalization::None)],
            prop_oneof![Just(SaturatedPolicy::Mask), Just(SaturatedPolicy::Fail), Just(SaturatedPolicy::Keep)],
            prop_oneof![Just(BitOrder::LittlePairs), Just(BitOrder::BigPairs)],
            prop_oneof![Just(Overwrite::Number), Just(Overwrite::Replace)],
            prop_oneof![Just(PixelG2Output::Keep), Just(PixelG2Output::Drop)],
        );
        let numbers = (any::<i64>(), any::<i64>(), 1u32.., 1u32.., any::<u32>(), 0u32..99, -2i64..8);
        let memory = prop::option::of(1u64..);
        (paths, words, numbers, memory, prop::option::of("[a-z_]{1,9}")).prop_map(
            |((raw, qmap, output, metadata), words, numbers, memory, prefix)| CorrelateSpec {
                metadata: metadata.map(PathBuf::from),
                analyses: words.0,
                smoothing: words.1,
                window: FrameWindow {
                    begin: numbers.0,
                    end: numbers.1,
                    stride: NonZeroU32::new(numbers.2).expect("from 1"),
                    avg: NonZeroU32::new(numbers.3).expect("from 1"),
                },
                normalization: words.2,
                bins: "1-4,7".parse().expect("bins"),
                parts: numbers.4,
                pixel_g2: words.6,
                saturated: words.3,
                memory,
                ftf_bits: words.4,
                suffix: prefix.clone(),
                prefix,
                overwrite: words.5,
                threads: NonZeroUsize::new(numbers.5 as usize),
                recorded: Recorded { gpu_id: numbers.6, crop_ratio_threshold: 0.75 },
                ..CorrelateSpec::new(raw, qmap, output)
            },
        )
    }

    proptest! {
        #[test]
        fn a_spec_survives_the_wire(spec in spec()) {
            let task = TaskSpec::Correlate(Box::new(spec));
            prop_assert_eq!(TaskSpec::try_from(wire::TaskSpec::from(task.clone())).expect("our own"), task);
        }
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let spec = wire::CorrelateSpec {
            raw: "a.bin".into(),
            qmap: "q.hdf".into(),
            output: "out".into(),
            gpu: -1,
            ..Default::default()
        };
        assert_eq!(CorrelateSpec::try_from(spec).expect("a spec"), CorrelateSpec::new("a.bin", "q.hdf", "out"));
    }

    #[test]
    fn errors_name_the_place() {
        let good =
            || wire::CorrelateSpec { raw: "a".into(), qmap: "q".into(), output: "o".into(), ..Default::default() };
        for (bad, place) in [
            (wire::CorrelateSpec { raw: String::new(), ..good() }, "correlate.raw: is missing"),
            (wire::CorrelateSpec { qmap: "a\0b".into(), ..good() }, "correlate.qmap: has a NUL byte"),
            (wire::CorrelateSpec { output: "o".repeat(5000), ..good() }, "correlate.output: is longer"),
            (wire::CorrelateSpec { smoothing: 77, ..good() }, "correlate.smoothing: 77 is not a value"),
            (wire::CorrelateSpec { bins: "7-5".into(), ..good() }, "correlate.bins: dq selection"),
            (wire::CorrelateSpec { prefix: "../x".into(), ..good() }, "correlate.prefix: is not part"),
            (wire::CorrelateSpec { crop_ratio_threshold: f64::NAN, ..good() }, "correlate.crop_ratio_threshold"),
        ] {
            let kind = wire::task_spec::Kind::Correlate(bad);
            let error = TaskSpec::try_from(wire::TaskSpec { kind: Some(kind) }).expect_err(place).to_string();
            assert!(error.starts_with(place), "{error}");
        }
        let error = TaskSpec::try_from(wire::TaskSpec { kind: None }).expect_err("nothing to do").to_string();
        assert_eq!(error, "kind: is missing");
    }
}
