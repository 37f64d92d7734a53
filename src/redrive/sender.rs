//! Sends the letters that wait in the database, once the broker takes them.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tracing::{error, info, warn};

use super::{Redrive, RedriveError};
use crate::bus::BlockedTimeout;
use crate::bus::dead_letters::republish::{RepublishError, Republisher};
use crate::failpoint::{self, Point};
use crate::retry::FailureStreak;
use crate::shutdown::Shutdown;
use crate::store::Renewed;

/// How often the database is asked whether letters wait.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The most letters that are sent together.
const MAX_BATCH_LETTERS: usize = 64;
/// The most bytes of bodies that are sent together.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Sends letters whenever some wait, one replica at a time, and shows how many wait, until
/// the shutdown.
pub(crate) async fn send(redrive: Redrive, unsent: Gauge, shutdown: Shutdown) {
    let mut failures = FailureStreak::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = shutdown.requested() => return,
        }
        // An error is told by those for whom it is in the way.
        let Ok(waiting) = redrive.store.unsent_totals().await else {
            continue;
        };
        unsent.set(i64::try_from(waiting.letters).unwrap_or(i64::MAX));
        if waiting.letters == 0 || redrive.flow.is_blocked() {
            continue;
        }
        let sent = tokio::select! {
            sent = redrive.send_unsent() => sent,
            // Should some be on their way, they may be sent once more.
            () = shutdown.requested() => return,
        };
        match sent {
            Ok(0) => {}
            Ok(letters) => {
                failures.end();
                info!(
                    letters,
                    "letters that waited in the database are in the dead-letter queue"
                );
            }
            Err(error) => {
                if failures.is_first() {
                    warn!(%error, "letters wait in the database until they can be sent");
                }
            }
        }
    }
}

impl Redrive {
    /// Sends all letters that wait, if nobody else does; returns how many were sent.
    ///
    /// # Errors
    /// [`RedriveError`]; what was not sent goes on waiting.
    async fn send_unsent(&self) -> Result<u64, RedriveError> {
        // Perhaps all that waits can never be sent.
        if self.store.next_unsent(1, 0).await?.is_empty() {
            return Ok(0);
        }
        let Some(lease) = self.store.sender_lease().await? else {
            return Ok(0);
        };
        let lease = Renewed::new(lease);
        let outcome = self.send_while(&lease).await;
        lease.give_up().await;
        outcome
    }

    /// Sends letters while the lease lasts, and counts them.
    async fn send_while(&self, lease: &Renewed) -> Result<u64, RedriveError> {
        // Endless: what waits on a connection that is given up arrives all the same,
        // and would be sent twice.
        let republisher = Republisher::open(&self.bus, &self.flow, BlockedTimeout::Never).await?;
        let mut sent = 0;
        // The first goes alone: only then the broker says whether it takes any.
        let mut most = 1;
        while !lease.is_lost() {
            match self.send_some(&republisher, most).await? {
                Some(some) => sent += some,
                None => break,
            }
            most = MAX_BATCH_LETTERS;
        }
        republisher.close().await;
        Ok(sent)
    }

    /// Sends the next letters, and counts those that were sent; `None` when there are none.
    async fn send_some(
        &self,
        republisher: &Republisher,
        most: usize,
    ) -> Result<Option<u64>, RedriveError> {
        let waiting = self.store.next_unsent(most, MAX_BATCH_BYTES).await?;
        if waiting.is_empty() {
            return Ok(None);
        }
        let raw: Vec<_> = waiting.iter().map(|(_, letter)| &letter.raw).collect();
        let outcomes = republisher.put_back(&raw).await?;
        failpoint::pass(Point::KeptSent);
        let (mut sent, mut was_refused) = (Vec::with_capacity(waiting.len()), None);
        for (letter, outcome) in waiting.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => sent.push(letter),
                // It goes on waiting.
                Err(refused @ RepublishError::Refused { .. }) => was_refused = Some(refused),
                Err(cause) => {
                    let (unsent, letter) = letter;
                    error!(letter = %letter.id, %cause, "a letter that waits in the database can never be sent; it is kept there");
                    self.store.refuse_unsent(unsent, &cause.to_string()).await?;
                }
            }
        }
        let letters = sent.iter().map(|(_, letter)| letter);
        self.store.index_letters(letters.clone()).await?;
        let back = letters.filter(|letter| letter.details.replayed_by.is_some());
        let back: Vec<_> = back.map(|letter| letter.id.clone()).collect();
        self.store.count_failed_again(&back).await?;
        failpoint::pass(Point::KeptIndexed);
        let ids: Vec<_> = sent.iter().map(|(unsent, _)| *unsent).collect();
        self.store.remove_unsent(&ids).await?;
        match was_refused {
            Some(refused) => Err(refused.into()),
            None => Ok(Some(ids.len() as u64)),
        }
    }
}
