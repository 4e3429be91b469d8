//! The `speckled` binary: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    speckled::cli::main(std::env::args_os())
}
