//! The gRPC servers: counters on one listener, for clients; dead letters and
//! maintenance on another, for operators. What one is asked does not slow the
//! other.
//!
//! Bounded throughout: calls at once ([`config::Grpc::max_concurrent_requests`],
//! the rest is shed), streams per connection, sizes of messages and headers,
//! time per call.

mod dead_letters;
mod edge;
mod health;
mod limits;
mod maintenance;
mod map;
mod rebuild;
mod service;
mod token;
mod validate;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::server::health_reporter;
use tower_layer::{Identity, LayerFn, Stack, layer_fn};

use crate::config;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::read::Reader;

pub use dead_letters::DeadLetters;
use edge::Edge;
use health::{Probe, StoreState};
use limits::Limits;
use maintenance::Maintenance;
use service::Counters;
use v1::counter_service_server::CounterServiceServer;
use v1::dead_letter_service_server::DeadLetterServiceServer;
use v1::maintenance_service_server::MaintenanceServiceServer;

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

/// Time for open calls to end after the stop was requested.
const GRACE: Duration = Duration::from_secs(5);

/// What the library lets in, to be refused in gRPC's words: past it, it answers
/// with HTTP status 431, past four times that with the end of the connection.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Most clients refuse larger answers unless told otherwise.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// An edited letter, with a body as large as the index keeps.
const MAX_LETTER_BYTES: usize = 2 << 20;

/// A page of a thousand letters with their errors.
const MAX_LETTERS_BYTES: usize = 16 << 20;

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("{key}: cannot listen on {listen}: {reason}")]
    Bind {
        /// Which of the listeners.
        key: &'static str,
        /// The configured address.
        listen: String,
        /// What the system said.
        #[source]
        reason: std::io::Error,
    },
    /// The descriptors compiled in cannot be served.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server broke down.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A port that is listened on.
#[derive(Debug)]
struct Socket {
    incoming: TcpIncoming,
    address: SocketAddr,
}

impl Socket {
    async fn bind(key: &'static str, listen: &str) -> Result<Self, ServeError> {
        let failed = |reason| ServeError::Bind {
            key,
            listen: listen.to_owned(),
            reason,
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE));
        Ok(Self { incoming, address })
    }
}

/// What is asked for answers.
#[derive(Debug)]
pub struct Asked {
    /// Reads of counters.
    pub reader: Reader,
    /// What is verified and rebuilt.
    pub store: Store,
    /// Dead letters.
    pub letters: DeadLetters,
}

/// Servers that listen but do not answer yet.
#[derive(Debug)]
pub struct Bound {
    counters: Socket,
    admin: Option<Socket>,
    config: config::Grpc,
}

impl Bound {
    /// Listens on `grpc.listen`, and on `admin.listen` unless it is empty. Port 0
    /// takes a free port.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub async fn bind(config: &config::Config) -> Result<Self, ServeError> {
        let counters = Socket::bind("grpc.listen", &config.grpc.listen).await?;
        let admin = match config.admin.listen.as_str() {
            "" => None,
            listen => Some(Socket::bind("admin.listen", listen).await?),
        };
        Ok(Self {
            counters,
            admin,
            config: config.grpc.clone(),
        })
    }

    /// Where counters are served.
    pub fn local_addr(&self) -> SocketAddr {
        self.counters.address
    }

    /// Where dead letters and maintenance are served, if they are.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// Answers until the stop is requested, then waits a few seconds for open
    /// calls to end. Probes the store all the while, and tells `ready` whether
    /// it answers.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(
        self,
        asked: Asked,
        ready: watch::Sender<bool>,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let Asked {
            reader,
            store,
            letters,
        } = asked;
        let (reporter, health) = health_reporter();
        let (probe, state) = Probe::new(reader.clone(), reporter, HEALTH_NAMES, ready).await;
        let counters = counters(&self.config, reader, state).add_service(health.clone());
        let counters = match self.config.reflection {
            true => reflected(counters)?,
            false => counters,
        };
        let admin = reflected(admin(&self.config, store, letters).add_service(health))?;
        let probing = tokio::spawn(probe.run(shutdown.clone()));
        let administering = async {
            match self.admin {
                Some(socket) => run(admin, socket.incoming, shutdown.clone()).await,
                None => Ok(()),
            }
        };
        let counting = run(counters, self.counters.incoming, shutdown.clone());
        let ended = tokio::try_join!(counting, administering).map(drop);
        if ended.is_ok() {
            // After a stop it ends by itself.
            let _ = probing.await;
        }
        ended
    }
}

fn counters(config: &config::Grpc, reader: Reader, store: StoreState) -> Router<Layers> {
    let limits = Limits::new(config);
    let counters = Counters::new(reader, limits.clone(), store.clone());
    let counters = CounterServiceServer::new(counters)
        .max_decoding_message_size(config.max_message_bytes)
        .max_encoding_message_size(config.max_message_bytes.max(MAX_ANSWER_BYTES));
    let admit = move |call| {
        let shed = limits.admit(call);
        // Calls that wait for the store may be what takes all the places.
        shed.map_err(|busy| match store.is_unreachable() {
            true => service::unavailable(),
            false => busy,
        })
    };
    server(config).add_service(InterceptedService::new(counters, admit))
}

fn admin(config: &config::Grpc, store: Store, letters: DeadLetters) -> Router<Layers> {
    server(config)
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
type Layers = Stack<LayerFn<fn(Routes) -> Edge<Routes>>, Identity>;

fn server(config: &config::Grpc) -> Server<Layers> {
    // One client on one connection then waits rather than being shed.
    let streams = u32::try_from(config.max_concurrent_requests).unwrap_or(u32::MAX);
    // Behind the calls' own deadlines: for a body that never ends.
    let backstop = Duration::from_millis(config.max_deadline_ms) + Duration::from_secs(1);
    Server::builder()
        .max_concurrent_streams(streams)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .timeout(backstop)
        .layer(layer_fn(Edge as fn(Routes) -> Edge<Routes>))
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
    incoming: TcpIncoming,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let stop = shutdown.clone();
    let serving = router.serve_with_incoming_shutdown(incoming, async move {
        stop.requested().await;
    });
    let patience = async {
        shutdown.requested().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => Ok(ended?),
        () = patience => {
            tracing::warn!("calls still open {} s after the stop are cut off", GRACE.as_secs());
            Ok(())
        }
    }
}
