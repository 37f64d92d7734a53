//! Configuration: one typed struct, each key with its default.

use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub bus: Bus,
    pub store: Store,
    pub lanes: Lanes,
    pub retry: Retry,
    pub grpc: Grpc,
    pub metrics: Metrics,
    pub log: Log,
    pub shutdown: Shutdown,
}

/// RabbitMQ: where events come from and dead letters go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    pub url: String,
    pub exchange: String,
    pub binding: String,
    pub queue: String,
    pub dead_letter_queue: String,
    pub prefetch: u16,
    pub delivery_limit: u32,
    pub max_body_bytes: usize,
    pub watchdog_seconds: u64,
}

/// MongoDB: where facts and counters live.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub url: String,
    pub database: String,
    pub journal_retention_days: u32,
}

/// How events are batched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lanes {
    pub count: usize,
    pub batch_events: usize,
    pub batch_age_ms: u64,
    pub cached_dialogs: usize,
}

/// Waiting between tries, for the bus and the store alike.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    pub initial_ms: u64,
    pub max_ms: u64,
}

/// The gRPC server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    pub listen: String,
    pub max_message_bytes: usize,
    pub max_concurrent_requests: usize,
    pub default_deadline_ms: u64,
    pub max_deadline_ms: u64,
}

/// The Prometheus endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Empty = off.
    pub listen: String,
}

/// Logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: String,
    /// auto | human | json
    pub format: String,
}

/// Stopping.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    pub drain_seconds: u64,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
            exchange: "chat3_events".into(),
            binding: "#".into(),
            queue: "chat_counters".into(),
            dead_letter_queue: "chat_counters.dlq".into(),
            prefetch: 2000,
            delivery_limit: 20,
            max_body_bytes: 1 << 20,
            watchdog_seconds: 30,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "mongodb://127.0.0.1:27017/?replicaSet=rs0".into(),
            database: "chat_counters".into(),
            journal_retention_days: 90,
        }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            count: 2,
            batch_events: 1000,
            batch_age_ms: 20,
            cached_dialogs: 20_000,
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
            max_concurrent_requests: 256,
            default_deadline_ms: 5_000,
            max_deadline_ms: 60_000,
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

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_seconds: 20 }
    }
}
