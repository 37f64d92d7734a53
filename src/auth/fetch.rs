//! Keys that an issuer publishes under a URL.
//!
//! Fetched in the background only: no caller waits for it, and none can have
//! more than one fetch in half a minute made. An issuer that is down, or says
//! nonsense, takes away no key for a day.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use super::{KeySet, KeySetError};
use crate::retry::FailureStreak;
use crate::shutdown::Shutdown;

/// The time between two fetches when no token names an unknown key.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// The shortest time between two fetches.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two fetches while there are no keys yet.
const MIN_FETCH_INTERVAL_WITHOUT_KEYS: Duration = Duration::from_secs(2);
/// The longest time that a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which keys are good when no newer ones are to be had.
const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Explains why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The server cannot be connected to.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The server does not speak HTTP.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// It says something else. Redirections are not followed: they could lead
    /// to where anybody answers.
    #[error("expected the status 200, found {0}")]
    Status(u16),
    /// Its answer breaks off, or does not end.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The server takes longer than a fetch may.
    #[error("no answer in {} s", FETCH_TIMEOUT.as_secs())]
    TooSlow,
    /// What it says is no set of keys.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// The keys that were fetched last. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Fetched {
    latest: Arc<RwLock<Option<Latest>>>,
    wanted: Arc<Notify>,
}

/// Keys, and the time at which they were fetched.
#[derive(Debug, Clone)]
struct Latest {
    keys: Arc<KeySet>,
    at: SystemTime,
}

impl Fetched {
    /// Returns the keys, if there are any that are not too old.
    pub(super) fn current(&self, now: SystemTime) -> Option<Arc<KeySet>> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let latest = latest.as_ref()?;
        // A clock that was set back makes nothing old.
        let age = now.duration_since(latest.at).unwrap_or_default();
        (age <= MAX_KEY_AGE).then(|| Arc::clone(&latest.keys))
    }

    /// Asks for a fetch: somebody has shown a key that is not among them.
    pub(super) fn want(&self) {
        // Remembered once, however many ask.
        self.wanted.notify_one();
    }

    fn replace(&self, keys: KeySet, at: SystemTime) {
        let keys = Arc::new(keys);
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(Latest { keys, at });
    }
}

/// Fetches keys from one URL.
pub(super) struct Fetcher {
    url: Uri,
    tls: TlsConnector,
    fetched: Fetched,
}

impl Fetcher {
    /// Makes a fetcher of a URL that [`jwks_uri`](crate::config::jwks_uri) has passed; `roots`: who must have
    /// certified the server.
    pub(super) fn new(url: Uri, roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            url,
            tls: TlsConnector::from(Arc::new(config)),
            fetched: Fetched::default(),
        })
    }

    /// Returns where the keys are found once they are fetched.
    pub(super) fn fetched(&self) -> Fetched {
        self.fetched.clone()
    }

    /// Fetches until the stop: from time to time, and soon when a key is
    /// missed. Tells `done` of each fetch whether it brought keys.
    pub(super) async fn run(self, done: impl Fn(bool) + Send, shutdown: Shutdown) {
        let mut failures = FailureStreak::default();
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = self.fetch() => outcome,
                () = shutdown.requested() => return,
            };
            done(outcome.is_ok());
            match outcome {
                Ok(keys) => {
                    self.fetched.replace(keys, SystemTime::now());
                    if failures.end().is_some() {
                        info!(url = %self.url, "the issuer's keys are to be had again");
                    }
                }
                Err(error) if failures.is_first() => {
                    warn!(%error, url = %self.url, "the issuer's keys cannot be fetched; those fetched before hold for a day");
                }
                Err(_) => {}
            }
            let apart = match self.fetched.current(SystemTime::now()) {
                Some(_) => MIN_FETCH_INTERVAL,
                None => MIN_FETCH_INTERVAL_WITHOUT_KEYS,
            };
            let asked = async {
                tokio::time::sleep_until(begun + apart).await;
                if failures.failures() == 0 {
                    let _ = timeout(REFRESH_INTERVAL, self.fetched.wanted.notified()).await;
                }
            };
            tokio::select! {
                () = asked => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let text = timeout(FETCH_TIMEOUT, self.get());
        let text = text.await.map_err(|_| FetchError::TooSlow)??;
        Ok(KeySet::parse(&text)?)
    }

    async fn get(&self) -> Result<String, FetchError> {
        let host = self.url.host().unwrap_or_default();
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let secure = self.url.scheme_str() == Some("https");
        let port = self.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((name, port)).await?;
        if !secure {
            return self.ask(stream).await;
        }
        let server = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        let stream = self.tls.connect(server, stream).await?;
        self.ask(stream).await
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<String, FetchError> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let host = self.url.authority().map_or("", |host| host.as_str());
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| FetchError::Body(error.into()))?;
        let answered = async {
            let answer = sender.send_request(request).await?;
            match answer.status().as_u16() {
                200 => {}
                status => return Err(FetchError::Status(status)),
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
            let body = body.await.map_err(FetchError::Body)?;
            String::from_utf8(body.to_bytes().into()).map_err(|e| FetchError::Body(e.into()))
        };
        let mut answered = std::pin::pin!(answered);
        // The connection is driven for as long as the answer needs it, and gone
        // with this future.
        tokio::select! {
            text = &mut answered => text,
            _ = connection => answered.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_good_for_a_day() {
        let fetched = Fetched::default();
        let then = SystemTime::now();
        assert!(fetched.current(then).is_none());
        let x = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let set = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}]}}"#);
        fetched.replace(KeySet::parse(&set).unwrap(), then);
        assert!(fetched.current(then + MAX_KEY_AGE).is_some());
        assert!(fetched.current(then - MAX_KEY_AGE).is_some());
        assert!(
            fetched
                .current(then + MAX_KEY_AGE + Duration::from_secs(1))
                .is_none()
        );
    }
}
