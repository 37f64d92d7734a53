//! What RabbitMQ says of a message that it has dead-lettered itself: the header
//! `x-death`, with one entry for each queue and reason, the latest first.

use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;

use crate::bus::field_table::{as_text, count_at, text_at, time_at};
use crate::bus::headers;
use crate::config;
use crate::deadletter::Reason;

/// The latest entry of `x-death`: a queue, and why the broker gave the message up
/// there.
pub(super) struct BrokerDeath {
    pub(super) reason: Reason,
    queue: String,
    /// How often the broker gave the message up in this queue for this reason.
    pub(super) count: u64,
    /// When the broker first gave it up there, where it says so.
    pub(super) at: Option<OffsetDateTime>,
    /// The exchange to which the message had been published.
    pub(super) exchange: String,
    /// The first of the routing keys with which it had been published.
    pub(super) routing_key: String,
}

impl BrokerDeath {
    /// Reads the latest entry, if it came after this service gave the message up,
    /// should it have done so.
    pub(super) fn after_own_failure(table: &FieldTable, bus: &config::Bus) -> Option<Self> {
        let death = entries(table).next().and_then(Self::read)?;
        if text_at(table, headers::REASON).is_none() {
            return Some(death);
        }
        let is_newer = match count_at(table, headers::BROKER_DEATHS) {
            Some(known) => deaths(table) > known,
            // Those of our queues come after what we wrote: a replay takes away
            // what the broker had said before.
            None if [&bus.queue, &bus.dead_letter_queue].contains(&&death.queue) => true,
            // Letters of earlier versions do not say how many they had. A letter
            // of ours would have to go a long way to die elsewhere.
            None => death.at > time_at(table, headers::LAST_FAILED_AT),
        };
        is_newer.then_some(death)
    }

    fn read(entry: &FieldTable) -> Option<Self> {
        let reason = text_at(entry, "reason").and_then(|name| Reason::named(&name));
        let at = match entry.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
            _ => None,
        };
        let keys = match entry.inner().get("routing-keys") {
            Some(AMQPValue::FieldArray(keys)) => keys.as_slice(),
            _ => &[],
        };
        Some(Self {
            reason: reason.filter(|reason| reason.is_of_broker())?,
            queue: text_at(entry, "queue").unwrap_or_default(),
            count: count(entry),
            at: at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()),
            exchange: text_at(entry, "exchange").unwrap_or_default(),
            routing_key: keys.first().and_then(as_text).unwrap_or_default(),
        })
    }

    /// Says in words why the message was given up.
    pub(super) fn error(&self, bus: &config::Bus) -> String {
        let queue = &self.queue;
        match self.reason {
            Reason::Expired => format!(
                "waited in the queue {queue:?} for longer than its time to live allows: its expiration, or a message-ttl of the queue or of a policy"
            ),
            Reason::MaxLen => format!(
                "pushed out of the queue {queue:?}, which was longer than a max-length or max-length-bytes of the queue or of a policy allows"
            ),
            Reason::Rejected => {
                format!("rejected by a consumer of the queue {queue:?} that did not want it back")
            }
            _ if *queue == bus.queue => DELIVERY_LIMIT_REACHED.into(),
            _ => format!(
                "delivered from the queue {queue:?} as often as its delivery limit allows and never settled"
            ),
        }
    }
}

/// The error text of an event that the broker gave up in the service's own queue.
const DELIVERY_LIMIT_REACHED: &str = "delivered as often as bus.delivery_limit allows and never settled: this event, or one delivered with it, ends the process or the connection each time";

/// Counts how often the broker has dead-lettered a message, in whichever queues.
pub(super) fn deaths(table: &FieldTable) -> u64 {
    entries(table).map(count).fold(0, u64::saturating_add)
}

fn count(entry: &FieldTable) -> u64 {
    count_at(entry, "count").unwrap_or(1).max(1)
}

fn entries(table: &FieldTable) -> impl Iterator<Item = &FieldTable> {
    let entries = match table.inner().get(headers::DEATHS) {
        Some(AMQPValue::FieldArray(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|entry| match entry {
        AMQPValue::FieldTable(entry) => Some(entry),
        _ => None,
    })
}
