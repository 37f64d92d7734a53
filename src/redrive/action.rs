//! What a job does with a letter of the queue.

use super::RedriveError;
use super::pace::Pacer;
use crate::bus::letterbox::Held;
use crate::bus::outbox::Outbox;
use crate::deadletter::Sealed;
use crate::store::Store;
use crate::store::letters::{JobId, MAX_DISCARDED_BYTES};

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
    pub(super) outbox: Outbox,
    pub(super) pacer: Pacer,
    /// With this body instead of their own.
    pub(super) body: Option<Vec<u8>>,
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
            Action::Replay(sending) => Ok(sending.pacer.wait(&sending.outbox, letters).await?),
            Action::Discard => Ok(true),
        }
    }

    /// Whether it cannot be done to this letter, which then stays where it is.
    pub(super) fn refuses(&self, letter: &Held) -> bool {
        matches!(self, Action::Discard) && letter.sealed.body.len() > MAX_DISCARDED_BYTES
    }

    /// Makes durable what becomes of these letters.
    pub(super) async fn act(
        &self,
        store: &Store,
        job: &JobId,
        letters: &[Held],
    ) -> Result<(), RedriveError> {
        if letters.is_empty() {
            return Ok(());
        }
        match self {
            Action::Replay(sending) => sending.send(job, letters).await,
            Action::Discard => {
                let letters = letters.iter();
                let letters = letters.map(|held| (&held.id, &held.letter, &held.sealed));
                Ok(store.keep_discarded(letters, job).await?)
            }
        }
    }

    pub(super) async fn close(self) {
        if let Action::Replay(sending) = self {
            sending.outbox.close().await;
        }
    }
}

impl Sending {
    async fn send(&self, job: &JobId, letters: &[Held]) -> Result<(), RedriveError> {
        let edited = |letter: &Held| {
            let body = self.body.clone()?;
            let properties = letter.sealed.properties.clone();
            Some(Sealed { properties, body })
        };
        let edited: Vec<_> = letters.iter().map(edited).collect();
        let sent = letters.iter().zip(&edited).map(|(held, edited)| {
            let sealed = edited.as_ref().unwrap_or(&held.sealed);
            (&held.letter, sealed)
        });
        let sent: Vec<_> = sent.collect();
        Ok(self.outbox.replay(&sent, job.as_str()).await?)
    }
}
