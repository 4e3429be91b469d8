//! Makes ids, from the system's random numbers.

use uuid::Uuid;

use crate::ids::{ActionId, BlockId, EndpointId, SessionId, TaskId, TokenId, WorkerId};

/// A task's: ascending with time, and within this process in the order of the calls (UUID version 7, RFC 9562).
pub fn task() -> TaskId {
    TaskId::new(Uuid::now_v7())
}

/// An action's.
pub fn action() -> ActionId {
    ActionId::new(Uuid::now_v7())
}

/// An endpoint's.
pub fn endpoint() -> EndpointId {
    EndpointId::new(Uuid::new_v4())
}

/// A process's that is an endpoint.
pub fn session() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

/// A worker's.
pub fn worker() -> WorkerId {
    WorkerId::new(Uuid::new_v4())
}

/// A block's.
pub fn block() -> BlockId {
    BlockId::new(Uuid::new_v4())
}

/// A token's.
pub fn token() -> TokenId {
    TokenId::new(Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_ascend() {
        let ids: Vec<_> = (0..10_000).map(|_| task()).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
