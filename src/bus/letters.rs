//! Getting dead letters out of hand: confirmed into the dead-letter queue, or, while
//! the broker takes none, on to whoever keeps them for it.
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

use super::delivery::{Origin, Outcome};
use super::error::{BusError, short};
use super::flow::Flow;
use super::letter::Letter;
use super::line::{Answer, Line, Patience};
use super::reading;
use super::topology;
use super::trouble::Trouble;
use crate::config;
use crate::deadletter::{DeadLetter, MAX_KEPT_BYTES, Reason, Sealed};
use crate::failpoint::{self, Point};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::{Label, Metrics};

/// Letters, and bytes of their bodies, that await their confirms together.
const WAVE_LETTERS: usize = 256;
const WAVE_BYTES: usize = 4 << 20;
/// They are one in so many parts of the window, and of the bytes in flight, at most.
const WINDOW_SHARE: usize = 2;
const BYTES_SHARE: usize = 4;
/// A broker that confirms nothing for so long takes none.
const SOON: Duration = Duration::from_secs(5);
const PUBLISHING: &str = "publishing dead letters";

/// A letter that is written. Its original is still unsettled.
#[derive(Debug)]
pub struct Written {
    /// What it says.
    pub letter: DeadLetter,
    /// The letter as it is in the queue, or is to be.
    pub sealed: Sealed,
    /// Whether the broker has confirmed it. It is to be kept elsewhere until then.
    pub is_queued: bool,
    origin: Origin,
}

impl Written {
    /// Acknowledges the original. One that is dropped instead leaves it to the
    /// broker, which delivers it again when the session ends.
    pub fn settle(self) {
        failpoint::pass(match self.is_queued {
            true => Point::AfterIndexed,
            false => Point::Kept,
        });
        self.origin.settle(Outcome::DoneAtLast);
    }
}

/// Publishes the letters that come in, and hands them on once the broker has
/// confirmed them, or when it takes none. Never gives up; a letter whose session is
/// gone is dropped, since the broker delivers its original again.
pub(super) struct Letters {
    desk: Arc<Desk>,
    flow: Flow,
    written: mpsc::Sender<Written>,
    metrics: Metrics,
    backoff: Backoff,
    trouble: Trouble,
    /// Not under way.
    waiting: Vec<Letter>,
    /// Opened with the first letter; an attempt has it meanwhile.
    line: Option<Line>,
    attempt: Option<Attempt>,
    /// Before the next attempt.
    pause: Option<Duration>,
    /// Since when no letter could be published, if so.
    failing: Option<Instant>,
}

/// What every attempt needs.
struct Desk {
    bus: Arc<config::Bus>,
    host: String,
    /// Bytes of a frame, by the configuration.
    frame: usize,
}

/// Letters on their way to the broker.
struct Attempt {
    letters: Arc<Vec<Letter>>,
    outcome: BoxFuture<'static, (Option<Line>, Result<Sent, BusError>)>,
}

/// What the broker said to each letter, and the properties that it was sent with;
/// nothing for one whose session is gone.
type Sent = Vec<Option<(BasicProperties, Answer)>>;

impl Letters {
    pub(super) fn new(
        (bus, frame): (Arc<config::Bus>, usize),
        backoff: Backoff,
        metrics: Metrics,
        flow: Flow,
        written: mpsc::Sender<Written>,
    ) -> Self {
        let host = host();
        Self {
            desk: Arc::new(Desk { bus, host, frame }),
            flow,
            written,
            metrics,
            backoff,
            trouble: Trouble::new("dead letters wait in the database"),
            waiting: Vec::new(),
            line: None,
            attempt: None,
            pause: None,
            failing: None,
        }
    }

    /// Until every sender of `letters` is gone.
    pub(super) async fn run(
        mut self,
        mut letters: mpsc::UnboundedReceiver<Letter>,
        shutdown: Shutdown,
    ) {
        let mut words = self.flow.words();
        let mut more = Vec::with_capacity(WAVE_LETTERS);
        let (mut is_open, mut is_stopping) = (true, false);
        while is_open || self.attempt.is_some() {
            self.waiting
                .retain(|letter| !letter.message.origin.is_gone());
            let takes_none = self.takes_none();
            match (takes_none, is_stopping) {
                // Nobody would be there to hear the confirm.
                (true, true) => self.give_up(),
                (true, false) => self.begin(1),
                (false, _) => self.begin(WAVE_LETTERS),
            }
            if takes_none {
                self.set_aside().await;
            }
            let due = self.failing.map(|since| since + SOON);
            let due = due.filter(|due| *due > Instant::now());
            tokio::select! {
                (line, outcome) = outcome(&mut self.attempt) => self.end(line, outcome).await,
                count = letters.recv_many(&mut more, WAVE_LETTERS), if is_open => {
                    is_open = count > 0;
                    self.waiting.append(&mut more);
                }
                () = words.next() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shutdown.requested(), if !is_stopping => is_stopping = true,
            }
        }
        if let Some(line) = self.line.take() {
            line.close().await;
        }
    }

    /// Whether the broker says that it takes no letters, or has taken none for a
    /// while.
    fn takes_none(&self) -> bool {
        let lasting = |since: Instant| since.elapsed() >= SOON;
        self.flow.is_blocked() || self.failing.is_some_and(lasting)
    }

    /// Publishes some letters, so many at most, unless some are on their way. The
    /// first on a connection goes alone: before that the broker does not tell it
    /// that it takes none.
    fn begin(&mut self, most: usize) {
        if self.attempt.is_some() || self.waiting.is_empty() || self.flow.is_blocked() {
            return;
        }
        let most = if self.line.is_some() { most } else { 1 };
        let size = wave_size(&self.waiting, most, self.desk.bus.prefetch_bytes);
        let letters = Arc::new(self.waiting.drain(..size).collect::<Vec<_>>());
        let (desk, line, pause) = (self.desk.clone(), self.line.take(), self.pause.take());
        let outcome = desk.attempt(letters.clone(), line, self.flow.clone(), pause);
        self.failing.get_or_insert_with(Instant::now);
        self.attempt = Some(Attempt {
            letters,
            outcome: outcome.boxed(),
        });
    }

    /// Takes letters back that are on their way. They may arrive all the same.
    fn give_up(&mut self) {
        let Some(Attempt { letters, outcome }) = self.attempt.take() else {
            return;
        };
        // It shares the letters.
        drop(outcome);
        let letters = Arc::into_inner(letters).unwrap_or_default();
        self.waiting.splice(..0, letters);
    }

    /// Hands on the letters that the broker has confirmed; keeps the others for
    /// another attempt.
    async fn end(&mut self, line: Option<Line>, outcome: Result<Sent, BusError>) {
        self.give_up();
        let error = match outcome {
            Ok(sent) if sent.iter().any(is_returned) => lost("the dead-letter queue is missing"),
            Ok(sent) => {
                let letters: Vec<_> = self.waiting.drain(..sent.len()).collect();
                let mut refused = Vec::new();
                for (letter, sent) in letters.into_iter().zip(sent) {
                    match sent {
                        Some((properties, Answer::Confirmed)) => {
                            failpoint::pass(Point::AfterLetter);
                            self.hand_on(letter, properties, true).await;
                        }
                        Some(_) => refused.push(letter),
                        // Its session is gone.
                        None => {}
                    }
                }
                if refused.is_empty() {
                    self.line = line;
                    self.failing = None;
                    self.backoff.reset();
                    return self.trouble.over("dead letters are published again");
                }
                self.waiting.splice(..0, refused);
                lost("the broker refused some (nack)")
            }
            Err(error) => error,
        };
        self.trouble.failed(&error);
        self.pause = Some(self.backoff.next_delay());
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
            let properties = self.desk.properties(&letter, self.desk.frame);
            self.hand_on(letter, properties, false).await;
        }
        self.waiting = too_large;
    }

    async fn hand_on(&mut self, letter: Letter, properties: BasicProperties, is_queued: bool) {
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
        let letter = reading::read(&properties, &message.body, &self.desk.bus);
        if let Some(sealed) = reading::seal(&properties, message.body) {
            let written = Written {
                letter,
                sealed,
                is_queued,
                origin: message.origin,
            };
            // An error says that the service ends: the broker redelivers.
            let _ = self.written.send(written).await;
        }
    }
}

impl Desk {
    /// Publishes letters, on a new connection if there is none, with the queue made
    /// sure of; the connection, if it may be used again.
    async fn attempt(
        self: Arc<Self>,
        letters: Arc<Vec<Letter>>,
        line: Option<Line>,
        flow: Flow,
        pause: Option<Duration>,
    ) -> (Option<Line>, Result<Sent, BusError>) {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let line = match line.filter(Line::is_open) {
            Some(line) => Ok(line),
            None => self.open(&flow).await,
        };
        match line {
            Ok(line) => {
                let sent = self.publish(&line, &letters).await;
                (Some(line), sent)
            }
            Err(error) => (None, Err(error)),
        }
    }

    async fn open(&self, flow: &Flow) -> Result<Line, BusError> {
        let name = "chat-counters dead letters";
        let line = Line::open(&self.bus, name, flow, Patience::Long).await?;
        topology::dead_letter_queue(&line.link, &self.bus).await?;
        Ok(line)
    }

    async fn publish(&self, line: &Line, letters: &[Letter]) -> Result<Sent, BusError> {
        let is_here = |letter: &Letter| !letter.message.origin.is_gone();
        let here: Vec<_> = letters.iter().map(is_here).collect();
        let letters = letters.iter().zip(&here);
        let letters = letters.filter_map(|(letter, here)| here.then_some(letter));
        let sent: Vec<_> = letters
            .map(|letter| (self.properties(letter, line.frame_max()), letter))
            .collect();
        let messages = sent.iter().map(|(properties, letter)| {
            failpoint::pass(Point::BeforeLetter);
            (properties.clone(), letter.message.body.as_slice())
        });
        let queue = short("bus.dead_letter_queue", &self.bus.dead_letter_queue)?;
        let answers = line.publish((PUBLISHING, queue), messages).await?;
        let properties = sent.into_iter().map(|(properties, _)| properties);
        let mut sent = properties.zip(answers);
        let sent = here.into_iter().map(|here| here.then(|| sent.next())?);
        Ok(sent.collect())
    }

    fn properties(&self, letter: &Letter, frame: usize) -> BasicProperties {
        letter.properties(OffsetDateTime::now_utc(), &self.host, frame)
    }
}

/// What an attempt comes to, if there is one.
async fn outcome(attempt: &mut Option<Attempt>) -> (Option<Line>, Result<Sent, BusError>) {
    match attempt {
        Some(attempt) => (&mut attempt.outcome).await,
        None => std::future::pending().await,
    }
}

/// lapin may hand a returned message to another letter's confirm when one answer
/// covers several: with one return, none is to be trusted.
fn is_returned(sent: &Option<(BasicProperties, Answer)>) -> bool {
    matches!(sent, Some((_, Answer::Returned)))
}

/// How many letters go together: one at least.
fn wave_size(letters: &[Letter], most: usize, bytes_in_flight: usize) -> usize {
    let window = letters
        .first()
        .map_or(1, |first| first.message.origin.back.window());
    let most = most.min(window / WINDOW_SHARE).min(WAVE_LETTERS);
    let most_bytes = WAVE_BYTES.min(bytes_in_flight / BYTES_SHARE);
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
