//! Who may name whom: the rules of `src/lib.rs`, kept.

use std::path::{Path, PathBuf};

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .collect()
}

/// Files below `src` that name a crate, tests and comments aside.
fn naming(krate: &str) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let path = format!("{krate}::");
    let names = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        code.take_while(|line| !line.contains("#[cfg(test)]"))
            .any(|line| line.contains(&path) || line.contains(&format!("use {krate}")))
    };
    let files = sources(&src).into_iter().filter(names);
    let relative = files.map(|file| file.strip_prefix(&src).unwrap().display().to_string());
    relative.collect()
}

#[test]
fn each_library_is_named_in_its_own_module_only() {
    for (krate, home) in [("mongodb", "store"), ("lapin", "bus"), ("backoff", "retry")] {
        let files = naming(krate);
        assert!(
            !files.is_empty(),
            "{krate} is named nowhere: is this test blind?"
        );
        for file in files {
            assert!(file.starts_with(home), "src/{file} names {krate}");
        }
    }
}

#[test]
fn events_deriving_and_histories_are_pure() {
    for krate in ["tokio", "lapin", "mongodb", "tonic"] {
        for file in naming(krate) {
            let pure = ["counter", "event", "derive", "history"];
            let is_pure = pure.iter().any(|module| file.starts_with(module));
            assert!(!is_pure, "src/{file} names {krate}");
        }
    }
}
