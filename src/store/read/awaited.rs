//! Events that callers wait for: looked for together, however many wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ReadError;
use super::feed::CommitFeed;
use crate::event::{EventId, TenantId};
use crate::store::Store;
use crate::store::schema::collection;

/// Events asked about in one query.
const CHUNK: usize = 1_000;
/// Between two looks there is at least so many times the time of a look: those
/// who wait leave the store to those who write and read.
const REST: u32 = 4;
/// And no longer than this, however long a look took.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// A look that takes longer is given up by the server.
const MAX_TIME: Duration = Duration::from_secs(5);

type Key = (TenantId, EventId);

/// Waits for events to be taken. Clones wait together.
#[derive(Debug, Clone)]
pub(super) struct Awaited(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    store: Store,
    feed: CommitFeed,
    asked: Mutex<Asked>,
    /// Somebody asked who was not there at the last look.
    anew: Notify,
}

#[derive(Debug, Default)]
struct Asked {
    /// Who waits for which event.
    by_event: HashMap<Key, watch::Sender<bool>>,
    /// Whether somebody looks.
    is_looking: bool,
}

impl Awaited {
    pub(super) fn new(store: Store, feed: CommitFeed) -> Self {
        Self(Arc::new(Waiting {
            store,
            feed,
            asked: Mutex::default(),
            anew: Notify::new(),
        }))
    }

    /// Returns once the event was taken, by whichever replica.
    ///
    /// # Errors
    /// [`ReadError::EventNotSeen`] at the deadline. A store that does not answer
    /// is no error: it may before the deadline.
    pub(super) async fn taken(
        &self,
        tenant: &TenantId,
        event: &EventId,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let mut taken = self.ask((tenant.clone(), event.clone()));
        let taken = taken.wait_for(|taken| *taken);
        match tokio::time::timeout_at(deadline, taken).await {
            Ok(Ok(_)) => Ok(()),
            // The looker lets nobody go without an answer.
            Ok(Err(_)) | Err(_) => Err(ReadError::EventNotSeen),
        }
    }

    fn ask(&self, key: Key) -> watch::Receiver<bool> {
        let mut asked = self.0.asked();
        let waiters = asked.by_event.entry(key).or_default();
        let taken = waiters.subscribe();
        if !std::mem::replace(&mut asked.is_looking, true) {
            tokio::spawn(look(Arc::clone(&self.0)));
        }
        self.0.anew.notify_one();
        taken
    }
}

impl Waiting {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody still waits for. None, and nobody looks any more, when
    /// that is nothing.
    fn wanted(&self) -> Option<Vec<Key>> {
        let mut asked = self.asked();
        asked
            .by_event
            .retain(|_, waiters| waiters.receiver_count() > 0);
        asked.is_looking = !asked.by_event.is_empty();
        let keys = asked.by_event.keys().cloned().collect();
        asked.is_looking.then_some(keys)
    }

    /// Asks the store for some, and tells those who wait.
    async fn look_for(&self, keys: &[Key]) -> Result<(), mongodb::error::Error> {
        let id = |(tenant, event): &Key| doc! { "t": tenant.as_str(), "e": event.as_str() };
        let ids: Vec<Document> = keys.iter().map(id).collect();
        let journal = self
            .store
            .database()
            .collection::<Document>(collection::JOURNAL);
        let mut found = journal
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "_id": 1 })
            .read_concern(ReadConcern::majority())
            .max_time(MAX_TIME)
            .await?;
        while let Some(record) = found.try_next().await? {
            if let Some(key) = key(&record)
                && let Some(waiters) = self.asked().by_event.remove(&key)
            {
                waiters.send_replace(true);
            }
        }
        Ok(())
    }
}

fn key(record: &Document) -> Option<Key> {
    let id = record.get("_id").and_then(Bson::as_document)?;
    let tenant = TenantId::new(id.get_str("t").ok()?).ok()?;
    let event = EventId::new(id.get_str("e").ok()?).ok()?;
    Some((tenant, event))
}

/// Looks until nobody waits.
async fn look(waiting: Arc<Waiting>) {
    let mut commits = waiting.feed.watch();
    while let Some(keys) = waiting.wanted() {
        commits.mark();
        let began = Instant::now();
        for keys in keys.chunks(CHUNK) {
            // Those who wait learn of an outage from the health probe.
            if let Err(error) = waiting.look_for(keys).await {
                tracing::debug!(%error, "awaited events cannot be looked for");
            }
        }
        let rest = (began.elapsed() * REST).min(LONGEST_REST);
        tokio::time::sleep(rest).await;
        tokio::select! {
            () = commits.again() => {}
            // Somebody new is looked for as soon and as often as the first one.
            () = waiting.anew.notified() => commits = waiting.feed.watch(),
        }
    }
}
