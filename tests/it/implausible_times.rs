//! Times that no working clock says: counted as they are, and told of.

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::events::{TENANT, Wire, bulk_read, join, message};
use crate::kit::service::{Result, Service, get, until};
use crate::world::{World, binary, dialog, unread};

const METRIC: &str = "chat_counters_implausible_times_total";
const D: &str = "dlg";
/// Milliseconds.
const YEAR: i64 = 365 * 24 * 60 * 60 * 1_000;

/// An event with another value at these places.
fn with(wire: Wire, values: &[(&str, Value)]) -> Wire {
    let mut body: Value = serde_json::from_slice(&wire.body).unwrap();
    for (pointer, value) in values {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    Wire {
        body: body.to_string().into_bytes(),
        ..wire
    }
}

/// The lines of the log about times.
fn told(log: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(log)?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<std::result::Result<Vec<_>, _>>()?;
    let told = lines.into_iter().filter(|line| {
        let said = line["message"].as_str().unwrap_or_default();
        said.starts_with("events state times")
    });
    Ok(told.collect())
}

async fn ready(service: &Service) -> Result<()> {
    until("a service that is ready", || async {
        service.is_ready().await.then_some(())
    })
    .await
}

#[tokio::test]
async fn times_that_cannot_be_meant_are_counted_and_told_of() -> Result<()> {
    let world = World::new("times");
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let to_log = File::create(&log)?.into();
    let service = Service::spawn_logging(binary(), &world.config, "warn", to_log).await?;
    ready(&service).await?;
    let metrics = get(service.metrics, "/metrics").await?;
    for kind in ["past", "future"] {
        let line = format!("{METRIC}{{kind=\"{kind}\"}} 0\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }

    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let (seconds, in_a_year) = (now / 1_000, now + YEAR);
    let ago = |seconds: i64| now - seconds * 1_000;
    let plausible = [
        join("a", D, "ann", ago(60)),
        join("b", D, "bob", ago(60)),
        message("e_now", D, "m_now", "ann", ago(50)),
        // Clocks are never quite equal, and somebody may be on the move.
        message("e_hour", D, "m_hour", "ann", ago(-3_600)),
    ];
    world.publish(&plausible).await?;
    service.has_settled(4).await?;
    assert_eq!(service.counter(METRIC, "").await?, 0);
    assert_eq!(told(&log)?, Vec::<Value>::new());

    let m = |id: &str, at| message(&format!("e_{id}"), D, &format!("m_{id}"), "ann", at);
    let (sent, joined, seen) = (
        "/data/message/createdAt",
        "/data/member/joinedAt",
        "/data/member/state",
    );
    let implausible = [
        m("seconds", seconds),
        with(m("sent", ago(40)), &[(sent, json!(seconds))]),
        with(
            join("e_joined", D, "carl", ago(30)),
            &[(joined, json!(seconds - 1))],
        ),
        with(
            join("e_seen", D, "dora", ago(30)),
            &[(seen, json!({ "lastSeenAt": seconds }))],
        ),
        m("year", in_a_year),
        with(
            bulk_read("e_ahead", D, "carl", in_a_year),
            &[("/createdAt", json!(ago(20)))],
        ),
        // Beyond the year 9999: no time at all.
        m("micros", now * 1_000),
    ];
    world.publish(&implausible).await?;
    service.has_settled(11).await?;

    assert_eq!(service.counter(METRIC, "kind=\"past\"").await?, 4);
    assert_eq!(service.counter(METRIC, "kind=\"future\"").await?, 2);
    let lines = told(&log)?;
    let expected = [
        ("e_seconds", "1970-01-", "before the year 2000"),
        ("e_year", "", "more than a day ahead"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (event, time, said)) in lines.iter().zip(expected) {
        let text = |field: &str| line[field].as_str().unwrap_or_default();
        assert_eq!((text("level"), text("tenant")), ("WARN", TENANT), "{line}");
        assert_eq!((text("event"), text("field")), (event, "createdAt"));
        assert_eq!(line["since_last_line"], 1, "{line}");
        assert!(text("time").starts_with(time), "{line}");
        assert!(text("message").contains(said), "{line}");
    }

    // As they say: five messages, of which two are of 1970 and one is of the
    // year that comes.
    assert_eq!(dialog(&service, D).await?, (5, 4));
    for (user, expected, why) in [
        ("ann", 0, "sent all of them"),
        ("bob", 3, "joined after 1970"),
        (
            "carl",
            2,
            "joined in 1970, and has read up to the read's event",
        ),
        (
            "dora",
            2,
            "joined after 1970, for a last look orders nothing",
        ),
    ] {
        assert_eq!(unread(&service, user, D).await?, expected, "{user} {why}");
    }
    let letters = world.letters(1).await?;
    assert_eq!(letters[0].header("x-cc-reason"), "invalid_event");
    let error = letters[0].header("x-cc-error");
    assert!(error.starts_with("createdAt: expected a time"), "{error}");
    service.stop().await
}
