//! Makes a dead letter of a message that failed: the original's properties, with
//! headers that say what happened.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use time::OffsetDateTime;

use super::frame_fit::fitting;
use super::x_death;
use crate::bus::delivery::{FailedMessage, Message};
use crate::bus::field_table::{count_at, renamed, rfc3339, text, without};
use crate::bus::{PERSISTENT, headers};
use crate::deadletter::shortened;

/// The longest text of the header [`headers::ERROR`], in bytes.
const MAX_ERROR_BYTES: usize = 1024;
/// Bytes of a frame that the original's headers leave to this service's own, and to
/// the properties that are no headers.
const FRAME_RESERVE_BYTES: usize = 8 * 1024;

impl FailedMessage {
    /// The properties of the dead letter: those of the original, and the `x-cc-*`
    /// headers. `frame` is the size of the largest frame, in bytes.
    ///
    /// What would make the broker lose, refuse or duplicate the letter moves to a
    /// header of its own: the `expiration`, the `user_id` (a broker refuses anyone
    /// else's) and the header `CC`. The broker's own counts of deliveries are left
    /// out: they would be taken for those of the replayed event. Where the headers
    /// do not fit into one frame, the largest give way, and
    /// [`headers::HEADERS_DROPPED`] names them.
    pub(super) fn properties(
        &self,
        now: OffsetDateTime,
        host: &str,
        frame: usize,
    ) -> BasicProperties {
        let original = &self.message.properties;
        let found = original.headers().clone().unwrap_or_default();
        let kept = without(
            &found,
            &[
                headers::DELIVERY_COUNT,
                headers::ACQUIRED_COUNT,
                headers::BROKER_DEATHS,
            ],
        );
        let kept = fitting(kept, frame.saturating_sub(FRAME_RESERVE_BYTES));
        let mut table = renamed(&kept, headers::CC, headers::ORIGINAL_CC);
        self.explain(&mut table, now, host);
        for (name, value) in [
            (headers::ORIGINAL_EXPIRATION, original.expiration()),
            (headers::ORIGINAL_USER_ID, original.user_id()),
        ] {
            if let Some(value) = value {
                table.insert(name.into(), text(value.as_str()));
            }
        }
        rebuilt(original).with_headers(table)
    }

    /// Writes the headers that say what happened.
    fn explain(&self, table: &mut FieldTable, now: OffsetDateTime, host: &str) {
        let now = rfc3339(now);
        let attempts = count_at(table, headers::ATTEMPTS);
        let attempts = attempts.unwrap_or(0).saturating_add(1);
        let attempts = i64::try_from(attempts).unwrap_or(i64::MAX);
        let Message {
            exchange,
            routing_key,
            ..
        } = &self.message;
        for (name, value) in [
            (headers::REASON, text(self.failure.reason.as_str())),
            (
                headers::ERROR,
                text(shortened(&self.failure.error, MAX_ERROR_BYTES)),
            ),
            (headers::LAST_FAILED_AT, text(&now)),
            (headers::ATTEMPTS, AMQPValue::LongLongInt(attempts)),
            (headers::SERVICE_VERSION, text(env!("CARGO_PKG_VERSION"))),
            (headers::HOST, text(host)),
        ] {
            table.insert(name.into(), value);
        }
        // What the broker says of it by now is older than what is said here.
        let deaths = i64::try_from(x_death::deaths(table)).unwrap_or(i64::MAX);
        if deaths > 0 {
            table.insert(
                headers::BROKER_DEATHS.into(),
                AMQPValue::LongLongInt(deaths),
            );
        }
        // A replayed letter keeps what it said of its beginning.
        for (name, value) in [
            (headers::FIRST_FAILED_AT, now.as_str()),
            (headers::SOURCE_EXCHANGE, exchange),
            (headers::SOURCE_ROUTING_KEY, routing_key),
        ] {
            if !table.contains_key(name) {
                table.insert(name.into(), text(value));
            }
        }
    }
}

/// Copies the original's properties, made persistent, without those that the broker
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

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::super::frame_fit::encoded_bytes;
    use super::*;
    use crate::bus::delivery::{Origin, SettlementQueue};
    use crate::bus::field_table::{collected, count_at, table};
    use crate::bus::intake::{Intake, Scales};
    use crate::deadletter::Failure;
    use crate::deadletter::Reason;

    pub(in crate::bus::dead_letters) fn letter(properties: BasicProperties) -> FailedMessage {
        #[allow(clippy::disallowed_methods, reason = "never sent to")]
        let back = Arc::new(SettlementQueue {
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
        FailedMessage { message, failure }
    }

    pub(in crate::bus::dead_letters) fn written(
        letter: &FailedMessage,
        at: i64,
        frame: usize,
    ) -> BasicProperties {
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
            .with_headers(table([("eventType", text("message.create"))]));
        let sent = written(&letter(original), 0, 131_072);
        assert_eq!(
            sent.content_type().as_ref().map(|v| v.as_str()),
            Some("application/json")
        );
        assert_eq!(sent.message_id().as_ref().map(|v| v.as_str()), Some("m"));
        assert_eq!((*sent.priority(), *sent.timestamp()), (Some(3), Some(7)));
        assert_eq!(*sent.delivery_mode(), Some(PERSISTENT));
        let expected = table([
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
            .with_headers(table([
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
        let original = BasicProperties::default().with_headers(table([
            ("eventType", text("message.create")),
            ("tenantId", text("t1")),
            ("x-cc-attempts", AMQPValue::LongLongInt(3)),
            ("x-cc-first-failed-at", text("1970-01-01T00:00:00Z")),
            (headers::ORIGINAL_PROPERTIES, large(60)),
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
        assert_eq!(header(headers::ORIGINAL_PROPERTIES), None);
        let told = "x-cc-original-properties (61470 bytes)";
        assert_eq!(header(headers::HEADERS_DROPPED), Some(text(told)));

        // Once more, with less room.
        let sent = written(&letter(sent), 60, 65_536);
        let table = sent.headers().clone().unwrap();
        assert!(!table.contains_key("middle") && table.contains_key("small"));
        let told = format!("{told}; middle (51212 bytes)");
        assert_eq!(table.inner()[headers::HEADERS_DROPPED], text(&told));
    }

    #[test]
    fn what_is_no_header_of_ours_is_not_kept_for_its_name() {
        let large = text(&"x".repeat(127 * 1024));
        for name in ["eventType", "x-cc-error", "x-cc-anything", "big"] {
            let original = BasicProperties::default()
                .with_headers(table([(name, large.clone()), ("trace", text("abc"))]));
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
        let AMQPValue::LongString(told) = &table.inner()[headers::HEADERS_DROPPED] else {
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
    pub(in crate::bus::dead_letters) fn any_table() -> impl Strategy<Value = FieldTable> {
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
        fn headers_of_any_kind_make_a_letter(found in any_table()) {
            let before = count_at(&found, "x-cc-attempts").unwrap_or(0);
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
