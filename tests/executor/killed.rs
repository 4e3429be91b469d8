//! Executors and commands that are ended, from outside or by their worker: what is told, and that nothing is left.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use speckled::task::failure::{Failure, Fault, Loss};
use speckled::task::life::Outcome;
use speckled::worker::assignment::{Computation, Work};
use speckled::worker::executor::AttemptWatch;
use tokio_util::sync::CancellationToken;

use crate::common::{
    LONG, Lifeline, PROGRAM, SHORT, Site, correlation, failure, fifo, script, shell, simulated, tail, watched,
};

/// Holds the pipe open, itself and by a child, and lets nobody but SIGKILL end them.
const STUBBORN: &str = r#"trap '' TERM; exec 3>"$1"; sleep 1000 & echo ready >&3; wait"#;

/// Names the test that plays the worker, and its pipe.
const PIPE_OF_WORKER: &str = "SPECKLED_TEST_PIPE";

/// The same of the worker whose process is held.
const PIPE_OF_HELD: &str = "SPECKLED_TEST_PIPE_OF_HELD";

#[tokio::test]
async fn the_signal_of_a_crash_is_named() {
    for (signal, name) in [(Signal::SEGV, "SIGSEGV"), (Signal::KILL, "SIGKILL")] {
        // stopped before it becomes the executor, so that the signal always comes first
        let text = |pipe: PathBuf| format!("echo $$ >{}; kill -STOP $$; exec {PROGRAM} \"$@\"", pipe.display());
        let site = Site::of(LONG, |dir| script(dir, &text(fifo(dir))));
        let killed = async {
            let (_, pid) = Lifeline::open(site.dir.path().join("pipe")).await.line().await;
            let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a process");
            for signal in [signal, Signal::CONT] {
                // a killed one may be gone before it could be continued
                let _ = kill_process(pid, signal);
            }
        };
        let (finished, ()) = tokio::join!(site.run(Work::Computation(Computation::Nothing)), killed);
        assert_eq!(finished.outcome, Outcome::Lost(Loss::Crashed));
        assert!(tail(&finished).contains(&format!("was killed by {name}")), "{finished:?}");
    }
}

/// It is whole, and waits for the order to publish.
#[tokio::test]
async fn an_executor_that_is_killed_leaves_no_unfinished_result() {
    let text = |pipe: PathBuf| format!("echo $$ >{}; exec {PROGRAM} \"$@\"", pipe.display());
    let site = Site::of(LONG, |dir| script(dir, &text(fifo(dir))));
    let spec = simulated(site.dir.path(), 64);
    let results = spec.output.clone();
    let unfinished = || {
        let names = std::fs::read_dir(&results).into_iter().flatten().map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".partial")).count()
    };
    let (tell, mut named) = tokio::sync::watch::channel(None);
    let watch = AttemptWatch { naming: tell, ..AttemptWatch::unheard(CancellationToken::new()) };
    let killed = async {
        let (_, pid) = Lifeline::open(site.dir.path().join("pipe")).await.line().await;
        named.changed().await.expect("it is whole");
        assert_eq!(unfinished(), 1);
        kill_process(pid.parse().ok().and_then(Pid::from_raw).expect("a process"), Signal::KILL).expect("killed");
    };
    let (finished, ()) = tokio::join!(site.run_watched(correlation(spec), None, watch), killed);
    assert_eq!(finished.outcome, Outcome::Lost(Loss::Crashed));
    assert_eq!(unfinished(), 0, "the attempt's directory is gone, and with it what it notes");
}

#[tokio::test]
async fn a_correlation_stops_when_it_is_asked_to() {
    let site = Site::new(LONG);
    let spec = simulated(site.dir.path(), 4000);
    let results = spec.output.clone();
    let (watch, mut watcher) = watched();
    let stopped = async {
        watcher.progress.changed().await.expect("it runs");
        watcher.stop.cancel();
    };
    let (finished, ()) = tokio::join!(site.run_watched(correlation(spec), None, watch), stopped);
    assert_eq!(finished.outcome, Outcome::Cancelled, "{finished:?}");
    let left: Vec<_> = std::fs::read_dir(results).map(|entries| entries.collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn cancelling_ends_grandchildren_that_ignore_it() {
    let site = Site::new(SHORT);
    let pipe = site.fifo();
    let (watch, watcher) = watched();
    let work = shell(STUBBORN, &pipe.to_string_lossy());
    let stopped = async {
        let (lifeline, line) = Lifeline::open(pipe).await.line().await;
        assert_eq!(line, "ready");
        watcher.stop.cancel();
        lifeline
    };
    let (finished, lifeline) = tokio::join!(site.run_watched(work, None, watch), stopped);
    assert_eq!(finished.outcome, Outcome::Cancelled, "{finished:?}");
    assert!(tail(&finished).contains("was killed by SIGKILL"), "{finished:?}");
    lifeline.cut().await;
}

#[tokio::test]
async fn what_a_command_leaves_running_is_killed() {
    let site = Site::new(LONG);
    let pipe = site.fifo();
    let work = shell(r#"exec 3>"$1"; sleep 1000 & exit 0"#, &pipe.to_string_lossy());
    let (finished, lifeline) = tokio::join!(site.run(work), Lifeline::open(pipe));
    assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
    lifeline.cut().await;
}

#[tokio::test]
async fn the_time_limit_ends_executors_and_commands() {
    let site = Site::new(SHORT);
    let limit = Some(Duration::from_millis(100));
    let finished = site.run_watched(shell("exec sleep 1000", ""), limit, watched().0).await;
    assert_eq!(failure(&finished).fault, Fault::Program);
    assert_eq!(failure(&finished).message(), "command site ran longer than its limit of 0.1 s and was stopped");
    let site = Site::of(SHORT, |dir| script(dir, "trap '' TERM; sleep 1000 & wait; wait"));
    let finished = site.run_watched(Work::Computation(Computation::Nothing), limit, watched().0).await;
    assert_eq!(failure(&finished).message(), "the task ran longer than its limit of 0.1 s and was stopped");
}

#[tokio::test]
async fn the_tasks_deadline_ends_executors_and_commands() {
    let site = Site::new(SHORT);
    let left = Duration::from_millis(100);
    let finished = site.run_in(shell("exec sleep 1000", ""), left).await;
    assert_eq!(finished.outcome, Outcome::Failed(Failure::deadline()));
    let site = Site::of(SHORT, |dir| script(dir, "trap '' TERM; sleep 1000 & wait; wait"));
    let finished = site.run_in(Work::Computation(Computation::Nothing), left).await;
    assert_eq!(finished.outcome, Outcome::Failed(Failure::deadline()));
    assert!(tail(&finished).contains("stopped at the task's deadline"), "{finished:?}");
}

#[tokio::test]
async fn an_executor_dies_with_its_worker() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = fifo(dir.path());
    let mut worker = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "killed::the_worker_that_is_killed"])
        .env(PIPE_OF_WORKER, &pipe)
        // what it cannot remove any more goes with the directory
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let (lifeline, line) = Lifeline::open(pipe).await.line().await;
    assert_eq!(line, "ready");
    worker.kill().and_then(|()| worker.wait()).expect("killed");
    lifeline.cut().await;
}

/// Not a test of its own: the process that the test above kills.
#[tokio::test]
async fn the_worker_that_is_killed() {
    let Some(pipe) = std::env::var_os(PIPE_OF_WORKER) else { return };
    let site = Site::new(LONG);
    site.run(shell(r#"exec 3>"$1"; echo ready >&3; exec sleep 1000"#, &pipe.to_string_lossy())).await;
}

/// A process that is traced stays, when it was killed, until its tracer lets it go: so it is with one that waits in the
/// kernel for a driver that hangs.
#[tokio::test]
async fn an_attempt_does_not_wait_for_a_process_that_cannot_be_buried() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = fifo(dir.path());
    let mut worker = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "killed::the_worker_whose_process_is_held", "--nocapture"])
        .env(PIPE_OF_HELD, &pipe)
        .env("TMPDIR", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = BufReader::new(worker.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let (_, pid) = Lifeline::open(pipe).await.line().await;
    let holder = Holder::of(pid.parse().expect("a process"));
    // its worker stops it now
    drop(worker.stdin.take());
    assert!(said.any(|line| line.contains("it remains")), "the attempt waits for its process");
    drop(holder);
    assert!(said.any(|line| line.contains("it is gone")), "nobody waits for the process");
    assert!(worker.wait().expect("it ends").success());
}

/// Not a test of its own: the worker of the test above.
#[tokio::test]
async fn the_worker_whose_process_is_held() {
    let Some(pipe) = std::env::var_os(PIPE_OF_HELD) else { return };
    let site = Site::new(SHORT);
    let (watch, watcher) = watched();
    let stopped = async {
        // told by who holds it
        let mut line = String::new();
        let read = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line));
        read.await.expect("it ends").expect("it reads");
        watcher.stop.cancel();
    };
    let work = shell(r#"echo $$ >"$1"; exec sleep 1000"#, &pipe.to_string_lossy());
    let (finished, ()) = tokio::join!(site.run_watched(work, None, watch), stopped);
    assert_eq!(finished.outcome, Outcome::Cancelled, "{finished:?}");
    assert!(tail(&finished).contains("was killed and does not end"), "{finished:?}");
    println!("it remains");
    finished.remains.expect("it is held").gone().await;
    println!("it is gone");
}

/// Traces a process until it is dropped.
struct Holder(Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>);

impl Holder {
    fn of(pid: i32) -> Self {
        let (let_go, end) = mpsc::channel::<()>();
        let (tell, held) = mpsc::channel();
        let tracer = std::thread::spawn(move || {
            // SAFETY: a system call that reads and writes no memory of this process.
            let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            assert_eq!(traced, 0, "{}", std::io::Error::last_os_error());
            tell.send(()).expect("it is waited for");
            // ends when it is let go; tracing ends with the thread
            let _let_go = end.recv();
        });
        held.recv().expect("it can be traced");
        Self(Some((let_go, tracer)))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some((let_go, tracer)) = self.0.take() {
            drop(let_go);
            tracer.join().expect("no panic");
        }
    }
}
