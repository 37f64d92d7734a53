//! `make bench`: how fast the service ingests, and what the machine allows.
//!
//! Everything is measured in one run on one machine. Each load is put into the
//! queue first; then the real service is started as a process of its own and
//! timed from the first delivery to the last ack, by its own metrics. The
//! floors are the same work without the service: writing the same documents in
//! a bare loop, in transactions as large as the service's were, and consuming
//! the same messages without doing anything.
//!
//! ```text
//! cargo bench --bench ingest -- [--events N] [--dialogs N] [--members A,B,..]
//! ```
//!
//! Results: a table, `target/bench/ingest.json`, `target/bench/ingest.svg`.

#![allow(clippy::panic, reason = "the kit is test code")]

mod floors;
mod load;
#[path = "../../tests/kit/service.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod process;
mod report;
mod seed;
mod service;

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config::Config;

use load::Load;
use process::{Result, Service, config};
use report::{Measured, Report};

/// What is to be measured.
struct Options {
    /// Messages in each load.
    events: usize,
    /// Dialogs that they are spread over.
    dialogs: usize,
    /// Members of each dialog, one run each.
    members: Vec<usize>,
}

/// Members of each dialog in the mixed load.
const MIXED_MEMBERS: usize = 100;

fn options() -> Result<Options> {
    let mut options = Options {
        events: 50_000,
        dialogs: 500,
        members: vec![2, 10, 100, 1_000, 10_000],
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--events" => options.events = value()?.parse()?,
            "--dialogs" => options.dialogs = value()?.parse()?,
            "--members" => {
                let members = value()?;
                let members = members.split(',').map(str::parse);
                options.members = members.collect::<std::result::Result<_, _>>()?;
            }
            // cargo passes this to every benchmark.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is already installed")?;
    let options = options()?;
    let mut report = Report::default();
    println!(
        "one run on this machine; {} events a load over {} dialogs",
        options.events, options.dialogs
    );

    let messages = load::messages(&options, 100);
    report.bus_floor = floors::bus(&config("floor"), &messages).await?;
    println!("{:<28} {:>10.0} events/s", "bus floor", report.bus_floor);
    for &members in &options.members {
        let load = load::messages(&options, members);
        let measured = measure(&config("members"), &load, &options, members).await?;
        println!(
            "{:<28} {measured}",
            format!("end to end, {members} members")
        );
        report.end_to_end.push((members, measured));
    }
    let load = load::mixed(&options, MIXED_MEMBERS);
    let measured = measure(&config("mixed"), &load, &options, MIXED_MEMBERS).await?;
    println!("{:<28} {measured}", "mixed");
    report.mixed = Some(measured);
    let batch = report.mean_batch();
    let (store_floor, cpu) = floors::store(&config("floor"), &options, batch).await?;
    report.store_floor = store_floor;
    println!(
        "{:<28} {store_floor:>10.0} events/s  {cpu}  {batch} events a transaction",
        "store floor"
    );
    report.write()?;
    Ok(())
}

/// Fills the queue, then lets the service empty it.
async fn measure(
    config: &Config,
    load: &[Load],
    options: &Options,
    members: usize,
) -> Result<Measured> {
    seed::dialogs(config, options.dialogs, members).await?;
    // Declares the queue, which then keeps what is published.
    Service::start(service::binary(), config)
        .await?
        .stop()
        .await?;
    publish(config, load).await?;
    let service = Service::spawn(service::binary(), config).await?;
    let measured = service::drained(&service, load.len()).await?;
    service.stop().await?;
    let messages = load
        .iter()
        .filter(|event| event.event_type == "message.create");
    seed::verify(config, messages.count()).await?;
    floors::remove(config).await?;
    Ok(measured)
}

async fn publish(config: &Config, load: &[Load]) -> Result<()> {
    let mut publisher = Publisher::connect(&config.bus).await?;
    for event in load {
        let headers = EventHeaders {
            event_type: event.event_type,
            entity_type: event.entity_type,
            tenant_id: load::TENANT,
        };
        let key = headers.routing_key();
        publisher
            .publish(&key, Some(&headers), event.body.as_bytes())
            .await?;
    }
    let tally = publisher.finish().await?;
    if tally.confirmed == load.len() as u64 {
        Ok(())
    } else {
        Err(format!("only {tally:?} of {} confirmed", load.len()).into())
    }
}
