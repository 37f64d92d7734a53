//! Noticing events whose times cannot be meant.

use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::warn;

use crate::event::stated::{Implausible, StatedTime, StatedTimes};
use crate::event::{Event, Micros};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// The shortest time between two log lines of a kind: a producer that sends seconds does so
/// in each of its events, and the metric says in how many.
const LOG_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Counts events with implausible times, and logs one an hour of each kind.
#[derive(Debug)]
pub(super) struct TimeWatch {
    metrics: Metrics,
    past: Throttle,
    future: Throttle,
}

impl TimeWatch {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            past: Throttle::new(LOG_INTERVAL),
            future: Throttle::new(LOG_INTERVAL),
        }
    }

    /// Checks the times of an event, which is counted by them, whatever they are.
    pub(super) fn check(&mut self, event: &Event, times: &StatedTimes) {
        if let Some((stated, why)) = times.implausible(Micros::shown_by(SystemTime::now())) {
            self.report(event, stated, why);
        }
    }

    fn report(&mut self, event: &Event, stated: StatedTime, why: Implausible) {
        self.metrics.events.is_implausible(why);
        let (throttle, advice) = match why {
            Implausible::Past => (
                &mut self.past,
                "events state times before the year 2000, and are counted by them: does the producer send seconds? Expected are milliseconds since 1970, or RFC 3339",
            ),
            Implausible::Future => (
                &mut self.future,
                "events state times more than a day ahead, and are counted by them: is the clock of the producer, and of its clients, right? Expected are milliseconds since 1970, or RFC 3339",
            ),
        };
        let Some(events) = throttle.pass(Instant::now()) else {
            return;
        };
        warn!(
            tenant = %event.tenant,
            event = %event.stamp.event,
            event_type = event.fact.event_type().as_str(),
            field = stated.field,
            time = text(stated.at),
            since_last_line = events,
            "{advice}"
        );
    }
}

fn text(at: Micros) -> String {
    let nanos = i128::from(at.get()) * 1_000;
    // Both reach to the year 9999, as times do.
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    at.and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}
