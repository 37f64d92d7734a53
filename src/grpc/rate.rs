//! How many calls a second each caller may make: a bucket that fills at that
//! rate, and holds a second's worth.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;
use tonic::Status;

use super::limits::try_again_after;

/// The most callers whose buckets are remembered. One that is not has a full bucket.
const MAX_REMEMBERED_CALLERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// The buckets of all callers. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct RateLimiter {
    per_second: f64,
    buckets: Arc<Mutex<LruCache<String, Bucket>>>,
}

/// The calls that a caller may still make, as of a time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    calls: f64,
    at: Instant,
}

impl RateLimiter {
    /// None when callers may make as many as they like (0).
    pub(super) fn new(per_second: u32) -> Option<Self> {
        (per_second > 0).then(|| Self {
            per_second: f64::from(per_second),
            buckets: Arc::new(Mutex::new(LruCache::new(MAX_REMEMBERED_CALLERS))),
        })
    }

    /// Takes one call from a caller's bucket.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time after which there is one, when it is empty.
    pub(super) fn take(&self, caller: &str, now: Instant) -> Result<(), Status> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = || Bucket {
            calls: self.per_second,
            at: now,
        };
        let bucket = buckets.get_or_insert_mut_ref(caller, full);
        let since = now.duration_since(bucket.at).as_secs_f64();
        bucket.calls = (bucket.calls + since * self.per_second).min(self.per_second);
        bucket.at = now;
        if bucket.calls < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - bucket.calls) / self.per_second);
            return Err(self.refused(wait));
        }
        bucket.calls -= 1.0;
        Ok(())
    }

    fn refused(&self, wait: Duration) -> Status {
        let allowed = self.per_second;
        try_again_after(
            wait,
            &format!("more than {allowed} calls a second by this caller (grpc.calls_per_second)"),
        )
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_as_it_fills() {
        assert!(RateLimiter::new(0).is_none());
        let rate = RateLimiter::new(10).unwrap();
        let began = Instant::now();
        let taken = (0..20).filter(|_| rate.take("a", began).is_ok()).count();
        assert_eq!(taken, 10);
        assert!(rate.take("b", began).is_ok(), "each has a bucket");
        let refused = rate.take("a", began).unwrap_err();
        let wait = refused.get_details_retry_info().unwrap().retry_delay;
        let wait = wait.unwrap();
        assert!(wait > Duration::from_millis(99) && wait < Duration::from_millis(101));
        assert!(rate.take("a", began + wait).is_ok());
        let later = began + Duration::from_secs(60);
        let taken = (0..20).filter(|_| rate.take("a", later).is_ok()).count();
        assert_eq!(taken, 10);
    }
}
