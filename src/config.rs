//! Configuration: one typed struct. Later sources win: defaults, a TOML file,
//! environment variables, flags.
//!
//! Defaults are in the `Default` of each section, and nowhere else; what each
//! key may be and what it means is in `keys.rs`.

mod across;
mod auth;
mod bus;
pub(crate) mod keys;
mod listeners;
mod load;
mod notify;
mod present;
mod problem;
mod rules;
mod secret;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::event::decode::DEFAULT_SENDER_TYPES;

pub(crate) use auth::jwks_uri;
pub use auth::{Auth, Jwt, Mode};
pub use bus::{Bus, BusTls, CheckTenant};
pub use listeners::{Admin, Grpc, Http, Listener, Tls};
pub use load::{ConfigError, Loaded, Sources, load};
pub use notify::{Notify, NotifyFormat};
pub use present::SecretError;
pub use problem::{Problem, Source};
pub use secret::Url;
pub(crate) use secret::redacted;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// RabbitMQ: where events come from.
    pub bus: Bus,
    /// MongoDB: where counters live.
    pub store: Store,
    /// What is told apart in the counters.
    pub counters: Counters,
    /// How events are batched.
    pub lanes: Lanes,
    /// How long to wait between tries.
    pub retry: Retry,
    /// The gRPC listener for counters.
    pub grpc: Grpc,
    /// The gRPC listener for dead letters and maintenance.
    pub admin: Admin,
    /// The HTTP listener for counters.
    pub http: Http,
    /// Who may call.
    pub auth: Auth,
    /// The HTTP endpoint for metrics and probes.
    pub metrics: Metrics,
    /// What is logged, and how.
    pub log: Log,
    /// How the service stops.
    pub shutdown: Shutdown,
    /// Reads from memory.
    pub serving: Serving,
    /// Verification in the background.
    pub verify: Verify,
    /// Notifications on the bus.
    pub notify: Notify,
}

/// Settings of MongoDB, where facts and counters live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The URL of the replica set, perhaps with a password.
    pub url: Url,
    /// The path of a file with the URL, in the place of `url`; empty means none.
    pub url_file: String,
    /// The path of a file with the password of the URL's user; empty means none.
    pub password_file: String,
    /// The name of the database.
    pub database: String,
    /// How long the journal keeps events, in days.
    pub journal_retention_days: u32,
    /// How long commit records are kept, in hours.
    pub commit_retention_hours: u32,
    /// Whether the URL may switch the verification of certificates off.
    pub allow_insecure_tls: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "mongodb://127.0.0.1:27017/?replicaSet=rs0".into(),
            url_file: String::new(),
            password_file: String::new(),
            database: "chat_counters".into(),
            journal_retention_days: 90,
            commit_retention_hours: 24,
            allow_insecure_tls: false,
        }
    }
}

/// What is told apart in the counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counters {
    /// The sender types with a count of their own, with commas between.
    pub sender_types: String,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            sender_types: DEFAULT_SENDER_TYPES.into(),
        }
    }
}

/// How events are batched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lanes {
    /// The most batches that are committed side by side.
    pub count: usize,
    /// The most events in one transaction.
    pub batch_events: usize,
    /// The least time in milliseconds between the beginnings of two batches that are not
    /// full.
    pub batch_age_ms: u64,
    /// The most dialogs that all lanes together remember.
    pub cached_dialogs: usize,
    /// The most bytes that all lanes together take to remember dialogs and events.
    pub cache_bytes: usize,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            count: 2,
            batch_events: 1000,
            batch_age_ms: 8,
            cached_dialogs: 20_000,
            cache_bytes: 64 << 20,
        }
    }
}

/// How long to wait between tries, for the bus and the store alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The first wait, in milliseconds.
    pub initial_ms: u64,
    /// The longest wait, in milliseconds.
    pub max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial_ms: 50,
            max_ms: 5_000,
        }
    }
}

/// The HTTP endpoint for Prometheus and probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The address to listen on, host:port; empty switches it off.
    pub listen: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9090".into(),
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives for single modules.
    pub level: String,
    /// `auto`, `human` or `json`.
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: "auto".into(),
        }
    }
}

/// How the service stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long calls are still served after the signal to stop, in seconds.
    pub delay_seconds: u64,
    /// How long a stop waits for what is in flight, in seconds.
    pub drain_seconds: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay_seconds: 5,
            drain_seconds: 20,
        }
    }
}

/// Reads from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// The memory in MiB for users and dialogs that are looked at; 0 reads everything from
    /// the store.
    pub memory_mib: u32,
}

impl Default for Serving {
    fn default() -> Self {
        Self { memory_mib: 64 }
    }
}

/// Verification in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// How often it is done, in seconds; 0 switches it off.
    pub interval_seconds: u64,
    /// The number of dialogs, drawn at random, each time.
    pub dialogs: u32,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            interval_seconds: 60,
            dialogs: 5,
        }
    }
}
