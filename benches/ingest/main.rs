//! `make bench`: how fast the service ingests, and what the machine allows.
//!
//! Everything is measured in one run on one machine: all dialogs of all sizes
//! are in the store, then the loads take turns, and the median of the rounds
//! counts. Each load is put into the queue first; then the real service is started as a process of its own and
//! timed from the first delivery to the last ack, by its own metrics. The
//! floors are the same work without the service: writing the same documents in
//! a bare loop, in transactions as large as the service's were, and consuming
//! the same messages without doing anything. At the end a journal of the mixed
//! load is rebuilt, what came of it verified, events out of order are taken,
//! counters are read, users watched, and notifications published.
//!
//! ```text
//! cargo bench --bench ingest -- [--events N] [--dialogs N] [--rounds N]
//!     [--members A,B,..] [--user-dialogs A,B,..]
//!     [--only-past | --only-latency | --only-reads | --only-watches
//!      | --only-notifications]
//! ```
//!
//! Results: a table, `target/bench/ingest.json`, `target/bench/ingest.svg`.

#![allow(clippy::panic, reason = "the kit is test code")]

mod calls;
mod floors;
mod latency;
mod load;
mod notifications;
mod pace;
mod past;
#[path = "../../tests/kit/service.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod process;
mod reads;
mod rebuild;
mod report;
mod seed;
mod service;
mod watches;

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config::Config;

use load::Load;
use process::{Result, Service, config};
use rebuild::Rebuilt;
use report::{Measured, Report};

/// What is to be measured.
struct Options {
    /// Messages in each load.
    events: usize,
    /// Dialogs that they are spread over.
    dialogs: usize,
    /// Members of each dialog, one load each.
    members: Vec<usize>,
    /// How often each load is measured.
    rounds: usize,
    /// Only the events out of order.
    only_past: bool,
    /// Only the time from a publication to an answer.
    only_latency: bool,
    /// Only the reads.
    only_reads: bool,
    /// Only the watching.
    only_watches: bool,
    /// Only the notifications.
    only_notifications: bool,
    /// Dialogs of each user who is read about, one measurement each.
    user_dialogs: Vec<usize>,
}

/// Members of each dialog in the mixed load.
const MIXED_MEMBERS: usize = 100;

fn options() -> Result<Options> {
    let mut options = Options {
        events: 50_000,
        dialogs: 500,
        members: vec![2, 10, 100, 1_000, 10_000],
        rounds: 3,
        only_past: false,
        only_latency: false,
        only_reads: false,
        only_watches: false,
        only_notifications: false,
        user_dialogs: reads::sizes(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--events" => options.events = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--dialogs" => options.dialogs = value()?.parse()?,
            "--members" => options.members = sizes(&value()?)?,
            "--user-dialogs" => options.user_dialogs = sizes(&value()?)?,
            "--only-past" => options.only_past = true,
            "--only-latency" => options.only_latency = true,
            "--only-reads" => options.only_reads = true,
            "--only-watches" => options.only_watches = true,
            "--only-notifications" => options.only_notifications = true,
            // cargo passes this to every benchmark.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn sizes(list: &str) -> Result<Vec<usize>> {
    let sizes = list.split(',').map(str::parse);
    Ok(sizes.collect::<std::result::Result<_, _>>()?)
}

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is already installed")?;
    let options = options()?;
    if options.only_past {
        past::measure().await?;
        return Ok(());
    }
    if options.only_latency {
        return latency::measure().await;
    }
    if options.only_reads {
        return reads::measure(&options.user_dialogs).await;
    }
    if options.only_watches {
        return watches::measure().await;
    }
    if options.only_notifications {
        return notifications::measure().await;
    }
    let mut report = Report::default();
    println!(
        "one run on this machine; {} events a load over {} dialogs",
        options.events, options.dialogs
    );

    let messages = load::messages(&options, 100, 0);
    report.bus_floor = floors::bus(&config("floor"), &messages).await?;
    println!("{:<28} {:>10.0} events/s", "bus floor", report.bus_floor);
    let mut loads: Vec<_> = options
        .members
        .iter()
        .map(|&members| Kind::Messages(members))
        .chain([Kind::Mixed])
        .map(|kind| (kind, config("load"), Vec::new()))
        .collect();
    // All of it first: what is measured is a dialog's size, not the store's.
    for (kind, config, _) in &loads {
        prepare(kind, config, &options).await?;
    }
    for round in 0..options.rounds {
        for (kind, config, measured) in &mut loads {
            let load = kind.load(&options, round);
            let once = measure(config, &load).await?;
            println!("{:<28} {once}", kind.to_string());
            measured.push(once);
        }
    }
    println!("medians of {} rounds:", options.rounds);
    for (kind, _, measured) in &loads {
        let median = Measured::median(measured.clone());
        println!("{:<28} {median}", kind.to_string());
        match kind {
            Kind::Messages(members) => report.end_to_end.push((*members, median)),
            Kind::Mixed => report.mixed = Some(median),
        }
    }
    let batch = report.mean_batch();
    let (store_floor, cpu) = floors::store(&config("floor"), &options, batch).await?;
    report.store_floor = store_floor;
    println!(
        "{:<28} {store_floor:>10.0} events/s  {cpu}  {batch} events a transaction",
        "store floor"
    );
    for (kind, config, _) in &loads {
        let messages = (0..options.rounds).map(|round| {
            let load = kind.load(&options, round);
            load.iter().filter(|event| event.is_message()).count()
        });
        seed::verify(config, messages.sum()).await?;
        floors::remove(config).await?;
    }
    report.rebuilt = rebuild::measure(&options).await?;
    let Rebuilt {
        events_per_second,
        verified_per_second,
    } = report.rebuilt;
    println!("{:<28} {events_per_second:>10.0} events/s", "rebuild");
    println!("{:<28} {verified_per_second:>10.0} messages/s", "verify");
    report.out_of_order = past::measure().await?;
    latency::measure().await?;
    reads::measure(&options.user_dialogs).await?;
    watches::measure().await?;
    notifications::measure().await?;
    report.write()?;
    Ok(())
}

/// What is sent, to dialogs of which size.
enum Kind {
    Messages(usize),
    Mixed,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Messages(members) => f.pad(&format!("end to end, {members} members")),
            Kind::Mixed => f.pad("mixed"),
        }
    }
}

impl Kind {
    fn members(&self) -> usize {
        match self {
            Kind::Messages(members) => *members,
            Kind::Mixed => MIXED_MEMBERS,
        }
    }

    fn load(&self, options: &Options, round: usize) -> Vec<Load> {
        match self {
            Kind::Messages(members) => load::messages(options, *members, round),
            Kind::Mixed => load::mixed(options, MIXED_MEMBERS, round),
        }
    }
}

/// Dialogs with their members, and a queue that keeps what is published.
async fn prepare(kind: &Kind, config: &Config, options: &Options) -> Result<()> {
    seed::dialogs(config, options.dialogs, kind.members()).await?;
    let service = Service::start(service::binary(), config).await?;
    service.stop().await.map(drop)
}

/// Fills the queue, then lets the service empty it.
async fn measure(config: &Config, load: &[Load]) -> Result<Measured> {
    publish(config, load).await?;
    let service = Service::spawn(service::binary(), config).await?;
    let measured = service::drained(&service, load.len()).await?;
    service.stop().await?;
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
