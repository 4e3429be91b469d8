//! Group commit: one thread owns the connection that writes. It takes all calls that wait, runs each in a savepoint of
//! one transaction, commits once, and only then answers. So many callers share one wait for the disk, and a call that
//! fails undoes itself alone.
//!
//! ```text
//!   call ─┐                    BEGIN
//!   call ─┼─▶ bounded channel ─▶ SAVEPOINT, call, RELEASE (or ROLLBACK TO)   for each
//!   call ─┘                    COMMIT ─▶ every answer
//! ```
//!
//! A caller that goes away changes nothing: its call is run and committed as the others are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;

/// Calls that wait: beyond them callers wait to be heard, so that a slow disk is felt where work comes in.
const WAITING: usize = 1024;

/// Calls of one transaction: the first of them waits for the last.
const TOGETHER: usize = 256;

/// A call: given the connection it runs, given a fault it is told that it cannot.
type Call = Box<dyn FnOnce(Result<&Connection, Fault>) -> Ran + Send>;

/// Tells the caller, once it is known whether the transaction is on disk.
type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// A call that was run, but is not on disk.
struct Ran {
    outcome: Result<(), Fault>,
    answer: Answer,
}

/// The way to the connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    calls: mpsc::Sender<Call>,
    ended: oneshot::Receiver<()>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    /// Hands the connection to a thread of its own.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(super) fn start(connection: Connection) -> io::Result<Self> {
        let (calls, waiting) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel::<()>();
        let commits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commits);
        std::thread::Builder::new().name("store writer".to_owned()).spawn(move || {
            serve(connection, waiting, &counted);
            drop(end);
        })?;
        Ok(Self { calls, ended, commits })
    }

    /// Runs a call; when it returns, what it did is on disk.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(work, reply)).await.map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Transactions so far.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Ends when all calls that were sent are answered and the file is closed.
    pub(super) async fn close(self) {
        drop(self.calls);
        // the thread never answers: its end does
        let _ended = self.ended.await;
    }
}

fn call<T, F>(work: F, reply: oneshot::Sender<Result<T, Fault>>) -> Call
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
{
    Box::new(move |connection| {
        let done = connection.and_then(work);
        let outcome = done.as_ref().map(|_| ()).map_err(Fault::clone);
        let answer: Answer = Box::new(move |committed| {
            // a caller that went away needs no answer
            let _gone = reply.send(committed.and(done));
        });
        Ran { outcome, answer }
    })
}

fn serve(connection: Connection, mut waiting: mpsc::Receiver<Call>, commits: &AtomicU64) {
    while let Some(first) = waiting.blocking_recv() {
        let mut answers = Vec::new();
        let committed = transact(&connection, first, &mut waiting, &mut answers);
        if committed.is_ok() {
            commits.fetch_add(1, Ordering::Relaxed);
        } else {
            // it fails when SQLite has rolled back by itself, as it does on a full disk
            let _already = execute(&connection, "ROLLBACK");
        }
        // the last first: what was asked for later, such as leases of what was submitted, is what others wait for
        for answer in answers.into_iter().rev() {
            answer(committed.clone());
        }
    }
    // everything is committed: a file that closes badly is repaired when it is next opened
    let _repaired = connection.close();
}

/// Runs a call, and with it those that wait or come while it runs; an error means that none of them is on disk.
fn transact(
    connection: &Connection,
    first: Call,
    waiting: &mut mpsc::Receiver<Call>,
    answers: &mut Vec<Answer>,
) -> Result<(), Fault> {
    let mut state = execute(connection, "BEGIN IMMEDIATE");
    let mut next = Some(first);
    while let Some(call) = next {
        state = match state {
            // one that is alone undoes itself with the transaction
            Ok(()) if answers.is_empty() && waiting.is_empty() => {
                let Ran { outcome, answer } = call(Ok(connection));
                answers.push(answer);
                outcome
            }
            Ok(()) => in_savepoint(connection, call, answers),
            Err(fault) => {
                answers.push(call(Err(fault.clone())).answer);
                Err(fault)
            }
        };
        // after a failure the others begin anew, in a transaction of their own
        next = if state.is_ok() && answers.len() < TOGETHER { waiting.try_recv().ok() } else { None };
    }
    state?;
    execute(connection, "COMMIT")
}

/// Runs a call; an error means that the transaction is lost, not that the call failed.
fn in_savepoint(connection: &Connection, call: Call, answers: &mut Vec<Answer>) -> Result<(), Fault> {
    if let Err(fault) = execute(connection, "SAVEPOINT call") {
        answers.push(call(Err(fault.clone())).answer);
        return Err(fault);
    }
    let Ran { outcome, answer } = call(Ok(connection));
    answers.push(answer);
    if let Err(fault) = outcome {
        // SQLite ends the whole transaction on a full disk: then the call's fault is everybody's
        execute(connection, "ROLLBACK TO call").map_err(|_| fault)?;
    }
    execute(connection, "RELEASE call")
}

fn execute(connection: &Connection, statement: &'static str) -> Result<(), Fault> {
    super::query::execute(connection, statement, ()).map(|_| ())
}
