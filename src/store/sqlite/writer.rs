//! Who writes: whoever finds little to do does it at once, where it is called, since handing it to another thread and
//! back takes longer; else a thread of the store's own does, while callers wait and others come.
//!
//! ```text
//!   call ─┐                    few, and the disk is quick: the first caller whose turn it is
//!   call ─┼─▶ bounded queue ─▶
//!   call ─┘                    many, large, or the disk is slow: the thread
//! ```
//!
//! A caller that goes away changes nothing: its call is run and committed as the others are. What a transaction is,
//! `committer` knows.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::Thread;
use std::time::Duration;
use std::{fmt, io};

use tokio::sync::{Semaphore, oneshot};

use super::committer::{Answer, Call, Committer, Needs, Queue, Ran, Work};
use super::fault::Fault;
use super::lock;
use super::writing::Writing;
use crate::store::CommitMark;

/// Calls that wait: beyond them callers wait to be heard, so that a slow disk is felt where work comes in.
const WAITING: usize = 1024;

/// Tasks of a transaction that its caller writes: some hundred microseconds.
const HERE: usize = 16;

/// A transaction that took longer says that the next is not to hold up its caller's thread.
const QUICK: Duration = Duration::from_millis(2);

/// The way to the connection that writes.
pub(super) struct Writer {
    bell: Bell,
    room: Arc<Semaphore>,
    ended: oneshot::Receiver<()>,
}

/// What callers and the thread share.
struct WriterState {
    queue: Queue,
    committer: Mutex<Committer>,
    closing: AtomicBool,
}

/// What a caller has done.
enum Here {
    /// Nothing waits that was there when it looked.
    Written,
    /// The thread is to look.
    Left,
}

/// Has the thread look; when it is gone the thread ends.
struct Bell {
    state: Arc<WriterState>,
    thread: Thread,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system starts none.
    pub(super) fn start(committer: Committer) -> io::Result<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let state = Arc::new(WriterState {
            queue: Mutex::new(VecDeque::new()),
            committer: Mutex::new(committer),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("store writer".to_owned()).spawn(move || {
            shared.serve();
            // closes the file; one that closes badly is repaired when it is next opened
            drop(shared);
            drop(end);
        })?;
        let bell = Bell { state, thread: thread.thread().clone() };
        Ok(Self { bell, room: Arc::new(Semaphore::new(WAITING)), ended })
    }

    /// Runs a call that is about so many tasks; returns what it returned, and the mark of its transaction.
    pub(super) async fn run<T, F>(&self, needs: Needs, tasks: usize, work: F) -> Result<(T, CommitMark), Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Writing) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Fault::Closed)?;
        lock(&self.bell.state.queue).push_back(Call { work: boxed(work, reply), needs, tasks, _place: place });
        // from here on somebody must look, also when the caller goes away
        let ring = Ring(&self.bell);
        // those who are about to ask come along
        tokio::task::yield_now().await;
        match self.bell.state.write_here() {
            Here::Written => std::mem::forget(ring),
            Here::Left => drop(ring),
        }
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Ends when all calls that were made are answered and the file is closed.
    pub(super) async fn close(self) {
        drop(self.bell);
        // the thread never answers: its end does
        let _ended = self.ended.await;
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("room", &self.room.available_permits()).finish_non_exhaustive()
    }
}

impl WriterState {
    /// Writes what waits, unless somebody else does or it may take long.
    fn write_here(&self) -> Here {
        let mut committer = match self.committer.try_lock() {
            Ok(committer) => committer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Here::Left,
        };
        let tasks = match lock(&self.queue) {
            // somebody has done it
            queue if queue.is_empty() => return Here::Written,
            queue => queue.iter().map(|call| call.tasks).sum::<usize>(),
        };
        if tasks > HERE || committer.took() > QUICK {
            return Here::Left;
        }
        committer.write(&self.queue);
        Here::Written
    }

    /// The thread: writes what waits, whenever it is told to look.
    fn serve(&self) {
        loop {
            // read first: what was asked for before it was set is in the queue
            let closing = self.closing.load(Ordering::Acquire);
            let mut committer = lock(&self.committer);
            while !lock(&self.queue).is_empty() {
                committer.write(&self.queue);
            }
            drop(committer);
            if closing {
                return;
            }
            std::thread::park();
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Has the thread look when it is dropped.
struct Ring<'a>(&'a Bell);

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        self.0.thread.unpark();
    }
}

fn boxed<T, F>(work: F, reply: oneshot::Sender<Result<(T, CommitMark), Fault>>) -> Work
where
    T: Send + 'static,
    F: FnOnce(&Writing) -> Result<T, Fault> + Send + 'static,
{
    Box::new(move |writing| {
        let done = writing.and_then(work);
        let outcome = done.as_ref().map(|_| ()).map_err(Fault::clone);
        let answer: Answer = Box::new(move |committed| {
            // a caller that went away needs no answer
            let _gone = reply.send(committed.and_then(|mark| Ok((done?, mark))));
        });
        Ran { outcome, answer }
    })
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};
    use std::time::Instant;

    use rusqlite::Connection;
    use tempfile::TempDir;
    use tokio::sync::watch;

    use super::*;

    /// The writer's thread.
    const THREAD: Option<&str> = Some("store writer");

    fn fresh() -> (Writer, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("some.db");
        let connection = super::super::connect(&path).expect("connects");
        connection.execute_batch("CREATE TABLE some (number INTEGER) STRICT").expect("makes a table");
        let (synced, _) = watch::channel(CommitMark::default());
        let committer = Committer::new(connection, &path, Arc::default(), synced).expect("a committer");
        (Writer::start(committer).expect("starts"), folder)
    }

    /// Polls once.
    fn is_pending<F: Future>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// On which thread a call about so many tasks is run.
    async fn place(writer: &Writer, tasks: usize) -> Option<String> {
        let name = |_: &Writing| Ok(std::thread::current().name().map(str::to_owned));
        writer.run(Needs::Disk, tasks, name).await.expect("runs").0
    }

    #[tokio::test]
    async fn little_is_written_by_its_caller_and_much_by_the_thread() {
        let (writer, _folder) = fresh();
        for tasks in [1, HERE + 1, HERE] {
            // the disk of a busy computer may be slow just now
            let quick = lock(&writer.bell.state.committer).took() <= QUICK;
            let by_thread = place(&writer, tasks).await.as_deref() == THREAD;
            assert_eq!(by_thread, tasks > HERE || !quick, "{tasks} tasks");
        }
    }

    #[tokio::test]
    async fn after_a_slow_transaction_the_thread_takes_the_next() {
        let (writer, _folder) = fresh();
        let slow = |_: &Writing| {
            let begun = Instant::now();
            while begun.elapsed() <= QUICK {
                std::hint::spin_loop();
            }
            Ok(())
        };
        writer.run(Needs::File, 1, slow).await.expect("runs");
        assert_eq!(place(&writer, 1).await.as_deref(), THREAD);
    }

    #[tokio::test]
    async fn who_finds_another_writing_leaves_it_to_the_thread() {
        let (writer, _folder) = fresh();
        let committer = lock(&writer.bell.state.committer);
        let mut call = pin!(place(&writer, 1));
        assert!(is_pending(call.as_mut()), "it lets others come along");
        assert!(is_pending(call.as_mut()), "its turn comes while the other still writes");
        drop(committer);
        assert_eq!(call.await.as_deref(), THREAD);
    }

    #[tokio::test]
    async fn a_call_is_run_although_its_caller_went_away() {
        let (writer, _folder) = fresh();
        let insert = |connection: &Writing| Ok(connection.execute("INSERT INTO some VALUES (7)", ())?);
        {
            let mut call = pin!(writer.run(Needs::Disk, 1, insert));
            assert!(is_pending(call.as_mut()), "it waits for its turn");
        }
        let count = |connection: &Writing| {
            Ok(connection.query_row("SELECT count(*) FROM some", (), |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(writer.run(Needs::File, 1, count).await.expect("counts").0, 1);
        writer.close().await;
    }

    #[tokio::test]
    async fn closing_waits_for_what_was_asked() {
        let (writer, folder) = fresh();
        let insert = |connection: &Writing| Ok(connection.execute("INSERT INTO some VALUES (7)", ())?);
        {
            let mut call = pin!(writer.run(Needs::Disk, 1, insert));
            assert!(is_pending(call.as_mut()), "it waits for its turn");
        }
        writer.close().await;
        assert!(!folder.path().join("some.db-wal").exists(), "the file was closed, its log taken in");
        let connection = Connection::open(folder.path().join("some.db")).expect("opens");
        let count: i64 = connection.query_row("SELECT count(*) FROM some", (), |row| row.get(0)).expect("counts");
        assert_eq!(count, 1);
    }
}
