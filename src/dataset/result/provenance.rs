//! `/xpcs/provenance`: who made a result, of what, with what warnings.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::store::Store;
use crate::correlate::bins::Shape;
use crate::correlate::result::SaturatedPixel;
use crate::dataset::{DatasetError, SourceInfo};

/// What only the caller knows about the making of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Version of the program.
    pub version: String,
    /// `cpu` or `cuda`.
    pub engine: String,
    /// The processor or device in words.
    pub device: String,
    /// Name of the computer.
    pub host: String,
    /// When the work began.
    pub started: SystemTime,
    /// How long it took.
    pub wall_time: Duration,
    /// The raw dataset.
    pub source: SourceInfo,
    /// Warnings of the run, as the user saw them.
    pub warnings: Vec<String>,
}

/// This computer's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// An input file as it was when the result was begun.
#[derive(Debug, Clone)]
pub(super) struct InputFile {
    /// Its path.
    pub(super) path: PathBuf,
    /// Its size.
    pub(super) bytes: u64,
}

/// The inputs that the writer itself has read.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    /// Metadata file.
    pub(super) metadata: InputFile,
    /// Qmap file.
    pub(super) qmap: InputFile,
    /// Hexadecimal SHA-256 of the qmap file.
    pub(super) qmap_sha256: String,
}

/// Writes `/xpcs/rawdata_path` and `/xpcs/provenance`.
pub(super) fn write(
    store: &Store,
    provenance: &Provenance,
    inputs: &Inputs,
    warnings: &[String],
    saturated: &[SaturatedPixel],
    shape: Shape,
) -> Result<(), DatasetError> {
    let source = &provenance.source;
    let files: Vec<String> = source.files.iter().map(|path| path.display().to_string()).collect();
    store.text("/xpcs/rawdata_path", files.first().map_or("", String::as_str))?;
    let text = |name: &str, value: &str| store.text(&object(name), value);
    let int = |name: &str, value: u64| store.scalar(&object(name), &(value as i64));
    text("program", env!("CARGO_PKG_NAME"))?;
    text("version", &provenance.version)?;
    text("engine", &provenance.engine)?;
    text("device", &provenance.device)?;
    text("host", &provenance.host)?;
    text("start_time", &utc(provenance.started))?;
    store.scalar(&object("wall_time_s"), &provenance.wall_time.as_secs_f64())?;
    text("raw_format", &source.format)?;
    store.texts(&object("raw_files"), &files)?;
    int("raw_bytes", source.bytes)?;
    int("raw_frames", source.frames)?;
    text("metadata_file", &inputs.metadata.path.display().to_string())?;
    int("metadata_bytes", inputs.metadata.bytes)?;
    text("qmap_file", &inputs.qmap.path.display().to_string())?;
    int("qmap_bytes", inputs.qmap.bytes)?;
    text("qmap_sha256", &inputs.qmap_sha256)?;
    let all: Vec<String> = provenance.warnings.iter().chain(warnings).cloned().collect();
    store.texts(&object("warnings"), &all)?;
    let places: Vec<i32> =
        saturated.iter().map(|s| shape.place(s.pixel)).flat_map(|(row, col)| [row as i32, col as i32]).collect();
    store.array(&object("saturated_pixels"), &[saturated.len(), 2], &places)?;
    let frames: Vec<i64> = saturated.iter().map(|s| s.frame as i64).collect();
    store.array(&object("saturated_frames"), &[saturated.len()], &frames)
}

fn object(name: &str) -> String {
    format!("/xpcs/provenance/{name}")
}

/// `2026-11-22T10:15:00Z`. A clock before 1970 reads as 1970.
fn utc(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let (days, of_day) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Gregorian year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (seconds, words) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), words);
        }
    }
}
