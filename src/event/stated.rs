//! The times that an event states, and which of them no working clock says.
//!
//! A producer that sends seconds where milliseconds are expected moves all its
//! events to January 1970: each is valid, and each counter is wrong. Such times
//! are counted like any other, since only the producer can know what was meant,
//! but they must not pass in silence.

use super::{MAX_MICROS, Micros};

/// The earliest plausible time, 2000-01-01T00:00:00Z, in microseconds since the
/// epoch.
pub const PLAUSIBLE_FROM_MICROS: i64 = 946_684_800_000_000;

/// How far a plausible time may be ahead of this service's clock, in
/// microseconds: one day.
pub const PLAUSIBLE_AHEAD_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A time as a producer stated it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedTime {
    /// The JSON path of the time in the event.
    pub field: &'static str,
    /// The time as it was stated.
    pub at: Micros,
}

/// The times of an event that counting looks at, as they were stated: before a
/// read-until is held to its event's time, or a join time is found to order
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedTimes {
    /// The time of the event itself.
    pub event: StatedTime,
    /// The time of what the event is about (a message's own time, a join time,
    /// a read-until), where it states that as well.
    pub subject: Option<StatedTime>,
}

/// Why a time is not plausible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implausible {
    /// The time is before the year 2000.
    Past,
    /// The time is more than a day ahead of this service's clock.
    Future,
}

impl Implausible {
    /// Returns the label that the metrics have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Implausible::Past => "past",
            Implausible::Future => "future",
        }
    }
}

impl StatedTimes {
    /// The first of the times that is not plausible now, and why it is not.
    pub fn implausible(&self, now: Micros) -> Option<(StatedTime, Implausible)> {
        let why = |stated: StatedTime| implausible(stated.at, now).map(|why| (stated, why));
        why(self.event).or_else(|| self.subject.and_then(why))
    }
}

fn implausible(at: Micros, now: Micros) -> Option<Implausible> {
    // No sum of two times is beyond what an i64 can hold.
    const { assert!(MAX_MICROS < i64::MAX - PLAUSIBLE_AHEAD_MICROS) };
    if at.get() < PLAUSIBLE_FROM_MICROS {
        Some(Implausible::Past)
    } else if at.get() > now.get() + PLAUSIBLE_AHEAD_MICROS {
        Some(Implausible::Future)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_551_369_397_648;
    const DAY: i64 = PLAUSIBLE_AHEAD_MICROS;
    const Y2000: i64 = PLAUSIBLE_FROM_MICROS;

    fn stated(field: &'static str, at: i64) -> StatedTime {
        let at = Micros::new(at).unwrap();
        StatedTime { field, at }
    }

    /// What is implausible about an event at these times: `field why`.
    fn told(event: i64, subject: Option<i64>, now: i64) -> String {
        let times = StatedTimes {
            event: stated("event", event),
            subject: subject.map(|at| stated("subject", at)),
        };
        match times.implausible(Micros::new(now).unwrap()) {
            Some((stated, why)) => format!("{} {}", stated.field, why.as_str()),
            None => String::new(),
        }
    }

    #[test]
    fn times_before_2000_or_more_than_a_day_ahead_are_implausible() {
        let rows = [
            (NOW, None, ""),
            (Y2000, None, ""),
            (Y2000 - 1, None, "event past"),
            (0, None, "event past"),
            (NOW / 1_000, None, "event past"),
            (NOW + DAY, None, ""),
            (NOW + DAY + 1, None, "event future"),
            (MAX_MICROS, None, "event future"),
            (NOW, Some(NOW), ""),
            (NOW, Some(Y2000), ""),
            (NOW, Some(Y2000 - 1), "subject past"),
            (NOW, Some(NOW + DAY), ""),
            (NOW, Some(NOW + DAY + 1), "subject future"),
            (0, Some(MAX_MICROS), "event past"),
            (MAX_MICROS, Some(0), "event future"),
        ];
        for (event, subject, expected) in rows {
            assert_eq!(told(event, subject, NOW), expected, "{event} {subject:?}");
        }
    }

    /// A clock that was never set sees all as ahead, and one at the end of time
    /// is no reason to panic.
    #[test]
    fn any_clock_of_this_service_will_do() {
        assert_eq!(told(NOW, None, 0), "event future");
        assert_eq!(told(MAX_MICROS, None, MAX_MICROS), "");
    }
}
