//! The other side of an endpoint's doors: its workers, and its administrator's commands.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use super::certificate::ENDPOINT_NAME;
use super::client::ClientError;
use super::client_error::BrokenCall;
use super::convert::{WireError, named};
use super::service::{KEEPALIVE, KEEPALIVE_TIMEOUT, LARGEST_MESSAGE};
use super::wire::control_client::ControlClient;
use super::wire::workers_client::WorkersClient;
use super::{parts, refuses, wire};
use crate::endpoint::block_files::{BlockFile, BlockFileError, LinkAddress};
use crate::endpoint::inbox::LeaveMode;
use crate::endpoint::status::EndpointStatus;
use crate::ids::BlockId;
use crate::protocol::worker::{FromWorker, Joining, ToWorker};
use crate::runtime::tasks::spawn;
use crate::task::failure::chain;
use crate::task::names::printable;
use crate::worker::endpoint_link::{DialEndpoint, EndpointConnection, EndpointLinkError};

/// Until an endpoint that does not answer is given up.
const ANSWER: Duration = Duration::from_secs(10);

/// Messages that wait for the wire.
const MESSAGES: usize = 1024;

/// Until an address at which nobody answers is given up for the next one.
const CONNECT: Duration = Duration::from_secs(3);

/// How a worker connects to its endpoint.
#[derive(Debug)]
pub enum EndpointDial {
    /// By the socket on its own computer.
    Socket(PathBuf),
    /// From another computer, by what a block's file says.
    Link(LinkDial),
}

/// Dials an endpoint by a block's file.
#[derive(Debug)]
pub struct LinkDial {
    file: PathBuf,
    /// Which of the hosts is tried first: the one that answered last.
    first: AtomicUsize,
}

impl LinkDial {
    /// The file is read anew each time.
    pub fn new(file: PathBuf) -> Self {
        Self { file, first: AtomicUsize::new(0) }
    }

    /// Tries one host after the other; what the endpoint itself refuses it refuses everywhere.
    async fn dial(&self, joining: Joining) -> Result<EndpointConnection, EndpointLinkError> {
        let BlockFile { block: _, address, secret, worker: _ } = self.read().await?;
        let LinkAddress { hosts, port, ca } = address;
        let bearer = MetadataValue::try_from(format!("Bearer {}", secret.reveal()));
        let mut bearer = bearer.map_err(|error| EndpointLinkError::Refused(error.to_string()))?;
        // not in what the transport logs or keeps for its compression
        bearer.set_sensitive(true);
        let mut latest: Box<dyn Error + Send + Sync> = "its block's file names no host".into();
        let first = self.first.load(Ordering::Relaxed);
        for index in (0..hosts.len()).map(|index| (first + index) % hosts.len()) {
            let url = format!("https://{}:{port}", hosts[index].in_url());
            match secured(&url, &ca).await {
                Ok(channel) => match open(channel, Some(bearer.clone()), joining.clone()).await {
                    Err(EndpointLinkError::Unreachable(error)) => latest = error,
                    answered => {
                        self.first.store(index, Ordering::Relaxed);
                        return answered;
                    }
                },
                Err(error) => {
                    tracing::debug!(url, error = chain(&error), "no endpoint there");
                    latest = error.into();
                }
            }
        }
        Err(EndpointLinkError::Unreachable(latest))
    }

    /// A file system that hangs is given up like an endpoint that does not answer.
    async fn read(&self) -> Result<BlockFile, EndpointLinkError> {
        let path = self.file.clone();
        let read = tokio::task::spawn_blocking(move || BlockFile::read(&path));
        let read = tokio::time::timeout(ANSWER, read).await;
        let read = read.map_err(|late| EndpointLinkError::Unreachable(late.into()))?;
        match read.map_err(|error| EndpointLinkError::Unreachable(error.into()))? {
            Ok(file) => Ok(file),
            Err(error @ BlockFileError::Gone { .. }) => Err(EndpointLinkError::Refused(chain(&error))),
            Err(error) => Err(EndpointLinkError::Unreachable(error.into())),
        }
    }
}

impl DialEndpoint for EndpointDial {
    async fn dial(&self, joining: Joining) -> Result<EndpointConnection, EndpointLinkError> {
        match self {
            Self::Socket(path) => {
                let channel = connect(path).await.map_err(|error| EndpointLinkError::Unreachable(error.into()))?;
                open(channel, None, joining).await
            }
            Self::Link(link) => link.dial(joining).await,
        }
    }
}

/// A channel to an endpoint that has a certificate of this CA, and to nobody else.
async fn secured(url: &str, ca: &str) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(ENDPOINT_NAME);
    Endpoint::from_shared(url.to_owned())?
        .tls_config(tls.timeout(CONNECT))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect()
        .await
}

/// Introduces the worker.
async fn open(
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
    joining: Joining,
) -> Result<EndpointConnection, EndpointLinkError> {
    let mut client = WorkersClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let (out, messages) = mpsc::channel(MESSAGES);
    for part in parts::joining(joining) {
        // the channel is new and empty, and has room for all parts that an endpoint takes
        let _room = out.try_send(part);
    }
    let mut request = Request::new(ReceiverStream::new(messages));
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer);
    }
    let opened = async {
        let mut answers = client.work(request).await?.into_inner();
        let first = answers.message().await?;
        Ok((answers, first))
    };
    let opened = tokio::time::timeout(ANSWER, opened).await;
    let (answers, first) = opened.map_err(|late| EndpointLinkError::Unreachable(late.into()))?.map_err(of_status)?;
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
                    for part in parts::from_worker(message) {
                        if out.send(part).await.is_err() {
                            return;
                        }
                    }
                }
                None => return last_words(out, answers, tell).await,
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
                        tracing::error!(error = &error as &dyn Error, "the endpoint cannot be understood");
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

/// Has the endpoint hear what was said last, as long as the worker waits for that: the endpoint ends the stream then.
async fn last_words(
    out: mpsc::Sender<wire::FromWorker>,
    mut answers: Streaming<wire::ToWorker>,
    tell: mpsc::Sender<ToWorker>,
) {
    drop(out);
    let heard = async { while let Ok(Some(_)) = answers.message().await {} };
    tokio::select! {
        // nobody wants the rest
        () = heard => {}
        () = tell.closed() => {}
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
        let refused = |source| ClientError::Socket { socket: socket.display().to_string(), source };
        Ok(Self(ControlClient::new(connect(socket).await.map_err(refused)?)))
    }

    /// How the endpoint is.
    ///
    /// # Errors
    /// It does not answer, or not in words that this program knows.
    pub async fn status(&mut self) -> Result<EndpointStatus, ClientError> {
        let mut request = Request::new(wire::StatusRequest {});
        request.set_timeout(ANSWER);
        let answer = self.0.status(request).await.map_err(of_call)?.into_inner();
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
        let mut request = Request::new(wire::LeaveRequest { mode: mode.into() });
        request.set_timeout(ANSWER);
        self.0.leave(request).await.map_err(of_call)?;
        Ok(())
    }

    /// Opens a block: returns it, and the file that its workers are to be given.
    ///
    /// # Errors
    /// It does not answer, or has no door for workers of other computers.
    pub async fn open_block(&mut self) -> Result<(BlockId, PathBuf), ClientError> {
        let mut request = Request::new(wire::OpenBlockRequest {});
        request.set_timeout(ANSWER);
        let wire::OpenBlockResponse { block, file } = self.0.open_block(request).await.map_err(of_call)?.into_inner();
        Ok((named("block", block)?, file.into()))
    }

    /// Ends a block.
    ///
    /// # Errors
    /// It does not answer, or the block is not open.
    pub async fn end_block(&mut self, block: BlockId) -> Result<(), ClientError> {
        let mut request = Request::new(wire::EndBlockRequest { block: block.to_string() });
        request.set_timeout(ANSWER);
        self.0.end_block(request).await.map_err(of_call)?;
        Ok(())
    }
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    endpoint.connect_timeout(ANSWER).connect().await
}

/// What became of a call of the administrator's: a status of the connection's has a source.
fn of_call(status: Status) -> ClientError {
    match status.source() {
        Some(_) => ClientError::Broken(BrokenCall(status)),
        None => ClientError::Refused(status),
    }
}

fn of_status(status: Status) -> EndpointLinkError {
    match refuses(status.code()) {
        true => EndpointLinkError::Refused(printable(status.message(), usize::MAX)),
        false => EndpointLinkError::Unreachable(status.into()),
    }
}
