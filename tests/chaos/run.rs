//! One run: load, faults, recovery, and the verdict.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use chat_counters::config::{self, Config, NotifyFormat};
use futures::future::try_join_all;
use futures::try_join;

use super::inject::{self, Record};
use super::letters;
use super::load::{self, Load};
use super::plan::{Kind, Plan};
use super::readers::keep_reading;
use super::rebuild::{Rebuilds, keep_rebuilding};
use super::refusal::keep_refusing;
use super::replay::{Replayer, Replays};
use super::replica::Replica;
use super::settle::Played;
use super::stage::Stage;
use super::watchers::Watchers;
use crate::kit::broker;
use crate::kit::random::Random;
use crate::kit::scenario::Scenario;
use crate::kit::service::{self, Result, until_for};
use crate::kit::subscriber::{self, Subscriber};

/// Replicas of the service on one queue.
pub(crate) const REPLICAS: usize = 2;
/// Events in a second, before duplicates and poison.
const RATE: usize = 400;
/// How long recovering, confirming and draining may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Messages that the broker confirmed.
    pub confirmed: usize,
    /// Copies of messages that it may have got beyond the first.
    pub duplicates: usize,
    pub faults: BTreeMap<Kind, usize>,
    pub rebuilds: Rebuilds,
    pub replays: Replays,
    /// From the end of the last fault until every replica was ready by itself.
    pub ready: Duration,
    /// From then until nothing was left to count.
    pub drained: Duration,
    /// Messages that the broker kept to itself until it was restarted.
    pub held: u32,
    pub letters: letters::Verdict,
    /// Answers that were given through all of it.
    pub answers: usize,
    /// Updates that watchers were sent.
    pub updates: u64,
    /// Notifications that came from the bus.
    pub notifications: u64,
    /// Counters compared.
    pub compared: usize,
    pub differences: Vec<String>,
}

/// Plays the run of a seed. Logs and a record go into the directory.
///
/// # Errors
/// When it cannot be finished: something did not come back.
pub(crate) async fn play(
    stage: &Stage,
    seed: u64,
    length: Duration,
    logs: &Path,
) -> Result<Outcome> {
    let record = Record::new(&logs.join("faults.log"))?;
    let scenario = Scenario::new(seed, RATE * length.as_secs() as usize);
    let plan = Plan::new(seed, REPLICAS, length);
    let configs = configs(stage, seed);
    let direct = stage.direct(&configs[0].bus);
    let subscriber = Subscriber::begin(direct.clone(), &configs[0].notify).await?;
    let mut replicas = Vec::new();
    for (number, config) in configs.iter().enumerate() {
        let log = logs.join(format!("replica-{number}.log"));
        replicas.push(Replica::new(config.clone(), log).await?);
    }
    become_ready(&mut replicas).await?;
    record.note("ready");

    let mut replayer = replayer(&replicas, logs, seed, &record);
    let load = load::publish(&direct, &scenario.published, (length, PATIENCE), &record);
    let rebuilding = rebuild(&configs[0], logs, seed, length);
    let replaying = replay(stage, replayer.as_mut(), seed, length);
    let urls: Vec<_> = replicas.iter().map(Replica::urls).collect();
    let watchers = Watchers::begin(urls.clone());
    let reading = keep_reading(urls, seed, (Instant::now() + length).into());
    let reading = async { Result::Ok(reading.await) };
    let disturbing = disturb(stage, &mut replicas, &direct, &plan, length, &record);
    let (load, (faults, ready), rebuilds, (), read) =
        try_join!(load, disturbing, rebuilding, replaying, reading)?;
    record.note("all confirmed, all faults over, all ready");
    let mut outcome = Outcome {
        confirmed: load.sent.len(),
        duplicates: duplicates(&scenario, &load),
        faults,
        ready,
        rebuilds,
        answers: read.answers,
        ..Outcome::default()
    };
    let played = Played {
        stage,
        replicas,
        scenario: &scenario,
        load: &load,
        replayer,
        watchers: Some(watchers),
        subscriber: Some(subscriber),
        record: &record,
    };
    played.settle(&mut outcome).await?;
    outcome.differences.extend(read.faults);
    clean_up(stage, &configs[0]).await?;
    Ok(outcome)
}

/// Under even seeds everything is rebuilt as well, over and over.
async fn rebuild(config: &Config, logs: &Path, seed: u64, length: Duration) -> Result<Rebuilds> {
    if !seed.is_multiple_of(2) {
        return Ok(Rebuilds::default());
    }
    let random = Random::new(!seed);
    keep_rebuilding(config, &logs.join("rebuild.log"), random, length, PATIENCE).await
}

/// Under even seeds good events are refused as well, and their letters replayed.
fn replayer<'r>(
    replicas: &[Replica],
    logs: &Path,
    seed: u64,
    record: &'r Record,
) -> Option<Replayer<'r>> {
    seed.is_multiple_of(2).then(|| {
        let config = replicas[0].config().clone();
        let urls = replicas.iter().map(Replica::admin_urls).collect();
        let random = Random::new(seed ^ 0x0de4_d1e7);
        Replayer::new(config, logs.join("replay.log"), urls, random, record)
    })
}

async fn replay(
    stage: &Stage,
    replayer: Option<&mut Replayer<'_>>,
    seed: u64,
    length: Duration,
) -> Result<()> {
    let Some(replayer) = replayer else {
        return Ok(());
    };
    let database = replayer.config.store.database.clone();
    let mut random = Random::new(seed ^ 0x004e_f5ed);
    let until = (length, PATIENCE);
    let refusing = keep_refusing(stage, &database, &mut random, until, replayer.record);
    try_join!(refusing, replayer.keep_replaying(length)).map(drop)
}

/// The same service, tuned differently for each seed: small batches make for
/// many commits to interrupt, large ones for much to do again.
fn configs(stage: &Stage, seed: u64) -> Vec<Config> {
    let mut random = Random::new(seed);
    let mut base = service::config(&format!("chaos_{seed}"));
    base.store.url = stage.store_url();
    base.bus.prefetch = *random.pick(&[20, 200, 2_000]);
    base.bus.watchdog_seconds = 5;
    base.bus.hold_seconds = 3;
    base.lanes.batch_events = *random.pick(&[5, 20]);
    base.lanes.count = *random.pick(&[1, 2, 3]);
    base.shutdown.drain_seconds = 5;
    base.notify.format = NotifyFormat::CloudEvents;
    base.notify.interval_ms = *random.pick(&[20, 250]);
    let configs = (0..REPLICAS).map(|replica| {
        let mut config = base.clone();
        config.bus.url = stage.bus_url(replica);
        config
    });
    configs.collect()
}

pub(crate) async fn become_ready(replicas: &mut [Replica]) -> Result<()> {
    for (number, replica) in replicas.iter_mut().enumerate() {
        let what = format!("replica {number} is ready");
        until_for(PATIENCE, &what, || async {
            replica.is_ready().await.then_some(())
        })
        .await?;
        replica.must_live()?;
    }
    Ok(())
}

/// All that the plan has; how often each kind happened, and how long it took
/// from the last fault's end until the replicas were ready.
async fn disturb(
    stage: &Stage,
    replicas: &mut [Replica],
    direct: &[config::Bus],
    plan: &Plan,
    length: Duration,
    record: &Record,
) -> Result<(BTreeMap<Kind, usize>, Duration)> {
    let end = Instant::now() + length;
    let lanes = replicas.iter_mut().zip(&plan.replicas);
    let to_replicas =
        lanes.map(|(replica, faults)| inject::to_replica(replica, faults, end, record));
    let (to_replicas, to_brokers, to_bus, to_store) = try_join!(
        try_join_all(to_replicas),
        inject::to_brokers(stage, &plan.brokers, end, record),
        inject::to_bus(stage, direct, &plan.bus, end, record),
        inject::to_store(stage, &plan.store, end, record),
    )?;
    let last = inject::last(stage, direct, &plan.last, record).await?;
    let over = Instant::now();
    record.note("all faults over");
    become_ready(replicas).await?;
    let ready = over.elapsed();
    record.note("all ready");
    let mut faults = BTreeMap::new();
    for kind in [to_replicas.concat(), to_brokers, to_bus, to_store, last].concat() {
        *faults.entry(kind).or_default() += 1;
    }
    Ok((faults, ready))
}

fn duplicates(scenario: &Scenario, load: &Load) -> usize {
    let sent: usize = load.sent.iter().map(|sent| *sent as usize).sum();
    let distinct: HashSet<_> = scenario.published.iter().map(|p| &p.body).collect();
    sent - distinct.len()
}

/// Removes queues, exchange and database of a run.
async fn clean_up(stage: &Stage, config: &Config) -> Result<()> {
    let client = mongodb::Client::with_uri_str(config.store.url.expose()).await?;
    client.database(&config.store.database).drop().await?;
    let bus = stage.direct(&config.bus).remove(0);
    let (connection, channel) = broker::channel(&bus).await?;
    broker::delete_queues(&channel, &bus).await?;
    broker::delete_exchange(&channel, &bus).await?;
    subscriber::delete(&channel, &config.notify).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
