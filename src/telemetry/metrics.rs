//! What the service counts about itself. Never labelled by user, dialog,
//! message or tenant: labels are closed sets or capped.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One label with a name from a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    /// Its value.
    pub kind: &'static str,
}

/// The service's own counters. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Deliveries received from the broker.
    pub deliveries: Counter,
    /// Events settled, by outcome: `applied`,
    /// `unchanged`, `duplicate`, `ignored`, `dead_lettered`.
    pub events: Family<Label, Counter>,
    /// Dead letters published and confirmed, by reason.
    pub dead_letters: Family<Label, Counter>,
    /// Creates of one message id that disagreed with the first recorded.
    pub disagreeing_creates: Counter,
    /// Transactions tried again, by class of the error: `retryable`, `conflict`.
    pub commit_retries: Family<Label, Counter>,
    /// Events in one committed transaction.
    pub batch_events: Histogram,
    /// Seconds from the start of a transaction to its commit.
    pub commit_seconds: Histogram,
    /// Consumer sessions ended other than by a shutdown, by cause.
    pub consumer_restarts: Family<Label, Counter>,
}

impl Metrics {
    /// Counters at zero, registered under the prefix `chat_counters`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            deliveries: Counter::default(),
            events: Family::default(),
            dead_letters: Family::default(),
            disagreeing_creates: Counter::default(),
            commit_retries: Family::default(),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            consumer_restarts: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("chat_counters");
        registry.register(
            "deliveries",
            "Deliveries received from the broker",
            metrics.deliveries.clone(),
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
            "disagreeing_creates",
            "Creates of one message id that disagreed with the first recorded",
            metrics.disagreeing_creates.clone(),
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
        metrics
    }

    /// Counts a settled event by its outcome.
    pub fn settled(&self, outcome: &'static str) {
        self.events.get_or_create(&Label { kind: outcome }).inc();
    }

    /// Counts an event that is none of ours, by its type.
    pub fn ignored(&self, _event_type: &str) {
        self.settled("ignored");
    }
}
