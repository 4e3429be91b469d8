//! Promises about actions, events and artifacts.

use super::*;
use crate::store::{ActionRecord, Artifact, ArtifactInfo, ChangeError, EventId, EventRecord, StoreEvent};
use crate::store::{LARGEST_ARTIFACTS, MOST_ARTIFACTS};
use crate::task::action::{ActionCounts, ActionState};
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::End;
use crate::task::names::Group;

async fn action<S: Store>(store: &S, number: u128) -> ActionRecord {
    store.actions(vec![action_id(number)]).await.expect("reads")[0].clone().expect("is remembered")
}

async fn events<S: Store>(store: &S, after: EventId) -> Vec<EventRecord> {
    store.events(after, 1000).await.expect("reads").iter().map(|event| EventRecord::clone(event)).collect()
}

fn first() -> AttemptNumber {
    AttemptNumber::FIRST
}

pub(in super::super) async fn an_action_counts_its_tasks_and_ends_with_the_last<S: Store>(store: &S) {
    let group: Group = "aps-8id".parse().expect("a group");
    let mut new = submission((1..=4).map(task).collect());
    new.action.label = Some("night 3".parse().expect("a label"));
    new.action.on_dataset_failure = OnDatasetFailure::Fail;
    new.action.group = Some(group);
    let as_submitted = new.action.clone();
    store.claim(endpoint(1), session(1, 1_000_000), Vec::new(), at(1)).await.expect("claims");
    store.submit(new).await.expect("submits");
    let open = ActionCounts { open: 4, ..ActionCounts::default() };
    assert_eq!(action(store, 1).await, ActionRecord { action: as_submitted, counts: open, ended: None });
    store.lease(request(3)).await.expect("leases");
    let failed = || Outcome::Failed(Failure::new(Fault::Input, "no such file"));
    let reports = vec![report(attempt(1, 1), Outcome::Succeeded), report(attempt(2, 1), failed())];
    store.report(holder(1), reports, at(20)).await.expect("reports");
    store.report(holder(1), vec![report(attempt(2, 1), failed())], at(21)).await.expect("reports, again");
    store.cancel(vec![task_id(4)], at(22)).await.expect("cancels");
    let counts = ActionCounts { open: 1, succeeded: 1, failed: 1, cancelled: 1 };
    let found = action(store, 1).await;
    assert_eq!((found.counts, found.ended, found.state()), (counts, None, ActionState::Active));
    store.report(holder(1), vec![report(attempt(3, 1), Outcome::Succeeded)], at(30)).await.expect("reports");
    let found = action(store, 1).await;
    assert_eq!((found.ended, found.state()), (Some(at(30)), ActionState::Failed), "as it asked for");
    // a task that is added opens it again
    submit(store, vec![task(5)]).await;
    let found = action(store, 1).await;
    assert_eq!((found.counts.open, found.counts.all(), found.ended), (1, 5, None));
    store.cancel(vec![task_id(5)], at(40)).await.expect("cancels");
    assert_eq!(action(store, 1).await.ended, Some(at(40)));
    let of_action =
        |event: &EventRecord| (event.event == StoreEvent::ActionEnded).then_some((event.time, event.action));
    let ends: Vec<_> = events(store, EventId::START).await.iter().filter_map(of_action).collect();
    assert_eq!(ends, [(at(30), Some(action_id(1))), (at(40), Some(action_id(1)))]);
}

pub(in super::super) async fn a_foreign_action_takes_no_task<S: Store>(store: &S) {
    submit(store, vec![task(1)]).await;
    let of_bob = NewTask { owner: "bob".parse().expect("a subject"), ..task(2) };
    let new = submission(vec![of_bob]);
    assert_eq!(store.submit(new.clone()).await.expect("answers"), Submitted::ForeignAction);
    assert_eq!(store.get(vec![task_id(2)]).await.expect("reads"), [None]);
    let by_operator = NewSubmission { adds_to: AddsTo::Any, ..new };
    assert_eq!(store.submit(by_operator).await.expect("submits"), Submitted::New);
    let found = action(store, 1).await;
    assert_eq!((found.action.owner.as_str(), found.counts.open), ("ann", 2), "it stays its owner's");
}

pub(in super::super) async fn what_happens_is_told_in_its_order<S: Store>(store: &S) {
    let start = store.newest_event().await.expect("reads");
    leased(store, vec![task(1), task(2)], 2).await;
    let newest = store.newest_event().await.expect("reads");
    store.start(holder(1), vec![attempt(1, 1), attempt(1, 1)], at(12)).await.expect("starts");
    store.renew(holder(1), vec![attempt(1, 1)], at(200)).await.expect("renews");
    store.cancel(vec![task_id(2), task_id(2)], at(13)).await.expect("cancels");
    let lost = report(attempt(1, 1), Outcome::Lost(Loss::Walltime));
    store.report(holder(1), vec![lost], at(14)).await.expect("reports");
    store.report(holder(1), vec![report(attempt(2, 1), Outcome::Cancelled)], at(15)).await.expect("reports");
    store.report(holder(1), vec![report(attempt(2, 1), Outcome::Succeeded)], at(16)).await.expect("answers");
    let told = |events: &[EventRecord]| -> Vec<(u64, u128, StoreEvent)> {
        let of = |event: &EventRecord| Some((event.time.millis(), event.task?.uuid().as_u128(), event.event.clone()));
        events.iter().filter_map(of).collect()
    };
    let all = events(store, start).await;
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].time <= pair[1].time), "{all:?}");
    let before = [
        (1, 1, StoreEvent::Submitted),
        (1, 2, StoreEvent::Submitted),
        (10, 1, StoreEvent::Leased { attempt: first() }),
        (10, 2, StoreEvent::Leased { attempt: first() }),
    ];
    let after = [
        (12, 1, StoreEvent::Started { attempt: first() }),
        (13, 2, StoreEvent::CancelAsked),
        (14, 1, StoreEvent::Lost { attempt: first(), loss: Loss::Walltime }),
        (15, 2, StoreEvent::Ended { end: End::Cancelled }),
    ];
    assert_eq!(told(&all), [before.as_slice(), after.as_slice()].concat());
    let later = events(store, newest).await;
    assert_eq!(told(&later), after, "from a place on");
    let two = store.events(newest, 2).await.expect("reads");
    assert_eq!(two.iter().map(|event| event.id).collect::<Vec<_>>(), [later[0].id, later[1].id], "no more than asked");
    assert_eq!(events(store, all[all.len() - 1].id).await, []);
    let of_first = store.timeline(task_id(1), 3).await.expect("reads");
    assert_eq!(told(&of_first), [&before[2], &after[0], &after[2]].map(Clone::clone), "the newest");
    let of_second = store.timeline(task_id(2), 9).await.expect("reads");
    assert_eq!(told(&of_second), [&before[1], &before[3], &after[1], &after[3]].map(Clone::clone));
    let event = &of_first[0];
    let about = (event.action, event.endpoint, event.owner.as_str(), event.group.clone());
    assert_eq!(about, (Some(action_id(1)), Some(endpoint_id(1)), "ann", None));
}

pub(in super::super) async fn endpoints_that_come_and_go_are_told<S: Store>(store: &S) {
    store.claim(endpoint(1), session(1, 1_000), Vec::new(), at(1)).await.expect("claims");
    let start = store.newest_event().await.expect("reads");
    store.connect(endpoint_id(1), session_id(1), at(2)).await.expect("opens");
    store.connect(endpoint_id(1), session_id(9), at(3)).await.expect("answers");
    store.release(endpoint_id(1), session_id(9), at(4)).await.expect("answers");
    store.release(endpoint_id(1), session_id(1), at(5)).await.expect("releases");
    let told: Vec<_> =
        events(store, start).await.into_iter().map(|event| (event.time, event.endpoint, event.event)).collect();
    let connected = StoreEvent::EndpointConnected { host: "login1".to_owned() };
    let id = Some(endpoint_id(1));
    assert_eq!(told, [(at(2), id, connected), (at(5), id, StoreEvent::EndpointReleased)]);
}

pub(in super::super) async fn what_is_old_is_forgotten_and_its_place_is_not_given_again<S: Store>(store: &S) {
    let requested = |request: &str, number| {
        let request = Some(request.parse().expect("a request id"));
        NewSubmission { request, ..submission(vec![NewTask { action: action_id(number), ..task(number) }]) }
    };
    store.claim(endpoint(1), session(1, 1_000_000), Vec::new(), at(1)).await.expect("claims");
    store.submit(requested("a", 1)).await.expect("submits");
    store.submit(requested("b", 2)).await.expect("submits");
    store.cancel(vec![task_id(1)], at(20)).await.expect("cancels");
    let newest = store.newest_event().await.expect("reads");
    let forgotten = store.forget(at(21), 100).await.expect("forgets");
    assert_eq!((forgotten.tasks, forgotten.actions, forgotten.requests), (1, 1, 1));
    let left: Vec<EventId> = store.events(EventId::START, 100).await.expect("reads").iter().map(|e| e.id).collect();
    assert_eq!(left, [newest], "the newest stays");
    assert_eq!(store.actions(vec![action_id(1)]).await.expect("reads"), [None]);
    assert_eq!(action(store, 2).await.counts.open, 1, "what has not ended stays");
    submit(store, vec![NewTask { submitted: at(30), ..task(3) }]).await;
    assert!(events(store, newest).await.len() == 1, "whoever had read all so far reads what comes");
    assert_eq!(store.submit(requested("a", 4)).await.expect("submits"), Submitted::New, "the request id is free");
    let known = Submitted::Known { action: action_id(2), tasks: vec![task_id(2)] };
    assert_eq!(store.submit(requested("b", 5)).await.expect("submits"), known, "that of a task which is there is not");
}

fn artifact(name: &str, content: &[u8]) -> Artifact {
    let (name, media_type) = (name.parse().expect("a name"), "image/png".parse().expect("a type"));
    let bytes = u64::try_from(content.len()).expect("small");
    Artifact { info: ArtifactInfo { name, media_type, sha256: [7; 32], bytes }, content: content.to_vec() }
}

pub(in super::super) async fn artifacts_come_with_a_report_and_go_with_their_task<S: Store>(store: &S) {
    leased(store, vec![task(1), task(2)], 2).await;
    let with = |number, artifacts| Report { artifacts, ..report(attempt(number, 1), Outcome::Succeeded) };
    let two = vec![artifact("b.png", b"two"), artifact("a.png", b"one")];
    store.report(holder(1), vec![with(1, two.clone())], at(20)).await.expect("reports");
    store.report(holder(1), vec![with(1, vec![artifact("c.png", b"late")])], at(21)).await.expect("answers");
    let info = |artifact: &Artifact| artifact.info.clone();
    assert_eq!(store.artifacts(task_id(1)).await.expect("lists"), [info(&two[1]), info(&two[0])], "by name");
    let name = || "a.png".parse().expect("a name");
    assert_eq!(store.artifact(task_id(1), name()).await.expect("reads"), Some(two[1].clone()));
    assert_eq!(store.artifact(task_id(2), name()).await.expect("reads"), None);
    let many = (0..=MOST_ARTIFACTS).map(|number| artifact(&format!("{number}.png"), b"")).collect();
    let large = vec![artifact("a.png", &vec![0; LARGEST_ARTIFACTS]), artifact("b.png", b"1")];
    for (artifacts, number, bytes) in [(many, MOST_ARTIFACTS + 1, 0), (large, 2, LARGEST_ARTIFACTS + 1)] {
        let (answers, _) = store.report(holder(1), vec![with(2, artifacts)], at(22)).await.expect("answers");
        assert_eq!(answers, [Err(ChangeError::LargeArtifacts { number, bytes })]);
    }
    assert_eq!(store.artifacts(task_id(2)).await.expect("lists"), []);
    store.forget(at(21), 9).await.expect("forgets");
    assert_eq!(store.artifacts(task_id(1)).await.expect("lists"), []);
}
