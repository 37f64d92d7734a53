//! Reading all that is recorded of a dialog, in one snapshot, for
//! [`crate::verify`] to recount: facts and counters of the same moment, so that
//! events in flight are no differences.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use serde::de::DeserializeOwned;

use crate::derive::state::{Dialog, DialogKey, MessageKey, Watermark};
use crate::event::{MessageId, Reaction, Status, TenantId, UserId};
use crate::store::documents::dialog::DialogDocument;
use crate::store::documents::membership::WholeMembership;
use crate::store::documents::message::{self, PlaceholderDocument, WholeMessage};
use crate::store::documents::reaction::KeyedWord;
use crate::store::documents::receipt::ReceiptPart;
use crate::store::documents::{
    Key as _, Keyed, by_type, collection, id, invalid, micros, unescape,
};
use crate::store::snapshot::Snapshot;
use crate::store::{Store, StoreError};
use crate::verify::{self, Difference, MessageFacts, Recount, StoredMessage, StoredShare};

/// Documents in one reply of the server.
const BATCH_DOCUMENTS: u32 = 1_000;
/// Messages whose receipts and reactions are looked up together.
const MESSAGES_PER_LOOKUP: usize = 100;

/// A dialog, or a message of none, after the recount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recounted {
    /// The epoch of the [generations](crate::store::rebuild::generation) then.
    pub epoch: i64,
    /// The version at which it was looked at.
    pub version: i64,
    /// The number of messages that were looked at.
    pub messages: u64,
    /// What is not stored as it is counted.
    pub differences: Vec<Difference>,
}

impl Store {
    async fn reading<'s>(&'s self, tenant: &'s TenantId) -> Result<Reading<'s>, StoreError> {
        Ok(Reading {
            snapshot: self.snapshot(None).await?,
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
            epoch: reading.snapshot.generations().epoch,
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
        let filter = doc! { id::ID: key.id().document(), message::DIALOG: null };
        reading
            .find(
                collection::MESSAGES,
                filter,
                doc! {},
                |stored: PlaceholderDocument| {
                    found = Some(stored);
                    Ok(())
                },
            )
            .await?;
        let Some(stored) = found else {
            return Ok(None);
        };
        let mut facts = reading.message_facts(std::iter::once(&key.message)).await?;
        let facts = facts.remove(&key.message).unwrap_or_default();
        let reactions = unescaped(stored.counts.reactions);
        Ok(Some(Recounted {
            epoch: reading.snapshot.generations().epoch,
            version: stored.version,
            messages: 1,
            differences: verify::of_message(
                &key.message,
                &stored.counts.statuses,
                &reactions,
                &facts,
            ),
        }))
    }
}

/// One snapshot of a tenant's documents.
struct Reading<'s> {
    snapshot: Snapshot,
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
        let collection = self.snapshot.collection::<T>(self.tenant, name);
        let mut cursor = collection
            .find(filter)
            .sort(sort)
            .batch_size(BATCH_DOCUMENTS)
            .session(&mut self.snapshot.session)
            .await?;
        while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            each(found)?;
        }
        Ok(())
    }

    async fn dialog(&mut self, key: &DialogKey) -> Result<Dialog, StoreError> {
        let mut dialog = Dialog::default();
        let filter = doc! { id::ID: key.id().document() };
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
        let filter = doc! { id::ID: key.id().below() };
        let sort = doc! { "_id": 1 };
        self.find(
            collection::MEMBERSHIPS,
            filter,
            sort,
            |found: WholeMembership| {
                let counters = found.share;
                let user = counters._id.try_into()?;
                let share = StoredShare {
                    member: counters.member,
                    joined_at: found.joined_at.map(micros).transpose()?,
                    watermark: found.mark.map(Watermark),
                    consumed: by_type(&counters.consumed)?,
                    sent: counters.sent,
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
            id::TENANT: key.tenant.as_str(),
            message::DIALOG: key.dialog.as_str(),
        };
        let messages = self
            .snapshot
            .collection::<WholeMessage>(self.tenant, collection::MESSAGES);
        let mut cursor = messages
            .find(filter)
            .sort(message::by_time())
            .batch_size(BATCH_DOCUMENTS)
            .session(&mut self.snapshot.session)
            .await?;
        let mut count = 0;
        loop {
            let chunk: Vec<WholeMessage> = cursor
                .stream(&mut self.snapshot.session)
                .take(MESSAGES_PER_LOOKUP)
                .try_collect()
                .await?;
            if chunk.is_empty() {
                return Ok(count);
            }
            let chunk = chunk.into_iter().map(counted);
            let chunk: Vec<StoredMessage> = chunk.collect::<Result<_, _>>()?;
            let ids = chunk.iter().map(|message| &message.id);
            let mut facts = self.message_facts(ids).await?;
            for message in &chunk {
                let facts = facts.remove(&message.id).unwrap_or_default();
                recount.message(message, &facts);
            }
            count += chunk.len() as u64;
        }
    }

    async fn message_facts<'m>(
        &mut self,
        messages: impl Iterator<Item = &'m MessageId>,
    ) -> Result<HashMap<MessageId, MessageFacts>, StoreError> {
        let ranges = messages.map(|message| {
            let of = id::message(self.tenant, message);
            doc! { id::ID: of.below() }
        });
        let ranges: Vec<Document> = ranges.collect();
        let filter = doc! { "$or": ranges };
        let mut facts: HashMap<MessageId, MessageFacts> = HashMap::new();
        self.find(
            collection::RECEIPTS,
            filter.clone(),
            doc! {},
            |found: Keyed<ReceiptPart>| {
                let id = found._id;
                let status = Status::new(&id.s).map_err(invalid)?;
                let facts = facts.entry(message_id(&id.m)?).or_default();
                facts.receipts.push((status, user(&id.u)?));
                Ok(())
            },
        )
        .await?;
        self.find(
            collection::REACTIONS,
            filter,
            doc! {},
            |found: KeyedWord| {
                if found.set {
                    let reaction = Reaction::new(&found._id.r).map_err(invalid)?;
                    let facts = facts.entry(message_id(&found._id.m)?).or_default();
                    facts.reactions.push(reaction);
                }
                Ok(())
            },
        )
        .await?;
        Ok(facts)
    }

    async fn topics(&mut self, key: &DialogKey) -> Result<i64, StoreError> {
        let filter = doc! { id::ID: key.id().below() };
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
    UserId::new(id).map_err(invalid)
}

fn message_id(id: &str) -> Result<MessageId, StoreError> {
    MessageId::new(id).map_err(invalid)
}

/// What [`crate::verify`] is to know of a stored message.
fn counted(stored: WholeMessage) -> Result<StoredMessage, StoreError> {
    let facts = crate::derive::state::Message::try_from(stored.facts)?;
    let created = facts.created.ok_or_else(|| {
        StoreError::Answer("a stored message has a dialog, but no sender or time".into())
    })?;
    Ok(StoredMessage {
        id: stored._id.try_into()?,
        created,
        deleted: facts.deleted,
        statuses: stored.counts.statuses,
        reactions: unescaped(stored.counts.reactions),
    })
}

fn unescaped(counts: HashMap<String, i64>) -> HashMap<String, i64> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (unescape(&name), count))
        .collect()
}
