//! Why a controller, or an endpoint's own process, could not be asked, and what it answered. Tells apart what the other
//! side said from what happened to the connection.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use thiserror::Error as ThisError;
use tonic::{Code, Status, TimeoutExpired, transport};

use super::convert::WireError;
use super::dial::DialError;
use crate::task::failure::chain;
use crate::task::names::printable;

/// Why a controller could not be asked, or what it answered.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// The address.
    #[error("{url:?} is not a controller's address; give it as https://host:7460")]
    Url {
        /// What was given.
        url: String,
    },
    /// Plain text over a network would show the token to everybody.
    #[error("{url} is neither TLS nor a loopback address; use https:// with the controller's CA (--ca)")]
    Plain {
        /// What was given.
        url: String,
    },
    /// No CA.
    #[error("{url} needs the controller's CA; give the ca.pem that `speckled controller init` made (--ca)")]
    NoCa {
        /// What was given.
        url: String,
    },
    /// The CA, or our own certificate and key.
    #[error("the CA (--ca), or the certificate and its key (--certificate, --key), cannot be used; each is a PEM file")]
    Files(#[source] transport::Error),
    /// The token cannot be sent.
    #[error("the token is no token; give one that `speckled token create` printed")]
    Token,
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Nobody listens at an endpoint's socket.
    #[error("no endpoint answers at {socket}; is it running?")]
    Socket {
        /// Where.
        socket: String,
        /// Why.
        #[source]
        source: transport::Error,
    },
    /// It wants to know who connects.
    #[error(
        "the controller asks for a certificate; give one that `speckled controller certify` made (--certificate, --key)"
    )]
    NoCertificate,
    /// It does not believe who connects.
    #[error("the controller does not accept the certificate; `speckled controller certify` makes one of its own CA")]
    Certificate,
    /// The connection ended before the first answer: with TLS one that is refused for its certificate ends so, too.
    #[error(
        "the connection broke before the first answer; try again, and if the controller asks for certificates, with one \
         of its CA (--certificate, --key)"
    )]
    Unanswered(#[source] BrokenCall),
    /// The connection ended in the middle of a call.
    #[error("the connection broke; try again, and look whether the process at its other end has ended")]
    Broken(#[source] BrokenCall),
    /// It says that it cannot for the moment; its words come from elsewhere and are shown on terminals.
    #[error("the controller cannot answer for the moment: {}", printable(.0.message(), usize::MAX))]
    Unwell(Status),
    /// The controller says no; its words come from elsewhere and are shown on terminals.
    #[error("the controller refuses: {}", printable(.0.message(), usize::MAX))]
    Refused(Status),
    /// It answers in another language.
    #[error("the controller's answer cannot be read")]
    Answer(#[from] WireError),
}

/// What became of a call that has no answer. Its words are those of the layers below, without their innards, which a
/// status shows.
#[derive(Debug)]
pub struct BrokenCall(pub(super) Status);

impl fmt::Display for BrokenCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => f.write_str(&printable(&chain(source), usize::MAX)),
            None => f.write_str(&printable(self.0.message(), usize::MAX)),
        }
    }
}

impl Error for BrokenCall {}

/// To whom a call was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Called<'a> {
    /// Where.
    pub(super) url: &'a str,
    /// The call's time.
    pub(super) deadline: Duration,
    /// Whether the other side may refuse for a certificate: until its first answer.
    pub(super) may_concern_certificate: bool,
}

impl ClientError {
    /// Whether it may be otherwise in a moment, with nobody's doing but the controller's: who follows tasks tries again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_passing(),
            Self::Unanswered(_) | Self::Broken(_) | Self::Unwell(_) => true,
            Self::Url { .. }
            | Self::Plain { .. }
            | Self::NoCa { .. }
            | Self::Files(_)
            | Self::Token
            | Self::Socket { .. }
            | Self::NoCertificate
            | Self::Certificate
            | Self::Refused(_)
            | Self::Answer(_) => false,
        }
    }

    /// Whether there is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }

    /// Whether the caller may not.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::PermissionDenied)
    }

    /// Whether something has to be done first.
    pub fn is_precondition(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::FailedPrecondition)
    }

    /// What became of a call.
    pub(super) fn of(status: Status, called: Called<'_>) -> Self {
        let Called { url, deadline, may_concern_certificate } = called;
        if let Some(error) = certificate_refused(&status) {
            return error;
        }
        let Some(source) = status.source() else { return Self::said(status, url, deadline) };
        if is_late(source) {
            return DialError::Silent { url: url.to_owned(), waited: deadline }.into();
        }
        match DialError::of(url, source) {
            // the channel made a new connection for the call, or tried to
            Some(error) => error.into(),
            None if may_concern_certificate => Self::Unanswered(BrokenCall(status)),
            None => Self::Broken(BrokenCall(status)),
        }
    }

    /// What the other side said: a status of the connection's has a source.
    fn said(status: Status, url: &str, deadline: Duration) -> Self {
        match status.code() {
            // a server that keeps a call's time; ours gives up nothing by itself
            Code::Cancelled | Code::DeadlineExceeded => {
                DialError::Silent { url: url.to_owned(), waited: deadline }.into()
            }
            Code::Unavailable => Self::Unwell(status),
            // none of ours says so: the stream ended without a word
            Code::Unknown => Self::Broken(BrokenCall(status)),
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Self::Refused(status),
        }
    }
}

fn is_late(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimeoutExpired>() || error.source().is_some_and(is_late)
}

/// What a TLS alert says of our certificate (RFC 8446, 6.2): it comes with whatever is sent first, and nothing but its
/// text travels through the layers between.
pub(super) fn certificate_refused(error: &dyn Error) -> Option<ClientError> {
    let words = chain(error);
    let alert = words.split_once("received fatal alert: ")?.1;
    if alert.starts_with("CertificateRequired") {
        return Some(ClientError::NoCertificate);
    }
    let refused = ["UnknownCA", "BadCertificate", "DecryptError", "CertificateUnknown", "CertificateExpired"];
    refused.iter().any(|word| alert.starts_with(word)).then_some(ClientError::Certificate)
}
