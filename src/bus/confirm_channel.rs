//! A connection that publishes with confirms: for dead letters and notifications.

use std::time::Duration;

use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::task::JoinSet;

use super::connect::{ANSWER_TIMEOUT, Link, in_time};
use super::error::BusError;
use super::flow::Flow;
use crate::config;

/// How long a confirm is waited for while the broker takes messages: a queue without a
/// leader confirms nothing.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// [`BlockedTimeout::HoldTime`]: RabbitMQ ends a consumer that leaves a delivery
/// unacknowledged for half an hour.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long a confirm is waited for while the broker blocks the connection. Whoever
/// gives up and connects anew publishes anew, and what waited on the first connection
/// arrives too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockedTimeout {
    /// As long as for any answer: somebody waits for it.
    Answer,
    /// As long as originals may stay unacknowledged.
    HoldTime,
    /// For ever: nobody waits, and nothing is held meanwhile.
    Never,
}

impl BlockedTimeout {
    fn duration(self) -> Duration {
        match self {
            BlockedTimeout::Answer => ANSWER_TIMEOUT,
            BlockedTimeout::HoldTime => HOLD_TIMEOUT,
            BlockedTimeout::Never => Duration::MAX,
        }
    }
}

/// A channel in confirm mode, on a connection of its own: the broker may stop reading
/// from it, and acknowledgements must still get through then.
pub(super) struct ConfirmChannel {
    pub(super) link: Link,
    channel: Channel,
    flow: Flow,
    blocked_timeout: BlockedTimeout,
    /// Ends with this.
    _listening: JoinSet<()>,
}

/// A message that is to be published.
pub(super) struct Outgoing<'m> {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// Whether the message is to come back when no queue gets it.
    pub(super) is_mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: &'m [u8],
}

/// What the broker said to a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    /// The broker has taken responsibility for the message (ack).
    Confirmed,
    /// No queue was bound for the message, which was mandatory.
    Returned,
    /// A queue refused the message (nack).
    Refused,
}

impl ConfirmChannel {
    /// Connects, and switches confirms on.
    pub(super) async fn open(
        bus: &config::Bus,
        name: &'static str,
        flow: &Flow,
        blocked_timeout: BlockedTimeout,
    ) -> Result<Self, BusError> {
        let link = Link::open(bus, name).await?;
        let listening = flow.listen(&link.connection);
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        in_time("asking for publisher confirms", confirms).await?;
        Ok(Self {
            link,
            channel,
            flow: flow.clone(),
            blocked_timeout,
            _listening: listening,
        })
    }

    /// Closes the connection.
    pub(super) async fn close(self) {
        self.link.close().await;
    }

    /// Whether the channel is open, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// The size of the largest frame that the broker takes, in bytes; 0 is no limit.
    pub(super) fn frame_max(&self) -> usize {
        self.link.connection.configuration().frame_max() as usize
    }

    /// Publishes messages to a queue, and returns what the broker said to each.
    ///
    /// # Errors
    /// When the connection is lost: some of the messages may have arrived.
    pub(super) async fn publish<'m>(
        &self,
        (doing, queue): (&str, ShortString),
        messages: impl Iterator<Item = (BasicProperties, &'m [u8])>,
    ) -> Result<Vec<PublishOutcome>, BusError> {
        let messages = messages.map(|(properties, body)| Outgoing {
            exchange: "".into(),
            routing_key: queue.clone(),
            is_mandatory: true,
            properties,
            body,
        });
        self.publish_all(doing, messages).await
    }

    /// Publishes messages, each to its exchange, and returns what the broker said
    /// to each.
    ///
    /// # Errors
    /// When the connection is lost: some of the messages may have arrived.
    pub(super) async fn publish_all<'m>(
        &self,
        doing: &str,
        messages: impl Iterator<Item = Outgoing<'m>>,
    ) -> Result<Vec<PublishOutcome>, BusError> {
        let answers = async {
            let mut confirms = Vec::new();
            for message in messages {
                let sent = self.send(message).await;
                confirms.push(sent.map_err(|error| BusError::while_doing(doing, &error))?);
            }
            let answers = join_all(confirms).await.into_iter().map(outcome);
            let outcomes: lapin::Result<Vec<_>> = answers.collect();
            outcomes.map_err(|error| BusError::while_doing(doing, &error))
        };
        self.in_confirm_time(doing, answers).await
    }

    /// Returns once the message is written, so not while the broker blocks the
    /// connection.
    async fn send(&self, message: Outgoing<'_>) -> lapin::Result<PublisherConfirm> {
        let options = BasicPublishOptions {
            mandatory: message.is_mandatory,
            ..Default::default()
        };
        let sent = self.channel.basic_publish(
            message.exchange,
            message.routing_key,
            options,
            message.body,
            message.properties,
        );
        sent.await
    }

    /// Awaits confirms for as long as that makes sense, blocked or not.
    async fn in_confirm_time<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let mut work = std::pin::pin!(work);
        let mut changes = self.flow.changes();
        loop {
            let blocked = self.flow.blocked();
            let limit = match blocked {
                None => CONFIRM_TIMEOUT,
                Some(_) => self.blocked_timeout.duration(),
            };
            tokio::select! {
                done = &mut work => return done,
                () = changes.next() => continue,
                () = tokio::time::sleep(limit) => {}
            }
            return Err(BusError::Lost {
                doing: doing.into(),
                why: match blocked {
                    None => "no confirm came in time".into(),
                    Some(reason) => format!("it takes no messages ({reason})"),
                },
            });
        }
    }
}

fn outcome(answer: lapin::Result<Confirmation>) -> lapin::Result<PublishOutcome> {
    Ok(match answer? {
        Confirmation::Ack(None) => PublishOutcome::Confirmed,
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => PublishOutcome::Returned,
        Confirmation::Nack(None) | Confirmation::NotRequested => PublishOutcome::Refused,
    })
}
