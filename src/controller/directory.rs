//! The endpoints that the store remembers, at hand: who they belong to and what they are called. What they say of
//! themselves is not kept here.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::ControllerError;
use super::access::Caller;
use crate::ids::EndpointId;
use crate::store::EndpointRecord;
use crate::task::names::{EndpointName, Group, Subject, printable};

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

    /// The endpoint that a caller means by an id or a name. One that it may not know of does not exist for it.
    pub(super) fn find(&self, caller: &Caller, text: &str) -> Result<EndpointId, ControllerError> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let none = || ControllerError::NoEndpoint(printable(text, 64));
        let seen = |entry: &Entry| caller.sees(&entry.owner, entry.group.as_ref());
        if let Ok(id) = text.parse::<EndpointId>() {
            return entries.get(&id).filter(|entry| seen(entry)).map(|_| id).ok_or_else(none);
        }
        let named = entries.iter().filter(|(_, entry)| entry.name.as_str() == text && seen(entry));
        let ids: Vec<EndpointId> = named.map(|(id, _)| *id).collect();
        match ids[..] {
            [] => Err(none()),
            [id] => Ok(id),
            [..] => Err(ControllerError::SeveralEndpoints { name: text.to_owned(), ids }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::controller::access::testing::caller;
    use crate::store::Role;

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
        assert_eq!(directory.find(&ada, "polaris").expect("the one that is seen"), id(1));
        assert_eq!(directory.find(&ada, &id(3).to_string()).expect("one's own"), id(3));
        let several = directory.find(&ada, "crux").expect_err("two").to_string();
        assert!(several.contains(&id(3).to_string()) && several.contains(&id(4).to_string()), "{several}");
        for hidden in [&id(2).to_string(), &id(9).to_string(), "theta\x1b"] {
            let error = directory.find(&ada, hidden).expect_err("none").to_string();
            assert!(error.starts_with("there is no endpoint") && !error.contains('\x1b'), "{error}");
        }
    }
}
