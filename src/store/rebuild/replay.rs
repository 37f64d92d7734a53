//! The journal as a source of events: all of it, then what is added to it.
//!
//! Counters are a function of the set of events, so a replay may read records
//! in any order, and some twice; it must miss none. The order of writing is
//! used because events then mostly come in the order of their times, which is
//! what deriving is fastest at.
//!
//! What was committed before a replay began is found by reading the journal;
//! what is committed later is found in the server's change stream, which begins
//! at a time of the server's own clock. No clock of ours decides anything.

use futures::TryStreamExt as _;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::{ClientSession, SessionCursor};
use serde::Deserialize;
use std::time::Duration;

use crate::event::{Event, TenantId};
use crate::store::documents::journal::{self, JournalRecord};
use crate::store::documents::{collection, id};
use crate::store::{Store, StoreError};

/// The `_id` in `meta` of the document whose changes mark positions in the change stream.
const MARKER: &str = "marker";
/// The number of records in one reply of the server.
const BATCH_SIZE: u32 = 4_000;
/// How long the server waits for a change before it says that there is none.
const MAX_AWAIT_TIME: Duration = Duration::from_millis(100);

/// A moment of the journal, which tells what was committed before from what came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalMoment {
    /// The cluster time from which on the change stream has what is committed later.
    pub(crate) time: Timestamp,
    /// The latest time of writing of what was committed before.
    pub(crate) newest: DateTime,
}

impl Store {
    /// Tells whether the journal has every event that was ever taken.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn journal_is_whole(&self) -> Result<bool, StoreError> {
        let records = self.database().collection::<Document>(collection::JOURNAL);
        let origin = records.find_one(doc! { id::ID: journal::origin_id() });
        Ok(origin.await?.is_some())
    }

    /// Returns the present moment of the journal.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn journal_now(&self) -> Result<JournalMoment, StoreError> {
        // Causally consistent: the second answer may come from a new primary,
        // which for a moment would not show all that the old one had shown.
        let store = self.pinned();
        let mut session = store.client().start_session().await?;
        let hello = store
            .database()
            .run_command(doc! { "hello": 1 })
            .session(&mut session)
            .await?;
        // Not the time of the latest write: one that is not yet majority
        // committed would be before that, and missing in the reads that follow.
        let time = hello
            .get_document("lastWrite")
            .and_then(|last| last.get_document("majorityOpTime"))
            .and_then(|majority| majority.get_timestamp("ts"))
            .map_err(|error| StoreError::Answer(format!("hello without a time: {error}")))?;
        let newest = store
            .database()
            .collection::<AppliedAt>(collection::JOURNAL)
            .find_one(doc! {})
            .sort(doc! { journal::APPLIED_AT: -1 })
            .session(&mut session)
            .await?;
        Ok(JournalMoment {
            time,
            newest: newest.map_or(DateTime::MIN, |record| record.applied_at),
        })
    }

    /// Estimates the number of records in the journal.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn estimated_records(&self) -> Result<u64, StoreError> {
        let journal = self.database().collection::<Document>(collection::JOURNAL);
        Ok(journal.estimated_document_count().await?)
    }

    /// Reads the records that were written from `from` on and were committed
    /// before `since`, of one tenant or of all.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn read_journal(
        &self,
        tenant: Option<&TenantId>,
        from: Option<DateTime>,
        since: JournalMoment,
    ) -> Result<JournalReader, StoreError> {
        let mut written = doc! { "$lte": since.newest };
        if let Some(from) = from {
            written.insert("$gte", from);
        }
        let mut filter = doc! { journal::APPLIED_AT: written };
        if let Some(tenant) = tenant {
            filter.insert(id::TENANT, tenant.as_str());
        }
        let store = self.pinned();
        let journal = store
            .database()
            .collection::<RawDocumentBuf>(collection::JOURNAL);
        // Whichever server answers must have all that was committed before.
        let mut session = store.client().start_session().await?;
        session.advance_operation_time(since.time);
        let cursor = journal
            .find(filter)
            .sort(doc! { journal::APPLIED_AT: 1 })
            .batch_size(BATCH_SIZE)
            .session(&mut session)
            .await?;
        Ok(JournalReader { session, cursor })
    }

    /// Follows what is added to the journal, of one tenant or of all: from a position of
    /// the change stream on, or else from a moment of the journal on.
    ///
    /// # Errors
    /// Any [`StoreError`]; see [`StoreError::is_history_lost`].
    pub(crate) async fn follow_journal(
        &self,
        tenant: Option<&TenantId>,
        since: JournalMoment,
        after: Option<ResumeToken>,
    ) -> Result<JournalFollower, StoreError> {
        let mut wanted = doc! { "ns.coll": collection::JOURNAL, "operationType": "insert" };
        if let Some(tenant) = tenant {
            wanted.insert("fullDocument._id.t", tenant.as_str());
        }
        let marker = doc! { "ns.coll": collection::META, "documentKey._id": MARKER };
        let database = self.database();
        let watch = database
            .watch()
            .pipeline([doc! { "$match": { "$or": [wanted, marker] } }])
            .batch_size(BATCH_SIZE)
            .max_await_time(MAX_AWAIT_TIME);
        let watch = match after {
            Some(token) => watch.resume_after(token),
            None => watch.start_at_operation_time(since.time),
        };
        let changes = watch.await?.with_type::<RawDocumentBuf>();
        Ok(JournalFollower { changes })
    }

    /// Leaves a marker in the change stream: once a follower has seen it, it has seen all
    /// that was committed before.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn mark_journal(&self) -> Result<StreamMarker, StoreError> {
        let marker = StreamMarker(ObjectId::new());
        self.meta::<Document>()
            .replace_one(doc! { "_id": MARKER }, doc! { "mark": marker.0 })
            .upsert(true)
            .await?;
        Ok(marker)
    }
}

/// A marker in the change stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamMarker(ObjectId);

/// Some records of the journal.
#[derive(Debug, Default)]
pub(crate) struct JournalChunk {
    /// The events that count, in the order of writing.
    pub(crate) events: Vec<Event>,
    /// The number of all records that were read.
    pub(crate) records: u64,
}

/// Reads the records that were in the journal at a moment.
#[derive(Debug)]
pub(crate) struct JournalReader {
    session: ClientSession,
    cursor: SessionCursor<RawDocumentBuf>,
}

impl JournalReader {
    /// Returns the next records, and when the last of them was written; `None` at the end.
    ///
    /// # Errors
    /// Any [`StoreError`]; the reader is of no use then.
    pub(crate) async fn next(
        &mut self,
        most: u64,
    ) -> Result<Option<(JournalChunk, DateTime)>, StoreError> {
        let mut chunk = JournalChunk::default();
        let mut last = None;
        let mut records = self.cursor.stream(&mut self.session);
        while chunk.records < most {
            let Some(record) = records.try_next().await? else {
                break;
            };
            last = Some(chunk.add(&record)?);
        }
        Ok(last.map(|last| (chunk, last)))
    }
}

/// Reads the records that are added to the journal.
pub(crate) struct JournalFollower {
    changes: ChangeStream<RawDocumentBuf>,
}

impl std::fmt::Debug for JournalFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalFollower").finish_non_exhaustive()
    }
}

impl JournalFollower {
    /// Returns the next records, if there are any yet, and whether the marker came behind
    /// them.
    ///
    /// # Errors
    /// Any [`StoreError`]; the follower is of no use then.
    pub(crate) async fn next(
        &mut self,
        most: u64,
        marker: StreamMarker,
    ) -> Result<(JournalChunk, bool), StoreError> {
        let mut chunk = JournalChunk::default();
        while chunk.records < most {
            match self.changes.next_if_any().await? {
                Some(change) if self.add(&mut chunk, &change, marker)? => {
                    return Ok((chunk, true));
                }
                Some(_) => {}
                None if self.changes.is_alive() => break,
                None => return Err(StoreError::Answer("the change stream has ended".into())),
            }
        }
        Ok((chunk, false))
    }

    fn add(
        &self,
        chunk: &mut JournalChunk,
        change: &RawDocument,
        marker: StreamMarker,
    ) -> Result<bool, StoreError> {
        let namespace = change.get_document("ns").map_err(unreadable)?;
        let document = change.get_document("fullDocument").map_err(unreadable)?;
        if namespace.get_str("coll").map_err(unreadable)? == collection::JOURNAL {
            chunk.add(document)?;
            return Ok(false);
        }
        Ok(document.get_object_id("mark").map_err(unreadable)? == marker.0)
    }

    /// Returns the position from which to follow again, when all that was handed out is
    /// dealt with.
    pub(crate) fn position(&self) -> Option<ResumeToken> {
        self.changes.resume_token()
    }
}

impl JournalChunk {
    /// Adds a record, and returns when it was written.
    fn add(&mut self, record: &RawDocument) -> Result<DateTime, StoreError> {
        self.records += 1;
        let record = JournalRecord::parse(record).map_err(unreadable)?;
        if record.is_of_event() {
            self.events.push(record.event()?);
        }
        record.applied_at().map_err(unreadable)
    }
}

#[derive(Deserialize)]
struct AppliedAt {
    applied_at: DateTime,
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Answer(format!("a record of the journal cannot be read: {error}"))
}
