//! TLS of a listener, renewed while it serves.
//!
//! Files are looked at every few seconds by what is in them: secrets of an
//! orchestrator change by a symbolic link, which no watcher of a file sees. Each
//! change makes a configuration from nothing, since one that shares the sessions
//! of the last would resume those of clients whose authority is gone.

mod files;

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};

use super::connection::PeerCertificate;
use super::places::Places;
use crate::config;
use crate::pki::{Certificate, FileError};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use files::Files;

/// The longest time that a handshake may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at the same time, from the client's first message on. The oldest
/// gives way: those who only begin one cannot keep others out.
const MAX_HANDSHAKES: usize = 256;
/// The time between two looks at the files.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The TLS configuration of a listener, and the files that it is made of.
#[derive(Debug)]
pub(crate) struct Tls {
    files: Files,
    /// What was in the files when they were read.
    fingerprint: [u8; 32],
    current: RwLock<Arc<ServerConfig>>,
    handshakes: Places,
}

/// A TLS configuration that was read from files.
#[derive(Debug)]
pub(crate) struct LoadedTls {
    config: ServerConfig,
    /// The server's own certificate.
    pub certificate: Certificate,
    not_after: OffsetDateTime,
}

/// Reads the files of a listener, and says what certificate it will show; none
/// without TLS.
///
/// # Errors
/// What is wrong with which file.
pub(crate) async fn inspect(
    listener: &config::Listener<'_>,
) -> Result<Option<Certificate>, FileError> {
    match Files::of(listener) {
        Some(files) => Ok(Some(files.load().await?.certificate)),
        None => Ok(None),
    }
}

impl Tls {
    /// Reads the files of a listener; none without TLS.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) async fn load(
        listener: &config::Listener<'_>,
        metrics: &Metrics,
    ) -> Result<Option<Self>, FileError> {
        let Some(files) = Files::of(listener) else {
            return Ok(None);
        };
        let fingerprint = files.fingerprint().await;
        let loaded = files.load().await?;
        loaded.told(files.section, metrics);
        Ok(Some(Self {
            files,
            fingerprint,
            current: RwLock::new(Arc::new(loaded.config)),
            handshakes: Places::new(MAX_HANDSHAKES),
        }))
    }

    /// Agrees with a client, and says which certificate it has proved to be its
    /// own, if one was asked for.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Handshaken> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let (Some(mut place), _) = self.handshakes.take() else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        let config = self.current();
        let stream = tokio::select! {
            stream = hello.into_stream(config) => stream?,
            () = place.lost() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let certificate = certificate(&stream)?;
        Ok((stream, certificate))
    }

    fn current(&self) -> Arc<ServerConfig> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files until the stop is requested. What is of no use does
    /// not take the place of what was.
    pub(super) async fn watch(self: Arc<Self>, metrics: Metrics, shutdown: Shutdown) {
        let section = self.files.section;
        let mut seen = self.fingerprint;
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = shutdown.requested() => return,
            }
            let now = self.files.fingerprint().await;
            if now == seen {
                continue;
            }
            seen = now;
            match self.files.load().await {
                Ok(loaded) => {
                    loaded.told(section, &metrics);
                    info!(
                        listener = section,
                        certificate = loaded.certificate.subject,
                        valid_until = loaded.certificate.not_after,
                        "TLS files have changed, new connections get the new ones"
                    );
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(loaded.config);
                }
                Err(error) => {
                    metrics.listeners.certificate_unusable(section, true);
                    error!(listener = section, %error, "TLS files have changed and cannot be used, the old ones are kept");
                }
            }
        }
    }
}

impl LoadedTls {
    fn told(&self, section: &'static str, metrics: &Metrics) {
        metrics
            .listeners
            .certificate_ends(section, self.not_after.unix_timestamp());
        metrics.listeners.certificate_unusable(section, false);
        if let Some(soon) = self.certificate.ends_soon() {
            warn!(listener = section, "{soon}");
        }
    }
}

/// A client that TLS is spoken with, and its certificate.
type Handshaken = (TlsStream<TcpStream>, Option<Arc<PeerCertificate>>);

fn certificate(stream: &TlsStream<TcpStream>) -> io::Result<Option<Arc<PeerCertificate>>> {
    let (_, session) = stream.get_ref();
    let Some(chain) = session.peer_certificates() else {
        return Ok(None);
    };
    // What cannot be read says of nobody who they are.
    let own = chain.first().and_then(|own| files::parsed(own));
    own.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(Arc::new(PeerCertificate {
        chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
    })))
}
