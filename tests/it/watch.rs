//! Watching: who watches is told how everybody stands and every change, by
//! whichever replica it is made, and nothing old last.

use std::time::Duration;

use chat_counters::config::Serving;
use chat_counters::failpoint::{Point, VARIABLE};
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::command_line::{command, stdout};
use crate::events::{self, TENANT, bulk_read, join};
use crate::kit::service::{PATIENCE, Result, Service, free_address, until};
use crate::kit::watcher::Watcher;
use crate::world::{World, client};

fn about(users: &[&str]) -> v1::WatchUserStatsRequest {
    v1::WatchUserStatsRequest {
        tenant_id: TENANT.into(),
        user_ids: users.iter().map(ToString::to_string).collect(),
        min_interval_ms: 10,
        ..Default::default()
    }
}

async fn watching(service: &Service, users: &[&str]) -> Result<Watcher> {
    let mut watcher = Watcher::open(client(service).await?, about(users)).await?;
    let all = told(&mut watcher, |watcher| watcher.all_told);
    all.await?;
    Ok(watcher)
}

/// Reads on until something is so.
async fn told(watcher: &mut Watcher, is_so: impl Fn(&Watcher) -> bool) -> Result<()> {
    let until = async {
        while !is_so(watcher) {
            watcher.next().await?;
        }
        Result::Ok(())
    };
    match tokio::time::timeout(PATIENCE, until).await {
        Ok(done) => done,
        Err(_elapsed) => Err(format!("never told: {:?}", watcher.users).into()),
    }
}

/// Reads on until the stream ends.
async fn ended(watcher: &mut Watcher) -> Result<Status> {
    let end = async {
        loop {
            if let Err(status) = watcher.next().await {
                return status;
            }
        }
    };
    Ok(tokio::time::timeout(PATIENCE, end).await?)
}

fn unread(watcher: &Watcher, user: &str) -> i64 {
    let stats = watcher.users.get(user);
    stats.map_or(-1, |stats| stats.total_unread_count)
}

async fn joined(world: &World, users: &[&str]) -> Result<u64> {
    let joins = users
        .iter()
        .map(|user| join(&format!("j.{user}"), "d", user, 1));
    world.publish(&joins.collect::<Vec<_>>()).await?;
    world.journaled(users.len() as u64).await?;
    Ok(users.len() as u64)
}

#[tokio::test]
async fn every_change_is_told_whichever_replica_makes_it() -> Result<()> {
    let world = World::new("watch_replicas");
    let (one, other) = (world.service().await?, world.service().await?);
    joined(&world, &["carl", "bob", "eve"]).await?;
    let mut watchers = [
        watching(&one, &["carl", "bob", "bob", "nobody"]).await?,
        watching(&other, &["carl", "bob", "nobody"]).await?,
    ];
    for watcher in &watchers {
        let users: Vec<_> = watcher.users.keys().collect();
        assert_eq!(users, ["bob", "carl", "nobody"]);
        assert_eq!((unread(watcher, "bob"), unread(watcher, "nobody")), (0, 0));
    }
    for n in 0..40_i64 {
        // Each commit is one replica's, and both tell of it.
        world
            .publish(&events::messages(&format!("m{n}"), "d", 1, 100 + n))
            .await?;
        for watcher in &mut watchers {
            told(watcher, |watcher| unread(watcher, "bob") == n + 1).await?;
            told(watcher, |watcher| unread(watcher, "carl") == n + 1).await?;
            let in_dialog = &watcher.dialogs[&("bob".into(), "d".into())];
            assert_eq!(in_dialog.unread_count, n + 1);
        }
    }
    // What one reads is no change for the others.
    let updates = watchers[0].updates;
    world.publish(&[bulk_read("r", "d", "eve", 120)]).await?;
    world.publish(&[bulk_read("s", "d", "bob", 120)]).await?;
    for watcher in &mut watchers {
        told(watcher, |watcher| unread(watcher, "bob") < 40).await?;
        let read = unread(watcher, "bob");
        let mut client = client(&one).await?;
        let stats = client.get_user_stats(v1::GetUserStatsRequest {
            tenant_id: TENANT.into(),
            user_id: "bob".into(),
            ..Default::default()
        });
        assert_eq!(stats.await?.into_inner().total_unread_count, read);
        assert_eq!(unread(watcher, "carl"), 40);
    }
    assert_eq!(watchers[0].updates, updates + 1);
    one.stop().await?;
    other.stop().await
}

#[tokio::test]
async fn dialogs_are_watched_too() -> Result<()> {
    let world = World::new("watch_dialogs");
    let service = world.service().await?;
    joined(&world, &["ann"]).await?;
    let request = v1::WatchDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_ids: vec!["d".into(), "none".into()],
        ..Default::default()
    };
    let stream = client(&service).await?.watch_dialog_stats(request).await?;
    let mut stream = stream.into_inner();
    let mut counts = (0, 0);
    let mut published = false;
    let until = async {
        while counts != (3, 1) {
            let told = stream.message().await?.ok_or("the stream has ended")?;
            let of_d = told
                .dialog_stats
                .iter()
                .find(|stats| stats.dialog_id == "d");
            if let Some(stats) = of_d {
                counts = (stats.message_count, stats.member_count);
            }
            if told.all_told && !std::mem::replace(&mut published, true) {
                assert_eq!(counts, (0, 1));
                world.publish(&events::messages("m", "d", 3, 100)).await?;
            }
        }
        Result::Ok(())
    };
    tokio::time::timeout(PATIENCE, until).await??;
    service.stop().await
}

async fn change(
    service: &Service,
    watch_id: &str,
    add: &[&str],
    remove: &[&str],
) -> std::result::Result<(), Status> {
    let owned = |users: &[&str]| users.iter().map(ToString::to_string).collect();
    let request = v1::ChangeWatchRequest {
        tenant_id: TENANT.into(),
        watch_id: watch_id.into(),
        add_user_ids: owned(add),
        remove_user_ids: owned(remove),
        ..Default::default()
    };
    let client = client(service).await;
    let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
    client.change_watch(request).await.map(|_| ())
}

#[tokio::test]
async fn whom_a_stream_watches_can_be_changed() -> Result<()> {
    let world = World::new("watch_change");
    let service = world.service().await?;
    joined(&world, &["ann", "bob"]).await?;
    let mut watcher = watching(&service, &[]).await?;
    assert!(watcher.users.is_empty());
    let watch_id = watcher.watch_id.clone();
    change(&service, &watch_id, &["ann", "bob"], &[]).await?;
    told(&mut watcher, |watcher| watcher.users.len() == 2).await?;
    change(&service, &watch_id, &[], &["ann", "nobody"]).await?;
    world.publish(&events::messages("m", "d", 3, 100)).await?;
    told(&mut watcher, |watcher| unread(watcher, "bob") == 3).await?;
    assert_eq!(unread(&watcher, "ann"), 0);

    let elsewhere = change(&service, "0123456789abcdef", &["ann"], &[]).await;
    assert_eq!(elsewhere.unwrap_err().code(), Code::NotFound);
    let request = v1::ChangeWatchRequest {
        tenant_id: TENANT.into(),
        watch_id: watch_id.clone(),
        add_dialog_ids: vec!["d".into()],
        ..Default::default()
    };
    let refused = client(&service).await?.change_watch(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let request = v1::ChangeWatchRequest {
        tenant_id: "another".into(),
        watch_id: watch_id.clone(),
        ..Default::default()
    };
    let refused = client(&service).await?.change_watch(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    let many: Vec<String> = (0..10_000).map(|n| format!("user{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = change(&service, &watch_id, &many, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    drop(watcher);
    let gone = async {
        loop {
            let refused = change(&service, &watch_id, &["ann"], &[]).await;
            if refused.is_err_and(|status| status.code() == Code::NotFound) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await?;
    service.stop().await
}

/// Reads on until a token says all that is told by now.
async fn token(watcher: &mut Watcher) -> Result<String> {
    told(watcher, |watcher| !watcher.resume_token.is_empty()).await?;
    Ok(watcher.resume_token.clone())
}

async fn resumed(service: &Service, users: &[&str], token: &str) -> Result<Watcher> {
    let request = v1::WatchUserStatsRequest {
        resume_token: token.into(),
        ..about(users)
    };
    let mut watcher = Watcher::open(client(service).await?, request).await?;
    told(&mut watcher, |watcher| watcher.all_told).await?;
    Ok(watcher)
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_on_another_replica() -> Result<()> {
    let world = World::new("watch_resume");
    let (one, other) = (world.service().await?, world.service().await?);
    joined(&world, &["ann", "bob"]).await?;
    world.publish(&[join("j", "e", "eve", 1)]).await?;
    world.journaled(3).await?;
    let users = ["ann", "bob", "eve"];
    let mut watcher = watching(&one, &users).await?;
    let token = token(&mut watcher).await?;
    drop(watcher);
    // Nothing happened: nothing is told.
    let watcher = resumed(&other, &users, &token).await?;
    assert!(watcher.users.is_empty(), "{:?}", watcher.users);
    drop(watcher);
    world.publish(&events::messages("m", "e", 2, 100)).await?;
    world.journaled(5).await?;
    let mut watcher = resumed(&other, &users, &token).await?;
    // And who has sent them.
    let known: Vec<_> = watcher.users.keys().collect();
    assert_eq!(known, ["ann", "eve"]);
    assert_eq!(unread(&watcher, "eve"), 2);
    // It goes on as any other.
    world.publish(&events::messages("n", "d", 1, 200)).await?;
    told(&mut watcher, |watcher| unread(watcher, "bob") == 1).await?;

    // Where it was is not known any more: all are told.
    let output = command(&world, &["rebuild"]).output().await?;
    assert!(output.status.success(), "{output:?}");
    let watcher = resumed(&one, &users, &token).await?;
    assert_eq!(watcher.users.len(), 3);
    for wrong in ["junk", &token[..token.len() - 2]] {
        let refused = resumed(&one, &users, wrong)
            .await
            .err()
            .map(|e| e.to_string());
        assert!(refused.is_some_and(|why| why.contains("resume_token")));
    }
    one.stop().await?;
    other.stop().await
}

#[tokio::test]
async fn what_is_lost_from_memory_is_told_anew() -> Result<()> {
    let world = World::new("watch_lost");
    let service = world.service().await?;
    joined(&world, &["eve", "bob"]).await?;
    let mut watcher = watching(&service, &["eve", "bob"]).await?;
    let database = world.database().await?;
    // A change of a writer whose record nobody can find.
    let dialogs = database.collection::<Document>("dialogs");
    let more = doc! { "$inc": { "version": 1_i64, "sequence.user": 5_i64 } };
    dialogs.update_one(doc! { "_id.d": "d" }, more).await?;
    let writers = database.collection::<Document>("writers");
    let lost = ObjectId::new();
    let writer = doc! { "_id": lost, "epoch": 0_i64, "commits": 1_i64, "at": DateTime::now() };
    writers.insert_one(writer).await?;
    told(&mut watcher, |watcher| unread(watcher, "bob") == 5).await?;
    told(&mut watcher, |watcher| unread(watcher, "eve") == 5).await?;
    // So are a rebuild, which knows nothing of it, and what comes after.
    let output = command(&world, &["rebuild"]).output().await?;
    assert!(output.status.success(), "{output:?}");
    world.publish(&events::messages("m", "d", 2, 100)).await?;
    told(&mut watcher, |watcher| unread(watcher, "bob") == 2).await?;
    told(&mut watcher, |watcher| unread(watcher, "eve") == 2).await?;
    service.stop().await
}

#[tokio::test]
async fn who_reads_late_is_told_the_latest() -> Result<()> {
    const USERS: usize = 300;
    const MESSAGES: usize = 1_000;
    let world = World::new("watch_late");
    let service = world.service().await?;
    let users: Vec<String> = (0..USERS).map(|n| format!("user{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let committed = joined(&world, &users).await?;
    let mut late = watching(&service, &users).await?;
    let mut prompt = watching(&service, &users).await?;
    let before = late.updates;
    for n in 0..MESSAGES / 10 {
        let more = events::messages(&format!("m{n}"), "d", 10, 100 + 10 * n as i64);
        world.publish(&more).await?;
    }
    let all = |watcher: &Watcher| {
        let mut users = users.iter();
        users.all(|user| unread(watcher, user) == MESSAGES as i64)
    };
    told(&mut prompt, all).await?;
    world.journaled(committed + MESSAGES as u64).await?;
    told(&mut late, all).await?;
    // Not one for each change: what waited has become one.
    let updates = late.updates - before;
    assert!(updates < (USERS * MESSAGES) as u64 / 4, "{updates} updates");
    service.stop().await
}

#[tokio::test]
async fn a_stream_ends_gently_when_the_service_stops() -> Result<()> {
    let world = World::new("watch_stop");
    let service = world.service().await?;
    joined(&world, &["bob"]).await?;
    let mut watcher = watching(&service, &["bob"]).await?;
    service.send("-TERM").await?;
    let status = ended(&mut watcher).await?;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let retry = status.get_details_retry_info().ok_or("no time to retry")?;
    assert!(
        retry
            .retry_delay
            .is_some_and(|delay| delay > Duration::ZERO)
    );
    service.stop().await
}

#[tokio::test]
async fn a_stream_ends_gently_with_its_connection() -> Result<()> {
    let mut world = World::new("watch_age");
    world.config.grpc.max_connection_age_seconds = 1;
    let service = world.service().await?;
    let mut watcher = watching(&service, &["bob"]).await?;
    let status = ended(&mut watcher).await?;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.get_details_retry_info().is_some(), "{status}");
    service.stop().await
}

#[tokio::test]
async fn ten_thousand_who_are_in_no_memory_are_told_a_few_at_a_time() -> Result<()> {
    let world = World::new("watch_cold");
    let service = world.service().await?;
    joined(&world, &["user0", "user9999"]).await?;
    let users: Vec<String> = (0..10_000).map(|n| format!("user{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut watcher = Watcher::open(client(&service).await?, about(&users)).await?;
    told(&mut watcher, |watcher| !watcher.users.is_empty()).await?;
    // The first are told before the last are there.
    assert!(!watcher.all_told);
    told(&mut watcher, |watcher| watcher.all_told).await?;
    assert_eq!(watcher.users.len(), 10_000);
    world.publish(&events::messages("m", "d", 2, 100)).await?;
    told(&mut watcher, |watcher| unread(watcher, "user9999") == 2).await?;
    // What is asked for twice is not counted twice.
    let watch_id = watcher.watch_id.clone();
    change(&service, &watch_id, &users, &users[..5_000]).await?;
    change(&service, &watch_id, &users, &[]).await?;
    let subjects = service.counter("chat_counters_serving_watch_subjects", "");
    assert_eq!(subjects.await?, 10_000);
    service.stop().await
}

#[tokio::test]
async fn streams_are_bounded_and_leave_other_calls_room() -> Result<()> {
    let mut world = World::new("watch_bounds");
    world.config.serving = Serving { memory_mib: 1 };
    let service = world.service().await?;
    joined(&world, &["bob"]).await?;
    let shared = client(&service).await?;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(Watcher::open(shared.clone(), about(&["bob"])).await?);
    }
    let refused = Watcher::open(shared.clone(), about(&["bob"])).await.err();
    let refused = refused.ok_or("one too many")?;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let asked = v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        ..Default::default()
    };
    shared.clone().get_user_stats(asked).await?;
    let streams = service.counter("chat_counters_serving_watch_streams", "");
    assert_eq!(streams.await?, 32);
    drop(open);
    until("streams that are closed", || async {
        let streams = service.counter("chat_counters_serving_watch_streams", "");
        (streams.await.ok()? == 0).then_some(())
    })
    .await?;

    // More than there is room for.
    let many: Vec<String> = (0..5_000).map(|n| format!("user{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut watcher = Watcher::open(shared.clone(), about(&many)).await?;
    let status = ended(&mut watcher).await?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("serving.memory_mib"), "{status}");
    let bytes = service.counter("chat_counters_serving_memory_bytes", "");
    assert!(bytes.await? <= 1 << 20);
    let mut refused = about(&["bob"]);
    refused.min_interval_ms = 9;
    let refused = Watcher::open(shared, refused).await.err().ok_or("taken")?;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    service.stop().await?;

    world.config.serving = Serving { memory_mib: 0 };
    let service = world.service().await?;
    let refused = Watcher::open(client(&service).await?, about(&["bob"])).await;
    let refused = refused.err().ok_or("nothing is in memory")?;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    service.stop().await
}

#[tokio::test]
async fn a_terminal_shows_it_live() -> Result<()> {
    let world = World::new("watch_command");
    let service = world.service().await?;
    joined(&world, &["bob"]).await?;
    let address = service.grpc.to_string();
    let arguments = |format: &'static str| {
        let all = "watch user bob --tenant tnt_1 --updates 2 --output";
        let all = all.split(' ').chain([format, "--address", &address]);
        all.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let running = async |format| {
        let arguments = arguments(format);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = command(&world, &arguments);
        let output = tokio::time::timeout(PATIENCE, command.output()).await??;
        Result::Ok(output)
    };
    let (table, json) = (running("table"), running("json"));
    let publishing = async {
        // Both are there once two streams are open.
        until("two streams", || async {
            let subjects = service.counter("chat_counters_serving_watch_updates_total", "");
            (subjects.await.ok()? >= 2).then_some(())
        })
        .await?;
        world.publish(&events::messages("m", "d", 1, 100)).await
    };
    let (table, json, ()) = tokio::try_join!(table, json, publishing)?;
    assert!(
        table.status.success() && json.status.success(),
        "{table:?} {json:?}"
    );
    let lines: Vec<_> = stdout(&table).lines().map(ToOwned::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("bob  unread 0 in 0 of 1 dialogs  [...]"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("bob  unread 1 in 1 of 1 dialogs  [d: 1]"),
        "{lines:?}"
    );
    let last: serde_json::Value = serde_json::from_str(stdout(&json).lines().last().ok_or("")?)?;
    assert_eq!(last["user_stats"]["total_unread_count"], 1);
    assert_eq!(last["user_dialog_stats"][0]["dialog_id"], "d");
    service.stop().await
}

/// A replica that dies at a point, and whoever watches on it goes to another.
async fn survives(point: Point) -> Result<()> {
    let world = World::new(&format!("watch_{}", point.name()));
    let service = world.service().await?;
    joined(&world, &["eve", "bob"]).await?;
    let address = free_address().await?;
    let mut dying = command(&world, &["serve"])
        .env(VARIABLE, format!("{}:3", point.name()))
        .env("CHAT_COUNTERS__GRPC__LISTEN", address.to_string())
        .env("CHAT_COUNTERS__METRICS__LISTEN", "")
        .spawn()?;
    let url = format!("http://{address}");
    let mut there = until("a stream on the replica that dies", || async {
        let client = CounterServiceClient::connect(url.clone()).await.ok()?;
        Watcher::open(client, about(&["eve", "bob"])).await.ok()
    })
    .await?;
    let mut here = watching(&service, &["eve", "bob"]).await?;
    let reading = async {
        // Until it is gone.
        while there.next().await.is_ok() {}
        there
    };
    let publishing = async {
        let mut sent = 0;
        while dying.try_wait()?.is_none() {
            let name = format!("m{sent}");
            world
                .publish(&events::messages(&name, "d", 1, 100 + sent))
                .await?;
            sent += 1;
            // The one who does not die counts what the other leaves.
            world.journaled(2 + sent as u64).await?;
        }
        Result::Ok(sent)
    };
    let both = async { tokio::join!(reading, publishing) };
    let (there, sent) = tokio::time::timeout(PATIENCE, both).await?;
    let sent = sent?;
    let request = v1::WatchUserStatsRequest {
        resume_token: there.resume_token.clone(),
        ..about(&["eve", "bob"])
    };
    let mut again = Watcher::open(client(&service).await?, request).await?;
    again.users = there.users;
    for watcher in [&mut here, &mut again] {
        told(watcher, |watcher| unread(watcher, "bob") == sent).await?;
        told(watcher, |watcher| unread(watcher, "eve") == sent).await?;
    }
    service.stop().await
}

#[tokio::test]
async fn a_crash_at_every_step_between_commit_and_client_loses_no_change() -> Result<()> {
    for point in Point::WATCHING {
        Box::pin(survives(point)).await?;
    }
    Ok(())
}
