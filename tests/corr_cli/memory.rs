//! Results that are larger than the memory: they are the same, and the memory stays within its limit.

use std::process::Command;

use ndarray::ArrayD;
use speckled::correlate::bins::Shape;

use crate::common::{Measurement, PROGRAM, Run, assert_close, counts, finish, labels, numbers, piped};

/// Runs `corr` on two threads with so many MB in all (`ulimit -d`), whose buffers take at most `--max-memory` of it.
fn corr_within(measurement: &Measurement, megabytes: u32, options: &[&str]) -> Run {
    const SCRIPT: &str = r#"ulimit -d "$1"; shift; exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh", &(megabytes * 1000).to_string(), PROGRAM]);
    command.args(measurement.args(options)).args(["--threads", "2", "-w"]).env("RAYON_NUM_THREADS", "2");
    finish(piped(command))
}

/// An object of a result, computed in plenty of memory and in less than it takes itself.
fn plenty_and_little(measurement: &Measurement, object: &str, megabytes: u32, options: &[&str]) -> [ArrayD<f64>; 2] {
    let plenty = [options, &["--max-memory", "2"]].concat();
    let wanted = numbers(&measurement.corr(&plenty).result(), object);
    assert!(wanted.len() * size_of::<f32>() > (megabytes as usize - 30) * 1_000_000, "{object}: fits");
    let limit = format!("{}", f64::from(megabytes) / 2000.0);
    let little = [options, &["--max-memory", &limit]].concat();
    let found = numbers(&corr_within(measurement, megabytes, &little).result(), object);
    assert_eq!(measurement.leftovers().iter().filter(|name| name.starts_with('.')).count(), 0);
    [found, wanted]
}

#[test]
fn a_map_may_be_larger_than_the_memory() {
    let shape = Shape { rows: 16, cols: 16 };
    let measurement = Measurement::hdf5(&counts(7000, shape.pixels(), 3), labels(shape, 1));
    let map = "/xpcs/twotime/correlation_map/c2_00001";
    let [found, wanted] = plenty_and_little(&measurement, map, 160, &["-t", "Twotime"]);
    assert!(found == wanted, "bands of rows change no bit");
}

#[test]
fn per_pixel_correlations_may_be_larger_than_the_memory() {
    let shape = Shape { rows: 700, cols: 700 };
    let measurement = Measurement::hdf5(&counts(120, shape.pixels(), 3), labels(shape, 3));
    let images = "/xpcs/multitau/unnormalized_G2";
    let [found, wanted] = plenty_and_little(&measurement, images, 120, &["-G"]);
    // frames come in other blocks, after which float32 sums are added in float64
    assert_close(images, &found, &wanted);
}
