//! Keeping the index: entries come, are acted upon and go.
//!
//! A job selects letters by writing its id into their entries. What it has come
//! to with each is its `state`:
//!
//! | state | means |
//! | --- | --- |
//! | none | to be acted upon |
//! | `acted` | it was: what becomes of it is durable, and it may leave the queue |
//! | `gone` | earlier versions only: it was no longer in the queue, and no letter is left |
//!
//! What a job comes to is counted in its record: see [`super::job_counts`]. An
//! entry that is `acted` was replayed or discarded whatever happens next, so
//! no later job selects it; whoever finds its letter in the queue removes it.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use mongodb::Collection;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::Hint;
use serde::Deserialize;

use super::collection::LetterCollection;
use super::document::{LetterDocument, StoredLetter};
use super::jobs::JobId;
use crate::deadletter::{Letter, LetterId};
use crate::store::error::duplicates_alone;
use crate::store::{Store, StoreError};

/// The state of an entry whose letter was acted upon.
pub(super) const ACTED: &str = "acted";
/// The state that earlier versions give an entry whose letter was not in the queue any
/// more.
pub(super) const GONE: &str = "gone";

/// What a job has to do with a letter that has an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SelectionState {
    /// The job has not selected the letter.
    NotSelected,
    /// The job is to act upon the letter.
    Selected,
    /// This job or another one has acted upon the letter: it may leave the queue.
    Acted,
}

/// The number of copies of each letter, as the index had it before a pass.
#[derive(Debug, Default)]
pub(crate) struct IndexSnapshot(HashMap<LetterId, i64>);

impl IndexSnapshot {
    /// Returns the number of letters, copies included.
    pub(crate) fn letters(&self) -> usize {
        let all: i64 = self.0.values().sum();
        usize::try_from(all).unwrap_or(0)
    }

    /// Returns how many letters these are, copies included.
    pub(crate) fn letters_of<'i>(&self, ids: impl Iterator<Item = &'i LetterId>) -> u64 {
        let copies = ids.map(|id| self.copies(id).max(1).cast_unsigned());
        copies.sum()
    }

    /// Returns the number of copies of a letter; 1 for one that the index did not know.
    pub(crate) fn copies(&self, id: &LetterId) -> i64 {
        self.0.get(id).copied().unwrap_or(1)
    }
}

/// The few fields of an entry that passes go by.
#[derive(Deserialize)]
struct EntryRow {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    copies: i64,
    #[serde(default)]
    job: Option<String>,
    #[serde(default)]
    state: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct BodySize {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) bytes: i64,
}

/// Returns the first of some documents, at most as many as have so many bytes together;
/// one at least, if there is one.
pub(super) fn fitting<Id>(sizes: Vec<(Id, i64)>, most: usize) -> Vec<Id> {
    let (mut some, mut sum) = (Vec::new(), 0);
    for (id, bytes) in sizes {
        sum += usize::try_from(bytes).unwrap_or(0);
        if sum > most && !some.is_empty() {
            break;
        }
        some.push(id);
    }
    some
}

impl Store {
    pub(super) fn letters_in<T: Send + Sync>(&self, collection: LetterCollection) -> Collection<T> {
        self.database().collection(collection.name())
    }

    /// Makes sure that these letters have entries, and returns how many had none.
    ///
    /// # Errors
    /// Any [`StoreError`]; some may have theirs then.
    pub async fn index_letters<'l>(
        &self,
        letters: impl IntoIterator<Item = &'l Letter>,
    ) -> Result<u64, StoreError> {
        let documents: Vec<_> = letters.into_iter().map(LetterDocument::in_queue).collect();
        self.insert_missing(LetterCollection::Queue, documents)
            .await
    }

    async fn insert_missing(
        &self,
        collection: LetterCollection,
        documents: Vec<LetterDocument>,
    ) -> Result<u64, StoreError> {
        if documents.is_empty() {
            return Ok(0);
        }
        let all = documents.len() as u64;
        let inserted = self
            .letters_in(collection)
            .insert_many(documents)
            .ordered(false)
            .await;
        match inserted {
            Ok(_) => Ok(all),
            Err(error) => match duplicates_alone(&error) {
                Some(duplicates) => Ok(all - duplicates),
                None => Err(error.into()),
            },
        }
    }

    /// Returns what a job has to do with each of these letters of the queue. Those that
    /// have no entry are left out.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn selection_states(
        &self,
        ids: impl IntoIterator<Item = &LetterId>,
        job: Option<&JobId>,
    ) -> Result<HashMap<LetterId, SelectionState>, StoreError> {
        let ids: Vec<_> = ids.into_iter().map(LetterId::as_str).collect();
        let found = self
            .letters_in::<EntryRow>(LetterCollection::Queue)
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "job": 1, "state": 1 })
            .await?;
        let by_id = |line: EntryRow| {
            let ours = job.is_some() && line.job.as_deref() == job.map(JobId::as_str);
            let state = match line.state.as_deref() {
                Some(ACTED) => SelectionState::Acted,
                None if ours => SelectionState::Selected,
                _ => SelectionState::NotSelected,
            };
            (LetterId::stored(line.id), state)
        };
        Ok(found.map_ok(by_id).try_collect().await?)
    }

    /// Removes the entries of letters that were acted upon and have left the queue.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn remove_acted(&self, ids: &[LetterId]) -> Result<(), StoreError> {
        let mut acted = one_of(ids);
        acted.insert("state", ACTED);
        let letters = self.letters_in::<Document>(LetterCollection::Queue);
        letters.delete_many(acted).await?;
        Ok(())
    }

    /// Removes what is left of the letters that a job has acted upon: the entries of
    /// those that had copies.
    pub(super) async fn remove_acted_of_job(
        &self,
        collection: LetterCollection,
        job: &JobId,
    ) -> Result<(), StoreError> {
        let acted = doc! { "job": job.as_str(), "state": ACTED };
        self.letters_in::<Document>(collection)
            .delete_many(acted)
            .await?;
        Ok(())
    }

    /// Has letters that were put back into the queue stay there, also those that an
    /// interrupted job had discarded and not yet removed.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn keep_in_queue(&self, ids: &[LetterId]) -> Result<(), StoreError> {
        let mut acted = one_of(ids);
        acted.insert("state", ACTED);
        let free = doc! { "$unset": { "job": "", "state": "", "selected": "" } };
        let letters = self.letters_in::<Document>(LetterCollection::Queue);
        letters.update_many(acted, free).await?;
        Ok(())
    }

    /// Stores letters that a job discards.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn store_discarded<'l>(
        &self,
        letters: impl IntoIterator<Item = &'l Letter>,
        job: &JobId,
    ) -> Result<(), StoreError> {
        let documents = letters
            .into_iter()
            .map(|letter| LetterDocument::discarded(letter, job));
        let documents: Vec<_> = documents.collect();
        // One that was discarded before, and came again, counts from now on.
        let ids: Vec<_> = documents
            .iter()
            .map(|document| document.id.as_str())
            .collect();
        let again = doc! { "_id": { "$in": ids } };
        let now = doc! { "$set": { "discarded_at": DateTime::now(), "job": job.as_str() } };
        let discarded = self.letters_in::<Document>(LetterCollection::Discarded);
        discarded.update_many(again, now).await?;
        self.insert_missing(LetterCollection::Discarded, documents)
            .await?;
        Ok(())
    }

    /// Returns some of the discarded letters that a job is to put back: at most so many,
    /// and no more than have bodies of so many bytes; one at least, if there is one.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn selected_discarded(
        &self,
        job: &JobId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        let selected = doc! { "job": job.as_str(), "state": null };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sizes = self.letters_in::<BodySize>(LetterCollection::Discarded);
        let sizes = sizes.find(selected).limit(limit);
        let sizes = sizes.projection(doc! { "bytes": 1 }).await?;
        let sizes: Vec<_> = sizes
            .map_ok(|size| (size.id, size.bytes))
            .try_collect()
            .await?;
        // An answer of the server has up to 16 MiB, whatever is taken of it.
        let these = doc! { "_id": { "$in": fitting(sizes, bytes) } };
        let letters = self.letters_in::<LetterDocument>(LetterCollection::Discarded);
        let letters = letters.find(these).await?;
        Ok(letters
            .map_ok(LetterDocument::into_stored)
            .try_collect()
            .await?)
    }

    /// Counts the entries of a collection that stand for letters, by their keys. Never
    /// the server's own count: that is wrong for good after a crash, and what is
    /// compared with the queue must not be.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn count_entries(&self, collection: LetterCollection) -> Result<u64, StoreError> {
        let letters = self.letters_in::<Document>(collection);
        let all = letters.count_documents(doc! { "_id": { "$gte": Bson::MinKey } });
        let all = all.hint(Hint::Keys(doc! { "_id": 1 })).await?;
        // A job found them gone: there is an index of what jobs have selected.
        let gone = doc! { "job": { "$exists": true }, "state": GONE };
        Ok(all.saturating_sub(letters.count_documents(gone).await?))
    }

    /// Counts the letters that the index has, copies included.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn count_indexed_letters(&self) -> Result<i64, StoreError> {
        let entries = self.count_entries(LetterCollection::Queue).await?;
        let further =
            self.further_copies(LetterCollection::Queue, doc! { "state": { "$ne": GONE } });
        let letters = entries.saturating_add(further.await?);
        Ok(i64::try_from(letters).unwrap_or(i64::MAX))
    }

    /// Counts the copies beyond the first of the letters that match.
    pub(super) async fn further_copies(
        &self,
        collection: LetterCollection,
        which: Document,
    ) -> Result<u64, StoreError> {
        // There is an index of these few.
        let several = doc! { "$and": [{ "copies": { "$gt": 1 } }, which] };
        let letters = self.letters_in::<EntryRow>(collection);
        let several = letters.find(several).projection(doc! { "copies": 1 });
        let further = several.await?.map_ok(|line| line.copies - 1);
        let further = further.try_fold(0, |sum, more| async move { Ok(sum + more) });
        Ok(u64::try_from(further.await?).unwrap_or(0))
    }

    /// Returns what the index has before a pass begins: whatever of it the pass does not
    /// find is not in the queue.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn index_snapshot(&self) -> Result<IndexSnapshot, StoreError> {
        let letters = self.letters_in::<EntryRow>(LetterCollection::Queue);
        // Their jobs count them as missing when they end.
        let gone = doc! { "job": { "$exists": true }, "state": GONE };
        letters.delete_many(gone).await?;
        let all = letters.find(doc! {}).projection(doc! { "copies": 1 });
        let copies = all.await?;
        let copies = copies.map_ok(|line| (LetterId::stored(line.id), line.copies));
        Ok(IndexSnapshot(copies.try_collect().await?))
    }

    /// Sets the index right after a whole pass, given how often each letter was found,
    /// and returns how many entries had no letter.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn reconcile_index(
        &self,
        before: IndexSnapshot,
        found: &HashMap<LetterId, i64>,
    ) -> Result<u64, StoreError> {
        let missing = before.0.keys().filter(|id| !found.contains_key(*id));
        let missing: Vec<_> = missing.cloned().collect();
        self.remove_missing(&missing).await?;
        let letters = self.letters_in::<Document>(LetterCollection::Queue);
        for (id, copies) in found {
            // An entry that the pass itself made says one.
            let known = before.copies(id);
            if known != *copies {
                let change = doc! { "$set": { "copies": *copies } };
                letters
                    .update_one(doc! { "_id": id.as_str() }, change)
                    .await?;
            }
        }
        Ok(missing.len() as u64)
    }
}

/// Makes the filter that finds the documents of these letters.
pub(super) fn one_of(ids: &[LetterId]) -> Document {
    let ids: Vec<_> = ids.iter().map(LetterId::as_str).collect();
    doc! { "_id": { "$in": ids } }
}
