//! What stands between a TCP port and a server: who gets a connection, and
//! for how long.
//!
//! The library accepts whatever comes, waits for ever for a client that says
//! nothing, spins when the process has no descriptors left, and ends all
//! connections at the same age. So connections are accepted here, in a number
//! that is bounded, and each is given to a server of its own as soon as its
//! client has said what an HTTP/2 client says first.

mod connection;
pub(crate) mod descriptors;
mod handler;
mod places;
mod preface;
pub(crate) mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::config;
use crate::pki::FileError;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

pub(crate) use connection::{KillSwitch, Peer};
pub(crate) use handler::{EndSignal, SingleConnection};
use places::Admission;
pub(crate) use places::{Activity, Busy, Place, Places};

use handler::{ConnectionHandler, Refusal};
use tls::Tls;

/// The pause of accepting after an error, at first and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The shortest time between two log messages about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The protocol that the clients of a port speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Only HTTP/2, from the first byte on.
    Http2,
    /// Either HTTP/1 or HTTP/2.
    Http,
}

/// The bounds of a listener's connections.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The section of the configuration, for logs and metrics.
    pub name: &'static str,
    /// The protocol that its clients speak.
    pub protocol: Protocol,
    /// The most connections at the same time.
    pub max_connections: usize,
    /// The age at which a connection is asked to end, give or take a tenth.
    pub max_age: Duration,
    /// The time after which it is then cut, whatever is under way on it.
    pub grace: Duration,
}

/// A port on which nothing is accepted yet.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    settings: Settings,
    tls: Option<Arc<Tls>>,
    metrics: Metrics,
}

/// Explains why a port is not listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("{key}.listen: cannot listen on {listen}: {reason}")]
    Bind {
        /// The section of the configuration.
        key: &'static str,
        /// The address as configured.
        listen: String,
        /// The error of the system.
        #[source]
        reason: io::Error,
    },
    /// A file of its TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] FileError),
}

impl Listener {
    /// Listens. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(crate) async fn bind(
        listener: &config::Listener<'_>,
        settings: Settings,
        metrics: &Metrics,
    ) -> Result<Self, ListenError> {
        let failed = |reason| ListenError::Bind {
            key: listener.section,
            listen: listener.listen.to_owned(),
            reason,
        };
        let tls = Tls::load(listener, metrics).await?;
        let socket = TcpListener::bind(listener.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        for refusal in Refusal::ALL {
            metrics.listeners.refuse(settings.name, refusal.as_str(), 0);
        }
        Ok(Self {
            address,
            socket,
            settings,
            tls: tls.map(Arc::new),
            metrics: metrics.clone(),
        })
    }

    /// Returns the address on which it listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until the stop is requested, then waits for those
    /// that are open.
    ///
    /// `server` makes a server for one connection, which comes out of a stream
    /// that goes on without another, and which is to end gently (GOAWAY, and
    /// what is under way goes on) when the future that it gets does.
    pub(crate) async fn serve<S, F, E>(self, server: S, shutdown: Shutdown)
    where
        S: Fn(SingleConnection, EndSignal) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let places = Places::new(self.settings.max_connections);
        let mut full = Throttle::new(LOG_INTERVAL);
        let mut failed = Throttle::new(LOG_INTERVAL);
        let mut rest = ACCEPT_PAUSE.0;
        let mut tasks = JoinSet::new();
        if let Some(tls) = &self.tls {
            tokio::spawn(tls.clone().watch(self.metrics.clone(), shutdown.clone()));
        }
        let handler =
            ConnectionHandler::new(self.settings, self.tls, self.metrics, shutdown.clone());
        let handler = Arc::new(handler);
        loop {
            while let Some(ended) = tasks.try_join_next() {
                log_panic(ended);
            }
            let accepted = tokio::select! {
                () = shutdown.requested() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tell_failed(&handler.settings, &mut failed, &error);
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(ACCEPT_PAUSE.1);
                    continue;
                }
            };
            rest = ACCEPT_PAUSE.0;
            let (place, admission) = places.take();
            if admission != Admission::Free {
                tell_full(&handler.settings, &mut full);
            }
            if admission == Admission::ReplacedIdle {
                handler.refused(Refusal::Idle);
            }
            match place {
                Some(place) => {
                    let (handler, server) = (handler.clone(), server.clone());
                    tasks.spawn(handler.connection(stream, address, place, server));
                }
                None => handler.refused(Refusal::Full),
            }
        }
        // Nobody is to wait in the backlog for a server that accepts no more.
        drop(self.socket);
        while let Some(ended) = tasks.join_next().await {
            log_panic(ended);
        }
    }
}

fn tell_full(settings: &Settings, throttle: &mut Throttle) {
    let Settings {
        name,
        max_connections,
        ..
    } = settings;
    if let Some(times) = throttle.pass(Instant::now()) {
        warn!(
            listener = name,
            max_connections,
            times,
            "all connections are taken: one that has said nothing gives way, else one with no call under way, else the new one is closed"
        );
    }
}

fn tell_failed(settings: &Settings, throttle: &mut Throttle, error: &io::Error) {
    if let Some(times) = throttle.pass(Instant::now()) {
        let listener = settings.name;
        warn!(listener, %error, times, "no connection can be accepted, trying again");
    }
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

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        error!(%panic, "a connection's task panicked");
    }
}
