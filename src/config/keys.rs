//! Every key of the configuration: what it may be and what it means. Its default
//! is what [`Config::default`] has. docs/configuration.md and the command
//! `config` are made from here.

use std::fmt::Write as _;

use serde_json::Value;

use super::Config;
use super::rules::{self, Rule};

/// A key of the configuration.
#[derive(Debug)]
pub(crate) struct Key {
    /// `section.key` or `section.part.key`, as in a file.
    pub(crate) name: &'static str,
    /// What a value of it may be.
    pub(super) rule: Rule,
    /// What it means, for people.
    pub(crate) doc: &'static str,
}

impl Key {
    /// Finds the value of this key in a configuration that was serialized.
    /// Texts, numbers and booleans are written the same in JSON and TOML.
    pub(crate) fn value<'v>(&self, config: &'v Value) -> &'v Value {
        self.name.split('.').fold(config, |of, part| &of[part])
    }

    /// Returns the default as TOML, a URL whole.
    pub(crate) fn default_value(&self) -> String {
        let config = Config::default();
        match self.name {
            // Serialized they are redacted, and no start for a file of one's own.
            "bus.url" => Value::from(config.bus.url.expose()).to_string(),
            "store.url" => Value::from(config.store.url.expose()).to_string(),
            // Nothing in a configuration can fail to be serialized.
            _ => self
                .value(&serde_json::to_value(config).unwrap_or_default())
                .to_string(),
        }
    }

    /// Returns the name of the environment variable that sets it.
    #[cfg(test)]
    pub(super) fn variable(&self) -> String {
        let name = self.name.replace('.', "__").to_uppercase();
        format!("{}{name}", super::problem::PREFIX)
    }

    /// Splits the name into the section, which may be a part of another
    /// (`bus.tls`), and the key within it.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

/// Finds the key of a name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(name: &'static str, rule: Rule, doc: &'static str) -> Key {
    Key { name, rule, doc }
}

const fn number(min: i64, max: i64) -> Rule {
    Rule::Integer { min, max }
}

const NAME: Rule = Rule::Text(rules::name);
const FILE: Rule = Rule::Text(rules::file);

/// All keys of the configuration, by section.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    key("bus.url", Rule::Url(rules::amqp_url),
        "RabbitMQ: amqp://user:password@host:port/vhost, amqps for TLS; user and password percent-encoded"),
    key("bus.url_file", FILE,
        "File with the URL, in the place of bus.url; read anew for each connection"),
    key("bus.password_file", FILE,
        "File with the password, plain, for the user of a URL that has none; read anew for each connection"),
    key("bus.exchange", NAME,
        "Topic exchange that events are published to; declared if missing"),
    key("bus.binding", NAME,
        "Binding of the queue to the exchange; # takes every event"),
    key("bus.queue", NAME,
        "Durable quorum queue that the service consumes; declared if missing"),
    key("bus.dead_letter_queue", NAME,
        "Where events go that can never be counted; declared if missing"),
    key("bus.prefetch", number(1, 65_535),
        "Deliveries in flight at most; fewer while they are large"),
    key("bus.prefetch_bytes", number(1 << 20, 1 << 40),
        "Bytes of deliveries in flight at most, and one delivery more; bounds the memory of the service"),
    key("bus.delivery_limit", number(1, 1_000_000),
        "Deliveries of one event before the broker itself dead-letters it: the last resort against an event that crashes the service"),
    key("bus.max_body_bytes", number(1, 128 << 20),
        "Larger events are dead-lettered unread"),
    key("bus.watchdog_seconds", number(1, 86_400),
        "A consumer silent for so long is renewed; restarted, if its queue holds events"),
    key("bus.hold_seconds", number(1, 86_400),
        "When the store takes nothing for so long, deliveries are handed back, and consumed again when it does; less than the broker's consumer timeout"),
    key("bus.check_tenant", Rule::Text(rules::check_tenant),
        "Events whose tenantId is not the tenant of their routing key: off, warn (counted, and told of) or dead_letter"),
    key("bus.tls.ca_file", FILE,
        "PEM file with the authorities that may sign the broker's certificate, in the place of the public ones; TLS files are read anew for each connection"),
    key("bus.tls.cert_file", FILE,
        "PEM file with the client's certificate and its chain; a URL without a user then logs in by it (SASL EXTERNAL)"),
    key("bus.tls.key_file", FILE,
        "PEM file with the private key of that certificate"),
    key("store.url", Rule::Url(rules::mongodb_url),
        "MongoDB, a replica set: mongodb://user:password@host:port,host:port/?replicaSet=name; user and password percent-encoded"),
    key("store.url_file", FILE,
        "File with the URL, in the place of store.url; the store's files are looked at every 5 s, and what is new is taken up"),
    key("store.password_file", FILE,
        "File with the password, plain, for the user of a URL that has none"),
    key("store.database", Rule::Text(rules::database),
        "Database of the counters; created if missing"),
    key("store.journal_retention_days", number(1, 36_500),
        "How long taken events stay in the journal, for read-your-writes and history; what was counted stays counted once after that, too"),
    key("store.commit_retention_hours", number(1, 8_760),
        "How long commit records are kept, which say what each transaction changed"),
    key("store.allow_insecure_tls", Rule::Boolean,
        "Whether the URL may have tlsInsecure or tlsAllowInvalidCertificates, with which anybody can pose as MongoDB"),
    key("counters.sender_types", Rule::Text(rules::sender_types),
        "Sender types with a count of their own, with commas between; any other counts as other. A type must be here before its messages come"),
    key("lanes.count", number(1, 64),
        "Batches committed side by side at most; a second one begins when one at a time is not enough"),
    key("lanes.batch_events", number(1, 65_535),
        "Events in one transaction at most; no more than bus.prefetch"),
    key("lanes.batch_age_ms", number(0, 10_000),
        "How soon a batch that is not full may follow the one before, in milliseconds; after a longer pause an event waits for nothing"),
    key("lanes.cached_dialogs", number(1, 10_000_000),
        "Dialogs whose counters are remembered between batches, by all lanes together"),
    key("lanes.cache_bytes", number(1, 1 << 40),
        "Bytes that all lanes together take to remember dialogs, and what was counted lately"),
    key("retry.initial_ms", number(1, 3_600_000),
        "First wait before trying again, of the bus and the store alike, in milliseconds"),
    key("retry.max_ms", number(1, 3_600_000),
        "Longest wait between tries, in milliseconds; an outage is waited out without an end"),
    key("grpc.listen", Rule::Text(rules::address),
        "Where counters are served over gRPC (CounterService, health), host:port"),
    key("grpc.max_message_bytes", number(1_024, 64 << 20),
        "Largest request and answer"),
    key("grpc.max_connections", number(16, 1_000_000),
        "Connections at the same time, fewer if the process may not have that many descriptors; more are closed at once"),
    key("grpc.max_connection_age_seconds", number(1, 31_536_000),
        "Age at which a client is asked to connect anew, give or take a tenth, on all listeners; its calls go on meanwhile"),
    key("grpc.max_concurrent_requests", number(1, 65_535),
        "Requests answered at the same time; more are refused with RESOURCE_EXHAUSTED. One caller gets half of them at most, the calls about one tenant three quarters"),
    key("grpc.calls_per_second", number(0, 1_000_000),
        "Calls a second that one caller may make (by name, else by address), a second's worth at once; 0 = no bound"),
    key("grpc.default_deadline_ms", number(1, 3_600_000),
        "Deadline of a call that brings none, in milliseconds"),
    key("grpc.max_deadline_ms", number(1, 3_600_000),
        "Longest deadline that a caller gets, in milliseconds"),
    key("grpc.reflection", Rule::Boolean,
        "Whether grpc.listen answers reflection too; admin.listen always does"),
    key("grpc.tls.cert_file", FILE,
        "PEM file with the certificate of grpc.listen and its chain; empty = no TLS. TLS files are looked at every 10 s, and new connections get what has changed"),
    key("grpc.tls.key_file", FILE,
        "PEM file with its private key"),
    key("grpc.tls.client_ca_file", FILE,
        "PEM file with the authorities of clients' certificates; without such a certificate there is no connection then; empty = none is asked for"),
    key("admin.listen", Rule::Text(rules::address_or_off),
        "Where dead letters and maintenance are served over gRPC (DeadLetterService, MaintenanceService, health, reflection), host:port; empty = off"),
    key("admin.max_connections", number(16, 1_000_000),
        "Connections to it at the same time, as grpc.max_connections"),
    key("admin.tls.cert_file", FILE,
        "PEM file with the certificate of admin.listen and its chain; empty = no TLS. As grpc.tls"),
    key("admin.tls.key_file", FILE,
        "PEM file with its private key"),
    key("admin.tls.client_ca_file", FILE,
        "PEM file with the authorities of clients' certificates; without such a certificate there is no connection then; empty = none is asked for"),
    key("http.listen", Rule::Text(rules::address_or_off),
        "Where counters are served over HTTP (JSON, server-sent events, gRPC-Web), host:port; empty = off"),
    key("http.max_connections", number(16, 1_000_000),
        "Connections to it at the same time, as grpc.max_connections; a browser has one for each stream of events unless it comes over TLS"),
    key("http.allowed_origins", Rule::Text(rules::origins),
        "Sites whose pages may ask, as https://chat.example.org, with commas between; * = those of all; empty = of none"),
    key("http.tls.cert_file", FILE,
        "PEM file with the certificate of http.listen and its chain; empty = no TLS. As grpc.tls"),
    key("http.tls.key_file", FILE,
        "PEM file with its private key"),
    key("http.tls.client_ca_file", FILE,
        "PEM file with the authorities of clients' certificates; without such a certificate there is no connection then; empty = none is asked for"),
    key("auth.mode", Rule::Text(super::auth::modes),
        "How callers say who they are: mtls, jwt, token, or several with commas between; none: nobody is asked, and everybody may do everything"),
    key("auth.allow_none", Rule::Boolean,
        "Whether nobody is asked even on an address that other machines reach"),
    key("auth.token_file", Rule::Text(rules::anything),
        "For token: TOML with a [[token]] for each: name, sha256, roles, tenants; reread when it changes. `chat-counters token` makes one"),
    key("auth.mtls_file", Rule::Text(rules::anything),
        "For mtls: TOML with an [[identity]] for each: uri or dns (a name in the client certificate), roles, tenants; reread when it changes"),
    key("auth.jwt.issuer", Rule::Text(rules::anything),
        "For jwt: what iss of a token must be"),
    key("auth.jwt.audience", Rule::Text(rules::anything),
        "For jwt: what aud of a token must name"),
    key("auth.jwt.jwks_file", Rule::Text(rules::anything),
        "For jwt: JSON Web Key Set with the issuer's public keys; reread when it changes"),
    key("auth.jwt.jwks_url", Rule::Text(super::auth::jwks_url),
        "For jwt, in place of the file: where the issuer publishes the set, https; fetched every 5 minutes, and when a key is missing"),
    key("auth.jwt.jwks_ca_file", Rule::Text(rules::anything),
        "For auth.jwt.jwks_url: PEM with the authorities that may certify its server; empty = the public ones"),
    key("auth.jwt.max_lifetime_seconds", number(60, 31_536_000),
        "For jwt: tokens that are valid for longer are refused"),
    key("metrics.listen", Rule::Text(rules::address_or_off),
        "Where /metrics (OpenMetrics), /livez, /readyz and /healthz are served over HTTP, host:port; empty = off"),
    key("log.level", Rule::Text(rules::level),
        "error, warn, info, debug, trace or off; or directives such as info,chat_counters::lane=debug"),
    key("log.format", Rule::Text(rules::format),
        "human, json, or auto: human on a terminal, JSON otherwise"),
    key("shutdown.delay_seconds", number(0, 3_600),
        "How long after SIGTERM the service is not ready and serves on, while callers learn of it; SIGINT, or a second signal, does not wait"),
    key("shutdown.drain_seconds", number(0, 3_600),
        "How long a stop waits for what is in flight; the rest is delivered again"),
    key("serving.memory_mib", number(0, 65_536),
        "What is kept in memory of users and dialogs that are being looked at, at most, in MiB; 0 = every read is from the store"),
    key("verify.interval_seconds", number(0, 31_536_000),
        "How often the service verifies a few dialogs drawn at random, in seconds; 0 = never"),
    key("verify.dialogs", number(1, 10_000),
        "Dialogs verified each time"),
    key("notify.format", Rule::Text(rules::notify_format),
        "Notifications on the bus: off, cloudevents (CloudEvents 1.0 in structured JSON) or chat3 (what clients of Chat3 get)"),
    key("notify.exchange", NAME,
        "Topic exchange that notifications are published to; declared if missing. For Chat3's clients: chat3_updates"),
    key("notify.interval_ms", number(10, 60_000),
        "How often notifications are published, in milliseconds; all that changed about a user in between is one message"),
    key("notify.memory_mib", number(0, 65_536),
        "Memory for users who are notified, in MiB; 0 = each is read from the store every time"),
    key("notify.fan_out_limit", number(0, 10_000_000),
        "A dialog with more members is told of by one notification about itself; of its members those alone are told who did something themselves"),
    key("notify.source", Rule::Text(rules::uri_reference),
        "For cloudevents: the source of all notifications, a URI reference"),
    key("notify.chat3_version_offset", number(0, 1 << 52),
        "For chat3: what is added to statsVersion, so that it goes on above what Chat3 itself has sent; clients drop lower ones"),
];

/// Returns a file with all defaults, each with its meaning.
pub(crate) fn annotated() -> String {
    let mut text = String::from(
        "# Configuration of chat-counters: every key with its default.\n\
         # Later sources win: defaults, this file (--config FILE or CHAT_COUNTERS_CONFIG),\n\
         # environment variables (CHAT_COUNTERS__SECTION__KEY), flags.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.parts();
        if of != section {
            section = of;
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "# {}.", key.doc);
        let rule = key.rule;
        if let Rule::Integer { .. } | Rule::Boolean = rule {
            let _ = writeln!(text, "# {}", rule.expected());
        }
        let _ = writeln!(text, "{name} = {}", key.default_value());
    }
    text
}

/// Returns the table in docs/configuration.md.
#[cfg(test)]
pub(super) fn markdown() -> String {
    let mut text = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    for key in KEYS {
        let Key { name, doc, .. } = key;
        let default = key.default_value();
        let _ = writeln!(text, "| `{name}` | `{default}` | {doc} |");
    }
    text
}
