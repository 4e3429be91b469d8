//! Copies of the store's file: one that is whole while the store is in use, and one that takes the place of a store that is
//! not. What SQLite keeps beside its file belongs to that file alone, and would spoil another.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::schema;
use crate::store::StoreError;

/// What SQLite keeps beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Writes what a store has now into a new file, for its owner alone. Blocks.
///
/// # Errors
/// The file is there already, or cannot be written.
pub fn backup(place: &Path, to: &Path) -> Result<(), StoreError> {
    let copied = || -> Result<(), Fault> {
        // SQLite writes into an empty file too, and leaves its mode
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let connection = Connection::open_with_flags(place, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let name = to.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
        connection.execute("VACUUM INTO ?", (name,))?;
        File::open(to)?.sync_all()?;
        Ok(())
    };
    copied().map_err(|fault| fault.told("copying the store", to))
}

/// Puts a copy in the place of a store that nobody has open. Blocks.
///
/// # Errors
/// The copy is no whole store that this program knows, or it cannot be written; the store is as before then.
pub fn restore(copy: &Path, place: &Path) -> Result<(), StoreError> {
    let new = beside(place, ".new");
    let checked = || -> Result<i64, Fault> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let mut from = File::open(copy)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        let connection = Connection::open_with_flags(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let found: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
        if found != "ok" {
            return Err(Fault::Damaged { what: "the copy", id: found });
        }
        schema::version(&connection)
    };
    let told = |fault: Fault| fault.told("restoring the store", copy);
    let found = checked().map_err(told)?;
    if !(1..=schema::NEWEST).contains(&found) {
        return Err(StoreError::Version { place: copy.to_owned(), found, known: schema::NEWEST });
    }
    let placed = || -> Result<(), Fault> {
        // those of the store that is replaced, and those that the check above has made
        for name in BESIDE {
            for path in [beside(place, name), beside(&new, name)] {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        fs::rename(&new, place)?;
        File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    placed().map_err(told)
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::runtime::clock::Clock;
    use crate::store::{Store, open_sqlite};

    async fn names(place: &Path) -> usize {
        let store = open_sqlite(place, Clock::start()).await.expect("opens");
        let tokens = store.tokens().await.expect("reads").len();
        store.close().await;
        tokens
    }

    async fn with_token(place: &Path, number: u8) -> crate::store::SqliteStore {
        let store = open_sqlite(place, Clock::start()).await.expect("opens");
        let token = crate::store::TokenRecord {
            id: crate::ids::TokenId::new(uuid::Uuid::from_u128(number.into())),
            digest: [number; 32],
            subject: "ada".parse().expect("a subject"),
            roles: Vec::new(),
            groups: Vec::new(),
            made: crate::task::time::Moment::START,
            expires: None,
            revoked: None,
        };
        store.add_token(token).await.expect("keeps");
        store
    }

    #[tokio::test]
    async fn a_copy_takes_the_place_of_a_store_that_has_left_its_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let [place, copy] = ["store.db", "copy.db"].map(|name| dir.path().join(name));
        let store = with_token(&place, 1).await;
        backup(&place, &copy).expect("copies while it is open");
        assert_eq!(fs::metadata(&copy).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(backup(&place, &copy).is_err(), "nothing is overwritten");
        store.close().await;
        // as one that was killed: its log is there
        let store = with_token(&place, 2).await;
        let wal = beside(&place, "-wal");
        fs::copy(&wal, dir.path().join("kept")).expect("there is one");
        store.close().await;
        fs::copy(dir.path().join("kept"), &wal).expect("as it was");
        restore(&copy, &place).expect("restores");
        assert!(!wal.exists());
        assert_eq!(names(&place).await, 1, "what came after the copy is gone");
    }

    #[tokio::test]
    async fn what_is_no_whole_store_takes_no_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let [place, copy] = ["store.db", "copy.db"].map(|name| dir.path().join(name));
        with_token(&place, 1).await.close().await;
        for content in [&b"no database"[..], b""] {
            fs::write(&copy, content).expect("written");
            restore(&copy, &place).expect_err("is none");
        }
        restore(&dir.path().join("absent"), &place).expect_err("is not there");
        assert_eq!(names(&place).await, 1, "the store is as before");
    }
}
