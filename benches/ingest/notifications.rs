//! How soon and how fast notifications are on the bus, and what they cost counting.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat_counters::config::{Config, NotifyFormat};
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::calls::at;
use super::load::Random;
use super::process::{Result, Service, config};
use super::{Kind, Options, pace, seed, service};

/// Members of each dialog: a message is twice as many notifications, each member's
/// own and the one of the member in the dialog.
const MEMBERS: usize = 10;
/// Dialogs, each with members of its own.
const DIALOGS: usize = 2_000;
const LENGTH: Duration = Duration::from_secs(10);
/// All users are in memory.
const MEMORY_MIB: u32 = 128;
/// Messages a second that are 1,000 notifications, and that are far more than are
/// published.
const CALM: u64 = 50;
const FLOOD: u64 = 1_000;
/// Rounds of counting with and without.
const ROUNDS: usize = 3;
/// After so long without a notification, all are there.
const QUIET: Duration = Duration::from_secs(2);

/// What came from the bus.
#[derive(Default)]
struct Came {
    /// From a commit to when its notification was here.
    delays: Vec<Duration>,
    last: Option<Instant>,
}

/// A consumer of all notifications.
struct Listener {
    connection: Connection,
    channel: Channel,
    came: Arc<Mutex<Came>>,
    listening: JoinHandle<()>,
}

impl Listener {
    async fn begin(config: &Config) -> Result<Self> {
        let url = config.bus.url.expose();
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let exchange = config.notify.exchange.as_str();
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let nothing = FieldTable::default;
        let topic = ExchangeKind::Topic;
        channel
            .exchange_declare(exchange.into(), topic, durable, nothing())
            .await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let queue = channel.queue_declare("".into(), options, nothing()).await?;
        let queue = queue.name().as_str();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                "#".into(),
                options,
                nothing(),
            )
            .await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut consumer = channel
            .basic_consume(queue.into(), "".into(), options, nothing())
            .await?;
        let came = Arc::<Mutex<Came>>::default();
        let takes = Arc::clone(&came);
        let listening = tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let mut came = takes.lock().await;
                came.delays.extend(delay(&delivery.data));
                came.last = Some(Instant::now());
            }
        });
        Ok(Self {
            connection,
            channel,
            came,
            listening,
        })
    }

    /// What has come, once nothing more does.
    async fn all(&self) -> Came {
        loop {
            let last = self.came.lock().await.last;
            match last {
                Some(last) if last.elapsed() < QUIET => tokio::time::sleep(QUIET / 10).await,
                _ => return std::mem::take(&mut *self.came.lock().await),
            }
        }
    }

    async fn end(self, config: &Config) -> Result<()> {
        self.listening.abort();
        let exchange = config.notify.exchange.as_str().into();
        self.channel
            .exchange_delete(exchange, ExchangeDeleteOptions::default())
            .await?;
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

/// How long ago it was written what a notification tells.
fn delay(body: &[u8]) -> Option<Duration> {
    let event: serde_json::Value = serde_json::from_slice(body).ok()?;
    let time = event["time"].as_str()?;
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(time, format).ok()?;
    let at = UNIX_EPOCH + Duration::from_micros((at.unix_timestamp_nanos() / 1_000) as u64);
    SystemTime::now().duration_since(at).ok()
}

/// Measures it and prints it.
pub(crate) async fn measure() -> Result<()> {
    println!("notifications (cloudevents), {MEMBERS} members a dialog");
    let mut config = config("notifications");
    config.notify.format = NotifyFormat::CloudEvents;
    config.serving.memory_mib = MEMORY_MIB;
    let members_of = |dialog: usize| dialog * MEMBERS..(dialog + 1) * MEMBERS;
    seed::filled(&config, DIALOGS, members_of, 0).await?;
    let listener = Listener::begin(&config).await?;
    let service = Service::start(service::binary(), &config).await?;
    let mut first = 0;
    for per_second in [CALM, FLOOD] {
        steady(&config, &listener, first, per_second).await?;
        first += 1_000_000;
    }
    println!(
        "  {:<34} {:>8.0} MiB",
        "resident at most",
        service.peak_rss_mib()?
    );
    service.stop().await?;
    listener.end(&config).await?;
    super::floors::remove(&config).await?;
    beside_counting().await
}

/// Messages come in at a steady pace, each about ten users.
async fn steady(config: &Config, listener: &Listener, first: usize, per_second: u64) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let draw = |random: &mut Random| {
        let dialog = random.below(DIALOGS);
        (dialog, dialog * MEMBERS + random.below(MEMBERS))
    };
    let publishing = pace::publish(config.clone(), first, per_second, draw, stopped);
    let publishing = tokio::spawn(publishing);
    tokio::time::sleep(LENGTH).await;
    let during = listener.came.lock().await.delays.len();
    stop.send_replace(true);
    let sent = publishing.await??;
    let mut came = listener.all().await;
    came.delays.sort_unstable();
    let within = |share| at(&came.delays, share).as_secs_f64() * 1e3;
    println!(
        "  {:<34} {:>8.0}/s  p50 {:>6.0}  p99 {:>6.0} ms from commit to consumer, {} in all",
        format!("{sent:.0} messages/s"),
        during as f64 / LENGTH.as_secs_f64(),
        within(0.5),
        within(0.99),
        came.delays.len(),
    );
    Ok(())
}

/// A backlog is counted, in turns with and without notifications.
async fn beside_counting() -> Result<()> {
    let options = Options {
        rounds: ROUNDS,
        ..super::options()?
    };
    let kind = Kind::Messages(MEMBERS);
    let mut both = Vec::new();
    for format in [NotifyFormat::Off, NotifyFormat::CloudEvents] {
        let mut config = config("beside");
        config.notify.format = format;
        super::prepare(&kind, &config, &options).await?;
        both.push((config, Vec::new()));
    }
    for round in 0..options.rounds {
        for (config, measured) in &mut both {
            let listener = Listener::begin(config).await?;
            let load = kind.load(&options, round);
            let once = super::measure(config, &load).await?;
            let came = listener.all().await.delays.len();
            println!(
                "  {:<34} {once}, {came} notifications",
                format!("{:?}", config.notify.format)
            );
            measured.push(once.events_per_second);
            listener.end(config).await?;
        }
    }
    let medians = both.iter_mut().map(|(_, measured)| {
        measured.sort_by(f64::total_cmp);
        measured[measured.len() / 2]
    });
    let medians: Vec<f64> = medians.collect();
    println!(
        "  {:<34} {:>8.2} of {:.0} events/s",
        "counting with notifications",
        medians[1] / medians[0],
        medians[0],
    );
    for (config, _) in &both {
        super::floors::remove(config).await?;
    }
    Ok(())
}
