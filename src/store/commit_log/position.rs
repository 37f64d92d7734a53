//! How far each writer has come, as of one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Document, deserialize_from_slice, doc};

use crate::store::documents::collection;
use crate::store::rebuild::fence::WriterId;
use crate::store::rebuild::generation::{GENERATIONS, Generations, GenerationsDocument};
use crate::store::{Store, StoreError};

/// All writers in one reply, unless they are very many.
const BATCH_DOCUMENTS: u32 = 50_000;
/// A question that takes longer is given up by the server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How far each writer has come, and where each tenant's documents are. Of one
/// moment, so that it says exactly which commits there were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Where each tenant's documents are.
    pub(crate) generations: Generations,
    /// Times that writers were removed: one that is not to be found is gone if
    /// there are more than there were.
    pub removed: i64,
    /// Commits of each writer that numbers them.
    pub(crate) commits: BTreeMap<WriterId, i64>,
    /// The latest transaction of each writer that does not: one of a version
    /// from before commit records, in milliseconds since the epoch. They say that
    /// something changed, not what.
    pub(crate) unnumbered: BTreeMap<WriterId, i64>,
}

impl Position {
    fn add(&mut self, document: &RawDocument) -> Result<(), StoreError> {
        let malformed = |error: mongodb::bson::error::Error| {
            StoreError::Answer(format!("a document of `writers`: {error}"))
        };
        let Ok(writer) = document.get_object_id("_id") else {
            let bytes = document.as_bytes();
            let stored: GenerationsDocument = deserialize_from_slice(bytes)
                .map_err(|error| StoreError::Answer(format!("`{GENERATIONS}`: {error}")))?;
            self.removed = document.get_i64("removed").unwrap_or(0);
            self.generations = stored.try_into()?;
            return Ok(());
        };
        let writer = WriterId::of(writer);
        match document.get_i64("commits") {
            Ok(commits) => drop(self.commits.insert(writer, commits)),
            Err(_) => {
                let at = document.get_datetime("at").map_err(malformed)?;
                self.unnumbered.insert(writer, at.timestamp_millis());
            }
        }
        Ok(())
    }
}

impl Store {
    /// How far all writers have come, as of a moment after the call began.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn position(&self) -> Result<Position, StoreError> {
        let store = self.pinned();
        let mut session = store.snapshot_session().await?;
        store.position_in(&mut session).await
    }

    /// How far all writers have come, as of the snapshot.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn position_in(&self, session: &mut ClientSession) -> Result<Position, StoreError> {
        // One question, for it is asked before every read from memory.
        let generations = doc! {
            "coll": collection::META,
            "pipeline": [
                { "$match": { "_id": GENERATIONS } },
                { "$project": { "epoch": 1, "everyone": 1, "tenants": 1, "removed": 1 } },
            ],
        };
        let pipeline = [
            doc! { "$project": { "commits": 1, "at": 1 } },
            doc! { "$unionWith": generations },
        ];
        let writers = self.snapshots().collection::<Document>(collection::WRITERS);
        let mut found = writers
            .aggregate(pipeline)
            .batch_size(BATCH_DOCUMENTS)
            .max_time(QUERY_TIMEOUT)
            .session(&mut *session)
            .await?;
        let mut position = Position::default();
        while found.advance(session).await? {
            position.add(found.current())?;
        }
        Ok(position)
    }
}
