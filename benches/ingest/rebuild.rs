//! How fast `chat-counters rebuild` replays a journal, and how fast `verify`
//! recounts what came of it.

use std::process::Stdio;

use serde_json::Value;

use super::process::{Result, Service, config};
use super::{Options, floors, load, publish, service};

/// Members of each dialog. They join in events of their own, for the journal.
const MEMBERS: usize = 20;

/// What was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rebuilt {
    /// Records of the journal replayed a second, from the start of the command
    /// to its end, the switch and the removal of what was old included. The
    /// median of the rounds.
    pub events_per_second: f64,
    /// Messages recounted a second.
    pub verified_per_second: f64,
}

/// A journal of joins and of as many rounds of the mixed load as are measured.
pub(crate) async fn measure(options: &Options) -> Result<Rebuilt> {
    let config = config("rebuild");
    let service = Service::start(service::binary(), &config).await?;
    let mut events = load::joins(options, MEMBERS);
    publish(&config, &events).await?;
    for round in 1..=options.rounds {
        let mixed = load::mixed(options, MEMBERS, round);
        publish(&config, &mixed).await?;
        events.extend(mixed);
    }
    service::drained(&service, events.len()).await?;
    service.stop().await?;

    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        let summary = run(&config, "rebuild").await?;
        let replayed = summary["events"].as_u64().unwrap_or(0);
        if replayed < events.len() as u64 {
            return Err(format!("{replayed} of {} events replayed", events.len()).into());
        }
        rates.push(summary["events_per_second"].as_f64().unwrap_or(0.0));
    }
    rates.sort_by(f64::total_cmp);
    let verified = run(&config, "verify").await?;
    let seconds = verified["seconds"].as_f64().unwrap_or(f64::INFINITY);
    floors::remove(&config).await?;
    Ok(Rebuilt {
        events_per_second: rates[rates.len() / 2],
        verified_per_second: verified["messages"].as_f64().unwrap_or(0.0) / seconds,
    })
}

/// Runs a command of the service to its end; returns its summary.
async fn run(config: &chat_counters::config::Config, command: &str) -> Result<Value> {
    let output = tokio::process::Command::new(service::binary())
        .args([command, "--output", "json"])
        .env("CHAT_COUNTERS__STORE__URL", config.store.url.expose())
        .env("CHAT_COUNTERS__STORE__DATABASE", &config.store.database)
        .stdin(Stdio::null())
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("`{command}` failed: {said}").into());
    }
    let last = String::from_utf8(output.stdout)?;
    let last = last.lines().last().unwrap_or_default();
    let mut report: Value = serde_json::from_str(last)?;
    Ok(report["summary"].take())
}
