//! A store in memory, as plain as it can be: what it answers, every store answers, whatever is asked in whatever
//! order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{
    ChangeError, Changed, LeaseRequest, Overdue, Page, StateName, StoreEvent, Submitted, TaskFilter, TaskRecord,
};
use crate::task::action::ActionCounts;
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
    Connect(u128),
    Lease { by: Speaker, most: u32, lasts: u64 },
    Start(Speaker, Vec<AttemptId>),
    Renew(Speaker, Vec<AttemptId>, u64),
    Report(Speaker, Vec<(AttemptId, Outcome)>),
    Cancel(Vec<TaskId>),
    Expire,
    Forget(u64),
}

/// A connection of an endpoint, by how many there were after it.
#[derive(Debug, Clone, Copy)]
struct Speaker {
    endpoint: u128,
    age: u64,
}

/// Sequences of calls.
pub(in super::super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u64..8, call()).prop_map(|(passed, call)| Step { passed, call }), 1..40)
}

fn call() -> impl Strategy<Value = Call> {
    let some_attempt = || (1..=TASKS, 1u32..4).prop_map(|(task, number)| attempt(task, number));
    let attempts = || prop::collection::vec(some_attempt(), 0..4);
    // most often the newest
    let by = || {
        let age = prop_oneof![6 => Just(0), 1 => 1u64..3];
        (1u128..3, age).prop_map(|(endpoint, age)| Speaker { endpoint, age })
    };
    let submit = (1u128..3, -1i32..2, prop::option::of(0u8..3), prop::option::of(1u64..60), 0u32..2);
    prop_oneof![
        8 => submit.prop_map(|(endpoint, priority, request, deadline, retries)| {
            Call::Submit { endpoint, priority, request, deadline, retries }
        }),
        1 => (1u128..3).prop_map(Call::Connect),
        6 => (by(), 0u32..4, 1u64..30).prop_map(|(by, most, lasts)| Call::Lease { by, most, lasts }),
        2 => (by(), attempts()).prop_map(|(by, attempts)| Call::Start(by, attempts)),
        2 => (by(), attempts(), 0u64..60).prop_map(|(by, attempts, lasts)| Call::Renew(by, attempts, lasts)),
        6 => (by(), prop::collection::vec((some_attempt(), outcome()), 0..5))
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
    requests: BTreeMap<u8, (TaskId, NewTask)>,
    /// The newest connection of each endpoint.
    epochs: BTreeMap<u128, u64>,
    /// Of the one action; those that are forgotten are counted.
    counts: ActionCounts,
}

impl Model {
    fn submit(&mut self, request: Option<u8>, task: NewTask) -> Submitted {
        if let Some((id, before)) = request.and_then(|request| self.requests.get(&request)) {
            let action = before.action;
            let same = before.endpoint == task.endpoint && before.spec == task.spec;
            return if same { Submitted::Known { action, tasks: vec![*id] } } else { Submitted::Conflict { action } };
        }
        self.requests.extend(request.map(|request| (request, (task.id, task.clone()))));
        let (id, changed) = (task.id, task.submitted);
        self.tasks.insert(id, TaskRecord { task, life: Life::new(Moment::START), changed, result: None });
        self.counts.open += 1;
        Submitted::New
    }

    fn holder(&self, by: Speaker) -> Holder {
        let newest = self.epochs[&by.endpoint];
        Holder { epoch: Epoch::new(newest.saturating_sub(by.age)), ..holder(by.endpoint) }
    }

    /// What a connection is told of events that it says happened.
    fn by(
        &mut self,
        holder: Holder,
        events: Vec<(TaskId, LifeEvent, Option<TaskResult>)>,
        now: Option<Moment>,
    ) -> Vec<Changed> {
        let newest = self.epochs[&holder.endpoint.uuid().as_u128()];
        let speaks = holder.epoch == Epoch::new(newest);
        let apply = |(task, event, result)| match speaks {
            true => self.apply(task, &event, now, result),
            false => Err(ChangeError::OldEpoch),
        };
        events.into_iter().map(apply).collect()
    }

    fn lease(&mut self, request: &LeaseRequest) -> Vec<AttemptId> {
        let LeaseRequest { holder: Holder { endpoint, epoch }, ref lanes, until, now } = *request;
        if epoch != Epoch::new(self.epochs[&endpoint.uuid().as_u128()]) {
            return Vec::new();
        }
        let most = lanes[0].1;
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
            AttemptId { task: record.task.id, number }
        };
        waiting.into_iter().take(usize::try_from(most).expect("small")).map(lease).collect()
    }

    fn apply(&mut self, task: TaskId, event: &LifeEvent, now: Option<Moment>, result: Option<TaskResult>) -> Changed {
        let record = self.tasks.get_mut(&task).ok_or(ChangeError::Unknown)?;
        let life = record.life.after(event, record.task.limits)?;
        if record.life.end().is_none() && life.end().is_some() {
            self.counts.open -= 1;
            *self.counts.of(&life) += 1;
        }
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
        self.requests.retain(|_, (task, _)| self.tasks.contains_key(task));
        u64::try_from(kept - self.tasks.len()).expect("small")
    }
}

/// Takes the steps in turn in the stores, which are of one database, and in the model; every answer and what is left must
/// be the same.
pub(in super::super) async fn agrees_with_the_model<S: Store>(stores: &[S], steps: Vec<Step>) {
    let (mut model, mut now, mut next) = (Model::default(), 1, 1);
    for number in [1, 2] {
        stores[0].claim(endpoint(number), session(number, 1 << 40), Vec::new(), at(1)).await.expect("claims");
        model.epochs.insert(number, 1);
    }
    for (step, store) in std::iter::zip(steps, stores.iter().cycle()) {
        now += step.passed;
        take(store, &mut model, &mut next, step.call, at(now)).await;
    }
    for store in stores {
        is_as_the_model(store, &model, next).await;
    }
}

async fn is_as_the_model<S: Store>(store: &S, model: &Model, next: u128) {
    let ids: Vec<_> = (1..next).map(task_id).collect();
    let expected: Vec<_> = ids.iter().map(|id| model.tasks.get(id).cloned()).collect();
    assert_eq!(store.get(ids).await.expect("reads"), expected);
    let mut newest_first: Vec<_> = model.tasks.values().cloned().collect();
    newest_first.reverse();
    let page = Page { before: None, most: 1000 };
    assert_eq!(store.list(TaskFilter::default(), page).await.expect("lists"), newest_first);
    let held = vec![StateName::Leased, StateName::Running];
    let others = vec![StateName::Queued, StateName::Succeeded, StateName::Failed];
    for (endpoint, states) in [None, Some(1), Some(2)]
        .into_iter()
        .flat_map(|e| [Vec::new(), held.clone(), others.clone()].map(|states| (e, states)))
    {
        let filter = TaskFilter { endpoint: endpoint.map(endpoint_id), states, ..TaskFilter::default() };
        let mut wanted = newest_first.clone();
        wanted.retain(|record| filter.lets_through(record));
        let mut counts = BTreeMap::new();
        for record in &wanted {
            *counts.entry(StateName::of(&record.life)).or_insert(0) += 1;
        }
        assert_eq!(store.count(filter.clone()).await.expect("counts"), counts, "{filter:?}");
        let of_the_action = TaskFilter { action: Some(action_id(1)), ..filter.clone() };
        assert_eq!(store.count(of_the_action).await.expect("counts"), counts, "{filter:?}");
        assert_eq!(store.list(filter, page).await.expect("lists"), wanted);
    }
    let action = store.actions(vec![action_id(1)]).await.expect("reads").remove(0);
    // one whose tasks have ended and are forgotten is forgotten too, and counts anew
    if let Some(action) = action.filter(|action| action.counts.all() == model.counts.all()) {
        assert_eq!(action.counts, model.counts);
        assert_eq!(action.ended.is_none(), model.counts.open > 0);
    }
    for record in &newest_first {
        tells_its_story(store, record).await;
    }
}

/// What was told of a task leads to what it is; events that were forgotten are its first.
async fn tells_its_story<S: Store>(store: &S, record: &TaskRecord) {
    let events = store.timeline(record.task.id, 1000).await.expect("reads");
    let (ids, times): (Vec<_>, Vec<_>) = events.iter().map(|event| (event.id, event.time)).unzip();
    assert!(ids.is_sorted() && times.is_sorted(), "{events:?}");
    let states: Vec<StateName> = events.iter().filter_map(|event| event.event.state()).collect();
    assert!(states.last().is_none_or(|last| *last == StateName::of(&record.life)), "{events:?}: {record:?}");
    let leases = events.iter().filter(|event| matches!(event.event, StoreEvent::Leased { .. })).count();
    let attempts = record.life.attempt.map_or(0, |attempt| attempt.get());
    let all = events.first().is_some_and(|first| first.event == StoreEvent::Submitted);
    assert!(!all || leases == attempts as usize, "{events:?}: {record:?}");
}

async fn take<S: Store>(store: &S, model: &mut Model, next: &mut u128, call: Call, now: Moment) {
    match call {
        Call::Submit { endpoint, priority, request, deadline, retries } => {
            let task = NewTask {
                endpoint: endpoint_id(endpoint),
                priority,
                deadline: deadline.map(at),
                limits: Limits { retries, crashes: 2 },
                submitted: now,
                ..task(*next)
            };
            *next += 1;
            let new = NewSubmission {
                request: request.map(|number| number.to_string().parse().expect("a request id")),
                ..submission(vec![task.clone()])
            };
            assert_eq!(store.submit(new).await.expect("submits"), model.submit(request, task));
        }
        Call::Connect(endpoint) => {
            let opened = store.connect(endpoint_id(endpoint), session_id(endpoint), now).await.expect("opens");
            let newest = model.epochs.entry(endpoint).or_default();
            *newest += 1;
            assert_eq!(opened, Some(Epoch::new(*newest)));
        }
        Call::Lease { by, most, lasts } => {
            let until = at(now.millis() + lasts);
            let request = LeaseRequest { holder: model.holder(by), until, now, ..request(most) };
            let leased = store.lease(request.clone()).await.expect("leases");
            let given: Vec<_> = leased.iter().map(|leased| leased.attempt).collect();
            assert_eq!(given, model.lease(&request));
        }
        Call::Start(by, attempts) => {
            let (holder, endpoint) = (model.holder(by), endpoint_id(by.endpoint));
            let event = |id: &AttemptId| (id.task, LifeEvent::Start { endpoint, attempt: id.number }, None);
            let expected = model.by(holder, attempts.iter().map(event).collect(), Some(now));
            assert_eq!(store.start(holder, attempts, now).await.expect("starts"), expected);
        }
        Call::Renew(by, attempts, lasts) => {
            let (until, holder, endpoint) = (at(now.millis() + lasts), model.holder(by), endpoint_id(by.endpoint));
            let event = |id: &AttemptId| (id.task, LifeEvent::Renew { endpoint, attempt: id.number, until }, None);
            let expected = model.by(holder, attempts.iter().map(event).collect(), None);
            assert_eq!(store.renew(holder, attempts, until).await.expect("renews"), expected);
        }
        Call::Report(by, reports) => reported(store, model, by, reports, now).await,
        Call::Cancel(tasks) => {
            let expected: Vec<_> =
                tasks.iter().map(|id| model.apply(*id, &LifeEvent::Cancel, Some(now), None)).collect();
            assert_eq!(store.cancel(tasks, now).await.expect("cancels"), expected);
        }
        Call::Expire => {
            let mut changed = store.expire(now, Overdue::DeadlinesAndLeases, 1000).await.expect("expires");
            changed.sort();
            assert_eq!(changed, model.expire(now));
        }
        Call::Forget(before) => {
            assert_eq!(store.forget(at(before), 1000).await.expect("forgets").tasks, model.forget(at(before)));
        }
    }
}

async fn reported<S: Store>(
    store: &S,
    model: &mut Model,
    by: Speaker,
    reports: Vec<(AttemptId, Outcome)>,
    now: Moment,
) {
    let result = |attempt: AttemptId| TaskResult { document: Some(attempt.to_string()), ..TaskResult::default() };
    let (holder, endpoint) = (model.holder(by), endpoint_id(by.endpoint));
    let event = |(id, outcome): &(AttemptId, Outcome)| {
        let (attempt, spread) = (id.number, id.task.spread());
        let event = LifeEvent::Report { endpoint, attempt, outcome: outcome.clone(), now, spread };
        (id.task, event, Some(result(*id)))
    };
    let expected = model.by(holder, reports.iter().map(event).collect(), Some(now));
    let told = reports.into_iter().map(|(id, outcome)| Report { result: result(id), ..report(id, outcome) });
    assert_eq!(store.report(holder, told.collect(), now).await.expect("reports").0, expected);
}
