//! A controller among those who are silent, who flood it, and without files: it answers those who have a token, at little
//! cost. And a client without a controller: it says what is wrong, and follows its tasks on.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use speckled::controller::Submission;
use speckled::rpc::client::{Client, ClientError, Target};
use speckled::runtime::tasks::spawn;
use speckled::store::StateName;
use speckled::task::spec::{BatchSetupSpec, TaskSpec};
use tempfile::TempDir;
use tonic::Code;

use crate::world::{Controller, Daemon, Site, done, order, speckled};

/// Longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// As many files as a process has where an administrator is careful.
const FEW: &str = "100";

/// Connections of the silent: more than that.
const CROWD: usize = 150;

/// A controller with few files, whose log is kept.
struct Poor {
    dir: TempDir,
    daemon: Daemon,
    token: String,
}

impl Poor {
    fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = dir.path().join("controller");
        done(speckled(&["controller", "init", directory.to_str().expect("text")]).output().expect("runs"));
        let token = fs::read_to_string(directory.join("admin.token")).expect("a token").trim().to_owned();
        let log = fs::File::create(dir.path().join("log")).expect("made");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", FEW, env!("CARGO_BIN_EXE_speckled"), "controller"]);
        command.args(["serve", directory.to_str().expect("text"), "--listen", "127.0.0.1:0"]).args(options);
        let daemon = Daemon::start(command.stderr(log));
        assert!(daemon.said.starts_with("http"), "{}", daemon.said);
        Self { dir, daemon, token }
    }

    fn address(&self) -> &str {
        self.daemon.said.rsplit('/').next().expect("an address")
    }

    fn target(&self) -> Target {
        let url = self.daemon.said.clone();
        let ca = url.starts_with("https").then(|| fs::read(self.dir.path().join("controller/ca.pem")).expect("a CA"));
        Target { url, ca, token: self.token.clone(), identity: None }
    }

    async fn answers(&self) -> Result<(), ClientError> {
        Client::connect(&self.target()).await?.list_endpoints().await.map(drop)
    }

    /// Lines of its log, but for those of its start.
    fn warnings(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).expect("written");
        log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
    }

    /// Processor time that it has used.
    fn worked(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon.pid())).expect("it lives");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: u64 = [11, 12].map(|field| fields[field].parse::<u64>().expect("a number")).iter().sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that it has had, bytes.
    fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("told");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
    }
}

/// Waits until a connection is ended at its other end.
fn until_ended(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).expect("set");
    let mut heard = [0; 1024];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it was not ended: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_cost_a_controller_with_few_files_little() {
    for options in [&["--plain"][..], &[]] {
        let poor = Poor::start(options);
        let crowd: Vec<TcpStream> =
            (0..CROWD).map(|_| TcpStream::connect(poor.address()).expect("it listens")).collect();
        let (begun, worked) = (Instant::now(), poor.worked());
        poor.answers().await.expect("whoever has a token gets in");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        tokio::task::block_in_place(|| crowd.into_iter().for_each(until_ended));
        let worked = poor.worked() - worked;
        assert!(worked < begun.elapsed() / 5, "{worked:?} in {:?}", begun.elapsed());
        assert_eq!(poor.warnings().len(), 1, "{:?}", poor.warnings());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_without_files_waits_for_some() {
    let poor = Poor::start(&["--plain"]);
    poor.answers().await.expect("it answers");
    let pid = Some(Pid::from_raw(poor.daemon.pid() as i32).expect("a process"));
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), maximum: Some(100) }).expect("lowered");
    let (begun, worked) = (Instant::now(), poor.worked());
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(poor.address()).expect("it listens")).collect();
    let lost = poor.answers().await.expect_err("there is no file for it");
    assert!(lost.is_passing(), "{lost}");
    let worked = poor.worked() - worked;
    assert!(worked < begun.elapsed() / 5, "{worked:?} in {:?}", begun.elapsed());
    let lines = poor.warnings();
    let told = lines.iter().filter(|line| line.contains("cannot be accepted")).count();
    // another line is of one that was ended for its file
    assert!(told == 1 && lines.len() <= 2, "{lines:?}");
    prlimit(pid, Resource::Nofile, before).expect("raised");
    drop(silent);
    let again = async { while poor.answers().await.is_err() {} };
    tokio::time::timeout(LONG, again).await.expect("it goes on");
}

/// Nearly as large as a message may be.
fn large() -> Submission {
    let directories = vec![std::path::PathBuf::from("/x".repeat(15 << 19))];
    order(vec![TaskSpec::BatchSetup(BatchSetupSpec { directories })])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_of_strangers_cost_little_memory() {
    let poor = Poor::start(&["--plain"]);
    poor.answers().await.expect("it answers");
    let before = poor.most_memory();
    let nobody = Target { token: format!("speckled_{}", "00".repeat(32)), ..poor.target() };
    let mut strangers = Vec::new();
    for _ in 0..10 {
        for _ in 0..6 {
            let nobody = nobody.clone();
            strangers.push(spawn("stranger", async move { Client::connect(&nobody).await?.submit(large()).await }));
        }
        for stranger in strangers.drain(..) {
            match stranger.await.expect("does not panic") {
                Err(ClientError::Refused(status)) if status.code() == Code::Unauthenticated => {}
                // others needed its place
                Err(error) if error.is_passing() => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let more = poor.most_memory() - before;
    assert!(more < 32 << 20, "{} MiB", more >> 20);
    poor.answers().await.expect("it answers");
    assert!(poor.warnings().len() <= 1, "{:?}", poor.warnings());
}

/// What a command says that fails: one line and its exit code.
fn failure(args: &[&str]) -> (Option<i32>, String) {
    let output = speckled(args).output().expect("runs");
    let words = String::from_utf8(output.stderr).expect("text");
    assert_eq!(words.trim_end().lines().count(), 1, "{words}");
    (output.status.code(), words)
}

#[test]
fn each_reason_why_there_is_no_answer_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    for directory in ["ours", "theirs"] {
        done(speckled(&["controller", "init", &at(directory)]).output().expect("runs"));
    }
    let controller = Controller::launch(Path::new(&at("ours")), &["--listen", "0.0.0.0:0"]);
    let port = controller.url.rsplit(':').next().expect("a port").to_owned();
    let url = format!("https://127.0.0.1:{port}");
    let token = at("ours/admin.token");
    let asked =
        |url: &str, ca: &str| failure(&["task", "list", "--controller", url, "--ca", &at(ca), "--token-file", &token]);
    let expect = |(code, words): (Option<i32>, String), expected: i32, told: &str| {
        assert!(code == Some(expected) && words.contains(told), "{code:?} {words}");
        // no innards
        assert!(!words.contains("hyper") && !words.contains("tonic"), "{words}");
    };
    expect(asked(&format!("http://127.0.0.1:{port}"), "ours/ca.pem"), 65, "speaks TLS; give its address as https://");
    expect(asked(&url, "theirs/ca.pem"), 65, "another CA; give the ca.pem");
    // the loopback has many addresses, and the certificate one
    expect(asked(&format!("https://127.0.0.2:{port}"), "ours/ca.pem"), 65, "is for other names");
    expect(asked(&format!("https://nowhere.invalid:{port}"), "ours/ca.pem"), 69, "the name of its host is not found");
    expect(asked(&url, "ours/admin.token"), 65, "another CA; give the ca.pem");
    let nobody = at("nobody.token");
    fs::write(&nobody, format!("speckled_{}", "00".repeat(32))).expect("written");
    let unknown = ["task", "list", "--controller", &url, "--ca", &at("ours/ca.pem"), "--token-file", &nobody];
    expect(failure(&unknown), 77, "the token is not valid");
    // a frozen process accepts by its system and does not answer
    let pid = Pid::from_raw(controller.daemon.pid() as i32).expect("a process");
    kill_process(pid, Signal::STOP).expect("it is ours");
    let begun = Instant::now();
    expect(asked(&url, "ours/ca.pem"), 69, "accepts connections but has not answered in 10 s");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(controller);
    expect(asked(&url, "ours/ca.pem"), 69, "nobody listens there");
}

/// A command that goes on, and the lines that it prints.
struct Told {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Told {
    fn start(site: &Site, args: &[&str]) -> Self {
        let token = site.text("controller/admin.token");
        let remote = ["--controller", &site.controller.url, "--token-file", &token];
        let mut command = speckled(&[args, &remote].concat());
        let log = fs::File::create(site.at(&format!("{}.log", args[0]))).expect("made");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Whether it has a connection by TCP.
    fn is_connected(&self) -> bool {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it lives");
        let links =
            files.filter_map(|file| Some(fs::read_link(file.ok()?.path()).ok()?.to_string_lossy().into_owned()));
        let its: Vec<String> = links.filter(|link| link.starts_with("socket:[")).collect();
        let all = fs::read_to_string("/proc/net/tcp").expect("a file system");
        let mut open = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // 01 = established
        open.any(|fields| fields[3] == "01" && its.contains(&format!("socket:[{}]", fields[9])))
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("it goes on").expect("it speaks")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // it may have ended
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_tasks_follows_them_on_when_the_controller_was_killed() {
    let mut site = Site::running(60, 2);
    let first = site.submit(vec![TaskSpec::Nothing]).await[0];
    site.until_over(&[first]).await;
    let held = site.submit(vec![site.held("mark")]).await[0];
    let go = tokio::task::block_in_place(|| site.let_go("mark"));
    site.until(held, |task| task.state == StateName::Running).await;
    let mut watch = Told::start(&site, &["watch", "--output", "json"]);
    let mut wait = Told::start(&site, &["task", "wait", &held.to_string()]);
    // as they are at first
    let mut before: Vec<(String, String)> = Vec::new();
    let told = |line: &str| {
        let task: serde_json::Value = serde_json::from_str(line).expect("JSON");
        ["id", "state"].map(|key| task[key].as_str().expect("text").to_owned()).into()
    };
    tokio::task::block_in_place(|| (0..2).for_each(|_| before.push(told(&watch.next()))));
    // the other is silent: it has connected, and while a task travels through all processes it has asked
    tokio::time::timeout(LONG, async { while !wait.is_connected() {} }).await.expect("it connects");
    let other = site.submit(vec![TaskSpec::Nothing]).await[0];
    site.until_over(&[other]).await;
    let ended = (other.to_string(), StateName::Succeeded.name().to_owned());
    tokio::task::block_in_place(|| {
        while before.last() != Some(&ended) {
            before.push(told(&watch.next()));
        }
    });
    site.controller.kill();
    site.restart_controller();
    drop(go);
    site.until_over(&[held]).await;
    let last = site.submit(vec![TaskSpec::Nothing]).await[0];
    site.until_over(&[last]).await;
    let mut after: Vec<(String, String)> = Vec::new();
    let ended = (last.to_string(), StateName::Succeeded.name().to_owned());
    tokio::task::block_in_place(|| {
        while after.last() != Some(&ended) {
            after.push(told(&watch.next()));
        }
    });
    assert!(after.contains(&(held.to_string(), "succeeded".to_owned())), "nothing is lost: {after:?}");
    assert!(!after.iter().any(|line| before.contains(line)), "nothing is repeated: {before:?} {after:?}");
    let log = fs::read_to_string(site.at("watch.log")).expect("made");
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("connecting again") && lines[1].contains("connected again"), "{log}");
    let waited = tokio::task::block_in_place(|| wait.child.wait()).expect("it ends");
    let log = fs::read_to_string(site.at("task.log")).expect("made");
    assert!(waited.success() && wait.next().contains("succeeded"), "{waited} {log}");
}
