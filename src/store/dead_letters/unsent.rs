//! Letters that wait for the dead-letter queue: the broker takes none now.
//!
//! Each that comes is one document, also where another one has the same id: in the
//! queue they will be copies. It goes after the letter is confirmed by the broker and
//! in the index, so that whoever dies in between sends it once more, and it is a copy.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;
use serde::{Deserialize, Serialize};

use super::document::LetterDocument;
use super::index::fitting;
use crate::deadletter::Letter;
use crate::store::documents::collection::UNSENT_LETTERS;
use crate::store::error::duplicates_alone;
use crate::store::lease::{self, Lease};
use crate::store::{Store, StoreError};

/// The name of a letter that waits. It is made before the letter is stored, so that
/// storing it twice is storing it once. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UnsentId(ObjectId);

impl UnsentId {
    /// Makes a name that no other has.
    pub(crate) fn unique() -> Self {
        Self(ObjectId::new())
    }
}

/// How much waits for the dead-letter queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UnsentTotals {
    /// The number of letters.
    pub(crate) letters: u64,
    /// The size of their bodies, in bytes.
    pub(crate) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct UnsentDocument {
    #[serde(rename = "_id")]
    id: ObjectId,
    /// The size of the body.
    bytes: i64,
    letter: LetterDocument,
}

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "_id")]
    id: ObjectId,
    bytes: i64,
}

impl Store {
    /// Stores letters until they can be sent.
    ///
    /// # Errors
    /// Any [`StoreError`]; some may be stored then.
    pub(crate) async fn store_unsent<'l>(
        &self,
        letters: impl IntoIterator<Item = (UnsentId, &'l Letter)>,
    ) -> Result<(), StoreError> {
        let documents = letters.into_iter().map(|(id, letter)| UnsentDocument {
            id: id.0,
            bytes: i64::try_from(letter.raw.body.len()).unwrap_or(i64::MAX),
            letter: LetterDocument::whole(letter),
        });
        let documents: Vec<_> = documents.collect();
        if documents.is_empty() {
            return Ok(());
        }
        let kept = self.unsent_documents();
        match kept.insert_many(documents).ordered(false).await {
            Err(error) if duplicates_alone(&error).is_none() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns how much waits.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn unsent_totals(&self) -> Result<UnsentTotals, StoreError> {
        #[derive(Deserialize)]
        struct Sums {
            letters: i64,
            bytes: i64,
        }
        let stages = [
            // True of all, and has them read from the index alone.
            doc! { "$match": { "bytes": { "$gte": 0_i64 } } },
            doc! { "$group": {
                "_id": null,
                "letters": { "$sum": 1_i64 },
                "bytes": { "$sum": "$bytes" },
            } },
        ];
        let documents = self.unsent_documents::<Document>();
        let sums = documents.aggregate(stages);
        let sums = sums.hint(Hint::Keys(doc! { "bytes": 1 }));
        let found = sums.with_type::<Sums>().await?.try_next().await?;
        let int = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(
            found.map_or_else(UnsentTotals::default, |sums| UnsentTotals {
                letters: int(sums.letters),
                bytes: int(sums.bytes),
            }),
        )
    }

    /// Returns the letters to be sent next, so many at most, and no more than have bodies
    /// of so many bytes; one at least, if there is one.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn next_unsent(
        &self,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<(UnsentId, Letter)>, StoreError> {
        let documents = self.unsent_documents::<Size>();
        let sizes = documents.find(doc! { "refused": null });
        let sizes = sizes.sort(doc! { "_id": 1 });
        let sizes = sizes.limit(i64::try_from(most).unwrap_or(i64::MAX));
        let sizes: Vec<Size> = sizes
            .projection(doc! { "bytes": 1 })
            .await?
            .try_collect()
            .await?;
        let sizes = sizes.into_iter().map(|size| (size.id, size.bytes));
        let ids = fitting(sizes.collect(), bytes);
        let these = doc! { "_id": { "$in": &ids } };
        let documents = self.unsent_documents::<UnsentDocument>();
        let letters = documents.find(these).await?;
        let letters = letters.map_ok(|found| (found.id, found.letter.into_whole()));
        let mut letters: HashMap<_, _> = letters.try_collect().await?;
        let ordered = ids.into_iter();
        let ordered = ordered.filter_map(|id| Some((UnsentId(id), letters.remove(&id)?)));
        Ok(ordered.collect())
    }

    /// Removes letters that are in the queue by now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn remove_unsent(&self, ids: &[UnsentId]) -> Result<(), StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let these = doc! { "_id": { "$in": ids } };
        let documents = self.unsent_documents::<Document>();
        documents.delete_many(these).await?;
        Ok(())
    }

    /// Records why a letter can never be sent. It stays stored, and holds up no other.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn refuse_unsent(&self, id: UnsentId, cause: &str) -> Result<(), StoreError> {
        let note = doc! { "$set": { "refused": cause } };
        let documents = self.unsent_documents::<Document>();
        documents.update_one(doc! { "_id": id.0 }, note).await?;
        Ok(())
    }

    /// Takes the lease of whoever sends the letters that wait, if it is free.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn sender_lease(&self) -> Result<Option<Lease>, StoreError> {
        Ok(self
            .take_lease(lease::UNSENT_LETTERS, "sending letters")
            .await?
            .ok())
    }

    fn unsent_documents<T: Send + Sync>(&self) -> Collection<T> {
        self.database().collection(UNSENT_LETTERS)
    }
}

impl std::fmt::Display for UnsentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
