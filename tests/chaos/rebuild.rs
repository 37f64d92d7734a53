//! Rebuilds while everything breaks: one after the other, many of them killed
//! on the way, and at the end one that must come through.

use std::path::Path;
use std::time::{Duration, Instant};

use chat_counters::config::Config;
use tokio::process::Child;

use super::replica::{BINARY, log_file};
use crate::kit::random::Random;
use crate::kit::service::{Result, command};

/// A rebuild that is not over by then may be killed: milliseconds, at most.
const LATEST_KILL: usize = 6_000;
/// Between two tries, where the first was refused.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Rebuilds {
    pub finished: usize,
    pub killed: usize,
}

/// Rebuilds for so long, and then until one is finished.
///
/// # Errors
/// When that does not happen within the patience.
pub(crate) async fn keep_rebuilding(
    config: &Config,
    log: &Path,
    mut random: Random,
    length: Duration,
    patience: Duration,
) -> Result<Rebuilds> {
    let mut rebuilds = Rebuilds::default();
    let over = Instant::now() + length;
    loop {
        let last = Instant::now() >= over;
        if last && Instant::now() >= over + patience {
            let log = log.display();
            return Err(format!("no rebuild was finished in {patience:?}; see {log}").into());
        }
        let limit = match last {
            true => patience,
            false => Duration::from_millis(random.below(LATEST_KILL) as u64),
        };
        let mut process = begin(config, log)?;
        match tokio::time::timeout(limit, process.wait()).await {
            Ok(Ok(status)) if status.success() => {
                rebuilds.finished += 1;
                if last {
                    return Ok(rebuilds);
                }
            }
            // The lease of one that was killed, or a store that is down.
            Ok(refused) => {
                refused?;
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => {
                process.kill().await?;
                rebuilds.killed += 1;
            }
        }
    }
}

fn begin(config: &Config, log: &Path) -> Result<Child> {
    Ok(command(Path::new(BINARY), config)
        .arg("rebuild")
        .stdout(log_file(log)?)
        .stderr(log_file(log)?)
        .spawn()?)
}
