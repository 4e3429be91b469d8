//! Who comes in by TCP and has not shown yet who he is: so many connections, each for so long, and few words in the log.
//! Once he has, nothing of this concerns him. Knows no secret.
//!
//! ```text
//!   accepted ─▶ waiting ── enter ──▶ inside ── the last one has left ──▶ waiting
//!                  └── time is over, or others need the room ──▶ ended
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::runtime::tasks::spawn;

/// Connections that wait: of more the oldest ends, so that who shows a secret at once gets in between any number that
/// show none. With those inside, below the 1024 files that a process usually may have open.
const MOST_WAITING: usize = 128;

/// Connections that are inside, and calls on them: nodes of all blocks.
const MOST_INSIDE: usize = 768;

/// Time to show a secret, for the TLS handshake and the first call together: a few journeys on a busy network.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls with a wrong secret on a connection: whoever makes more is ended before his time.
const MOST_TRIES: usize = 3;

/// The log has one line of those who are not let in so often, with the number of all.
const SAID: Duration = Duration::from_secs(60);

/// After an error of the listener, as when no file can be opened, it is asked again so soon.
const AGAIN: Duration = Duration::from_millis(100);

/// Accepted connections that wait for the service: it takes them at once.
const ACCEPTED: usize = 1;

/// What is known of those at the door, and inside.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<DoorShared>);

#[derive(Debug, Default)]
struct DoorShared {
    waiting: Mutex<BTreeMap<u64, CancellationToken>>,
    connections: AtomicU64,
    inside: AtomicUsize,
    refused: AtomicU64,
    /// When something was last written to the log.
    said: Mutex<Option<Instant>>,
}

/// A connection that was accepted. Reads and writes fail once its time is over.
pub(super) struct Guarded {
    stream: TcpStream,
    visitor: Visitor,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Whoever is at its other end; calls find it in their extensions.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    door: Door,
    peer: SocketAddr,
    inside: watch::Sender<usize>,
    tries: Arc<AtomicUsize>,
    end: CancellationToken,
}

/// One who has shown a secret; waits again when the last of a connection is dropped.
#[derive(Debug)]
pub(super) struct Inside(Visitor);

/// There is no room inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Door {
    /// Accepts connections until it is told to stop, which ends all that there are.
    pub(super) fn accept(
        &self,
        listener: TcpListener,
        stopping: CancellationToken,
    ) -> impl Stream<Item = io::Result<Guarded>> + Send + 'static {
        let (pass, accepted) = mpsc::channel(ACCEPTED);
        let door = self.clone();
        // ends with the listener's stream, or when it is told to
        spawn("worker link", async move {
            loop {
                let guarded = tokio::select! {
                    // a connection that is not accepted stays with the system
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => door.guard(stream, peer, &stopping),
                        Err(error) => {
                            door.say(|| tracing::warn!(%error, "a worker's connection was not accepted"));
                            tokio::time::sleep(AGAIN).await;
                            continue;
                        }
                    },
                    () = stopping.cancelled() => return,
                };
                if pass.send(Ok(guarded)).await.is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(accepted)
    }

    /// Connections that are inside, that wait, and how many ended without having shown a secret.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        let DoorShared { inside, refused, .. } = &*self.0;
        (inside.load(Ordering::Relaxed), self.waiting(|waiting| waiting.len()), refused.load(Ordering::Relaxed))
    }

    /// Somebody is not let in, and why.
    fn refuse(&self, peer: SocketAddr, why: &str) {
        let refused = self.0.refused.load(Ordering::Relaxed);
        self.say(|| tracing::warn!(%peer, why, refused, "a worker's connection was refused"));
    }

    fn guard(&self, stream: TcpStream, peer: SocketAddr, stopping: &CancellationToken) -> Guarded {
        // an answer is not to wait for the acknowledgement of the one before; it only saves time
        let _unset = stream.set_nodelay(true);
        let end = stopping.child_token();
        let (inside, seen) = watch::channel(0);
        // ends with the connection
        spawn("worker link visitor", mind(self.clone(), peer, seen, end.clone(), stopping.clone()));
        let visitor = Visitor { door: self.clone(), peer, inside, tries: Arc::default(), end: end.clone() };
        Guarded { stream, visitor, ended: Box::pin(end.cancelled_owned()) }
    }

    /// Waits until somebody is inside; or returns why nobody will be.
    async fn wait(&self, inside: &mut watch::Receiver<usize>, end: &CancellationToken) -> Option<&'static str> {
        let number = self.0.connections.fetch_add(1, Ordering::Relaxed);
        let oldest = self.waiting(|waiting| {
            waiting.insert(number, end.clone());
            (waiting.len() > MOST_WAITING).then(|| waiting.pop_first())?
        });
        if let Some((_, oldest)) = oldest {
            oldest.cancel();
        }
        let why = tokio::select! {
            // nothing is lost with the others: what is looked at stays
            seen = inside.wait_for(|inside| *inside > 0) => seen.is_err().then_some("it ended before it showed a secret"),
            () = end.cancelled() => Some("it showed no secret, and others came"),
            () = tokio::time::sleep(PATIENCE) => Some("it showed no secret in time"),
        };
        self.waiting(|waiting| waiting.remove(&number));
        why
    }

    fn waiting<T>(&self, with: impl FnOnce(&mut BTreeMap<u64, CancellationToken>) -> T) -> T {
        with(&mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says it, unless something was said a moment ago.
    fn say(&self, line: impl FnOnce()) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= SAID) {
            *said = Some(Instant::now());
            line();
        }
    }
}

/// Ends a connection of which nobody is inside for too long. One that somebody was inside of before ends without a word.
async fn mind(
    door: Door,
    peer: SocketAddr,
    mut inside: watch::Receiver<usize>,
    end: CancellationToken,
    stopping: CancellationToken,
) {
    let mut is_known = false;
    loop {
        if let Some(why) = door.wait(&mut inside, &end).await {
            if !is_known && !stopping.is_cancelled() {
                door.0.refused.fetch_add(1, Ordering::Relaxed);
                door.refuse(peer, why);
            }
            break;
        }
        is_known = true;
        if inside.wait_for(|inside| *inside == 0).await.is_err() {
            break;
        }
    }
    end.cancel();
}

impl Visitor {
    /// He has shown a secret.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn enter(&self) -> Result<Inside, Full> {
        let taken = &self.door.0.inside;
        if taken.fetch_add(1, Ordering::Relaxed) >= MOST_INSIDE {
            taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        self.inside.send_modify(|inside| *inside += 1);
        Ok(Inside(self.clone()))
    }

    /// He is not let in. Too often, and the connection ends.
    pub(super) fn refuse(&self, why: &str) {
        self.door.refuse(self.peer, why);
        if self.tries.fetch_add(1, Ordering::Relaxed) >= MOST_TRIES {
            self.end.cancel();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Self(Visitor { door, inside, .. }) = self;
        door.0.inside.fetch_sub(1, Ordering::Relaxed);
        inside.send_modify(|inside| *inside -= 1);
    }
}

impl Connected for Guarded {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor.clone()
    }
}

impl Guarded {
    /// Fails once its time is over, and has the task woken when it is.
    fn still(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.still(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.still(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.still(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}
