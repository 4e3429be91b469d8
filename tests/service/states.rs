//! What is told of endpoints is true: of a process that hangs, died or is somebody else's, of a name that is used again,
//! of what is left when one is deleted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use speckled::controller::Submission;
use speckled::store::StateName;

use crate::world::{Site, done, order, speckled};

/// What a command that fails said, and its exit code.
fn failed(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A command of a client.
fn ask(site: &Site, args: &[&str]) -> Output {
    let token = site.text("controller/admin.token");
    let mine = ["--controller", site.controller.url.as_str(), "--token-file", &token];
    speckled(&[args, &mine].concat()).output().expect("runs")
}

/// The names that the controller lists, each with whether it is online.
fn listed(site: &Site) -> Vec<(String, bool)> {
    let list: Value = serde_json::from_str(&done(ask(site, &["endpoint", "list", "--output", "json"]))).expect("JSON");
    let all = list.as_array().expect("a list").iter();
    all.map(|endpoint| (endpoint["name"].as_str().expect("a name").to_owned(), endpoint["online"] == true)).collect()
}

/// What the doctor says of a check, and whether that is well.
fn checked(site: &Site, check: &str) -> (bool, String) {
    let output = site.on_endpoint(&["doctor", "site", "--output", "json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut all = findings.as_array().expect("a list").iter();
    let found = all.find(|finding| finding["check"] == check).expect("it was looked at");
    (found["well"] == true, found["found"].as_str().expect("words").to_owned())
}

fn process_state(site: &Site) -> String {
    let output = site.on_endpoint(&["status", "site", "--output", "quiet"]);
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_of_a_process_has_its_true_name() {
    let mut site = Site::new(60, 1);
    assert_eq!(process_state(&site), "dead");
    assert!(checked(&site, "process").0, "one that was never started is well");
    site.start_endpoint();
    assert_eq!(process_state(&site), "running");
    assert!(checked(&site, "process").1.contains("answers"));

    let pid = Pid::from_raw(site.endpoint.as_ref().expect("runs").pid().cast_signed()).expect("a process");
    kill_process(pid, Signal::STOP).expect("ours");
    let words = format!("was stopped by a signal; `kill -CONT {}` lets it go on", pid.as_raw_pid());
    assert_eq!(process_state(&site), "stopped");
    let (well, found) = checked(&site, "process");
    assert!(!well && found.contains(&words), "{found}");
    for command in ["stop", "restart"] {
        let (code, error) = failed(&site.on_endpoint(&[command, "site"]));
        assert!(code == Some(69) && error.contains(&words), "{command}: {error}");
    }
    kill_process(pid, Signal::CONT).expect("ours");
    assert_eq!(process_state(&site), "running");

    // it dies with a task
    let task = site.submit(vec![site.held("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    site.endpoint.take().expect("runs").kill();
    assert_eq!(process_state(&site), "dead");
    let (well, found) = checked(&site, "process");
    assert!(!well && found.contains("died with 1 tasks") && found.contains("endpoint start site"), "{found}");
    drop(go);

    let (_, error) = failed(
        &speckled(&["endpoint", "status", "other", "--directory", &site.text("home/no")]).output().expect("runs"),
    );
    assert!(!error.contains("does not run"), "{error}");
    // of another user, as for one without the right to look into any directory
    fs::set_permissions(site.at("home/site"), fs::Permissions::from_mode(0o0)).expect("ours");
    let mut command = Command::new("unshare");
    command.args(["-U", env!("CARGO_BIN_EXE_speckled"), "endpoint", "status", "site", "--directory"]);
    let status = command.arg(site.at("home/site")).output().expect("runs");
    fs::set_permissions(site.at("home/site"), fs::Permissions::from_mode(0o700)).expect("ours");
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.code() == Some(77) && said.contains("you may not look into"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_stopped_at_once_is_offline_at_once() {
    let site = Site::new(600, 1);
    for _ in 0..5 {
        done(site.on_endpoint(&["start", "site", "--detach"]));
        assert_eq!(listed(&site), [("site".to_owned(), true)]);
        done(site.on_endpoint(&["stop", "site"]));
        assert_eq!(listed(&site), [("site".to_owned(), false)]);
    }
    let status = done(ask(&site, &["status"]));
    assert!(status.contains("site: offline") && !status.contains("slots busy"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_endpoint_leaves_no_process_no_entry_and_no_jammed_name() {
    let mut site = Site::running(600, 1);
    let url = site.controller.url.clone();
    let task = site.submit(vec![site.leaving("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    site.endpoint.take().expect("runs").kill();
    assert!(!site.processes("worker").is_empty(), "it outlives its endpoint");
    let (code, error) = failed(&site.on_endpoint(&["delete", "site"]));
    assert!(code == Some(65) && error.contains("still has 1 tasks"), "{error}");
    let deleted = site.on_endpoint(&["delete", "site", "--force"]);
    assert!(failed(&deleted).1.contains("1 tasks that have not ended"), "what is left is told: {}", failed(&deleted).1);
    assert!(!site.at("home/site").exists());
    assert_eq!(site.processes("worker"), BTreeSet::new());
    assert_eq!(site.processes("sleep"), BTreeSet::new());
    drop(go);
    // the controller still has its task: it is told so there, and forgets it when that is over
    let (code, error) = failed(&ask(&site, &["endpoint", "forget", "site"]));
    assert!(code == Some(77) && error.contains("has 1 tasks"), "{error}");

    // configured anew, the name is the new one's
    site.configure(&url, 1);
    site.start_endpoint();
    let again = site.submit(vec![Site::step("again")]).await[0];
    assert_eq!(site.until_over(&[again]).await[0].state, StateName::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_used_again_and_forgotten() {
    let mut site = Site::running(600, 1);
    let url = site.controller.url.clone();
    done(site.on_endpoint(&["stop", "site"]));
    // the directory goes by hand, so that nobody told the controller
    fs::remove_dir_all(site.at("home/site")).expect("ours");
    site.endpoint = None;
    site.configure(&url, 1);
    site.start_endpoint();
    let mut both = listed(&site);
    both.sort();
    assert_eq!(both, [("site".to_owned(), false), ("site".to_owned(), true)]);
    let task = site.submit(vec![Site::step("mark")]).await[0];
    assert_eq!(site.until_over(&[task]).await[0].state, StateName::Succeeded, "the one that is online");
    let (code, error) = failed(&ask(&site, &["endpoint", "forget", "site"]));
    assert!(code == Some(77) && error.contains("is online on"), "{error}");
    let list: Value = serde_json::from_str(&done(ask(&site, &["endpoint", "list", "--output", "json"]))).expect("JSON");
    let old =
        list.as_array().expect("a list").iter().find(|endpoint| endpoint["online"] == false).expect("the old one");
    let old = old["id"].as_str().expect("an id").to_owned();
    done(ask(&site, &["endpoint", "forget", &old]));
    assert_eq!(listed(&site), [("site".to_owned(), true)]);
    let (code, error) = failed(&ask(&site, &["endpoint", "forget", &old]));
    assert!(code == Some(77) && error.contains("there is no endpoint"), "{error}");
    done(site.on_endpoint(&["stop", "site"]));
    done(site.on_endpoint(&["delete", "site"]));
    assert_eq!(listed(&site), [], "it said goodbye");
    site.endpoint = None;
    let refused = site.client().await.submit(order(vec![Site::step("late")])).await.expect_err("there is none");
    assert!(refused.to_string().contains("there is no endpoint site"), "{refused}");
}

/// Tasks that would have one result, of which one replaces the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_would_replace_anothers_result_is_refused() {
    use speckled::task::correlate::{CorrelateSpec, Overwrite};
    use speckled::task::spec::TaskSpec;
    let site = Site::new(60, 1);
    let spec = |raw| CorrelateSpec { overwrite: Overwrite::Replace, ..CorrelateSpec::new(raw, "/data/q.hdf", "/out") };
    let tasks = ["/data/a/sim.h5", "/data/b/sim.h5"].map(|raw| TaskSpec::Correlate(Box::new(spec(raw))));
    let order: Submission = order(tasks.into());
    let refused = site.client().await.submit(order).await.expect_err("one result").to_string();
    assert!(refused.contains("/data/a/sim.h5 and /data/b/sim.h5 would have the same result in /out"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_replaced_in_its_file_is_used() {
    let mut site = Site::new(60, 1);
    let controller = site.text("controller");
    let make = || {
        let args = ["token", "create", "--directory", &controller, "--subject", "ops", "--role", "endpoint"];
        done(speckled(&args).output().expect("runs")).trim().to_owned()
    };
    let file = site.at("endpoint.token");
    fs::write(&file, make()).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    let path = site.at("home/site/config.yaml");
    let config = fs::read_to_string(&path).expect("configured");
    fs::write(&path, config.replace(&site.text("controller/admin.token"), &site.text("endpoint.token")))
        .expect("written");
    site.start_endpoint();
    assert!(checked(&site, "controller").0, "a token for endpoints only is well");
    let tokens: Value = serde_json::from_str(&done(
        speckled(&["token", "list", "--directory", &controller, "--output", "json"]).output().expect("runs"),
    ))
    .expect("JSON");
    let old =
        tokens.as_array().expect("a list").iter().find(|token| token["subject"] == "ops").expect("made")["id"].clone();
    fs::write(&file, make()).expect("written");
    done(
        speckled(&["token", "revoke", "--directory", &controller, old.as_str().expect("an id")])
            .output()
            .expect("runs"),
    );
    // its session ends, and the next one is by the new token
    let task = ask(&site, &["endpoint", "list", "--output", "json"]);
    let list: Value = serde_json::from_str(&done(task)).expect("JSON");
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    let order = Submission { endpoint: id, ..order(vec![Site::step("mark")]) };
    let task = site.client().await.submit(order).await.expect("accepted").tasks[0].0;
    assert_eq!(site.until_over(&[task]).await[0].state, StateName::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_restored_from_a_backup_is_told() {
    let mut site = Site::running(60, 1);
    let first = site.submit(vec![Site::step("first")]).await;
    site.until_over(&first).await;
    site.controller.kill();
    let copy = |from: &str, to: &str| {
        fs::create_dir_all(site.at(to)).expect("made");
        for entry in fs::read_dir(site.at(from)).expect("there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("controller.db") {
                fs::copy(entry.path(), site.at(to).join(name)).expect("copied");
            }
        }
    };
    copy("controller", "backup");
    site.restart_controller();
    let second = site.submit(vec![Site::step("second")]).await;
    site.until_over(&second).await;
    let log = site.text("controller.log");
    let script = format!(r#"exec "$@" 2>{log}"#);
    site.controller.kill();
    site.restart_controller_within(&script);
    assert!(!fs::read_to_string(&log).expect("written").contains("restored"), "nothing was");
    site.controller.kill();
    for entry in fs::read_dir(site.at("controller")).expect("there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("controller.db") {
            fs::remove_file(entry.path()).expect("ours");
        }
    }
    let (from, to) = (site.at("backup"), site.at("controller"));
    for entry in fs::read_dir(from).expect("there").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    site.restart_controller_within(&script);
    let told = fs::read_to_string(&log).expect("written");
    assert!(told.contains("the store lacks the newest") && told.contains("restored from a backup"), "{told}");
    let third = site.submit(vec![Site::step("third")]).await;
    assert_eq!(site.until_over(&third).await[0].state, StateName::Succeeded, "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_directory_is_deleted_alone() {
    let site = Site::running(60, 1);
    done(Command::new("cp").arg("-a").arg(site.at("home/site")).arg(site.at("home/copy")).output().expect("runs"));
    let workers = site.processes("worker");
    let copy = site.text("home/copy");
    // the lock that is held is the original's
    let deleted = speckled(&["endpoint", "delete", "site", "--directory", &copy]).output().expect("runs");
    assert!(failed(&deleted).1.contains("is a copy"), "{}", failed(&deleted).1);
    done(deleted);
    assert!(!site.at("home/copy").exists());
    assert_eq!(site.processes("worker"), workers, "it goes on");
    assert_eq!(listed(&site), [("site".to_owned(), true)]);
    let task = site.submit(vec![Site::step("mark")]).await[0];
    assert_eq!(site.until_over(&[task]).await[0].state, StateName::Succeeded);
}
