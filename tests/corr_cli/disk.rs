//! A disk that fills up: one line with exit code 76, and nothing left on it.

use std::process::Command;

use rustix::process::geteuid;
use speckled::correlate::bins::Shape;

use crate::common::{Measurement, PROGRAM, Run, counts, finish, labels, piped};

/// A disk of this size has room for any result here.
const ROOM: &str = "256m";

/// More than a MiB of two-time maps.
fn large() -> Measurement {
    let shape = Shape { rows: 16, cols: 16 };
    Measurement::hdf5(&counts(500, shape.pixels(), 2), labels(shape, 4))
}

/// Runs `corr` with a new disk of `size` bytes as the output directory; stdout ends with what is on it afterwards.
///
/// The disk is mounted in a mount namespace of its own, which ends with the command: nothing is to be unmounted.
/// Root may make one, also in a container that forbids user namespaces; anyone else needs a user namespace, which
/// makes them root inside. Where neither is possible the command fails, and with it the test.
fn corr_on_disk(measurement: &Measurement, size: &str, options: &[&str]) -> Run {
    const SCRIPT: &str = r#"
        set -e
        mount -t tmpfs -o "size=$1" tmpfs "$2"
        directory=$2
        shift 2
        code=0
        "$@" || code=$?
        ls -A "$directory"
        exit $code"#;
    std::fs::create_dir_all(measurement.output()).expect("created");
    let namespaces = if geteuid().is_root() { "-m" } else { "-rm" };
    let mut command = Command::new("unshare");
    command.args([namespaces, "sh", "-c", SCRIPT, "sh", size]).arg(measurement.output());
    command.arg(PROGRAM).args(measurement.args(options));
    finish(piped(command))
}

/// Everything that is written on the way is there to hit the end of the disk: the copies of metadata and qmap, maps,
/// per-pixel planes, tables.
#[test]
fn a_full_disk_is_told_and_left_empty() {
    let measurement = large();
    for size in ["4k", "16k", "64k", "256k", "1m"] {
        let run = corr_on_disk(&measurement, size, &["-t", "Both", "-G"]);
        let line = run.error(76);
        for words in ["A0001_r00001_results.hdf", "No space left on device", "free some space"] {
            assert!(line.contains(words), "{size}: {line}");
        }
        assert_eq!(run.stderr.lines().count(), 1, "{size}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{size}");
    }
}

#[test]
fn a_disk_with_room_takes_the_result() {
    let run = corr_on_disk(&large(), ROOM, &["-t", "Both", "-G"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout.lines().last(), Some("A0001_r00001_results.hdf"));
}
