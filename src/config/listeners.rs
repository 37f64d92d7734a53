//! The sections `grpc`, `admin` and `http`: listeners for calls.

use serde::{Deserialize, Serialize};

use super::Config;

/// Settings of the gRPC listener for counters, and bounds that hold on all listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// The address to listen on, host:port.
    pub listen: String,
    /// The largest request and the largest answer, in bytes.
    pub max_message_bytes: usize,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The age in seconds at which a client is asked to connect anew.
    pub max_connection_age_seconds: u64,
    /// TLS of this listener.
    pub tls: Tls,
    /// The most requests that are answered at a time.
    pub max_concurrent_requests: usize,
    /// The most calls a second by one caller; 0 means no bound.
    pub calls_per_second: u32,
    /// The deadline in milliseconds of a call that brings none.
    pub default_deadline_ms: u64,
    /// The longest deadline in milliseconds that a caller gets.
    pub max_deadline_ms: u64,
    /// Whether this listener answers gRPC reflection.
    pub reflection: bool,
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

/// Settings of the gRPC listener for dead letters and maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The address to listen on, host:port; empty switches it off.
    pub listen: String,
    /// The most connections at a time.
    pub max_connections: usize,
    /// TLS of this listener.
    pub tls: Tls,
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

/// Settings of the HTTP listener for counters: JSON, server-sent events, gRPC-Web.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// The address to listen on, host:port; empty switches it off.
    pub listen: String,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The origins of the sites whose pages may ask, with commas between; `*` allows all.
    pub allowed_origins: String,
    /// TLS of this listener.
    pub tls: Tls,
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

/// Files for TLS of a listener. An empty path means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM with the server's certificate and its chain.
    pub cert_file: String,
    /// PEM with the private key of that certificate.
    pub key_file: String,
    /// PEM with the authorities of the certificates that clients must have.
    pub client_ca_file: String,
}

/// A listener for calls, and the names of the keys that configure it.
#[derive(Debug, Clone, Copy)]
pub struct Listener<'c> {
    /// The section of the configuration.
    pub section: &'static str,
    /// The key of the address.
    pub key: &'static str,
    /// The address to listen on; empty means that it is off.
    pub listen: &'c str,
    /// The files of its TLS.
    pub tls: &'c Tls,
    /// The keys of the certificate, of its private key, and of the clients'
    /// authorities.
    pub tls_keys: [&'static str; 3],
}

macro_rules! listener {
    ($config:ident.$section:ident) => {
        Listener {
            section: stringify!($section),
            key: concat!(stringify!($section), ".listen"),
            listen: &$config.$section.listen,
            tls: &$config.$section.tls,
            tls_keys: [
                concat!(stringify!($section), ".tls.cert_file"),
                concat!(stringify!($section), ".tls.key_file"),
                concat!(stringify!($section), ".tls.client_ca_file"),
            ],
        }
    };
}

impl Config {
    /// Lists all listeners for calls, those that are off included.
    pub fn listeners(&self) -> [Listener<'_>; 3] {
        [
            listener!(self.grpc),
            listener!(self.admin),
            listener!(self.http),
        ]
    }
}
