//! The other side of an endpoint's socket: its workers, and its administrator's commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::client::ClientError;
use super::convert::WireError;
use super::convert::worker::wired_joining;
use super::service::LARGEST_MESSAGE;
use super::wire::control_client::ControlClient;
use super::wire::workers_client::WorkersClient;
use super::{refuses, version, wire};
use crate::endpoint::inbox::LeaveMode;
use crate::endpoint::status::EndpointStatus;
use crate::protocol::worker::{FromWorker, Joining, ToWorker};
use crate::runtime::tasks::spawn;
use crate::task::names::printable;
use crate::worker::endpoint_link::{DialEndpoint, EndpointConnection, EndpointLinkError};

/// Until an endpoint that does not answer is given up.
const ANSWER: Duration = Duration::from_secs(10);

/// Messages that wait for the wire.
const MESSAGES: usize = 1024;

/// Dials an endpoint's socket.
#[derive(Debug, Clone)]
pub struct EndpointDial {
    /// The socket.
    pub socket: PathBuf,
}

impl DialEndpoint for EndpointDial {
    async fn dial(&self, joining: Joining) -> Result<EndpointConnection, EndpointLinkError> {
        let channel = connect(&self.socket).await.map_err(|error| EndpointLinkError::Unreachable(error.into()))?;
        let mut client = WorkersClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (out, messages) = mpsc::channel(MESSAGES);
        let joining = wire::from_worker::Message::Joining(wired_joining(joining, version::own()));
        // the channel is new and empty
        let _room = out.try_send(wire::FromWorker { message: Some(joining) });
        let opened = async {
            let mut answers = client.work(ReceiverStream::new(messages)).await?.into_inner();
            let first = answers.message().await?;
            Ok((answers, first))
        };
        let opened = tokio::time::timeout(ANSWER, opened).await;
        let (answers, first) =
            opened.map_err(|late| EndpointLinkError::Unreachable(late.into()))?.map_err(of_status)?;
        let Some(wire::to_worker::Message::Welcome(welcome)) = first.and_then(|first| first.message) else {
            return Err(EndpointLinkError::Unreachable("the endpoint did not begin with a welcome".into()));
        };
        let wire::Welcome { version: _, site } = welcome;
        let site = serde_json::from_str(&site)
            .map_err(|error| EndpointLinkError::Refused(format!("its configuration cannot be read: {error}")))?;
        let (say, said) = mpsc::channel(MESSAGES);
        let (tell, hear) = mpsc::channel(MESSAGES);
        // ends with the stream, or when the worker does not listen or speak any more
        spawn("endpoint connection", converse(out, said, answers, tell));
        Ok(EndpointConnection { site, say, hear })
    }
}

async fn converse(
    out: mpsc::Sender<wire::FromWorker>,
    mut said: mpsc::Receiver<FromWorker>,
    mut answers: Streaming<wire::ToWorker>,
    tell: mpsc::Sender<ToWorker>,
) {
    loop {
        tokio::select! {
            // a message that is taken is sent before the loop goes on
            message = said.recv() => match message {
                Some(message) => {
                    if out.send(message.into()).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            // an answer that is dropped half-read ends the stream with this function
            answer = answers.message() => match answer {
                Ok(Some(answer)) => match ToWorker::try_from(answer) {
                    Ok(told) => {
                        if tell.send(told).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "the endpoint cannot be understood");
                        break;
                    }
                },
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(message = printable(status.message(), 200), "the connection has ended");
                    break;
                }
            }
        }
    }
}

/// An endpoint's administrator.
#[derive(Debug)]
pub struct EndpointControl(ControlClient<Channel>);

impl EndpointControl {
    /// Connects to the endpoint that listens at a socket.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let refused = |source| ClientError::Connect { url: socket.display().to_string(), source };
        Ok(Self(ControlClient::new(connect(socket).await.map_err(refused)?)))
    }

    /// How the endpoint is.
    ///
    /// # Errors
    /// It does not answer, or not in words that this program knows.
    pub async fn status(&mut self) -> Result<EndpointStatus, ClientError> {
        let mut request = tonic::Request::new(wire::StatusRequest {});
        request.set_timeout(ANSWER);
        let answer = self.0.status(request).await?.into_inner();
        serde_json::from_str(&answer.status).map_err(|error| ClientError::Answer(WireError::new("status", error)))
    }

    /// Has the endpoint leave; returns when it begins to.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn leave(&mut self, mode: LeaveMode) -> Result<(), ClientError> {
        let mode = match mode {
            LeaveMode::Now => wire::LeaveMode::Now,
            LeaveMode::Drain => wire::LeaveMode::Drain,
            LeaveMode::KeepWorkers => wire::LeaveMode::KeepWorkers,
        };
        let mut request = tonic::Request::new(wire::LeaveRequest { mode: mode.into() });
        request.set_timeout(ANSWER);
        self.0.leave(request).await?;
        Ok(())
    }
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    endpoint.connect_timeout(ANSWER).connect().await
}

fn of_status(status: Status) -> EndpointLinkError {
    match refuses(status.code()) {
        true => EndpointLinkError::Refused(printable(status.message(), usize::MAX)),
        false => EndpointLinkError::Unreachable(status.into()),
    }
}
