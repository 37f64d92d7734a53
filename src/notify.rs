//! Notifications: messages on the bus about counters that have changed, for those
//! whose gateways listen there. Off unless configured.
//!
//! ```text
//!   commits (records) ──> gather ──> who is due ──> tell ──> broker
//!        ^                              │            │         │
//!      cursor                     members of      memory,      │ confirms
//!        ^                          dialogs        store       │
//!        └────────────────── saved, by whoever has the lease <─┘
//! ```
//!
//! - **At least once.** The [cursor](crate::store::NotificationCursor) moves on after the broker
//!   has confirmed everything. A message has the version of what it tells, so that one
//!   that comes twice or late never wins (in the form of Chat3 only that of a user).
//! - **One publisher**, by a lease. One that was frozen may publish for a moment what
//!   another does as well; it cannot move the cursor.
//! - **Coalesced.** What is told is how a user stands now, once a round. Whoever is
//!   behind has larger rounds, in which more is the same user.
//! - **Never in the way.** A connection and memory of its own, so that a broker that
//!   takes nothing delays notifications alone, and readers keep what they look at. While
//!   events wait to be counted, notifications rest most of the time.
//! - **Nothing is passed over.** What no record tells (a rebuild has switched over, a
//!   record is gone) is made up for by telling everybody concerned all that they have.
//!   So is a tenant that could not be told of for a while, without others waiting.

mod chat3;
mod cloudevents;
mod gather;
mod last_published;
mod pace;
mod publish;
mod round;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::bus::notifier::Notifier;
use crate::bus::{BusError, Flow};
use crate::config::{Bus, Config, Notify, NotifyFormat, Retry};
use crate::lane::Backlog;
use crate::retry::{Backoff, FailureStreak};
use crate::serving::{self, Serving};
use crate::shutdown::Shutdown;
use crate::store::read::{ReadError, Reader};
use crate::store::{CommitFeed, Renewed, Retention, Store, StoreError, detached};
use crate::telemetry::metrics::NotifyMetrics;

use last_published::LastPublished;
use pace::Pace;
use publish::NotificationPublisher;
use round::Rounds;

/// How often a process that does not publish looks whether nobody does.
const LEASE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest wait before a process that could not publish tries for the
/// lease again: others may have more luck with it.
const MIN_LEASE_RETRY_DELAY: Duration = Duration::from_secs(5);
/// The longest wait before a process that could not publish tries for the lease again.
const MAX_LEASE_RETRY_DELAY: Duration = Duration::from_secs(15);
/// A broker that cannot be reached for so long may be reached by others: the
/// lease is given up.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why notifications wait.
#[derive(Debug, thiserror::Error)]
enum NotifyError {
    /// MongoDB did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither memory nor MongoDB answered a read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// RabbitMQ cannot be reached, or refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The server does not show everything that is committed yet.
    #[error("the database shows less than was committed: it has a new primary")]
    Behind,
    /// A queue that is bound for notifications is full and refuses more.
    #[error(
        "the broker did not take {0} notifications (nack): a queue that is bound for them is full and refuses more (x-overflow = reject-publish)"
    )]
    Refused(usize),
    /// Another process has the lease by now.
    #[error("another replica has taken over")]
    LeaseLost,
}

impl NotifyError {
    /// Whether it may be about one tenant and no other.
    fn is_of_one_tenant(&self) -> bool {
        match self {
            NotifyError::Refused(_) => true,
            NotifyError::Read(error) => matches!(
                error,
                ReadError::TooSlow
                    | ReadError::Malformed { .. }
                    | ReadError::TooMuch(_)
                    | ReadError::TooManyReads(_)
            ),
            NotifyError::Store(_)
            | NotifyError::Bus(_)
            | NotifyError::Behind
            | NotifyError::LeaseLost => false,
        }
    }
}

/// Publishes notifications while no other replica does.
pub(crate) struct Notifications {
    store: Store,
    reader: Reader,
    serving: Option<Serving>,
    backlog: Backlog,
    bus: Bus,
    config: Notify,
    retention: Duration,
    retry: Retry,
    flow: Flow,
    metrics: NotifyMetrics,
}

impl Notifications {
    /// Makes ready what is configured; returns `None` where notifications are
    /// off. They leave the machine to counting while the backlog is large.
    pub(crate) fn new(
        config: &Config,
        (store, reader): (Store, Reader),
        (flow, backlog): (Flow, Backlog),
        metrics: NotifyMetrics,
        shutdown: &Shutdown,
    ) -> Option<Self> {
        if config.notify.format == NotifyFormat::Off {
            return None;
        }
        let bytes = usize::try_from(config.notify.memory_mib).unwrap_or(usize::MAX) << 20;
        let serving = (bytes > 0).then(|| {
            // The commits of this process are told to one who follows, and that is
            // memory for reads: this one reads their records.
            let asked = (store.clone(), CommitFeed::default(), reader.clone());
            serving::start(asked, bytes, metrics.memory.clone(), shutdown)
        });
        Some(Self {
            store,
            reader,
            serving,
            backlog,
            bus: config.bus.clone(),
            config: config.notify.clone(),
            retention: Retention::of(&config.store).commits,
            retry: config.retry.clone(),
            flow,
            metrics,
        })
    }

    /// Publishes while no other replica does, until the shutdown. A panic is told, and
    /// stops nothing else.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let this = Arc::new(self);
        let mut backoff = Backoff::new(MIN_LEASE_RETRY_DELAY, MAX_LEASE_RETRY_DELAY);
        loop {
            let work = Arc::clone(&this).keep_trying(shutdown.clone());
            let Err(panic) = tokio::spawn(work).await else {
                return;
            };
            error!(%panic, "a bug: notifications begin anew from where they were saved");
            this.metrics.failed();
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Tries for the lease, and publishes while it lasts.
    async fn keep_trying(self: Arc<Self>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(MIN_LEASE_RETRY_DELAY, MAX_LEASE_RETRY_DELAY);
        let mut failures = FailureStreak::default();
        while !shutdown.is_requested() {
            let pause = match self.publish(&shutdown).await {
                Ok(()) => {
                    backoff.reset();
                    log_success(&mut failures);
                    LEASE_POLL_INTERVAL
                }
                Err(error) => {
                    self.metrics.failed();
                    log_failure(&mut failures, &error);
                    backoff.next_delay().max(LEASE_POLL_INTERVAL)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.requested() => {}
            }
        }
    }

    /// Publishes while it has the lease, if it gets that.
    async fn publish(&self, shutdown: &Shutdown) -> Result<(), NotifyError> {
        let store = self.store.clone();
        let lease = detached(async move { store.notifier_lease().await });
        let Some(lease) = lease.await? else {
            return Ok(());
        };
        let lease = Renewed::new(lease);
        self.metrics.publishes(true);
        let published = tokio::select! {
            published = self.keep_publishing(&lease) => published,
            () = shutdown.requested() => Ok(()),
        };
        self.metrics.publishes(false);
        lease.give_up().await;
        published
    }

    /// Round after round, until the lease is lost, or the broker cannot be reached from
    /// here: another replica may reach it.
    async fn keep_publishing(&self, lease: &Renewed) -> Result<(), NotifyError> {
        let asks = (self.store.clone(), self.publisher());
        let mut rounds = Rounds::begin(asks, lease, self.retention).await?;
        info!(exchange = self.config.exchange, "publishing notifications");
        let (mut notifier, mut failures) = (None, FailureStreak::default());
        let mut backoff = Backoff::configured(&self.retry);
        let mut ticks = tokio::time::interval(Duration::from_millis(self.config.interval_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let error = match self.round(&mut rounds, &mut notifier).await {
                Ok(is_behind) => {
                    backoff.reset();
                    log_success(&mut failures);
                    if is_behind {
                        ticks.reset_immediately();
                    }
                    continue;
                }
                Err(NotifyError::LeaseLost) => {
                    info!("another replica publishes notifications by now");
                    return Ok(());
                }
                Err(error) => error,
            };
            self.metrics.failed();
            log_failure(&mut failures, &error);
            if matches!(error, NotifyError::Bus(_)) && failures.lasts() > BROKER_TIMEOUT {
                return Err(error);
            }
            // Whatever it was about, what is unconfirmed is published again.
            notifier = None;
            backoff.wait().await;
        }
    }

    fn publisher(&self) -> NotificationPublisher {
        NotificationPublisher {
            reader: self.reader.clone(),
            serving: self.serving.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            pace: Pace::new(self.backlog.clone()),
            last_published: Mutex::new(LastPublished::new()),
        }
    }

    async fn round(
        &self,
        rounds: &mut Rounds<'_>,
        notifier: &mut Option<Notifier>,
    ) -> Result<bool, NotifyError> {
        let open = match notifier.take().filter(Notifier::is_open) {
            Some(open) => open,
            None => Notifier::open(&self.bus, &self.config, &self.flow).await?,
        };
        rounds.next(notifier.insert(open)).await
    }
}

fn log_failure(failures: &mut FailureStreak, error: &NotifyError) {
    let text = error.to_string();
    if failures.is_new_cause(&text) {
        warn!(error = text, "notifications wait");
    }
}

fn log_success(failures: &mut FailureStreak) {
    if let Some(ended) = failures.end() {
        let seconds = ended.lasted.as_secs_f64();
        info!(seconds, "notifications go on");
    }
}
