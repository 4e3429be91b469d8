//! A compute node as far as an endpoint can tell: a network of its own, joined to ours by one cable, and file systems of
//! its own but for those that sites share with their nodes. Needs root.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Site, done};

/// What a node does: says that it is there, hears that its cable is plugged in and what to run, hides what is not shared,
/// and becomes the worker. `$1` is the site's directory, `$2` the program.
const SCRIPT: &str = r#"
    read file options
    shared='data out marks home/site/blocks'
    kept=$(mktemp -d -p "$1")
    for name in $shared; do mkdir -p "$kept/$name"; mount --bind "$1/$name" "$kept/$name"; done
    # what hides it is hidden with it, but for what is bound from there
    exec 9<"$kept"
    mount -t tmpfs none "$1"
    for name in $shared; do mkdir -p "$1/$name"; mount --bind "/proc/self/fd/9/$name" "$1/$name"; done
    exec 9<&-
    mkdir "$1/tmp"
    TMPDIR="$1/tmp" exec "$2" worker --block-file "$file" $options
"#;

/// The node; its worker is killed when it is dropped.
pub(crate) struct Node {
    process: Child,
    /// Ours, at the near end of the cable.
    pub(crate) address: String,
}

impl Node {
    /// With its cable plugged in, and no worker.
    pub(crate) fn new(site: &Site, name: &str) -> Self {
        let log = fs::File::create(site.at(&format!("{name}.log"))).expect("opens");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-ec", SCRIPT, "sh", &site.text(""), env!("CARGO_BIN_EXE_speckled")]);
        // nothing of the endpoint's computer that a batch job would not have
        command.env_clear().env("PATH", std::env::var("PATH").expect("set"));
        let process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().expect("starts");
        // networks for benchmarks (RFC 2544), four addresses each
        let network = process.id() % (1 << 15);
        let [near, far] = [1, 2].map(|host| {
            let number = (198_u32 << 24 | 18 << 16) + network * 4 + host;
            std::net::Ipv4Addr::from(number).to_string()
        });
        let node = Self { process, address: near };
        let (pid, cable) = (node.pid().to_string(), node.cable());
        // a network of its own has it begin with: before that the cable would lie in ours
        let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
        while own(&pid) == own("self") {
            std::thread::yield_now();
        }
        let ip = |args: &[&str]| {
            done(Command::new("ip").args(args).output().expect("iproute2, which scripts/check installs"))
        };
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        ip(&["addr", "add", &format!("{}/30", node.address), "dev", &cable]);
        node.plug_in();
        let there = r#"ip link set lo up; ip addr add "$1/30" dev eth0; ip link set eth0 up"#;
        let mut command = Command::new("nsenter");
        done(command.args(["-t", &pid, "-n", "sh", "-ec", there, "sh", &far]).output().expect("runs"));
        node
    }

    /// Its name at our end.
    fn cable(&self) -> String {
        format!("spk{}", self.pid())
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn unplug(&self) {
        ip(&["link", "set", &self.cable(), "down"]);
    }

    pub(crate) fn plug_in(&self) {
        ip(&["link", "set", &self.cable(), "up"]);
    }

    /// Has it run a worker of the block that has this file.
    pub(crate) fn start(&mut self, file: &Path, options: &str) {
        let mut input = self.process.stdin.take().expect("not started yet");
        writeln!(input, "{} {options}", file.display()).expect("it hears");
    }

    /// The worker's process, which was the shell's.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the worker has ended; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.wait().expect("it is ours").code()
    }

    /// Whether a process runs on it.
    pub(crate) fn has(&self, pid: i32) -> bool {
        let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        network(pid as u32).is_some_and(|there| Some(there) == network(self.pid()))
    }
}

fn ip(args: &[&str]) {
    done(Command::new("ip").args(args).output().expect("iproute2, which scripts/check installs"));
}

impl Drop for Node {
    fn drop(&mut self) {
        // it may be dead already; the cable goes with its network
        let _gone = kill_process(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}
