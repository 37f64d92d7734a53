//! How long looking at many dead letters takes, and working through them.
//! Printed with `--nocapture`; `LETTERS=100000` for the figures of docs/benchmarks.md.

use std::time::{Duration, Instant};

use chat_counters::grpc::v1::*;
use futures::TryStreamExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::dlq::client;
use crate::events;
use crate::kit::service::{Result, until_for};
use crate::world::{World, unread};

/// Enough to tell a scan from a look-up, few enough for every day.
const EVERY_DAY: usize = 10_000;
/// What a person at a terminal does not notice as waiting.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Filling, comparing and replaying.
const PATIENCE: Duration = Duration::from_secs(300);

fn count() -> usize {
    let count = std::env::var("LETTERS").ok();
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or(EVERY_DAY)
}

fn properties(number: usize) -> BasicProperties {
    let text = |text: String| AMQPValue::LongString(text.into());
    let tenant = number % 997;
    let at = OffsetDateTime::from_unix_timestamp(1_790_000_000 + number as i64).unwrap();
    let at = at.format(&Rfc3339).unwrap();
    let reason = ["invalid_event", "rejected_by_store"][usize::from(number.is_multiple_of(10))];
    let error = format!(
        "data.field{}: expected a string, found number {number}",
        ["a", "b", "c", "d", "e", "f", "g"][number % 7]
    );
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("tenantId", format!("tenant-{tenant}")),
        ("eventType", "message.create".to_owned()),
        ("x-cc-reason", reason.to_owned()),
        ("x-cc-error", error),
        ("x-cc-first-failed-at", at.clone()),
        ("x-cc-last-failed-at", at),
        ("x-cc-source-exchange", "events".to_owned()),
        (
            "x-cc-source-routing-key",
            format!("message.create.tenant-{tenant}"),
        ),
        ("x-cc-service-version", "0.1.0".to_owned()),
        ("x-cc-host", "counters-1".to_owned()),
    ] {
        headers.insert(name.into(), text(value));
    }
    headers.insert("x-cc-attempts".into(), AMQPValue::LongLongInt(1));
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers)
}

/// Puts letters into the queue as the service would have: events that can be
/// counted by now.
async fn fill(world: &World, letters: usize) -> Result<()> {
    let (connection, channel) = world.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let queue = world.config.bus.dead_letter_queue.as_str();
    let messages = events::messages("m", "d", letters, 1_000);
    for (number, chunk) in messages.chunks(1_000).enumerate() {
        let mut confirms = Vec::new();
        for (index, message) in chunk.iter().enumerate() {
            let properties = properties(number * 1_000 + index);
            let options = BasicPublishOptions::default();
            let sent =
                channel.basic_publish("".into(), queue.into(), options, &message.body, properties);
            confirms.push(sent.await?);
        }
        futures::future::try_join_all(confirms).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

fn told<T>(what: &str, began: Instant, result: T) -> T {
    println!("{what}: {:.3} s", began.elapsed().as_secs_f64());
    result
}

#[tokio::test]
async fn many_letters_are_looked_at_at_once() -> Result<()> {
    let letters = count();
    let world = World::new("many");
    let service = world.service().await?;
    world.publish(&[events::join("j", "d", "bob", 1)]).await?;
    let began = Instant::now();
    fill(&world, letters).await?;
    told(&format!("{letters} letters published"), began, ());
    let mut client = client(&service).await?;
    let began = Instant::now();
    let all = i64::try_from(letters)?;
    until_for(PATIENCE, "an index of all", || async {
        let mut client = client.clone();
        let listed = client.list_dead_letters(ListDeadLettersRequest::default());
        (listed.await.ok()?.into_inner().index?.indexed == all).then_some(())
    })
    .await?;
    told(
        "indexed by the service, which had to notice them",
        began,
        (),
    );
    let began = Instant::now();
    client.sync_dead_letters(SyncDeadLettersRequest {}).await?;
    told("compared once more", began, ());

    let began = Instant::now();
    let groups = client
        .list_dead_letter_groups(ListDeadLetterGroupsRequest::default())
        .await?;
    let groups = told("groups", began, groups.into_inner());
    assert!(began.elapsed() < AT_ONCE);
    assert_eq!((groups.groups.len(), groups.total), (14, all));
    let filters = [
        ("no filter", DeadLetterFilter::default()),
        (
            "tenant",
            DeadLetterFilter {
                tenant_id: "tenant-5".into(),
                ..Default::default()
            },
        ),
        (
            "reason",
            DeadLetterFilter {
                reasons: vec!["invalid_event".into()],
                ..Default::default()
            },
        ),
        (
            "group",
            DeadLetterFilter {
                group_id: groups.groups[13].group_id.clone(),
                ..Default::default()
            },
        ),
        (
            "error text",
            DeadLetterFilter {
                error_contains: "number 77".into(),
                ..Default::default()
            },
        ),
        (
            "event",
            DeadLetterFilter {
                event_id: "evt_m_77".into(),
                ..Default::default()
            },
        ),
        (
            "dialog",
            DeadLetterFilter {
                dialog_id: "d".into(),
                ..Default::default()
            },
        ),
        (
            "type and nothing found",
            DeadLetterFilter {
                event_type: "dialog.delete".into(),
                ..Default::default()
            },
        ),
        (
            "groups of a reason",
            DeadLetterFilter {
                reasons: vec!["rejected_by_store".into()],
                ..Default::default()
            },
        ),
    ];
    for (name, filter) in filters {
        let began = Instant::now();
        if name.starts_with("groups") {
            let request = ListDeadLetterGroupsRequest {
                filter: Some(filter),
            };
            client.list_dead_letter_groups(request).await?;
        } else {
            let request = ListDeadLettersRequest {
                filter: Some(filter),
                ..Default::default()
            };
            client.list_dead_letters(request).await?;
        }
        told(&format!("a page by {name}"), began, ());
        assert!(began.elapsed() < AT_ONCE, "{name}");
    }

    let began = Instant::now();
    let request = ReplayDeadLettersRequest {
        selection: Some(DeadLetterSelection {
            all: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let stream = client.replay_dead_letters(request).await?.into_inner();
    let told_last: Vec<_> = stream.try_collect().await?;
    let last = told_last
        .into_iter()
        .next_back()
        .and_then(|last| last.event);
    told("replayed", began, ());
    match last {
        Some(replay_dead_letters_response::Event::Progress(progress)) => {
            assert_eq!(
                (progress.done, progress.finished),
                (all, true),
                "{progress:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    until_for(PATIENCE, "all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == all).then_some(())
    })
    .await?;
    told("and counted", began, ());
    service.stop().await
}
