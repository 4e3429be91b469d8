//! How many tasks there are of each endpoint, owner, group and state: kept beside them, since an index by state would be
//! written at two places with each change. Changes of a transaction are added up and written at its end.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::fault::Fault;
use super::query::{all, execute};
use super::rows;
use crate::store::StateName;
use crate::store::decide::TaskClass;

/// Adds to a count, which is there from then on.
pub(super) const ADD: &str = "
    INSERT INTO task_counts (endpoint, owner, group_name, state, tasks) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (endpoint, owner, group_name, state) DO UPDATE SET tasks = tasks + excluded.tasks";

/// Counts of what is no longer there.
const FORGET: &str = "DELETE FROM task_counts WHERE tasks = 0";

/// In the place of a group: rows of a key cannot do without a value, and no group's name is empty.
const NO_GROUP: &str = "";

/// A task is of a class now, or was until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    In,
    Out,
}

/// Writes what changed, in the order in which it did.
pub(super) fn write(connection: &Connection, changes: Vec<(TaskClass, Counted)>) -> Result<(), Fault> {
    let mut sums: BTreeMap<TaskClass, i64> = BTreeMap::new();
    for (class, counted) in changes {
        *sums.entry(class).or_default() += match counted {
            Counted::In => 1,
            Counted::Out => -1,
        };
    }
    for (class, change) in sums.into_iter().filter(|(_, change)| *change != 0) {
        let TaskClass { endpoint, owner, group, state } = class;
        let group = group.as_ref().map_or(NO_GROUP, |group| group.as_str());
        execute(connection, ADD, (endpoint.uuid().into_bytes(), owner.as_str(), group, state.name(), change))?;
    }
    Ok(())
}

/// The counts that a statement finds, by its columns `state` and `number`.
pub(super) fn read(
    connection: &Connection,
    statement: &str,
    values: Vec<Value>,
) -> Result<BTreeMap<StateName, u64>, Fault> {
    let counts = all(connection, statement, rusqlite::params_from_iter(values), |row| {
        Ok((rows::state_column(row)?, rows::number(row, "number")?))
    });
    Ok(counts?.into_iter().filter(|(_, tasks)| *tasks > 0).collect())
}

/// Forgets counts that have come to nothing.
pub(super) fn forget(connection: &Connection) -> Result<(), Fault> {
    execute(connection, FORGET, ()).map(|_| ())
}
