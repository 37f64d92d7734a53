//! A replica of the service that is killed, frozen, stopped and started again.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chat_counters::config::Config;
use tokio::process::Command;
use tokio::sync::watch;

use crate::kit::service::{Result, Service};

/// The real binary, as cargo built it for this program.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_chat-counters");

/// One replica: one process after the other.
pub(crate) struct Replica {
    config: Config,
    /// What all its processes say.
    log: PathBuf,
    service: Service,
    /// For those who ask whichever process there is.
    url: watch::Sender<String>,
    admin_url: watch::Sender<String>,
}

impl Replica {
    /// Starts the first process, without waiting for anything.
    pub(crate) async fn new(config: Config, log: PathBuf) -> Result<Self> {
        let service = spawn(&config, &log).await?;
        Ok(Self {
            config,
            log,
            url: watch::Sender::new(url(&service)),
            admin_url: watch::Sender::new(admin_url(&service)),
            service,
        })
    }

    /// How it is configured.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it takes events and answers, by itself.
    pub(crate) async fn is_ready(&self) -> bool {
        self.service.is_ready().await
    }

    /// Where it answers counters now.
    pub(crate) fn url(&self) -> String {
        url(&self.service)
    }

    /// Where it answers counters over HTTP now.
    pub(crate) fn http(&self) -> SocketAddr {
        self.service.http
    }

    /// Where it answers counters, from process to process.
    pub(crate) fn urls(&self) -> watch::Receiver<String> {
        self.url.subscribe()
    }

    /// Where it answers dead letters now.
    pub(crate) fn admin_url(&self) -> String {
        admin_url(&self.service)
    }

    /// Where it answers dead letters, from process to process.
    pub(crate) fn admin_urls(&self) -> watch::Receiver<String> {
        self.admin_url.subscribe()
    }

    /// Ends it on the spot.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.end("-KILL").await
    }

    /// Asks it to stop; it must end well.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.end("-TERM").await
    }

    async fn end(&mut self, signal: &str) -> Result<()> {
        self.must_live()?;
        let status = self.service.signal(signal).await?;
        if signal == "-KILL" || status.success() {
            Ok(())
        } else {
            Err(self.said(&format!("ended with {status} when asked to stop")))
        }
    }

    /// Starts it again.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.service = spawn(&self.config, &self.log).await?;
        self.url.send_replace(self.url());
        self.admin_url.send_replace(self.admin_url());
        Ok(())
    }

    /// Stops it from doing anything at all.
    pub(crate) async fn freeze(&mut self) -> Result<()> {
        self.must_live()?;
        self.service.send("-STOP").await
    }

    /// Ends a [`freeze`](Self::freeze).
    pub(crate) async fn wake(&mut self) -> Result<()> {
        self.service.send("-CONT").await
    }

    /// An error when the process has ended by itself.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        match self.service.ended() {
            None => Ok(()),
            Some(status) => Err(self.said(&format!("ended by itself with {status}"))),
        }
    }

    /// Whether the service's own `verify` finds nothing that differs.
    pub(crate) async fn verifies(&self) -> Result<bool> {
        let store = &self.config.store;
        let status = Command::new(BINARY)
            .args(["verify", "--output", "json"])
            .env("CHAT_COUNTERS__STORE__URL", store.url.expose())
            .env("CHAT_COUNTERS__STORE__DATABASE", &store.database)
            .stdin(Stdio::null())
            .stdout(log_file(&self.log)?)
            .stderr(log_file(&self.log)?)
            .status();
        match status.await?.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            code => Err(self.said(&format!("could not verify ({code:?})"))),
        }
    }

    fn said(&self, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("a replica {what}; its log is {}", self.log.display()).into()
    }
}

fn url(service: &Service) -> String {
    format!("http://{}", service.grpc)
}

fn admin_url(service: &Service) -> String {
    format!("http://{}", service.admin)
}

async fn spawn(config: &Config, log: &Path) -> Result<Service> {
    let log = log_file(log)?.into();
    Service::spawn_logging(Path::new(BINARY), config, "info", log).await
}

/// A log to add to.
pub(crate) fn log_file(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(path)?)
}
