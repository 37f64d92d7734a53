//! Wiring: builds the service from its configuration, runs it, drains it.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::bus::{BusError, Consumer, upkeep};
use crate::config::Config;
use crate::event::decode::Decoder;
use crate::grpc::{Bound, DeadLetters, ServeError};
use crate::lane::{Lane, Shared, TypesInFlight, ask_in_doubt};
use crate::maintenance::background;
use crate::outage::Outage;
use crate::pipeline::Pipeline;
use crate::redrive::{self, Redrive};
use crate::retry::Backoff;
use crate::shutdown::{self, Shutdown};
use crate::store::inspect::{self, InspectError};
use crate::store::{CommitFeed, Reader, Store, StoreError};
use crate::telemetry::http;
use crate::telemetry::metrics::Metrics;

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
    let stop_signal = shutdown::signal().map_err(AppError::Signals)?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let store = Store::connect(&config.store).await?;
    let feed = CommitFeed::default();
    let reader = Reader::new(store.clone(), feed.clone());
    let redrive = Redrive::new(store.clone(), &config);
    let (closed, left) = (store.clone(), redrive.clone());

    let mut parts = JoinSet::new();
    let ready = Ready::default();
    serve(
        &mut parts,
        &config,
        registry,
        (reader, store.clone(), redrive.clone()),
        &ready,
        shutdown.clone(),
    )
    .await?;
    let drain = Duration::from_secs(config.shutdown.drain_seconds);
    let consuming = ready.consuming;
    parts.spawn(ingest(
        config,
        store,
        redrive,
        feed,
        metrics,
        consuming,
        shutdown.clone(),
    ));

    let ended = tokio::select! {
        signal = stop_signal => {
            info!(signal, "stopping");
            Ok(())
        }
        Some(ended) = parts.join_next() => ended.unwrap_or_else(|panic| {
            error!(%panic, "a part of the service panicked");
            Err(AppError::Ended)
        }).and(Err(AppError::Ended)),
    };
    trigger.request();
    let outcome = match tokio::time::timeout(drain, drained(&mut parts)).await {
        Ok(outcome) => ended.and(outcome),
        Err(_) => {
            warn!(
                seconds = drain.as_secs(),
                "not drained in time; what is not acknowledged will be delivered again"
            );
            ended
        }
    };
    left.leave().await;
    closed.close().await;
    outcome
}

/// What `/healthz` answers from.
#[derive(Debug, Clone, Default)]
struct Ready {
    /// Whether the store serves.
    store: watch::Sender<bool>,
    /// Whether events are being consumed.
    consuming: watch::Sender<bool>,
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

/// Starts the gRPC and metrics servers.
async fn serve(
    parts: &mut JoinSet<Result<(), AppError>>,
    config: &Config,
    registry: Registry,
    (reader, store, redrive): (Reader, Store, Redrive),
    ready: &Ready,
    shutdown: Shutdown,
) -> Result<(), AppError> {
    let bound = Bound::bind(&config.grpc).await?;
    info!(address = %bound.local_addr(), "serving gRPC");
    let letters = DeadLetters::new(redrive);
    let grpc = bound.serve(
        reader,
        store,
        letters,
        ready.store.clone(),
        shutdown.clone(),
    );
    parts.spawn(async move { grpc.await.map_err(AppError::from) });
    if !config.metrics.listen.is_empty() {
        let listener = listen(&config.metrics.listen).await?;
        let ready = ready.clone();
        let ready = move || *ready.store.borrow() && *ready.consuming.borrow();
        let http = http::serve(listener, Arc::new(registry), ready, shutdown);
        parts.spawn(async move {
            http.await;
            Ok(())
        });
    }
    Ok(())
}

/// Takes events from the bus to the store until a stop is requested and all
/// that was delivered is settled.
async fn ingest(
    config: Config,
    store: Store,
    redrive: Redrive,
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
        outage.clone(),
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
    let mut lanes = Vec::new();
    for _ in 0..config.lanes.count {
        let (sender, work) = mpsc::channel(in_flight);
        let (lane, patient, aside) = Lane::pair(shared.clone(), in_flight);
        tasks.spawn(lane.run(work));
        tasks.spawn(patient.run(aside));
        lanes.push(sender);
    }
    let (sink, deliveries) = mpsc::channel(in_flight);
    tasks.spawn(
        Pipeline::new(decoder, lanes, types, config.bus.check_tenant, metrics).run(deliveries),
    );
    tokio::spawn(forward(consumer.health(), consuming));
    tokio::spawn(tell_weaknesses(config.store.clone()));
    tokio::spawn(
        registered
            .clone()
            .follow_files(config.store.clone(), shutdown.clone()),
    );
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
    tasks.spawn(redrive::watch(redrive, waiting, shutdown.clone()));
    tasks.spawn(upkeep::run(
        config.bus.clone(),
        background_upkeep,
        shutdown.clone(),
    ));
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
    let days = u64::from(config.store.journal_retention_days);
    let retention = Duration::from_secs(days * 24 * 60 * 60);
    let mut backoff = Backoff::new(
        Duration::from_millis(config.retry.initial_ms),
        Duration::from_millis(config.retry.max_ms),
    );
    let mut told = false;
    loop {
        let migrated = tokio::select! {
            migrated = store.migrate(retention) => migrated,
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
