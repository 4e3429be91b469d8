//! The form of a journal. Pure: bytes in, bytes out.
//!
//! ```text
//!   speckled journal 2\n
//!   length: u32 │ synced: u64 │ checksum: 8 bytes │ an entry as JSON, \n │ another │ …      a record
//!   …                                                       numbers are little endian
//! ```
//!
//! A record is what was appended at once: its entries are there together. `synced` says up to where the file was known
//! to be on the disk when the record was written. A power cut may leave later records on the disk and not earlier ones:
//! a record that is not whole ends the journal, whatever follows it, unless one that follows knew it to be on the disk.
//! The checksum, the first bytes of SHA-256, covers the numbers as well.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::JournalError;
use super::weights::{EntryMark, Weights};
use crate::endpoint::ledger::{Entry, Ledger};

/// How a journal begins; the number is that of its form.
pub(super) const HEADER: &[u8] = b"speckled journal 2\n";

/// Bytes of a record's entries: no four bytes of their text read as a length below this, so that a search for records
/// passes over it quickly.
const LARGEST: usize = 0x2000_0000 - 1;

/// Bytes of a record's length.
const LENGTH: usize = 4;

/// Bytes of a record's numbers.
const NUMBERS: usize = LENGTH + 8;

/// Bytes before a record's entries.
const FRAME: usize = NUMBERS + 8;

/// Entries as they are written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// A line each.
    pub(super) lines: Vec<u8>,
    /// What each does to whom, and the bytes of its line.
    pub(super) marks: Vec<(EntryMark, u64)>,
}

/// What the bytes of a journal say.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The ledger that its entries make.
    pub(super) ledger: Ledger,
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
        encoded.marks.push((EntryMark::of(entry), (encoded.lines.len() - begin) as u64));
    }
    if encoded.lines.len() > LARGEST {
        return Err(JournalError::Large { path: path.to_owned(), bytes: encoded.lines.len() });
    }
    Ok(encoded)
}

/// The record of some lines, at most as many as [`encode`] makes, in a file of which so much is on the disk.
pub(super) fn record(lines: &[u8], synced: u64) -> Vec<u8> {
    let mut record = Vec::with_capacity(FRAME + lines.len());
    #[expect(clippy::cast_possible_truncation, reason = "`encode` makes no more than `LARGEST`")]
    record.extend_from_slice(&(lines.len() as u32).to_le_bytes());
    record.extend_from_slice(&synced.to_le_bytes());
    record.extend_from_slice(&sum(&record, lines));
    record.extend_from_slice(lines);
    record
}

/// Reads a journal up to its end, or to a record that is not whole; `path` is for errors.
pub(super) fn replay(bytes: &[u8], path: &Path) -> Result<Replayed, JournalError> {
    replay_those(bytes, path, |_| true)
}

/// The same, but only entries that are wanted.
pub(super) fn replay_those<W>(bytes: &[u8], path: &Path, wanted: W) -> Result<Replayed, JournalError>
where
    W: Fn(&EntryMark) -> bool,
{
    if !bytes.starts_with(HEADER) {
        return Err(JournalError::NoJournal { path: path.to_owned() });
    }
    let mut replayed = Replayed::default();
    let mut rest = &bytes[HEADER.len()..];
    while let Some(Record { lines, after, synced: _ }) = first(rest) {
        let offset = (bytes.len() - rest.len()) as u64;
        replayed.enter(lines, &wanted).map_err(|source| JournalError::UnknownEntry {
            path: path.to_owned(),
            offset,
            source: Arc::new(source),
        })?;
        rest = after;
    }
    replayed.length = (bytes.len() - rest.len()) as u64;
    // a wrong length hides where the next record begins: it is looked for everywhere
    let later = (1..rest.len()).filter_map(|later| first(&rest[later..]));
    if later.map(|record| record.synced).any(|synced| synced > replayed.length) {
        return Err(JournalError::Damaged { path: path.to_owned(), offset: replayed.length });
    }
    Ok(replayed)
}

impl Replayed {
    fn enter(&mut self, lines: &[u8], wanted: &impl Fn(&EntryMark) -> bool) -> Result<(), serde_json::Error> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let entry: Entry = serde_json::from_slice(line)?;
            let mark = EntryMark::of(&entry);
            if !wanted(&mark) {
                continue;
            }
            self.weights.note(&mark, line.len() as u64);
            // refused when it was first entered, too
            let _refused = self.ledger.apply(entry);
            self.entries += 1;
        }
        Ok(())
    }
}

/// A whole record at the beginning of some bytes.
struct Record<'b> {
    lines: &'b [u8],
    synced: u64,
    after: &'b [u8],
}

/// The record at the beginning; None when there is no whole one.
fn first(bytes: &[u8]) -> Option<Record<'_>> {
    let (frame, rest) = bytes.split_at_checked(FRAME)?;
    let (numbers, checksum) = frame.split_at(NUMBERS);
    let (length, synced) = numbers.split_at(LENGTH);
    let size = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if size > LARGEST {
        return None;
    }
    let (lines, after) = rest.split_at_checked(size)?;
    let synced = u64::from_le_bytes(synced.try_into().ok()?);
    (sum(numbers, lines) == checksum).then_some(Record { lines, synced, after })
}

fn sum(numbers: &[u8], lines: &[u8]) -> [u8; FRAME - NUMBERS] {
    let digest = Sha256::new().chain_update(numbers).chain_update(lines).finalize();
    let mut sum = [0; FRAME - NUMBERS];
    sum.copy_from_slice(&digest[..FRAME - NUMBERS]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::ledger::tests::{attempt, handed, over, started, taken};

    /// What endpoints have on their disks when the program is replaced by a newer one. A change that makes this fail
    /// needs another number in [`HEADER`], and a way to read this one.
    const FIRST_FORM: &str = concat!(
        r#"{"taken":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""spec":{"kind":"nothing"},"deadline":null,"crashes":0}}"#,
        "\n",
        r#"{"handed":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""worker":"00000000-0000-0000-0000-000000000002"}}"#,
        "\n",
        r#"{"started":{"task":"00000000-0000-0000-0000-000000000001","number":1}}"#,
        "\n",
        r#"{"reported":{"attempt":{"task":"00000000-0000-0000-0000-000000000001","number":1},"#,
        r#""outcome":"succeeded","result":{"files":[],"log":null,"document":"{}"}}}"#,
        "\n",
        r#"{"settled":[{"task":"00000000-0000-0000-0000-000000000001","number":1}]}"#,
        "\n",
    );

    #[test]
    fn entries_of_the_first_form_are_read() {
        let entries =
            [taken(1, 1), handed(1, 1, 2), started(1, 1), over(1, 1, "{}"), Entry::Settled(vec![attempt(1, 1)])];
        let encoded = encode(&entries, Path::new("journal")).expect("encodes");
        assert_eq!(String::from_utf8(encoded.lines).expect("text"), FIRST_FORM);
        let read: Vec<Entry> = FIRST_FORM.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
        assert_eq!(read, entries);
    }
}
