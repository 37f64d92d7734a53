//! `make chaos`: load on two replicas of the real service, a RabbitMQ cluster
//! and a MongoDB replica set, while a seeded plan kills, freezes, stops, cuts
//! and delays them; then every counter and every dead letter is compared with
//! what an independent model makes of the confirmed events.
//!
//! Exit status 1 when anything differs. Without arguments, as in `make test`,
//! it is one short run.

#![allow(clippy::expect_used, clippy::panic, reason = "the kit is test code")]

#[path = "../kit/mod.rs"]
mod kit;

mod inject;
mod letters;
mod listed;
mod load;
mod plan;
mod proxy;
mod readers;
mod rebuild;
mod refusal;
mod replay;
mod replica;
mod run;
mod settle;
mod stage;
mod table;
mod watchers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chat_counters::shutdown;
use clap::Parser;
use kit::service::Result;
use run::Outcome;
use stage::Stage;

/// Of the seeds looked at, the one with the most kinds of faults in ten seconds.
const SHORT_RUN: u64 = 4;

/// Fault runs on real servers
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The first run's seed; the next runs have the next ones
    #[arg(long, default_value_t = SHORT_RUN)]
    seed: u64,
    /// Runs, one after the other
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Seconds of load and faults in each run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// What `cargo test` gives to every test program to choose from its tests
    #[arg(hide = true)]
    filter: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_chosen = |filter: &String| "chaos".contains(filter.as_str());
    if !arguments.filter.is_empty() && !arguments.filter.iter().any(is_chosen) {
        return ExitCode::SUCCESS;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let interrupted = match shutdown::signal() {
        Ok(signal) => signal,
        Err(error) => panic!("no signals: {error}"),
    };
    // Dropping the runs ends all that they have started.
    tokio::select! {
        exact = runs(&arguments) => match exact {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("chaos could not be run: {error}");
                ExitCode::FAILURE
            }
        },
        signal = interrupted => {
            eprintln!("ended by {signal}");
            ExitCode::FAILURE
        }
    }
}

/// All runs; whether everything was as the model says.
async fn runs(arguments: &Arguments) -> Result<bool> {
    let length = Duration::from_secs(arguments.seconds);
    let mut faults = BTreeMap::new();
    let mut failed = Vec::new();
    let mut stage = None;
    table::head();
    for seed in (arguments.seed..).take(arguments.runs as usize) {
        let logs = logs(seed)?;
        let outcome = match on_stage(&mut stage, seed, length, &logs).await {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{seed:>8} NOT FINISHED: {error}; logs: {}", logs.display());
                failed.push(seed);
                // Servers that are in order again, for the next one.
                stage = None;
                continue;
            }
        };
        table::row(seed, &outcome);
        for (kind, count) in &outcome.faults {
            *faults.entry(*kind).or_default() += count;
        }
        if outcome.differences.is_empty() {
            std::fs::remove_dir_all(&logs)?;
        } else {
            failed.push(seed);
            tell(&outcome, &logs)?;
        }
    }
    table::totals(&faults);
    let (runs, seconds) = (arguments.runs, arguments.seconds);
    println!("{runs} runs, {} not exact", failed.len());
    for seed in &failed {
        println!("again: make chaos ARGS='--seed {seed} --runs 1 --seconds {seconds}'");
    }
    Ok(failed.is_empty())
}

async fn on_stage(
    stage: &mut Option<Stage>,
    seed: u64,
    length: Duration,
    logs: &Path,
) -> Result<Outcome> {
    let stage = match stage {
        Some(stage) => stage,
        None => {
            let began = Instant::now();
            let started = stage.insert(Stage::new(run::REPLICAS).await?);
            eprintln!("servers started in {:.1} s", began.elapsed().as_secs_f64());
            started
        }
    };
    Box::pin(run::play(stage, seed, length, logs)).await
}

/// An empty directory for the logs of a run; they stay where it was not exact.
fn logs(seed: u64) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos/seed-{seed}"));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn tell(outcome: &Outcome, logs: &Path) -> Result<()> {
    const SHOWN: usize = 20;
    std::fs::write(logs.join("differences.txt"), outcome.differences.join("\n"))?;
    for difference in outcome.differences.iter().take(SHOWN) {
        println!("         DIFFERENT {difference}");
    }
    let more = outcome.differences.len().saturating_sub(SHOWN);
    println!("         {more} more; logs: {}", logs.display());
    Ok(())
}
