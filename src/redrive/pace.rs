//! How fast a replay may go.

use std::time::Duration;

use crate::bus::BusError;
use crate::bus::dead_letters::republish::Republisher;
use crate::rate_limit::RateLimit;

/// Letters sent together at most.
const MOST: usize = 256;
/// How often the length of the service's queue is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Parts of a second that a rate is divided into.
const PARTS: u32 = 10;

/// Bounds of a replay's speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Letters a second; `None`: as fast as it goes.
    pub rate: Option<u32>,
    /// Events that may wait in the service's queue before the replay waits for
    /// live traffic to be counted.
    pub brake_at: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rate: None,
            brake_at: 1_000,
        }
    }
}

/// Keeps to a [`Pace`].
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    limit: Option<RateLimit>,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        let rate = pace.rate.map(|rate| f64::from(rate.max(1)));
        Self {
            pace,
            // What was not sent while the brake was on is not made up for.
            limit: rate.map(RateLimit::per_second),
        }
    }

    /// How many letters may go together: a tenth of a second's, but one.
    pub(super) fn batch(&self) -> usize {
        let tenth = self.pace.rate.map(|rate| (rate / PARTS).max(1) as usize);
        tenth.unwrap_or(MOST).min(MOST)
    }

    /// Waits until so many letters may go. `false` while the brake is on: to be
    /// asked again.
    ///
    /// # Errors
    /// When the broker is lost.
    pub(super) async fn wait(
        &mut self,
        republisher: &Republisher,
        letters: usize,
    ) -> Result<bool, BusError> {
        if republisher.waiting_events().await? > self.pace.brake_at {
            tokio::time::sleep(LOOK).await;
            return Ok(false);
        }
        if let Some(limit) = &mut self.limit {
            let letters = u32::try_from(letters).unwrap_or(u32::MAX);
            limit.wait_for(letters).await;
        }
        Ok(true)
    }
}
