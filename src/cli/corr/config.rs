//! `-c config.json`: boost_corr's options as keys of a JSON object.
//!
//! Checks names and JSON types only; what the values mean is `options`'.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::args::CorrArgs;
use crate::cli::exit::{CommandError, Exit};

/// A configuration file that cannot be used.
#[derive(Debug, Error)]
pub(in crate::cli) enum ConfigError {
    /// Unreadable.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not JSON.
    #[error("the configuration file {} is not JSON", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// JSON that says something wrong.
    #[error("configuration file {}: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

impl CommandError for ConfigError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } | Self::Syntax { .. } | Self::Content { .. } => Exit::Configuration,
        }
    }
}

/// Reads the file's options.
pub(super) fn read(path: &Path) -> Result<CorrArgs, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
    let content = |what| ConfigError::Content { path: path.to_owned(), what };
    match value {
        Value::Object(map) => from_map(&map).map_err(content),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(content("it holds no JSON object of options".to_owned()))
        }
    }
}

/// The keys, as boost_corr names them in its own configuration, and ours.
const KEYS: [&str; 30] = [
    "raw",
    "qmap",
    "output",
    "smooth",
    "gpu_id",
    "normalize_frame",
    "begin_frame",
    "end_frame",
    "stride_frame",
    "avg_frame",
    "type",
    "dq_selection",
    "verbose",
    "save_G2",
    "dry_run",
    "num_partial_g2",
    "num_segments",
    "crop_ratio_threshold",
    "prefix",
    "suffix",
    "bin_time_s",
    "run_config_path",
    "max_memory",
    "meta_fname",
    "overwrite",
    "saturated",
    "ftf_bits",
    "threads",
    "json",
    "quiet",
];

fn from_map(map: &Map<String, Value>) -> Result<CorrArgs, String> {
    let mut args = CorrArgs::default();
    let mut seen = BTreeSet::new();
    for (name, value) in map {
        let key = canonical(name)?;
        if !seen.insert(key) {
            return Err(format!("the option {key} is given twice"));
        }
        if !value.is_null() {
            set(&mut args, key, value)
                .map_err(|wanted| format!("the option {name} must be {wanted}, it is {}", brief(value)))?;
        }
    }
    Ok(args)
}

/// The option that a key names: hyphens and capitals do not matter, as `save_g2` is in use for `save_G2`.
fn canonical(name: &str) -> Result<&'static str, String> {
    let plain = name.replace('-', "_");
    if let Some(key) = KEYS.iter().find(|key| key.eq_ignore_ascii_case(&plain)) {
        return Ok(key);
    }
    let similarity = |key: &str| strsim::jaro_winkler(key, &plain.to_ascii_lowercase());
    let nearest = KEYS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let hint = nearest.map(|key| format!("; did you mean {key}?")).unwrap_or_default();
    Err(format!("unknown option {name:?}{hint}"))
}

/// Stores a value; the error says what kind of value the key takes.
fn set(args: &mut CorrArgs, key: &str, value: &Value) -> Result<(), &'static str> {
    match key {
        "raw" => args.raw = paths(value)?,
        "qmap" => args.qmap = Some(text(value)?.into()),
        "output" => args.output = Some(text(value)?.into()),
        "smooth" => args.smooth = Some(text(value)?),
        "gpu_id" => args.gpu_id = Some(integer(value)?),
        "normalize_frame" => args.normalize_frame = Some(flag(value)?.into()),
        "begin_frame" => args.begin_frame = Some(integer(value)?),
        "end_frame" => args.end_frame = Some(integer(value)?),
        "stride_frame" => args.stride_frame = Some(integer(value)?),
        "avg_frame" => args.avg_frame = Some(integer(value)?),
        "type" => args.analysis = Some(text(value)?),
        "dq_selection" => args.dq_selection = Some(selection(value)?),
        "verbose" => args.verbose = flag(value)?,
        "save_G2" => args.save_g2 = flag(value)?,
        "dry_run" => args.dry_run = flag(value)?,
        "num_partial_g2" => args.num_partial_g2 = Some(integer(value)?),
        "num_segments" => args.num_segments = Some(integer(value)?),
        "crop_ratio_threshold" => args.crop_ratio_threshold = Some(number(value)?),
        "prefix" => args.prefix = Some(text(value)?),
        "suffix" => args.suffix = Some(text(value)?),
        "bin_time_s" => args.bin_time_s = Some(number(value)?),
        "run_config_path" => args.run_config_path = Some(text(value)?.into()),
        "max_memory" => args.max_memory = Some(number(value)?),
        "meta_fname" => args.meta_fname = Some(text(value)?.into()),
        "overwrite" => args.overwrite = flag(value)?,
        "saturated" => args.saturated = Some(text(value)?),
        "ftf_bits" => args.ftf_bits = Some(text(value)?),
        "threads" => args.threads = Some(integer(value)?),
        "json" => args.json = flag(value)?,
        "quiet" => args.quiet = flag(value)?,
        _ => return Err("an option of this program"),
    }
    Ok(())
}

fn text(value: &Value) -> Result<String, &'static str> {
    value.as_str().map(str::to_owned).ok_or("a string")
}

fn integer(value: &Value) -> Result<i64, &'static str> {
    value.as_i64().ok_or("an integer")
}

fn number(value: &Value) -> Result<f64, &'static str> {
    value.as_f64().ok_or("a number")
}

fn flag(value: &Value) -> Result<bool, &'static str> {
    match (value.as_bool(), value.as_i64()) {
        (Some(on), _) => Ok(on),
        (None, Some(0)) => Ok(false),
        (None, Some(1)) => Ok(true),
        _ => Err("true or false"),
    }
}

fn paths(value: &Value) -> Result<Vec<PathBuf>, &'static str> {
    const WANTED: &str = "a string or a list of strings";
    if let Some(one) = value.as_str() {
        return Ok(vec![one.into()]);
    }
    let list = value.as_array().ok_or(WANTED)?;
    list.iter().map(|item| item.as_str().map(PathBuf::from).ok_or(WANTED)).collect()
}

/// `"1,2,5-7"` or `[1, 2, 5]`.
fn selection(value: &Value) -> Result<String, &'static str> {
    const WANTED: &str = "a string such as \"1,2,5-7\" or a list of integers";
    if let Some(list) = value.as_array() {
        let labels: Option<Vec<String>> =
            list.iter().map(|item| item.as_i64().map(|label| label.to_string())).collect();
        return Ok(labels.ok_or(WANTED)?.join(","));
    }
    value.as_str().map(str::to_owned).ok_or(WANTED)
}

/// A value in an error message, cut short.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 40;
    let full = value.to_string();
    if full.chars().count() <= LONGEST { full } else { full.chars().take(LONGEST).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(json: &str) -> Result<CorrArgs, String> {
        from_map(serde_json::from_str::<Value>(json).expect("JSON").as_object().expect("object"))
    }

    #[test]
    fn every_key_is_known_to_set() {
        for key in KEYS {
            let wanted =
                set(&mut CorrArgs::default(), key, &Value::Object(Map::new())).expect_err("an object fits none");
            assert_ne!(wanted, "an option of this program", "{key}");
        }
    }

    #[test]
    fn values_of_each_kind() {
        let args = parsed(
            r#"{"raw": ["a", "b"], "qmap": "q", "normalize_frame": false, "begin_frame": -10, "save_g2": true,
                "dq-selection": [1, 2, 5], "max_memory": 4, "prefix": null, "type": "Both", "meta_fname": "m"}"#,
        );
        let wanted = CorrArgs {
            raw: vec!["a".into(), "b".into()],
            qmap: Some("q".into()),
            normalize_frame: Some(0),
            begin_frame: Some(-10),
            save_g2: true,
            dq_selection: Some("1,2,5".to_owned()),
            max_memory: Some(4.0),
            analysis: Some("Both".to_owned()),
            meta_fname: Some("m".into()),
            ..CorrArgs::default()
        };
        assert_eq!(args, Ok(wanted));
        assert_eq!(parsed(r#"{"raw": "a"}"#).expect("options").raw, [PathBuf::from("a")]);
    }

    #[test]
    fn mistakes_are_named() {
        for (json, words) in [
            (r#"{"begin_fram": 1}"#, ["begin_fram", "did you mean begin_frame?"]),
            (r#"{"qmpa": "x"}"#, ["qmpa", "did you mean qmap?"]),
            (r#"{"begin_frame": "1"}"#, ["begin_frame", "an integer"]),
            (r#"{"avg_frame": 1.5}"#, ["avg_frame", "an integer"]),
            (r#"{"normalize_frame": 2}"#, ["normalize_frame", "true or false"]),
            (r#"{"raw": [1]}"#, ["raw", "a list of strings"]),
            (r#"{"save_G2": true, "save_g2": true}"#, ["save_G2", "twice"]),
        ] {
            let error = parsed(json).expect_err(json);
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_object_is_read_or_refused(key in "[a-zA-Z0-9_\\-]{0,12}", text in ".*") {
            let map = Map::from_iter([(key.clone(), Value::String(text))]);
            if let Err(error) = from_map(&map) {
                prop_assert!(error.contains(&key));
            }
        }
    }
}
