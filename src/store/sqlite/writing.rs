//! A transaction as calls see it: the connection, what they tell happened, and how the counts of tasks change. What they
//! tell is passed on once the transaction is committed, and forgotten if it is not. Commits nothing itself.

use std::cell::RefCell;
use std::ops::Deref;

use rusqlite::Connection;

use super::counts::{self, Counted};
use super::fault::Fault;
use crate::store::EventRecord;
use crate::store::decide::TaskClass;

/// The connection that writes, with the events and counts of the transaction that is open.
#[derive(Debug)]
pub(super) struct Writing {
    connection: Connection,
    told: RefCell<Vec<EventRecord>>,
    counted: RefCell<Vec<(TaskClass, Counted)>>,
}

/// A place in a transaction: what was told and counted after it can be forgotten.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoFar {
    told: usize,
    counted: usize,
}

impl Writing {
    /// With a connection, on which no transaction is open.
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, told: RefCell::default(), counted: RefCell::default() }
    }

    /// An event was written.
    pub(super) fn tell(&self, event: EventRecord) {
        self.told.borrow_mut().push(event);
    }

    /// A task is of a class now, or is no longer.
    pub(super) fn count(&self, class: TaskClass, counted: Counted) {
        self.counted.borrow_mut().push((class, counted));
    }

    /// What was told and counted so far.
    pub(super) fn so_far(&self) -> SoFar {
        SoFar { told: self.told.borrow().len(), counted: self.counted.borrow().len() }
    }

    /// Forgets what was told and counted since: it was rolled back.
    pub(super) fn back_to(&self, SoFar { told, counted }: SoFar) {
        self.told.borrow_mut().truncate(told);
        self.counted.borrow_mut().truncate(counted);
    }

    /// Writes the counts, before the transaction is committed.
    pub(super) fn write_counts(&self) -> Result<(), Fault> {
        counts::write(&self.connection, self.counted.take())
    }

    /// What the transaction told, when it ends; nothing is left for the next one.
    pub(super) fn end(&self) -> Vec<EventRecord> {
        self.counted.take();
        self.told.take()
    }
}

impl Deref for Writing {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
