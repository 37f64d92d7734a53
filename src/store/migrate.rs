//! Creating what the service needs in the database. Idempotent: every start
//! runs it.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};

use super::documents::{collection, journal, membership, message};
use super::rebuild::generation::{GENERATIONS, Generation, RULES};
use super::{Class, Store, StoreError};
use crate::config;

const NAMESPACE_EXISTS: i32 = 48;
const INDEX_NOT_FOUND: i32 = 27;
const INDEX_OPTIONS_CONFLICT: i32 = 85;

/// Clocks of replicas differ by no more than this, nearly always.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// How long documents are kept that are of use for a time.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Records of events, and what was done about dead letters.
    pub journal: Duration,
    /// Commit records: as long as one can be needed by somebody who follows.
    pub commits: Duration,
}

impl Retention {
    /// As the configuration says.
    pub fn of(config: &config::Store) -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        Self {
            journal: hours(u64::from(config.journal_retention_days) * 24),
            commits: hours(u64::from(config.commit_retention_hours)),
        }
    }
}

impl Store {
    /// Creates collections and indexes that are not there, and sets the
    /// journal's retention, and that of commit records.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub async fn migrate(&self, keep: Retention) -> Result<(), StoreError> {
        self.create(collection::META, Document::new()).await?;
        self.create(collection::WRITERS, Document::new()).await?;
        self.create(collection::COMMITS, Document::new()).await?;
        self.note_generations().await?;
        for generation in self.generations().await?.in_use() {
            self.create_generation(generation).await?;
        }
        self.create(collection::JOURNAL, Document::new()).await?;
        self.note_origin().await?;
        self.index_history().await?;
        self.index_letters_shelves().await?;
        for (collection, field, kept) in [
            (collection::JOURNAL, journal::APPLIED_AT, keep.journal),
            (collection::DISCARDED_LETTERS, "discarded_at", keep.journal),
            (collection::DEAD_LETTER_JOBS, "finished_at", keep.journal),
            (collection::COMMITS, "at", keep.commits),
        ] {
            self.set_retention(collection, field, kept).await?;
        }
        // What they have written is told by no record any more.
        self.remove_writers(keep.commits.saturating_add(MAX_CLOCK_SKEW))
            .await?;
        Ok(())
    }

    /// Creates the collections of a generation, with their indexes, as far as
    /// they are not there.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub(crate) async fn create_generation(&self, generation: Generation) -> Result<(), StoreError> {
        for name in collection::COUNTED {
            let storage = match name {
                collection::MEMBERSHIPS => small_pages(),
                _ => Document::new(),
            };
            self.create(&generation.collection(name), storage).await?;
        }
        let indexes = [
            // A user's dialogs.
            (collection::MEMBERSHIPS, membership::by_user()),
            // Members whose mark covers a message: out of order, or to be counted
            // as its readers, which are read from the index alone.
            (collection::MEMBERSHIPS, membership::by_mark()),
            // A dialog's messages in time.
            (collection::MESSAGES, message::by_time()),
        ];
        for (name, keys) in indexes {
            let index = IndexModel::builder().keys(keys).build();
            let name = generation.collection(name);
            let collection = self.database().collection::<Document>(&name);
            collection.create_index(index).await?;
        }
        self.drop_outgrown(generation).await
    }

    /// Drops what an earlier version made and a longer index has replaced.
    async fn drop_outgrown(&self, generation: Generation) -> Result<(), StoreError> {
        let name = generation.collection(collection::MEMBERSHIPS);
        let memberships = self.database().collection::<Document>(&name);
        drop_index(&memberships, "_id.t_1__id.d_1_mark_1").await
    }

    /// Creates a collection; `false` when it was there. Inside a transaction it
    /// would be created as well, but two writers doing so at once conflict.
    async fn create(&self, name: &str, storage: Document) -> Result<bool, StoreError> {
        let database = self.database();
        let mut created = database.create_collection(name);
        if !storage.is_empty() {
            created = created.storage_engine(storage);
        }
        Ok(accept(created.await, NAMESPACE_EXISTS)?.is_some())
    }

    /// The document that every enrolment changes.
    async fn note_generations(&self) -> Result<(), StoreError> {
        let mut first = doc! {
            "epoch": 0_i64,
            "everyone": 0_i32,
            "tenants": [],
            "enrolled": 0_i64,
        };
        let journal = self.database().collection::<Document>(collection::JOURNAL);
        if journal.find_one(doc! {}).await?.is_none() {
            first.insert("rules", RULES);
        }
        let first = doc! { "$setOnInsert": first };
        let noted = self
            .meta::<Document>()
            .update_one(doc! { "_id": GENERATIONS }, first)
            .upsert(true)
            .await;
        accept_duplicate(noted)
    }

    /// The first record of a journal. While it is there, the retention has
    /// taken none away: it goes before all others.
    async fn note_origin(&self) -> Result<(), StoreError> {
        let records = self.database().collection::<Document>(collection::JOURNAL);
        if records.find_one(doc! {}).await?.is_some() {
            return Ok(());
        }
        let noted = records.insert_one(journal::origin(DateTime::now())).await;
        accept_duplicate(noted)
    }

    /// What histories look up in the journal. Partial, so that an event costs
    /// an entry only where it has something to tell.
    async fn index_history(&self) -> Result<(), StoreError> {
        let records = self.database().collection::<Document>(collection::JOURNAL);
        for (keys, field) in [
            // A dialog's events in the order in which they changed it.
            (journal::by_version(), journal::VERSION),
            // What became of a message after its create.
            (journal::by_message(), journal::OF),
        ] {
            let options = IndexOptions::builder()
                .partial_filter_expression(doc! { field: { "$exists": true } })
                .build();
            let index = IndexModel::builder().keys(keys).options(options).build();
            records.create_index(index).await?;
        }
        Ok(())
    }

    /// What looking at dead letters, and jobs on them, look up.
    async fn index_letters_shelves(&self) -> Result<(), StoreError> {
        for name in [collection::DEAD_LETTERS, collection::DISCARDED_LETTERS] {
            self.create(name, Document::new()).await?;
            let letters = self.database().collection::<Document>(name);
            let keys = [
                doc! { "last_failed_at": -1, "_id": -1 },
                doc! { "tenant": 1, "last_failed_at": -1, "_id": -1 },
                doc! { "event": 1 },
                // All that groups are made of.
                doc! {
                    "group": 1, "tenant": 1, "last_failed_at": 1, "first_failed_at": 1,
                    "copies": 1, "state": 1, "_id": 1,
                },
            ];
            for keys in keys {
                let index = IndexModel::builder().keys(keys).build();
                letters.create_index(index).await?;
            }
            drop_index(
                &letters,
                "group_1_tenant_1_last_failed_at_1_first_failed_at_1",
            )
            .await?;
            for (field, few) in [
                ("job", doc! { "$exists": true }),
                ("copies", doc! { "$gt": 1 }),
            ] {
                let options = IndexOptions::builder()
                    .partial_filter_expression(doc! { field: few })
                    .build();
                let index = IndexModel::builder()
                    .keys(doc! { field: 1 })
                    .options(options)
                    .build();
                letters.create_index(index).await?;
            }
        }
        self.create(collection::UNSENT_LETTERS, Document::new())
            .await?;
        // How many there are, and how large, is read from it alone.
        let unsent = self
            .database()
            .collection::<Document>(collection::UNSENT_LETTERS);
        let sizes = IndexModel::builder().keys(doc! { "bytes": 1 }).build();
        unsent.create_index(sizes).await?;
        self.create(collection::DEAD_LETTER_JOBS, Document::new())
            .await?;
        self.note_empty_index().await
    }

    /// Has documents go so long after the date in a field.
    async fn set_retention(
        &self,
        collection: &str,
        field: &str,
        retention: Duration,
    ) -> Result<(), StoreError> {
        let name = format!("{field}_1");
        let options = IndexOptions::builder()
            .name(name.clone())
            .expire_after(retention)
            .build();
        let index = IndexModel::builder()
            .keys(doc! { field: 1 })
            .options(options)
            .build();
        let documents = self.database().collection::<Document>(collection);
        let created = documents.create_index(index).await;
        if accept(created, INDEX_OPTIONS_CONFLICT)?.is_none() {
            let seconds = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
            let change = doc! {
                "collMod": collection,
                "index": { "name": name, "expireAfterSeconds": seconds },
            };
            self.database().run_command(change).await?;
        }
        Ok(())
    }
}

/// Drops an index, if it is there.
async fn drop_index(from: &Collection<Document>, name: &str) -> Result<(), StoreError> {
    accept(from.drop_index(name).await, INDEX_NOT_FOUND)?;
    Ok(())
}

/// Storage in pages of 4 KiB, not 32. A message changes one membership among
/// millions, its sender's, and the server writes the page around it.
fn small_pages() -> Document {
    doc! { "wiredTiger": { "configString": "leaf_page_max=4KB" } }
}

/// Somebody else was faster with the same.
fn accept_duplicate<T>(result: Result<T, Error>) -> Result<(), StoreError> {
    match result.map_err(StoreError::from) {
        Err(error) if error.class() == Class::Conflict => Ok(()),
        result => result.map(drop),
    }
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
