//! How much strangers, and those who have shown who they are, may take of a process: connections, calls, bytes, time. The
//! one place of these numbers, each with its reason; it counts nothing.

use std::time::Duration;

use super::LARGEST_MESSAGE;

/// Files of the process that are not connections: databases and their readers, logs, journals, commands of the site.
const OTHER_FILES: usize = 128;

/// Connections of a controller: all endpoints of a facility, its portal and its people. One takes some ten kilobytes.
const MOST_OF_CONTROLLER: usize = 16_384;

/// Connections to a controller that have shown no token: a moment's handshakes. One takes some ten kilobytes, and no more
/// than [`WINDOW`] with what it sends before it is refused.
const MOST_STRANGERS: usize = 512;

/// Workers of other computers, and calls on their connections: nodes of all blocks.
const MOST_WORKERS: usize = 768;

/// Connections of workers that have shown no secret. With the workers, and what else the endpoint has open, below the
/// 1024 files that a process usually may have open.
const MOST_STRANGE_WORKERS: usize = 128;

/// Time to show a secret, for the TLS handshake, the preface of HTTP/2 and the first call together: a few journeys on a
/// busy network.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that has shown a token keeps its connection so long without a call: it asks again when its people look again.
const IDLE: Duration = Duration::from_secs(300);

/// Calls in progress have so long to end when the controller stops.
const GRACE: Duration = Duration::from_secs(10);

/// Bytes of a call's headers: a secret, and what gRPC adds.
pub(super) const LARGEST_HEADERS: u32 = 8 << 10;

/// Bytes that a connection, and each call on it, may send ahead of what is read.
pub(super) const WINDOW: u32 = 256 << 10;

/// Calls at once on a connection of the controller, the least that HTTP/2 recommends; a client has others wait.
pub(super) const CALLS_OF_CONNECTION: u32 = 100;

/// A call that is no stream ends by then: clients wait less. Whoever sends slower is cut off.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(120);

/// Calls of a token that are no streams: one client's, on two connections.
pub(super) const SHORT_CALLS_OF_TOKEN: usize = 200;

/// Tasks that a token follows: the pages and terminals of one person or portal. Each may have some changes in memory.
pub(super) const WATCHES_OF_TOKEN: usize = 128;

/// Sessions of a token: usually one, or all endpoints of a facility.
pub(super) const SESSIONS_OF_TOKEN: usize = 1024;

/// Bytes of messages that are being received, or answered, with a token: some of the largest at once.
pub(super) const BYTES_OF_TOKEN: usize = 4 * LARGEST_MESSAGE;

/// How many connections, and how long they may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoorLimits {
    /// Which door it is, for the log.
    pub(super) door: &'static str,
    /// Connections in all.
    pub(super) connections: usize,
    /// Of them, those of one address.
    pub(super) of_peer: usize,
    /// Connections that have shown no secret.
    pub(super) waiting: usize,
    /// Of them, those of one address.
    pub(super) waiting_of_peer: usize,
    /// Calls in progress of those who have.
    pub(super) calls: usize,
    /// Until a connection has shown a secret.
    pub(super) patience: Duration,
    /// Until one that has is ended when it makes no call.
    pub(super) idle: Duration,
    /// From the stop on, until all are ended.
    pub(super) grace: Duration,
}

impl DoorLimits {
    /// A controller's, whose process may have so many files open.
    pub(super) fn controller(files: usize) -> Self {
        let connections = room(files).min(MOST_OF_CONTROLLER);
        let waiting = (connections / 4).clamp(1, MOST_STRANGERS);
        Self {
            door: "controller",
            connections,
            // a computer, or a site behind one address, leaves room for others
            of_peer: (connections / 2).max(1),
            waiting,
            waiting_of_peer: (waiting / 2).max(1),
            // bounded by token and by connection
            calls: usize::MAX,
            patience: PATIENCE,
            idle: IDLE,
            grace: GRACE,
        }
    }

    /// Those of an endpoint's door for workers of other computers.
    pub(super) fn workers(files: usize) -> Self {
        let connections = room(files).min(MOST_WORKERS + MOST_STRANGE_WORKERS);
        let waiting = (connections / 7).clamp(1, MOST_STRANGE_WORKERS);
        Self {
            door: "worker link",
            connections,
            // workers of a whole allocation may come by one address
            of_peer: connections,
            waiting,
            waiting_of_peer: (waiting / 2).max(1),
            calls: MOST_WORKERS,
            patience: PATIENCE,
            // a worker's call lasts as long as the worker
            idle: PATIENCE,
            grace: Duration::ZERO,
        }
    }

    /// With less patience, for tests.
    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// Files that connections may take: all but those that the process needs itself, which are half where there are few.
fn room(files: usize) -> usize {
    (files - OTHER_FILES.min(files / 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_below_the_limit_of_files() {
        for files in [2, 64, 100, 256, 1024, 4096, 1 << 20, usize::MAX] {
            for limits in [DoorLimits::controller(files), DoorLimits::workers(files)] {
                let DoorLimits { connections, of_peer, waiting, waiting_of_peer, .. } = limits;
                assert!(
                    connections < files && files - connections >= OTHER_FILES.min(files / 2),
                    "{files}: {limits:?}"
                );
                assert!((1..=connections).contains(&of_peer) && (1..=connections).contains(&waiting), "{limits:?}");
                assert!((1..=waiting).contains(&waiting_of_peer), "{files}: {limits:?}");
            }
        }
        let DoorLimits { connections, waiting, .. } = DoorLimits::workers(1024);
        assert_eq!((connections, waiting), (MOST_WORKERS + MOST_STRANGE_WORKERS, MOST_STRANGE_WORKERS));
    }
}
