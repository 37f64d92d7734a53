//! What reads, the follower and loads share.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::model::Model;
use super::watching::Hub;
use crate::event::{TenantId, UserId};
use crate::store::commit_log::Position;
use crate::store::rebuild::fence::WriterId;
use crate::store::rebuild::generation::Generations;
use crate::store::{CommitFeed, Store};
use crate::telemetry::metrics::{MemoryUse, ServingMetrics};

/// The most users of whom something is remembered that only saves work.
const MAX_RECENT_USERS: usize = 10_000;
/// The time for which a user is remembered so.
const RECENT_FOR: Duration = Duration::from_secs(60);

/// The state that reads, the follower and loads share.
#[derive(Debug)]
pub(super) struct SharedState {
    pub store: Store,
    pub feed: CommitFeed,
    memory: Mutex<Memory>,
    /// Notified when somebody waits for a round.
    pub asked: Notify,
    pub metrics: ServingMetrics,
    /// The users for whom there is no room.
    pub too_large: RecentUsers,
    /// The users who were asked about in a way that is not worth a load.
    pub asked_once: RecentUsers,
    /// Counts whatever loads have read: those who wait for their turn go on
    /// waiting while it moves.
    pub loads_went_on: AtomicU64,
}

/// The model, and what it was made from.
#[derive(Debug)]
pub(super) struct Memory {
    pub model: Model,
    /// The streams of those who watch.
    pub hub: Hub,
    /// The generations that the documents were read from.
    pub generations: Generations,
    /// The positions of writers who do not number their commits.
    pub unnumbered: BTreeMap<WriterId, i64>,
    /// The number of writers that were removed so far.
    pub removed: i64,
    /// Until when such writers are taken to be at work: nothing can be held.
    pub idle_until: Option<Instant>,
    /// The number of the latest round that has begun.
    pub begun: u64,
    /// All that was committed before this is in the model.
    pub as_of: Option<AsOf>,
}

/// The time at which the store was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOf {
    /// The time by the monotonic clock, for ages.
    pub asked: Instant,
    /// The same by the wall clock, for clients.
    pub shown: SystemTime,
}

impl SharedState {
    /// Shows in the metrics how much the model holds.
    pub(super) fn show(&self, model: &Model) {
        let held = model.held();
        self.metrics.show(&MemoryUse {
            bytes: held.bytes,
            users: held.users,
            dialogs: held.dialogs,
            evictions: held.evictions,
        });
    }

    pub(super) fn new(
        (store, feed): (Store, CommitFeed),
        most_bytes: usize,
        metrics: ServingMetrics,
    ) -> Self {
        Self {
            store,
            feed,
            memory: Mutex::new(Memory {
                model: Model::new(most_bytes),
                hub: Hub::new(metrics.watch.clone()),
                generations: Generations::default(),
                unnumbered: BTreeMap::new(),
                removed: 0,
                idle_until: None,
                begun: 0,
                as_of: None,
            }),
            asked: Notify::new(),
            metrics,
            too_large: RecentUsers::default(),
            asked_once: RecentUsers::default(),
            loads_went_on: AtomicU64::new(0),
        }
    }

    /// Locks the memory. After a panic in the middle of a change it is empty.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| {
            // Somebody panicked in the middle of a change.
            let mut memory = poisoned.into_inner();
            let cut = memory.model.cut().clone();
            memory.model.reset(cut);
            self.memory.clear_poison();
            memory
        })
    }
}

impl Memory {
    /// Tells whether what was read as of a position was read from what the model is
    /// made from.
    pub(super) fn agrees_with(&self, position: &Position) -> bool {
        self.generations == position.generations && self.unnumbered == position.unnumbered
    }

    /// Brings the streams to where the model is, and returns both.
    pub(super) fn watched(&mut self) -> (&mut Hub, &mut Model) {
        self.hub.follow(&mut self.model, Instant::now());
        (&mut self.hub, &mut self.model)
    }

    /// Returns a number that stands for all that commit records do not tell: a rebuild,
    /// writers that were removed, and what those without records did. Another version
    /// of this service may make another number of the same.
    pub(super) fn untold(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.generations.epoch.hash(&mut hasher);
        self.removed.hash(&mut hasher);
        self.unnumbered.hash(&mut hasher);
        hasher.finish()
    }
}

/// Users who were noted of late; the longest ago go first.
#[derive(Debug)]
pub(super) struct RecentUsers(Mutex<LruCache<(TenantId, UserId), Instant>>);

impl Default for RecentUsers {
    fn default() -> Self {
        let most =
            std::num::NonZeroUsize::new(MAX_RECENT_USERS).unwrap_or(std::num::NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(most)))
    }
}

impl RecentUsers {
    /// Notes a user. Tells whether they were noted of late already.
    pub(super) fn note(&self, tenant: &TenantId, user: &UserId) -> bool {
        let now = Instant::now();
        let before = self.noted().put((tenant.clone(), user.clone()), now);
        before.is_some_and(|before| now.duration_since(before) < RECENT_FOR)
    }

    /// Tells whether a user was noted of late.
    pub(super) fn has(&self, tenant: &TenantId, user: &UserId) -> bool {
        let noted = self.noted();
        let at = noted.peek(&(tenant.clone(), user.clone()));
        at.is_some_and(|at| at.elapsed() < RECENT_FOR)
    }

    fn noted(&self) -> MutexGuard<'_, LruCache<(TenantId, UserId), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
