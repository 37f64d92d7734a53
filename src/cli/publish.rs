//! `publish`: JSON lines to the exchange.

mod line;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use tokio::fs::File;
use tokio::io::{AsyncRead, BufReader};
use tokio::time::{Instant, timeout};

use self::line::EventLine;
use self::summary::PublishSummary;
use super::lines::{Lines, NextLine};
use super::output::{self, Output};
use super::progress::bar;
use super::{ExitCode, Failure, Global, interruption};
use crate::bus::{BusError, Publisher};
use crate::rate_limit::RateLimit;

/// The most skipped lines that are reported one by one.
const MAX_REPORTED_LINES: u64 = 20;
/// How long an end waits for what the broker has not confirmed yet.
const LAST_CONFIRMS_TIMEOUT: Duration = Duration::from_secs(10);
/// Lost time that `--rate` makes up for; a longer silence of the source is not.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Bytes that are read from the file at a time.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Lines between two changes of the text beside the progress bar.
const LINES_PER_MESSAGE: u64 = 256;

/// Publish events, one JSON object a line, each confirmed by the broker
#[derive(Debug, Args)]
#[command(
    long_about = "Publishes events from a file or stdin, one JSON object a line, to the exchange \
                  (declared if there is none), and waits until the broker has confirmed every \
                  one. Each line is sent as it is; routing key and headers are made from its \
                  eventType, entityType and tenantId. Lines that are no JSON objects are reported \
                  and skipped. Ctrl-C ends cleanly, with the count of what was confirmed.",
    after_help = "Exit codes:\n  \
                  0  every line was confirmed\n  \
                  1  some were skipped, returned as bound to no queue, or refused; or it was interrupted\n  \
                  2  wrong usage or configuration, or the file cannot be read\n  \
                  3  the broker cannot be reached, refuses, or was lost on the way\n\n\
                  Examples:\n  \
                  chat-counters publish events.jsonl\n  \
                  zcat events.jsonl.gz | chat-counters publish --rate 500\n  \
                  chat-counters publish events.jsonl --repeat 3   # duplicates, which count once"
)]
pub(super) struct Publish {
    /// File of JSON lines; - = stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Events a second at most
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Publish the file so many times over
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Publish every line as it is, also what is no JSON object
    #[arg(long)]
    raw: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("expected a number of at least 0.001".into()),
    }
}

impl Publish {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        if self.is_stdin() && self.repeat > 1 {
            let message = "--repeat needs a FILE: stdin can be read only once";
            return Err(Failure::new(ExitCode::Usage, message));
        }
        let config = global.quietly()?.config;
        let (_, bytes) = self.open().await?;
        let stop = interruption()?;
        let limit = |rate| RateLimit::per_second(rate).catching_up(CATCH_UP);
        let mut job = PublishJob {
            publisher: Publisher::connect(&config.bus).await?,
            limit: self.rate.map(limit),
            bar: progress_bar(bytes.map(|bytes| bytes * u64::from(self.repeat))),
            args: self,
            summary: PublishSummary::default(),
            begun: Instant::now(),
        };
        // Whatever is dropped here was not handed to the broker, or counts as
        // not confirmed.
        let ended = tokio::select! {
            ended = job.publish_lines() => ended,
            _ = stop => {
                job.summary.interrupted = true;
                Ok(())
            }
        };
        job.finish(ended, global.output).await
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Opens what is to be published; the size in bytes is that of a file.
    async fn open(&self) -> Result<(Box<dyn AsyncRead + Unpin>, Option<u64>), Failure> {
        if self.is_stdin() {
            return Ok((Box::new(tokio::io::stdin()), None));
        }
        let opened = async {
            let file = File::open(&self.file).await?;
            let bytes = file.metadata().await?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = opened.await.map_err(|error| self.unreadable(&error))?;
        Ok((Box::new(file), Some(bytes)))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        let name = self.file.display();
        Failure::new(ExitCode::Usage, format!("{name} cannot be read: {error}"))
    }
}

fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed}, {eta} left",
        None => "{spinner} {msg}  {elapsed}",
    };
    bar(bytes, template)
}

/// Publishing in progress.
struct PublishJob {
    args: Publish,
    publisher: Publisher,
    limit: Option<RateLimit>,
    bar: ProgressBar,
    summary: PublishSummary,
    begun: Instant,
}

impl PublishJob {
    async fn publish_lines(&mut self) -> Result<(), Failure> {
        let mut bytes_before = 0;
        for _ in 0..self.args.repeat {
            let (source, _) = self.args.open().await?;
            let mut lines = Lines::new(BufReader::with_capacity(READ_BUFFER_BYTES, source));
            for number in 1.. {
                let line = lines.next().await;
                match line.map_err(|error| self.args.unreadable(&error))? {
                    NextLine::End => break,
                    NextLine::TooLong => self.skip(number, "it is over 16 MiB long"),
                    NextLine::Text(text) if text.trim_ascii().is_empty() => {}
                    NextLine::Text(text) => self.publish(number, text).await?,
                }
                self.bar.set_position(bytes_before + lines.bytes);
                if self.summary.lines.is_multiple_of(LINES_PER_MESSAGE) {
                    let message = format!("{} published", self.summary.published);
                    self.bar.set_message(message);
                }
            }
            bytes_before += lines.bytes;
        }
        Ok(())
    }

    async fn publish(&mut self, number: u64, text: &[u8]) -> Result<(), Failure> {
        let event = match EventLine::parse(text) {
            Ok(event) => event,
            Err(_) if self.args.raw => EventLine::default(),
            Err(why) => {
                self.skip(number, &why);
                return Ok(());
            }
        };
        if let Some(limit) = &mut self.limit {
            limit.wait_for(1).await;
        }
        // Counted before it is sent: whoever interrupts this does not know
        // whether it was.
        self.summary.lines += 1;
        self.summary.published += 1;
        let (routing_key, headers) = (event.routing_key(), event.headers());
        let sent = self.publisher.publish(&routing_key, headers.as_ref(), text);
        match sent.await {
            Err(error @ BusError::NameTooLong { .. }) => {
                self.summary.lines -= 1;
                self.summary.published -= 1;
                self.skip(number, &error.to_string());
                Ok(())
            }
            sent => Ok(sent?),
        }
    }

    fn skip(&mut self, number: u64, why: &str) {
        self.summary.lines += 1;
        self.summary.skipped += 1;
        let text = match self.summary.skipped {
            1..=MAX_REPORTED_LINES => format!("line {number} is skipped: {why}"),
            skipped if skipped == MAX_REPORTED_LINES + 1 => {
                "more lines are skipped; they are only counted from here on".into()
            }
            _ => return,
        };
        self.bar.suspend(|| output::aside(&text));
    }

    /// Awaits what is outstanding and prints the summary, whatever happened.
    async fn finish(
        mut self,
        ended: Result<(), Failure>,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let mut tally = self.publisher.tally();
        let mut failure = ended.err();
        // A read that failed leaves the connection whole; a publish does not.
        if !failure.as_ref().is_some_and(Failure::is_server) {
            let failed = match timeout(LAST_CONFIRMS_TIMEOUT, self.publisher.finish()).await {
                Ok(Ok(whole)) => {
                    tally = whole;
                    None
                }
                Ok(Err(error)) => {
                    if let BusError::Interrupted { confirmed, .. } = error {
                        tally.confirmed = confirmed;
                    }
                    Some(Failure::from(error))
                }
                Err(_) => {
                    let message = "the broker did not confirm everything in time";
                    Some(Failure::new(ExitCode::Server, message))
                }
            };
            failure = failure.or(failed);
        }
        self.bar.finish_and_clear();
        let summary = &mut self.summary;
        summary.count_answers(tally, self.begun.elapsed());
        summary.print(output)?;
        match failure {
            Some(failure) => Err(failure),
            None if summary.is_whole() => Ok(ExitCode::Done),
            None => Ok(ExitCode::No),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
