//! Events that callers wait for: looked for together, however many wait.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ReadError;
use super::event_waiters::EventWaiters;
use super::feed::{CommitFeed, Polls};
use crate::derive::state::EventKey;
use crate::event::{EventId, TenantId};
use crate::store::Store;
use crate::store::documents::id::part;
use crate::store::documents::{Key as _, collection, id};

/// Events asked about in one query.
const MAX_EVENTS_PER_QUERY: usize = 1_000;
/// Between two looks there is at least so many times the time of a look: those
/// who wait leave the store to those who write and read.
const REST_PER_LOOK_TIME: u32 = 4;
/// And no longer than this, however long a look took.
const MAX_REST: Duration = Duration::from_secs(1);
/// A look that takes longer is given up by the server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for events to be taken. Clones wait together.
#[derive(Debug, Clone)]
pub(super) struct Awaited(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    store: Store,
    waiters: EventWaiters,
    /// Somebody asked who was not there at the last look.
    anew: Notify,
}

impl Awaited {
    pub(super) fn new(store: Store, feed: &CommitFeed) -> Self {
        Self(Arc::new(Waiting {
            store,
            waiters: feed.event_waiters().clone(),
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
        let mut taken = self.ask(EventKey {
            tenant: tenant.clone(),
            event: event.clone(),
        });
        let taken = taken.wait_for(|taken| *taken);
        match tokio::time::timeout_at(deadline, taken).await {
            Ok(Ok(_)) => Ok(()),
            // The looker lets nobody go without an answer.
            Ok(Err(_)) | Err(_) => Err(ReadError::EventNotSeen),
        }
    }

    fn ask(&self, key: EventKey) -> watch::Receiver<bool> {
        let (taken, nobody_looks) = self.0.waiters.join(key);
        if nobody_looks {
            tokio::spawn(look(Arc::clone(&self.0)));
        }
        self.0.anew.notify_one();
        taken
    }
}

impl Waiting {
    /// Asks the store for some, and tells those who wait.
    async fn look_for(&self, keys: &[EventKey]) -> Result<(), mongodb::error::Error> {
        let ids: Vec<Document> = keys.iter().map(|key| key.id().document()).collect();
        let journal = self
            .store
            .database()
            .collection::<Document>(collection::JOURNAL);
        let mut found = journal
            .find(doc! { id::ID: { "$in": ids } })
            .projection(doc! { id::ID: 1 })
            .read_concern(ReadConcern::majority())
            .max_time(QUERY_TIMEOUT)
            .await?;
        while let Some(record) = found.try_next().await? {
            self.waiters.taken(key(&record).into_iter());
        }
        Ok(())
    }
}

fn key(record: &Document) -> Option<EventKey> {
    let id = record.get(id::ID).and_then(Bson::as_document)?;
    let tenant = TenantId::new(id.get_str(part::TENANT).ok()?).ok()?;
    let event = EventId::new(id.get_str(part::EVENT).ok()?).ok()?;
    Some(EventKey { tenant, event })
}

/// Looks until nobody waits.
async fn look(waiting: Arc<Waiting>) {
    let mut polls = Polls::default();
    while let Some(keys) = waiting.waiters.wanted() {
        let began = Instant::now();
        for keys in keys.chunks(MAX_EVENTS_PER_QUERY) {
            // Those who wait learn of an outage from the health probe.
            if let Err(error) = waiting.look_for(keys).await {
                tracing::debug!(%error, "awaited events cannot be looked for");
            }
        }
        let rest = (began.elapsed() * REST_PER_LOOK_TIME).min(MAX_REST);
        tokio::time::sleep(rest).await;
        tokio::select! {
            () = tokio::time::sleep(polls.next()) => {}
            // Somebody new is looked for as soon and as often as the first one.
            () = waiting.anew.notified() => polls = Polls::default(),
        }
    }
}
