//! One session of an endpoint: it says what it takes and how it goes, and gets tasks. Whatever carries the messages
//! calls [`Session::on_message`] for each that comes in, waits for [`Session::nudged`], and sends what that and
//! [`Session::pending`] return, and what its [`Acks`] have.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access::Caller;
use super::acks::{Acks, Written};
use super::bus::Signal;
use super::directory::Entry;
use super::hints::Mailbox;
use super::tasks::at_most;
use super::{Controller, ControllerError};
use crate::ids::{AttemptId, EndpointId, SessionId};
use crate::protocol::session::{
    Account, CreditChange, FromEndpoint, MOST_LANES, PoolBacklog, Registration, Reported, Stop, StopReason, ToEndpoint,
};
use crate::runtime::tasks::spawn;
use crate::store::{
    ChangeError, Changed, Claim, EndpointRecord, EndpointSession, Holder, LeaseRequest, Page, Report, Role, StateName,
    Store, TaskFilter,
};
use crate::task::failure::Loss;
use crate::task::life::{Life, Outcome, Phase, Refusal, Wish};
use crate::task::pool::Lane;
use crate::task::result::TaskResult;

/// Tasks that are leased in one message.
const MOST_LEASED: u32 = 256;

/// Between two looks at the backlog: an index is walked for it, and blocks take longer than this to start.
const BACKLOG_PERIOD: Duration = Duration::from_secs(1);

/// Attempts of one message, which may come in parts: as many as the wire puts together.
const MOST_ATTEMPTS: usize = 300_000;

/// Tasks that are listed at once to see which an endpoint lost.
const LISTED: u32 = 10_000;

/// Bytes of what an endpoint says of itself: a few hundred blocks and workers.
const LARGEST_STATUS: usize = 1 << 20;

/// A session that is open.
pub struct Session<S> {
    controller: Arc<Controller<S>>,
    mailbox: Arc<Mailbox>,
    /// This connection.
    holder: Holder,
    /// The process at its other end.
    process: EndpointSession,
    /// The tasks that were leased in the session, and how many may be.
    account: Account,
    /// Lanes that had nothing more when they were last looked at, and no nudge since.
    empty: BTreeSet<Lane>,
    backlog: ToldBacklog,
    /// Attempts that are its own, as far as it has said so or they were leased to it: of others it tells no progress.
    known: HashSet<AttemptId>,
    heard: Heard,
    written: Written,
}

/// What the endpoint was told of its backlog.
#[derive(Debug, Default)]
struct ToldBacklog {
    pools: Vec<PoolBacklog>,
    looked: Option<Instant>,
    next_look: NextLook,
}

/// Whether a nudge will come that has the session look at the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum NextLook {
    #[default]
    None,
    Nudge,
}

/// Whether the endpoint has said what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Heartbeat,
}

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, process, account, .. } = self;
        f.debug_struct("Session").field("holder", holder).field("process", process).field("account", account).finish()
    }
}

impl<S: Store> Controller<S> {
    /// Registers an endpoint and gives its name to a process, unless another has it.
    ///
    /// # Errors
    /// The caller may not, the endpoint is somebody else's, another process is it.
    pub async fn register(&self, caller: &Caller, registration: Registration) -> Result<(), ControllerError> {
        caller.needs(Role::Endpoint)?;
        let Registration { endpoint, name, group, session, host, replaces } = registration;
        if let Some(group) = &group {
            caller.member_of(group)?;
        }
        if let Some(known) = self.directory.entry(endpoint).filter(|known| known.owner != *caller.subject()) {
            let (name, owner) = (known.name.to_string(), known.owner.to_string());
            return Err(ControllerError::ForeignEndpoint { name, owner });
        }
        let now = self.store.now();
        let holder = EndpointSession { id: session, host, until: now.after(self.policy.name) };
        let owner = caller.subject().clone();
        let entry = Entry { name: name.clone(), owner: owner.clone(), group: group.clone() };
        let (status, shown) = (String::new(), name.to_string());
        let record =
            EndpointRecord { id: endpoint, name, owner, group, registered: now, session: None, status, seen: now };
        match self.store.claim(record, holder, replaces, now).await? {
            Claim::Granted => {
                self.directory.set(endpoint, entry);
                tracing::info!(%endpoint, name = shown, %session, "an endpoint registered");
                Ok(())
            }
            Claim::Held(held) => Err(ControllerError::EndpointHeld { name: shown, held }),
            Claim::Open => Err(ControllerError::NoSession { endpoint, session }),
            Claim::NameTaken { owner } => {
                let group = entry.group.map(String::from).unwrap_or_default();
                Err(ControllerError::NameTaken { name: shown, group, owner: owner.into() })
            }
        }
    }
}

impl<S: Store> Session<S> {
    /// Opens the session of a process that has registered.
    ///
    /// # Errors
    /// The caller may not, or the process does not hold the endpoint's name.
    pub async fn open(
        controller: Arc<Controller<S>>,
        caller: &Caller,
        endpoint: EndpointId,
        session: SessionId,
        host: String,
    ) -> Result<(Self, Acks<S>), ControllerError> {
        caller.needs(Role::Endpoint)?;
        let none = ControllerError::NoSession { endpoint, session };
        let Some(entry) = controller.directory.entry(endpoint).filter(|entry| entry.owner == *caller.subject()) else {
            return Err(none);
        };
        if let Some(group) = &entry.group {
            caller.member_of(group)?;
        }
        // earlier connections are refused from now on
        let Some(epoch) = controller.store.connect(endpoint, session, controller.store.now()).await? else {
            return Err(none);
        };
        let holder = Holder { endpoint, epoch };
        controller.bus.publish(Signal::Events);
        let mailbox = controller.hints.open(endpoint);
        let process = EndpointSession { id: session, host, until: controller.name_end() };
        let (account, known) = (Account::default(), HashSet::new());
        let (empty, backlog) = (BTreeSet::new(), ToldBacklog::default());
        let heard = Heard::Nothing;
        let (written, acks) = Acks::new(Arc::clone(&controller));
        Ok((Self { controller, mailbox, holder, process, account, empty, backlog, known, heard, written }, acks))
    }

    /// Does what a message asks; returns what is to be answered.
    ///
    /// # Errors
    /// The store fails, or the message is too large. The session is over then; the endpoint opens another.
    pub async fn on_message(&mut self, number: u64, message: FromEndpoint) -> Result<Vec<ToEndpoint>, ControllerError> {
        self.is_newest()?;
        match message {
            FromEndpoint::Credit(credit) => {
                at_most("lanes", credit.len(), MOST_LANES)?;
                match self.account.update(credit) {
                    CreditChange::More if self.account.open().any(|(lane, _)| !self.empty.contains(&lane)) => {
                        self.lease().await
                    }
                    CreditChange::More | CreditChange::NoMore => Ok(Vec::new()),
                }
            }
            FromEndpoint::Heartbeat { status, attempts } => self.beat(number, status, attempts).await,
            FromEndpoint::Started(attempts) => {
                at_most("attempts", attempts.len(), MOST_ATTEMPTS)?;
                let changes =
                    self.controller.store.start(self.holder, attempts.clone(), self.controller.store.now()).await?;
                self.tell_refused("start", &attempts, &changes);
                Ok(self.settle(&attempts, &changes))
            }
            FromEndpoint::Progress(progress) => {
                if self.known.contains(&progress.attempt) {
                    self.controller.bus.publish(Signal::Progress(progress));
                }
                Ok(Vec::new())
            }
            FromEndpoint::Reports(reports) => self.report(number, reports).await,
        }
    }

    /// Waits for a nudge only; [`Self::pending`] then says what there is. Nothing is lost when it is dropped.
    pub fn nudged(&self) -> impl Future<Output = ()> + Send + 'static {
        let mailbox = Arc::clone(&self.mailbox);
        async move { mailbox.nudged().await }
    }

    /// What there is to tell after a nudge.
    ///
    /// # Errors
    /// The store fails, or a newer session of the endpoint is open.
    pub async fn pending(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
        self.is_newest()?;
        let stops = self.mailbox.take_stops();
        self.empty.clear();
        let mut answers = self.lease().await?;
        if !stops.is_empty() {
            answers.push(ToEndpoint::Stop(stops));
        }
        answers.extend(self.backlog().await?);
        Ok(answers)
    }

    /// Gives the name back: the process ends.
    ///
    /// # Errors
    /// The store fails.
    pub async fn close(self) -> Result<(), ControllerError> {
        // a newer session of the same process goes on
        self.is_newest()?;
        let now = self.controller.store.now();
        self.controller.store.release(self.holder.endpoint, self.process.id, now).await?;
        self.controller.bus.publish(Signal::Events);
        Ok(())
    }

    /// A connection that is dead, and nobody has noticed yet, must get no tasks.
    fn is_newest(&self) -> Result<(), ControllerError> {
        match self.mailbox.is_open() {
            true => Ok(()),
            false => Err(ControllerError::NoSession { endpoint: self.holder.endpoint, session: self.process.id }),
        }
    }

    /// Leases that never reached the endpoint, or that it lost with its disk, are given out anew at once. The first
    /// heartbeat of a session tells them: nothing was leased on it before.
    async fn reclaim(&mut self, has: &[AttemptId]) -> Result<(), ControllerError> {
        let has: HashSet<&AttemptId> = has.iter().collect();
        let states = vec![StateName::Leased, StateName::Running];
        let filter = TaskFilter { endpoint: Some(self.holder.endpoint), states, ..TaskFilter::default() };
        let mut before = None;
        loop {
            let page = Page { before, most: LISTED };
            let records = self.controller.store.list(filter.clone(), page).await?;
            let Some(last) = records.last() else { return Ok(()) };
            before = Some(last.task.id);
            let held = records.iter().filter_map(|record| {
                let number = record.life.hold()?.attempt;
                Some(AttemptId { task: record.task.id, number })
            });
            let lost: Vec<AttemptId> = held.filter(|attempt| !has.contains(attempt)).collect();
            if lost.is_empty() {
                continue;
            }
            tracing::info!(endpoint = %self.holder.endpoint, attempts = lost.len(), "attempts that it does not have are given out anew");
            let now = self.controller.store.now();
            let reports = lost.iter().map(|&attempt| Report {
                attempt,
                outcome: Outcome::Lost(Loss::Returned),
                result: TaskResult::default(),
                artifacts: Vec::new(),
            });
            self.controller.store.report(self.holder, reports.collect(), now).await?;
            self.controller.bus.publish(Signal::Events);
        }
    }

    /// Leases for what there is credit for, as long as there are tasks, a message's worth at a time.
    async fn lease(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
        let mut answers = Vec::new();
        loop {
            let open = self.account.open().filter(|(lane, _)| !self.empty.contains(lane));
            let lanes: Vec<(Lane, u32)> = open
                .map(|(lane, left)| (lane, u32::try_from(left).map_or(MOST_LEASED, |left| left.min(MOST_LEASED))))
                .collect();
            if lanes.is_empty() {
                return Ok(answers);
            }
            let (until, now) = (self.controller.lease_end(), self.controller.store.now());
            let request = LeaseRequest { holder: self.holder, lanes: lanes.clone(), until, now };
            let leased = self.controller.store.lease(request).await?;
            for (lane, most) in lanes {
                let found = leased.iter().filter(|leased| leased.lane() == lane).count();
                self.account.count(lane, found as u64);
                if found < most as usize {
                    // a nudge that comes from the call on is heard later, and has it looked again
                    self.empty.insert(lane);
                }
            }
            if !leased.is_empty() {
                self.known.extend(leased.iter().map(|lease| lease.attempt));
                self.controller.bus.publish(Signal::Events);
                let now = self.controller.store.now();
                answers.push(ToEndpoint::Leases(leased.into_iter().map(|lease| lease.offer(now)).collect()));
            }
        }
    }

    /// What waits for the endpoint beyond its credit, if that is not what it was told; looked at now and then.
    async fn backlog(&mut self) -> Result<Option<ToEndpoint>, ControllerError> {
        let now = Instant::now();
        let due = self.backlog.looked.map_or(now, |looked| looked + BACKLOG_PERIOD);
        if now < due {
            if self.backlog.next_look == NextLook::None {
                self.backlog.next_look = NextLook::Nudge;
                self.nudge_in(due - now);
            }
            return Ok(None);
        }
        (self.backlog.looked, self.backlog.next_look) = (Some(now), NextLook::None);
        let pools = self.controller.store.backlog(self.holder.endpoint, self.controller.store.now()).await?;
        if pools == self.backlog.pools {
            return Ok(None);
        }
        self.backlog.pools.clone_from(&pools);
        Ok(Some(ToEndpoint::Backlog(pools)))
    }

    async fn beat(
        &mut self,
        number: u64,
        status: String,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<ToEndpoint>, ControllerError> {
        at_most("bytes of status", status.len(), LARGEST_STATUS)?;
        at_most("attempts", attempts.len(), MOST_ATTEMPTS)?;
        let now = self.controller.store.now();
        self.process.until = self.controller.name_end();
        let until = self.controller.lease_end();
        match self.controller.store.beat(self.holder, self.process.clone(), status, now).await? {
            Claim::Granted => {}
            Claim::Held(held) => return Ok(vec![ToEndpoint::Replaced { session: held.id, host: held.host }]),
            // nobody answers a heartbeat so
            Claim::Open | Claim::NameTaken { .. } => {
                return Err(ControllerError::NoSession { endpoint: self.holder.endpoint, session: self.process.id });
            }
        }
        if self.heard == Heard::Nothing {
            self.reclaim(&attempts).await?;
            self.heard = Heard::Heartbeat;
        }
        let changes = self.controller.store.renew(self.holder, attempts.clone(), until).await?;
        self.tell_refused("renewal", &attempts, &changes);
        let renewed = std::iter::zip(&attempts, &changes).filter(|(_, changed)| changed.is_ok());
        self.known = renewed.map(|(attempt, _)| *attempt).collect();
        let mut answers = stops(&attempts, &changes);
        answers.push(ToEndpoint::Renewed { number });
        // what was put off, or nudged while no session was open
        self.empty.clear();
        answers.extend(self.lease().await?);
        answers.extend(self.backlog().await?);
        Ok(answers)
    }

    async fn report(&mut self, number: u64, reports: Vec<Reported>) -> Result<Vec<ToEndpoint>, ControllerError> {
        at_most("reports", reports.len(), MOST_ATTEMPTS)?;
        let now = self.controller.store.now();
        let attempts: Vec<AttemptId> = reports.iter().map(|report| report.attempt).collect();
        let reports = reports.into_iter().map(|Reported { attempt, outcome, result }| Report {
            attempt,
            outcome,
            result,
            artifacts: Vec::new(),
        });
        let (changes, mark) = self.controller.store.report(self.holder, reports.collect(), now).await?;
        self.tell_refused("report", &attempts, &changes);
        for (attempt, changed) in std::iter::zip(&attempts, &changes) {
            if self.known.remove(attempt) {
                self.controller.bus.publish(Signal::ProgressOver(*attempt));
            }
            match changed {
                Ok(life) => self.nudge_when_due(life),
                Err(ChangeError::Unknown | ChangeError::Refused(_) | ChangeError::OldEpoch) => {}
                Err(error @ (ChangeError::LargeResult { .. } | ChangeError::LargeArtifacts { .. })) => {
                    tracing::warn!(%attempt, %error, "a report was refused");
                }
            }
        }
        self.controller.bus.publish(Signal::Events);
        // whoever has left off sending them has ended the session: the endpoint says it again
        let _ended = self.written.send((mark, ToEndpoint::Recorded { number, attempts })).await;
        Ok(Vec::new())
    }

    /// What was said of attempts that the endpoint does not hold, in one line a message. What it says once more, of
    /// attempts that are over, is no claim to anything.
    fn tell_refused(&self, what: &'static str, attempts: &[AttemptId], changes: &[Changed]) {
        let foreign = |changed: &Changed| match changed {
            Err(ChangeError::Unknown | ChangeError::OldEpoch | ChangeError::Refused(Refusal::Foreign)) => true,
            Ok(_)
            | Err(ChangeError::Refused(_) | ChangeError::LargeResult { .. } | ChangeError::LargeArtifacts { .. }) => {
                false
            }
        };
        let unborn = |changed: &Changed| match changed {
            Err(ChangeError::Refused(Refusal::Fenced { reported, newest })) => Some(*reported) > *newest,
            Ok(_)
            | Err(
                ChangeError::Unknown
                | ChangeError::OldEpoch
                | ChangeError::Refused(_)
                | ChangeError::LargeResult { .. }
                | ChangeError::LargeArtifacts { .. },
            ) => false,
        };
        if let Some((attempt, _)) = std::iter::zip(attempts, changes).find(|(_, changed)| unborn(changed)) {
            let endpoint = self.holder.endpoint;
            tracing::error!(
                %endpoint, %attempt,
                "the endpoint knows an attempt that this store has not given out: the store was restored from a backup; what \
                 was done since is done again"
            );
        }
        let mut refused = std::iter::zip(attempts, changes).filter(|(_, changed)| foreign(changed));
        if let Some((attempt, _)) = refused.next() {
            let (endpoint, others) = (self.holder.endpoint, refused.count());
            tracing::warn!(%endpoint, %attempt, others, what, "refused: the endpoint does not hold the attempt");
        }
    }

    /// A task that is to be tried again later is looked for then.
    fn nudge_when_due(&self, life: &Life) {
        let Phase::Queued { not_before } = life.phase else { return };
        self.nudge_in(not_before.since(self.controller.store.now()));
    }

    fn nudge_in(&self, wait: Duration) {
        let (bus, endpoint) = (Arc::clone(&self.controller.bus), self.holder.endpoint);
        // ends by itself: a retry's delay is bounded; the session may be another by then
        spawn("nudge", async move {
            tokio::time::sleep(wait).await;
            bus.publish(Signal::Work(endpoint));
        });
    }

    fn settle(&self, attempts: &[AttemptId], changes: &[Changed]) -> Vec<ToEndpoint> {
        self.controller.bus.publish(Signal::Events);
        stops(attempts, changes)
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        // the next session says anew how far its attempts are
        self.known.iter().for_each(|attempt| self.controller.bus.publish(Signal::ProgressOver(*attempt)));
    }
}

/// Those attempts that are to end.
fn stops(attempts: &[AttemptId], changes: &[Changed]) -> Vec<ToEndpoint> {
    let reason = |changed: &Changed| match changed {
        Ok(life) => match life.hold().map(|hold| hold.wish) {
            Some(Wish::Cancel) => Some(StopReason::Cancelled),
            Some(Wish::Deadline) => Some(StopReason::Deadline),
            Some(Wish::Finish) | None => None,
        },
        Err(
            ChangeError::Unknown
            | ChangeError::Refused(_)
            | ChangeError::LargeResult { .. }
            | ChangeError::LargeArtifacts { .. },
        ) => Some(StopReason::Fenced),
        // a newer connection knows
        Err(ChangeError::OldEpoch) => None,
    };
    let stops: Vec<Stop> = std::iter::zip(attempts, changes)
        .filter_map(|(&attempt, changed)| Some(Stop { attempt, reason: reason(changed)? }))
        .collect();
    if stops.is_empty() { Vec::new() } else { vec![ToEndpoint::Stop(stops)] }
}
