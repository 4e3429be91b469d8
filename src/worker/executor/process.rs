//! How a process is started: with what environment, limits and pipes, and on which thread. Reads no output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, kill_process_group, set_parent_process_death_signal,
    setrlimit,
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Slot;
use crate::task::template::Rendered;
use crate::worker::assignment::Assignment;

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
}

/// A process that was started. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    group: Group,
    pub(super) input: Option<(ChildStdin, Vec<u8>)>,
}

/// A process group, by its leader. Killed when this is dropped, so that nothing of it runs on.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Process {
    /// This program's own executor.
    ///
    /// # Errors
    /// A path that is no text.
    pub(super) fn executor(program: &Path, assignment: &Assignment, cwd: PathBuf) -> serde_json::Result<Self> {
        let mut input = serde_json::to_vec(assignment)?;
        input.push(b'\n');
        Ok(Self {
            program: program.to_owned(),
            arguments: vec!["executor".into()],
            environment: kept(std::env::vars_os()),
            cwd,
            memory: limit(assignment.memory, assignment.gpu),
            input: Some(input),
        })
    }

    /// A site's command. It is told what its slot has; it gets no input.
    pub(super) fn command(command: Rendered, slot: &Slot, cwd: PathBuf) -> Self {
        let mut environment = kept(std::env::vars_os());
        let threads = slot.threads.to_string();
        let mut set = |name: &str, value: String| environment.insert(name.into(), value.into());
        set("OMP_NUM_THREADS", threads.clone());
        set("SPECKLED_THREADS", threads);
        set("SPECKLED_MEMORY", slot.memory.to_string());
        set("SPECKLED_GPU", slot.gpu.map(|gpu| gpu.to_string()).unwrap_or_default());
        for (name, value) in command.environment {
            set(&name, value);
        }
        Self {
            program: command.program,
            arguments: command.arguments.into_iter().map(OsString::from).collect(),
            environment,
            cwd,
            memory: limit(slot.memory, slot.gpu),
            input: None,
        }
    }

    fn spawn(self) -> io::Result<Running> {
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.cwd)
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let parent = getpid();
        let most = getrlimit(Resource::Data).maximum;
        let memory = Some(most.map_or(self.memory, |most| most.min(self.memory)));
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // the worker may have died before the line above: nobody would send the signal then
            if getppid() != Some(parent) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            setrlimit(Resource::Data, Rlimit { current: memory, maximum: memory })?;
            Ok(())
        };
        // SAFETY: between fork and exec it makes system calls only; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn()?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
        let input = child.stdin.take().zip(self.input);
        Ok(Running { child, group, input })
    }
}

impl Running {
    /// The process, while it is not reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its output.
    pub(super) fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Its end. Dropping this loses nothing.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends a signal to the group.
    pub(super) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    /// Kills what is left of the group once its leader was reaped. The leader's number stays the group's as long as
    /// one of it lives; that it was given to somebody else since the reaping, a moment ago, would take the whole range
    /// of numbers.
    pub(super) fn end(mut self) {
        self.group.signal(Signal::KILL);
        self.group.0 = None;
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

/// Starts processes on one thread. A process is killed when the thread that started it ends, and a runtime's threads
/// come and go.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Order {
    process: Process,
    answer: oneshot::Sender<io::Result<Running>>,
}

impl Spawner {
    /// Starts the thread, which ends when this is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<Order>();
        let runtime = Handle::current();
        thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _within = runtime.enter();
            for Order { process, answer } in queue {
                // whoever asked may be gone: the process is dropped then, and so killed
                let _ = answer.send(process.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a process.
    pub(super) async fn spawn(&self, process: Process) -> io::Result<Running> {
        let (answer, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.orders.send(Order { process, answer }).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn limit(memory: u64, gpu: Option<u32>) -> u64 {
    let slack = SLACK + gpu.map_or(0, |_| GPU_SLACK);
    memory.saturating_add(slack)
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
