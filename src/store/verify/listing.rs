//! Which dialogs there are, and which messages of none, in all generations.

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};

use crate::derive::state::{DialogKey, MessageKey};
use crate::event::TenantId;
use crate::store::documents::id::{StoredDialogId, StoredMessageId, part};
use crate::store::documents::{Key as _, Keyed, collection, id, message};
use crate::store::rebuild::generation::Generation;
use crate::store::{Store, StoreError};

/// Placeholders in one reply of the server.
const BATCH_DOCUMENTS: u32 = 1_000;

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
            let filter = doc! { id::ID: range_of(tenant, after) };
            return self.listed(generations.of(tenant), filter, limit).await;
        }
        let last = after.map(|after| &after.tenant);
        let by_themselves: Vec<&TenantId> = generations.by_themselves().map(|(t, _)| t).collect();
        let last_by_itself = last.filter(|last| by_themselves.contains(last));
        let mut dialogs = Vec::new();
        if last_by_itself.is_none() {
            let elsewhere = by_themselves.iter().map(|tenant| tenant.as_str());
            let elsewhere: Vec<_> = elsewhere.collect();
            let mut filter = doc! { id::TENANT: { "$nin": elsewhere } };
            if let Some(after) = after {
                filter.insert(id::ID, doc! { "$gt": after.id().document() });
            }
            dialogs = self.listed(generations.everyone(), filter, limit).await?;
        }
        for (tenant, generation) in generations.by_themselves() {
            let passed = last_by_itself.is_some_and(|last| tenant < last);
            if passed || dialogs.len() >= limit {
                continue;
            }
            let after = after.filter(|after| after.tenant == *tenant);
            let filter = doc! { id::ID: range_of(tenant, after) };
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
            .dialogs::<Keyed<StoredDialogId>>(generation)
            .find(filter)
            .projection(doc! { id::ID: 1 })
            .sort(doc! { id::ID: 1 })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .await?;
        let found: Vec<_> = found.try_collect().await?;
        found
            .into_iter()
            .map(|found| found._id.try_into())
            .collect()
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
                .with_type::<Keyed<StoredDialogId>>()
                .await?;
            let found: Vec<_> = found.try_collect().await?;
            for found in found {
                keys.push(found._id.try_into()?);
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
            let mut filter = doc! { message::DIALOG: null };
            if let Some(tenant) = tenant {
                filter.insert(id::TENANT, tenant.as_str());
            }
            let name = generation.collection(collection::MESSAGES);
            let messages = self.database().collection::<Keyed<StoredMessageId>>(&name);
            let found = messages.find(filter).projection(doc! { id::ID: 1 });
            let cursor = found.batch_size(BATCH_DOCUMENTS).await?;
            let generations = generations.clone();
            // Of a tenant that was rebuilt by itself something may be left.
            cursors.push(
                cursor
                    .map_err(StoreError::from)
                    .try_filter_map(move |found| {
                        let key = MessageKey::try_from(found._id);
                        let serves = |key: &MessageKey| generations.of(&key.tenant) == generation;
                        std::future::ready(key.map(|key| serves(&key).then_some(key)))
                    }),
            );
        }
        Ok(futures::stream::iter(cursors).flatten())
    }
}

/// A tenant's dialogs, after one of them.
fn range_of(tenant: &TenantId, after: Option<&DialogKey>) -> Document {
    let tenant = tenant.as_str();
    let mut range = doc! { "$lt": { part::TENANT: tenant, part::DIALOG: Bson::MaxKey } };
    match after {
        Some(after) => range.insert("$gt", after.id().document()),
        None => range.insert("$gte", doc! { part::TENANT: tenant }),
    };
    range
}
