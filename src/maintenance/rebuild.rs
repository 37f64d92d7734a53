//! Rebuilding counters and facts from the journal, beside those that are
//! served, while the service goes on.
//!
//! Three steps, each of which may be cut off anywhere and gone on with by
//! anyone: replay the journal as it was at the beginning; follow what was added
//! since, until hardly anything is left; then keep writers out for a moment,
//! follow to the end, and switch over. Replaying an event twice changes
//! nothing, which is why going on is that simple.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::derive::LoadMode;
use crate::event::{Event, TenantId};
use crate::failpoint::{self, Point};
use crate::lane::{Writer, partition_of};
use crate::retry::{Backoff, FailureStreak};
use crate::shutdown::Shutdown;
use crate::store::rebuild::replay::JournalFollower;
use crate::store::rebuild::{RebuildClaim, RebuildPhase, RebuildState};
use crate::store::{Class, Store, StoreError};

/// The number of writers that work side by side.
const WRITERS: usize = 4;
/// The most events in one transaction.
const MAX_BATCH_EVENTS: usize = 2_000;
/// Records of the journal between two notes of how far the rebuild is.
const RECORDS_PER_CHECKPOINT: u64 = 16_000;
/// Dialogs that each writer remembers.
const CACHED_DIALOGS_PER_WRITER: usize = 50_000;
/// A stretch of the journal that is followed faster than this is the last one
/// before the fence, behind which a still shorter one is left.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1);
/// How long writers are kept out at most, also when this process dies then.
const MAX_FENCE: Duration = Duration::from_secs(10);
/// The shortest wait after a failure.
const MIN_DELAY: Duration = Duration::from_millis(20);
/// The longest wait after a failure.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Conflicts of a batch in a row after which a transaction of a process that
/// was killed is taken to be in the way.
const STUBBORN_CONFLICTS: u32 = 5;
/// Conflicts of a batch in a row after which everything since the last note is
/// done again.
const MAX_CONFLICTS: u32 = 20;

/// Why counters are not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store does not go on.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal has lost its beginning.
    #[error(
        "the journal no longer has every event (store.journal_retention_days took the oldest), so the counters cannot be made from it alone; `verify --repair` makes them from the recorded facts"
    )]
    NotWhole,
    /// Another process is rebuilding.
    #[error("{by} is rebuilding; should they be dead, it can be gone on with in {seconds} seconds")]
    Busy {
        /// Who runs it.
        by: String,
        /// Seconds until somebody else may go on, if that process does not come
        /// back.
        seconds: i64,
    },
    /// A rebuild of other tenants was begun.
    #[error("a rebuild of {begun} was begun: go on with that one, or abandon it")]
    Other {
        /// The tenants of that rebuild, in words.
        begun: String,
    },
    /// The oplog of MongoDB no longer has what the rebuild is to follow.
    #[error(
        "MongoDB's oplog no longer reaches back to the start of this rebuild: abandon it, enlarge the oplog, and begin anew"
    )]
    HistoryLost,
    /// Another process took the rebuild over while this one did not come back
    /// to it.
    #[error("somebody else has taken this rebuild over")]
    TakenOver,
    /// Readers see the new counters already: there is nothing to give up.
    #[error("this rebuild has switched over already: run it again to remove what is old")]
    SwitchedOver,
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// The step that it is in.
    pub phase: RebuildPhase,
    /// The number of records that were replayed, some of them twice after an
    /// interruption.
    pub replayed: u64,
    /// Roughly how many records the journal has, of all tenants.
    pub estimated: u64,
}

impl Default for RebuildProgress {
    fn default() -> Self {
        Self {
            phase: RebuildPhase::Replaying,
            replayed: 0,
            estimated: 0,
        }
    }
}

/// How a rebuild ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildOutcome {
    /// Readers see what was rebuilt.
    SwitchedOver,
    /// A stop was requested; another run can go on with it.
    Interrupted,
}

/// What follows after a step.
enum RebuildStep {
    Next,
    Stopped,
}

/// Rebuilds the counters of a tenant or of all; goes on with a rebuild that was
/// begun. What goes wrong with the store is tried again until a stop is
/// requested.
///
/// # Errors
/// [`RebuildError`]. Readers go on seeing what they saw.
pub async fn rebuild(
    store: &Store,
    tenant: Option<&TenantId>,
    by: &str,
    stop: Shutdown,
    progress: watch::Sender<RebuildProgress>,
) -> Result<RebuildOutcome, RebuildError> {
    let rebuilding = begin(store, tenant, by).await?;
    let generation = rebuilding.generation();
    let writer = || Writer::rebuilding(store.clone(), generation, CACHED_DIALOGS_PER_WRITER);
    let mut work = RebuildRun {
        store,
        tenant: rebuilding.tenant()?,
        rebuilding,
        writers: (0..WRITERS).map(|_| writer()).collect(),
        stop,
        progress,
    };
    let estimated = store.estimated_records().await?;
    work.progress
        .send_modify(|progress| progress.estimated = estimated);
    work.drive().await
}

/// Gives up the rebuild that was begun; returns `false` when there is none.
///
/// # Errors
/// [`RebuildError`].
pub(crate) async fn abandon(store: &Store, by: &str) -> Result<bool, RebuildError> {
    match store.claim_rebuild(by).await? {
        RebuildClaim::None => Ok(false),
        RebuildClaim::Busy { by, seconds } => Err(RebuildError::Busy { by, seconds }),
        RebuildClaim::Ours(mut rebuilding) => {
            if store.note_before_switch(&mut rebuilding).await? {
                store.release_rebuild(&rebuilding).await?;
                return Err(RebuildError::SwitchedOver);
            }
            store.remove_rebuild(&rebuilding).await?;
            Ok(true)
        }
    }
}

async fn begin(
    store: &Store,
    tenant: Option<&TenantId>,
    by: &str,
) -> Result<RebuildState, RebuildError> {
    match store.claim_rebuild(by).await? {
        RebuildClaim::Busy { by, seconds } => Err(RebuildError::Busy { by, seconds }),
        RebuildClaim::Ours(rebuilding) => {
            let begun = rebuilding.tenant()?;
            if begun.as_ref() == tenant {
                return Ok(*rebuilding);
            }
            store.release_rebuild(&rebuilding).await?;
            Err(RebuildError::Other {
                begun: begun.map_or("all tenants".into(), |tenant| tenant.to_string()),
            })
        }
        RebuildClaim::None => {
            if !store.journal_is_whole().await? {
                return Err(RebuildError::NotWhole);
            }
            Ok(store.begin_rebuild(tenant, by).await?)
        }
    }
}

/// A rebuild that this process drives.
struct RebuildRun<'s> {
    store: &'s Store,
    tenant: Option<TenantId>,
    rebuilding: RebuildState,
    writers: Vec<Writer>,
    stop: Shutdown,
    progress: watch::Sender<RebuildProgress>,
}

impl RebuildRun<'_> {
    async fn drive(&mut self) -> Result<RebuildOutcome, RebuildError> {
        let mut backoff = Backoff::new(MIN_DELAY, MAX_DELAY);
        let mut failures = FailureStreak::default();
        loop {
            let step = match self.rebuilding.phase() {
                RebuildPhase::Replaying => self.replay().await,
                RebuildPhase::Following => self.follow().await,
                RebuildPhase::Cleaning => {
                    self.tell();
                    self.store.clean_up_rebuild(&self.rebuilding).await?;
                    return Ok(RebuildOutcome::SwitchedOver);
                }
            };
            match step {
                Ok(RebuildStep::Next) => {
                    backoff.reset();
                    failures.end();
                }
                Ok(RebuildStep::Stopped) => return self.interrupted().await,
                Err(RebuildError::Store(error)) if error.is_history_lost() => {
                    return Err(RebuildError::HistoryLost);
                }
                Err(RebuildError::Store(error)) if error.class() != Class::Permanent => {
                    if failures.is_first() {
                        warn!(%error, "the rebuild is held up; trying again until it goes on");
                    }
                    tokio::select! {
                        () = backoff.wait() => {}
                        () = self.stop.requested() => return self.interrupted().await,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn interrupted(&self) -> Result<RebuildOutcome, RebuildError> {
        // Where this fails the lease runs out.
        let _ = self.store.release_rebuild(&self.rebuilding).await;
        Ok(RebuildOutcome::Interrupted)
    }

    /// Replays what was there at the beginning. The next records are read while
    /// these are written.
    async fn replay(&mut self) -> Result<RebuildStep, RebuildError> {
        let (from, since) = (self.rebuilding.read_to(), self.rebuilding.since());
        let tenant = self.tenant.as_ref();
        let mut reader = self.store.read_journal(tenant, from, since).await?;
        let mut ahead = reader.next(RECORDS_PER_CHECKPOINT).await?;
        while let Some((chunk, to)) = ahead.take() {
            let writing = write(&mut self.writers, chunk.events, LoadMode::Optimistic);
            let (written, next) = tokio::join!(writing, reader.next(RECORDS_PER_CHECKPOINT));
            written?;
            self.rebuilding.note_replayed(chunk.records);
            self.rebuilding.note_read(to);
            self.save().await?;
            failpoint::pass(Point::Replayed);
            if self.stop.is_requested() {
                return Ok(RebuildStep::Stopped);
            }
            ahead = next?;
        }
        if !self.store.journal_is_whole().await? {
            return Err(RebuildError::NotWhole);
        }
        self.rebuilding.note_followed(None);
        self.save().await?;
        Ok(RebuildStep::Next)
    }

    /// Follows what is added until little is left, and switches over.
    async fn follow(&mut self) -> Result<RebuildStep, RebuildError> {
        let (since, after) = (self.rebuilding.since(), self.rebuilding.followed_to());
        let tenant = self.tenant.as_ref();
        let mut follower = self.store.follow_journal(tenant, since, after).await?;
        loop {
            let begun = Instant::now();
            if !self.follow_to_mark(&mut follower).await? {
                return Ok(RebuildStep::Stopped);
            }
            if begun.elapsed() < CAUGHT_UP_WITHIN {
                break;
            }
        }
        if self.store.note_before_switch(&mut self.rebuilding).await? {
            self.rebuilding.note_switched();
            return Ok(RebuildStep::Next);
        }
        self.save().await?;
        self.switch_over(&mut follower).await
    }

    async fn switch_over(
        &mut self,
        follower: &mut JournalFollower,
    ) -> Result<RebuildStep, RebuildError> {
        let begun = Instant::now();
        let fence = self.store.fence(MAX_FENCE).await?;
        failpoint::pass(Point::Fenced);
        match self.follow_to_mark(follower).await {
            Ok(true) => {}
            ended => {
                self.store.lift(fence).await?;
                return ended.map(|_| RebuildStep::Stopped);
            }
        }
        let (tenant, generation) = (self.tenant.as_ref(), self.rebuilding.generation());
        if self.store.switch_over(&fence, tenant, generation).await? {
            failpoint::pass(Point::SwitchedOver);
            let millis = begun.elapsed().as_millis();
            info!(
                millis,
                "switched over to what was rebuilt; writers waited so long"
            );
            self.rebuilding.note_switched();
        } else {
            warn!("the fence ended before the switch; following again");
        }
        Ok(RebuildStep::Next)
    }

    /// `false` when a stop was requested before.
    async fn follow_to_mark(
        &mut self,
        follower: &mut JournalFollower,
    ) -> Result<bool, RebuildError> {
        let marker = self.store.mark_journal().await?;
        loop {
            let (chunk, reached) = follower.next(RECORDS_PER_CHECKPOINT, marker).await?;
            write(&mut self.writers, chunk.events, LoadMode::Checked).await?;
            self.rebuilding.note_replayed(chunk.records);
            self.rebuilding.note_followed(follower.position());
            self.save().await?;
            failpoint::pass(Point::Followed);
            if self.stop.is_requested() {
                return Ok(false);
            }
            if reached {
                return Ok(true);
            }
        }
    }

    async fn save(&mut self) -> Result<(), RebuildError> {
        let ours = self.store.save_rebuild(&self.rebuilding).await?;
        self.tell();
        match ours {
            true => Ok(()),
            false => Err(RebuildError::TakenOver),
        }
    }

    fn tell(&self) {
        self.progress.send_modify(|progress| {
            progress.phase = self.rebuilding.phase();
            progress.replayed = self.rebuilding.replayed();
        });
    }
}

/// Writes events, each by the writer of its dialog.
async fn write(
    writers: &mut [Writer],
    events: Vec<Event>,
    mode: LoadMode,
) -> Result<(), StoreError> {
    let mut shares: Vec<Vec<Event>> = writers.iter().map(|_| Vec::new()).collect();
    for event in events {
        shares[partition_of(&event, writers.len())].push(event);
    }
    let writing = writers.iter_mut().zip(&shares);
    try_join_all(writing.map(|(writer, events)| write_share(writer, events, mode))).await?;
    Ok(())
}

async fn write_share(
    writer: &mut Writer,
    events: &[Event],
    mut mode: LoadMode,
) -> Result<(), StoreError> {
    let mut rest: Vec<&Event> = events.iter().collect();
    let mut backoff = Backoff::new(MIN_DELAY, MAX_DELAY);
    let (mut conflicts, mut size) = (0, MAX_BATCH_EVENTS);
    while !rest.is_empty() {
        if conflicts == STUBBORN_CONFLICTS {
            writer.end_stale_transactions().await?;
        }
        let batch = &rest[..rest.len().min(size)];
        match writer.attempt(batch, mode).await {
            Ok(outcomes) => {
                rest.drain(..outcomes.len());
                size = size.saturating_mul(2).min(MAX_BATCH_EVENTS);
                backoff.reset();
                conflicts = 0;
            }
            // An event that was replayed before, or a writer beside this one.
            Err(error) if error.class() == Class::Conflict && conflicts < MAX_CONFLICTS => {
                conflicts += 1;
                mode = LoadMode::Checked;
                backoff.wait().await;
            }
            Err(StoreError::TooMuch { .. }) if batch.len() > 1 => size = batch.len() / 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
