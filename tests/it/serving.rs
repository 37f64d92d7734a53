//! Reads from memory: as exact as those from the store, on each replica,
//! whoever writes and whatever is missing.

use std::time::{Duration, SystemTime};

use chat_counters::config::Serving;
use chat_counters::grpc::v1;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};

use crate::command_line::command;
use crate::events::{self, TENANT, join};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, until};
use crate::world::{World, client, dialog, unread};

/// Reads that were answered from memory, and those that were not.
async fn reads(service: &Service, source: &str) -> Result<u64> {
    service
        .counter("chat_counters_serving_reads_total", source)
        .await
}

/// Waits until what was in memory was forgotten so often.
async fn forgotten(service: &Service, cause: &str, times: u64) -> Result<()> {
    until(&format!("forgotten {times} times: {cause}"), || async {
        let forgotten = service.counter("chat_counters_serving_forgotten_total", cause);
        (forgotten.await.ok()? >= times).then_some(())
    })
    .await
}

/// Asks about bob until he is in memory: on a machine that has much to do the
/// store answers before he is.
async fn is_held(service: &Service) -> Result<()> {
    until("bob is in memory", || async {
        bob(service, 0).await.ok()?;
        let users = service.counter("chat_counters_serving_users", "");
        (users.await.ok()? > 0).then_some(())
    })
    .await
}

async fn joined(world: &World) -> Result<()> {
    world
        .publish(&[join("j1", "d", "bob", 1), join("j2", "d", "ann", 1)])
        .await?;
    world.journaled(2).await
}

#[tokio::test]
async fn what_is_committed_is_in_every_answer_of_every_replica() -> Result<()> {
    let world = World::new("serving_replicas");
    let (one, other) = (world.service().await?, world.service().await?);
    joined(&world).await?;
    for service in [&one, &other] {
        // Who asks once about one dialog is answered by the store.
        assert_eq!(unread(service, "bob", "d").await?, 0);
        assert_eq!(reads(service, "store").await?, 1);
        is_held(service).await?;
    }
    for n in 0..40_u64 {
        world
            .publish(&events::messages(&format!("m{n}"), "d", 1, 100 + n as i64))
            .await?;
        // From here on it is committed: nobody may answer without it.
        world.journaled(3 + n).await?;
        for service in [&one, &other] {
            assert_eq!(unread(service, "bob", "d").await?, n as i64 + 1, "{n}");
            assert_eq!(dialog(service, "d").await?, (n as i64 + 1, 2), "{n}");
        }
    }
    for service in [&one, &other] {
        // Mostly: a round may take too long beside other tests.
        let (memory, store) = (reads(service, "memory"), reads(service, "store"));
        let (memory, store) = (memory.await?, store.await?);
        assert!(
            memory > store,
            "{memory} from memory, {store} from the store"
        );
    }
    let fetched = one.counter("chat_counters_serving_commits_fetched_total", "");
    let of_other = other.counter("chat_counters_serving_commits_fetched_total", "");
    let fetched = fetched.await? + of_other.await?;
    assert!(fetched > 0, "each has seen commits of the other");
    one.stop().await?;
    other.stop().await
}

#[tokio::test]
async fn a_record_that_is_missing_has_all_read_anew() -> Result<()> {
    let world = World::new("serving_hole");
    let service = world.service().await?;
    joined(&world).await?;
    is_held(&service).await?;
    // A writer whose record nobody can find.
    let database = world.database().await?;
    let writers = database.collection::<Document>("writers");
    let lost = ObjectId::new();
    let writer = doc! { "_id": lost, "epoch": 0_i64, "commits": 1_i64, "at": DateTime::now() };
    writers.insert_one(writer).await?;
    let dialogs = database.collection::<Document>("dialogs");
    let more = doc! { "$inc": { "version": 1_i64, "sequence.user": 5_i64 } };
    dialogs.update_one(doc! { "_id.d": "d" }, more).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 5);
    forgotten(&service, "record_missing", 1).await?;
    service.stop().await
}

#[tokio::test]
async fn a_writer_of_a_version_without_records_is_noticed() -> Result<()> {
    let world = World::new("serving_unnumbered");
    let service = world.service().await?;
    joined(&world).await?;
    let database = world.database().await?;
    let (writers, dialogs) = (
        database.collection::<Document>("writers"),
        database.collection::<Document>("dialogs"),
    );
    let old = ObjectId::new();
    is_held(&service).await?;
    for n in 0..3_i64 {
        assert_eq!(unread(&service, "bob", "d").await?, 5 * n);
        let at = DateTime::from_millis(DateTime::now().timestamp_millis() + n);
        let change = doc! { "$set": { "epoch": 0_i64, "at": at } };
        writers
            .update_one(doc! { "_id": old }, change)
            .upsert(true)
            .await?;
        let more = doc! { "$inc": { "version": 1_i64, "sequence.user": 5_i64 } };
        dialogs.update_one(doc! { "_id.d": "d" }, more).await?;
    }
    assert_eq!(unread(&service, "bob", "d").await?, 15);
    forgotten(&service, "unnumbered", 1).await?;
    service.stop().await
}

#[tokio::test]
async fn more_users_than_fit_are_slower_and_not_wrong() -> Result<()> {
    const USERS: usize = 60;
    const DIALOGS: usize = 60;
    let mut world = World::new("serving_small");
    world.config.serving = Serving { memory_mib: 1 };
    let service = world.service().await?;
    let dialogs = |user: usize| (0..DIALOGS).map(move |n| format!("d{user}.{n}"));
    let mut sent = Vec::new();
    for user in 0..USERS {
        for dialog in dialogs(user) {
            let id = format!("join.{dialog}");
            sent.push(join(&id, &dialog, &format!("user{user}"), 1));
        }
    }
    world.publish(&sent).await?;
    let mut committed = sent.len() as u64;
    let mut client = client(&service).await?;
    for round in 0..3_i64 {
        world.journaled(committed).await?;
        for user in 0..USERS {
            let request = v1::GetUserStatsRequest {
                tenant_id: TENANT.into(),
                user_id: format!("user{user}"),
                ..Default::default()
            };
            let stats = client.get_user_stats(request).await?.into_inner();
            let found = (stats.dialog_count, stats.total_unread_count);
            assert_eq!(found, (DIALOGS as i64, 2 * round), "user{user}");
        }
        let mut more = Vec::new();
        for user in 0..USERS {
            for dialog in dialogs(user).take(2) {
                let name = format!("m{round}.{dialog}");
                more.extend(events::messages(&name, &dialog, 1, 100 + round));
            }
        }
        world.publish(&more).await?;
        committed += more.len() as u64;
    }
    let bytes = service.counter("chat_counters_serving_memory_bytes", "");
    let bytes = bytes.await?;
    assert!((1..=1 << 20).contains(&bytes), "{bytes} bytes");
    let evicted = service.counter("chat_counters_serving_evictions_total", "");
    assert!(evicted.await? > 0);
    service.stop().await
}

#[tokio::test]
async fn repairs_and_rebuilds_are_seen() -> Result<()> {
    let world = World::new("serving_repair");
    let service = world.service().await?;
    joined(&world).await?;
    world.publish(&events::messages("m", "d", 3, 100)).await?;
    world.journaled(5).await?;
    is_held(&service).await?;
    // Spoilt behind everybody's back: memory knows better, and is not asked to.
    let dialogs = world.database().await?.collection::<Document>("dialogs");
    let spoilt = doc! { "$inc": { "messages": 7_i64 } };
    dialogs.update_one(doc! { "_id.d": "d" }, spoilt).await?;
    let output = command(&world, &["verify", "--repair", "--reason", "a test"])
        .output()
        .await?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(dialog(&service, "d").await?, (3, 2));
    is_held(&service).await?;
    let output = command(&world, &["rebuild"]).output().await?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(dialog(&service, "d").await?, (3, 2));
    assert_eq!(unread(&service, "bob", "d").await?, 3);
    world.publish(&events::messages("n", "d", 2, 200)).await?;
    world.journaled(7).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 5);
    service.stop().await
}

#[tokio::test]
async fn it_can_be_switched_off() -> Result<()> {
    let mut world = World::new("serving_off");
    world.config.serving = Serving { memory_mib: 0 };
    let service = world.service().await?;
    joined(&world).await?;
    assert_eq!(dialog(&service, "d").await?, (0, 2));
    for source in ["memory", "loaded", "store"] {
        assert_eq!(reads(&service, source).await?, 0, "{source}");
    }
    service.stop().await
}

/// A call about bob whose answer may be so old.
async fn bob(service: &Service, max_staleness_ms: i32) -> Result<v1::UserStats> {
    let mut request = tonic::Request::new(v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        max_staleness_ms,
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(3));
    let answer = client(service).await?.get_user_stats(request).await;
    Ok(answer.map_err(Box::new)?.into_inner())
}

#[tokio::test]
async fn who_takes_an_older_answer_has_one_while_the_database_is_away() -> Result<()> {
    let mongod = Server::mongod("stale").await?;
    let mut world = World::new("stale");
    world.config.store.url = mongod.url.clone().into();
    let service = world.service().await?;
    joined(&world).await?;
    world.publish(&events::messages("m", "d", 3, 100)).await?;
    world.journaled(5).await?;

    is_held(&service).await?;
    // Nobody who asks for nothing is told a time.
    assert_eq!(bob(&service, 0).await?.as_of, None);
    let before = SystemTime::now();
    let fresh = bob(&service, 1).await?;
    assert_eq!(fresh.total_unread_count, 3);
    let as_of = fresh.as_of.ok_or("no time")?;
    let told = SystemTime::try_from(as_of)?;
    assert!(told + Duration::from_millis(1) >= before, "{as_of}");

    mongod.run("pause").await?;
    let old = bob(&service, 60_000).await?;
    assert_eq!(old.total_unread_count, 3);
    assert!(SystemTime::try_from(old.as_of.ok_or("no time")?)? <= SystemTime::now());
    bob(&service, 0).await.unwrap_err();
    mongod.run("resume").await?;
    until("the database is back", || async {
        bob(&service, 0).await.ok()
    })
    .await?;
    let refused = bob(&service, 60_001).await.unwrap_err().to_string();
    assert!(refused.contains("max_staleness_ms"), "{refused}");
    service.stop().await
}

/// As another replica's start does with those that have long been silent.
async fn remove_writers(world: &World) -> Result<()> {
    let database = world.database().await?;
    let writers = database.collection::<Document>("writers");
    let mut session = database.client().start_session().await?;
    session.start_transaction().await?;
    writers.delete_many(doc! {}).session(&mut session).await?;
    let meta = database.collection::<Document>("meta");
    let removed = doc! { "$inc": { "removed": 1_i64 } };
    meta.update_one(doc! { "_id": "generations" }, removed)
        .session(&mut session)
        .await?;
    session.commit_transaction().await?;
    Ok(())
}

#[tokio::test]
async fn writers_that_are_removed_are_not_waited_for() -> Result<()> {
    let world = World::new("serving_removed");
    let service = world.service().await?;
    joined(&world).await?;
    for n in 0..3_u64 {
        is_held(&service).await?;
        assert_eq!(unread(&service, "bob", "d").await?, n as i64);
        remove_writers(&world).await?;
        assert_eq!(unread(&service, "bob", "d").await?, n as i64);
        forgotten(&service, "writer_removed", n + 1).await?;
        // The service's own writers enrol anew.
        world
            .publish(&events::messages(&format!("m{n}"), "d", 1, 100 + n as i64))
            .await?;
        world.journaled(3 + n).await?;
    }
    service.stop().await
}
