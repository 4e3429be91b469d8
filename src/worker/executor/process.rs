//! With what a process is started, environment, limits, directory and pipes, and on which thread. Reads no output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

use super::spawn::{Start, Started, Starter};
use super::supervise::Watched;
use super::{Slot, scratch};
use crate::ids::WorkerId;
use crate::runtime::contain::{Containment, Fence, WORK_MARK};
use crate::runtime::process::{Handle, MARK};
use crate::task::template::Rendered;
use crate::worker::assignment::{Assignment, SlotGpu, line};

/// Variables of the worker that a process gets: where programs and libraries are, the user's language and time, and
/// how HDF5, CUDA and this program behave. Nothing else, above all no credential, reaches it.
const KEPT: [&str; 8] = ["PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "TZ", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE"];

/// Beginnings of names of further variables that it gets.
const KEPT_PREFIXES: [&str; 3] = ["LC_", "HDF5_", "CUDA_"];

/// Memory beyond the slot's that is for what is not buffers: the program, its libraries, threads' stacks.
const SLACK: u64 = 1 << 30;

/// What the CUDA driver takes of the host's memory beyond that.
const GPU_SLACK: u64 = 8 << 30;

/// A process that is to be started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    cwd: PathBuf,
    memory: u64,
    input: Option<Vec<u8>>,
    reach: Reach,
}

/// How far what a process starts may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It starts nothing that leaves its group.
    Group,
    /// Anywhere.
    Anywhere,
}

/// A process that was started. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Running {
    handle: Handle,
    group: Group,
    fence: Fence,
    pub(super) input: Option<(Sender, Vec<u8>)>,
    output: Option<(Receiver, Receiver)>,
}

/// A process group, by its leader. Killed when this is dropped, so that nothing of it runs on.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Process {
    /// This program's own executor.
    ///
    /// # Errors
    /// A path that is no text.
    pub(super) fn executor(
        program: &Path,
        assignment: &Assignment,
        worker: WorkerId,
        cwd: PathBuf,
    ) -> serde_json::Result<Self> {
        Ok(Self {
            program: program.to_owned(),
            arguments: vec!["executor".into()],
            environment: marked(worker, assignment.gpu.as_ref()),
            cwd,
            memory: limit(assignment.memory, assignment.gpu.as_ref()),
            input: Some(line(assignment)?),
            reach: Reach::Group,
        })
    }

    /// A site's command. It is told what its slot has; it gets no input.
    pub(super) fn command(command: Rendered, slot: &Slot, worker: WorkerId, cwd: PathBuf) -> Self {
        let mut environment = marked(worker, slot.gpu.as_ref());
        let threads = slot.threads.to_string();
        let mut set = |name: &str, value: String| environment.insert(name.into(), value.into());
        set("OMP_NUM_THREADS", threads.clone());
        set("SPECKLED_THREADS", threads);
        set("SPECKLED_MEMORY", slot.memory.to_string());
        set("SPECKLED_GPU", slot.gpu.as_ref().map(|gpu| gpu.uuid.clone()).unwrap_or_default());
        for (name, value) in command.environment {
            set(&name, value);
        }
        Self {
            program: command.program,
            arguments: command.arguments.into_iter().map(OsString::from).collect(),
            environment,
            cwd,
            memory: limit(slot.memory, slot.gpu.as_ref()),
            input: None,
            reach: Reach::Anywhere,
        }
    }

    fn spawn(self, tools: &mut Tools) -> Result<Running, StartError> {
        let Self { program, arguments, mut environment, cwd, memory, input, reach } = self;
        fs::create_dir_all(&cwd).map_err(|source| StartError::Directory { path: cwd.clone(), source })?;
        let work = cwd.file_name().unwrap_or_default();
        environment.insert(WORK_MARK.into(), work.to_owned());
        let work = work.to_string_lossy();
        let mut fence = match reach {
            Reach::Group => tools.containment.unfenced(&work),
            Reach::Anywhere => tools.containment.fence(&work),
        };
        let start = || {
            let (stdout, written) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, told) = pipe_with(PipeFlags::CLOEXEC)?;
            let (read, stdin) = match &input {
                Some(_) => pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (Some(read), Some(write)))?,
                None => (None, None),
            };
            let streams = [read.as_ref().map_or(tools.nothing.as_fd(), OwnedFd::as_fd), written.as_fd(), told.as_fd()];
            let (program, arguments, environment) = (&program, &arguments, &environment);
            let start = |group: Option<BorrowedFd<'_>>| {
                let start = Start { program, arguments, environment, cwd: &cwd, memory, group, streams };
                tools.starter.start(&start)
            };
            let Started { pid, handle } = fence.start(start, |started| started.pid)?;
            let group = Group(Pid::from_raw(pid));
            let stdin = stdin.map(Sender::from_owned_fd).transpose()?;
            Ok(Running {
                handle: Handle::new(handle)?,
                group,
                fence,
                input: stdin.zip(input),
                output: Some((Receiver::from_owned_fd(stdout)?, Receiver::from_owned_fd(stderr)?)),
            })
        };
        start().map_err(|source| {
            // what matters is why it could not be started
            let _left = fs::remove_dir(&cwd);
            StartError::Program { path: program.clone(), source }
        })
    }
}

impl Running {
    /// The leader's number.
    pub(super) fn pid(&self) -> Option<i32> {
        self.group.0.map(Pid::as_raw_pid)
    }

    /// Its output and its error output; None when they were taken before.
    pub(super) fn output(&mut self) -> Option<(Receiver, Receiver)> {
        self.output.take()
    }

    /// Kills what is left of the group once its leader was reaped, and what has left the group. The leader's number
    /// stays the group's as long as one of it lives; that it was given to somebody else since the reaping, a moment ago,
    /// would take the whole range of numbers.
    pub(super) async fn end(mut self) {
        self.group.signal(Signal::KILL);
        self.group.0 = None;
        self.fence.end().await;
    }
}

impl Watched for Running {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.handle.status().await
    }

    fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            // none of it is left: what was wanted
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Starts processes, and makes and removes their directories, on one thread: these calls may block, and a process is
/// killed when the thread that started it ends, while a runtime's threads come and go.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Start { process: Box<Process>, answer: oneshot::Sender<Result<Running, StartError>> },
    Remove(PathBuf),
}

/// Why a process was not started.
#[derive(Debug)]
pub(super) enum StartError {
    /// Its directory cannot be made.
    Directory {
        path: PathBuf,
        source: io::Error,
    },
    Program {
        path: PathBuf,
        source: io::Error,
    },
}

/// What the thread has.
struct Tools {
    starter: Starter,
    containment: Arc<Containment>,
    nothing: File,
}

impl Spawner {
    /// Starts the thread, which ends when this is dropped.
    pub(super) fn start(worker: WorkerId) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<Order>();
        let runtime = Runtime::current();
        let containment = Containment::of(&worker.to_string());
        let mut tools = Tools { starter: Starter::new(), containment, nothing: File::open("/dev/null")? };
        thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _within = runtime.enter();
            for order in queue {
                match order {
                    Order::Start { process, answer } => {
                        // whoever asked may be gone: the process is dropped then, and so killed
                        let _ = answer.send(process.spawn(&mut tools));
                    }
                    Order::Remove(directory) => remove(directory),
                }
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a process.
    pub(super) async fn spawn(&self, process: Process) -> Result<Running, StartError> {
        let path = process.program.clone();
        let (answer, started) = oneshot::channel();
        let process = Box::new(process);
        // a thread that has ended drops the order, and with it the way to answer
        let _ended = self.orders.send(Order::Start { process, answer });
        started.await.unwrap_or_else(|_| {
            let source = io::Error::other("the thread that starts processes has ended");
            Err(StartError::Program { path, source })
        })
    }

    /// Has a process's directory removed, with all that is in it.
    pub(super) fn remove(&self, directory: PathBuf) {
        // a thread that has ended leaves it to whoever deletes the endpoint
        let _ended = self.orders.send(Order::Remove(directory));
    }
}

/// Most are empty. What a process has left may be much: the next is started meanwhile.
fn remove(directory: PathBuf) {
    match fs::remove_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tokio::task::spawn_blocking(move || stays(&directory, scratch::remove(&directory)));
        }
        removed => stays(&directory, removed),
    }
}

fn stays(directory: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(directory = %directory.display(), %error, "an attempt's directory stays behind");
    }
}

fn limit(memory: u64, gpu: Option<&SlotGpu>) -> u64 {
    let slack = SLACK + gpu.map_or(0, |_| GPU_SLACK);
    memory.saturating_add(slack)
}

/// What every process has. It sees the GPU of its slot, and no other.
fn marked(worker: WorkerId, gpu: Option<&SlotGpu>) -> BTreeMap<OsString, OsString> {
    let mut environment = kept(std::env::vars_os());
    environment.insert(MARK.into(), worker.to_string().into());
    environment.insert("CUDA_VISIBLE_DEVICES".into(), gpu.map_or("", |gpu| &gpu.uuid).into());
    environment
}

fn kept(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<OsString, OsString> {
    let keeps = |name: &OsString| {
        let name = name.to_string_lossy();
        KEPT.contains(&&*name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    variables.filter(|(name, _)| keeps(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_behind() {
        let names =
            ["PATH", "HDF5_PLUGIN_PATH", "AWS_SECRET_ACCESS_KEY", "GLOBUS_TOKEN", "LD_PRELOAD", "MYPATH", "LC_ALL"];
        let found = kept(names.iter().map(|name| ((*name).into(), "x".into())));
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["HDF5_PLUGIN_PATH", "LC_ALL", "PATH"]);
    }
}
