//! Keeping the index true to the queue when others are at it: the broker itself,
//! which dead-letters what ends the process each time, and other tools.

use std::collections::HashSet;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

use super::pass::{PassEnd, QueuePass};
use super::{IndexState, Redrive, RedriveError};
use crate::shutdown::Shutdown;

/// How often the sizes of index and queue are compared.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);
/// How many looks in a row must find the same difference before it is believed: a letter
/// is in the queue for a moment before it is in the index.
const STABLE_AFTER_LOOKS: u32 = 3;
/// How many looks are left out after a comparison that did not help: somebody holds
/// letters, it seems. Doubled each time, up to the maximum.
const MIN_SKIPPED_LOOKS: u32 = 5;
const MAX_SKIPPED_LOOKS: u32 = 300;
/// How long a comparison that a person asked for waits for the lease.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// The most passes of one comparison.
const MAX_PASSES: u32 = 3;

/// What a comparison of index and queue has found and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncReport {
    /// The number of letters in the queue.
    pub examined: u64,
    /// The number of letters that the index did not have.
    pub added: u64,
    /// The number of letters of the index that were not in the queue.
    pub removed: u64,
}

impl SyncReport {
    fn changes(&self) -> u64 {
        self.added + self.removed
    }
}

impl Redrive {
    /// Compares the index with the queue, letter by letter, and sets it right.
    ///
    /// What has changed the index is gone through again until a pass finds nothing
    /// to change, three times at most: a broker that has just changed its leader
    /// may show a pass other letters than it has.
    ///
    /// # Errors
    /// [`RedriveError`].
    pub(crate) async fn sync(&self) -> Result<SyncReport, RedriveError> {
        self.compared(LEASE_TIMEOUT).await
    }

    async fn compared(&self, lease_timeout: Duration) -> Result<SyncReport, RedriveError> {
        let lease = self
            .lease("comparing the index with the queue", lease_timeout, || {
                false
            })
            .await?;
        let outcome = self.passed_until_equal().await;
        lease.give_up().await;
        outcome
    }

    async fn passed_until_equal(&self) -> Result<SyncReport, RedriveError> {
        let mut sum = self.passed().await?;
        let mut changed = sum.changes();
        for _ in 1..MAX_PASSES {
            if changed == 0 {
                break;
            }
            let again = self.passed().await?;
            changed = again.changes();
            if again.removed > 0 {
                warn!(
                    letters = again.examined,
                    added = again.added,
                    removed = again.removed,
                    "dead letters of the pass before are gone: another tool is at them, or the broker shows others than it has; the index follows the last pass"
                );
            }
            sum = SyncReport {
                examined: again.examined,
                added: sum.added + again.added,
                removed: sum.removed + again.removed,
            };
        }
        Ok(sum)
    }

    /// Has the index made by the rules of this version, if it was not: letters
    /// may have other ids by these. The lease is with the caller.
    pub(super) async fn brought_up_to_date(&self) -> Result<(), RedriveError> {
        if !self.store.is_index_current().await? {
            self.passed().await?;
        }
        Ok(())
    }

    /// Passes through the queue once, and sets the index right.
    async fn passed(&self) -> Result<SyncReport, RedriveError> {
        let mut acted = HashSet::new();
        let pass = QueuePass::begin(&self.store, &self.bus, None, &mut acted).await?;
        match pass.run().await? {
            PassEnd::Complete(sums) => {
                self.store.note_index_current().await?;
                Ok(SyncReport {
                    examined: sums.examined,
                    added: sums.added,
                    removed: sums.removed,
                })
            }
            // Without a job nothing ends a pass early.
            PassEnd::TooLong | PassEnd::Abandoned => Err(RedriveError::Busy("another job".into())),
        }
    }
}

/// Compares the numbers of letters in queue and index from time to time, and
/// has the index set right when they differ, or when an earlier version has made
/// it; shows how many letters wait. Until the shutdown.
pub(crate) async fn watch(redrive: Redrive, waiting: Gauge, shutdown: Shutdown) {
    let mut difference = StableDifference::default();
    let mut skipped_looks = 0;
    let mut current = false;
    let mut next_skip = MIN_SKIPPED_LOOKS;
    loop {
        tokio::select! {
            () = tokio::time::sleep(COMPARE_INTERVAL) => {}
            () = shutdown.requested() => return,
        }
        // An error is told by those for whom it is in the way.
        let Ok(state) = redrive.index_state().await else {
            continue;
        };
        // Letters that a pass holds wait too: it gives them back.
        if let (Some(queued), false) = (state.queued, state.busy) {
            waiting.set(i64::try_from(queued).unwrap_or(i64::MAX));
        }
        if skipped_looks > 0 {
            skipped_looks -= 1;
            continue;
        }
        if !current && !state.busy {
            let Ok(is_current) = redrive.store.is_index_current().await else {
                continue;
            };
            current = is_current;
        }
        if !difference.is_stable(state) && (current || state.busy) {
            continue;
        }
        match redrive.compared(Duration::ZERO).await {
            Ok(SyncReport {
                added: 0,
                removed: 0,
                ..
            }) => {
                skipped_looks = next_skip;
                next_skip = (next_skip * 2).min(MAX_SKIPPED_LOOKS);
            }
            Ok(synced) => {
                next_skip = MIN_SKIPPED_LOOKS;
                info!(
                    added = synced.added,
                    removed = synced.removed,
                    letters = synced.examined,
                    "dead letters came or went without this service; the index has them now"
                );
            }
            Err(RedriveError::Busy(_)) => {}
            Err(error) => {
                skipped_looks = next_skip;
                next_skip = (next_skip * 2).min(MAX_SKIPPED_LOOKS);
                warn!(%error, "the index of dead letters cannot be compared with the queue");
            }
        }
    }
}

/// Tells a difference between index and queue that stays from one of the moment.
#[derive(Debug, Default)]
struct StableDifference {
    difference: i64,
    times: u32,
}

impl StableDifference {
    /// Notes a look; whether the same difference was there often enough.
    fn is_stable(&mut self, state: IndexState) -> bool {
        let int = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let difference = match state.queued {
            Some(queued) if !state.busy => int(queued) - int(state.indexed),
            _ => 0,
        };
        if difference == 0 || difference != self.difference {
            self.times = 0;
        }
        self.difference = difference;
        self.times += 1;
        difference != 0 && self.times >= STABLE_AFTER_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(indexed: u64, queued: Option<u64>, busy: bool) -> IndexState {
        IndexState {
            indexed,
            unsent: 0,
            queued,
            busy,
        }
    }

    #[test]
    fn only_a_difference_that_stays_is_one() {
        let mut difference = StableDifference::default();
        let mut looks = |states: &[IndexState]| -> Vec<bool> {
            states
                .iter()
                .map(|state| difference.is_stable(*state))
                .collect()
        };
        let (same, more) = (state(5, Some(5), false), state(5, Some(6), false));
        assert_eq!(looks(&[same, same, same, same]), [false; 4]);
        assert_eq!(looks(&[more, more, more]), [false, false, true]);
        assert_eq!(looks(&[same, more, more]), [false; 3]);
        assert_eq!(looks(&[state(5, Some(7), false), more, more]), [false; 3]);
        assert_eq!(looks(&[more]), [true]);
        assert_eq!(
            looks(&[state(5, None, false), state(5, Some(6), true)]),
            [false; 2]
        );
    }
}
