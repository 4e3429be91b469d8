//! Promises about submitting tasks and about their lives.

use std::time::Duration;

use super::*;
use crate::store::{ChangeError, Claim, Overdue};
use crate::task::estimate::Measure;
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::{End, HoldStage, Life, Phase, Refusal, Wish};
use crate::task::names::Group;
use crate::task::result::LARGEST_DOCUMENT;
use crate::task::spec::{BatchSetupSpec, CommandSpec};

async fn life<S: Store>(store: &S, number: u128) -> Life {
    let found = store.get(vec![task_id(number)]).await.expect("reads");
    found[0].clone().expect("is remembered").life
}

pub(in super::super) async fn a_submission_that_comes_again_makes_no_second_task<S: Store>(store: &S) {
    let requested = |request: &str, tasks: Vec<NewTask>| NewSubmission {
        request: Some(request.parse().expect("a request id")),
        ..submission(tasks)
    };
    let first = store.submit(requested("a", vec![task(2), task(1)])).await.expect("submits");
    assert_eq!(first, Submitted::New);
    // all that may be made anew differs
    let group: Group = "aps-8id".parse().expect("a group");
    let later = |number| NewTask {
        action: action_id(9),
        label: Some("again".parse().expect("a label")),
        group: Some(group.clone()),
        priority: 7,
        deadline: Some(at(99)),
        submitted: at(9),
        ..task(number)
    };
    let known = Submitted::Known { action: action_id(1), tasks: vec![task_id(2), task_id(1)] };
    assert_eq!(store.submit(requested("a", vec![later(3), later(4)])).await.expect("answers"), known);
    let setup = TaskSpec::BatchSetup(BatchSetupSpec { directories: Vec::new() });
    for other in [
        vec![task(5)],
        vec![task(5), NewTask { spec: setup, ..task(6) }],
        vec![task(5), NewTask { endpoint: endpoint_id(2), ..task(6) }],
        vec![task(5), NewTask { pool: r#"{"a":1}"#.parse().expect("a pool"), ..task(6) }],
    ] {
        let answer = store.submit(requested("a", other)).await.expect("answers");
        assert_eq!(answer, Submitted::Conflict { action: action_id(1) });
    }
    let found = store.get((3..=6).map(task_id).collect()).await.expect("reads");
    assert!(found.iter().all(Option::is_none), "{found:?}");
    let of_bob = NewTask { owner: "bob".parse().expect("a subject"), action: action_id(2), ..task(7) };
    assert_eq!(store.submit(requested("a", vec![of_bob])).await.expect("submits"), Submitted::New, "another's");
    assert_eq!(store.submit(requested("b", vec![task(8)])).await.expect("submits"), Submitted::New);
}

pub(in super::super) async fn nothing_asked_is_nothing_done<S: Store>(store: &S) {
    assert_eq!(store.get(Vec::new()).await.expect("reads"), []);
    assert_eq!(store.actions(Vec::new()).await.expect("reads"), []);
    assert_eq!(store.cancel(Vec::new(), at(1)).await.expect("cancels"), []);
}

pub(in super::super) async fn a_failed_submission_accepts_none_of_its_tasks<S: Store>(store: &S) {
    submit(store, vec![task(1)]).await;
    let action = action_id(5);
    let new = NewSubmission {
        request: Some("a".parse().expect("a request id")),
        ..submission(vec![NewTask { action, ..task(2) }, task(1)])
    };
    store.submit(new.clone()).await.expect_err("the id is taken");
    assert_eq!(store.get(vec![task_id(2)]).await.expect("reads"), [None]);
    assert_eq!(store.actions(vec![action]).await.expect("reads"), [None]);
    let again = NewSubmission { tasks: vec![NewTask { action, ..task(2) }], ..new };
    assert_eq!(store.submit(again).await.expect("submits"), Submitted::New, "nor is its request id remembered");
}

pub(in super::super) async fn tasks_are_leased_by_priority_then_age<S: Store>(store: &S) {
    let of = |number, priority| NewTask { priority, ..task(number) };
    let tasks = vec![of(1, 0), of(2, 5), of(3, -5), of(4, 5), of(5, 0)];
    assert_eq!(numbers(&leased(store, tasks, 3).await), [2, 4, 1]);
    let rest = store.lease(request(9)).await.expect("leases");
    assert_eq!(numbers(&rest), [5, 3]);
    assert_eq!(store.lease(request(9)).await.expect("leases"), []);
}

pub(in super::super) async fn a_lease_tells_what_is_to_be_done<S: Store>(store: &S) {
    let command = CommandSpec {
        template: "plot".parse().expect("a name"),
        values: [("file".to_owned(), "a\u{0}\"'é\n".to_owned())].into(),
        time_limit: Some(Duration::from_millis(1500)),
    };
    let spec = TaskSpec::Command(command);
    let given = leased(store, vec![NewTask { spec: spec.clone(), deadline: Some(at(50_000)), ..task(1) }], 9).await;
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].attempt, attempt(1, 1));
    assert_eq!((&given[0].spec, given[0].deadline, given[0].crashes), (&spec, Some(at(50_000)), 0));
    let crashed = report(attempt(1, 1), Outcome::Lost(Loss::Crashed));
    store.report(holder(1), vec![crashed], at(11)).await.expect("reports");
    assert_eq!(store.lease(request(9)).await.expect("leases"), [], "it waits after a crash");
    let later = LeaseRequest { now: at(10_000), ..request(9) };
    let again = store.lease(later).await.expect("leases");
    assert_eq!((again[0].attempt, again[0].crashes), (attempt(1, 2), 1));
}

pub(in super::super) async fn a_task_waits_for_its_moment<S: Store>(store: &S) {
    leased(store, vec![task(1)], 9).await;
    let lost = report(attempt(1, 1), Outcome::Lost(Loss::NodeLost));
    store.report(holder(1), vec![lost], at(20)).await.expect("reports");
    let now = |now| LeaseRequest { now: at(now), ..request(9) };
    assert_eq!(store.lease(now(19)).await.expect("leases"), []);
    assert_eq!(numbers(&store.lease(now(20)).await.expect("leases")), [1]);
}

pub(in super::super) async fn a_task_past_its_deadline_is_not_leased<S: Store>(store: &S) {
    let of = |number, deadline| NewTask { deadline: Some(at(deadline)), ..task(number) };
    assert_eq!(numbers(&leased(store, vec![of(1, 10), of(2, 11)], 9).await), [2]);
}

pub(in super::super) async fn only_the_lanes_that_are_asked_for_are_leased<S: Store>(store: &S) {
    let setup = TaskSpec::BatchSetup(BatchSetupSpec { directories: vec!["/data/a".into()] });
    let pool: Pool = r#"{"queue":"demand"}"#.parse().expect("a pool");
    let lane = Lane::Pool(pool.key());
    store.claim(endpoint(1), session(1, 1_000), Vec::new(), at(1)).await.expect("claims");
    let of = |lanes: &[(Lane, u32)]| LeaseRequest { lanes: lanes.to_vec(), ..request(0) };
    assert_eq!(store.lease(of(&[(lane, 9)])).await.expect("leases"), [], "no task was ever of the pool");
    let setups = |number| NewTask { spec: setup.clone(), pool: pool.clone(), ..task(number) };
    let waiting = vec![task(1), setups(2), NewTask { pool: pool.clone(), ..task(3) }, task(4), setups(5), task(6)];
    submit(store, waiting).await;
    let leased = store.lease(of(&[(Lane::Login, 1)])).await.expect("leases");
    assert_eq!((numbers(&leased), leased[0].lane(), leased[0].pool), (vec![2], Lane::Login, pool.key()));
    let leased = store.lease(of(&[(SLOTS, 2), (lane, 2), (Lane::Login, 2)])).await.expect("leases");
    assert_eq!(numbers(&leased), [1, 4, 3, 5]);
    assert_eq!(leased.iter().map(Leased::lane).collect::<Vec<_>>(), [SLOTS, SLOTS, lane, Lane::Login]);
    assert_eq!(numbers(&store.lease(of(&[(lane, 9), (SLOTS, 9)])).await.expect("leases")), [6]);
}

pub(in super::super) async fn what_waits_is_counted_by_pool<S: Store>(store: &S) {
    let pool: Pool = r#"{"queue":"demand"}"#.parse().expect("a pool");
    let setup = TaskSpec::BatchSetup(BatchSetupSpec { directories: Vec::new() });
    let elsewhere = NewTask { endpoint: endpoint_id(2), ..task(5) };
    let tasks = vec![
        task(1),
        task(2),
        NewTask { deadline: Some(at(50)), ..task(3) },
        NewTask { pool: pool.clone(), ..task(4) },
        elsewhere,
        NewTask { spec: setup, ..task(6) },
    ];
    let waits = async |now| {
        let backlog = store.backlog(endpoint_id(1), at(now)).await.expect("counts");
        let mut found: Vec<(Pool, u64)> = backlog.into_iter().map(|pool| (pool.pool, pool.tasks)).collect();
        found.sort_by_key(|(pool, _)| !pool.key().is_default());
        found
    };
    assert_eq!(waits(10).await, []);
    leased(store, tasks, 1).await;
    assert_eq!(
        waits(10).await,
        [(Pool::default(), 2), (pool.clone(), 1)],
        "those that run on login nodes need no block"
    );
    assert_eq!(waits(50).await, [(Pool::default(), 1), (pool.clone(), 1)], "a deadline has passed");
    let crashed = report(attempt(1, 1), Outcome::Lost(Loss::Crashed));
    store.report(holder(1), vec![crashed], at(50)).await.expect("reports");
    assert_eq!(waits(50).await, [(Pool::default(), 1), (pool.clone(), 1)], "it may not begin yet");
    assert_eq!(waits(99_999).await, [(Pool::default(), 2), (pool, 1)]);
}

pub(in super::super) async fn only_the_newest_session_leases<S: Store>(store: &S) {
    submit(store, vec![task(1), task(2)]).await;
    assert_eq!(store.lease(request(1)).await.expect("answers"), [], "nobody claimed the name");
    assert_eq!(store.claim(endpoint(1), session(1, 20), Vec::new(), at(1)).await.expect("claims"), Claim::Granted);
    let until = LeaseRequest { now: at(20), ..request(1) };
    assert_eq!(store.lease(until).await.expect("answers"), [], "the session has run out");
    assert_eq!(store.claim(endpoint(1), session(2, 90), Vec::new(), at(20)).await.expect("claims"), Claim::Granted);
    assert_eq!(store.lease(request(1)).await.expect("answers"), [], "a newer session has the name");
    let elsewhere = LeaseRequest { holder: Holder { endpoint: endpoint_id(2), epoch: Epoch::new(1) }, ..request(9) };
    assert_eq!(store.lease(elsewhere).await.expect("answers"), [], "another endpoint's tasks");
    let newest = LeaseRequest { holder: Holder { epoch: Epoch::new(2), ..holder(1) }, ..request(9) };
    assert_eq!(numbers(&store.lease(newest).await.expect("leases")), [1, 2]);
}

/// Connections of one process, and of another endpoint: only the newest of the endpoint that has an attempt is heard.
pub(in super::super) async fn only_the_newest_connection_speaks<S: Store>(store: &S) {
    leased(store, (1..=3).map(task).collect(), 2).await;
    assert_eq!(
        store.connect(endpoint_id(1), session_id(2), at(11)).await.expect("answers"),
        None,
        "another session holds it"
    );
    assert_eq!(store.connect(endpoint_id(2), session_id(1), at(11)).await.expect("answers"), None, "nobody is it");
    let second = store.connect(endpoint_id(1), session_id(1), at(11)).await.expect("opens").expect("it holds the name");
    assert!(second > holder(1).epoch);
    let (old, new) = (holder(1), Holder { epoch: second, ..holder(1) });
    store.claim(endpoint(2), session(7, 1_000_000), Vec::new(), at(1)).await.expect("claims");
    let foreign = holder(2);
    let attempts = vec![attempt(1, 1), attempt(2, 1)];
    let before = store.get(vec![task_id(1), task_id(2), task_id(3)]).await.expect("reads");
    let succeeded = || attempts.iter().map(|id| report(*id, Outcome::Succeeded)).collect::<Vec<_>>();
    for (by, refusal) in [(old, ChangeError::OldEpoch), (foreign, ChangeError::Refused(Refusal::Foreign))] {
        let refused = vec![Err(refusal); 2];
        assert_eq!(store.start(by, attempts.clone(), at(12)).await.expect("answers"), refused);
        assert_eq!(store.renew(by, attempts.clone(), at(900)).await.expect("answers"), refused);
        assert_eq!(store.report(by, succeeded(), at(12)).await.expect("answers").0, refused);
    }
    assert_eq!(store.lease(LeaseRequest { holder: old, ..request(9) }).await.expect("answers"), []);
    assert_eq!(store.beat(old, session(1, 2_000_000), String::new(), at(12)).await.expect("answers"), Claim::Open);
    assert_eq!(store.get(vec![task_id(1), task_id(2), task_id(3)]).await.expect("reads"), before, "nothing changed");
    // what was leased to the connection before goes on
    let started = store.start(new, attempts.clone(), at(13)).await.expect("starts");
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    assert_eq!(numbers(&store.lease(LeaseRequest { holder: new, ..request(9) }).await.expect("leases")), [3]);
    assert_eq!(store.beat(new, session(1, 2_000_000), String::new(), at(14)).await.expect("beats"), Claim::Granted);
    let (ended, _) = store.report(new, succeeded(), at(15)).await.expect("reports");
    assert!(ended.iter().all(|life| life.as_ref().is_ok_and(|life| life.end() == Some(&End::Succeeded))), "{ended:?}");
}

pub(in super::super) async fn attempts_start_and_are_renewed<S: Store>(store: &S) {
    leased(store, vec![task(1), task(2)], 1).await;
    let asked = vec![attempt(1, 1), attempt(1, 2), attempt(2, 1), attempt(3, 1)];
    let started = store.start(holder(1), asked.clone(), at(12)).await.expect("starts");
    let fenced = |number, newest| {
        let newest = AttemptNumber::new(newest);
        Err(ChangeError::Refused(Refusal::Fenced { reported: attempt(1, number).number, newest }))
    };
    assert_eq!(started[0].as_ref().expect("starts").hold().map(|hold| hold.stage), Some(HoldStage::Running));
    assert_eq!(started[1..], [fenced(2, 1), fenced(1, 0), Err(ChangeError::Unknown)]);
    let renewed = store.renew(holder(1), asked, at(200)).await.expect("renews");
    assert_eq!(renewed[0].as_ref().expect("renews").hold().map(|hold| hold.until), Some(at(200)));
    assert_eq!(renewed[1..], started[1..]);
    let record = store.get(vec![task_id(1)]).await.expect("reads")[0].clone().expect("is remembered");
    assert_eq!((Ok(record.life), record.changed), (renewed[0].clone(), at(12)), "a renewal is no change to people");
}

pub(in super::super) async fn a_report_ends_its_attempt_and_leaves_its_result<S: Store>(store: &S) {
    leased(store, (1..=3).map(task).collect(), 9).await;
    let result = TaskResult {
        files: vec!["/data/a_results.hdf".into()],
        log: Some(crate::task::result::LogTail { file: "/log/1".into(), lines: "one\ntwo\u{0}".to_owned() }),
        document: Some(r#"{"plots": ["a.png"]}"#.to_owned()),
        gpu_energy_mj: Some(7),
        measure: Some(Measure { bytes: 1 << 40, frames: 9, millis: 77 }),
    };
    let failed = Outcome::Failed(Failure::new(Fault::Input, "no such file"));
    let reports = vec![
        Report { result: result.clone(), ..report(attempt(1, 1), Outcome::Succeeded) },
        report(attempt(2, 1), failed),
        report(attempt(3, 7), Outcome::Succeeded),
        report(attempt(1, 1), Outcome::Succeeded),
    ];
    let (answers, _) = store.report(holder(1), reports, at(30)).await.expect("reports");
    assert_eq!(answers[0].as_ref().expect("applies").end(), Some(&End::Succeeded));
    assert!(matches!(answers[1].as_ref().expect("applies").end(), Some(End::Failed(_))), "{:?}", answers[1]);
    assert!(matches!(answers[2], Err(ChangeError::Refused(Refusal::Fenced { .. }))), "{:?}", answers[2]);
    assert_eq!(answers[3], Err(ChangeError::Refused(Refusal::Ended)), "the same report, again");
    let found = store.get((1..=3).map(task_id).collect()).await.expect("reads");
    let found: Vec<_> = found.into_iter().map(|record| record.expect("is remembered")).collect();
    assert_eq!((found[0].changed, &found[0].result), (at(30), &Some(result)));
    assert_eq!(Ok(&found[1].life), answers[1].as_ref());
    assert_eq!((found[2].changed, &found[2].result), (at(10), &None));
}

pub(in super::super) async fn a_result_that_is_too_large_is_refused<S: Store>(store: &S) {
    leased(store, vec![task(1)], 9).await;
    let with = |bytes: usize| Report {
        result: TaskResult { document: Some("x".repeat(bytes)), ..TaskResult::default() },
        ..report(attempt(1, 1), Outcome::Succeeded)
    };
    let (answers, _) = store.report(holder(1), vec![with(LARGEST_DOCUMENT + 1)], at(30)).await.expect("answers");
    assert_eq!(answers, [Err(ChangeError::LargeResult { bytes: LARGEST_DOCUMENT + 1 })]);
    assert!(life(store, 1).await.hold().is_some(), "the attempt may still report");
    assert!(store.report(holder(1), vec![with(LARGEST_DOCUMENT)], at(31)).await.expect("answers").0[0].is_ok());
}

pub(in super::super) async fn cancelling_ends_queued_tasks_and_asks_held_ones<S: Store>(store: &S) {
    leased(store, vec![task(1), task(2)], 1).await;
    let asked = vec![task_id(1), task_id(2), task_id(3), task_id(2)];
    let answers = store.cancel(asked, at(20)).await.expect("cancels");
    assert_eq!(answers[0].as_ref().expect("asks").hold().map(|hold| hold.wish), Some(Wish::Cancel));
    assert_eq!(answers[1].as_ref().expect("ends").end(), Some(&End::Cancelled));
    assert_eq!(answers[2..], [Err(ChangeError::Unknown), Err(ChangeError::Refused(Refusal::Ended))]);
    let renewed = store.renew(holder(1), vec![attempt(1, 1)], at(200)).await.expect("renews");
    assert_eq!(renewed[0].as_ref().expect("renews").hold().map(|hold| hold.wish), Some(Wish::Cancel));
    store.report(holder(1), vec![report(attempt(1, 1), Outcome::Cancelled)], at(21)).await.expect("reports");
    assert_eq!(life(store, 1).await.end(), Some(&End::Cancelled));
    assert_eq!(store.lease(request(9)).await.expect("leases"), []);
}

pub(in super::super) async fn time_ends_leases_and_deadlines<S: Store>(store: &S) {
    let due = |number| NewTask { deadline: Some(at(50)), ..task(number) };
    leased(store, vec![task(1), due(2), due(3), task(4)], 2).await;
    assert_eq!(store.expire(at(49), Overdue::DeadlinesAndLeases, 9).await.expect("expires"), []);
    let mut changed = store.expire(at(50), Overdue::DeadlinesAndLeases, 9).await.expect("expires");
    changed.sort();
    assert_eq!(changed, [task_id(2), task_id(3)]);
    assert_eq!(life(store, 2).await.hold().map(|hold| hold.wish), Some(Wish::Deadline));
    assert!(matches!(life(store, 3).await.end(), Some(End::Failed(failure)) if failure.fault == Fault::Deadline));
    assert_eq!(
        store.expire(at(99), Overdue::DeadlinesAndLeases, 9).await.expect("expires"),
        [],
        "a deadline is applied once"
    );
    let mut changed = store.expire(at(100), Overdue::DeadlinesAndLeases, 9).await.expect("expires");
    changed.sort();
    assert_eq!(changed, [task_id(1), task_id(2)]);
    assert_eq!(life(store, 1).await.phase, Phase::Queued { not_before: at(100) });
    assert!(matches!(life(store, 2).await.end(), Some(End::Failed(failure)) if failure.fault == Fault::Deadline));
    let (late, _) =
        store.report(holder(1), vec![report(attempt(1, 1), Outcome::Succeeded)], at(101)).await.expect("answers");
    assert!(matches!(late[0], Err(ChangeError::Refused(Refusal::Fenced { .. }))), "{late:?}");
}

pub(in super::super) async fn time_is_applied_to_so_many_tasks_at_once<S: Store>(store: &S) {
    let due = |number| NewTask { deadline: Some(at(50)), ..task(number) };
    leased(store, (1..=6).map(due).collect(), 3).await;
    let mut rounds = Vec::new();
    loop {
        let changed = store.expire(at(100), Overdue::DeadlinesAndLeases, 4).await.expect("expires");
        if changed.is_empty() {
            break;
        }
        rounds.push(changed.len());
    }
    assert_eq!(rounds, [4, 2]);
}

pub(in super::super) async fn reports_come_to_the_disk<S: Store>(store: &S) {
    leased(store, vec![task(1), task(2)], 2).await;
    let (_, first) =
        store.report(holder(1), vec![report(attempt(1, 1), Outcome::Succeeded)], at(20)).await.expect("reports");
    let (_, second) =
        store.report(holder(1), vec![report(attempt(2, 1), Outcome::Succeeded)], at(20)).await.expect("reports");
    assert!(second >= first);
    // nothing else is written that would take them along
    store.on_disk(second).await.expect("waits");
    store.on_disk(first).await.expect("is there already");
}
