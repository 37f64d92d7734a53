//! The records of jobs on dead letters: who, when, why, what.

use futures::TryStreamExt as _;
use mongodb::Collection;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::collection::LetterCollection;
use super::document::moment;
use super::jobs::{FailedLetter, Job, JobId, JobKind, JobRequest, JobTally, LetterEdit};
use crate::deadletter::LetterId;
use crate::store::documents::collection::DEAD_LETTER_JOBS;
use crate::store::{Store, StoreError};

#[derive(Debug, Serialize, Deserialize)]
struct FailedDocument {
    letter: String,
    cause: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct JobDocument {
    #[serde(rename = "_id")]
    id: String,
    kind: JobKind,
    actor: String,
    /// Not there in records of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    claimed_actor: String,
    /// Absent for a job on letters of any tenant, which is shown to those alone who may
    /// see all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenants: Option<Vec<String>>,
    reason: String,
    selection: String,
    key: String,
    started_at: DateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_at: Option<DateTime>,
    /// Absent until the selection is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selected: Option<i64>,
    #[serde(default)]
    done: i64,
    #[serde(default)]
    missing: i64,
    #[serde(default)]
    taken: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taken_by: Vec<String>,
    #[serde(default)]
    failed: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailedDocument>,
    #[serde(default)]
    failed_again: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resumed_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    letter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Binary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Binary>,
}

/// The size of the bodies before and after edits in one page of the record, in bytes.
/// The page ends with the job that exceeds it.
const MAX_EDITS_BYTES: usize = 8 << 20;
/// The number of callers who went on with a job that its record names at most.
const MAX_RESUMED_BY_RECORDED: i32 = 20;

impl Store {
    /// Returns the job of this request that was begun and not finished, if there is one,
    /// and whether its letters are selected. Records who goes on with it, if that is
    /// somebody else than who began it.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn interrupted_job(
        &self,
        request: &JobRequest,
    ) -> Result<Option<(Job, bool)>, StoreError> {
        let wanted = doc! {
            "kind": request.kind.as_str(),
            "key": &request.key,
            "finished_at": null,
        };
        let found = self.jobs::<JobDocument>().find_one(wanted).await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let selected = found.selected.is_some();
        let job = found.job();
        if (&job.actor, &job.reason) != (&request.actor, &request.reason) {
            let by = format!("{}: {}", request.actor, request.reason);
            let by = doc! { "$each": [by], "$slice": -MAX_RESUMED_BY_RECORDED };
            let noted = doc! { "$push": { "resumed_by": by } };
            self.change_job(&job.id, noted).await?;
        }
        Ok(Some((job, selected)))
    }

    /// Records a job that begins.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn begin_job(&self, request: &JobRequest) -> Result<Job, StoreError> {
        let binary = |bytes: &Vec<u8>| Binary {
            subtype: BinarySubtype::Generic,
            bytes: bytes.clone(),
        };
        let edit = request.edit.as_ref();
        let document = JobDocument {
            id: JobId::unique().0,
            kind: request.kind,
            actor: request.actor.clone(),
            claimed_actor: request.claimed_actor.clone(),
            tenants: request.tenants.clone(),
            reason: request.reason.clone(),
            selection: request.selection.clone(),
            key: request.key.clone(),
            started_at: DateTime::now(),
            finished_at: None,
            selected: None,
            done: 0,
            missing: 0,
            taken: 0,
            taken_by: Vec::new(),
            failed: 0,
            failures: Vec::new(),
            resumed_by: Vec::new(),
            failed_again: 0,
            letter: edit.map(|edit| edit.letter.to_string()),
            before: edit.map(|edit| binary(&edit.before)),
            after: edit.map(|edit| binary(&edit.after)),
        };
        self.jobs::<JobDocument>().insert_one(&document).await?;
        Ok(document.job())
    }

    /// Records that the letters of a job are selected.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn note_selected(&self, job: &JobId, selected: u64) -> Result<(), StoreError> {
        self.change_job(job, doc! { "$set": { "selected": int(selected) } })
            .await
    }

    /// Records that a job has ended, and tidies up behind it. What it has selected and is
    /// nowhere counted was taken by somebody else: the retention, or whoever changed the
    /// index.
    ///
    /// # Errors
    /// Any [`StoreError`]; ending it again goes on.
    pub(crate) async fn end_job(
        &self,
        collection: LetterCollection,
        job: &JobId,
    ) -> Result<(), StoreError> {
        let open = int(self.open_letters(collection, job).await?);
        // Not there in records of earlier versions.
        let count = |field: &str| doc! { "$ifNull": [field, 0_i64] };
        let counted = [count("$done"), count("$taken"), count("$failed")];
        let counted = doc! { "$add": [{ "$add": counted.to_vec() }, open] };
        let missing = doc! { "$subtract": ["$selected", counted] };
        let end = doc! { "$set": {
            "finished_at": DateTime::now(),
            "missing": { "$max": [0_i64, missing] },
        } };
        let this = doc! { "_id": job.as_str() };
        let jobs = self.jobs::<Document>();
        jobs.update_one(this, vec![end]).await?;
        self.remove_acted_of_job(collection, job).await
    }

    /// Returns the names of the other jobs on letters of a collection that were begun and
    /// not finished.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(super) async fn interrupted_jobs(
        &self,
        collection: LetterCollection,
        but: &JobId,
    ) -> Result<Vec<String>, StoreError> {
        let jobs = self.jobs::<JobDocument>();
        let unfinished = doc! { "finished_at": null, "_id": { "$ne": but.as_str() } };
        let found = jobs.find(unfinished);
        let found = found
            .projection(doc! { "before": 0, "after": 0, "failures": 0 })
            .await?;
        let found: Vec<_> = found.try_collect().await?;
        let there = found
            .into_iter()
            .filter(|job| job.kind.collection() == collection);
        Ok(there.map(|job| job.id).collect())
    }

    /// Returns a job as it is recorded now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn job(&self, job: &JobId) -> Result<Option<Job>, StoreError> {
        let jobs = self.jobs::<JobDocument>();
        let found = jobs.find_one(doc! { "_id": job.as_str() }).await?;
        Ok(found.map(JobDocument::job))
    }

    /// Returns the record of jobs before this one, latest first, at most so many and as
    /// many as have 8 MiB of letters before and after an edit, and whether there
    /// are more; of those on letters of the tenants `permitted` alone (see
    /// [`Filter::permitted`](crate::deadletter::Filter::permitted)).
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn list_jobs(
        &self,
        before: Option<&str>,
        permitted: Option<&[String]>,
        limit: usize,
    ) -> Result<(Vec<Job>, bool), StoreError> {
        let mut filter = Document::new();
        if let Some(before) = before {
            filter.insert("_id", doc! { "$lt": before });
        }
        if let Some(permitted) = permitted {
            let others = doc! { "$elemMatch": { "$nin": permitted } };
            filter.insert("tenants", doc! { "$exists": true, "$not": others });
        }
        let mut found = self
            .jobs::<JobDocument>()
            .find(filter)
            .sort(doc! { "_id": -1 })
            .limit(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX))
            .await?;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(job) = found.try_next().await? {
            if jobs.len() == limit || bytes > MAX_EDITS_BYTES {
                return Ok((jobs, true));
            }
            let job = job.job();
            let edit = job.edit.as_ref();
            bytes += edit.map_or(0, |edit| edit.before.len() + edit.after.len());
            jobs.push(job);
        }
        Ok((jobs, false))
    }

    async fn change_job(&self, job: &JobId, change: Document) -> Result<(), StoreError> {
        let this = doc! { "_id": job.as_str() };
        self.jobs::<Document>().update_one(this, change).await?;
        Ok(())
    }

    fn jobs<T: Send + Sync>(&self) -> Collection<T> {
        self.database().collection(DEAD_LETTER_JOBS)
    }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl JobDocument {
    fn job(self) -> Job {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let bytes = |binary: Option<Binary>| binary.map(|b| b.bytes).unwrap_or_default();
        let (before, after) = (self.before, self.after);
        let edit = self.letter.map(|letter| LetterEdit {
            letter: LetterId::stored(letter),
            before: bytes(before),
            after: bytes(after),
        });
        let failures = self.failures.into_iter().map(|failed| FailedLetter {
            letter: LetterId::stored(failed.letter),
            cause: failed.cause,
        });
        Job {
            id: JobId(self.id),
            kind: self.kind,
            actor: self.actor,
            claimed_actor: self.claimed_actor,
            reason: self.reason,
            selection: self.selection,
            started_at: moment(self.started_at),
            finished_at: self.finished_at.map(moment),
            tally: JobTally {
                selected: count(self.selected.unwrap_or(0)),
                done: count(self.done),
                missing: count(self.missing),
                taken: count(self.taken),
                failed: count(self.failed),
                failed_again: count(self.failed_again),
            },
            taken_by: self.taken_by.into_iter().map(JobId).collect(),
            failures: failures.collect(),
            resumed_by: self.resumed_by,
            edit,
        }
    }
}
