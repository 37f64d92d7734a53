//! Keys, defaults, documents and sources kept in step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::keys::{self, KEYS};
use super::problem::PREFIX;
use super::{Config, ConfigError, Loaded, Problem, Source, Sources, load};

#[test]
fn the_documented_keys_are_the_keys_and_their_defaults_the_defaults() {
    let serialised = serde_json::to_value(Config::default()).unwrap();
    let mut real = BTreeSet::new();
    leaves("", &serialised, &mut real);
    let documented: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(real, documented);
    assert_eq!(documented.len(), KEYS.len(), "a key is documented twice");

    let file: Config = toml::from_str(&keys::annotated()).unwrap();
    assert_eq!(file, Config::default());
}

/// Collects the names of all values, those of sections within sections too.
fn leaves(of: &str, value: &serde_json::Value, names: &mut BTreeSet<String>) {
    let Some(entries) = value.as_object() else {
        names.insert(of.to_owned());
        return;
    };
    for (name, value) in entries {
        let dot = if of.is_empty() { "" } else { "." };
        leaves(&format!("{of}{dot}{name}"), value, names);
    }
}

#[test]
fn the_table_in_the_documents_is_the_documented_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- config:begin -->\n", "<!-- config:end -->");
    let (before, rest) = document
        .split_once(begin)
        .expect("docs/configuration.md has no config:begin");
    let (table, after) = rest
        .split_once(end)
        .expect("docs/configuration.md has no config:end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let table = keys::markdown();
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            table,
            keys::markdown(),
            "UPDATE_DOCS=1 cargo test brings docs/configuration.md in step"
        );
    }
}

/// A file that is gone when the test is.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let name = format!("chat-counters-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let pair = |(key, value): &(&str, &str)| (format!("{PREFIX}{key}").into(), value.into());
    Sources {
        environment: pairs.iter().map(pair).collect(),
        ..Default::default()
    }
}

fn problems(loaded: Result<Loaded, ConfigError>) -> Vec<Problem> {
    match loaded {
        Err(ConfigError::Problems(problems)) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn later_sources_win() {
    let file = File::new(
        "win",
        "[bus]\nqueue = 'file'\nexchange = 'file'\nbinding = 'file'\n",
    );
    let mut sources = environment(&[("BUS__EXCHANGE", "env"), ("BUS__BINDING", "env")]);
    sources
        .environment
        .push(("CHAT_COUNTERS_CONFIG".into(), "elsewhere".into()));
    sources.file = Some(file.0.clone());
    sources.flags = vec![("bus.binding", "--binding", "flag".into())];
    let Loaded { config, sources } = load(sources).unwrap();
    assert_eq!(
        (config.bus.queue, config.bus.exchange, config.bus.binding),
        ("file".into(), "env".into(), "flag".into())
    );
    assert_eq!(config.bus.prefetch, 2000);
    assert_eq!(sources["bus.binding"], Source::Flag("--binding"));
    assert_eq!(sources["bus.queue"], Source::File(file.0.clone()));
    assert!(!sources.contains_key("bus.prefetch"));
}

#[test]
fn every_key_can_be_set_from_the_environment() {
    for key in KEYS {
        let default = key.default_value();
        let value = default.trim_matches('"');
        let variable = key.variable();
        let sources = Sources {
            environment: vec![((&variable).into(), value.into())],
            ..Default::default()
        };
        let loaded = load(sources).unwrap();
        assert_eq!(loaded.config, Config::default(), "{variable}");
        assert_eq!(loaded.sources[key.name], Source::Variable(variable));
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: &[Row<'_>] = &[
        (
            &[("BUS__PREFETCH", "0")],
            "bus.prefetch",
            "a whole number from 1 to 65535; found 0",
        ),
        (&[("BUS__PREFETCH", "70000")], "bus.prefetch", "found 70000"),
        (
            &[("BUS__PREFETCH", "many")],
            "bus.prefetch",
            "found \"many\"",
        ),
        (
            &[("BUS__URL", "http://u:secret@h")],
            "bus.url",
            "found http://h",
        ),
        (
            &[("STORE__URL", "mongodb+srv://u:secret@h")],
            "store.url",
            "not compiled in",
        ),
        (
            &[("BUS__DEAD_LETTER_QUEUE", "chat_counters")],
            "bus.dead_letter_queue",
            "for both",
        ),
        (
            &[("BUS__URL", "amqp://u:secret@h"), ("BUS__URL_FILE", "/f")],
            "bus.url_file",
            "either it or bus.url; found both (bus.url: environment variable",
        ),
        (
            &[("BUS__TLS__CERT_FILE", "/f")],
            "bus.tls.key_file",
            "go together",
        ),
        (&[("LANES__COUNT", "65")], "lanes.count", "from 1 to 64"),
        (
            &[("LANES__BATCH_EVENTS", "2001")],
            "lanes.batch_events",
            "at most bus.prefetch, which is 2000 (default); found 2001",
        ),
        (
            &[("BUS__PREFETCH", "10")],
            "lanes.batch_events",
            "which is 10 (environment variable CHAT_COUNTERS__BUS__PREFETCH); found 1000",
        ),
        (
            &[("LANES__BATCH_AGE_MS", "-1")],
            "lanes.batch_age_ms",
            "from 0 to 10000",
        ),
        (
            &[("LANES__CACHED_DIALOGS", "0")],
            "lanes.cached_dialogs",
            "from 1",
        ),
        (
            &[("RETRY__INITIAL_MS", "6000")],
            "retry.initial_ms",
            "at most retry.max_ms",
        ),
        (&[("GRPC__LISTEN", "")], "grpc.listen", "host:port"),
        (
            &[("METRICS__LISTEN", "127.0.0.1:50051")],
            "metrics.listen",
            "another address",
        ),
        (
            &[("GRPC__TLS__CERT_FILE", "a.crt")],
            "grpc.tls.key_file",
            "go together",
        ),
        (
            &[
                ("ADMIN__TLS__KEY_FILE", "a.key"),
                ("ADMIN__TLS__CERT_FILE", "a\0.crt"),
            ],
            "admin.tls.cert_file",
            "the path of a file",
        ),
        (&[("LOG__LEVEL", "inof")], "log.level", "found \"inof\""),
        (
            &[("LOG__FORMAT", "xml")],
            "log.format",
            "auto, human or json",
        ),
        (
            &[("STORE__JOURNAL_RETENTION_DAYS", "0")],
            "store.journal_retention_days",
            "36500",
        ),
        (
            &[("BUS__QUEU", "q")],
            "bus.queu",
            "queue, dead_letter_queue",
        ),
        (
            &[("BUSS__QUEUE", "q")],
            "buss.queue",
            "one of the sections bus, bus.tls, store",
        ),
        (&[("QUEUE", "q")], "queue", "one of the sections"),
    ];
    for (pairs, key, words) in rows {
        let problems = problems(load(environment(pairs)));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].key, *key);
        let text = problems[0].to_string();
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn a_file_is_checked_as_a_whole() {
    let file = File::new(
        "whole",
        "bus = 3\nnope = 1\n[store]\nurl = 7\nextra = 'x'\n[grpc]\nlisten = ['a']\n[lanes]\ncount = 1.5\n",
    );
    let sources = Sources {
        file: Some(file.0.clone()),
        ..Default::default()
    };
    let problems = problems(load(sources));
    let mut keys: Vec<&str> = problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "bus",
            "grpc.listen",
            "lanes.count",
            "nope",
            "store.extra",
            "store.url"
        ]
    );
    assert!(
        problems
            .iter()
            .all(|problem| problem.source == Source::File(file.0.clone()))
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_without_quoting_it() {
    let file = File::new("broken", "[bus]\nurl = \"amqp://u:secret@h\n");
    let sources = Sources {
        file: Some(file.0.clone()),
        ..Default::default()
    };
    let text = load(sources).unwrap_err().to_string();
    assert!(
        text.contains("(line 2)") && !text.contains("secret"),
        "{text}"
    );

    let sources = Sources {
        file: Some("/nonexistent/file".into()),
        ..Default::default()
    };
    assert!(
        load(sources)
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/file")
    );
}

#[test]
fn no_password_is_ever_shown() {
    let loaded = load(environment(&[
        ("BUS__URL", "amqp://user:secret@h"),
        (
            "STORE__URL",
            "mongodb://user:secret@h/?tlsCertificateKeyFilePassword=secret",
        ),
    ]))
    .unwrap();
    let json = serde_json::to_string(&loaded.config).unwrap();
    assert!(!json.contains("secret") && !format!("{loaded:?}").contains("secret"));
    assert_eq!(loaded.config.bus.url.expose(), "amqp://user:secret@h");
}
