//! What the journal promises, on real files: cut and damaged ones, full disks, processes that are killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use rand::Rng;
use tempfile::TempDir;

use super::*;
use crate::endpoint::ledger::tests::{attempt, entry, handed, leased, ledger, over, started, taken};
use crate::task::spec::{BatchSetupSpec, TaskSpec};

/// Where the process that is killed has its journal.
const CRASHING: &str = "SPECKLED_TEST_JOURNAL";

/// Where the process with a small disk has its journal.
const SMALL_DISK: &str = "SPECKLED_TEST_SMALL_DISK";

/// No journal of a test grows so large.
const NEVER: u64 = u64::MAX;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn file(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// Appends, and waits until that is on the disk.
async fn keep(journal: &mut Journal, entries: &[Entry]) {
    let mark = journal.append(entries).expect("appends");
    journal.sync();
    while journal.synced().await.expect("syncs") < mark {}
}

/// A journal of these appends, each brought to the disk; returns the bytes after each.
async fn written(dir: &Path, appends: &[Vec<Entry>]) -> Vec<usize> {
    let (mut journal, _, _) = Journal::open(dir).expect("opens");
    let mut ends = Vec::new();
    for entries in appends {
        keep(&mut journal, entries).await;
        ends.push(fs::read(file(dir)).expect("reads").len());
    }
    journal.close().await;
    ends
}

async fn reopened(dir: &Path) -> (Ledger, Recovered) {
    let (journal, ledger, recovered) = Journal::open(dir).expect("opens");
    journal.close().await;
    (ledger, recovered)
}

/// Three appends of one or more entries.
fn three() -> Vec<Vec<Entry>> {
    vec![vec![taken(1, 1), taken(2, 1)], vec![handed(1, 1, 7)], vec![started(1, 1), over(2, 1, "two\n"), taken(3, 2)]]
}

#[tokio::test]
async fn what_was_appended_is_there_again() {
    let dir = dir();
    let inside = dir.path().join("state/endpoint");
    written(&inside, &three()).await;
    let (again, recovered) = reopened(&inside).await;
    assert_eq!(again, ledger(three().concat()));
    assert_eq!(recovered, Recovered { entries: 6, cut_bytes: 0 });
    fs::set_permissions(file(&inside), fs::Permissions::from_mode(0o644)).expect("opens it to all");
    reopened(&inside).await;
    for entry in fs::read_dir(&inside).expect("lists") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("a mode").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn an_append_that_was_cut_off_is_cut_away_wherever_that_was() {
    let dir = dir();
    let ends = written(dir.path(), &three()).await;
    let whole = fs::read(file(dir.path())).expect("reads");
    for end in ends[1]..ends[2] {
        fs::write(file(dir.path()), &whole[..end]).expect("cuts");
        let (journal, before, recovered) = Journal::open(dir.path()).expect("opens");
        assert_eq!(before, ledger(three()[..2].concat()), "{end}");
        assert_eq!(recovered, Recovered { entries: 3, cut_bytes: (end - ends[1]) as u64 });
        journal.append(&[taken(9, 1)]).expect("appends");
        journal.close().await;
        let (after, recovered) = reopened(dir.path()).await;
        assert_eq!(after, ledger([three()[..2].concat(), vec![taken(9, 1)]].concat()), "{end}");
        assert_eq!(recovered, Recovered { entries: 4, cut_bytes: 0 });
    }
}

#[tokio::test]
async fn a_last_append_that_reached_the_disk_in_parts_is_cut_away() {
    let dir = dir();
    let ends = written(dir.path(), &three()).await;
    let whole = fs::read(file(dir.path())).expect("reads");
    for at in ends[1]..ends[2] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(file(dir.path()), &damaged).expect("damages");
        let (before, recovered) = reopened(dir.path()).await;
        assert_eq!(before, ledger(three()[..2].concat()), "{at}");
        assert_eq!(recovered.cut_bytes, (ends[2] - ends[1]) as u64, "{at}");
    }
}

#[tokio::test]
async fn damage_before_the_end_is_told_and_left_as_it_is() {
    let dir = dir();
    let ends = written(dir.path(), &three()).await;
    let whole = fs::read(file(dir.path())).expect("reads");
    for at in record::HEADER.len()..ends[1] {
        // also the bytes of a length, which then leads beyond the file's end
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        fs::write(file(dir.path()), &damaged).expect("damages");
        let begin = if at < ends[0] { record::HEADER.len() } else { ends[0] };
        let error = Journal::open(dir.path()).expect_err("refuses");
        assert!(matches!(&error, JournalError::Damaged { offset, .. } if *offset == begin as u64), "{at}: {error}");
        let path = file(dir.path()).display().to_string();
        assert!(error.to_string().starts_with(&format!("{path} is damaged at byte {begin}")), "{error}");
        assert_eq!(fs::read(file(dir.path())).expect("reads"), damaged, "{at}");
    }
}

#[tokio::test]
async fn what_a_power_cut_left_in_disorder_is_cut_away_if_nobody_was_told_of_it() {
    let dir = dir();
    let [first, second, third] = three().try_into().expect("three");
    let (mut journal, _, _) = Journal::open(dir.path()).expect("opens");
    keep(&mut journal, &first).await;
    let synced = fs::read(file(dir.path())).expect("reads").len();
    journal.append(&second).expect("appends");
    let torn = fs::read(file(dir.path())).expect("reads").len();
    journal.append(&third).expect("appends");
    journal.close().await;
    let whole = fs::read(file(dir.path())).expect("reads");
    for at in synced..torn {
        // the second did not reach the disk, the third did
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        fs::write(file(dir.path()), &damaged).expect("damages");
        let (before, recovered) = reopened(dir.path()).await;
        assert_eq!(before, ledger(first.clone()), "{at}");
        assert_eq!(recovered.cut_bytes, (whole.len() - synced) as u64, "{at}");
    }
}

#[test]
fn what_may_not_have_reached_the_disk_is_written_again() {
    let dir = dir();
    let (mut log, _, _) = Log::open(dir.path(), NEVER).expect("opens");
    let encoded = |entries: &[Entry]| record::encode(entries, log_path()).expect("encodes");
    fn log_path() -> &'static Path {
        Path::new("journal")
    }
    log.append(&encoded(&[taken(1, 1)])).expect("appends");
    let sync = log.begin_sync().expect("can").expect("there is something");
    let begin = record::HEADER.len();
    let mut bytes = fs::read(file(dir.path())).expect("reads");
    let whole = bytes.clone();
    // the system reports a page that it could not write once, and then takes it for written
    bytes[begin..].fill(0);
    fs::write(file(dir.path()), &bytes).expect("loses it");
    let failed = log.end_sync(&sync, Err(io::Error::from_raw_os_error(5)));
    assert!(matches!(failed, Err(JournalError::Io { step: "syncing", .. })), "{failed:?}");
    let again = log.begin_sync().expect("can").expect("there is something");
    assert_eq!(fs::read(file(dir.path())).expect("reads"), whole);
    again.wait().expect("syncs");
    log.end_sync(&again, Ok(())).expect("notes it");
    assert!(log.begin_sync().expect("can").is_none());
}

#[tokio::test]
async fn what_another_program_wrote_is_refused() {
    let dir = dir();
    for bytes in [&b""[..], b"speckled journal 1\n", b"certainly no journal"] {
        fs::write(file(dir.path()), bytes).expect("writes");
        let error = Journal::open(dir.path()).expect_err("refuses");
        assert!(matches!(error, JournalError::NoJournal { .. }), "{error}");
    }
    let strange = record::record(b"{\"strange\":1}\n", 0);
    let bytes = [record::HEADER, &strange, &strange].concat();
    fs::write(file(dir.path()), &bytes).expect("writes");
    let error = Journal::open(dir.path()).expect_err("refuses");
    assert!(matches!(error, JournalError::UnknownEntry { offset: 19, .. }), "{error}");
    assert_eq!(fs::read(file(dir.path())).expect("reads"), bytes);
}

#[tokio::test]
async fn an_entry_without_a_text_is_refused_alone() {
    let dir = dir();
    let (journal, _, _) = Journal::open(dir.path()).expect("opens");
    let mut nameless = leased(attempt(2, 1));
    let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff]));
    nameless.spec = TaskSpec::BatchSetup(BatchSetupSpec { directories: vec![path] });
    let error = journal.append(&[taken(1, 1), Entry::Taken(nameless)]).expect_err("refuses");
    assert!(matches!(error, JournalError::Encode { .. }), "{error}");
    journal.append(&[taken(3, 1)]).expect("appends");
    journal.close().await;
    assert_eq!(reopened(dir.path()).await.0, ledger([taken(3, 1)]));
}

#[tokio::test]
async fn one_process_has_the_directory() {
    let dir = dir();
    let (journal, _, _) = Journal::open(dir.path()).expect("opens");
    journal.append(&[taken(1, 1)]).expect("appends");
    let error = Journal::open(dir.path()).expect_err("is held").to_string();
    let wanted = format!("{} is in use by process {} on ", dir.path().display(), std::process::id());
    assert!(error.starts_with(&wanted), "{error}");
    // to look is allowed
    let (seen, recovered) = read(dir.path()).expect("reads");
    assert_eq!((seen, recovered), (ledger([taken(1, 1)]), Recovered { entries: 1, cut_bytes: 0 }));
    journal.close().await;
    reopened(dir.path()).await;
}

#[tokio::test]
async fn appends_share_a_wait_for_the_disk() {
    let dir = dir();
    let (log, _, _) = Log::open(dir.path(), NEVER).expect("opens");
    let (mut journal, work) = Journal::new(log);
    for task in 1..=64_u64 {
        assert_eq!(journal.append(&[taken(task.into(), 1)]).expect("appends"), AppendMark(task));
        journal.sync();
    }
    assert_eq!(journal.syncs(), 0);
    assert!(journal.unsynced() > 64 * 50);
    let thread = std::thread::spawn(work);
    assert_eq!(journal.synced().await.expect("syncs"), AppendMark(64));
    assert_eq!((journal.syncs(), journal.unsynced()), (1, 0));
    journal.append(&[taken(65, 1)]).expect("appends");
    drop(journal);
    thread.join().expect("ends when nobody can append any more");
    assert_eq!(reopened(dir.path()).await.0.len(), 65);
}

#[tokio::test]
async fn a_thread_that_fails_is_told_once() {
    let dir = dir();
    let (log, _, _) = Log::open(dir.path(), NEVER).expect("opens");
    let (mut journal, work) = Journal::new(log);
    drop(work);
    assert!(matches!(journal.synced().await, Err(JournalError::Ended { .. })));
    let mut again = std::pin::pin!(journal.synced());
    assert!(std::future::poll_fn(|context| std::task::Poll::Ready(again.as_mut().poll(context))).await.is_pending());
}

#[tokio::test]
async fn a_large_journal_is_compacted_once_half_of_it_is_settled() {
    let dir = dir();
    let (mut journal, _, _) = Journal::open_compacting(dir.path(), 10_000).expect("opens");
    let length = || fs::metadata(file(dir.path())).expect("is there").len();
    for task in 1..=100 {
        journal.append(&[taken(task, 1)]).expect("appends");
    }
    let all = length();
    assert!(all > 10_000, "nothing is settled: {all}");
    let first: Vec<_> = (1..=20).map(|task| attempt(task, 1)).collect();
    keep(&mut journal, &[Entry::Settled(first)]).await;
    // when this one is on the disk, it has been decided whether to compact after the one before
    keep(&mut journal, &[Entry::Settled(vec![])]).await;
    assert!(length() > all, "less than half is settled");
    let rest: Vec<_> = (21..=70).map(|task| attempt(task, 1)).collect();
    keep(&mut journal, &[Entry::Settled(rest)]).await;
    keep(&mut journal, &[taken(200, 1)]).await;
    journal.close().await;
    assert!(length() < all * 2 / 5, "{} of {all}", length());
    let (again, recovered) = reopened(dir.path()).await;
    assert_eq!(again, ledger((71..=100).chain([200]).map(|task| taken(task, 1))));
    assert_eq!(recovered.entries, 31);
}

#[tokio::test]
async fn a_compaction_that_ends_anywhere_leaves_the_same_book() {
    let dir = dir();
    let entries = [three().concat(), vec![Entry::Settled(vec![attempt(2, 1)])]].concat();
    written(dir.path(), std::slice::from_ref(&entries)).await;
    let wanted = ledger(entries);
    let old = fs::read(file(dir.path())).expect("reads");
    let new = dir.path().join("journal.new");
    file::write_snapshot(dir.path(), &wanted).expect("writes");
    let snapshot = fs::read(&new).expect("reads");
    assert!(snapshot.len() < old.len());
    for end in 0..=snapshot.len() {
        fs::write(&new, &snapshot[..end]).expect("cuts");
        assert_eq!(reopened(dir.path()).await.0, wanted, "{end}");
        assert!(!new.exists(), "{end}");
        assert_eq!(fs::read(file(dir.path())).expect("reads"), old);
    }
    fs::write(&new, &snapshot).expect("writes");
    fs::rename(&new, file(dir.path())).expect("takes its place");
    assert_eq!(reopened(dir.path()).await, (wanted, Recovered { entries: 4, cut_bytes: 0 }));
}

#[tokio::test]
async fn a_compaction_that_fails_costs_nothing() {
    let dir = dir();
    let (mut journal, _, _) = Journal::open_compacting(dir.path(), 1_000).expect("opens");
    fs::create_dir(dir.path().join("journal.new")).expect("stands in the way");
    for task in 1..=50 {
        keep(&mut journal, &[taken(task, 1), Entry::Settled(vec![attempt(task, 1)])]).await;
    }
    keep(&mut journal, &[taken(51, 1)]).await;
    journal.close().await;
    fs::remove_dir(dir.path().join("journal.new")).expect("is out of the way");
    assert_eq!(reopened(dir.path()).await, (ledger([taken(51, 1)]), Recovered { entries: 101, cut_bytes: 0 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_file_makes_the_same_book(
        appends in prop::collection::vec((prop::collection::vec(entry(), 1..8), any::<bool>()), 1..20)
    ) {
        run(async {
            let dir = dir();
            let mut wanted = Ledger::default();
            let (mut journal, _, _) = Journal::open_compacting(dir.path(), 600).expect("opens");
            for (entries, reopen) in appends {
                journal.append(&entries).expect("appends");
                for entry in entries {
                    let _refused = wanted.apply(entry);
                }
                if reopen {
                    journal.close().await;
                    let found;
                    (journal, found, _) = Journal::open_compacting(dir.path(), 600).expect("opens");
                    assert_eq!(found, wanted);
                }
            }
            journal.close().await;
            assert_eq!(reopened(dir.path()).await.0, wanted);
        });
    }
}

/// A run of one test of this program as a process of its own.
fn child(mut command: Command, test: &str) -> Command {
    command.args([&format!("endpoint::journal::tests::{test}"), "--exact", "--nocapture"]);
    command.stdout(Stdio::piped());
    command
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program")
}

/// Not a test of its own: what the process does that the test below kills. It compacts often.
#[test]
fn appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CRASHING) else { return };
    run(async {
        let (journal, _, _) = Journal::open_compacting(Path::new(&dir), 3_000).expect("opens");
        for task in 1..2_000_000 {
            journal.append(&[taken(task, 1)]).expect("appends");
            println!("\ntaken {task}");
            // one of eight stays
            if task % 8 == 0 {
                journal.sync();
                continue;
            }
            println!("\nsettling {task}");
            let settled = Entry::Settled(vec![attempt(task, 1)]);
            journal.append(&[over(task, 1, "done"), settled]).expect("appends");
            println!("\nsettled {task}");
        }
    });
}

/// What the killed process said.
#[derive(Default)]
struct Said {
    taken: Vec<u128>,
    settling: Vec<u128>,
    settled: Vec<u128>,
}

fn killed_after(lines: usize, dir: &Path) -> Said {
    let mut command = child(Command::new(this_program()), "appends_until_it_is_killed");
    let mut child: Child = command.env(CRASHING, dir).spawn().expect("starts");
    let (mut said, mut heard) = (Said::default(), 0);
    for line in BufReader::new(child.stdout.take().expect("is piped")).lines() {
        let line = line.expect("reads");
        let Some((word, Ok(task))) = line.split_once(' ').map(|(word, task)| (word, task.parse())) else { continue };
        match word {
            "taken" => said.taken.push(task),
            "settling" => said.settling.push(task),
            "settled" => said.settled.push(task),
            _ => continue,
        }
        heard += 1;
        if heard == lines {
            child.kill().expect("kills");
        }
    }
    child.wait().expect("ends");
    assert!(heard >= lines, "it ended by itself after {heard} lines");
    said
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    for _ in 0..8 {
        let dir = dir();
        let said = killed_after(rand::rng().random_range(1..1_500), dir.path());
        let (ledger, recovered) = run(reopened(dir.path()));
        let has = |task: &u128| ledger.get(attempt(*task, 1)).is_some();
        let lost: Vec<_> = said.taken.iter().filter(|task| !said.settling.contains(task) && !has(task)).collect();
        assert!(lost.is_empty(), "{lost:?} of {} were lost, {recovered:?}", said.taken.len());
        let back: Vec<_> = said.settled.iter().filter(|task| has(task)).collect();
        assert!(back.is_empty(), "{back:?} came back after they had been settled");
    }
}

/// Not a test of its own: what a process does on a disk of 256 KiB.
#[test]
fn fills_its_disk() {
    let Ok(dir) = std::env::var(SMALL_DISK) else { return };
    let dir = Path::new(&dir);
    run(async {
        fs::write(dir.join("others"), vec![1; 100_000]).expect("others take room");
        let (journal, _, _) = Journal::open(dir).expect("opens");
        let mut kept = 0;
        let error = loop {
            let entries: Vec<_> = (1..=7).map(|task| taken(kept + task, 1)).collect();
            let before = fs::metadata(file(dir)).expect("is there").len();
            match journal.append(&entries) {
                Ok(_) => kept += 7,
                Err(error) => {
                    assert_eq!(fs::metadata(file(dir)).expect("is there").len(), before);
                    break error;
                }
            }
        };
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!("no space is left for {}; make room on its file system", file(dir).display())
        );
        assert!(journal.append(&[over(1, 1, &"x".repeat(50_000))]).is_err());
        // a full disk does not keep it from starting
        journal.close().await;
        let filled = fs::File::create(dir.join("more")).and_then(|more| fill(&more));
        assert!(filled.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull));
        let (journal, found, _) = Journal::open(dir).expect("opens");
        assert_eq!(found.len() as u128, kept);
        assert!(matches!(journal.append(&[over(1, 1, &"x".repeat(50_000))]), Err(JournalError::Full { .. })));
        fs::remove_file(dir.join("others")).expect("makes room");
        journal.append(&[over(1, 1, &"x".repeat(50_000))]).expect("appends");
        journal.close().await;
        let (again, recovered) = reopened(dir).await;
        assert_eq!(recovered, Recovered { entries: u64::try_from(kept).expect("a disk is full") + 1, cut_bytes: 0 });
        assert_eq!((again.len() as u128, again.reports().count()), (kept, 1));
        println!("\nfilled and emptied");
    });
}

/// Writes until nothing fits.
fn fill(mut file: &fs::File) -> io::Result<()> {
    loop {
        file.write_all(&[0])?;
    }
}

/// The disk is mounted in a mount namespace of its own, which ends with the process: nothing is to be unmounted. Where
/// neither root nor a user namespace is to be had, the test fails.
#[test]
fn a_full_disk_is_told_and_survived() {
    let dir = dir();
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mut command = Command::new("unshare");
    let mount = r#"mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@""#;
    command.args([namespaces, "sh", "-c", mount, "sh"]).arg(dir.path()).arg(this_program());
    let run = child(command, "fills_its_disk").env(SMALL_DISK, dir.path()).output().expect("runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("filled and emptied"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
