//! Promises about endpoints, their sessions, and tokens.

use super::*;
use crate::ids::TokenId;
use crate::store::{Claim, EndpointForgotten, Role, TokenRecord};

pub(in super::super) async fn one_session_holds_a_name<S: Store>(store: &S) {
    let claim = |number, until, now| store.claim(endpoint(1), session(number, until), Vec::new(), at(now));
    assert_eq!(claim(1, 50, 10).await.expect("claims"), Claim::Granted);
    assert_eq!(claim(2, 90, 20).await.expect("answers"), Claim::Held(session(1, 50)));
    assert_eq!(claim(1, 60, 30).await.expect("claims"), Claim::Granted, "the same session");
    assert_eq!(claim(2, 90, 59).await.expect("answers"), Claim::Held(session(1, 60)));
    assert_eq!(claim(2, 90, 60).await.expect("claims"), Claim::Granted, "the old one has run out");
    assert_eq!(claim(1, 99, 61).await.expect("answers"), Claim::Held(session(2, 90)));
    let replace =
        |number, dead| store.claim(endpoint(1), session(number, 99), vec![session_id(99), session_id(dead)], at(62));
    assert_eq!(replace(3, 1).await.expect("answers"), Claim::Held(session(2, 90)), "the dead one is not the holder");
    assert_eq!(replace(3, 2).await.expect("claims"), Claim::Granted, "the holder is known to be dead");
}

pub(in super::super) async fn a_beat_renews_only_the_holder<S: Store>(store: &S) {
    let beat =
        |number, until, now| store.beat(holder(1), session(number, until), format!("{{\"now\":{now}}}"), at(now));
    assert_eq!(beat(1, 50, 1).await.expect("answers"), Claim::Open, "nobody claimed it");
    store.claim(endpoint(1), session(1, 50), Vec::new(), at(10)).await.expect("claims");
    assert_eq!(beat(1, 70, 20).await.expect("beats"), Claim::Granted);
    assert_eq!(beat(2, 90, 30).await.expect("answers"), Claim::Held(session(1, 70)));
    assert_eq!(beat(2, 90, 80).await.expect("answers"), Claim::Held(session(1, 70)), "a beat takes no name");
    let found = store.endpoints().await.expect("reads");
    let expected = EndpointRecord {
        session: Some(session(1, 70)),
        status: "{\"now\":20}".to_owned(),
        seen: at(20),
        ..endpoint(1)
    };
    assert_eq!(found, [expected]);
    assert_eq!(beat(1, 99, 80).await.expect("beats"), Claim::Granted, "it ran out, and nobody else came");
}

pub(in super::super) async fn a_name_is_given_back_by_its_holder<S: Store>(store: &S) {
    store.claim(endpoint(1), session(1, 500), Vec::new(), at(10)).await.expect("claims");
    store.release(endpoint_id(1), session_id(2), at(11)).await.expect("answers");
    assert_eq!(store.endpoints().await.expect("reads")[0].session, Some(session(1, 500)));
    store.release(endpoint_id(1), session_id(1), at(12)).await.expect("releases");
    assert_eq!(store.endpoints().await.expect("reads")[0].session, None);
    let beat = store.beat(holder(1), session(1, 600), "{}".to_owned(), at(11)).await;
    assert_eq!(beat.expect("answers"), Claim::Open);
    let claimed = store.claim(endpoint(1), session(2, 600), Vec::new(), at(11)).await;
    assert_eq!(claimed.expect("claims"), Claim::Granted);
}

pub(in super::super) async fn an_endpoint_keeps_its_first_owner<S: Store>(store: &S) {
    store.claim(endpoint(2), session(1, 50), Vec::new(), at(10)).await.expect("claims");
    store.claim(endpoint(1), session(3, 50), Vec::new(), at(10)).await.expect("claims");
    let renamed = EndpointRecord {
        name: "a-first".parse().expect("a name"),
        owner: "eve".parse().expect("a subject"),
        group: None,
        status: "[]".to_owned(),
        ..endpoint(2)
    };
    store.claim(renamed.clone(), session(2, 80), Vec::new(), at(60)).await.expect("claims");
    let second = EndpointRecord {
        owner: endpoint(2).owner,
        group: endpoint(2).group,
        session: Some(session(2, 80)),
        seen: at(60),
        ..renamed
    };
    let first = EndpointRecord { session: Some(session(3, 50)), seen: at(10), ..endpoint(1) };
    assert_eq!(store.endpoints().await.expect("reads"), [second.clone(), first.clone()], "by name");
    for group in [Some("aps-9id".parse().expect("a group")), None] {
        let regrouped = EndpointRecord { group, ..second.clone() };
        store.claim(regrouped.clone(), session(2, 80), Vec::new(), at(60)).await.expect("claims");
        assert_eq!(store.endpoints().await.expect("reads"), [regrouped, first.clone()], "its owner's newest group");
    }
}

pub(in super::super) async fn a_name_of_a_group_is_its_first_owners<S: Store>(store: &S) {
    let of = |number, owner: &str, group: Option<&str>| EndpointRecord {
        name: "polaris".parse().expect("a name"),
        owner: owner.parse().expect("a subject"),
        group: group.map(|group| group.parse().expect("a group")),
        registered: at(number),
        ..endpoint(u128::from(number))
    };
    let claim = |record: EndpointRecord| store.claim(record, session(1, 50), Vec::new(), at(10));
    assert_eq!(claim(of(1, "ann", Some("8id"))).await.expect("claims"), Claim::Granted);
    let taken = Claim::NameTaken { owner: "ann".parse().expect("a subject") };
    assert_eq!(claim(of(2, "eve", Some("8id"))).await.expect("answers"), taken);
    assert_eq!(store.endpoints().await.expect("reads").len(), 1, "nothing of it is kept");
    for free in [of(3, "eve", Some("9id")), of(4, "eve", None), of(5, "ann", Some("8id")), of(1, "ann", Some("8id"))] {
        assert_eq!(claim(free).await.expect("claims"), Claim::Granted);
    }
    assert_eq!(claim(of(3, "eve", Some("8id"))).await.expect("answers"), taken, "it comes into the group with it");
    let first = store.endpoints().await.expect("reads").into_iter().find(|found| found.id == endpoint_id(1));
    assert_eq!(first.expect("is there").registered, at(1), "since it had the name");
    let renamed =
        EndpointRecord { name: "crux".parse().expect("a name"), registered: at(9), ..of(1, "ann", Some("8id")) };
    claim(renamed).await.expect("claims");
    let first = store.endpoints().await.expect("reads").into_iter().find(|found| found.id == endpoint_id(1));
    assert_eq!(first.expect("is there").registered, at(9), "another name");
}

pub(in super::super) async fn an_endpoint_without_process_and_work_is_forgotten<S: Store>(store: &S) {
    let forget = |dead, now| store.forget_endpoint(endpoint_id(1), dead, at(now));
    assert_eq!(forget(Vec::new(), 1).await.expect("answers"), EndpointForgotten::Absent);
    store.claim(endpoint(1), session(1, 50), Vec::new(), at(10)).await.expect("claims");
    let online = EndpointForgotten::Online { host: "login1".to_owned() };
    assert_eq!(forget(vec![session_id(2)], 20).await.expect("answers"), online);
    store.claim(endpoint(2), session(5, 50), Vec::new(), at(10)).await.expect("claims");
    submit(store, vec![NewTask { endpoint: endpoint_id(2), action: action_id(2), ..task(8) }]).await;
    let busy = store.forget_endpoint(endpoint_id(2), vec![session_id(5)], at(20)).await;
    assert_eq!(busy.expect("answers"), EndpointForgotten::HasTasks(1));
    assert_eq!(store.endpoints().await.expect("reads")[1].session, None, "its process is dead all the same");
    submit(store, vec![task(7)]).await;
    assert_eq!(forget(Vec::new(), 60).await.expect("answers"), EndpointForgotten::HasTasks(1));
    store.cancel(vec![task_id(7)], at(61)).await.expect("cancels");
    assert_eq!(forget(vec![session_id(1)], 20).await.expect("answers"), EndpointForgotten::Done, "its process is dead");
    assert_eq!(store.endpoints().await.expect("reads").len(), 1, "the other one");
    assert_eq!(forget(Vec::new(), 62).await.expect("answers"), EndpointForgotten::Absent);
    assert_eq!(store.connect(endpoint_id(1), session_id(1), at(63)).await.expect("answers"), None);
    // somebody else's from now on, and what spoke for it before does not
    let other = EndpointRecord { owner: "eve".parse().expect("a subject"), group: None, ..endpoint(1) };
    store.claim(other.clone(), session(3, 90), Vec::new(), at(70)).await.expect("claims");
    let found = store.endpoints().await.expect("reads").remove(0);
    assert_eq!(found, EndpointRecord { session: Some(session(3, 90)), seen: at(70), ..other });
    let beat = store.beat(holder(1), session(3, 99), String::new(), at(71)).await;
    assert_eq!(beat.expect("answers"), Claim::Open, "an old connection");
}

fn token(number: u8, made: u64) -> TokenRecord {
    TokenRecord {
        id: TokenId::new(Uuid::from_u128(u128::from(number))),
        digest: [number; 32],
        subject: "ann".parse().expect("a subject"),
        roles: vec![Role::Submit, Role::Endpoint],
        groups: vec!["aps-8id".parse().expect("a group")],
        made: at(made),
        expires: Some(at(made + 100)),
        revoked: None,
    }
}

pub(in super::super) async fn tokens_are_found_by_digest_and_revoked<S: Store>(store: &S) {
    let (first, second) = (TokenRecord { roles: Vec::new(), expires: None, ..token(9, 1) }, token(1, 2));
    store.add_token(second.clone()).await.expect("keeps");
    store.add_token(first.clone()).await.expect("keeps");
    assert_eq!(store.tokens().await.expect("reads"), [first.clone(), second.clone()], "oldest first");
    assert_eq!(store.token([1; 32]).await.expect("reads"), Some(second.clone()));
    assert_eq!(store.token([2; 32]).await.expect("reads"), None);
    assert!(store.revoke_token(second.id, at(50)).await.expect("revokes"));
    assert!(store.revoke_token(second.id, at(60)).await.expect("revokes"), "again");
    assert!(!store.revoke_token(TokenId::new(Uuid::from_u128(77)), at(50)).await.expect("answers"));
    let revoked = TokenRecord { revoked: Some(at(50)), ..second };
    assert_eq!(store.token([1; 32]).await.expect("reads"), Some(revoked), "the first revocation counts");
    store.add_token(TokenRecord { digest: [3; 32], ..first }).await.expect_err("the id is taken");
}
