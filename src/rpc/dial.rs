//! How a controller is dialled, and why that fails: each reason is a type of its own, found by what was heard on the
//! connection and by the errors of TCP and TLS. Knows no token and makes no call.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::CertificateError as Fault;
use thiserror::Error as ThisError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tonic::codegen::{BoxFuture, Service, http::Uri};
use tonic::transport::{self, Channel, Endpoint};

/// Until a controller is given up that cannot be reached, or does not begin to speak: name, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);

/// Until a channel that connects again gives up by itself: later than [`dial`], which tells why.
pub(super) const CONNECT_AGAIN: Duration = Duration::from_secs(12);

/// What a connection begins with is told by so many bytes.
const FIRST: usize = 4;

/// The first byte of a TLS alert, with which one who speaks TLS answers one who does not.
const TLS_ALERT: u8 = 0x15;

/// The fourth byte of the first frame of HTTP/2: its kind, which is SETTINGS.
const SETTINGS: u8 = 4;

/// Why there is no connection with a controller.
#[derive(Debug, ThisError)]
pub enum DialError {
    /// The system there refuses.
    #[error("no controller answers at {url}: nobody listens there; start it, or correct the address (--controller)")]
    Refused {
        /// Where.
        url: String,
    },
    /// The host's name.
    #[error("no controller answers at {url}: the name of its host is not found; correct the address (--controller)")]
    Name {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network.
    #[error("no controller answers at {url}: its host cannot be reached; look at the network and its firewalls")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system there accepts, the process does not answer.
    #[error(
        "the controller at {url} accepts connections but has not answered in {} s; it is busy or stopped, look at its \
         process and its log",
        waited.as_secs()
    )]
    Silent {
        /// Where.
        url: String,
        /// So long.
        waited: Duration,
    },
    /// The address says http, and TLS is spoken there.
    #[error("{url} speaks TLS; give its address as https://, with the controller's CA (--ca)")]
    SpeaksTls {
        /// Where.
        url: String,
    },
    /// The address says https, and no TLS is spoken there.
    #[error("{url} does not speak TLS; correct the address, or give it as http:// if the controller serves --plain")]
    SpeaksNoTls {
        /// Where.
        url: String,
    },
    /// Something else.
    #[error("who listens at {url} does not speak as a controller does; correct the address (--controller)")]
    NoController {
        /// Where.
        url: String,
    },
    /// Who is there has another certificate than is wanted.
    #[error("the certificate of {url} {}", fault.words())]
    Certificate {
        /// Where.
        url: String,
        /// What of it.
        fault: CertificateFault,
    },
    /// It ended before anything could be said.
    #[error("the connection with {url} broke before it was made; try again, and look at the controller's log")]
    Broken {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// Another CA made it.
    UnknownIssuer,
    /// It is for other names.
    WrongName,
    /// Something that only its maker understands.
    Other(String),
}

impl CertificateFault {
    fn of(fault: &Fault) -> Self {
        // the list of rustls may grow
        if matches!(fault, Fault::Expired | Fault::ExpiredContext { .. }) {
            Self::Expired
        } else if matches!(fault, Fault::NotValidYet | Fault::NotValidYetContext { .. }) {
            Self::NotYetValid
        } else if matches!(fault, Fault::UnknownIssuer | Fault::BadSignature) {
            // CAs of controllers have one name: another one's is known by its key
            Self::UnknownIssuer
        } else if matches!(fault, Fault::NotValidForName | Fault::NotValidForNameContext { .. }) {
            Self::WrongName
        } else {
            Self::Other(fault.to_string())
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Expired => "has expired; its administrator has to renew it".to_owned(),
            Self::NotYetValid => "is not valid yet; look at the clocks of both computers".to_owned(),
            Self::UnknownIssuer => "was made by another CA; give the ca.pem of this controller (--ca)".to_owned(),
            Self::WrongName => "is for other names; use one of them as its address, or have it made with that name \
                                (`speckled controller init --host`)"
                .to_owned(),
            Self::Other(words) => format!("cannot be used ({words}); its administrator has to make another"),
        }
    }
}

impl DialError {
    /// Whether it may be otherwise in a moment, with nobody's doing but the controller's.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Name { .. }
            | Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Broken { .. } => true,
            Self::SpeaksTls { .. }
            | Self::SpeaksNoTls { .. }
            | Self::NoController { .. }
            | Self::Certificate { .. } => false,
        }
    }

    /// What an error of the transport is, as far as one who connects can tell.
    pub(super) fn of(url: &str, error: &(dyn Error + 'static)) -> Option<Self> {
        let url = url.to_owned();
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failed) = error.downcast_ref::<TcpError>() {
                return Some(failed.told(url));
            }
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(fault)) => {
                    return Some(Self::Certificate { url, fault: CertificateFault::of(fault) });
                }
                Some(rustls::Error::InvalidMessage(_)) => return Some(Self::SpeaksNoTls { url }),
                Some(_) | None => {}
            }
            next = error.source();
        }
        None
    }
}

/// Connects by TCP, and by TLS if the endpoint is configured so; returns when the other side has begun to speak.
///
/// # Errors
/// See [`DialError`].
pub(super) async fn dial(url: &str, endpoint: Endpoint) -> Result<Channel, DialError> {
    let ear = Ear::default();
    let mut heard = ear.0.subscribe();
    let silent = || DialError::Silent { url: url.to_owned(), waited: CONNECT };
    let is_plain = endpoint.uri().scheme_str() != Some("https");
    let made = async {
        let channel = endpoint.connect_with_connector(Dialer { ear: Some(ear) }).await?;
        if is_plain {
            // with TLS the other side has spoken already
            let _ended = heard.wait_for(|heard| heard.is_told()).await;
        }
        Ok(channel)
    };
    let made: Result<Result<Channel, transport::Error>, _> = tokio::time::timeout(CONNECT, made).await;
    let heard = heard.borrow().clone();
    match made {
        Ok(Ok(channel)) if !is_plain => Ok(channel),
        Ok(Ok(channel)) => match heard.first[..] {
            [0, 0, _, SETTINGS] => Ok(channel),
            [TLS_ALERT, ..] => Err(DialError::SpeaksTls { url: url.to_owned() }),
            [] => Err(DialError::Broken {
                url: url.to_owned(),
                source: io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            }),
            _ => Err(DialError::NoController { url: url.to_owned() }),
        },
        Ok(Err(error)) => match DialError::of(url, &error) {
            Some(error) => Err(error),
            None => Err(DialError::Broken { url: url.to_owned(), source: error.into() }),
        },
        Err(_) if heard.is_connected => Err(silent()),
        Err(_) => Err(DialError::Unreachable { url: url.to_owned(), source: io::ErrorKind::TimedOut.into() }),
    }
}

/// What was heard on the first connection of a channel.
#[derive(Debug, Clone, Default)]
struct Heard {
    is_connected: bool,
    first: Vec<u8>,
    is_over: bool,
}

impl Heard {
    fn is_told(&self) -> bool {
        self.first.len() >= FIRST || self.is_over
    }
}

/// Tells what is heard.
#[derive(Debug, Clone)]
struct Ear(Arc<watch::Sender<Heard>>);

impl Default for Ear {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Heard::default())))
    }
}

/// Why there is no connection by TCP.
#[derive(Debug, ThisError)]
enum TcpError {
    #[error("its host's name is not found")]
    Name(#[source] io::Error),
    #[error("TCP fails")]
    Connect(#[source] io::Error),
}

impl TcpError {
    fn told(&self, url: String) -> DialError {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => DialError::Refused { url },
            Self::Connect(error) => DialError::Unreachable { url, source: copy(error) },
            Self::Name(error) => DialError::Name { url, source: copy(error) },
        }
    }
}

/// The same error again; that of the system has a number.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Makes a channel's connections; the first is listened to.
#[derive(Debug)]
struct Dialer {
    ear: Option<Ear>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Listened>;
    type Error = TcpError;
    type Future = BoxFuture<Self::Response, TcpError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TcpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let ear = self.ear.take();
        Box::pin(async move {
            let stream = connect(&uri).await?;
            if let Some(ear) = &ear {
                ear.0.send_modify(|heard| heard.is_connected = true);
            }
            Ok(TokioIo::new(Listened { stream, ear }))
        })
    }
}

/// The first address that answers of those that the host has.
async fn connect(uri: &Uri) -> Result<TcpStream, TcpError> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let addresses = lookup_host((host, uri.port_u16().unwrap_or(usual))).await.map_err(TcpError::Name)?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    // so that there is time for all, and one that drops what it gets is told from one that does not answer
    let each = CONNECT / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // a question is not to wait for the acknowledgement of the one before; it only saves time
                let _unset = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(TcpError::Connect(failed))
}

/// A connection whose first bytes are told.
#[derive(Debug)]
struct Listened {
    stream: TcpStream,
    ear: Option<Ear>,
}

impl AsyncRead for Listened {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if let (true, Some(Ear(told))) = (polled.is_ready(), &self.ear) {
            let read = &into.filled()[before..];
            told.send_modify(|heard| {
                heard.is_over = read.is_empty();
                heard.first.extend(read.iter().take(FIRST - heard.first.len()));
            });
            if told.borrow().is_told() {
                self.ear = None;
            }
        }
        polled
    }
}

impl AsyncWrite for Listened {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
