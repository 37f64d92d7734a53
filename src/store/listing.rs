//! Which dialogs there are, and which messages of none, in all generations.

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

use super::documents::{Id as _, Keyed, foreign};
use super::rebuild::generation::Generation;
use super::schema::collection;
use super::{Store, StoreError};
use crate::derive::state::{DialogKey, MessageKey};
use crate::event::{DialogId, MessageId, TenantId};

/// Placeholders in one reply of the server.
const CHUNK: u32 = 1_000;

impl Store {
    /// The dialogs after `after`, at most so many; of one tenant, if it is
    /// named. Those of tenants that were rebuilt by themselves come last, else
    /// they are in the order of their keys.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn dialogs_after(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&DialogKey>,
        limit: usize,
    ) -> Result<Vec<DialogKey>, StoreError> {
        let generations = self.generations().await?;
        if let Some(tenant) = tenant {
            let filter = doc! { "_id": range_of(tenant, after)? };
            return self.listed(generations.of(tenant), filter, limit).await;
        }
        let last = after.map(|after| &after.tenant);
        let by_themselves: Vec<&TenantId> = generations.by_themselves().map(|(t, _)| t).collect();
        let last_by_itself = last.filter(|last| by_themselves.contains(last));
        let mut dialogs = Vec::new();
        if last_by_itself.is_none() {
            let elsewhere = by_themselves.iter().map(|tenant| tenant.as_str());
            let elsewhere: Vec<_> = elsewhere.collect();
            let mut filter = doc! { "_id.t": { "$nin": elsewhere } };
            if let Some(after) = after {
                filter.insert("_id", doc! { "$gt": after.document()? });
            }
            dialogs = self.listed(generations.everyone(), filter, limit).await?;
        }
        for (tenant, generation) in generations.by_themselves() {
            let passed = last_by_itself.is_some_and(|last| tenant < last);
            if passed || dialogs.len() >= limit {
                continue;
            }
            let after = after.filter(|after| after.tenant == *tenant);
            let filter = doc! { "_id": range_of(tenant, after)? };
            let more = self.listed(generation, filter, limit - dialogs.len());
            dialogs.extend(more.await?);
        }
        Ok(dialogs)
    }

    async fn listed(
        &self,
        generation: Generation,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<DialogKey>, StoreError> {
        let found = self
            .dialogs::<Keyed<DialogIdDocument>>(generation)
            .find(filter)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .await?;
        let found: Vec<_> = found.try_collect().await?;
        found.into_iter().map(|found| found._id.key()).collect()
    }

    /// Dialogs drawn at random, at most so many of each generation, none twice.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn random_dialogs(&self, count: u32) -> Result<Vec<DialogKey>, StoreError> {
        let mut keys = Vec::new();
        for generation in self.generations().await?.in_use() {
            let draw = [
                doc! { "$sample": { "size": count } },
                doc! { "$project": { "_id": 1 } },
            ];
            let found = self
                .dialogs::<Document>(generation)
                .aggregate(draw)
                .with_type::<Keyed<DialogIdDocument>>()
                .await?;
            let found: Vec<_> = found.try_collect().await?;
            for found in found {
                keys.push(found._id.key()?);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// About how many dialogs there are, from the collections' statistics.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn estimated_dialogs(&self) -> Result<u64, StoreError> {
        let mut dialogs = 0;
        for generation in self.generations().await?.in_use() {
            let collection = self.dialogs::<Document>(generation);
            dialogs += collection.estimated_document_count().await?;
        }
        Ok(dialogs)
    }

    fn dialogs<T: Send + Sync>(&self, generation: Generation) -> Collection<T> {
        let name = generation.collection(collection::DIALOGS);
        self.database().collection(&name)
    }

    /// Messages of which only statuses, reactions or a delete are known, of one
    /// tenant or of all.
    ///
    /// # Errors
    /// Any [`StoreError`], the stream's items too.
    pub async fn placeholders(
        &self,
        tenant: Option<&TenantId>,
    ) -> Result<impl Stream<Item = Result<MessageKey, StoreError>> + Send + use<>, StoreError> {
        let generations = self.generations().await?;
        let mut cursors = Vec::new();
        for generation in generations.in_use() {
            let mut filter = doc! { "d": null };
            if let Some(tenant) = tenant {
                filter.insert("_id.t", tenant.as_str());
            }
            let name = generation.collection(collection::MESSAGES);
            let messages = self
                .database()
                .collection::<Keyed<MessageIdDocument>>(&name);
            let found = messages.find(filter).projection(doc! { "_id": 1 });
            let cursor = found.batch_size(CHUNK).await?;
            let generations = generations.clone();
            // Of a tenant that was rebuilt by itself something may be left.
            cursors.push(
                cursor
                    .map_err(StoreError::from)
                    .try_filter_map(move |found| {
                        let key = found._id.key();
                        let serves = |key: &MessageKey| generations.of(&key.tenant) == generation;
                        std::future::ready(key.map(|key| serves(&key).then_some(key)))
                    }),
            );
        }
        Ok(futures::stream::iter(cursors).flatten())
    }
}

/// A tenant's dialogs, after one of them.
fn range_of(tenant: &TenantId, after: Option<&DialogKey>) -> Result<Document, StoreError> {
    let mut range = doc! { "$lt": { "t": tenant.as_str(), "d": Bson::MaxKey } };
    match after {
        Some(after) => range.insert("$gt", after.document()?),
        None => range.insert("$gte", doc! { "t": tenant.as_str() }),
    };
    Ok(range)
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
    t: String,
    m: String,
}

impl MessageIdDocument {
    fn key(&self) -> Result<MessageKey, StoreError> {
        Ok(MessageKey {
            tenant: TenantId::new(&self.t).map_err(foreign)?,
            message: MessageId::new(&self.m).map_err(foreign)?,
        })
    }
}
