//! What the holder of a token may see and do. Pure.

use thiserror::Error;

use crate::ids::TokenId;
use crate::store::{NewTask, Role, TaskFilter, TokenRecord};
use crate::task::names::{Group, Subject};
use crate::task::time::Moment;

/// Somebody whose token was found and is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    token: TokenId,
    digest: [u8; 32],
    expires: Option<Moment>,
    subject: Subject,
    roles: Vec<Role>,
    groups: Vec<Group>,
}

/// Why somebody may not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// No such token: the same answer for an unknown and a mistyped one.
    #[error("the token is not valid; ask the controller's administrator for one")]
    Unknown,
    /// It was revoked.
    #[error("the token of {0} was revoked; ask the controller's administrator for a new one")]
    Revoked(Subject),
    /// It has expired.
    #[error("the token of {0} has expired; ask the controller's administrator for a new one")]
    Expired(Subject),
    /// It allows something else than when it was shown.
    #[error("the token of {0} was changed; connect again")]
    Changed(Subject),
    /// A role is missing.
    #[error("the token of {subject} has not the role {role:?}; ask the controller's administrator for it")]
    Role {
        /// Whose token it is.
        subject: Subject,
        /// What it lacks.
        role: Role,
    },
    /// Not a member.
    #[error("the token of {subject} is not for the group {group}")]
    Group {
        /// Whose token it is.
        subject: Subject,
        /// The group.
        group: Group,
    },
}

impl Caller {
    /// The holder of a token, if it is valid now.
    ///
    /// # Errors
    /// There is no such token, or no longer.
    pub fn new(token: Option<TokenRecord>, now: Moment) -> Result<Self, Denied> {
        let TokenRecord { id: token, digest, subject, roles, groups, made: _, expires, revoked } =
            token.ok_or(Denied::Unknown)?;
        match (revoked, expires) {
            (Some(_), _) => Err(Denied::Revoked(subject)),
            (None, Some(end)) if end <= now => Err(Denied::Expired(subject)),
            (None, Some(_) | None) => Ok(Self { token, digest, expires, subject, roles, groups }),
        }
    }

    /// What the store finds the token by.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// When the token ends by itself.
    pub(super) fn expires(&self) -> Option<Moment> {
        self.expires
    }

    /// By which token.
    pub fn token(&self) -> TokenId {
        self.token
    }

    /// Who it is.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether the token has a role. Who operates may also see.
    ///
    /// # Errors
    /// It has not.
    pub fn needs(&self, role: Role) -> Result<(), Denied> {
        let implied = role == Role::View && self.has(Role::Operate);
        if self.has(role) || implied {
            return Ok(());
        }
        Err(Denied::Role { subject: self.subject.clone(), role })
    }

    /// Whether it may give tasks and endpoints to a group.
    ///
    /// # Errors
    /// The token is not for the group.
    pub fn member_of(&self, group: &Group) -> Result<(), Denied> {
        if self.groups.contains(group) {
            return Ok(());
        }
        Err(Denied::Group { subject: self.subject.clone(), group: group.clone() })
    }

    /// Whether it may know of what belongs to somebody and a group.
    pub fn sees(&self, owner: &Subject, group: Option<&Group>) -> bool {
        self.has(Role::Operate) || *owner == self.subject || group.is_some_and(|group| self.groups.contains(group))
    }

    /// Whether it may cancel a task: one's own, or anybody's for an operator. To see is not to command.
    pub fn commands(&self, task: &NewTask) -> bool {
        self.has(Role::Operate) || task.owner == self.subject && self.has(Role::Submit)
    }

    /// The filter, narrowed to what it may know of.
    #[must_use]
    pub fn narrow(&self, filter: TaskFilter) -> TaskFilter {
        if self.has(Role::Operate) {
            return filter;
        }
        TaskFilter { owners: vec![self.subject.clone()], groups: self.groups.clone(), ..filter }
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use uuid::Uuid;

    use super::*;
    use crate::ids::TokenId;

    /// A token of ada, for the group 8-id, that ends at 100 ms.
    pub(in crate::controller) fn token(roles: &[Role]) -> TokenRecord {
        TokenRecord {
            id: TokenId::new(Uuid::nil()),
            digest: [0; 32],
            subject: "ada".parse().expect("a subject"),
            roles: roles.to_vec(),
            groups: vec!["8-id".parse().expect("a group")],
            made: Moment::START,
            expires: Some(Moment::from_millis(100)),
            revoked: None,
        }
    }

    impl Caller {
        /// Somebody with no group.
        pub(in crate::controller) fn testing(subject: &str, roles: &[Role]) -> Self {
            let token =
                TokenRecord { subject: subject.parse().expect("a subject"), groups: Vec::new(), ..token(roles) };
            Self::new(Some(token), Moment::START).expect("a valid token")
        }
    }

    impl Caller {
        /// Somebody of a group.
        pub(in crate::controller) fn of_group(subject: &str, roles: &[Role], group: &str) -> Self {
            let groups = vec![group.parse().expect("a group")];
            let token = TokenRecord { subject: subject.parse().expect("a subject"), groups, ..token(roles) };
            Self::new(Some(token), Moment::START).expect("a valid token")
        }
    }

    /// Its holder.
    pub(in crate::controller) fn caller(roles: &[Role]) -> Caller {
        Caller::new(Some(token(roles)), Moment::from_millis(99)).expect("a valid token")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::testing::{caller, token};
    use super::*;

    #[test]
    fn tokens_end() {
        let now = Moment::from_millis(100);
        assert_eq!(Caller::new(None, now), Err(Denied::Unknown));
        assert!(matches!(Caller::new(Some(token(&[])), now), Err(Denied::Expired(_))));
        let revoked = TokenRecord { revoked: Some(now), ..token(&[]) };
        assert!(matches!(Caller::new(Some(revoked), Moment::START), Err(Denied::Revoked(_))));
    }

    #[test]
    fn roles_are_needed_and_operators_see() {
        assert!(caller(&[Role::View]).needs(Role::View).is_ok());
        assert!(caller(&[Role::Operate]).needs(Role::View).is_ok());
        for (has, lacks) in [(Role::View, Role::Submit), (Role::Operate, Role::Submit), (Role::Submit, Role::Endpoint)]
        {
            let denied = caller(&[has]).needs(lacks).expect_err("lacks it").to_string();
            assert!(denied.contains("ada") && denied.contains(&format!("{lacks:?}")), "{denied}");
        }
    }

    #[test]
    fn to_see_is_not_to_command() {
        use crate::ids::{ActionId, EndpointId, TaskId};
        use crate::task::life::Limits;
        use crate::task::pool::Pool;
        use crate::task::spec::TaskSpec;
        let of = |owner: &str| NewTask {
            id: TaskId::new(Uuid::nil()),
            action: ActionId::new(Uuid::nil()),
            endpoint: EndpointId::new(Uuid::nil()),
            pool: Pool::default(),
            owner: owner.parse().expect("a subject"),
            group: Some("8-id".parse().expect("a group")),
            label: None,
            spec: TaskSpec::Nothing,
            priority: 0,
            deadline: None,
            limits: Limits::default(),
            submitted: Moment::START,
        };
        assert!(caller(&[Role::Submit]).commands(&of("ada")) && !caller(&[Role::Submit]).commands(&of("bob")));
        assert!(!caller(&[Role::View]).commands(&of("ada")));
        assert!(caller(&[Role::Operate]).commands(&of("bob")));
    }

    #[test]
    fn foreign_groups_are_closed() {
        let (ada, bob): (Subject, Subject) = ("ada".parse().expect("name"), "bob".parse().expect("name"));
        let (ours, theirs): (Group, Group) = ("8-id".parse().expect("name"), "9-id".parse().expect("name"));
        let view = caller(&[Role::View]);
        assert!(view.member_of(&ours).is_ok() && view.member_of(&theirs).is_err());
        assert!(view.sees(&ada, None) && view.sees(&bob, Some(&ours)));
        assert!(!view.sees(&bob, None) && !view.sees(&bob, Some(&theirs)));
        assert!(caller(&[Role::Operate]).sees(&bob, Some(&theirs)));
        let narrowed = view.narrow(TaskFilter { owners: vec![bob.clone()], ..TaskFilter::default() });
        assert_eq!((narrowed.owners, narrowed.groups), (vec![ada], vec![ours]));
        let open = caller(&[Role::Operate]).narrow(TaskFilter { owners: vec![bob.clone()], ..TaskFilter::default() });
        assert_eq!(open.owners, [bob]);
    }
}
