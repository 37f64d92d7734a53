//! Waiting longer and longer between tries. The only place that names the
//! crate `backoff`, which is no longer maintained (RUSTSEC-2025-0012):
//! replacing it is a change of this file alone.

use std::time::Duration;

use backoff::backoff::Backoff as _;

/// Exponentially growing delays with jitter, capped, without an end: an outage
/// is waited out, however long it takes.
#[derive(Debug)]
pub struct Backoff {
    policy: backoff::ExponentialBackoff,
}

impl Backoff {
    /// Delays that start near `initial` and grow by half each time up to
    /// `max`; each is spread by ±50 % so that replicas do not retry in step.
    pub fn new(initial: Duration, max: Duration) -> Self {
        let policy = backoff::ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            max_interval: max,
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_elapsed_time: None,
            ..Default::default()
        };
        Self { policy }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        // `None` only comes from an elapsed-time limit, and there is none.
        self.policy
            .next_backoff()
            .unwrap_or(self.policy.max_interval)
    }

    /// Starts over: to be called after a success.
    pub fn reset(&mut self) {
        self.policy.reset();
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_over_after_a_reset() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(initial, max);
        assert!(backoff.next_delay() <= initial.mul_f64(1.5));
        let late: Vec<_> = (0..50).map(|_| backoff.next_delay()).skip(20).collect();
        assert!(
            late.iter()
                .all(|d| *d >= max.mul_f64(0.5) && *d <= max.mul_f64(1.5))
        );
        backoff.reset();
        assert!(backoff.next_delay() <= initial.mul_f64(1.5));
    }
}
