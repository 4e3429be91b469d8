//! The service with its real processes: what it accepted outlives `kill -9`, and people see what happened.

mod blocks;
#[path = "../fakes/cuda.rs"]
mod cuda;
#[path = "../fakes/gpus.rs"]
mod fakes;
mod faults;
mod gpus;
mod link;
mod node;
mod proxy;
mod site;
mod states;
mod storm;
mod strangers;
mod unfit;
mod world;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use speckled::controller::{Submission, SubmissionTask};
use speckled::ids::{EndpointId, SessionId, TaskId};
use speckled::rpc::client::{Client, Target};
use speckled::rpc::{version, wire};
use speckled::store::{StateName, TaskFilter};
use speckled::task::pool::PoolKey;
use speckled::task::spec::TaskSpec;
use tokio_stream::wrappers::ReceiverStream;
use wire::from_endpoint::Message as Said;
use wire::to_endpoint::Message as Told;
use world::{Controller, Daemon, client, done, speckled};

/// Times that the controller is killed.
const ROUNDS: usize = 5;

/// Tasks of a round.
const TASKS: usize = 40;

/// The only endpoint, in one process that outlives its controllers.
struct Endpoint {
    id: EndpointId,
    session: SessionId,
}

/// Its session with one controller.
struct Session {
    said: tokio::sync::mpsc::Sender<wire::FromEndpoint>,
    told: tonic::Streaming<wire::ToEndpoint>,
    /// Tasks that it has asked for, in all.
    credit: u64,
}

impl Endpoint {
    async fn register(&self, client: &mut Client) {
        let request = wire::RegisterRequest {
            versions: Some(version::own()),
            endpoint: self.id.to_string(),
            name: "polaris".into(),
            group: String::new(),
            session: self.session.to_string(),
            host: "login1".into(),
            replaces: Vec::new(),
        };
        client.endpoints().register(request).await.expect("registers");
    }

    async fn open(&self, client: &mut Client) -> Session {
        let (said, messages) = tokio::sync::mpsc::channel(16);
        let (endpoint, session) = (self.id.to_string(), self.session.to_string());
        let hello = wire::Hello { endpoint, session, version: version::NEWEST, host: "login1".into() };
        said.send(wire::FromEndpoint { number: 0, message: Some(Said::Hello(hello)) }).await.expect("room");
        let told = client.endpoints().session(ReceiverStream::new(messages)).await.expect("opens").into_inner();
        Session { said, told, credit: 0 }
    }
}

impl Session {
    async fn say(&self, message: Said) {
        self.said.send(wire::FromEndpoint { number: 1, message: Some(message) }).await.expect("it is open");
    }

    /// Leases of at least so many tasks.
    async fn take(&mut self, most: u32) -> Vec<wire::AttemptId> {
        self.credit += u64::from(most);
        let pool = PoolKey::DEFAULT.bytes().to_vec();
        let pools = vec![wire::PoolCredit { pool, tasks: self.credit }];
        self.say(Said::Credit(wire::Credit { login: 0, pools })).await;
        let mut taken = Vec::new();
        while taken.len() < most as usize {
            if let Told::Leases(wire::Leases { leases }) = self.hear().await {
                taken.extend(leases.into_iter().filter_map(|lease| lease.attempt));
            }
        }
        taken
    }

    async fn hear(&mut self) -> Told {
        self.told.message().await.expect("no error").expect("not the end").message.expect("a message")
    }

    /// Reports success of all, and waits until that is on the controller's disk.
    async fn succeed(&mut self, attempts: Vec<wire::AttemptId>) {
        let reports = attempts.into_iter().map(|attempt| wire::Report {
            attempt: Some(attempt),
            outcome: Some(wire::report::Outcome::Succeeded(wire::Succeeded {})),
            result: None,
        });
        self.say(Said::Reports(wire::Reports { reports: reports.collect() })).await;
        while !matches!(self.hear().await, Told::Recorded(_)) {}
    }
}

fn order() -> Submission {
    let tasks = vec![SubmissionTask::new(TaskSpec::Nothing)];
    Submission::new("polaris".into(), tasks)
}

async fn queued(flow: &mut Client) -> u64 {
    let counts = flow.count(&TaskFilter::default()).await.expect("may");
    counts.iter().filter(|(state, _)| *state == StateName::Queued).map(|(_, tasks)| tasks).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_outlives_kill_9_of_the_controller() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().join("controller");
    done(speckled(&["controller", "init", directory.to_str().expect("text")]).output().expect("runs"));
    let token = std::fs::read_to_string(directory.join("admin.token")).expect("a token").trim().to_owned();
    let mut controller = Controller::start(&directory);
    let endpoint = Endpoint { id: speckled::runtime::ids::endpoint(), session: speckled::runtime::ids::session() };
    endpoint.register(&mut client(&controller.url, &token).await).await;
    let mut accepted: Vec<TaskId> = Vec::new();
    for round in 0..ROUNDS {
        let mut flow = client(&controller.url, &token).await;
        let mut session = endpoint.open(&mut flow).await;
        for _ in 0..TASKS {
            accepted.push(flow.submit(order()).await.expect("accepted").tasks[0].0);
        }
        let held = session.take(TASKS as u32 / 2).await;
        // submissions are in flight when it dies: each is accepted or refused, never half of it
        let mut flight = flow.clone();
        let flying = speckled::runtime::tasks::spawn("flight", async move {
            let mut accepted = Vec::new();
            while let Ok(receipt) = flight.submit(order()).await {
                accepted.push(receipt.tasks[0].0);
            }
            accepted
        });
        // so that the moment differs from round to round
        for _ in 0..round {
            accepted.push(flow.submit(order()).await.expect("accepted").tasks[0].0);
        }
        controller.kill();
        accepted.extend(flying.await.expect("does not panic"));
        controller = Controller::start(&directory);
        let mut flow = client(&controller.url, &token).await;
        let mut session = endpoint.open(&mut flow).await;
        session.succeed(held.clone()).await;
        let known = flow.get(&accepted).await.expect("may");
        assert_eq!(known.len(), accepted.len(), "round {round}: every accepted task is there");
        let held: Vec<TaskId> = held.iter().map(|attempt| attempt.task.parse().expect("an id")).collect();
        let held = flow.get(&held).await.expect("may");
        let well = held.iter().all(|task| task.state == StateName::Succeeded);
        assert!(well && held.len() == TASKS / 2, "round {round}: reports of attempts that were held count");
    }
    let mut flow = client(&controller.url, &token).await;
    let mut session = endpoint.open(&mut flow).await;
    // a submission whose answer was lost is queued too
    while queued(&mut flow).await > 0 {
        let rest = session.take(1).await;
        session.succeed(rest).await;
    }
    let known = flow.get(&accepted).await.expect("may");
    assert!(known.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "each ran once");
}

#[tokio::test]
async fn the_certificate_of_the_controllers_own_ca_is_trusted_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.path().join(name));
    for directory in [&ours, &theirs] {
        done(speckled(&["controller", "init", directory.to_str().expect("text")]).output().expect("runs"));
    }
    let controller = Controller::launch(&ours, &[]);
    assert!(controller.url.starts_with("https://127.0.0.1:"), "{}", controller.url);
    let token = std::fs::read_to_string(ours.join("admin.token")).expect("a token").trim().to_owned();
    let connect = async |directory: &Path| {
        let ca = Some(std::fs::read(directory.join("ca.pem")).expect("a CA"));
        Client::connect(&Target { url: controller.url.clone(), ca, token: token.clone(), identity: None }).await
    };
    connect(&ours).await.expect("trusted").list_endpoints().await.expect("may");
    assert!(connect(&theirs).await.is_err(), "another CA");
}

#[test]
fn a_controller_that_wants_certificates_talks_to_those_who_have_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    for directory in ["ours", "theirs"] {
        done(speckled(&["controller", "init", &at(directory)]).output().expect("runs"));
        let certify = ["controller", "certify", &at(directory), "--name", directory, "--into", &at("")];
        let made = done(speckled(&certify).output().expect("runs"));
        assert_eq!(made, format!("{}\n{}\n", at(&format!("{directory}.pem")), at(&format!("{directory}.key"))));
    }
    let controller = Controller::launch(&dir.path().join("ours"), &["--client-ca", &at("ours/ca.pem")]);
    let (ca, token) = (at("ours/ca.pem"), at("ours/admin.token"));
    let remote = ["--controller", &controller.url, "--ca", &ca, "--token-file", &token];
    let asked = |certificate: Option<&str>| {
        let [certificate, key] = ["pem", "key"].map(|kind| certificate.map(|name| at(&format!("{name}.{kind}"))));
        let shown = certificate.iter().flat_map(|file| ["--certificate", file]);
        let shown: Vec<&str> = shown.chain(key.iter().flat_map(|file| ["--key", file])).collect();
        speckled(&[&["task", "list"], &remote[..], &shown].concat()).output().expect("runs")
    };
    done(asked(Some("ours")));
    for certificate in [None, Some("theirs")] {
        let output = asked(certificate);
        let error = String::from_utf8(output.stderr).expect("text");
        // the connection may be gone before its alert was read
        assert!(!output.status.success() && error.contains("certificate"), "{certificate:?}: {error}");
    }
    // an endpoint shows its own
    let home = at("home");
    let [certificate, key] = [at("ours.pem"), at("ours.key")];
    let own = ["--certificate", &certificate, "--key", &key];
    let configure = ["endpoint", "configure", "polaris", "--directory", &home];
    done(speckled(&[&configure[..], &remote, &own].concat()).output().expect("runs"));
    let endpoint = Daemon::start(&mut speckled(&["endpoint", "start", "polaris", "--directory", &home]));
    assert!(endpoint.said.contains("is ready"), "{}", endpoint.said);
    let listed = ["endpoint", "list", "--output", "json"];
    let listed = done(speckled(&[&listed[..], &remote, &own].concat()).output().expect("runs"));
    assert!(listed.contains("\"online\": true") || listed.contains("\"online\":true"), "{listed}");
}

#[test]
fn people_are_told_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().join("controller");
    let path = directory.to_str().expect("text");
    done(speckled(&["controller", "init", path]).output().expect("runs"));
    for entry in std::fs::read_dir(&directory).expect("made").map(|entry| entry.expect("made").path()) {
        assert_eq!(entry.metadata().expect("made").permissions().mode() & 0o077, 0, "{}", entry.display());
    }
    assert_eq!(directory.metadata().expect("made").permissions().mode() & 0o777, 0o700, "for its owner alone");
    let controller = Controller::start(&directory);
    let url = controller.url.clone();
    let token = directory.join("admin.token");
    let mine = ["--controller", url.as_str(), "--token-file", token.to_str().expect("text")];
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = speckled(args).output().expect("runs");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{args:?}: {error}");
        assert!(error.contains(words) && error.trim_end().lines().count() == 1, "{args:?}: {error}");
    };
    let with = |args: &[&'static str]| -> Vec<&str> { args.iter().copied().chain(mine).collect() };
    refused(&["controller", "init", path], 65, "is there already");
    refused(&["controller", "serve", path, "--listen", "127.0.0.1:0", "--plain"], 76, "another controller serves");
    refused(&["controller", "serve", path, "--listen", "0.0.0.0:0", "--plain"], 65, "no loopback address");
    let no_ca = ["controller", "serve", path, "--client-ca", token.to_str().expect("text")];
    refused(&no_ca, 75, "certificate or key cannot be used");
    refused(&["task", "list", "--controller", url.as_str()], 65, "there is no token");
    refused(&with(&["submit", "--endpoint", "theta", "-r", "/a", "-q", "/b", "-o", "/c"]), 77, "no endpoint theta");
    refused(&with(&["submit", "--endpoint", "theta", "-r", "a", "-q", "/b", "-o", "/c"]), 65, "--raw a is relative");
    refused(&with(&["task", "show", "00000000-0000-0000-0000-000000000000"]), 77, "there is no task");
    let secret = done(
        speckled(&["token", "create", "--directory", path, "--subject", "bob", "--role", "view"])
            .output()
            .expect("runs"),
    );
    let bob = dir.path().join("bob.token");
    std::fs::write(&bob, &secret).expect("written");
    let bob = ["--controller", url.as_str(), "--token-file", bob.to_str().expect("text")];
    assert_eq!(done(speckled(&[&["task", "list"], &bob[..]].concat()).output().expect("runs")), "");
    let id = done(speckled(&["token", "list", "--directory", path, "--output", "quiet"]).output().expect("runs"));
    let id = id.lines().last().expect("two tokens").to_owned();
    done(speckled(&["token", "revoke", "--directory", path, &id]).output().expect("runs"));
    refused(&[&["task", "list"], &bob[..]].concat(), 77, "was revoked");
    drop(controller);
    refused(&with(&["task", "list"]), 69, "no controller answers");
}
