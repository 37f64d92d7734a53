//! Reads what a letter in the dead-letter queue says of itself.

use lapin::BasicProperties;
use lapin::types::FieldTable;

use super::x_death::BrokerDeath;
use crate::bus::field_table::{as_text, count_at, text_at, time_at};
use crate::bus::headers;
use crate::config;
use crate::deadletter::{DeadLetter, Reason};
use crate::event::MAX_ID_BYTES;
use crate::event::decode::{Outline, outline};

/// Reads a letter. Where the broker and this service both say why it failed, the
/// later of the two decides.
pub(super) fn read(properties: &BasicProperties, body: &[u8], bus: &config::Bus) -> DeadLetter {
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    let text = |name: &str| text_at(table, name);
    let death = BrokerDeath::after_own_failure(table, bus);
    let death = death.as_ref();
    let reason = match death {
        Some(death) => Some(death.reason),
        None => text(headers::REASON).and_then(|name| Reason::named(&name)),
    };
    let own_attempts = count_at(table, headers::ATTEMPTS).unwrap_or(0);
    let died_at = death.and_then(|death| death.at);
    let source = |name: &str, death: Option<&String>| {
        let found = text(name).or_else(|| death.cloned());
        found.unwrap_or_default()
    };
    DeadLetter {
        reason,
        error: match death {
            Some(death) => death.error(bus),
            None => text(headers::ERROR).unwrap_or_default(),
        },
        about: about(table, body, reason),
        first_failed_at: time_at(table, headers::FIRST_FAILED_AT).or(died_at),
        last_failed_at: died_at.max(time_at(table, headers::LAST_FAILED_AT)),
        attempts: own_attempts.saturating_add(death.map_or(0, |death| death.count)),
        exchange: source(headers::SOURCE_EXCHANGE, death.map(|death| &death.exchange)),
        routing_key: source(
            headers::SOURCE_ROUTING_KEY,
            death.map(|death| &death.routing_key),
        ),
        host: text(headers::HOST).unwrap_or_default(),
        version: text(headers::SERVICE_VERSION).unwrap_or_default(),
        replayed_by: text(headers::REPLAYED_BY),
    }
}

/// Reads which event a letter is about, from its body and headers. A body that may be
/// what ends the process is not opened again: of such a letter the headers must do.
fn about(table: &FieldTable, body: &[u8], reason: Option<Reason>) -> Outline {
    let read = match reason {
        Some(Reason::DeliveryLimit | Reason::TooLarge) => Outline::default(),
        _ => outline(body),
    };
    let header = |name| text_at(table, name).filter(|text| text.len() <= MAX_ID_BYTES);
    Outline {
        event_type: read.event_type.or_else(|| header(headers::EVENT_TYPE)),
        tenant: read.tenant.or_else(|| header(headers::TENANT_ID)),
        ..read
    }
}

/// Lists the properties and headers of a letter by name, as text.
pub(super) fn listed(properties: &BasicProperties) -> Vec<(String, String)> {
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("app_id", properties.app_id()),
    ];
    let mut listed: Vec<_> = texts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?.as_str().to_owned())))
        .collect();
    for (name, number) in [
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ] {
        listed.extend(number.map(|number| (name.to_owned(), number.to_string())));
    }
    let headers = properties.headers().iter().flatten();
    listed.extend(headers.map(|(name, value)| {
        let value = as_text(value).unwrap_or_else(|| {
            serde_json::to_string(value).unwrap_or_else(|_| format!("{value:?}"))
        });
        (format!("headers.{name}"), value)
    }));
    listed
}

#[cfg(test)]
mod tests {
    use lapin::types::AMQPValue;
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::super::encode::tests::{any_table, letter, written};
    use super::super::raw::{decoded, raw_message};
    use super::super::republish::replayed;
    use super::*;
    use crate::bus::field_table::{rfc3339, table, text};

    fn bus(queue: &str) -> config::Bus {
        config::Bus {
            queue: queue.into(),
            dead_letter_queue: "q.dlq".into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let original = BasicProperties::default().with_headers(table([
            ("eventType", text("message.create")),
            ("tenantId", text("t1")),
        ]));
        let sent = written(&letter(original), 60, 131_072);
        let body = br#"{"eventId": "e1", "data": {"context": {"dialogId": "d1"}}}"#;
        let read = read(&sent, body, &bus("q"));
        let at = Some(OffsetDateTime::from_unix_timestamp(60).unwrap());
        let expected = DeadLetter {
            reason: Some(Reason::InvalidEvent),
            error: "data.message: missing".into(),
            about: Outline {
                event_type: Some("message.create".into()),
                tenant: Some("t1".into()),
                event: Some("e1".into()),
                dialog: Some("d1".into()),
            },
            first_failed_at: at,
            last_failed_at: at,
            attempts: 1,
            exchange: "chat3_events".into(),
            routing_key: "message.create.t1".into(),
            host: "host-1".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            replayed_by: None,
        };
        assert_eq!(read, expected);
    }

    /// What the broker says of a message that died so often in a queue.
    fn death(queue: &str, reason: &str, count: i64) -> AMQPValue {
        AMQPValue::FieldTable(table([
            ("queue", text(queue)),
            ("reason", text(reason)),
            ("count", AMQPValue::LongLongInt(count)),
            ("exchange", text("events")),
            ("time", AMQPValue::Timestamp(90)),
            (
                "routing-keys",
                AMQPValue::FieldArray(vec![text("a.b")].into()),
            ),
        ]))
    }

    fn dead<const N: usize>(
        deaths: Vec<AMQPValue>,
        ours: [(&'static str, AMQPValue); N],
    ) -> BasicProperties {
        let mut headers = table(ours);
        let deaths = AMQPValue::FieldArray(deaths.into());
        headers.insert("x-death".into(), deaths);
        BasicProperties::default().with_headers(headers)
    }

    fn given_up() -> BasicProperties {
        let ours = [
            ("x-cc-attempts", AMQPValue::LongLongInt(1)),
            ("x-cc-reason", text("invalid_event")),
            ("x-cc-last-failed-at", text("1970-01-01T00:01:30Z")),
        ];
        dead(vec![death("q", "delivery_limit", 1)], ours)
    }

    #[test]
    fn what_the_broker_gave_up_has_its_reason_its_time_and_its_count() {
        for (name, reason, said) in [
            ("expired", Reason::Expired, "time to live"),
            ("maxlen", Reason::MaxLen, "max-length"),
            ("rejected", Reason::Rejected, "rejected by a consumer"),
            ("delivery_limit", Reason::DeliveryLimit, "delivery limit"),
        ] {
            let older = death("q", "expired", 7);
            let properties = dead(vec![death("retry", name, 3), older], []);
            let letter = read(&properties, b"{}", &bus("q"));
            assert_eq!((letter.reason, letter.attempts), (Some(reason), 3));
            assert!(letter.error.contains(said), "{}", letter.error);
            assert!(letter.error.contains("\"retry\""), "{}", letter.error);
            let at = OffsetDateTime::from_unix_timestamp(90).ok();
            assert_eq!((letter.first_failed_at, letter.last_failed_at), (at, at));
            assert_eq!((&*letter.exchange, &*letter.routing_key), ("events", "a.b"));
        }
        let unheard = dead(vec![death("q", "eaten", 1)], []);
        assert_eq!(read(&unheard, b"{}", &bus("q")).reason, None);
    }

    /// Which of the two is the latest is told by what was known when ours was
    /// written; of letters of earlier versions by queue and time.
    #[test]
    fn the_latest_of_what_broker_and_service_say_decides() {
        let at = |seconds| {
            let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            ("x-cc-last-failed-at", text(&rfc3339(at)))
        };
        let knew = |deaths| (headers::BROKER_DEATHS, AMQPValue::LongLongInt(deaths));
        let ours = ("x-cc-reason", text("invalid_event"));
        let once = ("x-cc-attempts", AMQPValue::LongLongInt(1));
        let (invalid, expired) = (Some(Reason::InvalidEvent), Some(Reason::Expired));
        for (queue, count, known, expected) in [
            // It had died before it came to us: that is written down.
            ("retry", 2, vec![knew(2)], (invalid, 1)),
            ("q", 1, vec![knew(1)], (invalid, 1)),
            // And once more since.
            ("q", 2, vec![knew(1)], (expired, 3)),
            // It had not, and a letter of ours dies in our queues, whatever the
            // clocks say.
            ("q", 1, vec![at(2_000)], (expired, 2)),
            ("q.dlq", 1, vec![at(2_000)], (expired, 2)),
            // Of an earlier version, which did not write that down.
            ("retry", 1, vec![at(2_000)], (invalid, 1)),
            ("retry", 1, vec![at(90)], (invalid, 1)),
            ("retry", 1, vec![at(60)], (expired, 2)),
        ] {
            let mut properties = dead(
                vec![death(queue, "expired", count)],
                [ours.clone(), once.clone()],
            );
            let mut headers = properties.headers().clone().unwrap();
            let case = format!("{queue} {count} {known:?}");
            for (name, value) in known {
                headers.insert(name.into(), value);
            }
            properties = properties.with_headers(headers);
            let letter = read(&properties, b"{}", &bus("q"));
            assert_eq!((letter.reason, letter.attempts), expected, "{case}");
        }
    }

    #[test]
    fn what_had_died_before_it_failed_says_so_until_it_is_replayed() {
        let original = dead(vec![death("retry", "expired", 2)], []);
        let sent = written(&letter(original), 60, 131_072);
        let failed = read(&sent, b"{}", &bus("q"));
        assert_eq!(
            (failed.reason, failed.attempts),
            (Some(Reason::InvalidEvent), 1)
        );
        let sent = replayed(&sent, &failed, "job-1");
        let headers = sent.headers().clone().unwrap();
        assert!(!headers.contains_key("x-death") && !headers.contains_key(headers::BROKER_DEATHS));
        // Dead once more, now in our own queue.
        let mut headers = headers;
        let deaths = AMQPValue::FieldArray(vec![death("q", "expired", 1)].into());
        headers.insert("x-death".into(), deaths);
        let dead = BasicProperties::default().with_headers(headers);
        let dead = read(&dead, b"{}", &bus("q"));
        assert_eq!((dead.reason, dead.attempts), (Some(Reason::Expired), 2));
    }

    #[test]
    fn a_letter_of_the_broker_is_of_the_delivery_limit_and_is_not_opened() {
        let body = br#"{"eventId": "e1"}"#;
        let found = read(&given_up(), body, &bus("q"));
        assert_eq!(found.reason, Some(Reason::DeliveryLimit));
        assert_eq!(
            (found.exchange.as_str(), found.routing_key.as_str()),
            ("events", "a.b")
        );
        assert_eq!(found.last_failed_at.map(|at| at.unix_timestamp()), Some(90));
        assert_eq!((found.attempts, found.about.event), (2, None));
        let elsewhere = read(&given_up(), body, &bus("another"));
        assert_eq!(elsewhere.reason, Some(Reason::InvalidEvent));
    }

    #[test]
    fn a_replayed_letter_says_what_the_broker_said_and_by_whom() {
        let properties = given_up();
        let sent = replayed(&properties, &read(&properties, b"{}", &bus("q")), "job-1");
        let sent_headers = sent.headers().clone().unwrap();
        assert!(!sent_headers.contains_key("x-death"));
        let again = read(&sent, b"{}", &bus("q"));
        assert_eq!(again.replayed_by.as_deref(), Some("job-1"));
        assert_eq!((again.attempts, again.routing_key.as_str()), (2, "a.b"));
        assert_eq!(
            again.first_failed_at.map(|at| at.unix_timestamp()),
            Some(90)
        );
    }

    proptest! {
        /// Whatever somebody puts into the queue is read without a panic, kept
        /// and put back as it was.
        #[test]
        fn letters_of_any_kind_are_read_and_kept(
            found in any_table(),
            body in prop::collection::vec(any::<u8>(), 0..200),
            priority in any::<Option<u8>>(),
        ) {
            let mut properties = BasicProperties::default().with_headers(found);
            if let Some(priority) = priority {
                properties = properties.with_priority(priority);
            }
            let letter = read(&properties, &body, &bus("q"));
            prop_assert!(letter.id(&body).is_whole());
            listed(&properties);
            let raw = raw_message(&properties, body.clone()).unwrap();
            let back = decoded(&raw.properties).unwrap();
            prop_assert_eq!(read(&back, &raw.body, &bus("q")).id(&body), letter.id(&body));
            let sent = replayed(&back, &letter, "job");
            prop_assert_eq!(read(&sent, &body, &bus("q")).replayed_by, Some("job".to_owned()));
        }

        /// Damaged properties are refused, not believed.
        #[test]
        fn bytes_of_any_kind_are_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decoded(&bytes);
        }
    }
}
