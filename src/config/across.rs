//! What values of several keys must be together.

use std::collections::BTreeMap;

use super::problem::{Problem, Source};
use super::{Config, NotifyFormat};

/// Finds the values that do not fit together.
pub(super) fn problems(config: &Config, sources: &BTreeMap<&'static str, Source>) -> Vec<Problem> {
    let Config {
        bus,
        store,
        lanes,
        retry,
        grpc,
        metrics,
        ..
    } = config;
    let mut problems = Vec::new();
    // The culprit is whichever of the two is not at its default.
    let mut refuse = |key: &'static str, expected: String, found: String| {
        let source = sources.get(key).cloned().unwrap_or(Source::Default);
        problems.push(Problem {
            key: key.into(),
            source,
            expected,
            found,
        });
    };
    for (url, file, given) in [
        ("bus.url", "bus.url_file", &bus.url_file),
        ("store.url", "store.url_file", &store.url_file),
    ] {
        if !given.is_empty() && sources.contains_key(url) {
            refuse(
                file,
                format!("either it or {url}"),
                format!("both ({url}: {})", sources[url]),
            );
        }
    }
    let notify = &config.notify;
    if notify.format != NotifyFormat::Off && notify.exchange == bus.exchange {
        refuse(
            "notify.exchange",
            "another exchange than bus.exchange, lest notifications come back as events".into(),
            notify.exchange.clone(),
        );
    }
    let of_bus = [
        ("bus.tls.key_file", &bus.tls.key_file, &bus.tls.cert_file),
        ("bus.tls.cert_file", &bus.tls.cert_file, &bus.tls.key_file),
    ];
    let listeners = config.listeners();
    let of_listeners = listeners.iter().flat_map(|listener| {
        let [cert, key, _] = listener.tls_keys;
        let tls = listener.tls;
        [
            (key, &tls.key_file, &tls.cert_file),
            (cert, &tls.cert_file, &tls.key_file),
            (cert, &tls.cert_file, &tls.client_ca_file),
        ]
    });
    for (key, file, other) in of_bus.into_iter().chain(of_listeners) {
        if file.is_empty() && !other.is_empty() {
            let expected =
                "a file: certificate and key go together, and clients' authorities with them";
            refuse(key, expected.into(), "none".into());
        }
    }
    if bus.queue == bus.dead_letter_queue {
        refuse(
            "bus.dead_letter_queue",
            "another queue than bus.queue".into(),
            format!("{:?} for both", bus.queue),
        );
    }
    let mut at_most = |key, value: u64, other: &'static str, limit: u64| {
        if value > limit {
            let from = sources.get(other).unwrap_or(&Source::Default);
            refuse(
                key,
                format!("at most {other}, which is {limit} ({from})"),
                value.to_string(),
            );
        }
    };
    let prefetch = u64::from(bus.prefetch);
    at_most(
        "lanes.batch_events",
        lanes.batch_events as u64,
        "bus.prefetch",
        prefetch,
    );
    at_most(
        "retry.initial_ms",
        retry.initial_ms,
        "retry.max_ms",
        retry.max_ms,
    );
    at_most(
        "grpc.default_deadline_ms",
        grpc.default_deadline_ms,
        "grpc.max_deadline_ms",
        grpc.max_deadline_ms,
    );
    let addresses = listeners.iter().map(|of| (of.key, of.listen));
    let addresses = addresses.chain([("metrics.listen", metrics.listen.as_str())]);
    for (index, (key, address)) in addresses.clone().enumerate() {
        let before = addresses.clone().take(index);
        let mut same = before.filter(|(_, other)| *other == address);
        if let Some((other, _)) = same.next()
            && !address.is_empty()
            && !address.ends_with(":0")
        {
            refuse(
                key,
                format!("another address than {other}"),
                format!("{address:?} for both"),
            );
        }
    }
    problems.extend(super::auth::problems(config, sources));
    problems
}
