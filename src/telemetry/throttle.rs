//! Log lines that a producer could write thousands of.

use std::time::{Duration, Instant};

/// Lets one occurrence an interval be told of, and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    told_at: Option<Instant>,
    since: u64,
}

impl Throttle {
    /// Makes a throttle that lets one occurrence in so long pass. The first
    /// passes at once.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            told_at: None,
            since: 0,
        }
    }

    /// Takes an occurrence. Returns `Some` if it is to be told of, with the
    /// number of occurrences since the last one that was, this one included.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let is_due = self
            .told_at
            .is_none_or(|told_at| now.saturating_duration_since(told_at) >= self.interval);
        is_due.then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.since)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_occurrence_an_interval_passes_and_tells_how_many_there_were() {
        let hour = Duration::from_secs(3_600);
        let start = Instant::now();
        let mut throttle = Throttle::new(hour);
        let rows = [
            (0, Some(1)),
            (0, None),
            (3_599, None),
            (3_600, Some(3)),
            (3_601, None),
            // Nothing for hours: the next one is told of at once.
            (20_000, Some(2)),
            (20_001, None),
            // A clock never goes back, but two readings may change places.
            (19_000, None),
            (23_600, Some(3)),
        ];
        for (seconds, expected) in rows {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(throttle.pass(now), expected, "after {seconds} s");
        }
    }
}
