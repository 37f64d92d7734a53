//! What a job does with a letter of the queue.

use super::RedriveError;
use super::pace::ReplayPacer;
use crate::bus::dead_letters::republish::{RepublishError, Republisher};
use crate::bus::dead_letters::scan::ScannedLetter;
use crate::deadletter::{LetterId, MAX_KEPT_BYTES, RawMessage};
use crate::store::Store;
use crate::store::dead_letters::{FailedLetter, JobId};

/// Letters discarded together at most.
const DISCARDED: usize = 256;

/// What to do, and with what.
pub(super) enum Action {
    /// Send it to the service once more.
    Replay(Box<Sending>),
    /// Keep it elsewhere.
    Discard,
}

/// How letters are sent.
pub(super) struct Sending {
    pub(super) republisher: Republisher,
    pub(super) pacer: ReplayPacer,
    /// With this body instead of their own.
    pub(super) body: Option<Vec<u8>>,
}

/// Why it cannot be done to a letter.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unable {
    #[error(transparent)]
    Send(#[from] RepublishError),
    #[error(
        "its body of {0} bytes is too large to be kept elsewhere, which {MAX_KEPT_BYTES} bytes are at most; it can be replayed"
    )]
    Keep(usize),
    #[error("its body was not kept: it cannot be put back")]
    NoBody,
}

impl Unable {
    /// The letter and why, for the record.
    pub(super) fn of(self, letter: LetterId) -> FailedLetter {
        let cause = self.to_string();
        FailedLetter { letter, cause }
    }
}

fn kept_whole(letter: &ScannedLetter) -> Result<(), Unable> {
    match letter.letter.raw.body.len() {
        bytes if bytes > MAX_KEPT_BYTES => Err(Unable::Keep(bytes)),
        _ => Ok(()),
    }
}

impl Action {
    /// How many letters go together.
    pub(super) fn batch(&self) -> usize {
        match self {
            Action::Replay(sending) => sending.pacer.batch(),
            Action::Discard => DISCARDED,
        }
    }

    /// Waits until so many letters may be acted upon; `false`: not yet.
    pub(super) async fn wait(&mut self, letters: usize) -> Result<bool, RedriveError> {
        match self {
            Action::Replay(sending) => {
                Ok(sending.pacer.wait(&sending.republisher, letters).await?)
            }
            Action::Discard => Ok(true),
        }
    }

    /// Makes durable what becomes of these letters; tells of each, in their
    /// order, whether that could be done. One to which it cannot stays where it
    /// is.
    pub(super) async fn act(
        &self,
        store: &Store,
        job: &JobId,
        letters: &[ScannedLetter],
    ) -> Result<Vec<Result<(), Unable>>, RedriveError> {
        match self {
            Action::Replay(sending) => sending.send(job, letters).await,
            Action::Discard => {
                let fitting = letters.iter().filter(|scanned| kept_whole(scanned).is_ok());
                store
                    .store_discarded(fitting.map(|scanned| &scanned.letter), job)
                    .await?;
                Ok(letters.iter().map(kept_whole).collect())
            }
        }
    }

    pub(super) async fn close(self) {
        if let Action::Replay(sending) = self {
            sending.republisher.close().await;
        }
    }
}

impl Sending {
    async fn send(
        &self,
        job: &JobId,
        letters: &[ScannedLetter],
    ) -> Result<Vec<Result<(), Unable>>, RedriveError> {
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
