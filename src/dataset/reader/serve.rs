//! The process apart: answers questions about HDF5 files with what the library says of them, until nobody asks any more.
//! It opens no file by itself, writes none, and its end is whatever the library makes of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::desk::{Desk, DeskFile, FileNumber};
use super::{Node, Question, Told, wire};
use crate::dataset::DatasetError;
use crate::dataset::opener::Opened;

/// The most memory of the process: the largest qmap takes 1 GB of it with all its copies, the chunks of 20 million frames 2.
const MOST_MEMORY: u64 = 6 << 30;

/// What a reader is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToReader {
    /// To answer, within this much computing.
    Asked { question: Question, computing: Duration },
    /// The file that it asked for, whose descriptor comes with this, or why there is none.
    Opened(Result<OpenedForm, DatasetError>),
}

/// An opened file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct OpenedForm {
    pub(super) number: FileNumber,
    pub(super) length: u64,
}

/// What a reader says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromReader {
    /// It needs a file.
    Open(#[serde(with = "wire::path")] PathBuf),
    /// A part of the answer.
    Part(Node),
    /// The answer.
    Done(Box<Result<Told, DatasetError>>),
}

/// Why a process apart ends without an answer. Nobody but a test reads it: whoever asked sees the end.
#[derive(Debug, Error)]
pub enum ReaderError {
    /// The limits cannot be set.
    #[error("cannot limit this process")]
    Limit(#[source] io::Error),
    /// The socket, or what came from it.
    #[error("standard input is no socket of a command that reads HDF5 files")]
    Socket(#[source] io::Error),
}

/// Answers questions that come from a socket, one after the other, until that ends. For good, and before any file is
/// read, the process gets its limits: memory, computing time, no file written, no core, and no life beyond its parent's.
///
/// # Errors
/// See [`ReaderError`].
pub fn serve(socket: &UnixStream) -> Result<(), ReaderError> {
    limit().map_err(ReaderError::Limit)?;
    answer(socket, limit_computing)
}

/// [`serve`] without the limits; `begin` is told of each question's.
pub(super) fn answer(
    socket: &UnixStream,
    mut begin: impl FnMut(Duration) -> io::Result<()>,
) -> Result<(), ReaderError> {
    while let Some(message) = wire::receive(socket).map_err(ReaderError::Socket)? {
        let ToReader::Asked { question, computing } = message else {
            return Err(ReaderError::Socket(io::ErrorKind::InvalidData.into()));
        };
        begin(computing).map_err(ReaderError::Limit)?;
        let mut put = |node| send(socket, question.path(), &FromReader::Part(node));
        let told = question.read(&Remote { socket }, &mut put);
        wire::send(socket, &FromReader::Done(Box::new(told))).map_err(ReaderError::Socket)?;
    }
    Ok(())
}

fn limit() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    lower(Resource::As, MOST_MEMORY)?;
    lower(Resource::Fsize, 0)?;
    lower(Resource::Core, 0)?;
    Ok(())
}

/// Sets a limit for good, if it is not lower yet.
fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |own| own.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Limits the computing from now on. The system counts whole seconds.
fn limit_computing(most: Duration) -> io::Result<()> {
    let used = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let seconds = used.saturating_add(most).as_secs_f64().ceil() as u64;
    let maximum = getrlimit(Resource::Cpu).maximum;
    let current = maximum.map_or(seconds, |own| own.min(seconds));
    Ok(setrlimit(Resource::Cpu, Rlimit { current: Some(current), maximum })?)
}

/// Opens files by asking for them.
struct Remote<'s> {
    socket: &'s UnixStream,
}

impl Desk for Remote<'_> {
    fn open(&self, path: &Path) -> Result<DeskFile, DatasetError> {
        send(self.socket, path, &FromReader::Open(path.to_owned()))?;
        let broken = |error| DatasetError::io("ask for", path, error);
        let answer = wire::receive_with(self.socket).map_err(broken)?;
        let Some((ToReader::Opened(opened), file)) = answer else {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        };
        let OpenedForm { number, length } = opened?;
        let file = file.ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?.into();
        Ok(DeskFile { number, opened: Arc::new(Opened { file, path: path.to_owned(), length }) })
    }
}

/// Nobody is there any more when this fails, which the next message finds too.
fn send(socket: &UnixStream, path: &Path, message: &FromReader) -> Result<(), DatasetError> {
    wire::send(socket, message).map_err(|error| DatasetError::io("tell about", path, error))
}
