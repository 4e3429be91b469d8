//! Statements: prepared once for each connection, their rows read one by one. Knows no table.

use rusqlite::{Connection, Params, Row};

use super::fault::Fault;

/// All rows that a statement finds.
pub(super) fn all<T, P, R>(connection: &Connection, statement: &str, values: P, read: R) -> Result<Vec<T>, Fault>
where
    P: Params,
    R: Fn(&Row<'_>) -> Result<T, Fault>,
{
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first row that a statement finds.
pub(super) fn one<T, P, R>(connection: &Connection, statement: &str, values: P, read: R) -> Result<Option<T>, Fault>
where
    P: Params,
    R: Fn(&Row<'_>) -> Result<T, Fault>,
{
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(values)?;
    rows.next()?.map(read).transpose()
}

/// Runs a statement; returns how many rows it changed.
pub(super) fn execute<P: Params>(connection: &Connection, statement: &str, values: P) -> Result<usize, Fault> {
    Ok(connection.prepare_cached(statement)?.execute(values)?)
}
