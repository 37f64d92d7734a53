//! `/metrics`, and what an orchestrator asks, over HTTP/1: `/livez` (the
//! process answers), `/readyz` (send calls here), `/healthz` (all of it works).

mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::warn;

use crate::listener::{Place, Places};

pub use status::Status;

/// Connections at the same time. One that has asked for nothing gives way to one
/// more, the oldest first, then one that has its answer: a probe must not wait.
const CONNECTIONS: usize = 256;
/// How long a client may take for the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection lives, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers for as long as the process lives.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, status: Status) -> Infallible {
    let places = Places::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (registry, status) = (registry.clone(), status.clone());
                let (Some(mut place), _) = places.take() else {
                    continue;
                };
                connections.spawn(async move {
                    let lost = place.when_lost();
                    let served = connection(stream, registry, status, &place);
                    tokio::select! {
                        // An error is the client's: it has gone or speaks no HTTP.
                        _ = tokio::time::timeout(CONNECTION_TIMEOUT, served) => {}
                        () = lost => {}
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
    status: Status,
    place: &Place,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        // Whoever has asked for something gives way after those who have not.
        let busy = place.heard().begin();
        let response = answer(request.method(), request.uri(), &registry, &status);
        async move {
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(method: &Method, uri: &Uri, registry: &Registry, status: &Status) -> Response<String> {
    if method != Method::GET && method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".into());
    }
    match uri.path() {
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => response(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, String::new()),
            }
        }
        "/livez" => response(StatusCode::OK, PLAIN, "ok\n".into()),
        "/readyz" => told(status.is_ready(), uri, status),
        "/healthz" => told(status.is_whole(), uri, status),
        _ => {
            let text = "there is /metrics, /livez, /readyz?verbose and /healthz?verbose\n";
            response(StatusCode::NOT_FOUND, PLAIN, text.into())
        }
    }
}

/// 200 or 503, with each part in a line when asked `?verbose`.
fn told(good: bool, uri: &Uri, status: &Status) -> Response<String> {
    let (code, word) = match good {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let is_verbose = |part: &str| part == "verbose" || part.starts_with("verbose=");
    let text = match uri
        .query()
        .is_some_and(|query| query.split('&').any(is_verbose))
    {
        true => status.verbose(),
        false => word.into(),
    };
    response(code, PLAIN, text)
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
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn each_path_has_its_answer() {
        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("things", "Things", counter);
        let (_trigger, shutdown) = crate::shutdown::channel();
        let metrics = Metrics::new(&mut Registry::default());
        let status = Status::new(metrics, shutdown);
        let rows = [
            (Method::GET, "/metrics", true, 200, "things_total 0"),
            (Method::HEAD, "/metrics", false, 200, "# EOF"),
            (Method::GET, "/livez", false, 200, "ok"),
            (Method::GET, "/readyz", true, 200, "ok"),
            (Method::GET, "/readyz", false, 503, "not ready"),
            (
                Method::GET,
                "/readyz?verbose",
                false,
                503,
                "store: does not answer",
            ),
            (Method::GET, "/readyz?verbose", true, 200, "consuming: no"),
            (Method::GET, "/healthz", true, 503, "not ready"),
            (Method::GET, "/", true, 404, "/metrics"),
            (Method::POST, "/metrics", true, 405, "GET"),
        ];
        for (method, path, ready, code, text) in rows {
            status.store.send_replace(ready);
            let response = answer(&method, &path.parse().unwrap(), &registry, &status);
            assert_eq!(response.status().as_u16(), code, "{method} {path}");
            assert!(response.body().contains(text), "{method} {path}");
        }
    }
}
