//! Group commit: all calls that wait are run in one transaction, each in a savepoint, so that many callers share one
//! wait for the disk and a call that fails undoes itself alone. Knows no thread: see `writer` for who holds the committer.
//!
//! ```text
//!   BEGIN ─▶ SAVEPOINT, call, RELEASE (or ROLLBACK TO)  for each ─▶ COMMIT ─▶ fdatasync of the log
//!                                                                      │             │
//!                                               answers to calls that need the file  └─▶ those that need the disk
//! ```
//!
//! SQLite itself does not wait for the disk after a commit (`synchronous = NORMAL`): what is committed is in the file,
//! survives the end of this process and is seen by readers; the committer waits, when a call needs it. After a wait that
//! failed nobody knows what is on the disk, so that nothing is accepted any more.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::fault::Fault;
use super::lock;
use super::recent::RecentEvents;
use super::writing::Writing;
use crate::store::CommitMark;

/// Calls of one transaction: the first of them waits for the last.
const TOGETHER: usize = 256;

/// A call: given the transaction it runs, given a fault it is told that it cannot.
pub(super) type Work = Box<dyn FnOnce(Result<&Writing, Fault>) -> Ran + Send>;

/// Tells the caller, once it is known whether the call took effect, and of what.
pub(super) type Answer = Box<dyn FnOnce(Result<CommitMark, Fault>) + Send>;

/// Calls that wait, in their order.
pub(super) type Queue = Mutex<VecDeque<Call>>;

/// When a call may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// When it is in the file.
    File,
    /// When it is on the disk.
    Disk,
}

/// A call that waits.
pub(super) struct Call {
    pub(super) work: Work,
    pub(super) needs: Needs,
    /// Tasks that it is about, by which its time can be told.
    pub(super) tasks: usize,
    /// Its place among those that wait.
    pub(super) _place: OwnedSemaphorePermit,
}

/// A call that was run, but is not committed.
pub(super) struct Ran {
    pub(super) outcome: Result<(), Fault>,
    pub(super) answer: Answer,
}

/// The connection that writes.
pub(super) struct Committer {
    writing: Writing,
    recent: Arc<RecentEvents>,
    /// SQLite's log, which has what was committed and is not in the database's own file yet.
    log: File,
    written: CommitMark,
    synced: watch::Sender<CommitMark>,
    /// How long the last transaction took, with its wait.
    took: Duration,
    /// A wait for the disk that failed.
    broken: Option<Fault>,
}

impl Committer {
    /// With a connection whose log exists, which its first statement sees to.
    pub(super) fn new(
        connection: Connection,
        database: &Path,
        recent: Arc<RecentEvents>,
        synced: watch::Sender<CommitMark>,
    ) -> Result<Self, Fault> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let log = File::open(log)?;
        let (writing, written) = (Writing::new(connection), CommitMark::default());
        Ok(Self { writing, recent, log, written, synced, took: Duration::ZERO, broken: None })
    }

    /// How long the last transaction took.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    /// Runs those that wait, and those that come while these run, in one transaction.
    pub(super) fn write(&mut self, queue: &Queue) {
        let begun = Instant::now();
        let mut answers = Answers::default();
        let committed = self.transact(queue, &mut answers);
        if committed.is_err() {
            // it fails when SQLite has rolled back by itself, as it does on a full disk
            let _already = execute(&self.writing, "ROLLBACK");
        }
        let told = self.writing.end();
        if committed.is_ok() {
            self.recent.add(told);
        }
        tell(answers.file, &committed);
        if !answers.disk.is_empty() {
            let synced = committed.and_then(|mark| self.sync(mark));
            tell(answers.disk, &synced);
        }
        self.took = begun.elapsed();
    }

    /// An error means that none of the calls took effect.
    fn transact(&mut self, queue: &Queue, answers: &mut Answers) -> Result<CommitMark, Fault> {
        let mut state = match &self.broken {
            Some(fault) => Err(fault.clone()),
            None => execute(&self.writing, "BEGIN IMMEDIATE"),
        };
        let mut number = 0;
        loop {
            let (next, rest) = {
                let mut waiting = lock(queue);
                (waiting.pop_front(), waiting.len())
            };
            let Some(call) = next else { break };
            state = match state {
                // one that is alone undoes itself with the transaction
                Ok(()) if number == 0 && rest == 0 => answers.run(call, Ok(&self.writing)),
                Ok(()) => in_savepoint(&self.writing, call, answers),
                Err(fault) => {
                    let _refused = answers.run(call, Err(fault.clone()));
                    Err(fault)
                }
            };
            number += 1;
            // after a failure the others begin anew, in a transaction of their own
            if state.is_err() || number == TOGETHER {
                break;
            }
        }
        state?;
        self.writing.write_counts()?;
        execute(&self.writing, "COMMIT")?;
        self.written = self.written.next();
        Ok(self.written)
    }

    /// Waits until all that was committed is on the disk.
    fn sync(&mut self, mark: CommitMark) -> Result<CommitMark, Fault> {
        if let Err(error) = self.log.sync_data() {
            let fault = Fault::Unsynced(error.into());
            self.broken = Some(fault.clone());
            return Err(fault);
        }
        self.synced.send_replace(mark);
        Ok(mark)
    }
}

/// What the calls of a transaction wait for.
#[derive(Default)]
struct Answers {
    file: Vec<Answer>,
    disk: Vec<Answer>,
}

impl Answers {
    /// Runs a call and keeps its answer; returns what came of it.
    fn run(&mut self, call: Call, writing: Result<&Writing, Fault>) -> Result<(), Fault> {
        let Ran { outcome, answer } = (call.work)(writing);
        match call.needs {
            Needs::File => self.file.push(answer),
            Needs::Disk => self.disk.push(answer),
        }
        outcome
    }
}

/// The last first: what was asked for later, such as leases of what was submitted, is what others wait for.
fn tell(answers: Vec<Answer>, result: &Result<CommitMark, Fault>) {
    answers.into_iter().rev().for_each(|answer| answer(result.clone()));
}

/// Runs a call; an error means that the transaction is lost, not that the call failed.
fn in_savepoint(writing: &Writing, call: Call, answers: &mut Answers) -> Result<(), Fault> {
    let before = writing.so_far();
    if let Err(fault) = execute(writing, "SAVEPOINT call") {
        let _refused = answers.run(call, Err(fault.clone()));
        return Err(fault);
    }
    if let Err(fault) = answers.run(call, Ok(writing)) {
        // SQLite ends the whole transaction on a full disk: then the call's fault is everybody's
        execute(writing, "ROLLBACK TO call").map_err(|_| fault)?;
        writing.back_to(before);
    }
    execute(writing, "RELEASE call")
}

fn execute(connection: &Connection, statement: &'static str) -> Result<(), Fault> {
    super::query::execute(connection, statement, ()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use tokio::sync::Semaphore;

    use super::*;

    /// With a log that is no file: it takes no wait.
    fn on_a_dead_disk() -> Committer {
        Committer {
            writing: Writing::new(Connection::open_in_memory().expect("opens")),
            recent: Arc::default(),
            log: File::open("/dev/null").expect("opens"),
            written: CommitMark::default(),
            synced: watch::channel(CommitMark::default()).0,
            took: Duration::ZERO,
            broken: None,
        }
    }

    fn call(needs: Needs) -> (Call, Receiver<Result<CommitMark, Fault>>) {
        let (told, answer) = channel();
        let work: Work = Box::new(|writing| {
            let outcome = writing.map(|_| ());
            Ran { outcome, answer: Box::new(move |result| told.send(result).expect("is awaited")) }
        });
        let room = Arc::new(Semaphore::new(1));
        (Call { work, needs, tasks: 1, _place: room.try_acquire_owned().expect("has room") }, answer)
    }

    #[test]
    fn after_a_wait_that_failed_nothing_is_accepted() {
        let mut committer = on_a_dead_disk();
        let (file, in_file) = call(Needs::File);
        let (disk, on_disk) = call(Needs::Disk);
        committer.write(&Mutex::new([file, disk].into()));
        assert!(in_file.recv().expect("told").is_ok(), "it is in the file");
        assert!(matches!(on_disk.recv().expect("told"), Err(Fault::Unsynced(_))));
        for needs in [Needs::File, Needs::Disk] {
            let (later, answer) = call(needs);
            committer.write(&Mutex::new([later].into()));
            assert!(matches!(answer.recv().expect("told"), Err(Fault::Unsynced(_))), "{needs:?}");
        }
        assert_eq!(*committer.synced.borrow(), CommitMark::default());
    }
}
