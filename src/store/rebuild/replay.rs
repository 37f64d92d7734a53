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
use mongodb::bson::{DateTime, Document, RawDocumentBuf, Timestamp, deserialize_from_slice, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::{ClientSession, SessionCursor};
use serde::Deserialize;
use std::time::Duration;

use crate::event::record_type;
use crate::event::{
    DialogId, Event, EventId, EventType, Fact, InvalidId, MADE_BEFORE_MICROS, MessageId,
    NewMessage, Reaction, SenderType, Stamp, Status, TenantId, TopicId, UserId,
};
use crate::store::documents::message::{STATED_TIME, STATED_TYPE};
use crate::store::documents::{collection, micros};
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
        let journal = self.database().collection::<Document>(collection::JOURNAL);
        let origin = journal.find_one(doc! { "_id": { "t": "", "e": record_type::ORIGIN } });
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
            .sort(doc! { "applied_at": -1 })
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
        let mut filter = doc! { "applied_at": written };
        if let Some(tenant) = tenant {
            filter.insert("_id.t", tenant.as_str());
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
            .sort(doc! { "applied_at": 1 })
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
        let applied_at = record.get_datetime("applied_at").map_err(unreadable)?;
        // Repairs, and the record before all others, are of no event.
        let kind = record.get_str("type").map_err(unreadable)?;
        if !kind.starts_with(record_type::PREFIX) {
            let record: Record = deserialize_from_slice(record.as_bytes()).map_err(unreadable)?;
            self.events.push(record.event()?);
        }
        Ok(applied_at)
    }
}

#[derive(Deserialize)]
struct AppliedAt {
    applied_at: DateTime,
}

#[derive(Deserialize)]
struct RecordId<'r> {
    t: &'r str,
    e: &'r str,
}

#[derive(Deserialize)]
struct WordRecord {
    r: String,
    set: bool,
}

/// A record, as [`crate::store::documents::journal`] writes it.
#[derive(Deserialize)]
struct Record<'r> {
    #[serde(borrow)]
    _id: RecordId<'r>,
    r#type: &'r str,
    #[serde(default)]
    at: i64,
    d: Option<&'r str>,
    #[serde(alias = "of")]
    m: Option<&'r str>,
    u: Option<&'r str>,
    user_type: Option<&'r str>,
    sent_at: Option<i64>,
    #[serde(default)]
    system: bool,
    #[serde(default)]
    stated: i32,
    status: Option<&'r str>,
    #[serde(default)]
    words: Vec<WordRecord>,
    read_until: Option<i64>,
    joined_at: Option<i64>,
    made_at: Option<i64>,
    topic: Option<&'r str>,
}

impl Record<'_> {
    /// Returns the event that the record is of.
    fn event(&self) -> Result<Event, StoreError> {
        let fact = self.fact()?;
        Ok(Event {
            tenant: TenantId::new(self._id.t).map_err(foreign)?,
            stamp: Stamp {
                at: micros(self.at)?,
                event: EventId::new(self._id.e).map_err(foreign)?,
            },
            actor: None,
            dialog_hint: self.d.map(DialogId::new).transpose().map_err(foreign)?,
            fact,
        })
    }

    fn fact(&self) -> Result<Fact, StoreError> {
        let Some(event_type) = EventType::of_record(self.r#type) else {
            return Err(StoreError::Answer(format!(
                "the journal has {:?} of type {:?}, which this version does not know",
                self._id.e, self.r#type
            )));
        };
        Ok(match event_type {
            EventType::MessageCreate => Fact::MessageCreated(self.message_created()?),
            EventType::MessageDelete => Fact::MessageDeleted {
                message: self.id("m", self.m, MessageId::new)?,
            },
            EventType::StatusChanged => Fact::StatusReached {
                message: self.id("m", self.m, MessageId::new)?,
                user: self.user()?,
                status: self.id("status", self.status, Status::new)?,
            },
            EventType::ReactionChanged => Fact::ReactionChanged {
                message: self.id("m", self.m, MessageId::new)?,
                user: self.user()?,
                reactions: self.words()?,
            },
            EventType::BulkRead => Fact::BulkRead {
                dialog: self.dialog()?,
                user: self.user()?,
                read_until: micros(self.read_until()?)?,
            },
            EventType::MemberAdd => {
                let joined_at = self.there("joined_at", self.joined_at)?;
                Fact::MemberAdded {
                    dialog: self.dialog()?,
                    user: self.user()?,
                    joined_at: micros(joined_at)?,
                    made_at: micros(self.made_at(joined_at))?,
                }
            }
            EventType::MemberRemove => Fact::MemberRemoved {
                dialog: self.dialog()?,
                user: self.user()?,
            },
            EventType::TopicCreate => Fact::TopicCreated {
                dialog: self.dialog()?,
                topic: self.id("topic", self.topic, TopicId::new)?,
            },
            EventType::DialogDelete => Fact::DialogDeleted {
                dialog: self.dialog()?,
            },
            EventType::UserChanged => Fact::UserTyped {
                user: self.user()?,
                user_type: self.id("user_type", self.user_type, SenderType::new)?,
            },
        })
    }

    /// What the create stated counts for that; of records that say nothing about
    /// it, as were written under the rules 1, a time other than the event's own
    /// was stated, and a type is not known to have been.
    fn message_created(&self) -> Result<NewMessage, StoreError> {
        let sent_at = self.there("sent_at", self.sent_at)?;
        let known = self.user_type.map(SenderType::new).transpose();
        let known = known.map_err(foreign)?;
        let (stated, presumed) = match self.stated & STATED_TYPE {
            0 => (None, known),
            _ => (known, None),
        };
        Ok(NewMessage {
            dialog: self.dialog()?,
            message: self.id("m", self.m, MessageId::new)?,
            sender: self.user()?,
            sender_type: stated,
            presumed_type: presumed,
            sent_at: micros(sent_at)?,
            time_is_stated: self.stated & STATED_TIME != 0 || sent_at != self.at,
            system: self.system,
        })
    }

    /// Returns when the membership was made. Where the record says nothing of it, as
    /// those of the rules 1 do: at the join time, if that is just before
    /// the event.
    fn made_at(&self, joined_at: i64) -> i64 {
        let just_before = (self.at - MADE_BEFORE_MICROS..=self.at).contains(&joined_at);
        let presumed = if just_before { joined_at } else { self.at };
        self.made_at.unwrap_or(presumed)
    }

    /// Returns until when the reader has read, which is never later than the event: one
    /// has read what was there.
    fn read_until(&self) -> Result<i64, StoreError> {
        let read_until = self.there("read_until", self.read_until)?;
        Ok(read_until.min(self.at))
    }

    fn words(&self) -> Result<Vec<(Reaction, bool)>, StoreError> {
        let words = self.words.iter();
        words
            .map(|word| Ok((Reaction::new(&word.r).map_err(foreign)?, word.set)))
            .collect()
    }

    fn dialog(&self) -> Result<DialogId, StoreError> {
        self.id("d", self.d, DialogId::new)
    }

    fn user(&self) -> Result<UserId, StoreError> {
        self.id("u", self.u, UserId::new)
    }

    fn id<T>(
        &self,
        field: &str,
        found: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, InvalidId>,
    ) -> Result<T, StoreError> {
        parse(self.there(field, found)?).map_err(foreign)
    }

    fn there<T>(&self, field: &str, found: Option<T>) -> Result<T, StoreError> {
        found.ok_or_else(|| {
            StoreError::Answer(format!(
                "the journal has {:?} of type {:?} without `{field}`",
                self._id.e, self.r#type
            ))
        })
    }
}

fn foreign(what: InvalidId) -> StoreError {
    StoreError::Answer(format!("the journal has {what}"))
}

fn unreadable(error: mongodb::bson::error::Error) -> StoreError {
    StoreError::Answer(format!("a record of the journal cannot be read: {error}"))
}
