//! Configuration: one typed struct. Later sources win: defaults, a TOML file,
//! environment variables, flags. Every key, with its default and its meaning,
//! is in [`keys::KEYS`].

mod across;
mod auth;
pub mod keys;
mod listeners;
mod load;
mod present;
mod rules;
mod secret;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::event::decode::DEFAULT_SENDER_TYPES;

pub(crate) use auth::jwks_uri;
pub use auth::{Auth, Jwt, Mode};
pub use listeners::Listener;
pub use load::{ConfigError, Loaded, PREFIX, Problem, Source, Sources, load};
pub use present::SecretError;
pub use secret::{Url, redacted};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// RabbitMQ.
    pub bus: Bus,
    /// MongoDB.
    pub store: Store,
    /// What is told apart in the counters.
    pub counters: Counters,
    /// Batching.
    pub lanes: Lanes,
    /// Waiting between tries.
    pub retry: Retry,
    /// Where counters are served.
    pub grpc: Grpc,
    /// Where dead letters and maintenance are served.
    pub admin: Admin,
    /// Where counters are served over HTTP.
    pub http: Http,
    /// Who may ask.
    pub auth: Auth,
    /// The HTTP endpoint for metrics.
    pub metrics: Metrics,
    /// Logs.
    pub log: Log,
    /// Stopping.
    pub shutdown: Shutdown,
    /// Reads from memory.
    pub serving: Serving,
    /// Verifying in the background.
    pub verify: Verify,
    /// Notifications on the bus.
    pub notify: Notify,
}

/// RabbitMQ: where events come from and dead letters go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// Its URL, perhaps with a password.
    pub url: Url,
    /// A file with the URL in its place; empty = none.
    pub url_file: String,
    /// A file with the password for the user of the URL; empty = none.
    pub password_file: String,
    /// Where events are published.
    pub exchange: String,
    /// What of it is consumed.
    pub binding: String,
    /// What is consumed.
    pub queue: String,
    /// Where what cannot be counted goes.
    pub dead_letter_queue: String,
    /// Deliveries in flight at most.
    pub prefetch: u16,
    /// Bytes of deliveries in flight at most.
    pub prefetch_bytes: usize,
    /// Deliveries of one event at most.
    pub delivery_limit: u32,
    /// Largest event.
    pub max_body_bytes: usize,
    /// Silence after which a consumer is looked at.
    pub watchdog_seconds: u64,
    /// Outage of the store after which deliveries are handed back.
    pub hold_seconds: u64,
    /// What to do about events of another tenant than their routing key.
    pub check_tenant: CheckTenant,
    /// TLS, where the URL begins with amqps.
    pub tls: BusTls,
}

/// What to do about an event of another tenant than its routing key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckTenant {
    /// Nothing.
    Off,
    /// Count it, and tell of it.
    #[default]
    Warn,
    /// Refuse it.
    DeadLetter,
}

/// TLS towards RabbitMQ. Empty = none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusTls {
    /// Authorities that are trusted in the place of the public ones.
    pub ca_file: String,
    /// The client's certificate chain.
    pub cert_file: String,
    /// Its private key.
    pub key_file: String,
}

/// MongoDB: where facts and counters live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Its URL, perhaps with a password.
    pub url: Url,
    /// A file with the URL in its place; empty = none.
    pub url_file: String,
    /// A file with the password for the user of the URL; empty = none.
    pub password_file: String,
    /// The database.
    pub database: String,
    /// How long ids of events are kept.
    pub journal_retention_days: u32,
    /// How long it is kept what each commit changed.
    pub commit_retention_hours: u32,
    /// Whether the URL may switch the verification of certificates off.
    pub allow_insecure_tls: bool,
}

/// What is told apart in the counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counters {
    /// Sender types with a count of their own, with commas between.
    pub sender_types: String,
}

/// How events are batched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lanes {
    /// Lanes.
    pub count: usize,
    /// Events in one transaction at most.
    pub batch_events: usize,
    /// Milliseconds between the beginnings of two batches that are not full.
    pub batch_age_ms: u64,
    /// Dialogs that all lanes keep.
    pub cached_dialogs: usize,
    /// Bytes that they take, with the events that are remembered.
    pub cache_bytes: usize,
}

/// Waiting between tries, for the bus and the store alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// First wait.
    pub initial_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
}

/// The gRPC listener for counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// Where it listens.
    pub listen: String,
    /// Largest request and answer.
    pub max_message_bytes: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Age at which a connection is to end.
    pub max_connection_age_seconds: u64,
    /// TLS of its listener.
    pub tls: Tls,
    /// Requests at the same time.
    pub max_concurrent_requests: usize,
    /// Calls a second by one caller; 0 = as many as they like.
    pub calls_per_second: u32,
    /// Deadline of a call without one.
    pub default_deadline_ms: u64,
    /// Longest deadline.
    pub max_deadline_ms: u64,
    /// Whether anybody may ask what there is.
    pub reflection: bool,
}

/// The gRPC listener for dead letters and maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where it listens; empty = off.
    pub listen: String,
    /// Connections at the same time.
    pub max_connections: usize,
    /// TLS of its listener.
    pub tls: Tls,
}

/// The HTTP listener for counters: JSON, server-sent events, gRPC-Web.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens; empty = off.
    pub listen: String,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Pages of which sites may ask, by their origins; `*` = of all.
    pub allowed_origins: String,
    /// TLS of its listener.
    pub tls: Tls,
}

/// TLS of a listener. Empty = none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate chain.
    pub cert_file: String,
    /// Its private key.
    pub key_file: String,
    /// Authorities of the certificates that clients must have.
    pub client_ca_file: String,
}

/// The Prometheus endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Empty = off.
    pub listen: String,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level or directives.
    pub level: String,
    /// auto | human | json
    pub format: String,
}

/// Stopping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long calls are served after the word to stop.
    pub delay_seconds: u64,
    /// How long a stop waits for what is in flight.
    pub drain_seconds: u64,
}

/// Reads from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// In MiB; 0 = all reads are from the store.
    pub memory_mib: u32,
}

impl Default for Serving {
    fn default() -> Self {
        Self { memory_mib: 64 }
    }
}

/// Verifying in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// 0 = off.
    pub interval_seconds: u64,
    /// Dialogs each time.
    pub dialogs: u32,
}

/// Notifications on the bus: messages about counters that have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notify {
    /// Whether any are published, and in which form.
    pub format: NotifyFormat,
    /// Where they are published.
    pub exchange: String,
    /// Memory for those who are notified, in MiB.
    pub memory_mib: u32,
    /// Milliseconds in which the changes of one user become one message.
    pub interval_ms: u64,
    /// Members of a dialog beyond which it, and not each of them, is told of.
    pub fan_out_limit: u32,
    /// Of cloudevents: who the source is.
    pub source: String,
    /// Of chat3: what is added to versions.
    pub chat3_version_offset: i64,
}

/// The form of notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyFormat {
    /// None are published.
    #[default]
    Off,
    /// CloudEvents 1.0, structured JSON.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// What clients of Chat3 get.
    Chat3,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            format: NotifyFormat::default(),
            exchange: "chat_counters_notifications".into(),
            memory_mib: 64,
            interval_ms: 250,
            fan_out_limit: 1_000,
            source: "/chat-counters".into(),
            chat3_version_offset: 0,
        }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
            url_file: String::new(),
            password_file: String::new(),
            exchange: "chat3_events".into(),
            binding: "#".into(),
            queue: "chat_counters".into(),
            dead_letter_queue: "chat_counters.dlq".into(),
            prefetch: 2000,
            prefetch_bytes: 64 << 20,
            delivery_limit: 20,
            max_body_bytes: 1 << 20,
            watchdog_seconds: 30,
            hold_seconds: 60,
            check_tenant: CheckTenant::default(),
            tls: BusTls::default(),
        }
    }
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

impl Default for Counters {
    fn default() -> Self {
        Self {
            sender_types: DEFAULT_SENDER_TYPES.into(),
        }
    }
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

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial_ms: 50,
            max_ms: 5_000,
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:50051".into(),
            max_message_bytes: 1 << 20,
            max_connections: 4_096,
            max_connection_age_seconds: 1_800,
            tls: Tls::default(),
            max_concurrent_requests: 256,
            calls_per_second: 0,
            default_deadline_ms: 5_000,
            max_deadline_ms: 60_000,
            reflection: false,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:50052".into(),
            max_connections: 256,
            tls: Tls::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: String::new(),
            max_connections: 1_000,
            allowed_origins: String::new(),
            tls: Tls::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9090".into(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: "auto".into(),
        }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            interval_seconds: 60,
            dialogs: 5,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay_seconds: 5,
            drain_seconds: 20,
        }
    }
}
