//! Journals as a power cut or a bad disk may leave them.
//!
//! Random bytes never have a right checksum. So an input is not the file, but a recipe: pieces, each with a byte that says
//! what it is, two bytes of length, and its text. Whole records get their checksum here.

use std::path::Path;

use sha2::{Digest, Sha256};
use speckled::endpoint::journal;

use super::{die, write};

const HEADER: &[u8] = b"speckled journal 2\n";

/// Bytes of a record's checksum: the first of SHA-256.
const CHECKSUM: usize = 8;

/// A piece that is a record; when it was written, all before it was on the disk.
const WHOLE: u8 = 0;

/// A bit: nothing was on the disk when it was written.
const UNSYNCED: u8 = 1;

/// A bit: it is no record, only its text.
const RAW: u8 = 2;

/// A journal's entries, a line each. They must be read: else the target would find nothing.
const ENTRIES: &str = include_str!("entries.jsonl");

pub(crate) fn run(data: &[u8], directory: &Path) {
    write(&directory.join("journal"), &cook(data));
    let Ok((_, recovered)) = journal::read(directory) else { return };
    // whoever reads it again finds the same
    let again = journal::read(directory).map(|(_, recovered)| recovered);
    assert!(again.is_ok_and(|again| again == recovered), "read twice, found twice");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lines: Vec<&str> = ENTRIES.split_inclusive('\n').collect();
    for line in &lines {
        if let Err(error) = serde_json::from_str::<speckled::endpoint::ledger::Entry>(line) {
            die(&format!(
                "{line}is no entry any more ({error}); write fuzz/entries.jsonl again, as the ledger has them"
            ));
        }
    }
    let one_each: Vec<u8> = lines.iter().flat_map(|line| piece(WHOLE, line.as_bytes())).collect();
    let at_once = piece(WHOLE, ENTRIES.as_bytes());
    let torn = [piece(UNSYNCED, lines[0].as_bytes()), piece(RAW, &[0; 40])].concat();
    let lost = [piece(RAW, &[0; 40]), piece(WHOLE, lines[0].as_bytes())].concat();
    vec![Vec::new(), one_each, at_once, torn, lost]
}

fn piece(kind: u8, text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&[kind][..], &length.to_le_bytes(), &text[..usize::from(length)]].concat()
}

/// The file of a recipe.
fn cook(mut recipe: &[u8]) -> Vec<u8> {
    let mut file = HEADER.to_vec();
    while let [kind, low, high, rest @ ..] = recipe {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (text, after) = rest.split_at(length);
        let synced = if kind & UNSYNCED != 0 { 0 } else { file.len() as u64 };
        if kind & RAW != 0 {
            file.extend_from_slice(text);
        } else {
            let numbers = [&(text.len() as u32).to_le_bytes()[..], &synced.to_le_bytes()].concat();
            let digest = Sha256::new().chain_update(&numbers).chain_update(text).finalize();
            file.extend_from_slice(&numbers);
            file.extend_from_slice(&digest[..CHECKSUM]);
            file.extend_from_slice(text);
        }
        recipe = after;
    }
    file
}
