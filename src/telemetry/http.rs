//! `/metrics` and `/healthz` over HTTP/1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::warn;

use crate::listener::Places;
use crate::shutdown::Shutdown;

/// Connections at the same time. The oldest gives way to one more: it is idle
/// in all likelihood, for an answer takes milliseconds, and a probe must not
/// wait.
const CONNECTIONS: usize = 32;
/// How long a client may take for the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection lives, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers until a stop is requested: `/metrics` with what is registered,
/// `/healthz` with 200 while `ready()`, else 503.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    ready: impl Fn() -> bool + Send + Sync + Clone + 'static,
    shutdown: Shutdown,
) {
    let places = Places::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (registry, ready) = (registry.clone(), ready.clone());
                let (Some(mut place), _) = places.take() else {
                    continue;
                };
                connections.spawn(async move {
                    let served = connection(stream, registry, ready);
                    tokio::select! {
                        // An error is the client's: it has gone or speaks no HTTP.
                        _ = tokio::time::timeout(CONNECTION_TIMEOUT, served) => {}
                        () = place.lost() => {}
                    }
                });
            }
            Err(error) => {
                warn!(%error, "the metrics endpoint cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    registry: Arc<Registry>,
    ready: impl Fn() -> bool + Clone,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &registry, &ready);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(
    method: &Method,
    path: &str,
    registry: &Registry,
    ready: &impl Fn() -> bool,
) -> Response<String> {
    if method != Method::GET && method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".into());
    }
    match path {
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => response(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, String::new()),
            }
        }
        "/healthz" if ready() => response(StatusCode::OK, PLAIN, "ok\n".into()),
        "/healthz" => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n".into()),
        _ => {
            let text = "there is /metrics and /healthz\n";
            response(StatusCode::NOT_FOUND, PLAIN, text.into())
        }
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_answer() {
        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("things", "Things", counter);
        let rows = [
            (Method::GET, "/metrics", true, 200, "things_total 0"),
            (Method::HEAD, "/metrics", false, 200, "# EOF"),
            (Method::GET, "/healthz", true, 200, "ok"),
            (Method::GET, "/healthz", false, 503, "not ready"),
            (Method::GET, "/", true, 404, "/metrics"),
            (Method::POST, "/metrics", true, 405, "GET"),
        ];
        for (method, path, ready, status, text) in rows {
            let response = answer(&method, path, &registry, &|| ready);
            assert_eq!(response.status().as_u16(), status, "{method} {path}");
            assert!(response.body().contains(text), "{method} {path}");
        }
    }
}
