//! A replica of the service that is killed, frozen, stopped and started again.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use chat_counters::config::Config;

use crate::kit::service::{Result, Service};

/// One replica: one process after the other.
pub struct Replica {
    config: Config,
    /// What all its processes say.
    log: PathBuf,
    service: Service,
}

impl Replica {
    /// Starts the first process, without waiting for anything.
    pub async fn new(config: Config, log: PathBuf) -> Result<Self> {
        let service = spawn(&config, &log).await?;
        Ok(Self {
            config,
            log,
            service,
        })
    }

    /// How it is configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it takes events and answers, by itself.
    pub async fn is_ready(&self) -> bool {
        self.service.is_ready().await
    }

    /// Where it answers gRPC now.
    pub fn url(&self) -> String {
        format!("http://{}", self.service.grpc)
    }

    /// Ends it on the spot.
    pub async fn kill(&mut self) -> Result<()> {
        self.end("-KILL").await
    }

    /// Asks it to stop; it must end well.
    pub async fn stop(&mut self) -> Result<()> {
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
    pub async fn start(&mut self) -> Result<()> {
        self.service = spawn(&self.config, &self.log).await?;
        Ok(())
    }

    /// Stops it from doing anything at all.
    pub async fn freeze(&mut self) -> Result<()> {
        self.must_live()?;
        self.service.send("-STOP").await
    }

    /// Ends a [`freeze`](Self::freeze).
    pub async fn wake(&mut self) -> Result<()> {
        self.service.send("-CONT").await
    }

    /// An error when the process has ended by itself.
    pub fn must_live(&mut self) -> Result<()> {
        match self.service.ended() {
            None => Ok(()),
            Some(status) => Err(self.said(&format!("ended by itself with {status}"))),
        }
    }

    fn said(&self, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("a replica {what}; its log is {}", self.log.display()).into()
    }
}

async fn spawn(config: &Config, log: &Path) -> Result<Service> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_chat-counters"));
    Service::spawn_logging(binary, config, "info", log.into()).await
}
