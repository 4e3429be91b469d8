//! The endpoint's connection to its controller: the port that the wire fills, and the part that keeps it open. What is
//! said on it is decided elsewhere.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::inbox::{Inbox, InboxEvent};
use crate::protocol::session::{FromEndpoint, Registration, ToEndpoint};
use crate::runtime::pause::pause;
use crate::task::failure::chain;
use crate::task::time::whole_millis;

/// Messages that wait for the wire: beyond them the connection is taken for dead and made anew.
pub const MESSAGES: usize = 1024;

/// The first pause after a connection that failed, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: a controller that comes back is found before leases run out.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An open session.
#[derive(Debug)]
pub struct ControllerConnection {
    /// Leases last so long.
    pub lease: Duration,
    /// A heartbeat is due so often.
    pub heartbeat: Duration,
    /// The controller's program, for people.
    pub controller: String,
    /// To the controller, each message with its number. When it is dropped, the controller is told goodbye.
    pub say: mpsc::Sender<(u64, FromEndpoint)>,
    /// From the controller; after an error nothing comes.
    pub hear: mpsc::Receiver<Result<ToEndpoint, ControllerLinkError>>,
    /// Cancelled to end it at once, without a goodbye: nobody seems to listen.
    pub abandon: CancellationToken,
}

/// Why there is no session.
#[derive(Debug, Error)]
pub enum ControllerLinkError {
    /// Nobody answers, or the connection broke: it is tried again.
    #[error("the controller does not answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// Another process is this endpoint.
    #[error("{0}")]
    Held(String),
    /// The controller does not want this endpoint.
    #[error("{0}")]
    Refused(String),
}

/// Opens sessions.
pub trait DialController: Send + Sync + 'static {
    /// Registers and opens a session.
    fn dial(
        &self,
        registration: &Registration,
    ) -> impl Future<Output = Result<ControllerConnection, ControllerLinkError>> + Send;
}

/// Keeps a session open until it is told to stop: the first is `line`, if there is one already.
pub(super) async fn keep<D: DialController>(
    dial: D,
    registration: Registration,
    mut line: Option<ControllerConnection>,
    inbox: Inbox,
    stopping: CancellationToken,
) {
    let mut failed = 0;
    while !stopping.is_cancelled() {
        let opened = match line.take() {
            Some(line) => Ok(line),
            None => tokio::select! {
                // a session that is opened and dropped ends by the connection's end
                opened = dial.dial(&registration) => opened,
                () = stopping.cancelled() => return,
            },
        };
        match opened {
            Ok(line) => {
                failed = 0;
                converse(line, &inbox).await;
            }
            Err(error) => {
                let pause = pause(FIRST_PAUSE, failed, LONGEST_PAUSE);
                tracing::warn!(error = chain(&error), pause_ms = whole_millis(pause), "no session, tried again");
                inbox.put(InboxEvent::NoSession(chain(&error))).await;
                failed += 1;
                tokio::select! {
                    // nothing is lost with a pause
                    () = tokio::time::sleep(pause) => {}
                    () = stopping.cancelled() => return,
                }
            }
        }
    }
}

/// Passes on what is heard until the line ends. Who speaks keeps the other end, and ends the line by dropping it.
async fn converse(line: ControllerConnection, inbox: &Inbox) {
    let ControllerConnection { lease, heartbeat, controller, say, mut hear, abandon } = line;
    inbox.put(InboxEvent::Session { lease, heartbeat, controller, say, abandon }).await;
    let reason = loop {
        match hear.recv().await {
            Some(Ok(said)) => inbox.put(InboxEvent::Controller(said)).await,
            Some(Err(error)) => break chain(&error),
            None => break "the connection has ended".to_owned(),
        }
    };
    tracing::info!(reason, "the session has ended");
    inbox.put(InboxEvent::NoSession(reason)).await;
}
