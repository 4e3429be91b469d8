//! One session of an endpoint: it says what it takes and how it goes, and gets tasks. Whatever carries the messages
//! calls [`Session::on_message`] for each that comes in, waits for [`Session::nudged`], and sends what that and
//! [`Session::pending`] return, and what its [`Acks`] have.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::access::Caller;
use super::acks::{Acks, Written};
use super::bus::{Change, Mailbox};
use super::directory::Entry;
use super::tasks::at_most;
use super::{Controller, ControllerError};
use crate::ids::{AttemptId, EndpointId, SessionId};
use crate::protocol::session::{
    Account, CreditChange, FromEndpoint, Leased, Registration, Reported, Stop, StopReason, ToEndpoint,
};
use crate::runtime::tasks::spawn;
use crate::store::{
    ChangeError, Changed, Claim, EndpointRecord, EndpointSession, Holder, LeaseRequest, Page, Report, Role, StateName,
    Store, TaskFilter,
};
use crate::task::failure::Loss;
use crate::task::life::{Life, Outcome, Phase, Wish};
use crate::task::result::TaskResult;
use crate::task::spec::{Kind, Place};

/// Tasks that are leased in one message.
const MOST_LEASED: u32 = 256;

/// Attempts of one message.
const MOST_ATTEMPTS: usize = 10_000;

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
    queue: Queue,
    /// Attempts that are its own, as far as it has said so or they were leased to it: of others it tells no progress.
    known: HashSet<AttemptId>,
    heard: Heard,
    written: Written,
}

/// What is known of the tasks that wait for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// There may be some.
    Unknown,
    /// There was none when it was last looked, and no nudge since.
    Empty,
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
        let now = self.clock.now();
        let holder = EndpointSession { id: session, host, until: now.after(self.policy.name) };
        let owner = caller.subject().clone();
        let entry = Entry { name: name.clone(), owner: owner.clone(), group: group.clone() };
        let (status, shown) = (String::new(), name.to_string());
        let record = EndpointRecord { id: endpoint, name, owner, group, session: None, status, seen: now };
        match self.store.claim(record, holder, replaces, now).await? {
            Claim::Granted => {
                self.directory.set(endpoint, entry);
                tracing::info!(%endpoint, name = shown, %session, "an endpoint registered");
                Ok(())
            }
            Claim::Held(held) => Err(ControllerError::EndpointHeld { name: shown, held }),
            Claim::Open => Err(ControllerError::NoSession { endpoint, session }),
        }
    }

    /// As long as there are tasks, a message's worth at a time: what is left of the credit waits for the next nudge.
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Vec<Leased>>, ControllerError> {
        let mut batches = Vec::new();
        let mut credit = request.most;
        while credit > 0 {
            let most = credit.min(MOST_LEASED);
            let found = self.store.lease(LeaseRequest { most, ..request.clone() }).await?;
            let all = found.len() as u32 == most;
            credit -= most.min(found.len() as u32);
            if !found.is_empty() {
                batches.push(found);
            }
            if !all {
                break;
            }
        }
        Ok(batches)
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
        if controller.directory.entry(endpoint).is_none_or(|entry| entry.owner != *caller.subject()) {
            return Err(none);
        }
        // earlier connections are refused from now on
        let Some(epoch) = controller.store.connect(endpoint, session).await? else { return Err(none) };
        let holder = Holder { endpoint, epoch };
        let mailbox = controller.bus.open(endpoint);
        let process = EndpointSession { id: session, host, until: controller.name_end() };
        let (account, known) = (Account::default(), HashSet::new());
        let (queue, heard) = (Queue::Unknown, Heard::Nothing);
        let (written, acks) = Acks::new(Arc::clone(&controller));
        Ok((Self { controller, mailbox, holder, process, account, queue, known, heard, written }, acks))
    }

    /// Does what a message asks; returns what is to be answered.
    ///
    /// # Errors
    /// The store fails, or the message is too large. The session is over then; the endpoint opens another.
    pub async fn on_message(&mut self, number: u64, message: FromEndpoint) -> Result<Vec<ToEndpoint>, ControllerError> {
        self.is_newest()?;
        match message {
            FromEndpoint::Credit(credit) => match (self.account.update(credit), self.queue) {
                (CreditChange::More, Queue::Unknown) => self.lease().await,
                (CreditChange::More, Queue::Empty) | (CreditChange::NoMore, Queue::Unknown | Queue::Empty) => {
                    Ok(Vec::new())
                }
            },
            FromEndpoint::Heartbeat { status, attempts } => self.beat(number, status, attempts).await,
            FromEndpoint::Started(attempts) => {
                at_most("attempts", attempts.len(), MOST_ATTEMPTS)?;
                let changes =
                    self.controller.store.start(self.holder, attempts.clone(), self.controller.clock.now()).await?;
                Ok(self.settle(&attempts, &changes))
            }
            FromEndpoint::Progress(progress) => {
                if self.known.contains(&progress.attempt) {
                    self.controller.bus.set_progress(progress);
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
        let mut answers = self.lease().await?;
        if !stops.is_empty() {
            answers.push(ToEndpoint::Stop(stops));
        }
        Ok(answers)
    }

    /// Gives the name back: the process ends.
    ///
    /// # Errors
    /// The store fails.
    pub async fn close(self) -> Result<(), ControllerError> {
        // a newer session of the same process goes on
        self.is_newest()?;
        Ok(self.controller.store.release(self.holder.endpoint, self.process.id).await?)
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
            let page = Page { before, most: MOST_ATTEMPTS as u32 };
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
            let now = self.controller.clock.now();
            let reports = lost.iter().map(|&attempt| Report {
                attempt,
                outcome: Outcome::Lost(Loss::Returned),
                result: TaskResult::default(),
            });
            self.controller.store.report(self.holder, reports.collect(), now).await?;
            self.controller.bus.changed(lost.iter().map(|attempt| Change::of(attempt.task)));
        }
    }

    async fn lease(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
        // a nudge that comes from now on is heard later, and has it looked again
        self.queue = Queue::Empty;
        let controller = Arc::clone(&self.controller);
        let (slots, login) = (self.request(Place::Slot), self.request(Place::Login));
        let (slots, login) = tokio::join!(controller.lease(slots), controller.lease(login));
        let mut answers = Vec::new();
        for (place, batches) in [(Place::Slot, slots?), (Place::Login, login?)] {
            self.account.count(place, batches.iter().map(Vec::len).sum::<usize>() as u64);
            if self.account.left(place) == 0 {
                self.queue = Queue::Unknown;
            }
            for leased in batches {
                self.known.extend(leased.iter().map(|lease| lease.attempt));
                let tasks = leased.iter().map(|lease| lease.attempt.task);
                self.controller.bus.changed(tasks.map(Change::to(StateName::Leased)));
                answers.push(ToEndpoint::Leases(leased));
            }
        }
        Ok(answers)
    }

    /// For what there is credit for.
    fn request(&self, place: Place) -> LeaseRequest {
        LeaseRequest {
            holder: self.holder,
            most: u32::try_from(self.account.left(place)).unwrap_or(u32::MAX),
            kinds: Kind::ALL.into_iter().filter(|kind| kind.place() == place).collect(),
            until: self.controller.lease_end(),
            now: self.controller.clock.now(),
        }
    }

    async fn beat(
        &mut self,
        number: u64,
        status: String,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<ToEndpoint>, ControllerError> {
        at_most("bytes of status", status.len(), LARGEST_STATUS)?;
        at_most("attempts", attempts.len(), MOST_ATTEMPTS)?;
        let now = self.controller.clock.now();
        self.process.until = self.controller.name_end();
        let until = self.controller.lease_end();
        match self.controller.store.beat(self.holder, self.process.clone(), status, now).await? {
            Claim::Granted => {}
            Claim::Held(held) => return Ok(vec![ToEndpoint::Replaced { session: held.id, host: held.host }]),
            Claim::Open => {
                return Err(ControllerError::NoSession { endpoint: self.holder.endpoint, session: self.process.id });
            }
        }
        if self.heard == Heard::Nothing {
            self.reclaim(&attempts).await?;
            self.heard = Heard::Heartbeat;
        }
        let changes = self.controller.store.renew(self.holder, attempts.clone(), until).await?;
        let renewed = std::iter::zip(&attempts, &changes).filter(|(_, changed)| changed.is_ok());
        self.known = renewed.map(|(attempt, _)| *attempt).collect();
        let mut answers = stops(&attempts, &changes);
        answers.push(ToEndpoint::Renewed { number, until });
        // what was put off, or nudged while no session was open
        answers.extend(self.lease().await?);
        Ok(answers)
    }

    async fn report(&mut self, number: u64, reports: Vec<Reported>) -> Result<Vec<ToEndpoint>, ControllerError> {
        at_most("reports", reports.len(), MOST_ATTEMPTS)?;
        let now = self.controller.clock.now();
        let attempts: Vec<AttemptId> = reports.iter().map(|report| report.attempt).collect();
        let reports =
            reports.into_iter().map(|Reported { attempt, outcome, result }| Report { attempt, outcome, result });
        let (changes, mark) = self.controller.store.report(self.holder, reports.collect(), now).await?;
        for (attempt, changed) in std::iter::zip(&attempts, &changes) {
            self.known.remove(attempt);
            self.controller.bus.forget_progress(*attempt);
            match changed {
                Ok(life) => self.nudge_when_due(life),
                Err(ChangeError::Unknown | ChangeError::Refused(_) | ChangeError::OldEpoch) => {}
                Err(error @ ChangeError::LargeResult { .. }) => {
                    tracing::warn!(%attempt, %error, "a report was refused");
                }
            }
        }
        self.controller.bus.changed(hints(&attempts, &changes));
        // whoever has left off sending them has ended the session: the endpoint says it again
        let _ended = self.written.send((mark, ToEndpoint::Recorded { number, attempts })).await;
        Ok(Vec::new())
    }

    /// A task that is to be tried again later is looked for then.
    fn nudge_when_due(&self, life: &Life) {
        let Phase::Queued { not_before } = life.phase else { return };
        let wait = not_before.since(self.controller.clock.now());
        let (controller, endpoint) = (Arc::clone(&self.controller), self.holder.endpoint);
        // ends by itself: a retry's delay is bounded; the session may be another by then
        spawn("retry nudge", async move {
            tokio::time::sleep(wait).await;
            controller.bus.nudge(endpoint);
        });
    }

    fn settle(&self, attempts: &[AttemptId], changes: &[Changed]) -> Vec<ToEndpoint> {
        self.controller.bus.changed(hints(attempts, changes));
        stops(attempts, changes)
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        // the next session says anew how far its attempts are
        self.known.iter().for_each(|attempt| self.controller.bus.forget_progress(*attempt));
    }
}

/// What watchers are told of attempts that changed.
fn hints(attempts: &[AttemptId], changes: &[Changed]) -> impl Iterator<Item = Change> {
    std::iter::zip(attempts, changes)
        .map(|(attempt, changed)| Change { task: attempt.task, state: changed.as_ref().ok().map(StateName::of) })
}

/// Those attempts that are to end.
fn stops(attempts: &[AttemptId], changes: &[Changed]) -> Vec<ToEndpoint> {
    let reason = |changed: &Changed| match changed {
        Ok(life) => match life.hold().map(|hold| hold.wish) {
            Some(Wish::Cancel) => Some(StopReason::Cancelled),
            Some(Wish::Deadline) => Some(StopReason::Deadline),
            Some(Wish::Finish) | None => None,
        },
        Err(ChangeError::Unknown | ChangeError::Refused(_) | ChangeError::LargeResult { .. }) => {
            Some(StopReason::Fenced)
        }
        // a newer connection knows
        Err(ChangeError::OldEpoch) => None,
    };
    let stops: Vec<Stop> = std::iter::zip(attempts, changes)
        .filter_map(|(&attempt, changed)| Some(Stop { attempt, reason: reason(changed)? }))
        .collect();
    if stops.is_empty() { Vec::new() } else { vec![ToEndpoint::Stop(stops)] }
}
