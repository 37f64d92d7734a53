//! What became of the lines that were to be published.

use std::time::Duration;

use serde::Serialize;

use crate::bus::PublishTally;
use crate::cli::output::{self, Output, table};

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
pub(super) struct PublishSummary {
    /// Lines that were read; empty ones do not count.
    pub(super) lines: u64,
    /// Events that were handed to the broker.
    pub(super) published: u64,
    /// Events that the broker has taken responsibility for.
    confirmed: u64,
    /// Events that were bound to no queue, and are kept by no one.
    unroutable: u64,
    /// Events that the broker refused.
    refused: u64,
    /// Events that were sent, and no answer is known.
    unconfirmed: u64,
    /// Lines that were not sent.
    pub(super) skipped: u64,
    /// Whether it was stopped before the end.
    pub(super) interrupted: bool,
    seconds: f64,
}

impl PublishSummary {
    /// Takes over what the broker has answered.
    pub(super) fn count_answers(&mut self, tally: PublishTally, elapsed: Duration) {
        self.confirmed = tally.confirmed;
        self.unroutable = tally.unroutable;
        self.refused = tally.nacked;
        let answered = tally.confirmed + tally.unroutable + tally.nacked;
        self.unconfirmed = self.published.saturating_sub(answered);
        self.seconds = (elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0;
    }

    /// Lists what may have gone wrong, in words, and how often it has.
    fn losses(&self) -> [(&'static str, u64); 4] {
        [
            ("bound to no queue, lost", self.unroutable),
            ("refused by the broker", self.refused),
            ("sent, perhaps arrived", self.unconfirmed),
            ("skipped", self.skipped),
        ]
    }

    /// Tells whether every line was confirmed.
    pub(super) fn is_whole(&self) -> bool {
        !self.interrupted && self.losses().iter().all(|(_, count)| *count == 0)
    }

    /// Prints the summary on stdout.
    pub(super) fn print(&self, output: Output) -> std::io::Result<()> {
        if output == Output::Json {
            return output::print_json(self);
        }
        let losses = self.losses().into_iter().filter(|(_, count)| *count > 0);
        let rows = losses.map(|(what, count)| vec![what.to_owned(), count.to_string()]);
        let stopped = if self.interrupted {
            "interrupted: "
        } else {
            ""
        };
        let first = format!(
            "{stopped}confirmed {} of {} lines in {:.1} s\n",
            self.confirmed, self.lines, self.seconds
        );
        output::print(&(first + &table(&[], &rows.collect::<Vec<_>>())))
    }
}
