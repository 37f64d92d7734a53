//! The gRPC server: reads the store, never the bus.

mod convert;
mod request;
mod service;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::config;
use crate::shutdown::Shutdown;
use crate::store::Reader;
use service::Counters;
use v1::counter_service_server::{CounterServiceServer, SERVICE_NAME};

/// Generated from `proto/chatcounters/v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("chatcounters.v1");

    /// The descriptors of all messages and services, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// Most bytes of metadata in one request.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Most requests at once on one connection.
const MAX_STREAMS: u32 = 1_024;
/// How often a silent connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long open requests may take once a stop was requested.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the store is asked whether it serves.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// After how long without an answer the store does not serve.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors in the binary cannot be used: a broken build.
    #[error("gRPC reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves counters, health and reflection until a stop is requested.
///
/// `ready` is told whether the store answers.
///
/// # Errors
/// [`GrpcError`] when the server cannot run.
pub async fn serve(
    config: config::Grpc,
    listener: TcpListener,
    reader: Reader,
    ready: tokio::sync::watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), GrpcError> {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving gRPC");
    }
    let limit = config.max_message_bytes;
    let counters = Counters::new(reader.clone(), &config);
    let counters = CounterServiceServer::new(counters)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let (reporter, health) = tonic_health::server::health_reporter();
    set(&reporter, ServingStatus::NotServing).await;
    let probe = tokio::spawn(probe(reader, reporter, ready, shutdown.clone()));

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = Server::builder()
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(counters);
    let stop = shutdown.clone();
    let served =
        server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            stop.requested().await;
        });
    let overdue = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN).await;
    };
    let outcome = tokio::select! {
        served = served => served.map_err(GrpcError::from),
        () = overdue => {
            warn!("requests that were still open are cut off");
            Ok(())
        }
    };
    probe.abort();
    outcome
}

async fn set(reporter: &HealthReporter, status: ServingStatus) {
    for name in ["", SERVICE_NAME] {
        reporter.set_service_status(name, status).await;
    }
}

/// Tells the truth about the store, from its answers.
async fn probe(
    reader: Reader,
    reporter: HealthReporter,
    ready: tokio::sync::watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let reader = Arc::new(reader);
    let mut serving = false;
    while !shutdown.is_requested() {
        // A task of its own: the driver does not like to be cut off half-way.
        let asked = Arc::clone(&reader);
        let answer = tokio::spawn(async move { asked.probe().await });
        let answer = tokio::time::timeout(PROBE_PATIENCE, answer).await;
        let now = matches!(answer, Ok(Ok(Ok(true))));
        if now != serving {
            serving = now;
            let status = match now {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            set(&reporter, status).await;
            ready.send_replace(now);
            info!(serving, "the store was asked whether it serves");
        }
        tokio::select! {
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
            () = shutdown.requested() => {}
        }
    }
    set(&reporter, ServingStatus::NotServing).await;
    ready.send_replace(false);
}
