//! Publishing events, each confirmed by the broker.

use std::collections::VecDeque;

use futures::FutureExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::connect::{Link, in_time};
use super::error::{BusError, short};
use super::field_table::{table, text};
use super::{PERSISTENT, headers, topology};
use crate::config;

/// The most events that await their confirms at the same time.
const MAX_OUTSTANDING: usize = 2_000;

/// Publishes to the exchange of the configuration. Many confirms may be
/// outstanding at once; [`finish`](Publisher::finish) awaits the last of them.
pub struct Publisher {
    link: Link,
    channel: Channel,
    exchange: ShortString,
    outstanding: VecDeque<PublisherConfirm>,
    tally: PublishTally,
}

/// How many of the events published so far have arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishTally {
    /// Events that the broker has routed to a queue at least, and taken responsibility for.
    pub confirmed: u64,
    /// Events for which no queue was bound: nobody has kept them.
    pub unroutable: u64,
    /// Events that the broker has refused.
    pub nacked: u64,
}

/// The headers of an event, as Chat3 sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeaders<'a> {
    /// The type of the event, such as `message.create`.
    pub event_type: &'a str,
    /// The type of the entity that the event is about, such as `message`.
    pub entity_type: &'a str,
    /// The id of the event's tenant.
    pub tenant_id: &'a str,
}

impl EventHeaders<'_> {
    /// The routing key of the event, as [`routing_key`] makes it.
    pub fn routing_key(&self) -> String {
        routing_key(self.entity_type, self.event_type, self.tenant_id)
    }
}

/// The routing key of an event, `{entityType}.{action}.{tenantId}`; the action
/// is the last segment of the event's type.
pub(crate) fn routing_key(entity_type: &str, event_type: &str, tenant_id: &str) -> String {
    let action = event_type.rsplit('.').next().unwrap_or_default();
    format!("{entity_type}.{action}.{tenant_id}")
}

impl Publisher {
    /// Connects, and declares the exchange if there is none.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses, or the exchange exists
    /// and is not a topic exchange.
    pub async fn connect(config: &config::Bus) -> Result<Publisher, BusError> {
        let exchange = short("bus.exchange", &config.exchange)?;
        let link = Link::open(config, "chat-counters publisher").await?;
        topology::exchange(&link, config).await?;
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        in_time("asking for publisher confirms", confirms).await?;
        Ok(Publisher {
            link,
            channel,
            exchange,
            outstanding: VecDeque::new(),
            tally: PublishTally::default(),
        })
    }

    /// Publishes one persistent message. Returns before it is confirmed;
    /// waits only while 2,000 others are not.
    ///
    /// # Errors
    /// [`BusError::Interrupted`] when the connection is lost: this publisher
    /// is then of no more use. [`BusError::NameTooLong`] for a routing key
    /// over 255 bytes: nothing was sent, the next may be.
    pub async fn publish(
        &mut self,
        routing_key: &str,
        headers: Option<&EventHeaders<'_>>,
        body: &[u8],
    ) -> Result<(), BusError> {
        let routing_key = short("the routing key", routing_key)?;
        self.collect(MAX_OUTSTANDING - 1).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let exchange = self.exchange.clone();
        let properties = properties(headers);
        let sent = self
            .channel
            .basic_publish(exchange, routing_key, options, body, properties);
        match sent.await {
            Ok(confirm) => self.outstanding.push_back(confirm),
            Err(error) => return Err(self.interrupted(1, &error)),
        }
        Ok(())
    }

    /// Counts what became of the events so far; those that are not counted are outstanding.
    pub fn tally(&self) -> PublishTally {
        self.tally
    }

    /// Awaits every confirm and closes the connection.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub async fn finish(mut self) -> Result<PublishTally, BusError> {
        self.collect(0).await?;
        self.link.close().await;
        Ok(self.tally)
    }

    /// Takes up the confirms that are there, and awaits so many that at most
    /// `left` stay outstanding.
    async fn collect(&mut self, left: usize) -> Result<(), BusError> {
        loop {
            let full = self.outstanding.len() > left;
            let Some(confirm) = self.outstanding.front_mut() else {
                return Ok(());
            };
            let answer = if full {
                confirm.await
            } else if let Some(answer) = confirm.now_or_never() {
                answer
            } else {
                return Ok(());
            };
            self.outstanding.pop_front();
            match answer {
                Ok(Confirmation::Ack(None)) => self.tally.confirmed += 1,
                // Which event was returned is not certain, only how many were.
                Ok(Confirmation::Ack(Some(_))) => self.tally.unroutable += 1,
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => self.tally.nacked += 1,
                Err(error) => return Err(self.interrupted(1, &error)),
            }
        }
    }

    /// Of what is outstanding, plus `more`, no one knows.
    fn interrupted(&self, more: u64, error: &lapin::Error) -> BusError {
        BusError::Interrupted {
            confirmed: self.tally.confirmed,
            unconfirmed: self.outstanding.len() as u64 + more,
            cause: Box::new(BusError::while_doing("publishing", error)),
        }
    }
}

fn properties(event: Option<&EventHeaders<'_>>) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT);
    let Some(event) = event else {
        return properties;
    };
    properties.with_headers(table([
        (headers::EVENT_TYPE, text(event.event_type)),
        (headers::ENTITY_TYPE, text(event.entity_type)),
        (headers::TENANT_ID, text(event.tenant_id)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::routing_key;

    #[test]
    fn a_routing_key_ends_the_event_type_in_its_last_segment() {
        assert_eq!(
            routing_key("message", "message.create", "t1"),
            "message.create.t1"
        );
        let key = routing_key("messageStatus", "message.status.changed", "t.1");
        assert_eq!(key, "messageStatus.changed.t.1");
    }
}
