//! Notifications on the bus: each change reaches whoever listens there, whatever
//! dies on the way, and what is told last is how everybody stands.

use std::time::{Duration, Instant};

use chat_counters::config::NotifyFormat;
use chat_counters::failpoint::Point;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::blocked::{gauge, set_alarm};
use crate::command_line::{command, stderr};
use crate::events::{self, TENANT, Wire, bulk_read, join, leave, message, status};
use crate::failpoints::dies_at;
use crate::kit::http1::ask;
use crate::kit::model::Model;
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, until};
use crate::kit::subscriber::{Message, Subscriber};
use crate::world::{World, binary};

/// Worlds side by side: each starts the service twice.
const TOGETHER: usize = 3;

/// A world that notifies often.
fn notifying(name: &str, format: NotifyFormat) -> World {
    let mut world = World::new(name);
    world.config.notify.format = format;
    world.config.notify.interval_ms = 20;
    world
}

async fn listening(world: &World) -> Result<Subscriber> {
    Subscriber::begin(vec![world.config.bus.clone()], &world.config.notify).await
}

/// Waits until what was told last is what the events come to.
async fn all_told(subscriber: &Subscriber, events: &[Wire]) -> Result<()> {
    let model = Model::of(&events::bodies(events));
    let told = until("everybody is told", || async {
        subscriber.unknown(&model).is_empty().then_some(())
    });
    if let Err(late) = told.await {
        let unknown = subscriber.unknown(&model);
        return Err(format!("{late}: {unknown:#?}").into());
    }
    let known = subscriber.known();
    assert!(known.faults.is_empty(), "{:?}", known.faults);
    Ok(())
}

fn load() -> Vec<Wire> {
    let mut events = vec![
        join("a", "d", "ann", 1),
        join("b", "d", "bob", 1),
        join("c", "e", "bob", 1),
    ];
    events.extend(events::messages("m", "d", 30, 100));
    events.extend(events::messages("n", "e", 10, 100));
    events.push(status("s", "d", "msg_m_3", "bob", "read", 500));
    events.push(bulk_read("r", "e", "bob", 104));
    events.push(leave("l", "d", "ann", 600));
    events
}

#[tokio::test]
async fn who_changes_is_told_what_a_read_is_answered() -> Result<()> {
    let world = notifying("notify_events", NotifyFormat::CloudEvents);
    let subscriber = listening(&world).await?;
    let (one, other) = (world.service().await?, world.service().await?);
    let mut events = load();
    world.publish(&events).await?;
    all_told(&subscriber, &events).await?;

    // One more message: each member, over all dialogs and in this one, and nobody else.
    let before = told_so_far(&world, [&one, &other], &subscriber).await?;
    events.extend(events::messages("o", "e", 1, 700));
    world.publish(&events[events.len() - 1..]).await?;
    all_told(&subscriber, &events).await?;
    let told: Vec<Message> = subscriber.known().messages[before..].to_vec();
    let mut keys: Vec<_> = told.iter().map(|message| &*message.routing_key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(
        keys,
        [
            "user_dialog_stats.tnt_1.ann",
            "user_dialog_stats.tnt_1.bob",
            "user_stats.tnt_1.ann",
            "user_stats.tnt_1.bob"
        ]
    );
    for message in &told {
        is_an_event(message);
        let data = &message.body["data"];
        let user = data["user_id"].as_str().unwrap_or_default();
        let path = match data["dialog_id"].as_str() {
            None => format!("/v1/tenants/{TENANT}/users/{user}/stats"),
            Some(dialog) => format!("/v1/tenants/{TENANT}/users/{user}/dialogs/{dialog}"),
        };
        for service in [&one, &other] {
            let answer = ask(service.http, ("GET", &path), &[], b"").await?;
            assert_eq!(&answer.json()?, data, "{path}");
        }
    }

    // What one reads is no news for the others.
    let before = told_so_far(&world, [&one, &other], &subscriber).await?;
    events.push(bulk_read("t", "e", "bob", 800));
    world.publish(&events[events.len() - 1..]).await?;
    all_told(&subscriber, &events).await?;
    let told: Vec<Message> = subscriber.known().messages[before..].to_vec();
    assert!(
        told.iter().all(|of| of.headers["userId"] == "bob"),
        "{told:?}"
    );
    let publishers = [
        gauge(&one, "notify_publisher").await,
        gauge(&other, "notify_publisher").await,
    ];
    let publishers: u64 = publishers.into_iter().flatten().sum();
    assert_eq!(publishers, 1, "replicas that publish");
    one.stop().await?;
    other.stop().await
}

/// How many messages were told of what is committed: all of them have come.
async fn told_so_far(
    world: &World,
    services: [&Service; 2],
    subscriber: &Subscriber,
) -> Result<usize> {
    all_commits_told(world).await?;
    until("all that was published has come", || async {
        let mut published = 0;
        for service in services {
            published += gauge(service, "notify_published_total").await?;
        }
        let known = subscriber.known();
        (known.count == published).then_some(known.messages.len())
    })
    .await
}

fn is_an_event(message: &Message) {
    let body = &message.body;
    assert_eq!(
        message.content_type,
        "application/cloudevents+json; charset=utf-8"
    );
    assert_eq!(body["specversion"], "1.0");
    assert_eq!(body["source"], "/chat-counters");
    assert_eq!(body["datacontenttype"], "application/json");
    assert_eq!(body["tenantid"], TENANT);
    assert_eq!(body["id"], Value::from(message.message_id.clone()));
    let data = &body["data"];
    assert_eq!(body["subject"], data["user_id"]);
    assert_eq!(body["time"], data["updated_at"]);
    let version = format!("-{}", data["version"]);
    assert!(message.message_id.ends_with(&version), "{body}");
    assert_eq!(message.headers["tenantId"], TENANT);
    assert_eq!(
        data["user_id"],
        Value::from(message.headers["userId"].clone())
    );
}

#[tokio::test]
async fn clients_of_chat3_get_what_chat3_sends_them() -> Result<()> {
    let mut world = notifying("notify_chat3", NotifyFormat::Chat3);
    world.config.notify.chat3_version_offset = 1_000_000;
    let subscriber = listening(&world).await?;
    let service = world.service().await?;
    let typed = events::user_typed("u", "bob", "contact", 1);
    world
        .publish(&[
            typed,
            join("a", "d.1", "ann", 2),
            join("b", "d.1", "bob", 2),
        ])
        .await?;
    let told = |key: &'static str, event: &'static str| {
        let subscriber = &subscriber;
        until(key, move || async move {
            let known = subscriber.known();
            let mut of_event = known.messages.iter().rev();
            let found = of_event.find(|of| of.routing_key == key && of.body["eventId"] == event);
            found.cloned()
        })
    };
    told("update.user.contact.bob.user", "b").await?;
    world
        .publish(&[message("evt_m", "d.1", "m", "ann", 1_763_551_369_397)])
        .await?;
    let mut to_bob = told("update.user.contact.bob.user", "evt_m").await?;
    assert_eq!(to_bob.content_type, "application/json");
    let headers = [
        ("entityId", "bob"),
        ("sourceEventType", "message.create"),
        ("updateType", "update.user"),
        ("userId", "bob"),
    ];
    let expected = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(to_bob.headers, expected.into());
    let stats = &mut to_bob.body["data"]["user"]["stats"];
    let version = stats["statsVersion"].take();
    assert!(version.as_i64() > Some(1_000_000), "{version}");
    for time in [
        stats["lastUpdatedAt"].take(),
        to_bob.body["createdAt"].take(),
    ] {
        let time = time.as_str().unwrap_or_default().to_owned();
        let (millis, rest) = time.split_once('.').unwrap_or_default();
        assert!(millis.len() == 13 && rest.len() == 6, "{time}");
    }
    assert_eq!(
        to_bob.body,
        json!({
            "tenantId": TENANT, "userId": "bob", "entityId": "bob", "eventId": "evt_m",
            "sourceEventType": "message.create", "updateType": "update.user",
            "published": false, "createdAt": null,
            "data": {
                "user": { "userId": "bob", "type": "contact", "stats": {
                    "dialogCount": 1, "unreadDialogsCount": 1, "totalUnreadCount": 1,
                    "totalMessagesCount": 0, "statsVersion": null, "lastUpdatedAt": null,
                    "unreadBySenderType": [
                        { "fromType": "user", "countUnread": 1 },
                        { "fromType": "contact", "countUnread": 0 },
                        { "fromType": "bot", "countUnread": 0 },
                    ],
                } },
                "context": {
                    "entityId": "bob", "includedSections": ["user"],
                    "updatedFields": [
                        "user.stats.unreadDialogsCount", "user.stats.totalUnreadCount",
                        "user.stats.statsVersion", "user.stats.lastUpdatedAt",
                        "user.stats.unreadBySenderType",
                    ],
                    "version": 4, "uiTarget": "users.list",
                },
            },
        })
    );
    let mut to_bob = told("update.dialog.contact.bob.dialog", "evt_m").await?;
    to_bob.body["createdAt"].take();
    assert_eq!(to_bob.headers["entityId"], "d.1");
    let unread = json!({ "unreadCount": 1 });
    assert_eq!(
        to_bob.body,
        json!({
            "tenantId": TENANT, "userId": "bob", "entityId": "d.1", "eventId": "evt_m",
            "sourceEventType": "message.create", "updateType": "update.dialog",
            "published": false, "createdAt": null,
            "data": {
                "dialog": { "dialogId": "d.1", "stats": unread },
                "member": { "userId": "bob", "state": unread },
                "context": {
                    "dialogId": "d.1", "userId": "bob",
                    "includedSections": ["dialog", "member"],
                    "updatedFields": ["member.state.unreadCount", "dialog.stats.unreadCount"],
                    "version": 4, "uiTarget": "dialogs.list",
                },
            },
        })
    );
    // The sender is told of the message sent, and nothing of what is unread.
    let to_ann = told("update.user.user.ann.user", "evt_m").await?;
    assert_eq!(
        to_ann.body["data"]["user"]["stats"]["totalMessagesCount"],
        1
    );
    let mut to_ann = subscriber.known().messages.clone().into_iter();
    let is_of_dialog = |of: &Message| {
        of.body["eventId"] == "evt_m" && of.routing_key == "update.dialog.user.ann.dialog"
    };
    assert!(!to_ann.any(|of| is_of_dialog(&of)));
    service.stop().await
}

async fn survives(point: Point, pass: u64) -> Result<()> {
    let world = notifying(
        &format!("notify_{}_{pass}", point.name()),
        NotifyFormat::CloudEvents,
    );
    let subscriber = listening(&world).await?;
    // The queue, and a cursor to begin at.
    let first = world.service().await?;
    until("a cursor", || async { cursor(&world).await.ok().flatten() }).await?;
    first.stop().await?;
    let events = load();
    world.publish(&events).await?;
    let settings = [
        ("CHAT_COUNTERS__NOTIFY__FORMAT", "cloudevents"),
        ("CHAT_COUNTERS__NOTIFY__INTERVAL_MS", "20"),
        (
            "CHAT_COUNTERS__NOTIFY__EXCHANGE",
            &world.config.notify.exchange,
        ),
    ];
    assert!(
        dies_at(&world, point, pass, &settings).await?,
        "{point:?}: it did not die"
    );
    let service = world.service().await?;
    all_told(&subscriber, &events)
        .await
        .map_err(|error| format!("{point:?} {pass}: {error}"))?;
    service.stop().await
}

/// The cursor as it is in the database.
async fn cursor(world: &World) -> Result<Option<Document>> {
    let meta = world.database().await?.collection::<Document>("meta");
    let found = meta.find_one(doc! { "_id": "notifications" }).await?;
    Ok(found.and_then(|found| found.get_document("cursor").cloned().ok()))
}

/// Commits that the cursor has passed, of all writers together.
async fn commits_told(world: &World) -> Result<i64> {
    let cursor = cursor(world).await?.ok_or("no cursor")?;
    let writers = cursor.get_array("writers")?.iter();
    let numbers = writers.filter_map(|writer| writer.as_document()?.get_i64("n").ok());
    Ok(numbers.sum())
}

/// Waits until the cursor has passed all commits that there are.
async fn all_commits_told(world: &World) -> Result<()> {
    until("the cursor is behind all commits", || async {
        let writers = world
            .database()
            .await
            .ok()?
            .collection::<Document>("writers");
        let numbered = doc! { "commits": { "$exists": true } };
        let mut found = writers.find(numbered).await.ok()?;
        let mut commits = 0;
        while let Some(Ok(writer)) = found.next().await {
            commits += writer.get_i64("commits").ok()?;
        }
        (commits_told(world).await.ok()? == commits).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_crash_at_every_step_loses_no_notification() -> Result<()> {
    // Rounds without anything to tell pass the first as well: so also a later one.
    let passes = Point::NOTIFYING.map(|point| (point, 1));
    let passes = passes.into_iter().chain([(Point::NotifyTaken, 4)]);
    stream::iter(passes.map(|(point, pass)| survives(point, pass)))
        .buffer_unordered(TOGETHER)
        .try_collect::<()>()
        .await
}

#[tokio::test]
async fn a_publisher_that_was_frozen_does_no_harm() -> Result<()> {
    let world = notifying("notify_frozen", NotifyFormat::CloudEvents);
    let subscriber = listening(&world).await?;
    let first = world.service().await?;
    until("the first publishes", || async {
        (gauge(&first, "notify_publisher").await? == 1).then_some(())
    })
    .await?;
    let mut events = load();
    world.publish(&events).await?;
    all_told(&subscriber, &events).await?;
    let second = world.service().await?;
    // In the middle of what it has to tell.
    events.extend(events::messages("x", "e", 400, 900));
    let (some, rest) = events[events.len() - 400..].split_at(200);
    world.publish(some).await?;
    first.send("-STOP").await?;
    world.publish(rest).await?;
    until("the second publishes", || async {
        (gauge(&second, "notify_publisher").await? == 1).then_some(())
    })
    .await?;
    let before = commits_told(&world).await?;
    // It still thinks that it is the one, and finds out before it can do harm.
    first.send("-CONT").await?;
    until("the first does not publish any more", || async {
        (gauge(&first, "notify_publisher").await? == 0).then_some(())
    })
    .await?;
    all_told(&subscriber, &events).await?;
    assert!(commits_told(&world).await? >= before);
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn a_broker_that_takes_nothing_delays_notifications_and_no_counting() -> Result<()> {
    let rabbit = Server::rabbit("notify_alarm").await?;
    let mut world = notifying("notify_alarm", NotifyFormat::CloudEvents);
    world.config.bus.url = rabbit.url.clone().into();
    // So that a round begins long before everything is counted.
    world.config.lanes.batch_events = 20;
    let subscriber = listening(&world).await?;
    world.service().await?.stop().await?;
    let mut events = load();
    events.extend(events::messages("x", "e", 2_000, 1_000));
    world.publish(&events).await?;
    set_alarm(&rabbit, true).await?;
    let service = world.service().await?;
    until("a round waits", || async {
        (gauge(&service, "bus_blocked").await? == 1).then_some(())
    })
    .await?;
    world.journaled(events.len() as u64).await?;
    service.has_settled(events.len() as u64).await?;
    assert_eq!(subscriber.known().count, 0);
    // NOTIFY_BLOCKED_SECONDS has it take nothing for longer.
    let longer = std::env::var("NOTIFY_BLOCKED_SECONDS").ok();
    let longer = longer.map_or(0, |seconds| seconds.parse().unwrap_or(0));
    tokio::time::sleep(Duration::from_secs(longer)).await;
    set_alarm(&rabbit, false).await?;
    let begun = Instant::now();
    all_told(&subscriber, &events).await?;
    println!(
        "caught up {:.1} s after {longer} s",
        begun.elapsed().as_secs_f64()
    );
    service.stop().await
}

#[tokio::test]
async fn a_dialog_with_very_many_members_is_told_of_once() -> Result<()> {
    const MEMBERS: usize = 10_000;
    let mut world = notifying("notify_large", NotifyFormat::CloudEvents);
    world.config.notify.fan_out_limit = 1_000;
    let service = world.service().await?;
    let joins = (0..MEMBERS).map(|n| join(&format!("j{n}"), "d", &format!("u{n}"), 1));
    world.publish(&joins.collect::<Vec<_>>()).await?;
    world.journaled(MEMBERS as u64).await?;
    all_commits_told(&world).await?;
    let subscriber = listening(&world).await?;
    world
        .publish(&[message("evt_m", "d", "m", "u7", 100)])
        .await?;
    until("the dialog is told of", || async {
        let known = subscriber.known();
        let of_dialog = known.dialogs.get(&(TENANT.into(), "d".into()))?;
        (of_dialog["message_count"] == 1 && known.users.len() == 1).then_some(())
    })
    .await?;
    // Whatever else there were would come before this.
    world
        .publish(&[message("evt_n", "e", "n", "u7", 101)])
        .await?;
    until("the next one is told", || async {
        let known = subscriber.known();
        let of_user = known.users.get(&(TENANT.into(), "u7".into()))?;
        // The user and the pair are two messages: either may be the later one.
        let has_pair = known
            .pairs
            .contains_key(&(TENANT.into(), "u7".into(), "e".into()));
        (has_pair && of_user["total_messages_count"] == 2).then_some(())
    })
    .await?;
    let (pairs, dialogs) = {
        let known = subscriber.known();
        let pairs = known
            .pairs
            .keys()
            .map(|(_, user, dialog)| format!("{user} {dialog}"));
        let of_dialog = format!("dialog_stats.{TENANT}.d");
        let mut messages = known.messages.iter();
        let told = messages.by_ref().filter(|of| of.routing_key == of_dialog);
        (pairs.collect::<Vec<_>>(), told.count())
    };
    assert_eq!((pairs, dialogs), (vec!["u7 d".into(), "u7 e".into()], 1));
    service.stop().await
}

/// Records of one replica are gone, while another one commits all the time.
#[tokio::test]
async fn commit_records_that_are_gone_are_made_up_for() -> Result<()> {
    let world = notifying("notify_gone", NotifyFormat::CloudEvents);
    let service = world.service().await?;
    until("a cursor", || async { cursor(&world).await.ok().flatten() }).await?;
    service.stop().await?;
    let events = load();
    world.publish(&events).await?;
    // Without notifications: what it commits is told by nobody.
    let mut silent = World::new("notify_gone");
    silent.config = world.config.clone();
    silent.config.notify.format = NotifyFormat::Off;
    let service = silent.service().await?;
    world.journaled(events.len() as u64).await?;
    service.stop().await?;
    let commits = world.database().await?.collection::<Document>("commits");
    assert!(commits.delete_many(doc! {}).await?.deleted_count > 0);
    let subscriber = listening(&world).await?;
    let service = world.service().await?;
    let told = all_told(&subscriber, &events);
    let others = async {
        for n in 0_i64.. {
            let other = message(
                &format!("evt_{n}"),
                "other",
                &format!("o{n}"),
                "eve",
                1_000 + n,
            );
            world.publish(&[other]).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Result::Ok(())
    };
    tokio::select! {
        told = told => told?,
        failed = others => failed?,
    }
    service.stop().await
}

#[tokio::test]
async fn a_rebuild_is_told_to_everybody() -> Result<()> {
    /// Versions of the first generation that is made anew are above.
    const REBUILT: i64 = 1 << 32;
    let world = notifying("notify_rebuild", NotifyFormat::CloudEvents);
    let subscriber = listening(&world).await?;
    let service = world.service().await?;
    let events = load();
    world.publish(&events).await?;
    all_told(&subscriber, &events).await?;
    let output = command(&world, &["rebuild"]).output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    until("everybody is told anew", || async {
        let known = subscriber.known();
        let mut all = known.users.values().chain(known.pairs.values());
        all.all(|told| told["version"].as_i64() > Some(REBUILT))
            .then_some(())
    })
    .await?;
    all_told(&subscriber, &events).await?;
    service.stop().await
}

#[tokio::test]
async fn a_rebuild_is_told_of_large_dialogs_too() -> Result<()> {
    const REBUILT: i64 = 1 << 32;
    let mut world = notifying("notify_rebuild_large", NotifyFormat::CloudEvents);
    world.config.notify.fan_out_limit = 1;
    let subscriber = listening(&world).await?;
    let service = world.service().await?;
    world.publish(&load()).await?;
    let key = (TENANT.to_owned(), "e".to_owned());
    let joined = join("z", "e", "eve", 1);
    world.publish(&[joined]).await?;
    until("the dialog is told of", || async {
        let known = subscriber.known();
        (known.dialogs.get(&key)?["member_count"] == 2).then_some(())
    })
    .await?;
    let output = command(&world, &["rebuild"]).output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    until("the dialog is told of anew", || async {
        let known = subscriber.known();
        (known.dialogs[&key]["version"].as_i64() > Some(REBUILT)).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn a_repair_is_told() -> Result<()> {
    let world = notifying("notify_repair", NotifyFormat::CloudEvents);
    let subscriber = listening(&world).await?;
    let service = world.service().await?;
    let mut events = load();
    world.publish(&events).await?;
    all_told(&subscriber, &events).await?;
    // By somebody's hand. The next message has members told what is wrong.
    let dialogs = world.database().await?.collection::<Document>("dialogs");
    let wrong = doc! { "$inc": { "version": 1_i64, "sequence.user": 7_i64 } };
    dialogs.update_one(doc! { "_id.d": "e" }, wrong).await?;
    events.extend(events::messages("x", "e", 1, 900));
    world.publish(&events[events.len() - 1..]).await?;
    until("bob is told what is wrong", || async {
        let known = subscriber.known();
        let of_bob = known.users.get(&(TENANT.into(), "bob".into()))?;
        (of_bob["total_unread_count"].as_i64()? > 7).then_some(())
    })
    .await?;
    let repair = [
        "verify", "--tenant", TENANT, "--dialog", "e", "--repair", "--reason", "test",
    ];
    let output = command(&world, &repair).output().await?;
    assert!(
        stderr(&output).is_empty() || output.status.success(),
        "{output:?}"
    );
    all_told(&subscriber, &events).await?;
    service.stop().await
}

/// A queue of a gateway that takes nothing any more.
async fn full_queue(world: &World, key: &str) -> Result<(Connection, Channel, String)> {
    let (connection, channel) = world.channel().await?;
    let queue = format!("{}_full", world.config.notify.exchange);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let declared = channel.queue_declare(
        queue.as_str().into(),
        QueueDeclareOptions::durable(),
        arguments,
    );
    declared.await?;
    let exchange = world.config.notify.exchange.as_str();
    let (options, nothing) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.into(),
            key.into(),
            options,
            nothing,
        )
        .await?;
    Ok((connection, channel, queue))
}

#[tokio::test]
async fn a_gateway_whose_queue_is_full_stops_no_other() -> Result<()> {
    let world = notifying("notify_full", NotifyFormat::CloudEvents);
    let subscriber = listening(&world).await?;
    // Of the last of very many, so that others come before and after.
    let (_connection, channel, queue) = full_queue(&world, "user_stats.*.v599").await?;
    let service = world.service().await?;
    let mut events = load();
    let joins = (0..600).map(|n| join(&format!("j{n}"), "big", &format!("v{n:03}"), 1));
    events.extend(joins);
    world.publish(&events).await?;
    all_told(&subscriber, &events).await?;
    // One message is in it, and each further one is refused.
    for (name, dialog) in [("x", "big"), ("y", "d"), ("z", "big")] {
        events.extend(events::messages(name, dialog, 2, 900));
        world.publish(&events[events.len() - 2..]).await?;
        all_told(&subscriber, &events).await?;
    }
    until("something is refused", || async {
        (gauge(&service, "notify_refused_total").await? > 0).then_some(())
    })
    .await?;
    // Once it has room again, it gets the latest as well.
    channel
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
        .await?;
    let latest = subscriber.known().users[&(TENANT.into(), "v599".into())].clone();
    until("the queue gets what it had refused", || async {
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true });
        let got = got.await.ok()??;
        let event: Value = serde_json::from_slice(&got.data).ok()?;
        (event["data"]["version"].as_i64() >= latest["version"].as_i64()).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn notifications_do_not_come_back_as_events() -> Result<()> {
    let mut world = notifying("notify_loop", NotifyFormat::CloudEvents);
    world.config.notify.exchange = world.config.bus.exchange.clone();
    let log = tempfile::NamedTempFile::new()?;
    let stderr = std::process::Stdio::from(log.reopen()?);
    let mut service = Service::spawn_logging(binary(), &world.config, "warn", stderr).await?;
    let ended = until("it refuses to start", || {
        let ended = service.ended();
        async move { ended }
    });
    assert_eq!(ended.await?.code(), Some(2));
    let told = std::fs::read_to_string(log.path())?;
    assert!(told.contains("notify.exchange"), "{told}");
    Ok(())
}

/// What waits while nothing listens is not kept for anybody.
#[tokio::test]
async fn without_listeners_notifications_go_nowhere_and_nothing_waits() -> Result<()> {
    let world = notifying("notify_nobody", NotifyFormat::CloudEvents);
    let service = world.service().await?;
    let events = load();
    world.publish(&events).await?;
    world.journaled(events.len() as u64).await?;
    all_commits_told(&world).await?;
    assert_eq!(gauge(&service, "notify_failed_rounds_total").await, Some(0));
    let begun = Instant::now();
    service.stop().await?;
    assert!(begun.elapsed() < Duration::from_secs(10));
    Ok(())
}
