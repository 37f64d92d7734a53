//! What jobs come to, counted with what happens to the entries.
//!
//! Each entry that a job has selected is done, or failed, or missing, or taken by
//! another job, once. So its change and the count in the job's record are one
//! transaction: neither a crash nor a step that is made twice has a job say more
//! than it did.
//!
//! Copies of a letter are one entry and several letters: an entry counts for as
//! many as it had when it was selected (`selected`), or has, if these are fewer.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::UpdateModifications;
use serde::Deserialize;

use super::collection::LetterCollection;
use super::index::{ACTED, one_of};
use super::jobs::{FailedLetter, JobId};
use crate::deadletter::{Filter, LetterId};
use crate::store::documents::collection::DEAD_LETTER_JOBS;
use crate::store::transaction::{OnConflict, Transaction};
use crate::store::{Store, StoreError};

/// The field that says of the entry of a letter that has come back after a replay: its
/// job has counted it.
const COUNTED: &str = "counted";
/// The number of entries that one transaction changes at most.
const MAX_ENTRIES_PER_TRANSACTION: usize = 1_000;
/// The number of letters that failed which the record of a job names at most.
const MAX_FAILURES_RECORDED: i32 = 100;
/// Conflicts are with other jobs' changes, and pass: in all, it is tried for longer than
/// a process that was killed in the middle of a transaction can be in the way.
const ON_CONFLICT: OnConflict = OnConflict::Retry {
    retries: 100,
    pause: Duration::from_millis(100),
};

/// The transaction that changes entries which jobs have selected and not acted upon,
/// and counts them in the records of these jobs.
struct EntryChange {
    collection: LetterCollection,
    /// The filter that finds them.
    which: Document,
    becomes: Becomes,
    /// The field of a job's record that counts them.
    counted_as: &'static str,
    /// What else that record is to say, as operators of an update.
    noted: Document,
}

/// The transaction that counts letters which have come back, after a job had replayed
/// them.
struct CountingFailedAgain<'l> {
    ids: &'l [LetterId],
}

/// What becomes of the entries of an [`EntryChange`].
enum Becomes {
    /// They are removed.
    Gone,
    /// They are changed by this update.
    Changed(UpdateModifications),
}

/// An entry that a job has selected.
#[derive(Deserialize)]
struct SelectedEntry {
    #[serde(rename = "_id")]
    id: String,
    job: String,
    #[serde(default)]
    copies: i64,
    /// The number of letters that it was selected as; an earlier version selected it as
    /// one if this is absent.
    #[serde(default)]
    selected: Option<i64>,
}

impl SelectedEntry {
    /// Returns the number of letters that the entry counts for.
    fn letters(&self) -> i64 {
        self.selected.unwrap_or(1).min(self.copies.max(1))
    }
}

impl Store {
    /// Selects the letters that match, as they are now, for a job, and returns how many
    /// it has. Those of a job that was interrupted go over to this one, and
    /// count as taken there.
    ///
    /// # Errors
    /// Any [`StoreError`]; selecting again then takes what is there by then.
    pub(crate) async fn select_letters(
        &self,
        collection: LetterCollection,
        filter: &Filter,
        job: &JobId,
    ) -> Result<u64, StoreError> {
        let others = self.interrupted_jobs(collection, job).await?;
        let letters = self.letters_in::<Document>(collection);
        let copies = doc! { "$max": ["$copies", 1_i64] };
        let select = vec![doc! { "$set": { "job": job.as_str(), "selected": copies } }];
        let open = doc! { "$and": [super::listing::matching(filter), { "state": null }] };
        let free = doc! { "$and": [&open, { "job": { "$nin": &others } }] };
        letters.update_many(free, select.clone()).await?;
        let theirs = doc! { "$and": [&open, { "job": { "$in": &others } }] };
        while !others.is_empty() {
            let some = self.some_ids(collection, theirs.clone()).await?;
            if some.is_empty() {
                break;
            }
            self.settle(&EntryChange {
                collection,
                which: doc! { "_id": { "$in": some }, "job": { "$in": &others } },
                becomes: Becomes::Changed(select.clone().into()),
                counted_as: "taken",
                noted: doc! { "$addToSet": { "taken_by": job.as_str() } },
            })
            .await?;
        }
        self.open_letters(collection, job).await
    }

    /// Counts the letters that a job still has to act upon.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn open_letters(
        &self,
        collection: LetterCollection,
        job: &JobId,
    ) -> Result<u64, StoreError> {
        let letters = self.letters_in::<SelectedEntry>(collection);
        let open = doc! { "job": job.as_str(), "state": null };
        let open = letters.find(open).projection(counted()).await?;
        let sum = open.try_fold(0, |sum, entry| async move { Ok(sum + entry.letters()) });
        Ok(u64::try_from(sum.await?).unwrap_or(0))
    }

    /// Notes that what has become of these letters of the queue is durable, and counts
    /// them as done.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn mark_acted(&self, job: &JobId, ids: &[LetterId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.settle(&EntryChange {
            collection: LetterCollection::Queue,
            which: of_job(ids, job),
            becomes: Becomes::Changed(doc! { "$set": { "state": ACTED } }.into()),
            counted_as: "done",
            noted: Document::new(),
        })
        .await
    }

    /// Gives up letters to which the job cannot do what it does: they stay where they
    /// are, for a later job to select.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn release_failed(
        &self,
        collection: LetterCollection,
        job: &JobId,
        failed: &[FailedLetter],
    ) -> Result<(), StoreError> {
        if failed.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = failed.iter().map(|failed| failed.letter.clone()).collect();
        let told = failed.iter().map(|failed| {
            doc! { "letter": failed.letter.as_str(), "cause": &failed.cause }
        });
        let told: Vec<_> = told.collect();
        let first = doc! { "$each": told, "$slice": MAX_FAILURES_RECORDED };
        self.settle(&EntryChange {
            collection,
            which: of_job(&ids, job),
            becomes: Becomes::Changed(doc! { "$unset": { "job": "", "selected": "" } }.into()),
            counted_as: "failed",
            noted: doc! { "$push": { "failures": first } },
        })
        .await
    }

    /// Removes letters that are in the queue again from those that were discarded, and
    /// counts them as done.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn remove_undiscarded(
        &self,
        job: &JobId,
        ids: &[LetterId],
    ) -> Result<(), StoreError> {
        self.settle(&EntryChange {
            collection: LetterCollection::Discarded,
            which: of_job(ids, job),
            becomes: Becomes::Gone,
            counted_as: "done",
            noted: Document::new(),
        })
        .await
    }

    /// Removes the entries of letters that are not in the queue; those that a job was to
    /// act upon are counted as missing.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(super) async fn remove_missing(&self, ids: &[LetterId]) -> Result<(), StoreError> {
        for ids in ids.chunks(MAX_ENTRIES_PER_TRANSACTION) {
            self.settle(&EntryChange {
                collection: LetterCollection::Queue,
                which: one_of(ids),
                becomes: Becomes::Gone,
                counted_as: "missing",
                noted: Document::new(),
            })
            .await?;
            // Those that nobody had selected, or that were acted upon.
            let letters = self.letters_in::<Document>(LetterCollection::Queue);
            letters.delete_many(one_of(ids)).await?;
        }
        Ok(())
    }

    /// Counts letters that jobs had replayed and that are back, for each job. One that
    /// was counted before is not counted again.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn count_failed_again(&self, ids: &[LetterId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.run_transaction(&CountingFailedAgain { ids }).await
    }

    async fn settle(&self, change: &EntryChange) -> Result<(), StoreError> {
        self.run_transaction(change).await
    }

    async fn some_ids(
        &self,
        collection: LetterCollection,
        which: Document,
    ) -> Result<Vec<String>, StoreError> {
        #[derive(Deserialize)]
        struct Id {
            #[serde(rename = "_id")]
            id: String,
        }
        let most = i64::try_from(MAX_ENTRIES_PER_TRANSACTION).unwrap_or(i64::MAX);
        let letters = self.letters_in::<Id>(collection);
        let found = letters
            .find(which)
            .limit(most)
            .projection(doc! { "_id": 1 });
        let ids = found.await?.map_ok(|entry| entry.id);
        Ok(ids.try_collect().await?)
    }
}

impl Transaction for EntryChange {
    type Output = ();

    fn name(&self) -> &'static str {
        "settle_dead_letters"
    }

    fn on_conflict(&self) -> OnConflict {
        ON_CONFLICT
    }

    async fn run(&self, store: &Store, session: &mut ClientSession) -> Result<(), StoreError> {
        let open = doc! { "job": { "$exists": true }, "state": null };
        let mut found = store
            .letters_in::<SelectedEntry>(self.collection)
            .find(doc! { "$and": [&self.which, open] })
            .projection(counted())
            // In one answer.
            .batch_size(MAX_ENTRIES_PER_TRANSACTION as u32)
            .session(&mut *session)
            .await?;
        let mut ids: Vec<Bson> = Vec::new();
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        while let Some(entry) = found.next(&mut *session).await.transpose()? {
            let letters = entry.letters();
            ids.push(entry.id.into());
            *counts.entry(entry.job).or_default() += letters;
        }
        let letters = store.letters_in::<Document>(self.collection);
        let these = doc! { "_id": { "$in": ids } };
        match &self.becomes {
            Becomes::Gone => {
                letters.delete_many(these).session(&mut *session).await?;
            }
            Becomes::Changed(by) => {
                let changed = letters.update_many(these, by.clone());
                changed.session(&mut *session).await?;
            }
        }
        let jobs = store.database().collection::<Document>(DEAD_LETTER_JOBS);
        for (job, count) in counts {
            // A job that has ended has nothing more to count.
            let job = doc! { "_id": job, "finished_at": null };
            let mut change = self.noted.clone();
            change.insert("$inc", doc! { self.counted_as: count });
            jobs.update_one(job, change).session(&mut *session).await?;
        }
        Ok(())
    }
}

impl Transaction for CountingFailedAgain<'_> {
    type Output = ();

    fn name(&self) -> &'static str {
        "count_failed_again"
    }

    fn on_conflict(&self) -> OnConflict {
        ON_CONFLICT
    }

    async fn run(&self, store: &Store, session: &mut ClientSession) -> Result<(), StoreError> {
        #[derive(Deserialize)]
        struct Back {
            #[serde(rename = "_id")]
            id: String,
            replayed_by: String,
        }
        let mut new = one_of(self.ids);
        new.insert("replayed_by", doc! { "$exists": true });
        new.insert(COUNTED, doc! { "$ne": true });
        let letters = store.letters_in::<Back>(LetterCollection::Queue);
        let mut found = letters
            .find(new)
            .projection(doc! { "replayed_by": 1 })
            .batch_size(MAX_ENTRIES_PER_TRANSACTION as u32)
            .session(&mut *session)
            .await?;
        let (mut ids, mut counts) = (Vec::new(), BTreeMap::<String, i64>::new());
        while let Some(back) = found.next(&mut *session).await.transpose()? {
            ids.push(back.id);
            *counts.entry(back.replayed_by).or_default() += 1;
        }
        if ids.is_empty() {
            return Ok(());
        }
        let letters = store.letters_in::<Document>(LetterCollection::Queue);
        let counted = doc! { "$set": { COUNTED: true } };
        let these = doc! { "_id": { "$in": ids } };
        let counted = letters.update_many(these, counted);
        counted.session(&mut *session).await?;
        let jobs = store.database().collection::<Document>(DEAD_LETTER_JOBS);
        for (job, count) in counts {
            let more = doc! { "$inc": { "failed_again": count } };
            let job = jobs.update_one(doc! { "_id": job }, more);
            job.session(&mut *session).await?;
        }
        Ok(())
    }
}

/// The projection with all that says how many letters an entry counts for.
fn counted() -> Document {
    doc! { "job": 1, "copies": 1, "selected": 1 }
}

/// Makes the filter that finds the entries of these letters that a job has selected.
fn of_job(ids: &[LetterId], job: &JobId) -> Document {
    let mut which = one_of(ids);
    which.insert("job", job.as_str());
    which
}
