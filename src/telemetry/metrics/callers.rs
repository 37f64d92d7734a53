//! Metrics of callers: their connections, and who they say they are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, seconds_since_epoch};

/// What can come of asking who calls.
const AUTH_OUTCOMES: [&str; 6] = [
    "accepted",
    "missing",
    "invalid",
    "expired",
    "keys_unavailable",
    "denied",
];

/// A listener for calls, by its section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

/// Why a listener did not serve a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    listener: &'static str,
    kind: &'static str,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts connections to the listeners of gRPC and HTTP, and watches their
/// certificates. Listeners are named by their section of the configuration.
/// Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ListenerMetrics {
    /// Connections that are open.
    connections: Family<ListenerLabel, Gauge>,
    /// Connections that were closed before a call could come, by cause.
    refused: Family<RefusalLabel, Counter>,
    /// When the certificate ends, in seconds since the epoch.
    certificates_end: Family<ListenerLabel, Gauge>,
    /// 1 while the files of TLS are not those that it is served with.
    certificates_unusable: Family<ListenerLabel, Gauge>,
}

impl ListenerMetrics {
    /// Counts a connection for as long as it is open.
    pub fn open(&self, listener: &'static str) -> OpenConnection {
        let label = ListenerLabel { listener };
        let open = self.connections.get_or_create_owned(&label);
        open.inc();
        OpenConnection(open)
    }

    /// Counts connections that were not served.
    pub fn refuse(&self, listener: &'static str, kind: &'static str, count: u64) {
        let label = RefusalLabel { listener, kind };
        self.refused.get_or_create(&label).inc_by(count);
    }

    /// Says when the certificate ends, in seconds since the epoch.
    pub fn certificate_ends(&self, listener: &'static str, at: i64) {
        let label = ListenerLabel { listener };
        self.certificates_end.get_or_create(&label).set(at);
    }

    /// Says whether the files of TLS cannot take the place of what was read
    /// before.
    pub fn certificate_unusable(&self, listener: &'static str, is_so: bool) {
        let label = ListenerLabel { listener };
        let unusable = self.certificates_unusable.get_or_create(&label);
        unusable.set(i64::from(is_so));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "Connections that are open to the ports of gRPC and HTTP, by port",
            self.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed before a call could come, by port and cause",
            self.refused.clone(),
        );
        registry.register(
            "certificate_not_after_timestamp_seconds",
            "When the certificate that a port of gRPC or HTTP shows ends, in seconds since the epoch, by port",
            self.certificates_end.clone(),
        );
        registry.register(
            "certificate_unusable",
            "Whether the TLS files of a port of gRPC or HTTP have changed into what cannot be used: 1 if so, else 0, by port",
            self.certificates_unusable.clone(),
        );
    }
}

/// Counts what comes of asking who calls. Clones share the counts.
#[derive(Debug, Clone)]
pub struct AuthMetrics {
    /// gRPC calls by one of [`AUTH_OUTCOMES`].
    calls: Family<Label, Counter>,
    /// 1 while a source of identities cannot be read anew, by source: `tokens`,
    /// `certificates`, `keys`.
    sources_broken: Family<Label, Gauge>,
    /// When the issuer's keys were last fetched, in seconds since the epoch; 0
    /// means never.
    keys_fetched_at: Gauge,
}

impl Default for AuthMetrics {
    fn default() -> Self {
        let calls: Family<Label, Counter> = Family::default();
        // At zero from the start, so that the first one is seen as a rise.
        for kind in AUTH_OUTCOMES {
            drop(calls.get_or_create(&Label { kind }));
        }
        Self {
            calls,
            sources_broken: Family::default(),
            keys_fetched_at: Gauge::default(),
        }
    }
}

impl AuthMetrics {
    /// Counts a call by what came of asking who calls.
    pub fn asked(&self, outcome: &'static str) {
        self.calls.get_or_create(&Label { kind: outcome }).inc();
    }

    /// Says whether a source of identities cannot be read anew.
    pub fn source_broken(&self, source: &'static str, is_so: bool) {
        let gauge = self.sources_broken.get_or_create(&Label { kind: source });
        gauge.set(i64::from(is_so));
    }

    /// Notes that the issuer's keys have just been fetched.
    pub fn keys_fetched(&self) {
        self.keys_fetched_at.set(seconds_since_epoch());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "auth_calls",
            "gRPC calls by what came of asking who calls",
            self.calls.clone(),
        );
        registry.register(
            "auth_sources_broken",
            "Whether a source of identities cannot be read anew, by source: 1 if so, else 0",
            self.sources_broken.clone(),
        );
        registry.register(
            "auth_keys_fetched_timestamp_seconds",
            "When the issuer's keys were last fetched, since the epoch; 0 = never",
            self.keys_fetched_at.clone(),
        );
    }
}
