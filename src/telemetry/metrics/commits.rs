//! Metrics of what is written to the store, and of what is verified there.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Label;

/// A transaction on MongoDB that was run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransactionLabel {
    /// The name of the transaction, one of a closed set.
    pub name: &'static str,
    /// What came of it: `committed`, `unknown` for a commit that may or may not have
    /// happened, or the class of its error: `retryable`, `conflict`, `permanent`.
    pub outcome: &'static str,
}

/// Counts of transactions by name and outcome. Clones share the counts.
pub type TransactionCounts = Family<TransactionLabel, Counter>;

/// Measures transactions. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CommitMetrics {
    /// Transactions that the lanes tried again, by class of the error:
    /// `retryable`, `conflict`.
    pub retries: Family<Label, Counter>,
    /// Transactions on MongoDB that were run, those of the lanes and all others.
    pub transactions: TransactionCounts,
    /// Events in one committed transaction.
    pub batch_events: Histogram,
    /// Seconds from the start of a transaction to its commit.
    pub seconds: Histogram,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            retries: Family::default(),
            transactions: TransactionCounts::default(),
            // 1 to 2,048 events.
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            // 1 ms to 8 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl CommitMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "commit_retries",
            "Transactions tried again, by class of the error",
            self.retries.clone(),
        );
        registry.register(
            "store_transactions",
            "Transactions on MongoDB, by name and by what came of them",
            self.transactions.clone(),
        );
        registry.register(
            "batch_events",
            "Events in one committed transaction",
            self.batch_events.clone(),
        );
        registry.register(
            "commit_seconds",
            "Seconds from the start of a transaction to its commit",
            self.seconds.clone(),
        );
    }
}

/// Counts what is verified in the background. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct VerificationMetrics {
    /// Dialogs that were verified.
    pub dialogs: Counter,
    /// Counters that differ from the recorded facts.
    pub differences: Counter,
}

impl VerificationMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "verified_dialogs",
            "Dialogs verified in the background",
            self.dialogs.clone(),
        );
        registry.register(
            "verify_differences",
            "Counters found in the background that differ from the recorded facts",
            self.differences.clone(),
        );
    }
}
