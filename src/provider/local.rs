//! Processes of this computer: started so that they outlive who started them, found again, waited for, ended.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command as StdCommand, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

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
    handle: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

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
        if let Some(process) = Process::find(self) {
            // no such process: what is wanted
            let _ = pidfd_send_signal(process.handle.get_ref(), Signal::KILL);
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
        Ok(Self { handle: handle(name.pid)?, name, child: Some(child) })
    }

    /// One that an earlier process started; None when it has ended.
    pub fn find(name: &ProcessName) -> Option<Self> {
        let handle = handle(name.pid).ok()?;
        // looked at once the handle is there: the number cannot pass to another meanwhile
        name.lives().then(|| Self { name: name.clone(), handle, child: None })
    }

    /// Which it is.
    pub fn name(&self) -> &ProcessName {
        &self.name
    }

    /// Waits for its end; says how it ended, if that is known.
    pub async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => how(status),
                Err(error) => format!("ended, nobody knows how ({error})"),
            },
            None => {
                // an error would be one of the runtime's; the process is looked for by name then
                let _ready = self.handle.ready(Interest::READABLE).await;
                "ended".to_owned()
            }
        }
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

fn handle(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
    let handle = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: the descriptor is owned by what is registered, and so stays open and the same until that is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

fn boot() -> String {
    fs::read_to_string(BOOT).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// It has ended, and nobody has waited for it.
    Unburied,
}

/// Fields 3 and 22 of a process; the name before them may have spaces and brackets.
fn state(stat: &str) -> Option<(State, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = if matches!(*fields.first()?, "Z" | "X") { State::Unburied } else { State::Alive };
    Some((state, fields.get(19)?.parse().ok()?))
}

/// `ended with exit code 3`, `was killed by SIGSEGV`.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
        (None, None) => format!("ended as {status}"),
    }
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
        assert!(own.ended().await.starts_with("ended with exit code"));
        assert_eq!(fs::read_to_string(&log).expect("a log"), "started\n");
        let mut lasting = Process::launch(&launch("exec sleep 1000", log)).expect("starts");
        let mut found = Process::find(lasting.name()).expect("it runs");
        assert!(lasting.name().lives() && !own.name().lives());
        let other = ProcessName { started: lasting.name().started + 1, ..lasting.name().clone() };
        assert!(Process::find(&other).is_none(), "another process had the number");
        found.name().kill();
        assert_eq!(lasting.ended().await, "was killed by SIGKILL");
        assert_eq!(found.ended().await, "ended");
        assert!(Process::find(lasting.name()).is_none());
    }

    #[test]
    fn names_of_programs_do_not_confuse() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(state(stat), Some((State::Alive, 4242)));
        assert_eq!(state(&stat.replace(" S ", " Z ")), Some((State::Unburied, 4242)));
        assert_eq!(state(""), None);
    }
}
