//! Lanes: where events are batched, derived, committed and settled.
//!
//! Events of one dialog are with one lane of a process at a time
//! ([`Arrivals`]), so that lanes do not touch the same documents. That is for speed
//! alone: another replica, or an event about a message whose dialog the producer did
//! not name, may change a dialog at any time. The commit is refused then, the lane
//! forgets what it knew and derives again from what is stored.
//!
//! An event out of order may need a long look back: at ten thousand members, at
//! all messages of years. A lane does not wait for that. It sets the event
//! aside, and all others of its dialog until that is done, for a **patient**
//! lane beside it, which takes as long as it takes, in batches that each are a
//! short transaction.
//!
//! What fails by itself goes there, too: an event that the store refuses, or
//! does not take while it takes others, is found by halving its batch; from then
//! on all of its dialog's are the patient lane's, for a while. There each is
//! dead-lettered, or waits and is tried again, by the cause.

mod arrivals;
mod batch_progress;
mod cache;
mod failing;
mod set_aside;
mod store_probe;
mod types_in_flight;
mod writer;

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use crate::bus::Delivery;
use crate::config;
use crate::deadletter::Failure;
use crate::derive::{EventOutcome, LoadMode};
use crate::event::Event;
use crate::failpoint;
use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::store::{Class, CommitFeed, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;
pub(crate) use arrivals::partition_of;
pub use arrivals::{Arrivals, Backlog};
use arrivals::{HeldPartitions, LaneEvents};
use batch_progress::BatchProgress;
use cache::Cache;
use set_aside::{Aside, SetAside};
pub use store_probe::probe_store;
pub use types_in_flight::TypesInFlight;
pub use writer::{Fate, Writer};

/// The number of deliveries from which on an event may be what ends the process
/// each time. Its neighbours must not be drawn with it to the broker's delivery
/// limit.
const SUSPECT_DELIVERIES: u64 = 2;

/// How many times smaller the batches of suspicious events are with every
/// further delivery: mostly only a connection was cut.
const SUSPECT_BATCH_DIVISOR: usize = 4;

/// How long an attempt of a patient lane is to take: after a longer one the
/// next has fewer events.
const PATIENT_ATTEMPT_TARGET: Duration = Duration::from_secs(1);

/// The events in the first attempt of a patient lane, and the fewest in any:
/// what touches ten thousand members touches them once, for however many
/// events.
const MIN_PATIENT_EVENTS: usize = 100;

/// How long an attempt may take before the store counts as away: it may be
/// frozen.
const OUTAGE_AFTER: Duration = Duration::from_secs(1);

/// The time in which an acknowledgement has certainly left the process.
const ACK_SEND_TIME: Duration = Duration::from_millis(5);

/// The time between two log lines about events that fail by themselves: of
/// thousands, the dead letters say it all.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// An event on its way, with the delivery that it settles.
#[derive(Debug)]
pub(crate) struct Work {
    /// The event to be counted.
    pub(crate) event: Event,
    /// The delivery that brought it, to be settled once it is.
    pub(crate) delivery: Delivery,
    /// The guard that keeps its place set aside; `None` for one that is not.
    pub(crate) aside: Option<SetAside>,
    /// How often the event has failed by itself, and not for good.
    failures: u32,
}

impl Work {
    /// Makes the work of an event that was just delivered.
    pub(crate) fn new(event: Event, delivery: Delivery) -> Self {
        Self {
            event,
            delivery,
            aside: None,
            failures: 0,
        }
    }
}

/// What all lanes of a process share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The store that batches are committed to.
    pub store: Store,
    /// The metrics that lanes report to.
    pub metrics: Metrics,
    /// The feed that followers in this process learn of commits from.
    pub feed: CommitFeed,
    /// The users' types that are learnt, and not committed yet.
    pub types: TypesInFlight,
    /// The settings of lanes.
    pub lanes: config::Lanes,
    /// The settings of retries.
    pub retry: config::Retry,
    /// What is known of an outage of the store.
    pub outage: Outage,
    /// The signal to stop.
    pub shutdown: Shutdown,
}

/// A task that batches events, commits them and settles their deliveries.
#[derive(Debug)]
pub(crate) struct Lane {
    shared: Shared,
    writer: Writer,
    /// The places whose events are set aside.
    aside: Aside,
    kind: LaneKind,
    /// The most events in one attempt: fewer where attempts take long.
    attempt_events: usize,
    /// The limit of log lines about events that fail by themselves.
    failure_log: Throttle,
}

/// Which kind of lane it is, and where its events come from.
#[derive(Debug)]
enum LaneKind {
    /// A lane that sets events aside for the patient lanes, of which each has
    /// its dialogs.
    Main {
        arrivals: LaneEvents,
        patient: Vec<mpsc::Sender<Work>>,
    },
    /// A patient lane. What rests comes back to it while the others are there.
    Patient {
        set_aside: mpsc::Receiver<Work>,
        back: mpsc::WeakSender<Work>,
    },
}

impl Lane {
    /// All lanes of a process, and where their events arrive: as many as
    /// configured, and a patient one for each. `capacity` is how many events may
    /// be set aside.
    pub(crate) fn all(shared: &Shared, capacity: usize) -> (Arrivals, Vec<Self>) {
        let config::Lanes {
            count,
            batch_events,
            batch_age_ms,
            cached_dialogs,
            cache_bytes,
        } = shared.lanes;
        let apart = Duration::from_millis(batch_age_ms);
        let (arrivals, lane_events) = Arrivals::of(count, batch_events, apart);
        let aside = Aside::default();
        let lane = |writer, kind, attempt_events| Self {
            writer,
            aside: aside.clone(),
            kind,
            attempt_events,
            failure_log: Throttle::new(FAILURE_LOG_INTERVAL),
            shared: shared.clone(),
        };
        let (mut lanes, mut patient) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (sender, set_aside) = mpsc::channel(capacity);
            let back = sender.downgrade();
            patient.push(sender);
            let kind = LaneKind::Patient { set_aside, back };
            lanes.push(lane(
                Writer::unbounded(shared),
                kind,
                MIN_PATIENT_EVENTS.min(batch_events),
            ));
        }
        // The other half is the patient lanes'.
        let cache = Cache::new(cached_dialogs, cache_bytes / 2);
        for arrivals in lane_events {
            let writer = Writer::bounded(shared, cache.clone());
            let patient = patient.clone();
            let kind = LaneKind::Main { arrivals, patient };
            lanes.push(lane(writer, kind, batch_events));
        }
        (arrivals, lanes)
    }

    /// Works until nothing more arrives and all that came is settled. When a stop
    /// is requested during an outage of the store, what is left is given back
    /// to the broker unsettled.
    pub(crate) async fn run(mut self) {
        while let Some((mut arrived, _held)) = self.next_batch().await {
            self.set_aside_known(&mut arrived).await;
            let (suspicious, batch): (Vec<_>, Vec<_>) = arrived
                .into_iter()
                .partition(|work| work.delivery.delivery_count() >= SUSPECT_DELIVERIES);
            self.settle(batch).await;
            self.settle_suspicious(suspicious).await;
        }
    }

    /// Waits for a batch; `None` at the end.
    async fn next_batch(&mut self) -> Option<(Vec<Work>, Option<HeldPartitions>)> {
        match &mut self.kind {
            LaneKind::Main { arrivals, .. } => {
                let (works, held) = arrivals.take().await?;
                Some((works, Some(held)))
            }
            LaneKind::Patient { set_aside, .. } => {
                let mut works = Vec::new();
                let most = self.shared.lanes.batch_events;
                let received = set_aside.recv_many(&mut works, most).await;
                (received > 0).then_some((works, None))
            }
        }
    }

    /// Settles what was delivered again and again, in batches that are the
    /// smaller the more often that was. In an order that is new each time: half
    /// of what stands before or after the one that ends the process is settled
    /// before it does.
    async fn settle_suspicious(&mut self, mut works: Vec<Work>) {
        let order = RandomState::new();
        works.sort_by_cached_key(|work| order.hash_one(&work.event.stamp.event));
        while let Some(last) = works.last() {
            let further = last.delivery.delivery_count() - SUSPECT_DELIVERIES;
            let smaller = u32::try_from(further + 1).ok();
            let smaller = smaller.and_then(|times| SUSPECT_BATCH_DIVISOR.checked_pow(times));
            let size = self.shared.lanes.batch_events / smaller.unwrap_or(usize::MAX);
            let batch = works.split_off(works.len().saturating_sub(size.max(1)));
            self.settle(batch).await;
            // The next batch may be the last one: let the broker hear of this.
            tokio::time::sleep(ACK_SEND_TIME).await;
        }
    }

    /// Sends on what is about dialogs of which events are set aside already.
    async fn set_aside_known(&mut self, arrived: &mut Vec<Work>) {
        if self.is_patient() {
            return;
        }
        let aside = self.aside.clone();
        for work in arrived.extract_if(.., |work| aside.has(&work.event)) {
            self.set_aside(work).await;
        }
    }

    fn is_patient(&self) -> bool {
        matches!(self.kind, LaneKind::Patient { .. })
    }

    async fn set_aside(&mut self, mut work: Work) {
        let LaneKind::Main { patient, .. } = &self.kind else {
            return;
        };
        let patient = &patient[partition_of(&work.event, patient.len())];
        work.aside = self.aside.set(&work.event);
        if let Some(dialog) = set_aside::dialog(&work.event) {
            self.writer.forget(&dialog);
        }
        // The patient lane ends only after the others, unless it panicked. The
        // delivery is dropped unsettled then, and the broker delivers it again.
        let _ = patient.send(work).await;
    }

    /// A patient lane has fewer events in the next attempt when this one took
    /// long, more when it did not. Other lanes do not: there a long attempt is a
    /// slow store, for which many events at once are best.
    fn adapt_attempt_events(&mut self, taken: usize, took: Duration) {
        let most = self.shared.lanes.batch_events;
        if !self.is_patient() {
            return;
        }
        if took > PATIENT_ATTEMPT_TARGET {
            self.attempt_events = (taken / 2).max(MIN_PATIENT_EVENTS.min(most));
        } else if took < PATIENT_ATTEMPT_TARGET / 2 {
            self.attempt_events = self.attempt_events.saturating_mul(2).min(most);
        }
    }

    async fn settle(&mut self, batch: Vec<Work>) {
        let redelivered = batch.iter().any(|work| work.delivery.redelivered());
        let mode = match redelivered {
            true => LoadMode::Checked,
            false => LoadMode::Optimistic,
        };
        let mut progress = BatchProgress::new(batch, mode, &self.shared.retry);
        while !progress.queue.is_empty() {
            let taken = progress
                .queue
                .len()
                .min(progress.limit)
                .min(self.attempt_events);
            let events = progress.queue.iter().take(taken).map(|work| &work.event);
            let events: Vec<_> = events.collect();
            for event in &events {
                failpoint::meet(event.stamp.event.as_str());
            }
            let started = Instant::now();
            match self.attempt(&events, progress.mode, started).await {
                Ok(fates) => {
                    self.adapt_attempt_events(taken, started.elapsed());
                    self.succeeded(&mut progress, &fates).await;
                }
                Err(failed) => {
                    let go_on = self.failed(&mut progress, taken, failed).await;
                    if !go_on {
                        return;
                    }
                }
            }
        }
    }

    /// Makes one attempt, and tells the others whether the store answers.
    async fn attempt(
        &mut self,
        events: &[&Event],
        mode: LoadMode,
        began: Instant,
    ) -> Result<Vec<Fate>, StoreError> {
        let outage = &self.shared.outage;
        let mut attempt = std::pin::pin!(self.writer.attempt(events, mode));
        let ended = loop {
            tokio::select! {
                ended = &mut attempt => break ended,
                // A server that is frozen keeps its connections, and says nothing.
                () = tokio::time::sleep(OUTAGE_AFTER) => outage.note_silence(began),
            }
        };
        match &ended {
            Err(failed) if failed.class() == Class::Retryable => outage.note_silence(began),
            _ => outage.note_answer(),
        }
        ended
    }

    async fn succeeded(&mut self, progress: &mut BatchProgress, fates: &[Fate]) {
        if progress.succeeded() {
            info!("the store takes events again");
        }
        let works: Vec<_> = progress.queue.drain(..fates.len()).collect();
        for (fate, work) in fates.iter().zip(works) {
            let Some(outcome) = fate.outcome() else {
                self.set_aside(work).await;
                continue;
            };
            let kind = match outcome {
                EventOutcome::Applied => "applied",
                EventOutcome::Unchanged => "unchanged",
                EventOutcome::Duplicate => "duplicate",
                EventOutcome::Refused(refusal) => {
                    self.dead_letter(work, refusal.into());
                    continue;
                }
            };
            self.shared.metrics.events.settle(kind);
            self.shared.types.settled(&work.event);
            work.delivery.ack();
        }
    }

    /// Dead-letters an event that is not counted, whatever is tried.
    fn dead_letter(&self, work: Work, failure: Failure) {
        self.shared.metrics.events.settle("dead_lettered");
        self.shared.types.settled(&work.event);
        work.delivery.dead_letter(failure);
    }
}
