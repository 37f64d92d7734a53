//! Sending letters on: to the service's queue once more, or back into the
//! dead-letter queue. Each is confirmed before anything else happens to it.

use std::collections::BTreeMap;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};

use super::connect::{Link, in_time};
use super::error::{BusError, short};
use super::letters::{Answer, in_confirm_time};
use super::{reading, topology};
use crate::config;
use crate::deadletter::{DeadLetter, Sealed};

/// A connection of its own: a broker short of memory stops reading from those
/// that publish, and removals must still get through then.
pub struct Outbox {
    link: Link,
    channel: Channel,
    bus: config::Bus,
}

impl Outbox {
    /// Connects, and makes sure of the queues.
    ///
    /// # Errors
    /// Any [`BusError`].
    pub async fn open(bus: &config::Bus) -> Result<Self, BusError> {
        let link = Link::open(bus.url.expose(), "chat-counters dead letters, outbox").await?;
        topology::declare(&link, bus).await?;
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        in_time("asking for publisher confirms", confirms).await?;
        Ok(Self {
            link,
            channel,
            bus: bus.clone(),
        })
    }

    /// Sends letters to the service's queue, on account of a job. When it
    /// returns, the broker is responsible for all of them.
    ///
    /// # Errors
    /// When it is not for certain: of some of them, perhaps.
    pub async fn replay(
        &self,
        letters: &[(&DeadLetter, &Sealed)],
        job: &str,
    ) -> Result<(), BusError> {
        let messages = letters.iter().map(|(letter, sealed)| {
            let properties = reading::opened(&sealed.properties).ok_or(BusError::Damaged)?;
            let properties = reading::replayed(&properties, letter, job);
            Ok((properties, sealed.body.as_slice()))
        });
        let messages = messages.collect::<Result<Vec<_>, BusError>>()?;
        self.publish("bus.queue", &self.bus.queue, messages).await
    }

    /// Puts letters back into the dead-letter queue as they were.
    ///
    /// # Errors
    /// When it is not for certain: of some of them, perhaps.
    pub async fn put_back(&self, letters: &[&Sealed]) -> Result<(), BusError> {
        let messages = letters.iter().map(|sealed| {
            let properties = reading::opened(&sealed.properties).ok_or(BusError::Damaged)?;
            Ok((properties, sealed.body.as_slice()))
        });
        let messages = messages.collect::<Result<Vec<_>, BusError>>()?;
        let queue = &self.bus.dead_letter_queue;
        self.publish("bus.dead_letter_queue", queue, messages).await
    }

    async fn publish(
        &self,
        key: &'static str,
        queue: &str,
        messages: Vec<(BasicProperties, &[u8])>,
    ) -> Result<(), BusError> {
        let mut confirms = Vec::with_capacity(messages.len());
        for (properties, body) in messages {
            let queue = short(key, queue)?;
            let options = BasicPublishOptions {
                mandatory: true,
                ..Default::default()
            };
            let sent = self
                .channel
                .basic_publish("".into(), queue, options, body, properties);
            confirms.push(in_time("sending a dead letter on", sent).await?);
        }
        let answers = in_confirm_time(confirms).await?;
        let taken = |answer: &Answer| matches!(answer, Answer::Confirmed);
        if answers.iter().all(taken) {
            return Ok(());
        }
        Err(BusError::Lost {
            doing: format!("sending dead letters to {queue:?}"),
            why: "the broker did not take all of them: the queue is missing, or full".into(),
        })
    }

    /// Events that wait in the service's queue.
    ///
    /// # Errors
    /// When the broker is lost.
    pub async fn waiting(&self) -> Result<u32, BusError> {
        let counts = topology::counts(&self.link, "bus.queue", &self.bus.queue).await?;
        Ok(counts.map_or(0, |counts| counts.ready))
    }

    /// Says good-bye to the broker.
    pub async fn close(self) {
        self.link.close().await;
    }
}

/// What a letter that was kept says of itself, apart from its body, by name.
pub fn shown(sealed_properties: &[u8]) -> BTreeMap<String, String> {
    let properties = reading::opened(sealed_properties);
    let shown = properties.map(|properties| reading::shown(&properties));
    shown.into_iter().flatten().collect()
}
