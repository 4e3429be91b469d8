//! Workers on other computers: TCP with TLS and a block's secret is the only way in, and leads to nothing but work.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use speckled::endpoint::status::{LinkStatus, WorkerStatus};
use speckled::ids::{BlockId, WorkerId};
use speckled::protocol::worker::{Joining, Room};
use speckled::rpc::endpoint_link::{EndpointControl, EndpointDial, LinkDial};
use speckled::rpc::wire;
use speckled::runtime::ids;
use speckled::store::StateName;
use speckled::task::failure::chain;
use speckled::task::spec::TaskSpec;
use speckled::worker::endpoint_link::{DialEndpoint, EndpointConnection, EndpointLinkError};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use wire::control_client::ControlClient;
use wire::workers_client::WorkersClient;

use crate::node::Node;
use crate::unfit::until_shown;
use crate::world::{Site, done};

/// Longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(120);

/// Much less than a lease lasts.
const SOON: Duration = Duration::from_secs(20);

/// What the names of secrets begin with.
const SECRET: &str = "speckled_block_";

/// Says where workers of other computers connect.
fn configure(site: &Site, advertise: &[&str]) {
    let path = site.at("home/site/config.yaml");
    let text = fs::read_to_string(&path).expect("configured");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["worker_link"] = serde_json::json!({ "listen": "0.0.0.0:0", "advertise": advertise });
    fs::write(path, config.to_string()).expect("written");
}

/// A site with an endpoint that runs, and the door open on this computer.
fn local() -> Site {
    let mut site = Site::new(60, 1);
    configure(&site, &["127.0.0.1"]);
    site.start_endpoint();
    site
}

/// A block, and its file.
struct Block {
    id: BlockId,
    file: PathBuf,
}

impl Block {
    fn open(site: &Site) -> Self {
        let opened = done(site.on_endpoint(&["block", "open", "site", "--output", "json"]));
        let opened: Value = serde_json::from_str(&opened).expect("JSON");
        let id = opened["block"].as_str().expect("an id").parse().expect("an id");
        Self { id, file: opened["file"].as_str().expect("a path").into() }
    }

    fn end(&self, site: &Site) {
        done(site.on_endpoint(&["block", "end", "site", &self.id.to_string()]));
    }

    fn content(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(&self.file).expect("ours")).expect("JSON")
    }

    /// The same file with another value somewhere.
    fn altered(&self, site: &Site, key: &str, value: Value) -> PathBuf {
        let mut content = self.content();
        *content.pointer_mut(key).expect("it is there") = value;
        let path = site.at(&format!("altered{}.json", key.replace('/', "-")));
        fs::write(&path, content.to_string()).expect("written");
        path
    }

    fn port(&self) -> u16 {
        self.content()["address"]["port"].as_u64().expect("a number") as u16
    }

    fn door(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    async fn dial(&self, worker: WorkerId) -> Result<EndpointConnection, EndpointLinkError> {
        dial(&self.file, worker, self.id).await
    }
}

/// Joins as a worker that takes nothing.
async fn dial(file: &Path, worker: WorkerId, block: BlockId) -> Result<EndpointConnection, EndpointLinkError> {
    let (host, room) = ("nid001".to_owned(), Room { slots: 0, login: 0 });
    let joining = Joining { worker, block, host, pid: std::process::id(), room, attempts: Vec::new() };
    EndpointDial::Link(LinkDial::new(file.to_owned())).dial(joining).await
}

fn refused(answer: Result<EndpointConnection, EndpointLinkError>) -> String {
    match answer.expect_err("refused") {
        EndpointLinkError::Refused(words) => words,
        EndpointLinkError::Unreachable(error) => panic!("not refused: {}", chain(&*error)),
    }
}

fn unreachable(answer: Result<EndpointConnection, EndpointLinkError>) -> String {
    match answer.expect_err("refused") {
        EndpointLinkError::Unreachable(error) => chain(&*error),
        EndpointLinkError::Refused(words) => panic!("not unreachable: {words}"),
    }
}

/// What the process at the other end of the door does with it: until it ends it, or it takes too long.
fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).expect("set");
    let mut heard = [0; 1024];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

async fn door_status(site: &Site) -> LinkStatus {
    let mut control = EndpointControl::connect(Path::new(&site.text("home/site/socket"))).await.expect("listens");
    control.status().await.expect("answers").link.expect("it is configured")
}

async fn secured(block: &Block) -> Channel {
    let content = block.content();
    let ca = Certificate::from_pem(content["address"]["ca"].as_str().expect("a certificate"));
    let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("endpoint.speckled");
    let endpoint = Endpoint::from_shared(format!("https://{}", block.door())).expect("an address");
    endpoint.tls_config(tls).expect("a CA").connect().await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_our_network_and_files_computes_until_its_block_ends() {
    let mut site = Site::new(60, 1);
    let mut node = Node::new(&site, "node");
    // the first is no name, nobody answers at the second
    configure(&site, &["nowhere.invalid", "192.0.2.1", &node.address]);
    site.start_endpoint();
    let block = Block::open(&site);
    node.start(&block.file, "--slots 3 --threads 1 --memory 536870912");
    let shown = until_shown(&site, |shown| shown.block == block.id && shown.connected && shown.slots.0 == 3).await;
    assert_eq!((shown.login_slots.0, shown.pid), (0, None), "its pid is not one of this computer");

    // two of three slots are its own: the third task is here
    let tasks = site.submit(vec![site.held("one"), site.held("two"), site.held("three")]).await;
    let held: Vec<_> = tokio::task::block_in_place(|| ["one", "two", "three"].map(|mark| site.let_go(mark)).into());
    let there = |site: &Site| site.processes(&site.text("marks")).into_iter().filter(|pid| node.has(*pid)).count();
    assert!(there(&site) >= 2, "they run on the node");
    expect_no_secret(&site, &block, &node);

    // the endpoint starts anew: the node comes back, and the attempts that it has go on
    let port = block.port();
    site.endpoint.as_mut().expect("runs").kill();
    site.start_endpoint();
    assert_eq!(block.port(), port, "where the node looks");
    until_shown(&site, |shown| shown.block == block.id && shown.connected).await;
    drop(held);
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "{over:?}");
    let correlations = (0..4).map(|index| TaskSpec::Correlate(Box::new(site.correlation(&format!("r{index}")))));
    let tasks = site.submit(correlations.collect()).await;
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "{over:?}");

    block.end(&site);
    assert_eq!(tokio::task::block_in_place(|| node.ended()), Some(0), "it leaves");
    assert!(!block.file.exists() && !block.file.parent().expect("a directory").exists());
    let mut control = EndpointControl::connect(Path::new(&site.text("home/site/socket"))).await.expect("listens");
    let gone =
        async { while control.status().await.expect("answers").workers.iter().any(|of| of.block == block.id) {} };
    tokio::time::timeout(SOON, gone).await.expect("it said that it leaves");
    done(site.on_endpoint(&["stop", "site"]));
}

/// Neither side is told when a cable is cut: both notice, long before a lease ends, and find each other again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_cable_is_noticed_at_both_ends() {
    let mut site = Site::new(600, 1);
    let mut node = Node::new(&site, "node");
    configure(&site, &[&node.address]);
    site.start_endpoint();
    let block = Block::open(&site);
    node.start(&block.file, "--slots 2 --threads 1 --memory 536870912");
    let its = |shown: &WorkerStatus, connected: bool| shown.block == block.id && shown.connected == connected;
    until_shown(&site, |shown| its(shown, true)).await;
    node.unplug();
    until_shown(&site, |shown| its(shown, false)).await;
    let ended =
        || fs::read_to_string(site.at("node.log")).expect("written").contains("connection with the endpoint has ended");
    let noticed = async {
        while !ended() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, noticed).await.expect("the worker notices");
    node.plug_in();
    until_shown(&site, |shown| its(shown, true)).await;
    let task = site.submit(vec![Site::step("mark")]).await;
    assert_eq!(site.until_over(&task).await[0].state, StateName::Succeeded);
}

/// A worker is the process at the other end of the socket, whatever number it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_this_computer_is_known_by_the_socket() {
    let site = local();
    let (worker, room) = (ids::worker(), Room { slots: 0, login: 0 });
    let shown = until_shown(&site, |shown| shown.pid.is_some()).await;
    // as if it were the endpoint's own worker
    let (host, pid) = (shown.host, shown.pid.expect("looked for"));
    let joining = Joining { worker, block: ids::block(), host, pid, room, attempts: Vec::new() };
    let joined = EndpointDial::Socket(site.at("home/site/socket")).dial(joining).await.expect("it may");
    let shown = until_shown(&site, |shown| shown.worker == worker).await;
    assert_eq!(shown.pid, Some(std::process::id()));
    drop(joined);
}

/// Nobody who lists processes sees a secret, nor who has their environment.
fn expect_no_secret(site: &Site, block: &Block, node: &Node) {
    let content = block.content();
    let secret = content["secret"].as_str().expect("a secret").trim_start_matches(SECRET);
    let all = site.processes("worker").into_iter().chain(site.processes("executor"));
    let all: BTreeSet<i32> = all.chain([node.pid() as i32]).collect();
    assert!(all.len() >= 2, "{all:?}");
    for (process, file) in all.iter().flat_map(|process| [(process, "cmdline"), (process, "environ")]) {
        let text = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(SECRET) && !text.contains(secret), "{process} {file}: {text}");
    }
    for log in ["endpoint.log", "node.log"] {
        assert!(!fs::read_to_string(site.at(log)).expect("written").contains(secret), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_worker_of_an_open_block_comes_in() {
    let site = local();
    let (block, other) = (Block::open(&site), Block::open(&site));
    let worker = ids::worker();
    let _joined = block.dial(worker).await.expect("it may");
    // a secret that was never given, and none
    let wrong = block.altered(&site, "/secret", format!("{SECRET}{}", "0".repeat(64)).into());
    assert!(refused(dial(&wrong, ids::worker(), block.id).await).contains("no block that is open"));
    let mut bare = WorkersClient::new(secured(&block).await);
    let nothing = tokio_stream::iter(Vec::<wire::FromWorker>::new());
    let status = bare.work(nothing).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    // the secret of one block, and a worker of another
    assert!(refused(dial(&other.file, ids::worker(), block.id).await).contains("not one of the block"));
    assert!(refused(other.dial(worker).await).contains("belongs to another block"));
    let own = until_shown(&site, |shown| shown.pid.is_some()).await;
    assert!(refused(other.dial(own.worker).await).contains("belongs to another block"), "this computer's own");
    // an endpoint of another CA is none
    let foreign = local();
    let ca = Block::open(&foreign).content()["address"]["ca"].clone();
    let foreign = block.altered(&site, "/address/ca", ca);
    let words = unreachable(dial(&foreign, ids::worker(), block.id).await);
    assert!(words.contains("certificate"), "{words}");
    // a block that is over
    let copy = block.altered(&site, "/address/hosts", serde_json::json!(["127.0.0.1"]));
    block.end(&site);
    assert!(refused(dial(&copy, worker, block.id).await).contains("no block that is open"));
    assert!(refused(block.dial(worker).await).contains("its block is over"));
    let none = site.on_endpoint(&["block", "end", "site", &block.id.to_string()]);
    let words = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(words.contains("is not open"), "{words}");
    // the other goes on, after the endpoint was started anew too
    let _still = other.dial(ids::worker()).await.expect("it may");
    let shown = done(site.on_endpoint(&["status", "site"]));
    assert!(shown.contains("link        listens at 0.0.0.0:") && shown.contains(&other.id.to_string()), "{shown}");
    let log = fs::read_to_string(site.at("endpoint.log")).expect("written");
    assert!(log.lines().filter(|line| line.contains("was refused")).count() <= 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_work_may_not_stop() {
    let site = local();
    let block = Block::open(&site);
    let secret = format!("Bearer {}", block.content()["secret"].as_str().expect("a secret"));
    let mut control = ControlClient::new(secured(&block).await);
    let with_secret = |mut request: tonic::Request<wire::LeaveRequest>| {
        request.metadata_mut().insert("authorization", secret.parse().expect("text"));
        request
    };
    let leave = with_secret(tonic::Request::new(wire::LeaveRequest { mode: wire::LeaveMode::Now.into() }));
    assert_eq!(control.leave(leave).await.expect_err("no such service").code(), tonic::Code::Unimplemented);
    let status = control.status(wire::StatusRequest {}).await.expect_err("no such service");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    let opened = control.open_block(wire::OpenBlockRequest {}).await.expect_err("no such service");
    assert_eq!(opened.code(), tonic::Code::Unimplemented);
    for (name, mode) in [("home/site/link-ca.key", 0o600), ("home/site/blocks", 0o700), ("home/site/socket", 0o600)] {
        assert_eq!(fs::metadata(site.at(name)).expect("there").permissions().mode() & 0o777, mode, "{name}");
    }
    assert_eq!(fs::metadata(&block.file).expect("there").permissions().mode() & 0o777, 0o600);
    done(site.on_endpoint(&["doctor", "site"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_nothing_costs_little_and_keeps_nobody_out() {
    speckled::runtime::files::open_as_many_as_allowed();
    let site = local();
    let block = Block::open(&site);
    let joined = block.dial(ids::worker()).await.expect("it may");
    // in other tongues than TLS
    for said in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0"] {
        let mut stream = TcpStream::connect(block.door()).expect("it listens");
        stream.write_all(said.as_bytes()).expect("it hears");
        assert!(tokio::task::block_in_place(|| is_ended(&mut stream)), "{said:?}");
    }
    let plain = Endpoint::from_shared(format!("http://{}", block.door())).expect("an address");
    assert!(WorkersClient::new(plain.connect_lazy()).work(tokio_stream::iter(Vec::new())).await.is_err());
    // one that says nothing, and one that does so after the handshake
    let mut silent = TcpStream::connect(block.door()).expect("it listens");
    let begun = Instant::now();
    let mut idle = ControlClient::new(secured(&block).await);
    assert!(tokio::task::block_in_place(|| is_ended(&mut silent)));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let until_none = async { while door_status(&site).await.waiting > 0 {} };
    tokio::time::timeout(LONG, until_none).await.expect("all are ended");
    assert!(idle.status(wire::StatusRequest {}).await.is_err(), "its connection was ended");
    // very many
    let crowd: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(block.door()).expect("it listens")).collect();
    let other = block.dial(ids::worker()).await.expect("it gets in");
    let door = door_status(&site).await;
    assert!(door.waiting <= 128 && door.workers == 2, "{door:?}");
    let task = site.submit(vec![TaskSpec::Nothing]).await;
    assert_eq!(site.until_over(&task).await[0].state, StateName::Succeeded);
    drop(crowd);
    tokio::time::timeout(LONG, async { while door_status(&site).await.waiting > 0 {} }).await.expect("all have gone");
    assert!(!joined.say.is_closed() && !other.say.is_closed(), "they stay");
    assert!(door_status(&site).await.refused >= 1000);
    let log = fs::read_to_string(site.at("endpoint.log")).expect("written");
    assert!(log.lines().count() < 40, "{log}");
}
