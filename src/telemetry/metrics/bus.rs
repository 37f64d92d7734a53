//! Metrics of RabbitMQ: what comes from it, what goes to it, and how it is.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, seconds_since_epoch};

/// Counts what passes between the service and the broker. Clones share the
/// counts.
#[derive(Debug, Clone, Default)]
pub struct BusMetrics {
    /// Deliveries received from the broker.
    pub deliveries: Counter,
    /// Deliveries whose properties could only be read altered, now or when they
    /// came before.
    pub deliveries_altered: Counter,
    /// Dead letters confirmed by the broker or kept in the database, by reason.
    pub dead_letters: Family<Label, Counter>,
    /// Dead letters in their queue that nobody holds, at the latest look.
    pub dead_letters_waiting: Gauge,
    /// Dead letters in the database until the broker takes them, at the latest
    /// look.
    pub dead_letters_unsent: Gauge,
    /// 1 while the broker takes no messages from this process.
    pub blocked: Gauge,
    /// Consumer sessions that ended other than by a shutdown, by cause.
    pub consumer_restarts: Family<Label, Counter>,
    /// 1 while nothing is consumed because the store takes nothing.
    pub consumer_paused: Gauge,
    /// When the broker last answered the question that it is asked once a
    /// second, in seconds since the epoch; 0 means never.
    pub answered_at: Gauge,
    /// How often the exchange was found to be gone, and the queue was bound
    /// again.
    pub topology_restored: Counter,
    /// 1 while it is not certain that events find their way to the queue.
    pub topology_broken: Gauge,
}

impl BusMetrics {
    /// Notes that the broker has just answered.
    pub fn has_answered(&self) {
        self.answered_at.set(seconds_since_epoch());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "deliveries",
            "Deliveries received from the broker",
            self.deliveries.clone(),
        );
        registry.register(
            "deliveries_altered",
            "Deliveries whose properties or routing key could only be read altered: the header x-cc-altered says how",
            self.deliveries_altered.clone(),
        );
        registry.register(
            "dead_letters",
            "Dead letters confirmed by RabbitMQ, or kept until it takes them, by reason",
            self.dead_letters.clone(),
        );
        registry.register(
            "dead_letters_waiting",
            "Dead letters in their queue, at the latest look at it",
            self.dead_letters_waiting.clone(),
        );
        registry.register(
            "dead_letters_unsent",
            "Dead letters that wait in the database until RabbitMQ takes them, at the latest look",
            self.dead_letters_unsent.clone(),
        );
        registry.register(
            "bus_blocked",
            "Whether RabbitMQ takes no dead letters, as it says: 1 if so, else 0",
            self.blocked.clone(),
        );
        registry.register(
            "consumer_restarts",
            "Consumer sessions ended other than by a shutdown, by cause",
            self.consumer_restarts.clone(),
        );
        registry.register(
            "consumer_paused",
            "Whether consuming rests because the store takes nothing: 1 if so, else 0",
            self.consumer_paused.clone(),
        );
        registry.register(
            "bus_answered_timestamp_seconds",
            "When the broker last answered the question it is asked once a second, since the epoch; 0 = never",
            self.answered_at.clone(),
        );
        registry.register(
            "topology_restored",
            "Times that the exchange was found to be gone, and the queue was bound again",
            self.topology_restored.clone(),
        );
        registry.register(
            "topology_broken",
            "Whether it is uncertain that events find their way to the queue: 1 if so, else 0",
            self.topology_broken.clone(),
        );
    }
}
