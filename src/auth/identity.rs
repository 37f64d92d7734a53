//! Identities: a name, roles, tenants.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::event::{TenantId, UserId};

/// The name of every caller where `auth.mode` is `none`.
const ANONYMOUS: &str = "anonymous";

/// The longest name of an identity, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// The most tenants that one identity is given by name.
pub(super) const MAX_TENANTS: usize = 1_000;
/// Stands for all tenants in a list of them.
const EVERY_TENANT: &str = "*";

/// What somebody may do. No role has another's rights but for `admin`, which
/// has all, and `dlq.operator`, which may look as `dlq.viewer` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads the counters of everybody in their tenants.
    Reader,
    /// Reads the counters of one user.
    User,
    /// Looks at dead letters, without their bodies.
    DlqViewer,
    /// Replays, edits and discards dead letters, and reads their bodies.
    DlqOperator,
    /// Does everything, verifying and rebuilding among it.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 5] = [
        Role::Reader,
        Role::User,
        Role::DlqViewer,
        Role::DlqOperator,
        Role::Admin,
    ];

    /// Returns the name of the role in tokens and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::User => "user",
            Role::DlqViewer => "dlq.viewer",
            Role::DlqOperator => "dlq.operator",
            Role::Admin => "admin",
        }
    }

    /// Returns the role of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The roles that an identity has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    /// Returns the set of every role.
    pub fn all() -> Self {
        Self(Role::ALL.into())
    }

    /// Tells whether a role is one of them.
    pub fn contains(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().collect())
    }
}

/// The tenants that an identity may see and touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// All tenants, and what belongs to none.
    All,
    /// The tenants of these ids.
    Only(BTreeSet<String>),
}

impl Tenants {
    /// Reads a list of names, in which `*` stands for all. `None`: one of them cannot
    /// be a tenant's, or they are too many.
    pub(super) fn named<S: AsRef<str>>(names: &[S]) -> Option<Self> {
        if names.iter().any(|name| name.as_ref() == EVERY_TENANT) {
            return Some(Tenants::All);
        }
        if names.len() > MAX_TENANTS {
            return None;
        }
        let id = |name: &S| {
            let id = TenantId::new(name.as_ref()).ok()?;
            Some(id.to_string())
        };
        names.iter().map(id).collect::<Option<_>>().map(Self::Only)
    }

    /// Tells whether the tenant of this id is one of them.
    pub fn contains(&self, id: &str) -> bool {
        match self {
            Tenants::All => true,
            Tenants::Only(tenants) => tenants.contains(id),
        }
    }

    /// Tells whether these are all tenants.
    pub fn are_all(&self) -> bool {
        *self == Tenants::All
    }

    /// Returns the ids of the tenants; `None` stands for all.
    pub fn ids(&self) -> Option<Vec<String>> {
        match self {
            Tenants::All => None,
            Tenants::Only(tenants) => Some(tenants.iter().cloned().collect()),
        }
    }
}

/// A caller whose credential was good: a name, roles and tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    name: String,
    roles: Roles,
    tenants: Tenants,
    user: Option<UserId>,
}

/// Explains why there can be no such identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnIdentity {
    /// The name is empty, too long, or has control characters.
    #[error("a name of 1 to {MAX_NAME_BYTES} bytes without control characters")]
    Name,
    /// The role `user` is given without the id of a user.
    #[error("a user id, which the role user needs")]
    User,
}

impl Identity {
    /// Somebody, known in one of the ways (`way`) by a name.
    ///
    /// # Errors
    /// [`NotAnIdentity`].
    pub fn new(
        way: &str,
        name: &str,
        roles: Roles,
        tenants: Tenants,
        user: Option<UserId>,
    ) -> Result<Self, NotAnIdentity> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(NotAnIdentity::Name);
        }
        if roles.contains(Role::User) && user.is_none() {
            return Err(NotAnIdentity::User);
        }
        Ok(Self {
            name: format!("{way}:{name}"),
            roles,
            tenants,
            user,
        })
    }

    /// Returns the identity of every caller where nobody is asked.
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Self::almighty(ANONYMOUS))
    }

    /// Tells whether nobody was asked who this is.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// Whoever runs this process: they have the URLs of both servers anyway.
    pub fn local(name: &str) -> Arc<Self> {
        Arc::new(Self::almighty(name))
    }

    fn almighty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            roles: Roles::all(),
            tenants: Tenants::All,
            user: None,
        }
    }

    /// Returns the name, with the way in which it is known: `jwt:ann`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the caller may do.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Returns the tenants for which the caller may do it.
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Tells whether the caller has one of these roles.
    pub fn has_any(&self, roles: &[Role]) -> bool {
        self.roles.contains(Role::Admin) || roles.iter().any(|role| self.roles.contains(*role))
    }

    /// Tells whether the caller may read what is not one user's alone.
    pub fn reads_everybody(&self) -> bool {
        self.has_any(&[Role::Reader])
    }

    /// Tells whether the caller may read the counters of this user.
    pub fn reads_user(&self, user: &UserId) -> bool {
        let own = self.roles.contains(Role::User) && self.user.as_ref() == Some(user);
        own || self.reads_everybody()
    }

    /// Tells whether the caller may read bodies of dead letters, which are messages.
    pub fn reads_bodies(&self) -> bool {
        self.has_any(&[Role::DlqOperator])
    }
}

/// The roles and tenants that a file gives to somebody.
#[derive(Debug, Deserialize)]
pub(super) struct Grant {
    pub(super) roles: Vec<String>,
    pub(super) tenants: Vec<String>,
    pub(super) user: Option<String>,
}

impl Grant {
    /// Makes the identity of a name.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn to(self, way: &str, name: &str) -> Result<Arc<Identity>, String> {
        let role = |name: &String| Role::named(name).ok_or_else(|| role_expected(name));
        let roles = self.roles.iter().map(role).collect::<Result<_, _>>()?;
        let tenants = Tenants::named(&self.tenants);
        let tenants = tenants.ok_or_else(|| {
            format!("tenants: expected at most {MAX_TENANTS} ids of tenants, or \"*\" for all")
        })?;
        let user = self.user.as_deref().map(UserId::new).transpose();
        let user = user.map_err(|error| format!("user: expected {error}"))?;
        let identity = Identity::new(way, name, roles, tenants, user);
        identity
            .map(Arc::new)
            .map_err(|error| format!("expected {error}"))
    }
}

fn role_expected(found: &str) -> String {
    let names = Role::ALL.map(Role::as_str).join(", ");
    format!("roles: expected some of {names}; found {found:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(roles: &[Role]) -> Identity {
        let user = UserId::new("Ann").ok();
        let roles = roles.iter().copied().collect();
        let tenants = Tenants::named(&["a", "b"]).unwrap();
        Identity::new("test", "x", roles, tenants, user).unwrap()
    }

    #[test]
    fn each_role_has_its_own_rights() {
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let rights = |identity: &Identity| {
            [
                identity.reads_everybody(),
                identity.reads_user(&ann),
                identity.reads_user(&bob),
                identity.reads_bodies(),
            ]
        };
        assert_eq!(rights(&with(&[])), [false; 4]);
        assert_eq!(rights(&with(&[Role::User])), [false, true, false, false]);
        assert_eq!(rights(&with(&[Role::Reader])), [true, true, true, false]);
        assert_eq!(rights(&with(&[Role::DlqViewer])), [false; 4]);
        let operator = with(&[Role::DlqOperator]);
        assert_eq!(rights(&operator), [false, false, false, true]);
        assert_eq!(rights(&with(&[Role::Admin])), [true; 4]);
    }

    #[test]
    fn tenants_are_a_list_or_all() {
        let some = with(&[]);
        assert!(some.tenants().contains("a") && !some.tenants().contains("c"));
        assert_eq!(some.tenants().ids().unwrap(), ["a", "b"]);
        assert!(!some.tenants().are_all());
        let all = Tenants::named(&["a", "*"]).unwrap();
        assert!(all.are_all() && all.contains("c") && all.ids().is_none());
        let none = Tenants::named::<&str>(&[]).unwrap();
        assert!(!none.contains("a") && none.ids() == Some(vec![]));
        assert_eq!(Tenants::named(&["a", ""]), None);
    }

    #[test]
    fn a_user_must_be_somebody() {
        let roles: Roles = [Role::User].into_iter().collect();
        let nobody = Identity::new("t", "x", roles, Tenants::All, None);
        assert_eq!(nobody, Err(NotAnIdentity::User));
        for name in ["", "a\nb", &"x".repeat(513)] {
            let named = Identity::new("t", name, Roles::default(), Tenants::All, None);
            assert_eq!(named, Err(NotAnIdentity::Name));
        }
    }
}
