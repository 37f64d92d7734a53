//! How fast a replay may go.

use std::time::Duration;

use crate::bus::BusError;
use crate::bus::dead_letters::republish::Republisher;
use crate::rate_limit::RateLimit;

/// The most letters that are sent together.
const MAX_BATCH_LETTERS: usize = 256;
/// How long a replay waits before it looks again how many events wait in the service's
/// queue.
const BRAKE_INTERVAL: Duration = Duration::from_millis(100);
/// At a rate, the letters sent together are those of a second divided by this.
const BATCHES_PER_SECOND: u32 = 10;

/// Bounds of a replay's speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayPace {
    /// The letters sent a second; `None` for as fast as it goes.
    pub rate: Option<u32>,
    /// The number of events that may wait in the service's queue before the replay waits
    /// for live traffic to be counted.
    pub brake_at: u32,
}

impl Default for ReplayPace {
    fn default() -> Self {
        Self {
            rate: None,
            brake_at: 1_000,
        }
    }
}

/// Keeps a replay to its [`ReplayPace`].
#[derive(Debug)]
pub(super) struct ReplayPacer {
    pace: ReplayPace,
    limit: Option<RateLimit>,
}

impl ReplayPacer {
    pub(super) fn new(pace: ReplayPace) -> Self {
        let rate = pace.rate.map(|rate| f64::from(rate.max(1)));
        Self {
            pace,
            // What was not sent while the brake was on is not made up for.
            limit: rate.map(RateLimit::per_second),
        }
    }

    /// How many letters may go together: at a rate those of a tenth of a second, and one
    /// at least.
    pub(super) fn batch(&self) -> usize {
        let rate = self.pace.rate;
        let tenth = rate.map(|rate| (rate / BATCHES_PER_SECOND).max(1) as usize);
        tenth.unwrap_or(MAX_BATCH_LETTERS).min(MAX_BATCH_LETTERS)
    }

    /// Waits until so many letters may go. `false` while too many events wait in the
    /// service's queue: to be asked again.
    ///
    /// # Errors
    /// When the connection to the broker is lost.
    pub(super) async fn wait(
        &mut self,
        republisher: &Republisher,
        letters: usize,
    ) -> Result<bool, BusError> {
        if republisher.waiting_events().await? > self.pace.brake_at {
            tokio::time::sleep(BRAKE_INTERVAL).await;
            return Ok(false);
        }
        if let Some(limit) = &mut self.limit {
            let letters = u32::try_from(letters).unwrap_or(u32::MAX);
            limit.wait_for(letters).await;
        }
        Ok(true)
    }
}
