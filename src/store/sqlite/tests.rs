//! The contract of all stores, and what only a file can be asked: how it is opened, what a crash leaves, how many
//! commits and which indexes a call needs.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use rand::Rng;
use tempfile::TempDir;

use super::*;
use crate::store::contract::{
    self, at, attempt, endpoint, holder, leased, report, request, session, submission, submit, task, task_id,
};
use crate::store::{NewTask, open_sqlite};
use crate::task::life::Outcome;

/// Where the process that is killed has its database.
const CRASHING: &str = "SPECKLED_TEST_STORE";

contract::contract! { fresh:
    a_submission_that_comes_again_makes_no_second_task,
    nothing_asked_is_nothing_done,
    a_failed_submission_accepts_none_of_its_tasks,
    tasks_are_leased_by_priority_then_age,
    a_lease_tells_what_is_to_be_done,
    a_task_waits_for_its_moment,
    a_task_past_its_deadline_is_not_leased,
    only_the_lanes_that_are_asked_for_are_leased,
    what_waits_is_counted_by_pool,
    only_the_newest_session_leases,
    only_the_newest_connection_speaks,
    attempts_start_and_are_renewed,
    a_report_ends_its_attempt_and_leaves_its_result,
    a_result_that_is_too_large_is_refused,
    cancelling_ends_queued_tasks_and_asks_held_ones,
    time_ends_leases_and_deadlines,
    time_is_applied_to_so_many_tasks_at_once,
    a_task_is_remembered_as_it_was_submitted,
    lists_are_filtered_and_newest_first,
    lists_come_in_pages,
    tasks_are_forgotten_when_they_ended_long_ago,
    one_session_holds_a_name,
    a_beat_renews_only_the_holder,
    a_name_is_given_back_by_its_holder,
    an_endpoint_keeps_its_first_owner,
    a_name_of_a_group_is_its_first_owners,
    an_endpoint_without_process_and_work_is_forgotten,
    reports_come_to_the_disk,
    tokens_are_found_by_digest_and_revoked,
    an_action_counts_its_tasks_and_ends_with_the_last,
    a_foreign_action_takes_no_task,
    what_happens_is_told_in_its_order,
    endpoints_that_come_and_go_are_told,
    what_is_old_is_forgotten_and_its_place_is_not_given_again,
    artifacts_come_with_a_report_and_go_with_their_task,
}

async fn fresh() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (opened(&folder.path().join("store.db")).await, folder)
}

async fn opened(path: &Path) -> SqliteStore {
    open_sqlite(path, Clock::start()).await.expect("opens")
}

/// Runs something on the connection that writes.
async fn written<T: Send + 'static>(
    store: &SqliteStore,
    work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
) -> T {
    store.writer.run(Needs::Disk, ONE, |writing: &Writing| work(writing)).await.expect("writes").0
}

/// Transactions so far, of which the last is the one that asks.
async fn commits(store: &SqliteStore) -> u64 {
    let ((), CommitMark(number)) = store.writer.run(Needs::File, ONE, |_| Ok(())).await.expect("asks");
    number
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn it_does_what_the_model_does(steps in contract::steps()) {
        run(async {
            let (store, _folder) = fresh().await;
            contract::agrees_with_the_model(&[store], steps).await;
        });
    }

    #[test]
    fn two_stores_of_one_file_do_what_the_model_does(steps in contract::steps()) {
        run(async {
            let (first, folder) = fresh().await;
            let second = opened(&folder.path().join("store.db")).await;
            contract::agrees_with_the_model(&[first, second], steps).await;
        });
    }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let (store, folder) = fresh().await;
    leased(&store, (1..=3).map(task).collect(), 2).await;
    store.report(holder(1), vec![report(attempt(1, 1), Outcome::Succeeded)], at(20)).await.expect("reports");
    let before = store.get((1..=3).map(task_id).collect()).await.expect("reads");
    let endpoints = store.endpoints().await.expect("reads");
    store.close().await;
    let store = opened(&folder.path().join("store.db")).await;
    assert_eq!(store.get((1..=3).map(task_id).collect()).await.expect("reads"), before);
    assert_eq!(store.endpoints().await.expect("reads"), endpoints);
    let next = store.lease(request(9)).await.expect("leases");
    assert_eq!(contract::numbers(&next), [3]);
}

#[tokio::test]
async fn time_goes_on_from_what_is_remembered() {
    let (store, folder) = fresh().await;
    let (before, ahead) = (store.now(), store.now().after(Duration::from_secs(3600)));
    submit(&store, vec![NewTask { submitted: ahead, ..task(1) }]).await;
    store.close().await;
    let store = opened(&folder.path().join("store.db")).await;
    assert!(store.now() >= ahead, "the computer's clock was set back");
    store
        .claim(endpoint(1), session(1, 1 << 60), Vec::new(), ahead.after(Duration::from_secs(60)))
        .await
        .expect("claims");
    store.close().await;
    let store = opened(&folder.path().join("store.db")).await;
    assert!(store.now() >= ahead.after(Duration::from_secs(60)) && before < ahead);
}

#[tokio::test]
async fn only_its_owner_reads_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(&path, "").expect("writes");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("opens it to all");
    let store = opened(&path).await;
    submit(&store, vec![task(1)]).await;
    for entry in std::fs::read_dir(folder.path()).expect("lists") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("a mode").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let (store, folder) = fresh().await;
    written(&store, |connection| Ok(connection.execute_batch("PRAGMA user_version = 99")?)).await;
    store.close().await;
    let error = open_sqlite(&folder.path().join("store.db"), Clock::start()).await.expect_err("refuses");
    assert!(matches!(error, StoreError::Version { found: 99, known: schema::NEWEST, .. }), "{error}");
    assert!(error.to_string().contains("has version 99"), "{error}");
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(&path, "certainly no database ".repeat(99)).expect("writes");
    let error = open_sqlite(&path, Clock::start()).await.expect_err("refuses");
    assert!(matches!(error, StoreError::Database { step: "opening the database", .. }), "{error}");
    let error = open_sqlite(&folder.path().join("none/store.db"), Clock::start()).await.expect_err("refuses");
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let (store, _folder) = fresh().await;
    submit(&store, vec![task(1)]).await;
    let pages = |statement| {
        written(&store, move |connection| Ok(connection.query_row(statement, (), |row| row.get::<_, i64>(0))?))
    };
    // SQLite takes the pages in use as the limit
    pages("PRAGMA max_page_count = 1").await;
    let error = store.submit(submission((2..500).map(task).collect())).await.expect_err("no room");
    assert!(matches!(error, StoreError::Full { step: "accepting tasks", .. }), "{error}");
    assert!(error.to_string().contains("no space is left for"), "{error}");
    pages("PRAGMA max_page_count = 1000000").await;
    submit(&store, (2..500).map(task).collect()).await;
    assert_eq!(store.count(TaskFilter::default()).await.expect("counts").values().sum::<u64>(), 499);
}

#[tokio::test]
async fn a_report_is_seen_before_it_is_on_disk() {
    let (store, _folder) = fresh().await;
    leased(&store, vec![task(1)], 1).await;
    let (_, mark) =
        store.report(holder(1), vec![report(attempt(1, 1), Outcome::Succeeded)], at(20)).await.expect("reports");
    let record = store.get(vec![task_id(1)]).await.expect("reads")[0].clone().expect("is remembered");
    assert_eq!(StateName::of(&record.life), StateName::Succeeded);
    assert!(*store.synced.borrow() < mark, "nobody has waited for the disk");
    store.on_disk(mark).await.expect("waits");
    assert!(*store.synced.borrow() >= mark);
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let (store, _folder) = fresh().await;
    submit(&store, vec![task(1)]).await;
    written(&store, |connection| query::execute(connection, "UPDATE tasks SET life = '{}'", ())).await;
    let error = store.get(vec![task_id(1)]).await.expect_err("refuses");
    assert!(matches!(&error, StoreError::Damaged { what: "life", .. }), "{error}");
    let error = store.cancel(vec![task_id(1)], at(2)).await.expect_err("refuses");
    assert!(matches!(&error, StoreError::Damaged { what: "life", .. }), "{error}");
}

#[tokio::test]
async fn calls_that_wait_share_a_commit_and_fail_alone() {
    let (store, _folder) = fresh().await;
    let store = Arc::new(store);
    submit(&*store, vec![task(1)]).await;
    let before = commits(&store).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=64 {
        let store = Arc::clone(&store);
        // the first call tells of a task and then fails
        let tasks = if number == 1 { vec![task(1000), task(1)] } else { vec![task(number)] };
        calls.spawn(async move { (number, store.submit(submission(tasks)).await) });
    }
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer.is_ok(), number != 1, "{number}: the id of the first is taken, {answer:?}");
    }
    let commits = commits(&store).await - before - 1;
    assert!((1..=4).contains(&commits), "{commits} commits for 64 calls");
    let count = store.count(TaskFilter::default()).await.expect("counts");
    assert_eq!(count.get(&StateName::Queued), Some(&64));
    let recent = store.recent.after(EventId::START, 1000).expect("are kept");
    let file = store.readers.long(|connection| outbox::events(connection, EventId::START, 1000)).await.expect("reads");
    assert_eq!((recent.len(), &recent), (64, &file), "what was rolled back is not told");
}

#[tokio::test]
async fn a_call_of_a_thousand_tasks_is_one_commit() {
    let (store, _folder) = fresh().await;
    store.claim(endpoint(1), session(1, 1000), Vec::new(), at(1)).await.expect("claims");
    let before = commits(&store).await;
    submit(&store, (1..=1000).map(task).collect()).await;
    let leased = store.lease(request(1000)).await.expect("leases");
    let reports = leased.iter().map(|leased| report(leased.attempt, Outcome::Succeeded)).collect();
    let (reported, _) = store.report(holder(1), reports, at(20)).await.expect("reports");
    assert_eq!((leased.len(), reported.len()), (1000, 1000));
    assert!(reported.iter().all(Result::is_ok));
    assert_eq!(commits(&store).await - before - 1, 3);
}

/// What SQLite says of how it would answer.
async fn plan(store: &SqliteStore, statement: &str) -> String {
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let lines = store.readers.long(move |connection| {
        // a place without a value is null
        let places = connection.prepare(&explain)?.parameter_count();
        let values = rusqlite::params_from_iter(vec![None::<i64>; places]);
        query::all(connection, &explain, values, |row| rows::column::<String>(row, "detail"))
    });
    lines.await.expect("a plan").join("\n")
}

#[tokio::test]
async fn calls_use_their_indexes_and_sort_nothing() {
    let (store, _folder) = fresh().await;
    let waiting = plan(&store, changes::WAITING).await;
    assert!(waiting.contains("USING INDEX tasks_queued (endpoint=? AND lane=?)"), "{waiting}");
    assert!(!waiting.contains("TEMP B-TREE"), "{waiting}");
    let lives = plan(&store, changes::LIFE).await;
    assert!(lives.contains("SEARCH tasks USING INDEX sqlite_autoindex_tasks_1 (id=?)"), "{lives}");
    let write = plan(&store, rows::WRITE).await;
    assert!(write.contains("SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"), "{write}");
    let overdue = plan(&store, changes::OVERDUE).await;
    let backlog = plan(&store, tasks::BACKLOG).await;
    assert!(backlog.contains("USING COVERING INDEX tasks_queued (endpoint=? AND lane=?)"), "{backlog}");
    let lane = plan(&store, tasks::NEXT_LANE).await;
    assert!(lane.contains("INDEX tasks_queued (endpoint=? AND lane>?)") && !lane.contains("TEMP B-TREE"), "{lane}");
    for index in ["tasks_held (lease_until<?)", "tasks_due (due<?)"] {
        assert!(overdue.contains(index), "{index}: {overdue}");
    }
    for (statement, index) in [
        (tasks::KNOWN, "SEARCH requests USING PRIMARY KEY (owner=? AND request=?)"),
        (outbox::NEWEST, "sqlite_autoindex_tasks_1 (id=?)"),
        (outbox::EVENT, "INTEGER PRIMARY KEY (rowid=?)"),
        (tasks::OLD, "tasks_ended (ended<?)"),
        (
            "SELECT tasks.*, config FROM tasks JOIN pools ON number = pool WHERE TRUE AND action = ? ORDER BY id DESC LIMIT ?",
            "tasks_action (action=?)",
        ),
        (
            "SELECT state, sum(tasks) AS number FROM task_counts WHERE TRUE AND endpoint = ? GROUP BY state",
            "task_counts USING PRIMARY KEY (endpoint=?)",
        ),
        (outbox::FORGET_ACTION, "COVERING INDEX tasks_action (action=?)"),
    ] {
        let plan = plan(&store, statement).await;
        assert!(plan.contains(index) && !plan.contains("ORDER BY"), "{statement}: {plan}");
    }
}

/// Not a test of its own: what the process does that the test below kills.
#[test]
fn submits_until_it_is_killed() {
    let Ok(path) = std::env::var(CRASHING) else { return };
    run(async {
        let store = Arc::new(opened(Path::new(&path)).await);
        for first in (0..200_000).step_by(8) {
            let mut calls = tokio::task::JoinSet::new();
            for number in first..first + 8 {
                let store = Arc::clone(&store);
                calls.spawn(async move { store.submit(submission(vec![task(number + 1)])).await.map(|_| number + 1) });
            }
            for number in calls.join_all().await {
                println!("\nacknowledged {}", number.expect("submits"));
            }
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    for _ in 0..3 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let acknowledged = killed_after(rand::rng().random_range(1..400), &path);
        run(async {
            let store = opened(&path).await;
            let ids = acknowledged.iter().map(|number| task_id(*number)).collect();
            let found = store.get(ids).await.expect("reads");
            let lost = found.iter().filter(|record| record.is_none()).count();
            assert_eq!(lost, 0, "of {} acknowledged tasks", acknowledged.len());
            submit(&store, vec![task(u128::MAX)]).await;
        });
    }
}

/// Numbers of the tasks that a process acknowledged before it was killed, which was after so many.
fn killed_after(most: usize, path: &Path) -> Vec<u128> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["store::sqlite::tests::submits_until_it_is_killed", "--exact", "--nocapture"])
        .env(CRASHING, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut acknowledged = Vec::new();
    for line in lines {
        let line = line.expect("reads");
        // the test harness has its own lines
        acknowledged.extend(line.strip_prefix("acknowledged ").and_then(|number| number.parse::<u128>().ok()));
        if acknowledged.len() == most {
            child.kill().expect("kills");
        }
    }
    child.wait().expect("ends");
    assert!(acknowledged.len() >= most, "it ended by itself after {}", acknowledged.len());
    acknowledged
}
