//! Tests: whoever is silent, slow or flooding costs the controller a bounded amount, and keeps nobody out.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::tests::{World, order, status};
use super::*;
use crate::controller::Policy;
use crate::rpc::client::ClientError;
use crate::store::TaskFilter;
use crate::task::spec::{BatchSetupSpec, TaskSpec};

/// Longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// A stranger's time in these tests.
const SHORT: Duration = Duration::from_millis(500);

/// Waits until the controller ends a connection.
fn expect_end(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).expect("set");
    let mut heard = [0; 1024];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it was not ended: {error}"),
        }
    }
}

fn few() -> DoorLimits {
    DoorLimits::controller(100).with_patience(SHORT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out_and_are_ended() {
    let world = World::with(few(), Policy::default()).await;
    let address = world.url.trim_start_matches("http://").to_owned();
    let silent: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    let begun = Instant::now();
    let mut ada = world.ada().await;
    ada.list(&TaskFilter::default(), 1).await.expect("she gets in");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let (_, waiting, _) = world.door.counts();
    assert!(waiting <= few().waiting + 1, "{waiting}");
    tokio::task::block_in_place(|| silent.into_iter().for_each(expect_end));
    let (_, waiting, refused) = world.door.counts();
    // hers may have given way while the machine was busy: she came again
    assert!(waiting <= 1 && refused >= 150, "{waiting} {refused}");
    ada.list(&TaskFilter::default(), 1).await.expect("her connection stays");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_idle_gives_way_and_who_is_not_stays() {
    let limits = DoorLimits { connections: 2, of_peer: 2, waiting: 1, waiting_of_peer: 1, ..few() };
    let world = World::with(limits, Policy::default()).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        // each keeps its connection until another wants its place
        let mut client = world.ada().await;
        client.list(&TaskFilter::default(), 1).await.expect("it gets in");
        idle.push(client);
    }
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = world.ada().await;
        let watched = client.watch(&TaskFilter::default()).await.expect("it gets in");
        busy.push((client, watched));
    }
    let address = world.url.trim_start_matches("http://").to_owned();
    tokio::task::block_in_place(|| expect_end(TcpStream::connect(&address).expect("it listens")));
    for (client, _) in &mut busy {
        client.list(&TaskFilter::default(), 1).await.expect("they stay");
    }
    drop(busy);
    // a place is free when the controller has seen that they left
    let again = async {
        loop {
            let target = crate::rpc::client::Target {
                url: world.url.clone(),
                ca: None,
                token: world.tokens[0].1.clone(),
                identity: None,
            };
            let Ok(mut client) = crate::rpc::client::Client::connect(&target).await else { continue };
            if client.list(&TaskFilter::default(), 1).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, again).await.expect("there is room again");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_follows_a_bounded_number_of_tasks() {
    let world = World::new().await;
    let mut clients = [world.ada().await, world.ada().await];
    let mut watches = Vec::new();
    for number in 0..limits::WATCHES_OF_TOKEN {
        watches.push(clients[number % 2].watch(&TaskFilter::default()).await.expect("so many"));
    }
    let refused = status(clients[0].watch(&TaskFilter::default()).await.expect_err("one more"));
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("128 watches"), "{refused}");
    clients[1].list(&TaskFilter::default(), 1).await.expect("other calls go on");
    let mut other = world.client(&world.tokens[1].1).await;
    other.watch(&TaskFilter::default()).await.expect("another token has its own");
    drop(watches);
    let again = async { while clients[0].watch(&TaskFilter::default()).await.is_err() {} };
    tokio::time::timeout(LONG, again).await.expect("those that ended count no more");
    world.end().await;
}

/// Nearly as large as a message may be.
fn large() -> crate::controller::Submission {
    let mut large = order("polaris", 1);
    let directories = vec![std::path::PathBuf::from("/x".repeat(15 << 19))];
    large.tasks[0].spec = TaskSpec::BatchSetup(BatchSetupSpec { directories });
    large
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_at_once_are_bounded_by_token() {
    let world = World::new().await;
    let client = world.ada().await;
    let submitted: Vec<_> = (0..16)
        .map(|_| {
            let mut client = client.clone();
            crate::runtime::tasks::spawn("submits", async move { client.submit(large()).await })
        })
        .collect();
    let mut codes = Vec::new();
    for submitted in submitted {
        let error = submitted.await.expect("no panic").expect_err("there is no such endpoint");
        codes.push(status(error).code());
    }
    let exhausted = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    assert!(exhausted > 0 && exhausted < codes.len(), "{codes:?}");
    let alone = status(client.clone().submit(large()).await.expect_err("there is no such endpoint"));
    assert_ne!(alone.code(), Code::ResourceExhausted, "{alone}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_before_they_are_heard_and_then_cut_off() {
    let world = World::with(DoorLimits { patience: LONG, ..few() }, Policy::default()).await;
    let mut nobody = world.client(&format!("speckled_{}", "00".repeat(32))).await;
    for _ in 0..3 {
        let refused = status(nobody.submit(large()).await.expect_err("refused"));
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    // the next may still be answered
    let mut answered = 3;
    while let Err(ClientError::Refused(_)) = nobody.list(&TaskFilter::default(), 1).await {
        answered += 1;
        assert!(answered < 6, "its connection is ended");
    }
    world.end().await;
}
