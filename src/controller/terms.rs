//! The controller's terms: how long leases last, what tasks get that ask for nothing, how long they are remembered.

use std::time::Duration;

use crate::task::life::Limits;

/// What holds for all endpoints and tasks of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// A lease lasts so long unless it is renewed. So long does a task wait when its endpoint is gone.
    pub lease: Duration,
    /// Endpoints renew so often: several times a lease, so that a lost message costs none.
    pub heartbeat: Duration,
    /// Of tasks that do not say.
    pub limits: Limits,
    /// Tasks that ended so long ago are forgotten.
    pub retention: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            // a switch or a file system that hangs for a minute loses nothing; a dead login node is noticed soon
            lease: Duration::from_secs(120),
            heartbeat: Duration::from_secs(30),
            limits: Limits::default(),
            // beamtimes are looked at again months later
            retention: Duration::from_secs(180 * 24 * 3600),
        }
    }
}
