//! What an endpoint is told when it is on disk: that its reports are recorded. They are shown to those who follow the
//! tasks as soon as they are written; the endpoint, which keeps them until it is told, waits for the disk. That wait is
//! not the session's: it goes on meanwhile.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Controller, ControllerError};
use crate::protocol::session::ToEndpoint;
use crate::store::{CommitMark, Store};

/// Messages of reports that wait for the disk: more than come while it is waited for; beyond them the session waits.
const WAITING: usize = 256;

/// The session's side.
pub(super) type Written = mpsc::Sender<(CommitMark, ToEndpoint)>;

/// Answers of a session that wait for the disk. Whatever carries the messages sends what [`Acks::next`] returns.
#[derive(Debug)]
pub struct Acks<S> {
    controller: Arc<Controller<S>>,
    written: mpsc::Receiver<(CommitMark, ToEndpoint)>,
}

impl<S: Store> Acks<S> {
    pub(super) fn new(controller: Arc<Controller<S>>) -> (Written, Self) {
        let (send, written) = mpsc::channel(WAITING);
        (send, Self { controller, written })
    }

    /// What is on disk now; empty when the session is over. What it had taken is lost when it is dropped: the endpoint
    /// says it again.
    ///
    /// # Errors
    /// The store fails. The session is over then.
    pub async fn next(&mut self) -> Result<Vec<ToEndpoint>, ControllerError> {
        let mut found = Vec::new();
        self.written.recv_many(&mut found, WAITING).await;
        if let Some((last, _)) = found.last() {
            self.controller.store.on_disk(*last).await?;
        }
        Ok(found.into_iter().map(|(_, answer)| answer).collect())
    }
}
