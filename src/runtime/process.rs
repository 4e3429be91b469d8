//! Processes of this computer: started so that they outlive who started them, found again, waited for, ended.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command as StdCommand, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, setsid, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::task::ending::{Ending, Exit};

/// A variable that all processes of a worker's attempts have; its value is the worker's id.
pub const MARK: &str = "SPECKLED_WORKER";

/// The first descriptor behind the three streams.
const FIRST_DESCRIPTOR: libc::c_uint = 3;

/// How often processes are looked for that start others as fast as they are killed.
const ROUNDS: usize = 100;

/// Which start of the computer this is (random(4)).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A process of this computer, not to be taken for a later one with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessName {
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the computer did (proc(5), /proc/pid/stat, field 22).
    pub started: u64,
    /// Which start of the computer that was.
    pub boot: String,
}

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What it writes is appended to this file.
    pub log: PathBuf,
    /// Variables that it does not get.
    pub without: Vec<&'static str>,
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub struct Process {
    name: ProcessName,
    handle: Handle,
    child: Option<Child>,
}

/// What tells of a process's end (pidfd_open(2)).
#[derive(Debug)]
pub struct Handle(AsyncFd<OwnedFd>);

impl ProcessName {
    /// Of the process that has a number now; None when there is none, or it is dead and not buried.
    pub fn of(pid: u32) -> Option<Self> {
        let (state, started) = state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (state == State::Alive).then(|| Self { pid, started, boot: boot() })
    }

    /// Of a child of this process that nobody has waited for yet: it may have ended.
    fn of_child(pid: u32) -> Option<Self> {
        let (_, started) = state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Self { pid, started, boot: boot() })
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Kills it, if it still runs.
    pub fn kill(&self) {
        let Ok(descriptor) = open(self.pid, PidfdFlags::empty()) else { return };
        // looked at once it is open: the number cannot pass to another meanwhile
        if self.lives() {
            // no such process: what is wanted
            let _ = pidfd_send_signal(descriptor, Signal::KILL);
        }
    }
}

impl Process {
    /// Starts one in a session of its own: it does not end with this process, nor by its terminal's Ctrl-C.
    ///
    /// # Errors
    /// The log or the program cannot be used.
    pub fn launch(launch: &Launch) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
        let mut command = Command::new(&launch.program);
        command.args(&launch.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for variable in &launch.without {
            command.env_remove(variable);
        }
        own_session(command.as_std_mut());
        let child = command.spawn()?;
        let untold = || io::Error::other("the system does not tell about a process that was started (/proc)");
        let name = child.id().and_then(ProcessName::of_child).ok_or_else(untold)?;
        Ok(Self { handle: Handle::of(name.pid)?, name, child: Some(child) })
    }

    /// One that an earlier process started; None when it has ended.
    pub fn find(name: &ProcessName) -> Option<Self> {
        let handle = Handle::of(name.pid).ok()?;
        // looked at once the handle is there: the number cannot pass to another meanwhile
        name.lives().then(|| Self { name: name.clone(), handle, child: None })
    }

    /// Which it is.
    pub fn name(&self) -> &ProcessName {
        &self.name
    }

    /// Waits for its end; says how it ended, if that is known: another process's child does not tell.
    pub async fn ended(&mut self) -> Ending {
        match &mut self.child {
            Some(child) => child.wait().await.map_or(Ending::Unknown, |status| Ending::Itself(exit(status))),
            None => {
                self.handle.ended().await;
                Ending::Unknown
            }
        }
    }
}

/// Kills all processes of this user that began with a variable of this value in their environment, which they have from
/// whoever started them, however far away that is: what a dead worker's attempts have left behind. Returns how many
/// there were. Blocks.
pub fn kill_marked(variable: &str, value: &str) -> usize {
    let mark = format!("{variable}={value}").into_bytes();
    let mut killed: Vec<ProcessName> = Vec::new();
    // one that is found may have started another meanwhile; one that was killed may still be on its way out
    for _ in 0..ROUNDS {
        let marked = processes().filter(|process| carries(process.pid, &mark));
        let found: Vec<ProcessName> = marked.filter(|process| !killed.contains(process)).collect();
        if found.is_empty() {
            break;
        }
        found.iter().for_each(ProcessName::kill);
        killed.extend(found);
    }
    killed.len()
}

/// The process of this user whose arguments have these, one after the other. Blocks.
pub fn find_with_arguments(wanted: &[&str]) -> Option<ProcessName> {
    processes().find(|process| {
        let arguments = arguments(process);
        arguments.windows(wanted.len()).any(|part| part.iter().zip(wanted).all(|(one, other)| one == other))
    })
}

/// The argument of a process that follows another one.
pub fn argument_after(process: &ProcessName, before: &str) -> Option<String> {
    let arguments = arguments(process);
    let at = arguments.iter().position(|argument| argument == before)?;
    arguments.get(at + 1).cloned()
}

/// None of a process of another user, which may say what it likes.
fn arguments(process: &ProcessName) -> Vec<String> {
    let entry = format!("/proc/{}", process.pid);
    if fs::metadata(&entry).is_ok_and(|found| found.uid() != rustix::process::getuid().as_raw()) {
        return Vec::new();
    }
    let line = fs::read(format!("{entry}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn processes() -> impl Iterator<Item = ProcessName> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| ProcessName::of(entry.file_name().to_str()?.parse().ok()?))
}

/// Whether a process began with a variable of a value, `NAME=VALUE`; those of other users do not tell.
pub(super) fn carries(pid: u32, mark: &[u8]) -> bool {
    began_with(pid, |variable| variable == mark)
}

/// Whether a process began with a variable, whatever its value.
pub(super) fn carries_any(pid: u32, name: &str) -> bool {
    let name = name.as_bytes();
    began_with(pid, |variable| variable.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"=")))
}

fn began_with(pid: u32, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(wanted)
}

/// Whose child a process is.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn open(pid: u32, flags: PidfdFlags) -> io::Result<OwnedFd> {
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
    Ok(pidfd_open(pid, flags)?)
}

/// Closes what whoever started this process had open, beyond the three streams: neither this process nor what it starts
/// keeps a file from being deleted or a pipe from ending.
///
/// # Safety
/// To be called before this program has opened anything: a descriptor that somebody owns would be closed under it.
pub unsafe fn close_inherited() {
    // SAFETY: a system call without pointers; nobody owns what it closes, as the caller says. One that is not there (Linux
    // 5.9) closes nothing.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_DESCRIPTOR, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number >= FIRST_DESCRIPTOR.cast_signed()) {
        // SAFETY: as above; that of the directory, which was closed with it, is not open any more.
        unsafe { libc::close(number) };
    }
}

/// Has a command start in a session of its own: it does not end with this process, nor by its terminal's Ctrl-C.
pub fn own_session(command: &mut StdCommand) {
    // SAFETY: between fork and exec it makes one system call; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(())
        })
    };
}

impl Handle {
    /// Of a process's descriptor.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by what is registered, and so stays open and the same until that is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    fn of(pid: u32) -> io::Result<Self> {
        Self::new(open(pid, PidfdFlags::NONBLOCK)?)
    }

    /// Waits for the end. Dropping this loses nothing.
    async fn ended(&self) {
        // an error would be one of the runtime's; the process is looked for by name then
        let _ready = self.0.ready(Interest::READABLE).await;
    }

    /// Waits for the end of a child of this process, and buries it. Dropping this loses nothing.
    ///
    /// # Errors
    /// It is no child, or was buried before.
    pub async fn status(&self) -> io::Result<ExitStatus> {
        let ended = loop {
            let mut ready = self.0.ready(Interest::READABLE).await?;
            let id = WaitId::PidFd(self.0.get_ref().as_fd());
            match waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
                Some(ended) => break ended,
                None => ready.clear_ready(),
            }
        };
        // as wait(2) has it: the code, or the signal
        let raw =
            ended.exit_status().map_or_else(|| ended.terminating_signal().unwrap_or(0), |code| (code & 0xff) << 8);
        Ok(ExitStatus::from_raw(raw))
    }
}

/// What tells this computer from others (machine-id(5)); where it has no such name, only this start of it is told apart.
pub fn computer() -> String {
    let id = fs::read_to_string("/etc/machine-id").map(|text| text.trim().to_owned()).unwrap_or_default();
    if id.is_empty() { boot() } else { id }
}

/// Which start of the computer this is.
pub fn boot() -> String {
    fs::read_to_string(BOOT).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// It has ended, and nobody has waited for it.
    Unburied,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It runs, or waits for something that comes by itself.
    Lives,
    /// A signal or a debugger stopped it.
    Stopped,
    /// It waits in the kernel, where no signal reaches it.
    Waits,
}

/// What a process does; None when there is none.
pub fn activity(pid: u32) -> Option<Activity> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    match stat.rsplit_once(')')?.1.split_whitespace().next()? {
        "Z" | "X" => None,
        "T" | "t" => Some(Activity::Stopped),
        "D" => Some(Activity::Waits),
        _ => Some(Activity::Lives),
    }
}

/// Fields 3 and 22 of a process; the name before them may have spaces and brackets.
fn state(stat: &str) -> Option<(State, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = if matches!(*fields.first()?, "Z" | "X") { State::Unburied } else { State::Alive };
    Some((state, fields.get(19)?.parse().ok()?))
}

/// The exit status of a process that was waited for: one that ended has a code or a signal.
pub fn exit(status: ExitStatus) -> Exit {
    status.signal().map_or_else(|| Exit::Code(status.code().unwrap_or_default()), Exit::Signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(script: &str, log: PathBuf) -> Launch {
        let arguments = ["-c", script].map(OsString::from).into();
        Launch { program: "/bin/sh".into(), arguments, log, without: Vec::new() }
    }

    #[tokio::test]
    async fn a_process_is_found_again_and_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut own = Process::launch(&launch("echo started; read line", log.clone())).expect("starts");
        // its input is empty, so that it ends by itself
        assert!(matches!(own.ended().await, Ending::Itself(Exit::Code(_))));
        assert_eq!(fs::read_to_string(&log).expect("a log"), "started\n");
        let mut lasting = Process::launch(&launch("exec sleep 1000", log)).expect("starts");
        let mut found = Process::find(lasting.name()).expect("it runs");
        assert!(lasting.name().lives() && !own.name().lives());
        let other = ProcessName { started: lasting.name().started + 1, ..lasting.name().clone() };
        assert!(Process::find(&other).is_none(), "another process had the number");
        found.name().kill();
        assert_eq!(lasting.ended().await, Ending::Itself(Exit::Signal(9)));
        assert_eq!(found.ended().await, Ending::Unknown);
        assert!(Process::find(lasting.name()).is_none());
    }

    #[tokio::test]
    async fn what_a_dead_worker_has_left_is_found_by_its_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        // the child is nobody's any more, and in a session of its own
        let script = "MARK_OF_TEST=mine setsid sh -c 'sleep 1000 & echo $! > pid; echo told; wait' & wait";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(dir.path()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut shell = command.spawn().expect("starts");
        let mut said = [0; 5];
        let mut out = shell.stdout.take().expect("piped");
        tokio::io::AsyncReadExt::read_exact(&mut out, &mut said).await.expect("it tells");
        shell.kill().await.expect("ends");
        let pid = fs::read_to_string(dir.path().join("pid")).expect("told").trim().parse().expect("a number");
        let orphan = ProcessName::of(pid).expect("it runs on");
        assert_eq!(kill_marked("MARK_OF_TEST", "min"), 0, "another's");
        assert!(orphan.lives());
        assert_eq!(kill_marked("MARK_OF_TEST", "mine"), 2);
        let handle = Process::find(&orphan);
        if let Some(mut process) = handle {
            process.ended().await;
        }
        assert!(!orphan.lives());
    }

    #[test]
    fn names_of_programs_do_not_confuse() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(state(stat), Some((State::Alive, 4242)));
        assert_eq!(state(&stat.replace(" S ", " Z ")), Some((State::Unburied, 4242)));
        assert_eq!(state(""), None);
    }
}
