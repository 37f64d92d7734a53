//! What reads from memory are counted as.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How much of the counters is in memory for reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes, as the model accounts for them.
    pub bytes: usize,
    /// Users that can be answered about from memory.
    pub users: usize,
    /// Dialogs that can be answered about from memory.
    pub dialogs: usize,
    /// Users and dialogs that gave way to others since the start.
    pub evictions: u64,
}

/// Where the answer to a read came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// All of it was in memory.
    Memory,
    /// Some of it was read into memory first.
    Loaded,
    /// Memory could not answer: the store did.
    Store,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Why everything in memory was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// A rebuild switched over, or might have.
    SwitchedOver,
    /// A writer without commit records has written.
    Unnumbered,
    /// A commit record is missing, or cannot be read.
    RecordMissing,
    /// A writer that has long been silent was removed.
    WriterRemoved,
    /// Too much was committed since the store was last asked.
    TooFar,
}

/// Reads from memory, and the memory. Cloning shares them.
#[derive(Debug, Clone)]
pub struct ServingMetrics {
    reads: Family<SourceLabel, Counter>,
    forgotten: Family<CauseLabel, Counter>,
    /// Bytes in memory, by its own account.
    bytes: Gauge,
    /// Users that can be answered about from memory.
    users: Gauge,
    /// Dialogs that can be answered about from memory.
    dialogs: Gauge,
    /// Users and dialogs that had to make room for others.
    evictions: Counter,
    /// Seconds that a question to the store took, with what came of it.
    pub round_seconds: Histogram,
    /// Commits that were applied to what is in memory.
    pub commits: Counter,
    /// Those of them whose records were read from the store.
    pub commits_fetched: Counter,
    /// Streams of those who watch.
    pub watch: WatchMetrics,
}

/// What watching is counted as. Clones share the counts.
#[derive(Debug, Clone)]
pub struct WatchMetrics {
    /// Streams that are open.
    pub streams: Gauge,
    /// Users and dialogs that they watch, each as often as it is watched.
    pub subjects: Gauge,
    /// Updates that were sent to those who watch.
    pub updates: Counter,
    /// Changes that went into an update that was to be given already.
    pub coalesced: Counter,
    /// Seconds from when a change was noticed until it was given, of the one of
    /// a message that waited longest.
    pub push_seconds: Histogram,
}

impl Default for WatchMetrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            subjects: Gauge::default(),
            updates: Counter::default(),
            coalesced: Counter::default(),
            // 0.1 ms to 3 s.
            push_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
        }
    }
}

impl Default for ServingMetrics {
    fn default() -> Self {
        Self {
            reads: Family::default(),
            forgotten: Family::default(),
            bytes: Gauge::default(),
            users: Gauge::default(),
            dialogs: Gauge::default(),
            evictions: Counter::default(),
            // 0.1 ms to 3 s.
            round_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            commits: Counter::default(),
            commits_fetched: Counter::default(),
            watch: WatchMetrics::default(),
        }
    }
}

impl ServingMetrics {
    /// Counts a read that was answered, or left to the store.
    pub fn read(&self, from: Source) {
        let source = match from {
            Source::Memory => "memory",
            Source::Loaded => "loaded",
            Source::Store => "store",
        };
        self.reads.get_or_create(&SourceLabel { source }).inc();
    }

    /// Counts that everything in memory was forgotten.
    pub fn forgotten(&self, why: Forgotten) {
        let cause = match why {
            Forgotten::SwitchedOver => "switched_over",
            Forgotten::Unnumbered => "unnumbered",
            Forgotten::RecordMissing => "record_missing",
            Forgotten::WriterRemoved => "writer_removed",
            Forgotten::TooFar => "too_far",
        };
        self.forgotten.get_or_create(&CauseLabel { cause }).inc();
    }

    /// Shows how much is in memory.
    pub fn show(&self, held: &MemoryUse) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.bytes.set(gauge(held.bytes));
        self.users.set(gauge(held.users));
        self.dialogs.set(gauge(held.dialogs));
        let more = held.evictions.saturating_sub(self.evictions.get());
        self.evictions.inc_by(more);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("serving");
        registry.register(
            "reads",
            "Reads by where their answer came from: memory, loaded (read into memory first), store",
            self.reads.clone(),
        );
        registry.register(
            "forgotten",
            "Times that everything in memory was forgotten, by cause",
            self.forgotten.clone(),
        );
        registry.register(
            "memory_bytes",
            "Bytes in memory for reads, by its own account",
            self.bytes.clone(),
        );
        registry.register("users", "Users in memory", self.users.clone());
        registry.register("dialogs", "Dialogs in memory", self.dialogs.clone());
        registry.register(
            "evictions",
            "Users and dialogs that had to make room in memory",
            self.evictions.clone(),
        );
        registry.register_with_unit(
            "round",
            "Time of asking the store how far it is and applying what was committed",
            Unit::Seconds,
            self.round_seconds.clone(),
        );
        registry.register(
            "commits",
            "Commits applied to what is in memory",
            self.commits.clone(),
        );
        registry.register(
            "commits_fetched",
            "Those whose records were read from the store",
            self.commits_fetched.clone(),
        );
        self.watch
            .register(registry.sub_registry_with_prefix("watch"));
    }
}

impl WatchMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("streams", "Streams that are open", self.streams.clone());
        registry.register(
            "subjects",
            "Users and dialogs that are watched, each as often as it is",
            self.subjects.clone(),
        );
        registry.register("updates", "Updates sent", self.updates.clone());
        registry.register(
            "coalesced",
            "Changes that went into an update not sent yet",
            self.coalesced.clone(),
        );
        registry.register_with_unit(
            "push",
            "Time from noticing a change to sending it",
            Unit::Seconds,
            self.push_seconds.clone(),
        );
    }
}
