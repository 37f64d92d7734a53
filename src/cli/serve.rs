//! `serve`: the service itself.

use clap::Args;

use super::{ExitCode, Failure, Global};
use crate::app;
use crate::failpoint;
use crate::telemetry::log;

/// Run the service: consume events, commit counters, answer gRPC
#[derive(Debug, Args)]
#[command(
    long_about = "Runs the service in the foreground: consumes events from the queue (declaring \
                  exchange and queues that are missing), commits their effects, answers gRPC, and \
                  serves /metrics and /healthz.\n\nSIGTERM or SIGINT drains and stops it, within \
                  shutdown.drain_seconds. No event is lost or counted twice, however it ends. \
                  Outages of either server are waited out.",
    after_help = "Examples:\n  \
                  chat-counters serve\n  \
                  chat-counters serve --config /etc/chat-counters.toml --log-format json\n  \
                  CHAT_COUNTERS__BUS__URL=amqps://user:password@rabbit/chat chat-counters serve"
)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        failpoint::armed().map_err(|why| Failure::new(ExitCode::Usage, why))?;
        let config = global.load()?.config;
        log::init(&config.log);
        app::run(config).await?;
        Ok(ExitCode::Done)
    }
}
