//! Logging what is wrong with the broker once, not at every attempt.

use super::error::BusError;
use crate::retry::FailureStreak;

/// What is wrong at the moment, if anything.
#[derive(Debug)]
pub(super) struct FailureLog {
    /// What cannot be done meanwhile, for the log.
    impact: &'static str,
    streak: FailureStreak,
}

impl FailureLog {
    pub(super) fn new(impact: &'static str) -> Self {
        Self {
            impact,
            streak: FailureStreak::default(),
        }
    }

    /// Logs an error that will be retried, unless it was the last one logged.
    pub(super) fn failed(&mut self, error: &BusError) {
        let text = error.to_string();
        if !self.streak.is_new_cause(&text) {
            let tries = self.streak.failures();
            tracing::debug!(tries, "{}: {text}", self.impact);
        } else if error.is_for_operator() {
            tracing::error!("{} until this is cured: {text}", self.impact);
        } else {
            tracing::warn!("{} for now, trying again: {text}", self.impact);
        }
    }

    /// Logs that it works again, if it did not.
    pub(super) fn succeeded(&mut self, now: &str) {
        if let Some(ended) = self.streak.end() {
            tracing::info!(tries = ended.failures, "{now}");
        }
    }
}
