//! `verify`: what the counters are compared with, what it finds, what it mends.

use std::process::Output;

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::maintenance_service_client::MaintenanceServiceClient;
use chat_counters::grpc::v1::verify_counters_response::Event;
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;

use crate::command_line::{command, stderr, stdout};
use crate::events::{self, TENANT, Wire, join};
use crate::kit::model::Model;
use crate::kit::read_back;
use crate::kit::scenario::Scenario;
use crate::kit::service::{Result, Service, until};
use crate::world::{World, client, dialog, unread};

pub(crate) async fn verify(world: &World, arguments: &[&str]) -> Result<Output> {
    let arguments: Vec<_> = ["verify"].iter().chain(arguments).copied().collect();
    Ok(command(world, &arguments).output().await?)
}

/// What `verify --output json` printed: the differences, and the summary.
fn report(output: &Output) -> (Vec<Value>, Value) {
    let lines = stdout(output);
    let mut lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap()["summary"].take();
    (lines, summary)
}

pub(crate) fn assert_clean(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        stdout(output),
        stderr(output)
    );
}

#[tokio::test]
async fn nothing_differs_while_events_are_in_flight() -> Result<()> {
    let world = World::new("verify_live");
    let service = world.service().await?;
    // Besides, more messages and members than one reply of the server holds.
    let big = events::messages("big", "big", 2_500, 5_000);
    let joins = (0..1_200).map(|n| join(&format!("big_j{n}"), "big", &format!("u{n}"), 1));
    let big: Vec<_> = joins.chain(big).collect();
    world.publish(&big).await?;
    let published = big.len() as u64 + world.publish_all(&Scenario::demo(11).published).await?;
    let mut rounds = 0;
    loop {
        let settled = service.settled().await?;
        assert_clean(&verify(&world, &[]).await?);
        rounds += 1;
        if settled >= published {
            break;
        }
    }
    let output = verify(&world, &["--output", "json"]).await?;
    let (differences, summary) = report(&output);
    assert!(differences.is_empty() && rounds > 0);
    let dialogs = world.documents("dialogs").await?;
    assert_eq!(summary["dialogs"], dialogs, "every dialog was looked at");
    assert!(summary["messages"].as_u64() > Some(4_000), "{summary}");
    service.stop().await
}

/// Makes counters wrong behind the service's back: a dialog's, a member's, a
/// message's, and one that vanished.
pub(crate) async fn spoil(world: &World) -> Result<()> {
    let database = world.database().await?;
    let collection = |name: &str| database.collection::<Document>(name);
    for (name, id, change) in [
        (
            "dialogs",
            doc! { "t": TENANT, "d": "d" },
            doc! { "$inc": { "messages": 3_i64, "members": -1_i64 } },
        ),
        (
            "memberships",
            doc! { "t": TENANT, "d": "d", "u": "bob" },
            doc! { "$inc": { "consumed.user": 2_i64 } },
        ),
        (
            "messages",
            doc! { "t": TENANT, "m": "msg_m_0" },
            doc! { "$inc": { "statuses.read": 5_i64 } },
        ),
        (
            "memberships",
            doc! { "t": TENANT, "d": "d", "u": "ann" },
            doc! { "$unset": { "sent": "" } },
        ),
    ] {
        let changed = collection(name)
            .update_one(doc! { "_id": id }, change)
            .await?;
        assert_eq!(changed.modified_count, 1, "{name}");
    }
    Ok(())
}

pub(crate) async fn small_dialog(world: &World) -> Result<(Service, Vec<Wire>)> {
    let service = world.service().await?;
    let mut events = vec![join("a", "d", "ann", 1), join("b", "d", "bob", 1)];
    events.extend(events::messages("m", "d", 10, 100));
    events.push(events::status("s", "d", "msg_m_0", "bob", "read", 500));
    events.push(events::reaction("r", "msg_m_1", "bob", "a.$b", "set", 501));
    world.publish(&events).await?;
    service.has_settled(events.len() as u64).await?;
    Ok((service, events))
}

#[tokio::test]
async fn exactly_what_differs_is_found_and_repaired() -> Result<()> {
    let world = World::new("verify_repair");
    let (service, mut events) = small_dialog(&world).await?;
    assert_clean(&verify(&world, &[]).await?);
    spoil(&world).await?;

    let output = verify(&world, &["--tenant", TENANT, "--output", "json"]).await?;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let (differences, summary) = report(&output);
    let mut found: Vec<String> = differences
        .iter()
        .map(|d| {
            let of = d["user_id"].as_str().or(d["message_id"].as_str());
            format!(
                "{} {}: {} for {}",
                of.unwrap_or("-"),
                d["counter"].as_str().unwrap(),
                d["stored"],
                d["counted"]
            )
        })
        .collect();
    found.sort();
    let expected = [
        "- member_count: 1 for 2",
        "- message_count: 13 for 10",
        "ann total_messages_count: 0 for 10",
        "bob consumed.user: 3 for 1",
        "msg_m_0 status_counts.read: 6 for 1",
    ];
    assert_eq!(found, expected);
    assert_eq!(summary["differences"], 5);

    let repair = [
        "--tenant", TENANT, "--dialog", "d", "--repair", "--reason", "a test",
    ];
    assert_clean(&verify(&world, &repair).await?);
    assert_clean(&verify(&world, &[]).await?);
    let records = world.database().await?.collection::<Document>("journal");
    let record = records.find_one(doc! { "type": "counters.repair" }).await?;
    let record = record.ok_or("the repair is not recorded")?;
    assert_eq!(record.get_str("reason")?, "a test");
    assert_eq!(record.get_array("repairs")?.len(), 5);

    // The service remembers the dialog as it was, and must notice.
    let more = events::messages("n", "d", 3, 600);
    world.publish(&more).await?;
    events.extend(more);
    service.has_settled(events.len() as u64).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 12);
    assert_eq!(dialog(&service, "d").await?, (13, 2));
    let bodies = events::bodies(&events);
    let model = Model::of(&bodies);
    let comparison = read_back::compare(&mut client(&service).await?, &model).await?;
    assert!(comparison.differences.is_empty());
    assert_clean(&verify(&world, &[]).await?);
    service.stop().await
}

#[tokio::test]
async fn the_service_finds_differences_by_itself() -> Result<()> {
    let mut world = World::new("verify_background");
    world.config.verify.interval_seconds = 1;
    let (service, _) = small_dialog(&world).await?;
    until("a dialog verified in the background", || async {
        let verified = service.counter("chat_counters_verified_dialogs_total", "");
        (verified.await.ok()? > 0).then_some(())
    })
    .await?;
    let differences = || service.counter("chat_counters_verify_differences_total", "");
    assert_eq!(differences().await?, 0);
    spoil(&world).await?;
    until("the differences noticed", || async {
        (differences().await.ok()? >= 5).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn an_interrupted_run_goes_on_where_it_was() -> Result<()> {
    let world = World::new("verify_resume");
    let service = world.service().await?;
    let joins = (0..20).map(|n| join(&format!("e{n}"), &format!("d{n:02}"), "bob", 1));
    let joins: Vec<_> = joins.collect();
    world.publish(&joins).await?;
    service.has_settled(20).await?;
    let path = std::env::temp_dir().join(format!("{}.json", world.config.bus.queue));
    let file = path.to_str().ok_or("a path")?;

    let slowly = ["verify", "--resume", file, "--rate", "5"];
    let mut first = command(&world, &slowly).spawn()?;
    until("some progress", || async { path.exists().then_some(()) }).await?;
    first.kill().await?;
    let output = verify(&world, &["--resume", file, "--output", "json"]).await?;
    assert_clean(&output);
    let (_, summary) = report(&output);
    assert_eq!(summary["dialogs"], 20, "each dialog once: {summary}");
    assert!(!path.exists(), "nothing is left to resume");
    service.stop().await
}

#[tokio::test]
async fn the_command_asks_a_service_and_works_directly_when_none_answers() -> Result<()> {
    let world = World::new("verify_routes");
    let (service, _) = small_dialog(&world).await?;
    spoil(&world).await?;
    let address = service.admin.to_string();
    let asked = verify(&world, &["--address", &address, "--output", "json"]).await?;
    assert_eq!(asked.status.code(), Some(1), "{}", stderr(&asked));
    assert!(!stderr(&asked).contains("directly"), "{}", stderr(&asked));
    let direct = verify(&world, &["--direct", "--output", "json"]).await?;
    assert_eq!(direct.status.code(), Some(1), "{}", stderr(&direct));
    let (by_service, of_service) = report(&asked);
    let (by_itself, of_itself) = report(&direct);
    let sorted = |differences: &[Value]| {
        let mut lines: Vec<_> = differences.iter().map(Value::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&by_service), sorted(&by_itself));
    for count in [
        "dialogs",
        "messages",
        "differing_dialogs",
        "differences",
        "repaired",
        "interrupted",
    ] {
        assert_eq!(of_service[count], of_itself[count], "{count}");
    }

    let repair = ["--address", &address, "--repair", "--reason", "a test"];
    assert_clean(&verify(&world, &repair).await?);
    // The configuration of commands has an address at which nobody listens.
    let fallen_back = verify(&world, &[]).await?;
    assert_clean(&fallen_back);
    let said = stderr(&fallen_back);
    assert!(said.contains("working on MongoDB directly"), "{said}");
    service.stop().await?;
    let named = verify(&world, &["--address", &address]).await?;
    assert_eq!(named.status.code(), Some(3), "{}", stderr(&named));
    Ok(())
}

async fn maintenance(service: &Service) -> Result<MaintenanceServiceClient<Channel>> {
    let address = format!("http://{}", service.admin);
    Ok(MaintenanceServiceClient::connect(address).await?)
}

#[tokio::test]
async fn a_client_verifies_and_repairs_with_a_stream_of_findings() -> Result<()> {
    let world = World::new("verify_grpc");
    let (service, _) = small_dialog(&world).await?;
    spoil(&world).await?;
    let mut client = maintenance(&service).await?;

    let mut request = v1::VerifyCountersRequest {
        repair: true,
        ..Default::default()
    };
    let refused = client.verify_counters(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("reason"), "{refused}");

    request.reason = "a test".into();
    for expected in [5, 0] {
        let stream = client.verify_counters(request.clone()).await?.into_inner();
        let answers: Vec<_> = stream.try_collect().await?;
        let differences = answers.iter().filter_map(|answer| match &answer.event {
            Some(Event::Difference(difference)) => Some(difference),
            _ => None,
        });
        assert!(differences.clone().all(|difference| difference.repaired));
        assert_eq!(differences.count(), expected);
        let Some(Some(Event::Progress(last))) = answers.last().map(|last| &last.event) else {
            panic!("no progress at the end: {answers:?}");
        };
        assert!(last.done && last.dialogs == 1, "{last:?}");
        assert_eq!(last.repaired, i64::try_from(expected)?);
    }
    service.stop().await
}

#[tokio::test]
async fn one_client_verifies_at_a_time() -> Result<()> {
    let world = World::new("verify_turns");
    let service = world.service().await?;
    let joins = (0..20).map(|n| join(&format!("e{n}"), &format!("d{n}"), "bob", 1));
    world.publish(&joins.collect::<Vec<_>>()).await?;
    service.has_settled(20).await?;
    let mut client = maintenance(&service).await?;
    let slowly = v1::VerifyCountersRequest {
        dialogs_per_second: 10,
        ..Default::default()
    };
    let first = client.verify_counters(slowly.clone()).await?.into_inner();
    let second = client.verify_counters(slowly.clone()).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted, "{second}");
    drop(first);
    until("the first has ended with its caller", || async {
        let mut client = maintenance(&service).await.ok()?;
        client.verify_counters(slowly.clone()).await.ok().map(drop)
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn messages_without_a_create_are_verified_too() -> Result<()> {
    let world = World::new("verify_placeholders");
    let service = world.service().await?;
    let early = |id: &str, message: &str, user: &str| {
        events::status(id, "d", message, user, "delivered", 10)
    };
    let mut events = vec![
        early("s1", "never", "bob"),
        early("s2", "never", "ann"),
        events::reaction("r1", "never", "bob", "a.$b", "set", 11),
        early("s3", "later", "bob"),
    ];
    world.publish(&events).await?;
    service.has_settled(4).await?;
    assert_clean(&verify(&world, &[]).await?);

    let messages = world.database().await?.collection::<Document>("messages");
    let id = doc! { "_id": { "t": TENANT, "m": "never" } };
    let spoil = doc! { "$set": { "statuses.delivered": 7_i64, "reactions": {} } };
    assert_eq!(messages.update_one(id, spoil).await?.modified_count, 1);
    let output = verify(&world, &["--output", "json"]).await?;
    let (differences, summary) = report(&output);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(
        (&summary["dialogs"], &summary["messages"]),
        (&0.into(), &2.into())
    );
    let found = differences.iter().map(|difference| {
        assert_eq!(
            (&difference["dialog_id"], &difference["message_id"]),
            (&Value::Null, &"never".into())
        );
        let counter = difference["counter"].as_str().unwrap();
        format!(
            "{counter}: {} for {}",
            difference["stored"], difference["counted"]
        )
    });
    let found: Vec<_> = found.collect();
    assert_eq!(
        found,
        [
            "status_counts.delivered: 7 for 2",
            "reaction_counts.a.$b: 0 for 1"
        ]
    );

    assert_clean(&verify(&world, &["--repair", "--reason", "a test"]).await?);
    assert_clean(&verify(&world, &[]).await?);
    // The create finds what it left, and the history tells of the repair.
    let created = ["never", "later"].map(|m| events::message(&format!("c_{m}"), "d", m, "ann", 9));
    world.publish(&created).await?;
    events.extend(created);
    service.has_settled(6).await?;
    let history = ["explain", "--tenant", TENANT, "--message", "never"];
    let counter = ["--counter", "status_counts.delivered"];
    let address = service.grpc.to_string();
    let at = ["--address", address.as_str()];
    let arguments = [&history[..], &counter[..], &at[..]].concat();
    let explained = command(&world, &arguments).output().await?;
    assert_clean(&explained);
    assert!(
        stdout(&explained).contains("counters.repair"),
        "{}",
        stdout(&explained)
    );
    let bodies = events::bodies(&events);
    let comparison = read_back::compare(&mut client(&service).await?, &Model::of(&bodies)).await?;
    assert!(comparison.differences.is_empty());
    assert_clean(&verify(&world, &[]).await?);
    service.stop().await
}
