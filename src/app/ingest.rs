//! Taking events: from the bus through the lanes to the store, with all that dead
//! letters need, and what works in the background.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::tasks::Tasks;
use super::{AppError, Context};
use crate::bus::{Consumer, upkeep};
use crate::event::decode::Decoder;
use crate::lane::{Arrivals, Lane, Shared, TypesInFlight, probe_store};
use crate::maintenance::background;
use crate::notify::Notifications;
use crate::outage::Outage;
use crate::pipeline::Pipeline;
use crate::redrive;
use crate::retry::{Backoff, FailureStreak};
use crate::store::inspect::{self, InspectError};
use crate::store::{Retention, Store};

/// Dead letters that wait to be entered into the index; more stay with the task
/// that publishes them.
const LETTERS_TO_ENTER: usize = 256;
/// How often transactions of killed processes are ended while the database is
/// being prepared.
const STALE_TRANSACTIONS_INTERVAL: Duration = Duration::from_secs(1);

/// What takes events, with its database prepared and its topology declared; nothing
/// is consumed yet.
pub(super) struct Ingest {
    context: Context,
    consumer: Consumer,
    outage: Outage,
}

impl Ingest {
    /// Prepares the database and declares the topology, however long that takes.
    /// Every step is idempotent: dropping this future harms nothing.
    ///
    /// # Errors
    /// [`AppError`] when the first try shows that only a person can help.
    pub(super) async fn prepare(context: Context) -> Result<Self, AppError> {
        migrate(&context).await?;
        let outage = Outage::default();
        let consumer = Consumer::open(
            context.config.bus.clone(),
            context.config.retry.clone(),
            context.metrics.clone(),
            (outage.clone(), context.flow.clone()),
        );
        Ok(Self {
            consumer: consumer.await?,
            context,
            outage,
        })
    }

    /// Begins to take events, and tells `consuming` whether it does. The tasks end
    /// one after the other once the stop is requested: the consumer first, then
    /// whatever it feeds.
    pub(super) fn spawn(self, tasks: &mut Tasks, consuming: watch::Sender<bool>) {
        let Self {
            context,
            consumer,
            outage,
        } = self;
        let config = &context.config;
        info!(queue = %config.bus.queue, database = %config.store.database, "taking events");
        // The prefetch bounds what is in flight; no channel is ever the narrower.
        let in_flight = usize::from(config.bus.prefetch);
        let types = TypesInFlight::default();
        let (arrivals, lanes) = Lane::all(&lanes_share(&context, &types, &outage), in_flight);
        for lane in lanes {
            tasks.spawn("lane", lane.run());
        }
        context.notify(tasks, &arrivals, in_flight);
        context.work_in_background(tasks);

        let (written, letters) = mpsc::channel(LETTERS_TO_ENTER);
        context.keep_dead_letters(tasks, letters, &outage);
        let hold = Duration::from_secs(config.bus.hold_seconds);
        let (store, shutdown) = (context.store.clone(), context.shutdown.clone());
        tasks.spawn(
            "events in doubt",
            probe_store(store, outage, hold, shutdown),
        );

        let (sink, deliveries) = mpsc::channel(in_flight);
        let decoder = Decoder::new(&config.counters.sender_types);
        let check_tenant = config.bus.check_tenant;
        let pipeline = Pipeline::new(
            decoder,
            arrivals,
            types,
            check_tenant,
            context.metrics.clone(),
        );
        tasks.spawn("pipeline", pipeline.run(deliveries));
        tasks.spawn("consumer's health", forward(consumer.health(), consuming));
        tasks.spawn("consumer", consumer.run(sink, written, context.shutdown));
    }
}

fn lanes_share(context: &Context, types: &TypesInFlight, outage: &Outage) -> Shared {
    Shared {
        store: context.store.clone(),
        metrics: context.metrics.clone(),
        feed: context.feed.clone(),
        types: types.clone(),
        lanes: context.config.lanes.clone(),
        retry: context.config.retry.clone(),
        outage: outage.clone(),
        shutdown: context.shutdown.clone(),
    }
}

impl Context {
    /// Publishes notifications, if there are to be any.
    fn notify(&self, tasks: &mut Tasks, arrivals: &Arrivals, in_flight: usize) {
        let notifications = Notifications::new(
            &self.config,
            (self.store.clone(), self.reader.clone()),
            (self.flow.clone(), arrivals.backlog(in_flight)),
            self.metrics.notify.clone(),
            &self.shutdown,
        );
        if let Some(notifications) = notifications {
            tasks.spawn("notifications", notifications.run(self.shutdown.clone()));
        }
    }

    /// Enters dead letters into their index, keeps and sends those that the broker
    /// does not take now, and watches queue and index.
    fn keep_dead_letters(
        &self,
        tasks: &mut Tasks,
        letters: mpsc::Receiver<crate::bus::dead_letters::UnsettledLetter>,
        outage: &Outage,
    ) {
        let register = redrive::register(
            self.store.clone(),
            self.config.retry.clone(),
            letters,
            outage.clone(),
            self.shutdown.clone(),
        );
        tasks.spawn("dead letters' index", register);
        let unsent = self.metrics.bus.dead_letters_unsent.clone();
        let send = redrive::send(self.redrive.clone(), unsent, self.shutdown.clone());
        tasks.spawn("unsent dead letters", send);
        let waiting = self.metrics.bus.dead_letters_waiting.clone();
        let watch = redrive::watch(self.redrive.clone(), waiting, self.shutdown.clone());
        tasks.spawn("dead-letter queue", watch);
    }

    /// Watches topology and store, and verifies a few dialogs now and then.
    fn work_in_background(&self, tasks: &mut Tasks) {
        let upkeep = upkeep::run(
            self.config.bus.clone(),
            self.metrics.clone(),
            self.shutdown.clone(),
        );
        tasks.spawn("topology", upkeep);
        let config = self.config.store.clone();
        tasks.spawn_background("store's weaknesses", &self.shutdown, async move {
            tell_weaknesses(&config).await;
        });
        let verify = background::run(
            self.store.clone(),
            self.config.verify.clone(),
            self.metrics.clone(),
            self.shutdown.clone(),
        );
        // The stop ends it after the dialog that it is at; that may be a big one, or
        // the store may be down.
        tasks.spawn_background("verification", &self.shutdown, verify);
    }
}

/// Says what about the store weakens the service's promises.
async fn tell_weaknesses(config: &crate::config::Store) {
    // What cannot be found out now, `chat-counters check` tells at any time.
    if let Ok(found) = inspect::inspect(config).await {
        for problem in found.problems {
            warn!(problem, "the store is not as it must be");
        }
        for note in found.notes {
            info!(note, "the store could be safer");
        }
    }
}

/// Passes on whether events are being consumed, until the consumer is gone.
async fn forward(mut health: watch::Receiver<bool>, consuming: watch::Sender<bool>) {
    loop {
        let now = *health.borrow_and_update();
        consuming.send_replace(now);
        if health.changed().await.is_err() {
            consuming.send_replace(false);
            return;
        }
    }
}

/// Ends, from time to time, transactions of processes that were killed: one that was
/// enrolling a writer has locked a document that is needed at the start.
async fn end_stale_transactions(store: &Store) -> Infallible {
    loop {
        tokio::time::sleep(STALE_TRANSACTIONS_INTERVAL).await;
        // Should this fail, the server ends them by itself, within a minute.
        let _ = store.end_stale_transactions().await;
    }
}

/// Prepares the database, however long that takes.
///
/// # Errors
/// When the first try shows that only a person can help, as with the broker: a
/// wrong user or password, or a certificate.
async fn migrate(context: &Context) -> Result<(), InspectError> {
    let (config, store) = (&context.config, &context.store);
    let retention = Retention::of(&config.store);
    let mut backoff = Backoff::configured(&config.retry);
    let mut failures = FailureStreak::default();
    loop {
        let migrated = tokio::select! {
            migrated = store.migrate(retention) => migrated,
            never = end_stale_transactions(store) => match never {},
        };
        let Err(error) = migrated else {
            return Ok(());
        };
        if failures.is_first() {
            if let Some(error) = InspectError::of_store(&config.store, &error).await {
                return Err(error);
            }
            warn!(%error, "the store cannot be prepared; retrying until it can");
        }
        backoff.wait().await;
    }
}
