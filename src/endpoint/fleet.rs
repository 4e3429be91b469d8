//! Brings the site's blocks to what the endpoint wants: asks the provider, looks how they are, and puts what it sees into
//! the inbox. It decides nothing and remembers only what it has asked and seen last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::blocks::{BlockOrder, BlockSeen};
use super::inbox::{Inbox, InboxEvent};
use crate::ids::BlockId;
use crate::provider::{BlockRequest, JobSight, Provider, SoughtBlock, SubmitAnswer};

/// Between two looks that nobody asked for.
const PERIOD: Duration = Duration::from_secs(30);

/// A provider that did not answer, or that is ending a job, is asked again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// What the endpoint wants of its provider.
pub(super) type BlockOrders = BTreeMap<BlockId, BlockOrder>;

/// Reconciles until it is told to stop. Blocks go on then.
pub(super) async fn reconcile<P: Provider>(
    provider: P,
    mut orders: watch::Receiver<BlockOrders>,
    inbox: Inbox,
    stopping: CancellationToken,
) {
    let mut fleet = Fleet { provider, inbox, submitted: BTreeSet::new(), seen: BTreeMap::new() };
    loop {
        let wanted = orders.borrow_and_update().clone();
        let next = tokio::select! {
            next = fleet.bring_about(wanted) => next,
            // what was asked and not answered is looked for by the endpoint's next process
            () = stopping.cancelled() => return,
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            () = fleet.provider.changed() => {}
            // the next look begins anew
            () = tokio::time::sleep(next) => {}
            () = stopping.cancelled() => return,
        }
    }
}

struct Fleet<P> {
    provider: P,
    inbox: Inbox,
    /// Asked for by this process: never a second time.
    submitted: BTreeSet<BlockId>,
    /// The last sight of each.
    seen: BTreeMap<BlockId, JobSight>,
}

impl<P: Provider> Fleet<P> {
    /// Returns when to look again.
    async fn bring_about(&mut self, orders: BlockOrders) -> Duration {
        self.submitted.retain(|block| orders.contains_key(block));
        self.seen.retain(|block, _| orders.contains_key(block));
        let (mut sought, mut cancelled) = (Vec::new(), BTreeSet::new());
        for (block, order) in orders {
            match order {
                BlockOrder::Submit => {
                    if self.submitted.insert(block) {
                        self.submit(block).await;
                    }
                }
                BlockOrder::Look { job } => sought.push(SoughtBlock { block, job }),
                BlockOrder::Cancel { job } => {
                    cancelled.insert(block);
                    sought.push(SoughtBlock { block, job });
                }
            }
        }
        match sought.is_empty() {
            true => PERIOD,
            false => self.look(sought, &cancelled).await,
        }
    }

    async fn submit(&self, block: BlockId) {
        let seen = match self.provider.submit(BlockRequest { block }).await {
            SubmitAnswer::Named(job) => BlockSeen::Named(job),
            SubmitAnswer::Refused(reason) => {
                tracing::error!(%block, reason, "a block was refused");
                BlockSeen::Refused(reason)
            }
            SubmitAnswer::Unknown => BlockSeen::Unknown,
        };
        self.inbox.put(InboxEvent::Block { block, seen }).await;
    }

    async fn look(&mut self, sought: Vec<SoughtBlock>, cancelled: &BTreeSet<BlockId>) -> Duration {
        let blocks: Vec<BlockId> = sought.iter().map(|sought| sought.block).collect();
        let sights = match self.provider.look(sought).await {
            Ok(sights) => sights,
            Err(error) => {
                tracing::warn!(%error, "blocks cannot be looked at");
                for block in blocks {
                    self.inbox.put(InboxEvent::Block { block, seen: BlockSeen::Unknown }).await;
                }
                return AGAIN;
            }
        };
        let found: BTreeMap<BlockId, JobSight> = sights.into_iter().map(|sight| (sight.block, sight)).collect();
        let doomed = found.values().filter(|sight| cancelled.contains(&sight.block)).map(|sight| sight.job.clone());
        let doomed: Vec<_> = doomed.collect();
        let next = if doomed.is_empty() { PERIOD } else { AGAIN };
        if !doomed.is_empty()
            && let Err(error) = self.provider.cancel(doomed).await
        {
            tracing::warn!(%error, "blocks cannot be cancelled");
        }
        for block in blocks {
            let seen = match found.get(&block) {
                None => BlockSeen::Missing,
                Some(sight) if self.seen.get(&block) == Some(sight) => continue,
                Some(sight) => {
                    self.seen.insert(block, sight.clone());
                    BlockSeen::Sight(sight.clone())
                }
            };
            self.inbox.put(InboxEvent::Block { block, seen }).await;
        }
        next
    }
}
