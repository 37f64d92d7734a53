//! `make demo`: a chat scenario through the real broker, service and database,
//! every counter read back over gRPC and compared with an independent model.
//!
//! Exit status 1 when anything differs.

#![allow(clippy::expect_used, clippy::panic, reason = "the kit is test code")]

#[path = "../kit/mod.rs"]
mod kit;

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;
use std::time::Instant;

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config::Config;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use kit::broker;
use kit::model::Model;
use kit::read_back::{self, Comparison};
use kit::scenario::{Kind, Scenario};
use kit::service::{Result, Service, config, neighbouring_binary};

/// The same scenario every time.
const SEED: u64 = 20_261_123;
/// Rows shown of each table and tenant.
const SHOWN: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; whether everything was as the model says.
async fn demo() -> Result<bool> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started = Instant::now();
    let config = config("demo");
    let scenario = Scenario::demo(SEED);
    let service = Service::start(&neighbouring_binary()?, &config).await?;
    println!(
        "service: process {}, gRPC {}, queue {}",
        service.pid(),
        service.grpc,
        config.bus.queue
    );

    publish(&config, &scenario).await?;
    service.has_settled(scenario.published.len() as u64).await?;
    println!(
        "published and drained: {} events, {:.1} s\n",
        scenario.published.len(),
        started.elapsed().as_secs_f64()
    );

    let model = Model::of(&scenario.events);
    let mut client = CounterServiceClient::connect(format!("http://{}", service.grpc)).await?;
    let comparison = read_back::compare(&mut client, &model).await?;
    show_users(&model);
    show_dialogs(&model);
    let letters_agree = show_events(&service, &scenario).await?;
    show_verdict(&comparison, letters_agree);

    service.stop().await?;
    clean_up(&config).await?;
    println!("{:.1} s in all", started.elapsed().as_secs_f64());
    Ok(comparison.differences.is_empty() && letters_agree)
}

async fn publish(config: &Config, scenario: &Scenario) -> Result<()> {
    let mut publisher = Publisher::connect(&config.bus).await?;
    for event in &scenario.published {
        let headers = EventHeaders {
            event_type: &event.event_type,
            entity_type: &event.entity_type,
            tenant_id: &event.tenant_id,
        };
        publisher
            .publish(&event.routing_key, Some(&headers), &event.body)
            .await?;
    }
    let tally = publisher.finish().await?;
    if tally.confirmed == scenario.published.len() as u64 {
        Ok(())
    } else {
        Err(format!("not all events were confirmed: {tally:?}").into())
    }
}

/// The counters shown are those of the model; the verdict says whether the
/// service's are the same.
fn show_users(model: &Model) {
    println!(
        "{:<12} {:<14} {:>8} {:>8} {:>8} {:>8}  unread by sender type",
        "tenant", "user", "dialogs", "unread", "in", "sent"
    );
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    for (tenant, user) in model.users() {
        let rows = shown.entry(tenant.clone()).or_default();
        *rows += 1;
        if *rows <= SHOWN {
            let counts = model.user(&tenant, &user);
            println!(
                "{tenant:<12} {user:<14} {:>8} {:>8} {:>8} {:>8}  {:?}",
                counts.dialog_count,
                counts.total_unread_count,
                counts.unread_dialogs_count,
                counts.total_messages_count,
                counts.unread_by_sender_type,
            );
        }
    }
    println!("... of {} users\n", shown.values().sum::<usize>());
}

fn show_dialogs(model: &Model) {
    println!(
        "{:<12} {:<20} {:>8} {:>8} {:>8}",
        "tenant", "dialog", "messages", "members", "topics"
    );
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    for (tenant, dialog) in model.dialogs() {
        let rows = shown.entry(tenant.clone()).or_default();
        *rows += 1;
        if *rows <= SHOWN {
            let counts = model.dialog(&tenant, &dialog);
            println!(
                "{tenant:<12} {dialog:<20} {:>8} {:>8} {:>8}",
                counts.message_count, counts.member_count, counts.topic_count,
            );
        }
    }
    println!("... of {} dialogs\n", shown.values().sum::<usize>());
}

/// What became of the events; whether each poison was dead-lettered for its
/// own reason, and nothing else was.
async fn show_events(service: &Service, scenario: &Scenario) -> Result<bool> {
    println!("{:<26} {:>8}", "events", "");
    for outcome in [
        "applied",
        "unchanged",
        "duplicate",
        "ignored",
        "dead_lettered",
    ] {
        let label = format!("\"{outcome}\"");
        let count = service
            .counter("chat_counters_events_total", &label)
            .await?;
        println!("  {outcome:<24} {count:>8}");
    }
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for published in &scenario.published {
        if let Kind::Poison(reason) = published.kind {
            *expected.entry(reason).or_default() += 1;
        }
    }
    let bodies: HashSet<_> = scenario
        .published
        .iter()
        .map(|published| &published.body)
        .collect();
    println!("  {:<24} {:>8}", "distinct bodies sent", bodies.len());
    println!("dead letters by reason");
    let mut agree = true;
    for (reason, expected) in &expected {
        let label = format!("\"{reason}\"");
        let found = service
            .counter("chat_counters_dead_letters_total", &label)
            .await?;
        println!("  {reason:<24} {found:>8}  (sent: {expected})");
        agree &= found == *expected;
    }
    let all = service
        .counter("chat_counters_dead_letters_total", "")
        .await?;
    Ok(agree && all == expected.values().sum::<u64>())
}

fn show_verdict(comparison: &Comparison, letters_agree: bool) {
    for difference in &comparison.differences {
        println!("DIFFERENT {difference}");
    }
    let letters = if letters_agree {
        "as sent"
    } else {
        "NOT AS SENT"
    };
    println!(
        "\nverdict: {} counters compared, {} differ; dead letters {letters}",
        comparison.compared,
        comparison.differences.len(),
    );
}

/// Removes the demo's queues, exchange and database.
async fn clean_up(config: &Config) -> Result<()> {
    let client = mongodb::Client::with_uri_str(config.store.url.expose()).await?;
    client.database(&config.store.database).drop().await?;
    let (connection, channel) = broker::channel(&config.bus).await?;
    broker::delete_queues(&channel, &config.bus).await?;
    broker::delete_exchange(&channel, &config.bus).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
