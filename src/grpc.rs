//! The gRPC server: asks the store; of the bus it knows nothing.
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
use health::Probe;
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
    #[error("grpc.listen: cannot listen on {listen}: {reason}")]
    Bind {
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

/// A server that listens but does not answer yet.
#[derive(Debug)]
pub struct Bound {
    incoming: TcpIncoming,
    address: SocketAddr,
    config: config::Grpc,
}

impl Bound {
    /// Listens on `grpc.listen`. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub async fn bind(config: &config::Grpc) -> Result<Self, ServeError> {
        let failed = |reason| ServeError::Bind {
            listen: config.listen.clone(),
            reason,
        };
        let listener = TcpListener::bind(&config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE));
        Ok(Self {
            incoming,
            address,
            config: config.clone(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the stop is requested, then waits a few seconds for open
    /// calls to end. Probes the store all the while, and tells `ready` whether
    /// it answers.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(
        self,
        reader: Reader,
        maintained: Store,
        letters: DeadLetters,
        ready: watch::Sender<bool>,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let (reporter, health) = health_reporter();
        let (probe, store) = Probe::new(reader.clone(), reporter, HEALTH_NAMES, ready).await;
        let limits = Limits::new(&self.config);
        let lost = store.clone();
        let counters = Counters::new(reader, limits.clone(), store.clone());
        let counters = CounterServiceServer::new(counters)
            .max_decoding_message_size(self.config.max_message_bytes)
            .max_encoding_message_size(self.config.max_message_bytes.max(MAX_ANSWER_BYTES));
        let admit = move |call| {
            let shed = limits.admit(call);
            // Calls that wait for the store may be what takes all the places.
            shed.map_err(|busy| match store.is_unreachable() {
                true => service::unavailable(),
                false => busy,
            })
        };
        let maintenance = MaintenanceServiceServer::new(Maintenance::new(maintained))
            .max_decoding_message_size(self.config.max_message_bytes);
        let letters = DeadLetterServiceServer::new(letters)
            .max_decoding_message_size(self.config.max_message_bytes.max(MAX_LETTER_BYTES))
            .max_encoding_message_size(MAX_LETTERS_BYTES);
        // Each call would else wait for the driver to give the server up.
        let unless_lost = move |call: tonic::Request<()>| match lost.is_lost() {
            true => Err(service::unavailable()),
            false => Ok(call),
        };
        let router = server(&self.config)
            .add_service(InterceptedService::new(counters, admit))
            .add_service(InterceptedService::new(maintenance, unless_lost.clone()))
            .add_service(InterceptedService::new(letters, unless_lost))
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let probing = tokio::spawn(probe.run(shutdown.clone()));
        let ended = run(router, self.incoming, shutdown).await;
        if ended.is_ok() {
            // After a stop it ends by itself.
            let _ = probing.await;
        }
        ended
    }
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

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
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
