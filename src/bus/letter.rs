//! What a dead letter looks like on the wire.

use std::cmp::Reverse;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::death::{self, DEATHS};
use super::delivery::{Message, integer};
use super::filter;
use crate::deadletter::{Failure, shortened};

/// Longest text of `x-cc-error`, in bytes.
const MAX_ERROR_BYTES: usize = 1024;
/// The header that names those which did not fit into a frame.
const DROPPED: &str = "x-cc-headers-dropped";
/// Longest text in it, in bytes.
const MAX_DROPPED_BYTES: usize = 1024;
/// Largest header that is needed, in bytes: none of ours is larger.
const MAX_NEEDED_BYTES: usize = 2048;
/// Room left in the frame of properties for our headers and what is no header.
const FRAME_RESERVE: usize = 8 * 1024;
/// AMQP's persistent delivery mode.
pub(super) const PERSISTENT: u8 = 2;

/// A message that failed for good, and why.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) failure: Failure,
}

impl Letter {
    /// The properties of the dead letter: those of the original plus our
    /// `x-cc-*` headers.
    ///
    /// What would make the broker lose, refuse or duplicate the letter is
    /// moved to a header of its own: the `expiration` (to
    /// `x-cc-original-expiration`), the `user_id` (a broker refuses anyone
    /// else's; to `x-cc-original-user-id`) and the header `CC` (to
    /// `x-cc-original-cc`). The broker's own count of deliveries is left out:
    /// it would be taken for that of the replayed event. Of headers that do not
    /// all fit into one frame with ours the largest give way, and are named in
    /// `x-cc-headers-dropped`.
    pub(super) fn properties(
        &self,
        now: OffsetDateTime,
        host: &str,
        frame: usize,
    ) -> BasicProperties {
        let original = &self.message.properties;
        let headers = original.headers().clone().unwrap_or_default();
        let headers = without(&headers, &["x-delivery-count", "x-acquired-count", DEATHS]);
        let headers = fitting(headers, frame.saturating_sub(FRAME_RESERVE));
        let mut headers = moved(&headers, "CC", "x-cc-original-cc");
        self.explain(&mut headers, now, host);
        for (name, value) in [
            ("x-cc-original-expiration", original.expiration()),
            ("x-cc-original-user-id", original.user_id()),
        ] {
            if let Some(value) = value {
                headers.insert(name.into(), text(value.as_str()));
            }
        }
        rebuilt(original).with_headers(headers)
    }

    fn explain(&self, headers: &mut FieldTable, now: OffsetDateTime, host: &str) {
        let now = rfc3339(now);
        let attempts = headers.inner().get("x-cc-attempts").and_then(integer);
        let attempts = attempts.unwrap_or(0).saturating_add(1);
        let attempts = i64::try_from(attempts).unwrap_or(i64::MAX);
        let Message {
            exchange,
            routing_key,
            ..
        } = &self.message;
        for (name, value) in [
            ("x-cc-reason", text(self.failure.reason.as_str())),
            (
                "x-cc-error",
                text(shortened(&self.failure.error, MAX_ERROR_BYTES)),
            ),
            ("x-cc-last-failed-at", text(&now)),
            ("x-cc-attempts", AMQPValue::LongLongInt(attempts)),
            ("x-cc-service-version", text(env!("CARGO_PKG_VERSION"))),
            ("x-cc-host", text(host)),
        ] {
            headers.insert(name.into(), value);
        }
        // What the broker says of it by now is older than what is said here.
        let deaths = i64::try_from(death::deaths(headers)).unwrap_or(i64::MAX);
        if deaths > 0 {
            headers.insert(DEATHS.into(), AMQPValue::LongLongInt(deaths));
        }
        // A replayed letter keeps what it said of its beginning.
        for (name, value) in [
            ("x-cc-first-failed-at", now.as_str()),
            ("x-cc-source-exchange", exchange),
            ("x-cc-source-routing-key", routing_key),
        ] {
            if !headers.contains_key(name) {
                headers.insert(name.into(), text(value));
            }
        }
    }
}

/// The properties of the original, persistent, without those that the broker
/// would act upon.
fn rebuilt(original: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default().with_delivery_mode(PERSISTENT);
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, Set); 8] = [
        (original.content_type(), BasicProperties::with_content_type),
        (
            original.content_encoding(),
            BasicProperties::with_content_encoding,
        ),
        (
            original.correlation_id(),
            BasicProperties::with_correlation_id,
        ),
        (original.reply_to(), BasicProperties::with_reply_to),
        (original.message_id(), BasicProperties::with_message_id),
        (original.kind(), BasicProperties::with_type),
        (original.app_id(), BasicProperties::with_app_id),
        (original.cluster_id(), BasicProperties::with_cluster_id),
    ];
    for (value, set) in texts {
        if let Some(value) = value {
            copy = set(copy, value.clone());
        }
    }
    if let Some(priority) = original.priority() {
        copy = copy.with_priority(*priority);
    }
    if let Some(timestamp) = original.timestamp() {
        copy = copy.with_timestamp(*timestamp);
    }
    copy
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

pub(super) fn rfc3339(at: OffsetDateTime) -> String {
    // Formatting fails only for years that no clock shows.
    at.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn without(table: &FieldTable, names: &[&str]) -> FieldTable {
    let kept = table
        .into_iter()
        .filter(|(key, _)| !names.contains(&key.as_str()));
    collected(kept.map(|(key, value)| (key.clone(), value.clone())))
}

/// The headers that have room; the largest of the others are let go and named.
fn fitting(headers: FieldTable, room: usize) -> FieldTable {
    let mut bytes = encoded_bytes(&headers);
    if bytes <= room {
        return headers;
    }
    let mut entries: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (entry_bytes(name, value), name, value))
        .collect();
    entries.sort_by_key(|(size, name, _)| (is_needed(name.as_str(), *size), Reverse(*size)));
    let mut entries = entries.into_iter();
    let mut dropped = Vec::new();
    while bytes > room
        && let Some((size, name, _)) = entries.next()
    {
        bytes -= size;
        dropped.push((name.as_str().to_owned(), size));
    }
    let mut kept = collected(entries.map(|(_, name, value)| (name.clone(), value.clone())));
    let mut told = filter::named(&dropped);
    if let Some(AMQPValue::LongString(before)) = kept.inner().get(DROPPED) {
        told = format!("{}; {told}", String::from_utf8_lossy(before.as_bytes()));
    }
    kept.insert(DROPPED.into(), text(shortened(&told, MAX_DROPPED_BYTES)));
    kept
}

/// Whether a header says what became of an event, or which event it is: it goes
/// last. Of the size that such headers have: one that is larger says something
/// else.
fn is_needed(name: &str, bytes: usize) -> bool {
    let ours = name.starts_with("x-cc-") && name != filter::ORIGINAL;
    let told = ["eventType", "tenantId", "entityType"].contains(&name);
    (ours || told) && bytes <= MAX_NEEDED_BYTES
}

fn moved(table: &FieldTable, from: &str, to: &'static str) -> FieldTable {
    collected(table.into_iter().map(|(key, value)| {
        let key = if key.as_str() == from {
            to.into()
        } else {
            key.clone()
        };
        (key, value.clone())
    }))
}

pub(super) fn collected(entries: impl Iterator<Item = (ShortString, AMQPValue)>) -> FieldTable {
    entries.collect::<std::collections::BTreeMap<_, _>>().into()
}

/// Size of a table on the wire, never less than it is.
fn encoded_bytes(table: &FieldTable) -> usize {
    let entries = table.into_iter();
    let entries = entries.map(|(name, value)| entry_bytes(name, value));
    4 + entries.sum::<usize>()
}

fn entry_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_bytes(value)
}

fn value_bytes(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ShortString(text) => 4 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldTable(table) => encoded_bytes(table),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_bytes).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::super::delivery::{Origin, Return};
    use super::super::intake::{Intake, Scales};
    use super::*;
    use crate::deadletter::Reason;

    pub fn letter(properties: BasicProperties) -> Letter {
        #[allow(clippy::disallowed_methods, reason = "never sent to")]
        let back = Arc::new(Return {
            settle: mpsc::unbounded_channel().0,
            letters: mpsc::unbounded_channel().0,
            wide: Arc::default(),
        });
        let message = Message {
            body: b"{}".to_vec(),
            properties,
            exchange: "chat3_events".into(),
            routing_key: "message.create.t1".into(),
            redelivered: false,
            origin: Origin {
                tag: 1,
                back,
                _weight: Scales::new(&Intake::new(1)).take(0),
            },
        };
        let failure = Failure {
            reason: Reason::InvalidEvent,
            error: "data.message: missing".into(),
        };
        Letter { message, failure }
    }

    pub fn headers<const N: usize>(entries: [(&'static str, AMQPValue); N]) -> FieldTable {
        collected(entries.into_iter().map(|(key, value)| (key.into(), value)))
    }

    pub fn written(letter: &Letter, at: i64, frame: usize) -> BasicProperties {
        let now = OffsetDateTime::from_unix_timestamp(at).unwrap();
        letter.properties(now, "host-1", frame)
    }

    #[test]
    fn a_first_letter_keeps_the_original_and_says_what_happened() {
        let original = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id("m".into())
            .with_priority(3)
            .with_timestamp(7)
            .with_headers(headers([("eventType", text("message.create"))]));
        let sent = written(&letter(original), 0, 131_072);
        assert_eq!(
            sent.content_type().as_ref().map(|v| v.as_str()),
            Some("application/json")
        );
        assert_eq!(sent.message_id().as_ref().map(|v| v.as_str()), Some("m"));
        assert_eq!((*sent.priority(), *sent.timestamp()), (Some(3), Some(7)));
        assert_eq!(*sent.delivery_mode(), Some(PERSISTENT));
        let expected = headers([
            ("eventType", text("message.create")),
            ("x-cc-reason", text("invalid_event")),
            ("x-cc-error", text("data.message: missing")),
            ("x-cc-first-failed-at", text("1970-01-01T00:00:00Z")),
            ("x-cc-last-failed-at", text("1970-01-01T00:00:00Z")),
            ("x-cc-attempts", AMQPValue::LongLongInt(1)),
            ("x-cc-source-exchange", text("chat3_events")),
            ("x-cc-source-routing-key", text("message.create.t1")),
            ("x-cc-service-version", text(env!("CARGO_PKG_VERSION"))),
            ("x-cc-host", text("host-1")),
        ]);
        assert_eq!(sent.headers().as_ref(), Some(&expected));
    }

    #[test]
    fn a_replayed_letter_counts_on_and_keeps_its_beginning() {
        let first = written(&letter(BasicProperties::default()), 0, 131_072);
        let mut again = letter(first);
        again.message.exchange = String::new();
        again.message.routing_key = "chat_counters".into();
        let sent = written(&again, 60, 131_072);
        let table = sent.headers().clone().unwrap();
        let header = |name: &str| table.inner()[name].clone();
        assert_eq!(header("x-cc-attempts"), AMQPValue::LongLongInt(2));
        assert_eq!(header("x-cc-first-failed-at"), text("1970-01-01T00:00:00Z"));
        assert_eq!(header("x-cc-last-failed-at"), text("1970-01-01T00:01:00Z"));
        assert_eq!(header("x-cc-source-exchange"), text("chat3_events"));
        assert_eq!(header("x-cc-source-routing-key"), text("message.create.t1"));
    }

    #[test]
    fn what_would_lose_or_refuse_the_letter_is_moved_aside() {
        let original = BasicProperties::default()
            .with_expiration("1000".into())
            .with_user_id("chat3".into())
            .with_headers(headers([
                ("CC", text("elsewhere")),
                ("x-delivery-count", AMQPValue::LongLongInt(3)),
            ]));
        let sent = written(&letter(original), 0, 131_072);
        assert!(sent.expiration().is_none() && sent.user_id().is_none());
        let table = sent.headers().clone().unwrap();
        assert_eq!(table.inner()["x-cc-original-expiration"], text("1000"));
        assert_eq!(table.inner()["x-cc-original-user-id"], text("chat3"));
        assert_eq!(table.inner()["x-cc-original-cc"], text("elsewhere"));
        assert!(!table.contains_key("CC") && !table.contains_key("x-delivery-count"));
    }

    #[test]
    fn of_headers_too_large_for_a_frame_the_largest_give_way() {
        let large = |kib: usize| text(&"x".repeat(kib * 1024));
        let original = BasicProperties::default().with_headers(headers([
            ("eventType", text("message.create")),
            ("tenantId", text("t1")),
            ("x-cc-attempts", AMQPValue::LongLongInt(3)),
            ("x-cc-first-failed-at", text("1970-01-01T00:00:00Z")),
            (filter::ORIGINAL, large(60)),
            ("middle", large(50)),
            ("small", large(30)),
            ("trace", text("abc")),
        ]));
        let sent = written(&letter(original), 60, 131_072);
        let table = sent.headers().clone().unwrap();
        let header = |name: &str| table.inner().get(name).cloned();
        assert_eq!(header("eventType"), Some(text("message.create")));
        assert_eq!(header("tenantId"), Some(text("t1")));
        assert_eq!(header("trace"), Some(text("abc")));
        assert_eq!(header("middle"), Some(large(50)));
        assert_eq!(header("small"), Some(large(30)));
        assert_eq!(header("x-cc-attempts"), Some(AMQPValue::LongLongInt(4)));
        let first = header("x-cc-first-failed-at");
        assert_eq!(first, Some(text("1970-01-01T00:00:00Z")));
        assert_eq!(header(filter::ORIGINAL), None);
        let told = "x-cc-original-properties (61470 bytes)";
        assert_eq!(header(DROPPED), Some(text(told)));

        // Once more, with less room.
        let sent = written(&letter(sent), 60, 65_536);
        let table = sent.headers().clone().unwrap();
        assert!(!table.contains_key("middle") && table.contains_key("small"));
        let told = format!("{told}; middle (51212 bytes)");
        assert_eq!(table.inner()[DROPPED], text(&told));
    }

    #[test]
    fn what_is_no_header_of_ours_is_not_kept_for_its_name() {
        let large = text(&"x".repeat(127 * 1024));
        for name in ["eventType", "x-cc-error", "x-cc-anything", "big"] {
            let original = BasicProperties::default()
                .with_headers(headers([(name, large.clone()), ("trace", text("abc"))]));
            let sent = written(&letter(original), 0, 131_072);
            let table = sent.headers().clone().unwrap();
            assert!(table.contains_key("trace"), "{name}");
            assert!(encoded_bytes(&table) < 4096, "{name}");
        }
        let many = (0..5_000).map(|number| {
            let name = format!("x-cc-{number}");
            (name.as_str().into(), text(&"x".repeat(40)))
        });
        let original = BasicProperties::default().with_headers(collected(many));
        let sent = written(&letter(original), 0, 131_072);
        let table = sent.headers().clone().unwrap();
        assert!(encoded_bytes(&table) < 131_072 - 4096);
        let AMQPValue::LongString(told) = &table.inner()[DROPPED] else {
            panic!("{table:?}");
        };
        let told = String::from_utf8_lossy(told.as_bytes());
        assert!(told.contains(" bytes) and "), "{told}");
    }

    fn value() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<f64>().prop_map(AMQPValue::Double),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            ".{0,80}".prop_map(|said| text(&said)),
            prop::collection::vec(any::<u8>(), 0..80)
                .prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let table = prop::collection::btree_map("[a-z]{1,8}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4)
                    .prop_map(|values| AMQPValue::FieldArray(values.into())),
                table.prop_map(|table| {
                    let entries = table.into_iter();
                    let entries = entries.map(|(key, value)| (key.as_str().into(), value));
                    AMQPValue::FieldTable(collected(entries))
                }),
            ]
        })
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(vec![
                "x-cc-attempts",
                "x-cc-reason",
                "x-cc-error",
                "x-cc-first-failed-at",
                "x-cc-source-exchange",
                "x-delivery-count",
                "x-death",
                "CC",
            ])
            .prop_map(str::to_owned),
            ".{1,20}",
        ]
    }

    /// Headers of any kind.
    pub fn table() -> impl Strategy<Value = FieldTable> {
        let entries = prop::collection::btree_map(name(), value(), 0..12);
        entries.prop_map(|entries| {
            let entries = entries.into_iter();
            collected(entries.map(|(key, value)| (key.as_str().into(), value)))
        })
    }

    proptest! {
        /// Whatever comes back as a letter: no panic, and a letter that says
        /// what is so.
        #[test]
        fn headers_of_any_kind_make_a_letter(found in table()) {
            let before = found.inner().get("x-cc-attempts").and_then(integer).unwrap_or(0);
            let original = BasicProperties::default().with_headers(found);
            let sent = written(&letter(original), 60, 131_072);
            let table = sent.headers().clone().unwrap();
            let expected = i64::try_from(before.saturating_add(1)).unwrap_or(i64::MAX);
            prop_assert_eq!(&table.inner()["x-cc-attempts"], &AMQPValue::LongLongInt(expected));
            prop_assert_eq!(&table.inner()["x-cc-reason"], &text("invalid_event"));
            prop_assert_eq!(&table.inner()["x-cc-error"], &text("data.message: missing"));
            prop_assert!(table.contains_key("x-cc-first-failed-at"));
            prop_assert!(!table.contains_key("CC") && !table.contains_key("x-delivery-count"));
            prop_assert!(encoded_bytes(&table) < 131_072);
        }
    }
}
