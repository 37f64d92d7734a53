//! What the service counts about itself. Never labelled by user, dialog,
//! message or tenant: labels are closed sets or capped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::Resident;
use crate::derive::changes::Disagreement;
use crate::event::stated::Implausible;

/// Distinct types of ignored events that are told apart; the rest is `other`.
const IGNORED_TYPES: usize = 64;
/// Longest type that is a label, in bytes.
const TYPE_BYTES: usize = 128;

/// One label with a name from a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    /// Its value.
    pub kind: &'static str,
}

/// The type of an event, one of a bounded set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    /// As sent.
    pub event_type: String,
}

/// The service's own counters. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Deliveries received from the broker.
    pub deliveries: Counter,
    /// Those of them whose properties could only be read altered, now or when
    /// they came before.
    pub deliveries_altered: Counter,
    /// Events settled, by outcome: `applied`,
    /// `unchanged`, `duplicate`, `ignored`, `dead_lettered`.
    pub events: Family<Label, Counter>,
    /// Dead letters published and confirmed, by reason.
    pub dead_letters: Family<Label, Counter>,
    /// Dead letters in their queue that nobody holds, at the latest look.
    pub dead_letters_waiting: Gauge,
    /// Creates of one message id that disagreed with what was recorded, by what
    /// they disagreed about.
    pub disagreeing_creates: Family<Label, Counter>,
    /// Events with a time that cannot be meant, by kind: `past`, `future`.
    pub implausible_times: Family<Label, Counter>,
    /// Events of another tenant than their routing key.
    pub wrong_tenants: Counter,
    /// Transactions tried again, by class of the error: `retryable`, `conflict`.
    pub commit_retries: Family<Label, Counter>,
    /// Events in one committed transaction.
    pub batch_events: Histogram,
    /// Seconds from the start of a transaction to its commit.
    pub commit_seconds: Histogram,
    /// Consumer sessions ended other than by a shutdown, by cause.
    pub consumer_restarts: Family<Label, Counter>,
    /// 1 while nothing is consumed because the store takes nothing.
    pub consumer_paused: Gauge,
    /// Times that the exchange was found to be gone, and the queue was bound
    /// again.
    pub topology_restored: Counter,
    /// 1 while it is not certain that events find their way to the queue.
    pub topology_broken: Gauge,
    /// Dialogs verified in the background.
    pub verified_dialogs: Counter,
    /// Counters found there that differ from the recorded facts.
    pub differences: Counter,
    /// Events that are none of ours, by type.
    ignored: Family<TypeLabel, Counter>,
    /// The types that have a label of their own.
    ignored_types: Arc<Mutex<HashSet<String>>>,
}

impl Metrics {
    /// Counters at zero, registered under the prefix `chat_counters`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            deliveries: Counter::default(),
            deliveries_altered: Counter::default(),
            events: Family::default(),
            dead_letters: Family::default(),
            dead_letters_waiting: Gauge::default(),
            disagreeing_creates: Family::default(),
            implausible_times: Family::default(),
            wrong_tenants: Counter::default(),
            topology_restored: Counter::default(),
            topology_broken: Gauge::default(),
            commit_retries: Family::default(),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            consumer_restarts: Family::default(),
            consumer_paused: Gauge::default(),
            verified_dialogs: Counter::default(),
            differences: Counter::default(),
            ignored: Family::default(),
            ignored_types: Arc::default(),
        };
        metrics.register(registry);
        // At zero from the start, so that the first one is seen as a rise.
        for kind in [Implausible::Past, Implausible::Future] {
            let label = Label {
                kind: kind.as_str(),
            };
            drop(metrics.implausible_times.get_or_create(&label));
        }
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let metrics = self;
        let registry = registry.sub_registry_with_prefix("chat_counters");
        registry.register(
            "deliveries",
            "Deliveries received from the broker",
            metrics.deliveries.clone(),
        );
        registry.register(
            "deliveries_altered",
            "Deliveries whose properties or routing key could only be read altered: the header x-cc-altered says how",
            metrics.deliveries_altered.clone(),
        );
        registry.register(
            "events",
            "Events settled, by outcome",
            metrics.events.clone(),
        );
        registry.register(
            "dead_letters",
            "Dead letters published and confirmed, by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "dead_letters_waiting",
            "Dead letters in their queue, at the latest look at it",
            metrics.dead_letters_waiting.clone(),
        );
        registry.register(
            "disagreeing_creates",
            "Creates of one message that disagree with what was recorded, by what about",
            metrics.disagreeing_creates.clone(),
        );
        registry.register(
            "implausible_times",
            "Events with a time before the year 2000 or more than a day ahead, by which",
            metrics.implausible_times.clone(),
        );
        registry.register(
            "wrong_tenants",
            "Events of another tenant than their routing key",
            metrics.wrong_tenants.clone(),
        );
        registry.register(
            "commit_retries",
            "Transactions tried again, by class of the error",
            metrics.commit_retries.clone(),
        );
        registry.register(
            "batch_events",
            "Events in one committed transaction",
            metrics.batch_events.clone(),
        );
        registry.register(
            "commit_seconds",
            "Seconds from the start of a transaction to its commit",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "consumer_restarts",
            "Consumer sessions ended other than by a shutdown, by cause",
            metrics.consumer_restarts.clone(),
        );
        registry.register(
            "consumer_paused",
            "Whether consuming rests because the store takes nothing: 1 if so, else 0",
            metrics.consumer_paused.clone(),
        );
        registry.register(
            "topology_restored",
            "Times that the exchange was found to be gone, and the queue was bound again",
            metrics.topology_restored.clone(),
        );
        registry.register(
            "topology_broken",
            "Whether it is uncertain that events find their way to the queue: 1 if so, else 0",
            metrics.topology_broken.clone(),
        );
        registry.register(
            "verified_dialogs",
            "Dialogs verified in the background",
            metrics.verified_dialogs.clone(),
        );
        registry.register(
            "verify_differences",
            "Counters found in the background that differ from the recorded facts",
            metrics.differences.clone(),
        );
        registry.register(
            "ignored_events",
            "Events of types that have no effect on any counter, by type",
            metrics.ignored.clone(),
        );
        registry.register(
            "build",
            "The running program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_with_unit(
            "resident_memory",
            "Memory of the process that is in RAM",
            Unit::Bytes,
            Resident,
        );
    }

    /// Counts a settled event by its outcome.
    pub fn settled(&self, outcome: &'static str) {
        self.events.get_or_create(&Label { kind: outcome }).inc();
    }

    /// Counts a create that disagrees with what was recorded of its message.
    pub fn disagreed(&self, about: Disagreement) {
        let label = Label {
            kind: about.as_str(),
        };
        self.disagreeing_creates.get_or_create(&label).inc();
    }

    /// Counts an event with a time that cannot be meant.
    pub fn implausible(&self, kind: Implausible) {
        let label = Label {
            kind: kind.as_str(),
        };
        self.implausible_times.get_or_create(&label).inc();
    }

    /// Counts an event that is none of ours, by its type.
    pub fn ignored(&self, event_type: &str) {
        self.settled("ignored");
        let event_type = self.ignored_label(event_type).into();
        self.ignored.get_or_create(&TypeLabel { event_type }).inc();
    }

    /// The type itself for the first so many, `other` after: a producer must
    /// not be able to grow the metrics without a limit.
    fn ignored_label<'a>(&self, event_type: &'a str) -> &'a str {
        let mut types = self
            .ignored_types
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if types.contains(event_type) {
            return event_type;
        }
        if types.len() == IGNORED_TYPES || event_type.len() > TYPE_BYTES {
            return "other";
        }
        types.insert(event_type.into());
        event_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_types_are_told_apart_up_to_a_limit() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        for number in 0..100 {
            metrics.ignored(&format!("type.{number}"));
            metrics.ignored("type.0");
        }
        metrics.ignored(&"x".repeat(1_000));
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
            IGNORED_TYPES + 1
        );
        assert!(text.contains("chat_counters_build_info{version="), "{text}");
        assert!(
            text.contains("chat_counters_resident_memory_bytes "),
            "{text}"
        );
    }
}
