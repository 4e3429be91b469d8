//! Watches over one process from its start until nothing of its group is left.
//!
//! ```text
//!   runs ── stop, time limit ──▶ SIGTERM to the group ── grace ──▶ SIGKILL to the group
//!    │ └─── over ─────────────▶ ends by itself ───────── grace ──▶        "
//!    │ └─── nonsense ─────────────────────────────────────────────▶        "
//!    └─ exits ──▶ reaped ──▶ SIGKILL to what is left of the group ──▶ its output to the end
//! ```

use std::future::pending;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::process::Running;
use super::streams::{Heard, Streams};

/// Time for the rest of the output once the whole group is dead: only a process that left the group can still hold
/// the pipes.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a process may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From its start.
    pub(super) time: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its status, if the system told it.
    pub(super) status: io::Result<ExitStatus>,
    /// Why it was ended, if it was.
    pub(super) cause: Option<Cause>,
}

/// Why a process was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The attempt is to stop.
    Stop,
    /// It took too long.
    TimeLimit(Duration),
}

/// Sees a process to its end.
pub(super) async fn supervise(
    mut running: Running,
    streams: &mut Streams,
    stop: &CancellationToken,
    limits: Limits,
) -> Ended {
    let (tell, mut heard) = watch::channel(Heard::Nothing);
    let output = running.output();
    let input = running.input.take();
    let mut piping = pin!(async { tokio::join!(feed(input), streams.read(output, tell)) });
    let mut piped = false;
    let time_is_up = limits.time.and_then(|time| Instant::now().checked_add(time));
    let (mut cause, mut kill_at) = (None, None);
    let status = loop {
        // Dropping these loses nothing: the process stays unreaped, the pipes' future and what was heard live outside
        // the loop, a token and a moment stay what they are.
        tokio::select! {
            status = running.wait() => break status,
            _ = &mut piping, if !piped => piped = true,
            () = stop.cancelled(), if cause.is_none() => {
                cause = Some(Cause::Stop);
                kill_at = Some(terminate(&running, limits.grace));
            }
            () = at(time_is_up), if cause.is_none() => {
                cause = limits.time.map(Cause::TimeLimit);
                kill_at = Some(terminate(&running, limits.grace));
            }
            Ok(()) = heard.changed() => match *heard.borrow_and_update() {
                Heard::Nothing => {}
                Heard::Over => kill_at = kill_at.or(Some(Instant::now() + limits.grace)),
                Heard::Nonsense => running.signal(Signal::KILL),
            },
            () = at(kill_at) => {
                running.signal(Signal::KILL);
                kill_at = None;
            }
        }
    };
    running.end();
    if !piped && timeout(DRAIN, piping).await.is_err() {
        tracing::warn!("a process that left its group still holds an attempt's output, the rest of it is lost");
    }
    Ended { status, cause }
}

/// Asks the group to end; returns when it is to be killed.
fn terminate(running: &Running, grace: Duration) -> Instant {
    running.signal(Signal::TERM);
    Instant::now() + grace
}

/// The moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Gives the process its input. One that ended before it read all needs none.
async fn feed(input: Option<(Sender, Vec<u8>)>) {
    if let Some((mut stdin, bytes)) = input {
        let _ = stdin.write_all(&bytes).await;
    }
}
