//! Who comes in by TCP: how many connections there are, of one address and in all, how long one may go without having
//! shown who he is, and few words in the log. Once he has, only idleness concerns him. Knows no secret and no token.
//!
//! ```text
//!   accepted ─▶ waiting ── enter ──▶ inside ── the last call has ended ──▶ idle ── enter ──▶ inside
//!                  └── time is over, or others need the room ──▶ ended ◀──────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::limits::DoorLimits;
use crate::runtime::tasks::spawn;

/// Calls with a wrong secret on a connection: whoever makes more is ended before his time.
const MOST_TRIES: usize = 3;

/// The log has one line of those who are not let in so often, with the number of all; and one of what the system refuses.
const SAID: Duration = Duration::from_secs(60);

/// After an error of the listener, as when no file can be opened, it is asked again so soon.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection that is ended for another's sake is gone by then: its task only has to run.
const ROOM: Duration = Duration::from_secs(1);

/// Accepted connections that wait for the service: it takes them at once.
const ACCEPTED: usize = 1;

/// What is known of those at the door, and inside.
#[derive(Debug, Clone)]
pub(super) struct Door(Arc<DoorShared>);

#[derive(Debug)]
struct DoorShared {
    limits: DoorLimits,
    /// A permit for each connection that there may be.
    room: Arc<Semaphore>,
    present: Mutex<Present>,
    outside: Mutex<Outside>,
    connections: AtomicU64,
    inside: AtomicUsize,
    refused: AtomicU64,
    /// When the log was last told of somebody who was refused, and of what the system refuses.
    said: Mutex<(Option<Instant>, Option<Instant>)>,
}

/// Connections that there are.
#[derive(Debug, Default)]
struct Present {
    of: HashMap<IpAddr, PeerCount>,
    /// Those that were ended for others, and are not gone yet: their places are as good as free.
    ending: usize,
}

/// Of one address.
#[derive(Debug, Default)]
struct PeerCount {
    all: usize,
    ending: usize,
}

/// Connections that nobody is inside of, the oldest first.
#[derive(Debug, Default)]
struct Outside {
    /// Those that have never shown a secret.
    waiting: BTreeMap<u64, Outsider>,
    /// Those that have.
    idle: BTreeMap<u64, Outsider>,
}

#[derive(Debug)]
struct Outsider {
    peer: IpAddr,
    end: CancellationToken,
    leaving: Leaving,
}

/// Whether a connection is gone, or was ended for others: whatever is first counts.
type Leaving = Arc<AtomicBool>;

/// A connection that was accepted. Reads and writes fail once its time is over.
pub(super) struct Guarded {
    stream: TcpStream,
    visitor: Visitor,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

/// What a connection takes of the room that there is.
struct Place {
    door: Door,
    peer: IpAddr,
    leaving: Leaving,
    _permit: OwnedSemaphorePermit,
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

/// One who has shown a secret; his connection is idle when the last of it is dropped.
#[derive(Debug)]
pub(super) struct Inside(Visitor);

/// There is no room inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Door {
    /// One that lets in as many as the limits say.
    pub(super) fn new(limits: DoorLimits) -> Self {
        Self(Arc::new(DoorShared {
            room: Arc::new(Semaphore::new(limits.connections)),
            limits,
            present: Mutex::default(),
            outside: Mutex::default(),
            connections: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            said: Mutex::default(),
        }))
    }

    /// Accepts connections until it is told to stop; those that there are end when the limits' grace is over.
    pub(super) fn accept(
        &self,
        listener: TcpListener,
        stopping: CancellationToken,
    ) -> impl Stream<Item = io::Result<Guarded>> + Send + 'static {
        let (pass, accepted) = mpsc::channel(ACCEPTED);
        let door = self.clone();
        // ends with the listener's stream, or when it is told to
        spawn("door", async move {
            loop {
                let guarded = tokio::select! {
                    // a connection that is not accepted stays with the system
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => door.admit(stream, peer, &stopping).await,
                        Err(error) => {
                            door.not_accepted(&error);
                            tokio::time::sleep(AGAIN).await;
                            continue;
                        }
                    },
                    () = stopping.cancelled() => return,
                };
                if let Some(guarded) = guarded
                    && pass.send(Ok(guarded)).await.is_err()
                {
                    return;
                }
            }
        });
        ReceiverStream::new(accepted)
    }

    /// Calls that are inside, connections that nobody is inside of, and how many ended without having shown a secret.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        let DoorShared { inside, refused, .. } = &*self.0;
        let outside = lock(&self.0.outside);
        let waiting = outside.waiting.len() + outside.idle.len();
        (inside.load(Ordering::Relaxed), waiting, refused.load(Ordering::Relaxed))
    }

    /// The connection, if there is room; for its sake the oldest ends that shows nothing, of its own address if that has
    /// all that it may have.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr, stopping: &CancellationToken) -> Option<Guarded> {
        let DoorShared { limits, room, .. } = &*self.0;
        let address = neighbourhood(peer.ip());
        let is_crowd = {
            let present = lock(&self.0.present);
            present.of.get(&address).is_some_and(|PeerCount { all, ending }| all - ending >= limits.of_peer)
        };
        if is_crowd && !self.end_oldest(Some(address)) {
            self.turn_away(peer, "its address has as many connections as one may have");
            return None;
        }
        let permit = match Arc::clone(room).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if lock(&self.0.present).ending > 0 || self.end_oldest(None) => {
                // whoever is ended is gone at once; should it not be, this one is not let in
                tokio::time::timeout(ROOM, Arc::clone(room).acquire_owned()).await.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
        let Some(permit) = permit else {
            self.turn_away(peer, "there are as many connections as there may be");
            return None;
        };
        lock(&self.0.present).of.entry(address).or_default().all += 1;
        let place = Place { door: self.clone(), peer: address, leaving: Leaving::default(), _permit: permit };
        Some(self.guard(stream, peer, place, stopping))
    }

    fn guard(&self, stream: TcpStream, peer: SocketAddr, place: Place, stopping: &CancellationToken) -> Guarded {
        // an answer is not to wait for the acknowledgement of the one before; it only saves time
        let _unset = stream.set_nodelay(true);
        let end = CancellationToken::new();
        let (inside, seen) = watch::channel(0);
        // in the order in which they came, whichever task runs first
        let number = self.number();
        let outsider = Outsider { peer: place.peer, end: end.clone(), leaving: Arc::clone(&place.leaving) };
        let leaving = Arc::clone(&place.leaving);
        self.crowd_out(number, outsider);
        // ends with the connection, or when the door's grace is over
        spawn("visitor", mind(self.clone(), peer, number, seen, end.clone(), leaving, stopping.clone()));
        let visitor = Visitor { door: self.clone(), peer, inside, tries: Arc::default(), end: end.clone() };
        Guarded { stream, visitor, ended: Box::pin(end.cancelled_owned()), _place: place }
    }

    fn number(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until somebody is inside of a connection that is noted as outside; or returns why nobody will be.
    async fn wait(
        &self,
        number: u64,
        patience: Duration,
        inside: &mut watch::Receiver<usize>,
        end: &CancellationToken,
    ) -> Option<&'static str> {
        let why = tokio::select! {
            // nothing is lost with the others: what is looked at stays
            seen = inside.wait_for(|inside| *inside > 0) => seen.is_err().then_some("it ended before it showed a secret"),
            () = end.cancelled() => Some("it showed no secret, and others came"),
            () = tokio::time::sleep(patience) => Some("it showed no secret in time"),
        };
        let mut outside = lock(&self.0.outside);
        let Outside { waiting, idle } = &mut *outside;
        waiting.remove(&number).or_else(|| idle.remove(&number));
        why
    }

    /// Adds one that waits. Beyond the limits the oldest of its address ends, or the oldest of all.
    fn crowd_out(&self, number: u64, outsider: Outsider) {
        let DoorLimits { waiting: most, waiting_of_peer: most_of_peer, .. } = self.0.limits;
        let mut outside = lock(&self.0.outside);
        let peer = outsider.peer;
        outside.waiting.insert(number, outsider);
        let of_peer = outside.waiting.values().filter(|other| other.peer == peer).count();
        let oldest = match (of_peer > most_of_peer, outside.waiting.len() > most) {
            (true, _) => outside.waiting.iter().find(|(_, other)| other.peer == peer),
            (false, true) => outside.waiting.first_key_value(),
            (false, false) => None,
        };
        if let Some(oldest) = oldest.map(|(number, _)| *number)
            && let Some(outsider) = outside.waiting.remove(&oldest)
        {
            self.end(&outsider);
        }
    }

    /// Ends a connection for others' sake.
    fn end(&self, Outsider { peer, end, leaving }: &Outsider) {
        let mut present = lock(&self.0.present);
        if !leaving.swap(true, Ordering::Relaxed) {
            present.ending += 1;
            present.of.entry(*peer).or_default().ending += 1;
        }
        end.cancel();
    }

    /// Ends the connection that has shown nothing for longest, else the one that is idle for longest, of an address or
    /// of all; false when there is none.
    fn end_oldest(&self, of: Option<IpAddr>) -> bool {
        let mut outside = lock(&self.0.outside);
        let Outside { waiting, idle } = &mut *outside;
        for connections in [waiting, idle] {
            let oldest = connections.iter().find(|(_, other)| of.is_none_or(|peer| other.peer == peer));
            if let Some(oldest) = oldest.map(|(number, _)| *number)
                && let Some(outsider) = connections.remove(&oldest)
            {
                self.end(&outsider);
                return true;
            }
        }
        false
    }

    /// The system gives no connection, as when no file can be opened.
    fn not_accepted(&self, error: &io::Error) {
        // one that shows nothing gives its file to those who may
        let _none = self.end_oldest(None);
        let said = &mut lock(&self.0.said).1;
        if is_due(said) {
            let connections = self.0.limits.connections - self.0.room.available_permits();
            let door = self.0.limits.door;
            tracing::warn!(door, %error, connections, "connections cannot be accepted for the moment");
        }
    }

    /// A connection ends before it began.
    fn turn_away(&self, peer: SocketAddr, why: &str) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        self.refuse(peer, why);
    }

    /// Somebody is not let in, and why; the log is told of it now and then.
    fn refuse(&self, peer: SocketAddr, why: &str) {
        let refused = self.0.refused.load(Ordering::Relaxed);
        let said = &mut lock(&self.0.said).0;
        if is_due(said) {
            tracing::warn!(door = self.0.limits.door, %peer, why, refused, "a connection was refused");
        }
    }
}

/// Whether something may be said again; notes that it is.
fn is_due(said: &mut Option<Instant>) -> bool {
    let due = said.is_none_or(|at| at.elapsed() >= SAID);
    if due {
        *said = Some(Instant::now());
    }
    due
}

/// Whose connections are counted together: an address, and of the sixth version a network, which one computer has whole.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

/// Ends a connection of which nobody is inside for too long. One that somebody was inside of before ends without a word.
async fn mind(
    door: Door,
    peer: SocketAddr,
    number: u64,
    mut inside: watch::Receiver<usize>,
    end: CancellationToken,
    leaving: Leaving,
    stopping: CancellationToken,
) {
    let grace = door.0.limits.grace;
    tokio::select! {
        // who waits for nothing any more is ended below
        () = watch_over(&door, peer, number, &mut inside, (&end, &leaving), &stopping) => {}
        () = async { stopping.cancelled().await; tokio::time::sleep(grace).await } => {}
    }
    end.cancel();
}

async fn watch_over(
    door: &Door,
    peer: SocketAddr,
    number: u64,
    inside: &mut watch::Receiver<usize>,
    (end, leaving): (&CancellationToken, &Leaving),
    stopping: &CancellationToken,
) {
    let DoorLimits { patience, idle, .. } = door.0.limits;
    if let Some(why) = door.wait(number, patience, inside, end).await {
        if !stopping.is_cancelled() {
            door.turn_away(peer, why);
        }
        return;
    }
    while inside.wait_for(|inside| *inside == 0).await.is_ok() {
        let number = door.number();
        let (peer, leaving) = (neighbourhood(peer.ip()), Arc::clone(leaving));
        let outsider = Outsider { peer, end: end.clone(), leaving };
        lock(&door.0.outside).idle.insert(number, outsider);
        if door.wait(number, idle, inside, end).await.is_some() {
            return;
        }
    }
}

impl Visitor {
    /// He has shown a secret.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn enter(&self) -> Result<Inside, Full> {
        let DoorShared { inside: taken, limits, .. } = &*self.door.0;
        if taken.fetch_add(1, Ordering::Relaxed) >= limits.calls {
            taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        self.inside.send_modify(|inside| *inside += 1);
        Ok(Inside(self.clone()))
    }

    /// He is not let in. Too often, and the connection ends unless somebody else is inside.
    pub(super) fn refuse(&self, why: &str) {
        self.door.refuse(self.peer, why);
        if self.tries.fetch_add(1, Ordering::Relaxed) >= MOST_TRIES && *self.inside.borrow() == 0 {
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

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = lock(&self.door.0.present);
        let was_ended = self.leaving.swap(true, Ordering::Relaxed);
        present.ending -= usize::from(was_ended);
        if let Some(count) = present.of.get_mut(&self.peer) {
            count.all -= 1;
            count.ending -= usize::from(was_ended);
            if count.all == 0 {
                present.of.remove(&self.peer);
            }
        }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
