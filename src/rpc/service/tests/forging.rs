//! Only the holder speaks: every message of an endpoint, said of attempts that it does not hold, changes nothing. Said by a
//! foreign endpoint, by an older session and by an older connection; of a foreign, an older and an unknown attempt.

use super::*;
use crate::ids::TaskId;

/// Everything that can be said of an attempt, each message with a number of its own.
fn said_of(attempt: &wire::AttemptId) -> Vec<wire::from_endpoint::Message> {
    use wire::from_endpoint::Message;
    use wire::report::Outcome;
    let attempts = vec![attempt.clone()];
    let failure = wire::Failure { fault: wire::Fault::Input as i32, message: "forged".into() };
    let outcomes = [
        Outcome::Succeeded(wire::Succeeded {}),
        Outcome::Failed(failure),
        Outcome::Cancelled(wire::Cancelled {}),
        Outcome::Lost(wire::Loss::Returned as i32),
    ];
    let report = |outcome| {
        let result = wire::TaskResult { files: vec!["/etc/passwd".into()], ..Default::default() };
        wire::Report { attempt: Some(attempt.clone()), outcome: Some(outcome), result: Some(result) }
    };
    let mut said = vec![
        Message::Started(wire::Started { attempts: attempts.clone() }),
        Message::Heartbeat(wire::Heartbeat { status: "{}".into(), attempts, more: false }),
        Message::Progress(wire::AttemptProgress {
            attempt: Some(attempt.clone()),
            progress: Some(wire::Progress { step: "forged".into(), done: 1, total: 2 }),
        }),
    ];
    said.extend(outcomes.map(|outcome| Message::Reports(wire::Reports { reports: vec![report(outcome)] })));
    said
}

impl Talker {
    /// Says everything of an attempt; returns once all of it was heard, or the session was ended for it.
    async fn forge(&mut self, attempt: &wire::AttemptId) {
        for (number, what) in std::iter::zip(100.., said_of(attempt)) {
            if self.send.send(message(number, what)).await.is_err() {
                return;
            }
        }
        let last = 200;
        let heartbeat = wire::Heartbeat { status: "{}".into(), attempts: Vec::new(), more: false };
        if self.send.send(message(last, wire::from_endpoint::Message::Heartbeat(heartbeat))).await.is_err() {
            return;
        }
        while let Ok(Some(answer)) = self.answers.message().await {
            if matches!(answer.message, Some(wire::to_endpoint::Message::Renewed(wire::Renewed { number, .. })) if number == last)
            {
                return;
            }
        }
    }

    /// The attempt of the one task that it is leased.
    async fn leased(&mut self) -> wire::AttemptId {
        loop {
            if let wire::to_endpoint::Message::Leases(wire::Leases { leases }) = self.hear().await {
                return leases[0].attempt.clone().expect("an attempt");
            }
        }
    }
}

/// A task as the store has it: with its lease, attempts and result.
async fn kept(world: &World, task: TaskId) -> String {
    let found = world.controller.records([task].into()).await.expect("reads");
    format!("{:?}", found.first().expect("is known"))
}

/// An attempt of a task that nobody knows.
fn unknown() -> wire::AttemptId {
    wire::AttemptId { task: ids::task().to_string(), number: 1 }
}

#[tokio::test]
async fn a_foreign_endpoint_is_not_believed() {
    let world = World::new().await;
    let mut ada = world.ada().await;
    let mut holder = Talker::new(&mut ada).await;
    holder.say(1, credit(1)).await;
    let task = ada.submit(order("polaris", 1)).await.expect("accepted").tasks[0].0;
    let attempt = holder.leased().await;
    let before = kept(&world, task).await;
    let mut eve = world.eve().await;
    let mut foreign = Talker::named(&mut eve, "eves").await;
    for attempt in [attempt.clone(), wire::AttemptId { number: 2, ..attempt.clone() }, unknown()] {
        foreign.forge(&attempt).await;
        assert_eq!(kept(&world, task).await, before, "{attempt:?}");
    }
    // as the endpoint that it is not
    let taken = eve.endpoints().register(register(holder.endpoint, ids::session())).await.expect_err("refused");
    assert_eq!(taken.code(), Code::PermissionDenied, "{taken}");
    let (send, receive) = tokio::sync::mpsc::channel(8);
    send.send(hello(holder.endpoint, holder.session)).await.expect("room");
    eve.endpoints().session(ReceiverStream::new(receive)).await.expect_err("not hers");
    // the holder goes on
    holder.say(2, wire::from_endpoint::Message::Started(wire::Started { attempts: vec![attempt] })).await;
    let running = |record: &String| record.contains("Running");
    let mut now = kept(&world, task).await;
    while !running(&now) {
        tokio::task::yield_now().await;
        now = kept(&world, task).await;
    }
    world.end().await;
}

#[tokio::test]
async fn an_older_connection_and_an_older_session_are_not_believed() {
    let world = World::new().await;
    let mut ada = world.ada().await;
    let mut older = Talker::new(&mut ada).await;
    let (endpoint, session) = (older.endpoint, older.session);
    let mut newer = Talker::again(&mut ada, endpoint, session).await;
    newer.say(1, credit(1)).await;
    let task = ada.submit(order("polaris", 1)).await.expect("accepted").tasks[0].0;
    let attempt = newer.leased().await;
    let before = kept(&world, task).await;
    older.forge(&attempt).await;
    assert_eq!(kept(&world, task).await, before, "of an older connection");
    // another process takes over; what the first one holds is the endpoint's
    let next = ids::session();
    let request = wire::RegisterRequest { replaces: vec![session.to_string()], ..register(endpoint, next) };
    ada.endpoints().register(request).await.expect("takes over");
    let _newest = Talker::again(&mut ada, endpoint, next).await;
    newer.forge(&attempt).await;
    assert_eq!(kept(&world, task).await, before, "of an older session");
    world.end().await;
}

#[tokio::test]
async fn an_older_attempt_is_not_believed() {
    let world = World::new().await;
    let mut ada = world.ada().await;
    let mut holder = Talker::new(&mut ada).await;
    holder.say(1, credit(2)).await;
    let task = ada.submit(order("polaris", 1)).await.expect("accepted").tasks[0].0;
    let first = holder.leased().await;
    let lost = wire::report::Outcome::Lost(wire::Loss::Returned as i32);
    let report = wire::Report { attempt: Some(first.clone()), outcome: Some(lost), result: None };
    holder.say(2, wire::from_endpoint::Message::Reports(wire::Reports { reports: vec![report] })).await;
    let second = holder.leased().await;
    assert_eq!(second.number, first.number + 1);
    let before = kept(&world, task).await;
    // heartbeats leave out the newer attempt, which is not the holder's first
    for (number, what) in std::iter::zip(10.., said_of(&first)) {
        holder.say(number, what).await;
    }
    let heartbeat = wire::Heartbeat { status: "{}".into(), attempts: Vec::new(), more: false };
    holder.say(50, wire::from_endpoint::Message::Heartbeat(heartbeat)).await;
    loop {
        if matches!(holder.hear().await, wire::to_endpoint::Message::Renewed(renewed) if renewed.number == 50) {
            break;
        }
    }
    let after = kept(&world, task).await;
    assert!(!after.contains("passwd") && !after.contains("forged"), "{after}");
    assert!(before.contains("attempt") && after.contains(&format!("{:?}", holder.endpoint)), "{after}");
    world.end().await;
}
