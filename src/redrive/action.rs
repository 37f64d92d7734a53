//! What a job does with a letter of the queue.

use super::RedriveError;
use super::pace::ReplayPacer;
use crate::bus::dead_letters::republish::{RepublishError, Republisher};
use crate::bus::dead_letters::scan::ScannedLetter;
use crate::deadletter::{LetterId, MAX_KEPT_BYTES, RawMessage};
use crate::store::Store;
use crate::store::dead_letters::{FailedLetter, JobId};

/// The most letters that are discarded together.
const MAX_DISCARD_BATCH: usize = 256;

/// What a job does with its letters, and with what.
pub(super) enum Action {
    /// Sends the letter to the service's queue once more.
    Replay(Box<ReplayAction>),
    /// Keeps the letter in the database.
    Discard,
}

/// How a replay sends letters.
pub(super) struct ReplayAction {
    pub(super) republisher: Republisher,
    pub(super) pacer: ReplayPacer,
    /// The body to send instead of the letters' own.
    pub(super) body: Option<Vec<u8>>,
}

/// Why a letter could not be acted upon.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActionError {
    #[error(transparent)]
    Send(#[from] RepublishError),
    #[error(
        "its body of {0} bytes is too large to be kept elsewhere, which {MAX_KEPT_BYTES} bytes are at most; it can be replayed"
    )]
    Keep(usize),
    #[error("its body was not kept: it cannot be put back")]
    NoBody,
}

impl ActionError {
    /// Says of which letter this is, for the record.
    pub(super) fn of(self, letter: LetterId) -> FailedLetter {
        let cause = self.to_string();
        FailedLetter { letter, cause }
    }
}

/// Checks that the database can keep a letter.
fn check_size(letter: &ScannedLetter) -> Result<(), ActionError> {
    match letter.letter.raw.body.len() {
        bytes if bytes > MAX_KEPT_BYTES => Err(ActionError::Keep(bytes)),
        _ => Ok(()),
    }
}

impl Action {
    /// The most letters that are acted upon together.
    pub(super) fn batch(&self) -> usize {
        match self {
            Action::Replay(sending) => sending.pacer.batch(),
            Action::Discard => MAX_DISCARD_BATCH,
        }
    }

    /// Waits until so many letters may be acted upon; `false` for not yet.
    pub(super) async fn wait(&mut self, letters: usize) -> Result<bool, RedriveError> {
        match self {
            Action::Replay(sending) => {
                Ok(sending.pacer.wait(&sending.republisher, letters).await?)
            }
            Action::Discard => Ok(true),
        }
    }

    /// Makes durable what becomes of these letters, and says of each, in their order,
    /// whether that could be done. One to which it could not stays in the queue.
    pub(super) async fn act(
        &self,
        store: &Store,
        job: &JobId,
        letters: &[ScannedLetter],
    ) -> Result<Vec<Result<(), ActionError>>, RedriveError> {
        match self {
            Action::Replay(sending) => sending.send(job, letters).await,
            Action::Discard => {
                let fitting = letters.iter().filter(|scanned| check_size(scanned).is_ok());
                store
                    .store_discarded(fitting.map(|scanned| &scanned.letter), job)
                    .await?;
                Ok(letters.iter().map(check_size).collect())
            }
        }
    }

    pub(super) async fn close(self) {
        if let Action::Replay(sending) = self {
            sending.republisher.close().await;
        }
    }
}

impl ReplayAction {
    async fn send(
        &self,
        job: &JobId,
        letters: &[ScannedLetter],
    ) -> Result<Vec<Result<(), ActionError>>, RedriveError> {
        let edited = |letter: &ScannedLetter| {
            let body = self.body.clone()?;
            let properties = letter.letter.raw.properties.clone();
            Some(RawMessage { properties, body })
        };
        let edited: Vec<_> = letters.iter().map(edited).collect();
        let sent = letters.iter().zip(&edited).map(|(scanned, edited)| {
            let letter = &scanned.letter;
            let raw = edited.as_ref().unwrap_or(&letter.raw);
            (&letter.details, raw)
        });
        let sent: Vec<_> = sent.collect();
        let sent = self.republisher.replay(&sent, job.as_str()).await?;
        Ok(sent.into_iter().map(|sent| Ok(sent?)).collect())
    }
}
