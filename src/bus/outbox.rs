//! Sending letters on: to the service's queue once more, or back into the
//! dead-letter queue. Each is confirmed before anything else happens to it.

use std::collections::BTreeMap;

use lapin::BasicProperties;

use super::error::{BusError, short};
use super::flow::Flow;
use super::line::{Answer, Line, Patience};
use super::{connect, filter, reading, topology};
use crate::config;
use crate::deadletter::{DeadLetter, Sealed};

/// Why one letter was not sent on, while others were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The broker would end the connection over it.
    #[error(
        "its properties and headers take a frame of {bytes} bytes, and RabbitMQ takes frames of {most} from this connection: let both take more (frame_max of RabbitMQ and of bus.url), or publish its body anew (`chat-counters dlq show ID --body`) and discard it"
    )]
    FrameTooLarge {
        /// Bytes of the frame.
        bytes: usize,
        /// Bytes of the largest frame.
        most: usize,
    },
    /// Its properties cannot be read.
    #[error(
        "its AMQP properties are damaged: it cannot be sent on. `chat-counters dlq show ID --body` has its body, to be published anew"
    )]
    Damaged,
    /// The broker refused it.
    #[error(
        "RabbitMQ did not take it into the queue {queue:?} (nack): it is full, or has no leader"
    )]
    Refused {
        /// Which queue.
        queue: String,
    },
}

/// What became of each letter, in their order.
pub type Sent = Vec<Result<(), Unsent>>;

/// A connection of its own: a broker short of memory stops reading from those
/// that publish, and removals must still get through then.
pub struct Outbox {
    line: Line,
    bus: config::Bus,
}

impl Outbox {
    /// Connects, and makes sure of the queues.
    ///
    /// # Errors
    /// Any [`BusError`].
    pub async fn open(
        bus: &config::Bus,
        flow: &Flow,
        patience: Patience,
    ) -> Result<Self, BusError> {
        let name = "chat-counters dead letters, outbox";
        let line = Line::open(bus, name, flow, patience).await?;
        topology::declare(&line.link, bus).await?;
        let bus = bus.clone();
        Ok(Self { line, bus })
    }

    /// Sends letters to the service's queue, on account of a job. When it
    /// returns, the broker is responsible for those that were sent.
    ///
    /// # Errors
    /// When it is not for certain: of some of them, perhaps.
    pub async fn replay(
        &self,
        letters: &[(&DeadLetter, &Sealed)],
        job: &str,
    ) -> Result<Sent, BusError> {
        let messages = letters.iter().map(|(letter, sealed)| {
            let properties = reading::opened(&sealed.properties).ok_or(Unsent::Damaged)?;
            let properties = reading::replayed(&properties, letter, job);
            Ok((properties, sealed.body.as_slice()))
        });
        self.publish("bus.queue", &self.bus.queue, messages).await
    }

    /// Puts letters back into the dead-letter queue as they were.
    ///
    /// # Errors
    /// When it is not for certain: of some of them, perhaps.
    pub async fn put_back(&self, letters: &[&Sealed]) -> Result<Sent, BusError> {
        let messages = letters.iter().map(|sealed| {
            let properties = reading::opened(&sealed.properties).ok_or(Unsent::Damaged)?;
            Ok((properties, sealed.body.as_slice()))
        });
        let queue = &self.bus.dead_letter_queue;
        self.publish("bus.dead_letter_queue", queue, messages).await
    }

    async fn publish<'m>(
        &self,
        key: &'static str,
        queue: &str,
        messages: impl Iterator<Item = Result<(BasicProperties, &'m [u8]), Unsent>>,
    ) -> Result<Sent, BusError> {
        let mut sent = Sent::new();
        let mut messages_sent = Vec::new();
        for message in messages {
            let message = message.and_then(|(properties, body)| {
                self.measure(&properties)?;
                Ok((properties, body))
            });
            sent.push(message.map(|message| messages_sent.push(message)));
        }
        let to = ("sending dead letters on", short(key, queue)?);
        let answers = self.line.publish(to, messages_sent.into_iter()).await?;
        // lapin may hand a returned message to another's confirm: with one
        // return, trust none.
        let returned = |answer: &Answer| matches!(answer, Answer::Returned);
        if answers.iter().any(returned) {
            return Err(BusError::Lost {
                doing: format!("sending dead letters to {queue:?}"),
                why: "the queue is missing".into(),
            });
        }
        let awaited = sent.iter_mut().filter(|sent| sent.is_ok());
        for (sent, answer) in awaited.zip(answers) {
            if !matches!(answer, Answer::Confirmed) {
                let queue = queue.to_owned();
                *sent = Err(Unsent::Refused { queue });
            }
        }
        Ok(sent)
    }

    /// Whether the frame of these properties may be sent: over a larger one the
    /// broker ends the connection, and whatever goes with it is lost.
    fn measure(&self, properties: &BasicProperties) -> Result<(), Unsent> {
        measured(properties, self.line.frame_max())
    }

    /// Events that wait in the service's queue.
    ///
    /// # Errors
    /// When the broker is lost.
    pub async fn waiting(&self) -> Result<u32, BusError> {
        let counts = topology::counts(&self.line.link, "bus.queue", &self.bus.queue).await?;
        Ok(counts.map_or(0, |counts| counts.ready))
    }

    /// Says good-bye to the broker.
    pub async fn close(self) {
        self.line.close().await;
    }
}

fn measured(properties: &BasicProperties, most: usize) -> Result<(), Unsent> {
    let bytes = reading::encoded(properties).ok_or(Unsent::Damaged)?.len();
    let bytes = bytes + filter::AROUND_PROPERTIES;
    // 0 is no limit.
    match most > 0 && bytes > most {
        true => Err(Unsent::FrameTooLarge { bytes, most }),
        false => Ok(()),
    }
}

/// Bytes of a frame that are asked for; the broker may want smaller ones.
pub async fn frame_asked_for(bus: &config::Bus) -> usize {
    connect::frame_asked_for(bus).await
}

/// Whether a letter that was kept can be replayed, with frames of so many bytes.
///
/// # Errors
/// Why not.
pub fn replayable(
    letter: &DeadLetter,
    sealed_properties: &[u8],
    job: &str,
    frame_max: usize,
) -> Result<(), Unsent> {
    let properties = reading::opened(sealed_properties).ok_or(Unsent::Damaged)?;
    measured(&reading::replayed(&properties, letter, job), frame_max)
}

/// What a letter that was kept says of itself, apart from its body, by name.
pub fn shown(sealed_properties: &[u8]) -> BTreeMap<String, String> {
    let properties = reading::opened(sealed_properties);
    let shown = properties.map(|properties| reading::shown(&properties));
    shown.into_iter().flatten().collect()
}
