//! What stands between a TCP port and a gRPC server: who gets a connection, and
//! for how long.
//!
//! The library accepts whatever comes, waits for ever for a client that says
//! nothing, spins when the process has no descriptors left, and ends all
//! connections at the same age. So connections are accepted here, in a number
//! that is bounded, and each is given to a server of its own as soon as its
//! client has said what an HTTP/2 client says first.

mod connection;
pub mod descriptors;
mod places;
mod preface;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use futures::stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

pub use connection::{Connection, Cut, Peer, PeerCertificate};
pub use places::{Place, Places};

/// How long a client may take to begin to speak HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the system asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long accepting rests after an error, at first and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A flood is told of once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What connections get.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The section of the configuration, for logs and metrics.
    pub name: &'static str,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Age at which a connection is asked to end, give or take a tenth.
    pub max_age: Duration,
    /// How long after that it is cut, whatever is under way on it.
    pub grace: Duration,
}

/// A port on which nothing is accepted yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    settings: Settings,
    metrics: Metrics,
}

/// Why a connection ended before a server had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// All places were taken.
    Full,
    /// It had said nothing yet, and its place went to another.
    GaveWay,
    /// It did not begin to speak HTTP/2 in time.
    Silent,
    /// It spoke something else, or went away.
    NotHttp2,
}

impl Refusal {
    const ALL: [Refusal; 4] = [
        Refusal::Full,
        Refusal::GaveWay,
        Refusal::Silent,
        Refusal::NotHttp2,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::GaveWay => "gave_way",
            Refusal::Silent => "silent",
            Refusal::NotHttp2 => "not_http2",
        }
    }
}

impl Listener {
    /// Listens. Port 0 takes a free port.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(listen: &str, settings: Settings, metrics: &Metrics) -> io::Result<Self> {
        let socket = TcpListener::bind(listen).await?;
        for refusal in Refusal::ALL {
            metrics.connections_refused(settings.name, refusal.as_str(), 0);
        }
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            settings,
            metrics: metrics.clone(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until the stop is requested, then waits for those
    /// that are open.
    ///
    /// `server` makes a server for one connection, which comes out of a stream
    /// that goes on without another, and which is to end gently (GOAWAY, and
    /// what is under way goes on) when the future that it gets does.
    pub async fn serve<S, F>(self, server: S, shutdown: Shutdown)
    where
        S: Fn(One, BoxedEnd) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        let places = Places::new(self.settings.max_connections);
        let mut full = Throttle::new(TOLD_EVERY);
        let mut failed = Throttle::new(TOLD_EVERY);
        let mut rest = REST.0;
        let mut tasks = JoinSet::new();
        let door = Arc::new(Door {
            settings: self.settings,
            metrics: self.metrics,
            shutdown: shutdown.clone(),
        });
        loop {
            while let Some(ended) = tasks.try_join_next() {
                told(ended);
            }
            let accepted = tokio::select! {
                () = shutdown.requested() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    door.failed(&mut failed, &error);
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST.1);
                    continue;
                }
            };
            rest = REST.0;
            let (place, was_full) = places.take();
            if was_full {
                door.full(&mut full);
            }
            match place {
                Some(place) => {
                    let (door, server) = (door.clone(), server.clone());
                    tasks.spawn(door.connection(stream, address, place, server));
                }
                None => door.refused(Refusal::Full),
            }
        }
        // Nobody is to wait in the backlog for a server that accepts no more.
        drop(self.socket);
        while let Some(ended) = tasks.join_next().await {
            told(ended);
        }
    }
}

/// A stream with one connection in it, which does not end after that.
pub type One = std::pin::Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Ends when a connection is to end.
pub type BoxedEnd = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the tasks of all connections share.
#[derive(Debug)]
struct Door {
    settings: Settings,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Door {
    /// All that a connection lives through.
    async fn connection<S, F>(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        mut place: Place,
        server: S,
    ) where
        S: Fn(One, BoxedEnd) -> F,
        F: Future<Output = Result<(), tonic::transport::Error>> + Send,
    {
        let _open = self.metrics.connection_open(self.settings.name);
        let born = Instant::now();
        let welcomed = tokio::select! {
            welcomed = welcome(stream, address) => welcomed,
            () = place.lost() => Err(Refusal::GaveWay),
            () = self.shutdown.requested() => return,
        };
        let mut connection = match welcomed {
            Ok(connection) => connection,
            Err(refusal) => return self.refused(refusal),
        };
        place.keep();
        let age = jittered(self.settings.max_age, connection.peer().connection);
        connection.cut_at(born + age + self.settings.grace);
        let (alive, gone) = oneshot::channel();
        connection.hold(alive);
        let end = self.end(born + age, gone);
        let one = stream::once(async { Ok(connection) });
        let one = Box::pin(stream::StreamExt::chain(one, stream::pending()));
        if let Err(error) = server(one, Box::pin(end)).await {
            debug!(%address, %error, "a connection failed");
        }
    }

    /// Ends when a connection has its age, is gone, or the service stops.
    fn end(
        &self,
        at: Instant,
        gone: oneshot::Receiver<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shutdown = self.shutdown.clone();
        async move {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = shutdown.requested() => {}
                _ = gone => {}
            }
        }
    }

    fn refused(&self, refusal: Refusal) {
        let (name, kind) = (self.settings.name, refusal.as_str());
        self.metrics.connections_refused(name, kind, 1);
    }

    fn full(&self, throttle: &mut Throttle) {
        let Settings {
            name,
            max_connections,
            ..
        } = self.settings;
        if let Some(times) = throttle.pass(Instant::now()) {
            warn!(
                listener = name,
                max_connections,
                times,
                "all connections are taken: one that has said nothing yet gives way, else the new one is closed"
            );
        }
    }

    fn failed(&self, throttle: &mut Throttle, error: &io::Error) {
        if let Some(times) = throttle.pass(Instant::now()) {
            let listener = self.settings.name;
            warn!(listener, %error, times, "no connection can be accepted, trying again");
        }
    }
}

/// Brings a connection to where a server can have it.
async fn welcome(stream: TcpStream, address: SocketAddr) -> Result<Connection, Refusal> {
    // Neither is worth a connection.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let mut connection = Connection::plain(stream, address);
    let begun = tokio::time::timeout(PREFACE_TIMEOUT, preface::read(&mut connection));
    match begun.await {
        Ok(Ok(bytes)) => Ok(connection.beginning_with(bytes)),
        Ok(Err(_)) => Err(Refusal::NotHttp2),
        Err(_) => Err(Refusal::Silent),
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

/// Whether an error of accepting is about the connection alone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn told(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        error!(%panic, "a connection's task panicked");
    }
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
