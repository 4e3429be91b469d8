//! Tokens; their secrets are nowhere.

use rusqlite::{Connection, Row};

use super::fault::Fault;
use super::query::{self, execute, one};
use super::rows::{self, column, id_column, json_column, moment_column, name_column};
use crate::ids::TokenId;
use crate::store::TokenRecord;
use crate::task::time::Moment;

/// Keeps a token.
pub(super) fn add(connection: &Connection, token: TokenRecord) -> Result<(), Fault> {
    let TokenRecord { id, digest, subject, roles, groups, made, expires, revoked } = token;
    let row = (
        id.uuid().into_bytes(),
        digest,
        subject.as_str(),
        serde_json::to_string(&roles)?,
        serde_json::to_string(&groups)?,
        rows::millis(made),
        expires.map(rows::millis),
        revoked.map(rows::millis),
    );
    execute(
        connection,
        "INSERT INTO tokens (id, digest, subject, roles, groups, made, expires, revoked)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )?;
    Ok(())
}

/// Revokes a token; of two revocations the first counts.
pub(super) fn revoke(connection: &Connection, token: TokenId, now: Moment) -> Result<bool, Fault> {
    let row = (rows::millis(now), token.uuid().into_bytes());
    Ok(execute(connection, "UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?", row)? > 0)
}

/// The token with this digest.
pub(super) fn find(connection: &Connection, digest: [u8; 32]) -> Result<Option<TokenRecord>, Fault> {
    one(connection, "SELECT * FROM tokens WHERE digest = ?", (digest,), record)
}

/// All tokens, oldest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<TokenRecord>, Fault> {
    query::all(connection, "SELECT * FROM tokens ORDER BY made, id", (), record)
}

fn record(row: &Row<'_>) -> Result<TokenRecord, Fault> {
    let digest: Vec<u8> = column(row, "digest")?;
    Ok(TokenRecord {
        id: id_column(row, "id", TokenId::from_bytes)?,
        digest: digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?,
        subject: name_column(row, "subject")?,
        roles: json_column(row, "roles")?,
        groups: json_column(row, "groups")?,
        made: rows::required_moment(row, "made")?,
        expires: moment_column(row, "expires")?,
        revoked: moment_column(row, "revoked")?,
    })
}
