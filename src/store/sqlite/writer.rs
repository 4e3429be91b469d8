//! Group commit: one task owns the connection that writes. It takes all calls that wait, runs each in a savepoint of
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

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::fault::Fault;
use crate::runtime::tasks::spawn;

/// Calls that wait: beyond them callers wait to be heard, so that a slow disk is felt where work comes in.
const WAITING: usize = 1024;

/// Calls of one transaction: the first of them waits for the last.
const TOGETHER: usize = 256;

/// What a call returns while it runs.
pub(super) type Running<'c, T> = Pin<Box<dyn Future<Output = T> + Send + 'c>>;

/// A call: given the connection it runs, given a fault it is told that it cannot.
type Call = Box<dyn for<'c> FnOnce(Result<&'c mut SqliteConnection, Fault>) -> Running<'c, Ran> + Send>;

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
    task: JoinHandle<()>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    /// Hands the connection to a task of its own.
    pub(super) fn start(connection: SqliteConnection) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        let commits = Arc::new(AtomicU64::new(0));
        let task = spawn("store writer", serve(connection, waiting, Arc::clone(&commits)));
        Self { calls, task, commits }
    }

    /// Runs a call; when it returns, what it did is on disk.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Running<'c, Result<T, Fault>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(work, reply)).await.map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Transactions so far.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Ends when all calls that were sent are answered.
    pub(super) async fn close(self) {
        drop(self.calls);
        // an error is a panic in a call, whose caller was told that the store is closed
        let _panicked = self.task.await;
    }
}

fn call<T, F>(work: F, reply: oneshot::Sender<Result<T, Fault>>) -> Call
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> Running<'c, Result<T, Fault>> + Send + 'static,
{
    Box::new(move |connection| {
        Box::pin(async move {
            let done = match connection {
                Ok(connection) => work(connection).await,
                Err(fault) => Err(fault),
            };
            let outcome = done.as_ref().map(|_| ()).map_err(Fault::clone);
            let answer: Answer = Box::new(move |committed| {
                // a caller that went away needs no answer
                let _gone = reply.send(committed.and(done));
            });
            Ran { outcome, answer }
        })
    })
}

async fn serve(mut connection: SqliteConnection, mut waiting: mpsc::Receiver<Call>, commits: Arc<AtomicU64>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let committed = transact(&mut connection, &mut batch, &mut answers).await;
        if committed.is_ok() {
            commits.fetch_add(1, Ordering::Relaxed);
        } else {
            // it fails when SQLite has rolled back by itself, as it does on a full disk
            let _already = sqlx::query("ROLLBACK").execute(&mut connection).await;
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
    // everything is committed: a file that closes badly is repaired when it is next opened
    let _repaired = connection.close().await;
}

/// Runs all calls; an error means that none of them is on disk.
async fn transact(
    connection: &mut SqliteConnection,
    batch: &mut Vec<Call>,
    answers: &mut Vec<Answer>,
) -> Result<(), Fault> {
    let mut state = execute(connection, "BEGIN IMMEDIATE").await;
    // one alone undoes itself with the transaction
    if batch.len() == 1
        && state.is_ok()
        && let Some(call) = batch.pop()
    {
        let Ran { outcome, answer } = call(Ok(&mut *connection)).await;
        answers.push(answer);
        outcome?;
    }
    for call in batch.drain(..) {
        match &state {
            Ok(()) => state = in_savepoint(connection, call, answers).await,
            Err(fault) => answers.push(call(Err(fault.clone())).await.answer),
        }
    }
    state?;
    execute(connection, "COMMIT").await
}

/// Runs a call; an error means that the transaction is lost, not that the call failed.
async fn in_savepoint(connection: &mut SqliteConnection, call: Call, answers: &mut Vec<Answer>) -> Result<(), Fault> {
    if let Err(fault) = execute(connection, "SAVEPOINT call").await {
        answers.push(call(Err(fault.clone())).await.answer);
        return Err(fault);
    }
    let Ran { outcome, answer } = call(Ok(connection)).await;
    answers.push(answer);
    if let Err(fault) = outcome {
        // SQLite ends the whole transaction on a full disk: then the call's fault is everybody's
        execute(connection, "ROLLBACK TO call").await.map_err(|_| fault)?;
    }
    execute(connection, "RELEASE call").await
}

async fn execute(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), Fault> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}
