//! Controller, endpoint, worker and executors together: what people do with them, and what they see.

use std::fs;

use speckled::store::StateName;
use speckled::task::failure::Fault;
use speckled::task::spec::{BatchSetupSpec, TaskSpec};

use crate::world::{Site, done, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_each_kind_come_to_their_end() {
    let site = Site::running(60, 2);
    let correlation = site.correlation("one");
    let setup = BatchSetupSpec { directories: vec![site.at("out/batch/a"), site.at("out/batch/b")] };
    let specs = vec![
        TaskSpec::Correlate(Box::new(correlation.clone())),
        TaskSpec::BatchSetup(setup),
        Site::step("mark"),
        TaskSpec::Nothing,
    ];
    let tasks = site.submit(specs).await;
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Succeeded && task.attempt == 1), "{over:?}");
    let result = over[0].result.as_ref().expect("a result");
    assert_eq!(result.files, [site.at("out/sim_one_results.hdf")]);
    speckled::dataset::result::verify(&result.files[0], correlation.analyses).expect("whole");
    assert!(result.log.as_ref().expect("a log").lines.contains("qmap read"));
    assert!(site.at("out/batch/b").is_dir());
    site.expect_one_after_the_other("mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_may_not_do_is_refused_with_the_reason() {
    let site = Site::running(60, 2);
    std::os::unix::fs::symlink("/etc", site.at("data/way")).expect("a link");
    let with = |raw: &str| {
        let mut spec = site.correlation("x");
        spec.raw = site.dir.path().join(raw);
        TaskSpec::Correlate(Box::new(spec))
    };
    let unknown = TaskSpec::Command(speckled::task::spec::CommandSpec {
        template: "rm".parse().expect("a name"),
        values: Default::default(),
        time_limit: None,
    });
    let cases = [
        (with("/etc/passwd"), "raw data: /etc/passwd lies outside"),
        (with("data/../controller/controller.db"), "lies outside"),
        (with("data/way/passwd"), "lies outside"),
        (TaskSpec::BatchSetup(BatchSetupSpec { directories: vec![site.at("data/new")] }), "directory: "),
        (unknown, "there is no command \"rm\" at this endpoint; known are: held, leaving, open, seated, step, stray"),
    ];
    let tasks = site.submit(cases.iter().map(|(spec, _)| spec.clone()).collect()).await;
    let over = site.until_over(&tasks).await;
    for (task, (_, words)) in over.iter().zip(cases) {
        let failure = task.failure.as_ref().expect("it failed");
        assert!(failure.fault == Fault::Input && failure.message().contains(words), "{words}: {failure:?}");
        assert_eq!(task.attempt, 1, "what is not allowed is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_is_cancelled_with_all_its_processes() {
    let site = Site::running(60, 1);
    let tasks = site.submit(vec![site.held("mark"), site.held("other")]).await;
    let go = site.let_go("mark");
    site.until(tasks[0], |task| task.state == StateName::Running).await;
    let mut client = site.client().await;
    client.cancel(&tasks).await.expect("may");
    let over = site.until_over(&tasks).await;
    assert!(over.iter().all(|task| task.state == StateName::Cancelled), "{over:?}");
    assert!(!site.marks("mark").contains("end") && site.marks("other").is_empty());
    assert_eq!(site.processes(&site.text("marks")), [].into(), "no process is left");
    drop(go);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_started_asked_stopped_and_deleted() {
    let mut site = Site::new(60, 1);
    let started = done(site.on_endpoint(&["start", "site", "--detach"]));
    assert!(started.contains("endpoint site is ready"), "{started}");
    let again = site.on_endpoint(&["start", "site", "--detach"]);
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(76) && error.contains("is in use by process"), "{error}");
    let task = site.submit(vec![site.held("mark")]).await[0];
    let go = site.let_go("mark");
    site.until(task, |task| task.state == StateName::Running).await;
    // the journal has it once the controller was told
    let tasks = done(site.on_endpoint(&["tasks", "site"]));
    assert!(tasks.contains(&task.to_string()) && tasks.contains("running"), "{tasks}");
    let status = done(site.on_endpoint(&["status", "site", "--patience", "10000"]));
    for words in ["it takes tasks", "session with", "1 of 1 slots busy", "it is online on"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    done(site.on_endpoint(&["doctor", "site"]));
    let refused = site.on_endpoint(&["delete", "site"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("runs (process"));
    done(site.on_endpoint(&["stop", "site"]));
    assert_eq!(site.processes("worker"), [].into(), "workers end with it");
    let returned = site.until(task, |task| task.state == StateName::Queued).await;
    assert_eq!(returned.attempt, 1, "what ran was given back at once");
    drop(go);
    let status = site.on_endpoint(&["status", "site", "--patience", "10000", "--output", "json"]);
    assert_eq!(status.status.code(), Some(69));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["controller"]["online"], false);
    assert_eq!(status["disagreements"], serde_json::json!([]));
    let refused = site.on_endpoint(&["delete", "site"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(77) && error.contains("has 1 tasks that have not ended"), "{error}");
    site.client().await.cancel(&[task]).await.expect("may");
    done(site.on_endpoint(&["delete", "site"]));
    assert!(!site.at("home/site").exists());
    assert_eq!(site.client().await.list_endpoints().await.expect("may"), [], "it said goodbye");
    site.endpoint = None;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_what_happens_to_their_tasks() {
    let site = Site::running(60, 1);
    let token = site.text("controller/admin.token");
    let ask = |args: &[&str]| {
        let mine = ["--controller", site.controller.url.as_str(), "--token-file", &token];
        crate::world::speckled(&[args, &mine].concat()).output().expect("runs")
    };
    let receipt = site.client().await.submit(order(vec![site.held("first"), Site::step("second")])).await.expect("may");
    let (action, tasks) = (receipt.action.to_string(), receipt.tasks);
    let [first, second] = [tasks[0].0.to_string(), tasks[1].0.to_string()];
    let go = site.let_go("first");
    site.until(tasks[0].0, |task| task.state == StateName::Running).await;
    let second_waits = done(ask(&["explain", &second]));
    assert!(
        second_waits.contains("endpoint site has it") && second_waits.contains("waits for a slot"),
        "{second_waits}"
    );
    assert!(done(ask(&["explain", &first])).contains("attempt 1 began"));
    let status = done(ask(&["status"]));
    assert!(status.contains("site: online on") && status.contains("1 running"), "{status}");
    assert!(done(ask(&["status", "--output", "quiet"])).contains("site online"));
    let refused = ask(&["task", "retry", &first]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not over; cancel it first"));
    done(ask(&["task", "cancel", &first]));
    site.until_over(&[tasks[0].0, tasks[1].0]).await;
    drop(go);
    let watched = ask(&["watch", "--action", &action]);
    assert_eq!(watched.status.code(), Some(75), "one was cancelled");
    let again = done(ask(&["task", "retry", &first, "--output", "quiet"]));
    let again = again.trim();
    assert!(again != first && !again.is_empty(), "a new task");
    drop(tokio::task::block_in_place(|| site.let_go("first")));
    done(ask(&["task", "wait", again]));
    let watched = ask(&["watch", "--action", &action, "--output", "quiet"]);
    assert_eq!((watched.status.code(), watched.stdout.len()), (Some(75), 0), "all are over, the cancelled one too");
    let logs = ask(&["task", "logs", again]);
    let error = String::from_utf8_lossy(&logs.stderr).into_owned();
    assert!(logs.status.code() == Some(77) && error.contains("has left no output"), "{error}");
    let correlation = site.submit(vec![TaskSpec::Correlate(Box::new(site.correlation("logged")))]).await[0];
    site.until_over(&[correlation]).await;
    assert!(done(ask(&["task", "logs", &correlation.to_string()])).contains("qmap read"));
    let none = ask(&["watch", "--action", &correlation.to_string()]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no action"));
}

#[test]
fn a_configuration_is_made_and_its_mistakes_are_named() {
    let site = Site::new(60, 1);
    let home = site.text("new");
    let token = site.text("controller/admin.token");
    let configure = |more: &[&str]| {
        let args = ["endpoint", "configure", "new", "--directory", &home, "--token-file", &token, "--controller"];
        let args: Vec<&str> =
            args.iter().copied().chain([site.controller.url.as_str()]).chain(more.iter().copied()).collect();
        crate::world::speckled(&args).output().expect("runs")
    };
    let wrong = configure(&["--read", "/", "--slots", "99999"]);
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(78) && error.contains("workers.slots: 99999 is too many"), "{error}");
    assert!(!site.at("new").exists(), "nothing is left of it");
    done(configure(&["--read", &site.text("data"), "--write", &site.text("out")]));
    done(crate::world::speckled(&["endpoint", "doctor", "new", "--directory", &home]).output().expect("runs"));
    let config = site.at("new/config.yaml");
    let text = fs::read_to_string(&config).expect("written");
    fs::write(&config, text.replace("slots: 1", "slot: 1")).expect("written");
    let unwell = crate::world::speckled(&["endpoint", "doctor", "new", "--directory", &home]).output().expect("runs");
    let found = String::from_utf8_lossy(&unwell.stdout).into_owned();
    assert!(!unwell.status.success() && found.contains("WRONG") && found.contains("slot"), "{found}");
    let start = crate::world::speckled(&["endpoint", "start", "new", "--directory", &home]).output().expect("runs");
    assert_eq!(start.status.code(), Some(78), "{}", String::from_utf8_lossy(&start.stderr));
}
