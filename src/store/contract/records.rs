//! Promises about what is remembered of tasks, and for how long.

use std::collections::BTreeMap;

use super::*;
use crate::store::{Page, StateName, TaskFilter, TaskRecord};
use crate::task::correlate::CorrelateSpec;
use crate::task::life::Life;

const ALL: Page = Page { before: None, most: 1000 };

async fn listed<S: Store>(store: &S, filter: TaskFilter, page: Page) -> Vec<u128> {
    let counted: u64 = store.count(filter.clone()).await.expect("counts").values().sum();
    let all = store.list(TaskFilter::default(), page).await.expect("lists");
    let let_through: Vec<TaskRecord> = all.into_iter().filter(|record| filter.lets_through(record)).collect();
    let records = store.list(filter, page).await.expect("lists");
    assert!(page != ALL || records == let_through, "a store lists what its filter lets through");
    if page == ALL {
        assert_eq!(u64::try_from(records.len()), Ok(counted), "a list and its count");
    }
    records.iter().map(|record| record.task.id.uuid().as_u128()).collect()
}

/// A task in which nothing is left out.
fn complete() -> NewTask {
    let spec: CorrelateSpec =
        serde_json::from_str(r#"{"raw": "/data/a.bin", "qmap": "/data/q.hdf", "output": "/out"}"#).expect("a spec");
    NewTask {
        pool: r#"{"queue":"demand","nodes":[1,{"a":"é"}]}"#.parse().expect("a pool"),
        group: Some("aps-8id".parse().expect("a group")),
        label: Some("größer, \"7\"".parse().expect("a label")),
        spec: TaskSpec::Correlate(Box::new(spec)),
        priority: i32::MIN,
        deadline: Some(at(1 << 50)),
        limits: Limits { retries: u32::MAX, crashes: 0 },
        submitted: at(77),
        ..task(u128::MAX)
    }
}

pub(in super::super) async fn a_task_is_remembered_as_it_was_submitted<S: Store>(store: &S) {
    submit(store, vec![task(1), complete()]).await;
    let found = store.get(vec![complete().id, task_id(9), task_id(1), task_id(1)]).await.expect("reads");
    let record = |task: NewTask| {
        let changed = task.submitted;
        Some(TaskRecord { task, life: Life::new(at(0)), changed, result: None })
    };
    assert_eq!(found, [record(complete()), None, record(task(1)), record(task(1))]);
}

pub(in super::super) async fn lists_are_filtered_and_newest_first<S: Store>(store: &S) {
    let other_action = NewTask { action: action_id(2), ..task(2) };
    let elsewhere = NewTask { endpoint: endpoint_id(2), ..task(3) };
    let of_bob = NewTask { owner: "bob".parse().expect("a subject"), ..task(4) };
    let shared = NewTask { group: Some("aps-8id".parse().expect("a group")), ..of_bob.clone() };
    let shared = NewTask { id: task_id(5), ..shared };
    leased(store, vec![task(1), other_action, elsewhere, of_bob, shared], 1).await;

    let all = TaskFilter::default();
    assert_eq!(listed(store, all.clone(), ALL).await, [5, 4, 3, 2, 1]);
    let of_action = TaskFilter { action: Some(action_id(2)), ..all.clone() };
    assert_eq!(listed(store, of_action, ALL).await, [2]);
    let there = TaskFilter { endpoint: Some(endpoint_id(2)), ..all.clone() };
    assert_eq!(listed(store, there, ALL).await, [3]);
    let of_ann = TaskFilter { owners: vec!["ann".parse().expect("a subject")], ..all.clone() };
    assert_eq!(listed(store, of_ann.clone(), ALL).await, [3, 2, 1]);
    let of_ann_or_group = TaskFilter { groups: vec!["aps-8id".parse().expect("a group")], ..of_ann.clone() };
    assert_eq!(listed(store, of_ann_or_group, ALL).await, [5, 3, 2, 1]);
    let held = TaskFilter { states: vec![StateName::Leased, StateName::Running], ..all.clone() };
    assert_eq!(listed(store, held, ALL).await, [1]);
    let queued_of_ann = TaskFilter { states: vec![StateName::Queued], ..of_ann };
    assert_eq!(listed(store, queued_of_ann, ALL).await, [3, 2]);
    let counts = BTreeMap::from([(StateName::Queued, 4), (StateName::Leased, 1)]);
    assert_eq!(store.count(all).await.expect("counts"), counts);
}

pub(in super::super) async fn lists_come_in_pages<S: Store>(store: &S) {
    submit(store, (1..=5).map(task).collect()).await;
    let page = |before: Option<u128>| Page { before: before.map(task_id), most: 2 };
    let all = TaskFilter::default;
    assert_eq!(listed(store, all(), page(None)).await, [5, 4]);
    assert_eq!(listed(store, all(), page(Some(4))).await, [3, 2]);
    assert_eq!(listed(store, all(), page(Some(2))).await, [1]);
    assert!(listed(store, all(), page(Some(1))).await.is_empty());
}

pub(in super::super) async fn tasks_are_forgotten_when_they_ended_long_ago<S: Store>(store: &S) {
    leased(store, (1..=5).map(task).collect(), 4).await;
    for (number, moment) in [(1, 20), (2, 21), (3, 22)] {
        store
            .report(holder(1), vec![report(attempt(number, 1), Outcome::Succeeded)], at(moment))
            .await
            .expect("reports");
    }
    assert_eq!(store.forget(at(20), 9).await.expect("forgets").tasks, 0);
    assert_eq!(store.forget(at(23), 1).await.expect("forgets").tasks, 1);
    assert_eq!(listed(store, TaskFilter::default(), ALL).await, [5, 4, 3, 2], "the oldest first");
    assert_eq!(store.forget(at(23), 9).await.expect("forgets").tasks, 2);
    assert_eq!(listed(store, TaskFilter::default(), ALL).await, [5, 4], "what has not ended stays");
}
