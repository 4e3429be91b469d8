//! Tokens; their secrets are nowhere.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};

use super::fault::Fault;
use super::rows::{self, column, id_column, json_column, moment_column, name_column};
use crate::ids::TokenId;
use crate::store::TokenRecord;
use crate::task::time::Moment;

/// Keeps a token.
pub(super) async fn add(connection: &mut SqliteConnection, token: TokenRecord) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO tokens (id, digest, subject, roles, groups, made, expires, revoked)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(token.id.uuid().as_bytes().as_slice())
    .bind(token.digest.as_slice())
    .bind(token.subject.as_str())
    .bind(serde_json::to_string(&token.roles)?)
    .bind(serde_json::to_string(&token.groups)?)
    .bind(rows::millis(token.made))
    .bind(token.expires.map(rows::millis))
    .bind(token.revoked.map(rows::millis))
    .execute(connection)
    .await?;
    Ok(())
}

/// Revokes a token; of two revocations the first counts.
pub(super) async fn revoke(connection: &mut SqliteConnection, token: TokenId, now: Moment) -> Result<bool, Fault> {
    let done = sqlx::query("UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?")
        .bind(rows::millis(now))
        .bind(token.uuid().as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The token with this digest.
pub(super) async fn find(readers: &SqlitePool, digest: [u8; 32]) -> Result<Option<TokenRecord>, Fault> {
    let query = sqlx::query("SELECT * FROM tokens WHERE digest = ?").bind(digest.to_vec());
    query.fetch_optional(readers).await?.as_ref().map(record).transpose()
}

/// All tokens, oldest first.
pub(super) async fn all(readers: &SqlitePool) -> Result<Vec<TokenRecord>, Fault> {
    let rows = sqlx::query("SELECT * FROM tokens ORDER BY made, id").fetch_all(readers).await?;
    rows.iter().map(record).collect()
}

fn record(row: &SqliteRow) -> Result<TokenRecord, Fault> {
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
