//! What executors and commands leave when nobody ends them.

use std::fs;

use speckled::dataset::result::verify;
use speckled::task::correlate::Analyses;
use speckled::task::failure::{Fault, Lack, Loss};
use speckled::task::life::Outcome;
use speckled::task::spec::BatchSetupSpec;
use speckled::worker::assignment::{Computation, Work};
use speckled::worker::executor::Finished;

use crate::common::{LONG, PROGRAM, Site, correlation, failure, script, shell, simulated, tail, watched};

#[tokio::test]
async fn a_correlation_leaves_a_verified_result() {
    let site = Site::new(LONG);
    let mut spec = simulated(site.dir.path(), 64);
    spec.analyses = Analyses::Both;
    let (watch, watcher) = watched();
    let finished = site.run_watched(correlation(spec), None, watch).await;
    assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
    let progress = watcher.progress.borrow().clone().expect("progress");
    assert!(!progress.step.is_empty() && progress.total > 0, "{progress:?}");
    let document: serde_json::Value =
        serde_json::from_str(&finished.result.document.expect("a document")).expect("JSON");
    assert_eq!(document["frames"], 64);
    let [file] = finished.result.files.as_slice() else { panic!("one file") };
    assert_eq!(document["result"], file.to_string_lossy().as_ref());
    verify(file, Analyses::Both).expect("a whole result");
}

#[tokio::test]
async fn a_damaged_qmap_is_the_tasks_own_fault() {
    let site = Site::new(LONG);
    let spec = simulated(site.dir.path(), 8);
    let bytes = fs::read(&spec.qmap).expect("it reads");
    fs::write(&spec.qmap, &bytes[..bytes.len() / 2]).expect("written");
    let finished = site.run(correlation(spec.clone())).await;
    let failure = failure(&finished);
    assert_eq!(failure.fault, Fault::Input);
    assert!(failure.message().contains(&*spec.qmap.to_string_lossy()), "{}", failure.message());
}

#[tokio::test]
async fn directories_are_made() {
    let site = Site::new(LONG);
    let directories = vec![site.dir.path().join("a/b")];
    let work = Work::Computation(Computation::BatchSetup(BatchSetupSpec { directories: directories.clone() }));
    let finished = site.run(work).await;
    assert_eq!((finished.outcome, finished.result.files), (Outcome::Succeeded, directories.clone()));
    assert!(directories[0].is_dir());
    let nothing = site.run(Work::Computation(Computation::Nothing)).await;
    assert_eq!((nothing.outcome, nothing.result.log), (Outcome::Succeeded, None));
}

#[tokio::test]
async fn a_command_leaves_the_document_of_its_last_line() {
    let site = Site::new(LONG);
    let finished = site.run(shell(r#"echo working; printf '{"value": "%s"}\n' "$1""#, "a b; exit 1")).await;
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(finished.result.document.as_deref(), Some(r#"{"value": "a b; exit 1"}"#));
    assert!(tail(&finished).starts_with("working\n"));
    let finished = site.run(shell("echo '[1]'", "")).await;
    assert_eq!((finished.outcome, finished.result.document), (Outcome::Succeeded, None));
}

#[tokio::test]
async fn a_command_that_fails_is_quoted() {
    let site = Site::new(LONG);
    let finished = site.run(shell("echo on stdout; echo 'no such sample' >&2; exit 3", "")).await;
    let failure = failure(&finished);
    assert_eq!(failure.fault, Fault::Program);
    assert_eq!(failure.message(), "command site ended with exit code 3: no such sample");
}

#[tokio::test]
async fn a_command_sees_little_of_the_workers_environment() {
    let site = Site::new(LONG);
    let finished = site.run(shell("env; pwd", "")).await;
    let lines = tail(&finished);
    // cargo sets many of these for the tests themselves
    assert!(!lines.contains("CARGO_"), "{lines}");
    for known in ["SITE=8-ID", "SPECKLED_THREADS=1", "PATH=", "/scratch/"] {
        assert!(lines.contains(known), "{known}: {lines}");
    }
}

#[tokio::test]
async fn much_output_leaves_a_bounded_log() {
    let site = Site::new(LONG);
    let finished = site.run(shell("yes 'a line of output' | head -c 10000000 >&2; echo end >&2", "")).await;
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert!(tail(&finished).ends_with("end"));
    let text = fs::read_to_string(&finished.result.log.expect("a log").file).expect("a file");
    assert!((2_000_000..2_200_000).contains(&text.len()), "{}", text.len());
    assert!(text.contains("bytes of output were left out here"));
}

#[tokio::test]
async fn memory_beyond_the_slots_is_refused() {
    let site = Site::new(LONG);
    let finished = site.run(shell("exec dd if=/dev/zero of=/dev/null bs=8G count=1", "")).await;
    let failure = failure(&finished);
    assert!(failure.message().contains("memory"), "{}", failure.message());
}

#[tokio::test]
async fn a_program_that_is_no_executor_is_the_nodes_fault() {
    let site = Site::of(LONG, |_| "/bin/echo".into());
    let finished = site.run(Work::Computation(Computation::Nothing)).await;
    assert_eq!(lack(&finished), Lack::Executor);
    assert!(tail(&finished).contains("the executor wrote \"executor\", which is none of its lines"), "{finished:?}");
    let site = Site::of(LONG, |dir| dir.join("missing"));
    let finished = site.run(Work::Computation(Computation::Nothing)).await;
    assert_eq!(lack(&finished), Lack::Executor);
    assert!(tail(&finished).contains("cannot start"), "{finished:?}");
    // as one that the system's loader does not start
    let site = Site::of(LONG, |dir| script(dir, "echo no such library >&2; exit 127"));
    let finished = site.run(Work::Computation(Computation::Nothing)).await;
    assert_eq!(lack(&finished), Lack::Executor);
    assert!(tail(&finished).contains("ended with exit code 127 before it began"), "{finished:?}");
}

#[tokio::test]
async fn a_scratch_that_cannot_be_used_is_the_nodes_fault() {
    let site = Site::of(LONG, |dir| {
        fs::write(dir.join("scratch"), "a file").expect("written");
        PROGRAM.into()
    });
    let finished = site.run(Work::Computation(Computation::Nothing)).await;
    assert_eq!(lack(&finished), Lack::Scratch);
    assert!(tail(&finished).contains("cannot create the directory"), "{finished:?}");
}

/// What the node lacked.
fn lack(finished: &Finished) -> Lack {
    let Outcome::Lost(Loss::Unfit(unfit)) = &finished.outcome else { panic!("{finished:?}") };
    unfit.lack
}
