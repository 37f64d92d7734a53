//! A connection that publishes with confirms.

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

/// A queue without a leader confirms nothing: given up after this long.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a broker that takes nothing is waited for. Who gives up and connects
/// anew publishes anew, and then what waited on the first connection arrives too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As for any answer: somebody waits for it.
    Brief,
    /// For as long as originals may stay unacknowledged: RabbitMQ ends a consumer
    /// that holds some for half an hour.
    Long,
    /// Nobody waits, and nothing is held.
    Endless,
}

impl Patience {
    fn while_blocked(self) -> Duration {
        match self {
            Patience::Brief => ANSWER_TIMEOUT,
            Patience::Long => Duration::from_secs(10 * 60),
            Patience::Endless => Duration::MAX,
        }
    }
}

/// A connection of its own for what is published: the broker may stop reading from
/// it, and acknowledgements must still get through then.
pub(super) struct Line {
    pub(super) link: Link,
    channel: Channel,
    flow: Flow,
    patience: Patience,
    /// Ends with this.
    _listening: JoinSet<()>,
}

/// A message that is to be published.
pub(super) struct Outgoing<'m> {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// Whether it is to come back when no queue gets it.
    pub(super) is_mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: &'m [u8],
}

/// What the broker said to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Confirmed,
    Returned,
    Refused,
}

impl Line {
    pub(super) async fn open(
        bus: &config::Bus,
        name: &'static str,
        flow: &Flow,
        patience: Patience,
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
            patience,
            _listening: listening,
        })
    }

    /// Says good-bye to the broker.
    pub(super) async fn close(self) {
        self.link.close().await;
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Bytes of the largest frame; 0 is no limit.
    pub(super) fn frame_max(&self) -> usize {
        self.link.connection.configuration().frame_max() as usize
    }

    /// Publishes messages to a queue, and returns what the broker said to each.
    ///
    /// # Errors
    /// When that is not for certain: of some of them, perhaps.
    pub(super) async fn publish<'m>(
        &self,
        (doing, queue): (&str, ShortString),
        messages: impl Iterator<Item = (BasicProperties, &'m [u8])>,
    ) -> Result<Vec<Answer>, BusError> {
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
    /// When that is not for certain: of some of them, perhaps.
    pub(super) async fn publish_all<'m>(
        &self,
        doing: &str,
        messages: impl Iterator<Item = Outgoing<'m>>,
    ) -> Result<Vec<Answer>, BusError> {
        let answers = async {
            let mut confirms = Vec::new();
            for message in messages {
                let sent = self.send(message).await;
                confirms.push(sent.map_err(|error| BusError::while_doing(doing, &error))?);
            }
            let answers = join_all(confirms).await.into_iter().map(answer);
            let answers: lapin::Result<Vec<_>> = answers.collect();
            answers.map_err(|error| BusError::while_doing(doing, &error))
        };
        self.in_confirm_time(doing, answers).await
    }

    /// Returns once the message is written, so not while the broker takes nothing.
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

    async fn in_confirm_time<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let mut work = std::pin::pin!(work);
        let mut words = self.flow.words();
        loop {
            let blocked = self.flow.blocked();
            let limit = match blocked {
                None => CONFIRM_TIMEOUT,
                Some(_) => self.patience.while_blocked(),
            };
            tokio::select! {
                done = &mut work => return done,
                () = words.next() => continue,
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

fn answer(answer: lapin::Result<Confirmation>) -> lapin::Result<Answer> {
    Ok(match answer? {
        Confirmation::Ack(None) => Answer::Confirmed,
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Answer::Returned,
        Confirmation::Nack(None) | Confirmation::NotRequested => Answer::Refused,
    })
}
