//! Commands of the service: the controller, its tokens, and those who ask it. Each file a command; here is what they
//! share: where the controller is, who asks, the form of the answer, the async runtime.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CommandError, Exit, Failure};
use crate::controller::token::NoRandomness;
use crate::ids::{ActionId, TaskId, TokenId};
use crate::rpc::certificate::{CertificateError, ServerIdentity};
use crate::rpc::client::{Client, ClientError, Target, TargetError};
use crate::rpc::dial::{CertificateFault, DialError};
use crate::rpc::service::ServeError;
use crate::store::StoreError;
use crate::task::names::NameError;

pub(super) mod bench;
pub(super) mod controller;
pub(super) mod endpoint;
pub(super) mod explain;
mod following;
mod gpu;
pub(super) mod status;
mod store_mark;
pub(super) mod submit;
pub(super) mod task;
pub(super) mod token;
pub(super) mod watch;

/// The port that a controller listens on unless it is told another.
const PORT: u16 = 7460;

/// Threads of a controller, beyond which all wait for the store, which has one writer. It has no more than half of the
/// cores: where they are few, waking another thread takes longer than the work (measured with `bench dispatch`).
const MOST_THREADS: usize = 8;

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    /// Tables for people.
    Human,
    /// One JSON document, or one a line where answers come one by one.
    Json,
    /// Ids only.
    Quiet,
}

/// The option for it.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct FormArg {
    /// Form of the answer
    #[arg(long, value_enum, default_value = "human")]
    output: OutputForm,
}

/// Where the controller is and who asks.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// The controller [env: SPECKLED_CONTROLLER; default: http://127.0.0.1:7460]
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
    /// The CA of the controller's certificate, PEM [env: SPECKLED_CA]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token [env: SPECKLED_TOKEN_FILE; or the token itself in SPECKLED_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Client certificate, if the controller requires one, PEM [env: SPECKLED_CERTIFICATE]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM [env: SPECKLED_KEY]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// Why a command of the service failed.
#[derive(Debug, Error)]
pub(super) enum ServiceError {
    /// The controller cannot be asked, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No token.
    #[error("there is no token; give one with --token-file, SPECKLED_TOKEN_FILE or SPECKLED_TOKEN")]
    NoToken,
    /// A file or directory of the controller.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What says who asks.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It is there already.
    #[error("{} is there already; choose another directory, or start it with `speckled controller serve`", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// It is not one of a controller.
    #[error("{} is no controller's directory; `speckled controller init {}` makes one", path.display(), path.display())]
    NoDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Another controller uses the directory.
    #[error("another controller serves {}: process {holder}; stop it first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Which.
        holder: String,
    },
    /// Text in the clear over a network.
    #[error("{address} is no loopback address; give --certificate and --key, tokens never travel in the clear")]
    Plain {
        /// Where it was to listen.
        address: String,
    },
    /// The store.
    #[error("the controller's store cannot be used")]
    Store(#[from] StoreError),
    /// The services.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The async runtime.
    #[error("cannot start the async runtime")]
    Runtime(#[source] std::io::Error),
    /// A benchmark.
    #[error("the measurement failed: {0}")]
    Bench(String),
    /// A path that means another file elsewhere.
    #[error("{option} {} is relative; give a path of the endpoint's file system from / on", path.display())]
    Relative {
        /// Which option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A request id.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such token.
    #[error("there is no token {0}; `speckled token list` shows all")]
    NoTokenOf(TokenId),
    /// There is no such task.
    #[error("there is no task {0} that you may see")]
    NoTask(String),
    /// There is no such action, or it has no task.
    #[error("there is no action {0} with tasks that you may see")]
    NoAction(ActionId),
    /// A task that is not over is not tried again.
    #[error("task {0} is not over; cancel it first, or wait for it")]
    NotOver(TaskId),
    /// A task has no log.
    #[error("task {0} has left no output")]
    NoLog(TaskId),
    /// The controller ended the stream.
    #[error("the controller has ended")]
    Ended,
    /// It could not be reached again.
    #[error(
        "the controller was lost and not found again in {waited_s} s; the tasks go on, `speckled task wait` follows them"
    )]
    Lost {
        /// So long it was looked for.
        waited_s: u64,
        /// Why it was not found.
        #[source]
        source: Box<ServiceError>,
    },
}

impl CommandError for ServiceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Dial(error)) => of_dial(error),
            Self::Client(
                ClientError::Socket { .. }
                | ClientError::Unanswered(_)
                | ClientError::Broken(_)
                | ClientError::Unwell(_),
            )
            | Self::Ended
            | Self::Lost { .. } => Exit::Unavailable,
            Self::Client(ClientError::Refused(_) | ClientError::NoCertificate | ClientError::Certificate)
            | Self::NoTask(_)
            | Self::NoAction(_)
            | Self::NoLog(_)
            | Self::NoTokenOf(_) => Exit::Refused,
            Self::Client(
                ClientError::Url { .. }
                | ClientError::Plain { .. }
                | ClientError::NoCa { .. }
                | ClientError::Files(_)
                | ClientError::Token,
            )
            | Self::NoToken
            | Self::Name(_)
            | Self::Certificate(_)
            | Self::Plain { .. }
            | Self::Relative { .. }
            | Self::NotOver(_)
            | Self::NoDirectory { .. }
            | Self::Exists { .. } => Exit::Input,
            Self::Client(ClientError::Answer(_))
            | Self::Serve(_)
            | Self::Random(_)
            | Self::Runtime(_)
            | Self::Bench(_) => Exit::Processing,
            Self::File { .. } | Self::Target(_) | Self::Store(_) | Self::Locked { .. } => Exit::Saving,
        }
    }
}

/// Where an address or a CA has to be corrected it is a parameter; else the controller does not answer.
fn of_dial(error: &DialError) -> Exit {
    match error {
        DialError::Refused { .. }
        | DialError::Name { .. }
        | DialError::Unreachable { .. }
        | DialError::Silent { .. }
        | DialError::Broken { .. } => Exit::Unavailable,
        DialError::SpeaksTls { .. } | DialError::SpeaksNoTls { .. } | DialError::NoController { .. } => Exit::Input,
        DialError::Certificate { fault, .. } => match fault {
            CertificateFault::UnknownIssuer | CertificateFault::WrongName => Exit::Input,
            CertificateFault::Expired | CertificateFault::NotYetValid | CertificateFault::Other(_) => Exit::Unavailable,
        },
    }
}

impl ServiceError {
    /// Whether it may be otherwise in a moment, with nobody's doing but the controller's.
    fn is_passing(&self) -> bool {
        match self {
            Self::Client(error) => error.is_passing(),
            Self::Ended => true,
            Self::NoToken
            | Self::File { .. }
            | Self::Target(_)
            | Self::Exists { .. }
            | Self::NoDirectory { .. }
            | Self::Locked { .. }
            | Self::Plain { .. }
            | Self::Store(_)
            | Self::Serve(_)
            | Self::Certificate(_)
            | Self::Random(_)
            | Self::Runtime(_)
            | Self::Bench(_)
            | Self::Relative { .. }
            | Self::Name(_)
            | Self::NoTokenOf(_)
            | Self::NoTask(_)
            | Self::NoAction(_)
            | Self::NotOver(_)
            | Self::NoLog(_)
            | Self::Lost { .. } => false,
        }
    }
}

impl RemoteArgs {
    /// Connects to the controller.
    pub(super) async fn connect(&self) -> Result<Client, ServiceError> {
        let token = match self.token_file() {
            Some(path) => text(&path)?,
            None => variable("SPECKLED_TOKEN").ok_or(ServiceError::NoToken)?,
        };
        let ca = self.ca().map(|path| read(&path)).transpose()?;
        let token = token.trim().to_owned();
        let identity = self.identity().map(|(certificate, key)| identity(&certificate, &key)).transpose()?;
        let target = Target { url: self.url(), ca, token, identity };
        Ok(Client::connect(&target).await?)
    }

    fn url(&self) -> String {
        let url = self.controller.clone().or_else(|| variable("SPECKLED_CONTROLLER"));
        url.unwrap_or_else(|| format!("http://127.0.0.1:{PORT}"))
    }

    fn ca(&self) -> Option<PathBuf> {
        self.ca.clone().or_else(|| variable("SPECKLED_CA").map(PathBuf::from))
    }

    /// Certificate and key; one without the other is none.
    fn identity(&self) -> Option<(PathBuf, PathBuf)> {
        let certificate = self.certificate.clone().or_else(|| variable("SPECKLED_CERTIFICATE").map(PathBuf::from));
        let key = self.key.clone().or_else(|| variable("SPECKLED_KEY").map(PathBuf::from));
        certificate.zip(key)
    }

    fn token_file(&self) -> Option<PathBuf> {
        self.token_file.clone().or_else(|| variable("SPECKLED_TOKEN_FILE").map(PathBuf::from))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What one shows to prove who one is.
fn identity(certificate: &Path, key: &Path) -> Result<ServerIdentity, ServiceError> {
    Ok(ServerIdentity { certificates: read(certificate)?, key: read(key)? })
}

fn text(path: &Path) -> Result<String, ServiceError> {
    fs::read_to_string(path).map_err(|e| file("read", path, e))
}

fn read(path: &Path) -> Result<Vec<u8>, ServiceError> {
    fs::read(path).map_err(|e| file("read", path, e))
}

/// A failed `action` on a file or address.
fn file(action: &'static str, path: &Path, source: std::io::Error) -> ServiceError {
    ServiceError::File { action, path: path.to_owned(), source }
}

/// Waits for SIGTERM or Ctrl-C, and has everything stop. A terminal that closes, which SIGHUP tells, ends no daemon.
pub(super) async fn until_signalled(role: &'static str, stopping: &CancellationToken) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else {
        tracing::error!(role, "signals cannot be caught; it ends only when it is killed, which loses nothing");
        return;
    };
    loop {
        tokio::select! {
            // nothing is lost with the others: the process ends
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // a signal that is not taken is taken the next time
            _ = hangup.recv() => tracing::info!(role, "goes on after SIGHUP"),
            () = stopping.cancelled() => return,
        }
    }
    tracing::info!(role, "stopping as asked by a signal");
    stopping.cancel();
}

/// Runs a command on one thread: for daemons, which are to be small, and for short questions.
pub(super) fn single<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServiceError::Runtime)?;
    runtime.block_on(work)
}

/// Runs the controller, on a few threads: one that packs a long list or waits for the disk holds up nobody else.
pub(super) fn several<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, MOST_THREADS))
        .thread_name("controller")
        .enable_all()
        .build()
        .map_err(ServiceError::Runtime)?;
    runtime.block_on(work)
}

/// Runs a command that waits for others.
pub(super) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServiceError::Runtime)?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_ca_to_correct_is_told_from_a_controller_to_mend() {
        let exit = |fault| of_dial(&DialError::Certificate { url: String::new(), fault });
        assert_eq!(exit(CertificateFault::WrongName), Exit::Input);
        assert_eq!(exit(CertificateFault::UnknownIssuer), Exit::Input);
        assert_eq!(exit(CertificateFault::Expired), Exit::Unavailable);
        assert_eq!(of_dial(&DialError::SpeaksTls { url: String::new() }), Exit::Input);
        assert_eq!(of_dial(&DialError::Refused { url: String::new() }), Exit::Unavailable);
    }
}
