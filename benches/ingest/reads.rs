//! How fast counters are read: from memory, while events come in, and for the
//! first time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_counters::config::Config;
use chat_counters::grpc::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::calls::{Called, Caller, framed};
use super::load::{self, Random, TENANT};
use super::process::{Result, Service, config};
use super::{pace, seed, service};

/// Users who are read about, by Zipf's law.
const USERS: usize = 1_000;
/// Dialogs of each of them, one measurement each.
const SIZES: [usize; 3] = [50, 500, 5_000];
/// Members of each dialog.
const MEMBERS: usize = 50;
/// Users who are read about for the first time, one after the other.
const COLD: usize = 20;
/// Users in memory who are read about while all others are not yet there, and
/// how often in a second.
const HOT: usize = 100;
const HOT_RATE: f64 = 5_000.0;
/// Of these others so many are read about at once as have so many dialogs
/// together: that takes less than a call may.
const COLD_SHARES: usize = 440_000;
/// How old an answer may be for those who take an old one.
const STALE_MS: i32 = 100;
/// Events that come in a second while it is read.
const EVENTS: u64 = 2_000;
/// Length of one measurement.
const LENGTH: Duration = Duration::from_secs(4);
/// Enough for all the users of the largest size.
const MEMORY_MIB: u32 = 2_048;

/// Messages that are unread in each dialog.
const UNREAD: i64 = 3;

const GET_USER: &str = "/chatcounters.v1.CounterService/GetUserStats";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const BATCH: &str = "/chatcounters.v1.CounterService/BatchGetUserStats";
const LIST: &str = "/chatcounters.v1.CounterService/ListUserDialogStats";

/// Measures all of it and prints it.
pub(crate) async fn measure(sizes: &[usize]) -> Result<()> {
    for dialogs in sizes {
        of_size(*dialogs).await?;
    }
    Ok(())
}

/// The sizes that are measured unless told otherwise.
pub(crate) fn sizes() -> Vec<usize> {
    SIZES.to_vec()
}

async fn of_size(dialogs: usize) -> Result<()> {
    let mut config = config("reads");
    config.serving.memory_mib = MEMORY_MIB;
    // The client keeps its schedule whatever the answers do.
    config.grpc.max_concurrent_requests = 10_000;
    let pool = USERS * dialogs / MEMBERS;
    seed::filled(&config, pool, members_of, UNREAD).await?;
    let service = Service::start(service::binary(), &config).await?;
    let caller = Arc::new(Caller::connect(service.grpc, GET_USER).await?);
    let zipf = Zipf::of(USERS);
    let users: Arc<Vec<Bytes>> = Arc::new((0..USERS).map(|user| get_user(user, 0)).collect());

    let cold = cold(&caller, &users).await?;
    let crowd = (HOT..USERS - COLD).take(COLD_SHARES / dialogs);
    let crowded = beside_the_cold(&caller, &users, crowd).await?;
    for user in users.iter() {
        caller.ask::<v1::UserStats>(user.clone()).await?;
    }
    println!(
        "reads, {dialogs} dialogs a user (resident {:.0} MiB)",
        service.peak_rss_mib()?
    );
    println!("  {:<34} {:>8.1} ms mean", "for the first time", cold * 1e3);
    show(&format!("{HOT} users, {HOT_RATE}/s"), &crowded.alone);
    show(
        &format!("beside {} cold ones", crowded.cold),
        &crowded.beside,
    );
    println!(
        "  {:<34} {:>8.0} ms",
        "until all of these were answered",
        crowded.took.as_secs_f64() * 1e3
    );
    let drawn = zipf.drawn(&users);
    floor(service.grpc).await?;
    quiet(&caller, drawn.clone()).await?;
    stale(&caller, &zipf).await?;
    busy(&config, &caller, drawn, pool).await?;
    others(&service, &zipf).await?;
    service.stop().await?;
    small(&mut config, &users, &zipf).await?;
    super::floors::remove(&config).await
}

/// The same with as much memory as is configured unless told otherwise, which
/// may be too little for all of them.
async fn small(config: &mut Config, users: &Arc<Vec<Bytes>>, zipf: &Zipf) -> Result<()> {
    config.serving.memory_mib = Config::default().serving.memory_mib;
    let service = Service::start(service::binary(), config).await?;
    let caller = Arc::new(Caller::connect(service.grpc, GET_USER).await?);
    let drawn = zipf.drawn(users);
    let what = format!("64 in flight, {} MiB for them", config.serving.memory_mib);
    match caller.at_once(64, 2 * LENGTH, drawn).await {
        Ok(all) => show(&what, &all),
        // Of users who are larger than may be, each read is one of the store.
        Err(error) => println!("  {what:<34} failed: {error}"),
    }
    println!(
        "  {:<34} {:>8.0} MiB",
        "resident at most",
        service.peak_rss_mib()?
    );
    service.stop().await.map(drop)
}

/// Calls that ask for nothing, of the same server.
async fn floor(address: std::net::SocketAddr) -> Result<()> {
    let caller = Arc::new(Caller::connect(address, HEALTH).await?);
    let nothing = Bytes::from_static(&[0; 5]);
    for places in [64, 16] {
        let message = nothing.clone();
        let called = caller.at_once(places, LENGTH, move |_| message.clone());
        show(
            &format!("asked nothing, {places} in flight"),
            &called.await?,
        );
    }
    Ok(())
}

/// By those who take answers that are a little old.
async fn stale(caller: &Arc<Caller>, zipf: &Zipf) -> Result<()> {
    let users = Arc::new((0..USERS).map(|user| get_user(user, STALE_MS)).collect());
    let called = caller.at_once(64, LENGTH, zipf.drawn(&users)).await?;
    show(&format!("64 in flight, {STALE_MS} ms old at most"), &called);
    Ok(())
}

/// How reads about users in memory fare while many others are read about for the
/// first time.
struct Crowded {
    alone: Called,
    beside: Called,
    cold: usize,
    took: Duration,
}

async fn beside_the_cold(
    caller: &Arc<Caller>,
    users: &Arc<Vec<Bytes>>,
    cold: impl Iterator<Item = usize> + Clone,
) -> Result<Crowded> {
    for user in 0..HOT {
        caller.ask::<v1::UserStats>(users[user].clone()).await?;
    }
    let drawn = {
        let users = Arc::clone(users);
        move |number: u64| users[number as usize % HOT].clone()
    };
    let alone = caller.at_rate(HOT_RATE, LENGTH, drawn.clone()).await?;
    // On connections of their own: what is measured is the service.
    let others = Arc::new(Caller::connect(caller.address(), GET_USER).await?);
    let (beside, began) = (caller.at_rate(HOT_RATE, LENGTH, drawn), Instant::now());
    let asking = async {
        let mut asking = JoinSet::new();
        for (place, user) in cold.clone().enumerate() {
            let (others, message) = (Arc::clone(&others), users[user].clone());
            asking.spawn(async move {
                let asked = others.ask_on::<v1::UserStats>(place, message).await;
                asked.map(drop).map_err(|error| error.to_string())
            });
        }
        for asked in asking.join_all().await {
            asked?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(began.elapsed())
    };
    let (beside, took) = tokio::try_join!(beside, asking)?;
    Ok(Crowded {
        alone,
        beside,
        cold: cold.count(),
        took,
    })
}

async fn quiet(
    caller: &Arc<Caller>,
    drawn: impl Fn(u64) -> Bytes + Clone + Send + 'static,
) -> Result<()> {
    let all = caller.at_once(64, LENGTH, drawn.clone()).await?;
    show("64 in flight", &all);
    let few = caller.at_once(16, LENGTH, drawn.clone()).await?;
    show("16 in flight", &few);
    let half = caller.at_rate(all.per_second / 2.0, LENGTH, drawn).await?;
    show("at half the rate of 64", &half);
    Ok(())
}

/// The same while events come in.
async fn busy(
    config: &Config,
    caller: &Arc<Caller>,
    drawn: impl Fn(u64) -> Bytes + Clone + Send + 'static,
    pool: usize,
) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let draw = move |random: &mut Random| {
        let dialog = random.below(pool);
        (dialog, member(dialog, random.below(MEMBERS)))
    };
    let publishing = tokio::spawn(pace::publish(config.clone(), 0, EVENTS, draw, stopped));
    // Until the publisher is at its pace.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = caller.at_once(64, LENGTH, drawn.clone()).await?;
    show(&format!("64 in flight, {EVENTS} events/s"), &all);
    let half = caller.at_rate(all.per_second / 2.0, LENGTH, drawn).await?;
    show("at half that rate", &half);
    stop.send_replace(true);
    let sent = publishing.await??;
    println!("  {:<34} {sent:>8.0} events/s", "sent meanwhile");
    Ok(())
}

async fn others(service: &Service, zipf: &Zipf) -> Result<()> {
    let caller = Arc::new(Caller::connect(service.grpc, BATCH).await?);
    let batch = |number: u64| {
        let user_ids = (0..100).map(|n| load::user(zipf.draw(100 * number + n)));
        framed(&v1::BatchGetUserStatsRequest {
            tenant_id: TENANT.into(),
            user_ids: user_ids.collect(),
        })
    };
    let batches: Arc<Vec<Bytes>> = Arc::new((0..200).map(batch).collect());
    let drawn = move |number: u64| batches[number as usize % batches.len()].clone();
    let called = caller.at_once(16, LENGTH, drawn).await?;
    show("batches of 100, 16 in flight", &called);

    let caller = Arc::new(Caller::connect(service.grpc, LIST).await?);
    let page = |number: u64| {
        framed(&v1::ListUserDialogStatsRequest {
            tenant_id: TENANT.into(),
            user_id: load::user(zipf.draw(number)),
            page_size: 50,
            unread_only: true,
            ..Default::default()
        })
    };
    let pages: Arc<Vec<Bytes>> = Arc::new((0..1_000).map(page).collect());
    let drawn = move |number: u64| pages[number as usize % pages.len()].clone();
    let called = caller.at_once(16, LENGTH, drawn).await?;
    show("pages of 50 unread, 16 in flight", &called);
    Ok(())
}

/// Mean seconds of reads about users who are not in memory.
async fn cold(caller: &Caller, users: &[Bytes]) -> Result<f64> {
    let began = Instant::now();
    for user in users.iter().rev().take(COLD) {
        let stats: v1::UserStats = caller.ask(user.clone()).await?;
        if stats.dialog_count == 0 {
            return Err("a user without dialogs".into());
        }
    }
    Ok(began.elapsed().as_secs_f64() / COLD as f64)
}

/// Each user is in as many dialogs as any other.
fn member(dialog: usize, number: usize) -> usize {
    (dialog * MEMBERS + number) % USERS
}

fn members_of(dialog: usize) -> impl Iterator<Item = usize> {
    (0..MEMBERS).map(move |number| member(dialog, number))
}

fn get_user(user: usize, max_staleness_ms: i32) -> Bytes {
    framed(&v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: load::user(user),
        max_staleness_ms,
        ..Default::default()
    })
}

fn show(what: &str, called: &Called) {
    let millis = |share| called.within(share).as_secs_f64() * 1e3;
    let void = match called.is_valid() {
        true => "",
        false => "  (void: the client was late itself)",
    };
    println!(
        "  {what:<34} {:>8.0}/s  p50 {:>6.2}  p99 {:>6.2}  p99.9 {:>6.2} ms{void}",
        called.per_second,
        millis(0.5),
        millis(0.99),
        millis(0.999),
    );
}

/// Numbers below a bound, the nth with a weight of 1/n.
#[derive(Clone)]
struct Zipf(Arc<Vec<f64>>);

impl Zipf {
    fn of(bound: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=bound).map(|n| {
            sum += 1.0 / n as f64;
            sum
        });
        Self(Arc::new(sums.collect()))
    }

    /// Of so many messages those that are drawn.
    fn drawn(&self, messages: &Arc<Vec<Bytes>>) -> impl Fn(u64) -> Bytes + Clone + use<> {
        let (zipf, messages) = (self.clone(), Arc::clone(messages));
        move |number| messages[zipf.draw(number)].clone()
    }

    fn draw(&self, number: u64) -> usize {
        let total = self.0.last().copied().unwrap_or(1.0);
        // Spread evenly and without a pattern that repeats.
        let share = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64 / u64::MAX as f64;
        let drawn = self.0.partition_point(|sum| *sum < share * total);
        drawn.min(self.0.len() - 1)
    }
}
