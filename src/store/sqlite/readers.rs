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
    permits: Semaphore,
}

impl Readers {
    /// Of a file that the writer has open.
    pub(super) fn open(path: PathBuf) -> Result<Self, Fault> {
        let short = Mutex::new(connect(&path)?);
        Ok(Self { path, short, idle: Arc::default(), permits: Semaphore::new(LONG) })
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
        let _permit = self.permits.acquire().await.map_err(|_| Fault::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = move || {
            let kept = lock(&idle).pop();
            let connection = kept.map_or_else(|| connect(&path), Ok)?;
            let found = read(&connection);
            lock(&idle).push(connection);
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
