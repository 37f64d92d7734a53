//! Jobs on dead letters: who asks for what, and what it comes to.

use std::fmt;

use mongodb::bson::oid::ObjectId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::collection::LetterCollection;
use crate::deadletter::LetterId;

/// The name of a job. Later jobs have greater ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobId(pub(super) String);

impl JobId {
    /// Makes a name that no other job has.
    pub fn unique() -> Self {
        Self(ObjectId::new().to_hex())
    }

    /// Returns the name as it is shown and stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a job does with its letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Sends the letters to the service once more.
    Replay,
    /// Sends one letter to the service once more, with another body.
    Edit,
    /// Takes the letters out of the queue, and keeps them in the database.
    Discard,
    /// Puts discarded letters back into the queue.
    Undiscard,
}

impl JobKind {
    /// Returns the name in the audit.
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Replay => "replay",
            JobKind::Edit => "edit",
            JobKind::Discard => "discard",
            JobKind::Undiscard => "undiscard",
        }
    }

    /// Returns the collection of the letters that the job works on.
    pub fn collection(self) -> LetterCollection {
        match self {
            JobKind::Undiscard => LetterCollection::Discarded,
            _ => LetterCollection::Queue,
        }
    }
}

/// What a job has come to with its letters, copies included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobTally {
    /// The letters that the job has selected.
    pub selected: u64,
    /// The letters that the job has acted upon.
    pub done: u64,
    /// The letters that were no longer where they had been selected: somebody else took
    /// them.
    pub missing: u64,
    /// The letters that another job has selected while this one was interrupted.
    pub taken: u64,
    /// The letters that the job could not act upon, and that stay where they are.
    pub failed: u64,
    /// The replayed letters that have come back.
    pub failed_again: u64,
}

/// A letter that a job could not act upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedLetter {
    /// The name of the letter.
    pub letter: LetterId,
    /// Why the job could not, in words.
    pub cause: String,
}

/// A job as it is recorded: who asked for what, when, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The name of the job.
    pub id: JobId,
    /// What the job does with its letters.
    pub kind: JobKind,
    /// Who asked for the job, by their credentials where these are asked for.
    pub actor: String,
    /// What the caller said of themselves, if that was something else.
    pub claimed_actor: String,
    /// Why the caller asked for it, in their words.
    pub reason: String,
    /// Which letters the caller asked for, in words.
    pub selection: String,
    /// When the job was begun.
    pub started_at: OffsetDateTime,
    /// When the job was finished, if it was.
    pub finished_at: Option<OffsetDateTime>,
    /// What the job has come to.
    pub tally: JobTally,
    /// The jobs that have taken over letters of this one.
    pub taken_by: Vec<JobId>,
    /// The first of the letters that failed.
    pub failures: Vec<FailedLetter>,
    /// What an edit changes; `None` for other jobs.
    pub edit: Option<LetterEdit>,
    /// Who else went on with the job after an interruption, and why; the latest ones.
    pub resumed_by: Vec<String>,
}

/// What an edit changes of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterEdit {
    /// The name of the letter.
    pub letter: LetterId,
    /// The body that the letter has.
    pub before: Vec<u8>,
    /// The body that is replayed instead.
    pub after: Vec<u8>,
}

/// A job that somebody asks for.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// What the job is to do with its letters.
    pub kind: JobKind,
    /// Who asks, by their credentials where these are asked for.
    pub actor: String,
    /// What the caller says of themselves.
    pub claimed_actor: String,
    /// The ids of the tenants whose letters can be selected; `None` for all.
    pub tenants: Option<Vec<String>>,
    /// Why the caller asks, in their words.
    pub reason: String,
    /// Which letters the caller asks for, in words.
    pub selection: String,
    /// The same for the same letters: a request of the same kind and key goes on with
    /// the job that was interrupted.
    pub key: String,
    /// What an edit is to change; `None` for other jobs.
    pub edit: Option<LetterEdit>,
}
