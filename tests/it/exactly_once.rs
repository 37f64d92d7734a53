//! Every event counts once: whatever is delivered again, whoever dies, however
//! many work side by side.

use std::time::Duration;

use crate::events::TENANT;
use crate::events::{self, join};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, binary, client, dialog, unread};

/// Members `ann` and `bob` of dialog `d`.
fn members() -> Vec<events::Wire> {
    vec![
        join("evt_join_ann", "d", "ann", 1),
        join("evt_join_bob", "d", "bob", 1),
    ]
}

#[tokio::test]
async fn duplicates_count_once() -> Result<()> {
    let world = World::new("duplicates");
    let service = world.service().await?;
    let messages = events::messages("m", "d", 50, 1_000);
    // The same fact under a new event id is a duplicate too.
    let again: Vec<_> = (0..50)
        .map(|i| {
            events::message(
                &format!("evt_again_{i}"),
                "d",
                &format!("msg_m_{i}"),
                "ann",
                1_000 + i,
            )
        })
        .collect();
    let members = members();
    for _ in 0..2 {
        world
            .publish(
                members
                    .iter()
                    .chain(&messages)
                    .chain(&messages)
                    .chain(&again),
            )
            .await?;
    }
    service.has_settled(2 * 152).await?;
    assert_eq!(dialog(&service, "d").await?, (50, 2));
    assert_eq!(unread(&service, "bob", "d").await?, 50);
    assert_eq!(unread(&service, "ann", "d").await?, 0);
    let count = async |kind| service.counter("chat_counters_events_total", kind).await;
    assert_eq!(count("\"applied\"").await?, 52);
    assert_eq!(count("\"unchanged\"").await?, 50);
    assert_eq!(count("\"duplicate\"").await?, 202);
    service.stop().await
}

#[tokio::test]
async fn killed_in_mid_batch_and_started_again_it_counts_the_same() -> Result<()> {
    let mut world = World::new("killed");
    // Small batches: many commits under way when it is killed. What was held at
    // each of three deaths is committed one by one after them, so that a small
    // prefetch bounds how much that is.
    world.config.lanes.batch_events = 20;
    world.config.bus.prefetch = 200;
    let service = world.service().await?;
    let messages = events::messages("m", "d", 3_000, 1_000);
    let members = members();
    world.publish(members.iter().chain(&messages)).await?;
    let mut service = Some(service);
    for killed_at in [200, 800, 1_500] {
        world.journaled(killed_at).await?;
        service.take().ok_or("no service")?.kill().await?;
        service = Some(world.service().await?);
    }
    let service = service.ok_or("no service")?;
    world.journaled(3_002).await?;
    until("an empty queue", || async {
        let depth = world.depth(&world.config.bus.queue).await.ok()?;
        (depth == 0).then_some(())
    })
    .await?;
    assert_eq!(dialog(&service, "d").await?, (3_000, 2));
    assert_eq!(unread(&service, "bob", "d").await?, 3_000);
    assert_eq!(world.documents("journal").await?, 3_002);
    service.stop().await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    Ok(())
}

#[tokio::test]
async fn two_replicas_on_one_queue_count_exactly() -> Result<()> {
    let mut world = World::new("replicas");
    // The smaller the prefetch, the more the replicas alternate on a dialog.
    world.config.bus.prefetch = 50;
    world.config.lanes.batch_events = 10;
    let (one, two) = (world.service().await?, world.service().await?);
    let members = members();
    world.publish(&members).await?;
    world.journaled(2).await?;
    let messages = events::messages("m", "d", 1_000, 1_000);
    let reads = (0..1_000).map(|i| {
        let (id, message) = (format!("evt_r_{i}"), format!("msg_m_{i}"));
        events::status(&id, "d", &message, "bob", "read", 5_000)
    });
    let reads: Vec<_> = reads.take(400).collect();
    world.publish(messages.iter().chain(&reads)).await?;
    world.journaled(1_402).await?;
    for replica in [&one, &two] {
        assert_eq!(dialog(replica, "d").await?, (1_000, 2));
        assert_eq!(unread(replica, "bob", "d").await?, 600);
        assert!(replica.settled().await? > 0, "a replica had nothing to do");
    }
    one.stop().await?;
    two.stop().await
}

#[tokio::test]
async fn stopped_gently_it_finishes_what_it_holds() -> Result<()> {
    let world = World::new("drain");
    let service = world.service().await?;
    let messages = events::messages("m", "d", 2_000, 1_000);
    world.publish(members().iter().chain(&messages)).await?;
    service.has_settled(1).await?;
    service.stop().await?;
    let service = world.service().await?;
    world.journaled(2_002).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 2_000);
    let duplicates = service
        .counter("chat_counters_events_total", "\"duplicate\"")
        .await?;
    assert_eq!(
        duplicates, 0,
        "a gentle stop leaves nothing to be delivered twice"
    );
    service.stop().await
}

#[tokio::test]
async fn a_frozen_replica_that_wakes_up_changes_nothing() -> Result<()> {
    let mut world = World::new("frozen");
    world.config.lanes.batch_events = 10;
    world.config.bus.prefetch = 100;
    let frozen = world.service().await?;
    let messages = events::messages("m", "d", 1_000, 1_000);
    world.publish(members().iter().chain(&messages)).await?;
    world.journaled(50).await?;
    frozen.send("-STOP").await?;
    let other = Service::start(binary(), &world.config).await?;
    // All but what the frozen one holds.
    world.journaled(902).await?;
    frozen.send("-CONT").await?;
    world.journaled(1_002).await?;
    assert_eq!(dialog(&other, "d").await?, (1_000, 2));
    assert_eq!(unread(&other, "bob", "d").await?, 1_000);
    frozen.stop().await?;
    other.stop().await
}

#[tokio::test]
async fn order_of_arrival_does_not_matter() -> Result<()> {
    let world = World::new("order");
    let service = world.service().await?;
    // Reads, a bulk read and a delete before what they are about; a member who
    // joins last.
    let events = [
        events::status("e1", "d", "m1", "bob", "read", 20),
        events::delete("e2", "m3", 40),
        events::bulk_read("e3", "d", "eve", 15),
        events::message("e4", "d", "m1", "ann", 10),
        events::message("e5", "d", "m2", "ann", 20),
        events::message("e6", "d", "m3", "ann", 30),
        events::leave("e7", "d", "dan", 50),
        events::join("e8", "d", "dan", 5),
        events::join("e9", "d", "eve", 1),
        events::join("e10", "d", "bob", 1),
    ];
    world.publish(&events).await?;
    service.has_settled(10).await?;
    assert_eq!(dialog(&service, "d").await?, (2, 2));
    assert_eq!(
        unread(&service, "bob", "d").await?,
        1,
        "m1 was read, m3 deleted"
    );
    assert_eq!(
        unread(&service, "eve", "d").await?,
        1,
        "m1 is before the bulk read"
    );
    assert_eq!(unread(&service, "dan", "d").await?, 0, "left");
    service.stop().await
}

#[tokio::test]
async fn a_read_can_wait_for_an_event() -> Result<()> {
    use chat_counters::grpc::v1::GetUserDialogStatsRequest;
    let world = World::new("wait");
    let service = world.service().await?;
    let ask = GetUserDialogStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        dialog_id: "d".into(),
        after_event_id: "evt_m_0".into(),
        ..Default::default()
    };
    let mut waiting = client(&service).await?;
    let mut request = tonic::Request::new(ask.clone());
    request.set_timeout(Duration::from_secs(20));
    let answer = tokio::spawn(async move { waiting.get_user_dialog_stats(request).await });
    world
        .publish(
            members()
                .iter()
                .chain(&events::messages("m", "d", 1, 1_000)),
        )
        .await?;
    assert_eq!(answer.await??.into_inner().unread_count, 1);

    let mut hurried = tonic::Request::new(GetUserDialogStatsRequest {
        after_event_id: "never".into(),
        ..ask
    });
    hurried.set_timeout(Duration::from_millis(200));
    let refused = client(&service).await?.get_user_dialog_stats(hurried).await;
    let code = refused.map(drop).map_err(|status| status.code());
    assert_eq!(code, Err(tonic::Code::DeadlineExceeded));
    service.stop().await
}
