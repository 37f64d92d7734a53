//! No bytes that a producer, or the broker, puts around an event stop, end or
//! slow the service: the event counts like any other.

use std::time::{Duration, Instant};

use chat_counters::grpc::v1::DeadLetter;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use crate::command_line::{command, stderr, stdout};
use crate::dlq::{client, listed, poison};
use crate::events::{self, Wire, join};
use crate::kit::raw_amqp::{self, RawChannel, RawMessage, headers, large};
use crate::kit::service::{PATIENCE, Result, Service, neighbouring_binary, until};
use crate::world::{World, dialog};

/// Sent as Chat3 sends it.
fn plain(event: &Wire) -> RawMessage {
    RawMessage {
        routing_key: b"message.create.tnt_1".to_vec(),
        properties: headers(&[]),
        body: event.body.clone(),
    }
}

/// A good event in every kind of message that lapin cannot take.
fn oddities(dialog: &str) -> Vec<(String, RawMessage)> {
    let with_body = |(place, (name, message)): (usize, (String, RawMessage))| {
        let id = format!("odd-{place}");
        let event = events::message(&id, dialog, &id, "ann", 1_000 + place as i64);
        let body = event.body;
        (name, RawMessage { body, ..message })
    };
    raw_amqp::odd()
        .into_iter()
        .enumerate()
        .map(with_body)
        .collect()
}

/// A quorum queue itself takes 2.2 s to accept tables 18,000 deep, and as much to
/// send them: its time to encode them grows with the square of the depth.
fn is_light(kind: &str) -> bool {
    !kind.contains("18000")
}

/// What a broken session leaves behind: none of it is there.
async fn is_untroubled(world: &World, service: &Service, events: u64) -> Result<()> {
    let restarts = service.counter("chat_counters_consumer_restarts_total", "");
    assert_eq!(restarts.await?, 0, "the consumer began anew");
    let deliveries = service.counter("chat_counters_deliveries_total", "");
    assert_eq!(deliveries.await?, events, "something was delivered again");
    let letters = world.depth(&world.config.bus.dead_letter_queue);
    assert_eq!(letters.await?, 0, "something was given up");
    Ok(())
}

#[tokio::test]
async fn messages_that_lapin_cannot_read_count_and_their_neighbours_never_notice() -> Result<()> {
    let world = World::new("odd");
    let service = world.service().await?;
    let mut channel = RawChannel::open(&world.config.bus).await?;
    let exchange = &world.config.bus.exchange;
    let odd = oddities("d");

    // One by one: how long does a good event wait that comes after?
    let mut waits = Vec::new();
    for (place, (name, message)) in odd.iter().enumerate() {
        let id = format!("next-{place}");
        let next = events::message(&id, "d", &id, "ann", 5_000 + place as i64);
        channel.publish(exchange, message).await?;
        let began = Instant::now();
        channel.publish(exchange, &plain(&next)).await?;
        let both = 2 * (place as u64 + 1);
        service.has_settled(both).await?;
        waits.push((began.elapsed(), name));
        channel
            .confirmed()
            .await
            .map_err(|error| format!("{name}: {error}"))?;
    }
    println!("waits: {waits:?}");
    waits.retain(|(_, name)| is_light(name));
    let longest = waits.iter().max().ok_or("nothing was sent")?;
    assert!(longest.0 < Duration::from_secs(1), "{longest:?}");
    let settled = 2 * odd.len() as u64;
    assert_eq!(dialog(&service, "d").await?.0 as u64, settled);
    is_untroubled(&world, &service, settled).await?;

    // Among many, and among few.
    for (name, neighbours) in [("few", 30), ("many", 2_500)] {
        let good = events::messages(name, name, neighbours, 1_000);
        let mut odd = oddities(&format!("{name}-odd")).into_iter();
        let every = good.len() / odd.len();
        let mut sent = 0;
        let before = service.settled().await?;
        for (place, event) in good.iter().enumerate() {
            channel.publish(exchange, &plain(event)).await?;
            sent += 1;
            if place % every == 0
                && let Some((_, mut message)) = odd.next()
            {
                // Its event is counted already: another one.
                let id = format!("{name}-odd-{place}");
                message.body = events::message(&id, name, &id, "ann", 9_000).body;
                channel.publish(exchange, &message).await?;
                sent += 1;
            }
        }
        channel.confirmed().await?;
        service.has_settled(before + sent).await?;
        assert_eq!(dialog(&service, name).await?.0 as u64, sent, "{name}");
        is_untroubled(&world, &service, before + sent).await?;
    }
    let altered = service
        .counter("chat_counters_deliveries_altered_total", "")
        .await?;
    // Of each kind of nesting, the first is not too deep.
    assert_eq!(altered, 3 * (odd.len() as u64 - 2));
    service.stop().await
}

#[tokio::test]
async fn a_bad_event_in_an_odd_message_is_dead_lettered_alone_with_what_it_had() -> Result<()> {
    let world = World::new("odd_bad");
    let service = world.service().await?;
    let mut channel = RawChannel::open(&world.config.bus).await?;
    let odd = raw_amqp::odd();
    for (place, (_, message)) in odd.iter().enumerate() {
        let body = format!("[{place}]").into_bytes();
        let message = RawMessage {
            body,
            ..message.clone()
        };
        channel
            .publish(&world.config.bus.exchange, &message)
            .await?;
    }
    channel.confirmed().await?;
    let client = client(&service).await?;
    let letters = listed(&client, odd.len()).await?;
    assert!(letters.iter().all(|letter| letter.reason == "undecodable"));
    let restarts = service.counter("chat_counters_consumer_restarts_total", "");
    assert_eq!(restarts.await?, 0);
    service.stop().await?;

    let mut found = 0;
    while let Some(letter) = channel.take(&world.config.bus.dead_letter_queue).await? {
        let place: usize =
            String::from_utf8_lossy(&letter.body[1..letter.body.len() - 1]).parse()?;
        let (name, sent) = &odd[place];
        let has = |bytes: &[u8]| {
            letter
                .properties
                .windows(bytes.len())
                .any(|part| part == bytes)
        };
        let original: &[u8] = match name.as_str() {
            "routing_key" => &sent.routing_key,
            // Not changed, and too large to be kept.
            "tables 64 deep" | "arrays 64 deep" | "tables 18000 deep" | "arrays 18000 deep" => {
                b"x-cc-reason"
            }
            _ => &sent.properties,
        };
        assert!(has(original), "{name}: what it was is not in {letter:?}");
        found += 1;
    }
    assert_eq!(found, odd.len());
    Ok(())
}

/// A queue from which what waits for long goes to another.
async fn expiring(world: &World, to: &str) -> Result<String> {
    let (connection, channel) = world.channel().await?;
    let name = format!("{to}.expiring");
    let mut arguments = FieldTable::default();
    for (key, value) in [
        ("x-message-ttl", AMQPValue::LongInt(1)),
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        (
            "x-dead-letter-routing-key",
            AMQPValue::LongString(to.into()),
        ),
        ("x-expires", AMQPValue::LongInt(120_000)),
    ] {
        arguments.insert(key.into(), value);
    }
    let options = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(name)
}

/// Publishes to a queue.
async fn put(
    channel: &mut RawChannel,
    queue: &str,
    message: &RawMessage,
    body: &[u8],
) -> Result<()> {
    let message = RawMessage {
        routing_key: queue.as_bytes().to_vec(),
        body: body.to_vec(),
        ..message.clone()
    };
    channel.publish("", &message).await
}

#[tokio::test]
async fn headers_that_the_broker_makes_larger_than_a_frame_are_read() -> Result<()> {
    let world = World::new("expired");
    let service = world.service().await?;
    let through = expiring(&world, &world.config.bus.queue).await?;
    let mut channel = RawChannel::open(&world.config.bus).await?;
    for (place, (_, message)) in large().iter().enumerate() {
        let id = format!("large-{place}");
        let event = events::message(&id, "d", &id, "ann", 5);
        put(&mut channel, &through, message, &event.body).await?;
    }
    channel.confirmed().await?;
    service.has_settled(2).await?;
    assert_eq!(dialog(&service, "d").await?.0, 2);
    is_untroubled(&world, &service, 2).await?;
    service.stop().await
}

/// Runs `dlq` and expects it to do well.
async fn dlq(world: &World, service: &Service, arguments: &[&str]) -> Result<String> {
    let mut tool = command(world, &["dlq", "--address", &service.admin.to_string()]);
    let output = tokio::time::timeout(PATIENCE, tool.args(arguments).output()).await??;
    let (said, code) = (stdout(&output), output.status.code());
    assert_eq!(code, Some(0), "{arguments:?}: {said}{}", stderr(&output));
    Ok(said)
}

#[tokio::test]
async fn letters_that_lapin_cannot_read_are_worked_with_like_any_other() -> Result<()> {
    let world = World::new("odd_letters");
    let service = world.service().await?;
    let queue = &world.config.bus.dead_letter_queue;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    world.publish(&poison()).await?;
    let client = client(&service).await?;
    listed(&client, 5).await?;

    // Another tool puts letters there, and the broker adds what expired.
    let mut channel = RawChannel::open(&world.config.bus).await?;
    let mut odd = oddities("d");
    odd.retain(|(name, _)| is_light(name));
    for (_, message) in &odd {
        put(&mut channel, queue, message, &message.body).await?;
    }
    let through = expiring(&world, queue).await?;
    for (place, (_, message)) in large().iter().enumerate() {
        let id = format!("large-{place}");
        let event = events::message(&id, "d", &id, "ann", 5);
        put(&mut channel, &through, message, &event.body).await?;
    }
    channel.confirmed().await?;
    let count = 5 + odd.len() + 2;
    let letters = listed(&client, count).await?;
    dlq(&world, &service, &["sync"]).await?;
    let groups: Value =
        serde_json::from_str(&dlq(&world, &service, &["--output", "json", "groups"]).await?)?;
    assert_eq!(groups["total"], count, "{groups}");
    let list = dlq(&world, &service, &["list", "--limit", "100"]).await?;
    assert_eq!(list.lines().count(), 1 + count, "{list}");
    let id = |event: &str| {
        let of = |letter: &&DeadLetter| letter.event_id == event;
        letters
            .iter()
            .find(of)
            .map(|letter| letter.id.clone())
            .ok_or("no such letter")
    };
    for (place, (name, _)) in odd.iter().enumerate() {
        let shown = dlq(&world, &service, &["show", &id(&format!("odd-{place}"))?]).await?;
        // Here the routing key is the queue's name.
        let altered = !name.ends_with(" 64 deep") && name != "routing_key";
        assert_eq!(shown.contains("x-cc-altered"), altered, "{name}: {shown}");
    }
    let shown = dlq(&world, &service, &["show", &id("large-0")?]).await?;
    assert!(
        shown.contains("so that they fit into a frame: big"),
        "{shown}"
    );

    // Discarded and put back, also those whose depths are cut.
    let ids = (0..odd.len()).map(|place| id(&format!("odd-{place}")));
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut discard = vec!["discard", "--reason", "a test", "--yes"];
    discard.extend(ids.iter().map(String::as_str));
    let done = dlq(&world, &service, &discard).await?;
    assert_eq!(done, format!("{0} of {0} discarded\n", odd.len()));
    let back = dlq(&world, &service, &["undiscard", "--all"]).await?;
    assert!(
        back.starts_with(&format!("{0} of {0} put back", odd.len())),
        "{back}"
    );
    listed(&client, count).await?;

    // All but the poison are good events.
    let good = odd.len() + 2;
    let replayed = dlq(&world, &service, &["replay", "--dialog", "d"]).await?;
    assert!(
        replayed.starts_with(&format!("{good} of {good} replayed")),
        "{replayed}"
    );
    until("all counted", || async {
        (dialog(&service, "d").await.ok()?.0 as usize == good).then_some(())
    })
    .await?;
    listed(&client, 5).await?;
    let restarts = service.counter("chat_counters_consumer_restarts_total", "");
    assert_eq!(restarts.await?, 0);
    service.stop().await
}

#[tokio::test]
async fn a_letter_that_the_broker_takes_long_to_send_does_not_count_as_gone() -> Result<()> {
    let world = World::new("slow_letter");
    let service = world.service().await?;
    world.publish(&poison()).await?;
    let client = client(&service).await?;
    listed(&client, 5).await?;
    let mut channel = RawChannel::open(&world.config.bus).await?;
    let (_, slow) = oddities("d")
        .into_iter()
        .find(|(name, _)| !is_light(name))
        .ok_or("none")?;
    put(
        &mut channel,
        &world.config.bus.dead_letter_queue,
        &slow,
        &slow.body,
    )
    .await?;
    channel.confirmed().await?;
    listed(&client, 6).await?;
    let synced = dlq(&world, &service, &["--output", "json", "sync"]).await?;
    let synced: Value = serde_json::from_str(&synced)?;
    assert_eq!(
        (&synced["examined"], &synced["removed"]),
        (&6.into(), &0.into()),
        "{synced}"
    );
    let done = dlq(&world, &service, &["replay", "--dialog", "d"]).await?;
    assert_eq!(done, "1 of 1 replayed\n");
    assert_eq!(dialog(&service, "d").await?.0, 1);
    service.stop().await
}

/// RabbitMQ reads properties itself: what it refuses reaches nobody.
#[tokio::test]
async fn what_the_broker_refuses_never_comes() -> Result<()> {
    let world = World::new("refused");
    let service = world.service().await?;
    let exchange = &world.config.bus.exchange;
    let properties = [
        (
            "a type that nobody knows",
            headers(&[b"\x01kz\x00".to_vec()]),
        ),
        (
            "a table that is too short",
            headers(&[b"\x01kF\x00\x00\x00\x09".to_vec()]),
        ),
        (
            "an expiration that is no number",
            b"\x01\x00\x04J\xf6rg".to_vec(),
        ),
        ("somebody else's user_id", b"\x00\x10\x04J\xf6rg".to_vec()),
    ];
    for (name, properties) in properties {
        let mut channel = RawChannel::open(&world.config.bus).await?;
        let message = RawMessage {
            routing_key: b"a.b.c".to_vec(),
            properties,
            body: b"{}".to_vec(),
        };
        channel.publish(exchange, &message).await?;
        let answer = channel.confirmed().await.map_err(|error| error.to_string());
        println!("{name}: {answer:?}");
        assert!(answer.is_err(), "{name} is taken");
    }
    is_untroubled(&world, &service, 0).await?;
    service.stop().await
}

/// Events for [`one_odd_message_in_a_hundred_leaves_the_speed`]; `EVENTS=30000`
/// and `CHAT_COUNTERS_BIN=target/release/chat-counters` for the figures of
/// docs/decisions/frames.md.
fn events_to_time() -> usize {
    let count = std::env::var("EVENTS").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(4_000)
}

/// Events a second out of a full queue, every hundredth in an odd message or none.
async fn speed(odd: bool) -> Result<f64> {
    let world = World::new("odd_speed");
    let binary = neighbouring_binary()?;
    Service::start(&binary, &world.config).await?.stop().await?;
    let mut channel = RawChannel::open(&world.config.bus).await?;
    let mut kinds = raw_amqp::odd();
    kinds.retain(|(name, _)| is_light(name));
    let count = events_to_time();
    for (place, event) in events::messages("m", "d", count, 1_000).iter().enumerate() {
        let mut message = plain(event);
        if odd && place.is_multiple_of(100) {
            let (_, kind) = &kinds[place / 100 % kinds.len()];
            message = RawMessage {
                body: message.body,
                ..kind.clone()
            };
        }
        channel
            .publish(&world.config.bus.exchange, &message)
            .await?;
    }
    channel.confirmed().await?;
    let service = Service::start(&binary, &world.config).await?;
    let first = until("the first events", || async {
        service.settled().await.ok().filter(|settled| *settled > 0)
    })
    .await?;
    let began = Instant::now();
    service.has_settled(count as u64).await?;
    let speed = (count as u64 - first) as f64 / began.elapsed().as_secs_f64();
    assert_eq!(dialog(&service, "d").await?.0 as usize, count);
    service.stop().await?;
    Ok(speed)
}

/// Rounds take turns, so that a machine that is busy meanwhile is so for both.
#[tokio::test]
async fn one_odd_message_in_a_hundred_leaves_the_speed() -> Result<()> {
    let (mut plain, mut odd) = (0_f64, 0_f64);
    for round in 0..5 {
        plain = plain.max(speed(false).await?);
        odd = odd.max(speed(true).await?);
        println!("round {round}: {plain:.0} events/s without, {odd:.0} with 1 % of odd messages");
        if round >= 2 && odd >= 0.8 * plain {
            return Ok(());
        }
    }
    panic!("{plain:.0} events/s without, {odd:.0} with 1 % of odd messages");
}
