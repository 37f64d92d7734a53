//! What values of several keys must be together.

use std::collections::BTreeMap;

use super::Config;
use super::load::{Problem, Source};

/// Everything that does not fit together.
pub(super) fn problems(config: &Config, sources: &BTreeMap<&'static str, Source>) -> Vec<Problem> {
    let Config {
        bus,
        store,
        lanes,
        retry,
        grpc,
        admin,
        http,
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
    for (key, file, other) in [
        ("bus.tls.key_file", &bus.tls.key_file, &bus.tls.cert_file),
        ("bus.tls.cert_file", &bus.tls.cert_file, &bus.tls.key_file),
        ("grpc.tls.key_file", &grpc.tls.key_file, &grpc.tls.cert_file),
        (
            "grpc.tls.cert_file",
            &grpc.tls.cert_file,
            &grpc.tls.key_file,
        ),
        (
            "grpc.tls.cert_file",
            &grpc.tls.cert_file,
            &grpc.tls.client_ca_file,
        ),
        (
            "admin.tls.key_file",
            &admin.tls.key_file,
            &admin.tls.cert_file,
        ),
        (
            "admin.tls.cert_file",
            &admin.tls.cert_file,
            &admin.tls.key_file,
        ),
        (
            "admin.tls.cert_file",
            &admin.tls.cert_file,
            &admin.tls.client_ca_file,
        ),
        ("http.tls.key_file", &http.tls.key_file, &http.tls.cert_file),
        (
            "http.tls.cert_file",
            &http.tls.cert_file,
            &http.tls.key_file,
        ),
        (
            "http.tls.cert_file",
            &http.tls.cert_file,
            &http.tls.client_ca_file,
        ),
    ] {
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
    let listeners = [
        ("grpc.listen", &grpc.listen),
        ("admin.listen", &admin.listen),
        ("http.listen", &http.listen),
        ("metrics.listen", &metrics.listen),
    ];
    for (index, (key, address)) in listeners.into_iter().enumerate() {
        let before = listeners.iter().take(index);
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
