//! Keeping work to a rate: at most so many units a second, evenly spaced.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spaces units of work evenly in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateLimit {
    per_second: f64,
    /// The longest time that is made up for when work was late.
    catch_up: Duration,
    /// When the next unit may begin.
    due: Instant,
}

impl RateLimit {
    /// Allows so many units a second, the first at once. Time that was lost is
    /// not made up for.
    pub(crate) fn per_second(units: f64) -> Self {
        Self {
            per_second: units,
            catch_up: Duration::ZERO,
            due: Instant::now(),
        }
    }

    /// Makes up for lost time, if it was no longer than this.
    pub(crate) fn catching_up(self, catch_up: Duration) -> Self {
        Self { catch_up, ..self }
    }

    /// Lets exactly this many single units begin at once, at `now` and after each
    /// pause that was long enough.
    pub(crate) fn with_burst(self, units: u32, now: Instant) -> Self {
        // In the steps by which `begin` moves on: a sum that is rounded otherwise
        // is one unit short.
        let catch_up = self.time_for(1) * units.saturating_sub(1);
        let due = now.checked_sub(catch_up);
        Self {
            catch_up,
            due: due.unwrap_or(self.due),
            ..self
        }
    }

    /// The time that so many units take.
    fn time_for(&self, units: u32) -> Duration {
        Duration::from_secs_f64(f64::from(units) / self.per_second)
    }

    /// Lets these units begin now, if they may.
    ///
    /// # Errors
    /// How long to wait until they may.
    pub(crate) fn try_begin(&mut self, units: u32, now: Instant) -> Result<(), Duration> {
        let wait = self.due.saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.begin(units, now);
        Ok(())
    }

    /// Waits until these units may begin.
    pub(crate) async fn wait_for(&mut self, units: u32) {
        sleep_until(self.due).await;
        self.begin(units, Instant::now());
    }

    fn begin(&mut self, units: u32, now: Instant) {
        let made_up_for = now.checked_sub(self.catch_up);
        let from = self.due.max(made_up_for.unwrap_or(self.due));
        self.due = from + self.time_for(units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a unit after a pause; returns how long it had to.
    async fn wait(limit: &mut RateLimit, pause: Duration) -> Duration {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        limit.wait_for(1).await;
        begun.elapsed()
    }

    #[tokio::test]
    async fn units_are_spaced_and_lost_time_is_made_up_for_within_bounds() {
        let millis = Duration::from_millis;
        let mut limit = RateLimit::per_second(20.0);
        assert!(wait(&mut limit, Duration::ZERO).await < millis(40));
        assert!(wait(&mut limit, Duration::ZERO).await >= millis(40));
        // Late by more than one unit: the next one waits all the same.
        assert!(wait(&mut limit, millis(150)).await < millis(40));
        assert!(wait(&mut limit, Duration::ZERO).await >= millis(40));

        let mut limit = RateLimit::per_second(20.0).catching_up(millis(100));
        for pause in [0, 150, 0, 0] {
            assert!(
                wait(&mut limit, millis(pause)).await < millis(40),
                "{pause}"
            );
        }
    }
}
