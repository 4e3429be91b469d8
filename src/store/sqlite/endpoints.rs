//! Endpoints and who holds their names.

use rusqlite::{Connection, Row};

use super::counts;
use super::fault::Fault;
use super::outbox;
use super::query::{self, execute, one};
use super::rows::{self, column, id_column, moment_column, name_column};
use super::writing::Writing;
use crate::ids::{EndpointId, Epoch, SessionId};
use crate::store::{Claim, EndpointForgotten, EndpointRecord, EndpointSession, Holder, StoreEvent, decide};
use crate::task::names::{Group, Subject};
use crate::task::time::Moment;

/// Registers an endpoint and gives its name to a session, unless another has it.
pub(super) fn claim(
    connection: &Connection,
    endpoint: EndpointRecord,
    session: EndpointSession,
    replaces: &[SessionId],
    now: Moment,
) -> Result<Claim, Fault> {
    let holder = holder(connection, endpoint.id)?.map(|(holder, _)| holder);
    match decide::claim(holder, &session, replaces, now) {
        Claim::Granted => {}
        refused @ (Claim::Held(_) | Claim::Open | Claim::NameTaken { .. }) => return Ok(refused),
    }
    if let Some(owner) = other_owner(connection, &endpoint)? {
        return Ok(Claim::NameTaken { owner });
    }
    let EndpointRecord { id, name, owner, group, registered, session: _, status, seen: _ } = endpoint;
    let row = (
        id.uuid().into_bytes(),
        name.as_str(),
        owner.as_str(),
        group.as_ref().map(Group::as_str),
        rows::millis(registered),
        session.id.uuid().into_bytes(),
        session.host,
        rows::millis(session.until),
        status,
        rows::millis(now),
    );
    execute(
        connection,
        "INSERT INTO endpoints (id, name, owner, group_name, registered, session, epoch, host, session_until, status, seen)
         VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, session = excluded.session, host = excluded.host,
             -- what spoke for the session before does not any more
             epoch = epoch + 1,
             owner = CASE WHEN forgotten IS NULL THEN owner ELSE excluded.owner END,
             -- the owner says who else may see it
             group_name = CASE WHEN owner = excluded.owner OR forgotten IS NOT NULL
                 THEN excluded.group_name ELSE group_name END,
             registered = CASE WHEN forgotten IS NULL AND name = excluded.name AND group_name IS excluded.group_name
                 THEN registered ELSE excluded.registered END,
             forgotten = NULL,
             session_until = excluded.session_until, status = excluded.status, seen = excluded.seen",
        row,
    )?;
    Ok(Claim::Granted)
}

/// Who else has an endpoint of the name in the group, unless this one had both before.
fn other_owner(connection: &Connection, endpoint: &EndpointRecord) -> Result<Option<Subject>, Fault> {
    let Some(group) = &endpoint.group else { return Ok(None) };
    let asked = "SELECT id, owner FROM endpoints AS other
        WHERE name = ?1 AND group_name = ?2 AND owner <> ?3 AND id <> ?4 AND forgotten IS NULL AND NOT EXISTS (
            SELECT 1 FROM endpoints WHERE id = ?4 AND name = ?1 AND group_name = ?2 AND forgotten IS NULL)
        ORDER BY registered LIMIT 1";
    let (name, owner) = (endpoint.name.as_str(), endpoint.owner.as_str());
    let values = (name, group.as_str(), owner, endpoint.id.uuid().into_bytes());
    one(connection, asked, values, |row| name_column(row, "owner"))
}

/// Forgets an endpoint that nobody needs.
pub(super) fn forget(
    writing: &Writing,
    endpoint: EndpointId,
    dead: &[SessionId],
    now: Moment,
) -> Result<EndpointForgotten, Fault> {
    let id = endpoint.uuid().into_bytes();
    let known = one(writing, "SELECT id FROM endpoints WHERE id = ? AND forgotten IS NULL", (id,), |_| Ok(()))?;
    if known.is_none() {
        return Ok(EndpointForgotten::Absent);
    }
    for session in dead {
        // whatever becomes of the endpoint: nobody waits for its lease to run out
        release(writing, endpoint, *session, now)?;
    }
    if let Some((session, _)) = holder(writing, endpoint)?.filter(|(session, _)| session.until > now) {
        return Ok(EndpointForgotten::Online { host: session.host });
    }
    let asked = "SELECT state, SUM(tasks) AS number FROM task_counts WHERE endpoint = ? GROUP BY state";
    let counts = counts::read(writing, asked, vec![id.to_vec().into()])?;
    let open: u64 = counts.iter().filter(|(state, _)| !state.is_over()).map(|(_, tasks)| tasks).sum();
    if open > 0 {
        return Ok(EndpointForgotten::HasTasks(open));
    }
    outbox::of_endpoint(writing, endpoint, now, StoreEvent::EndpointForgotten)?;
    let forgotten =
        "UPDATE endpoints SET forgotten = ?, session = NULL, host = NULL, session_until = NULL, epoch = epoch + 1
        WHERE id = ?";
    execute(writing, forgotten, (rows::millis(now), id))?;
    Ok(EndpointForgotten::Done)
}

/// Opens a connection of the session that holds the name.
pub(super) fn connect(
    writing: &Writing,
    endpoint: EndpointId,
    session: SessionId,
    now: Moment,
) -> Result<Option<Epoch>, Fault> {
    let asked = "UPDATE endpoints SET epoch = epoch + 1 WHERE id = ? AND session = ? RETURNING id, epoch, host";
    let opened = one(writing, asked, (endpoint.uuid().into_bytes(), session.uuid().into_bytes()), |row| {
        Ok((epoch_column(row)?, column::<Option<String>>(row, "host")?.unwrap_or_default()))
    })?;
    let Some((epoch, host)) = opened else { return Ok(None) };
    outbox::of_endpoint(writing, endpoint, now, StoreEvent::EndpointConnected { host })?;
    Ok(Some(epoch))
}

/// Whether a connection is the newest of its endpoint.
pub(super) fn speaks(connection: &Connection, holder: Holder) -> Result<bool, Fault> {
    let asked = "SELECT id, epoch FROM endpoints WHERE id = ?";
    let newest = one(connection, asked, (holder.endpoint.uuid().into_bytes(),), epoch_column)?;
    Ok(newest == Some(holder.epoch))
}

/// Renews the session that holds the name, and keeps what it says.
pub(super) fn beat(
    connection: &Connection,
    by: Holder,
    session: EndpointSession,
    status: String,
    now: Moment,
) -> Result<Claim, Fault> {
    match decide::beat(holder(connection, by.endpoint)?, by, session.id) {
        Claim::Granted => {}
        refused @ (Claim::Held(_) | Claim::Open | Claim::NameTaken { .. }) => return Ok(refused),
    }
    let row = (session.host, rows::millis(session.until), status, rows::millis(now), by.endpoint.uuid().into_bytes());
    execute(connection, "UPDATE endpoints SET host = ?, session_until = ?, status = ?, seen = ? WHERE id = ?", row)?;
    Ok(Claim::Granted)
}

/// Takes the name from the session, if it holds it.
pub(super) fn release(writing: &Writing, endpoint: EndpointId, session: SessionId, now: Moment) -> Result<(), Fault> {
    let released = execute(
        writing,
        "UPDATE endpoints SET session = NULL, host = NULL, session_until = NULL WHERE id = ? AND session = ?",
        (endpoint.uuid().into_bytes(), session.uuid().as_bytes()),
    )?;
    match released {
        0 => Ok(()),
        _ => outbox::of_endpoint(writing, endpoint, now, StoreEvent::EndpointReleased),
    }
}

/// All endpoints that are not forgotten, by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<EndpointRecord>, Fault> {
    query::all(connection, "SELECT * FROM endpoints WHERE forgotten IS NULL ORDER BY name, id", (), record)
}

/// The session that has the name, however old, and its newest connection.
pub(super) fn holder(connection: &Connection, endpoint: EndpointId) -> Result<Option<(EndpointSession, Epoch)>, Fault> {
    let asked = "SELECT id, session, epoch, host, session_until FROM endpoints WHERE id = ?";
    let found = one(connection, asked, (endpoint.uuid().into_bytes(),), |row| Ok((session(row)?, epoch_column(row)?)))?;
    Ok(found.and_then(|(session, epoch)| Some((session?, epoch))))
}

fn epoch_column(row: &Row<'_>) -> Result<Epoch, Fault> {
    Ok(Epoch::new(u64::try_from(column::<i64>(row, "epoch")?).map_err(|_| rows::damaged(row, "the epoch"))?))
}

fn session(row: &Row<'_>) -> Result<Option<EndpointSession>, Fault> {
    let (Some(host), Some(until)) = (column(row, "host")?, moment_column(row, "session_until")?) else {
        return Ok(None);
    };
    Ok(Some(EndpointSession { id: id_column(row, "session", SessionId::from_bytes)?, host, until }))
}

fn record(row: &Row<'_>) -> Result<EndpointRecord, Fault> {
    Ok(EndpointRecord {
        id: id_column(row, "id", EndpointId::from_bytes)?,
        name: name_column(row, "name")?,
        owner: name_column(row, "owner")?,
        group: rows::optional_name(row, "group_name")?,
        registered: rows::required_moment(row, "registered")?,
        session: session(row)?,
        status: column(row, "status")?,
        seen: rows::required_moment(row, "seen")?,
    })
}
