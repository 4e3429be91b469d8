//! What a disk that does not take the result leaves behind: one line, and nothing else.

use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use speckled::correlate::result::Correlation;
use speckled::dataset::Opener;
use speckled::dataset::result::{OwnNaming, PublishError, ResultTarget, ResultWriter};
use speckled::task::correlate::{Analyses, Overwrite};

use crate::fixture::{self, Hash, Inputs};

/// Set in the process whose files must not grow beyond a limit.
const LIMITED: &str = "SPECKLED_TEST_LIMITED";

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

fn attempt(
    target: &ResultTarget,
    inputs: &Inputs,
    correlation: &Correlation,
) -> Result<std::path::PathBuf, PublishError> {
    let mut writer = ResultWriter::begin(&Opener::anywhere(), target, &inputs.metadata, &inputs.qmap, Analyses::Both)?;
    fixture::hand_over(&mut writer, correlation)?;
    writer.finish(correlation, &fixture::partition(), &fixture::settings(), &fixture::provenance(), &OwnNaming)
}

/// A limit of the file size stands in for a full disk: it needs no rights, and it stops every kind of write.
/// It holds for a whole process and is a signal unless ignored, so the test runs itself again below a shell.
#[test]
fn wherever_the_disk_ends_nothing_is_left_and_the_reason_is_told() {
    if std::env::var_os(LIMITED).is_some() {
        return sweep_limits();
    }
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "disk::wherever_the_disk_ends_nothing_is_left_and_the_reason_is_told", "--nocapture"])
        .env(LIMITED, "1")
        .output()
        .expect("sh starts");
    let words = format!("{}{}", String::from_utf8_lossy(&status.stdout), String::from_utf8_lossy(&status.stderr));
    assert!(status.status.success(), "{words}");
    assert!(words.contains("1 passed"), "{words}");
    assert!(!words.contains("HDF5-DIAG"), "the library speaks: {words}");
}

fn sweep_limits() {
    let inputs = fixture::inputs(Hash::Present);
    let target = fixture::target(&inputs);
    let correlation = fixture::correlation(Analyses::Both, 3);
    let whole = attempt(&target, &inputs, &correlation).expect("written");
    let size = std::fs::metadata(&whole).expect("there").len();
    std::fs::remove_file(whole).expect("removed");
    let unlimited = getrlimit(Resource::Fsize);
    for step in 0..200 {
        let limit = size * step / 200;
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: unlimited.maximum }).expect("lowered");
        let outcome = attempt(&target, &inputs, &correlation);
        setrlimit(Resource::Fsize, unlimited).expect("raised");
        let error = outcome.expect_err("the file does not fit");
        let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(reason.starts_with("File too large"), "limit {limit}: {error}: {reason}");
        assert_eq!(entries(&target.directory), 0, "limit {limit}");
    }
    attempt(&target, &inputs, &correlation).expect("written after all failures");
}

#[test]
fn a_place_that_is_no_directory_fails_at_once() {
    let inputs = fixture::inputs(Hash::Present);
    let target = ResultTarget { directory: inputs.qmap.clone(), ..fixture::target(&inputs) };
    let error = ResultWriter::begin(&Opener::anywhere(), &target, &inputs.metadata, &inputs.qmap, Analyses::Both)
        .expect_err("refused");
    assert!(error.to_string().starts_with("cannot create the directory of the result "), "{error}");
}

#[test]
fn inputs_that_cannot_be_read_are_named() {
    let inputs = fixture::inputs(Hash::Present);
    let target = fixture::target(&inputs);
    let absent = inputs.dir.path().join("absent.hdf");
    let text = inputs.dir.path().join("text.hdf");
    std::fs::write(&text, "not HDF5").expect("written");
    for (metadata, qmap, named) in [
        (&absent, &inputs.qmap, &absent),
        (&inputs.metadata, &absent, &absent),
        (&text, &inputs.qmap, &text),
        (&inputs.metadata, &text, &text),
        (&inputs.metadata, &inputs.metadata, &inputs.metadata),
    ] {
        let error =
            ResultWriter::begin(&Opener::anywhere(), &target, metadata, qmap, Analyses::Both).expect_err("refused");
        assert!(error.to_string().contains(&named.display().to_string()), "{error}");
        assert_eq!(entries(&target.directory), 0);
    }
}

#[test]
fn the_result_appears_only_when_it_is_finished() {
    let inputs = fixture::inputs(Hash::Present);
    let target = fixture::target(&inputs);
    let path = target.directory.join("A0001_results.hdf");
    let begin = || {
        ResultWriter::begin(&Opener::anywhere(), &target, &inputs.metadata, &inputs.qmap, Analyses::MultiTau)
            .expect("begun")
    };
    let (first, second) = (begin(), begin());
    drop(begin());
    assert!(!path.exists());
    assert_eq!(entries(&target.directory), 2);
    let correlation = fixture::correlation(Analyses::MultiTau, 0);
    let finish = |writer: ResultWriter| {
        writer
            .finish(&correlation, &fixture::partition(), &fixture::settings(), &fixture::provenance(), &OwnNaming)
            .expect("finished")
    };
    assert_eq!(finish(first), path);
    assert_eq!(finish(second), target.directory.join("A0001_results_1.hdf"));
    let replacing = ResultTarget { overwrite: Overwrite::Replace, ..target.clone() };
    assert_eq!(fixture::write(&replacing, &inputs, Analyses::MultiTau, &correlation), path);
    assert_eq!(entries(&target.directory), 2);
}
