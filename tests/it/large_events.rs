//! Many large messages: the memory of the service stays within its bounds, and
//! all of them are dealt with. `MESSAGES=2000 MIB=4 LIMIT_MIB=300` with
//! `--nocapture` prints the figures of docs/benchmarks.md.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};

use crate::command_line::command;
use crate::events::{self, join};
use crate::kit::broker;
use crate::kit::service::{Result, Service, until_for};
use crate::world::{World, unread};

/// Everyday sizes; the others are too much for a broker that shares its disk.
const MESSAGES: usize = 200;
const MIB: usize = 1;
/// Of the process, in all, where the bound on what is in flight is 16 MiB. A
/// discard has letters in the form of the database as well.
const LIMIT_MIB: usize = 288;
/// For gigabytes through a broker's disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// Events before the large ones, and after them.
const SMALL: usize = 5_000;

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Messages with a long text, so large each.
async fn publish(world: &World, messages: usize, bytes: usize) -> Result<()> {
    let text = "x".repeat(bytes);
    for number in 0..messages {
        let mut events = events::messages(&format!("l{number}"), "d", 1, 600_000 + number as i64);
        for event in &mut events {
            let body = std::str::from_utf8(&event.body)?;
            event.body = body.replace("never to be seen in a log", &text).into();
        }
        world.publish(&events).await?;
    }
    Ok(())
}

/// Small messages, large ones, and small ones again, all waiting: the window is
/// as wide as it gets when the large ones come.
async fn backlog(world: &World, large: (usize, usize)) -> Result<u64> {
    // Declares the queue.
    world.service().await?.stop().await?;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    world
        .publish(&events::messages("s", "d", SMALL, 1_000))
        .await?;
    publish(world, large.0, large.1 << 20).await?;
    world
        .publish(&events::messages("t", "d", SMALL, 900_000))
        .await?;
    Ok(2 * SMALL as u64)
}

fn is_within_bounds(service: &Service) -> Result<()> {
    let (peak, limit) = (service.peak_rss_mib()?, number("LIMIT_MIB", LIMIT_MIB));
    assert!(peak <= limit as f64, "{peak:.0} MiB, more than {limit}");
    Ok(())
}

async fn journaled(world: &World, events: u64) -> Result<()> {
    until_for(PATIENCE, "all events are in the journal", || async {
        (world.documents("journal").await.ok()? >= events).then_some(())
    })
    .await
}

/// A broker that keeps so much has less memory for the tests beside this one.
async fn forget(world: &World) -> Result<()> {
    let (_connection, channel) = world.channel().await?;
    broker::delete_queues(&channel, &world.config.bus).await
}

#[tokio::test]
async fn large_events_are_counted_within_the_memory_that_is_allowed() -> Result<()> {
    let (messages, mib) = (number("MESSAGES", MESSAGES), number("MIB", MIB));
    let mut world = World::new("large");
    world.config.bus.prefetch_bytes = 16 << 20;
    world.config.bus.max_body_bytes = (mib + 1) << 20;
    let all = backlog(&world, (messages, mib)).await? + messages as u64;

    let (service, began) = (world.service().await?, Instant::now());
    journaled(&world, 1 + all).await?;
    println!(
        "{messages} events of {mib} MiB: {:.1?}, peak {:.0} MiB",
        began.elapsed(),
        service.peak_rss_mib()?
    );
    assert_eq!(unread(&service, "bob", "d").await?, all as i64);
    is_within_bounds(&service)?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    service.stop().await?;
    forget(&world).await
}

/// Letters of another hand, so that nothing but passes has held any.
async fn put(world: &World, letters: usize, bytes: usize) -> Result<()> {
    let (connection, channel) = world.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let queue = world.config.bus.dead_letter_queue.as_str();
    for number in 0..letters {
        let mut body = format!("letter {number} ").into_bytes();
        body.resize(bytes, b'x');
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), queue.into(), options, &body, properties);
        sent.await?.await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}

#[tokio::test]
async fn passes_hold_little_however_much_the_letters_come_to() -> Result<()> {
    let (letters, mib) = (number("MESSAGES", MESSAGES), number("MIB", MIB));
    let world = World::new("passes");
    world.service().await?.stop().await?;
    put(&world, letters, mib << 20).await?;
    let service = world.service().await?;
    let address = service.admin.to_string();
    for arguments in [
        &["sync"][..],
        &["replay", "--all", "--dry-run"],
        &["discard", "--all", "--reason", "a test", "--yes"],
        &["undiscard", "--all"],
        &["discard", "--all", "--reason", "again", "--yes"],
    ] {
        let all = [&["dlq", "--address", &address][..], arguments].concat();
        let done = command(&world, &all).output().await?;
        assert!(done.status.success(), "{done:?}");
        let peak = service.peak_rss_mib()?;
        println!(
            "{letters} letters of {mib} MiB, {}: peak {peak:.0} MiB",
            arguments[0]
        );
    }
    let left = world.depth(&world.config.bus.dead_letter_queue).await?;
    assert_eq!(left, 0);
    is_within_bounds(&service)?;
    service.stop().await?;
    forget(&world).await
}

#[tokio::test]
async fn events_that_are_too_large_are_let_go_within_the_memory_that_is_allowed() -> Result<()> {
    let (messages, mib) = (number("MESSAGES", MESSAGES), number("MIB", MIB));
    let mut world = World::new("too_large");
    world.config.bus.prefetch_bytes = 16 << 20;
    world.config.bus.max_body_bytes = 64 << 10;
    let small = backlog(&world, (messages, mib)).await?;

    let (service, began) = (world.service().await?, Instant::now());
    journaled(&world, 1 + small).await?;
    until_for(PATIENCE, "all letters are in the queue", || async {
        let waiting = service.counter("chat_counters_dead_letters_waiting", "");
        (waiting.await.ok()? >= messages as u64).then_some(())
    })
    .await?;
    println!(
        "{messages} letters of {mib} MiB: {:.1?}, peak {:.0} MiB",
        began.elapsed(),
        service.peak_rss_mib()?
    );
    assert_eq!(unread(&service, "bob", "d").await?, small as i64);
    // Working through them as well.
    let address = service.admin.to_string();
    let discard = ["discard", "--all", "--reason", "too large", "--yes"];
    let all = [&["dlq", "--address", &address][..], &discard].concat();
    let done = command(&world, &all).output().await?;
    assert!(done.status.success(), "{done:?}");
    let left = world.depth(&world.config.bus.dead_letter_queue).await?;
    assert_eq!(left, 0);
    is_within_bounds(&service)?;
    service.stop().await?;
    forget(&world).await
}
