//! Artifacts of tasks: they come with a report and go with their task.

use rusqlite::{Connection, Row, params};

use super::fault::Fault;
use super::query::{all, execute, one};
use super::rows::{self, column, name_column, number};
use crate::ids::TaskId;
use crate::store::{Artifact, ArtifactInfo};
use crate::task::names::ArtifactName;

/// All but the content.
const INFO: &str =
    "SELECT task AS id, name, media_type, sha256, length(content) AS bytes FROM artifacts WHERE task = ?1";

/// Keeps an artifact; a later attempt replaces what an earlier one left under its name.
pub(super) fn keep(connection: &Connection, task: TaskId, artifact: Artifact) -> Result<(), Fault> {
    let Artifact { info: ArtifactInfo { name, media_type, sha256, bytes: _ }, content } = artifact;
    execute(
        connection,
        "INSERT OR REPLACE INTO artifacts (task, name, media_type, sha256, content) VALUES (?, ?, ?, ?, ?)",
        params![task.uuid().into_bytes(), name.as_str(), media_type.as_str(), sha256, content],
    )
    .map(|_| ())
}

/// The artifacts of a task, by name.
pub(super) fn list(connection: &Connection, task: TaskId) -> Result<Vec<ArtifactInfo>, Fault> {
    all(connection, &format!("{INFO} ORDER BY name"), (task.uuid().as_bytes(),), info)
}

/// An artifact of a task.
pub(super) fn get(connection: &Connection, task: TaskId, name: &ArtifactName) -> Result<Option<Artifact>, Fault> {
    let asked = "SELECT task AS id, name, media_type, sha256, length(content) AS bytes, content FROM artifacts
        WHERE task = ?1 AND name = ?2";
    one(connection, asked, (task.uuid().as_bytes(), name.as_str()), |row| {
        Ok(Artifact { info: info(row)?, content: column(row, "content")? })
    })
}

fn info(row: &Row<'_>) -> Result<ArtifactInfo, Fault> {
    let digest: Vec<u8> = column(row, "sha256")?;
    Ok(ArtifactInfo {
        name: name_column(row, "name")?,
        media_type: name_column(row, "media_type")?,
        sha256: digest.try_into().map_err(|_| rows::damaged(row, "the digest"))?,
        bytes: number(row, "bytes")?,
    })
}
