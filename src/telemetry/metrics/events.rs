//! Metrics of events: what came of each, and what is odd about some.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, seconds_since_epoch};
use crate::derive::changes::Disagreement;
use crate::event::stated::Implausible;

/// The most types of ignored events that are told apart; the rest is `other`.
const MAX_IGNORED_TYPES: usize = 64;
/// The longest event type that becomes a label, in bytes.
const MAX_TYPE_BYTES: usize = 128;

/// The type of an event, one of a bounded set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    event_type: String,
}

/// Counts events by what came of them. Clones share the counts.
#[derive(Debug, Clone)]
pub struct EventMetrics {
    /// Events settled, by outcome: `applied`, `unchanged`, `duplicate`,
    /// `ignored`, `dead_lettered`.
    pub settled: Family<Label, Counter>,
    /// When an event was last settled, in seconds since the epoch; 0 means
    /// never.
    pub last_settled_at: Gauge,
    /// Events of another tenant than their routing key.
    pub wrong_tenants: Counter,
    /// Creates of one message id that disagreed with what was recorded, by what
    /// they disagreed about.
    disagreeing_creates: Family<Label, Counter>,
    /// Events with a time that cannot be meant, by kind: `past`, `future`.
    implausible_times: Family<Label, Counter>,
    /// Events that have no effect on any counter, by type.
    ignored: Family<TypeLabel, Counter>,
    /// The types that have a label of their own.
    ignored_types: Arc<Mutex<HashSet<String>>>,
}

impl Default for EventMetrics {
    fn default() -> Self {
        let metrics = Self {
            settled: Family::default(),
            last_settled_at: Gauge::default(),
            wrong_tenants: Counter::default(),
            disagreeing_creates: Family::default(),
            implausible_times: Family::default(),
            ignored: Family::default(),
            ignored_types: Arc::default(),
        };
        // At zero from the start, so that the first one is seen as a rise.
        for kind in [Implausible::Past, Implausible::Future] {
            let kind = kind.as_str();
            drop(metrics.implausible_times.get_or_create(&Label { kind }));
        }
        metrics
    }
}

impl EventMetrics {
    /// Counts a settled event by its outcome.
    pub fn settle(&self, outcome: &'static str) {
        self.settled.get_or_create(&Label { kind: outcome }).inc();
        self.last_settled_at.set(seconds_since_epoch());
    }

    /// Counts an event that has no effect on any counter, by its type.
    pub fn ignore(&self, event_type: &str) {
        self.settle("ignored");
        let event_type = self.ignored_label(event_type).into();
        self.ignored.get_or_create(&TypeLabel { event_type }).inc();
    }

    /// Counts a create that disagrees with what was recorded of its message.
    pub fn disagrees(&self, about: Disagreement) {
        let kind = about.as_str();
        self.disagreeing_creates
            .get_or_create(&Label { kind })
            .inc();
    }

    /// Counts an event with a time that cannot be meant.
    pub fn is_implausible(&self, kind: Implausible) {
        let kind = kind.as_str();
        self.implausible_times.get_or_create(&Label { kind }).inc();
    }

    /// Returns the type itself for the first so many, `other` after: a producer
    /// must not be able to grow the metrics without a limit.
    fn ignored_label<'a>(&self, event_type: &'a str) -> &'a str {
        let types = self.ignored_types.lock();
        let mut types = types.unwrap_or_else(PoisonError::into_inner);
        if types.contains(event_type) {
            return event_type;
        }
        if types.len() == MAX_IGNORED_TYPES || event_type.len() > MAX_TYPE_BYTES {
            return "other";
        }
        types.insert(event_type.into());
        event_type
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("events", "Events settled, by outcome", self.settled.clone());
        registry.register(
            "last_settled_timestamp_seconds",
            "When an event was last settled, since the epoch; 0 = never",
            self.last_settled_at.clone(),
        );
        registry.register(
            "disagreeing_creates",
            "Creates of one message that disagree with what was recorded, by what about",
            self.disagreeing_creates.clone(),
        );
        registry.register(
            "implausible_times",
            "Events with a time before the year 2000 or more than a day ahead, by which",
            self.implausible_times.clone(),
        );
        registry.register(
            "wrong_tenants",
            "Events of another tenant than their routing key",
            self.wrong_tenants.clone(),
        );
        registry.register(
            "ignored_events",
            "Events of types that have no effect on any counter, by type",
            self.ignored.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn ignored_types_are_told_apart_up_to_a_limit() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        for number in 0..100 {
            metrics.events.ignore(&format!("type.{number}"));
            metrics.events.ignore("type.0");
        }
        metrics.events.ignore(&"x".repeat(1_000));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "chat_counters_ignored_events_total{event_type=\"type.0\"} 101",
            "chat_counters_ignored_events_total{event_type=\"type.63\"} 1",
            "chat_counters_ignored_events_total{event_type=\"other\"} 37",
            "chat_counters_events_total{kind=\"ignored\"} 201",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(
            text.matches("ignored_events_total{").count(),
            MAX_IGNORED_TYPES + 1
        );
    }
}
