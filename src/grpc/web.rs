//! `CounterService` over HTTP: reads as JSON, watches as server-sent events, all of
//! it as gRPC-Web.
//!
//! Nothing is answered here that gRPC does not answer. A request becomes the call
//! of a method of gRPC, goes through the same checks, identities and limits to the
//! same method, and the answer, or its status, is put into other words on the way
//! back.

mod answer;
mod call;
mod events;
mod messages;
mod openapi;
mod parameters;
mod problem;
mod route;
mod router;
mod routes;
mod site;
mod size;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, RETRY_AFTER,
};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service as _};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::admission::Places;
use super::edge::Checks;
use super::service::Counters;
use super::v1::counter_service_server::{CounterServiceServer, SERVICE_NAME};
use super::{
    KEEPALIVE_INTERVAL, MAX_ANSWER_BYTES, MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_BYTES,
    MAX_PENDING_RESETS,
};
use crate::config;
use crate::listener::{EndSignal, SingleConnection};
use site::Site;

/// How long a client of HTTP/1 may take for the header of a request, and rest
/// between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// The time for which a browser may remember what pages of a site may ask.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3_600);
/// The error with which a connection of the library fails.
type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Answers the requests of all connections.
#[derive(Debug, Clone)]
pub(super) struct Web(Router);

impl Web {
    /// Answers by the methods of these counters, after these checks. gRPC-Web goes
    /// to `grpc`, which has the same counters.
    pub(super) fn new(
        (config, limits): (&config::Http, &config::Grpc),
        counters: Arc<Counters>,
        grpc: CounterServiceServer<Counters>,
        checks: &Checks,
    ) -> Self {
        let site = Site {
            counters,
            // Over HTTP/1 each stream keeps a connection: some are left for others.
            streams: Places::new(config.max_connections / 4 * 3),
            max_request_bytes: limits.max_message_bytes,
            max_answer_bytes: limits.max_message_bytes.max(MAX_ANSWER_BYTES),
        };
        let grpc = GrpcWebLayer::new().layer(checks.layer(grpc));
        let router = router::router(site, checks)
            .route_service(&format!("/{SERVICE_NAME}/{{method}}"), grpc)
            .layer(origins(&config.allowed_origins));
        Self(router)
    }

    /// Serves one connection, until its end comes and what is under way is
    /// answered.
    pub(super) async fn serve(
        self,
        mut one: SingleConnection,
        end: EndSignal,
    ) -> Result<(), ConnectionError> {
        let Some(Ok(connection)) = one.next().await else {
            return Ok(());
        };
        let (peer, router) = (connection.peer().clone(), self.0);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let mut router = router.clone();
            async move {
                let response: Result<_, Infallible> = router.call(request).await;
                response
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_LIST_BYTES as usize);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL);
        let serving = server.serve_connection(TokioIo::new(connection), service);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            () = end => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    }
}

/// Which sites' pages may ask, and what they may see.
fn origins(allowed: &str) -> CorsLayer {
    let named = |name: &str| match name.trim() {
        "" => None,
        name => HeaderValue::from_str(name).ok(),
    };
    let origins = match allowed {
        "*" => AllowOrigin::any(),
        _ => AllowOrigin::list(allowed.split(',').filter_map(named)),
    };
    let own = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_NONE_MATCH,
            own("last-event-id"),
            own("grpc-timeout"),
            own("x-grpc-web"),
            own("x-user-agent"),
        ])
        .expose_headers([
            ETAG,
            RETRY_AFTER,
            own("grpc-status"),
            own("grpc-message"),
            own("grpc-status-details-bin"),
        ])
        .max_age(PREFLIGHT_MAX_AGE)
}
