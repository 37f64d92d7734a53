//! Points in time as a person types them.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, as it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    At(OffsetDateTime),
    Ago(Duration),
}

/// Reads RFC 3339, or how long ago it was.
pub(super) fn when(text: &str) -> Result<When, String> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => Ok(When::At(at)),
        Err(_) => ago(text).map(When::Ago).ok_or_else(|| expected(text)),
    }
}

/// A point in time; so long ago: from now on the same.
pub(super) fn point(text: &str) -> Result<prost_types::Timestamp, String> {
    let at = match when(text)? {
        When::At(at) => Some(at),
        When::Ago(ago) => {
            let now = OffsetDateTime::from(SystemTime::now());
            let ago = time::Duration::try_from(ago).ok();
            ago.and_then(|ago| now.checked_sub(ago))
        }
    };
    at.map(timestamp).ok_or_else(|| expected(text))
}

fn expected(text: &str) -> String {
    format!("expected RFC 3339 or a time ago as in 90s, 15m, 2h, 7d; found {text:?}")
}

pub(super) fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        // Below a billion: it fits.
        nanos: at.nanosecond() as i32,
    }
}

fn ago(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_given_or_so_long_ago() {
        let at = point("2023-11-14T22:13:20.5Z").unwrap();
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 500_000_000));
        let now = point("0s").unwrap();
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)] {
            let past = now.seconds - point(text).unwrap().seconds;
            assert!((seconds - 5..=seconds).contains(&past), "{text}: {past}");
        }
        for bad in ["", "s", "2", "-2h", "2w", "2hé", "yesterday", "4294967295d"] {
            assert!(point(bad).is_err(), "{bad}");
        }
    }
}
