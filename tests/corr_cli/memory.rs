//! Results that are larger than the memory: they are the same, and the memory stays within its limit.

use std::process::Command;

use speckled::correlate::bins::Shape;

use crate::common::{Measurement, PROGRAM, counts, finish, labels, numbers, piped};

/// Runs `corr` on two threads with so many MB in all (`ulimit -d`), whose buffers take at most `--max-memory` of it.
fn corr_within(measurement: &Measurement, megabytes: u32, options: &[&str]) -> crate::common::Run {
    const SCRIPT: &str = r#"ulimit -d "$1"; shift; exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh", &(megabytes * 1000).to_string(), PROGRAM]);
    command.args(measurement.args(options)).args(["--threads", "2", "-w"]).env("RAYON_NUM_THREADS", "2");
    finish(piped(command))
}

fn assert_same(measurement: &Measurement, object: &str, megabytes: u32, options: &[&str]) {
    let plenty = [options, &["--max-memory", "2"]].concat();
    let wanted = numbers(&measurement.corr(&plenty).result(), object);
    assert!(wanted.len() * size_of::<f32>() > (megabytes as usize - 30) * 1_000_000, "{object}: fits");
    let limit = format!("{}", f64::from(megabytes) / 2000.0);
    let little = [options, &["--max-memory", &limit]].concat();
    let found = numbers(&corr_within(measurement, megabytes, &little).result(), object);
    assert!(found == wanted, "{object}");
    assert_eq!(measurement.leftovers().iter().filter(|name| name.starts_with('.')).count(), 0);
}

#[test]
fn a_map_may_be_larger_than_the_memory() {
    let shape = Shape { rows: 16, cols: 16 };
    let measurement = Measurement::hdf5(&counts(7000, shape.pixels(), 3), labels(shape, 1));
    assert_same(&measurement, "/xpcs/twotime/correlation_map/c2_00001", 160, &["-t", "Twotime"]);
}

#[test]
fn per_pixel_correlations_may_be_larger_than_the_memory() {
    let shape = Shape { rows: 700, cols: 700 };
    let measurement = Measurement::hdf5(&counts(120, shape.pixels(), 3), labels(shape, 3));
    assert_same(&measurement, "/xpcs/multitau/unnormalized_G2", 160, &["-G"]);
}
