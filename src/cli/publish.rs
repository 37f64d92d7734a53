//! `publish`: JSON lines to the exchange.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};
use tokio::time::{Instant, sleep_until, timeout};

use super::lines::{Line, Lines};
use super::output::{self, Output, table};
use super::progress::bar;
use super::{ExitCode, Failure, Global};
use crate::bus::{BusError, EventHeaders, Publisher, Tally, routing_key};
use crate::shutdown;

/// Reported lines at most; the rest is only counted.
const REPORTED: u64 = 20;
/// How long Ctrl-C waits for what is not confirmed yet.
const LAST_CONFIRMS: Duration = Duration::from_secs(10);
/// Lost time that `--rate` catches up with.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Stands for what an event lacks, in its routing key.
const UNKNOWN: &str = "unknown";

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

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Lines read; empty ones do not count.
    lines: u64,
    /// Handed to the broker.
    published: u64,
    /// Taken responsibility for by the broker.
    confirmed: u64,
    /// Bound to no queue: kept by no one.
    unroutable: u64,
    /// Refused by the broker.
    refused: u64,
    /// Sent, and no answer known.
    unconfirmed: u64,
    /// Not sent.
    skipped: u64,
    /// Stopped before the end.
    interrupted: bool,
    seconds: f64,
}

impl Publish {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let stdin = self.file == Path::new("-");
        if stdin && self.repeat > 1 {
            let message = "--repeat needs a FILE: stdin can be read only once";
            return Err(Failure::new(ExitCode::Usage, message));
        }
        let config = global.quietly()?.config;
        let size = if stdin {
            None
        } else {
            Some(self.open().await?.1)
        };
        let stop = shutdown::signal().map_err(|error| {
            Failure::new(ExitCode::No, format!("cannot handle signals: {error}"))
        })?;
        let publisher = Publisher::connect(&config.bus).await?;
        let mut job = Job {
            publisher,
            summary: Summary::default(),
            begun: Instant::now(),
            due: Instant::now(),
            rate: self.rate,
            raw: self.raw,
            bar: progress(size.map(|size| size * u64::from(self.repeat))),
            before: 0,
        };
        // Whatever is dropped here was not handed to the broker, or counts as
        // not confirmed.
        let ended = tokio::select! {
            ended = self.read(&mut job, stdin) => ended,
            _ = stop => {
                job.summary.interrupted = true;
                Ok(())
            }
        };
        job.finish(ended, global.output).await
    }

    /// The file and its size.
    async fn open(&self) -> Result<(File, u64), Failure> {
        let opened = async {
            let file = File::open(&self.file).await?;
            let size = file.metadata().await?.len();
            Ok((file, size))
        };
        opened
            .await
            .map_err(|error: std::io::Error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        let name = self.file.display();
        Failure::new(ExitCode::Usage, format!("{name} cannot be read: {error}"))
    }

    async fn read(&self, job: &mut Job, stdin: bool) -> Result<(), Failure> {
        for _ in 0..self.repeat {
            let source: Box<dyn AsyncRead + Unpin> = if stdin {
                Box::new(tokio::io::stdin())
            } else {
                Box::new(self.open().await?.0)
            };
            let mut lines = Lines::new(BufReader::with_capacity(64 << 10, source));
            self.lines(job, &mut lines).await?;
            job.before += lines.bytes;
        }
        Ok(())
    }

    async fn lines<R: AsyncBufRead + Unpin>(
        &self,
        job: &mut Job,
        lines: &mut Lines<R>,
    ) -> Result<(), Failure> {
        let mut number = 0;
        loop {
            number += 1;
            match lines
                .next()
                .await
                .map_err(|error| self.unreadable(&error))?
            {
                Line::End => return Ok(()),
                Line::TooLong => job.skip(number, "it is over 16 MiB long"),
                Line::Text(text) if text.trim_ascii().is_empty() => {}
                Line::Text(text) => job.line(number, text).await?,
            }
            let summary = &job.summary;
            job.bar.set_position(job.before + lines.bytes);
            if summary.lines.is_multiple_of(256) {
                job.bar
                    .set_message(format!("{} published", summary.published));
            }
        }
    }
}

fn progress(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed}, {eta} left",
        None => "{spinner} {msg}  {elapsed}",
    };
    bar(bytes, template)
}

/// Publishing in progress.
struct Job {
    publisher: Publisher,
    summary: Summary,
    begun: Instant,
    /// When the next event may be sent.
    due: Instant,
    rate: Option<f64>,
    raw: bool,
    bar: ProgressBar,
    /// Bytes of the rounds before this one.
    before: u64,
}

impl Job {
    async fn line(&mut self, number: u64, text: &[u8]) -> Result<(), Failure> {
        let event = match Event::parse(text) {
            Ok(event) => event,
            Err(_) if self.raw => Event::default(),
            Err(why) => {
                self.skip(number, &why);
                return Ok(());
            }
        };
        self.pace().await;
        self.summary.lines += 1;
        self.summary.published += 1;
        let headers = event.headers();
        let routing_key = event.routing_key();
        match self
            .publisher
            .publish(&routing_key, headers.as_ref(), text)
            .await
        {
            Ok(()) => Ok(()),
            Err(error @ BusError::NameTooLong { .. }) => {
                self.summary.lines -= 1;
                self.summary.published -= 1;
                self.skip(number, &error.to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the next event is due. A little time that was lost is caught
    /// up with, a long silence of the source is not.
    async fn pace(&mut self) {
        let Some(rate) = self.rate else { return };
        sleep_until(self.due).await;
        let late = Instant::now().checked_sub(CATCH_UP).unwrap_or(self.due);
        self.due = self.due.max(late) + Duration::from_secs_f64(1.0 / rate);
    }

    fn skip(&mut self, number: u64, why: &str) {
        self.summary.lines += 1;
        self.summary.skipped += 1;
        match self.summary.skipped {
            1..=REPORTED => self.tell(&format!("line {number} is skipped: {why}")),
            skipped if skipped == REPORTED + 1 => {
                self.tell("more lines are skipped; they are only counted from here on");
            }
            _ => {}
        }
    }

    /// A line on stderr, above the progress bar.
    fn tell(&self, text: &str) {
        use std::io::Write as _;
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    /// Awaits what is outstanding and prints the summary, whatever happened.
    async fn finish(
        mut self,
        ended: Result<(), Failure>,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let known = self.publisher.tally();
        // A read that failed leaves the connection whole; a publish does not,
        // and then this fails at once.
        let (tally, failed) = match timeout(LAST_CONFIRMS, self.publisher.finish()).await {
            _ if ended.as_ref().is_err_and(Failure::is_server) => (known, None),
            Ok(Ok(tally)) => (tally, None),
            Ok(Err(error)) => (confirmed(&error, known), Some(Failure::from(error))),
            Err(_) => {
                let message = "the broker did not confirm everything in time";
                (known, Some(Failure::new(ExitCode::Server, message)))
            }
        };
        self.bar.finish_and_clear();
        self.summary.tally(tally, self.begun.elapsed());
        let failure = ended.err().or(failed);
        self.summary.print(output)?;
        match failure {
            Some(failure) => Err(failure),
            None if self.summary.is_whole() => Ok(ExitCode::Done),
            None => Ok(ExitCode::No),
        }
    }
}

/// What is known after an interruption.
fn confirmed(error: &BusError, known: Tally) -> Tally {
    match error {
        BusError::Interrupted { confirmed, .. } => Tally {
            confirmed: *confirmed,
            ..known
        },
        _ => known,
    }
}

impl Summary {
    fn tally(&mut self, tally: Tally, elapsed: Duration) {
        let Tally {
            confirmed,
            unroutable,
            nacked,
        } = tally;
        (self.confirmed, self.unroutable, self.refused) = (confirmed, unroutable, nacked);
        let answered = confirmed + unroutable + nacked;
        self.unconfirmed = self.published.saturating_sub(answered);
        self.seconds = (elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0;
    }

    fn is_whole(&self) -> bool {
        let Summary {
            unroutable,
            refused,
            unconfirmed,
            skipped,
            interrupted,
            ..
        } = self;
        unroutable + refused + unconfirmed + skipped == 0 && !interrupted
    }

    fn print(&self, output: Output) -> std::io::Result<()> {
        if output == Output::Json {
            return output::print_json(self);
        }
        let Summary {
            lines,
            confirmed,
            seconds,
            ..
        } = self;
        let mut rows = Vec::new();
        for (name, value) in [
            ("bound to no queue, lost", self.unroutable),
            ("refused by the broker", self.refused),
            ("sent, perhaps arrived", self.unconfirmed),
            ("skipped", self.skipped),
        ] {
            if value > 0 {
                rows.push(vec![name.to_owned(), value.to_string()]);
            }
        }
        let stopped = if self.interrupted {
            "interrupted: "
        } else {
            ""
        };
        let first = format!("{stopped}confirmed {confirmed} of {lines} lines in {seconds:.1} s\n");
        output::print(&(first + &table(&[], &rows)))
    }
}

/// What routing key and headers are made of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event {
    event_type: Text,
    entity_type: Text,
    tenant_id: Text,
}

/// A text; anything else is as if it were absent.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "serde_json::Value")]
struct Text(Option<String>);

impl From<serde_json::Value> for Text {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) if !text.is_empty() => Text(Some(text)),
            _ => Text(None),
        }
    }
}

impl Event {
    /// `Err` says why it is no JSON object.
    fn parse(text: &[u8]) -> Result<Event, String> {
        if text.trim_ascii().first() != Some(&b'{') {
            return Err("it is no JSON object".into());
        }
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON object: {error}"))
    }

    fn headers(&self) -> Option<EventHeaders<'_>> {
        Some(EventHeaders {
            event_type: self.event_type.0.as_deref()?,
            entity_type: self.entity()?,
            tenant_id: self.tenant_id.0.as_deref()?,
        })
    }

    /// The first segment of the event's type stands in for the entity's.
    fn entity(&self) -> Option<&str> {
        let of_event = || self.event_type.0.as_deref()?.split('.').next();
        self.entity_type.0.as_deref().or_else(of_event)
    }

    fn routing_key(&self) -> String {
        routing_key(
            self.entity().unwrap_or(UNKNOWN),
            self.event_type.0.as_deref().unwrap_or(UNKNOWN),
            self.tenant_id.0.as_deref().unwrap_or(UNKNOWN),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_key_and_headers_come_from_the_line() {
        let rows = [
            (
                r#"{"eventType":"message.create","entityType":"message","tenantId":"t1"}"#,
                "message.create.t1",
                true,
            ),
            (
                r#" {"eventType":"dialog.member.add","tenantId":"t"}"#,
                "dialog.add.t",
                true,
            ),
            (
                r#"{"eventType":7,"tenantId":"t"}"#,
                "unknown.unknown.t",
                false,
            ),
            ("{}", "unknown.unknown.unknown", false),
        ];
        for (line, key, headers) in rows {
            let event = Event::parse(line.as_bytes()).unwrap();
            assert_eq!(event.routing_key(), key);
            assert_eq!(event.headers().is_some(), headers, "{line}");
        }
        for line in ["[]", "7", "{", "{} {}", "x", "[\"a\",\"b\",\"c\"]"] {
            assert!(Event::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
