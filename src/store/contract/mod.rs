//! What every store must do, whatever is behind it: one function a promise, given a store that is empty. A backend
//! runs all of them by [`contract`]; what only it promises, it tests itself.

mod model;
mod outbox;
mod people;
mod records;
mod work;

pub(super) use model::{agrees_with_the_model, steps};
pub(super) use outbox::*;
pub(super) use people::*;
pub(super) use records::*;
pub(super) use work::*;

use uuid::Uuid;

use super::{
    AddsTo, EndpointRecord, EndpointSession, Holder, LeaseRequest, Leased, NewAction, NewSubmission, NewTask, Report,
    Store, Submitted, TaskResult,
};
use crate::ids::{ActionId, AttemptId, AttemptNumber, EndpointId, Epoch, SessionId, TaskId};
use crate::task::action::OnDatasetFailure;
use crate::task::life::{Limits, Outcome};
use crate::task::pool::{Lane, Pool, PoolKey};
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

/// Makes a test of each promise; `$fresh` is an async function that runs a promise on a new store.
macro_rules! contract {
    ($fresh:ident: $($promise:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (store, _kept) = $fresh().await;
            $crate::store::contract::$promise(&store).await;
        })+
    };
}
pub(super) use contract;

/// Tasks that ask for nothing and run in slots.
pub(super) const SLOTS: Lane = Lane::Pool(PoolKey::DEFAULT);

pub(super) fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

pub(super) fn task_id(number: u128) -> TaskId {
    TaskId::new(Uuid::from_u128(number))
}

pub(super) fn endpoint_id(number: u128) -> EndpointId {
    EndpointId::new(Uuid::from_u128(number))
}

pub(super) fn session_id(number: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(number))
}

/// A task for endpoint 1, of action 1, of ann.
pub(super) fn task(number: u128) -> NewTask {
    NewTask {
        id: task_id(number),
        action: action_id(1),
        endpoint: endpoint_id(1),
        pool: Pool::default(),
        owner: "ann".parse().expect("a subject"),
        group: None,
        label: None,
        spec: TaskSpec::Nothing,
        priority: 0,
        deadline: None,
        limits: Limits::default(),
        submitted: at(1),
    }
}

pub(super) fn action_id(number: u128) -> ActionId {
    ActionId::new(Uuid::from_u128(number))
}

/// Tasks of one action and owner, which are the first's.
pub(super) fn submission(tasks: Vec<NewTask>) -> NewSubmission {
    let NewTask { action, owner, group, submitted, .. } = tasks[0].clone();
    let on_dataset_failure = OnDatasetFailure::Succeed;
    let action = NewAction { id: action, owner, group, label: None, on_dataset_failure, submitted };
    NewSubmission { request: None, action, adds_to: AddsTo::Own, tasks }
}

/// Submits tasks, those of an action and an owner together.
pub(super) async fn submit<S: Store>(store: &S, tasks: Vec<NewTask>) {
    for together in tasks.chunk_by(|one, other| one.action == other.action && one.owner == other.owner) {
        let new = NewSubmission { adds_to: AddsTo::Any, ..submission(together.to_vec()) };
        assert_eq!(store.submit(new).await.expect("submits"), Submitted::New);
    }
}

pub(super) fn attempt(task: u128, number: u32) -> AttemptId {
    AttemptId { task: task_id(task), number: AttemptNumber::new(number).expect("from 1") }
}

pub(super) fn report(attempt: AttemptId, outcome: Outcome) -> Report {
    Report { attempt, outcome, result: TaskResult::default(), artifacts: Vec::new() }
}

pub(super) fn session(number: u128, until: u64) -> EndpointSession {
    EndpointSession { id: session_id(number), host: format!("login{number}"), until: at(until) }
}

pub(super) fn endpoint(number: u128) -> EndpointRecord {
    EndpointRecord {
        id: endpoint_id(number),
        name: format!("polaris{number}").parse().expect("a name"),
        owner: "ops".parse().expect("a subject"),
        group: Some("aps-8id".parse().expect("a group")),
        registered: at(1),
        session: None,
        status: "{}".to_owned(),
        seen: at(1),
    }
}

/// The first connection of an endpoint: that of its first claim.
pub(super) fn holder(number: u128) -> Holder {
    Holder { endpoint: endpoint_id(number), epoch: Epoch::new(1) }
}

/// A lease for the first connection of endpoint 1 at moment 10, until 100.
pub(super) fn request(most: u32) -> LeaseRequest {
    LeaseRequest { holder: holder(1), lanes: vec![(SLOTS, most)], until: at(100), now: at(10) }
}

/// Claims endpoint 1 for session 1, submits the tasks, and leases `most` of them.
pub(super) async fn leased<S: Store>(store: &S, tasks: Vec<NewTask>, most: u32) -> Vec<Leased> {
    store.claim(endpoint(1), session(1, 1_000_000), Vec::new(), at(1)).await.expect("claims");
    submit(store, tasks).await;
    store.lease(request(most)).await.expect("leases")
}

/// The numbers of leased tasks, in their order.
pub(super) fn numbers(leased: &[Leased]) -> Vec<u128> {
    leased.iter().map(|leased| leased.attempt.task.uuid().as_u128()).collect()
}
