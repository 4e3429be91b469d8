//! The service for endpoints: registration, then one session.

use std::pin::Pin;
use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{LARGEST_MESSAGE, caller, invalid, refusal};
use crate::controller::session::Session;
use crate::controller::{Acks, Controller, ControllerError};
use crate::endpoint::ledger::MOST_SESSIONS;
use crate::ids::SessionId;
use crate::protocol::session::Registration;
use crate::protocol::session::ToEndpoint;
use crate::rpc::convert::WireError;
use crate::rpc::convert::session::from_endpoint;
use crate::rpc::convert::{host_name, named, optional, required};
use crate::rpc::version;
use crate::rpc::wire::{self, endpoints_server};
use crate::runtime::tasks::spawn;
use crate::store::Store;
use crate::task::time::whole_millis;

/// Answers that wait for an endpoint that reads slowly; then its session waits for it.
const ANSWERS: usize = 64;

/// The service.
pub(super) struct Endpoints<S> {
    pub(super) controller: Arc<Controller<S>>,
    pub(super) stopping: CancellationToken,
}

#[tonic::async_trait]
impl<S: Store> endpoints_server::Endpoints for Endpoints<S> {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::ToEndpoint, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterResponse>, Status> {
        let caller = caller(&request)?;
        let wire::RegisterRequest { versions, endpoint, name, group, session, host, replaces } = request.into_inner();
        let versions = required("versions", versions).map_err(invalid)?;
        let version = version::negotiate("endpoint", &versions)
            .map_err(|mismatch| Status::failed_precondition(mismatch.to_string()))?;
        let registration = Registration {
            endpoint: named("endpoint", endpoint).map_err(invalid)?,
            name: named("name", name).map_err(invalid)?,
            group: optional("group", group).map_err(invalid)?,
            session: named("session", session).map_err(invalid)?,
            host: host_name(&host),
            replaces: dead_sessions("replaces", replaces).map_err(invalid)?,
        };
        self.controller.register(&caller, registration).await.map_err(refusal)?;
        let policy = self.controller.policy();
        Ok(Response::new(wire::RegisterResponse {
            version,
            lease_ms: whole_millis(policy.lease),
            heartbeat_ms: whole_millis(policy.heartbeat),
            controller: version::own().program,
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::FromEndpoint>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller(&request)?;
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|first| first.message);
        let Some(wire::from_endpoint::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("a session begins with hello"));
        };
        let wire::Hello { endpoint, session, version: spoken, host } = hello;
        if !(version::OLDEST..=version::NEWEST).contains(&spoken) {
            return Err(Status::failed_precondition("the session's version is not the one that was agreed; register"));
        }
        let endpoint = named("hello.endpoint", endpoint).map_err(invalid)?;
        let session = named("hello.session", session).map_err(invalid)?;
        let controller = Arc::clone(&self.controller);
        let opened = Session::open(Arc::clone(&controller), &caller, endpoint, session, host_name(&host)).await;
        let (session, records) = opened.map_err(refusal)?;
        let (send, receive) = mpsc::channel(ANSWERS);
        // ends with the stream, or when the controller stops
        let stopping = self.stopping.clone();
        spawn("session", async move {
            tokio::select! {
                // what the endpoint was not told yet, it hears in its next session
                () = converse(session, messages, send.clone(), stopping) => {}
                // a session without a store is over
                () = acknowledge(records, send.clone()) => {}
                // what it had begun with the store takes effect
                denied = controller.until_denied(&caller) => {
                    tracing::info!(%endpoint, error = &denied as &dyn std::error::Error, "a session is ended");
                    // an endpoint that reads slowly hears the end without the reason
                    let _slow = send.try_send(Err(refusal(denied)));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// The endpoint's dead processes.
pub(super) fn dead_sessions(field: &'static str, sessions: Vec<String>) -> Result<Vec<SessionId>, WireError> {
    if sessions.len() > MOST_SESSIONS {
        return Err(WireError::new(field, format!("has more than {MOST_SESSIONS} sessions")));
    }
    sessions.into_iter().map(|session| named(field, session)).collect()
}

type Answers = mpsc::Sender<Result<wire::ToEndpoint, Status>>;

/// Tells what is on disk until the session ends or the store fails.
async fn acknowledge<S: Store>(mut records: Acks<S>, send: Answers) {
    loop {
        let answers = match records.next().await {
            Ok(answers) if answers.is_empty() => return,
            Ok(answers) => answers,
            Err(error) => {
                // the endpoint may be gone already
                let _ = send.send(Err(refusal(error))).await;
                return;
            }
        };
        for answer in answers {
            if send.send(Ok(answer.into())).await.is_err() {
                return;
            }
        }
    }
}

/// Hears and answers until one of the two ends.
async fn converse<S: Store>(
    mut session: Session<S>,
    mut messages: Streaming<wire::FromEndpoint>,
    send: Answers,
    stopping: CancellationToken,
) {
    let mut gathered = None;
    loop {
        let answers = tokio::select! {
            // a message that is dropped half-read ends the stream with the session; the endpoint says it again
            message = messages.message() => match message {
                Ok(Some(message)) => match heard(&mut session, &mut gathered, message).await {
                    Ok(Some(answers)) => Ok(answers),
                    Ok(None) => return goodbye(session).await,
                    Err(status) => Err(status),
                },
                Ok(None) => return,
                Err(status) => {
                    tracing::info!(?session, %status, "an endpoint's connection broke");
                    return;
                }
            },
            // a nudge that is dropped here was not taken
            () = session.nudged() => session.pending().await.map_err(refusal),
            // tokens may be awaited again
            () = stopping.cancelled() => Err(Status::unavailable("the controller stops")),
        };
        match answers {
            Ok(answers) => {
                let replaced = answers.iter().any(|answer| matches!(answer, ToEndpoint::Replaced { .. }));
                for answer in answers {
                    if send.send(Ok(answer.into())).await.is_err() {
                        return;
                    }
                }
                if replaced {
                    return;
                }
            }
            Err(status) => {
                // the endpoint may be gone already
                let _ = send.send(Err(status)).await;
                return;
            }
        }
    }
}

/// The answers to a message; None when it was the last.
async fn heard<S: Store>(
    session: &mut Session<S>,
    gathered: &mut Option<Gathered>,
    message: wire::FromEndpoint,
) -> Result<Option<Vec<ToEndpoint>>, Status> {
    let wire::FromEndpoint { number, message } = message;
    let mut message = required("message", message).map_err(invalid)?;
    if let wire::from_endpoint::Message::Heartbeat(part) = message {
        let Some(whole) = gather(gathered, number, part)? else { return Ok(Some(Vec::new())) };
        message = wire::from_endpoint::Message::Heartbeat(whole);
    }
    match from_endpoint(message).map_err(invalid)? {
        Some(message) => session.on_message(number, message).await.map(Some).map_err(refusal),
        None => Ok(None),
    }
}

/// The parts of a heartbeat that have come, and its number.
type Gathered = (u64, wire::Heartbeat);

/// Puts the parts of a heartbeat together; None while more are to come.
fn gather(
    gathered: &mut Option<Gathered>,
    number: u64,
    part: wire::Heartbeat,
) -> Result<Option<wire::Heartbeat>, Status> {
    let wire::Heartbeat { status, attempts, more } = part;
    // one that never became whole is replaced by the next
    let (_, mut whole) = gathered.take().filter(|(begun, _)| *begun == number).unwrap_or_default();
    whole.status.push_str(&status);
    whole.attempts.extend(attempts);
    if whole.encoded_len() > LARGEST_MESSAGE {
        return Err(Status::invalid_argument("the heartbeat is too large, in all its parts"));
    }
    if more {
        *gathered = Some((number, whole));
        return Ok(None);
    }
    Ok(Some(whole))
}

async fn goodbye<S: Store>(session: Session<S>) {
    if let Err(error) = session.close().await {
        let error: &ControllerError = &error;
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "an endpoint's name is not given back, its lease ends it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(status: &str, attempts: usize, more: bool) -> wire::Heartbeat {
        let attempt = wire::AttemptId { task: "00000000-0000-0000-0000-000000000000".into(), number: 1 };
        wire::Heartbeat { status: status.into(), attempts: vec![attempt; attempts], more }
    }

    #[test]
    fn a_heartbeat_is_whole_when_its_last_part_has_come() {
        let mut gathered = None;
        assert_eq!(gather(&mut gathered, 7, part("a", 1, false)).expect("whole"), Some(part("a", 1, false)));
        assert_eq!(gather(&mut gathered, 8, part("b", 2, true)).expect("a part"), None);
        assert_eq!(gather(&mut gathered, 8, part("c", 3, true)).expect("a part"), None);
        assert_eq!(gather(&mut gathered, 8, part("", 1, false)).expect("whole"), Some(part("bc", 6, false)));
        // the first never became whole
        assert_eq!(gather(&mut gathered, 9, part("d", 1, true)).expect("a part"), None);
        assert_eq!(gather(&mut gathered, 10, part("e", 1, false)).expect("whole"), Some(part("e", 1, false)));
        assert_eq!(gathered, None);
    }

    #[test]
    fn a_heartbeat_without_an_end_is_refused() {
        let mut gathered = None;
        let parts = (0..100).map(|_| gather(&mut gathered, 1, part(&"x".repeat(1 << 20), 5000, true)));
        let accepted = parts.take_while(Result::is_ok).count();
        assert!((10..16).contains(&accepted), "{accepted}");
    }
}
