//! What the service counts about itself. Never labelled by user, dialog,
//! message or tenant: labels are closed sets or capped.

mod notify;
mod serving;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use notify::{About, NotifyMetrics};
pub use serving::{Forgotten, MemoryUse, ServingMetrics, Source, WatchMetrics};

use super::process::Resident;
use crate::derive::changes::Disagreement;
use crate::event::stated::Implausible;

/// What can come of asking who calls.
const AUTH_OUTCOMES: [&str; 6] = [
    "accepted",
    "missing",
    "invalid",
    "expired",
    "keys_unavailable",
    "denied",
];

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

/// A transaction on MongoDB that was run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransactionLabel {
    /// The name of the transaction, one of a closed set.
    pub name: &'static str,
    /// What came of it: `committed`, `unknown` for a commit that may or may not have
    /// happened, or the class of its error: `retryable`, `conflict`, `permanent`.
    pub outcome: &'static str,
}

/// Counts of transactions by name and outcome. Cloning shares them.
pub type TransactionCounts = Family<TransactionLabel, Counter>;

/// A port that gRPC is served on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    /// Its section of the configuration.
    pub listener: &'static str,
}

/// A connection that was not served.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// The section of the configuration of its port.
    pub listener: &'static str,
    /// Why.
    pub kind: &'static str,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
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
    /// Dead letters confirmed by the broker or kept in the database, by reason.
    pub dead_letters: Family<Label, Counter>,
    /// Dead letters in their queue that nobody holds, at the latest look.
    pub dead_letters_waiting: Gauge,
    /// Dead letters in the database until the broker takes them, at the latest look.
    pub dead_letters_unsent: Gauge,
    /// 1 while the broker takes no messages from this process.
    pub bus_blocked: Gauge,
    /// Creates of one message id that disagreed with what was recorded, by what
    /// they disagreed about.
    pub disagreeing_creates: Family<Label, Counter>,
    /// Events with a time that cannot be meant, by kind: `past`, `future`.
    pub implausible_times: Family<Label, Counter>,
    /// Events of another tenant than their routing key.
    pub wrong_tenants: Counter,
    /// Transactions tried again, by class of the error: `retryable`, `conflict`.
    pub commit_retries: Family<Label, Counter>,
    /// Transactions on MongoDB that were run, those of the lanes and all others.
    pub store_transactions: TransactionCounts,
    /// Events in one committed transaction.
    pub batch_events: Histogram,
    /// Seconds from the start of a transaction to its commit.
    pub commit_seconds: Histogram,
    /// Consumer sessions ended other than by a shutdown, by cause.
    pub consumer_restarts: Family<Label, Counter>,
    /// 1 while nothing is consumed because the store takes nothing.
    pub consumer_paused: Gauge,
    /// When the broker last answered the question that it is asked once a
    /// second, in seconds since the epoch.
    pub bus_answered: Gauge,
    /// When an event was last settled, in seconds since the epoch.
    pub last_settled: Gauge,
    /// Times that the exchange was found to be gone, and the queue was bound
    /// again.
    pub topology_restored: Counter,
    /// 1 while it is not certain that events find their way to the queue.
    pub topology_broken: Gauge,
    /// Reads from memory.
    pub serving: ServingMetrics,
    /// Notifications on the bus.
    pub notify: NotifyMetrics,
    /// Dialogs verified in the background.
    pub verified_dialogs: Counter,
    /// Counters found there that differ from the recorded facts.
    pub differences: Counter,
    /// Connections to the ports of gRPC and HTTP.
    connections: Family<ListenerLabel, Gauge>,
    /// Connections that were closed before a call could come, by cause.
    connections_refused: Family<RefusalLabel, Counter>,
    /// When the certificate of a port of gRPC or HTTP ends, in seconds since the epoch.
    certificates_end: Family<ListenerLabel, Gauge>,
    /// 1 while the files of a port's TLS are not those that it is served with.
    certificates_unusable: Family<ListenerLabel, Gauge>,
    /// gRPC calls by what came of asking who calls: `accepted`, `missing`,
    /// `invalid`, `expired`, `keys_unavailable`, `denied`.
    pub auth_calls: Family<Label, Counter>,
    /// 1 while a source of identities cannot be read anew, by source: `tokens`,
    /// `certificates`, `keys`.
    auth_sources_broken: Family<Label, Gauge>,
    /// When the issuer's keys were last fetched, in seconds since the epoch.
    auth_keys_fetched: Gauge,
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
            dead_letters_unsent: Gauge::default(),
            bus_blocked: Gauge::default(),
            disagreeing_creates: Family::default(),
            implausible_times: Family::default(),
            wrong_tenants: Counter::default(),
            topology_restored: Counter::default(),
            topology_broken: Gauge::default(),
            commit_retries: Family::default(),
            store_transactions: TransactionCounts::default(),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            consumer_restarts: Family::default(),
            consumer_paused: Gauge::default(),
            bus_answered: Gauge::default(),
            last_settled: Gauge::default(),
            serving: ServingMetrics::default(),
            notify: NotifyMetrics::default(),
            verified_dialogs: Counter::default(),
            differences: Counter::default(),
            connections: Family::default(),
            connections_refused: Family::default(),
            certificates_end: Family::default(),
            certificates_unusable: Family::default(),
            auth_calls: Family::default(),
            auth_sources_broken: Family::default(),
            auth_keys_fetched: Gauge::default(),
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
        for kind in AUTH_OUTCOMES {
            drop(metrics.auth_calls.get_or_create(&Label { kind }));
        }
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let metrics = self;
        let registry = registry.sub_registry_with_prefix("chat_counters");
        metrics.serving.register(registry);
        metrics.notify.register(registry);
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
            "Dead letters confirmed by RabbitMQ, or kept until it takes them, by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "dead_letters_waiting",
            "Dead letters in their queue, at the latest look at it",
            metrics.dead_letters_waiting.clone(),
        );
        registry.register(
            "dead_letters_unsent",
            "Dead letters that wait in the database until RabbitMQ takes them, at the latest look",
            metrics.dead_letters_unsent.clone(),
        );
        registry.register(
            "bus_blocked",
            "Whether RabbitMQ takes no dead letters, as it says: 1 if so, else 0",
            metrics.bus_blocked.clone(),
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
            "store_transactions",
            "Transactions on MongoDB, by name and by what came of them",
            metrics.store_transactions.clone(),
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
            "bus_answered_timestamp_seconds",
            "When the broker last answered the question it is asked once a second, since the epoch; 0 = never",
            metrics.bus_answered.clone(),
        );
        registry.register(
            "last_settled_timestamp_seconds",
            "When an event was last settled, since the epoch; 0 = never",
            metrics.last_settled.clone(),
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
            "connections",
            "Connections that are open to the ports of gRPC and HTTP, by port",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed before a call could come, by port and cause",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "certificate_not_after_timestamp_seconds",
            "When the certificate that a port of gRPC or HTTP shows ends, in seconds since the epoch, by port",
            metrics.certificates_end.clone(),
        );
        registry.register(
            "certificate_unusable",
            "Whether the TLS files of a port of gRPC or HTTP have changed into what cannot be used: 1 if so, else 0, by port",
            metrics.certificates_unusable.clone(),
        );
        registry.register(
            "auth_calls",
            "gRPC calls by what came of asking who calls",
            metrics.auth_calls.clone(),
        );
        registry.register(
            "auth_sources_broken",
            "Whether a source of identities cannot be read anew, by source: 1 if so, else 0",
            metrics.auth_sources_broken.clone(),
        );
        registry.register(
            "auth_keys_fetched_timestamp_seconds",
            "When the issuer's keys were last fetched, since the epoch; 0 = never",
            metrics.auth_keys_fetched.clone(),
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

    /// Counts a call by what came of asking who calls.
    pub fn asked_who(&self, outcome: &'static str) {
        let label = Label { kind: outcome };
        self.auth_calls.get_or_create(&label).inc();
    }

    /// Shows whether a source of identities cannot be read anew.
    pub fn auth_source(&self, source: &'static str, broken: bool) {
        let label = Label { kind: source };
        let gauge = self.auth_sources_broken.get_or_create(&label);
        gauge.set(i64::from(broken));
    }

    /// Shows that the issuer's keys were fetched now.
    pub fn auth_keys_are_fresh(&self) {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        self.auth_keys_fetched
            .set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// Counts a settled event by its outcome.
    pub fn settled(&self, outcome: &'static str) {
        self.events.get_or_create(&Label { kind: outcome }).inc();
        self.last_settled.set(now());
    }

    /// Takes note that the broker answered.
    pub fn bus_answers(&self) {
        self.bus_answered.set(now());
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

    /// Counts a connection to a port of gRPC or HTTP for as long as it is open.
    pub fn connection_open(&self, listener: &'static str) -> OpenConnection {
        let label = ListenerLabel { listener };
        let open = self.connections.get_or_create_owned(&label);
        open.inc();
        OpenConnection(open)
    }

    /// Counts connections that were not served.
    pub fn connections_refused(&self, listener: &'static str, kind: &'static str, count: u64) {
        let label = RefusalLabel { listener, kind };
        self.connections_refused.get_or_create(&label).inc_by(count);
    }

    /// Says when the certificate of a port of gRPC or HTTP ends, in seconds since the epoch.
    pub fn certificate_ends(&self, listener: &'static str, at: i64) {
        let label = ListenerLabel { listener };
        self.certificates_end.get_or_create(&label).set(at);
    }

    /// Says whether the TLS files of a port of gRPC or HTTP cannot take the place of what
    /// was read before.
    pub fn certificate_unusable(&self, listener: &'static str, is_so: bool) {
        let label = ListenerLabel { listener };
        let unusable = self.certificates_unusable.get_or_create(&label);
        unusable.set(i64::from(is_so));
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

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
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
