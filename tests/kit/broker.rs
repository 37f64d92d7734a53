//! Looking at queues, and removing them, past the service.

use chat_counters::config;
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::service::Result;

/// A message in the dead-letter queue.
#[derive(Debug)]
pub(crate) struct Letter {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Letter {
    /// A header as text; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> String {
        let headers = self.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            Some(AMQPValue::ShortString(text)) => text.to_string(),
            Some(AMQPValue::LongLongInt(number)) => number.to_string(),
            Some(AMQPValue::LongInt(number)) => number.to_string(),
            Some(AMQPValue::LongUInt(number)) => number.to_string(),
            Some(other) => format!("{other:?}"),
            None => String::new(),
        }
    }
}

/// A channel on a connection of its own.
pub(crate) async fn channel(bus: &config::Bus) -> Result<(Connection, Channel)> {
    let url = bus.url.expose();
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// How many messages are ready in a queue.
pub(crate) async fn depth(bus: &config::Bus, queue: &str) -> Result<u32> {
    let (connection, channel) = channel(bus).await?;
    let depth = ready(&channel, queue).await?;
    connection.close(200, "done".into()).await?;
    Ok(depth)
}

/// How many messages are ready in a queue, asked on a channel that is there.
pub(crate) async fn ready(channel: &Channel, queue: &str) -> Result<u32> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    Ok(declared.await?.message_count())
}

/// Removes the events' exchange, and every binding with it.
pub(crate) async fn delete_exchange(channel: &Channel, bus: &config::Bus) -> Result<()> {
    let (exchange, options) = (bus.exchange.as_str(), ExchangeDeleteOptions::default());
    Ok(channel.exchange_delete(exchange.into(), options).await?)
}

/// Removes the service's queue and that of its dead letters.
pub(crate) async fn delete_queues(channel: &Channel, bus: &config::Bus) -> Result<()> {
    for queue in [&bus.queue, &bus.dead_letter_queue] {
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.as_str().into(), options).await?;
    }
    Ok(())
}

/// Takes so many dead letters out of their queue.
pub(crate) async fn letters(bus: &config::Bus, count: usize) -> Result<Vec<Letter>> {
    read_letters(bus, count, true).await
}

/// Looks at so many dead letters, and leaves them in their queue.
pub(crate) async fn look_at_letters(bus: &config::Bus, count: usize) -> Result<Vec<Letter>> {
    read_letters(bus, count, false).await
}

async fn read_letters(bus: &config::Bus, count: usize, no_ack: bool) -> Result<Vec<Letter>> {
    let (connection, channel) = channel(bus).await?;
    let queue = bus.dead_letter_queue.as_str();
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel
        .basic_consume(queue.into(), "test".into(), options, FieldTable::default())
        .await?;
    let letters = consumer.take(count).map(|delivery| {
        delivery.map(|delivery| Letter {
            body: delivery.data,
            properties: delivery.properties,
        })
    });
    let letters: Vec<_> = letters.collect().await;
    connection.close(200, "done".into()).await?;
    Ok(letters.into_iter().collect::<std::result::Result<_, _>>()?)
}
