//! How far a controller's store had come, noted beside it: a store that has come less far was restored from a backup, and
//! that is told. Reads no store itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cli::output;
use crate::controller::Controller;
use crate::runtime::files::replace;
use crate::store::{EventId, Store};

/// Between two notes: what a backup lacks is known to so much.
const PERIOD: Duration = Duration::from_secs(5);

/// Whether a note is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastNote {
    No,
    Yes,
}

/// The note of a controller's directory.
#[derive(Debug, Clone)]
pub(super) struct StoreMark(PathBuf);

impl StoreMark {
    /// Of a directory.
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join("newest-event"))
    }

    /// Tells of a store that has come less far than was noted, and notes how far it has.
    pub(super) fn renew(&self, newest: EventId) -> io::Result<()> {
        let noted = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(lost) = noted.and_then(|noted| noted.checked_sub(newest.get())).filter(|lost| *lost > 0) {
            output::warn(format_args!(
                "the store lacks the newest {lost} events: it was restored from a backup, or another file is in its place; \
                 tasks that ended since are computed again, tokens that were revoked since are valid again, those that were \
                 made are not (docs/security.md, Backups)"
            ));
        }
        self.note(newest)
    }

    fn note(&self, newest: EventId) -> io::Result<()> {
        replace(&self.0, format!("{}\n", newest.get()).as_bytes())
    }

    /// Notes how far the store has come, now and then, until it is to stop.
    pub(super) async fn keep<S: Store>(self, controller: Arc<Controller<S>>, stopping: CancellationToken) {
        let mut noted = None;
        let mut last = LastNote::No;
        loop {
            // a store that fails says so itself
            if let Ok(newest) = controller.newest_event().await
                && noted != Some(newest)
            {
                let mark = self.clone();
                let written = tokio::task::spawn_blocking(move || mark.note(newest)).await;
                match written.map_err(io::Error::other).and_then(|written| written) {
                    Ok(()) => noted = Some(newest),
                    Err(error) => {
                        tracing::warn!(%error, path = %self.0.display(), "how far the store has come is not noted")
                    }
                }
            }
            if last == LastNote::Yes {
                return;
            }
            tokio::select! {
                // a note that is late says less
                () = tokio::time::sleep(PERIOD) => {}
                // what came meanwhile is noted before it stops
                () = stopping.cancelled() => last = LastNote::Yes,
            }
        }
    }
}
