//! Input that cannot be used: exit code by kind, one line that names the file, nothing left in the output directory.

use std::fs;
use std::path::Path;

use speckled::correlate::bins::{Labels, Shape};

use crate::common::{Measurement, command, counts, finish, labels, write_frames, write_qmap};

const SMALL: Shape = Shape { rows: 6, cols: 8 };
const MODULE: Shape = Shape { rows: 512, cols: 1024 };

fn small() -> Measurement {
    Measurement::hdf5(&counts(30, SMALL.pixels(), 9), labels(SMALL, 3))
}

/// Asserts that `corr` fails as it should, naming `file`.
#[track_caller]
fn refused(measurement: &Measurement, options: &[&str], code: i32, file: &str) -> String {
    let run = measurement.corr(options);
    let line = run.error(code);
    assert!(line.contains(file), "{line}");
    assert_eq!(run.stdout, "");
    assert_eq!(measurement.leftovers(), [""; 0]);
    line.to_owned()
}

/// Lengths to cut a file to: its start, its end, and places between.
fn boundaries(path: &Path) -> Vec<u64> {
    let length = fs::metadata(path).expect("a file").len();
    let mut cuts =
        vec![0, 1, 7, 8, 47, 48, 95, 96, 511, 512, 1024, 2048, length / 3, length / 2, length - 8, length - 1];
    cuts.retain(|&cut| cut < length);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

fn cut(path: &Path, whole: &[u8], length: u64) {
    fs::write(path, &whole[..length as usize]).expect("written");
}

#[test]
fn a_truncated_hdf5_file_is_refused_wherever_it_ends() {
    let measurement = small();
    let whole = fs::read(&measurement.raw).expect("read");
    for length in boundaries(&measurement.raw) {
        cut(&measurement.raw, &whole, length);
        refused(&measurement, &[], 73, "A0001_r00001.h5");
    }
}

#[test]
fn a_truncated_qmap_is_refused_wherever_it_ends() {
    let measurement = small();
    let whole = fs::read(&measurement.qmap).expect("read");
    for length in boundaries(&measurement.qmap) {
        cut(&measurement.qmap, &whole, length);
        refused(&measurement, &[], 72, "qmap.h5");
    }
}

/// A file of variable-length texts, one of which has a size that brings the HDF5 library round to where it was.
fn damage_texts(path: &Path, text: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    let object = [&(text.len() as u64).to_le_bytes(), text].concat();
    let places: Vec<_> = bytes.windows(object.len()).enumerate().filter(|(_, window)| *window == object).collect();
    let place = places.first().expect("the text with its length").0;
    // With its header of 16 bytes the text's place is followed by itself.
    bytes[place..place + 8].copy_from_slice(&(u64::MAX - 15).to_le_bytes());
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_qmap_or_metadata_that_the_library_never_ends_with_are_refused() {
    let told = |measurement: &Measurement, code: i32, file: &str| {
        let mut command = command(measurement.args(&[]));
        command.env("SPECKLED_INPUT_LIMIT_S", "1");
        let run = finish(command);
        let line = run.error(code);
        assert!(line.contains(file) && line.contains("1 s of computing; the file is damaged"), "{line}");
        assert_eq!((run.stdout.as_str(), measurement.leftovers()), ("", vec![]));
    };
    let measurement = small();
    damage_texts(&measurement.qmap, b"phi");
    told(&measurement, 72, "qmap.h5");
    let measurement = small();
    damage_texts(&measurement.metadata, b"2026-02-03 04:05:06");
    told(&measurement, 73, "A0001_r00001");
}

/// What only shows when the qmap is copied into the result is the qmap's fault all the same.
#[test]
fn a_qmap_that_cannot_be_copied_is_refused() {
    let measurement = small();
    let mut bytes = fs::read(&measurement.qmap).expect("read");
    let place = bytes.windows(4).position(|window| window == b"GCOL").expect("texts");
    bytes[place] = b'X';
    fs::write(&measurement.qmap, bytes).expect("written");
    refused(&measurement, &[], 72, "qmap.h5");
}

#[test]
fn truncated_metadata_are_refused_wherever_they_end() {
    let measurement = small();
    let whole = fs::read(&measurement.metadata).expect("read");
    for length in boundaries(&measurement.metadata) {
        cut(&measurement.metadata, &whole, length);
        refused(&measurement, &[], 73, "A0001_r00001_metadata.hdf");
    }
}

#[test]
fn a_truncated_event_is_refused() {
    let events: Vec<_> = (0..100).map(|frame| (frame, 5 * 1024 + frame, 1)).collect();
    let measurement = Measurement::rigaku(&events, labels(MODULE, 2));
    let whole = fs::read(&measurement.raw).expect("read");
    for length in [0, 1, 7, 9, 400, 797, 799].into_iter().filter(|length| length % 8 != 0 || *length == 0) {
        cut(&measurement.raw, &whole, length);
        refused(&measurement, &[], 73, "A0001_r00001.bin");
    }
}

#[test]
fn events_out_of_range_or_order_are_refused() {
    for events in [[(0, 512 * 1024, 1), (9, 3, 1)], [(9, 5000, 1), (0, 5000, 1)]] {
        let measurement = Measurement::rigaku(&events, labels(MODULE, 2));
        refused(&measurement, &[], 73, "A0001_r00001.bin");
    }
}

#[test]
fn a_missing_module_is_named() {
    let canvas = Shape { rows: 1676, cols: 2100 };
    let measurement = Measurement::empty("A0001_r00001.bin.000", labels(canvas, 2));
    for module in [0, 1, 2, 4, 5] {
        let path = measurement.dir.path().join(format!("A0001_r00001.bin.00{module}"));
        fs::write(path, (5000u64 << 16 | 1).to_le_bytes()).expect("written");
    }
    refused(&measurement, &[], 73, "A0001_r00001.bin.003");
}

#[test]
fn files_that_are_not_there_are_named() {
    for (code, file) in [(73, "A0001_r00001.h5"), (72, "qmap.h5"), (73, "_metadata.hdf")] {
        let measurement = small();
        let path = fs::read_dir(measurement.dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| path.to_string_lossy().ends_with(file))
            .expect("a file of that name");
        fs::remove_file(path).expect("removed");
        refused(&measurement, &[], code, if code == 72 { "qmap.h5" } else { "" });
    }
}

#[test]
fn an_unknown_format_is_named() {
    let mut measurement = small();
    measurement.raw = measurement.dir.path().join("A0001_r00001.tpx");
    fs::write(&measurement.raw, [7; 100]).expect("written");
    refused(&measurement, &[], 73, "A0001_r00001.tpx");
}

#[test]
fn a_qmap_of_another_shape_is_refused_with_both_shapes() {
    for shape in [Shape { rows: 8, cols: 6 }, Shape { rows: 6, cols: 9 }] {
        let measurement = small();
        write_qmap(&measurement.qmap, &labels(shape, 2));
        let line = refused(&measurement, &[], 72, "qmap.h5");
        assert!(line.contains("6 x 8") && line.contains(&shape.to_string()), "{line}");
    }
}

#[test]
fn labels_that_cannot_be_are_refused() {
    let with = |change: fn(&mut Labels)| {
        let mut labels = labels(SMALL, 3);
        change(&mut labels);
        Measurement::hdf5(&counts(30, SMALL.pixels(), 9), labels)
    };
    refused(&with(|labels| labels.mask.fill(false)), &[], 72, "qmap");
    refused(&with(|labels| labels.dynamic_labels.fill(0)), &[], 72, "");
    refused(&with(|labels| labels.static_labels[20] = 4_000_000_000), &[], 72, "");
    refused(&with(|labels| labels.dynamic_labels[20] = 4_000_000_000), &["-t", "Both"], 72, "");
}

#[test]
fn selections_are_held_against_the_qmap() {
    let mut labels = labels(SMALL, 3);
    for (label, mask) in std::iter::zip(&labels.dynamic_labels, &mut labels.mask) {
        *mask &= *label != 2;
    }
    let measurement = Measurement::hdf5(&counts(30, SMALL.pixels(), 9), labels);
    let line = refused(&measurement, &["-t", "Twotime", "-d", "1,4-6"], 65, "qmap.h5");
    assert!(line.contains("1 to 3"), "{line}");
    refused(&measurement, &["-t", "Twotime", "-d", "1-3"], 65, "qmap.h5");
    let run = measurement.corr(&["-t", "Twotime"]);
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("dynamic bins 2 "), "{}", run.stderr);
    run.result();
}

#[test]
fn windows_without_frames_are_refused() {
    let measurement = small();
    for options in [["-b", "30"], ["-b", "5"], ["-a", "31"], ["-f", "40"]] {
        let end: &[&str] = if options == ["-b", "5"] { &["-e", "5"] } else { &[] };
        refused(&measurement, &[&options, end].concat(), 65, "A0001_r00001.h5");
    }
    refused(&measurement, &["-np", "16"], 65, "A0001_r00001.h5");
}

#[test]
fn not_a_number_is_placed() {
    let measurement = small();
    let mut frames = counts(30, SMALL.pixels(), 9).mapv(f32::from);
    frames[(11, 3 * 8 + 5)] = f32::NAN;
    write_frames(&measurement.raw, &frames, SMALL);
    let line = refused(&measurement, &[], 74, "A0001_r00001.h5");
    assert!(line.contains("frame 11, row 3, column 5"), "{line}");
}

#[test]
fn too_many_saturated_pixels_are_refused() {
    let measurement = small();
    let mut frames = counts(30, SMALL.pixels(), 9);
    frames.row_mut(4).fill(u16::MAX);
    write_frames(&measurement.raw, &frames, SMALL);
    refused(&measurement, &[], 74, "A0001_r00001.h5");
}

#[test]
fn too_little_memory_is_refused() {
    refused(&small(), &["--max-memory", "1e-9", "-G"], 74, "A0001_r00001.h5");
}

#[test]
fn an_output_directory_that_cannot_be_is_named() {
    let measurement = small();
    fs::write(measurement.output(), "a file").expect("written");
    let run = measurement.corr(&[]);
    let line = run.error(76);
    assert!(line.contains("results"), "{line}");
    assert_eq!(fs::read_to_string(measurement.output()).expect("read"), "a file");
}

#[test]
fn configuration_files_are_checked() {
    let measurement = small();
    let config = measurement.dir.path().join("config.json");
    for (content, word) in
        [("{", "not JSON"), ("[]", "no JSON object"), (r#"{"avg_fram": 1}"#, "did you mean avg_frame?")]
    {
        fs::write(&config, content).expect("written");
        let line = refused(&measurement, &["-c", config.to_str().expect("UTF-8")], 78, "config.json");
        assert!(line.contains(word), "{line}");
    }
    refused(&measurement, &["-c", "absent.json"], 78, "absent.json");
}
