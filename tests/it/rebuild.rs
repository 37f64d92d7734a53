//! `rebuild`: everything anew from the journal, while the service goes on.

use std::process::Output;

use chat_counters::failpoint::{Point, VARIABLE};
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::maintenance_service_client::MaintenanceServiceClient;
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;

use crate::command_line::{command, stderr, stdout};
use crate::events::{self, TENANT, Wire, bodies, join};
use crate::kit::model::Model;
use crate::kit::read_back;
use crate::kit::scenario::Scenario;
use crate::kit::service::{PATIENCE, Result, Service, until};
use crate::world::{World, client, dialog, unread};

async fn rebuild(world: &World, arguments: &[&str]) -> Result<Output> {
    let arguments: Vec<_> = ["rebuild"].iter().chain(arguments).copied().collect();
    let running = command(world, &arguments).output();
    Ok(tokio::time::timeout(PATIENCE, running).await??)
}

fn assert_done(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        stdout(output),
        stderr(output)
    );
}

async fn assert_as(service: &Service, model: &Model, when: &str) -> Result<()> {
    let comparison = read_back::compare(&mut client(service).await?, model).await?;
    let differences = comparison.differences.iter().map(ToString::to_string);
    let differences: Vec<_> = differences.take(10).collect();
    assert!(differences.is_empty(), "{when}: {differences:#?}");
    Ok(())
}

/// Verify must find nothing, in whichever collections the counters now are.
async fn assert_verified(world: &World) -> Result<()> {
    let output = command(world, &["verify"]).output().await?;
    assert_done(&output);
    Ok(())
}

/// A dialog of its own with known numbers.
fn known_dialog() -> Vec<Wire> {
    let mut events = vec![join("a", "known", "ann", 1), join("b", "known", "bob", 1)];
    events.extend(events::messages("k", "known", 20, 100));
    events.push(events::status("s", "known", "msg_k_0", "bob", "read", 500));
    events.push(events::delete("x", "msg_k_1", 501));
    events
}

/// Destroys facts, which no recount of the facts could bring back.
async fn lose_facts(world: &World) -> Result<()> {
    let database = world.database().await?;
    let messages = database.collection::<Document>("messages");
    let lost = messages
        .delete_many(doc! { "d": "known", "at": { "$lt": 110_000_i64 } })
        .await?;
    assert!(lost.deleted_count > 0);
    let memberships = database.collection::<Document>("memberships");
    let lost = memberships
        .delete_one(doc! { "_id.d": "known", "_id.u": "bob" })
        .await?;
    assert_eq!(lost.deleted_count, 1);
    let spoiled = database
        .collection::<Document>("dialogs")
        .update_one(
            doc! { "_id.d": "known" },
            doc! { "$set": { "messages": 4_i64 }, "$inc": { "sequence.user": 9_i64 } },
        )
        .await?;
    assert_eq!(spoiled.modified_count, 1);
    Ok(())
}

/// Collections of counters that are there.
async fn collections(world: &World) -> Result<Vec<String>> {
    let mut names = world.database().await?.list_collection_names().await?;
    names.retain(|name| name.starts_with("dialogs") || name.starts_with("receipts"));
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn lost_facts_come_back_while_events_go_on() -> Result<()> {
    let world = World::new("rebuild_live");
    let (one, other) = (world.service().await?, world.service().await?);
    let known = known_dialog();
    world.publish(&known).await?;
    let scenario = Scenario::demo(21);
    let (early, late) = scenario.published.split_at(scenario.published.len() / 2);
    let first = world.publish_all(early).await? + known.len() as u64;
    both_settled(&one, &other, first).await?;
    lose_facts(&world).await?;
    assert_eq!(dialog(&one, "known").await?, (4, 2));
    // A repair of a message leaves a record that is no event.
    let spoiled = world.database().await?.collection::<Document>("messages");
    let id = doc! { "t": TENANT, "m": "msg_k_15" };
    let spoil = doc! { "$set": { "statuses": { "seen": 3_i64 } } };
    spoiled.update_one(doc! { "_id": id }, spoil).await?;
    let repair = [
        "verify", "--tenant", TENANT, "--dialog", "known", "--repair",
    ];
    assert_done(&command(&world, &repair).output().await?);
    assert_eq!(dialog(&one, "known").await?, (10, 1));

    let recorded = world.documents("journal").await?;
    // Events for both replicas while it runs, and somebody who looks on.
    let running = rebuild(&world, &["--output", "json"]);
    let looking = watch_known(&one);
    let publishing = world.publish_all(late);
    let (output, seen, published) = tokio::try_join!(running, looking, publishing)?;
    assert_done(&output);
    assert!(seen > 0);
    let summary: Value = serde_json::from_str(&stdout(&output))?;
    assert!(
        summary["summary"]["events"].as_u64() > Some(recorded),
        "{summary}, of {recorded} before it began"
    );

    both_settled(&one, &other, first + published).await?;
    let mut events = bodies(&known);
    events.extend(scenario.events.iter().cloned());
    let model = Model::of(&events);
    for service in [&one, &other] {
        assert_as(service, &model, "after the rebuild").await?;
    }
    assert_verified(&world).await?;
    assert_eq!(collections(&world).await?, ["dialogs_1", "receipts_1"]);

    // A replica that starts finds them, and so does a second rebuild.
    other.stop().await?;
    let other = world.service().await?;
    assert_as(&other, &model, "after a restart").await?;
    assert_done(&rebuild(&world, &[]).await?);
    assert_as(&other, &model, "after a second rebuild").await?;
    assert_eq!(collections(&world).await?, ["dialogs_2", "receipts_2"]);
    other.stop().await?;
    one.stop().await
}

async fn both_settled(one: &Service, other: &Service, events: u64) -> Result<()> {
    until(&format!("{events} settled by both"), || async {
        let settled = one.settled().await.ok()? + other.settled().await.ok()?;
        (settled >= events).then_some(())
    })
    .await
}

/// Looks at the known dialog until it is right: it is what it was or what it
/// must be, never anything else, and versions never go down. Returns how often
/// it was seen.
async fn watch_known(service: &Service) -> Result<usize> {
    let mut client = client(service).await?;
    let (mut seen, mut version) = (0, 0);
    loop {
        let request = v1::GetDialogStatsRequest {
            tenant_id: TENANT.into(),
            dialog_id: "known".into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let stats = client.get_dialog_stats(request).await?.into_inner();
        assert!(
            stats.version >= version,
            "{} after {version}",
            stats.version
        );
        version = stats.version;
        seen += 1;
        match (stats.message_count, stats.member_count) {
            (10, 1) => {}
            (19, 2) => return Ok(seen),
            other => panic!("neither old nor new: {other:?}"),
        }
    }
}

/// A rebuild that dies at the point.
async fn dies_at(world: &World, point: Point) -> Result<()> {
    let died = command(world, &["rebuild"])
        .env(VARIABLE, point.name())
        .output();
    let output = tokio::time::timeout(PATIENCE, died).await??;
    const SIGABRT: i32 = 6;
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(
        signal,
        Some(SIGABRT),
        "{}: {}",
        point.name(),
        stderr(&output)
    );
    Ok(())
}

/// As if the lease of the one who died had run out.
async fn lease_ends(world: &World) -> Result<()> {
    let meta = world.database().await?.collection::<Document>("meta");
    let ended = doc! { "$set": { "lease": mongodb::bson::DateTime::MIN } };
    let changed = meta.update_one(doc! { "_id": "rebuild" }, ended).await?;
    assert_eq!(changed.matched_count, 1);
    Ok(())
}

#[tokio::test]
async fn a_rebuild_that_dies_harms_nothing_and_goes_on() -> Result<()> {
    let world = World::new("rebuild_dies");
    let service = world.service().await?;
    let mut events = known_dialog();
    world.publish(&events).await?;
    service.has_settled(events.len() as u64).await?;
    lose_facts(&world).await?;
    for (number, point) in Point::REBUILD.into_iter().enumerate() {
        dies_at(&world, point).await?;
        // Behind the fence of the dead writers wait, and then lift it.
        let more = events::messages(&format!("n{number}"), "live", 5, 700);
        world.publish(&more).await?;
        events.extend(more);
        service.has_settled(events.len() as u64).await?;
        assert_eq!(dialog(&service, "live").await?.0, 5 * (number as i64 + 1));
        let expected = if point == Point::SwitchedOver { 19 } else { 4 };
        assert_eq!(
            dialog(&service, "known").await?.0,
            expected,
            "{}",
            point.name()
        );

        let busy = rebuild(&world, &[]).await?;
        assert_eq!(busy.status.code(), Some(1));
        assert!(stderr(&busy).contains("is rebuilding"), "{}", stderr(&busy));
        lease_ends(&world).await?;
    }
    assert_done(&rebuild(&world, &[]).await?);
    assert_as(&service, &Model::of(&bodies(&events)), "after going on").await?;
    assert_verified(&world).await?;
    assert_eq!(collections(&world).await?, ["dialogs_1", "receipts_1"]);
    service.stop().await
}

#[tokio::test]
async fn a_service_rebuilds_when_the_command_asks_it() -> Result<()> {
    let world = World::new("rebuild_asked");
    let service = world.service().await?;
    let known = known_dialog();
    world.publish(&known).await?;
    service.has_settled(known.len() as u64).await?;
    lose_facts(&world).await?;
    let address = service.admin.to_string();
    let asked = rebuild(&world, &["--address", &address, "--output", "json"]).await?;
    assert_done(&asked);
    assert!(!stderr(&asked).contains("directly"), "{}", stderr(&asked));
    let summary: Value = serde_json::from_str(&stdout(&asked))?;
    assert_eq!(summary["summary"]["switched_over"], true, "{summary}");
    assert_eq!(dialog(&service, "known").await?, (19, 2));
    assert_verified(&world).await?;
    assert_eq!(collections(&world).await?, ["dialogs_1", "receipts_1"]);

    let nothing = rebuild(&world, &["--address", &address, "--abandon"]).await?;
    assert_done(&nothing);
    let said = stdout(&nothing);
    assert!(said.contains("no rebuild"), "{said}");
    service.stop().await
}

#[tokio::test]
async fn one_tenant_is_rebuilt_by_itself() -> Result<()> {
    let world = World::new("rebuild_tenant");
    let service = world.service().await?;
    let scenario = Scenario::small(5);
    let known = known_dialog();
    world.publish(&known).await?;
    let published = world.publish_all(&scenario.published).await? + known.len() as u64;
    service.has_settled(published).await?;
    lose_facts(&world).await?;
    let tenants = ["tnt_north", TENANT, "tnt.$|:ö", TENANT];
    for tenant in tenants {
        assert_done(&rebuild(&world, &["--tenant", tenant]).await?);
    }
    let more = events::messages("more", "known", 3, 900);
    world.publish(&more).await?;
    service.has_settled(published + 3).await?;
    assert_eq!(unread(&service, "bob", "known").await?, 21);
    let mut events = bodies(known.iter().chain(&more));
    events.extend(scenario.events.iter().cloned());
    let model = Model::of(&events);
    assert_as(&service, &model, "after tenants").await?;
    assert_verified(&world).await?;
    let verified = command(&world, &["verify", "--output", "json"])
        .output()
        .await?;
    let summary = stdout(&verified);
    let dialogs = model.dialogs().len();
    assert!(
        summary.contains(&format!("\"dialogs\":{dialogs},")),
        "{dialogs}: {summary}"
    );
    // The third of one tenant made the first superfluous; the rest is shared.
    let left = ["dialogs", "dialogs_1", "dialogs_3", "dialogs_4"];
    let found = collections(&world).await?;
    assert!(found.iter().take(4).eq(left), "{found:?}");

    assert_done(&rebuild(&world, &[]).await?);
    assert_as(&service, &model, "after all").await?;
    assert_eq!(collections(&world).await?, ["dialogs_5", "receipts_5"]);
    service.stop().await
}

#[tokio::test]
async fn it_is_refused_or_given_up_with_reasons() -> Result<()> {
    let world = World::new("rebuild_refused");
    let none = rebuild(&world, &[]).await?;
    assert_eq!(none.status.code(), Some(1), "{}", stderr(&none));
    let service = world.service().await?;
    let known = known_dialog();
    world.publish(&known).await?;
    service.has_settled(known.len() as u64).await?;

    let nothing = rebuild(&world, &["--abandon"]).await?;
    assert!(
        stdout(&nothing).contains("no rebuild"),
        "{}",
        stdout(&nothing)
    );
    dies_at(&world, Point::Replayed).await?;
    lease_ends(&world).await?;
    let other = rebuild(&world, &["--tenant", TENANT]).await?;
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("abandon"), "{}", stderr(&other));
    assert_done(&rebuild(&world, &["--abandon"]).await?);
    assert_eq!(collections(&world).await?, ["dialogs", "receipts"]);

    dies_at(&world, Point::SwitchedOver).await?;
    lease_ends(&world).await?;
    let late = rebuild(&world, &["--abandon"]).await?;
    assert!(stderr(&late).contains("switched over"), "{}", stderr(&late));
    assert_done(&rebuild(&world, &[]).await?);

    let journal = world.database().await?.collection::<Document>("journal");
    journal
        .delete_one(doc! { "type": "counters.origin" })
        .await?;
    let cut = rebuild(&world, &[]).await?;
    assert_eq!(cut.status.code(), Some(1));
    assert!(stderr(&cut).contains("verify --repair"), "{}", stderr(&cut));
    assert_as(&service, &Model::of(&bodies(&known)), "at the end").await?;
    service.stop().await
}

#[tokio::test]
async fn the_api_rebuilds_and_tells_how_far_it_is() -> Result<()> {
    let world = World::new("rebuild_grpc");
    let service = world.service().await?;
    let known = known_dialog();
    world.publish(&known).await?;
    service.has_settled(known.len() as u64).await?;
    lose_facts(&world).await?;
    let mut maintenance: MaintenanceServiceClient<Channel> =
        MaintenanceServiceClient::connect(format!("http://{}", service.admin)).await?;
    let abandoned = maintenance.abandon_rebuild(v1::AbandonRebuildRequest {});
    assert!(!abandoned.await?.into_inner().abandoned);
    let wrong = v1::RebuildCountersRequest {
        tenant_id: "\u{7}".into(),
    };
    let refused = maintenance.rebuild_counters(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let all = v1::RebuildCountersRequest::default();
    let stream = maintenance
        .rebuild_counters(all.clone())
        .await?
        .into_inner();
    let answers: Vec<v1::RebuildCountersResponse> = stream.try_collect().await?;
    let last = answers.last().ok_or("no answer")?;
    assert!(
        last.done && last.phase() == v1::RebuildPhase::Cleaning,
        "{last:?}"
    );
    assert!(last.replayed >= known.len() as i64, "{last:?}");
    assert_as(&service, &Model::of(&bodies(&known)), "after the rebuild").await?;

    let journal = world.database().await?.collection::<Document>("journal");
    journal
        .delete_one(doc! { "type": "counters.origin" })
        .await?;
    let stream = maintenance.rebuild_counters(all).await?.into_inner();
    let refused = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    service.stop().await
}

/// What `check` says.
async fn checked(world: &World) -> Result<String> {
    let output = command(world, &["check"]).output().await?;
    Ok(stdout(&output))
}

#[tokio::test]
async fn a_store_of_older_rules_is_said_to_be_one_and_brought_over_by_a_rebuild() -> Result<()> {
    const HOUR: i64 = 3_600_000_000;
    const OLDER: &str = "rules of an older version";
    let world = World::new("older_rules");
    let service = world.service().await?;
    let events = [
        join("a", "d", "ann", 1),
        join("b", "d", "bob", 1),
        events::message("e1", "d", "m1", "ann", 10),
        events::bulk_read("r", "d", "bob", 20),
        events::message("e2", "d", "m2", "ann", 30),
    ];
    world.publish(&events).await?;
    service.has_settled(5).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 1);
    assert!(!checked(&world).await?.contains(OLDER));
    service.stop().await?;

    // As a version left it that believed a read of an hour ahead.
    let database = world.database().await?;
    let change = async |collection: &str, filter: Document, change: Document| {
        let collection = database.collection::<Document>(collection);
        let changed = collection.update_one(filter, change).await?;
        assert_eq!(changed.modified_count, 1);
        Ok::<_, mongodb::error::Error>(())
    };
    let ahead = doc! { "read_until": HOUR };
    change("journal", doc! { "_id.e": "r" }, doc! { "$set": ahead }).await?;
    let consumed = doc! { "read_until": HOUR, "mark": HOUR, "consumed.user": 2_i64 };
    let bob = doc! { "_id.d": "d", "_id.u": "bob" };
    change("memberships", bob, doc! { "$set": consumed }).await?;
    let high = doc! { "$set": { "high_mark": HOUR } };
    change("dialogs", doc! { "_id.d": "d" }, high).await?;
    let older = doc! { "$unset": { "rules": "" } };
    change("meta", doc! { "_id": "generations" }, older).await?;

    let service = world.service().await?;
    assert_eq!(unread(&service, "bob", "d").await?, 0);
    assert!(checked(&world).await?.contains(OLDER));
    assert_done(&rebuild(&world, &[]).await?);
    assert_eq!(unread(&service, "bob", "d").await?, 1);
    assert!(!checked(&world).await?.contains(OLDER));
    assert_verified(&world).await?;
    service.stop().await
}
