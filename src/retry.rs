//! Trying again: with longer and longer delays ([`Backoff`]), and with what is wrong
//! logged once, not at every attempt ([`FailureStreak`]).
//!
//! The only place that names the crate `backoff`, which is no longer maintained
//! (RUSTSEC-2025-0012): replacing it is a change of this file alone.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use tokio::time::Instant;

use crate::config;

/// Exponentially growing delays with jitter, capped, without an end: an outage
/// is waited out, however long it takes.
#[derive(Debug)]
pub struct Backoff {
    policy: backoff::ExponentialBackoff,
}

impl Backoff {
    /// Delays that start near `initial` and grow by half each time up to
    /// `max`; each is spread by ±50 % so that replicas do not retry in step.
    pub fn new(initial: Duration, max: Duration) -> Self {
        let policy = backoff::ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            max_interval: max,
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_elapsed_time: None,
            ..Default::default()
        };
        Self { policy }
    }

    /// Delays as long as the configuration says.
    pub fn configured(retry: &config::Retry) -> Self {
        Self::new(
            Duration::from_millis(retry.initial_ms),
            Duration::from_millis(retry.max_ms),
        )
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        // `None` only comes from an elapsed-time limit, and there is none.
        self.policy
            .next_backoff()
            .unwrap_or(self.policy.max_interval)
    }

    /// Starts over: to be called after a success.
    pub fn reset(&mut self) {
        self.policy.reset();
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

/// Failures in a row of what is tried again: says which of them are worth a log line,
/// and when they are over.
#[derive(Debug, Default)]
pub(crate) struct FailureStreak {
    since: Option<Instant>,
    failures: u64,
    last_cause: String,
}

/// A streak of failures that a success has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedStreak {
    /// How many failures there were.
    pub(crate) failures: u64,
    /// How long it took from the first failure to the success.
    pub(crate) lasted: Duration,
}

impl FailureStreak {
    /// Counts a failure; whether it is the first in a row, and so is to be logged.
    pub(crate) fn is_first(&mut self) -> bool {
        self.failures += 1;
        self.since.get_or_insert_with(Instant::now);
        self.failures == 1
    }

    /// Counts a failure; whether its cause is another than that of the failure before,
    /// and so is to be logged.
    pub(crate) fn is_new_cause(&mut self, cause: &str) -> bool {
        let is_new = self.is_first() || self.last_cause != cause;
        if is_new {
            cause.clone_into(&mut self.last_cause);
        }
        is_new
    }

    /// How many failures there were in a row.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// For how long nothing has succeeded; nothing, without a failure.
    pub(crate) fn lasts(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the streak with a success; `Some` if there was one, and so its end is to be
    /// logged.
    pub(crate) fn end(&mut self) -> Option<EndedStreak> {
        let Self {
            since, failures, ..
        } = std::mem::take(self);
        Some(EndedStreak {
            lasted: since?.elapsed(),
            failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_failures_in_a_row_each_cause_is_new_once_and_the_end_is_told_once() {
        let mut streak = FailureStreak::default();
        assert!(streak.end().is_none());
        let causes = ["refused", "refused", "silent", "silent", "refused"];
        let told = causes.map(|cause| streak.is_new_cause(cause));
        assert_eq!(told, [true, false, true, false, true]);
        let ended = streak.end().unwrap();
        assert_eq!(ended.failures, 5);
        assert!(streak.end().is_none());
        assert!(streak.is_new_cause("refused"), "another streak");
    }

    #[test]
    fn delays_grow_to_the_cap_and_start_over_after_a_reset() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(initial, max);
        assert!(backoff.next_delay() <= initial.mul_f64(1.5));
        let late: Vec<_> = (0..50).map(|_| backoff.next_delay()).skip(20).collect();
        assert!(
            late.iter()
                .all(|d| *d >= max.mul_f64(0.5) && *d <= max.mul_f64(1.5))
        );
        backoff.reset();
        assert!(backoff.next_delay() <= initial.mul_f64(1.5));
    }
}
