//! How long a message takes from its publication to an answer that has it in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_counters::bus::Publisher;
use chat_counters::config::Config;
use chat_counters::grpc::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::calls::{Caller, at, framed};
use super::load::{self, Random, TENANT};
use super::process::{Result, Service, config};
use super::report::Cpu;
use super::{Options, pace, seed, service};

const DIALOGS: usize = 500;
const MEMBERS: usize = 10;
/// Messages that come one by one.
const ALONE: usize = 200;
/// Between the answer to one and the next.
const PAUSE: Duration = Duration::from_millis(20);
/// Events in the backlog that shows the full speed.
const BACKLOG: usize = 200_000;
/// Events a second of the steady measurement.
const STEADY: u64 = 2_000;
/// Messages that are waited for in a second of those that come in steadily: few,
/// as the questions have a cost of their own.
const ASKED: u64 = 50;
/// More than are ever asked for at once.
const MOST_ASKED: usize = 10_000;
const LENGTH: Duration = Duration::from_secs(10);
/// How long it goes on without questions, for what writing alone costs.
const UNASKED: Duration = Duration::from_secs(5);

const GET_DIALOG: &str = "/chatcounters.v1.CounterService/GetDialogStats";

/// Measures it and prints it.
pub(crate) async fn measure() -> Result<()> {
    let config = config("latency");
    seed::dialogs(&config, DIALOGS, MEMBERS).await?;
    let service = Service::start(service::binary(), &config).await?;
    service.stop().await?;
    let options = Options {
        events: BACKLOG,
        dialogs: DIALOGS,
        ..super::options()?
    };
    super::publish(&config, &load::messages(&options, MEMBERS, 0)).await?;
    let service = Service::spawn(service::binary(), &config).await?;
    let full = service::drained(&service, BACKLOG).await?;
    println!("publish to readable");
    println!("  {:<34} {full}", "full speed, for comparison");
    let caller = Arc::new(Caller::connect(service.grpc, GET_DIALOG).await?);
    alone(&config, &caller).await?;
    let mut first = 2 * BACKLOG;
    for rate in [STEADY, 5_000, full.events_per_second as u64 / 2] {
        let steady = Steady {
            config: &config,
            service: &service,
            first,
        };
        steady.at(rate, &caller).await?;
        first += BACKLOG * LENGTH.as_secs() as usize;
    }
    service.stop().await?;
    super::floors::remove(&config).await
}

/// One message after the other on a service with nothing else to do.
async fn alone(config: &Config, caller: &Caller) -> Result<()> {
    let mut publisher = Publisher::connect(&config.bus).await?;
    let mut took = Vec::new();
    for index in BACKLOG..BACKLOG + ALONE {
        let began = Instant::now();
        let dialog = index % DIALOGS;
        pace::one(&mut publisher, index, dialog, 0).await?;
        caller.ask::<v1::DialogStats>(after(index, dialog)).await?;
        took.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    publisher.finish().await?;
    show("one at a time", took);
    Ok(())
}

/// Messages that come in at a steady rate.
struct Steady<'a> {
    config: &'a Config,
    service: &'a Service,
    /// The number of the first.
    first: usize,
}

/// What the service has done so far, and what it and this benchmark have used.
struct SoFar {
    cpu: (Cpu, Cpu),
    settled: u64,
    transactions: u64,
    /// Seconds that they took.
    took: f64,
}

impl Steady<'_> {
    async fn at(&self, rate: u64, caller: &Arc<Caller>) -> Result<()> {
        let every = (rate / ASKED).max(1) as usize;
        let (stop, stopped) = watch::channel(false);
        let (sampled, samples) = mpsc::channel(MOST_ASKED);
        let sent = Arc::new(AtomicUsize::new(self.first));
        let is_asked = Arc::new(AtomicBool::new(true));
        let draw = {
            let (sent, asks) = (Arc::clone(&sent), Arc::clone(&is_asked));
            move |random: &mut Random| {
                let dialog = random.below(DIALOGS);
                let index = sent.fetch_add(1, Ordering::Relaxed);
                if index.is_multiple_of(every) && asks.load(Ordering::Relaxed) {
                    // Nobody takes them any more once it is over.
                    let _ = sampled.try_send((index, dialog, Instant::now()));
                }
                (dialog, random.below(MEMBERS))
            }
        };
        let first = self.first;
        let publishing = pace::publish(self.config.clone(), first, rate, draw, stopped);
        let publishing = tokio::spawn(publishing);
        let asking = tokio::spawn(ask(Arc::clone(caller), samples));
        tokio::time::sleep(LENGTH).await;
        is_asked.store(false, Ordering::Relaxed);
        let before = self.so_far().await?;
        tokio::time::sleep(UNASKED).await;
        let after = self.so_far().await?;
        stop.send_replace(true);
        let sent = publishing.await??;
        let took = asking.await??;
        show(&format!("{sent:.0} events/s"), took);
        let events = (after.settled - before.settled) as usize;
        let transactions = after.transactions - before.transactions;
        let batch = events as f64 / transactions as f64;
        let (cpu, own) = (&after.cpu.0, &after.cpu.1);
        println!(
            "  {:<34} {}, bench {:.3}; {batch:.1} events a transaction of {:.1} ms",
            "",
            cpu.since(&before.cpu.0, events),
            own.since(&before.cpu.1, events).service,
            (after.took - before.took) * 1e3 / transactions as f64,
        );
        Ok(())
    }

    async fn so_far(&self) -> Result<SoFar> {
        let transactions = "chat_counters_batch_events_count";
        Ok(SoFar {
            cpu: (Cpu::now(self.service.pid()), Cpu::now(std::process::id())),
            settled: self.service.settled().await?,
            transactions: self.service.counter(transactions, "").await?,
            took: self
                .service
                .number("chat_counters_commit_seconds_sum", "")
                .await?,
        })
    }
}

/// Asks for each message that comes, all at once; says how long each answer
/// took since its message was published.
async fn ask(
    caller: Arc<Caller>,
    mut samples: mpsc::Receiver<(usize, usize, Instant)>,
) -> std::result::Result<Vec<Duration>, String> {
    let mut asking = JoinSet::new();
    let mut place = 0;
    while let Some((index, dialog, published)) = samples.recv().await {
        let caller = Arc::clone(&caller);
        place += 1;
        asking.spawn(async move {
            let asked = caller.ask_on::<v1::DialogStats>(place, after(index, dialog));
            asked.await.map_err(|error| error.to_string())?;
            Ok::<_, String>(published.elapsed())
        });
    }
    let asked = asking.join_all().await;
    asked.into_iter().collect()
}

/// A question about a dialog that is answered once a message is counted.
fn after(index: usize, dialog: usize) -> Bytes {
    framed(&v1::GetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_id: load::dialog(dialog),
        after_event_id: load::event_id(index),
        ..Default::default()
    })
}

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let within = |share| at(&took, share).as_secs_f64() * 1e3;
    println!(
        "  {what:<34} {:>6} asked  p50 {:>6.2}  p99 {:>6.2}  p99.9 {:>6.2} ms",
        took.len(),
        within(0.5),
        within(0.99),
        within(0.999),
    );
}
