//! The servers: counters on one listener, for clients, and over HTTP on another
//! ([`web`]); dead letters and maintenance on a third, for operators. What one is
//! asked does not slow the other.
//!
//! Bounded throughout: calls at once ([`config::Grpc::max_concurrent_requests`],
//! the rest is shed), streams per connection, sizes of messages and headers,
//! time per call.

mod admission;
mod body;
pub(crate) mod bounds;
mod dead_letters;
mod edge;
mod failure;
mod gate;
mod guard;
mod health;
mod limits;
mod maintenance;
mod map;
mod rate;
mod reads;
mod rebuild;
pub(crate) mod schemas;
mod service;
mod token;
mod validate;
mod watches;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::health_reporter;
use tower::layer::util::{Identity, Stack};

use crate::config;
use crate::listener::{ListenError, Listener, Protocol, Settings, descriptors};
use crate::serving::Serving;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::read::Reader;
use crate::telemetry::metrics::Metrics;

pub use dead_letters::DeadLetters;
use edge::Checks;
use gate::Gate;
pub use guard::Guard;
use health::Probe;
use limits::Limits;
use maintenance::Maintenance;
pub(crate) use maintenance::counter_differences;
pub(crate) use map::{moment, moment_or_null, time};
use rate::RateLimiter;
use reads::ReadPath;
use service::Counters;
use v1::counter_service_server::CounterServiceServer;
use v1::dead_letter_service_server::DeadLetterServiceServer;
use v1::maintenance_service_server::MaintenanceServiceServer;
pub(crate) use validate::check_repair_reason;
use watches::Watches;
use web::Web;

/// The messages, client and server of `chatcounters.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("chatcounters.v1");
}

/// What reflection tells, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("chatcounters_descriptor");

/// Health is told of the server as a whole and of its service.
const HEALTH_NAMES: &[&str] = &[
    "",
    "chatcounters.v1.CounterService",
    "chatcounters.v1.MaintenanceService",
    "chatcounters.v1.DeadLetterService",
];

/// The time that open calls have to end after the stop was requested.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the library lets in, to be refused in gRPC's words: past it, it answers
/// with HTTP status 431, past four times that with the end of the connection.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
/// The time between two pings on a quiet HTTP/2 connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The most calls of one connection at the same time; more wait with the client.
const MAX_CONCURRENT_STREAMS: u32 = 64;
/// The most calls that a client may have given up before they were looked at; one
/// more ends its connection. Clients that cancel in bursts are not to be taken for
/// an attack.
const MAX_PENDING_RESETS: usize = 100;
/// How long a connection that has its age may go on after the longest deadline.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);
/// The same for operators, whose replays and verifications take hours.
const OPERATOR_CONNECTION_GRACE: Duration = Duration::from_secs(24 * 3_600);

/// The largest answer in bytes: most clients refuse larger ones unless told otherwise.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The largest request in bytes: an edited letter, with a body as large as the index
/// keeps.
const MAX_LETTER_BYTES: usize = 2 << 20;

/// The largest answer about letters in bytes: a page of a thousand with their errors.
const MAX_LETTERS_BYTES: usize = 16 << 20;

/// Explains why the servers did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be listened on as configured.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The descriptors compiled in cannot be served.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What the servers answer from.
#[derive(Debug)]
pub struct Backends {
    /// Reads counters from the store.
    pub reader: Reader,
    /// Reads counters from memory; `None`: all reads are from the store.
    pub memory: Option<Serving>,
    /// The store that is verified and rebuilt.
    pub store: Store,
    /// Works with dead letters.
    pub letters: DeadLetters,
    /// Lets callers in.
    pub guard: Guard,
}

/// Servers that listen but do not answer yet.
#[derive(Debug)]
pub struct BoundServers {
    counters: Listener,
    admin: Option<Listener>,
    http: Option<Listener>,
    config: (config::Grpc, config::Http),
}

impl BoundServers {
    /// Listens on `grpc.listen`, and on `admin.listen` and `http.listen` unless they
    /// are empty. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(config: &config::Config, metrics: &Metrics) -> Result<Self, ServeError> {
        let config::Config {
            grpc, admin, http, ..
        } = config;
        let listeners = config.listeners();
        let most = [
            grpc.max_connections,
            admin.max_connections,
            http.max_connections,
        ];
        let wanted: Vec<_> = std::iter::zip(&listeners, most)
            .map(|(of, most)| (of.section, if of.listen.is_empty() { 0 } else { most }))
            .collect();
        let shares = descriptors::share(&wanted);
        let settings = |number: usize, protocol, grace| Settings {
            name: listeners[number].section,
            protocol,
            max_connections: shares[number],
            max_age: Duration::from_secs(grpc.max_connection_age_seconds),
            grace,
        };
        let last_words = Duration::from_millis(grpc.max_deadline_ms) + CONNECTION_GRACE;
        let [of_counters, of_admin, of_http] = &listeners;
        let counters = settings(0, Protocol::Http2, last_words);
        let operators = settings(1, Protocol::Http2, OPERATOR_CONNECTION_GRACE);
        let over_http = settings(2, Protocol::Http, last_words);
        Ok(Self {
            counters: Listener::bind(of_counters, counters, metrics).await?,
            admin: unless_off(of_admin, operators, metrics).await?,
            http: unless_off(of_http, over_http, metrics).await?,
            config: (grpc.clone(), http.clone()),
        })
    }

    /// Returns the address on which counters are served.
    pub fn local_addr(&self) -> SocketAddr {
        self.counters.local_addr()
    }

    /// Returns the address on which dead letters and maintenance are served, if they
    /// are.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Listener::local_addr)
    }

    /// Returns the address on which counters are served over HTTP, if they are.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Listener::local_addr)
    }

    /// Answers until the stop is requested, then waits a few seconds for open
    /// calls to end. Probes the store all the while, and tells `ready` whether
    /// it answers.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(
        self,
        backends: Backends,
        ready: watch::Sender<bool>,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let Backends {
            reader,
            memory,
            store,
            letters,
            guard,
        } = backends;
        let (reporter, health) = health_reporter();
        let (probe, state) = Probe::new(reader.clone(), reporter, HEALTH_NAMES, ready).await;
        let (config, http) = &self.config;
        let limits = Limits::new(config);
        let gate = Gate::new(limits.patient(), state.clone());
        let watches = Watches::new(memory.clone(), limits.clone(), shutdown.clone());
        let reads = ReadPath {
            reader,
            serving: memory,
            limits,
            store: state,
        };
        let methods = Arc::new(Counters::new(reads, watches));
        let counters = CounterServiceServer::from_arc(Arc::clone(&methods))
            .max_decoding_message_size(config.max_message_bytes)
            .max_encoding_message_size(config.max_message_bytes.max(MAX_ANSWER_BYTES));
        // One bound for a caller, whichever way the calls come.
        let checks = Checks {
            guard: guard.clone(),
            rate: RateLimiter::new(config.calls_per_second),
            gate: None,
        };
        let web = Web::new((http, config), methods, counters.clone(), &checks);
        let counters = counting(config, checks, counters, health.clone())?;
        let admin = administering(config, guard, gate, (store, letters));
        let admin = reflected(admin.add_service(health))?;
        let probing = tokio::spawn(probe.run(shutdown.clone()));
        let admin = run_if_on(self.admin, |listener| {
            run(admin, listener, shutdown.clone())
        });
        let over_http = run_if_on(self.http, |listener| {
            let serve = move |one, end| web.clone().serve(one, end);
            until_cut_off(listener.serve(serve, shutdown.clone()), &shutdown)
        });
        let counting = run(counters, self.counters, shutdown.clone());
        let ended = tokio::try_join!(counting, admin, over_http).map(drop);
        if ended.is_ok() {
            // After a stop it ends by itself.
            let _ = probing.await;
        }
        ended
    }
}

/// Listens; `None` where that is not configured.
async fn unless_off(
    listener: &config::Listener<'_>,
    settings: Settings,
    metrics: &Metrics,
) -> Result<Option<Listener>, ListenError> {
    match listener.listen {
        "" => Ok(None),
        _ => Listener::bind(listener, settings, metrics).await.map(Some),
    }
}

/// Runs the server of a listener, where that is configured.
async fn run_if_on<F: Future<Output = Result<(), ServeError>>>(
    listener: Option<Listener>,
    run: impl FnOnce(Listener) -> F,
) -> Result<(), ServeError> {
    match listener {
        Some(listener) => run(listener).await,
        None => Ok(()),
    }
}

/// The services of clients, with reflection where that is configured.
fn counting(
    config: &config::Grpc,
    checks: Checks,
    counters: CounterServiceServer<Counters>,
    health: HealthServer<impl Health>,
) -> Result<Router<Layers>, ServeError> {
    let services = server(config, checks)
        .add_service(counters)
        .add_service(health);
    match config.reflection {
        true => reflected(services),
        false => Ok(services),
    }
}

/// The services of operators.
fn administering(
    config: &config::Grpc,
    guard: Guard,
    gate: Gate,
    (store, letters): (Store, DeadLetters),
) -> Router<Layers> {
    let checks = Checks {
        guard,
        rate: None,
        gate: Some(gate),
    };
    server(config, checks)
        .add_service(
            MaintenanceServiceServer::new(Maintenance::new(store))
                .max_decoding_message_size(config.max_message_bytes),
        )
        .add_service(
            DeadLetterServiceServer::new(letters)
                .max_decoding_message_size(config.max_message_bytes.max(MAX_LETTER_BYTES))
                .max_encoding_message_size(MAX_LETTERS_BYTES),
        )
}

/// What every call goes through.
type Layers = Stack<Checks, Identity>;

fn server(config: &config::Grpc, checks: Checks) -> Server<Layers> {
    // Behind the calls' own deadlines: for a body that never ends.
    let backstop = Duration::from_millis(config.max_deadline_ms) + Duration::from_secs(1);
    Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .timeout(backstop)
        .layer(checks)
}

/// With reflection of everything, which says what may be asked where.
fn reflected(router: Router<Layers>) -> Result<Router<Layers>, ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(router
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

async fn run(
    router: Router<Layers>,
    listener: Listener,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    // A server for each connection: only so has each an end of its own.
    let serve_one = move |one, end| router.clone().serve_with_incoming_shutdown(one, end);
    until_cut_off(listener.serve(serve_one, shutdown.clone()), &shutdown).await
}

/// Serves until the stop is requested, and a little longer.
async fn until_cut_off(
    serving: impl Future<Output = ()>,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let drained = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        () = serving => Ok(()),
        () = drained => {
            tracing::warn!("calls still open {} s after the stop are cut off", DRAIN_TIMEOUT.as_secs());
            Ok(())
        }
    }
}
