//! One message of the queue, to be settled exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use tokio::sync::mpsc;

use super::field_table::as_count;
use super::headers;
use super::intake::Weight;
use crate::deadletter::Failure;

/// The broker's name for a delivery: counts up from 1 on each channel.
pub(super) type Tag = u64;

/// What the broker is told of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    /// The effect of the delivery, or its dead letter, is durable.
    Ack,
    /// As [`Ack`](Settlement::Ack), and the broker is to be told now. The message was
    /// delivered before: what ended that may end the process again, and a broker that
    /// knows of nothing counts one more delivery of everything.
    AckNow,
    /// The broker is to deliver the message again.
    Requeue,
}

/// The way back from a delivery to the session that it came with. The session is drained
/// once the last of these is gone.
#[derive(Debug)]
pub(super) struct SettlementQueue {
    pub(super) settle: mpsc::UnboundedSender<(Tag, Settlement)>,
    pub(super) letters: mpsc::UnboundedSender<FailedMessage>,
    /// How many deliveries may be in flight now; changes while the session lasts.
    pub(super) wide: Arc<AtomicUsize>,
}

impl SettlementQueue {
    /// The number of deliveries that may be in flight now.
    pub(super) fn window(&self) -> usize {
        self.wide.load(Ordering::Relaxed)
    }
}

/// One message of the queue, not yet settled. It is settled by exactly one of
/// [`ack`](Delivery::ack) and [`dead_letter`](Delivery::dead_letter), each of which
/// consumes it; one that is dropped without is requeued, which counts towards the
/// delivery limit, so that nothing is ever stuck. All of them return at once; on a
/// session that is gone they do nothing, and the broker delivers the message again.
#[derive(Debug)]
pub(crate) struct Delivery {
    message: Option<Message>,
}

/// The parts of a delivery.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) redelivered: bool,
    pub(super) origin: Origin,
}

/// A message that failed for good, and why.
#[derive(Debug)]
pub(super) struct FailedMessage {
    pub(super) message: Message,
    pub(super) failure: Failure,
}

/// Says which delivery of which session a message is.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) tag: Tag,
    pub(super) back: Arc<SettlementQueue>,
    /// Counts as bytes in hand until this is dropped.
    pub(super) _weight: Weight,
}

impl Origin {
    /// Tells the session what the broker is to be told.
    pub(super) fn settle(&self, outcome: Settlement) {
        // An error says that the session is gone: the broker redelivers.
        let _ = self.back.settle.send((self.tag, outcome));
    }

    /// Whether the session is gone, and this delivery with it.
    pub(super) fn is_gone(&self) -> bool {
        self.back.settle.is_closed()
    }
}

impl Delivery {
    pub(super) fn new(
        delivery: lapin::message::Delivery,
        back: Arc<SettlementQueue>,
        weight: Weight,
    ) -> Self {
        let origin = Origin {
            tag: delivery.delivery_tag,
            back,
            _weight: weight,
        };
        let message = Message {
            body: delivery.data,
            properties: delivery.properties,
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            redelivered: delivery.redelivered,
            origin,
        };
        Self {
            message: Some(message),
        }
    }

    /// The body as it was published.
    pub(crate) fn body(&self) -> &[u8] {
        self.message.as_ref().map_or(&[], |message| &message.body)
    }

    /// The routing key as it was published.
    pub(crate) fn routing_key(&self) -> &str {
        self.message
            .as_ref()
            .map_or("", |message| &message.routing_key)
    }

    /// The exchange that it was published to; empty for one that was published
    /// straight to the queue.
    pub(crate) fn exchange(&self) -> &str {
        self.message
            .as_ref()
            .map_or("", |message| &message.exchange)
    }

    /// Who published it, where the producer says so: the broker lets nobody say
    /// another name than the one that they logged in by.
    pub(crate) fn user_id(&self) -> Option<&str> {
        let message = self.message.as_ref()?;
        let user = message.properties.user_id().as_ref();
        user.map(lapin::types::ShortString::as_str)
    }

    /// Whether it was handed out before, here or elsewhere, and not
    /// acknowledged.
    pub(crate) fn redelivered(&self) -> bool {
        self.message
            .as_ref()
            .is_some_and(|message| message.redelivered)
    }

    /// How often it was delivered before and given back or lost, as the
    /// broker counts; 0 when it does not say.
    pub(crate) fn delivery_count(&self) -> u64 {
        self.header(headers::DELIVERY_COUNT)
            .and_then(as_count)
            .unwrap_or(0)
    }

    /// Whether its properties or routing key could only be read altered.
    pub(super) fn is_altered(&self) -> bool {
        self.header(headers::ALTERED).is_some()
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        let headers = self.message.as_ref()?.properties.headers().as_ref()?;
        headers.inner().get(name)
    }

    /// Acknowledges the delivery: its effect is durable, and the broker may forget it.
    pub(crate) fn ack(mut self) {
        let outcome = match self.delivery_count() {
            0 => Settlement::Ack,
            _ => Settlement::AckNow,
        };
        if let Some(message) = self.message.take() {
            message.origin.settle(outcome);
        }
    }

    /// Dead-letters the delivery, which failed for good: it is acknowledged once the broker
    /// has confirmed the dead letter.
    pub(crate) fn dead_letter(mut self, failure: Failure) {
        if let Some(message) = self.message.take() {
            let back = Arc::clone(&message.origin.back);
            // An error says that the consumer is gone: the broker redelivers.
            let _ = back.letters.send(FailedMessage { message, failure });
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            message.origin.settle(Settlement::Requeue);
        }
    }
}
