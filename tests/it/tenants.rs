//! Whose an event is: what its body says against what its routing key says.

use std::fs::File;

use chat_counters::config::CheckTenant;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use serde_json::{Value, json};

use crate::events::{TENANT, message};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, binary, dialog};

const METRIC: &str = "chat_counters_wrong_tenants_total";
const D: &str = "dlg";

/// Publishes a message of a tenant under a routing key, as `guest` says.
async fn publish(world: &World, n: usize, tenant: &str, key: &str, to: &str) -> Result<()> {
    let wire = message(
        &format!("e{n}"),
        D,
        &format!("m{n}"),
        "ann",
        1_700_000_000_000,
    );
    let mut body: Value = serde_json::from_slice(&wire.body)?;
    body["tenantId"] = json!(tenant);
    let (connection, channel) = world.channel().await?;
    let properties = BasicProperties::default().with_user_id("guest".into());
    let options = BasicPublishOptions::default();
    let body = body.to_string();
    channel
        .basic_publish(to.into(), key.into(), options, body.as_bytes(), properties)
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Under which key, of which tenant, and whether they are the same.
const ROWS: [(&str, &str, bool); 8] = [
    ("message.create.tnt_1", TENANT, true),
    ("message.create.tnt_2", TENANT, false),
    ("message.create", TENANT, false),
    ("anything.at.all.tnt_1", TENANT, false),
    // Who may publish for a.tnt_1 may not do so for tnt_1.
    ("message.create.a.tnt_1", TENANT, false),
    ("message.create.a.tnt_1", "a.tnt_1", true),
    ("message.create.tnt_1", "a.tnt_1", false),
    ("message.create.TNT_1", TENANT, false),
];

async fn publish_all(world: &World) -> Result<()> {
    for (n, (key, tenant, _)) in ROWS.into_iter().enumerate() {
        publish(world, n, tenant, key, &world.config.bus.exchange).await?;
    }
    // Straight to the queue, as replays are: its key says nothing.
    let queue = &world.config.bus.queue;
    publish(world, ROWS.len(), TENANT, queue, "").await
}

#[tokio::test]
async fn events_of_another_tenant_are_counted_and_told_of() -> Result<()> {
    let world = World::new("tenants_warn");
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let to_log = File::create(&log)?.into();
    let service = Service::spawn_logging(binary(), &world.config, "warn", to_log).await?;
    until("a service that is ready", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    publish_all(&world).await?;
    service.has_settled(9).await?;
    assert_eq!(service.counter(METRIC, "").await?, 6);
    assert_eq!(dialog(&service, D).await?.0, 7, "of this tenant");

    let text = std::fs::read_to_string(&log)?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<std::result::Result<Vec<_>, _>>()?;
    let told = |line: &&Value| line["message"].to_string().contains("another tenant");
    let told: Vec<_> = lines.iter().filter(told).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    let field = |name: &str| told[0][name].as_str().unwrap_or_default();
    assert_eq!((field("level"), field("tenant")), ("WARN", TENANT));
    assert_eq!(field("routing_key"), "message.create.tnt_2");
    assert_eq!((field("event"), field("publisher")), ("e1", "guest"));
    service.stop().await
}

#[tokio::test]
async fn events_of_another_tenant_are_refused_where_that_is_asked_for() -> Result<()> {
    let mut world = World::new("tenants_refused");
    world.config.bus.check_tenant = CheckTenant::DeadLetter;
    let service = world.service().await?;
    publish_all(&world).await?;
    service.has_settled(9).await?;
    assert_eq!(dialog(&service, D).await?.0, 2, "one, and the replay");
    let letters = world.letters(6).await?;
    let wrong: Vec<_> = ROWS.iter().filter(|(.., same)| !same).collect();
    for (letter, (key, tenant, _)) in letters.iter().zip(wrong) {
        assert_eq!(letter.header("x-cc-reason"), "wrong_tenant");
        assert_eq!(letter.header("x-cc-source-routing-key"), *key);
        let error = letter.header("x-cc-error");
        for part in [key, tenant, &"guest"] {
            assert!(
                error.contains(&format!("{part:?}")),
                "{part} is not in {error}"
            );
        }
    }
    service.stop().await
}
