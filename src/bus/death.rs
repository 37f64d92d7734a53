//! What the broker says of a message that it has dead-lettered: `x-death`, one
//! entry for each queue and reason, the latest first.

use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;

use super::delivery::integer;
use super::reading::{as_text, moment, word};
use crate::config;
use crate::deadletter::Reason;

/// How often the broker had dead-lettered a message by the time that this
/// service gave it up. Absent: never.
pub(super) const DEATHS: &str = "x-cc-deaths";

/// The last time that the broker gave a message up.
pub(super) struct Death {
    pub(super) reason: Reason,
    queue: String,
    /// How often that has happened there.
    pub(super) count: u64,
    /// When, the first of these times.
    pub(super) at: Option<OffsetDateTime>,
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

impl Death {
    /// The last one, if it came after this service had given the message up,
    /// should it have done so.
    pub(super) fn deciding(headers: &FieldTable, bus: &config::Bus) -> Option<Self> {
        let death = entries(headers).next().and_then(Self::read)?;
        if word(headers, "x-cc-reason").is_none() {
            return Some(death);
        }
        let newer = match headers.inner().get(DEATHS).and_then(integer) {
            Some(known) => deaths(headers) > known,
            // Those of our queues come after what we wrote: a replay takes away
            // what the broker had said before.
            None if [&bus.queue, &bus.dead_letter_queue].contains(&&death.queue) => true,
            // Letters of earlier versions do not say how many they had. A letter
            // of ours would have to go a long way to die elsewhere.
            None => death.at > moment(headers, "x-cc-last-failed-at"),
        };
        newer.then_some(death)
    }

    fn read(entry: &FieldTable) -> Option<Self> {
        let reason = word(entry, "reason").and_then(|name| Reason::named(&name));
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
            queue: word(entry, "queue").unwrap_or_default(),
            count: count(entry),
            at: at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()),
            exchange: word(entry, "exchange").unwrap_or_default(),
            routing_key: keys.first().and_then(as_text).unwrap_or_default(),
        })
    }

    /// Why it was given up, in words.
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
            _ if *queue == bus.queue => GIVEN_UP.into(),
            _ => format!(
                "delivered from the queue {queue:?} as often as its delivery limit allows and never settled"
            ),
        }
    }
}

/// What stands for the error of an event that the broker gave up.
const GIVEN_UP: &str = "delivered as often as bus.delivery_limit allows and never settled: this event, or one delivered with it, ends the process or the connection each time";

/// How often the broker has dead-lettered a message.
pub(super) fn deaths(headers: &FieldTable) -> u64 {
    entries(headers).map(count).fold(0, u64::saturating_add)
}

fn count(entry: &FieldTable) -> u64 {
    let count = entry.inner().get("count").and_then(integer);
    count.unwrap_or(1).max(1)
}

fn entries(headers: &FieldTable) -> impl Iterator<Item = &FieldTable> {
    let entries = match headers.inner().get("x-death") {
        Some(AMQPValue::FieldArray(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|entry| match entry {
        AMQPValue::FieldTable(entry) => Some(entry),
        _ => None,
    })
}
