//! Conditions on dead letters.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::LetterId;

/// Conditions on a dead letter that must all hold; an empty filter matches every letter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ids, or the beginnings of ids, one of which the letter must have.
    pub ids: Vec<LetterId>,
    /// Names of reasons, one of which the letter must have.
    pub reasons: Vec<String>,
    /// The group of letters with the same cause.
    pub group: Option<String>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// The id of the event's tenant.
    pub tenant: Option<String>,
    /// The id of the event.
    pub event: Option<String>,
    /// The id of the event's dialog.
    pub dialog: Option<String>,
    /// A text that the error contains, whatever the capitals.
    pub error: Option<String>,
    /// The letter last failed at this time or later.
    pub since: Option<OffsetDateTime>,
    /// The letter last failed before this time.
    pub until: Option<OffsetDateTime>,
    /// The letter last failed at most so long ago, counted from when it is asked.
    pub younger_than: Option<Duration>,
    /// The letter last failed longer ago than this.
    pub older_than: Option<Duration>,
    /// Ids of the tenants whose letters can be meant at all: of whoever asks.
    /// `None`: all, and letters of no tenant.
    pub permitted: Option<Vec<String>>,
}

/// One condition in words: what it is about, and what is required.
#[derive(Debug, Serialize)]
struct Condition(&'static str, String);

impl Filter {
    /// Whether it has no condition: it means all letters.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Ids of the tenants whose letters can be among those that are meant; `None`:
    /// any, or of no tenant.
    pub fn tenants(&self) -> Option<Vec<String>> {
        match &self.tenant {
            Some(tenant) => Some(vec![tenant.clone()]),
            None => self.permitted.clone(),
        }
    }

    /// The same text for the same conditions, and for no others: to find the
    /// job again that was begun with them.
    pub fn key(&self) -> String {
        // A list of pairs of texts is always JSON.
        serde_json::to_string(&self.conditions()).unwrap_or_default()
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut ids: Vec<_> = self.ids.iter().map(LetterId::as_str).collect();
        let mut reasons: Vec<_> = self.reasons.iter().map(String::as_str).collect();
        for list in [&mut ids, &mut reasons] {
            list.sort_unstable();
            list.dedup();
        }
        let lists = [("id", ids), ("reason", reasons)];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let permitted = self.permitted.as_ref().map(|tenants| {
            let tenants = tenants.iter().map(|tenant| format!("{tenant:?}"));
            let mut tenants: Vec<_> = tenants.collect();
            tenants.sort_unstable();
            Condition("only of", tenants.join(", "))
        });
        let lists = lists.map(|(name, list)| Condition(name, list.join(", ")));
        let moment = |at: Option<OffsetDateTime>| at.and_then(|at| at.format(&Rfc3339).ok());
        let age = |age: Option<Duration>| age.map(|age| format!("{age:?}"));
        let single = [
            ("group", self.group.clone()),
            ("type", self.event_type.clone()),
            ("tenant", self.tenant.clone()),
            ("event", self.event.clone()),
            ("dialog", self.dialog.clone()),
            ("error contains", self.error.clone()),
            ("since", moment(self.since)),
            ("until", moment(self.until)),
            ("younger than", age(self.younger_than)),
            ("older than", age(self.older_than)),
        ];
        let single = single.into_iter();
        let single = single.filter_map(|(name, value)| Some(Condition(name, value?)));
        lists.chain(single).chain(permitted).collect()
    }
}

/// For the audit: `reason: invalid_event; tenant: t`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return f.write_str("all");
        }
        let said = conditions
            .iter()
            .map(|Condition(name, value)| format!("{name}: {value}"));
        f.write_str(&said.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_conditions_have_the_same_key_in_any_order() {
        let ids = |ids: [&str; 2]| Filter {
            ids: ids.iter().filter_map(|id| LetterId::parse(id)).collect(),
            ..Default::default()
        };
        assert_eq!(ids(["ab", "cd"]).key(), ids(["cd", "ab"]).key());
        assert_ne!(ids(["ab", "cd"]).key(), ids(["ab", "ce"]).key());
        let one = Filter {
            tenant: Some("a; dialog: b".into()),
            ..Default::default()
        };
        let two = Filter {
            tenant: Some("a".into()),
            dialog: Some("b".into()),
            ..Default::default()
        };
        assert_eq!(one.to_string(), two.to_string());
        assert_ne!(one.key(), two.key());
        let of = |tenants: &[&str]| Filter {
            permitted: Some(tenants.iter().map(ToString::to_string).collect()),
            ..Default::default()
        };
        assert_eq!(of(&["a", "b"]).key(), of(&["b", "a"]).key());
        assert_ne!(of(&["a", "b"]).key(), of(&["a\", \"b"]).key());
        assert_ne!(of(&[]).key(), Filter::default().key());
        assert!(!of(&[]).is_empty());
        assert_eq!(Filter::default().to_string(), "all");
        assert!(Filter::default().is_empty() && !one.is_empty());
    }
}
