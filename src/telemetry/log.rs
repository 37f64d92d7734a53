//! Logs, on stderr: for people on a terminal, JSON otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config;

/// Starts logging. Calling it again changes nothing.
pub(crate) fn init(log: &config::Log) {
    // lapin logs as errors what the service expects and handles; naming it in
    // the level brings its words back.
    let level = match log.level.contains("lapin") {
        true => log.level.clone(),
        false => format!("{},lapin=off", log.level),
    };
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let human = match log.format.as_str() {
        "human" => true,
        "json" => false,
        _ => terminal,
    };
    // An error says that someone (a test) has started logging already.
    let _ = if human {
        builder.with_ansi(terminal).with_target(false).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    };
}
