//! What the ledger promises: by hand for each refusal, and for random entries in random orders.

use proptest::prelude::*;
use uuid::Uuid;

use super::names::MOST_NAMES;
use super::*;
use crate::task::life::Outcome;
use crate::task::pool::PoolKey;
use crate::task::result::{FileMark, TaskResult};
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

pub(in crate::endpoint) fn attempt(task: u128, number: u32) -> AttemptId {
    let number = AttemptNumber::new(number).expect("from 1");
    AttemptId { task: TaskId::new(Uuid::from_u128(task)), number }
}

pub(in crate::endpoint) fn leased(attempt: AttemptId) -> Leased {
    let (spec, pool) = (TaskSpec::Nothing, PoolKey::DEFAULT);
    Leased { attempt, spec, pool, deadline: None, crashes: 0 }
}

pub(in crate::endpoint) fn taken(task: u128, number: u32) -> Entry {
    Entry::Taken(leased(attempt(task, number)))
}

pub(in crate::endpoint) fn worker(number: u128) -> WorkerId {
    WorkerId::new(Uuid::from_u128(number))
}

pub(in crate::endpoint) fn handed(task: u128, number: u32, to: u128) -> Entry {
    Entry::Handed { attempt: attempt(task, number), worker: worker(to) }
}

pub(in crate::endpoint) fn started(task: u128, number: u32) -> Entry {
    Entry::Started(attempt(task, number))
}

pub(in crate::endpoint) fn reported(attempt: AttemptId, document: &str) -> Reported {
    let result = TaskResult { document: Some(document.to_owned()), ..TaskResult::default() };
    Reported { attempt, outcome: Outcome::Succeeded, result }
}

pub(in crate::endpoint) fn over(task: u128, number: u32, document: &str) -> Entry {
    Entry::Reported(reported(attempt(task, number), document))
}

/// The ledger that entries make; those that do not apply change nothing.
pub(in crate::endpoint) fn ledger(entries: impl IntoIterator<Item = Entry>) -> Ledger {
    let mut ledger = Ledger::default();
    for entry in entries {
        let _refused = ledger.apply(entry);
    }
    ledger
}

/// Entries for few tasks, workers and numbers, so that they meet.
pub(in crate::endpoint) fn entry() -> impl Strategy<Value = Entry> {
    let id = || (1u128..6, 1u32..4);
    prop_oneof![
        6 => id().prop_map(|(task, number)| taken(task, number)),
        5 => (id(), 1u128..4).prop_map(|((task, number), to)| handed(task, number, to)),
        4 => id().prop_map(|(task, number)| started(task, number)),
        4 => (id(), "[a-c\n\"]{0,3}").prop_map(|((task, number), document)| over(task, number, &document)),
        2 => prop::collection::vec(id(), 0..4).prop_map(|ids| {
            Entry::Settled(ids.into_iter().map(|(task, number)| attempt(task, number)).collect())
        }),
        1 => (0..5_u128).prop_map(|number| Entry::SessionStarted(own(number))),
        1 => (0..5_u128).prop_map(|number| Entry::SessionOpened(own(number).session)),
        2 => (0..4_u128).prop_map(wanted),
        1 => (0..4_u128).prop_map(named),
        2 => ((1u128..6), "[ab]", 0..3_u64).prop_map(|(task, name, inode)| result_named(task, &name, inode)),
        1 => (0..4_u128).prop_map(|number| Entry::BlockEnded { block: block(number), ending: Ending::Walltime }),
    ]
}

pub(in crate::endpoint) fn result_named(task: u128, name: &str, inode: u64) -> Entry {
    let file = FileMark { inode, bytes: 1, modified_ns: 2 };
    let result = NamedResult { path: format!("/data/{name}").into(), file };
    Entry::ResultNamed { task: TaskId::new(Uuid::from_u128(task)), result }
}

#[test]
fn names_outlive_attempts_and_are_bounded() {
    let entries = [taken(1, 1), result_named(1, "a", 1), Entry::Settled(vec![attempt(1, 1)]), result_named(1, "a", 2)];
    let mut names = ledger(entries);
    let inodes = |ledger: &Ledger, task| -> Option<Vec<u64>> {
        Some(ledger.earlier(TaskId::new(Uuid::from_u128(task)))?.files.iter().map(|file| file.inode).collect())
    };
    assert_eq!(inodes(&names, 1), Some(vec![1, 2]));
    for task in 2..=MOST_NAMES as u128 {
        names.apply(result_named(task, "b", 9)).expect("applies");
    }
    names.apply(result_named(1, "a", 3)).expect("applies");
    names.apply(result_named(5000, "c", 9)).expect("applies");
    assert_eq!(
        (inodes(&names, 1), inodes(&names, 2)),
        (Some(vec![1, 2, 3]), None),
        "the one that was named first goes"
    );
    assert_eq!(ledger(names.entries()), names);
}

fn block(number: u128) -> BlockId {
    BlockId::new(Uuid::from_u128(number))
}

fn wanted(number: u128) -> Entry {
    Entry::BlockWanted { block: block(number), pool: PoolKey::DEFAULT, wanted: Moment::from_millis(3) }
}

fn named(number: u128) -> Entry {
    let job = serde_json::from_value(serde_json::json!(number.to_string())).expect("a job");
    Entry::BlockNamed { block: block(number), job }
}

#[test]
fn a_block_is_held_from_when_it_is_wanted_until_it_ended() {
    let (id, ended) = (block(1), Entry::BlockEnded { block: block(1), ending: Ending::Preempted });
    let mut ledger = Ledger::default();
    assert_eq!(ledger.apply(named(1)), Err(LedgerError::UnknownBlock { block: id }));
    assert_eq!(ledger.apply(ended.clone()), Err(LedgerError::UnknownBlock { block: id }));
    ledger.apply(wanted(1)).expect("is new");
    assert_eq!(ledger.apply(wanted(1)), Err(LedgerError::KnownBlock { block: id }));
    ledger.apply(named(1)).expect("has none");
    assert_eq!(ledger.apply(named(1)), Err(LedgerError::NamedBlock { block: id }));
    assert_eq!(ledger.block(id).and_then(|held| held.job.as_ref()).map(ToString::to_string), Some("1".to_owned()));
    ledger.apply(ended).expect("is held");
    assert_eq!(ledger, Ledger::default());
}

fn own(number: u128) -> OwnSession {
    let session = SessionId::new(Uuid::from_u128(number));
    OwnSession { session, host: "login1".into(), computer: "c".into(), boot: "b".into() }
}

fn tasks<'b>(leased: impl Iterator<Item = &'b Leased>) -> Vec<u128> {
    leased.map(|leased| leased.attempt.task.uuid().as_u128()).collect()
}

#[test]
fn an_attempt_goes_its_way() {
    let mut ledger = ledger([taken(2, 1), taken(1, 1), taken(3, 1)]);
    assert_eq!(tasks(ledger.waiting()), [2, 1, 3]);
    ledger.apply(handed(1, 1, 8)).expect("hands it");
    ledger.apply(handed(2, 1, 9)).expect("hands it");
    ledger.apply(started(1, 1)).expect("begins");
    assert_eq!(tasks(ledger.waiting()), [3]);
    let placed: Vec<_> = ledger.placed().map(|(held, at)| (held.leased.attempt, at)).collect();
    assert_eq!(placed, [(attempt(2, 1), worker(9)), (attempt(1, 1), worker(8))]);
    assert_eq!(ledger.get(attempt(1, 1)).map(|held| &held.stage), Some(&AttemptStage::Running(worker(8))));
    ledger.apply(over(1, 1, "1")).expect("ends");
    assert_eq!(ledger.reports().collect::<Vec<_>>(), [&reported(attempt(1, 1), "1")]);
    assert_eq!(ledger.attempts().collect::<Vec<_>>(), [attempt(1, 1), attempt(2, 1), attempt(3, 1)]);
    let left = ledger.apply(Entry::Settled(vec![attempt(1, 1), attempt(2, 1)])).expect("settles");
    assert_eq!(left.iter().map(|held| held.stage.worker()).collect::<Vec<_>>(), [None, Some(worker(9))]);
    assert_eq!((ledger.len(), ledger.placed().count(), ledger.reports().count()), (1, 0, 0));
}

#[test]
fn what_does_not_apply_is_refused_by_name() {
    let id = attempt(1, 2);
    let newest = id.number;
    for (before, entry, refusal) in [
        (vec![], started(1, 2), LedgerError::Unknown { attempt: id }),
        (vec![taken(1, 1)], over(1, 2, ""), LedgerError::Unknown { attempt: id }),
        (vec![taken(1, 2)], taken(1, 2), LedgerError::Known { attempt: id }),
        (vec![taken(1, 2)], taken(1, 1), LedgerError::Superseded { attempt: attempt(1, 1), newest }),
        (vec![taken(1, 2)], over(1, 1, ""), LedgerError::Superseded { attempt: attempt(1, 1), newest }),
        (vec![taken(1, 2)], started(1, 2), LedgerError::NotHanded { attempt: id }),
        (vec![taken(1, 2), handed(1, 2, 5)], handed(1, 2, 6), LedgerError::Handed { attempt: id, worker: worker(5) }),
        (vec![taken(1, 2), handed(1, 2, 5), started(1, 2)], started(1, 2), LedgerError::Running { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "")], handed(1, 2, 5), LedgerError::Reported { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "")], started(1, 2), LedgerError::Reported { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "first")], over(1, 2, "second"), LedgerError::Reported { attempt: id }),
    ] {
        let before = ledger(before);
        let mut after = before.clone();
        assert_eq!(after.apply(entry.clone()), Err(refusal), "{entry:?}");
        assert_eq!(after, before, "{entry:?}");
    }
}

#[test]
fn a_newer_attempt_takes_the_place_of_an_older_one() {
    for older in [vec![], vec![handed(1, 1, 5)], vec![handed(1, 1, 5), started(1, 1)], vec![over(1, 1, "late")]] {
        let mut ledger = ledger([vec![taken(1, 1), taken(2, 1)], older].concat());
        let was = ledger.get(attempt(1, 1)).expect("is there").clone();
        assert_eq!(ledger.apply(taken(1, 3)), Ok(vec![was]), "whoever has it is to be told");
        assert_eq!(tasks(ledger.waiting()), [2, 1]);
        assert_eq!((ledger.len(), ledger.placed().count(), ledger.reports().count()), (2, 0, 0));
        // a report of the older one, recorded late, leaves the newer one alone
        assert_eq!(ledger.apply(Entry::Settled(vec![attempt(1, 1)])), Ok(vec![]));
        assert!(ledger.get(attempt(1, 3)).is_some());
    }
}

/// The queues hold exactly what the lines say.
fn is_whole(ledger: &Ledger) -> bool {
    let mut seen = 0;
    for (queue, of) in [(&ledger.queues.waiting, 0), (&ledger.queues.placed, 1), (&ledger.queues.over, 2)] {
        for (arrival, task) in queue {
            let Some(line) = ledger.tasks.get(task) else { return false };
            let stage = match line.held.stage {
                AttemptStage::Waiting => 0,
                AttemptStage::Handed(_) | AttemptStage::Running(_) => 1,
                AttemptStage::Reported(_) => 2,
            };
            if line.arrival != *arrival || stage != of {
                return false;
            }
            seen += 1;
        }
    }
    seen == ledger.tasks.len()
}

proptest! {
    #[test]
    fn whatever_is_entered_nothing_is_lost_and_no_report_changes(entries in prop::collection::vec(entry(), 0..80)) {
        let mut ledger = Ledger::default();
        for entry in entries {
            let before = ledger.clone();
            let result = ledger.apply(entry.clone());
            prop_assert!(is_whole(&ledger), "{:?}", entry);
            if result.is_err() {
                prop_assert_eq!(&ledger, &before);
            }
            let left: Vec<_> = result.into_iter().flatten().map(|held| held.leased.attempt).collect();
            for attempt in before.attempts() {
                // it stays unless it is settled or its task is taken anew, and who leaves is named
                let settled = matches!(&entry, Entry::Settled(attempts) if attempts.contains(&attempt));
                let newer = matches!(&entry, Entry::Taken(leased)
                    if leased.attempt.task == attempt.task && leased.attempt.number > attempt.number);
                prop_assert_eq!(ledger.get(attempt).is_none(), settled || newer);
                prop_assert_eq!(left.contains(&attempt), settled || newer);
            }
            for report in before.reports() {
                // the first report stays
                let now = ledger.get(report.attempt).map(|held| &held.stage);
                prop_assert!(now.is_none_or(|stage| stage == &AttemptStage::Reported(report.clone())));
            }
            if let Entry::Taken(leased) = &entry {
                let newest = ledger.attempts().find(|attempt| attempt.task == leased.attempt.task);
                prop_assert!(newest.is_some_and(|newest| newest.number >= leased.attempt.number));
            }
        }
    }

    #[test]
    fn a_ledger_is_made_again_at_any_moment(entries in prop::collection::vec(entry(), 0..60), at in 0usize..60) {
        let (first, rest) = entries.split_at(at.min(entries.len()));
        let then = ledger(first.iter().cloned());
        let texts: Vec<_> = then.entries().map(|entry| serde_json::to_string(&entry).expect("json")).collect();
        let shortest: Vec<Entry> = texts.iter().map(|text| serde_json::from_str(text).expect("an entry")).collect();
        let names = (1..6).filter_map(|task| then.earlier(TaskId::new(Uuid::from_u128(task)))).flat_map(|e| &e.files).count();
        prop_assert!(shortest.len() <= 3 * then.len() + then.sessions().len() + 2 * then.blocks().count() + names);
        let mut again = Ledger::default();
        for entry in shortest {
            prop_assert!(again.apply(entry).is_ok_and(|left| left.is_empty()));
        }
        prop_assert_eq!(&again, &then);
        // and goes on as the first would
        for entry in rest {
            let _refused = again.apply(entry.clone());
        }
        prop_assert_eq!(again, ledger(entries));
    }

    #[test]
    fn settling_all_leaves_nothing(entries in prop::collection::vec(entry(), 0..60)) {
        let mut ledger = ledger(entries);
        let all: Vec<_> = ledger.attempts().collect();
        let left = ledger.apply(Entry::Settled(all.clone())).expect("settles");
        prop_assert_eq!(left.len(), all.len());
        prop_assert!(ledger.is_empty() && is_whole(&ledger));
    }
}

#[test]
fn own_sessions_are_remembered_until_a_later_one_is_open() {
    let mut ledger = Ledger::default();
    let started = |ledger: &mut Ledger, number| ledger.apply(Entry::SessionStarted(own(number))).expect("applies");
    for number in 0..MOST_SESSIONS as u128 + 3 {
        started(&mut ledger, number);
    }
    assert_eq!(ledger.sessions().len(), MOST_SESSIONS);
    assert_eq!(ledger.sessions()[0], own(3), "the oldest are forgotten");
    let again = ledger.entries().try_fold(Ledger::default(), |mut again, entry| again.apply(entry).map(|_| again));
    assert_eq!(again.expect("applies"), ledger);
    ledger.apply(Entry::SessionOpened(own(10).session)).expect("applies");
    assert_eq!(ledger.sessions()[0], own(10));
    // one that is not known, as after a journal that was lost
    ledger.apply(Entry::SessionOpened(own(100).session)).expect("applies");
    assert_eq!(ledger.sessions()[0], own(10));
}
