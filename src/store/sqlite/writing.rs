//! A transaction as calls see it: the connection, and what they tell happened. What they tell is passed on once the
//! transaction is committed, and forgotten if it is not. Commits nothing itself.

use std::cell::RefCell;
use std::ops::Deref;

use rusqlite::Connection;

use crate::store::EventRecord;

/// The connection that writes, and the events of the transaction that is open.
#[derive(Debug)]
pub(super) struct Writing {
    connection: Connection,
    told: RefCell<Vec<EventRecord>>,
}

/// A place among the events of a transaction: those after it can be forgotten.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldSoFar(usize);

impl Writing {
    /// With a connection, on which no transaction is open.
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, told: RefCell::default() }
    }

    /// An event was written.
    pub(super) fn tell(&self, event: EventRecord) {
        self.told.borrow_mut().push(event);
    }

    /// What was told so far.
    pub(super) fn so_far(&self) -> ToldSoFar {
        ToldSoFar(self.told.borrow().len())
    }

    /// Forgets what was told since: it was rolled back.
    pub(super) fn back_to(&self, ToldSoFar(events): ToldSoFar) {
        self.told.borrow_mut().truncate(events);
    }

    /// What the transaction told, when it ends.
    pub(super) fn take(&self) -> Vec<EventRecord> {
        self.told.take()
    }
}

impl Deref for Writing {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
