//! How the controllers of a facility tell each other, and themselves, that something is to be looked at. The bus carries
//! hints: what it says, the store knows better. A hint that is lost costs time, never a task.
//!
//! With one controller the bus is in memory. With several it is the database's own, and a listener that lost its
//! connection hears [`Heard::Lost`], which means: look at everything.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ids::{AttemptId, EndpointId};
use crate::protocol::session::{Progress, Stop};

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// There may be work for an endpoint.
    Work(EndpointId),
    /// There may be work for any.
    AnyWork,
    /// An attempt is to end, at this endpoint.
    Stop(EndpointId, Stop),
    /// Events were written.
    Events,
    /// An attempt has come so far.
    Progress(Progress),
    /// An attempt is over, or nobody knows any more how far it is.
    ProgressOver(AttemptId),
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Somebody said it.
    Signal(Signal),
    /// Signals were lost: anything may have happened.
    Lost,
}

/// Who listens. It is called by whoever publishes, and does not block.
pub trait Listener: fmt::Debug + Send + Sync {
    /// Hears.
    fn hear(&self, heard: Heard);
}

/// The way between controllers.
pub trait Bus: fmt::Debug + Send + Sync {
    /// From now on this one listens, too.
    fn attach(&self, listener: Arc<dyn Listener>);

    /// Tells all listeners, the publisher's own included.
    fn publish(&self, signal: Signal);
}

/// The bus of one process.
#[derive(Debug, Default)]
pub struct LocalBus {
    listeners: RwLock<Vec<Arc<dyn Listener>>>,
}

impl Bus for LocalBus {
    fn attach(&self, listener: Arc<dyn Listener>) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn publish(&self, signal: Signal) {
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener.hear(Heard::Signal(signal.clone()));
        }
    }
}
