//! The command line: one file per verb.

mod access;
mod admin;
mod check;
mod completions;
mod config;
mod dlq;
mod exit;
mod get;
mod history;
mod lines;
mod output;
mod progress;
mod publish;
mod rebuild;
mod remote;
mod serve;
mod token;
mod verify;
mod watch;
mod when;

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};

use crate::config::{Loaded, Sources, load};
use crate::shutdown;
use crate::telemetry::log;

pub use exit::ExitCode;
pub(crate) use exit::Failure;
use output::Output;

const AFTER_HELP: &str = "\
Configuration, later sources win:
  1. defaults                 `chat-counters config` prints them all, explained
  2. a TOML file              --config FILE or CHAT_COUNTERS_CONFIG
  3. environment variables    CHAT_COUNTERS__SECTION__KEY, as in
                              CHAT_COUNTERS__BUS__URL, CHAT_COUNTERS__STORE__URL
  4. flags                    --bus-url, --store-url, ...

Exit codes:
  0  done
  1  the answer is no, problems were found, or a part of the work failed
  2  wrong usage or configuration
  3  a server cannot be reached or refuses

Data goes to stdout, everything else to stderr.";

/// Exact chat counters from a RabbitMQ event bus, kept in MongoDB, served over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "chat-counters",
    version,
    long_about = "Exact chat counters (unread badges, members, messages, reactions): consumes the \
                  events of a chat system from RabbitMQ, keeps exact counters in MongoDB and \
                  answers questions about them over gRPC.\n\nTo begin: `chat-counters check` says \
                  whether both servers are as they must be, `chat-counters serve` runs the \
                  service.",
    after_help = AFTER_HELP
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The flags that every command takes.
#[derive(Debug, Args)]
struct Global {
    /// TOML file with the configuration
    #[arg(long, global = true, value_name = "FILE", env = "CHAT_COUNTERS_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,
    /// How data is printed
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    output: Output,
    #[command(flatten)]
    access: access::Access,
    #[command(flatten)]
    overrides: Overrides,
}

/// Flags that override a key of the configuration.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct Overrides {
    /// RabbitMQ, amqp://user:password@host:port/vhost (bus.url); flags are seen by others: with a password, set CHAT_COUNTERS__BUS__URL instead
    #[arg(long, global = true, value_name = "URL")]
    bus_url: Option<String>,
    /// MongoDB, mongodb://user:password@host:port/?replicaSet=name (store.url); with a password, set CHAT_COUNTERS__STORE__URL instead
    #[arg(long, global = true, value_name = "URL")]
    store_url: Option<String>,
    /// Exchange that events are published to (bus.exchange)
    #[arg(long, global = true, value_name = "NAME")]
    exchange: Option<String>,
    /// Queue that is consumed (bus.queue)
    #[arg(long, global = true, value_name = "NAME")]
    queue: Option<String>,
    /// Database of the counters (store.database)
    #[arg(long, global = true, value_name = "NAME")]
    database: Option<String>,
    /// Where counters are served over gRPC (grpc.listen)
    #[arg(long, global = true, value_name = "HOST:PORT")]
    grpc_listen: Option<String>,
    /// Where dead letters and maintenance are served over gRPC, empty = off (admin.listen)
    #[arg(long, global = true, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// Where /metrics and /healthz are served, empty = off (metrics.listen)
    #[arg(long, global = true, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// error, warn, info, debug, trace, off or directives (log.level); commands other than serve only warn unless it is given
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// auto, human or json (log.format)
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Publish(publish::Publish),
    Get(get::Get),
    Watch(watch::Watch),
    History(history::History),
    Explain(history::Explain),
    Check(check::Check),
    Verify(verify::Verify),
    Rebuild(rebuild::Rebuild),
    Dlq(dlq::Dlq),
    Token(token::Token),
    Config(config::Config),
    Completions(completions::Completions),
}

impl Global {
    /// Reads every source and checks every value.
    fn load(&self) -> Result<Loaded, Failure> {
        let Overrides {
            bus_url,
            store_url,
            exchange,
            queue,
            database,
            grpc_listen,
            admin_listen,
            metrics_listen,
            log_level,
            log_format,
        } = &self.overrides;
        let flags = [
            ("bus.url", "--bus-url", bus_url),
            ("store.url", "--store-url", store_url),
            ("bus.exchange", "--exchange", exchange),
            ("bus.queue", "--queue", queue),
            ("store.database", "--database", database),
            ("grpc.listen", "--grpc-listen", grpc_listen),
            ("admin.listen", "--admin-listen", admin_listen),
            ("metrics.listen", "--metrics-listen", metrics_listen),
            ("log.level", "--log-level", log_level),
            ("log.format", "--log-format", log_format),
        ];
        let given = |(key, flag, value): (_, _, &Option<String>)| Some((key, flag, value.clone()?));
        let sources = Sources {
            // Set to nothing is not set: so says every shell script that blanks it.
            file: self
                .config
                .clone()
                .filter(|path| !path.as_os_str().is_empty()),
            environment: std::env::vars_os().collect(),
            flags: flags.into_iter().filter_map(given).collect(),
        };
        Ok(load(sources)?)
    }

    /// As [`load`](Global::load), and starts logging: warnings only, unless
    /// `--log-level` says otherwise.
    fn quietly(&self) -> Result<Loaded, Failure> {
        let loaded = self.load()?;
        let mut logs = loaded.config.log.clone();
        if self.overrides.log_level.is_none() {
            logs.level = "warn".into();
        }
        log::init(&logs);
        Ok(loaded)
    }
}

/// Runs the command; what goes wrong is on stderr when it returns.
pub async fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let done = match command {
        Command::Serve(serve) => serve.run(&global).await,
        Command::Publish(publish) => publish.run(&global).await,
        Command::Get(get) => get.run(&global).await,
        Command::Watch(watch) => watch.run(&global).await,
        Command::History(history) => history.run(&global).await,
        Command::Explain(explain) => explain.run(&global).await,
        Command::Check(check) => check.run(&global).await,
        Command::Verify(verify) => verify.run(&global).await,
        Command::Rebuild(rebuild) => rebuild.run(&global).await,
        Command::Dlq(dlq) => dlq.run(&global).await,
        Command::Token(token) => token.run(),
        Command::Config(config) => config.run(&global),
        Command::Completions(completions) => completions.run(),
    };
    done.unwrap_or_else(|failure| failure.tell())
}

/// Handles SIGTERM and SIGINT from now on: the future ends with the first of them.
fn interruption() -> Result<impl Future<Output = &'static str>, Failure> {
    shutdown::signal()
        .map_err(|error| Failure::new(ExitCode::No, format!("cannot handle signals: {error}")))
}

/// Names who runs this, as the system knows them.
fn operator() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"];
    let name = named.iter().find_map(|name| std::env::var(name).ok());
    format!("cli:{}", name.unwrap_or_else(|| "unknown".into()))
}

/// Says on stderr what went wrong.
pub fn fail(message: &str) -> ExitCode {
    Failure::new(ExitCode::No, message).tell()
}
