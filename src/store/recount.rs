//! Reading all that is recorded of a dialog, in one snapshot, for
//! [`crate::verify`] to recount: facts and counters of the same moment, so that
//! events in flight are no differences.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::documents::{
    Counts, DialogDocument, Id, MembershipDocument, MessageDocument, by_type, micros,
};
use super::schema::{collection, unescape};
use super::{Store, StoreError};
use crate::derive::state::{Dialog, DialogKey, Mark, MessageKey};
use crate::event::{DialogId, MessageId, Reaction, Status, TenantId, UserId};
use crate::verify::{Difference, Marks, Message, Recount, Share};

/// Documents in one reply of the server.
const CHUNK: u32 = 1_000;
/// Messages whose receipts and reactions are looked up together.
const RANGES: usize = 100;

/// A dialog after the recount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recounted {
    /// The version at which it was looked at.
    pub version: i64,
    /// Messages looked at.
    pub messages: u64,
    /// What is not stored as it is counted.
    pub differences: Vec<Difference>,
}

impl Store {
    /// Recounts one dialog. Takes time by its messages and people, and some 40
    /// bytes of memory a message.
    ///
    /// # Errors
    /// Any [`StoreError`]; one about the snapshot when it takes longer than the
    /// server keeps history (`minSnapshotHistoryWindowInSeconds`, 5 minutes).
    pub async fn recount(&self, key: &DialogKey) -> Result<Recounted, StoreError> {
        let mut reading = Reading {
            store: self,
            session: self.snapshot_session().await?,
            key,
        };
        let stored = reading.dialog().await?;
        let version = stored.version;
        let mut recount = Recount::new(stored);
        reading.members(&mut recount).await?;
        let messages = reading.messages(&mut recount).await?;
        let topics = reading.topics().await?;
        Ok(Recounted {
            version,
            messages,
            differences: recount.differences(topics),
        })
    }

    /// The dialogs after `after` in the order of their keys, at most so many;
    /// of one tenant, if it is named.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn dialogs_after(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&DialogKey>,
        limit: i64,
    ) -> Result<Vec<DialogKey>, StoreError> {
        let mut range = Document::new();
        match (after, tenant) {
            (Some(after), _) => {
                range.insert("$gt", document(after)?);
            }
            (None, Some(tenant)) => {
                range.insert("$gte", doc! { "t": tenant.as_str() });
            }
            (None, None) => {}
        }
        if let Some(tenant) = tenant {
            range.insert("$lt", doc! { "t": tenant.as_str(), "d": Bson::MaxKey });
        }
        let filter = match range.is_empty() {
            true => doc! {},
            false => doc! { "_id": range },
        };
        let found = self
            .database()
            .collection::<Keyed<DialogIdDocument>>(collection::DIALOGS)
            .find(filter)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(limit)
            .await?;
        let found: Vec<_> = found.try_collect().await?;
        found.into_iter().map(|found| found._id.key()).collect()
    }

    /// Dialogs drawn at random, at most so many, none twice.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn random_dialogs(&self, count: u32) -> Result<Vec<DialogKey>, StoreError> {
        let draw = [
            doc! { "$sample": { "size": count } },
            doc! { "$project": { "_id": 1 } },
        ];
        let found = self
            .database()
            .collection::<Document>(collection::DIALOGS)
            .aggregate(draw)
            .with_type::<Keyed<DialogIdDocument>>()
            .await?;
        let found: Vec<_> = found.try_collect().await?;
        let mut keys: Vec<_> = found
            .into_iter()
            .map(|found| found._id.key())
            .collect::<Result<_, _>>()?;
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// About how many dialogs there are, from the collection's statistics.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn estimated_dialogs(&self) -> Result<u64, StoreError> {
        let dialogs = self.database().collection::<Document>(collection::DIALOGS);
        Ok(dialogs.estimated_document_count().await?)
    }
}

/// One snapshot of one dialog.
struct Reading<'s> {
    store: &'s Store,
    session: ClientSession,
    key: &'s DialogKey,
}

impl Reading<'_> {
    async fn find<T: DeserializeOwned + Unpin + Send + Sync>(
        &mut self,
        name: &'static str,
        filter: Document,
        sort: Document,
        mut each: impl FnMut(T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let collection = self.store.snapshots().collection::<T>(name);
        let mut cursor = collection
            .find(filter)
            .sort(sort)
            .batch_size(CHUNK)
            .session(&mut self.session)
            .await?;
        while let Some(found) = cursor.stream(&mut self.session).try_next().await? {
            each(found)?;
        }
        Ok(())
    }

    async fn dialog(&mut self) -> Result<Dialog, StoreError> {
        let mut dialog = Dialog::default();
        let filter = doc! { "_id": document(self.key)? };
        self.find(
            collection::DIALOGS,
            filter,
            doc! {},
            |found: DialogDocument| {
                dialog = found.try_into()?;
                Ok(())
            },
        )
        .await?;
        Ok(dialog)
    }

    async fn members(&mut self, recount: &mut Recount) -> Result<(), StoreError> {
        let filter = doc! { "_id": below(document(self.key)?) };
        let sort = doc! { "_id": 1 };
        self.find(
            collection::MEMBERSHIPS,
            filter,
            sort,
            |found: ShareDocument| {
                let user = user(&found._id.u)?;
                let share = Share {
                    member: found.member,
                    joined_at: found.joined_at.map(micros).transpose()?,
                    mark: found.mark.map(Mark),
                    consumed: by_type(&found.consumed)?,
                    sent: found.sent,
                };
                recount.member(user, found.facts.try_into()?, share);
                Ok(())
            },
        )
        .await
    }

    /// A chunk at a time, each with what was recorded about its messages.
    async fn messages(&mut self, recount: &mut Recount) -> Result<u64, StoreError> {
        let filter = doc! {
            "_id.t": self.key.tenant.as_str(),
            "d": self.key.dialog.as_str(),
        };
        let messages = self
            .store
            .snapshots()
            .collection::<CountedMessage>(collection::MESSAGES);
        let mut cursor = messages
            .find(filter)
            .sort(doc! { "_id.t": 1, "d": 1, "at": 1 })
            .batch_size(CHUNK)
            .session(&mut self.session)
            .await?;
        let mut count = 0;
        loop {
            let chunk: Vec<CountedMessage> = cursor
                .stream(&mut self.session)
                .take(RANGES)
                .try_collect()
                .await?;
            if chunk.is_empty() {
                return Ok(count);
            }
            let chunk = chunk.into_iter().map(CountedMessage::message);
            let chunk: Vec<Message> = chunk.collect::<Result<_, _>>()?;
            let mut marks = self.marks(&chunk).await?;
            for message in &chunk {
                let marks = marks.remove(&message.id).unwrap_or_default();
                recount.message(message, &marks);
            }
            count += chunk.len() as u64;
        }
    }

    async fn marks(
        &mut self,
        messages: &[Message],
    ) -> Result<HashMap<MessageId, Marks>, StoreError> {
        let tenant = self.key.tenant.clone();
        let ranges = messages.iter().map(|message| {
            let key = MessageKey {
                tenant: tenant.clone(),
                message: message.id.clone(),
            };
            Ok(doc! { "_id": below(document(&key)?) })
        });
        let ranges: Vec<Document> = ranges.collect::<Result<_, StoreError>>()?;
        let filter = doc! { "$or": ranges };
        let mut marks: HashMap<MessageId, Marks> = HashMap::new();
        self.find(
            collection::RECEIPTS,
            filter.clone(),
            doc! {},
            |found: Keyed<ReceiptIdDocument>| {
                let id = found._id;
                let status = Status::new(&id.s).map_err(foreign)?;
                let marks = marks.entry(message(&id.m)?).or_default();
                marks.receipts.push((status, user(&id.u)?));
                Ok(())
            },
        )
        .await?;
        self.find(
            collection::REACTIONS,
            filter,
            doc! {},
            |found: SaidDocument| {
                if found.set {
                    let reaction = Reaction::new(&found._id.r).map_err(foreign)?;
                    let marks = marks.entry(message(&found._id.m)?).or_default();
                    marks.reactions.push(reaction);
                }
                Ok(())
            },
        )
        .await?;
        Ok(marks)
    }

    async fn topics(&mut self) -> Result<i64, StoreError> {
        let filter = doc! { "_id": below(document(self.key)?) };
        let mut topics = 0;
        self.find(collection::TOPICS, filter, doc! {}, |_: Document| {
            topics += 1;
            Ok(())
        })
        .await?;
        Ok(topics)
    }
}

fn document(key: &impl Id) -> Result<Document, StoreError> {
    Document::try_from(key.id()).map_err(|e| StoreError::Driver(e.into()))
}

/// The range of all longer keys that begin with this one.
fn below(key: Document) -> Document {
    let mut end = key.clone();
    // Documents compare field by field, names after types: whatever field
    // follows, its type comes before this.
    end.insert("~", Bson::MaxKey);
    doc! { "$gt": key, "$lt": end }
}

fn foreign(what: crate::event::InvalidId) -> StoreError {
    StoreError::Answer(format!("a stored document has {what}"))
}

fn user(id: &str) -> Result<UserId, StoreError> {
    UserId::new(id).map_err(foreign)
}

fn message(id: &str) -> Result<MessageId, StoreError> {
    MessageId::new(id).map_err(foreign)
}

/// A document of which only the key matters.
#[derive(Deserialize)]
struct Keyed<I> {
    _id: I,
}

#[derive(Deserialize)]
struct DialogIdDocument {
    t: String,
    d: String,
}

impl DialogIdDocument {
    fn key(&self) -> Result<DialogKey, StoreError> {
        Ok(DialogKey {
            tenant: TenantId::new(&self.t).map_err(foreign)?,
            dialog: DialogId::new(&self.d).map_err(foreign)?,
        })
    }
}

#[derive(Deserialize)]
struct MessageIdDocument {
    m: String,
}

#[derive(Deserialize)]
struct ReceiptIdDocument {
    m: String,
    s: String,
    u: String,
}

#[derive(Deserialize)]
struct ReactionIdDocument {
    m: String,
    r: String,
}

#[derive(Deserialize)]
struct SaidDocument {
    _id: ReactionIdDocument,
    set: bool,
}

#[derive(Deserialize)]
struct UserIdDocument {
    u: String,
}

#[derive(Deserialize)]
struct ShareDocument {
    _id: UserIdDocument,
    #[serde(default)]
    member: bool,
    joined_at: Option<i64>,
    mark: Option<i64>,
    #[serde(default)]
    consumed: Counts,
    #[serde(default)]
    sent: i64,
    #[serde(flatten)]
    facts: MembershipDocument,
}

#[derive(Deserialize)]
struct CountedMessage {
    _id: MessageIdDocument,
    #[serde(default)]
    statuses: HashMap<String, i64>,
    #[serde(default)]
    reactions: HashMap<String, i64>,
    #[serde(flatten)]
    facts: MessageDocument,
}

impl CountedMessage {
    fn message(self) -> Result<Message, StoreError> {
        let facts = crate::derive::state::Message::try_from(self.facts)?;
        let created = facts.created.ok_or_else(|| {
            StoreError::Answer("a stored message has a dialog, but no sender or time".into())
        })?;
        let unescaped = |(name, count): (String, i64)| (unescape(&name), count);
        Ok(Message {
            id: message(&self._id.m)?,
            created,
            deleted: facts.deleted,
            statuses: self.statuses,
            reactions: self.reactions.into_iter().map(unescaped).collect(),
        })
    }
}
