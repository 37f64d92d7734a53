//! Giving each new dead letter its entry in the index, or a place in which it waits
//! until the broker takes it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::bus::dead_letters::UnsettledLetter;
use crate::config;
use crate::outage::Outage;
use crate::retry::{Backoff, FailureStreak};
use crate::shutdown::Shutdown;
use crate::store::dead_letters::UnsentId;
use crate::store::{Class, Store, StoreError};

/// The most letters that are dealt with together.
const MAX_BATCH_LETTERS: usize = 256;
/// The most bytes of bodies that are dealt with together.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// The most letters that may wait in the database. What is more stays in the service's
/// queue, and holds up what is behind it.
const MAX_UNSENT_LETTERS: u64 = 100_000;
/// The most bytes of bodies that may wait in the database.
const MAX_UNSENT_BYTES: u64 = 1 << 30;
/// How often the database is asked whether there is room again.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Enters letters into the index, keeps those that the broker does not take, and
/// settles the originals of both, until no more come. Waits for a store that is
/// away, for as long as it takes: a letter is never less urgent than the events
/// behind it, which wait for the store too.
pub(crate) async fn register(
    store: Store,
    retry: config::Retry,
    mut letters: mpsc::Receiver<UnsettledLetter>,
    outage: Outage,
    shutdown: Shutdown,
) {
    let mut next = None;
    while let Some(batch) = LetterBatch::next(&mut letters, &mut next).await {
        let mut backoff = Backoff::configured(&retry);
        let mut failures = FailureStreak::default();
        loop {
            let began = Instant::now();
            let noted = tokio::select! {
                noted = batch.note(&store) => noted,
                // There may be no room for a long time. Unsettled, they come again.
                () = shutdown.requested(), if !batch.are_queued => return,
            };
            let Err(failed) = noted else {
                outage.note_answer();
                break;
            };
            if failed.class() == Class::Retryable {
                outage.note_silence(began);
            }
            if failed.class() == Class::Permanent && batch.are_queued {
                // The letters are in the queue: a pass will enter what can be.
                error!(error = %failed, letters = batch.letters.len(),
                    "the store refuses entries of dead letters; they are in the queue");
                break;
            }
            if failures.is_first() {
                warn!(error = %failed, letters = batch.letters.len(),
                    "dead letters cannot be entered into the index; retrying until they can");
            }
            tokio::select! {
                () = backoff.wait() => {}
                // Unsettled, they come again.
                () = shutdown.requested() => return,
            }
        }
        if failures.end().is_some() {
            info!("dead letters are entered into the index again");
        }
        batch.letters.into_iter().for_each(UnsettledLetter::settle);
    }
}

/// Letters that are dealt with together: all in the queue, or none.
struct LetterBatch {
    letters: Vec<UnsettledLetter>,
    /// The ids under which letters are kept until they are sent: with these, letters that
    /// are noted twice are kept once.
    unsent: Vec<UnsentId>,
    are_queued: bool,
}

impl LetterBatch {
    /// Takes the letters that have come, or the next that comes; `next` is left for the
    /// batch after.
    async fn next(
        letters: &mut mpsc::Receiver<UnsettledLetter>,
        next: &mut Option<UnsettledLetter>,
    ) -> Option<Self> {
        let first = match next.take() {
            Some(first) => first,
            None => letters.recv().await?,
        };
        let are_queued = first.is_queued;
        let (mut bytes, mut batch) = (first.letter.raw.body.len(), vec![first]);
        while batch.len() < MAX_BATCH_LETTERS
            && let Ok(letter) = letters.try_recv()
        {
            bytes += letter.letter.raw.body.len();
            if letter.is_queued != are_queued || bytes > MAX_BATCH_BYTES {
                *next = Some(letter);
                break;
            }
            batch.push(letter);
        }
        Some(Self {
            unsent: batch.iter().map(|_| UnsentId::unique()).collect(),
            letters: batch,
            are_queued,
        })
    }

    /// Makes the letters known, so that their originals may go.
    async fn note(&self, store: &Store) -> Result<(), StoreError> {
        let letters = self.letters.iter().map(|unsettled| &unsettled.letter);
        if !self.are_queued {
            wait_for_room(store).await?;
            let unsent = self.unsent.iter().copied().zip(letters);
            return store.store_unsent(unsent).await;
        }
        store.index_letters(letters.clone()).await?;
        let back = letters.filter(|letter| letter.details.replayed_by.is_some());
        let back: Vec<_> = back.map(|letter| letter.id.clone()).collect();
        store.count_failed_again(&back).await
    }
}

/// Returns once more letters may wait in the database.
async fn wait_for_room(store: &Store) -> Result<(), StoreError> {
    let mut waits = FailureStreak::default();
    loop {
        let unsent = store.unsent_totals().await?;
        if unsent.letters < MAX_UNSENT_LETTERS && unsent.bytes < MAX_UNSENT_BYTES {
            return Ok(());
        }
        if waits.is_first() {
            warn!(
                letters = unsent.letters,
                bytes = unsent.bytes,
                "as many dead letters wait for RabbitMQ to take them as may: the queue goes on when it does"
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
