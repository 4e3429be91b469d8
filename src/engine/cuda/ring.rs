//! Pieces of the host's memory that take turns: threads fill empty ones, while the caller's thread, the only one that calls
//! the device, sends what is full and waits until it has left. Knows neither what a piece holds nor when it may be filled.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::CudaError;
use super::device::{Device, DeviceError};
use crate::engine::EngineError;

/// Pieces that are on their way while the threads fill others.
pub(super) const ON_THE_WAY: usize = 2;

/// What the caller's thread gives to the threads.
#[derive(Debug)]
pub(super) struct Given<T>(Mutex<Receiver<T>>);

impl<T> Given<T> {
    /// The next; waits for it. `None` when the caller's thread gives no more.
    pub(super) fn next(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv().ok()
    }
}

/// Has threads `fill` while the caller's thread does `send`; two channels join them. Returns what `send` returns, and what
/// was given and not taken.
///
/// # Errors
/// That of `send` comes first: the threads were stopped by it.
pub(super) fn beside<E: Send, F: Send, T>(
    fill: impl FnOnce(&Given<E>, Sender<F>) -> Result<(), EngineError> + Send,
    send: impl FnOnce(Sender<E>, Receiver<F>) -> Result<T, CudaError>,
) -> (Result<T, CudaError>, Vec<E>) {
    let (give, given) = channel();
    let (full, filled) = channel();
    let given = Given(Mutex::new(given));
    let done = std::thread::scope(|scope| {
        let threads = scope.spawn(|| fill(&given, full));
        // it drops both its ends: a thread that waits for it does so no longer
        let sent = send(give, filled);
        let read = threads.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and_then(|sent| read.map(|()| sent).map_err(CudaError::from))
    });
    let rest = given.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    (done, rest.try_iter().collect())
}

/// Pieces that were sent and may not have left yet, the oldest first.
#[derive(Debug)]
pub(super) struct OnTheWay<S>(VecDeque<S>);

impl<S> OnTheWay<S> {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(ON_THE_WAY + 1))
    }

    /// Adds one; where there are then too many, waits until the oldest has left, and returns it.
    pub(super) fn add<D: Device<Staging = S>>(&mut self, device: &D, piece: S) -> Result<Option<S>, DeviceError> {
        self.0.push_back(piece);
        if self.0.len() > ON_THE_WAY { self.oldest(device) } else { Ok(None) }
    }

    /// Waits until the oldest has left, and returns it, if there is one.
    pub(super) fn oldest<D: Device<Staging = S>>(&mut self, device: &D) -> Result<Option<S>, DeviceError> {
        let Some(mut piece) = self.0.pop_front() else { return Ok(None) };
        device.reclaim(&mut piece)?;
        Ok(Some(piece))
    }
}
