//! How fast those who watch are told, and what watching takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use chat_counters::bus::Publisher;
use chat_counters::config::Config;
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::calls::at;
use super::load::{self, Random, TENANT};
use super::process::{Result, Service, config};
use super::{pace, seed, service};

/// Users who are watched.
const USERS: usize = 100_000;
/// Streams on which they are, and connections that have these.
const STREAMS: usize = 100;
const CONNECTIONS: usize = 4;
/// Members of each dialog in which messages come in.
const MEMBERS: usize = 10;
const DIALOGS: usize = USERS / MEMBERS;
/// Members of the one dialog that is larger.
const LARGE: usize = 10_000;
/// Events that come in a second.
const EVENTS: u64 = 2_000;
const LENGTH: Duration = Duration::from_secs(10);
/// So that all who are watched take no more than half of it.
const MEMORY_MIB: u32 = 256;
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the clients know.
struct Known {
    users: Vec<Mutex<Stream>>,
    updates: AtomicUsize,
    told: AtomicUsize,
}

/// What one client knows of the users of its stream.
#[derive(Default)]
struct Stream {
    /// Unread and version.
    users: Vec<(i64, i64)>,
    /// From when a change was written to when it was here.
    delays: Vec<Duration>,
    went_back: usize,
}

/// Measures it and prints it.
pub(crate) async fn measure() -> Result<()> {
    let mut config = config("watches");
    config.serving.memory_mib = MEMORY_MIB;
    seed::filled(&config, DIALOGS + 1, members_of, 0).await?;
    let service = Service::start(service::binary(), &config).await?;
    let known = Arc::new(Known {
        users: (0..STREAMS).map(|_| Mutex::default()).collect(),
        updates: AtomicUsize::new(0),
        told: AtomicUsize::new(0),
    });
    let began = Instant::now();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc))?;
        channels.push(endpoint.connect().await?);
    }
    let mut clients = JoinSet::new();
    for stream in 0..STREAMS {
        let channel = channels[stream % CONNECTIONS].clone();
        clients.spawn(watch_some(channel, stream, Arc::clone(&known)));
    }
    until("all are told", || {
        known.told.load(Ordering::Relaxed) == STREAMS
    })
    .await?;
    println!(
        "watching {USERS} users on {STREAMS} streams: all told after {:.1} s, resident {:.0} MiB",
        began.elapsed().as_secs_f64(),
        service.peak_rss_mib()?
    );
    steady(&config, &channels[0], &known).await?;
    one_for_many(&config, &known).await?;
    println!(
        "  {:<34} {:>8.0} MiB",
        "resident at most",
        service.peak_rss_mib()?
    );
    clients.shutdown().await;
    drop(channels);
    service.stop().await?;
    super::floors::remove(&config).await
}

fn members_of(dialog: usize) -> std::ops::Range<usize> {
    match dialog {
        DIALOGS => 0..LARGE,
        _ => dialog * MEMBERS..(dialog + 1) * MEMBERS,
    }
}

fn users_of(stream: usize) -> std::ops::Range<usize> {
    let share = USERS / STREAMS;
    stream * share..(stream + 1) * share
}

/// Watches the users of one stream.
async fn watch_some(channel: Channel, stream: usize, known: Arc<Known>) -> Result<()> {
    let users = users_of(stream);
    let first = users.start;
    known.users[stream].lock().await.users = vec![(-1, -1); users.len()];
    let request = v1::WatchUserStatsRequest {
        tenant_id: TENANT.into(),
        user_ids: users.map(load::user).collect(),
        // What is held back on purpose is not what is measured.
        min_interval_ms: 10,
        ..Default::default()
    };
    let mut client = CounterServiceClient::new(channel);
    let mut messages = client.watch_user_stats(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        let now = SystemTime::now();
        let mut knows = known.users[stream].lock().await;
        for update in &message.updates {
            let stats = update.user_stats.as_ref().ok_or("an update of nobody")?;
            let user = number(&stats.user_id)? - first;
            let (_, version) = knows.users[user];
            knows.went_back += usize::from(stats.version < version);
            knows.users[user] = (stats.total_unread_count, stats.version);
            if version >= 0
                && let Some(at) = stats.updated_at
            {
                let delay = now.duration_since(SystemTime::try_from(at)?);
                knows.delays.push(delay.unwrap_or_default());
            }
        }
        drop(knows);
        known
            .updates
            .fetch_add(message.updates.len(), Ordering::Relaxed);
        if message.all_told {
            known.told.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn number(user: &str) -> Result<usize> {
    let digits = user.trim_start_matches(|c: char| !c.is_ascii_digit());
    Ok(digits.parse()?)
}

/// Messages come in at a steady pace.
async fn steady(config: &Config, channel: &Channel, known: &Arc<Known>) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let draw = |random: &mut Random| {
        let dialog = random.below(DIALOGS);
        (dialog, dialog * MEMBERS + random.below(MEMBERS))
    };
    let before = known.updates.load(Ordering::Relaxed);
    let publishing = tokio::spawn(pace::publish(config.clone(), 0, EVENTS, draw, stopped));
    tokio::time::sleep(LENGTH).await;
    stop.send_replace(true);
    let sent = publishing.await??;
    let began = Instant::now();
    let differing = loop {
        let differing = differing(channel, known).await?;
        if differing == 0 || began.elapsed() > PATIENCE {
            break differing;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (mut delays, mut went_back) = (Vec::new(), 0);
    for stream in &known.users {
        let mut stream = stream.lock().await;
        delays.append(&mut stream.delays);
        went_back += stream.went_back;
    }
    delays.sort_unstable();
    let within = |share| at(&delays, share).as_secs_f64() * 1e3;
    let updates = known.updates.load(Ordering::Relaxed) - before;
    println!(
        "  {:<34} {:>8.0}/s  p50 {:>6.2}  p99 {:>6.2}  p99.9 {:>6.2} ms",
        format!("told, {sent:.0} events/s"),
        updates as f64 / LENGTH.as_secs_f64(),
        within(0.5),
        within(0.99),
        within(0.999),
    );
    println!("  {differing} users are not as they were told, {went_back} versions went down");
    Ok(())
}

/// How many users stand otherwise than they were told.
async fn differing(channel: &Channel, known: &Known) -> Result<usize> {
    let mut client = CounterServiceClient::new(channel.clone());
    let mut differing = 0;
    for (stream, knows) in known.users.iter().enumerate() {
        let request = v1::BatchGetUserStatsRequest {
            tenant_id: TENANT.into(),
            user_ids: users_of(stream).map(load::user).collect(),
        };
        let answer = client.batch_get_user_stats(request).await?.into_inner();
        let knows = knows.lock().await;
        let pairs = answer.user_stats.iter().zip(&knows.users);
        differing += pairs
            .filter(|(stats, (unread, _))| stats.total_unread_count != *unread)
            .count();
    }
    Ok(differing)
}

/// One message in a dialog of many who are watched.
async fn one_for_many(config: &Config, known: &Known) -> Result<()> {
    let mut took = Vec::new();
    for n in 0..5 {
        let before = known.updates.load(Ordering::Relaxed);
        let mut publisher = Publisher::connect(&config.bus).await?;
        let began = Instant::now();
        pace::one(&mut publisher, 10_000_000 + n, DIALOGS, 0).await?;
        publisher.finish().await?;
        until("all members are told", || {
            known.updates.load(Ordering::Relaxed) - before >= LARGE
        })
        .await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!(
        "  {:<34} {:>8.0} ms, at most {:.0} ms",
        format!("one message to {LARGE} members"),
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() - 1].as_secs_f64() * 1e3,
    );
    Ok(())
}

async fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > PATIENCE {
            return Err(format!("not so after {PATIENCE:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
