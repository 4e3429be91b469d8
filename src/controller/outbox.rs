//! Passes on what happened: reads the outbox once for all who watch, in its order.

use tokio_util::sync::CancellationToken;

use super::Controller;
use super::hints::WatchHint;
use crate::store::{EventId, Store, StoreError};

/// Events that are read at once: few enough to be read where the reader is, and many a second.
const TOGETHER: u32 = 64;

impl<S: Store> Controller<S> {
    /// Passes on events until it is told to stop. Those who began to watch before it began miss nothing.
    pub(super) async fn pass_on_events(&self, stopping: &CancellationToken) {
        let mut place = self.outbox_start;
        loop {
            tokio::select! {
                // a notice that is dropped here was not taken
                () = self.hints.events_written() => {}
                // tokens may be awaited again
                () = stopping.cancelled() => return,
            }
            if let Err(error) = self.pass_on(&mut place).await {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read what happened");
                self.hints.tell(WatchHint::Everything);
            }
        }
    }

    async fn pass_on(&self, place: &mut EventId) -> Result<(), StoreError> {
        if !self.hints.is_watched() {
            let newest = self.store.newest_event().await?;
            // who began to watch meanwhile may want what came before the place that was read
            if !self.hints.is_watched() {
                *place = newest;
                return Ok(());
            }
        }
        loop {
            let events = self.store.events(*place, TOGETHER).await?;
            let Some(last) = events.last() else { return Ok(()) };
            *place = last.id;
            let all = events.len() < TOGETHER as usize;
            events.into_iter().for_each(|event| self.hints.tell(WatchHint::Event(event)));
            if all {
                return Ok(());
            }
        }
    }
}
