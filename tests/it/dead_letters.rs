//! Bad input: each kind ends in the dead-letter queue with its reason, its
//! neighbours are counted, and nothing about it is changed.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use mongodb::bson::doc;
use serde_json::json;

use crate::events::{self, join, message, raw};
use crate::kit::service::Result;
use crate::world::{World, dialog};

#[tokio::test]
async fn every_kind_of_poison_is_dead_lettered_with_its_reason() -> Result<()> {
    let mut world = World::new("poison");
    world.config.bus.max_body_bytes = 10_000;
    let service = world.service().await?;
    let valid = json!({
        "eventId": "e", "tenantId": "t", "eventType": "message.create", "createdAt": 1,
        "data": { "context": { "dialogId": "d", "messageId": "m" }, "message": { "senderId": "s" } },
    });
    let with = |pointer: &str, value: serde_json::Value| {
        let mut body = valid.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string().into_bytes()
    };
    let rows: [(Vec<u8>, &str, &str); 9] = [
        (
            b"\xff\xfe{}".to_vec(),
            "undecodable",
            "expected UTF-8, found an invalid byte at offset 0",
        ),
        (
            b"{\"eventId\":".to_vec(),
            "undecodable",
            "expected JSON, found the end of the body",
        ),
        (
            b"[1, 2]".to_vec(),
            "undecodable",
            "expected a JSON object, found an array",
        ),
        (vec![b' '; 10_001], "too_large", "10001"),
        (
            with("/eventId", json!(null)),
            "invalid_event",
            "eventId: expected a value, found nothing",
        ),
        (
            with("/data/message/senderId", json!(17)),
            "invalid_event",
            "data.message.senderId: expected a string, found number 17",
        ),
        (
            with("/data/context/dialogId", json!("x".repeat(513))),
            "invalid_event",
            "data.context.dialogId: expected an id of 1 to 512 bytes, found 513 bytes",
        ),
        (
            with("/createdAt", json!(-5)),
            "invalid_event",
            "createdAt: expected a time",
        ),
        (
            with("/createdAt", json!("soon")),
            "invalid_event",
            "createdAt: expected a time",
        ),
    ];
    let poison: Vec<_> = rows.iter().map(|(body, ..)| raw(body)).collect();
    let good = events::messages("m", "d", 20, 1_000);
    world.publish(poison.iter().chain(&good)).await?;
    service.has_settled(29).await?;
    assert_eq!(
        dialog(&service, "d").await?,
        (20, 0),
        "the neighbours are counted"
    );

    let letters = world.letters(rows.len()).await?;
    for (body, reason, error) in &rows {
        let letter = letters.iter().find(|letter| letter.body == *body);
        let letter = letter.ok_or_else(|| format!("no letter for {reason}: {error}"))?;
        assert_eq!(letter.header("x-cc-reason"), *reason);
        let found = letter.header("x-cc-error");
        assert!(found.contains(error), "{found:?} does not say {error:?}");
    }
    assert_eq!(
        service
            .counter("chat_counters_dead_letters_total", "")
            .await?,
        9
    );
    service.stop().await
}

#[tokio::test]
async fn a_dead_letter_keeps_what_came_and_adds_why() -> Result<()> {
    let world = World::new("letter");
    let service = world.service().await?;
    let (connection, channel) = world.channel().await?;
    let mut headers = FieldTable::default();
    headers.insert(
        "eventType".into(),
        AMQPValue::LongString("message.create".into()),
    );
    headers.insert("traceparent".into(), AMQPValue::LongString("00-abc".into()));
    let properties = BasicProperties::default()
        .with_message_id("id-1".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers);
    let exchange = world.config.bus.exchange.as_str();
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(
        exchange.into(),
        "a.b.c".into(),
        options,
        b"poison",
        properties,
    );
    sent.await?.await?;
    connection.close(200, "done".into()).await?;

    let letter = world.letters(1).await?.remove(0);
    assert_eq!(letter.body, b"poison");
    let properties = &letter.properties;
    assert_eq!(
        properties.message_id().as_ref().map(|id| id.as_str()),
        Some("id-1")
    );
    assert_eq!(
        properties.content_type().as_ref().map(|kind| kind.as_str()),
        Some("application/json")
    );
    assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    assert_eq!(letter.header("traceparent"), "00-abc");
    assert_eq!(letter.header("eventType"), "message.create");
    assert_eq!(letter.header("x-cc-source-exchange"), exchange);
    assert_eq!(letter.header("x-cc-source-routing-key"), "a.b.c");
    assert_eq!(letter.header("x-cc-attempts"), "1");
    assert_eq!(
        letter.header("x-cc-service-version"),
        env!("CARGO_PKG_VERSION")
    );
    assert!(!letter.header("x-cc-host").is_empty());
    let first = letter.header("x-cc-first-failed-at");
    assert_eq!(first, letter.header("x-cc-last-failed-at"));
    assert!(first.ends_with('Z'), "{first}");
    service.stop().await
}

/// They came in one frame, and do not fit into one with what a dead letter says.
#[tokio::test]
async fn of_headers_too_large_for_a_dead_letter_the_largest_give_way() -> Result<()> {
    let world = World::new("wide");
    let service = world.service().await?;
    let (connection, channel) = world.channel().await?;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("eventType", "message.create".to_owned()),
        ("tenantId", "t1".to_owned()),
        ("trace", "x".repeat(60_000)),
        ("baggage", "y".repeat(70_000)),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let sent = channel.basic_publish(
        world.config.bus.exchange.as_str().into(),
        "a.b.c".into(),
        BasicPublishOptions::default(),
        b"poison",
        BasicProperties::default().with_headers(headers),
    );
    sent.await?.await?;

    let mut attempts = 1;
    let letter = loop {
        let letter = world.letters(1).await?.remove(0);
        assert_eq!(letter.header("x-cc-attempts"), attempts.to_string());
        assert_eq!(letter.header("x-cc-reason"), "undecodable");
        assert_eq!(letter.header("eventType"), "message.create");
        assert_eq!(letter.header("tenantId"), "t1");
        assert_eq!(letter.header("trace"), "x".repeat(60_000));
        assert_eq!(letter.header("baggage"), "");
        assert_eq!(
            letter.header("x-cc-headers-dropped"),
            "baggage (70013 bytes)"
        );
        if attempts == 2 {
            break letter;
        }
        // There is room for it to come again, and to say so.
        attempts += 1;
        let sent = channel.basic_publish(
            "".into(),
            world.config.bus.queue.as_str().into(),
            BasicPublishOptions::default(),
            &letter.body,
            letter.properties.clone(),
        );
        sent.await?.await?;
    };
    assert_eq!(letter.body, b"poison");
    connection.close(200, "done".into()).await?;
    service.stop().await
}

#[tokio::test]
async fn what_the_store_refuses_is_found_among_its_neighbours() -> Result<()> {
    let world = World::new("refused");
    let service = world.service().await?;
    // The server refuses these two, whatever is tried.
    let refuse = doc! {
        "collMod": "journal",
        "validator": { "_id.e": { "$nin": ["evt_m_13", "evt_m_77"] } },
    };
    world.database().await?.run_command(refuse).await?;
    let joins = [join("evt_j", "d", "bob", 1)];
    let messages = events::messages("m", "d", 200, 1_000);
    world.publish(joins.iter().chain(&messages)).await?;
    service.has_settled(201).await?;
    assert_eq!(dialog(&service, "d").await?, (198, 1));
    let letters = world.letters(2).await?;
    for letter in &letters {
        assert_eq!(letter.header("x-cc-reason"), "rejected_by_store");
        assert!(letter.header("x-cc-error").contains("code 121"));
    }
    let mut bodies: Vec<_> = letters.iter().map(|letter| letter.body.clone()).collect();
    bodies.sort();
    let expected: Vec<_> = [13, 77]
        .map(|index: usize| messages[index].body.clone())
        .into();
    assert_eq!(bodies, expected);
    service.stop().await
}

#[tokio::test]
async fn a_replayed_letter_counts_once_and_remembers_its_first_failure() -> Result<()> {
    let world = World::new("replay");
    let service = world.service().await?;
    let poison = raw(b"{\"eventType\": \"message.create\"}");
    world.publish([&poison]).await?;
    let first = world.letters(1).await?.remove(0);

    let (connection, channel) = world.channel().await?;
    let queue = world.config.bus.queue.as_str();
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(
        "".into(),
        queue.into(),
        options,
        &first.body,
        first.properties.clone(),
    );
    sent.await?.await?;
    connection.close(200, "done".into()).await?;
    let second = world.letters(1).await?.remove(0);
    assert_eq!(second.header("x-cc-attempts"), "2");
    assert_eq!(
        second.header("x-cc-first-failed-at"),
        first.header("x-cc-first-failed-at")
    );
    assert_eq!(
        second.header("x-cc-source-exchange"),
        first.header("x-cc-source-exchange")
    );
    service.stop().await
}

#[tokio::test]
async fn events_that_are_none_of_ours_are_acknowledged_and_counted() -> Result<()> {
    let world = World::new("ignored");
    let service = world.service().await?;
    let other = raw(br#"{"eventType": "dialog.typing", "createdAt": "whenever"}"#);
    world
        .publish([&other, &other, &message("e", "d", "m", "ann", 5)])
        .await?;
    service.has_settled(3).await?;
    let ignored = service.counter("chat_counters_ignored_events_total", "dialog.typing");
    assert_eq!(ignored.await?, 2);
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    assert_eq!(dialog(&service, "d").await?, (1, 0));
    service.stop().await
}
