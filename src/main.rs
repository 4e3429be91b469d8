//! The `speckled` binary: see the library for what it does.

use std::process::ExitCode;

use speckled::dataset::hdf5::FILE_LOCKING;

fn main() -> ExitCode {
    // Parallel file systems refuse the library's locks or keep them, and raw data may still be open where they are
    // written. A result has a name of its own until it is whole, so that nobody else can open it.
    if std::env::var_os(FILE_LOCKING).is_none() {
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(FILE_LOCKING, "FALSE") };
    }
    speckled::cli::main(std::env::args_os())
}
