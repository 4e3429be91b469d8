//! `speckled hdf5-reader`, which commands and executors start: answers questions about HDF5 files that come from standard
//! input, a socket. The reading is `dataset::reader`; here are only the process's signals and its confinement.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::exit::{Exit, Failure, ProcessError};
use crate::dataset::reader::{ReaderError, serve};
use crate::runtime::sandbox::close_all_but_reading;

/// What a terminal or a worker sends to a whole group. This process ends with the one that asks it.
const OF_THE_GROUP: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Runs the command.
pub(super) fn run() -> Result<Exit, Failure> {
    for signal in OF_THE_GROUP {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(ProcessError::Signals)?;
    }
    // without Landlock, or within a sandbox that refuses it, there are still the limits
    let _confined = close_all_but_reading();
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(ReaderError::Socket)?;
    serve(&UnixStream::from(socket))?;
    Ok(Exit::Success)
}
