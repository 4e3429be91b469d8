//! Starts a program without copying this process: the child borrows its memory until it has become the program, as in
//! posix_spawn(3), so that a start costs the same however large the worker is. posix_spawn itself sets no limits, and
//! `std::process::Command` forks where it is to set one: a start of /bin/true then takes 1.2 ms in a process of 20 MB and
//! 2.7 ms in one of 60 MB, against 0.55 ms (2 cores, best of five rounds of 400). Knows nothing of attempts.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::{Pid, Resource, WaitOptions, getpid, getrlimit, waitpid};

/// Bytes of the child's stack: its functions make system calls only, and the C library's wrappers are shallow.
const STACK: usize = 64 << 10;

/// What a program is started with.
#[derive(Debug)]
pub(super) struct Start<'s> {
    /// Its file, an absolute path.
    pub(super) program: &'s Path,
    /// Without its name.
    pub(super) arguments: &'s [OsString],
    pub(super) environment: &'s BTreeMap<OsString, OsString>,
    pub(super) cwd: &'s Path,
    /// Bytes of data that it may have (RLIMIT_DATA).
    pub(super) memory: u64,
    /// Where it writes `0` to be in a control group (cgroup.procs of cgroups(7)).
    pub(super) group: Option<BorrowedFd<'s>>,
    /// Its input, output and error output; none of them is one of this process's own three.
    pub(super) streams: [BorrowedFd<'s>; 3],
}

/// A program that was started: leader of a process group of its own, killed when the thread that started it ends.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: i32,
    /// Readable when it has ended (pidfd_open(2)).
    pub(super) handle: OwnedFd,
}

/// Starts programs, one after the other.
#[derive(Debug)]
pub(super) struct Starter {
    stack: Box<[MaybeUninit<u8>]>,
}

/// What the child reads, and where it says why it failed. Lives in this process's memory.
struct Orders {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    /// -1 for none.
    group: c_int,
    streams: [c_int; 3],
    memory: libc::rlimit,
    parent: libc::pid_t,
    last_signal: c_int,
    no_signals: libc::sigset_t,
    /// The error's number; 0 while there is none.
    error: c_int,
}

impl Starter {
    pub(super) fn new() -> Self {
        Self { stack: Box::new_uninit_slice(STACK) }
    }

    /// Starts a program; returns when it has begun, or could not.
    ///
    /// # Errors
    /// The system's, of whatever step failed.
    pub(super) fn start(&mut self, start: &Start<'_>) -> io::Result<Started> {
        let (program, cwd) = (text(start.program.as_os_str())?, text(start.cwd.as_os_str())?);
        let mut arguments = vec![program.clone()];
        for argument in start.arguments {
            arguments.push(text(argument)?);
        }
        let mut variables = Vec::with_capacity(start.environment.len());
        for (name, value) in start.environment {
            variables
                .push(text(&[name.as_os_str(), OsStr::new("="), value.as_os_str()].into_iter().collect::<OsString>())?);
        }
        let (argv, envp) = (pointers(&arguments), pointers(&variables));
        // SAFETY: zero is a set of signals, and sigemptyset makes of it the one without any.
        let no_signals = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            set
        };
        let mut orders = Orders {
            program: program.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            cwd: cwd.as_ptr(),
            group: start.group.map_or(-1, |group| group.as_raw_fd()),
            streams: start.streams.map(|stream| stream.as_raw_fd()),
            memory: limit(start.memory),
            parent: getpid().as_raw_nonzero().get(),
            last_signal: libc::SIGRTMAX(),
            no_signals,
            error: 0,
        };
        let started = self.clone_into(&mut orders)?;
        // SAFETY: a place of a value that is alive; the child, which wrote it, is gone or has become the program.
        match unsafe { ptr::read_volatile(&raw const orders.error) } {
            0 => Ok(started),
            number => {
                // it has ended, and is buried; an error would say that it was
                let _buried = waitpid(Pid::from_raw(started.pid), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(number))
            }
        }
    }

    fn clone_into(&mut self, orders: &mut Orders) -> io::Result<Started> {
        let mut handle: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let orders: *mut Orders = orders;
        let stack = self.stack.as_mut_ptr_range().end;
        // SAFETY: sets of signals, of which the second is written before it is read. All signals are blocked until the
        // child is gone from this memory, so that no handler of ours runs in it.
        let pid = unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            // SAFETY: by CLONE_VFORK this thread stands still until the child has become the program or has ended; so
            // the orders, all that they point to and the stack, which only the child uses, outlive the child's use of
            // them. The end of a slice that was allocated with sixteen times its alignment is aligned for a stack.
            let pid = libc::clone(run, aligned(stack).cast(), flags, orders.cast(), &raw mut handle);
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            if pid < 0 {
                return Err(error);
            }
            pid
        };
        // SAFETY: the system made it for this call, and nobody else knows it.
        Ok(Started { pid, handle: unsafe { OwnedFd::from_raw_fd(handle) } })
    }
}

/// The child. What it returns is its exit code, which nobody sees: the error is in the orders.
extern "C" fn run(orders: *mut c_void) -> c_int {
    let orders = orders.cast::<Orders>();
    // SAFETY: `clone_into` passes a pointer to orders that outlive this call, and nobody else uses them meanwhile.
    unsafe {
        let error = become_program(&*orders);
        ptr::write_volatile(&raw mut (*orders).error, error);
    }
    127
}

/// Becomes the program; returns only the number of an error. It allocates nothing, takes no lock and runs no destructor:
/// other threads of this process go on beside it.
///
/// # Safety
/// To be called in a child that shares memory with this process and is alone on its stack; the orders' pointers lead to
/// texts and lists of texts that end with zero.
unsafe fn become_program(orders: &Orders) -> c_int {
    // SAFETY: system calls with valid arguments. Handlers are set to the default before signals are let through: ours
    // would run in memory that is not the child's. A signal without a handler (SIGKILL) is refused, which is no matter.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=orders.last_signal {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        // before it can start anything itself
        if orders.group != -1 && libc::write(orders.group, c"0".as_ptr().cast(), 1) == -1 {
            return errno();
        }
        if libc::setpgid(0, 0) == -1 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
            return errno();
        }
        // the worker may have died before the line above: nobody would send the signal then
        if libc::getppid() != orders.parent {
            return libc::ESRCH;
        }
        if libc::setrlimit(libc::RLIMIT_DATA, &raw const orders.memory) == -1 || libc::chdir(orders.cwd) == -1 {
            return errno();
        }
        for (stream, number) in orders.streams.iter().zip(0..) {
            if libc::dup2(*stream, number) == -1 {
                return errno();
            }
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const orders.no_signals, ptr::null_mut()) == -1 {
            return errno();
        }
        libc::execve(orders.program, orders.argv, orders.envp);
        errno()
    }
}

fn errno() -> c_int {
    // SAFETY: the place of this thread's error number, which in the child is that of the thread that stands still.
    unsafe { *libc::__errno_location() }
}

fn aligned(end: *mut MaybeUninit<u8>) -> *mut MaybeUninit<u8> {
    // the x86-64 and AArch64 calling conventions want 16
    end.wrapping_sub(end.addr() % 16)
}

/// The limit, or this process's own if that is lower.
fn limit(memory: u64) -> libc::rlimit {
    let memory = getrlimit(Resource::Data).maximum.map_or(memory, |own| own.min(memory));
    libc::rlimit { rlim_cur: memory, rlim_max: memory }
}

fn text(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::runtime::process::Handle;

    const MEMORY: u64 = 3 << 30;

    /// Starts a program with `A=1` in `/tmp`; returns how it ended and what it wrote.
    async fn run(program: &str, arguments: &[&str]) -> io::Result<(std::process::ExitStatus, i32, String)> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let environment = BTreeMap::from([("A".into(), "1 2".into())]);
        let nothing = std::fs::File::open("/dev/null").expect("is there");
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let streams = [nothing.as_fd(), write.as_fd(), write.as_fd()];
        let (program, cwd, memory) = (Path::new(program), Path::new("/tmp"), MEMORY);
        let (arguments, environment) = (&arguments, &environment);
        let start = Start { program, arguments, environment, cwd, memory, group: None, streams };
        let Started { pid, handle } = Starter::new().start(&start)?;
        drop(write);
        let mut said = String::new();
        std::fs::File::from(read).read_to_string(&mut said)?;
        Ok((Handle::new(handle)?.status().await?, pid, said))
    }

    #[tokio::test]
    async fn a_program_gets_what_it_is_to_have_and_nothing_else() {
        let script = "echo \"$A\" $# \"$2\"; pwd; ulimit -d; cut -d' ' -f5 /proc/$$/stat; env | cut -d= -f1 | sort | \
            tr '\\n' ' '; echo; grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2; exit 3";
        let (status, pid, said) = run("/bin/sh", &["-c", script, "sh", "x", "y z"]).await.expect("starts");
        assert_eq!(status.code(), Some(3));
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..3], ["1 2 2 y z", "/tmp", &(MEMORY >> 10).to_string()], "{said}");
        assert_eq!(lines[3], pid.to_string(), "it leads its group");
        assert_eq!(lines[4], "A PWD ", "its own, and the shell's");
        // 32 and 33 are the C library's: nobody else can set them
        let reserved = 3 << 31;
        let sets = lines[5..].iter().map(|set| u64::from_str_radix(set, 16).expect("a set") & !reserved);
        assert_eq!(sets.collect::<Vec<_>>(), [0, 0], "blocked and ignored signals");
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told() {
        let missing = run("/no/such/program", &[]).await.expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let forbidden = run("/etc/passwd", &[]).await.expect_err("is no program");
        assert_eq!(forbidden.kind(), io::ErrorKind::PermissionDenied);
        let strange = run("/bin/true", &["a\0b"]).await.expect_err("is no argument");
        assert_eq!(strange.kind(), io::ErrorKind::InvalidInput);
        let large = "x".repeat(3 << 20);
        let long = run("/bin/true", &[&large]).await.expect_err("is too long");
        assert_eq!(long.kind(), io::ErrorKind::ArgumentListTooLong);
    }

    #[tokio::test]
    async fn how_it_ended_is_told() {
        use std::os::unix::process::ExitStatusExt;
        let (killed, ..) = run("/bin/sh", &["-c", "kill -SEGV $$"]).await.expect("starts");
        assert_eq!((killed.code(), killed.signal()), (None, Some(libc::SIGSEGV)));
        let (well, ..) = run("/bin/true", &[]).await.expect("starts");
        assert!(well.success());
    }
}
