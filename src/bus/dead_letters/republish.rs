//! Publishes letters once more: to the service's queue, or back into the dead-letter
//! queue. Each is confirmed before anything else happens to it.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::AMQPValue;

use super::{decode, raw};
use crate::bus::confirm_channel::{BlockedTimeout, ConfirmChannel, PublishOutcome};
use crate::bus::error::{BusError, short};
use crate::bus::field_table::{rfc3339, text, without};
use crate::bus::flow::Flow;
use crate::bus::{PERSISTENT, connect, filter, headers, topology};
use crate::config;
use crate::deadletter::{DeadLetter, RawMessage};

/// Why one letter was not published, while others were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepublishError {
    /// The broker would end the connection over the letter's properties.
    #[error(
        "its properties and headers take a frame of {bytes} bytes, and RabbitMQ takes frames of {most} from this connection: let both take more (frame_max of RabbitMQ and of bus.url), or publish its body anew (`chat-counters dlq show ID --body`) and discard it"
    )]
    FrameTooLarge {
        /// The size of the frame that the properties need, in bytes.
        bytes: usize,
        /// The size of the largest frame that the broker takes, in bytes.
        most: usize,
    },
    /// The letter's properties cannot be read.
    #[error(
        "its AMQP properties are damaged: it cannot be sent on. `chat-counters dlq show ID --body` has its body, to be published anew"
    )]
    Damaged,
    /// The broker refused the letter (nack).
    #[error(
        "RabbitMQ did not take it into the queue {queue:?} (nack): it is full, or has no leader"
    )]
    Refused {
        /// The queue to which the letter was published.
        queue: String,
    },
}

/// What became of each letter, in the order in which they were given.
pub(crate) type RepublishResults = Vec<Result<(), RepublishError>>;

/// Publishes letters on a connection of its own: a broker short of memory stops reading
/// from those that publish, and removals must still get through then.
pub(crate) struct Republisher {
    channel: ConfirmChannel,
    bus: config::Bus,
}

impl Republisher {
    /// Connects, and declares the queues where they are missing.
    ///
    /// # Errors
    /// Any [`BusError`].
    pub(crate) async fn open(
        bus: &config::Bus,
        flow: &Flow,
        blocked_timeout: BlockedTimeout,
    ) -> Result<Self, BusError> {
        let name = "chat-counters dead letters, outbox";
        let channel = ConfirmChannel::open(bus, name, flow, blocked_timeout).await?;
        topology::declare(&channel.link, bus).await?;
        let bus = bus.clone();
        Ok(Self { channel, bus })
    }

    /// Publishes letters to the service's queue, on account of a job. When it returns,
    /// the broker is responsible for those that it took.
    ///
    /// # Errors
    /// When the connection is lost: some of the letters may have arrived.
    pub(crate) async fn replay(
        &self,
        letters: &[(&DeadLetter, &RawMessage)],
        job: &str,
    ) -> Result<RepublishResults, BusError> {
        let messages = letters.iter().map(|(letter, message)| {
            let properties = raw::decoded(&message.properties).ok_or(RepublishError::Damaged)?;
            let properties = replayed(&properties, letter, job);
            Ok((properties, message.body.as_slice()))
        });
        self.publish("bus.queue", &self.bus.queue, messages).await
    }

    /// Puts letters back into the dead-letter queue as they were.
    ///
    /// # Errors
    /// When the connection is lost: some of the letters may have arrived.
    pub(crate) async fn put_back(
        &self,
        letters: &[&RawMessage],
    ) -> Result<RepublishResults, BusError> {
        let messages = letters.iter().map(|message| {
            let properties = raw::decoded(&message.properties).ok_or(RepublishError::Damaged)?;
            Ok((properties, message.body.as_slice()))
        });
        let queue = &self.bus.dead_letter_queue;
        self.publish("bus.dead_letter_queue", queue, messages).await
    }

    /// Publishes the messages that can be, to the queue that a key of the configuration
    /// names.
    async fn publish<'m>(
        &self,
        key: &'static str,
        queue: &str,
        messages: impl Iterator<Item = Result<(BasicProperties, &'m [u8]), RepublishError>>,
    ) -> Result<RepublishResults, BusError> {
        let mut results = RepublishResults::new();
        let mut publishable = Vec::new();
        for message in messages {
            let message = message.and_then(|(properties, body)| {
                fits_into_frame(&properties, self.channel.frame_max())?;
                Ok((properties, body))
            });
            results.push(message.map(|message| publishable.push(message)));
        }
        let to = ("sending dead letters on", short(key, queue)?);
        let outcomes = self.channel.publish(to, publishable.into_iter()).await?;
        // lapin may hand a returned message to another's confirm: with one
        // return, trust none.
        if outcomes.contains(&PublishOutcome::Returned) {
            return Err(BusError::Lost {
                doing: format!("sending dead letters to {queue:?}"),
                why: "the queue is missing".into(),
            });
        }
        let published = results.iter_mut().filter(|result| result.is_ok());
        for (result, outcome) in published.zip(outcomes) {
            if outcome != PublishOutcome::Confirmed {
                let queue = queue.to_owned();
                *result = Err(RepublishError::Refused { queue });
            }
        }
        Ok(results)
    }

    /// Counts the events that wait in the service's queue.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) async fn waiting_events(&self) -> Result<u32, BusError> {
        let counts = topology::counts(&self.channel.link, "bus.queue", &self.bus.queue).await?;
        Ok(counts.map_or(0, |counts| counts.ready))
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.channel.close().await;
    }
}

/// Makes the properties with which a letter goes back to the service's queue: those of
/// the letter, with what only the broker said of it written into this service's own
/// headers, and the job that replays it.
///
/// What the broker adds to what it dead-letters by itself is taken away: the replayed
/// letter would be taken for one that goes round in circles.
pub(super) fn replayed(
    properties: &BasicProperties,
    letter: &DeadLetter,
    job: &str,
) -> BasicProperties {
    let table = properties.headers().clone().unwrap_or_default();
    let table = without(&table, &headers::DEATH_SUMMARY);
    let counts = [
        headers::DEATHS,
        headers::DELIVERY_COUNT,
        headers::ACQUIRED_COUNT,
        headers::BROKER_DEATHS,
    ];
    let mut table = without(&table, &counts);
    let attempts = i64::try_from(letter.attempts).unwrap_or(i64::MAX);
    for (name, value) in [
        (headers::ATTEMPTS, AMQPValue::LongLongInt(attempts)),
        (headers::REPLAYED_BY, text(job)),
        (headers::SOURCE_EXCHANGE, text(&letter.exchange)),
        (headers::SOURCE_ROUTING_KEY, text(&letter.routing_key)),
    ] {
        table.insert(name.into(), value);
    }
    if let Some(first) = letter.first_failed_at {
        table.insert(headers::FIRST_FAILED_AT.into(), text(&rfc3339(first)));
    }
    properties
        .clone()
        .with_headers(table)
        .with_delivery_mode(PERSISTENT)
}

/// Checks that properties fit into a frame of so many bytes; 0 is no limit. Over a
/// larger one the broker ends the connection, and whatever goes with it is lost.
fn fits_into_frame(properties: &BasicProperties, most: usize) -> Result<(), RepublishError> {
    let encoded = raw::encoded(properties).ok_or(RepublishError::Damaged)?;
    let bytes = encoded.len() + filter::AROUND_PROPERTIES;
    match most > 0 && bytes > most {
        true => Err(RepublishError::FrameTooLarge { bytes, most }),
        false => Ok(()),
    }
}

/// The size of the largest frame that this service asks for, in bytes; the broker may
/// want smaller ones.
pub(crate) async fn requested_frame_max(bus: &config::Bus) -> usize {
    connect::requested_frame_max(bus).await
}

/// Checks that a letter that was kept can be replayed with frames of so many bytes.
///
/// # Errors
/// [`RepublishError::Damaged`] and [`RepublishError::FrameTooLarge`].
pub(crate) fn check_replayable(
    letter: &DeadLetter,
    encoded_properties: &[u8],
    job: &str,
    frame_max: usize,
) -> Result<(), RepublishError> {
    let properties = raw::decoded(encoded_properties).ok_or(RepublishError::Damaged)?;
    fits_into_frame(&replayed(&properties, letter, job), frame_max)
}

/// Lists what a letter that was kept says of itself apart from its body, by name.
pub(crate) fn listed_headers(encoded_properties: &[u8]) -> BTreeMap<String, String> {
    let properties = raw::decoded(encoded_properties);
    let listed = properties.map(|properties| decode::listed(&properties));
    listed.into_iter().flatten().collect()
}
