//! What a user sees besides numbers: output forms, several files, being interrupted, `info`, completions.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use speckled::correlate::bins::Shape;

use crate::common::{Measurement, PROGRAM, Run, command, command_at, counts, entries, finish, labels, run, start};

const SMALL: Shape = Shape { rows: 6, cols: 8 };

fn small() -> Measurement {
    Measurement::hdf5(&counts(30, SMALL.pixels(), 9), labels(SMALL, 3))
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

#[test]
fn the_name_boost_corr_is_corr() {
    let measurement = small();
    for name in ["boost_corr", "boost_corr_bin"] {
        let link = measurement.dir.path().join(name);
        symlink(PROGRAM, &link).expect("linked");
        let args = measurement.args(&["-nf0", "-w"]);
        let run = finish(command_at(&link, &args[1..]));
        assert!(run.result().ends_with("results/A0001_r00001_results.hdf"));
    }
}

#[test]
fn a_dry_run_of_submit_submits_nothing() {
    // no controller is asked: there is none
    let paths = ["-r", "/data/a.bin", "-q", "/data/q.hdf", "-o", "/out"];
    let dry = run([&["submit", "--endpoint", "polaris", "-n"], &paths[..]].concat());
    assert_eq!(json(&dry)["raw"][0], "/data/a.bin");
}

#[test]
fn a_dry_run_shows_what_a_configuration_file_may_hold() {
    let measurement = small();
    let options = ["-t", "both", "-b", "-20", "-d", "1,3", "-np5", "--dry-run", "-vG", "--max-memory", "2"];
    let dry = measurement.corr(&options);
    let parameters = json(&dry);
    assert_eq!((&parameters["begin_frame"], &parameters["num_partial_g2"]), (&Value::from(-20), &Value::from(5)));
    assert_eq!(measurement.leftovers(), [""; 0]);
    let config = measurement.dir.path().join("config.json");
    fs::write(&config, &dry.stdout).expect("written");
    let again = run(["corr", "-n", "-c", config.to_str().expect("UTF-8")]);
    assert_eq!(json(&again), parameters);
}

#[test]
fn a_file_that_fails_does_not_stop_the_others() {
    let measurement = small();
    let dir = measurement.dir.path().to_owned();
    fs::copy(&measurement.raw, dir.join("A0001_r00001_b.h5")).expect("copied");
    fs::write(dir.join("A0001_r00001_a.h5"), "no data").expect("written");
    let raws = ["A0001_r00001.h5", "A0001_r00001_a.h5", "absent.h5", "A0001_r00001_b.h5"];
    let args = [&["corr", "-q", "qmap.h5", "-o", "results", "-r"], &raws[..]].concat();
    let run = |more: &[&str]| -> Run {
        let mut command = command(args.iter().chain(more));
        command.current_dir(&dir);
        finish(command)
    };
    let human = run(&[]);
    assert_eq!(human.code, 73, "{}", human.stderr);
    let lines: Vec<_> = human.stdout.lines().collect();
    assert_eq!(lines, ["results/A0001_r00001_results.hdf", "results/A0001_r00001_b_results.hdf"]);
    assert_eq!(human.stderr.matches("speckled: error: ").count(), 2, "{}", human.stderr);
    let document = json(&run(&["--json", "-w"]));
    assert_eq!(document["exit_code"], 73);
    let results = document["results"].as_array().expect("a list");
    assert_eq!(results.len(), 4);
    assert_eq!(results[0]["frames"], 30);
    assert_eq!(results[1]["exit_code"], 73);
    assert!(results[3]["result"].as_str().expect("a path").ends_with("_b_results.hdf"));
}

#[test]
fn quiet_prints_the_path_alone() {
    let run = small().corr(&["--quiet"]);
    assert_eq!((run.stderr.as_str(), run.stdout.lines().count()), ("", 1));
}

#[test]
fn verbose_names_options_without_effect() {
    let measurement = small();
    let told = |run: Run| run.stderr.contains("--bin-time-s");
    assert!(told(measurement.corr(&["-v", "--bin-time-s", "1e-6"])));
    assert!(!told(measurement.corr(&["--bin-time-s", "1e-6"])));
}

#[test]
fn the_same_numbers_for_any_number_of_threads() {
    let measurement = small();
    let result = |threads: &str| measurement.corr(&["-t", "Both", "--threads", threads]).result();
    let (one, many) = (result("1"), result("5"));
    for name in ["multitau/normalized_g2", "multitau/normalized_g2_err", "twotime/normalized_g2"] {
        let name = format!("/xpcs/{name}");
        assert_eq!(crate::common::numbers(&one, &name), crate::common::numbers(&many, &name), "{name}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = start(command(["completions", "zsh"]));
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("read");
    assert_eq!((child.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn usage_errors_are_2() {
    for args in [&["corr", "-nf", "2"][..], &["corr", "--nonsense"], &["corr", "-b", "x"], &["nonsense"], &[]] {
        let run = run(args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
    }
    assert_eq!(run(["corr"]).code, 2);
    for args in [&["--version"][..], &["corr", "--version"], &["corr", "--help"]] {
        assert_eq!(run(args).code, 0);
    }
}

/// A run that is at work: its unfinished result is there.
fn at_work(measurement: &Measurement) -> Child {
    let mut child = start(command(measurement.args(&["-t", "Both", "--threads", "1"])));
    while measurement.leftovers().is_empty() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended before it could be stopped: {ended:?}");
        std::thread::yield_now();
    }
    child
}

/// Enough work for several seconds.
fn large() -> Measurement {
    let shape = Shape { rows: 64, cols: 64 };
    Measurement::hdf5(&counts(4000, shape.pixels(), 2), labels(shape, 8))
}

#[test]
fn interrupted_or_killed_it_leaves_no_result() {
    let measurement = large();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = at_work(&measurement);
        kill_process(Pid::from_child(&child), signal).expect("sent");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        assert_eq!(measurement.leftovers(), [""; 0]);
    }
    let mut child = at_work(&measurement);
    child.kill().expect("sent");
    child.wait().expect("it ends");
    assert!(measurement.leftovers().iter().all(|name| name.starts_with('.')));
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_one_but_not_what_a_live_run_writes() {
    let measurement = large();
    let mut killed = at_work(&measurement);
    killed.kill().expect("sent");
    killed.wait().expect("it ends");
    let left = measurement.leftovers();
    assert_eq!(left.len(), 1, "{left:?}");
    let short = || measurement.corr(&["-e", "40", "-w"]).result();
    short();
    assert_eq!(measurement.leftovers(), ["A0001_r00001_results.hdf"]);
    fs::remove_file(short()).expect("removed");

    let mut live = at_work(&measurement);
    let partial = measurement.leftovers();
    let file = fs::File::open(measurement.output().join(&partial[0])).expect("opened");
    // It locks the file before it writes into it.
    while file.metadata().expect("a file").len() == 0 {
        std::thread::yield_now();
    }
    assert!(matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)), "a run locks what it writes");
    short();
    assert_eq!(measurement.leftovers(), [partial[0].as_str(), "A0001_r00001_results.hdf"]);
    kill_process(Pid::from_child(&live), Signal::TERM).expect("sent");
    live.wait().expect("it ends");
    assert_eq!(measurement.leftovers(), ["A0001_r00001_results.hdf"]);
}

#[test]
fn info_describes_every_kind_of_file() {
    let measurement = small();
    let result = measurement.corr(&["-t", "Both"]).result();
    let info = |args: &[&str]| run([&["info"], args].concat());
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    for (file, words) in [
        (path(&measurement.raw), ["30", "6 x 8"]),
        (path(&measurement.qmap), ["6 x 8", "dynamic"]),
        (path(&measurement.metadata), ["0.001", "2026-02-03 04:05:06"]),
        (path(&result), ["multi", "two"]),
    ] {
        let run = info(&[&file]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(words.iter().all(|word| run.stdout.to_lowercase().contains(word)), "{}", run.stdout);
        assert!(json(&info(&[&file, "--json"])).is_object());
    }
    let absent = info(&["/nowhere/absent.h5"]);
    assert!(absent.error(73).contains("/nowhere/absent.h5"));
}

#[test]
fn info_counts_events() {
    let labels = labels(Shape { rows: 512, cols: 1024 }, 2);
    let measurement = Measurement::rigaku(&[(0, 5000, 2), (3, 5001, 1), (9, 7000, 4)], labels);
    let raw = measurement.raw.to_str().expect("UTF-8");
    let document = json(&run(["info", raw, "--json"]));
    assert_eq!((&document["frames"], &document["events"]), (&Value::from(10), &Value::from(3)));
    assert_eq!(entries(measurement.dir.path()).len(), 3);
}
