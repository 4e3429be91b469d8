//! The messages of an endpoint's session.

use super::{WireError, known, named, required};
use crate::ids::AttemptId;
use crate::protocol::session::{
    Credit, FromEndpoint, Offer, PoolBacklog, Progress, Reported, Stop, StopReason, ToEndpoint,
};
use crate::rpc::wire;
use crate::task::names::printable;
use crate::task::pool::{Lane, PoolKey};

/// The longest name of a step that is kept.
const LONGEST_STEP: usize = 100;

/// A message of an endpoint in a session that is open; the greeting and the goodbye are the service's own.
///
/// # Errors
/// A field that is missing or wrong, by its place.
pub(in crate::rpc) fn from_endpoint(message: wire::from_endpoint::Message) -> Result<Option<FromEndpoint>, WireError> {
    use wire::from_endpoint::Message as Wire;
    let message = match message {
        Wire::Hello(_) => return Err(WireError::new("hello", "comes once, as the first message")),
        Wire::Goodbye(wire::Goodbye {}) => return Ok(None),
        Wire::Credit(message) => FromEndpoint::Credit(credit(message)?),
        // its parts were put together before
        Wire::Heartbeat(wire::Heartbeat { status, attempts: ids, more: _ }) => {
            FromEndpoint::Heartbeat { status, attempts: attempts("heartbeat.attempts", ids)? }
        }
        Wire::Started(wire::Started { attempts: ids }) => FromEndpoint::Started(attempts("started.attempts", ids)?),
        Wire::Progress(message) => FromEndpoint::Progress(progress(message)?),
        Wire::Reports(wire::Reports { reports }) => {
            let reports = reports.into_iter().map(Reported::try_from).collect::<Result<_, _>>();
            FromEndpoint::Reports(reports.map_err(|error| error.within("reports"))?)
        }
    };
    Ok(Some(message))
}

impl From<FromEndpoint> for wire::from_endpoint::Message {
    fn from(message: FromEndpoint) -> Self {
        match message {
            FromEndpoint::Credit(credit) => Self::Credit(wired_credit(&credit)),
            FromEndpoint::Heartbeat { status, attempts } => {
                Self::Heartbeat(wire::Heartbeat { status, attempts: wired(attempts), more: false })
            }
            FromEndpoint::Started(attempts) => Self::Started(wire::Started { attempts: wired(attempts) }),
            FromEndpoint::Progress(progress) => Self::Progress(wired_progress(progress)),
            FromEndpoint::Reports(reports) => {
                Self::Reports(wire::Reports { reports: reports.into_iter().map(Into::into).collect() })
            }
        }
    }
}

impl TryFrom<wire::ToEndpoint> for ToEndpoint {
    type Error = WireError;

    fn try_from(message: wire::ToEndpoint) -> Result<Self, WireError> {
        use wire::to_endpoint::Message as Wire;
        Ok(match required("message", message.message)? {
            Wire::Leases(wire::Leases { leases }) => {
                let leases = leases.into_iter().map(Offer::try_from).collect::<Result<_, _>>();
                Self::Leases(leases.map_err(|error| error.within("leases"))?)
            }
            Wire::Renewed(wire::Renewed { number }) => Self::Renewed { number },
            Wire::Recorded(wire::Recorded { number, attempts: ids }) => {
                Self::Recorded { number, attempts: attempts("recorded.attempts", ids)? }
            }
            Wire::Stop(message) => Self::Stop(stops(message)?),
            Wire::Backlog(wire::Backlog { pools }) => {
                Self::Backlog(pools.into_iter().map(backlog).collect::<Result<_, _>>()?)
            }
            Wire::Replaced(wire::Replaced { session, host }) => {
                Self::Replaced { session: named("replaced.session", session)?, host }
            }
        })
    }
}

impl From<ToEndpoint> for wire::ToEndpoint {
    fn from(message: ToEndpoint) -> Self {
        use wire::to_endpoint::Message as Wire;
        let message = match message {
            ToEndpoint::Leases(leases) => {
                Wire::Leases(wire::Leases { leases: leases.into_iter().map(Into::into).collect() })
            }
            ToEndpoint::Renewed { number } => Wire::Renewed(wire::Renewed { number }),
            ToEndpoint::Recorded { number, attempts } => {
                Wire::Recorded(wire::Recorded { number, attempts: wired(attempts) })
            }
            ToEndpoint::Stop(stops) => Wire::Stop(wire::Stop { attempts: stops.into_iter().map(Into::into).collect() }),
            ToEndpoint::Backlog(pools) => {
                let pools = pools.into_iter().map(|PoolBacklog { pool, tasks }| wire::PoolBacklog {
                    user_endpoint_config: pool.canonical(),
                    tasks,
                });
                Wire::Backlog(wire::Backlog { pools: pools.collect() })
            }
            ToEndpoint::Replaced { session, host } => {
                Wire::Replaced(wire::Replaced { session: session.to_string(), host })
            }
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<wire::StopOne> for Stop {
    type Error = WireError;

    fn try_from(stop: wire::StopOne) -> Result<Self, WireError> {
        let wire::StopOne { attempt, reason } = stop;
        let reason = match known::<wire::StopReason>("stop.reason", reason)? {
            // the gentlest reading of a reason that is not said
            wire::StopReason::Unspecified | wire::StopReason::Cancelled => StopReason::Cancelled,
            wire::StopReason::Deadline => StopReason::Deadline,
            wire::StopReason::Fenced => StopReason::Fenced,
        };
        Ok(Self { attempt: required("stop.attempt", attempt)?.try_into()?, reason })
    }
}

impl From<Stop> for wire::StopOne {
    fn from(stop: Stop) -> Self {
        let Stop { attempt, reason } = stop;
        let reason = match reason {
            StopReason::Cancelled => wire::StopReason::Cancelled,
            StopReason::Deadline => wire::StopReason::Deadline,
            StopReason::Fenced => wire::StopReason::Fenced,
        };
        Self { attempt: Some(attempt.into()), reason: reason.into() }
    }
}

fn credit(message: wire::Credit) -> Result<Credit, WireError> {
    let wire::Credit { login, pools } = message;
    let pools = pools.into_iter().map(|wire::PoolCredit { pool, tasks }| {
        let pool = PoolKey::from_bytes(&pool).map_err(|error| WireError::new("credit.pools", error))?;
        Ok((Lane::Pool(pool), tasks))
    });
    let mut credit = pools.collect::<Result<Credit, WireError>>()?;
    credit.insert(Lane::Login, login);
    Ok(credit)
}

fn wired_credit(credit: &Credit) -> wire::Credit {
    let pools = credit.iter().filter_map(|(lane, tasks)| match lane {
        Lane::Login => None,
        Lane::Pool(pool) => Some(wire::PoolCredit { pool: pool.bytes().to_vec(), tasks: *tasks }),
    });
    wire::Credit { login: credit.get(&Lane::Login).copied().unwrap_or(0), pools: pools.collect() }
}

fn backlog(waiting: wire::PoolBacklog) -> Result<PoolBacklog, WireError> {
    let wire::PoolBacklog { user_endpoint_config, tasks } = waiting;
    Ok(PoolBacklog { pool: named("backlog.user_endpoint_config", user_endpoint_config)?, tasks })
}

pub(super) fn progress(message: wire::AttemptProgress) -> Result<Progress, WireError> {
    let wire::AttemptProgress { attempt, progress } = message;
    let wire::Progress { step, done, total } = required("progress.progress", progress)?;
    let step = printable(&step, LONGEST_STEP);
    Ok(Progress { attempt: required("progress.attempt", attempt)?.try_into()?, step, done, total })
}

pub(super) fn wired_progress(progress: Progress) -> wire::AttemptProgress {
    let Progress { attempt, step, done, total } = progress;
    wire::AttemptProgress { attempt: Some(attempt.into()), progress: Some(wire::Progress { step, done, total }) }
}

pub(super) fn stops(message: wire::Stop) -> Result<Vec<Stop>, WireError> {
    let wire::Stop { attempts } = message;
    attempts.into_iter().map(Stop::try_from).collect()
}

pub(super) fn attempts(place: &str, ids: Vec<wire::AttemptId>) -> Result<Vec<AttemptId>, WireError> {
    ids.into_iter().map(AttemptId::try_from).collect::<Result<_, _>>().map_err(|error| error.within(place))
}

pub(in crate::rpc) fn wired(attempts: Vec<AttemptId>) -> Vec<wire::AttemptId> {
    attempts.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{AttemptNumber, SessionId, TaskId};
    use crate::task::life::Outcome;
    use crate::task::pool::Pool;
    use crate::task::result::TaskResult;
    use crate::task::spec::TaskSpec;

    fn attempt() -> AttemptId {
        AttemptId { task: TaskId::new(Uuid::from_u128(7)), number: AttemptNumber::FIRST.next() }
    }

    #[test]
    fn what_an_endpoint_says_survives_the_wire() {
        let report = Reported { attempt: attempt(), outcome: Outcome::Succeeded, result: TaskResult::default() };
        for message in [
            FromEndpoint::Credit([(Lane::Login, 1), (Lane::Pool(PoolKey::DEFAULT), 3)].into()),
            FromEndpoint::Heartbeat { status: "{}".into(), attempts: vec![attempt()] },
            FromEndpoint::Started(vec![attempt()]),
            FromEndpoint::Progress(Progress { attempt: attempt(), step: "correlating".into(), done: 1, total: 2 }),
            FromEndpoint::Reports(vec![report]),
        ] {
            assert_eq!(from_endpoint(message.clone().into()).expect("our own"), Some(message));
        }
        assert_eq!(from_endpoint(wire::from_endpoint::Message::Goodbye(wire::Goodbye {})), Ok(None));
        let again = from_endpoint(wire::from_endpoint::Message::Hello(wire::Hello::default()));
        assert_eq!(again.expect_err("once").to_string(), "hello: comes once, as the first message");
    }

    #[test]
    fn what_a_controller_says_survives_the_wire() {
        let (spec, pool) = (TaskSpec::Nothing, PoolKey::DEFAULT);
        let lease = Offer { attempt: attempt(), spec, pool, time_left: None, crashes: 0 };
        let pool: Pool = r#"{"queue":"demand"}"#.parse().expect("a pool");
        let elsewhere = Offer { pool: pool.key(), ..lease.clone() };
        let stops = [StopReason::Cancelled, StopReason::Deadline, StopReason::Fenced];
        for message in [
            ToEndpoint::Leases(vec![lease, elsewhere]),
            ToEndpoint::Backlog(vec![PoolBacklog { pool, tasks: 7 }]),
            ToEndpoint::Renewed { number: 4 },
            ToEndpoint::Recorded { number: 5, attempts: vec![attempt()] },
            ToEndpoint::Stop(stops.map(|reason| Stop { attempt: attempt(), reason }).into()),
            ToEndpoint::Replaced { session: SessionId::new(Uuid::from_u128(1)), host: "login2".into() },
        ] {
            assert_eq!(ToEndpoint::try_from(wire::ToEndpoint::from(message.clone())).expect("our own"), message);
        }
        assert!(ToEndpoint::try_from(wire::ToEndpoint { message: None }).is_err());
    }

    #[test]
    fn a_step_is_short_and_printable() {
        let progress = wire::Progress { step: format!("a\x1b[2J{}", "b".repeat(1000)), done: 0, total: 0 };
        let message = wire::AttemptProgress { attempt: Some(attempt().into()), progress: Some(progress) };
        let heard = from_endpoint(wire::from_endpoint::Message::Progress(message)).expect("heard");
        assert!(
            matches!(heard, Some(FromEndpoint::Progress(p)) if p.step.len() == LONGEST_STEP && p.step.starts_with("a[2J"))
        );
    }
}
