//! Getting dead letters to the dead-letter queue, confirmed, and on to whoever
//! keeps an index of them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::connect::{Link, in_time};
use super::delivery::{Origin, Outcome};
use super::error::{BusError, short};
use super::letter::Letter;
use super::reading;
use super::topology;
use super::trouble::Trouble;
use crate::config;
use crate::deadletter::{DeadLetter, Reason, Sealed};
use crate::failpoint::{self, Point};
use crate::retry::Backoff;
use crate::telemetry::metrics::{Label, Metrics};

/// Letters, and bytes of their bodies, that await their confirms together.
const WAVE_LETTERS: usize = 256;
const WAVE_BYTES: usize = 4 << 20;
/// A queue without a leader confirms nothing: tried again after this long.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A letter that the broker has confirmed. Its original is still unsettled.
#[derive(Debug)]
pub struct Written {
    /// What it says.
    pub letter: DeadLetter,
    /// The letter as it is in the queue.
    pub sealed: Sealed,
    origin: Origin,
}

impl Written {
    /// Acknowledges the original. One that is dropped instead leaves it to the
    /// broker, which delivers it again when the session ends.
    pub fn settle(self) {
        failpoint::pass(Point::AfterIndexed);
        self.origin.settle(Outcome::DoneAtLast);
    }
}

/// Publishes the letters that come in, and hands on those that the broker has
/// confirmed. Never gives up; a letter whose session is gone is dropped, since
/// the broker delivers its original again.
pub(super) struct Letters {
    bus: Arc<config::Bus>,
    written: mpsc::Sender<Written>,
    metrics: Metrics,
    host: String,
    backoff: Backoff,
    trouble: Trouble,
    /// Opened with the first letter.
    line: Option<(Link, Channel)>,
}

impl Letters {
    pub(super) fn new(
        bus: Arc<config::Bus>,
        backoff: Backoff,
        metrics: Metrics,
        written: mpsc::Sender<Written>,
    ) -> Self {
        Self {
            bus,
            written,
            metrics,
            host: host(),
            backoff,
            trouble: Trouble::new("dead letters stay with their originals, unacknowledged,"),
            line: None,
        }
    }

    /// Until every sender of `letters` is gone.
    pub(super) async fn run(mut self, mut letters: mpsc::UnboundedReceiver<Letter>) {
        let mut batch = Vec::with_capacity(WAVE_LETTERS);
        while letters.recv_many(&mut batch, WAVE_LETTERS).await > 0 {
            self.publish(&mut batch).await;
        }
        if let Some((link, _)) = self.line.take() {
            link.close().await;
        }
    }

    async fn publish(&mut self, letters: &mut Vec<Letter>) {
        loop {
            letters.retain(|letter| !letter.message.origin.is_gone());
            if letters.is_empty() {
                return;
            }
            match self.wave(letters).await {
                Ok(()) => {
                    self.trouble.over("dead letters are published again");
                    self.backoff.reset();
                }
                Err(error) => {
                    self.line = None;
                    self.trouble.failed(&error);
                    self.backoff.wait().await;
                }
            }
        }
    }

    /// Publishes some letters, and takes those that were confirmed out.
    async fn wave(&mut self, letters: &mut Vec<Letter>) -> Result<(), BusError> {
        let channel = self.channel().await?;
        let size = wave_size(letters);
        let mut confirms = Vec::with_capacity(size);
        let mut sent = Vec::with_capacity(size);
        for letter in &letters[..size] {
            failpoint::pass(Point::BeforeLetter);
            let (confirm, properties) = self.send(&channel, letter).await?;
            confirms.push(confirm);
            sent.push(properties);
        }
        let answers = in_confirm_time(confirms).await?;
        // lapin may hand a returned message to another letter's confirm when
        // one answer covers several: with one return, trust none of the wave.
        if answers
            .iter()
            .any(|answer| matches!(answer, Answer::Returned))
        {
            return Err(lost("the dead-letter queue is missing"));
        }
        let mut refused = false;
        let wave: Vec<_> = letters.drain(..size).collect();
        for ((letter, properties), answer) in wave.into_iter().zip(sent).zip(answers) {
            match answer {
                Answer::Confirmed => self.confirmed(letter, &properties).await,
                _ => {
                    refused = true;
                    letters.push(letter);
                }
            }
        }
        match refused {
            false => Ok(()),
            true => Err(lost("the broker refused some (nack)")),
        }
    }

    async fn send(
        &self,
        channel: &Channel,
        letter: &Letter,
    ) -> Result<(PublisherConfirm, BasicProperties), BusError> {
        let frame = self.line.as_ref().map_or(0, |(link, _)| {
            link.connection.configuration().frame_max() as usize
        });
        let properties = letter.properties(OffsetDateTime::now_utc(), &self.host, frame);
        let queue = short("bus.dead_letter_queue", &self.bus.dead_letter_queue)?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let body = &letter.message.body;
        let sent = channel.basic_publish("".into(), queue, options, body, properties.clone());
        let confirm = in_time("publishing a dead letter", sent).await?;
        Ok((confirm, properties))
    }

    async fn confirmed(&self, letter: Letter, properties: &BasicProperties) {
        failpoint::pass(Point::AfterLetter);
        let Letter { message, failure } = letter;
        let kind = failure.reason.as_str();
        self.metrics
            .dead_letters
            .get_or_create(&Label { kind })
            .inc();
        if failure.reason == Reason::TooLarge {
            // No one else sees these; the pipeline counts all others.
            let kind = "dead_lettered";
            self.metrics.events.get_or_create(&Label { kind }).inc();
        }
        let letter = reading::read(properties, &message.body, &self.bus);
        if let Some(sealed) = reading::seal(properties, message.body) {
            let origin = message.origin;
            // An error says that the service ends: the broker redelivers.
            let _ = self
                .written
                .send(Written {
                    letter,
                    sealed,
                    origin,
                })
                .await;
        }
    }

    /// The open channel, or a new one on a new connection, with the queue made
    /// sure of.
    async fn channel(&mut self) -> Result<Channel, BusError> {
        if let Some((_, channel)) = &self.line
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let link = Link::open(&self.bus, "chat-counters dead letters").await?;
        topology::dead_letter_queue(&link, &self.bus).await?;
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        in_time("asking for publisher confirms", confirms).await?;
        self.line = Some((link, channel.clone()));
        Ok(channel)
    }
}

pub(super) enum Answer {
    Confirmed,
    Returned,
    Refused,
}

pub(super) async fn in_confirm_time(
    confirms: Vec<PublisherConfirm>,
) -> Result<Vec<Answer>, BusError> {
    let all = tokio::time::timeout(CONFIRM_TIMEOUT, join_all(confirms)).await;
    let all = all.map_err(|_| lost("no confirm came in time"))?;
    let read = |answer: lapin::Result<Confirmation>| match answer {
        Ok(Confirmation::Ack(None)) => Ok(Answer::Confirmed),
        Ok(Confirmation::Ack(Some(_))) | Ok(Confirmation::Nack(Some(_))) => Ok(Answer::Returned),
        Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => Ok(Answer::Refused),
        Err(error) => Err(BusError::while_doing(
            "awaiting the confirm of a dead letter",
            &error,
        )),
    };
    all.into_iter().map(read).collect()
}

/// How many letters go together: one at least.
fn wave_size(letters: &[Letter]) -> usize {
    let mut bytes = 0;
    let fitting = letters.iter().take(WAVE_LETTERS).take_while(|letter| {
        bytes += letter.message.body.len();
        bytes <= WAVE_BYTES
    });
    fitting.count().max(1)
}

fn lost(why: &str) -> BusError {
    BusError::Lost {
        doing: "publishing dead letters".into(),
        why: why.into(),
    }
}

/// The name of this machine, or container.
fn host() -> String {
    let file = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    match file.trim() {
        "" => std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".into()),
        name => name.into(),
    }
}
