//! Wiring: builds the service from its configuration, runs it, drains it.

mod ingest;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::auth::{Sources, StartError, Started};
use crate::bus::{BusError, Flow};
use crate::config::Config;
use crate::grpc::{Backends, BoundServers, DeadLetters, Guard, ServeError};
use crate::probes::{self, Status};
use crate::redrive::Redrive;
use crate::serving::{self, Serving};
use crate::shutdown::{self, Shutdown, Signals, Trigger};
use crate::store::inspect::InspectError;
use crate::store::{CommitFeed, Reader, Store, StoreError};
use crate::telemetry::metrics::Metrics;

use ingest::Ingest;
use tasks::Tasks;

/// Why the service does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address for metrics cannot be listened on.
    #[error("metrics.listen: cannot listen on {address}: {error}")]
    Listen {
        /// The configured address.
        address: String,
        /// What the system said.
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

/// What the parts of the service share. Clones are the same.
#[derive(Clone)]
struct Context {
    config: Arc<Config>,
    metrics: Metrics,
    store: Store,
    reader: Reader,
    feed: CommitFeed,
    redrive: Redrive,
    flow: Flow,
    shutdown: Shutdown,
}

impl Context {
    fn new(config: Config, metrics: Metrics, store: Store, shutdown: Shutdown) -> Self {
        let feed = CommitFeed::default();
        let flow = Flow::shown_in(metrics.bus.blocked.clone());
        Self {
            reader: Reader::new(store.clone(), feed.clone()),
            redrive: Redrive::new(store.clone(), &config, flow.clone()),
            config: Arc::new(config),
            metrics,
            store,
            feed,
            flow,
            shutdown,
        }
    }

    /// What answers reads from memory, if it may have any.
    fn serve_from_memory(&self) -> Option<Serving> {
        let mib = usize::try_from(self.config.serving.memory_mib).unwrap_or(usize::MAX);
        let asked = (self.store.clone(), self.feed.clone(), self.reader.clone());
        let metrics = self.metrics.serving.clone();
        (mib > 0).then(|| serving::start(asked, mib << 20, metrics, &self.shutdown))
    }
}

/// The service: its addresses bound and its files read, but nothing served or
/// consumed until it is [run](Service::run).
pub struct Service {
    context: Context,
    trigger: Trigger,
    registry: Registry,
    guard: Guard,
    identities: Sources,
    grpc: BoundServers,
    metrics_listener: Option<TcpListener>,
}

impl Service {
    /// Reads what the configuration names, and binds what it listens on. Neither
    /// MongoDB nor RabbitMQ need to be there yet.
    ///
    /// # Errors
    /// [`AppError`] for what cannot work as configured.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let (trigger, shutdown) = shutdown::channel();
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let store = Store::connect(&config.store).await?;
        let store = store.counting_in(metrics.commits.transactions.clone());
        let (guard, identities) = guard(&config, &metrics)?;
        let grpc = BoundServers::bind(&config, &metrics).await?;
        let metrics_listener = match config.metrics.listen.as_str() {
            "" => None,
            address => Some(listen(address).await?),
        };
        Ok(Self {
            context: Context::new(config, metrics, store, shutdown),
            trigger,
            registry,
            guard,
            identities,
            grpc,
            metrics_listener,
        })
    }

    /// Serves reads from the start, and takes events as soon as both servers are
    /// there; at a signal stops taking, and drains.
    ///
    /// # Errors
    /// [`AppError`] when a part of it fails for good, or ends by itself.
    pub async fn run(self, mut signals: Signals) -> Result<(), AppError> {
        let (context, trigger) = (self.context.clone(), self.trigger.clone());
        let mut tasks = Tasks::default();
        let status = self.serve(&mut tasks);
        let stopping = &context.config.shutdown;
        let ended = async {
            let signal = ingest_until_stop(&context, &mut tasks, &status, &mut signals).await?;
            tokio::select! {
                () = leave(signal, stopping, &trigger, &mut signals) => Ok(()),
                error = tasks.failed() => Err(error),
            }
        };
        let ended = ended.await;
        trigger.request();
        let outcome = drained(&mut tasks, stopping, ended).await;
        context.redrive.close().await;
        context.store.close().await;
        outcome
    }

    /// Starts to answer reads and probes, which needs no server yet.
    fn serve(self, tasks: &mut Tasks) -> Status {
        let context = self.context;
        let (config, shutdown) = (&context.config, &context.shutdown);
        let status = Status::new(context.metrics.clone(), shutdown.clone());
        let store = context.store.clone();
        tasks.spawn_background(
            "store's credentials",
            shutdown,
            store.keep_credentials_current(config.store.clone(), shutdown.clone()),
        );
        let sources = self.identities;
        tasks.spawn_background(
            "identities",
            shutdown,
            sources.run(context.metrics.clone(), shutdown.clone()),
        );
        let asked = Backends {
            reader: context.reader.clone(),
            memory: context.serve_from_memory(),
            store: context.store.clone(),
            letters: DeadLetters::new(context.redrive.clone()),
            guard: self.guard,
        };
        announce(&self.grpc);
        let grpc = Box::pin(
            self.grpc
                .serve(asked, status.store.clone(), shutdown.clone()),
        );
        tasks.spawn_fallible("grpc", async move { Ok(grpc.await?) });
        if let Some(listener) = self.metrics_listener {
            // Probes are answered until the process ends.
            let registry = Arc::new(self.registry);
            tasks.spawn_until_exit(probes::serve(listener, registry, status.clone()));
        }
        status
    }
}

/// Takes events until a signal comes, whose name is returned.
async fn ingest_until_stop(
    context: &Context,
    tasks: &mut Tasks,
    status: &Status,
    signals: &mut Signals,
) -> Result<&'static str, AppError> {
    let mut prepared = Box::pin(Ingest::prepare(context.clone()));
    let mut is_taking = false;
    loop {
        tokio::select! {
            signal = signals.next() => return Ok(signal),
            error = tasks.failed() => return Err(error),
            ingest = &mut prepared, if !is_taking => {
                ingest?.spawn(tasks, status.consuming.clone());
                is_taking = true;
            }
        }
    }
}

/// Serves on for a while after the signal to stop: whoever sends calls here learns
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

/// Waits for all tasks, but no longer than configured, and says how that went. Returns
/// what `ended` the service, if that was a failure, or the first one meanwhile.
async fn drained(
    tasks: &mut Tasks,
    stopping: &crate::config::Shutdown,
    ended: Result<(), AppError>,
) -> Result<(), AppError> {
    let began = Instant::now();
    let limit = Duration::from_secs(stopping.drain_seconds);
    let (in_time, outcome) = tasks.drained(limit, ended).await;
    match in_time {
        true => {
            let seconds = began.elapsed().as_secs_f64();
            info!(seconds, "stopped: what was under way is settled");
        }
        false => warn!(
            seconds = began.elapsed().as_secs(),
            "stopped: not drained in time; what is not acknowledged will be delivered again"
        ),
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

fn announce(grpc: &BoundServers) {
    info!(address = %grpc.local_addr(), "serving counters over gRPC");
    if let Some(address) = grpc.admin_addr() {
        info!(%address, "serving dead letters and maintenance over gRPC");
    }
    if let Some(address) = grpc.http_addr() {
        info!(%address, "serving counters over HTTP");
    }
}

/// Who is let in, and what keeps that up to date.
fn guard(config: &Config, metrics: &Metrics) -> Result<(Guard, Sources), AppError> {
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
    Ok((Guard::new(authenticator, metrics.clone()), sources))
}
