//! How many calls a second each caller may make, of which a second's worth at once.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;
use tonic::Status;

use super::limits::try_again_after;
use crate::rate_limit::RateLimit;

/// The most callers that are remembered. One that is not has made no calls.
const MAX_REMEMBERED_CALLERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// The limits of all callers. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct RateLimiter {
    per_second: u32,
    callers: Arc<Mutex<LruCache<String, RateLimit>>>,
}

impl RateLimiter {
    /// `None` when callers may make as many calls as they like (0).
    pub(super) fn new(per_second: u32) -> Option<Self> {
        (per_second > 0).then(|| Self {
            per_second,
            callers: Arc::new(Mutex::new(LruCache::new(MAX_REMEMBERED_CALLERS))),
        })
    }

    /// Lets a caller make one call.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time after which there may be one, when there were
    /// too many.
    pub(super) fn take(&self, caller: &str, now: Instant) -> Result<(), Status> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = callers.get_or_insert_mut_ref(caller, || self.unused(now));
        let allowed = limit.try_begin(1, now);
        allowed.map_err(|wait| self.refused(wait))
    }

    /// The limit of a caller who has made no calls: a second's worth may come at once.
    fn unused(&self, now: Instant) -> RateLimit {
        RateLimit::per_second(self.per_second.into()).with_burst(self.per_second, now)
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
    fn a_burst_is_not_one_short_by_rounding() {
        for per_second in [1, 3, 6, 7, 60, 999] {
            let rate = RateLimiter::new(per_second).unwrap();
            let began = Instant::now();
            for at in [began, began + Duration::from_secs(5)] {
                for call in 1..=per_second {
                    let taken = rate.take("a", at);
                    assert!(taken.is_ok(), "call {call} of {per_second}");
                }
                assert!(rate.take("a", at).is_err(), "{per_second}");
            }
        }
    }

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
