//! Rigaku event files, single or six modules of a 3M: events out of range, out of order, cut off.
//!
//! The first byte of an input chooses: with 0 the next two are the image's rows and columns, and the rest is a single
//! file; else the rest is dealt out to six files, eight bytes to each in turn.

use std::path::Path;

use speckled::correlate::bins::Shape;
use speckled::dataset::Opener;
use speckled::dataset::{Source, rigaku};

use super::{source, write};

const EVENT_BYTES: usize = 8;

/// Module files of a 3M.
const MODULES: usize = 6;

pub(crate) fn run(data: &[u8], directory: &Path) {
    let opened = match data {
        [0, rows, cols, events @ ..] => {
            let path = directory.join("events.bin");
            write(&path, events);
            rigaku::open_single(
                &Opener::anywhere(),
                &path,
                Shape { rows: usize::from(*rows), cols: usize::from(*cols) },
            )
        }
        [_, events @ ..] => {
            let path = |module: usize| directory.join(format!("events.bin.{module:03}"));
            for module in 0..MODULES {
                let dealt = events.chunks(EVENT_BYTES).skip(module).step_by(MODULES);
                write(&path(module), &dealt.collect::<Vec<_>>().concat());
            }
            rigaku::open_3m(&Opener::anywhere(), &path(0))
        }
        [] => return,
    };
    if let Ok(events) = opened {
        source::read_through(&Source::Events(events));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let event = |frame: u64, pixel: u64, count: u64| (frame << 40 | pixel << 16 | count).to_le_bytes();
    let single = [event(0, 0, 1), event(0, 24, 2), event(3, 24, 1), event(3, 99, 4095)].concat();
    let modules: Vec<u8> = (0..MODULES as u64).flat_map(|module| event(module, 1000 * module, 1)).collect();
    // some modules number their pixels from 2^20
    let shifted: Vec<u8> = (0..2 * MODULES as u64).flat_map(|place| event(place / 6, 1 << 20 | place, 1)).collect();
    vec![[&[0, 10, 10][..], &single].concat(), [&[1][..], &modules].concat(), [&[1][..], &shifted].concat()]
}
