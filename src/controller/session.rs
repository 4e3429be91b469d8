//! One session of an endpoint: it says what it takes and how it goes, and gets tasks. Whatever carries the messages
//! calls [`Session::heard`] for each that comes in, waits for [`Session::nudged`], and sends what that and
//! [`Session::told`] return.

use std::fmt;
use std::sync::Arc;

use super::access::Caller;
use super::directory::Entry;
use super::exchange::Mailbox;
use super::flows::at_most;
use super::{Controller, ControllerError};
use crate::ids::{AttemptId, EndpointId, SessionId};
use crate::runtime::tasks::spawn;
use crate::store::{ChangeError, Changed, Claim, EndpointRecord, EndpointSession, LeaseRequest, Report, Role, Store};
use crate::task::life::{Life, Phase, Wish};
use crate::task::names::{EndpointName, Group};
use crate::task::retry;
use crate::task::session::{Credit, FromEndpoint, Reported, Stop, StopReason, ToEndpoint};
use crate::task::spec::{Kind, Place};

/// Tasks that are leased in one message.
const MOST_LEASED: u32 = 256;

/// Attempts of one message.
const MOST_ATTEMPTS: usize = 10_000;

/// Bytes of what an endpoint says of itself: a few hundred blocks and workers.
const LARGEST_STATUS: usize = 1 << 20;

/// A process that wants to be an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// What it is called.
    pub name: EndpointName,
    /// Who else may see it and submit to it.
    pub group: Option<Group>,
    /// The process.
    pub session: SessionId,
    /// Where it runs.
    pub host: String,
}

/// A session that is open.
pub struct Session<S> {
    controller: Arc<Controller<S>>,
    mailbox: Arc<Mailbox>,
    endpoint: EndpointId,
    holder: EndpointSession,
    credit: Credit,
}

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, holder, credit, .. } = self;
        f.debug_struct("Session").field("endpoint", endpoint).field("holder", holder).field("credit", credit).finish()
    }
}

impl<S: Store> Controller<S> {
    /// Registers an endpoint and gives its name to a process, unless another has it.
    ///
    /// # Errors
    /// The caller may not, the endpoint is somebody else's, another process is it.
    pub async fn register(&self, caller: &Caller, registration: Registration) -> Result<(), ControllerError> {
        caller.needs(Role::Endpoint)?;
        let Registration { endpoint, name, group, session, host } = registration;
        if let Some(group) = &group {
            caller.member_of(group)?;
        }
        if let Some(known) = self.directory.entry(endpoint).filter(|known| known.owner != *caller.subject()) {
            let (name, owner) = (known.name.to_string(), known.owner.to_string());
            return Err(ControllerError::ForeignEndpoint { name, owner });
        }
        let now = self.clock.now();
        let holder = EndpointSession { id: session, host, until: now.after(self.terms.lease) };
        let owner = caller.subject().clone();
        let entry = Entry { name: name.clone(), owner: owner.clone(), group: group.clone() };
        let (status, shown) = (String::new(), name.to_string());
        let record = EndpointRecord { id: endpoint, name, owner, group, session: None, status, seen: now };
        match self.store.claim(record, holder, now).await? {
            Claim::Granted => {
                self.directory.set(endpoint, entry);
                tracing::info!(%endpoint, name = shown, %session, "an endpoint registered");
                Ok(())
            }
            Claim::Held(held) => Err(ControllerError::EndpointHeld { name: shown, held }),
            Claim::Open => Err(ControllerError::NoSession { endpoint, session }),
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
    ) -> Result<Self, ControllerError> {
        caller.needs(Role::Endpoint)?;
        let none = ControllerError::NoSession { endpoint, session };
        if controller.directory.entry(endpoint).is_none_or(|entry| entry.owner != *caller.subject()) {
            return Err(none);
        }
        let mailbox = controller.exchange.mailbox(endpoint);
        let holder = EndpointSession { id: session, host, until: controller.lease_end() };
        let session = Self { controller, mailbox, endpoint, holder, credit: Credit::default() };
        match session.controller.store.endpoints().await?.into_iter().find(|record| record.id == endpoint) {
            Some(EndpointRecord { session: Some(held), .. }) if held.id == session.holder.id => Ok(session),
            Some(_) | None => Err(none),
        }
    }

    /// Does what a message asks; returns what is to be answered.
    ///
    /// # Errors
    /// The store fails, or the message is too large. The session is over then; the endpoint opens another.
    pub async fn heard(&mut self, number: u64, message: FromEndpoint) -> Result<Vec<ToEndpoint>, ControllerError> {
        match message {
            FromEndpoint::Credit(more) => {
                self.credit = self.credit.and(more);
                self.lease().await
            }
            FromEndpoint::Heartbeat { status, attempts } => self.beat(number, status, attempts).await,
            FromEndpoint::Started(attempts) => {
                at_most("attempts", attempts.len(), MOST_ATTEMPTS)?;
                let changes = self.controller.store.start(attempts.clone(), self.controller.clock.now()).await?;
                Ok(self.settle(&attempts, &changes))
            }
            FromEndpoint::Progress(progress) => {
                self.controller.exchange.set_progress(progress);
                Ok(Vec::new())
            }
            FromEndpoint::Reports(reports) => self.report(number, reports).await,
        }
    }

    /// Waits for a nudge only; [`Self::told`] then says what there is. Nothing is lost when it is dropped.
    pub fn nudged(&self) -> impl Future<Output = ()> + Send + 'static {
        let mailbox = Arc::clone(&self.mailbox);
        async move { mailbox.nudged().await }
    }

    /// What there is to tell after a nudge.
    ///
    /// # Errors
    /// The store fails.
    pub async fn told(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
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
        Ok(self.controller.store.release(self.endpoint, self.holder.id).await?)
    }

    async fn lease(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
        let mut answers = Vec::new();
        for place in [Place::Slot, Place::Login] {
            let wanted = self.credit.at(place);
            if *wanted == 0 {
                continue;
            }
            let now = self.controller.clock.now();
            let request = LeaseRequest {
                endpoint: self.endpoint,
                session: self.holder.id,
                most: (*wanted).min(MOST_LEASED),
                kinds: Kind::ALL.into_iter().filter(|kind| kind.place() == place).collect(),
                until: now.after(self.controller.terms.lease),
                now,
            };
            let leased = self.controller.store.lease(request).await?;
            if leased.is_empty() {
                continue;
            }
            *wanted = wanted.saturating_sub(leased.len() as u32);
            self.controller.exchange.changed(leased.iter().map(|lease| lease.attempt.task));
            answers.push(ToEndpoint::Tasks(leased));
        }
        Ok(answers)
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
        self.holder.until = self.controller.lease_end();
        let until = self.holder.until;
        match self.controller.store.beat(self.endpoint, self.holder.clone(), status, now).await? {
            Claim::Granted => {}
            Claim::Held(held) => return Ok(vec![ToEndpoint::Replaced { session: held.id, host: held.host }]),
            Claim::Open => {
                return Err(ControllerError::NoSession { endpoint: self.endpoint, session: self.holder.id });
            }
        }
        let changes = self.controller.store.renew(attempts.clone(), until).await?;
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
        let reports = reports.into_iter().map(|Reported { attempt, outcome, result }| {
            // spread over the tasks that failed together; the number of earlier failures is the attempt's at most
            let spread = attempt.task.uuid().as_bytes()[15];
            let retry_at = now.after(retry::delay(attempt.number.get() - 1, spread));
            Report { attempt, outcome, result, retry_at }
        });
        let changes = self.controller.store.report(reports.collect(), now).await?;
        for (attempt, changed) in std::iter::zip(&attempts, &changes) {
            self.controller.exchange.forget_progress(attempt.task);
            match changed {
                Ok(life) => self.nudge_when_due(life),
                Err(ChangeError::Unknown | ChangeError::Refused(_)) => {}
                Err(error @ ChangeError::LargeResult { .. }) => {
                    tracing::warn!(%attempt, %error, "a report was refused");
                }
            }
        }
        self.controller.exchange.changed(attempts.iter().map(|attempt| attempt.task));
        Ok(vec![ToEndpoint::Recorded { number, attempts }])
    }

    /// A task that is to be tried again later is looked for then.
    fn nudge_when_due(&self, life: &Life) {
        let Phase::Queued { not_before } = life.phase else { return };
        let wait = not_before.since(self.controller.clock.now());
        let mailbox = Arc::clone(&self.mailbox);
        // ends by itself: a retry's delay is bounded
        spawn("retry nudge", async move {
            tokio::time::sleep(wait).await;
            mailbox.nudge();
        });
    }

    fn settle(&self, attempts: &[AttemptId], changes: &[Changed]) -> Vec<ToEndpoint> {
        self.controller.exchange.changed(attempts.iter().map(|attempt| attempt.task));
        stops(attempts, changes)
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
        Err(ChangeError::Unknown | ChangeError::Refused(_) | ChangeError::LargeResult { .. }) => {
            Some(StopReason::Fenced)
        }
    };
    let stops: Vec<Stop> = std::iter::zip(attempts, changes)
        .filter_map(|(&attempt, changed)| Some(Stop { attempt, reason: reason(changed)? }))
        .collect();
    if stops.is_empty() { Vec::new() } else { vec![ToEndpoint::Stop(stops)] }
}
