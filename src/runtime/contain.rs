//! Keeps hold of what a process starts, also of what leaves its group and its session: all of it ends with its work.
//!
//! Where this process may make control groups (cgroups(7), version 2), each piece of work has one. Elsewhere this process
//! is the one that orphans come to (PR_SET_CHILD_SUBREAPER, prctl(2)); whose they are is told by a variable in their
//! environment. Starts nothing itself.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, getpgrp, kill_process, pidfd_open, set_child_subreaper,
    waitid,
};

use super::node;
use super::process::{activity, carries, carries_any, parent};

/// A variable that all processes of an attempt have; its value names the attempt.
pub const WORK_MARK: &str = "SPECKLED_ATTEMPT";

/// Between SIGKILL and the end of what is killed: what takes longer waits in the kernel and runs nothing of its own.
const DEATH: Duration = Duration::from_secs(3);

/// The file of a control group that kills all that is in it (Linux 5.14).
const KILL: &str = "cgroup.kill";

/// The file of a control group that lists its processes, and takes more.
const MEMBERS: &str = "cgroup.procs";

/// By what means processes are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldMeans {
    /// Control groups.
    Groups,
    /// Orphans come to this process.
    Orphans,
}

/// Holds the processes of all work of one owner.
#[derive(Debug)]
pub struct Containment {
    /// The owner's control group; None = orphans come to this process.
    group: Option<ControlGroup>,
    /// Processes that this process started and that are not buried: no orphans.
    known: Mutex<HashSet<i32>>,
}

/// Holds the processes of one piece of work.
#[derive(Debug)]
pub struct Fence {
    containment: Arc<Containment>,
    group: Option<(ControlGroup, File)>,
    /// `NAME=VALUE` in the environment of its processes.
    mark: Vec<u8>,
    leader: Option<i32>,
}

/// A control group of this process's making.
#[derive(Debug)]
struct ControlGroup(PathBuf);

impl fmt::Display for HoldMeans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Groups => "in control groups",
            Self::Orphans => "by their environment, since no control group is delegated",
        })
    }
}

/// By what means this process would hold others.
pub fn means() -> HoldMeans {
    match ControlGroup::of_owner(&format!("check-{}", std::process::id())) {
        Some(group) => {
            group.remove();
            HoldMeans::Groups
        }
        None => HoldMeans::Orphans,
    }
}

/// Kills all that an owner's work has left in its control group, which an owner that was killed leaves too. Blocks.
pub fn clear(owner: &str) {
    if let Some(path) = group_path(owner).filter(|path| path.is_dir()) {
        ControlGroup(path).end();
    }
}

impl Containment {
    /// Of an owner, whose name no other has.
    pub fn of(owner: &str) -> Arc<Self> {
        let group = ControlGroup::of_owner(owner);
        if group.is_none()
            && let Err(error) = set_child_subreaper(Some(rustix::process::getpid()))
        {
            tracing::warn!(%error, "what leaves an attempt's process group is only found when this worker ends");
        }
        Arc::new(Self { group, known: Mutex::default() })
    }

    /// For a piece of work that starts nothing which leaves its process group.
    pub fn unfenced(self: &Arc<Self>, work: &str) -> Fence {
        self.around(work, None)
    }

    /// For a piece of work, whose name no other of its owner has. What cannot be held in a control group is told.
    pub fn fence(self: &Arc<Self>, work: &str) -> Fence {
        let group = self.group.as_ref().and_then(|owner| {
            let made = ControlGroup::make(owner.0.join(work)).and_then(|group| {
                let members = File::options().write(true).open(group.0.join(MEMBERS))?;
                Ok((group, members))
            });
            made.inspect_err(|error| tracing::warn!(%error, work, "an attempt gets no control group")).ok()
        });
        self.around(work, group)
    }

    fn around(self: &Arc<Self>, work: &str, group: Option<(ControlGroup, File)>) -> Fence {
        let mark = format!("{WORK_MARK}={work}").into_bytes();
        Fence { containment: Arc::clone(self), group, mark, leader: None }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orphans that are a piece of work's, or nobody's that still runs.
    fn orphans(&self, mark: &[u8]) -> Vec<Pid> {
        // nothing is started meanwhile: a process that was just started would be taken for an orphan
        let known = self.known();
        let all = children().into_iter().filter(|child| !known.contains(&child.as_raw_pid()));
        let (ended, alive): (Vec<Pid>, Vec<Pid>) = all.partition(|orphan| has_ended(*orphan));
        // whosever they were: nobody else buries them
        ended.into_iter().for_each(bury_ended);
        alive.into_iter().filter(|orphan| belongs(*orphan, mark, known.is_empty())).collect()
    }
}

impl Fence {
    /// Starts its first process, which begins in the control group if it writes `0` to the file that `start` gets, and
    /// has the mark in its environment.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn start<T>(
        &mut self,
        start: impl FnOnce(Option<BorrowedFd<'_>>) -> io::Result<T>,
        pid: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        let mut known = self.containment.known();
        let started = start(self.group.as_ref().map(|(_, members)| members.as_fd()))?;
        let leader = pid(&started);
        known.insert(leader);
        self.leader = Some(leader);
        Ok(started)
    }

    /// Ends what is left of the work once its first process is buried.
    pub async fn end(mut self) {
        self.forget();
        let left = match self.group.take() {
            Some((group, _)) if group.remove() => return,
            Some((group, _)) => tokio::task::spawn_blocking(move || group.end()).await,
            None if self.containment.group.is_some() => return,
            None => {
                let found = self.containment.orphans(&self.mark);
                if found.is_empty() {
                    return;
                }
                tokio::task::spawn_blocking(move || self.sweep(found)).await
            }
        };
        if let Err(error) = left {
            tracing::warn!(%error, "what an attempt left may run on");
        }
    }

    fn forget(&mut self) {
        if let Some(leader) = self.leader.take() {
            self.containment.known().remove(&leader);
        }
    }

    /// Kills orphans, and those that come when these have died, until there are none. Blocks.
    fn sweep(&self, mut found: Vec<Pid>) {
        let until = Instant::now() + DEATH;
        while !found.is_empty() {
            tracing::info!(processes = found.len(), "what an attempt left behind is killed");
            for orphan in &found {
                // one that has ended already keeps its number until it is buried below
                let _ended = kill_process(*orphan, Signal::KILL);
            }
            if !found.into_iter().all(|orphan| bury(orphan, until)) {
                tracing::warn!("what an attempt left behind was killed and does not end");
                return;
            }
            found = self.containment.orphans(&self.mark);
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.forget();
        if let Some((group, _)) = self.group.take() {
            group.kill();
            group.remove();
        }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.remove();
    }
}

impl ControlGroup {
    /// The owner's, if this process may make one that can be killed.
    fn of_owner(owner: &str) -> Option<Self> {
        let group = Self::make(group_path(owner)?).ok()?;
        let usable = group.0.join(KILL).exists() && File::options().write(true).open(group.0.join(MEMBERS)).is_ok();
        usable.then_some(group)
    }

    fn make(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Removes it if nothing is in it, which is said.
    fn remove(&self) -> bool {
        match fs::remove_dir(&self.0) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Kills all that is in it, and in those below it.
    fn kill(&self) {
        if let Err(error) = fs::write(self.0.join(KILL), "1") {
            tracing::warn!(path = %self.0.display(), %error, "a control group cannot be killed");
        }
    }

    /// Kills what is in it, and removes it with those below it once all of that has ended. Blocks.
    fn end(&self) {
        self.kill();
        let until = Instant::now() + DEATH;
        // it is readable when the last process has ended (cgroup.events of cgroups(7))
        let Ok(events) = File::open(self.0.join("cgroup.events")) else { return };
        loop {
            let empty = io::read_to_string(&events).is_ok_and(|text| text.contains("populated 0"));
            if empty || !changed(&events, until) {
                break;
            }
            if io::Seek::rewind(&mut &events).is_err() {
                break;
            }
        }
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _stays = fs::remove_dir(entry.path());
            }
        }
        if !self.remove() {
            tracing::warn!(path = %self.0.display(), "a control group is not empty though it was killed");
        }
    }
}

/// Where an owner's control group is, or would be.
fn group_path(owner: &str) -> Option<PathBuf> {
    Some(node::control_group()?.join(format!("speckled-{owner}")))
}

/// Waits for news of a control group; false when it is too late.
fn changed(events: &File, until: Instant) -> bool {
    wait(events.as_fd(), PollFlags::PRI, until)
}

fn wait(file: BorrowedFd<'_>, what: PollFlags, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let Ok(left) = Timespec::try_from(left) else { return false };
    poll(&mut [PollFd::from_borrowed_fd(file, what)], Some(&left)).is_ok_and(|ready| ready > 0)
}

/// Whether an orphan is a piece of work's. One that says nothing is when no work of this process goes on beside it; but
/// never one of this process's own group: that was started by other parts of this program.
fn belongs(orphan: Pid, mark: &[u8], is_alone: bool) -> bool {
    if carries(orphan.as_raw_pid().cast_unsigned(), mark) {
        return true;
    }
    let own_group = getpgid(Some(orphan)).is_ok_and(|group| group == getpgrp());
    is_alone && !own_group && !carries_any(orphan.as_raw_pid().cast_unsigned(), WORK_MARK)
}

/// Whether an orphan has ended and is not buried.
fn has_ended(orphan: Pid) -> bool {
    activity(orphan.as_raw_pid().cast_unsigned()).is_none()
}

fn bury_ended(orphan: Pid) {
    let _buried = waitid(WaitId::Pid(orphan), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// Waits for the end of an orphan, and buries it; false when it is too late.
fn bury(orphan: Pid, until: Instant) -> bool {
    // somebody who is not a child any more is buried
    let Ok(descriptor) = pidfd_open(orphan, PidfdFlags::empty()) else { return true };
    let ended = wait(descriptor.as_fd(), PollFlags::IN, until);
    bury_ended(orphan);
    ended
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: io::Result<Vec<String>> = threads
        .map(|thread| match fs::read_to_string(thread.path().join("children")) {
            // a thread that has ended meanwhile: its children are another's
            Err(error) if !thread.path().exists() => {
                let _ended = error;
                Ok(String::new())
            }
            list => list,
        })
        .collect();
    let number = |text: &str| text.parse().ok().and_then(Pid::from_raw);
    match lists {
        Ok(lists) => lists.iter().flat_map(|list| list.split_whitespace()).filter_map(number).collect(),
        // a kernel without such lists (CONFIG_PROC_CHILDREN)
        Err(_) => {
            let own = std::process::id();
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let all = entries.filter_map(|entry| number(entry.file_name().to_str()?));
            all.filter(|pid| parent(pid.as_raw_pid().cast_unsigned()) == Some(own)).collect()
        }
    }
}
