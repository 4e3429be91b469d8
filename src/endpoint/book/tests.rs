//! What the book promises: by hand for each refusal, and for random entries in random orders.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::task::life::Outcome;
use crate::task::result::TaskResult;
use crate::task::spec::TaskSpec;
use crate::task::time::Moment;

pub(in crate::endpoint) fn attempt(task: u128, number: u32) -> AttemptId {
    let number = AttemptNumber::new(number).expect("from 1");
    AttemptId { task: TaskId::new(Uuid::from_u128(task)), number }
}

pub(in crate::endpoint) fn leased(attempt: AttemptId) -> Leased {
    Leased { attempt, spec: TaskSpec::Nothing, deadline: None, until: Moment::from_millis(7), crashes: 0 }
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

pub(in crate::endpoint) fn began(task: u128, number: u32) -> Entry {
    Entry::Began(attempt(task, number))
}

pub(in crate::endpoint) fn reported(attempt: AttemptId, document: &str) -> Reported {
    let result = TaskResult { document: Some(document.to_owned()), ..TaskResult::default() };
    Reported { attempt, outcome: Outcome::Succeeded, result }
}

pub(in crate::endpoint) fn over(task: u128, number: u32, document: &str) -> Entry {
    Entry::Over(reported(attempt(task, number), document))
}

/// The book that entries make; those that do not apply change nothing.
pub(in crate::endpoint) fn book(entries: impl IntoIterator<Item = Entry>) -> Book {
    let mut book = Book::default();
    for entry in entries {
        let _refused = book.apply(entry);
    }
    book
}

/// Entries for few tasks, workers and numbers, so that they meet.
pub(in crate::endpoint) fn entry() -> impl Strategy<Value = Entry> {
    let id = || (1u128..6, 1u32..4);
    prop_oneof![
        6 => id().prop_map(|(task, number)| taken(task, number)),
        5 => (id(), 1u128..4).prop_map(|((task, number), to)| handed(task, number, to)),
        4 => id().prop_map(|(task, number)| began(task, number)),
        4 => (id(), "[a-c\n\"]{0,3}").prop_map(|((task, number), document)| over(task, number, &document)),
        2 => prop::collection::vec(id(), 0..4).prop_map(|ids| {
            Entry::Settled(ids.into_iter().map(|(task, number)| attempt(task, number)).collect())
        }),
    ]
}

fn tasks<'b>(leased: impl Iterator<Item = &'b Leased>) -> Vec<u128> {
    leased.map(|leased| leased.attempt.task.uuid().as_u128()).collect()
}

#[test]
fn an_attempt_goes_its_way() {
    let mut book = book([taken(2, 1), taken(1, 1), taken(3, 1)]);
    assert_eq!(tasks(book.waiting()), [2, 1, 3]);
    book.apply(handed(1, 1, 8)).expect("hands it");
    book.apply(handed(2, 1, 9)).expect("hands it");
    book.apply(began(1, 1)).expect("begins");
    assert_eq!(tasks(book.waiting()), [3]);
    let placed: Vec<_> = book.placed().map(|(held, at)| (held.leased.attempt, at)).collect();
    assert_eq!(placed, [(attempt(2, 1), worker(9)), (attempt(1, 1), worker(8))]);
    assert_eq!(book.get(attempt(1, 1)).map(|held| &held.stage), Some(&Stage::Running(worker(8))));
    book.apply(over(1, 1, "1")).expect("ends");
    assert_eq!(book.reports().collect::<Vec<_>>(), [&reported(attempt(1, 1), "1")]);
    assert_eq!(book.attempts().collect::<Vec<_>>(), [attempt(1, 1), attempt(2, 1), attempt(3, 1)]);
    let left = book.apply(Entry::Settled(vec![attempt(1, 1), attempt(2, 1)])).expect("settles");
    assert_eq!(left.iter().map(|held| held.stage.worker()).collect::<Vec<_>>(), [None, Some(worker(9))]);
    assert_eq!((book.len(), book.placed().count(), book.reports().count()), (1, 0, 0));
}

#[test]
fn what_does_not_apply_is_refused_by_name() {
    let id = attempt(1, 2);
    let newest = id.number;
    for (before, entry, refusal) in [
        (vec![], began(1, 2), BookError::Unknown { attempt: id }),
        (vec![taken(1, 1)], over(1, 2, ""), BookError::Unknown { attempt: id }),
        (vec![taken(1, 2)], taken(1, 2), BookError::Known { attempt: id }),
        (vec![taken(1, 2)], taken(1, 1), BookError::Superseded { attempt: attempt(1, 1), newest }),
        (vec![taken(1, 2)], over(1, 1, ""), BookError::Superseded { attempt: attempt(1, 1), newest }),
        (vec![taken(1, 2)], began(1, 2), BookError::NotHanded { attempt: id }),
        (vec![taken(1, 2), handed(1, 2, 5)], handed(1, 2, 6), BookError::Handed { attempt: id, worker: worker(5) }),
        (vec![taken(1, 2), handed(1, 2, 5), began(1, 2)], began(1, 2), BookError::Running { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "")], handed(1, 2, 5), BookError::Over { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "")], began(1, 2), BookError::Over { attempt: id }),
        (vec![taken(1, 2), over(1, 2, "first")], over(1, 2, "second"), BookError::Over { attempt: id }),
    ] {
        let before = book(before);
        let mut after = before.clone();
        assert_eq!(after.apply(entry.clone()), Err(refusal), "{entry:?}");
        assert_eq!(after, before, "{entry:?}");
    }
}

#[test]
fn a_newer_attempt_takes_the_place_of_an_older_one() {
    for older in [vec![], vec![handed(1, 1, 5)], vec![handed(1, 1, 5), began(1, 1)], vec![over(1, 1, "late")]] {
        let mut book = book([vec![taken(1, 1), taken(2, 1)], older].concat());
        let was = book.get(attempt(1, 1)).expect("is there").clone();
        assert_eq!(book.apply(taken(1, 3)), Ok(vec![was]), "whoever has it is to be told");
        assert_eq!(tasks(book.waiting()), [2, 1]);
        assert_eq!((book.len(), book.placed().count(), book.reports().count()), (2, 0, 0));
        // a report of the older one, recorded late, leaves the newer one alone
        assert_eq!(book.apply(Entry::Settled(vec![attempt(1, 1)])), Ok(vec![]));
        assert!(book.get(attempt(1, 3)).is_some());
    }
}

/// The queues hold exactly what the lines say.
fn is_whole(book: &Book) -> bool {
    let mut seen = 0;
    for (queue, of) in [(&book.queues.waiting, 0), (&book.queues.placed, 1), (&book.queues.over, 2)] {
        for (arrival, task) in queue {
            let Some(line) = book.tasks.get(task) else { return false };
            let stage = match line.held.stage {
                Stage::Waiting => 0,
                Stage::Handed(_) | Stage::Running(_) => 1,
                Stage::Over(_) => 2,
            };
            if line.arrival != *arrival || stage != of {
                return false;
            }
            seen += 1;
        }
    }
    seen == book.tasks.len()
}

proptest! {
    #[test]
    fn whatever_is_entered_nothing_is_lost_and_no_report_changes(entries in prop::collection::vec(entry(), 0..80)) {
        let mut book = Book::default();
        for entry in entries {
            let before = book.clone();
            let result = book.apply(entry.clone());
            prop_assert!(is_whole(&book), "{:?}", entry);
            if result.is_err() {
                prop_assert_eq!(&book, &before);
            }
            let left: Vec<_> = result.into_iter().flatten().map(|held| held.leased.attempt).collect();
            for attempt in before.attempts() {
                // it stays unless it is settled or its task is taken anew, and who leaves is named
                let settled = matches!(&entry, Entry::Settled(attempts) if attempts.contains(&attempt));
                let newer = matches!(&entry, Entry::Taken(leased)
                    if leased.attempt.task == attempt.task && leased.attempt.number > attempt.number);
                prop_assert_eq!(book.get(attempt).is_none(), settled || newer);
                prop_assert_eq!(left.contains(&attempt), settled || newer);
            }
            for report in before.reports() {
                // the first report stays
                let now = book.get(report.attempt).map(|held| &held.stage);
                prop_assert!(now.is_none_or(|stage| stage == &Stage::Over(report.clone())));
            }
            if let Entry::Taken(leased) = &entry {
                let newest = book.attempts().find(|attempt| attempt.task == leased.attempt.task);
                prop_assert!(newest.is_some_and(|newest| newest.number >= leased.attempt.number));
            }
        }
    }

    #[test]
    fn a_book_is_made_again_at_any_moment(entries in prop::collection::vec(entry(), 0..60), at in 0usize..60) {
        let (first, rest) = entries.split_at(at.min(entries.len()));
        let then = book(first.iter().cloned());
        let texts: Vec<_> = then.entries().map(|entry| serde_json::to_string(&entry).expect("json")).collect();
        let shortest: Vec<Entry> = texts.iter().map(|text| serde_json::from_str(text).expect("an entry")).collect();
        prop_assert!(shortest.len() <= 3 * then.len());
        let mut again = Book::default();
        for entry in shortest {
            prop_assert!(again.apply(entry).is_ok_and(|left| left.is_empty()));
        }
        prop_assert_eq!(&again, &then);
        // and goes on as the first would
        for entry in rest {
            let _refused = again.apply(entry.clone());
        }
        prop_assert_eq!(again, book(entries));
    }

    #[test]
    fn settling_all_leaves_nothing(entries in prop::collection::vec(entry(), 0..60)) {
        let mut book = book(entries);
        let all: Vec<_> = book.attempts().collect();
        let left = book.apply(Entry::Settled(all.clone())).expect("settles");
        prop_assert_eq!(left.len(), all.len());
        prop_assert!(book.is_empty() && is_whole(&book));
    }
}
