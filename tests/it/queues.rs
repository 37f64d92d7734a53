//! The queue must be one that loses nothing; an exchange that is there is used
//! as it is.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::events::message;
use crate::kit;
use crate::kit::broker;
use crate::kit::service::{Result, until, until_for};
use crate::world::{World, binary, dialog};

/// Runs `serve` until it ends by itself; its exit code and what it said.
async fn refused(world: &World) -> Result<(Option<i32>, String)> {
    let config = &world.config;
    let serve = kit::service::command(binary(), config)
        .arg("serve")
        .env("CHAT_COUNTERS__GRPC__LISTEN", "127.0.0.1:0")
        .env("CHAT_COUNTERS__METRICS__LISTEN", "")
        .output();
    let output = tokio::time::timeout(crate::kit::service::PATIENCE, serve).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    table
}

#[tokio::test]
async fn a_queue_under_which_events_could_be_lost_is_refused_in_words() -> Result<()> {
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let rows = [
        (
            "ttl",
            vec![
                quorum.clone(),
                ("x-message-ttl", AMQPValue::LongInt(60_000)),
            ],
        ),
        (
            "length",
            vec![quorum.clone(), ("x-max-length", AMQPValue::LongInt(10))],
        ),
        ("no_dlx", vec![quorum]),
        ("classic", vec![]),
    ];
    for (name, pairs) in rows {
        let world = World::new(&format!("refused_{name}"));
        let (connection, channel) = world.channel().await?;
        let queue = world.config.bus.queue.as_str();
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare(queue.into(), options, arguments(&pairs))
            .await?;
        connection.close(200, "done".into()).await?;
        let (code, said) = refused(&world).await?;
        assert_eq!(code, Some(3), "{name}: {said}");
        assert!(
            said.contains(queue),
            "{name} does not name the queue: {said}"
        );
        assert!(
            said.contains("bus.queue"),
            "{name} does not say how to cure it: {said}"
        );
        assert!(
            !said.contains("guest:guest"),
            "{name} shows a password: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_exchange_that_a_producer_declared_is_used_as_it_is() -> Result<()> {
    let world = World::new("exchange");
    let (connection, channel) = world.channel().await?;
    // Not as the service would declare it.
    let options = ExchangeDeclareOptions {
        durable: true,
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let exchange = world.config.bus.exchange.as_str();
    let table = FieldTable::default();
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, options, table)
        .await?;
    let service = world.service().await?;
    world.publish([&message("e", "d", "m", "ann", 5)]).await?;
    service.has_settled(1).await?;
    assert_eq!(dialog(&service, "d").await?, (1, 0));
    connection.close(200, "done".into()).await?;
    service.stop().await
}

#[tokio::test]
async fn a_wrong_password_is_refused_without_showing_it() -> Result<()> {
    let mut world = World::new("password");
    let url = world
        .config
        .bus
        .url
        .expose()
        .replace("guest:guest@", "guest:hunter2@");
    world.config.bus.url = url.into();
    let (code, said) = refused(&world).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    Ok(())
}

/// As a producer does that brings its exchange up anew: what is published to it
/// goes nowhere, and nothing in AMQP tells the consumer.
#[tokio::test]
async fn an_exchange_that_was_replaced_is_noticed_and_bound_again() -> Result<()> {
    let mut world = World::new("replaced");
    // One that was consumed from before must not stand for the present one.
    let before = format!("{}_before", world.config.bus.exchange);
    let exchange = std::mem::replace(&mut world.config.bus.exchange, before);
    world.service().await?.stop().await?;
    world.config.bus.exchange = exchange;
    let service = world.service().await?;
    world.publish(&[message("e0", "d", "m0", "ann", 5)]).await?;
    service.has_settled(1).await?;
    let (connection, channel) = world.channel().await?;
    let bus = &world.config.bus;
    let witness = format!("{}.witness.{}", bus.queue, bus.exchange);
    until("the witness", || async {
        let (connection, channel) = world.channel().await.ok()?;
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let (kind, none) = (ExchangeKind::Fanout, FieldTable::default());
        let found = channel.exchange_declare(witness.as_str().into(), kind, passive, none);
        let found = found.await;
        // An error says that the connection is gone already.
        let _ = connection.close(200, "done".into()).await;
        found.ok()
    })
    .await?;
    let exchange = world.config.bus.exchange.as_str();
    let replace = async |kind: ExchangeKind| -> Result<()> {
        broker::delete_exchange(&channel, &world.config.bus).await?;
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared =
            channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default());
        Ok(declared.await?)
    };
    for times in 1..=3 {
        if times == 3 {
            // One that cannot be used, until somebody cures it.
            replace(ExchangeKind::Direct).await?;
            until("nobody can mend it", || async {
                let looks = service.counter("chat_counters_topology_broken", "");
                (looks.await.ok()? == 1).then_some(())
            })
            .await?;
        }
        replace(ExchangeKind::Topic).await?;
        // Looked for every second; the rest is for a busy machine.
        let noticed = async || {
            let restored = service.counter("chat_counters_topology_restored_total", "");
            (restored.await.ok()? >= times).then_some(())
        };
        until_for(
            Duration::from_secs(10),
            "the exchange to be bound again",
            noticed,
        )
        .await?;
        let (event, id) = (format!("e{times}"), format!("m{times}"));
        world
            .publish(&[message(&event, "d", &id, "ann", 6)])
            .await?;
        service.has_settled(1 + times).await?;
    }
    assert_eq!(dialog(&service, "d").await?.0, 4);
    connection.close(200, "done".into()).await?;
    service.stop().await
}
