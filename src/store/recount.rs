//! Reading all that is recorded of a dialog, in one snapshot, for
//! [`crate::verify`] to recount: facts and counters of the same moment, so that
//! events in flight are no differences.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::ClientSession;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::documents::{
    Counts, DialogDocument, Id as _, Keyed, MembershipDocument, MessageDocument, below, by_type,
    foreign, micros,
};
use super::rebuild::generation::Generation;
use super::schema::{collection, unescape};
use super::{Store, StoreError};
use crate::derive::state::{Dialog, DialogKey, MessageKey, Watermark};
use crate::event::{MessageId, Reaction, Status, TenantId, UserId};
use crate::verify::{self, Difference, MessageFacts, Recount, StoredMessage, StoredShare};

/// Documents in one reply of the server.
const CHUNK: u32 = 1_000;
/// Messages whose receipts and reactions are looked up together.
const RANGES: usize = 100;

/// A dialog, or a message of none, after the recount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recounted {
    /// The epoch of the [generations](super::rebuild::generation) then.
    pub epoch: i64,
    /// The version at which it was looked at.
    pub version: i64,
    /// Messages looked at.
    pub messages: u64,
    /// What is not stored as it is counted.
    pub differences: Vec<Difference>,
}

impl Store {
    async fn reading<'s>(&'s self, tenant: &'s TenantId) -> Result<Reading<'s>, StoreError> {
        let store = self.pinned();
        let mut session = store.snapshot_session().await?;
        let generations = store.generations_in(&mut session).await?;
        Ok(Reading {
            store,
            session,
            epoch: generations.epoch,
            generation: generations.of(tenant),
            tenant,
        })
    }

    /// Recounts one dialog. Takes time by its messages and people, and some 40
    /// bytes of memory a message.
    ///
    /// # Errors
    /// Any [`StoreError`]; one about the snapshot when it takes longer than the
    /// server keeps history (`minSnapshotHistoryWindowInSeconds`, 5 minutes).
    pub async fn recount(&self, key: &DialogKey) -> Result<Recounted, StoreError> {
        let mut reading = self.reading(&key.tenant).await?;
        let stored = reading.dialog(key).await?;
        let version = stored.version;
        let mut recount = Recount::new(stored);
        reading.members(key, &mut recount).await?;
        let messages = reading.messages(key, &mut recount).await?;
        let topics = reading.topics(key).await?;
        Ok(Recounted {
            epoch: reading.epoch,
            version,
            messages,
            differences: recount.differences(topics),
        })
    }

    /// Recounts a message whose create is not known. `None` if it is by now:
    /// it is then recounted with its dialog.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn recount_placeholder(
        &self,
        key: &MessageKey,
    ) -> Result<Option<Recounted>, StoreError> {
        let mut reading = self.reading(&key.tenant).await?;
        let mut found = None;
        let filter = doc! { "_id": key.document()?, "d": null };
        reading
            .find(
                collection::MESSAGES,
                filter,
                doc! {},
                |stored: Placeholder| {
                    found = Some(stored);
                    Ok(())
                },
            )
            .await?;
        let Some(stored) = found else {
            return Ok(None);
        };
        let mut marks = reading.marks(std::iter::once(&key.message)).await?;
        let marks = marks.remove(&key.message).unwrap_or_default();
        let reactions = unescaped(stored.reactions);
        Ok(Some(Recounted {
            epoch: reading.epoch,
            version: stored.version,
            messages: 1,
            differences: verify::of_message(&key.message, &stored.statuses, &reactions, &marks),
        }))
    }
}

/// One snapshot of a tenant's documents.
struct Reading<'s> {
    store: Store,
    session: ClientSession,
    epoch: i64,
    generation: Generation,
    tenant: &'s TenantId,
}

impl Reading<'_> {
    async fn find<T: DeserializeOwned + Unpin + Send + Sync>(
        &mut self,
        name: &'static str,
        filter: Document,
        sort: Document,
        mut each: impl FnMut(T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let name = self.generation.collection(name);
        let collection = self.store.snapshots().collection::<T>(&name);
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

    async fn dialog(&mut self, key: &DialogKey) -> Result<Dialog, StoreError> {
        let mut dialog = Dialog::default();
        let filter = doc! { "_id": key.document()? };
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

    async fn members(&mut self, key: &DialogKey, recount: &mut Recount) -> Result<(), StoreError> {
        let filter = doc! { "_id": below(key.document()?) };
        let sort = doc! { "_id": 1 };
        self.find(
            collection::MEMBERSHIPS,
            filter,
            sort,
            |found: ShareDocument| {
                let user = user(&found._id.u)?;
                let share = StoredShare {
                    member: found.member,
                    joined_at: found.joined_at.map(micros).transpose()?,
                    watermark: found.mark.map(Watermark),
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
    async fn messages(
        &mut self,
        key: &DialogKey,
        recount: &mut Recount,
    ) -> Result<u64, StoreError> {
        let filter = doc! {
            "_id.t": key.tenant.as_str(),
            "d": key.dialog.as_str(),
        };
        let name = self.generation.collection(collection::MESSAGES);
        let messages = self.store.snapshots().collection::<CountedMessage>(&name);
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
            let chunk: Vec<StoredMessage> = chunk.collect::<Result<_, _>>()?;
            let ids = chunk.iter().map(|message| &message.id);
            let mut marks = self.marks(ids).await?;
            for message in &chunk {
                let marks = marks.remove(&message.id).unwrap_or_default();
                recount.message(message, &marks);
            }
            count += chunk.len() as u64;
        }
    }

    async fn marks<'m>(
        &mut self,
        messages: impl Iterator<Item = &'m MessageId>,
    ) -> Result<HashMap<MessageId, MessageFacts>, StoreError> {
        let ranges = messages.map(|message| {
            let key = MessageKey {
                tenant: self.tenant.clone(),
                message: message.clone(),
            };
            Ok(doc! { "_id": below(key.document()?) })
        });
        let ranges: Vec<Document> = ranges.collect::<Result<_, StoreError>>()?;
        let filter = doc! { "$or": ranges };
        let mut marks: HashMap<MessageId, MessageFacts> = HashMap::new();
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

    async fn topics(&mut self, key: &DialogKey) -> Result<i64, StoreError> {
        let filter = doc! { "_id": below(key.document()?) };
        let mut topics = 0;
        self.find(collection::TOPICS, filter, doc! {}, |_: Document| {
            topics += 1;
            Ok(())
        })
        .await?;
        Ok(topics)
    }
}

fn user(id: &str) -> Result<UserId, StoreError> {
    UserId::new(id).map_err(foreign)
}

fn message(id: &str) -> Result<MessageId, StoreError> {
    MessageId::new(id).map_err(foreign)
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
struct Placeholder {
    version: i64,
    #[serde(default)]
    statuses: HashMap<String, i64>,
    #[serde(default)]
    reactions: HashMap<String, i64>,
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
    fn message(self) -> Result<StoredMessage, StoreError> {
        let facts = crate::derive::state::Message::try_from(self.facts)?;
        let created = facts.created.ok_or_else(|| {
            StoreError::Answer("a stored message has a dialog, but no sender or time".into())
        })?;
        Ok(StoredMessage {
            id: message(&self._id.m)?,
            created,
            deleted: facts.deleted,
            statuses: self.statuses,
            reactions: unescaped(self.reactions),
        })
    }
}

fn unescaped(counts: HashMap<String, i64>) -> HashMap<String, i64> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (unescape(&name), count))
        .collect()
}
