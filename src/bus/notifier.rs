//! Publishing notifications, each confirmed by the broker.

use lapin::BasicProperties;
use lapin::types::ShortString;

use super::confirm_channel::{BlockedTimeout, ConfirmChannel, Outgoing, PublishOutcome};
use super::error::{BusError, short};
use super::flow::Flow;
use super::topology;
use super::{PERSISTENT, field_table};
use crate::config;
use crate::failpoint::{self, Point};

/// The longest short string of AMQP, such as a routing key, in bytes.
const MAX_SHORT_STRING_BYTES: usize = 255;

/// A message about something that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Decides which queues get the message. What is longer than 255 bytes is cut.
    pub routing_key: String,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The same for each time that it is published, if it has such a name, of 255
    /// bytes at most.
    pub message_id: Option<String>,
    /// What kind of message it is, if the properties are to say so.
    pub message_type: Option<&'static str>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    /// For those who bind or sort by headers: texts alone, which AMQP 1.0 has too.
    pub headers: Vec<(&'static str, String)>,
    /// The message itself.
    pub body: Vec<u8>,
}

/// A connection of its own that publishes notifications to a topic exchange. A
/// broker that takes nothing is waited for without an end: nobody waits for this.
pub(crate) struct Notifier {
    channel: ConfirmChannel,
    exchange: ShortString,
}

impl Notifier {
    /// Connects, and declares the exchange if there is none.
    ///
    /// # Errors
    /// Any [`BusError`]; an exchange of another type is [`BusError::Incompatible`].
    pub(crate) async fn open(
        bus: &config::Bus,
        notify: &config::Notify,
        flow: &Flow,
    ) -> Result<Self, BusError> {
        const KEY: &str = "notify.exchange";
        let name = "chat-counters notifications";
        let channel = ConfirmChannel::open(bus, name, flow, BlockedTimeout::Never).await?;
        topology::topic_exchange(&channel.link, KEY, &notify.exchange).await?;
        let exchange = short(KEY, &notify.exchange)?;
        Ok(Self { channel, exchange })
    }

    /// Whether the connection is there, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// Publishes messages, and returns for each whether the broker has taken it.
    /// It takes those that no queue is bound for, too: nobody wants them.
    ///
    /// # Errors
    /// When that is not for certain: some may have been taken.
    pub(crate) async fn publish(&self, messages: &[Notification]) -> Result<Vec<bool>, BusError> {
        let outgoing = messages.iter().enumerate().map(|(number, message)| {
            if number > 0 {
                failpoint::pass(Point::NotifySent);
            }
            Outgoing {
                exchange: self.exchange.clone(),
                routing_key: clipped(&message.routing_key),
                is_mandatory: false,
                properties: properties(message),
                body: &message.body,
            }
        });
        let doing = "publishing notifications";
        let outcomes = self.channel.publish_all(doing, outgoing).await?;
        let outcomes = outcomes.into_iter();
        Ok(outcomes
            .map(|outcome| outcome == PublishOutcome::Confirmed)
            .collect())
    }
}

fn properties(message: &Notification) -> BasicProperties {
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| ((*name).into(), field_table::text(value)));
    let headers = field_table::collected(headers);
    let mut properties = BasicProperties::default()
        .with_content_type(message.content_type.into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(message.timestamp)
        .with_headers(headers);
    if let Some(id) = &message.message_id {
        properties = properties.with_message_id(clipped(id));
    }
    if let Some(kind) = message.message_type {
        properties = properties.with_type(kind.into());
    }
    properties
}

/// Cuts a text to what a short string of AMQP holds.
fn clipped(text: &str) -> ShortString {
    let mut end = text.len().min(MAX_SHORT_STRING_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(clipped("user.t.u").as_str(), "user.t.u");
        let long = format!("{}é{}", "x".repeat(254), "y".repeat(300));
        assert_eq!(clipped(&long).as_str(), "x".repeat(254));
        let long = "z".repeat(256);
        assert_eq!(clipped(&long).as_str(), "z".repeat(255));
    }
}
