//! The process apart as whoever asks sees it: started when it is needed, asked one question at a time, believed nothing, and
//! ended when it says nonsense or nothing. Tells an end that is the file's fault from one that is not.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::desk::{Desk, Files};
use super::serve::{FromReader, OpenedForm, ToReader};
use super::{BrokenAnswer, PutNode, Question, Told, wire};
use crate::dataset::DatasetError;
use crate::task::ending::signal_name;

/// This program, as it is running: a newer one in its place would speak another form.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What it is told to be.
const COMMAND: &str = "hdf5-reader";

/// Sets the limit of computing, in seconds.
const VARIABLE: &str = "SPECKLED_INPUT_LIMIT_S";

/// Computing that no sound file takes: the largest qmap takes a second, a million chunks a few.
const COMPUTING: Duration = Duration::from_secs(60);

/// How long an answer may take: a parallel file system whose server is replaced stands still for minutes.
const WALL: Duration = Duration::from_secs(15 * 60);

/// The most messages of one answer: files that are opened, some of them again and again, and nodes of a tree.
const MOST_MESSAGES: usize = 500_000;

/// The most bytes of one answer, in all its messages. A metadata file has less than a thousandth.
const MOST_TOLD: u64 = 4 << 30;

/// How a process that read a file ended, by that file's fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReaderEnd {
    /// By a signal of its own making, by number.
    Signal(i32),
    /// It computed for this long and came to no end.
    Computing(Duration),
    /// With an exit code.
    Code(i32),
    /// Its answer cannot be.
    Answer(&'static str),
}

impl fmt::Display for ReaderEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => {
                let name = signal_name(*number).map(|name| format!(" ({name})")).unwrap_or_default();
                write!(f, "the HDF5 library died by signal {number}{name} while it read it")
            }
            Self::Computing(limit) => {
                write!(f, "the HDF5 library has not come to its end in {} s of computing", limit.as_secs_f64())
            }
            Self::Code(code) => write!(f, "the process that reads it ended with exit code {code}"),
            Self::Answer(what) => write!(f, "the process that reads it gave an answer that cannot be: {what}"),
        }
    }
}

/// Processes apart, one after the other.
#[derive(Debug)]
pub(in crate::dataset) struct Apart {
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: ReaderLimits,
    /// None before the first question, and after an end.
    running: Mutex<Option<Running>>,
}

/// What an answer may take.
#[derive(Debug, Clone, Copy)]
struct ReaderLimits {
    computing: Duration,
    wall: Duration,
}

/// A process. Dropping it ends it.
#[derive(Debug)]
struct Running {
    process: Child,
    socket: UnixStream,
}

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    /// The process has gone, or is not to be talked with.
    Gone,
    /// It has taken too long.
    Late,
    /// It said what cannot be.
    Nonsense(&'static str),
    /// What it said could not be put where it belongs.
    Put(DatasetError),
}

impl Apart {
    /// This program's own.
    pub(in crate::dataset) fn new() -> Self {
        let seconds = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        let computing = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(COMPUTING);
        Self::of(OWN_PROGRAM, &[COMMAND], ReaderLimits { computing, wall: WALL })
    }

    fn of(program: &str, arguments: &[&str], limits: ReaderLimits) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { program: program.into(), arguments, limits, running: Mutex::default() }
    }

    /// Has a process answer.
    ///
    /// # Errors
    /// What the question's reading refuses; [`DatasetError::Damaged`], [`DatasetError::Reader`]; what `put` says.
    pub(super) fn ask(
        &self,
        question: &Question,
        files: &Files<'_>,
        put: &mut PutNode<'_>,
    ) -> Result<Told, DatasetError> {
        let reader = |source| DatasetError::Reader { path: question.path().to_owned(), source };
        let mut place = self.lock();
        // one that was ended meanwhile, by whomever, is no matter of this question
        let alive =
            place.take().and_then(|mut running| matches!(running.process.try_wait(), Ok(None)).then_some(running));
        let mut running = match alive {
            Some(running) => running,
            None => self.start().map_err(reader)?,
        };
        let trouble = match converse(&running.socket, question, self.limits, files, put) {
            Ok(told) => {
                *place = Some(running);
                return told;
            }
            Err(trouble) => trouble,
        };
        if let Trouble::Late = trouble {
            // a disk or a file system, since its computing is limited; it may be stuck there, and is not waited for
            return Err(reader(io::ErrorKind::TimedOut.into()));
        }
        let status = running.end().map_err(reader)?;
        match (trouble, self.judge(status)) {
            (Trouble::Put(error), _) => Err(error),
            (Trouble::Nonsense(what), _) => Err(damaged(question, files, ReaderEnd::Answer(what))),
            (_, Some(end)) => Err(damaged(question, files, end)),
            (_, None) => Err(reader(io::Error::other("the process was killed"))),
        }
    }

    /// Ends the process, if there is one.
    pub(super) fn end(&self) {
        // how it ends tells nothing
        let _status = self.lock().take().map(|mut running| running.end());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> io::Result<Running> {
        let (socket, its) = UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        // what it has to say it says by its end
        command.arg0(env!("CARGO_PKG_NAME")).args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.stdin(OwnedFd::from(its)).spawn()?;
        Ok(Running { process, socket })
    }

    /// What an end says of the file that was read; None where somebody else ended the process. The library itself cannot
    /// have sent SIGKILL.
    fn judge(&self, status: ExitStatus) -> Option<ReaderEnd> {
        match (status.signal(), status.code()) {
            (Some(libc::SIGKILL), _) => None,
            (Some(libc::SIGXCPU), _) => Some(ReaderEnd::Computing(self.limits.computing)),
            (Some(signal), _) => Some(ReaderEnd::Signal(signal)),
            (None, code) => Some(ReaderEnd::Code(code.unwrap_or_default())),
        }
    }
}

impl Running {
    /// How it has ended. One that only pretends to have is killed.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.process.kill()?;
        self.process.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // one that has ended is not to be killed; the system buries it with this process
        let _ended = self.process.kill();
    }
}

/// The file of a question that is damaged: the one that was opened last, which may be another than was named.
pub(super) fn damaged(question: &Question, files: &Files<'_>, end: ReaderEnd) -> DatasetError {
    DatasetError::Damaged { path: files.last().unwrap_or_else(|| question.path().to_owned()), end }
}

/// Asks a question and serves what is needed for its answer.
fn converse(
    socket: &UnixStream,
    question: &Question,
    limits: ReaderLimits,
    files: &Files<'_>,
    put: &mut PutNode<'_>,
) -> Result<Result<Told, DatasetError>, Trouble> {
    let deadline = Instant::now() + limits.wall;
    let asked = ToReader::Asked { question: question.clone(), computing: limits.computing };
    // a reader that does not listen, as one that is not ours
    socket.set_write_timeout(Some(limits.wall)).map_err(|_| Trouble::Gone)?;
    wire::send(socket, &asked).map_err(of_system)?;
    let mut heard = Heard { socket, deadline, left: MOST_TOLD };
    for _ in 0..MOST_MESSAGES {
        let message = wire::receive(&mut heard).map_err(of_system)?.ok_or(Trouble::Gone)?;
        match message {
            FromReader::Open(path) => match files.open(&path) {
                Ok(file) => {
                    let form = OpenedForm { number: file.number, length: file.length };
                    wire::send_with(socket, &ToReader::Opened(Ok(form)), file.file.as_fd()).map_err(of_system)?;
                }
                Err(error) => wire::send(socket, &ToReader::Opened(Err(error))).map_err(of_system)?,
            },
            FromReader::Part(node) => {
                node.check().map_err(|BrokenAnswer(what)| Trouble::Nonsense(what))?;
                put(node).map_err(Trouble::Put)?;
            }
            FromReader::Done(told) => return Ok(*told),
        }
    }
    Err(Trouble::Nonsense("it does not end"))
}

fn of_system(error: io::Error) -> Trouble {
    if error.kind() == io::ErrorKind::InvalidData {
        Trouble::Nonsense("it has another form")
    } else if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::TimedOut {
        Trouble::Late
    } else {
        Trouble::Gone
    }
}

/// A socket that is read until a time, and not for ever.
struct Heard<'s> {
    socket: &'s UnixStream,
    deadline: Instant,
    /// Bytes.
    left: u64,
}

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut socket = self.socket;
        let read = socket.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
