//! The process apart that reads HDF5 files: its limits, its end, and what is told of files that upset the library.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use speckled::correlate::bins::Shape;

use crate::common::{Measurement, command, counts, entries, golden, labels, run, start};

/// Longer than a process takes for what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn reader() -> (Child, UnixStream) {
    let (socket, its) = UnixStream::pair().expect("sockets");
    let mut command = command(["hdf5-reader"]);
    command.stdin(Stdio::from(OwnedFd::from(its)));
    (start(command), socket)
}

/// Waits until a file of `/proc` says something.
fn until(path: &str, says: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).expect("the process runs");
        if says(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{path}: {text}");
        std::thread::yield_now();
    }
}

/// Words of a line.
fn line<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
    line.split_whitespace().collect()
}

#[test]
fn a_reader_is_limited_and_ends_with_who_asks_it() {
    let (mut child, socket) = reader();
    let entry = format!("/proc/{}", child.id());
    // the last one that is set
    let limits =
        until(&format!("{entry}/limits"), |limits| line(limits, "Max core file size").starts_with(&["0", "0"]));
    assert_eq!(line(&limits, "Max file size")[..2], ["0", "0"]);
    assert_eq!(line(&limits, "Max address space")[..2], [(6_u64 << 30).to_string(), (6_u64 << 30).to_string()]);
    let status = fs::read_to_string(format!("{entry}/status")).expect("it runs");
    assert_eq!(line(&status, "NoNewPrivs:"), ["1"], "Landlock");
    // what a terminal or a worker sends to all of a group
    let pid = Pid::from_child(&child);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        kill_process(pid, signal).expect("sent");
    }
    let handled = u64::from_str_radix(line(&status, "SigCgt:")[0], 16).expect("a set");
    let all = [2, 15, 1, 3].map(|signal: u64| 1 << (signal - 1)).iter().fold(0, |all, signal| all | signal);
    assert_eq!(handled & all, all, "signals that it handles");
    assert!(child.try_wait().expect("looked").is_none());
    drop(socket);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_reader_that_is_told_nonsense_ends() {
    let (mut child, mut socket) = reader();
    socket.write_all(&[0xff; 64]).expect("sent");
    assert_eq!(child.wait().expect("ends").code(), Some(65));
}

/// They ended a process that had HDF5 1.14.
#[test]
fn files_that_crashed_the_library_are_refused() {
    let Some(crashing) = golden("reports/damaged_hdf5_that_crashes_the_library") else { return };
    let out = tempfile::tempdir().expect("a directory");
    for name in ["a.h5", "b.h5"] {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (raw, qmap) = (text(&crashing.join(name)), text(&crashing.join("qmap.hdf")));
        assert!(run(["info", &raw]).error(73).contains(name));
        assert!(run(["corr", "-r", &raw, "-q", &qmap, "-o", &text(out.path())]).error(73).contains(name));
        assert_eq!(entries(out.path()), [""; 0]);
    }
}

/// The metadata's objects are written anew: groups, attributes and links as they were, and an earlier result left out.
#[test]
fn links_and_what_cannot_be_copied_of_the_metadata_are_told() {
    let shape = Shape { rows: 6, cols: 8 };
    let measurement = Measurement::hdf5(&counts(30, shape.pixels(), 9), labels(shape, 3));
    {
        let _excluded = crate::common::lock();
        let file = hdf5::File::open_rw(&measurement.metadata).expect("opened");
        let entry = file.group("entry").expect("is there");
        entry.link_soft("/entry/start_time", "begun").expect("linked");
        entry.link_hard("/entry/instrument", "/entry/same").expect("linked");
        entry.new_attr::<f32>().shape([2]).create("pair").and_then(|a| a.write_raw(&[1.0_f32, 2.0])).expect("written");
        entry.new_dataset::<[u8; 3]>().create("odd").expect("created");
        entry.new_dataset::<i64>().shape(hdf5::Extents::Null).create("none").expect("created");
    }
    let run = measurement.corr(&[]);
    assert!(run.stderr.contains("/entry/odd is not to be read as numbers or text and was left out"), "{}", run.stderr);
    let file = hdf5::File::open(run.result()).expect("opens");
    let entry = file.group("entry").expect("is there");
    assert_eq!(entry.attr("pair").and_then(|pair| pair.read_raw::<f32>()).expect("reads"), [1.0, 2.0]);
    assert!(file.dataset("entry/begun").is_ok_and(|begun| begun.is_scalar()));
    let times = ["entry/same/detector_1/frame_time", "entry/instrument/detector_1/frame_time"];
    let times = times.map(|name| file.dataset(name).and_then(|time| time.read_scalar::<f64>()).expect("reads"));
    assert_eq!(times, [1e-3, 1e-3]);
    assert!(file.dataset("entry/none").and_then(|none| none.space()).is_ok_and(|space| space.is_null()));
    assert!(!entry.link_exists("odd"));
}
