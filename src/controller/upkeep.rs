//! What time brings: leases that run out, deadlines that pass, tasks that are forgotten.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Controller;
use super::bus::Signal;
use crate::runtime::tasks::Tasks;
use crate::store::{Overdue, Store, StoreError};
use crate::task::time::Moment;

/// Between two looks at what is due: the precision of leases and deadlines.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two looks at what is to be forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(600);

/// Tasks of one transaction.
const TOGETHER: u32 = 1000;

impl<S: Store> Controller<S> {
    /// Starts what the controller does by itself, until the tasks are stopped.
    pub fn run(self: &Arc<Self>, tasks: &Tasks) {
        let (upkeep, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn("upkeep", async move { upkeep.keep_up(&stopping).await });
        let (outbox, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn("outbox", async move { outbox.pass_on_events(&stopping).await });
    }

    /// Does what is due until it is told to stop; a store that fails is asked again at the next period.
    async fn keep_up(&self, stopping: &CancellationToken) {
        // Leases that ran out while no controller was there to renew them are not the endpoints' fault.
        let grace = self.store.now().after(self.policy.lease);
        let mut forgotten = self.store.now();
        loop {
            tokio::select! {
                // dropping it loses nothing: the next period begins anew
                () = tokio::time::sleep(PERIOD) => {}
                // a token may be awaited again
                () = stopping.cancelled() => return,
            }
            let overdue = if self.store.now() < grace { Overdue::Deadlines } else { Overdue::DeadlinesAndLeases };
            if let Err(error) = self.expire(overdue).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot look for leases and deadlines that have run out");
            }
            if self.store.now().since(forgotten) >= FORGET_PERIOD {
                forgotten = self.store.now();
                if let Err(error) = self.forget().await {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot forget old tasks");
                }
            }
        }
    }

    /// Ends tasks whose deadline has passed, and leases that ran out.
    pub(super) async fn expire(&self, overdue: Overdue) -> Result<(), StoreError> {
        loop {
            let changed = self.store.expire(self.store.now(), overdue, TOGETHER).await?;
            let more = changed.len() >= TOGETHER as usize;
            if !changed.is_empty() {
                tracing::info!(tasks = changed.len(), "leases or deadlines have run out");
                self.bus.publish(Signal::Events);
                self.bus.publish(Signal::AnyWork);
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let age = self.store.now().since(Moment::START).saturating_sub(self.policy.retention);
        let before = Moment::START.after(age);
        while self.store.forget(before, TOGETHER).await?.most() >= u64::from(TOGETHER) {}
        Ok(())
    }
}
