//! Deadlines of calls, and what they keep while they are under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::admission::{Full, Place, Places, Sharer};
use crate::config;

/// Until when a call is to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// The time at which reads of the store give up.
    pub(super) soft: Instant,
    /// When the call is answered without them. Before the caller's, so that
    /// the caller learns why.
    pub(super) hard: Instant,
}

/// The most calls that wait for an event at once. They cost some memory and nothing
/// else.
const MAX_WAITING_CALLS: usize = 4_096;
/// The most calls that read at once after they have waited: an event that many wait for
/// must not take the places of all others.
const MAX_RESUMED_READS: usize = 64;
/// The most histories replayed at once. Each may take 200 MB.
const MAX_HISTORY_REPLAYS: usize = 2;
/// The most calls for histories at once: what is not replayed waits its turn.
const MAX_HISTORY_CALLS: usize = 16;

/// The most streams that watch at once.
const MAX_WATCH_STREAMS: usize = 1_000;

/// The most calls of operators at once, jobs among them.
const MAX_OPERATOR_CALLS: usize = 32;
/// The most of them at once whose answers may be as large as a letter.
const MAX_LARGE_ANSWERS: usize = 4;

/// After how long a caller that was refused may try again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The deadlines of calls, and the places that bound how many there are.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    default_deadline: Duration,
    max_deadline: Duration,
    reads: Places,
    waiting: Places,
    resumed: Arc<Semaphore>,
    histories: Places,
    turns: Arc<Semaphore>,
    watches: Places,
    work: Places,
    large: Arc<Semaphore>,
}

/// What a call keeps while it is under way: free again when all clones are gone,
/// of which its read has one, and its answer.
#[derive(Debug, Clone)]
pub(super) struct CallPermit {
    _place: Option<Arc<Place>>,
    _turn: Option<Arc<OwnedSemaphorePermit>>,
}

/// How much a call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// A read of some documents.
    Read,
    /// A replay of all that ever happened to something.
    History,
    /// A call of an operator.
    Work,
    /// A call of an operator whose answer may be large.
    Large,
}

impl Limits {
    /// Makes the limits that the configuration asks for.
    pub(super) fn new(config: &config::Grpc) -> Self {
        let max_deadline = Duration::from_millis(config.max_deadline_ms);
        Self {
            default_deadline: Duration::from_millis(config.default_deadline_ms).min(max_deadline),
            max_deadline,
            reads: Places::new(config.max_concurrent_requests),
            waiting: Places::new(MAX_WAITING_CALLS),
            resumed: Arc::new(Semaphore::new(MAX_RESUMED_READS)),
            histories: Places::new(MAX_HISTORY_CALLS),
            turns: Arc::new(Semaphore::new(MAX_HISTORY_REPLAYS)),
            watches: Places::new(MAX_WATCH_STREAMS),
            work: Places::new(MAX_OPERATOR_CALLS),
            large: Arc::new(Semaphore::new(MAX_LARGE_ANSWERS)),
        }
    }

    /// Returns the same places, for calls that get the longest deadline unless they
    /// bring one: what operators ask for may go through a hundred thousand letters.
    pub(super) fn patient(&self) -> Self {
        Self {
            default_deadline: self.max_deadline,
            ..self.clone()
        }
    }

    /// Lets a call go on, whose request is there, or sheds it. Histories and
    /// large answers wait their turn.
    pub(super) async fn enter(
        &self,
        cost: Cost,
        sharers: Vec<Sharer>,
        deadline: Deadline,
    ) -> Result<CallPermit, Status> {
        let (places, turns) = match cost {
            Cost::Read => (&self.reads, None),
            Cost::History => (&self.histories, Some(&self.turns)),
            Cost::Work => (&self.work, None),
            Cost::Large => (&self.work, Some(&self.large)),
        };
        let place = places.take(sharers).map_err(shed)?;
        let turn = match turns {
            Some(turns) => Some(turn(turns, deadline).await?),
            None => None,
        };
        Ok(CallPermit {
            _place: Some(Arc::new(place)),
            _turn: turn,
        })
    }

    /// Lets a stream of a watch last for as long as the result is kept.
    pub(super) fn watch(&self, sharers: Vec<Sharer>) -> Result<CallPermit, Status> {
        let place = self.watches.take(sharers).map_err(shed)?;
        Ok(CallPermit {
            _place: Some(Arc::new(place)),
            _turn: None,
        })
    }

    /// Lets a call wait, for something that costs nobody anything.
    pub(super) fn wait(&self, sharers: Vec<Sharer>) -> Result<Place, Status> {
        self.waiting.take(sharers).map_err(shed)
    }

    /// Lets a call read that has waited.
    pub(super) async fn resume(
        &self,
        cost: Cost,
        sharers: Vec<Sharer>,
        deadline: Deadline,
    ) -> Result<CallPermit, Status> {
        match cost {
            Cost::Read => Ok(CallPermit {
                _place: None,
                _turn: Some(turn(&self.resumed, deadline).await?),
            }),
            _ => self.enter(cost, sharers, deadline).await,
        }
    }

    /// Returns the deadline of a call that arrived now.
    pub(super) fn deadline(&self, metadata: &HeaderMap) -> Deadline {
        self.deadline_from(Instant::now(), metadata)
    }

    fn deadline_from(&self, now: Instant, metadata: &HeaderMap) -> Deadline {
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

async fn turn(
    turns: &Arc<Semaphore>,
    deadline: Deadline,
) -> Result<Arc<OwnedSemaphorePermit>, Status> {
    let free = Arc::clone(turns).acquire_owned();
    match tokio::time::timeout_at(deadline.soft, free).await {
        Ok(Ok(turn)) => Ok(Arc::new(turn)),
        _ => Err(shed(Full::All)),
    }
}

/// Returns what a caller is told for whom there is no place.
pub(super) fn shed(full: Full) -> Status {
    let why = match full {
        Full::All => "too many calls at once",
        Full::Caller => "too many calls at once by this caller, while others call too",
        Full::Tenant => "too many calls at once about this tenant, while others call too",
    };
    try_again_after(RETRY_AFTER, why)
}

/// RESOURCE_EXHAUSTED, and when it is worth another try.
pub(super) fn try_again_after(wait: Duration, why: &str) -> Status {
    Status::with_error_details(
        Code::ResourceExhausted,
        format!("{why}: try again later"),
        ErrorDetails::with_retry_info(Some(wait)),
    )
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
            let mut metadata = HeaderMap::new();
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

    fn by(caller: &str) -> Vec<Sharer> {
        vec![Sharer::Caller(caller.into())]
    }

    #[tokio::test]
    async fn a_call_too_many_is_shed_and_its_place_comes_back() {
        let limits = limits(1);
        let deadline = limits.deadline(&HeaderMap::new());
        let enter = |cost| limits.enter(cost, by("a"), deadline);
        let first = enter(Cost::Read).await.unwrap();
        let refused = enter(Cost::Read).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let retry = refused.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(RETRY_AFTER));
        // Whoever waits, or asks for a history, has other places.
        drop(limits.wait(by("a")).unwrap());
        drop(enter(Cost::History).await.unwrap());
        drop(limits.resume(Cost::Read, by("a"), deadline).await.unwrap());
        let answer = first.clone();
        drop(first);
        assert!(enter(Cost::Read).await.is_err(), "the answer is not out");
        drop(answer);
        assert!(enter(Cost::Read).await.is_ok());
    }

    #[tokio::test]
    async fn histories_wait_their_turn_until_the_deadline() {
        let limits = limits(1);
        let mut metadata = HeaderMap::new();
        metadata.insert("grpc-timeout", "200m".parse().unwrap());
        let deadline = limits.deadline(&metadata);
        let enter = |caller| limits.enter(Cost::History, by(caller), deadline);
        let first = enter("a").await.unwrap();
        let _second = enter("b").await.unwrap();
        let (third, ()) = tokio::join!(enter("c"), async { drop(first) });
        let _third = third.unwrap();
        assert!(enter("d").await.is_err());
        assert!(Instant::now() >= deadline.soft);
    }
}
