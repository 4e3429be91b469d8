//! The controller's policy: how long leases last, what tasks get that ask for nothing, how long they are remembered.

use std::time::Duration;

use crate::task::life::Limits;

/// What holds for all endpoints and tasks of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A lease on a task lasts so long unless it is renewed: attempts that cannot be renewed are stopped then.
    pub lease: Duration,
    /// An endpoint's name is held so long unless that is renewed.
    pub name: Duration,
    /// Endpoints renew both so often: several times, so that a lost message costs none.
    pub heartbeat: Duration,
    /// Of tasks that do not say.
    pub limits: Limits,
    /// Tasks that ended so long ago are forgotten.
    pub retention: Duration,
}

impl Policy {
    /// With leases that last so long, and all that follows from it.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        let name = self.name.min(lease);
        Self { lease, name, heartbeat: self.heartbeat.min(name / 4), ..self }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            // the controller's computer may start anew meanwhile, and no attempt is stopped for it; tasks belong to one
            // endpoint, so that nobody waits for the end of a dead one's leases but itself
            lease: Duration::from_secs(600),
            // a switch or a file system that hangs for a minute loses nothing; another login node may take over soon
            name: Duration::from_secs(120),
            heartbeat: Duration::from_secs(30),
            limits: Limits::default(),
            // beamtimes are looked at again months later
            retention: Duration::from_secs(180 * 24 * 3600),
        }
    }
}
