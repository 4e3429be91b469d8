//! Tests: what was opened with a token ends soon after the token does.

use std::time::Duration;

use super::tests::{Talker, World, order, status};
use super::*;
use crate::controller::Policy;
use crate::rpc::client::Changes;
use crate::store::{StateName, TaskFilter};

/// Longer than a heartbeat, much less than any other time.
const SOON: Duration = Duration::from_secs(20);

async fn world() -> World {
    let policy = Policy { heartbeat: Duration::from_millis(200), ..Policy::default() };
    World::with(DoorLimits::controller(1024), policy).await
}

/// What a watch ends with.
async fn end(changes: &mut Changes) -> Status {
    let ended = async {
        loop {
            match changes.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(error) => return status(error),
            }
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends")
}

#[tokio::test]
async fn a_revoked_token_ends_its_watches_and_sessions() {
    let world = world().await;
    let mut ada = world.ada().await;
    let mut talker = Talker::new(&mut ada).await;
    let mut viewer = world.client(&world.tokens[1].1).await;
    let mut changes = viewer.watch(&TaskFilter::default()).await.expect("may");
    let mut own = ada.watch(&TaskFilter::default()).await.expect("may");
    ada.submit(order("polaris", 1)).await.expect("accepted");
    assert_eq!(changes.next().await.expect("may").expect("goes on").state, StateName::Queued);
    let now = world.controller.now();
    assert!(world.controller.revoke_token(world.tokens[1].0, now).await.expect("revoked"));
    let ended = end(&mut changes).await;
    assert!(ended.code() == Code::Unauthenticated && ended.message().contains("revoked"), "{ended}");
    // the other token's go on
    own.next().await.expect("may").expect("goes on");
    assert!(world.controller.revoke_token(world.tokens[0].0, now).await.expect("revoked"));
    let ended = end(&mut own).await;
    assert!(ended.code() == Code::Unauthenticated, "{ended}");
    let ended = async {
        loop {
            match talker.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
        }
    };
    let ended = tokio::time::timeout(SOON, ended).await.expect("it ends");
    assert!(ended.code() == Code::Unauthenticated && ended.message().contains("revoked"), "{ended}");
    world.end().await;
}

#[tokio::test]
async fn an_expired_token_ends_its_watches() {
    let world = world().await;
    let expires = world.controller.now().after(Duration::from_secs(2));
    let token = world.add_token(Some(expires)).await;
    let mut changes = world.client(&token).await.watch(&TaskFilter::default()).await.expect("may");
    let ended = end(&mut changes).await;
    assert!(ended.code() == Code::Unauthenticated && ended.message().contains("expired"), "{ended}");
    assert!(world.controller.now() >= expires, "not before");
    world.end().await;
}
