//! Load, derive and commit on a real MongoDB, against the model: two writers
//! side by side, each with a cache that the other makes stale, some of them
//! dying in the middle of a batch, and now and then everything rebuilt under
//! them. Whatever the schedule, the same counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_counters::config::Config;
use chat_counters::derive::LoadMode;
use chat_counters::event::Event;
use chat_counters::lane::{Shared, TypesInFlight, Writer};
use chat_counters::maintenance::rebuild::{RebuildOutcome, RebuildProgress, rebuild};
use chat_counters::outage::Outage;
use chat_counters::retry::Backoff;
use chat_counters::shutdown;
use chat_counters::store::rebuild::RebuildPhase;
use chat_counters::store::{Class, CommitFeed, Reader, Retention, Store};
use chat_counters::telemetry::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::derive::decoded;
use crate::kit::model::Model;
use crate::kit::random::Random;
use crate::kit::service::{Result, config};
use crate::stored;
use crate::strategy::{self, Schedule};
use crate::torture::Torture;

/// Longer than most attempts take, so that a crash is early, late or too late.
const LATEST_CRASH_MICROS: usize = 25_000;
/// Conflicts in a row after which a dead writer may be in the way.
const STUBBORN_CONFLICTS: u32 = 5;
/// In one of so many cases everything is rebuilt meanwhile.
const REBUILT_CASES: usize = 8;
/// A batch that is not taken after so many is never going to be.
const MOST_CONFLICTS: u32 = 500;

/// Until when writers wait in the middle of their work: until shortly before a
/// rebuild's switch, or until after it, knowing only what was before.
#[derive(Clone)]
enum Pause {
    Never,
    UntilFollowing(watch::Receiver<RebuildProgress>),
    UntilOver(watch::Receiver<RebuildProgress>),
}

impl Pause {
    async fn wait(self) {
        // An error says that the rebuild is over.
        let _ = match self {
            Pause::Never => return,
            Pause::UntilFollowing(mut seen) => {
                let following = seen
                    .wait_for(|now| now.phase != RebuildPhase::Replaying)
                    .await;
                following.map(drop)
            }
            Pause::UntilOver(mut seen) => seen.wait_for(|_| false).await.map(drop),
        };
    }
}

/// A database for all cases, each with tenants of its own.
struct Stage {
    shared: Shared,
    cases: AtomicU64,
    conflicts: AtomicU64,
    crashes: AtomicU64,
    rebuilds: AtomicU64,
}

impl Stage {
    async fn new() -> Result<Self> {
        // As the binary does: the driver speaks TLS, and needs a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = config("commits");
        let store = Store::connect(&config.store).await?;
        store.migrate(Retention::of(&Default::default())).await?;
        Ok(Self {
            shared: shared(config, store),
            cases: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
        })
    }

    /// What differs from the model when all is committed.
    async fn play(&self, mut events: Vec<Value>, schedule: &Schedule) -> Result<Vec<String>> {
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        for event in &mut events {
            let tenant = event["tenantId"].as_str().unwrap_or_default();
            event["tenantId"] = format!("{tenant}|{case}").into();
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for batch in schedule.batches(events.len()) {
            let batch: Vec<_> = batch.iter().map(|index| decoded(&events[*index])).collect();
            one.push(batch);
            std::mem::swap(&mut one, &mut other);
        }
        let mut random = Random::new(schedule.seed());
        let (progress, seen) = watch::channel(RebuildProgress::default());
        let rebuilds = random.one_in(REBUILT_CASES);
        let pause = match random.one_in(2) {
            _ if !rebuilds => Pause::Never,
            true => Pause::UntilFollowing(seen),
            false => Pause::UntilOver(seen),
        };
        tokio::join!(
            self.work(&one, random, pause.clone()),
            self.work(&other, Random::new(!schedule.seed()), pause),
            async {
                if rebuilds {
                    self.rebuild(progress).await;
                }
            },
        );
        let reader = Reader::new(self.shared.store.clone(), self.shared.feed.clone());
        stored::differences(&reader, &Model::of(&events)).await
    }

    /// A process after the other, each until it dies, until all is committed.
    async fn work(&self, batches: &[Vec<Event>], mut random: Random, pause: Pause) {
        let mut writer = self.writer();
        for (number, batch) in batches.iter().enumerate() {
            if number == batches.len() / 2 {
                pause.clone().wait().await;
            }
            let mut mode = LoadMode::Optimistic;
            if random.one_in(4) {
                let late = Duration::from_micros(random.below(LATEST_CRASH_MICROS) as u64);
                let taking = self.take(&mut writer, batch, mode);
                let died = tokio::time::timeout(late, taking).await.is_err();
                self.crashes.fetch_add(died.into(), Ordering::Relaxed);
                // Delivered again, be it that only the ack was lost.
                writer = self.writer();
                mode = LoadMode::Checked;
            }
            self.take(&mut writer, batch, mode).await;
        }
    }

    /// Makes everything anew, beside the writers.
    async fn rebuild(&self, progress: watch::Sender<RebuildProgress>) {
        let (_never, stop) = shutdown::channel();
        let store = &self.shared.store;
        let outcome = rebuild(store, None, "a test", stop, progress).await;
        assert_eq!(outcome.unwrap(), RebuildOutcome::SwitchedOver);
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    fn writer(&self) -> Writer {
        let shared = Shared {
            types: TypesInFlight::default(),
            ..self.shared.clone()
        };
        Writer::unbounded(&shared)
    }

    /// Takes a batch as a lane does.
    async fn take(&self, writer: &mut Writer, batch: &[Event], mut mode: LoadMode) {
        let mut rest: Vec<_> = batch.iter().collect();
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
        let mut conflicts = 0;
        while !rest.is_empty() {
            let failed = match writer.attempt(&rest, mode).await {
                Ok(outcomes) => {
                    assert!(!outcomes.is_empty(), "nothing was done of {rest:?}");
                    rest.drain(..outcomes.len());
                    backoff.reset();
                    conflicts = 0;
                    continue;
                }
                Err(failed) => failed,
            };
            assert_ne!(failed.class(), Class::Permanent, "{failed}");
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            conflicts += 1;
            assert!(conflicts < MOST_CONFLICTS, "still in conflict: {failed}");
            mode = LoadMode::Checked;
            if conflicts > STUBBORN_CONFLICTS {
                self.shared.store.end_stale_transactions().await.unwrap();
            }
            backoff.wait().await;
        }
    }
}

pub(crate) fn shared(config: Config, store: Store) -> Shared {
    let mut lanes = config.lanes;
    // Few, so that dialogs are forgotten as well.
    (lanes.count, lanes.cached_dialogs) = (1, 3);
    Shared {
        store,
        metrics: Metrics::new(&mut Registry::default()),
        feed: CommitFeed::default(),
        types: TypesInFlight::default(),
        lanes,
        retry: config.retry,
        outage: Outage::default(),
        shutdown: shutdown::channel().1,
    }
}

#[test]
fn two_writers_that_die_now_and_then_store_the_counters_of_the_model() {
    let runtime = Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new()).unwrap();
    let torture = Torture {
        what: "schedules on MongoDB",
        regressions: "tests/it/commits.regressions",
        cases: 40,
    };
    torture.run(&strategy::events_and_schedule(), |(events, schedule)| {
        let differences = runtime.block_on(stage.play(events, &schedule)).unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    });
    let (conflicts, crashes) = (stage.conflicts.into_inner(), stage.crashes.into_inner());
    let rebuilds = stage.rebuilds.into_inner();
    println!("{conflicts} conflicts, {crashes} crashes in mid-batch, {rebuilds} rebuilds");
    assert!(conflicts > 0, "the writers were never in each other's way");
    assert!(crashes > 0, "no writer died in mid-batch");
    assert!(rebuilds > 0, "nothing was rebuilt under the writers");
}
