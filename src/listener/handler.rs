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
use super::{LOG_INTERVAL, Protocol, Settings, preface};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// The longest time that a client may take to begin to speak HTTP/2, or HTTP.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that a connection may take to go once it has lost its place.
const EVICTION_GRACE: Duration = Duration::from_secs(5);
/// The longest time that a client of HTTP may leave unacknowledged what was sent to it.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);
/// The silence after which the system asks whether the other side is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Explains why a connection ended before a server had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All places were taken, and none could be taken away.
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

    /// Returns the label of the metric.
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
pub(crate) type SingleConnection = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Ends when a connection is to end.
pub(crate) type EndSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Handles connections: what the tasks of all of them share.
#[derive(Debug)]
pub(super) struct ConnectionHandler {
    pub(super) settings: Settings,
    tls: Option<Arc<Tls>>,
    /// Keeps the log of failed handshakes short.
    handshake_log: Mutex<Throttle>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl ConnectionHandler {
    pub(super) fn new(
        settings: Settings,
        tls: Option<Arc<Tls>>,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            settings,
            tls,
            handshake_log: Mutex::new(Throttle::new(LOG_INTERVAL)),
            metrics,
            shutdown,
        }
    }

    /// Handles a connection from the moment that it is accepted to its end.
    pub(super) async fn connection<S, F, E>(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        mut place: Place,
        server: S,
    ) where
        S: Fn(SingleConnection, EndSignal) -> F,
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display,
    {
        let _open = self.metrics.listeners.open(self.settings.name);
        let born = Instant::now();
        let established = tokio::select! {
            established = self.establish(stream, address) => established,
            () = place.lost() => Err(Refusal::GaveWay),
            () = self.shutdown.requested() => return,
        };
        let mut connection = match established {
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
        let kill_switch = connection.peer().kill_switch.clone();
        let one = stream::once(async { Ok(connection) });
        let one = Box::pin(one.chain(stream::pending()));
        let serving = server(one, Box::pin(end));
        let evicted = async {
            lost.await;
            tokio::time::sleep(EVICTION_GRACE).await;
            // It was asked to go, and does not.
            kill_switch.trigger();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                debug!(%address, %error, "a connection failed");
            },
            () = evicted => {}
        }
    }

    /// Brings a connection to where a server can have it: TLS is agreed on, and the
    /// client has begun to speak.
    async fn establish(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Connection, Refusal> {
        // Neither is worth a connection.
        let _ = stream.set_nodelay(true);
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_tcp_keepalive(&keepalive);
        if self.settings.protocol == Protocol::Http {
            // HTTP/1 asks nobody whether they are there, or take what was sent.
            let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
        }
        let mut connection = match &self.tls {
            None => Connection::new(stream, address, None),
            Some(tls) => {
                let agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
                let (stream, certificate) = match agreed.await {
                    Ok(Ok(agreed)) => agreed,
                    Ok(Err(error)) => {
                        self.log_failed_handshake(address, &error);
                        return Err(Refusal::Handshake);
                    }
                    Err(_) => return Err(Refusal::Silent),
                };
                Connection::new(stream, address, certificate)
            }
        };
        let begun = async {
            match self.settings.protocol {
                Protocol::Http2 => preface::read(&mut connection).await,
                Protocol::Http => preface::read_some(&mut connection).await,
            }
        };
        match tokio::time::timeout(PREFACE_TIMEOUT, begun).await {
            Ok(Ok(bytes)) => Ok(connection.beginning_with(bytes)),
            Ok(Err(_)) => Err(Refusal::NotHttp2),
            Err(_) => Err(Refusal::Silent),
        }
    }

    /// Tells of a client that may be at a loss why it cannot connect.
    fn log_failed_handshake(&self, address: SocketAddr, error: &io::Error) {
        // Whoever looks only whether the port is open says nothing and goes.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return;
        }
        let mut throttle = self
            .handshake_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = throttle.pass(Instant::now()) {
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

    /// Counts a connection that was refused.
    pub(super) fn refused(&self, refusal: Refusal) {
        let (name, kind) = (self.settings.name, refusal.as_str());
        self.metrics.listeners.refuse(name, kind, 1);
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
