//! Fuzz targets: what comes from files of others, or from a disk after a power cut, must never make the program panic,
//! hang or take memory without bound. `scripts/fuzz` builds and runs them, on the stable toolchain.
//!
//! One program has all targets; `SPECKLED_FUZZ_TARGET` names the one that runs, since libFuzzer has the arguments. With
//! `SPECKLED_FUZZ_SEEDS` it writes the target's first inputs into a directory, and ends.
//!
//! A target must not keep anything from one input to the next but its directory.

#![no_main]

mod chunk;
mod imm;
mod journal;
mod rigaku;
mod source;

use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::OnceLock;

/// A target.
struct Target {
    name: &'static str,
    /// What is done with an input; files may be made in the directory.
    run: fn(&[u8], &Path),
    /// Inputs to begin with: valid ones, which random changes make almost valid.
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: [Target; 4] = [
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "imm", run: imm::run, seeds: imm::seeds },
    Target { name: "rigaku", run: rigaku::run, seeds: rigaku::seeds },
    Target { name: "chunk", run: chunk::run, seeds: chunk::seeds },
];

struct Chosen {
    target: &'static Target,
    directory: tempfile::TempDir,
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(Chosen { target, directory }) = CHOSEN.get() {
        (target.run)(data, directory.path());
    }
});

fn choose() {
    let name = std::env::var("SPECKLED_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        die(&format!("SPECKLED_FUZZ_TARGET names none of {}; run scripts/fuzz", names.join(", ")));
    };
    if let Some(seeds) = std::env::var_os("SPECKLED_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            if let Err(error) = std::fs::write(seeds.join(format!("seed-{number}")), seed) {
                die(&format!("cannot write seeds to {}: {error}", seeds.display()));
            }
        }
        exit(0);
    }
    // in memory where that is possible: a target writes some thousand files a second
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    match directory {
        Ok(directory) => drop(CHOSEN.set(Chosen { target, directory })),
        Err(error) => die(&format!("cannot make a temporary directory: {error}")),
    }
}

#[expect(clippy::print_stderr, reason = "a program for developers, without the command line's messages")]
fn die(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(2)
}

/// Replaces a target's file.
fn write(path: &Path, bytes: &[u8]) {
    if let Err(error) = std::fs::write(path, bytes) {
        die(&format!("cannot write {}: {error}", path.display()));
    }
}
