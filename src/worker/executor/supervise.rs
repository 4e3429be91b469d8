//! Watches over one process from its start until nothing of what it started is left.
//!
//! ```text
//!   runs ── stop, time limit, deadline ──▶ SIGTERM to the group ── grace ──▶ SIGKILL to the group
//!    │ └─── over ─────────────▶ ends by itself ───────── grace ──▶        "
//!    │ └─── nonsense ─────────────────────────────────────────────▶        "
//!    │                                                                     └─ does not end ──▶ left to whoever asked
//!    └─ exits ──▶ reaped ──▶ SIGKILL to what is left of the group, and has left it ──▶ its output to the end
//! ```
//!
//! A process that waits in the kernel, as for a driver that hangs, ends by no signal. Once it was killed it runs none of
//! its own code any more, so that its attempt is over; what it had is not free before it is gone.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::process::Running;
use super::streams::{Heard, Streams};
use crate::worker::assignment::{ExecutorOrder, line};

/// Time for the rest of the output once all of it is dead: only a process that was not found can still hold the pipes.
const DRAIN: Duration = Duration::from_secs(2);

/// Time between SIGKILL and the end: what takes longer is no matter of the process. With the usual grace it is less than
/// an endpoint waits for a worker that leaves.
const DEATH: Duration = Duration::from_secs(3);

/// A process, as far as it is watched over.
pub(super) trait Watched {
    /// Its end. Dropping this loses nothing.
    fn wait(&mut self) -> impl Future<Output = io::Result<ExitStatus>> + Send;

    /// Sends a signal to its group.
    fn signal(&self, signal: Signal);
}

/// How long a process may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From its start.
    pub(super) time: Option<Duration>,
    /// Whenever it started.
    pub(super) deadline: Option<Instant>,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its status.
    pub(super) status: Status,
    /// Why it was ended, if it was.
    pub(super) cause: Option<Cause>,
}

/// What the system told of a process's end.
#[derive(Debug)]
pub(super) enum Status {
    /// How it ended.
    Told(ExitStatus),
    /// That it ended.
    Untold(io::Error),
    /// Nothing: it was killed, and is still there.
    Remains,
}

/// Why a process was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The attempt is to stop.
    Stop,
    /// It took too long.
    TimeLimit(Duration),
    /// Its task must be over.
    Deadline,
}

/// Sees a process to its end; gives it back if it does not end though it was killed.
pub(super) async fn supervise(
    mut running: Running,
    streams: &mut Streams,
    stop: &CancellationToken,
    publish: &Semaphore,
    limits: Limits,
) -> (Ended, Option<Running>) {
    let (tell, heard) = watch::channel(Heard::Nothing);
    let output = running.output();
    let input = running.input.take();
    let mut piping = pin!(async {
        tokio::select! {
            // one that says nothing more needs no orders either
            () = streams.read(output, tell) => {}
            () = feed(input, publish, stop) => {}
        }
    });
    let ended = until_ended(&mut running, piping.as_mut(), heard, stop, limits).await;
    match ended.0.status {
        Status::Remains => (ended.0, Some(running)),
        Status::Told(_) | Status::Untold(_) => {
            running.end().await;
            if ended.1 == Piping::GoesOn && timeout(DRAIN, piping).await.is_err() {
                tracing::warn!("a process that was not found still holds an attempt's output, the rest of it is lost");
            }
            (ended.0, None)
        }
    }
}

/// Whether a process's pipes are read to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piping {
    GoesOn,
    Done,
}

async fn until_ended(
    process: &mut impl Watched,
    mut piping: Pin<&mut impl Future<Output = ()>>,
    mut heard: watch::Receiver<Heard>,
    stop: &CancellationToken,
    limits: Limits,
) -> (Ended, Piping) {
    let mut piped = Piping::GoesOn;
    let time_is_up = limits.time.and_then(|time| Instant::now().checked_add(time));
    let (mut cause, mut kill_at, mut dead_by) = (None, None, None);
    let status = loop {
        // Dropping these loses nothing: the process stays unreaped, the pipes' future and what was heard live outside
        // the loop, a token and a moment stay what they are.
        tokio::select! {
            status = process.wait() => break status.map_or_else(Status::Untold, Status::Told),
            () = &mut piping, if piped == Piping::GoesOn => piped = Piping::Done,
            () = stop.cancelled(), if cause.is_none() => {
                cause = Some(Cause::Stop);
                kill_at = kill_at.or(Some(terminate(process, limits.grace)));
            }
            () = at(limits.deadline), if cause.is_none() => {
                cause = Some(Cause::Deadline);
                kill_at = kill_at.or(Some(terminate(process, limits.grace)));
            }
            () = at(time_is_up), if cause.is_none() => {
                cause = limits.time.map(Cause::TimeLimit);
                kill_at = kill_at.or(Some(terminate(process, limits.grace)));
            }
            Ok(()) = heard.changed() => match *heard.borrow_and_update() {
                Heard::Nothing => {}
                Heard::Conclusion => kill_at = kill_at.or(Some(Instant::now() + limits.grace)),
                Heard::Nonsense => kill_at = Some(Instant::now()),
            },
            () = at(kill_at) => {
                process.signal(Signal::KILL);
                (kill_at, dead_by) = (None, dead_by.or(Some(Instant::now() + DEATH)));
            }
            () = at(dead_by) => break Status::Remains,
        }
    };
    (Ended { status, cause }, piped)
}

/// Asks the group to end; returns when it is to be killed.
fn terminate(process: &impl Watched, grace: Duration) -> Instant {
    process.signal(Signal::TERM);
    Instant::now() + grace
}

/// The moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Gives the process its input, then an order to publish for each permit, until it is to stop. Never ends; it is dropped.
async fn feed(input: Option<(Sender, Vec<u8>)>, publish: &Semaphore, stop: &CancellationToken) {
    if let Some((mut stdin, bytes)) = input {
        let orders = async {
            let mut next = bytes;
            // one that ended before it read all needs none
            while stdin.write_all(&next).await.is_ok() {
                match publish.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
                let Ok(order) = line(&ExecutorOrder::Publish) else { return };
                next = order;
            }
        };
        // an order that is half written when the attempt is to stop is none
        tokio::select! {
            () = orders => {}
            () = stop.cancelled() => {}
        }
        // closed, so that one that waits for an order ends
        drop(stdin);
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

    use super::*;

    const LIMITS: Limits =
        Limits { time: Some(Duration::from_secs(60)), deadline: None, grace: Duration::from_secs(10) };

    /// By the clock of the test.
    const HOUR: Duration = Duration::from_secs(3600);

    /// A process in an uninterruptible sleep: signals wait, and its end comes when the kernel lets it go.
    struct Asleep {
        signals: Arc<Mutex<Vec<Signal>>>,
        let_go: oneshot::Receiver<ExitStatus>,
    }

    impl Watched for Asleep {
        async fn wait(&mut self) -> io::Result<ExitStatus> {
            (&mut self.let_go).await.map_err(io::Error::other)
        }

        fn signal(&self, signal: Signal) {
            self.signals.lock().expect("no panic").push(signal);
        }
    }

    /// Watches over one that is heard saying something, and is stopped or not; how it ends, after how long, and what it
    /// was sent.
    async fn watched(said: Heard, stopped: Option<Duration>) -> (Ended, Duration, Vec<Signal>) {
        let signals = Arc::new(Mutex::new(Vec::new()));
        let (_never, let_go) = oneshot::channel();
        let mut process = Asleep { signals: Arc::clone(&signals), let_go };
        let (tell, heard) = watch::channel(Heard::Nothing);
        tell.send_replace(said);
        let stop = CancellationToken::new();
        let began = Instant::now();
        let piping = pin!(pending());
        let watched = until_ended(&mut process, piping, heard, &stop, LIMITS);
        let stopping = async {
            if let Some(after) = stopped {
                tokio::time::sleep(after).await;
                stop.cancel();
            }
        };
        let both = async { tokio::join!(watched, stopping) };
        let ((ended, piped), ()) = timeout(HOUR, both).await.expect("it is not waited for");
        assert_eq!(piped, Piping::GoesOn);
        let sent = signals.lock().expect("no panic").clone();
        (ended, began.elapsed(), sent)
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_cannot_be_killed_is_not_waited_for() {
        let seconds = |seconds| Duration::from_secs(seconds);
        let (ended, after, sent) = watched(Heard::Nothing, Some(seconds(5))).await;
        assert!(matches!(ended, Ended { status: Status::Remains, cause: Some(Cause::Stop) }), "{ended:?}");
        assert_eq!((after, sent), (seconds(5 + 10 + 3), vec![Signal::TERM, Signal::KILL]));

        let (ended, after, sent) = watched(Heard::Nothing, None).await;
        assert!(matches!(ended, Ended { status: Status::Remains, cause: Some(Cause::TimeLimit(_)) }), "{ended:?}");
        assert_eq!((after, sent), (seconds(60 + 10 + 3), vec![Signal::TERM, Signal::KILL]));

        let (ended, after, sent) = watched(Heard::Conclusion, None).await;
        assert!(matches!(ended, Ended { status: Status::Remains, cause: None }), "{ended:?}");
        assert_eq!((after, sent), (seconds(10 + 3), vec![Signal::KILL]));

        let (ended, after, sent) = watched(Heard::Nonsense, Some(seconds(1))).await;
        assert!(matches!(ended, Ended { status: Status::Remains, cause: Some(Cause::Stop) }), "{ended:?}");
        assert_eq!((after, sent), (seconds(3), vec![Signal::KILL, Signal::TERM]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_after_all_is_reaped() {
        use std::os::unix::process::ExitStatusExt;
        let (let_go, end) = oneshot::channel();
        let mut process = Asleep { signals: Arc::default(), let_go: end };
        let (_tell, heard) = watch::channel(Heard::Nothing);
        let stop = CancellationToken::new();
        stop.cancel();
        let ending = async {
            tokio::time::sleep(LIMITS.grace + DEATH / 2).await;
            let_go.send(ExitStatus::from_raw(9)).expect("is waited for");
        };
        let piping = pin!(async {});
        let ((ended, piped), ()) = tokio::join!(until_ended(&mut process, piping, heard, &stop, LIMITS), ending);
        assert!(matches!(ended.status, Status::Told(status) if status.signal() == Some(9)), "{ended:?}");
        assert_eq!(piped, Piping::Done);
    }
}
