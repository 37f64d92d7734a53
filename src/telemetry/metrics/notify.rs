//! What notifications are counted as.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::ServingMetrics;

/// What a notification tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The counters of a user over all dialogs.
    User,
    /// The counters of a user in one dialog.
    UserInDialog,
    /// A dialog with too many members to tell each.
    Dialog,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AboutLabel {
    about: &'static str,
}

/// Notifications on the bus. Cloning shares them.
#[derive(Debug, Clone)]
pub struct NotifyMetrics {
    published: Family<AboutLabel, Counter>,
    refused: Counter,
    failed_rounds: Counter,
    told_anew: Counter,
    publisher: Gauge,
    as_of: Gauge,
    anew_tenants: Gauge,
    waiting_tenants: Gauge,
    lag_seconds: Histogram,
    /// Of the memory that notifications are answered from.
    pub memory: ServingMetrics,
}

impl Default for NotifyMetrics {
    fn default() -> Self {
        Self {
            published: Family::default(),
            refused: Counter::default(),
            failed_rounds: Counter::default(),
            told_anew: Counter::default(),
            publisher: Gauge::default(),
            as_of: Gauge::default(),
            anew_tenants: Gauge::default(),
            waiting_tenants: Gauge::default(),
            memory: ServingMetrics::default(),
            // 10 ms to 5 min.
            lag_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
        }
    }
}

impl NotifyMetrics {
    /// Counts a notification that the broker has.
    pub fn published(&self, about: About) {
        let about = match about {
            About::User => "user",
            About::UserInDialog => "user_in_dialog",
            About::Dialog => "dialog",
        };
        self.published.get_or_create(&AboutLabel { about }).inc();
    }

    /// Counts notifications that the broker did not take.
    pub fn refused(&self, notifications: usize) {
        self.refused.inc_by(notifications as u64);
    }

    /// Counts a round that failed, and is made again.
    pub fn failed(&self) {
        self.failed_rounds.inc();
    }

    /// Counts that everybody is told of all that they have.
    pub fn anew(&self) {
        self.told_anew.inc();
    }

    /// Shows whether this process is the one that publishes.
    pub fn publishes(&self, publishes: bool) {
        self.publisher.set(publishes.into());
    }

    /// Shows how many tenants are being told anew, and how many of them wait.
    pub fn tenants(&self, anew: usize, waiting: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.anew_tenants.set(gauge(anew));
        self.waiting_tenants.set(gauge(waiting));
    }

    /// Shows as of when everything that was committed is published, or to be
    /// published anew.
    pub fn is_at(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.as_of.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Shows how long ago the earliest commit was made that a round has told of.
    pub fn lag(&self, lag: Duration) {
        self.lag_seconds.observe(lag.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("notify");
        registry.register(
            "published",
            "Notifications that the broker has, by what they are about: user, user_in_dialog, dialog; those of a round that failed count again",
            self.published.clone(),
        );
        registry.register(
            "refused",
            "Notifications that the broker did not take (nack), each time: a queue is full",
            self.refused.clone(),
        );
        registry.register(
            "failed_rounds",
            "Rounds of notifications that failed and were made again, all or what was about one tenant",
            self.failed_rounds.clone(),
        );
        registry.register(
            "told_anew",
            "Times that everybody of all tenants was notified of all that they have: after a rebuild of all, or because changes were not known",
            self.told_anew.clone(),
        );
        registry.register(
            "publisher",
            "1 in the process that publishes notifications",
            self.publisher.clone(),
        );
        registry.register(
            "as_of_timestamp_seconds",
            "Time up to which all that was committed is notified of, or waits to be notified of anew (notify_anew_tenants), in seconds since the epoch; 0 where this process has published none",
            self.as_of.clone(),
        );
        registry.register(
            "anew_tenants",
            "Tenants that are being notified of all that they have",
            self.anew_tenants.clone(),
        );
        registry.register(
            "waiting_tenants",
            "Those of them that cannot be notified for now; the log names them",
            self.waiting_tenants.clone(),
        );
        self.memory.register(registry);
        registry.register_with_unit(
            "lag",
            "Time from the earliest commit of a round until all its notifications were confirmed",
            Unit::Seconds,
            self.lag_seconds.clone(),
        );
    }
}
