//! The services over real connections: a client of flows on one side, an endpoint's messages on the other.

use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;
use crate::controller::bus::LocalBus;
use crate::controller::token::Secret;
use crate::controller::{Known, Policy, Submission, SubmissionTask};
use crate::ids::{EndpointId, SessionId, TokenId};
use crate::rpc::client::{Client, ClientError, Target};
use crate::rpc::version;
use crate::rpc::wire;
use crate::runtime::clock::Clock;
use crate::runtime::ids;
use crate::runtime::tasks::{Tasks, spawn};
use crate::store::{Role, SqliteStore, StateName, TaskFilter, TokenRecord, open_sqlite};
use crate::task::pool::PoolKey;
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

mod forging;

/// A controller that listens.
pub(super) struct World {
    pub(super) controller: Arc<Controller<SqliteStore>>,
    pub(super) url: String,
    pub(super) door: Door,
    stopping: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
    tasks: Tasks,
    pub(super) tokens: Vec<(TokenId, String)>,
    dir: tempfile::TempDir,
}

const ALL: [Role; 4] = [Role::Submit, Role::View, Role::Operate, Role::Endpoint];

impl World {
    pub(super) async fn new() -> Self {
        Self::with(DoorLimits::controller(1024), Policy::default()).await
    }

    pub(super) async fn with(limits: DoorLimits, policy: Policy) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open_sqlite(&dir.path().join("controller.db"), Clock::start()).await.expect("a store");
        let mut tokens = Vec::new();
        for (subject, roles) in [("ada", &ALL[..]), ("ada", &[Role::View]), ("eve", &[Role::Endpoint])] {
            let (id, secret) = (ids::token(), Secret::generate().expect("random numbers"));
            let record = TokenRecord {
                id,
                digest: secret.digest(),
                subject: subject.parse().expect("a subject"),
                roles: roles.to_vec(),
                groups: Vec::new(),
                made: Moment::START,
                expires: None,
                revoked: None,
            };
            store.add_token(record).await.expect("kept");
            tokens.push((id, secret.reveal()));
        }
        let controller =
            Arc::new(Controller::start(store, Arc::new(LocalBus::default()), policy).await.expect("starts"));
        let tasks = Tasks::default();
        controller.run(&tasks);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let stopping = CancellationToken::new();
        let services = Services::with(None, limits).expect("nothing can be wrong");
        let door = services.door.clone();
        let served = spawn("server", services.serve(Arc::clone(&controller), listener, stopping.clone()));
        Self { controller, url, door, stopping, served, tasks, tokens, dir }
    }

    pub(super) async fn client(&self, token: &str) -> Client {
        let target = Target { url: self.url.clone(), ca: None, token: token.into(), identity: None };
        Client::connect(&target).await.expect("it listens")
    }

    /// Somebody else's endpoint.
    async fn eve(&self) -> Client {
        self.client(&self.tokens[2].1).await
    }

    pub(super) async fn ada(&self) -> Client {
        self.client(&self.tokens[0].1).await
    }

    /// A further token of ada, that sees.
    pub(super) async fn add_token(&self, expires: Option<Moment>) -> String {
        let store = open_sqlite(&self.dir.path().join("controller.db"), Clock::start()).await.expect("a store");
        let secret = Secret::generate().expect("random numbers");
        let record = TokenRecord {
            id: ids::token(),
            digest: secret.digest(),
            subject: "ada".parse().expect("a subject"),
            roles: vec![Role::View],
            groups: Vec::new(),
            made: Moment::START,
            expires,
            revoked: None,
        };
        store.add_token(record).await.expect("kept");
        store.close().await;
        secret.reveal()
    }

    /// Ends the server as a signal does: what is in flight is finished.
    pub(super) async fn end(self) {
        self.stopping.cancel();
        self.served.await.expect("does not panic").expect("serves to the end");
        self.tasks.stop();
        self.tasks.join().await;
        drop(self.dir);
    }
}

/// An endpoint as it talks.
pub(super) struct Talker {
    endpoint: EndpointId,
    session: SessionId,
    send: tokio::sync::mpsc::Sender<wire::FromEndpoint>,
    pub(super) answers: Streaming<wire::ToEndpoint>,
}

fn register(endpoint: EndpointId, session: SessionId) -> wire::RegisterRequest {
    wire::RegisterRequest {
        versions: Some(version::own()),
        endpoint: endpoint.to_string(),
        name: "polaris".into(),
        group: String::new(),
        session: session.to_string(),
        host: "login1".into(),
        replaces: Vec::new(),
    }
}

/// What a connection of a session begins with.
fn hello(endpoint: EndpointId, session: SessionId) -> wire::FromEndpoint {
    let hello = wire::Hello {
        endpoint: endpoint.to_string(),
        session: session.to_string(),
        version: version::NEWEST,
        host: "login1".into(),
    };
    message(0, wire::from_endpoint::Message::Hello(hello))
}

impl Talker {
    pub(super) async fn new(client: &mut Client) -> Self {
        Self::named(client, "polaris").await
    }

    async fn named(client: &mut Client, name: &str) -> Self {
        let (endpoint, session) = (ids::endpoint(), ids::session());
        let request = wire::RegisterRequest { name: name.into(), ..register(endpoint, session) };
        client.endpoints().register(request).await.expect("registers");
        Self::again(client, endpoint, session).await
    }

    /// Opens a connection of a session that has registered.
    async fn again(client: &mut Client, endpoint: EndpointId, session: SessionId) -> Self {
        let (send, receive) = tokio::sync::mpsc::channel(8);
        send.send(hello(endpoint, session)).await.expect("room");
        let answers = client.endpoints().session(ReceiverStream::new(receive)).await.expect("opens").into_inner();
        Self { endpoint, session, send, answers }
    }

    async fn say(&self, number: u64, what: wire::from_endpoint::Message) {
        self.send.send(message(number, what)).await.expect("the session is open");
    }

    /// What is said next but for the backlog, which comes when there is time.
    async fn hear(&mut self) -> wire::to_endpoint::Message {
        loop {
            let answer = self.answers.message().await.expect("no error").expect("not the end");
            let message = answer.message.expect("a message");
            if !matches!(message, wire::to_endpoint::Message::Backlog(_)) {
                return message;
            }
        }
    }
}

fn message(number: u64, message: wire::from_endpoint::Message) -> wire::FromEndpoint {
    wire::FromEndpoint { number, message: Some(message) }
}

fn credit(slots: u64) -> wire::from_endpoint::Message {
    wire::from_endpoint::Message::Credit(wire::Credit {
        login: 0,
        pools: vec![wire::PoolCredit { pool: PoolKey::DEFAULT.bytes().to_vec(), tasks: slots }],
    })
}

pub(super) fn order(endpoint: &str, tasks: usize) -> Submission {
    let tasks = vec![SubmissionTask::new(TaskSpec::Nothing); tasks];
    Submission::new(endpoint.into(), tasks)
}

pub(super) fn status(error: ClientError) -> Status {
    match error {
        ClientError::Refused(status) => status,
        other @ (ClientError::Url { .. }
        | ClientError::Plain { .. }
        | ClientError::NoCa { .. }
        | ClientError::Token
        | ClientError::NoCertificate
        | ClientError::Certificate
        | ClientError::Broken(_)
        | ClientError::Unanswered(_)
        | ClientError::Unwell(_)
        | ClientError::Files(_)
        | ClientError::Socket { .. }
        | ClientError::Dial(_)
        | ClientError::Answer(_)) => panic!("not refused: {other}"),
    }
}

#[tokio::test]
async fn a_task_travels_from_a_flow_to_an_endpoint_and_back() {
    let world = World::new().await;
    let mut client = world.ada().await;
    let mut talker = Talker::new(&mut client).await;
    talker.say(1, credit(1)).await;
    let receipt = client.submit(order("polaris", 2)).await.expect("accepted");
    assert_eq!(receipt.tasks.iter().map(|(_, known)| *known).collect::<Vec<_>>(), [Known::New; 2]);
    let filter = TaskFilter { action: Some(receipt.action), ..TaskFilter::default() };
    let mut changes = client.watch(&filter).await.expect("may");
    let wire::to_endpoint::Message::Leases(wire::Leases { leases }) = talker.hear().await else { panic!("no task") };
    let attempt = leases[0].attempt.clone();
    assert_eq!((leases.len(), attempt.as_ref().map(|a| a.number)), (1, Some(1)));
    let outcome = Some(wire::report::Outcome::Succeeded(wire::Succeeded {}));
    let result = wire::TaskResult { files: vec!["/data/a.hdf".into()], ..Default::default() };
    let report = wire::Report { attempt: attempt.clone(), outcome, result: Some(result) };
    talker.say(2, wire::from_endpoint::Message::Reports(wire::Reports { reports: vec![report] })).await;
    let recorded = wire::Recorded { number: 2, attempts: attempt.into_iter().collect() };
    assert_eq!(talker.hear().await, wire::to_endpoint::Message::Recorded(recorded));
    let done = loop {
        let task = changes.next().await.expect("no error").expect("not the end");
        if task.state == StateName::Succeeded {
            break task;
        }
    };
    assert_eq!((done.id, done.endpoint), (receipt.tasks[0].0, talker.endpoint));
    assert_eq!(done.result.expect("a result").files, [std::path::PathBuf::from("/data/a.hdf")]);
    let counts = client.count(&filter).await.expect("may");
    assert!(counts.contains(&(StateName::Succeeded, 1)) && counts.contains(&(StateName::Queued, 1)), "{counts:?}");
    assert_eq!(client.list(&filter, 1).await.expect("may").len(), 1);
    let cancelled = client.cancel(&[receipt.tasks[1].0]).await.expect("may");
    assert_eq!(cancelled[0].state, StateName::Cancelled);
    let endpoints = client.list_endpoints().await.expect("may");
    assert!(endpoints.len() == 1 && endpoints[0].online && endpoints[0].host == "login1");
    talker.say(3, wire::from_endpoint::Message::Goodbye(wire::Goodbye {})).await;
    assert!(talker.answers.message().await.expect("no error").is_none());
    assert!(!client.list_endpoints().await.expect("may")[0].online, "{} is free", talker.session);
    world.end().await;
}

#[tokio::test]
async fn bad_tokens_are_refused_and_roles_are_kept() {
    let world = World::new().await;
    let nobody = format!("speckled_{}", "00".repeat(32));
    for token in ["", "nonsense", nobody.as_str()] {
        let refused = status(world.client(token).await.list(&TaskFilter::default(), 1).await.expect_err("refused"));
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
    }
    let mut viewer = world.client(&world.tokens[1].1).await;
    let refused = status(viewer.submit(order("polaris", 1)).await.expect_err("refused"));
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("Submit"), "{refused}");
    let refused = viewer.endpoints().register(register(ids::endpoint(), ids::session())).await.expect_err("refused");
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("Endpoint"), "{refused}");
    let now = world.controller.now();
    assert!(world.controller.revoke_token(world.tokens[1].0, now).await.expect("revoked"));
    let refused = status(viewer.list(&TaskFilter::default(), 1).await.expect_err("refused"));
    assert!(refused.code() == Code::Unauthenticated && refused.message().contains("revoked"), "{refused}");
    world.end().await;
}

#[tokio::test]
async fn malformed_and_oversized_messages_end_the_call_and_nothing_else() {
    let world = World::new().await;
    let mut client = world.ada().await;
    let mut talker = Talker::new(&mut client).await;
    let malformed = wire::Started { attempts: vec![wire::AttemptId { task: "7".into(), number: 1 }] };
    talker.say(1, wire::from_endpoint::Message::Started(malformed)).await;
    let refused = talker.answers.message().await.expect_err("refused");
    assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with("started.attempts"), "{refused}");
    let mut large = order("polaris", 1);
    let directories = vec![std::path::PathBuf::from("/x".repeat(LARGEST_MESSAGE / 2))];
    large.tasks[0].spec = TaskSpec::BatchSetup(crate::task::spec::BatchSetupSpec { directories });
    let refused = status(client.submit(large).await.expect_err("too large"));
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{refused}");
    let many = status(client.submit(order("polaris", 10_001)).await.expect_err("too many"));
    assert!(many.code() == Code::InvalidArgument && many.message().contains("at most 10000"), "{many}");
    client.submit(order("polaris", 1)).await.expect("the controller goes on");
    world.end().await;
}

#[tokio::test]
async fn programs_that_do_not_understand_each_other_say_so() {
    let world = World::new().await;
    let mut client = world.ada().await;
    let versions =
        wire::Versions { oldest: version::NEWEST + 1, newest: version::NEWEST + 2, program: "speckled 9".into() };
    let request = wire::RegisterRequest { versions: Some(versions), ..register(ids::endpoint(), ids::session()) };
    let refused = client.endpoints().register(request).await.expect_err("refused");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("speckled 9"), "{refused}");
    let (send, receive) = tokio::sync::mpsc::channel(1);
    send.send(message(1, credit(1))).await.expect("room");
    let refused = client.endpoints().session(ReceiverStream::new(receive)).await.expect_err("no hello");
    assert_eq!(refused.message(), "a session begins with hello");
    world.end().await;
}

#[tokio::test]
async fn a_second_process_is_told_who_the_endpoint_is() {
    let world = World::new().await;
    let mut client = world.ada().await;
    let talker = Talker::new(&mut client).await;
    let refused = client.endpoints().register(register(talker.endpoint, ids::session())).await.expect_err("held");
    assert!(refused.code() == Code::AlreadyExists && refused.message().contains("login1"), "{refused}");
    world.end().await;
}
