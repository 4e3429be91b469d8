//! The endpoints that the store remembers, at hand: who they belong to and what they are called. What they say of
//! themselves is not kept here.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::ControllerError;
use super::access::Caller;
use crate::ids::EndpointId;
use crate::store::EndpointRecord;
use crate::task::names::{EndpointName, Group, Subject, printable};
use crate::task::time::Moment;

/// Who an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: EndpointName,
    pub(super) owner: Subject,
    pub(super) group: Option<Group>,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(super) struct Directory(RwLock<BTreeMap<EndpointId, Entry>>);

impl Directory {
    pub(super) fn new(records: Vec<EndpointRecord>) -> Self {
        let entries =
            records.into_iter().map(|EndpointRecord { id, name, owner, group, .. }| (id, Entry { name, owner, group }));
        Self(RwLock::new(entries.collect()))
    }

    pub(super) fn entry(&self, id: EndpointId) -> Option<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn set(&self, id: EndpointId, entry: Entry) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
    }

    pub(super) fn remove(&self, id: EndpointId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The endpoints that a caller may mean by an id or a name, one at least. One that it may not know of does not exist
    /// for it.
    pub(super) fn find(&self, caller: &Caller, text: &str) -> Result<Vec<EndpointId>, ControllerError> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let none = || ControllerError::NoEndpoint(printable(text, 64));
        let seen = |entry: &Entry| caller.sees(&entry.owner, entry.group.as_ref());
        if let Ok(id) = text.parse::<EndpointId>() {
            return entries.get(&id).filter(|entry| seen(entry)).map(|_| vec![id]).ok_or_else(none);
        }
        let named = entries.iter().filter(|(_, entry)| entry.name.as_str() == text && seen(entry));
        let ids: Vec<EndpointId> = named.map(|(id, _)| *id).collect();
        if ids.is_empty() { Err(none()) } else { Ok(ids) }
    }
}

/// Of several endpoints of one name, the one that a caller means: one's own, else of whoever had the name first; and of
/// that owner's the one that is online.
///
/// # Errors
/// Two of that owner's are online.
pub(super) fn choose(
    caller: &Caller,
    name: &str,
    records: Vec<EndpointRecord>,
    now: Moment,
) -> Result<EndpointId, ControllerError> {
    // not whoever is online: a name that is taken does not pass to others while its owner's endpoint rests
    let first = records.iter().min_by_key(|record| (record.owner != *caller.subject(), record.registered, record.id));
    let Some(owner) = first.map(|record| record.owner.clone()) else {
        return Err(ControllerError::NoEndpoint(printable(name, 64)));
    };
    let of_owner = || records.iter().filter(|record| record.owner == owner);
    let is_online = |record: &EndpointRecord| record.session.as_ref().is_some_and(|session| session.until > now);
    let online: Vec<EndpointId> = of_owner().filter(|record| is_online(record)).map(|record| record.id).collect();
    match online[..] {
        [endpoint] => Ok(endpoint),
        // one that was configured anew has another id: the one that was heard of last
        [] => {
            let latest = of_owner().max_by_key(|record| (record.seen, record.id));
            latest.map(|record| record.id).ok_or_else(|| ControllerError::NoEndpoint(printable(name, 64)))
        }
        [..] => Err(ControllerError::SeveralEndpoints { name: name.to_owned(), ids: online }),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::controller::access::testing::caller;
    use crate::ids::SessionId;
    use crate::store::{EndpointSession, Role};

    fn record(number: u128, owner: &str, registered: u64, seen: u64, until: Option<u64>) -> EndpointRecord {
        let session = until.map(|until| EndpointSession {
            id: SessionId::new(Uuid::from_u128(number)),
            host: "login1".into(),
            until: Moment::from_millis(until),
        });
        EndpointRecord {
            id: EndpointId::new(Uuid::from_u128(number)),
            name: "polaris".parse().expect("a name"),
            owner: owner.parse().expect("a subject"),
            group: None,
            registered: Moment::from_millis(registered),
            session,
            status: String::new(),
            seen: Moment::from_millis(seen),
        }
    }

    #[test]
    fn a_name_means_ones_own_endpoint_else_the_first_ones() {
        let ada = caller(&[Role::Submit]);
        let now = Moment::from_millis(100);
        let chosen = |records: &[EndpointRecord]| choose(&ada, "polaris", records.to_vec(), now);
        let (old, new) = (record(1, "ada", 1, 10, Some(50)), record(2, "ada", 20, 30, None));
        assert_eq!(chosen(&[old.clone(), new.clone()]).expect("the newer"), new.id, "configured anew, and stopped");
        let online = record(3, "ada", 2, 5, Some(101));
        assert_eq!(chosen(&[new.clone(), old.clone(), online.clone()]).expect("it runs"), online.id);
        let other = record(4, "bob", 0, 99, Some(200));
        assert_eq!(chosen(&[other.clone(), old.clone()]).expect("one's own"), old.id, "though it does not run");
        let late = record(5, "eve", 9, 99, Some(200));
        let sleeping = EndpointRecord { session: None, ..other };
        assert_eq!(chosen(&[late, sleeping.clone()]).expect("the first"), sleeping.id, "though it does not run");
        let several = chosen(&[online.clone(), record(6, "ada", 3, 5, Some(101))]).expect_err("two run").to_string();
        assert!(several.contains(&online.id.to_string()) && several.contains("online"), "{several}");
    }

    fn entry(name: &str, owner: &str, group: Option<&str>) -> Entry {
        Entry {
            name: name.parse().expect("a name"),
            owner: owner.parse().expect("a subject"),
            group: group.map(|group| group.parse().expect("a group")),
        }
    }

    #[test]
    fn endpoints_are_found_by_id_and_by_a_name_that_is_one() {
        let id = |number| EndpointId::new(Uuid::from_u128(number));
        let directory = Directory::default();
        directory.set(id(1), entry("polaris", "bob", Some("8-id")));
        directory.set(id(2), entry("polaris", "bob", None));
        directory.set(id(3), entry("crux", "ada", None));
        directory.set(id(4), entry("crux", "ada", None));
        let ada = caller(&[Role::Submit]);
        assert_eq!(directory.find(&ada, "polaris").expect("the one that is seen"), [id(1)]);
        assert_eq!(directory.find(&ada, &id(3).to_string()).expect("one's own"), [id(3)]);
        assert_eq!(directory.find(&ada, "crux").expect("two"), [id(3), id(4)]);
        directory.remove(id(3));
        assert_eq!(directory.find(&ada, "crux").expect("one is left"), [id(4)]);
        for hidden in [&id(2).to_string(), &id(9).to_string(), "theta\x1b"] {
            let error = directory.find(&ada, hidden).expect_err("none").to_string();
            assert!(error.starts_with("there is no endpoint") && !error.contains('\x1b'), "{error}");
        }
    }
}
