//! Wiring: builds the service from its configuration, runs it, drains it.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::auth::{StartError, Started};
use crate::bus::{BusError, Consumer, Flow, upkeep};
use crate::config::Config;
use crate::event::decode::Decoder;
use crate::grpc::{Asked, Bound, DeadLetters, Guard, ServeError};
use crate::lane::{Lane, Shared, TypesInFlight, ask_in_doubt};
use crate::maintenance::background;
use crate::notify::Notifications;
use crate::outage::Outage;
use crate::pipeline::Pipeline;
use crate::redrive::{self, Redrive};
use crate::retry::Backoff;
use crate::serving::{self, Serving};
use crate::shutdown::{self, Shutdown, Signals, Trigger};
use crate::store::inspect::{self, InspectError};
use crate::store::{CommitFeed, Reader, Retention, Store, StoreError};
use crate::telemetry::http;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::standing::Standing;

/// How long a stop waits for the dialog that is being verified.
const LAST_VERIFICATION: Duration = Duration::from_secs(1);

/// Dead letters that wait to be entered into the index; more stay with the task
/// that publishes them.
const LETTERS_TO_ENTER: usize = 256;

/// Why the service does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address for metrics cannot be listened on.
    #[error("metrics.listen: cannot listen on {address}: {error}")]
    Listen {
        /// The configured address.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The store cannot be used as configured.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store lets nobody in as configured.
    #[error(transparent)]
    Refused(#[from] InspectError),
    /// The broker cannot be used as configured.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Callers cannot be asked who they are.
    #[error(transparent)]
    Auth(#[from] StartError),
    /// The gRPC server failed.
    #[error(transparent)]
    Grpc(#[from] ServeError),
    /// The handlers for signals cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    /// A part of the service ended before it was asked to: a bug.
    #[error("a part of the service ended by itself; the process stops so that it is started anew")]
    Ended,
}

/// Runs the service until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// [`AppError`] when it cannot start, or a part of it fails for good.
pub async fn run(config: Config) -> Result<(), AppError> {
    let (trigger, shutdown) = shutdown::channel();
    let mut signals = Signals::install().map_err(AppError::Signals)?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let store = Store::connect(&config.store).await?;
    // From the start: reads are answered while the broker is waited for.
    let followed = store.clone();
    tokio::spawn(followed.keep_credentials_current(config.store.clone(), shutdown.clone()));
    let feed = CommitFeed::default();
    let reader = Reader::new(store.clone(), feed.clone());
    let serving = from_memory(&config, (&store, &feed, &reader), &metrics, &shutdown);
    let flow = Flow::shown_in(metrics.bus_blocked.clone());
    let redrive = Redrive::new(store.clone(), &config, flow.clone());
    let (closed, left) = (store.clone(), redrive.clone());
    let reads = reader.clone();

    let mut parts = JoinSet::new();
    let standing = Standing::new(metrics.clone(), shutdown.clone());
    serve(
        &mut parts,
        &config,
        (registry, &metrics),
        ((reader, serving), store.clone(), redrive.clone()),
        &standing,
        shutdown.clone(),
    )
    .await?;
    let stopping = config.shutdown.clone();
    let consuming = standing.consuming;
    parts.spawn(ingest(
        config,
        store,
        (redrive, flow, reads),
        feed,
        metrics,
        consuming,
        shutdown.clone(),
    ));

    let ended = tokio::select! {
        signal = signals.next() => {
            leave(signal, &stopping, &trigger, &mut signals).await;
            Ok(())
        }
        Some(ended) = parts.join_next() => ended.unwrap_or_else(|panic| {
            error!(%panic, "a part of the service panicked");
            Err(AppError::Ended)
        }).and(Err(AppError::Ended)),
    };
    trigger.request();
    let began = Instant::now();
    let drain = Duration::from_secs(stopping.drain_seconds);
    let outcome = match tokio::time::timeout(drain, drained(&mut parts)).await {
        Ok(outcome) => {
            let seconds = began.elapsed().as_secs_f64();
            info!(seconds, "stopped: what was under way is settled");
            ended.and(outcome)
        }
        Err(_) => {
            warn!(
                seconds = drain.as_secs(),
                "stopped: not drained in time; what is not acknowledged will be delivered again"
            );
            ended
        }
    };
    left.leave().await;
    closed.close().await;
    outcome
}

/// Serves on for a while after the word to stop: whoever sends calls here learns
/// of it meanwhile. A person who stops the process does not wait for that, nor
/// does a second signal.
async fn leave(
    signal: &'static str,
    stopping: &crate::config::Shutdown,
    trigger: &Trigger,
    signals: &mut Signals,
) {
    trigger.leave();
    let delay = Duration::from_secs(stopping.delay_seconds);
    if signal == "SIGINT" || delay.is_zero() {
        info!(signal, "stopping");
        return;
    }
    info!(
        signal,
        seconds = stopping.delay_seconds,
        "not ready any more; stopping after a while"
    );
    tokio::select! {
        () = tokio::time::sleep(delay) => info!("stopping"),
        signal = signals.next() => info!(signal, "stopping at once"),
    }
}

/// Waits for all parts; their first error, if any.
async fn drained(parts: &mut JoinSet<Result<(), AppError>>) -> Result<(), AppError> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        outcome = outcome.and(ended.unwrap_or(Err(AppError::Ended)));
    }
    outcome
}

async fn listen(address: &str) -> Result<TcpListener, AppError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| AppError::Listen {
        address: address.to_owned(),
        error,
    })
}

/// What answers reads from memory, if it may have any.
fn from_memory(
    config: &Config,
    (store, feed, reader): (&Store, &CommitFeed, &Reader),
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Option<Serving> {
    let bytes = usize::try_from(config.serving.memory_mib).unwrap_or(usize::MAX) << 20;
    let asked = (store.clone(), feed.clone(), reader.clone());
    let metrics = metrics.serving.clone();
    (bytes > 0).then(|| serving::start(asked, bytes, metrics, shutdown))
}

/// Starts the gRPC and metrics servers.
async fn serve(
    parts: &mut JoinSet<Result<(), AppError>>,
    config: &Config,
    (registry, metrics): (Registry, &Metrics),
    ((reader, serving), store, redrive): ((Reader, Option<Serving>), Store, Redrive),
    standing: &Standing,
    shutdown: Shutdown,
) -> Result<(), AppError> {
    let guard = guard(config, metrics, &shutdown)?;
    let bound = Bound::bind(config, metrics).await?;
    info!(address = %bound.local_addr(), "serving counters over gRPC");
    if let Some(address) = bound.admin_addr() {
        info!(%address, "serving dead letters and maintenance over gRPC");
    }
    if let Some(address) = bound.http_addr() {
        info!(%address, "serving counters over HTTP");
    }
    let asked = Asked {
        reader,
        memory: serving,
        store,
        letters: DeadLetters::new(redrive),
        guard,
    };
    let grpc = Box::pin(bound.serve(asked, standing.store.clone(), shutdown));
    parts.spawn(async move { grpc.await.map_err(AppError::from) });
    if !config.metrics.listen.is_empty() {
        let listener = listen(&config.metrics.listen).await?;
        // Not one of the parts: it answers probes until the process ends.
        tokio::spawn(http::serve(listener, Arc::new(registry), standing.clone()));
    }
    Ok(())
}

/// Who is let in, and what keeps that up to date.
fn guard(config: &Config, metrics: &Metrics, shutdown: &Shutdown) -> Result<Guard, AppError> {
    let Started {
        authenticator,
        sources,
    } = Started::new(&config.auth)?;
    match config.auth.modes().is_empty() {
        true => warn!("auth.mode is none: whoever reaches gRPC may read and do everything"),
        false => info!(mode = config.auth.mode, "callers are asked who they are"),
    }
    for listener in config.tokens_in_the_clear() {
        warn!(
            listener,
            "bearer tokens come over the network without TLS: whoever reads along has them"
        );
    }
    tokio::spawn(sources.run(metrics.clone(), shutdown.clone()));
    Ok(Guard::new(authenticator, metrics.clone()))
}

/// Takes events from the bus to the store until a stop is requested and all
/// that was delivered is settled.
async fn ingest(
    config: Config,
    store: Store,
    (redrive, flow, reader): (Redrive, Flow, Reader),
    feed: CommitFeed,
    metrics: Metrics,
    consuming: watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), AppError> {
    if !migrated(&config, &store, &shutdown).await? {
        return Ok(());
    }
    let outage = Outage::default();
    let consumer = Consumer::open(
        config.bus.clone(),
        config.retry.clone(),
        metrics.clone(),
        (outage.clone(), flow.clone()),
    );
    let consumer = tokio::select! {
        consumer = consumer => consumer?,
        () = shutdown.requested() => return Ok(()),
    };
    let decoder = Decoder::new(&config.counters.sender_types);
    let types = TypesInFlight::default();
    let (verified, background_metrics) = (store.clone(), metrics.clone());
    let background_upkeep = metrics.clone();
    let waiting = metrics.dead_letters_waiting.clone();
    let unsent = metrics.dead_letters_unsent.clone();
    let registered = store.clone();
    let shared = Shared {
        store,
        metrics: metrics.clone(),
        feed,
        types: types.clone(),
        lanes: config.lanes.clone(),
        retry: config.retry.clone(),
        outage: outage.clone(),
        shutdown: shutdown.clone(),
    };
    // The prefetch bounds what is in flight; no channel is ever the narrower.
    let in_flight = usize::from(config.bus.prefetch);
    let mut tasks = JoinSet::new();
    let (arrivals, lanes) = Lane::all(&shared, in_flight);
    for lane in lanes {
        tasks.spawn(lane.run());
    }
    let notifications = Notifications::new(
        &config,
        (registered.clone(), reader),
        (flow, arrivals.backlog(in_flight)),
        metrics.notify.clone(),
        &shutdown,
    );
    let (sink, deliveries) = mpsc::channel(in_flight);
    tasks.spawn(
        Pipeline::new(decoder, arrivals, types, config.bus.check_tenant, metrics).run(deliveries),
    );
    tokio::spawn(forward(consumer.health(), consuming));
    tokio::spawn(tell_weaknesses(config.store.clone()));
    let verify = config.verify.clone();
    let verifying = background::run(verified, verify, background_metrics, shutdown.clone());
    let verifying = tokio::spawn(verifying);
    let (written, letters) = mpsc::channel(LETTERS_TO_ENTER);
    let hold = Duration::from_secs(config.bus.hold_seconds);
    tasks.spawn(ask_in_doubt(
        registered.clone(),
        outage.clone(),
        hold,
        shutdown.clone(),
    ));
    let register = redrive::register(
        registered,
        config.retry.clone(),
        letters,
        outage,
        shutdown.clone(),
    );
    tasks.spawn(register);
    tasks.spawn(redrive::send(redrive.clone(), unsent, shutdown.clone()));
    tasks.spawn(redrive::watch(redrive, waiting, shutdown.clone()));
    tasks.spawn(upkeep::run(
        config.bus.clone(),
        background_upkeep,
        shutdown.clone(),
    ));
    if let Some(notifications) = notifications {
        tasks.spawn(notifications.run(shutdown.clone()));
    }
    tasks.spawn(consumer.run(sink, written, shutdown.clone()));
    info!(queue = %config.bus.queue, database = %config.store.database, "taking events");
    while let Some(ended) = tasks.join_next().await {
        // Each ends when what feeds it does, which begins with a stop.
        if ended.is_err() || !shutdown.is_requested() {
            error!(
                panicked = ended.is_err(),
                "a part of the ingest ended by itself"
            );
            return Err(AppError::Ended);
        }
    }
    // The stop ends it as well, after the dialog that it is at; that may be a
    // big one, or the store may be down.
    let _ = tokio::time::timeout(LAST_VERIFICATION, verifying).await;
    Ok(())
}

/// Says what about the store weakens the service's promises.
async fn tell_weaknesses(config: crate::config::Store) {
    // What cannot be found out now, `chat-counters check` tells at any time.
    if let Ok(found) = inspect::inspect(&config).await {
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
async fn end_stale_transactions(store: &Store) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Should this fail, the server ends them by itself, within a minute.
        let _ = store.end_stale_transactions().await;
    }
}

/// Prepares the database, however long that takes. `false` when a stop was
/// requested before.
///
/// # Errors
/// When the first try shows that only a person can help, as with the broker: a
/// wrong user or password, or a certificate.
async fn migrated(
    config: &Config,
    store: &Store,
    shutdown: &Shutdown,
) -> Result<bool, InspectError> {
    let retention = Retention::of(&config.store);
    let mut backoff = Backoff::new(
        Duration::from_millis(config.retry.initial_ms),
        Duration::from_millis(config.retry.max_ms),
    );
    let mut told = false;
    loop {
        let migrated = tokio::select! {
            migrated = store.migrate(retention) => migrated,
            never = end_stale_transactions(store) => match never {},
            // Every step of it is idempotent, so cutting it off harms nothing.
            () = shutdown.requested() => return Ok(false),
        };
        let Err(error) = migrated else {
            return Ok(true);
        };
        if !std::mem::replace(&mut told, true) {
            if let Some(error) = InspectError::of_store(&config.store, &error).await {
                return Err(error);
            }
            warn!(%error, "the store cannot be prepared; retrying until it can");
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.requested() => return Ok(false),
        }
    }
}
