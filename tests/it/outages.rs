//! Servers that go away: nothing is dead-lettered, nothing is lost, nothing
//! needs a hand.

use std::time::Duration;

use chat_counters::deadletter::{DeadLetter, Filter, Letter, RawMessage, Reason};
use chat_counters::event::decode::Outline;
use chat_counters::lane::probe_store;
use chat_counters::outage::Outage;
use chat_counters::shutdown;
use chat_counters::store::dead_letters::LetterCollection;
use chat_counters::store::{Retention, Store, StoreError};
use lapin::options::QueueDeleteOptions;
use mongodb::bson::{Document, doc};

use crate::events::{self, join};
use crate::kit::servers::Server;
use crate::kit::service::{Result, until};
use crate::world::{World, dialog, unread};

fn members() -> Vec<events::Wire> {
    vec![
        join("evt_join_ann", "d", "ann", 1),
        join("evt_join_bob", "d", "bob", 1),
    ]
}

/// The broker may believe that a consumer holds what never arrived there.
#[tokio::test]
async fn a_quiet_consumer_is_renewed_and_goes_on_counting() -> Result<()> {
    let mut world = World::new("quiet");
    world.config.bus.watchdog_seconds = 1;
    let service = world.service().await?;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    let renewed = async |times: u64| {
        until(&format!("renewed {times} times"), || async {
            let quiet = service.counter("chat_counters_consumer_restarts_total", "quiet");
            (quiet.await.ok()? >= times).then_some(())
        })
        .await
    };
    renewed(2).await?;
    world
        .publish(&events::messages("m", "d", 50, 1_000))
        .await?;
    service.has_settled(51).await?;
    renewed(4).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 50);
    world.stopped_with_nothing_left(service).await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_away_for_ten_seconds_is_waited_for() -> Result<()> {
    let mongod = Server::mongod("away").await?;
    let mut world = World::new("mongod_away");
    world.config.store.url = mongod.url.clone().into();
    let service = world.service().await?;
    world.publish(&members()).await?;
    service.has_settled(2).await?;

    mongod.run("kill").await?;
    // The outage itself, not a wait for something.
    let outage = tokio::time::sleep(Duration::from_secs(10));
    world
        .publish(&events::messages("m", "d", 500, 1_000))
        .await?;
    until("not ready while the store is away", || async {
        (!service.is_ready().await).then_some(())
    })
    .await?;
    outage.await;
    assert_eq!(
        service.settled().await?,
        2,
        "nothing can be settled meanwhile"
    );
    mongod.start().await?;

    service.has_settled(502).await?;
    // The lanes may notice that the store is back before the probe does, and
    // reads are refused until the service says that it is ready.
    until("ready again", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    assert_eq!(unread(&service, "bob", "d").await?, 500);
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    service.stop().await
}

#[tokio::test]
async fn a_broker_runs_out_of_patience_with_no_one_while_the_database_is_away() -> Result<()> {
    outlasts_the_patience_of_the_broker("patience_away", ("kill", "start")).await
}

/// One event may fail each time while the store is there for all others.
#[tokio::test]
async fn a_store_that_answers_is_not_taken_for_one_that_is_away() -> Result<()> {
    let world = World::new("doubt");
    world.service().await?.stop().await?;
    let store = Store::connect(&world.config.store).await?;
    let (outage, (trigger, stop)) = (Outage::default(), shutdown::channel());
    let hold = Duration::from_secs(1);
    let asking = tokio::spawn(probe_store(store, outage.clone(), hold, stop));
    // As a lane does whose only event fails.
    outage.note_silence(tokio::time::Instant::now());
    let ended = tokio::time::timeout(Duration::from_secs(30), outage.ended()).await;
    ended.map_err(|_| "the store takes writes, and nobody has asked")?;
    trigger.request();
    Ok(asking.await?)
}

/// It keeps its connections, and says nothing.
#[tokio::test]
async fn a_broker_runs_out_of_patience_with_no_one_while_the_database_is_frozen() -> Result<()> {
    outlasts_the_patience_of_the_broker("patience_frozen", ("pause", "resume")).await
}

/// A broker takes the consumer's channel away when a message is held for too
/// long, which counts as a failed delivery of all that it held.
async fn outlasts_the_patience_of_the_broker(name: &str, (begin, end): (&str, &str)) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(4);
    let (mongod, rabbit) = tokio::try_join!(
        Server::mongod(name),
        Server::impatient_rabbit(name, PATIENCE.as_millis() as u64)
    )?;
    let mut world = World::new(name);
    world.config.store.url = mongod.url.clone().into();
    world.config.bus.url = rabbit.url.clone().into();
    world.config.bus.hold_seconds = 1;
    world.config.bus.delivery_limit = 2;
    let service = world.service().await?;
    world.publish(&members()).await?;
    service.has_settled(2).await?;
    let restarts = async |kind: &str| {
        let name = "chat_counters_consumer_restarts_total";
        service.counter(name, kind).await
    };
    let paused = async || {
        let paused = service.counter("chat_counters_consumer_paused", "").await;
        paused.is_ok_and(|paused| paused == 1)
    };

    mongod.run(begin).await?;
    // Longer than it would take the broker to give the events up. The outage
    // itself, not a wait for something.
    let outage = tokio::time::sleep(PATIENCE * 4);
    world
        .publish(&events::messages("m", "d", 500, 1_000))
        .await?;
    until("what is held is handed back", || async {
        paused().await.then_some(())
    })
    .await?;
    until("all of it is in the queue", || async {
        let depth = world.depth(&world.config.bus.queue).await.ok()?;
        (depth == 500).then_some(())
    })
    .await?;
    outage.await;
    assert!(paused().await, "nothing is consumed meanwhile");
    assert!(!service.is_ready().await);
    mongod.run(end).await?;

    world.journaled(502).await?;
    until("ready again", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    assert_eq!(unread(&service, "bob", "d").await?, 500);
    assert_eq!(restarts("held").await?, 1);
    assert_eq!(
        restarts("cancelled").await? + restarts("connection").await?,
        0
    );
    assert!(!paused().await);
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    service.stop().await
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_is_consumed_again() -> Result<()> {
    let rabbit = Server::rabbit("back").await?;
    let mut world = World::new("rabbit_back");
    world.config.bus.url = rabbit.url.clone().into();
    let service = world.service().await?;
    world.publish(&members()).await?;
    service.has_settled(2).await?;
    // Gently first: a RabbitMQ that is killed within the first half second of
    // a quorum queue's life may lose track of the queue.
    rabbit.run("stop").await?;
    rabbit.start().await?;
    world
        .publish(&events::messages("m", "d", 500, 1_000))
        .await?;
    rabbit.run("kill").await?;
    until("not ready without a broker", || async {
        (!service.is_ready().await).then_some(())
    })
    .await?;
    rabbit.start().await?;
    world
        .publish(&events::messages("n", "d", 500, 5_000))
        .await?;
    world.journaled(1_002).await?;
    assert_eq!(dialog(&service, "d").await?, (1_000, 2));
    assert_eq!(unread(&service, "bob", "d").await?, 1_000);
    service.stop().await
}

#[tokio::test]
async fn a_service_that_starts_before_its_servers_waits_for_them() -> Result<()> {
    let mongod = Server::mongod("late").await?;
    mongod.run("kill").await?;
    let mut world = World::new("late");
    world.config.store.url = mongod.url.clone().into();
    let service =
        crate::kit::service::Service::spawn(crate::world::binary(), &world.config).await?;
    until("metrics are served", || async {
        service.settled().await.ok()
    })
    .await?;
    assert!(!service.is_ready().await);
    mongod.start().await?;
    until("ready", || async { service.is_ready().await.then_some(()) }).await?;
    world.publish(&members()).await?;
    service.has_settled(2).await?;
    service.stop().await
}

#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_again() -> Result<()> {
    let world = World::new("deleted");
    let service = world.service().await?;
    world.publish(&members()).await?;
    service.has_settled(2).await?;
    let (connection, channel) = world.channel().await?;
    let queue = world.config.bus.queue.as_str();
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    connection.close(200, "done".into()).await?;

    until("a new queue", || async { world.depth(queue).await.ok() }).await?;
    until("ready", || async { service.is_ready().await.then_some(()) }).await?;
    world
        .publish(&events::messages("m", "d", 10, 1_000))
        .await?;
    service.has_settled(12).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 10);
    service.stop().await
}

/// A letter that a service might have written, one of two causes.
fn letter(number: usize) -> DeadLetter {
    DeadLetter {
        reason: Some(Reason::InvalidEvent),
        error: ["createdAt: missing", "entityId: missing"][number % 2].into(),
        about: Outline::default(),
        first_failed_at: None,
        last_failed_at: None,
        attempts: 1,
        exchange: "events".into(),
        routing_key: "a.b".into(),
        host: "host".into(),
        version: "1".into(),
        replayed_by: None,
    }
}

/// The server's own count of a collection is wrong, for good, after a crash that
/// comes before its next checkpoint.
#[tokio::test]
async fn what_is_counted_of_dead_letters_outlives_a_crash_of_the_database() -> Result<()> {
    const LETTERS: usize = 500;
    const GONE: usize = 100;
    const LEFT: u64 = (LETTERS - GONE) as u64;
    let mongod = Server::mongod("estimates").await?;
    let mut world = World::new("estimates");
    world.config.store.url = mongod.url.clone().into();
    let connected = async || {
        let store = Store::connect(&world.config.store).await?;
        let retention = Retention::of(&Default::default());
        store.migrate(retention).await?;
        Ok::<_, StoreError>(store)
    };
    let all: Vec<_> = (0..LETTERS)
        .map(|number| {
            let sealed = RawMessage {
                properties: Vec::new(),
                body: number.to_string().into_bytes(),
            };
            Letter::new(letter(number), sealed)
        })
        .collect();
    let store = connected().await?;
    store.index_letters(&all).await?;
    let database = world.database().await?;
    let letters = database.collection::<Document>("dead_letters");
    let copies = doc! { "$set": { "copies": 3_i64 } };
    letters.update_many(doc! {}, copies).await?;
    // What comes after a checkpoint is done again after the crash, and then the
    // server does not take what was deleted out of its own count.
    let admin = database.client().database("admin");
    admin.run_command(doc! { "fsync": 1 }).await?;
    let gone: Vec<_> = all[..GONE]
        .iter()
        .map(|letter| letter.id.as_str())
        .collect();
    letters.delete_many(doc! { "_id": { "$in": gone } }).await?;
    drop(store);

    mongod.run("kill").await?;
    mongod.start().await?;
    let store = connected().await?;
    assert_ne!(
        letters.estimated_document_count().await?,
        LEFT,
        "nothing is shown by this test: the server's own count is right"
    );
    assert_eq!(store.count_entries(LetterCollection::Queue).await?, LEFT);
    assert_eq!(
        store
            .count_letters(LetterCollection::Queue, &Filter::default())
            .await?,
        3 * LEFT
    );
    assert_eq!(
        u64::try_from(store.count_indexed_letters().await?)?,
        3 * LEFT
    );
    let groups = store.letter_groups(&Filter::default()).await?;
    let counts: Vec<_> = groups.iter().map(|group| group.count).collect();
    assert_eq!(counts, [3 * LEFT / 2, 3 * LEFT / 2]);
    Ok(())
}
