//! The form of a journal. Pure: bytes in, bytes out.
//!
//! ```text
//!   speckled journal 1\n
//!   length: u32, little endian │ checksum: 8 bytes │ an entry as JSON, \n │ another │ …      a record
//!   …
//! ```
//!
//! A record is what was written and synced at once. So of all records only the last may be incomplete, also after a
//! power cut that left later parts of it on the disk and not earlier ones; and entries that were appended together are
//! there together. The checksum, the first bytes of SHA-256, covers the length as well.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::JournalError;
use super::weights::{Mark, Weights};
use crate::endpoint::book::{Book, Entry};

/// How a journal begins; the number is that of its form.
pub(super) const HEADER: &[u8] = b"speckled journal 1\n";

/// Bytes of a record's entries: no four bytes of their text read as a length below this, so that a search for records
/// passes over it quickly.
const LARGEST: usize = 0x2000_0000 - 1;

/// Bytes of a record's length.
const LENGTH: usize = 4;

/// Bytes before a record's entries.
const FRAME: usize = LENGTH + 8;

/// Entries as they are written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// A line each.
    pub(super) lines: Vec<u8>,
    /// What each does to whom, and the bytes of its line.
    pub(super) marks: Vec<(Mark, u64)>,
}

/// What the bytes of a journal say.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The book that its entries make.
    pub(super) book: Book,
    /// What each attempt takes up.
    pub(super) weights: Weights,
    /// How many entries there are.
    pub(super) entries: u64,
    /// Bytes up to the end of the last whole record.
    pub(super) length: u64,
}

/// The text of entries; `path` is for errors.
pub(super) fn encode<'e, I>(entries: I, path: &Path) -> Result<Encoded, JournalError>
where
    I: IntoIterator<Item = &'e Entry>,
{
    let mut encoded = Encoded::default();
    for entry in entries {
        let begin = encoded.lines.len();
        serde_json::to_writer(&mut encoded.lines, entry)
            .map_err(|source| JournalError::Encode { path: path.to_owned(), source: Arc::new(source) })?;
        encoded.lines.push(b'\n');
        encoded.marks.push((Mark::of(entry), (encoded.lines.len() - begin) as u64));
    }
    if encoded.lines.len() > LARGEST {
        return Err(JournalError::Large { path: path.to_owned(), bytes: encoded.lines.len() });
    }
    Ok(encoded)
}

/// The record of some lines, together at most as long as [`encode`] makes them.
pub(super) fn record<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Vec<u8> {
    let mut record = vec![0; FRAME];
    lines.for_each(|line| record.extend_from_slice(line));
    let (frame, lines) = record.split_at_mut(FRAME);
    let (length, checksum) = frame.split_at_mut(LENGTH);
    length.copy_from_slice(&(lines.len() as u32).to_le_bytes());
    checksum.copy_from_slice(&sum(length, lines));
    record
}

/// Reads a journal up to its end, or to a last record that is not whole; `path` is for errors.
pub(super) fn replay(bytes: &[u8], path: &Path) -> Result<Replayed, JournalError> {
    if !bytes.starts_with(HEADER) {
        return Err(JournalError::NoJournal { path: path.to_owned() });
    }
    let mut replayed = Replayed::default();
    let mut rest = &bytes[HEADER.len()..];
    while let Some((lines, after)) = first(rest) {
        let offset = (bytes.len() - rest.len()) as u64;
        replayed.enter(lines).map_err(|source| JournalError::UnknownEntry {
            path: path.to_owned(),
            offset,
            source: Arc::new(source),
        })?;
        rest = after;
    }
    replayed.length = (bytes.len() - rest.len()) as u64;
    // a wrong length makes a record look like the last one: it is the last if there is none behind its beginning
    if (1..rest.len()).any(|later| first(&rest[later..]).is_some()) {
        return Err(JournalError::Damaged { path: path.to_owned(), offset: replayed.length });
    }
    Ok(replayed)
}

impl Replayed {
    fn enter(&mut self, lines: &[u8]) -> Result<(), serde_json::Error> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let entry: Entry = serde_json::from_slice(line)?;
            self.weights.note(&Mark::of(&entry), line.len() as u64);
            // refused when it was first entered, too
            let _refused = self.book.apply(entry);
            self.entries += 1;
        }
        Ok(())
    }
}

/// The lines of the record at the beginning, and what follows it; None when there is no whole one.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (frame, rest) = bytes.split_at_checked(FRAME)?;
    let (length, checksum) = frame.split_at(LENGTH);
    let size = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if size > LARGEST {
        return None;
    }
    let (lines, after) = rest.split_at_checked(size)?;
    (sum(length, lines) == checksum).then_some((lines, after))
}

fn sum(length: &[u8], lines: &[u8]) -> [u8; FRAME - LENGTH] {
    let digest = Sha256::new().chain_update(length).chain_update(lines).finalize();
    let mut sum = [0; FRAME - LENGTH];
    sum.copy_from_slice(&digest[..FRAME - LENGTH]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::book::tests::{attempt, began, handed, over, taken};

    /// What endpoints have on their disks when the program is replaced by a newer one. A change that makes this fail
    /// needs another number in [`HEADER`], and a way to read this one.
    const FIRST_FORM: &str = concat!(
        r#"{"taken":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""spec":{"kind":"nothing"},"deadline":null,"until":7,"crashes":0}}"#,
        "\n",
        r#"{"handed":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""worker":"00000000-0000-0000-0000-000000000002"}}"#,
        "\n",
        r#"{"began":{"task":"00000000-0000-0000-0000-000000000001","number":1}}"#,
        "\n",
        r#"{"over":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""outcome":"Succeeded","result":{"files":[],"log":null,"document":"{}"}}}"#,
        "\n",
        r#"{"settled":[{"task":"00000000-0000-0000-0000-000000000001","number":1}]}"#,
        "\n",
    );

    #[test]
    fn entries_of_the_first_form_are_read() {
        let entries =
            [taken(1, 1), handed(1, 1, 2), began(1, 1), over(1, 1, "{}"), Entry::Settled(vec![attempt(1, 1)])];
        let encoded = encode(&entries, Path::new("journal")).expect("encodes");
        assert_eq!(String::from_utf8(encoded.lines).expect("text"), FIRST_FORM);
        let read: Vec<Entry> = FIRST_FORM.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
        assert_eq!(read, entries);
    }
}
