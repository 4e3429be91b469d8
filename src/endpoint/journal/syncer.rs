//! The thread that waits for the disk, so that nobody else has to: what is asked for meanwhile shares the next wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::JournalError;
use super::file::Log;

/// Up to which append all is on the disk, or why the last try failed.
pub(super) type Synced = Result<u64, JournalError>;

/// Syncs as often as it is asked to, and once more when nobody can ask any more; counts its waits.
pub(super) fn serve(log: &Mutex<Log>, mut asked: mpsc::Receiver<()>, tell: &watch::Sender<Synced>, syncs: &AtomicU64) {
    let mut goes_on = true;
    while goes_on {
        goes_on = asked.blocking_recv().is_some();
        let synced = sync(log, syncs);
        let well = synced.is_ok();
        let _earlier = tell.send_replace(synced);
        if well {
            log.lock().unwrap_or_else(PoisonError::into_inner).compact_when_due();
        }
    }
}

fn sync(log: &Mutex<Log>, syncs: &AtomicU64) -> Synced {
    let mut held = log.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(sync) = held.begin_sync()? else { return Ok(held.appends()) };
    drop(held);
    let ended = sync.wait();
    syncs.fetch_add(1, Ordering::Relaxed);
    log.lock().unwrap_or_else(PoisonError::into_inner).end_sync(&sync, ended)?;
    Ok(sync.appends)
}
