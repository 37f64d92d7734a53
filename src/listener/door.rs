//! What one connection lives through, from the moment that it is accepted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use futures::{FutureExt as _, Stream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::connection::Connection;
use super::places::Place;
use super::tls::{HANDSHAKE_TIMEOUT, Tls};
use super::{Settings, Speaks, TOLD_EVERY, preface};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// How long a client may take to begin to speak HTTP/2, or HTTP.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to go that has lost its place.
const LEAVING: Duration = Duration::from_secs(5);
/// How long a client of HTTP may leave untaken what was sent to it.
const UNTAKEN: Duration = Duration::from_secs(30);
/// Silence after which the system asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why a connection ended before a server had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All places were taken.
    Full,
    /// It had said nothing yet, and its place went to another.
    GaveWay,
    /// It had no call under way, and its place went to another.
    Idle,
    /// It did not begin to speak HTTP/2 in time.
    Silent,
    /// It went away, or spoke something else than HTTP/2, where that is spoken.
    NotHttp2,
    /// No TLS was agreed on.
    Handshake,
}

impl Refusal {
    pub(super) const ALL: [Refusal; 6] = [
        Refusal::Full,
        Refusal::GaveWay,
        Refusal::Idle,
        Refusal::Silent,
        Refusal::NotHttp2,
        Refusal::Handshake,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::GaveWay => "gave_way",
            Refusal::Idle => "idle",
            Refusal::Silent => "silent",
            Refusal::NotHttp2 => "not_http2",
            Refusal::Handshake => "handshake",
        }
    }
}

/// A stream with one connection in it, which does not end after that.
pub type One = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Ends when a connection is to end.
pub type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the tasks of all connections share.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) settings: Settings,
    tls: Option<Arc<Tls>>,
    /// Of handshakes that failed.
    told: Mutex<Throttle>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Door {
    pub(super) fn new(
        settings: Settings,
        tls: Option<Arc<Tls>>,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            settings,
            tls,
            told: Mutex::new(Throttle::new(TOLD_EVERY)),
            metrics,
            shutdown,
        }
    }

    /// All that a connection lives through.
    pub(super) async fn connection<S, F, E>(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        mut place: Place,
        server: S,
    ) where
        S: Fn(One, End) -> F,
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display,
    {
        let _open = self.metrics.connection_open(self.settings.name);
        let born = Instant::now();
        let welcomed = tokio::select! {
            welcomed = self.welcome(stream, address) => welcomed,
            () = place.lost() => Err(Refusal::GaveWay),
            () = self.shutdown.requested() => return,
        };
        let mut connection = match welcomed {
            Ok(connection) => connection,
            Err(refusal) => return self.refused(refusal),
        };
        connection.is_known_by(place.heard());
        let age = jittered(self.settings.max_age, connection.peer().connection);
        connection.end_at(born + age, self.settings.grace);
        let (alive, gone) = oneshot::channel();
        connection.hold(alive);
        let lost = place.when_lost().shared();
        let end = self.end(born + age, gone, lost.clone());
        let cut = connection.peer().cut.clone();
        let one = stream::once(async { Ok(connection) });
        let one = Box::pin(one.chain(stream::pending()));
        let serving = server(one, Box::pin(end));
        let evicted = async {
            lost.await;
            tokio::time::sleep(LEAVING).await;
            // It was asked to go, and does not.
            cut.now();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                debug!(%address, %error, "a connection failed");
            },
            () = evicted => {}
        }
    }

    /// Brings a connection to where a server can have it.
    async fn welcome(&self, stream: TcpStream, address: SocketAddr) -> Result<Connection, Refusal> {
        // Neither is worth a connection.
        let _ = stream.set_nodelay(true);
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_tcp_keepalive(&keepalive);
        if self.settings.speaks == Speaks::Http {
            // HTTP/1 asks nobody whether they are there, or take what was sent.
            let _ = socket.set_tcp_user_timeout(Some(UNTAKEN));
        }
        let mut connection = match &self.tls {
            None => Connection::new(stream, address, None),
            Some(tls) => {
                let agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
                let (stream, certificate) = match agreed.await {
                    Ok(Ok(agreed)) => agreed,
                    Ok(Err(error)) => {
                        self.not_agreed(address, &error);
                        return Err(Refusal::Handshake);
                    }
                    Err(_) => return Err(Refusal::Silent),
                };
                Connection::new(stream, address, certificate)
            }
        };
        let begun = async {
            match self.settings.speaks {
                Speaks::Http2 => preface::read(&mut connection).await,
                Speaks::Http => preface::read_some(&mut connection).await,
            }
        };
        match tokio::time::timeout(PREFACE_TIMEOUT, begun).await {
            Ok(Ok(bytes)) => Ok(connection.beginning_with(bytes)),
            Ok(Err(_)) => Err(Refusal::NotHttp2),
            Err(_) => Err(Refusal::Silent),
        }
    }

    /// Tells of a client that may be at a loss why it cannot connect.
    fn not_agreed(&self, address: SocketAddr, error: &io::Error) {
        // Whoever looks only whether the port is open says nothing and goes.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = told.pass(Instant::now()) {
            let listener = self.settings.name;
            warn!(listener, %address, %error, times, "no TLS was agreed on with a client");
        }
    }

    /// Ends when a connection has its age, is gone, has lost its place, or the
    /// service stops.
    fn end(
        &self,
        at: Instant,
        gone: oneshot::Receiver<()>,
        lost: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shutdown = self.shutdown.clone();
        async move {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = shutdown.requested() => {}
                _ = gone => {}
                () = lost => {}
            }
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let (name, kind) = (self.settings.name, refusal.as_str());
        self.metrics.connections_refused(name, kind, 1);
    }
}

/// Up to a tenth more or less, so that clients that came together do not all
/// come back together.
fn jittered(age: Duration, seed: u64) -> Duration {
    // Neighbouring numbers are spread evenly by the golden ratio.
    let spread = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let tenths = spread as f64 / f64::from(u32::MAX);
    age.mul_f64(0.9 + 0.2 * tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_over_a_fifth() {
        let hour = Duration::from_secs(3_600);
        let mut ages: Vec<_> = (1..=50).map(|seed| jittered(hour, seed)).collect();
        ages.sort_unstable();
        assert!(ages[0] >= hour.mul_f64(0.9) && ages[49] <= hour.mul_f64(1.1));
        // No gap is wider than a few even shares.
        let widest = ages.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(hour.mul_f64(0.02)), "{widest:?}");
        assert!(ages[49] - ages[0] > hour.mul_f64(0.17));
    }
}
