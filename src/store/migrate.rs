//! Creating what the service needs in the database. Idempotent: every start
//! runs it.

use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::IndexOptions;

use super::schema::collection;
use super::{Store, StoreError};

const NAMESPACE_EXISTS: i32 = 48;
const INDEX_OPTIONS_CONFLICT: i32 = 85;
const JOURNAL_TTL: &str = "applied_at_1";

impl Store {
    /// Creates collections and indexes that are not there, and sets the
    /// journal's retention.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub async fn migrate(&self, retention: Duration) -> Result<(), StoreError> {
        // Inside a transaction a collection would be created, but two writers
        // doing so at once conflict.
        for name in collection::ALL {
            let created = self.database().create_collection(name);
            let created = match name {
                collection::MEMBERSHIPS => created.storage_engine(small_pages()).await,
                _ => created.await,
            };
            accept(created, NAMESPACE_EXISTS)?;
        }
        let indexes = [
            // A user's dialogs.
            (
                collection::MEMBERSHIPS,
                doc! { "_id.t": 1, "_id.u": 1, "_id.d": 1 },
            ),
            // Members whose mark covers a message out of order.
            (
                collection::MEMBERSHIPS,
                doc! { "_id.t": 1, "_id.d": 1, "mark": 1 },
            ),
            // A dialog's messages in time.
            (collection::MESSAGES, doc! { "_id.t": 1, "d": 1, "at": 1 }),
        ];
        for (name, keys) in indexes {
            let index = IndexModel::builder().keys(keys).build();
            let collection = self.database().collection::<Document>(name);
            collection.create_index(index).await?;
        }
        self.index_history().await?;
        self.set_retention(retention).await
    }

    /// What histories look up in the journal. Partial, so that an event costs
    /// an entry only where it has something to tell.
    async fn index_history(&self) -> Result<(), StoreError> {
        let journal = self.database().collection::<Document>(collection::JOURNAL);
        for (keys, field) in [
            // A dialog's events in the order in which they changed it.
            (doc! { "_id.t": 1, "d": 1, "version": 1 }, "version"),
            // What became of a message after its create.
            (doc! { "_id.t": 1, "of": 1 }, "of"),
        ] {
            let options = IndexOptions::builder()
                .partial_filter_expression(doc! { field: { "$exists": true } })
                .build();
            let index = IndexModel::builder().keys(keys).options(options).build();
            journal.create_index(index).await?;
        }
        Ok(())
    }

    async fn set_retention(&self, retention: Duration) -> Result<(), StoreError> {
        let options = IndexOptions::builder()
            .name(JOURNAL_TTL.to_owned())
            .expire_after(retention)
            .build();
        let index = IndexModel::builder()
            .keys(doc! { "applied_at": 1 })
            .options(options)
            .build();
        let journal = self.database().collection::<Document>(collection::JOURNAL);
        let created = journal.create_index(index).await;
        if accept(created, INDEX_OPTIONS_CONFLICT)?.is_none() {
            let seconds = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
            let change = doc! {
                "collMod": collection::JOURNAL,
                "index": { "name": JOURNAL_TTL, "expireAfterSeconds": seconds },
            };
            self.database().run_command(change).await?;
        }
        Ok(())
    }
}

/// Storage in pages of 4 KiB, not 32. A message changes one membership among
/// millions, its sender's, and the server writes the page around it.
fn small_pages() -> Document {
    doc! { "wiredTiger": { "configString": "leaf_page_max=4KB" } }
}

/// `None` when the server refused with this one code.
fn accept<T>(result: Result<T, Error>, code: i32) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind.as_ref() {
            ErrorKind::Command(refusal) if refusal.code == code => Ok(None),
            _ => Err(error.into()),
        },
    }
}
