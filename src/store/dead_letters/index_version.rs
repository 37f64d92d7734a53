//! By which rules the entries of the index were made.
//!
//! An id is made of what a letter says of itself. Where a version understands
//! more of that than the one before, some letters have other ids from then on,
//! and only a pass through the queue can tell which.

use mongodb::bson::{Document, doc};

use super::collection::LetterCollection;
use crate::store::lease::DEAD_LETTERS;
use crate::store::{Store, StoreError};

/// The number of the rules by which this version makes entries. 2: what the broker itself
/// gave up, with `expired`, `maxlen` or `rejected`, has that reason and counts its attempts.
const INDEX_RULES: i32 = 2;

impl Store {
    /// Tells whether all entries were made by the rules of this version, or later ones.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn is_index_current(&self) -> Result<bool, StoreError> {
        let current = doc! { "_id": DEAD_LETTERS.id, "rules": { "$gte": INDEX_RULES } };
        Ok(self.meta::<Document>().find_one(current).await?.is_some())
    }

    /// Notes that all entries were made by the rules of this version.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn note_index_current(&self) -> Result<(), StoreError> {
        let meta = self.meta::<Document>();
        let note = doc! { "$max": { "rules": INDEX_RULES } };
        meta.update_one(doc! { "_id": DEAD_LETTERS.id }, note)
            .await?;
        Ok(())
    }

    /// Notes of an index without entries that it is current: it has none by other rules.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(in crate::store) async fn note_empty_index(&self) -> Result<(), StoreError> {
        let letters = self.letters_in::<Document>(LetterCollection::Queue);
        if letters.find_one(doc! {}).await?.is_some() {
            return Ok(());
        }
        self.create_lease(DEAD_LETTERS).await?;
        self.note_index_current().await
    }
}
