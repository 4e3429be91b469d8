//! The controller over a real store: flows on one side, an endpoint's session on the other.

use std::sync::Arc;
use std::time::Duration;

use super::access::Caller;
use super::access::testing::caller;
use super::bus::LocalBus;
use super::session::Session;
use super::*;
use crate::ids::{AttemptId, EndpointId, SessionId, TaskId};
use crate::protocol::session::Registration;
use crate::protocol::session::{FromEndpoint, PoolBacklog, Progress, Reported, Stop, StopReason, ToEndpoint};
use crate::runtime::clock::Clock;
use crate::runtime::ids;
use crate::runtime::tasks::Tasks;
use crate::store::{Overdue, Page, Role, SqliteStore, StateName, TaskFilter, open_sqlite};
use crate::task::failure::{Failure, Fault};
use crate::task::life::Outcome;
use crate::task::names::Group;
use crate::task::pool::{Lane, Pool, PoolKey};
use crate::task::result::TaskResult;
use crate::task::spec::{BatchSetupSpec, TaskSpec};

/// A controller, and an endpoint of ada that has registered.
struct World {
    controller: Arc<Controller<SqliteStore>>,
    endpoint: EndpointId,
    session: SessionId,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

const FLOW: [Role; 2] = [Role::Submit, Role::View];

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open_sqlite(&dir.path().join("controller.db"), Clock::start()).await.expect("a store");
        let bus = Arc::new(LocalBus::default());
        let controller = Arc::new(Controller::start(store, bus, Policy::default()).await.expect("starts"));
        let tasks = Tasks::default();
        controller.run(&tasks);
        let world = Self { controller, endpoint: ids::endpoint(), session: ids::session(), tasks, _dir: dir };
        let endpoint = caller(&[Role::Endpoint]);
        world.controller.register(&endpoint, world.registration()).await.expect("registers");
        world
    }

    fn registration(&self) -> Registration {
        let (name, group) = ("polaris".parse().expect("a name"), None);
        Registration {
            endpoint: self.endpoint,
            name,
            group,
            session: self.session,
            host: "login1".into(),
            replaces: Vec::new(),
        }
    }

    /// The groups of the endpoints that are listed, and whether somebody of a group may submit to it.
    async fn shared_with(controller: &Controller<SqliteStore>, group: &str) -> (Vec<Option<Group>>, bool) {
        let member = Caller::of_group("bob", &FLOW, group);
        let listed = controller.endpoints(&caller(&FLOW)).await.expect("may").into_iter();
        let accepted = controller.submit(&member, order("polaris", vec![TaskSpec::Nothing])).await;
        (listed.map(|endpoint| endpoint.group).collect(), accepted.is_ok())
    }

    async fn open(&self) -> Session<SqliteStore> {
        self.open_with_records().await.0
    }

    async fn open_with_records(&self) -> (Session<SqliteStore>, Acks<SqliteStore>) {
        let caller = caller(&[Role::Endpoint]);
        let host = "login1".to_owned();
        Session::open(Arc::clone(&self.controller), &caller, self.endpoint, self.session, host).await.expect("opens")
    }

    async fn submit(&self, specs: Vec<TaskSpec>) -> Receipt {
        self.controller.submit(&caller(&FLOW), order("polaris", specs)).await.expect("accepted")
    }

    async fn state(&self, task: TaskId) -> StateName {
        let shown = self.controller.get(&caller(&FLOW), vec![task]).await.expect("known");
        StateName::of(&shown[0].record.life)
    }
}

fn order(endpoint: &str, specs: Vec<TaskSpec>) -> Submission {
    let tasks = specs.into_iter().map(SubmissionTask::new).collect();
    Submission::new(endpoint.into(), tasks)
}

const SLOTS: Lane = Lane::Pool(PoolKey::DEFAULT);

fn slots(slots: u64) -> FromEndpoint {
    FromEndpoint::Credit([(SLOTS, slots)].into())
}

/// The attempts of the leases among some answers.
fn leased(answers: &[ToEndpoint]) -> Vec<AttemptId> {
    let tasks = answers.iter().filter_map(|answer| match answer {
        ToEndpoint::Leases(leases) => Some(leases),
        ToEndpoint::Renewed { .. }
        | ToEndpoint::Recorded { .. }
        | ToEndpoint::Stop(_)
        | ToEndpoint::Backlog(_)
        | ToEndpoint::Replaced { .. } => None,
    });
    tasks.flatten().map(|lease| lease.attempt).collect()
}

fn report(attempt: AttemptId, outcome: Outcome) -> FromEndpoint {
    FromEndpoint::Reports(vec![Reported { attempt, outcome, result: TaskResult::default() }])
}

#[tokio::test]
async fn a_task_goes_to_the_endpoint_and_its_result_comes_back() {
    let world = World::new().await;
    let (mut session, mut records) = world.open_with_records().await;
    assert_eq!(session.on_message(1, slots(2)).await.expect("heard"), []);
    let receipt = world.submit(vec![TaskSpec::Nothing; 3]).await;
    session.nudged().await;
    let attempts = leased(&session.pending().await.expect("told"));
    assert_eq!(attempts.len(), 2, "as many as there was credit for");
    assert_eq!(world.state(receipt.tasks[0].0).await, StateName::Leased);
    session.on_message(2, FromEndpoint::Started(attempts.clone())).await.expect("heard");
    assert_eq!(world.state(receipt.tasks[0].0).await, StateName::Running);
    let progress = Progress { attempt: attempts[0], step: "correlating".into(), done: 3, total: 9 };
    session.on_message(3, FromEndpoint::Progress(progress.clone())).await.expect("heard");
    let shown = world.controller.get(&caller(&FLOW), vec![attempts[0].task]).await.expect("known");
    assert_eq!(shown[0].progress, Some(progress));
    let answers = session.on_message(4, report(attempts[0], Outcome::Succeeded)).await.expect("heard");
    assert_eq!(answers, [], "it is seen, and may not be on disk");
    assert_eq!(world.state(attempts[0].task).await, StateName::Succeeded);
    let recorded = |number| [ToEndpoint::Recorded { number, attempts: vec![attempts[0]] }];
    assert_eq!(records.next().await.expect("is on disk"), recorded(4));
    // said again, since the answer was lost on the way: it changes nothing
    session.on_message(5, report(attempts[0], Outcome::Cancelled)).await.expect("heard");
    assert_eq!(records.next().await.expect("is on disk"), recorded(5));
    assert_eq!(world.state(attempts[0].task).await, StateName::Succeeded);
    assert_eq!(leased(&session.on_message(6, slots(5)).await.expect("heard")).len(), 1, "the third");
}

#[tokio::test]
async fn all_of_a_large_credit_is_used_at_once() {
    let world = World::new().await;
    let mut session = world.open().await;
    world.submit(vec![TaskSpec::Nothing; 600]).await;
    let told = session.on_message(1, slots(700)).await.expect("heard");
    assert_eq!(leased(&told).len(), 600, "nobody nudges for the rest");
}

#[tokio::test]
async fn a_credit_that_is_lowered_counts_at_once_and_what_was_leased_stays() {
    let world = World::new().await;
    let mut session = world.open().await;
    assert_eq!(session.on_message(1, slots(5)).await.expect("heard"), []);
    assert_eq!(session.on_message(2, slots(2)).await.expect("heard"), []);
    let tasks = world.submit(vec![TaskSpec::Nothing; 5]).await.tasks;
    session.nudged().await;
    assert_eq!(leased(&session.pending().await.expect("told")).len(), 2, "by the credit that came last");
    // lower than what is leased already
    assert_eq!(session.on_message(3, slots(1)).await.expect("heard"), []);
    assert_eq!(session.on_message(4, slots(2)).await.expect("heard"), []);
    assert_eq!(
        leased(&session.on_message(5, slots(3)).await.expect("heard")).len(),
        1,
        "the leases before are counted"
    );
    for (task, state) in std::iter::zip(&tasks, [StateName::Leased; 3].into_iter().chain([StateName::Queued; 2])) {
        assert_eq!(world.state(task.0).await, state, "no attempt ends by it");
    }
}

#[tokio::test]
async fn places_have_credit_of_their_own() {
    let world = World::new().await;
    let mut session = world.open().await;
    world.submit(vec![TaskSpec::BatchSetup(BatchSetupSpec { directories: Vec::new() }), TaskSpec::Nothing]).await;
    assert_eq!(leased(&session.on_message(1, slots(9)).await.expect("heard")).len(), 1);
    let login = FromEndpoint::Credit([(SLOTS, 9), (Lane::Login, 1)].into());
    assert_eq!(leased(&session.on_message(2, login).await.expect("heard")).len(), 1);
}

#[tokio::test]
async fn an_endpoint_hears_what_waits_beyond_its_credit() {
    let world = World::new().await;
    let mut session = world.open().await;
    let pool: Pool = r#"{"queue":"demand"}"#.parse().expect("a pool");
    let order =
        |pool: &Pool, tasks| Submission { pool: pool.clone(), ..order("polaris", vec![TaskSpec::Nothing; tasks]) };
    world.controller.submit(&caller(&FLOW), order(&pool, 3)).await.expect("accepted");
    session.nudged().await;
    let backlog = |pools: &[(&Pool, u64)]| {
        let pools = pools.iter().map(|(pool, tasks)| PoolBacklog { pool: (*pool).clone(), tasks: *tasks });
        ToEndpoint::Backlog(pools.collect())
    };
    assert_eq!(session.pending().await.expect("told"), [backlog(&[(&pool, 3)])], "at once: no worker could ask");
    world.controller.submit(&caller(&FLOW), order(&Pool::default(), 2)).await.expect("accepted");
    session.nudged().await;
    assert_eq!(session.pending().await.expect("told"), [], "not more than once a second");
    session.nudged().await;
    let told = session.pending().await.expect("told");
    assert_eq!(told, [backlog(&[(&pool, 3), (&Pool::default(), 2)])]);
    let credit = FromEndpoint::Credit([(Lane::Pool(pool.key()), 9), (SLOTS, 1)].into());
    let leased = leased(&session.on_message(1, credit).await.expect("heard"));
    assert_eq!(leased.len(), 4);
    let beat = FromEndpoint::Heartbeat { status: "{}".into(), attempts: leased };
    let answers = session.on_message(2, beat).await.expect("heard");
    session.nudged().await;
    let later = session.pending().await.expect("told");
    assert!(answers.contains(&backlog(&[(&Pool::default(), 1)])) || later == [backlog(&[(&Pool::default(), 1)])]);
}

#[tokio::test]
async fn two_controllers_of_one_store_tell_each_other() {
    let world = World::new().await;
    let bus = Arc::new(LocalBus::default());
    let store = async || open_sqlite(&world._dir.path().join("controller.db"), Clock::start()).await.expect("a store");
    let start =
        async || Arc::new(Controller::start(store().await, bus.clone(), Policy::default()).await.expect("starts"));
    let (one, other) = (start().await, start().await);
    one.run(&world.tasks);
    other.run(&world.tasks);
    let ada = caller(&[Role::Endpoint]);
    let open = Session::open(Arc::clone(&one), &ada, world.endpoint, world.session, "login1".to_owned());
    let (mut session, _acks) = open.await.expect("opens");
    assert_eq!(session.on_message(1, slots(1)).await.expect("heard"), []);
    let mut watcher = one.watch(&caller(&FLOW), TaskFilter::default()).expect("may");
    let receipt = other.submit(&caller(&FLOW), order("polaris", vec![TaskSpec::Nothing])).await.expect("accepted");
    assert_eq!(watcher.next(&one).await.expect("shown")[0].record.task.id, receipt.tasks[0].0);
    session.nudged().await;
    let attempt = leased(&session.pending().await.expect("told"))[0];
    other.cancel(&caller(&FLOW), vec![attempt.task]).await.expect("may");
    session.nudged().await;
    let stop = ToEndpoint::Stop(vec![Stop { attempt, reason: StopReason::Cancelled }]);
    assert!(session.pending().await.expect("told").contains(&stop));
}

#[tokio::test]
async fn a_task_has_a_story_for_those_who_may_know_it() {
    let world = World::new().await;
    let mut session = world.open().await;
    let receipt = world.submit(vec![TaskSpec::Nothing]).await;
    let attempt = leased(&session.on_message(1, slots(1)).await.expect("heard"))[0];
    session.on_message(2, report(attempt, Outcome::Succeeded)).await.expect("heard");
    let told = world.controller.timeline(&caller(&FLOW), attempt.task).await.expect("may");
    let states: Vec<_> = told.iter().filter_map(|event| event.event.state()).collect();
    assert_eq!(states, [StateName::Queued, StateName::Leased, StateName::Succeeded]);
    let action = world.controller.actions(&caller(&FLOW), vec![receipt.action]).await.expect("may");
    assert_eq!((action[0].counts.succeeded, action[0].ended), (1, Some(told[2].time)));
    let bob = Caller::testing("bob", &FLOW);
    assert_eq!(world.controller.timeline(&bob, attempt.task).await.expect("may"), []);
    assert_eq!(world.controller.actions(&bob, vec![receipt.action]).await.expect("may"), []);
}

#[tokio::test]
async fn a_cancelled_task_is_stopped_where_it_runs() {
    let world = World::new().await;
    let mut session = world.open().await;
    let receipt = world.submit(vec![TaskSpec::Nothing; 2]).await;
    let attempt = leased(&session.on_message(1, slots(1)).await.expect("heard"))[0];
    let tasks: Vec<TaskId> = receipt.tasks.iter().map(|(id, _)| *id).collect();
    let foreign = Caller::testing("bob", &FLOW);
    assert_eq!(world.controller.cancel(&foreign, tasks.clone()).await.expect("nothing to see"), []);
    let viewer = caller(&[Role::View]);
    assert!(matches!(world.controller.cancel(&viewer, tasks.clone()).await, Err(ControllerError::Denied(_))));
    world.controller.cancel(&caller(&FLOW), tasks.clone()).await.expect("cancelled");
    assert_eq!(world.state(tasks[1]).await, StateName::Cancelled);
    session.nudged().await;
    let told = session.pending().await.expect("told");
    assert_eq!(told, [ToEndpoint::Stop(vec![Stop { attempt, reason: StopReason::Cancelled }])]);
    // the message was lost: the next heartbeat says it again
    let beat = FromEndpoint::Heartbeat { status: "{}".into(), attempts: vec![attempt] };
    let answers = session.on_message(2, beat).await.expect("heard");
    assert!(answers.contains(&told[0]), "{answers:?}");
    session.on_message(3, report(attempt, Outcome::Cancelled)).await.expect("heard");
    assert_eq!(world.state(tasks[0]).await, StateName::Cancelled);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_loses_its_leases_and_a_late_report_is_fenced() {
    let world = World::new().await;
    let mut session = world.open().await;
    let receipt = world.submit(vec![TaskSpec::Nothing]).await;
    let first = leased(&session.on_message(1, slots(1)).await.expect("heard"))[0];
    // the database answers from threads of its own, so the clock is paused for the moment of the jump only
    tokio::time::pause();
    tokio::time::advance(world.controller.policy.lease + Duration::from_secs(1)).await;
    tokio::time::resume();
    world.controller.expire(Overdue::DeadlinesAndLeases).await.expect("expires");
    assert_eq!(world.state(receipt.tasks[0].0).await, StateName::Queued);
    let beat = FromEndpoint::Heartbeat { status: "{}".into(), attempts: vec![first] };
    let answers = session.on_message(2, beat).await.expect("heard");
    assert!(
        answers.contains(&ToEndpoint::Stop(vec![Stop { attempt: first, reason: StopReason::Fenced }])),
        "{answers:?}"
    );
    let second = leased(&session.on_message(3, slots(2)).await.expect("heard"))[0];
    assert_eq!((second.task, second.number), (first.task, first.number.next()));
    session.on_message(4, report(first, Outcome::Succeeded)).await.expect("heard");
    assert_eq!(world.state(first.task).await, StateName::Leased);
}

/// Leases that ran out while no controller was there get a grace; deadlines do not.
#[tokio::test]
async fn a_deadline_holds_from_the_start_of_the_controller_on() {
    let world = World::new().await;
    let deadline = Duration::from_secs(5);
    let mut order = order("polaris", vec![TaskSpec::Nothing]);
    order.tasks[0].deadline = Some(deadline);
    let task = world.controller.submit(&caller(&FLOW), order).await.expect("accepted").tasks[0].0;
    tokio::time::pause();
    tokio::time::advance(deadline + Duration::from_secs(1)).await;
    tokio::time::resume();
    let ended = async {
        while world.state(task).await != StateName::Failed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
}

#[tokio::test]
async fn a_failure_is_tried_again_after_its_delay() {
    let world = World::new().await;
    let mut session = world.open().await;
    world.submit(vec![TaskSpec::Nothing]).await;
    let first = leased(&session.on_message(1, slots(2)).await.expect("heard"))[0];
    let failed = Outcome::Failed(Failure::new(Fault::Program, "out of memory"));
    session.nudged().await;
    session.on_message(2, report(first, failed)).await.expect("heard");
    assert_eq!(session.pending().await.expect("told"), [], "not yet");
    session.nudged().await;
    assert_eq!(leased(&session.pending().await.expect("told")), [AttemptId { number: first.number.next(), ..first }]);
}

#[tokio::test]
async fn two_processes_are_not_one_endpoint() {
    let world = World::new().await;
    let second = Registration { session: ids::session(), host: "login2".into(), ..world.registration() };
    let ada = caller(&[Role::Endpoint]);
    let error = world.controller.register(&ada, second.clone()).await.expect_err("held").to_string();
    assert!(error.contains("runs on login1 already"), "{error}");
    let open = Session::open(Arc::clone(&world.controller), &ada, world.endpoint, second.session, "login2".into());
    assert!(matches!(open.await, Err(ControllerError::NoSession { .. })));
    world.open().await.close().await.expect("closed");
    world.controller.register(&ada, second).await.expect("free now");
    let beat = FromEndpoint::Heartbeat { status: "{}".into(), attempts: Vec::new() };
    let open = Session::open(Arc::clone(&world.controller), &ada, world.endpoint, world.session, "login1".into());
    assert!(matches!(open.await, Err(ControllerError::NoSession { .. })), "the first has ended: {beat:?}");
}

#[tokio::test]
async fn a_session_that_was_replaced_is_told_so() {
    let world = World::new().await;
    let mut session = world.open().await;
    tokio::time::pause();
    tokio::time::advance(world.controller.policy.lease + Duration::from_secs(1)).await;
    tokio::time::resume();
    let second = Registration { session: ids::session(), host: "login2".into(), ..world.registration() };
    let holder = second.session;
    world.controller.register(&caller(&[Role::Endpoint]), second).await.expect("its lease has ended");
    world.submit(vec![TaskSpec::Nothing]).await;
    assert_eq!(
        session.on_message(1, slots(1)).await.expect("heard"),
        [],
        "no task for a session that is not the newest"
    );
    let beat = FromEndpoint::Heartbeat { status: "{}".into(), attempts: Vec::new() };
    let answers = session.on_message(2, beat).await.expect("heard");
    assert_eq!(answers, [ToEndpoint::Replaced { session: holder, host: "login2".into() }]);
}

#[tokio::test]
async fn orders_are_held_against_role_group_and_endpoint() {
    let world = World::new().await;
    let refused = async |caller: &Caller, order: Submission| {
        world.controller.submit(caller, order).await.expect_err("refused").to_string()
    };
    let nothing = || vec![TaskSpec::Nothing];
    assert!(refused(&caller(&[Role::View]), order("polaris", nothing())).await.contains("has not the role Submit"));
    assert!(refused(&caller(&FLOW), order("theta", nothing())).await.contains("no endpoint theta"));
    assert!(refused(&Caller::testing("bob", &FLOW), order("polaris", nothing())).await.contains("no endpoint polaris"));
    let group = Submission { group: Some("9-id".parse().expect("a group")), ..order("polaris", nothing()) };
    assert!(refused(&caller(&FLOW), group).await.contains("not for the group 9-id"));
    assert!(refused(&caller(&FLOW), order("polaris", Vec::new())).await.contains("no task"));
    assert!(refused(&caller(&FLOW), order("polaris", vec![TaskSpec::Nothing; 10_001])).await.contains("at most 10000"));
}

#[tokio::test]
async fn a_repeated_request_makes_no_second_task() {
    let world = World::new().await;
    let submit = async |spec: TaskSpec| {
        let request = Some("r-1".parse().expect("a request id"));
        let order = Submission { request, ..order("polaris", vec![spec]) };
        world.controller.submit(&caller(&FLOW), order).await
    };
    let first = submit(TaskSpec::Nothing).await.expect("accepted");
    let again = submit(TaskSpec::Nothing).await.expect("known");
    assert_eq!((again.tasks[0].0, again.tasks[0].1), (first.tasks[0].0, Known::Before));
    let other = submit(TaskSpec::BatchSetup(BatchSetupSpec { directories: Vec::new() })).await;
    let refused = other.expect_err("other work").to_string();
    assert!(refused.contains("request id r-1") && refused.contains(&first.action.to_string()), "{refused}");
    assert_eq!(again.action, first.action);
}

#[tokio::test]
async fn watchers_see_what_they_may_and_each_change() {
    let world = World::new().await;
    let mut session = world.open().await;
    let receipt = world.submit(vec![TaskSpec::Nothing]).await;
    let filter = TaskFilter { action: Some(receipt.action), ..TaskFilter::default() };
    let mut watcher = world.controller.watch(&caller(&FLOW), filter.clone()).expect("may");
    let states = async |watcher: &mut Watcher| {
        let shown = watcher.next(&world.controller).await.expect("shown");
        shown.iter().map(|watched| StateName::of(&watched.record.life)).collect::<Vec<_>>()
    };
    assert_eq!(states(&mut watcher).await, [StateName::Queued]);
    let attempt = leased(&session.on_message(1, slots(1)).await.expect("heard"))[0];
    assert_eq!(states(&mut watcher).await, [StateName::Leased]);
    session.on_message(2, report(attempt, Outcome::Succeeded)).await.expect("heard");
    assert_eq!(states(&mut watcher).await, [StateName::Succeeded]);
    let page = Page { before: None, most: 10 };
    let bob = Caller::testing("bob", &FLOW);
    assert_eq!(world.controller.list(&bob, filter.clone(), page).await.expect("may"), []);
    assert_eq!(world.controller.list(&caller(&FLOW), filter.clone(), page).await.expect("may").len(), 1);
    assert_eq!(world.controller.count(&bob, filter).await.expect("may").values().sum::<u64>(), 0);
    assert_eq!(world.controller.endpoints(&bob).await.expect("may"), []);
}

#[tokio::test]
async fn who_waits_for_the_end_hears_of_nothing_else() {
    let world = World::new().await;
    let mut session = world.open().await;
    let filter = TaskFilter { states: StateName::ENDS.into(), ..TaskFilter::default() };
    let mut watcher = world.controller.watch(&caller(&FLOW), filter).expect("may");
    let tasks = world.submit(vec![TaskSpec::Nothing; 2]).await.tasks;
    let attempts = leased(&session.on_message(1, slots(2)).await.expect("heard"));
    {
        let mut next = std::pin::pin!(watcher.next(&world.controller));
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "neither is over: {polled:?}");
        session.on_message(2, report(attempts[0], Outcome::Succeeded)).await.expect("heard");
        let shown = next.await.expect("shown");
        assert_eq!(shown.iter().map(|watched| watched.record.task.id).collect::<Vec<_>>(), [attempts[0].task]);
    }
    world.controller.cancel(&caller(&FLOW), tasks.iter().map(|(id, _)| *id).collect()).await.expect("may");
    session.on_message(3, report(attempts[1], Outcome::Cancelled)).await.expect("heard");
    let shown = watcher.next(&world.controller).await.expect("shown");
    assert!(shown.iter().any(|watched| watched.record.task.id == attempts[1].task), "{shown:?}");
}

#[tokio::test]
async fn a_foreign_endpoint_cannot_be_taken_over() {
    let world = World::new().await;
    let bob = Caller::testing("bob", &[Role::Endpoint]);
    let error = world.controller.register(&bob, world.registration()).await.expect_err("refused").to_string();
    assert!(error.contains("registered by ada"), "{error}");
    let open = Session::open(Arc::clone(&world.controller), &bob, world.endpoint, world.session, "x".into());
    assert!(matches!(open.await, Err(ControllerError::NoSession { .. })));
}

#[tokio::test]
async fn a_changed_group_of_an_endpoint_holds_in_lists_and_after_a_restart() {
    let world = World::new().await;
    let owner = caller(&[Role::Endpoint]);
    let ours: Group = "8-id".parse().expect("a group");
    assert_eq!(World::shared_with(&world.controller, "8-id").await, (vec![None], false));
    for group in [Some(ours.clone()), None, Some(ours)] {
        let registration = Registration { group: group.clone(), ..world.registration() };
        world.controller.register(&owner, registration).await.expect("registers");
        let shared = (vec![group.clone()], group.is_some());
        assert_eq!(World::shared_with(&world.controller, "8-id").await, shared);
        // another process of the controller, and the endpoint is offline
        let path = world._dir.path().join("controller.db");
        let store = open_sqlite(&path, Clock::start()).await.expect("a store");
        let bus = Arc::new(LocalBus::default());
        let restarted = Controller::start(store, bus, Policy::default()).await.expect("starts");
        assert_eq!(World::shared_with(&restarted, "8-id").await, shared);
    }
    // who is not of the group does not speak for it
    let stranger = Caller::testing("ada", &[Role::Endpoint]);
    let opened =
        Session::open(Arc::clone(&world.controller), &stranger, world.endpoint, world.session, "login1".to_owned());
    let refused = opened.await.map(drop).expect_err("refused");
    assert!(matches!(refused, ControllerError::Denied(Denied::Group { .. })), "{refused}");
}
