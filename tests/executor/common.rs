//! What the tests share: a worker's executors in a directory of their own, datasets, pipes that tell of a process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use speckled::config::roots::{NodeRoots, RawRoots};
use speckled::ids::{AttemptId, AttemptNumber};
use speckled::protocol::session::Progress;
use speckled::runtime::ids;
use speckled::task::correlate::CorrelateSpec;
use speckled::task::failure::Failure;
use speckled::task::life::Outcome;
use speckled::task::spec::{CommandSpec, TaskSpec};
use speckled::task::template::{RawTemplate, Template};
use speckled::worker::assignment::{Computation, Work};
use speckled::worker::executor::{Attempt, AttemptWatch, Executors, Finished, Setup, Slot};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_speckled");

/// A grace that tests can wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A grace that no test lives to see the end of.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A worker's executors.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    executors: Executors,
}

/// The far ends of a [`AttemptWatch`].
pub(crate) struct Watcher {
    pub(crate) progress: watch::Receiver<Option<Progress>>,
    pub(crate) stop: CancellationToken,
}

impl Site {
    /// Executors of this program.
    pub(crate) fn new(grace: Duration) -> Self {
        Self::of(grace, |_| PROGRAM.into())
    }

    /// Executors of a program that is made in the directory.
    pub(crate) fn of(grace: Duration, program: impl FnOnce(&Path) -> PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = program(dir.path());
        let setup = Setup {
            program,
            logs: dir.path().join("logs"),
            scratch: dir.path().join("scratch"),
            grace,
            worker: ids::worker(),
        };
        Self { executors: Executors::start(setup).expect("executors"), dir }
    }

    /// Runs an attempt to its end.
    pub(crate) async fn run(&self, work: Work) -> Finished {
        self.run_watched(work, None, watched().0).await
    }

    /// Runs an attempt that may use what lies below some roots.
    pub(crate) async fn run_below(&self, work: Work, roots: NodeRoots) -> Finished {
        self.run_attempt(work, roots, None, watched().0).await
    }

    pub(crate) async fn run_watched(&self, work: Work, time_limit: Option<Duration>, watch: AttemptWatch) -> Finished {
        self.run_attempt(work, everywhere(), time_limit, watch).await
    }

    /// Runs an attempt that must be over in a time.
    pub(crate) async fn run_in(&self, work: Work, left: Duration) -> Finished {
        let (roots, deadline) = (everywhere(), Some(Instant::now() + left));
        let attempt = Attempt { id: id(), work, roots, earlier: None, time_limit: Some(LONG), deadline };
        self.run_to_end(attempt, watched().0).await
    }

    async fn run_attempt(
        &self,
        work: Work,
        roots: NodeRoots,
        time_limit: Option<Duration>,
        watch: AttemptWatch,
    ) -> Finished {
        self.run_to_end(Attempt { id: id(), work, roots, earlier: None, time_limit, deadline: None }, watch).await
    }

    async fn run_to_end(&self, attempt: Attempt, watch: AttemptWatch) -> Finished {
        let finished = self.executors.run(attempt, &slot(), watch).await;
        // the attempt's directory goes with it, a moment later
        while self.attempts_left() > 0 {
            tokio::task::yield_now().await;
        }
        finished
    }

    /// Directories of attempts, of whatever worker.
    fn attempts_left(&self) -> usize {
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let workers = entries(&self.dir.path().join("scratch"));
        workers.flat_map(|worker| entries(&worker.path())).filter(|left| left.path().is_dir()).count()
    }

    /// A named pipe.
    pub(crate) fn fifo(&self) -> PathBuf {
        fifo(self.dir.path())
    }
}

/// No path is refused.
pub(crate) fn everywhere() -> NodeRoots {
    NodeRoots { raw: RawRoots { read: Vec::new(), write: vec!["/".into()] }, mounts: None }
}

/// A small slot.
pub(crate) fn slot() -> Slot {
    Slot { threads: NonZeroUsize::MIN, memory: 256 << 20, gpu: None }
}

/// A watch and its far ends.
pub(crate) fn watched() -> (AttemptWatch, Watcher) {
    let (tell, progress) = watch::channel(None);
    let stop = CancellationToken::new();
    let watch = AttemptWatch::unheard(stop.clone());
    // each name is settled
    watch.publish.add_permits(8);
    (AttemptWatch { progress: tell, ..watch }, Watcher { progress, stop })
}

/// A script of the shell as a site's command; `$1` is the value.
pub(crate) fn shell(script: &str, value: &str) -> Work {
    let script = script.replace('{', "{{").replace('}', "}}");
    let template = RawTemplate {
        program: "/bin/sh".into(),
        arguments: ["-c", &script, "sh", "{value}"].map(str::to_owned).into(),
        time_limit_s: 600,
        environment: BTreeMap::from([("SITE".to_owned(), "8-ID".to_owned())]),
        allow_dash: false,
        paths: BTreeMap::new(),
    };
    let name = "site".parse().expect("a name");
    let spec =
        CommandSpec { template: name, values: [("value".to_owned(), value.to_owned())].into(), time_limit: None };
    let templates = [(spec.template.clone(), Template::try_from(template).expect("a template"))].into();
    Work::of(TaskSpec::Command(spec), &templates).expect("a command")
}

/// A correlation as work.
pub(crate) fn correlation(spec: CorrelateSpec) -> Work {
    Work::Computation(Computation::Correlate(Box::new(spec)))
}

/// A simulated dataset in a directory, and its correlation.
pub(crate) fn simulated(dir: &Path, frames: u32) -> CorrelateSpec {
    let frames = frames.to_string();
    let output = Command::new(PROGRAM)
        .args(["simulate", "--format", "hdf5", "--rows", "64", "--cols", "64", "--counts", "2", "--dynamics", "none"])
        .args(["--frames", &frames, "-o"])
        .arg(dir)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let files: Vec<PathBuf> = String::from_utf8(output.stdout).expect("UTF-8").lines().map(PathBuf::from).collect();
    let found = |part: &str| files.iter().find(|file| file.to_string_lossy().contains(part)).expect("a file").clone();
    CorrelateSpec::new(files[0].clone(), found("qmap"), dir.join("results"))
}

/// The failure of an attempt that failed.
#[track_caller]
pub(crate) fn failure(finished: &Finished) -> &Failure {
    match &finished.outcome {
        Outcome::Failed(failure) => failure,
        other @ (Outcome::Succeeded | Outcome::Cancelled | Outcome::Lost(_)) => panic!("{other:?}: {finished:?}"),
    }
}

/// The last lines of an attempt's log.
#[track_caller]
pub(crate) fn tail(finished: &Finished) -> &str {
    &finished.result.log.as_ref().expect("a log").lines
}

/// A named pipe in a directory.
pub(crate) fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo starts");
    assert!(made.success());
    path
}

/// An executable script. Another process writes it: a file that this one writes may still be open in a process that
/// a test beside has just forked, and cannot be executed then.
pub(crate) fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("script");
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$2" && chmod 755 "$2""#;
    let written = Command::new("sh").args(["-c", write, "sh", text]).arg(&path).status().expect("sh starts");
    assert!(written.success());
    path
}

/// The reading end of a named pipe that processes hold open as long as they live.
pub(crate) struct Lifeline(BufReader<File>);

impl Lifeline {
    /// Waits until a process has opened it.
    pub(crate) async fn open(path: PathBuf) -> Self {
        blocking(move || Self(BufReader::new(File::open(path).expect("it opens")))).await
    }

    /// The next line.
    pub(crate) async fn line(mut self) -> (Self, String) {
        blocking(move || {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("it reads");
            (self, line.trim().to_owned())
        })
        .await
    }

    /// Waits until no process has it open any more.
    pub(crate) async fn cut(mut self) {
        blocking(move || {
            self.0.read_to_end(&mut Vec::new()).expect("it reads");
        })
        .await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it ends")
}

fn id() -> AttemptId {
    AttemptId { task: ids::task(), number: AttemptNumber::FIRST }
}
