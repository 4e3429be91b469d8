//! `speckled info`: what a raw, qmap, metadata or result file holds, as text or JSON.
//!
//! Reads headers and, of event files, the first block; never a whole dataset.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure};
use super::output;
use crate::dataset::Opener;
use crate::dataset::describe::describe;
use crate::dataset::open::{OpenHint, open_raw};
use crate::dataset::qmap::{Qmap, check_shape};
use crate::dataset::{DatasetError, EventSource, FrameSource, Scratch, Source, stitch};
use crate::task::correlate::BitOrder;

/// Options of `info`.
#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// The file
    file: PathBuf,

    /// A qmap that raw data are held against; it tells the image shape of event files
    #[arg(short, long, value_name = "QMAP_FILENAME")]
    qmap: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Facts in the order in which people read them.
type Facts = Vec<(Cow<'static, str>, Value)>;

/// Those of raw data.
type RawFacts = Vec<(&'static str, Value)>;

/// Runs the command.
pub(super) fn run(args: &InfoArgs) -> Result<Exit, Failure> {
    let facts = facts(args)?;
    if args.json {
        let document: Map<String, Value> = facts.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        output::json(&document.into())?;
    } else {
        let shown = facts.iter().filter(|(_, value)| !value.is_null());
        let lines: Vec<_> =
            shown.map(|(name, value)| format!("{}: {}", name.replace('_', " "), words(value))).collect();
        output::stdout(lines.join("\n"))?;
    }
    Ok(Exit::Success)
}

/// A file of none of the kinds that tell themselves is a raw file, or the raw reader says what is wrong with it.
fn facts(args: &InfoArgs) -> Result<Facts, DatasetError> {
    let opener = Opener::anywhere().reading_apart();
    match describe(&opener, &args.file) {
        Ok(description) => {
            let kind = ("kind".into(), description.kind.name().into());
            Ok(std::iter::once(kind).chain(description.fields).collect())
        }
        Err(DatasetError::Unsupported { .. }) => {
            let facts = raw_facts(&opener, &args.file, args.qmap.as_deref())?;
            Ok(facts.into_iter().map(|(name, value)| (name.into(), value)).collect())
        }
        Err(error) => Err(error),
    }
}

fn raw_facts(opener: &Opener, path: &Path, qmap: Option<&Path>) -> Result<RawFacts, DatasetError> {
    let qmap = qmap.map(|qmap| Qmap::read(opener, qmap)).transpose()?;
    // Without a qmap an event file is taken for what most are, one module.
    let shape = qmap.as_ref().map_or(stitch::MODULE, |qmap| qmap.labels.shape);
    let source = open_raw(opener, path, &OpenHint { shape: Some(shape), ftf_bits: BitOrder::default() })?;
    let info = source.info();
    if let Some(qmap) = &qmap {
        check_shape(qmap, info)?;
    }
    let files: Vec<_> = info.files.iter().map(|file| file.to_string_lossy()).collect();
    let mut facts = vec![
        ("kind", Value::from("raw data")),
        ("format", info.format.clone().into()),
        ("files", json!(files)),
        ("bytes", info.bytes.into()),
        ("shape", info.shape.to_string().into()),
        ("frames", info.frames.into()),
    ];
    match &source {
        Source::Events(events) => facts.extend(event_facts(events.as_ref())?),
        Source::Frames(frames) => facts.extend(frame_facts(frames.as_ref())),
    }
    Ok(facts)
}

fn event_facts(source: &dyn EventSource) -> Result<RawFacts, DatasetError> {
    let mut block = Vec::new();
    if source.blocks() > 0 {
        source.read_block(0, &mut Scratch::default(), &mut block)?;
    }
    let counts: u64 = block.iter().map(|event| u64::from(event.count())).sum();
    Ok(vec![
        ("events", source.events_bound().into()),
        ("first_block_events", block.len().into()),
        ("first_block_counts", counts.into()),
        ("first_block_largest_count", json!(block.iter().map(|event| event.count()).max())),
        ("first_block_last_frame", json!(block.iter().map(|event| event.frame()).max())),
    ])
}

fn frame_facts(source: &dyn FrameSource) -> RawFacts {
    vec![
        ("pixel_bytes", source.pixel_type().size().into()),
        ("frames_per_chunk", source.frames_per_chunk().into()),
        ("largest_value_marks_saturation", source.marks_saturation().into()),
    ]
}

/// A value without JSON's quotes and brackets; an object as indented lines.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map.iter().map(|(name, value)| format!("\n  {name}: {}", words(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
