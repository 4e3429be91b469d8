//! Nodes that cannot work: what they were given is done elsewhere, they stop and say why, and go on when they can.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use speckled::endpoint::status::WorkerStatus;
use speckled::ids::WorkerId;
use speckled::rpc::endpoint_link::EndpointControl;
use speckled::runtime::ids;
use speckled::store::StateName;
use speckled::task::spec::TaskSpec;

use crate::world::{Site, done};

/// Longer than a check of the node, and the time until the next one.
const LONG: Duration = Duration::from_secs(120);

/// What a node lacks: how it comes to that, and how it is mended, by commands in its mounts' namespace; `$1` is the site's
/// directory.
struct Lacking {
    breaks: &'static str,
    mends: &'static str,
    says: &'static str,
}

/// A worker beside the endpoint's own, which has mounts of its own.
struct Node {
    worker: WorkerId,
    process: Child,
}

impl Node {
    fn start(site: &Site) -> Self {
        let program = site.text("node/speckled");
        fs::create_dir(site.at("node")).expect("made");
        fs::copy(env!("CARGO_BIN_EXE_speckled"), &program).expect("copied");
        let worker = ids::worker();
        let log = fs::File::create(site.at("node.log")).expect("opens");
        let mut command = Command::new("unshare");
        command.arg(namespaces()).arg(program).args(["worker", "--directory", &site.text("home/site"), "--worker"]);
        command.args([&worker.to_string(), "--block", &ids::block().to_string(), "--slots", "2", "--login-slots", "0"]);
        command.args(["--threads", "1", "--memory", "536870912", "--gpus", "none", "--slots-per-gpu", "1"]);
        let process = command.args(["--gpu-quiet-s", "300"]).stderr(log).stdin(Stdio::null()).spawn().expect("starts");
        Self { worker, process }
    }

    /// Runs a script where the worker runs.
    fn on_node(&self, site: &Site, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process.id().to_string(), "-m"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        done(command.args(["sh", "-ec", script, "sh", &site.text("")]).output().expect("runs"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // it may be dead already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn namespaces() -> &'static str {
    if rustix::process::geteuid().is_root() { "-m" } else { "-rm" }
}

/// Waits until the endpoint shows a worker as wanted.
pub(crate) async fn until_shown(site: &Site, wanted: impl Fn(&WorkerStatus) -> bool) -> WorkerStatus {
    let looking = async {
        let mut control = EndpointControl::connect(Path::new(&site.text("home/site/socket"))).await.expect("listens");
        loop {
            let status = control.status().await.expect("answers");
            if let Some(found) = status.workers.into_iter().find(&wanted) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, looking).await.expect("it is shown")
}

/// A site whose root to write is `mnt/out`, which is not there; its endpoint does not run.
fn without_root() -> Site {
    let site = Site::new(60, 1);
    let path = site.at("home/site/config.yaml");
    let config = fs::read_to_string(&path).expect("configured").replace(&site.text("out"), &site.text("mnt/out"));
    fs::write(path, config).expect("written");
    site
}

/// One whose root is there and whose endpoint runs.
fn site() -> Site {
    let mut site = without_root();
    fs::create_dir_all(site.at("mnt/out")).expect("made");
    site.start_endpoint();
    site
}

fn correlation(site: &Site, name: &str) -> TaskSpec {
    let spec = site.correlation(name);
    TaskSpec::Correlate(Box::new(speckled::task::correlate::CorrelateSpec { output: site.at("mnt/out/deep"), ..spec }))
}

async fn goes_elsewhere(lacking: Lacking) {
    let Lacking { breaks, mends, says } = lacking;
    let site = site();
    let node = Node::start(&site);
    until_shown(&site, |shown| shown.worker == node.worker && shown.connected && shown.slots.0 == 2).await;
    // each has worked before
    let before: Vec<TaskSpec> = (0..4).map(|index| correlation(&site, &format!("before{index}"))).collect();
    let tasks = site.submit(before).await;
    site.until_over(&tasks).await;
    node.on_node(&site, breaks);
    let specs: Vec<TaskSpec> = (0..6).map(|index| correlation(&site, &format!("r{index}"))).collect();
    let tasks = site.submit(specs).await;
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded), "{over:?}");
    assert!(over.iter().any(|task| task.attempt > 1), "the node was tried");
    let shown = until_shown(&site, |shown| shown.worker == node.worker && shown.trouble.is_some()).await;
    let trouble = shown.trouble.expect("looked for");
    assert!(trouble.contains("cannot work") && trouble.contains(says), "{trouble}");
    assert_eq!(shown.slots.0, 0, "it takes no tasks");
    node.on_node(&site, mends);
    until_shown(&site, |shown| shown.worker == node.worker && shown.trouble.is_none() && shown.slots.0 == 2).await;
    let tasks = site.submit((0..4).map(|index| correlation(&site, &format!("after{index}"))).collect()).await;
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "{over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_gone() {
    goes_elsewhere(Lacking {
        breaks: r#"mount -t tmpfs none "$1/mnt""#,
        // nothing was made where the root would be
        mends: r#"test -z "$(ls -A "$1/mnt")"; umount "$1/mnt""#,
        says: "mnt/out is not there",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_file_system_in_a_roots_place() {
    goes_elsewhere(Lacking {
        breaks: r#"mount -t tmpfs left "$1/mnt/out""#,
        mends: r#"test -z "$(ls -A "$1/mnt/out")"; umount "$1/mnt/out""#,
        says: "now on left (tmpfs)",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_became_read_only() {
    goes_elsewhere(Lacking {
        breaks: r#"mount --bind "$1/mnt/out" "$1/mnt/out"; mount -o remount,bind,ro "$1/mnt/out""#,
        mends: r#"umount "$1/mnt/out""#,
        says: "mounted read-only",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scratch_that_cannot_be_used() {
    goes_elsewhere(Lacking {
        breaks: r#"mount -t tmpfs -o ro none "$1/home/site/scratch""#,
        mends: r#"umount "$1/home/site/scratch""#,
        says: "home/site/scratch",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_gone() {
    goes_elsewhere(Lacking {
        breaks: r#"mv "$1/node/speckled" "$1/node/away""#,
        mends: r#"mv "$1/node/away" "$1/node/speckled""#,
        says: "cannot start",
    })
    .await;
}

/// A root that was never there: no worker of this site can work, tasks wait, and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_was_never_there() {
    let mut site = without_root();
    site.start_endpoint();
    let setup = speckled::task::spec::BatchSetupSpec { directories: vec![site.at("mnt/out/a")] };
    let task = site.submit(vec![TaskSpec::BatchSetup(setup)]).await[0];
    let shown = until_shown(&site, |shown| shown.trouble.is_some()).await;
    let trouble = shown.trouble.expect("looked for");
    assert!(trouble.contains("mnt/out is not there"), "{trouble}");
    assert!(!site.at("mnt").exists());
    fs::create_dir_all(site.at("mnt/out")).expect("mounted");
    let over = site.until_over(&[task]).await;
    assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
    assert!(site.at("mnt/out/a").is_dir());
}

/// An endpoint that has never seen its controller is killed, and starts again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_without_its_controller_starts_again_after_kill() {
    let mut site = Site::new(60, 1);
    site.controller.kill();
    site.start_endpoint();
    for _ in 0..3 {
        site.endpoint.take().expect("runs").kill();
        site.start_endpoint();
    }
    site.restart_controller();
    let mut client = site.client().await;
    let registered =
        async { while client.list_endpoints().await.expect("may").iter().all(|endpoint| !endpoint.online) {} };
    tokio::time::timeout(LONG, registered).await.expect("it registers");
    // it has the name for a minute, and nobody has told it that the process before had it
    site.endpoint.take().expect("runs").kill();
    site.start_endpoint();
    let task = site.submit(vec![Site::step("mark")]).await;
    let over = site.until_over(&task).await;
    assert_eq!(over[0].state, StateName::Succeeded, "{over:?}");
}
