//! Attempts at batches: load what must be known, derive, commit. What becomes
//! of a failed one is the [`Lane`](super::Lane)'s to decide.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::registry::Registry;

use super::Shared;
use super::cache::Cache;
use super::types_in_flight::TypesInFlight;
use crate::config;
use crate::derive::state::{DialogKey, EventKey, Need};
use crate::derive::{Batch, Changes, EventOutcome, FORESEEN_ROUNDS, LoadMode, Missing};
use crate::event::Event;
use crate::failpoint::{self, Point};
use crate::store::commit_log::Committed;
use crate::store::rebuild::fence::Enrolment;
use crate::store::rebuild::generation::{Generation, Generations};
use crate::store::{CommitFeed, Loader, MAX_TAIL, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Brings events into the store, one batch after the other, and remembers what
/// it knows of their dialogs. Any number of writers may work side by side.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    /// Where batches go; `None` until the writer is enrolled.
    target: Option<Target>,
    metrics: Metrics,
    feed: CommitFeed,
    types: TypesInFlight,
    cache: Cache,
    look_back: LookBack,
}

/// Where the batches of a writer go.
#[derive(Debug, Clone)]
enum Target {
    /// To the generations that readers see, by permission of an enrolment.
    Served(Enrolment),
    /// To a generation that is being rebuilt.
    Rebuilt {
        generation: Generation,
        generations: Arc<Generations>,
    },
}

impl Target {
    fn generations(&self) -> &Arc<Generations> {
        match self {
            Target::Served(enrolment) => enrolment.generations(),
            Target::Rebuilt { generations, .. } => generations,
        }
    }
}

/// What became of an event in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The event was committed, or needs no commit.
    Settled(EventOutcome),
    /// Nothing was done about it: it needs a longer look back than this writer
    /// may take.
    SetAside,
}

impl Fate {
    /// Returns what a settled event did; `None` for one that was set aside.
    pub fn outcome(self) -> Option<EventOutcome> {
        match self {
            Fate::Settled(outcome) => Some(outcome),
            Fate::SetAside => None,
        }
    }
}

/// How far a writer looks back for an event out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookBack {
    /// A little, since others wait. What needs more is [`Fate::SetAside`].
    Bounded,
    /// As far as the event needs.
    Unbounded,
}

impl LookBack {
    /// Returns the longest tail of a dialog that is loaded, in messages.
    fn tail(self) -> usize {
        match self {
            LookBack::Bounded => BOUNDED_TAIL_MESSAGES,
            LookBack::Unbounded => MAX_TAIL,
        }
    }
}

/// The most messages of a dialog, and the most members of a dialog, that a
/// bounded look back goes through.
const BOUNDED_TAIL_MESSAGES: usize = 100;
const BOUNDED_MEMBERS: i64 = 500;
/// The most dialogs whose past a bounded attempt looks at, and the most members
/// whose single reads it looks up.
const BOUNDED_DIALOGS: usize = 16;
const BOUNDED_READERS: usize = 100;

/// How many bytes a writer of a rebuild may take to remember dialogs.
const REBUILDING_CACHE_BYTES: usize = 64 << 20;

/// An attempt at a batch, under way.
struct Attempt {
    batch: Batch,
    target: Target,
    look_back: LookBack,
    /// Dialogs whose past was looked at, and members whose single reads were.
    looked_at: HashSet<DialogKey>,
    readers: usize,
    /// A snapshot of the store as of the first read; a batch of new messages in
    /// known dialogs needs none.
    loader: Option<Loader>,
}

impl Attempt {
    /// Returns whether the attempt may look this up, and if so takes it from
    /// the attempt's budget. Asking about a dialog that was asked about already
    /// costs nothing.
    fn affords(&mut self, needs: &[Need]) -> bool {
        if self.look_back == LookBack::Unbounded {
            return true;
        }
        for need in needs {
            let affordable = match need {
                Need::MembersPast(dialog, _) => {
                    let few = self.batch.members(dialog) <= BOUNDED_MEMBERS;
                    few && self.may_look_at(dialog)
                }
                Need::Tail(dialog, _) => self.may_look_at(dialog),
                Need::ReadOf(..) => {
                    self.readers += 1;
                    self.readers <= BOUNDED_READERS
                }
                Need::Unread(..) => false,
                _ => true,
            };
            if !affordable {
                return false;
            }
        }
        true
    }

    fn may_look_at(&mut self, dialog: &DialogKey) -> bool {
        let may = self.looked_at.len() < BOUNDED_DIALOGS || self.looked_at.contains(dialog);
        if may {
            self.looked_at.insert(dialog.clone());
        }
        may
    }
}

impl Writer {
    /// Makes a writer that looks back as far as an event needs, and remembers
    /// events alone: its dialogs are soon another's again.
    pub fn unbounded(shared: &Shared) -> Self {
        let config::Lanes {
            count, cache_bytes, ..
        } = shared.lanes;
        let cache = Cache::new(0, cache_bytes / count.max(1) / 2);
        Self::new(shared, LookBack::Unbounded, cache)
    }

    /// Makes a writer that looks back a little, and sets aside what needs more,
    /// see [`Fate::SetAside`]. It remembers what is in `cache`.
    pub(super) fn bounded(shared: &Shared, cache: Cache) -> Self {
        Self::new(shared, LookBack::Bounded, cache)
    }

    fn new(shared: &Shared, look_back: LookBack, cache: Cache) -> Self {
        Self {
            look_back,
            store: shared.store.clone(),
            target: None,
            metrics: shared.metrics.clone(),
            feed: shared.feed.clone(),
            types: shared.types.clone(),
            cache,
        }
    }

    /// Makes a writer that counts events from the journal anew, in collections
    /// that nobody reads yet.
    pub(crate) fn rebuilding(store: Store, to: Generation, cached_dialogs: usize) -> Self {
        Self {
            store,
            target: Some(Target::Rebuilt {
                generation: to,
                generations: Arc::new(Generations::only(to)),
            }),
            metrics: Metrics::new(&mut Registry::default()),
            feed: CommitFeed::default(),
            types: TypesInFlight::default(),
            cache: Cache::new(cached_dialogs, REBUILDING_CACHE_BYTES),
            look_back: LookBack::Unbounded,
        }
    }

    /// Forgets a dialog: another writer will change it.
    pub fn forget(&mut self, dialog: &DialogKey) {
        self.cache.forget(std::iter::once(dialog));
    }

    /// Commits these events; returns what became of each.
    ///
    /// # Errors
    /// Any [`StoreError`]; nothing was committed then, unless the outcome of
    /// the commit is unknown. Try again with [`LoadMode::Checked`].
    pub async fn attempt(
        &mut self,
        events: &[&Event],
        mode: LoadMode,
    ) -> Result<Vec<Fate>, StoreError> {
        let target = self.target().await?;
        let mut attempt = Attempt {
            batch: match target {
                Target::Served(_) => Batch::default(),
                Target::Rebuilt { .. } => Batch::of_accepted(),
            },
            target,
            look_back: self.look_back,
            looked_at: HashSet::new(),
            readers: 0,
            loader: None,
        };
        self.prepare(&mut attempt, events, mode).await?;
        let mut fates = Vec::with_capacity(events.len());
        for event in events {
            let fate = loop {
                match attempt.batch.apply(event) {
                    Ok(outcome) => break Fate::Settled(outcome),
                    Err(Missing(needs)) if attempt.affords(&needs) => {
                        self.load(&mut attempt, needs).await?;
                    }
                    Err(Missing(_)) => break Fate::SetAside,
                }
            };
            fates.push(fate);
            if self.look_back == LookBack::Unbounded {
                // Each may be a look at ten thousand members.
                tokio::task::yield_now().await;
            }
        }
        self.commit(attempt.batch).await?;
        Ok(fates)
    }

    /// Ends transactions that a process left open; returns how many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn end_stale_transactions(&self) -> Result<usize, StoreError> {
        self.store.end_stale_transactions().await
    }

    /// Returns where batches go; enrols, if that was not done yet.
    async fn target(&mut self) -> Result<Target, StoreError> {
        let target = match &self.target {
            Some(target) => target,
            None => {
                let enrolment = self.store.enrol().await?;
                self.target.insert(Target::Served(enrolment))
            }
        };
        Ok(target.clone())
    }

    /// Loads all that can be foreseen, for all events at once. What is still
    /// missing then is found while deriving.
    async fn prepare(
        &mut self,
        attempt: &mut Attempt,
        events: &[&Event],
        mode: LoadMode,
    ) -> Result<(), StoreError> {
        for event in events {
            let key = EventKey {
                tenant: event.tenant.clone(),
                event: event.stamp.event.clone(),
            };
            match attempt.target {
                // They are all in the journal: that is where they come from.
                Target::Rebuilt { .. } => attempt.batch.state_mut().know_journal(key, false),
                Target::Served(_) if self.cache.has_event(&key) => {
                    attempt.batch.state_mut().know_journal(key, true);
                }
                Target::Served(_) => {}
            }
        }
        for _ in 0..FORESEEN_ROUNDS {
            let needs = events.iter().flat_map(|e| attempt.batch.foreseen(e, mode));
            let mut needs: HashSet<_> = needs.collect();
            needs.retain(|need| attempt.affords(std::slice::from_ref(need)));
            if needs.is_empty() {
                break;
            }
            self.load(attempt, needs).await?;
        }
        Ok(())
    }

    /// Answers needs: from memory where that is possible, else from the store.
    async fn load(
        &mut self,
        attempt: &mut Attempt,
        needs: impl IntoIterator<Item = Need>,
    ) -> Result<(), StoreError> {
        let mut unanswered = Vec::new();
        for need in needs {
            if !self.remember(attempt, &need) {
                unanswered.push(need);
            }
        }
        if unanswered.is_empty() {
            return Ok(());
        }
        let loader = match &mut attempt.loader {
            Some(loader) => loader,
            None => {
                let loader = self.store.loader(attempt.target.generations().clone());
                attempt.loader.insert(loader.await?)
            }
        };
        let longest = attempt.look_back.tail();
        loader
            .answer_up_to(longest, unanswered, attempt.batch.state_mut())
            .await
    }

    fn remember(&mut self, attempt: &mut Attempt, need: &Need) -> bool {
        let epoch = attempt.target.generations().epoch;
        let state = attempt.batch.state_mut();
        match need {
            Need::Dialog(key) => match self.cache.dialog(epoch, key) {
                Some(dialog) => state.know_dialog(key.clone(), dialog),
                None => return false,
            },
            Need::UserType(key) => match self.types.get(key) {
                Some(user_type) => state.know_user_type(key.clone(), Some(user_type)),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = batch.finish();
        if changes.is_empty() {
            return Ok(());
        }
        failpoint::pass(Point::Derived);
        let started = Instant::now();
        let epoch = self.target.as_ref().map(|to| to.generations().epoch);
        let committed = match self.write(&mut changes).await {
            Ok(committed) => committed,
            Err(error) => {
                // Whatever went wrong, the dialogs may not be as remembered.
                self.cache.forget(changes.dialogs.keys());
                if error.is_fenced_off() || error.is_unknown_commit() {
                    self.target = None;
                }
                return Err(error);
            }
        };
        let metrics = &self.metrics;
        metrics
            .commits
            .seconds
            .observe(started.elapsed().as_secs_f64());
        metrics
            .commits
            .batch_events
            .observe(changes.taken.len() as f64);
        for disagreement in &changes.disagreements {
            metrics.events.disagrees(*disagreement);
        }
        if let Some(committed) = committed {
            self.feed.committed(committed, &changes.taken);
            failpoint::pass(Point::Fed);
        }
        if let Some(epoch) = epoch {
            self.cache.committed(epoch, changes);
        }
        Ok(())
    }

    /// Writes the changes; returns the commit, or `None` where nobody reads it
    /// yet.
    async fn write(&mut self, changes: &mut Changes) -> Result<Option<Committed>, StoreError> {
        match &mut self.target {
            Some(Target::Served(enrolment)) => {
                self.store.commit(changes, enrolment).await.map(Some)
            }
            Some(Target::Rebuilt {
                generation,
                generations,
            }) => {
                changes.begin_versions_after(generation.versions_after());
                self.store.commit_replayed(changes, generations).await?;
                Ok(None)
            }
            None => Err(StoreError::SwitchingOver),
        }
    }
}
