//! Endpoints and who holds their names.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};

use super::fault::Fault;
use super::rows::{self, column, id_column, moment_column, name_column};
use crate::ids::{EndpointId, SessionId};
use crate::store::{Claim, EndpointRecord, EndpointSession};
use crate::task::time::Moment;

/// Registers an endpoint and gives its name to a session, unless another has it.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    endpoint: EndpointRecord,
    session: EndpointSession,
    replaces: Option<SessionId>,
    now: Moment,
) -> Result<Claim, Fault> {
    if let Some(holder) = holder(connection, endpoint.id).await?
        && holder.id != session.id
        && Some(holder.id) != replaces
        && holder.until > now
    {
        return Ok(Claim::Held(holder));
    }
    sqlx::query(
        "INSERT INTO endpoints (id, name, owner, group_name, session, host, session_until, status, seen)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, session = excluded.session, host = excluded.host,
             session_until = excluded.session_until, status = excluded.status, seen = excluded.seen",
    )
    .bind(endpoint.id.uuid().as_bytes().as_slice())
    .bind(endpoint.name.as_str())
    .bind(endpoint.owner.as_str())
    .bind(endpoint.group.as_ref().map(|group| group.as_str()))
    .bind(session.id.uuid().as_bytes().as_slice())
    .bind(&session.host)
    .bind(rows::millis(session.until))
    .bind(&endpoint.status)
    .bind(rows::millis(now))
    .execute(connection)
    .await?;
    Ok(Claim::Granted)
}

/// Renews the session that holds the name, and keeps what it says.
pub(super) async fn beat(
    connection: &mut SqliteConnection,
    endpoint: EndpointId,
    session: EndpointSession,
    status: String,
    now: Moment,
) -> Result<Claim, Fault> {
    match holder(connection, endpoint).await? {
        None => return Ok(Claim::Open),
        Some(holder) if holder.id != session.id => return Ok(Claim::Held(holder)),
        Some(_) => {}
    }
    sqlx::query("UPDATE endpoints SET host = ?, session_until = ?, status = ?, seen = ? WHERE id = ?")
        .bind(&session.host)
        .bind(rows::millis(session.until))
        .bind(&status)
        .bind(rows::millis(now))
        .bind(endpoint.uuid().as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(Claim::Granted)
}

/// Takes the name from the session, if it holds it.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    endpoint: EndpointId,
    session: SessionId,
) -> Result<(), Fault> {
    sqlx::query("UPDATE endpoints SET session = NULL, host = NULL, session_until = NULL WHERE id = ? AND session = ?")
        .bind(endpoint.uuid().as_bytes().as_slice())
        .bind(session.uuid().as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// All endpoints, by name.
pub(super) async fn all(readers: &SqlitePool) -> Result<Vec<EndpointRecord>, Fault> {
    let rows = sqlx::query("SELECT * FROM endpoints ORDER BY name, id").fetch_all(readers).await?;
    rows.iter().map(record).collect()
}

/// The session that has the name, however old.
pub(super) async fn holder(
    connection: &mut SqliteConnection,
    endpoint: EndpointId,
) -> Result<Option<EndpointSession>, Fault> {
    let row = sqlx::query("SELECT id, session, host, session_until FROM endpoints WHERE id = ?")
        .bind(endpoint.uuid().as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map_or(Ok(None), session)
}

fn session(row: &SqliteRow) -> Result<Option<EndpointSession>, Fault> {
    let (Some(host), Some(until)) = (column(row, "host")?, moment_column(row, "session_until")?) else {
        return Ok(None);
    };
    Ok(Some(EndpointSession { id: id_column(row, "session", SessionId::from_bytes)?, host, until }))
}

fn record(row: &SqliteRow) -> Result<EndpointRecord, Fault> {
    Ok(EndpointRecord {
        id: id_column(row, "id", EndpointId::from_bytes)?,
        name: name_column(row, "name")?,
        owner: name_column(row, "owner")?,
        group: rows::optional_name(row, "group_name")?,
        session: session(row)?,
        status: column(row, "status")?,
        seen: rows::required_moment(row, "seen")?,
    })
}
