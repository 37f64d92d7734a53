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
//! - **At least once.** The [cursor](crate::store::Cursor) moves on after the broker
//!   has confirmed everything. Each message has the version of what it tells, so that
//!   one that comes twice or late never wins.
//! - **One publisher**, by a lease. One that was frozen may publish for a moment what
//!   another does as well; it cannot move the cursor.
//! - **Coalesced.** What is told is how a user stands now, once a round. Whoever is
//!   behind has larger rounds, in which more is the same user.
//! - **Never in the way.** A connection of its own, so that a broker that takes
//!   nothing delays notifications alone; nothing here is waited for by counting.
//! - **Nothing is passed over.** What no record tells (a rebuild has switched over, a
//!   record is gone) is made up for by telling everybody concerned all that they have.

mod chat3;
mod cloudevents;
mod gather;
mod round;
mod tell;
#[cfg(test)]
mod tests;
mod told;

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use crate::bus::notifier::Notifier;
use crate::bus::{BusError, Flow};
use crate::config::{Bus, Config, Notify, NotifyFormat};
use crate::retry::Backoff;
use crate::serving::Serving;
use crate::shutdown::Shutdown;
use crate::store::read::{ReadError, Reader};
use crate::store::{Renewed, Retention, Store, StoreError};
use crate::telemetry::metrics::NotifyMetrics;

use round::Rounds;
use tell::Teller;

/// How often those who do not publish look whether nobody does.
const LOOK: Duration = Duration::from_secs(1);

/// Why notifications wait.
#[derive(Debug, thiserror::Error)]
enum NotifyError {
    /// MongoDB.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// MongoDB, or memory.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// RabbitMQ.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The server does not show everything that is committed yet.
    #[error("the database shows less than was committed: it has a new primary")]
    Behind,
    /// A question was cut off, by a stop or a panic.
    #[error("a question to the database was cut off")]
    Cut,
    /// Another process publishes by now.
    #[error("another replica has taken over")]
    LeaseLost,
}

/// What publishes notifications.
pub struct Notifications {
    store: Store,
    reader: Reader,
    serving: Option<Serving>,
    bus: Bus,
    config: Notify,
    retention: Duration,
    retry: (Duration, Duration),
    flow: Flow,
    metrics: NotifyMetrics,
}

impl Notifications {
    /// As configured; `None` where there are none.
    pub fn new(
        config: &Config,
        (store, reader, serving): (Store, Reader, Option<Serving>),
        flow: Flow,
        metrics: NotifyMetrics,
    ) -> Option<Self> {
        let is_on = config.notify.format != NotifyFormat::Off;
        let millis = Duration::from_millis;
        is_on.then(|| Self {
            store,
            reader,
            serving,
            bus: config.bus.clone(),
            config: config.notify.clone(),
            retention: Retention::of(&config.store).commits,
            retry: (millis(config.retry.initial_ms), millis(config.retry.max_ms)),
            flow,
            metrics,
        })
    }

    /// Publishes while no other replica does, until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        while !shutdown.is_requested() {
            let taken = self.store.notifier_lease().await;
            if let Ok(Some(lease)) = taken {
                self.metrics.publishes(true);
                self.publish(Renewed::new(lease), &shutdown).await;
                self.metrics.publishes(false);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.requested() => {}
            }
        }
    }

    /// Publishes while the lease lasts.
    async fn publish(&self, lease: Renewed, shutdown: &Shutdown) {
        let teller = Teller {
            reader: self.reader.clone(),
            serving: self.serving.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
        };
        let begun = Rounds::begin((self.store.clone(), teller), lease, self.retention).await;
        let mut rounds = match begun {
            Ok(rounds) => rounds,
            Err(error) => {
                warn!(%error, "notifications wait");
                return;
            }
        };
        info!(exchange = self.config.exchange, "publishing notifications");
        let mut notifier = None;
        tokio::select! {
            () = self.keep_publishing(&mut rounds, &mut notifier) => {}
            () = shutdown.requested() => {}
        }
        rounds.lease.give_up().await;
        if let Some(notifier) = notifier {
            notifier.close().await;
        }
    }

    /// Round after round, until the lease is lost.
    async fn keep_publishing(&self, rounds: &mut Rounds, notifier: &mut Option<Notifier>) {
        let mut backoff = Backoff::new(self.retry.0, self.retry.1);
        let mut ticks = tokio::time::interval(Duration::from_millis(self.config.interval_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waits_since = None;
        loop {
            ticks.tick().await;
            let error = match self.round(rounds, notifier).await {
                Ok(is_behind) => {
                    if is_behind {
                        ticks.reset_immediately();
                    }
                    if let Some(since) = waits_since.take() {
                        let seconds = Instant::now().duration_since(since).as_secs_f64();
                        info!(seconds, "notifications go on");
                    }
                    backoff.reset();
                    continue;
                }
                Err(NotifyError::LeaseLost) => {
                    info!("another replica publishes notifications by now");
                    return;
                }
                Err(error) => error,
            };
            self.metrics.failed();
            if waits_since.is_none() {
                waits_since = Some(Instant::now());
                warn!(%error, "notifications wait");
            }
            // Whatever it was about, what is unconfirmed is published again.
            *notifier = None;
            if rounds.lease.is_lost() {
                return;
            }
            backoff.wait().await;
        }
    }

    async fn round(
        &self,
        rounds: &mut Rounds,
        notifier: &mut Option<Notifier>,
    ) -> Result<bool, NotifyError> {
        let open = match notifier.take().filter(Notifier::is_open) {
            Some(open) => open,
            None => Notifier::open(&self.bus, &self.config, &self.flow).await?,
        };
        rounds.next(notifier.insert(open)).await
    }
}
