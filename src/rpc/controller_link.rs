//! An endpoint's session with its controller over the wire: registration, then one stream each way.

use std::error::Error;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::client::{Client, ClientError, Target, TargetError};
use super::{parts, refuses, version, wire};
use crate::config::endpoint::ControllerAddress;
use crate::endpoint::controller_link::{ControllerConnection, ControllerLinkError, DialController, MESSAGES};
use crate::protocol::session::{FromEndpoint, Registration, ToEndpoint};
use crate::runtime::tasks::spawn;
use crate::task::names::printable;

/// Until a registration is given up.
const REGISTER: Duration = Duration::from_secs(10);

/// Until the controller has heard a goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// Dials a controller.
#[derive(Debug, Clone)]
pub struct ControllerDial {
    /// Where it is, and who asks.
    pub controller: ControllerSource,
}

/// What says where a controller is and who asks.
#[derive(Debug, Clone)]
pub enum ControllerSource {
    /// Files, read anew each time: a token that is replaced there is used from then on.
    Files(ControllerAddress),
    /// This.
    Known(Target),
}

impl ControllerSource {
    /// What it says now. Blocks on the file system.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn target(&self) -> Result<Target, TargetError> {
        match self {
            Self::Files(address) => Target::read(address),
            Self::Known(target) => Ok(target.clone()),
        }
    }
}

impl DialController for ControllerDial {
    async fn dial(&self, registration: &Registration) -> Result<ControllerConnection, ControllerLinkError> {
        let source = self.controller.clone();
        let unread = |error: Box<dyn Error + Send + Sync>| ControllerLinkError::Unreachable(error);
        let target = tokio::task::spawn_blocking(move || source.target());
        let target = target.await.map_err(|error| unread(error.into()))?.map_err(|error| unread(error.into()))?;
        let mut client = Client::connect(&target).await.map_err(of_client)?;
        let Registration { endpoint, name, group, session, host, replaces } = registration;
        let mut request = tonic::Request::new(wire::RegisterRequest {
            versions: Some(version::own()),
            endpoint: endpoint.to_string(),
            name: name.to_string(),
            group: group.as_ref().map(ToString::to_string).unwrap_or_default(),
            session: session.to_string(),
            host: host.clone(),
            replaces: replaces.iter().map(ToString::to_string).collect(),
        });
        request.set_timeout(REGISTER);
        let agreed = client.endpoints().register(request).await.map_err(of_status)?.into_inner();
        let wire::RegisterResponse { version, lease_ms, heartbeat_ms, controller } = agreed;
        let hello =
            wire::Hello { endpoint: endpoint.to_string(), session: session.to_string(), version, host: host.clone() };
        let (out, messages) = mpsc::channel(MESSAGES);
        let greeting = wire::from_endpoint::Message::Hello(hello);
        let greeting = wire::FromEndpoint { number: 0, message: Some(greeting) };
        // the channel is new and empty
        let _room = out.try_send(greeting);
        let opened = client.endpoints().session(ReceiverStream::new(messages));
        let answers = tokio::time::timeout(REGISTER, opened).await;
        let answers =
            answers.map_err(|late| ControllerLinkError::Unreachable(late.into()))?.map_err(of_status)?.into_inner();
        let (say, said) = mpsc::channel(MESSAGES);
        let (tell, hear) = mpsc::channel(MESSAGES);
        // ends with the stream, or when the endpoint does not listen or speak any more
        let abandon = CancellationToken::new();
        let conversation = converse(out, said, answers, tell);
        spawn("controller session", abandon.clone().run_until_cancelled_owned(conversation));
        Ok(ControllerConnection {
            lease: Duration::from_millis(lease_ms),
            // a controller that says 0 would be asked without a pause
            heartbeat: Duration::from_millis(heartbeat_ms.max(10)),
            controller: printable(&controller, 100),
            say,
            hear,
            abandon,
        })
    }
}

async fn converse(
    out: mpsc::Sender<wire::FromEndpoint>,
    mut said: mpsc::Receiver<(u64, FromEndpoint)>,
    mut answers: Streaming<wire::ToEndpoint>,
    tell: mpsc::Sender<Result<ToEndpoint, ControllerLinkError>>,
) {
    loop {
        tokio::select! {
            // a message that is taken is sent before the loop goes on
            message = said.recv() => match message {
                Some((number, message)) => {
                    for part in parts::from_endpoint(message) {
                        if out.send(wire::FromEndpoint { number, message: Some(part) }).await.is_err() {
                            return;
                        }
                    }
                }
                None => return goodbye(out, answers).await,
            },
            // an answer that is dropped half-read ends the stream with this function
            answer = answers.message() => {
                let heard = match answer {
                    Ok(Some(answer)) => ToEndpoint::try_from(answer).map_err(|error| ControllerLinkError::Unreachable(error.into())),
                    Ok(None) => break,
                    Err(status) => Err(of_status(status)),
                };
                let last = heard.is_err();
                if tell.send(heard).await.is_err() || last {
                    break;
                }
            }
        }
    }
}

/// Gives the name back, and waits until the controller has heard it.
async fn goodbye(out: mpsc::Sender<wire::FromEndpoint>, mut answers: Streaming<wire::ToEndpoint>) {
    let message = wire::from_endpoint::Message::Goodbye(wire::Goodbye {});
    let said = async {
        let _gone = out.send(wire::FromEndpoint { number: 0, message: Some(message) }).await;
        drop(out);
        while let Ok(Some(_)) = answers.message().await {}
    };
    // a controller that does not hear it gives the name away when its lease has run out
    let _late = tokio::time::timeout(GOODBYE, said).await;
}

fn of_client(error: ClientError) -> ControllerLinkError {
    match error {
        ClientError::Refused(status) | ClientError::Unwell(status) => of_status(status),
        // a certificate that has expired, or an address that leads elsewhere, may be mended there
        error @ (ClientError::Dial(_)
        | ClientError::Socket { .. }
        | ClientError::Unanswered(_)
        | ClientError::Broken(_)
        | ClientError::Answer(_)) => ControllerLinkError::Unreachable(error.into()),
        error @ (ClientError::Url { .. }
        | ClientError::Plain { .. }
        | ClientError::NoCa { .. }
        | ClientError::Files(_)
        | ClientError::NoCertificate
        | ClientError::Certificate
        | ClientError::Token) => ControllerLinkError::Refused(error.to_string()),
    }
}

fn of_status(status: Status) -> ControllerLinkError {
    let words = printable(status.message(), usize::MAX);
    if status.code() == Code::AlreadyExists {
        ControllerLinkError::Held(words)
    } else if refuses(status.code()) {
        ControllerLinkError::Refused(words)
    } else {
        ControllerLinkError::Unreachable(status.into())
    }
}
