//! Reads of the committed state, each answer from one consistent snapshot.
//!
//! A [`Reader`] is asked a [`Query`]. Everything in one answer comes from one
//! snapshot session, so that no answer can see a message without its sender's
//! share, or half of a batch. Memory is bounded by the answer plus three thousand
//! documents, however many dialogs a user has; a history's by [`History::most`].
//! Who has read a message is counted from the dialog's members as they pass by,
//! and from a few thousand receipts at a time ([`readership`]).

mod awaited;
mod event_waiters;
mod feed;
mod history;
mod notifications;
mod orders;
mod queries;
mod readers;
mod readership;
mod rows;
mod shares;
mod snapshot;
mod stats;

use mongodb::bson::{Document, doc};
use mongodb::error::Error;
use mongodb::options::{ReadPreference, SelectionCriteria};
use tokio::time::Instant;

use crate::event::{EventId, TenantId};

use super::documents::collection;
use super::error::FailureKind;
use super::rebuild::generation::GENERATIONS;
use super::{Store, StoreError};

use awaited::Awaited;

pub use feed::CommitFeed;
pub use history::{History, HistoryEntry, HistoryPage, HistoryScope};
pub use notifications::{
    AsOfCut, Cause, ChangedUsers, MAX_SHARES_PER_ANSWER, Members, MembersOf, PlaceInShares,
    SharesAfter, SharesOf, Sources, TypesOf, WithCut,
};
pub use orders::{DialogOrder, DialogsInOrder, PageInOrder, PlaceInOrder};
pub use queries::{Dialogs, DialogsOfUser, DialogsPage, Messages, Query, UserInDialog, Users};
pub use rows::{Counts, DialogRow, Malformed, MembershipRow};
pub use shares::Shares;
pub use snapshot::TenantSnapshot;
pub use stats::{DialogStats, MessageStats, UserDialogStats, UserStats};

/// Answers questions from the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    store: Store,
    feed: CommitFeed,
    awaited: Awaited,
}

/// Why a question has no answer. Driver errors are shown by their kind: in full
/// they hold the server's reply in hexadecimal.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The event to wait for was not committed in time.
    #[error("the event was not seen before the deadline")]
    EventNotSeen,
    /// The store did not answer in time.
    #[error("the store did not answer before the deadline")]
    TooSlow,
    /// The store cannot be reached, or has no primary.
    #[error("the store cannot be reached: {}", .0.kind)]
    Unreachable(#[source] Error),
    /// The server cannot read at the snapshot's time: a new one may do.
    #[error("the snapshot is not available: {}", .0.kind)]
    NoSnapshot(#[source] Error),
    /// Anything else that the driver or the server said.
    #[error("MongoDB: {}", .0.kind)]
    Driver(#[source] Error),
    /// There is more to replay than one call may.
    #[error("more than {0} records and messages would have to be replayed")]
    TooMuch(usize),
    /// Messages were read singly more often than one call may look at.
    #[error(
        "the messages were read one by one more than {0} times, which is more than one call \
         looks at: ask for fewer messages at once"
    )]
    TooManyReads(usize),
    /// How far the writers are is not to be understood.
    #[error("how far the writers are: {0}")]
    Position(#[source] StoreError),
    /// A document that is not as the schema says.
    #[error("a document of {collection}: {reason}")]
    Malformed {
        /// Where it was found.
        collection: &'static str,
        /// What is wrong with it.
        #[source]
        reason: Malformed,
    },
}

impl Reader {
    /// Reads from `store`; `feed` tells of commits by this process.
    pub fn new(store: Store, feed: CommitFeed) -> Self {
        let awaited = Awaited::new(store.clone(), &feed);
        Self {
            store,
            feed,
            awaited,
        }
    }

    /// Answers from one snapshot, if that includes the effect of the event
    /// `after`, when there is one.
    ///
    /// To be run to its end rather than dropped half-way, as with all that
    /// uses the driver: spawn it and abandon the task. Each find is limited to
    /// the time that is left.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::EventNotSeen`] at once, and a snapshot that is
    /// not available is tried again until the deadline first.
    pub async fn ask<Q: Query>(
        &self,
        query: &Q,
        after: Option<&EventId>,
        deadline: Instant,
    ) -> Result<Q::Answer, ReadError> {
        let mut commits = self.feed.watch();
        loop {
            commits.mark();
            let no_snapshot = match self.attempt(query, after, deadline).await {
                Ok(answer) => return answer.ok_or(ReadError::EventNotSeen),
                Err(error @ ReadError::NoSnapshot(_)) => error,
                Err(error) => {
                    self.store.heed(error.driver());
                    return Err(error);
                }
            };
            if tokio::time::timeout_at(deadline, commits.again())
                .await
                .is_err()
            {
                return Err(no_snapshot);
            }
        }
    }

    /// Waits until an event was taken, by whichever replica: an answer asked for
    /// after that includes it. However many wait, the store is asked for all of
    /// them together; dropping this is fine.
    ///
    /// # Errors
    /// [`ReadError::EventNotSeen`] at the deadline.
    pub async fn taken(
        &self,
        tenant: &TenantId,
        event: &EventId,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        self.awaited.taken(tenant, event, deadline).await
    }

    /// `None` when the snapshot does not have the event.
    async fn attempt<Q: Query>(
        &self,
        query: &Q,
        after: Option<&EventId>,
        deadline: Instant,
    ) -> Result<Option<Q::Answer>, ReadError> {
        let mut snapshot = TenantSnapshot::open(&self.store, query.tenant(), deadline).await?;
        if let Some(event) = after
            && !snapshot.has_event(query.tenant(), event).await?
        {
            return Ok(None);
        }
        query.answer(&mut snapshot).await.map(Some)
    }

    /// Whether there is a primary that takes writes, and lets us read.
    ///
    /// # Errors
    /// What the driver said when there is none.
    pub async fn probe(&self) -> Result<bool, ReadError> {
        let probed = self.ask_primary().await;
        probed.map_err(|error| {
            self.store.heed(Some(&error));
            error.into()
        })
    }

    async fn ask_primary(&self) -> Result<bool, Error> {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let hello = self
            .store
            .database()
            .run_command(doc! { "hello": 1 })
            .selection_criteria(primary)
            .await?;
        // That is answered whoever asks, and this is not.
        let meta = self
            .store
            .database()
            .collection::<Document>(collection::META);
        meta.find_one(doc! { "_id": GENERATIONS }).await?;
        Ok(hello.get_bool("isWritablePrimary").unwrap_or(false))
    }
}

impl ReadError {
    fn malformed(collection: &'static str, reason: Malformed) -> Self {
        Self::Malformed { collection, reason }
    }

    /// What the driver said, if it is that.
    fn driver(&self) -> Option<&Error> {
        match self {
            Self::Unreachable(error) | Self::NoSnapshot(error) | Self::Driver(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        match FailureKind::of(&error) {
            FailureKind::TimedOut => Self::TooSlow,
            FailureKind::SnapshotTooOld | FailureKind::SnapshotUnavailable => {
                Self::NoSnapshot(error)
            }
            FailureKind::Unreachable => Self::Unreachable(error),
            FailureKind::Conflict
            | FailureKind::DataRefused
            | FailureKind::HistoryLost
            | FailureKind::Other => Self::Driver(error),
        }
    }
}
