//! What the service needs at the broker: declared where it is missing, checked
//! where it exists.
//!
//! A declaration that the broker refuses closes its channel, so each one gets
//! a channel of its own.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::connect::{Link, in_time};
use super::error::{BusError, Mismatch, amqp_code, answer, short};
use super::field_table::{table, text};
use crate::config;

/// How often the broker delivers one dead letter before it drops it: RabbitMQ 4 would
/// otherwise do so after 20 looks at it.
const LETTER_DELIVERY_LIMIT: i64 = 1_000_000_000;
/// How long a delivery may stay unacknowledged: one day, in milliseconds. The
/// broker's default of 30 minutes would end the consumer in every long outage
/// of the store and count as a failed delivery of all that is in flight.
/// RabbitMQ before 3.12 ignores it.
const CONSUMER_TIMEOUT_MS: i64 = 24 * 60 * 60 * 1000;

/// Declares exchange, dead-letter queue, queue and binding. Repeating it
/// changes nothing.
///
/// # Errors
/// [`BusError::Incompatible`] for something that exists in another form.
pub(super) async fn declare(link: &Link, bus: &config::Bus) -> Result<(), BusError> {
    exchange(link, bus).await?;
    dead_letter_queue(link, bus).await?;
    queue(link, "bus.queue", &bus.queue, arguments(bus)).await?;
    bind(link, bus).await
}

/// Makes sure of the exchange that events come from.
pub(super) async fn exchange(link: &Link, bus: &config::Bus) -> Result<(), BusError> {
    topic_exchange(link, "bus.exchange", &bus.exchange).await
}

/// Makes sure of a topic exchange, named by a key of the configuration. One that
/// exists stays as its owner made it; that it is a topic exchange is all that
/// matters.
pub(super) async fn topic_exchange(
    link: &Link,
    key: &'static str,
    exchange: &str,
) -> Result<(), BusError> {
    let name = short(key, exchange)?;
    let existed = is_declared(link, name.clone()).await?;
    match declare_exchange(link, name, false).await? {
        Ok(()) => Ok(()),
        // It is there, but this user may not declare exchanges: take it as it is.
        Err(error) if existed && amqp_code(&error) == Some(403) => Ok(()),
        Err(error) if amqp_code(&error) == Some(406) => {
            let mismatch = Mismatch::parse("exchange", exchange, key, &answer(&error));
            // The type is compared first: any other difference is the owner's business.
            if mismatch.argument == "type" {
                Err(mismatch.into())
            } else {
                Ok(())
            }
        }
        Err(error) => Err(BusError::while_doing("declaring the exchange", &error)),
    }
}

/// Whether an exchange exists that a key of the configuration names. Creates nothing.
pub(super) async fn exchange_exists(
    link: &Link,
    key: &'static str,
    exchange: &str,
) -> Result<bool, BusError> {
    is_declared(link, short(key, exchange)?).await
}

async fn is_declared(link: &Link, exchange: ShortString) -> Result<bool, BusError> {
    match declare_exchange(link, exchange, true).await? {
        Ok(()) => Ok(true),
        Err(error) if amqp_code(&error) == Some(404) => Ok(false),
        Err(error) => Err(BusError::while_doing("looking for the exchange", &error)),
    }
}

/// The outer result is about the way to the broker, the inner one its answer.
async fn declare_exchange(
    link: &Link,
    name: ShortString,
    passive: bool,
) -> Result<lapin::Result<()>, BusError> {
    let channel = link.channel().await?;
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..Default::default()
    };
    let declared =
        channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
    in_time("declaring the exchange", async { Ok(declared.await) }).await
}

/// Makes sure of the dead-letter queue.
pub(super) async fn dead_letter_queue(link: &Link, bus: &config::Bus) -> Result<(), BusError> {
    let arguments = table([
        ("x-queue-type", text("quorum")),
        (
            "x-delivery-limit",
            AMQPValue::LongLongInt(LETTER_DELIVERY_LIMIT),
        ),
    ]);
    queue(
        link,
        "bus.dead_letter_queue",
        &bus.dead_letter_queue,
        arguments,
    )
    .await
}

/// What the service's own queue needs so that no event is lost.
pub(super) fn arguments(bus: &config::Bus) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        (
            "x-delivery-limit",
            AMQPValue::LongLongInt(bus.delivery_limit.into()),
        ),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&bus.dead_letter_queue)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        (
            "x-consumer-timeout",
            AMQPValue::LongLongInt(CONSUMER_TIMEOUT_MS),
        ),
    ])
}

/// Declares a durable queue, or compares the one that exists.
pub(super) async fn queue(
    link: &Link,
    key: &'static str,
    name: &str,
    arguments: FieldTable,
) -> Result<(), BusError> {
    let short = short(key, name)?;
    let channel = link.channel().await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declared = channel.queue_declare(short, options, arguments);
    match in_time("declaring a queue", async { Ok(declared.await) }).await? {
        Ok(_) => Ok(()),
        // 405 is a queue that is exclusive to another connection.
        Err(error) if matches!(amqp_code(&error), Some(405 | 406)) => {
            Err(Mismatch::parse("queue", name, key, &answer(&error)).into())
        }
        Err(error) => {
            let doing = format!("declaring the queue {name:?}");
            Err(BusError::while_doing(doing, &error))
        }
    }
}

/// How many messages are ready in a queue, and how many consumers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ready: u32,
    pub(super) consumers: u32,
}

/// Counts by a passive declaration; `None` when there is no such queue.
/// Creates nothing.
pub(super) async fn counts(
    link: &Link,
    key: &'static str,
    name: &str,
) -> Result<Option<Counts>, BusError> {
    counts_on(&link.channel().await?, key, name).await
}

/// As [`counts`], asked on a channel that is there: the answer comes after all
/// that the broker has sent on it before. A queue that is missing closes it.
pub(super) async fn counts_on(
    channel: &Channel,
    key: &'static str,
    name: &str,
) -> Result<Option<Counts>, BusError> {
    let short = short(key, name)?;
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let declared = channel.queue_declare(short, options, FieldTable::default());
    match in_time("looking at a queue", async { Ok(declared.await) }).await? {
        Ok(queue) => Ok(Some(Counts {
            ready: queue.message_count(),
            consumers: queue.consumer_count(),
        })),
        Err(error) if amqp_code(&error) == Some(404) => Ok(None),
        Err(error) => {
            let doing = format!("looking at the queue {name:?}");
            Err(BusError::while_doing(doing, &error))
        }
    }
}

/// Binds the queue to the exchange. Repeating it changes nothing.
pub(super) async fn bind(link: &Link, bus: &config::Bus) -> Result<(), BusError> {
    let channel = link.channel().await?;
    let bound = channel.queue_bind(
        short("bus.queue", &bus.queue)?,
        short("bus.exchange", &bus.exchange)?,
        short("bus.binding", &bus.binding)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    in_time("binding the queue to the exchange", bound).await
}
