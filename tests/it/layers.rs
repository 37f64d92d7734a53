//! Who may know whom: the boundaries between the modules of the library, kept.
//!
//! Modules are tables here, so that whoever draws a new line between two of them
//! does it on purpose. The sources are read as tokens: comments, strings and code
//! for tests do not count, paths in whatever form do.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use source::Named;

/// Each module with those that it names, from the bottom up: none names one below
/// its own row, so there are no circles.
#[rustfmt::skip]
const MODULES: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("failpoint", &[]),
    ("outage", &[]),
    ("pki", &[]),
    ("rate_limit", &[]),
    ("shutdown", &[]),
    ("config", &["event"]),
    ("counter", &["event"]),
    ("derive", &["event"]),
    ("deadletter", &["derive", "event"]),
    ("retry", &["config"]),
    ("telemetry", &["config", "derive", "event"]),
    ("verify", &["counter", "derive", "event"]),
    ("auth", &["config", "event", "retry", "shutdown", "telemetry"]),
    ("bus", &["config", "deadletter", "event", "failpoint", "outage", "pki", "retry", "shutdown", "telemetry"]),
    ("history", &["counter", "derive", "event", "verify"]),
    ("listener", &["config", "pki", "shutdown", "telemetry"]),
    ("probes", &["listener", "shutdown", "telemetry"]),
    ("store", &["config", "counter", "deadletter", "derive", "event", "failpoint", "history", "pki", "retry", "shutdown", "telemetry", "verify"]),
    ("forecast", &["counter", "derive", "event", "store"]),
    ("lane", &["bus", "config", "deadletter", "derive", "event", "failpoint", "outage", "retry", "shutdown", "store", "telemetry"]),
    ("serving", &["event", "failpoint", "shutdown", "store", "telemetry"]),
    ("maintenance", &["config", "derive", "event", "failpoint", "lane", "rate_limit", "retry", "shutdown", "store", "telemetry", "verify"]),
    ("pipeline", &["bus", "config", "deadletter", "event", "failpoint", "lane", "telemetry"]),
    ("redrive", &["bus", "config", "deadletter", "event", "failpoint", "forecast", "outage", "rate_limit", "retry", "shutdown", "store"]),
    ("grpc", &["auth", "config", "counter", "deadletter", "derive", "event", "forecast", "history", "listener", "maintenance", "rate_limit", "redrive", "serving", "shutdown", "store", "telemetry", "verify"]),
    ("notify", &["bus", "config", "derive", "event", "failpoint", "grpc", "lane", "retry", "serving", "shutdown", "store", "telemetry"]),
    ("app", &["auth", "bus", "config", "event", "grpc", "lane", "maintenance", "notify", "outage", "pipeline", "probes", "redrive", "retry", "serving", "shutdown", "store", "telemetry"]),
    ("cli", &["app", "auth", "bus", "config", "deadletter", "derive", "event", "failpoint", "grpc", "listener", "maintenance", "pki", "rate_limit", "redrive", "shutdown", "store", "telemetry"]),
];

/// Libraries that are the concern of few, and whose.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("async_rs", &["bus"]),
    ("axum", &["grpc"]),
    ("backoff", &["retry"]),
    ("clap", &["cli"]),
    ("lapin", &["bus"]),
    ("mongodb", &["store"]),
    ("tonic", &["cli", "grpc", "listener"]),
    ("toml", &["auth", "cli", "config"]),
];

/// Modules that derive, decode and compare, and neither wait nor speak to anybody.
const PURE: &[&str] = &[
    "event",
    "counter",
    "derive",
    "history",
    "verify",
    "deadletter",
    "serving::model",
];

/// What waits or speaks to somebody.
const IMPURE: &[&str] = &["tokio", "lapin", "mongodb", "tonic", "hyper", "axum"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// What is found that `table` does not have, and what it has that is not found.
fn differences(
    table: &[(&str, &[&str])],
    found: &BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (owner, named) in found {
        let row = table.iter().find(|(name, _)| name == owner);
        let allowed = row.map(|(_, allowed)| *allowed).unwrap_or_default();
        for (name, files) in named {
            if name != owner && !allowed.contains(&name.as_str()) {
                differences.push(format!("{owner} names {name} in {files:?}, and may not"));
            }
        }
    }
    for (owner, allowed) in table {
        let named = found.get(*owner);
        for name in *allowed {
            if !named.is_some_and(|named| named.contains_key(*name)) {
                differences.push(format!("{owner} may name {name}, and does not"));
            }
        }
    }
    differences
}

#[test]
fn modules_name_those_that_the_table_has() {
    let named = Named::of_library(&src());
    let differences = differences(MODULES, &named.at_the_top());
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn no_module_names_one_below_its_own_row() {
    for (row, (owner, named)) in MODULES.iter().enumerate() {
        for name in *named {
            let above = MODULES[..row].iter().any(|(module, _)| module == name);
            assert!(above, "{owner} names {name}, which is not above it");
        }
    }
}

#[test]
fn no_modules_within_a_module_go_in_circles() {
    let circles = Named::of_library(&src()).circles();
    assert!(circles.is_empty(), "{circles:#?}");
}

/// By library and module at the top, the modules that name it.
fn libraries(named: &Named) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut libraries: BTreeMap<_, BTreeMap<_, BTreeSet<String>>> = BTreeMap::new();
    for (root, owners) in &named.roots {
        for owner in owners.iter().filter(|owner| !owner.is_empty()) {
            let homes = libraries.entry(root.clone()).or_default();
            homes
                .entry(owner[0].clone())
                .or_default()
                .insert(owner.join("::"));
        }
    }
    libraries
}

#[test]
fn libraries_are_named_by_their_own_modules_only() {
    let mut found = libraries(&Named::of_library(&src()));
    found.retain(|library, _| LIBRARIES.iter().any(|(name, _)| name == library));
    let differences = differences(LIBRARIES, &found);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn the_pure_modules_name_nothing_that_waits_or_speaks() {
    let named = Named::of_library(&src());
    for library in IMPURE {
        let homes = named.roots.get(*library);
        let homes = homes.unwrap_or_else(|| panic!("nobody names {library}: is this blind?"));
        for home in homes.iter().map(|home| home.join("::")) {
            let is_pure = PURE
                .iter()
                .any(|pure| home == *pure || home.starts_with(&format!("{pure}::")));
            assert!(!is_pure, "{home} names {library}");
        }
    }
}

fn names(path: &[&str], text: &str) -> Vec<String> {
    let named = Named::of_text(path, text);
    let paths = named.modules.into_values().flatten();
    paths.map(|path| path.join("::")).collect()
}

#[test]
fn a_name_is_found_in_whatever_form_it_comes() {
    for (path, text, found) in [
        (&["a"][..], "use crate::b;", &["b"][..]),
        (
            &["a"],
            "use crate::{b, c::{d, e}, f as g};",
            &["b", "c::d", "c::e", "f"],
        ),
        (&["a"], "fn f() -> crate::b::C { todo!() }", &["b::C"]),
        (
            &["a"],
            "fn f() { let x = vec![crate::b::new()]; }",
            &["b::new"],
        ),
        (
            &["a"],
            "fn f(x: <crate::b::B as crate::c::C>::D) {}",
            &["b::B", "c::C"],
        ),
        (&["a"], "use super::b;", &["b"]),
        (
            &["a", "x"],
            "use super::super::b; use super::{y, z};",
            &["a::y", "a::z", "b"],
        ),
        (
            &["a"],
            "mod inner { use super::super::b; use super::y; }",
            &["a::y", "b"],
        ),
        (&["a"], "#[cfg(test)] use crate::t; use crate::b;", &["b"]),
        (
            &["a"],
            "#[cfg(test)] mod tests { use crate::t; } fn f() { crate::b(); }",
            &["b"],
        ),
        (
            &["a"],
            "#[cfg(test)] #[path = \"t\"] mod tests; use crate::b;",
            &["b"],
        ),
        (
            &["a"],
            "// use crate::b;\n/// crate::c\nconst T: &str = \"crate::d\";",
            &[],
        ),
    ] {
        assert_eq!(names(path, text), found, "{text}");
    }
}

#[test]
fn a_library_is_found_in_whatever_form_it_comes() {
    for (text, found) in [
        ("use mongodb::bson::doc;", &["mongodb"][..]),
        ("use mongodb;", &["mongodb"]),
        ("fn f(x: &lapin::Channel) {}", &["lapin"]),
        ("fn f() { x::y(); ::tokio::spawn(g()) }", &["tokio", "x"]),
    ] {
        let named = Named::of_text(&["a"], text);
        assert_eq!(named.roots.into_keys().collect::<Vec<_>>(), found, "{text}");
    }
}

#[test]
fn a_circle_is_told_however_long_it_is() {
    let path = |path: &str| -> Vec<String> { path.split("::").map(str::to_owned).collect() };
    let named = |rows: &[(&str, &str)]| {
        let mut named = Named::default();
        for (from, to) in rows {
            named
                .modules
                .entry(path(from))
                .or_default()
                .insert(path(to));
        }
        named.circles()
    };
    assert!(named(&[("a::b", "a::c"), ("a::c::x", "a::d"), ("a::b", "a::d")]).is_empty());
    assert!(
        named(&[("a", "a::b"), ("a::b", "a")]).is_empty(),
        "a module and its own"
    );
    let round = [
        ("a::b", "a::c"),
        ("a::c::x", "a::d"),
        ("a::d", "a::b"),
        ("a::e", "a::b"),
    ];
    assert_eq!(named(&round), ["a: b, c, d"]);
}

#[test]
fn a_forbidden_name_and_a_stale_row_are_told() {
    let named = Named::of_text(&["event"], "use crate::store::Store;");
    let told = differences(&[("event", &["failpoint"])], &named.at_the_top());
    assert_eq!(
        told,
        [
            "event names store in {\"event\"}, and may not",
            "event may name failpoint, and does not",
        ]
    );
}
