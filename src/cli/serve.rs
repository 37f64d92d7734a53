//! `serve`: the service itself.

use clap::Args;

use super::{ExitCode, Failure, Global};
use crate::app::{AppError, Service};
use crate::config::{Loaded, Log, keys};
use crate::failpoint;
use crate::shutdown::Signals;
use crate::telemetry::log;

/// Run the service: consume events, commit counters, answer gRPC
#[derive(Debug, Args)]
#[command(
    long_about = "Runs the service in the foreground: consumes events from the queue (declaring \
                  exchange and queues that are missing), commits their effects, answers gRPC, and \
                  serves /metrics, /livez, /readyz and /healthz.\n\nSIGTERM stops it after \
                  shutdown.delay_seconds, in which it is not ready and serves on, SIGINT at once; \
                  it drains within shutdown.drain_seconds. No event is lost or counted twice, however it ends. \
                  Outages of either server are waited out.",
    after_help = "Examples:\n  \
                  chat-counters serve\n  \
                  chat-counters serve --config /etc/chat-counters.toml --log-format json\n  \
                  CHAT_COUNTERS__BUS__URL=amqps://user:password@rabbit/chat chat-counters serve"
)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let served = async {
            failpoint::armed().map_err(|why| Failure::new(ExitCode::Usage, why))?;
            let signals = Signals::install().map_err(AppError::Signals)?;
            let loaded = global.load()?;
            log::init(&loaded.config.log);
            announce(&loaded);
            let service = Service::build(loaded.config).await?;
            Ok::<_, Failure>(Box::pin(service.run(signals)).await?)
        };
        Ok(match served.await {
            Ok(()) => ExitCode::Done,
            Err(failure) => {
                // Where the configuration says how to log and cannot be read.
                log::init(&Log::default());
                failure.log("the service does not run")
            }
        })
    }
}

/// The first line: what runs, and how it differs from the defaults.
fn announce(loaded: &Loaded) {
    let values = serde_json::to_value(&loaded.config).unwrap_or_default();
    let set: Vec<String> = keys::KEYS
        .iter()
        .filter_map(|key| {
            let source = loaded.sources.get(key.name)?;
            let value = key.value(&values);
            Some(format!("{} = {value} ({source})", key.name))
        })
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = option_env!("CHAT_COUNTERS_COMMIT").unwrap_or("unknown"),
        settings = set.join(", "),
        "chat-counters"
    );
}
