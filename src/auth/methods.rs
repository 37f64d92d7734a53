//! Which roles a method wants. A method that is not in the table is nobody's.

use super::{Identity, Role};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Everybody may, known or not.
    Everybody,
    /// Whoever has one of these roles may; `admin` has all of them.
    Any(&'static [Role]),
}

impl Allowed {
    /// Tells whether an identity may call the method.
    pub fn admits(self, identity: &Identity) -> bool {
        match self {
            Allowed::Everybody => true,
            Allowed::Any(roles) => identity.has_any(roles),
        }
    }

    /// Names the roles that the method wants, for people.
    pub fn wanted(self) -> String {
        match self {
            Allowed::Everybody | Allowed::Any([]) => Role::Admin.to_string(),
            Allowed::Any(roles) => {
                let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
                names.join(" or ")
            }
        }
    }
}

/// Who may read what is everybody's in a tenant.
const READERS: Allowed = Allowed::Any(&[Role::Reader]);
/// Who may read what may be one user's: the method then looks at whose it is.
const USERS: Allowed = Allowed::Any(&[Role::Reader, Role::User]);
/// Who may look at dead letters.
const VIEWERS: Allowed = Allowed::Any(&[Role::DlqViewer, Role::DlqOperator]);
/// Who may work with dead letters.
const OPERATORS: Allowed = Allowed::Any(&[Role::DlqOperator]);
/// Who may verify, rebuild, and see what is served.
const ADMINS: Allowed = Allowed::Any(&[Role::Admin]);

/// Every method that is served. A `*` stands for all methods of a service.
#[rustfmt::skip]
const METHODS: &[(&str, &str, Allowed)] = &[
    ("chatcounters.v1.CounterService", "GetUserStats", USERS),
    ("chatcounters.v1.CounterService", "BatchGetUserStats", USERS),
    ("chatcounters.v1.CounterService", "GetUserDialogStats", USERS),
    ("chatcounters.v1.CounterService", "ListUserDialogStats", USERS),
    ("chatcounters.v1.CounterService", "ListCounterHistory", USERS),
    ("chatcounters.v1.CounterService", "WatchUserStats", USERS),
    ("chatcounters.v1.CounterService", "ChangeWatch", USERS),
    ("chatcounters.v1.CounterService", "WatchDialogStats", READERS),
    ("chatcounters.v1.CounterService", "GetDialogStats", READERS),
    ("chatcounters.v1.CounterService", "BatchGetDialogStats", READERS),
    ("chatcounters.v1.CounterService", "GetMessageStats", READERS),
    ("chatcounters.v1.CounterService", "BatchGetMessageStats", READERS),
    ("chatcounters.v1.DeadLetterService", "ListDeadLetters", VIEWERS),
    ("chatcounters.v1.DeadLetterService", "GetDeadLetter", VIEWERS),
    ("chatcounters.v1.DeadLetterService", "ListDeadLetterGroups", VIEWERS),
    ("chatcounters.v1.DeadLetterService", "ListDeadLetterAudit", VIEWERS),
    ("chatcounters.v1.DeadLetterService", "ReplayDeadLetters", OPERATORS),
    ("chatcounters.v1.DeadLetterService", "EditDeadLetter", OPERATORS),
    ("chatcounters.v1.DeadLetterService", "DiscardDeadLetters", OPERATORS),
    ("chatcounters.v1.DeadLetterService", "UndiscardDeadLetters", OPERATORS),
    ("chatcounters.v1.DeadLetterService", "SyncDeadLetters", OPERATORS),
    ("chatcounters.v1.MaintenanceService", "VerifyCounters", ADMINS),
    ("chatcounters.v1.MaintenanceService", "RebuildCounters", ADMINS),
    ("chatcounters.v1.MaintenanceService", "AbandonRebuild", ADMINS),
    ("grpc.health.v1.Health", "*", Allowed::Everybody),
    ("grpc.reflection.v1.ServerReflection", "*", ADMINS),
    ("grpc.reflection.v1alpha.ServerReflection", "*", ADMINS),
];

/// Returns who may call the method of a path, `/package.Service/Method`. `None`: there
/// is no such method.
pub fn allowed(path: &str) -> Option<Allowed> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let row = METHODS
        .iter()
        .find(|(of, name, _)| *of == service && (*name == method || *name == "*"));
    row.map(|(.., allowed)| *allowed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// `/package.Service/Method` of all that is in the descriptors.
    fn described() -> BTreeSet<String> {
        let files = FileDescriptorSet::decode(crate::grpc::DESCRIPTORS).unwrap();
        let health = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut paths = BTreeSet::new();
        for file in files.file.iter().chain(&health.file) {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_is_in_the_table_and_no_other() {
        let described = described();
        assert!(described.len() > 20, "too few: {described:?}");
        for path in &described {
            assert!(allowed(path).is_some(), "who may call {path}?");
        }
        for (service, method, _) in METHODS.iter().filter(|(_, method, _)| *method != "*") {
            let path = format!("/{service}/{method}");
            assert!(described.contains(&path), "{path} is not served");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_nobodys() {
        for path in [
            "",
            "/",
            "/chatcounters.v1.CounterService",
            "/chatcounters.v1.CounterService/",
            "/chatcounters.v1.CounterService/*",
            "/chatcounters.v1.CounterService/getuserstats",
            "chatcounters.v1.CounterService/GetUserStats",
            "//chatcounters.v1.CounterService/GetUserStats",
        ] {
            assert_eq!(allowed(path), None, "{path:?}");
        }
        assert_eq!(
            allowed("/grpc.health.v1.Health/Check"),
            Some(Allowed::Everybody)
        );
    }
}
