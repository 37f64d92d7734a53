//! How the work of a batch goes on, attempt by attempt.

use std::collections::VecDeque;
use std::time::Duration;

use super::Work;
use crate::config;
use crate::derive::LoadMode;
use crate::retry::{Backoff, FailureStreak};

/// The shortest and the longest delay after a conflict: somebody else has just
/// succeeded, so that there is little to wait for.
const CONFLICT_DELAY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// The events of a batch that are left, and what was learnt from the attempts
/// so far.
pub(super) struct BatchProgress {
    /// Events not yet settled, in order of arrival.
    pub(super) queue: VecDeque<Work>,
    /// The most events that an attempt takes: lowered to find the one that
    /// fails.
    pub(super) limit: usize,
    pub(super) mode: LoadMode,
    pub(super) outage: Backoff,
    pub(super) conflict: Backoff,
    /// Attempts in a row that failed for want of the store.
    pub(super) failures: FailureStreak,
    /// How many attempts in a row have ended in a conflict.
    conflicts: u32,
}

impl BatchProgress {
    pub(super) fn new(batch: Vec<Work>, mode: LoadMode, retry: &config::Retry) -> Self {
        Self {
            limit: batch.len(),
            queue: batch.into(),
            mode,
            outage: Backoff::configured(retry),
            conflict: Backoff::new(CONFLICT_DELAY.0, CONFLICT_DELAY.1),
            failures: FailureStreak::default(),
            conflicts: 0,
        }
    }

    /// Notes a successful attempt; returns whether one before had failed
    /// because the store was away.
    pub(super) fn succeeded(&mut self) -> bool {
        self.outage.reset();
        self.conflict.reset();
        self.conflicts = 0;
        self.limit = self.limit.saturating_mul(2);
        self.failures.end().is_some()
    }

    /// Notes one more conflict; returns how many there were in a row.
    pub(super) fn conflicted(&mut self) -> u32 {
        self.conflicts += 1;
        self.conflicts
    }

    /// Makes the next attempt take half of the events that this one took.
    pub(super) fn narrow(&mut self, taken: usize) {
        self.limit = (taken / 2).max(1);
    }

    /// Takes the first event out, which fails by itself. The next may be of its
    /// kind, and is tried by itself: finding each of a thousand by halving would
    /// be ten thousand attempts.
    pub(super) fn take_first(&mut self) -> Option<Work> {
        self.limit = 1;
        self.conflicts = 0;
        self.queue.pop_front()
    }
}
