//! The section `bus`: RabbitMQ.

use serde::{Deserialize, Serialize};

use super::Url;

/// Settings of RabbitMQ: where events come from and dead letters go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// The URL of the broker, perhaps with a password.
    pub url: Url,
    /// The path of a file with the URL, in the place of `url`; empty means none.
    pub url_file: String,
    /// The path of a file with the password of the URL's user; empty means none.
    pub password_file: String,
    /// The exchange that producers publish events to.
    pub exchange: String,
    /// The pattern by which the queue is bound to the exchange.
    pub binding: String,
    /// The queue that the service consumes.
    pub queue: String,
    /// The queue for events that cannot be counted.
    pub dead_letter_queue: String,
    /// The most deliveries that are in flight at a time.
    pub prefetch: u16,
    /// The most bytes of deliveries that are in flight at a time.
    pub prefetch_bytes: usize,
    /// How often the broker delivers one event before it dead-letters it itself.
    pub delivery_limit: u32,
    /// The size in bytes beyond which an event is dead-lettered unread.
    pub max_body_bytes: usize,
    /// The silence in seconds after which a consumer is checked.
    pub watchdog_seconds: u64,
    /// The outage of the store in seconds after which deliveries are handed back.
    pub hold_seconds: u64,
    /// What to do about an event whose tenant is not that of its routing key.
    pub check_tenant: CheckTenant,
    /// TLS towards the broker, used where the URL begins with `amqps`.
    pub tls: BusTls,
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

/// What to do about an event whose tenant is not that of its routing key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckTenant {
    /// The routing key is not looked at.
    Off,
    /// The event is counted, and the log and a metric tell of it.
    #[default]
    Warn,
    /// The event goes to the dead-letter queue.
    DeadLetter,
}

/// Files for TLS towards RabbitMQ. An empty path means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusTls {
    /// PEM with the authorities that are trusted in the place of the public ones.
    pub ca_file: String,
    /// PEM with the client's certificate and its chain.
    pub cert_file: String,
    /// PEM with the private key of that certificate.
    pub key_file: String,
}
