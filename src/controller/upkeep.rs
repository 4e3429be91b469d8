//! What time brings: leases that run out, deadlines that pass, tasks that are forgotten.

use std::time::Duration;

use super::Controller;
use super::bus::Change;
use crate::runtime::tasks::Tasks;
use crate::store::{Store, StoreError};
use crate::task::time::Moment;

/// Between two looks at what is due: the precision of leases and deadlines.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two looks at what is to be forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(600);

/// Tasks of one transaction.
const TOGETHER: u32 = 1000;

impl<S: Store> Controller<S> {
    /// Does what is due until it is told to stop; a store that fails is asked again at the next period.
    pub async fn keep_up(&self, tasks: &Tasks) {
        let stopping = tasks.stopping();
        // Leases that ran out while no controller was there to renew them are not the endpoints' fault.
        let grace = self.clock.now().after(self.policy.lease);
        let mut forgotten = self.clock.now();
        loop {
            tokio::select! {
                // dropping it loses nothing: the next period begins anew
                () = tokio::time::sleep(PERIOD) => {}
                // a token may be awaited again
                () = stopping.cancelled() => return,
            }
            if self.clock.now() >= grace
                && let Err(error) = self.expire().await
            {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot look for leases that have run out");
            }
            if self.clock.now().since(forgotten) >= FORGET_PERIOD {
                forgotten = self.clock.now();
                if let Err(error) = self.forget().await {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot forget old tasks");
                }
            }
        }
    }

    /// Ends leases that ran out and tasks whose deadline has passed.
    pub(super) async fn expire(&self) -> Result<(), StoreError> {
        loop {
            let changed = self.store.expire(self.clock.now(), TOGETHER).await?;
            let more = changed.len() as u32 >= TOGETHER;
            if !changed.is_empty() {
                tracing::info!(tasks = changed.len(), "leases or deadlines have run out");
                self.bus.changed(changed.into_iter().map(Change::of));
                self.bus.nudge_all();
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let age = self.clock.now().since(Moment::START).saturating_sub(self.policy.retention);
        let before = Moment::START.after(age);
        while self.store.forget(before, TOGETHER).await? >= u64::from(TOGETHER) {}
        Ok(())
    }
}
