//! Deadlines of calls, and how many there may be at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::config;

/// Until when a call is to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// The reads' own limit.
    pub(super) soft: Instant,
    /// When the call is answered without them. Before the caller's, so that
    /// the caller learns why.
    pub(super) hard: Instant,
}

/// Bounds of time and number.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    default_deadline: Duration,
    max_deadline: Duration,
    calls: Arc<Semaphore>,
}

/// A call's place among those that may run at once. Shared between the call
/// and its reads: it is free again when all of them are done.
pub(super) type Permit = Arc<OwnedSemaphorePermit>;

impl Limits {
    pub(super) fn new(config: &config::Grpc) -> Self {
        let max_deadline = Duration::from_millis(config.max_deadline_ms);
        Self {
            default_deadline: Duration::from_millis(config.default_deadline_ms).min(max_deadline),
            max_deadline,
            calls: Arc::new(Semaphore::new(
                config.max_concurrent_requests.min(Semaphore::MAX_PERMITS),
            )),
        }
    }

    /// Lets a call in, before its body is read, or sheds it.
    pub(super) fn admit(&self, mut call: Request<()>) -> Result<Request<()>, Status> {
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "too many calls at once, try again later",
            ));
        };
        call.extensions_mut().insert::<Permit>(Arc::new(permit));
        Ok(call)
    }

    /// The deadline of a call that arrived now.
    pub(super) fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        self.deadline_from(Instant::now(), metadata)
    }

    fn deadline_from(&self, now: Instant, metadata: &MetadataMap) -> Deadline {
        let limit = metadata
            .get("grpc-timeout")
            .and_then(|value| parse_timeout(value.to_str().ok()?))
            .map_or(self.default_deadline, |asked| asked.min(self.max_deadline));
        let margin = (limit / 10).min(Duration::from_millis(20));
        Deadline {
            soft: now + (limit - margin),
            hard: now + (limit - margin / 2),
        }
    }
}

/// The `grpc-timeout` header: at most eight digits and a unit.
fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_as_the_protocol_says() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            parse_timeout("99999999u"),
            Some(Duration::from_micros(99_999_999))
        );
        assert_eq!(parse_timeout("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "5", "+5S", "123456789S", "5s", "5é", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    fn limits(max_concurrent_requests: usize) -> Limits {
        Limits::new(&config::Grpc {
            max_concurrent_requests,
            default_deadline_ms: 5_000,
            max_deadline_ms: 10_000,
            ..config::Grpc::default()
        })
    }

    #[test]
    fn a_deadline_is_a_little_before_the_callers_and_capped() {
        let limits = limits(1);
        let rows = [("", 5_000), ("1S", 1_000), ("1H", 10_000), ("junk", 5_000)];
        for (header, expected_ms) in rows {
            let mut metadata = MetadataMap::new();
            if !header.is_empty() {
                metadata.insert("grpc-timeout", header.parse().unwrap());
            }
            let now = Instant::now();
            let deadline = limits.deadline_from(now, &metadata);
            let full = now + Duration::from_millis(expected_ms);
            assert_eq!(deadline.soft, full - Duration::from_millis(20), "{header}");
            assert_eq!(deadline.hard, full - Duration::from_millis(10), "{header}");
        }
    }

    #[test]
    fn a_call_too_many_is_shed_and_its_place_comes_back() {
        let limits = limits(1);
        let first = limits.admit(Request::new(())).unwrap();
        let refused = limits.admit(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(first);
        assert!(limits.admit(Request::new(())).is_ok());
    }
}
