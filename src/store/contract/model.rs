//! A store in memory, as plain as it can be: what it answers, every store answers, whatever is asked in whatever
//! order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{ChangeError, Changed, LeaseRequest, Page, StateName, Submitted, TaskFilter, TaskRecord};
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::{Life, LifeEvent, Phase, Refusal};

/// Tasks that a run of steps has to do with.
const TASKS: u128 = 12;

/// One call, and how much time passes before it.
#[derive(Debug, Clone)]
pub(in super::super) struct Step {
    passed: u64,
    call: Call,
}

#[derive(Debug, Clone)]
enum Call {
    Submit { endpoint: u128, priority: i32, request: Option<u8>, deadline: Option<u64>, retries: u32 },
    Lease { endpoint: u128, most: u32, lasts: u64 },
    Start(u128, Vec<AttemptId>),
    Renew(u128, Vec<AttemptId>, u64),
    Report(u128, Vec<(AttemptId, Outcome)>),
    Cancel(Vec<TaskId>),
    Expire,
    Forget(u64),
}

/// Sequences of calls.
pub(in super::super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u64..8, call()).prop_map(|(passed, call)| Step { passed, call }), 1..40)
}

fn call() -> impl Strategy<Value = Call> {
    let some_attempt = || (1..=TASKS, 1u32..4).prop_map(|(task, number)| attempt(task, number));
    let attempts = || prop::collection::vec(some_attempt(), 0..4);
    let submit = (1u128..3, -1i32..2, prop::option::of(0u8..3), prop::option::of(1u64..60), 0u32..2);
    prop_oneof![
        8 => submit.prop_map(|(endpoint, priority, request, deadline, retries)| {
            Call::Submit { endpoint, priority, request, deadline, retries }
        }),
        6 => (1u128..3, 0u32..4, 1u64..30).prop_map(|(endpoint, most, lasts)| Call::Lease { endpoint, most, lasts }),
        2 => (1u128..3, attempts()).prop_map(|(by, attempts)| Call::Start(by, attempts)),
        2 => (1u128..3, attempts(), 0u64..60).prop_map(|(by, attempts, lasts)| Call::Renew(by, attempts, lasts)),
        6 => (1u128..3, prop::collection::vec((some_attempt(), outcome()), 0..5))
            .prop_map(|(by, reports)| Call::Report(by, reports)),
        1 => prop::collection::vec((1..=TASKS).prop_map(task_id), 0..3).prop_map(Call::Cancel),
        3 => Just(Call::Expire),
        1 => (0u64..60).prop_map(Call::Forget),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Succeeded),
        1 => Just(Outcome::Failed(Failure::new(Fault::Input, "no such file"))),
        2 => Just(Outcome::Failed(Failure::new(Fault::Program, "a bug"))),
        1 => Just(Outcome::Lost(Loss::Crashed)),
        2 => Just(Outcome::Lost(Loss::Walltime)),
    ]
}

/// The tasks in memory.
#[derive(Default)]
struct Model {
    tasks: BTreeMap<TaskId, TaskRecord>,
}

impl Model {
    fn submit(&mut self, task: NewTask) -> Submitted {
        let same = |known: &&TaskRecord| task.request.is_some() && known.task.request == task.request;
        if let Some(known) = self.tasks.values().find(same) {
            let again = NewTask { id: known.task.id, submitted: known.task.submitted, ..task };
            let answer = if again == known.task { Submitted::Known } else { Submitted::Conflict };
            return answer(known.task.id);
        }
        let (id, changed) = (task.id, task.submitted);
        self.tasks.insert(id, TaskRecord { task, life: Life::new(Moment::START), changed, result: None });
        Submitted::New(id)
    }

    fn lease(&mut self, request: &LeaseRequest) -> Vec<(AttemptId, Moment)> {
        let &LeaseRequest { holder: Holder { endpoint, .. }, most, until, now, .. } = request;
        let due = |record: &TaskRecord| record.task.deadline.is_none_or(|deadline| deadline > now);
        let waits =
            |record: &TaskRecord| matches!(record.life.phase, Phase::Queued { not_before } if not_before <= now);
        let mut waiting: Vec<_> = self
            .tasks
            .values_mut()
            .filter(|record| record.task.endpoint == endpoint && due(record) && waits(record))
            .collect();
        waiting.sort_by_key(|record| (std::cmp::Reverse(record.task.priority), record.task.id));
        let lease = |record: &mut TaskRecord| {
            record.life =
                record.life.after(&LifeEvent::Lease { endpoint, until, now }, record.task.limits).expect("waits");
            record.changed = now;
            let number = record.life.attempt.expect("was leased");
            (AttemptId { task: record.task.id, number }, until)
        };
        waiting.into_iter().take(usize::try_from(most).expect("small")).map(lease).collect()
    }

    fn apply(&mut self, task: TaskId, event: &LifeEvent, now: Option<Moment>, result: Option<TaskResult>) -> Changed {
        let record = self.tasks.get_mut(&task).ok_or(ChangeError::Unknown)?;
        let life = record.life.after(event, record.task.limits)?;
        if life != record.life {
            record.changed = now.unwrap_or(record.changed);
            record.result = result.or(record.result.take());
            record.life = life.clone();
        }
        Ok(life)
    }

    fn expire(&mut self, now: Moment) -> Vec<TaskId> {
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        let changes = |model: &mut Self, id: TaskId| {
            let before = model.tasks[&id].clone();
            let passed = before.task.deadline.is_some_and(|deadline| deadline <= now);
            let events = [Some(LifeEvent::Expire { now }), passed.then_some(LifeEvent::Deadline)];
            for event in events.into_iter().flatten() {
                let refused = model.apply(id, &event, Some(now), None).err();
                assert!(
                    refused.is_none_or(|error| matches!(error, ChangeError::Refused(Refusal::NotDue | Refusal::Ended)))
                );
            }
            before.life != model.tasks[&id].life
        };
        ids.into_iter().filter(|id| changes(self, *id)).collect()
    }

    fn forget(&mut self, before: Moment) -> u64 {
        let kept = self.tasks.len();
        self.tasks.retain(|_, record| record.life.end().is_none() || record.changed >= before);
        u64::try_from(kept - self.tasks.len()).expect("small")
    }
}

/// Takes the steps in the store and in the model; every answer and what is left must be the same.
pub(in super::super) async fn agrees_with_the_model<S: Store>(store: &S, steps: Vec<Step>) {
    let (mut model, mut now, mut next) = (Model::default(), 1, 1);
    for number in [1, 2] {
        store.claim(endpoint(number), session(number, 1 << 40), Vec::new(), at(1)).await.expect("claims");
    }
    for step in steps {
        now += step.passed;
        take(store, &mut model, &mut next, step.call, at(now)).await;
    }
    let ids: Vec<_> = (1..next).map(task_id).collect();
    let expected: Vec<_> = ids.iter().map(|id| model.tasks.get(id).cloned()).collect();
    assert_eq!(store.get(ids).await.expect("reads"), expected);
    let mut newest_first: Vec<_> = model.tasks.values().cloned().collect();
    newest_first.reverse();
    let page = Page { before: None, most: 1000 };
    assert_eq!(store.list(TaskFilter::default(), page).await.expect("lists"), newest_first);
    let mut counts = BTreeMap::new();
    for record in &newest_first {
        *counts.entry(StateName::of(&record.life)).or_insert(0) += 1;
    }
    assert_eq!(store.count(TaskFilter::default()).await.expect("counts"), counts);
}

async fn take<S: Store>(store: &S, model: &mut Model, next: &mut u128, call: Call, now: Moment) {
    match call {
        Call::Submit { endpoint, priority, request, deadline, retries } => {
            let task = NewTask {
                endpoint: endpoint_id(endpoint),
                priority,
                request: request.map(|number| number.to_string().parse().expect("a request id")),
                deadline: deadline.map(at),
                limits: Limits { retries, crashes: 2 },
                submitted: now,
                ..task(*next)
            };
            *next += 1;
            assert_eq!(store.submit(vec![task.clone()]).await.expect("submits"), [model.submit(task)]);
        }
        Call::Lease { endpoint, most, lasts } => {
            let until = at(now.millis() + lasts);
            let request = LeaseRequest { holder: holder(endpoint), until, now, ..request(most) };
            let leased = store.lease(request.clone()).await.expect("leases");
            let given: Vec<_> = leased.iter().map(|leased| (leased.attempt, leased.until)).collect();
            assert_eq!(given, model.lease(&request));
        }
        Call::Start(by, attempts) => {
            let event = |id: &AttemptId| LifeEvent::Start { endpoint: endpoint_id(by), attempt: id.number };
            let apply = |id: &AttemptId| model.apply(id.task, &event(id), Some(now), None);
            let expected: Vec<_> = attempts.iter().map(apply).collect();
            assert_eq!(store.start(holder(by), attempts, now).await.expect("starts"), expected);
        }
        Call::Renew(by, attempts, lasts) => {
            let (until, endpoint) = (at(now.millis() + lasts), endpoint_id(by));
            let event = |id: &AttemptId| LifeEvent::Renew { endpoint, attempt: id.number, until };
            let apply = |id: &AttemptId| model.apply(id.task, &event(id), None, None);
            let expected: Vec<_> = attempts.iter().map(apply).collect();
            assert_eq!(store.renew(holder(by), attempts, until).await.expect("renews"), expected);
        }
        Call::Report(by, reports) => reported(store, model, by, reports, now).await,
        Call::Cancel(tasks) => {
            let expected: Vec<_> =
                tasks.iter().map(|id| model.apply(*id, &LifeEvent::Cancel, Some(now), None)).collect();
            assert_eq!(store.cancel(tasks, now).await.expect("cancels"), expected);
        }
        Call::Expire => {
            let mut changed = store.expire(now, 1000).await.expect("expires");
            changed.sort();
            assert_eq!(changed, model.expire(now));
        }
        Call::Forget(before) => {
            assert_eq!(store.forget(at(before), 1000).await.expect("forgets"), model.forget(at(before)));
        }
    }
}

async fn reported<S: Store>(store: &S, model: &mut Model, by: u128, reports: Vec<(AttemptId, Outcome)>, now: Moment) {
    let result = |attempt: AttemptId| TaskResult { document: Some(attempt.to_string()), ..TaskResult::default() };
    let mut expected = Vec::new();
    for (id, outcome) in &reports {
        let endpoint = endpoint_id(by);
        let event =
            LifeEvent::Report { endpoint, attempt: id.number, outcome: outcome.clone(), now, spread: id.task.spread() };
        expected.push(model.apply(id.task, &event, Some(now), Some(result(*id))));
    }
    let reports = reports.into_iter().map(|(attempt, outcome)| Report { attempt, outcome, result: result(attempt) });
    assert_eq!(store.report(holder(by), reports.collect(), now).await.expect("reports").0, expected);
}
