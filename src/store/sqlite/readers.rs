//! The connections that read: they see what was committed last and never wait for a write. A few rows by id are read at
//! once, where the caller is; what may take long is read on a thread that may block.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::fault::Fault;
use super::lock;

/// Reads that may take long, at once: lists are rare beside leases, which go through the writer.
const LONG: usize = 4;

/// Connections that read.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    short: Mutex<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Of a file that the writer has open.
    pub(super) fn open(path: PathBuf) -> Result<Self, Fault> {
        let short = Mutex::new(connect(&path)?);
        Ok(Self { path, short, idle: Arc::default(), permits: Arc::new(Semaphore::new(LONG)) })
    }

    /// Reads a few rows, here and now.
    pub(super) fn short<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        read(&lock(&self.short))
    }

    /// Reads as long as it takes.
    pub(super) async fn long<T, R>(&self, read: R) -> Result<T, Fault>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Fault::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = move || {
            let kept = lock(&idle).pop();
            let connection = kept.map_or_else(|| connect(&path), Ok)?;
            let found = read(&connection);
            lock(&idle).push(connection);
            // not when the caller goes, who may have no time: the connection is in use until here
            drop(permit);
            found
        };
        // an error is a panic of the read
        tokio::task::spawn_blocking(work).await.map_err(|_| Fault::Closed)?
    }
}

fn connect(path: &std::path::Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    super::prepare(&connection)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn callers_that_go_leave_no_connections_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store.db");
        Connection::open(&path).expect("opens").execute("CREATE TABLE a (b)", ()).expect("made");
        let readers = Readers::open(path).expect("opens");
        let mut held = Vec::new();
        // each reads until it is let go, and nobody waits for it
        for _ in 0..LONG {
            let (let_go, held_back) = mpsc::channel::<()>();
            let reading = readers.long(move |_| Ok(held_back.recv().is_ok()));
            let gone = tokio::time::timeout(std::time::Duration::from_millis(1), reading).await;
            assert!(gone.is_err(), "it reads");
            held.push(let_go);
        }
        let refused = readers.permits.try_acquire().is_err();
        assert!(refused, "as many as may be are reading, whoever waits for them");
        drop(held);
        for _ in 0..3 * LONG {
            readers.long(|_| Ok(())).await.expect("reads");
        }
        assert!(lock(&readers.idle).len() <= LONG);
    }
}
