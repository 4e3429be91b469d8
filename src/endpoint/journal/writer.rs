//! The thread that owns the journal's file: takes all appends that wait, writes and syncs once, answers all.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::JournalError;
use super::file::Log;
use super::record::Encoded;

/// Appends that wait: beyond them callers wait to be heard, so that a slow disk is felt where work comes in.
pub(super) const WAITING: usize = 1024;

/// Bytes of a record to which no further append is added: the first in it waits for the last.
const TOGETHER: usize = 4 << 20;

/// Entries to be written, and who waits for that.
#[derive(Debug)]
pub(super) struct Append {
    /// The entries.
    pub(super) record: Encoded,
    /// Told when they are on disk, or why they are not.
    pub(super) reply: oneshot::Sender<Result<(), JournalError>>,
}

/// Writes until nobody can append any more and all is answered; counts how often it waited for the disk.
pub(super) fn serve(mut log: Log, mut waiting: mpsc::Receiver<Append>, syncs: &AtomicU64) {
    let mut batch = Vec::new();
    while waiting.blocking_recv_many(&mut batch, WAITING) > 0 {
        while !batch.is_empty() {
            let group: Vec<Append> = batch.drain(..together(&batch)).collect();
            let (records, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.record, one.reply)).unzip();
            let written = log.append(&records);
            syncs.fetch_add(1, Ordering::Relaxed);
            for reply in replies {
                // a caller that went away needs no answer
                let _gone = reply.send(written.clone());
            }
        }
        log.compact_when_due();
    }
}

/// How many of the first become one record.
fn together(batch: &[Append]) -> usize {
    let mut bytes = 0;
    let fit = batch.iter().take_while(|append| {
        bytes += append.record.lines.len();
        bytes <= TOGETHER
    });
    fit.count().max(1)
}
