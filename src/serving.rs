//! Reads from memory: the counters of users and dialogs that are being looked
//! at, kept at what is committed.
//!
//! A read is answered as the store would answer it: everything that was
//! acknowledged before it began is in the answer, whoever wrote it, and one
//! answer is of one moment. So before each read the store is asked how far it is
//! ([`follow`]), once for all reads that wait; what was committed since is
//! applied from commit records; and what is not in memory is read in one snapshot
//! ([`load`]). Whatever cannot be proven complete is forgotten. Whatever does not
//! work here is answered by the store, as if this module did not exist.

mod follow;
mod load;
pub(crate) mod model;
mod query;
mod shared;
pub(crate) mod watching;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::event::TenantId;
use crate::shutdown::Shutdown;
use crate::store::read::Reader;
use crate::store::{CommitFeed, Store};
use crate::telemetry::metrics::{ServingMetrics, Source};

use follow::{Follower, Round};
use load::{LoadRequest, LoadResult, Loader};
use shared::SharedState;

pub(crate) use model::LoadKeys;
pub(crate) use query::MemoryQuery;

/// The most commits that are fetched to bring the model up, or to tell a resumed
/// stream what it missed. Past that it is faster to read anew what is asked for.
const MAX_FETCHED_COMMITS: i64 = 2_000;
/// The number of times that a read has something loaded before it asks the store
/// itself: what was loaded may be gone again by then.
const MAX_LOAD_ATTEMPTS: usize = 3;
/// The longest time that a read waits for memory while nothing moves. It is up to date
/// sooner nearly always.
const STALL_TIMEOUT: Duration = Duration::from_millis(250);
/// The most reads that wait for a load.
const MAX_QUEUED_LOADS: usize = 10_000;

/// Answers questions from memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Serving {
    shared: Arc<SharedState>,
    rounds: watch::Receiver<Round>,
    requests: mpsc::Sender<LoadRequest>,
    reader: Reader,
}

/// Begins to serve from memory, with so many bytes at most, until the shutdown.
pub(crate) fn start(
    (store, feed, reader): (Store, CommitFeed, Reader),
    most_bytes: usize,
    metrics: ServingMetrics,
    shutdown: &Shutdown,
) -> Serving {
    let shared = SharedState::new((store, feed), most_bytes, metrics);
    let shared = Arc::new(shared);
    let (ended, rounds) = watch::channel(Round::default());
    let (requests, queued) = mpsc::channel(MAX_QUEUED_LOADS);
    let follower = Follower::new(Arc::clone(&shared), ended);
    tokio::spawn(follower.run(shutdown.clone()));
    let serving = Serving {
        shared,
        rounds,
        requests,
        reader,
    };
    let loads = Loader::new(serving.clone(), most_bytes);
    tokio::spawn(loads.run(queued, shutdown.clone()));
    serving
}

impl Serving {
    /// Answers from memory, with all that was committed before this was called.
    /// `None` when that does not work, for whatever reason, or not soon: the
    /// store is to be asked. Dropping this is fine.
    pub async fn answer<Q: MemoryQuery>(&self, query: &Q, deadline: Instant) -> Option<Q::Answer> {
        let answer = self.read_memory(query, deadline).await;
        if answer.is_none() {
            self.shared.metrics.read(Source::Store);
        }
        answer
    }

    async fn read_memory<Q: MemoryQuery>(&self, query: &Q, deadline: Instant) -> Option<Q::Answer> {
        let now = Instant::now();
        let half = deadline.saturating_duration_since(now) / 2;
        let round = tokio::time::timeout(half.min(STALL_TIMEOUT), self.round());
        round.await.ok().flatten()?;
        for tried in 0..MAX_LOAD_ATTEMPTS {
            let wanted = match query.answer_from(&mut self.shared.memory().model) {
                Ok(answer) => {
                    self.shared.metrics.read(match tried {
                        0 => Source::Memory,
                        _ => Source::Loaded,
                    });
                    return Some(answer);
                }
                Err(wanted) => wanted,
            };
            if !self.is_worth_a_load(query, &wanted)
                || self.load(query.tenant(), wanted, deadline).await != LoadResult::Perhaps
            {
                return None;
            }
        }
        None
    }

    fn is_worth_a_load<Q: MemoryQuery>(&self, query: &Q, wanted: &LoadKeys) -> bool {
        let SharedState {
            too_large,
            asked_once,
            ..
        } = &*self.shared;
        let tenant = query.tenant();
        let mut users = wanted.users.iter();
        users.all(|user| {
            let known = !Q::IS_CHEAP_IN_STORE || asked_once.note(tenant, user);
            known && !too_large.has(tenant, user)
        })
    }

    /// Answers from memory as it is, if that was found to be up to date no longer
    /// ago than this; with the time of that. Has the store asked again before
    /// memory is too old.
    pub fn recent<Q: MemoryQuery>(
        &self,
        query: &Q,
        most: Duration,
    ) -> Option<(Q::Answer, SystemTime)> {
        let mut memory = self.shared.memory();
        let as_of = memory.as_of?;
        let age = as_of.asked.elapsed();
        if age > most / 2 {
            self.shared.asked.notify_one();
        }
        if age > most {
            return None;
        }
        let answer = query.answer_from(&mut memory.model).ok()?;
        self.shared.metrics.read(Source::Memory);
        Some((answer, as_of.shown))
    }

    /// Waits until memory is at what was committed when this was called, or
    /// later. `None` when that cannot be told.
    async fn round(&self) -> Option<()> {
        let wanted = {
            let memory = self.shared.memory();
            let now = Instant::now();
            if memory.idle_until.is_some_and(|until| now < until) {
                return None;
            }
            memory.begun + 1
        };
        self.shared.asked.notify_one();
        let mut rounds = self.rounds.clone();
        let round = rounds.wait_for(|round| round.number >= wanted).await;
        round.ok()?.succeeded.then_some(())
    }

    /// Has something read into memory. When many are read for the first time at
    /// once, each waits for its turn, to the end if need be: to ask the store
    /// beside memory would take it longer, and all others. Only loads that have
    /// come to a halt are not waited for.
    async fn load(&self, tenant: &TenantId, wanted: LoadKeys, deadline: Instant) -> LoadResult {
        let (request, mut ended) = LoadRequest::new(tenant.clone(), wanted, deadline);
        if self.requests.try_send(request).is_err() {
            return LoadResult::Failed;
        }
        let mut went_on = self.shared.loads_went_on.load(Ordering::Relaxed);
        loop {
            let until = deadline.min(Instant::now() + STALL_TIMEOUT);
            if let Ok(ended) = tokio::time::timeout_at(until, &mut ended).await {
                return ended.unwrap_or(LoadResult::Failed);
            }
            let now = self.shared.loads_went_on.load(Ordering::Relaxed);
            if std::mem::replace(&mut went_on, now) == now || until == deadline {
                return LoadResult::Failed;
            }
        }
    }
}
