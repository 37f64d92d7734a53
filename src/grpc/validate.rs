//! From requests to questions: everything that is wrong with a request is told
//! at once, but for what the caller may not ask, which is told alone.

mod counters;
mod history;
mod maintenance;
#[cfg(test)]
mod tests;
mod violations;
mod watches;

use prost_types::Timestamp;
use tonic::Status;

use crate::event::EventId;

pub(super) use counters::{
    Listing, dialog, dialogs, dialogs_of_user, message, messages, staleness, user, user_in_dialog,
    users,
};
pub(super) use history::history;
pub(crate) use maintenance::check_repair_reason;
pub(super) use maintenance::{of_all_tenants, rebuild, verification};
pub(super) use violations::Violations;
pub(super) use watches::{Watched, watch_change, watched_dialogs, watched_users};

/// A question, and the event that its answer is to include.
pub(super) type Valid<Q> = Result<(Q, Option<EventId>), Status>;

/// A request of which one field is not as it must be.
pub(super) fn violated(field: &str, expected: String) -> Status {
    let mut found = Violations::default();
    found.add(field, expected);
    found.into_status()
}

/// In milliseconds, rounded up: what is kept has no more.
pub(super) fn millis(at: &Timestamp) -> Option<i64> {
    let nanos = i64::from(at.nanos);
    let millis = at.seconds.checked_mul(1_000)?;
    (0..1_000_000_000)
        .contains(&nanos)
        .then(|| millis.checked_add((nanos + 999_999) / 1_000_000))?
}
