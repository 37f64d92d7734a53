//! Publishes dead letters: confirmed into the dead-letter queue, or, while the broker
//! takes none, handed on to whoever keeps them for it.
//!
//! What is published and not confirmed stays in hand, for it may arrive; so that is a
//! part of the window at most. All other letters leave at once: they would fill the
//! window, and events could be counted no more.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lapin::BasicProperties;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{decode, raw};
use crate::bus::confirm_channel::{BlockedTimeout, ConfirmChannel, PublishOutcome};
use crate::bus::delivery::{FailedMessage, Origin, Settlement};
use crate::bus::error::{BusError, short};
use crate::bus::failure_log::FailureLog;
use crate::bus::flow::Flow;
use crate::bus::topology;
use crate::config;
use crate::deadletter::{Letter, MAX_KEPT_BYTES, Reason};
use crate::failpoint::{self, Point};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::{Label, Metrics};

/// The most letters that await their confirms together.
const MAX_BATCH_LETTERS: usize = 256;
/// The most bytes of bodies that await their confirms together.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// What the window, a number of deliveries, is divided by for the most letters that may
/// await their confirms: half of it.
const WINDOW_DIVISOR: usize = 2;
/// What `bus.prefetch_bytes` is divided by for the most bytes of bodies that may await
/// their confirms: a quarter of it.
const BYTES_DIVISOR: usize = 4;
/// A broker that confirms nothing for so long takes none.
const UNCONFIRMED_TIMEOUT: Duration = Duration::from_secs(5);
/// What is being done, for error texts.
const PUBLISHING: &str = "publishing dead letters";

/// A dead letter whose original is still unsettled: it has to become durable first,
/// with its entry in the index.
#[derive(Debug)]
pub(crate) struct UnsettledLetter {
    /// The letter as it is in the queue, or is to be.
    pub letter: Letter,
    /// Whether the broker has confirmed the letter. It is to be kept elsewhere until
    /// then.
    pub is_queued: bool,
    origin: Origin,
}

impl UnsettledLetter {
    /// Acknowledges the original. One that is dropped instead leaves it to the
    /// broker, which delivers it again when the session ends.
    pub(crate) fn settle(self) {
        failpoint::pass(match self.is_queued {
            true => Point::AfterIndexed,
            false => Point::Kept,
        });
        self.origin.settle(Settlement::AckNow);
    }
}

/// Publishes the letters that come in, and hands them on once the broker has
/// confirmed them, or when it takes none. Never gives up; a letter whose session is
/// gone is dropped, since the broker delivers its original again.
pub(in crate::bus) struct DeadLetterPublisher {
    publishing: Arc<Publishing>,
    flow: Flow,
    handed_on: mpsc::Sender<UnsettledLetter>,
    metrics: Metrics,
    backoff: Backoff,
    failures: FailureLog,
    /// Letters that are not on their way to the broker.
    waiting: Vec<FailedMessage>,
    /// Opened with the first letter; an attempt has it meanwhile.
    channel: Option<ConfirmChannel>,
    attempt: Option<Attempt>,
    /// The delay before the next attempt.
    delay: Option<Duration>,
    /// Since when no letter could be published, if so.
    failing_since: Option<Instant>,
}

/// What every attempt needs.
struct Publishing {
    bus: Arc<config::Bus>,
    host: String,
    /// The size of the largest frame by the configuration, in bytes.
    frame_max: usize,
}

/// Letters on their way to the broker.
struct Attempt {
    letters: Arc<Vec<FailedMessage>>,
    result: BoxFuture<'static, AttemptResult>,
}

/// The channel, if it may be used again, and what became of the letters.
type AttemptResult = (Option<ConfirmChannel>, Result<PublishedLetters, BusError>);

/// What the broker said to each letter, and the properties that it was sent with;
/// nothing for one whose session is gone.
type PublishedLetters = Vec<Option<(BasicProperties, PublishOutcome)>>;

impl DeadLetterPublisher {
    pub(in crate::bus) fn new(
        (bus, frame_max): (Arc<config::Bus>, usize),
        backoff: Backoff,
        metrics: Metrics,
        flow: Flow,
        handed_on: mpsc::Sender<UnsettledLetter>,
    ) -> Self {
        let host = host();
        Self {
            publishing: Arc::new(Publishing {
                bus,
                host,
                frame_max,
            }),
            flow,
            handed_on,
            metrics,
            backoff,
            failures: FailureLog::new("dead letters wait in the database"),
            waiting: Vec::new(),
            channel: None,
            attempt: None,
            delay: None,
            failing_since: None,
        }
    }

    /// Works until every sender of `letters` is gone.
    pub(in crate::bus) async fn run(
        mut self,
        mut letters: mpsc::UnboundedReceiver<FailedMessage>,
        shutdown: Shutdown,
    ) {
        let mut changes = self.flow.changes();
        let mut more = Vec::with_capacity(MAX_BATCH_LETTERS);
        let (mut is_open, mut is_stopping) = (true, false);
        while is_open || self.attempt.is_some() {
            self.waiting
                .retain(|letter| !letter.message.origin.is_gone());
            let takes_none = self.takes_none();
            match (takes_none, is_stopping) {
                // Nobody would be there to hear the confirm.
                (true, true) => self.give_up(),
                (true, false) => self.begin(1),
                (false, _) => self.begin(MAX_BATCH_LETTERS),
            }
            if takes_none {
                self.set_aside().await;
            }
            let due = self.failing_since.map(|since| since + UNCONFIRMED_TIMEOUT);
            let due = due.filter(|due| *due > Instant::now());
            tokio::select! {
                (channel, result) = result(&mut self.attempt) => self.end(channel, result).await,
                count = letters.recv_many(&mut more, MAX_BATCH_LETTERS), if is_open => {
                    is_open = count > 0;
                    self.waiting.append(&mut more);
                }
                () = changes.next() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shutdown.requested(), if !is_stopping => is_stopping = true,
            }
        }
        if let Some(channel) = self.channel.take() {
            channel.close().await;
        }
    }

    /// Whether the broker says that it takes no letters, or has taken none for a
    /// while.
    fn takes_none(&self) -> bool {
        let lasting = |since: Instant| since.elapsed() >= UNCONFIRMED_TIMEOUT;
        self.flow.is_blocked() || self.failing_since.is_some_and(lasting)
    }

    /// Publishes some letters, so many at most, unless some are on their way. The
    /// first on a connection goes alone: before that the broker does not tell it
    /// that it takes none.
    fn begin(&mut self, most: usize) {
        if self.attempt.is_some() || self.waiting.is_empty() || self.flow.is_blocked() {
            return;
        }
        let most = if self.channel.is_some() { most } else { 1 };
        let size = batch_size(&self.waiting, most, self.publishing.bus.prefetch_bytes);
        let letters = Arc::new(self.waiting.drain(..size).collect::<Vec<_>>());
        let (channel, delay) = (self.channel.take(), self.delay.take());
        let publishing = self.publishing.clone();
        let result = publishing.attempt(letters.clone(), channel, self.flow.clone(), delay);
        self.failing_since.get_or_insert_with(Instant::now);
        self.attempt = Some(Attempt {
            letters,
            result: result.boxed(),
        });
    }

    /// Takes letters back that are on their way. They may arrive all the same.
    fn give_up(&mut self) {
        let Some(Attempt { letters, result }) = self.attempt.take() else {
            return;
        };
        // It shares the letters.
        drop(result);
        let letters = Arc::into_inner(letters).unwrap_or_default();
        self.waiting.splice(..0, letters);
    }

    /// Hands on the letters that the broker has confirmed; keeps the others for
    /// another attempt.
    async fn end(
        &mut self,
        channel: Option<ConfirmChannel>,
        result: Result<PublishedLetters, BusError>,
    ) {
        self.give_up();
        let error = match result {
            Ok(sent) if sent.iter().any(is_returned) => lost("the dead-letter queue is missing"),
            Ok(sent) => {
                let letters: Vec<_> = self.waiting.drain(..sent.len()).collect();
                let mut refused = Vec::new();
                for (letter, sent) in letters.into_iter().zip(sent) {
                    match sent {
                        Some((properties, PublishOutcome::Confirmed)) => {
                            failpoint::pass(Point::AfterLetter);
                            self.hand_on(letter, properties, true).await;
                        }
                        Some(_) => refused.push(letter),
                        // Its session is gone.
                        None => {}
                    }
                }
                if refused.is_empty() {
                    self.channel = channel;
                    self.failing_since = None;
                    self.backoff.reset();
                    return self.failures.succeeded("dead letters are published again");
                }
                self.waiting.splice(..0, refused);
                lost("the broker refused some (nack)")
            }
            Err(error) => error,
        };
        self.failures.failed(&error);
        self.delay = Some(self.backoff.next_delay());
    }

    /// Hands on all letters that are not on their way, to be kept until the broker
    /// takes letters. One that is too large for that goes on waiting.
    async fn set_aside(&mut self) {
        let mut too_large = Vec::new();
        for letter in std::mem::take(&mut self.waiting) {
            if letter.message.body.len() > MAX_KEPT_BYTES {
                too_large.push(letter);
                continue;
            }
            let frame_max = self.publishing.frame_max;
            let properties = self.publishing.properties(&letter, frame_max);
            self.hand_on(letter, properties, false).await;
        }
        self.waiting = too_large;
    }

    async fn hand_on(
        &mut self,
        letter: FailedMessage,
        properties: BasicProperties,
        is_queued: bool,
    ) {
        let FailedMessage { message, failure } = letter;
        let kind = failure.reason.as_str();
        self.metrics
            .bus
            .dead_letters
            .get_or_create(&Label { kind })
            .inc();
        if failure.reason == Reason::TooLarge {
            // No one else sees these; the pipeline counts all others.
            let kind = "dead_lettered";
            self.metrics
                .events
                .settled
                .get_or_create(&Label { kind })
                .inc();
        }
        let details = decode::read(&properties, &message.body, &self.publishing.bus);
        if let Some(raw) = raw::raw_message(&properties, message.body) {
            let unsettled = UnsettledLetter {
                letter: Letter::new(details, raw),
                is_queued,
                origin: message.origin,
            };
            // An error says that the service ends: the broker redelivers.
            let _ = self.handed_on.send(unsettled).await;
        }
    }
}

impl Publishing {
    /// Publishes letters, after a delay, on a new connection if there is none.
    async fn attempt(
        self: Arc<Self>,
        letters: Arc<Vec<FailedMessage>>,
        channel: Option<ConfirmChannel>,
        flow: Flow,
        delay: Option<Duration>,
    ) -> AttemptResult {
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let channel = match channel.filter(ConfirmChannel::is_open) {
            Some(channel) => Ok(channel),
            None => self.open(&flow).await,
        };
        match channel {
            Ok(channel) => {
                let published = self.publish(&channel, &letters).await;
                (Some(channel), published)
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// Connects, and declares the queue if it is missing.
    async fn open(&self, flow: &Flow) -> Result<ConfirmChannel, BusError> {
        let name = "chat-counters dead letters";
        let hold = BlockedTimeout::HoldTime;
        let channel = ConfirmChannel::open(&self.bus, name, flow, hold).await?;
        topology::dead_letter_queue(&channel.link, &self.bus).await?;
        Ok(channel)
    }

    /// Publishes the letters whose sessions are there still.
    async fn publish(
        &self,
        channel: &ConfirmChannel,
        letters: &[FailedMessage],
    ) -> Result<PublishedLetters, BusError> {
        let is_here = |letter: &FailedMessage| !letter.message.origin.is_gone();
        let here: Vec<_> = letters.iter().map(is_here).collect();
        let letters = letters.iter().zip(&here);
        let letters = letters.filter_map(|(letter, here)| here.then_some(letter));
        let sent: Vec<_> = letters
            .map(|letter| (self.properties(letter, channel.frame_max()), letter))
            .collect();
        let messages = sent.iter().map(|(properties, letter)| {
            failpoint::pass(Point::BeforeLetter);
            (properties.clone(), letter.message.body.as_slice())
        });
        let queue = short("bus.dead_letter_queue", &self.bus.dead_letter_queue)?;
        let outcomes = channel.publish((PUBLISHING, queue), messages).await?;
        let properties = sent.into_iter().map(|(properties, _)| properties);
        let mut sent = properties.zip(outcomes);
        let sent = here.into_iter().map(|here| here.then(|| sent.next())?);
        Ok(sent.collect())
    }

    fn properties(&self, letter: &FailedMessage, frame_max: usize) -> BasicProperties {
        letter.properties(OffsetDateTime::now_utc(), &self.host, frame_max)
    }
}

/// Awaits the result of an attempt, if there is one.
async fn result(attempt: &mut Option<Attempt>) -> AttemptResult {
    match attempt {
        Some(attempt) => (&mut attempt.result).await,
        None => std::future::pending().await,
    }
}

/// lapin may hand a returned message to another letter's confirm when one answer
/// covers several: with one return, none is to be trusted.
fn is_returned(sent: &Option<(BasicProperties, PublishOutcome)>) -> bool {
    matches!(sent, Some((_, PublishOutcome::Returned)))
}

/// How many letters go together: one at least.
fn batch_size(letters: &[FailedMessage], most: usize, bytes_in_flight: usize) -> usize {
    let window = letters
        .first()
        .map_or(1, |first| first.message.origin.back.window());
    let most = most.min(window / WINDOW_DIVISOR).min(MAX_BATCH_LETTERS);
    let most_bytes = MAX_BATCH_BYTES.min(bytes_in_flight / BYTES_DIVISOR);
    let mut bytes = 0;
    let fitting = letters.iter().take(most).take_while(|letter| {
        bytes += letter.message.body.len();
        bytes <= most_bytes
    });
    fitting.count().max(1)
}

fn lost(why: &str) -> BusError {
    BusError::Lost {
        doing: PUBLISHING.into(),
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
