//! Working with dead letters: looking, replaying, editing, discarding.
//!
//! Looking asks the index and touches no letter. Everything else is a **job**:
//! its letters are selected in the index when it begins, then a pass through the
//! queue acts upon those and leaves the others where they are. For each letter
//!
//! 1. what becomes of it is made durable: the replayed event is confirmed by the
//!    broker, or the discarded letter is stored;
//! 2. the index notes that;
//! 3. the letter is removed from the queue;
//! 4. its entry goes.
//!
//! A job that dies between two of these steps goes on with the next call of the
//! same kind and selection. Died before 2, it does 1 again, which changes no
//! counter, since an event counts once; died before 3 or 4, it only tidies up.

mod action;
mod job;
mod pace;
mod pass;
mod plan;
mod register;
mod report;
mod sender;
mod sync;
mod undiscard;

use crate::bus::dead_letters::queue_depth::QueueDepthProbe;
use crate::bus::dead_letters::republish;
use crate::bus::{BusError, Flow};
use crate::config;
use crate::deadletter::{Filter, LetterId};
use crate::event::decode::Decoder;
use crate::forecast::ForecastError;
use crate::store::dead_letters::{
    Job, LetterCollection, LetterGroup, LetterPage, LetterPosition, StoredLetter,
};
use crate::store::{Store, StoreError};

pub(crate) use job::Selection;
pub(crate) use pace::ReplayPace;
pub(crate) use plan::ReplayPlan;
pub(crate) use register::register;
pub(crate) use report::JobProgress;
pub(crate) use sender::send;
pub(crate) use sync::watch;

/// Why something cannot be done about dead letters.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// MongoDB cannot be reached, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// RabbitMQ cannot be reached, or refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// RabbitMQ does not take a letter.
    #[error(transparent)]
    Republish(#[from] republish::RepublishError),
    /// What a replay would change cannot be told.
    #[error(transparent)]
    Forecast(#[from] ForecastError),
    /// Another job is at the dead-letter queue: there is one at a time.
    #[error(
        "somebody is at the dead-letter queue: {0}. One job at a time; try again when it is done"
    )]
    Busy(String),
    /// No letter has this id.
    #[error("no dead letter has the id {0}, or one that begins so")]
    NoSuchLetter(LetterId),
    /// Several letters have ids that begin so.
    #[error("several dead letters have ids that begin with {0}: give more of it")]
    Ambiguous(LetterId),
    /// The body is too large to be in the index.
    #[error(
        "the body of {0} is too large to be looked at or edited here; it can be replayed and discarded"
    )]
    TooLarge(LetterId),
    /// The edited body cannot take the place of the letter's own.
    #[error("{0}")]
    NotThisBody(String),
}

/// Does all that can be done about dead letters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redrive {
    store: Store,
    bus: config::Bus,
    decoder: Decoder,
    queue_depth: QueueDepthProbe,
    flow: Flow,
}

/// Whether the index has what the queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexState {
    /// The number of letters in the index, copies included.
    pub indexed: u64,
    /// The number of letters that wait in the database until the broker takes them.
    pub unsent: u64,
    /// The number of letters in the queue that nobody holds; `None` when the broker does
    /// not answer.
    pub queued: Option<u64>,
    /// Whether somebody holds letters now.
    pub busy: bool,
}

impl Redrive {
    /// Works on this store and the bus of this configuration.
    /// What the broker says to those who publish is told to `flow`.
    pub fn new(store: Store, config: &config::Config, flow: Flow) -> Self {
        let bus = config.bus.clone();
        let queue_depth = QueueDepthProbe::new(bus.clone());
        Self {
            store,
            bus,
            decoder: Decoder::new(&config.counters.sender_types),
            queue_depth,
            flow,
        }
    }

    /// Closes the connection to the broker.
    pub(crate) async fn close(&self) {
        self.queue_depth.close().await;
    }

    /// Lists the letters that match, latest failure first, after a position.
    ///
    /// # Errors
    /// [`RedriveError::Store`].
    pub(crate) async fn list(
        &self,
        collection: LetterCollection,
        filter: &Filter,
        after: Option<&LetterPosition>,
        limit: usize,
    ) -> Result<LetterPage, RedriveError> {
        Ok(self
            .store
            .list_letters(collection, filter, after, limit)
            .await?)
    }

    /// Counts the letters that match.
    ///
    /// # Errors
    /// [`RedriveError::Store`].
    pub(crate) async fn count(
        &self,
        collection: LetterCollection,
        filter: &Filter,
    ) -> Result<u64, RedriveError> {
        Ok(self.store.count_letters(collection, filter).await?)
    }

    /// Groups the letters that match by cause.
    ///
    /// # Errors
    /// [`RedriveError::Store`].
    pub(crate) async fn groups(&self, filter: &Filter) -> Result<Vec<LetterGroup>, RedriveError> {
        Ok(self.store.letter_groups(filter).await?)
    }

    /// Finds one letter, in the queue or discarded, by its id or the beginning of it,
    /// of the tenants `permitted` (see [`Filter::permitted`]).
    ///
    /// # Errors
    /// [`RedriveError`].
    pub(crate) async fn letter(
        &self,
        id: &LetterId,
        permitted: Option<&[String]>,
    ) -> Result<StoredLetter, RedriveError> {
        for collection in [LetterCollection::Queue, LetterCollection::Discarded] {
            let mut found = self.store.find_letters(collection, id, permitted).await?;
            match (found.pop(), found.pop()) {
                (None, _) => {}
                (Some(letter), None) => return Ok(letter),
                (Some(_), Some(_)) => return Err(RedriveError::Ambiguous(id.clone())),
            }
        }
        Err(RedriveError::NoSuchLetter(id.clone()))
    }

    /// Lists what a letter says of itself apart from its body, by name.
    pub(crate) fn headers(
        &self,
        letter: &StoredLetter,
    ) -> std::collections::BTreeMap<String, String> {
        republish::listed_headers(&letter.properties)
    }

    /// Compares the sizes of index and queue.
    ///
    /// # Errors
    /// [`RedriveError::Store`].
    pub(crate) async fn index_state(&self) -> Result<IndexState, RedriveError> {
        // Together: a broker that does not answer is waited for.
        let (indexed, unsent, busy, depth) = futures::join!(
            self.store.count_indexed_letters(),
            self.store.unsent_totals(),
            self.store.is_dead_letter_lease_taken(),
            self.queue_depth.query(),
        );
        Ok(IndexState {
            indexed: u64::try_from(indexed?).unwrap_or(0),
            unsent: unsent?.letters,
            busy: busy? || depth.as_ref().is_ok_and(|depth| depth.is_consumed),
            queued: depth.ok().map(|depth| depth.letters.into()),
        })
    }

    /// Lists the jobs recorded before this one, latest first, and whether there are more; of
    /// those on letters of the tenants `permitted` alone.
    ///
    /// # Errors
    /// [`RedriveError::Store`].
    pub(crate) async fn audit(
        &self,
        before: Option<&str>,
        permitted: Option<&[String]>,
        limit: usize,
    ) -> Result<(Vec<Job>, bool), RedriveError> {
        Ok(self.store.list_jobs(before, permitted, limit).await?)
    }
}
