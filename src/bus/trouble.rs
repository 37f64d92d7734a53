//! Saying that something is wrong once, not at every try.

use super::error::BusError;

/// What is wrong at the moment, if anything.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What cannot be done meanwhile, for the log.
    what: &'static str,
    said: Option<String>,
    tries: u64,
}

impl Trouble {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            said: None,
            tries: 0,
        }
    }

    /// Logs an error that will be retried, unless it was the last one logged.
    pub(super) fn failed(&mut self, error: &BusError) {
        self.tries += 1;
        let text = error.to_string();
        if self.said.as_ref() == Some(&text) {
            tracing::debug!(tries = self.tries, "{}: {text}", self.what);
        } else if error.is_for_operator() {
            tracing::error!("{} until this is cured: {text}", self.what);
        } else {
            tracing::warn!("{} for now, trying again: {text}", self.what);
        }
        self.said = Some(text);
    }

    /// Logs that it works again, if it did not.
    pub(super) fn over(&mut self, now: &str) {
        if self.said.take().is_some() {
            tracing::info!(tries = self.tries, "{now}");
        }
        self.tries = 0;
    }
}
