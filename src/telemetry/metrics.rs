//! What the service counts about itself. Never labelled by user, dialog,
//! message or tenant: labels are closed sets or capped.

mod bus;
mod callers;
mod commits;
mod events;
mod notify;
mod serving;

use std::time::UNIX_EPOCH;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use bus::BusMetrics;
pub use callers::{AuthMetrics, ListenerMetrics, OpenConnection};
pub use commits::{CommitMetrics, TransactionCounts, TransactionLabel, VerificationMetrics};
pub use events::EventMetrics;
pub use notify::{About, NotifyMetrics};
pub use serving::{Forgotten, MemoryUse, ServingMetrics, Source, WatchMetrics};

use super::process::Resident;

/// A label whose value is one of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    /// The value of the label.
    pub kind: &'static str,
}

/// The service's own counters, by the part of the service that they are about.
/// Clones share the counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// RabbitMQ: deliveries, dead letters, the consumer, the topology.
    pub bus: BusMetrics,
    /// Events by what came of them.
    pub events: EventMetrics,
    /// Transactions on MongoDB.
    pub commits: CommitMetrics,
    /// Verification in the background.
    pub verification: VerificationMetrics,
    /// Connections of callers, and certificates.
    pub listeners: ListenerMetrics,
    /// What comes of asking who calls.
    pub auth: AuthMetrics,
    /// Reads from memory.
    pub serving: ServingMetrics,
    /// Notifications on the bus.
    pub notify: NotifyMetrics,
}

impl Metrics {
    /// Makes counters at zero, registered under the prefix `chat_counters`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            bus: BusMetrics::default(),
            events: EventMetrics::default(),
            commits: CommitMetrics::default(),
            verification: VerificationMetrics::default(),
            listeners: ListenerMetrics::default(),
            auth: AuthMetrics::default(),
            serving: ServingMetrics::default(),
            notify: NotifyMetrics::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("chat_counters"));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        self.serving.register(registry);
        self.notify.register(registry);
        self.bus.register(registry);
        self.events.register(registry);
        self.commits.register(registry);
        self.verification.register(registry);
        self.listeners.register(registry);
        self.auth.register(registry);
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
}

fn seconds_since_epoch() -> i64 {
    let seconds = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_zero_is_shown_from_the_start() {
        let mut registry = Registry::default();
        drop(Metrics::new(&mut registry));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for shown in [
            "chat_counters_build_info{version=",
            "chat_counters_resident_memory_bytes ",
            "chat_counters_auth_calls_total{kind=\"denied\"} 0",
            "chat_counters_implausible_times_total{kind=\"past\"} 0",
        ] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
    }
}
