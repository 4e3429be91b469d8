//! A site: controller and endpoint as real processes in a directory of their own, and a client that asks and waits.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use speckled::controller::{Submission, SubmissionTask};
use speckled::ids::TaskId;
use speckled::rpc::client::{Client, Target};
use speckled::rpc::view::TaskView;
use speckled::store::TaskFilter;
use speckled::task::correlate::CorrelateSpec;
use speckled::task::spec::{CommandSpec, TaskSpec};
use tempfile::TempDir;

/// Longer than anything takes that tests wait for.
const LONGEST: Duration = Duration::from_secs(300);

/// A command of the program, without what the tester's environment says of controllers.
pub(crate) fn speckled(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_speckled"));
    let ours = ["SPECKLED_CONTROLLER", "SPECKLED_CA", "SPECKLED_TOKEN", "SPECKLED_TOKEN_FILE", "SPECKLED_HOME"];
    ours.iter().fold(command.args(args), |command, name| command.env_remove(name));
    command
}

/// A command of the program by a shell's script, which ends with `exec "$@"`, among options of unshare(1).
fn within(options: &[&str], script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-ec", script, "sh", env!("CARGO_BIN_EXE_speckled")]).args(args);
    command
}

/// What a command that succeeds prints.
pub(crate) fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A process that has said its first line; killed when dropped.
pub(crate) struct Daemon {
    process: Child,
    /// What it said.
    pub(crate) said: String,
}

impl Daemon {
    /// Starts it, and waits for its first line; empty if it ends without one.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut said = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut said).expect("it speaks");
        Self { process, said: said.trim().to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// As `kill -9` does; its locks are gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may be dead already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A controller's process.
pub(crate) struct Controller {
    pub(crate) daemon: Daemon,
    pub(crate) url: String,
}

impl Controller {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::launch(directory, &["--plain"])
    }

    pub(crate) fn launch(directory: &Path, options: &[&str]) -> Self {
        Self::launch_in(directory, options, &[])
    }

    /// With these variables.
    pub(crate) fn launch_in(directory: &Path, options: &[&str], variables: &[(&str, String)]) -> Self {
        Self::launch_by(directory, options, |args| {
            let mut command = speckled(args);
            command.envs(variables.iter().cloned());
            command
        })
    }

    fn launch_by(directory: &Path, options: &[&str], command: impl FnOnce(&[&str]) -> Command) -> Self {
        let mut args = vec!["controller", "serve", directory.to_str().expect("text")];
        if !options.contains(&"--listen") {
            args.extend(["--listen", "127.0.0.1:0"]);
        }
        args.extend(options);
        let daemon = Daemon::start(&mut command(&args));
        let url = daemon.said.clone();
        assert!(url.starts_with("http"), "it says where it listens: {url:?}");
        Self { daemon, url }
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }
}

/// A client of a controller at an address.
pub(crate) async fn client(url: &str, token: &str) -> Client {
    let target = Target { url: url.into(), ca: None, token: token.into(), identity: None };
    Client::connect(&target).await.expect("it listens")
}

/// A controller and an endpoint `site`, with what tasks need.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) controller: Controller,
    pub(crate) endpoint: Option<Daemon>,
    pub(crate) token: String,
    lease_s: u32,
}

impl Site {
    /// Leases last so many seconds. The endpoint asks the controller at `url`, if that is another than its own.
    pub(crate) fn new(lease_s: u32, slots: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = dir.path().join("controller");
        done(speckled(&["controller", "init", directory.to_str().expect("text")]).output().expect("runs"));
        let token = fs::read_to_string(directory.join("admin.token")).expect("a token").trim().to_owned();
        let lease = lease_s.to_string();
        let controller = Controller::launch(&directory, &["--plain", "--lease", &lease]);
        for name in ["data", "out", "marks"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        let site = Self { dir, controller, endpoint: None, token, lease_s };
        let url = site.controller.url.clone();
        site.configure(&url, slots);
        site
    }

    /// With an endpoint that runs.
    pub(crate) fn running(lease_s: u32, slots: u32) -> Self {
        let mut site = Self::new(lease_s, slots);
        site.start_endpoint();
        site
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.at(name).to_str().expect("text").to_owned()
    }

    /// The endpoint's configuration: its commands leave marks, and wait for one.
    pub(crate) fn configure(&self, url: &str, slots: u32) {
        let home = self.at("home/site");
        fs::create_dir_all(&home).expect("made");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("ours");
        let (token, data, out) = (self.text("controller/admin.token"), self.text("data"), self.text("out"));
        let marks = self.text("marks");
        // each attempt has a file of its own, so that who ran beside whom is seen
        let step =
            r#"echo begin $$ >> "$1/$2"; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo end $$ >> "$1/$2""#;
        let held = r#"echo begin $$ >> "$1/$2"; read line < "$1/$2.go"; echo end $$ >> "$1/$2""#;
        // one of its group, one of another session, and one that hides where it comes from
        let leaving = r#"sleep 600 & setsid sleep 600 & env -i setsid sleep 600 & echo begin $$ >> "$1/$2"; read line < "$1/$2.go"; echo end $$ >> "$1/$2""#;
        let stray = r#"setsid sleep 600 & echo begin $$ >> "$1/$2"; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo end $$ >> "$1/$2""#;
        let open = r#"readlink /proc/$$/fd/* > "$1/$2""#;
        let seated = r#"echo "$SPECKLED_GPU $CUDA_VISIBLE_DEVICES" >> "$1/$2"; read line < "$1/$2.go"; true"#;
        let command = |script: &str| {
            serde_json::json!({
                "program": "/bin/sh",
                "arguments": ["-c", script, "sh", &marks, "{mark}"],
                "time_limit_s": 600,
            })
        };
        let config = serde_json::json!({
            "name": "site",
            "controller": { "url": url, "token_file": token },
            "roots": { "read": [data], "write": [out] },
            "workers": { "slots": slots, "threads": 1, "memory": "512 MiB" },
            "commands": { "step": command(step), "held": command(held), "leaving": command(leaving), "open": command(open), "stray": command(stray), "seated": command(seated) },
        });
        fs::write(home.join("config.yaml"), config.to_string()).expect("written");
    }

    pub(crate) fn start_endpoint(&mut self) {
        self.start_endpoint_in(&[]);
    }

    /// With these variables.
    pub(crate) fn start_endpoint_in(&mut self, variables: &[(&str, String)]) {
        let mut command = speckled(&["endpoint", "start", "site", "--directory", &self.text("home/site")]);
        command.envs(variables.iter().cloned());
        self.start_endpoint_by(command);
    }

    /// By a shell's script, which ends with `exec "$@"`, among `options` of unshare(1).
    pub(crate) fn start_endpoint_within(&mut self, options: &[&str], script: &str) {
        let args = ["endpoint", "start", "site", "--directory", &self.text("home/site")];
        self.start_endpoint_by(within(options, script, &args));
    }

    fn start_endpoint_by(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.at("endpoint.log")).expect("opens");
        let daemon = Daemon::start(command.stderr(log));
        assert!(daemon.said.contains("is ready"), "{}", daemon.said);
        self.endpoint = Some(daemon);
    }

    /// A command on the endpoint; its directory is added.
    pub(crate) fn on_endpoint(&self, args: &[&str]) -> Output {
        let home = self.text("home/site");
        let args: Vec<&str> = ["endpoint"].iter().chain(args).copied().chain(["--directory", &home]).collect();
        speckled(&args).output().expect("runs")
    }

    /// On the same address, so that the endpoint finds it.
    pub(crate) fn restart_controller(&mut self) {
        self.restart_controller_in(&[]);
    }

    /// With these variables.
    pub(crate) fn restart_controller_in(&mut self, variables: &[(&str, String)]) {
        self.restart_controller_by(|args| {
            let mut command = speckled(args);
            command.envs(variables.iter().cloned());
            command
        });
    }

    /// As [`Self::start_endpoint_within`] starts an endpoint.
    pub(crate) fn restart_controller_within(&mut self, script: &str) {
        self.restart_controller_by(|args| within(&[], script, args));
    }

    fn restart_controller_by(&mut self, command: impl FnOnce(&[&str]) -> Command) {
        let address = self.controller.url.trim_start_matches("http://").to_owned();
        let lease = self.lease_s.to_string();
        let options = ["--plain", "--lease", &lease, "--listen", &address];
        self.controller = Controller::launch_by(&self.at("controller"), &options, command);
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.controller.url, &self.token).await
    }

    /// Submits tasks as one action; a controller that is not there is asked again.
    pub(crate) async fn submit(&self, specs: Vec<TaskSpec>) -> Vec<TaskId> {
        let receipt = self.client().await.submit(order(specs)).await.expect("accepted");
        receipt.tasks.into_iter().map(|(id, _)| id).collect()
    }

    /// Waits until a task is as wanted; a controller that dies meanwhile is the test's to start again.
    pub(crate) async fn until(&self, task: TaskId, wanted: impl Fn(&TaskView) -> bool) -> TaskView {
        match tokio::time::timeout(LONGEST, self.wait(task, wanted)).await {
            Ok(found) => found,
            Err(_) => panic!("it is still {:?}", self.client().await.get(&[task]).await),
        }
    }

    async fn wait(&self, task: TaskId, wanted: impl Fn(&TaskView) -> bool) -> TaskView {
        let mut client = self.client().await;
        // first listen, then look: what changes in between is heard
        let mut changes = client.watch(&TaskFilter::default()).await.expect("may");
        loop {
            let found = client.get(&[task]).await.expect("may");
            match found.into_iter().find(&wanted) {
                Some(found) => return found,
                None => while changes.next().await.expect("goes on").expect("goes on").id != task {},
            }
        }
    }

    /// Waits until all are over.
    pub(crate) async fn until_over(&self, tasks: &[TaskId]) -> Vec<TaskView> {
        let mut over = Vec::new();
        for task in tasks {
            over.push(self.until(*task, |task| task.state.is_over()).await);
        }
        over
    }

    /// A command that leaves marks while it computes.
    pub(crate) fn step(mark: &str) -> TaskSpec {
        Self::command("step", mark)
    }

    /// A command that leaves marks while it computes, and a process in another session.
    pub(crate) fn stray(mark: &str) -> TaskSpec {
        Self::command("stray", mark)
    }

    /// A command that leaves a mark, and another once it is let go.
    pub(crate) fn held(&self, mark: &str) -> TaskSpec {
        let go = self.at(&format!("marks/{mark}.go"));
        rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("made");
        Self::command("held", mark)
    }

    /// A command that starts others, leaves a mark, and ends once it is let go.
    pub(crate) fn leaving(&self, mark: &str) -> TaskSpec {
        self.held(mark);
        Self::command("leaving", mark)
    }

    /// A command that leaves what it has open as a mark.
    pub(crate) fn open(mark: &str) -> TaskSpec {
        Self::command("open", mark)
    }

    /// A command that leaves the GPU of its slot as a mark, and ends once it is let go.
    pub(crate) fn seated(&self, mark: &str) -> TaskSpec {
        self.held(mark);
        Self::command("seated", mark)
    }

    fn command(template: &str, mark: &str) -> TaskSpec {
        let values = [("mark".to_owned(), mark.to_owned())].into();
        TaskSpec::Command(CommandSpec { template: template.parse().expect("a name"), values, time_limit: None })
    }

    /// Waits until a process has left its mark, and returns what it waits for.
    pub(crate) fn let_go(&self, mark: &str) -> fs::File {
        // a pipe opens when its reader is there
        fs::OpenOptions::new().write(true).open(self.at(&format!("marks/{mark}.go"))).expect("a reader")
    }

    /// What attempts of a command have written.
    pub(crate) fn marks(&self, mark: &str) -> String {
        fs::read_to_string(self.at(&format!("marks/{mark}"))).unwrap_or_default()
    }

    /// A simulated dataset's correlation.
    pub(crate) fn correlation(&self, name: &str) -> CorrelateSpec {
        let data = self.text("data");
        if !self.at("data/sim.h5").exists() {
            let sizes = ["--format", "hdf5", "--rows", "64", "--cols", "64", "--frames", "200"];
            done(speckled(&["simulate", "-o", &data]).args(sizes).output().expect("runs"));
        }
        let mut spec = CorrelateSpec::new(self.at("data/sim.h5"), self.at("data/sim_qmap.hdf"), self.at("out"));
        spec.suffix = Some(name.to_owned());
        spec
    }

    /// Processes of this site, by a word of their command lines.
    pub(crate) fn processes(&self, word: &str) -> BTreeSet<i32> {
        let home = self.text("");
        let all = fs::read_dir("/proc").expect("a file system");
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let ours = pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let here = words.iter().any(|argument| argument.contains(&home)) || cwd.starts_with(&home);
            here && words.iter().any(|argument| argument == word)
        });
        ours.collect()
    }

    /// No attempt of a task began before another had ended or was dead, and none ended twice.
    pub(crate) fn expect_one_after_the_other(&self, mark: &str) {
        let marks = self.marks(mark);
        let mut latest = "";
        for line in marks.lines() {
            match line.split_once(' ').expect("a mark") {
                ("begin", process) => latest = process,
                (_, process) => assert_eq!(process, latest, "an attempt ran on beside a later one: {marks}"),
            }
        }
        let ends = marks.lines().filter(|line| line.starts_with("end")).count();
        assert!(ends >= 1, "{mark}: it has ended: {marks:?}");
    }
}

impl Drop for Site {
    #[expect(clippy::print_stdout, reason = "a test that fails shows what it knows")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the endpoint's log:\n{}", fs::read_to_string(self.at("endpoint.log")).unwrap_or_default());
        }
        drop(self.endpoint.take());
        // workers outlive their endpoint: that is what they are for
        for pid in self.processes("worker") {
            let pid = rustix::process::Pid::from_raw(pid).expect("a process");
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Tasks for the endpoint `site`.
pub(crate) fn order(specs: Vec<TaskSpec>) -> Submission {
    Submission::new("site".into(), specs.into_iter().map(SubmissionTask::new).collect())
}
